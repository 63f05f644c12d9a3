"""Rookery, Prosody and ejabberd on free ports of the loopback interface, each in a directory of its own.

They are set up to do the same: the same certificate, SCRAM-SHA-1 with 4096 iterations, TLS 1.3, in-band
registration, no limits on rates, and of the features that Rookery has each the peers' counterpart, and no more.
"""

import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import time

ITERATIONS = 4096

PROSODY = """\
data_path = "{directory}/data"
pidfile = "{directory}/prosody.pid"
log = {{ {{ levels = {{ min = "warn" }}, to = "file", filename = "{directory}/prosody.log" }} }}
daemonize = false
run_as_root = true

-- Lua 5.4's generational collector and epoll: what makes it fastest.
gc = {{ mode = "generational" }}
network_backend = "epoll"
network_settings = {{ nagle = false, tcp_backlog = 1024 }}

interfaces = {{ "127.0.0.1" }}
local_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {plain} }}
c2s_direct_tls_ports = {{ {tls} }}
s2s_ports = {{ }}
http_ports = {{ }}
https_ports = {{ }}
ssl = {{ certificate = "{certificate}", key = "{key}" }}
c2s_direct_tls_ssl = {{ certificate = "{certificate}", key = "{key}" }}
c2s_require_encryption = false

storage = "internal"
authentication = "internal_hashed"
default_iteration_count = {iterations}
allow_registration = true
archive_expires_after = "never"
default_archive_policy = true

modules_enabled = {{
    "roster", "saslauth", "tls", "disco", "offline", "carbons", "smacks", "blocklist", "private", "vcard_legacy",
    "ping", "time", "version", "lastactivity", "register_ibr", "register", "posix", {modules}
}}
modules_disabled = {{ "s2s", "limits" }}

VirtualHost "localhost"
"""

EJABBERD = """\
loglevel: warning
log_rotate_count: 0
language: en
hosts: [localhost]
certfiles: ["{both}"]
auth_method: internal
auth_password_format: scram
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
registration_timeout: infinity
sql_type: sqlite
sql_database: "{directory}/archive.sqlite"

listen:
  - module: ejabberd_c2s
    ip: 127.0.0.1
    port: {plain}
    backlog: 1024
    shaper: none
    access: all
    starttls: true
  - module: ejabberd_c2s
    ip: 127.0.0.1
    port: {tls}
    backlog: 1024
    shaper: none
    access: all
    tls: true

acl:
  local:
    user_regexp: ""
access_rules:
  anybody:
    allow: all

modules:
  mod_blocking: {{}}
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_last: {{}}
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_register:
    ip_access: anybody
    access: anybody
    access_remove: anybody
  mod_roster:
    versioning: true
  mod_stream_mgmt: {{}}
  mod_time: {{}}
  mod_vcard:
    search: false
  mod_version: {{}}
{modules}"""

EJABBERD_ARCHIVE = """\
  mod_mam:
    default: always
    assume_mam_usage: true
    db_type: {database}
"""


def make_certificate(directory):
    """An ECDSA certificate for all of them."""
    certificate, key, both = (directory / name for name in ("certificate.pem", "key.pem", "both.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return {"certificate": certificate, "key": key, "both": both}


def free_ports(count):
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for some in sockets:
        some.bind(("127.0.0.1", 0))
    ports = [some.getsockname()[1] for some in sockets]
    for some in sockets:
        some.close()
    return ports


def installed_version(package):
    return subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", package], text=True)


class Server:
    """A server's process. `directory` is its own, and keeps its data between starts."""

    packages = []
    patience = 60

    def __init__(self, directory, certificate):
        self.directory = directory
        self.certificate = certificate
        self.process = None

    def start(self, archive):
        self.prepare(archive)
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.patience
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.directory / "output").read_text(errors="replace")[-3000:]
                self.stop()
                raise SystemExit(f"{self.title} did not start:\n{text}")
            time.sleep(0.05)

    def stop(self):
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self.patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def environment(self):
        # The environment is a source of Rookery's configuration.
        return {name: value for name, value in os.environ.items() if not name.startswith("ROOKERY__")}

    def is_up(self):
        for port in (self.plain, self.tls):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True


class Rookery(Server):
    title = "Rookery"

    def __init__(self, directory, certificate, binary, settings):
        super().__init__(directory, certificate)
        self.binary = binary
        self.settings = settings

    def version(self):
        return subprocess.check_output([self.binary, "--version"], text=True).split()[-1]

    def prepare(self, archive):
        self.archive = archive
        self.ports_file = self.directory / "ports.json"
        self.ports_file.unlink(missing_ok=True)

    def command(self):
        settings = {
            "c2s.listen": "127.0.0.1:0",
            "c2s.direct_tls_listen": "127.0.0.1:0",
            "c2s.tls": "optional",
            "admin.listen": "127.0.0.1:0",
            "http.listen": "",
            "http.tls_listen": "",
            "server.data_dir": self.directory / "data",
            "server.ports_file": self.ports_file,
            "tls.certificate": self.certificate["certificate"],
            "tls.key": self.certificate["key"],
            "auth.scram_iterations": ITERATIONS,
            "registration.enabled": "true",
            "archive.enabled": "true" if self.archive else "false",
            "audit.file": self.directory / "audit",
            "log.level": "warn",
        }
        settings = [f"{key}={value}" for key, value in settings.items()] + self.settings
        words = [word for setting in settings for word in ("--set", setting)]
        return [self.binary, "serve", *words]

    def is_up(self):
        if not self.ports_file.exists():
            return False
        ports = json.loads(self.ports_file.read_text())
        self.plain, self.tls = (int(ports[name].rsplit(":", 1)[1]) for name in ("c2s", "c2s_direct_tls"))
        return True


class Prosody(Server):
    title = "Prosody"
    packages = ["prosody"]

    def version(self):
        return installed_version("prosody")

    def prepare(self, archive):
        self.plain, self.tls = free_ports(2)
        (self.directory / "data").mkdir(exist_ok=True)
        self.configuration = self.directory / "prosody.cfg.lua"
        text = PROSODY.format(
            directory=self.directory,
            plain=self.plain,
            tls=self.tls,
            iterations=ITERATIONS,
            modules='"mam"' if archive else "",
            **self.certificate,
        )
        self.configuration.write_text(text)

    def command(self):
        return ["prosody", "-F", "--config", self.configuration]


class Ejabberd(Server):
    title = "ejabberd"
    packages = ["ejabberd", "erlang-p1-sqlite3"]

    def __init__(self, directory, certificate, database):
        super().__init__(directory, certificate)
        self.database = database

    def version(self):
        return installed_version("ejabberd")

    def prepare(self, archive):
        self.plain, self.tls, self.distribution = free_ports(3)
        for name in ("spool", "log"):
            (self.directory / name).mkdir(exist_ok=True)
        text = EJABBERD.format(
            directory=self.directory,
            plain=self.plain,
            tls=self.tls,
            modules=EJABBERD_ARCHIVE.format(database=self.database) if archive else "",
            **self.certificate,
        )
        (self.directory / "ejabberd.yml").write_text(text)
        # It does not make the tables of an SQLite database by itself. The write-ahead log stays switched on.
        archive = self.directory / "archive.sqlite"
        if not archive.exists():
            tables = self.file(r"/sql/lite\.sql$").read_text()
            connection = sqlite3.connect(archive)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(tables)
            connection.close()

    def file(self, pattern):
        """The package's file that matches."""
        files = subprocess.check_output(["dpkg", "-L", "ejabberd"], text=True).splitlines()
        return next(pathlib.Path(file) for file in files if re.search(pattern, file))

    def environment(self):
        libraries = self.file(r"/ebin/ejabberd\.beam$").parents[2]
        return super().environment() | {
            "ERL_LIBS": str(libraries),
            "EJABBERD_CONFIG_PATH": str(self.directory / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.directory / "log" / "ejabberd.log"),
            "ERL_MAX_PORTS": "65536",
            "ERL_MAX_ETS_TABLES": "20000",
            "ERL_CRASH_DUMP_BYTES": "0",
            "HOME": str(self.directory),
        }

    def command(self):
        # As its own script starts it, but without that script's user and places, and without the port mapper
        # that Erlang programs of a machine share. Schedulers that have nothing to do sleep rather than wait
        # busily, which would count as CPU time.
        return [
            "erl",
            *("-noinput", "-sname", "compared@localhost", "-setcookie", "compared"),
            *("-start_epmd", "false", "-erl_epmd_port", str(self.distribution)),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
            *("+K", "true", "+P", "250000", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
            *("-mnesia", "dir", f'"{self.directory / "spool"}"'),
            *("-s", "ejabberd"),
        ]
