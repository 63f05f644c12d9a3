#!/usr/bin/env python3
"""Measures what one node needs: memory of an idle session, CPU time of a login and of a message.

    cargo build --release
    tests/sizing/measure.py [--sessions 1000] [--messages 50000] [--set SECTION.KEY=VALUE]

It starts target/release/rookery on free ports with the embedded database in a temporary directory, and connects
over TLS 1.3. The clients share the machine with the server and are slow: CPU times are the server's own, from
/proc, and say what a core can do; the rate is what this script could ask for. docs/operations.md has the figures.
"""

import argparse
import asyncio
import base64
import json
import os
import pathlib
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "token of the measurement"
PEOPLE = 200
HEADER = (
    b"<stream:stream to='localhost' version='1.0' xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams'>"
)
TLS = ssl.create_default_context()
# The certificate is the server's own.
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


def start(binary, directory, settings):
    ports = directory / "ports.json"
    settings = [
        *(f"{key}=127.0.0.1:0" for key in ("c2s.listen", "c2s.direct_tls_listen", "admin.listen")),
        "http.listen=",
        "http.tls_listen=",
        f"server.data_dir={directory / 'data'}",
        f"server.ports_file={ports}",
        f"admin.token={TOKEN}",
        "log.level=warn",
        f"audit.file={directory / 'audit'}",
        *settings,
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    server = subprocess.Popen([binary, "serve", *words])
    while not ports.exists():
        if server.poll() is not None:
            raise SystemExit("the server did not start")
        time.sleep(0.02)
    return server, json.loads(ports.read_text())


def add_accounts(admin, count):
    for number in range(count):
        user = json.dumps({"jid": f"user{number}@localhost", "password": "secret"}).encode()
        request = urllib.request.Request(f"http://{admin}/api/v1/users", user)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        urllib.request.urlopen(request).read()


async def until(reader, what):
    read = b""
    while what not in read:
        some = await reader.read(65536)
        if not some:
            raise SystemExit(f"the stream ended: {read}")
        read += some
    return read


async def login(address, number):
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=TLS)
    writer.write(HEADER)
    await until(reader, b"</stream:features>")
    proof = base64.b64encode(f"\0user{number}\0secret".encode())
    writer.write(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % proof)
    await until(reader, b"<success")
    writer.write(HEADER)
    await until(reader, b"</stream:features>")
    writer.write(b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    await until(reader, b"</iq>")
    writer.write(b"<presence/><iq type='get' id='s'><ping xmlns='urn:xmpp:ping'/></iq>")
    await until(reader, b"id='s'")
    return reader, writer


async def logins(address, numbers, at_a_time=32):
    turns = asyncio.Semaphore(at_a_time)

    async def one(number):
        async with turns:
            return await login(address, number)

    return await asyncio.gather(*(one(number) for number in numbers))


async def receive(reader, count):
    rest = b""
    while count > 0:
        some = rest + await reader.read(262144)
        count -= some.count(b"</message>")
        rest = some[-9:] if not some.endswith(b"</message>") else b""


async def chat(here, there, to, count, window):
    message = b"<message type='chat' to='%s'><body>%s</body></message>" % (to.encode(), b"x" * 100)
    for begin in range(0, count, window):
        some = min(window, count - begin)
        here[1].write(message * some)
        await receive(there[0], some)


def cpu(server):
    fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_kib(server):
    rollup = pathlib.Path(f"/proc/{server.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


async def measure(server, address, sessions, messages, window):
    before = pss_kib(server)
    began, used = time.monotonic(), cpu(server)
    idle = await logins(address, range(sessions))
    took, used = time.monotonic() - began, cpu(server) - used
    # Memory that the logins needed goes back to the system.
    await asyncio.sleep(12)
    held = pss_kib(server) - before
    print(f"{sessions} idle sessions: {held / sessions:.1f} KiB each, {before / 1024:.0f} MiB before")
    print(f"logins: {used / sessions * 1000:.2f} ms of CPU each, {sessions / took:.0f} a second")
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(2)

    people = await logins(address, range(PEOPLE))
    each = messages // (PEOPLE // 2)
    began, used = time.monotonic(), cpu(server)
    await asyncio.gather(
        *(
            chat(people[number], people[number + 1], f"user{number + 1}@localhost", each, window)
            for number in range(0, PEOPLE, 2)
        )
    )
    took, used = time.monotonic() - began, cpu(server) - used
    sent = each * (PEOPLE // 2)
    print(
        f"{sent} messages of 100 bytes, {window} under way for each of {PEOPLE // 2} pairs, archived for both: "
        f"{used / sent * 1e6:.0f} s of CPU for a million, {sent / took:.0f} a second"
    )


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--binary", default=ROOT / "target/release/rookery")
    words.add_argument("--sessions", type=int, default=1000)
    words.add_argument("--messages", type=int, default=50000)
    words.add_argument("--window", type=int, default=50)
    words.add_argument("--set", action="append", default=[])
    words = words.parse_args()
    # The server is stopped then as well.
    signal.signal(signal.SIGTERM, lambda *_: exit(1))
    accounts = max(words.sessions, PEOPLE)
    with tempfile.TemporaryDirectory() as directory:
        server, ports = start(words.binary, pathlib.Path(directory), words.set)
        try:
            add_accounts(ports["admin"], accounts)
            address = ports["c2s_direct_tls"]
            asyncio.run(measure(server, address, words.sessions, words.messages, words.window))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
