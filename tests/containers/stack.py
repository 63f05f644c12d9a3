"""The cluster of docker-compose.yml, for a test that breaks parts of it."""

import asyncio
import json
import os
import re
import socket
import ssl
import urllib.request

DEADLINE = 60


async def run(*command, check=True):
    """Runs a command to its end and returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    if check and process.returncode:
        raise AssertionError(f"{' '.join(command)}: status {process.returncode}\n{text}")
    return text


async def until(what, condition, deadline=DEADLINE):
    """Waits until an asynchronous condition holds and returns its value."""
    last = None
    try:
        async with asyncio.timeout(deadline):
            while True:
                try:
                    if value := await condition():
                        return value
                    last = value
                except (OSError, ValueError) as error:
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"waited {deadline} s for {what}; last: {last!r}") from None


async def fetch(url):
    """The body of an HTTP answer with status 200."""

    def get():
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(get)


class Stack:
    """One project of the compose tool; its files are those of the repository."""

    def __init__(self, project, tool):
        self.project = project
        self.tool = tool
        self.ports = {}

    async def compose(self, *words, check=True):
        """Runs the compose tool."""
        return await run(*self.tool, "--project-name", self.project, *words, check=check)

    async def version(self):
        """Which compose tool it is."""
        return (await run(*self.tool, "version", "--short")).strip()

    async def up(self, nodes, *words):
        """Starts or changes the stack."""
        # Grafana is not among Debian's packages, so there is no stand-in for its image.
        services = ["redis", "postgres", "node", "haproxy", "prometheus"]
        await self.compose("up", "--detach", *words, "--scale", f"node={nodes}", *services)

    async def find_ports(self):
        """Where the published ports are."""
        for service, port in [
            ("haproxy", 5222),
            ("haproxy", 5223),
            ("haproxy", 5281),
            ("haproxy", 8404),
            ("prometheus", 9090),
        ]:
            address = (await self.compose("port", service, str(port))).split()[-1]
            self.ports[port] = int(address.rsplit(":", 1)[1])

    async def nodes(self):
        """The ids of the running nodes."""
        ids = (await self.compose("ps", "--quiet", "node")).split()
        return [one for one in ids if await self.state(one) == "running"]

    async def state(self, container):
        """`running`, `exited`, …"""
        return (await run("docker", "inspect", "--format", "{{.State.Status}}", container)).strip()

    async def address(self, container):
        """The container's address in the network of the load balancer."""
        networks = json.loads(
            await run("docker", "inspect", "--format", "{{json .NetworkSettings.Networks}}", container)
        )
        return networks[f"{self.project}_frontend"]["IPAddress"]

    async def metric(self, container, name, labels=""):
        """The sum of a metric's values over those of its labels that contain `labels`."""
        text = await fetch(f"http://{await self.address(container)}:9090/metrics")
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and labels in line:
                total += float(line.rsplit(" ", 1)[1])
        return total

    async def _servers(self):
        """The rows of the load balancer's statistics about the nodes."""
        rows = (await fetch(f"http://127.0.0.1:{self.ports[8404]}/;csv")).splitlines()
        names = rows[0].removeprefix("# ").split(",")
        servers = [dict(zip(names, row.split(","))) for row in rows[1:]]
        return [one for one in servers if one["pxname"] == "c2s" and one["addr"]]

    async def pool(self):
        """The load balancer's view of the nodes: address → (state, connections)."""
        return {
            server["addr"].rsplit(":", 1)[0]: (server["status"], int(server["scur"]))
            for server in await self._servers()
        }

    async def clients_when_it_left(self, address):
        """How many clients a node had in the moment in which it left the pool the last time."""
        (name,) = [
            server["svname"]
            for server in await self._servers()
            if server["addr"].rsplit(":", 1)[0] == address
        ]
        log = await self.compose("logs", "--no-color", "haproxy")
        found = re.findall(rf"Server c2s/{name} is DOWN,.* (\d+) sessions active", log)
        assert found, f"the load balancer's log does not say that {name} left:\n{log}"
        return int(found[-1])

    async def in_pool(self, count):
        """Waits until the load balancer sends clients to so many nodes."""

        async def enough():
            states = [state for state, _ in (await self.pool()).values()]
            return states.count("UP") == count and states

        await until(f"{count} nodes in the pool", enough)

    async def scraped(self, count):
        """Waits until Prometheus has found so many nodes by itself, and no others."""
        url = f"http://127.0.0.1:{self.ports[9090]}/api/v1/targets?state=active"

        async def enough():
            targets = json.loads(await fetch(url))["data"]["activeTargets"]
            nodes = [one["health"] for one in targets if one["labels"]["job"] == "rookery"]
            return nodes == ["up"] * count

        await until(f"Prometheus to see {count} nodes", enough)

    async def cut(self, container, network):
        """Takes a container out of a network."""
        await run("docker", "network", "disconnect", f"{self.project}_{network}", container)

    async def mend(self, container, network):
        """Puts it back."""
        await run(
            "docker", "network", "connect", "--alias", "node", f"{self.project}_{network}", container
        )

    async def websocket(self, authority):
        """The first lines of the answer to a WebSocket handshake over HTTPS."""
        port = self.ports[5281]

        def handshake():
            context = ssl.create_default_context(cafile=authority)
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as tcp,
                context.wrap_socket(tcp, server_hostname="localhost") as tls,
            ):
                tls.sendall(
                    b"GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    b"Sec-WebSocket-Protocol: xmpp\r\n\r\n"
                )
                answer = b""
                while b"\r\n\r\n" not in answer:
                    part = tls.recv(4096)
                    if not part:
                        break
                    answer += part
                return answer.decode()

        return await asyncio.to_thread(handshake)


def from_environment():
    """The stack that tests/containers/run has named."""
    return Stack(os.environ["COMPOSE_PROJECT_NAME"], os.environ["COMPOSE"].split())
