"""Two people chat through the cluster of docker-compose.yml while nodes die, stop, are cut off and added.

Run by tests/containers/run. Exits with 0 if nothing acknowledged was lost and all else went well. With
--come-and-go no node fails: they are only upgraded and scaled.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from datetime import datetime
from pathlib import Path

from chatter import Chatter, ping
from stack import from_environment, run, until

START = time.monotonic()


def say(text):
    """Tells how far the test is."""
    print(f"[{time.monotonic() - START:5.1f} s] {text}", flush=True)


class Scenario:
    """The stack and its two users."""

    def __init__(self, stack, authority):
        self.stack = stack
        port = stack.ports[5222]
        self.ann = Chatter("ann", port, authority)
        self.ben = Chatter("ben", port, authority)
        self.people = (self.ann, self.ben)

    async def settled(self, deadline=60):
        """Waits until each has all that the other wrote until now."""
        wanted = [
            (self.ann, self.ben, self.ben.sent + 5),
            (self.ben, self.ann, self.ann.sent + 5),
        ]

        async def all_there():
            for person in self.people:
                if failed := person.failed():
                    raise AssertionError(f"a task of {person.name} ended: {failed}")
            return all(
                writer.sent >= number and not (set(writer.acknowledged) - reader.received)
                for reader, writer, number in wanted
            )

        await until("all messages to arrive", all_there, deadline)

    @contextlib.asynccontextmanager
    async def silence(self):
        """Nobody writes, and all that was written is acknowledged."""
        async with self.ann.quiet, self.ben.quiet:
            yield

    async def node_of(self, person):
        """The container that runs a person's session: it counts that person's pings."""
        async with self.silence():
            await person.online.wait()
            nodes = await self.stack.nodes()
            counted = ("rookery_stanzas_accepted_total", 'kind="iq"')
            before = {node: await self.stack.metric(node, *counted) for node in nodes}
            for _ in range(30):
                assert await ping(person.client), f"{person.name} gets no answer"
            after = {node: await self.stack.metric(node, *counted) for node in nodes}
        return max(nodes, key=lambda node: after[node] - before[node])

    async def all_back(self, count):
        """Waits until so many nodes are in the pool and everybody chats."""
        await self.stack.in_pool(count)
        await self.settled()

    async def different_nodes(self):
        """Ann and Ben are served by two containers."""
        for person in self.people:
            async with asyncio.timeout(30):
                await person.online.wait()
        ann, ben = await self.node_of(self.ann), await self.node_of(self.ben)
        assert ann != ben, "the load balancer sent both to one node"
        return ann, ben

    async def a_node_is_killed(self):
        node = await self.node_of(self.ann)
        logins = self.ann.logins
        async with self.silence():
            await run("docker", "kill", node)
        await self.all_back(2)
        assert self.ann.logins > logins, "the killed node was not the one that served Ann"
        await run("docker", "start", node)
        await self.all_back(3)

    async def a_node_is_stopped(self):
        """Under traffic: a clean stop loses nothing."""
        node = await self.node_of(self.ben)
        logins = self.ben.logins
        await run("docker", "stop", node)
        state = await run("docker", "inspect", "--format", "{{.State.ExitCode}}", node)
        assert state.strip() == "0", f"the node ended with status {state}"
        await self.all_back(2)
        assert self.ben.logins > logins, "the stopped node was not the one that served Ben"
        await run("docker", "start", node)
        await self.all_back(3)

    async def a_node_is_drained(self):
        """Under traffic: it leaves the pool before its clients leave it."""
        node = await self.node_of(self.ann)
        address = await self.stack.address(node)
        logins = self.ann.logins
        await run("docker", "exec", node, "rookery", "drain")
        await self.all_back(2)
        assert self.ann.logins > logins, "the drained node was not the one that served Ann"
        clients = await self.stack.clients_when_it_left(address)
        assert clients == 1, f"{clients} clients on the node that left the pool"
        await run("docker", "restart", node)
        await self.all_back(3)

    async def a_node_is_cut_off(self):
        node = await self.node_of(self.ben)
        address = await self.stack.address(node)
        logins = self.ben.logins
        # What Ben writes on a node that reaches neither Redis nor PostgreSQL comes back as an error; he
        # would not get it once his stream is cut as well.
        async with self.ben.quiet:
            async with self.ann.quiet:
                await self.stack.cut(node, "backend")

            async def left_the_pool():
                state, connections = (await self.stack.pool())[address]
                return state != "UP" and (state, connections)

            _, connections = await until("the node to leave the pool", left_the_pool)
            assert connections == 1, f"{connections} clients on the node that left the pool"
            assert self.ben.logins == logins, "a node that is not ready keeps its clients"
            say("  it left the pool and kept its client")
            await self.stack.cut(node, "frontend")
        await self.all_back(2)
        assert self.ben.logins > logins, "the node that was cut off was not the one that served Ben"
        for network in ("backend", "frontend"):
            await self.stack.mend(node, network)
        await self.all_back(3)

    async def begin(self):
        """Everybody chats."""
        await self.stack.in_pool(3)
        await self.stack.scraped(3)
        say("three nodes are in the pool and seen by Prometheus")
        self.ann.start(self.ben)
        self.ben.start(self.ann)
        await self.different_nodes()
        await self.settled()
        say("ann and ben chat across two containers")

    async def nodes_fail(self):
        """One after the other, each in its own way."""
        answer = await self.stack.websocket(self.ann.authority)
        assert answer.startswith("HTTP/1.1 101 "), answer
        say("WebSocket over HTTPS")
        await self.a_node_is_killed()
        say("a node was killed and came back")
        await self.a_node_is_stopped()
        say("a node was stopped and came back")
        await self.a_node_is_drained()
        say("a node was drained and came back")
        await self.a_node_is_cut_off()
        say("a node was cut off and came back")

    async def nodes_come_and_go(self):
        """Because the operator says so."""
        stack = self.stack
        before = set(await stack.nodes())
        await run("deploy/upgrade")
        assert not before & set(await stack.nodes()), "not all nodes were replaced"
        await self.all_back(3)
        say("all nodes were replaced one by one")
        await stack.up(5, "--no-recreate")
        await stack.in_pool(5)
        await stack.scraped(5)
        await self.settled()
        say("scaled to five")
        await stack.up(3, "--no-recreate")
        await stack.in_pool(3)
        await stack.scraped(3)
        await self.settled()
        say("scaled back to three")

    def report(self):
        """Prints the numbers and returns how many acknowledged messages are lost."""
        lost = 0
        for writer, reader in (self.people, self.people[::-1]):
            missing = writer.acknowledged - reader.received
            lost += len(missing)
            print(
                f"{writer.name} wrote {writer.sent}, acknowledged {len(writer.acknowledged)}, "
                f"sent again {writer.sent_again}, logins {writer.logins}; {reader.name} got "
                f"{len(reader.received)} ({reader.late} of them late), {reader.received_again} twice; "
                f"lost {len(missing)} {sorted(missing)[:20]}"
            )
        return lost


async def check_image(stack, node):
    """What the Dockerfile promises, as the engine sees it."""
    image = json.loads(await run("docker", "inspect", node))[0]["Image"]
    [image] = json.loads(await run("docker", "image", "inspect", image))
    config = image["Config"]
    assert config["User"] == "rookery", config["User"]
    assert config["StopSignal"] == "SIGTERM", config["StopSignal"]
    assert config["Entrypoint"] == ["rookery"], config["Entrypoint"]
    # "CMD-SHELL" would need a shell.
    assert config["Healthcheck"]["Test"] == ["CMD", "rookery", "health"], config["Healthcheck"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    for label in ("title", "description", "licenses", "revision", "base.name"):
        assert labels.get(label), f"the label {label} is missing"
    version = (await run("docker", "exec", node, "rookery", "--version")).strip()
    assert version == f"rookery {labels['version']}", f"VERSION in deploy/Dockerfile: {labels['version']}, {version}"
    # One that writes outside of its data directory would not have come up.
    [container] = json.loads(await run("docker", "inspect", node))
    assert container["HostConfig"]["ReadonlyRootfs"]
    [base] = json.loads(await run("docker", "image", "inspect", "debian:bookworm-slim"))
    say(f"the image: {(image['Size'] - base['Size']) / 1e6:.0f} MB on top of {base['Size'] / 1e6:.0f} MB")
    await start_time(stack, node)


async def start_time(stack, node):
    """Tells how long a node needs until it is ready, with a database that has its schema."""
    started = time.monotonic()
    await run("docker", "restart", "--time", "30", node)
    began = json.loads(await run("docker", "inspect", node))[0]["State"]["StartedAt"]

    async def both():
        lines = (await run("docker", "logs", "--since", began, node)).splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        times = {event.get("message"): event["timestamp"] for event in events}
        return "ready" in times and [times["rookery starts"], times["ready"]]

    first, last = map(datetime.fromisoformat, await until("the node to be ready", both))
    took = (last - first).total_seconds() * 1000
    say(f"a node stops and is back after {time.monotonic() - started:.1f} s, ready {took:.0f} ms after its start")


async def refuses_known_passwords(stack):
    """A secret that is still "changeme" stops the start."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        (Path(directory) / "postgres").write_text("changeme\n")
        os.environ["SECRETS"] = directory
        output = await stack.compose("run", "--rm", "-T", "secrets", check=False)
        del os.environ["SECRETS"]
        assert 'the secret postgres is still "changeme"' in output, output


async def main(all_of_it):
    """Starts the stack's users and plays."""
    stack = from_environment()
    say(f"three nodes from nothing, with {' '.join(stack.tool)}: {await stack.version()}")
    await refuses_known_passwords(stack)
    await stack.up(3, "--build")
    await stack.find_ports()
    say("up")
    node = (await stack.nodes())[0]
    if all_of_it:
        await check_image(stack, node)
    for name in ("ann", "ben"):
        script = f"echo 'secret of {name}' | docker exec -i $0 rookery user add {name}@localhost --password-stdin"
        await run("sh", "-c", script, node)
    with tempfile.TemporaryDirectory() as directory:
        authority = Path(directory) / "certificate.pem"
        await run(
            "docker", "cp", f"{node}:/var/lib/rookery-certificate/self-signed.pem", str(authority)
        )
        scenario = Scenario(stack, authority)
        try:
            await scenario.begin()
            if all_of_it:
                await scenario.nodes_fail()
            await scenario.nodes_come_and_go()
        finally:
            lost = scenario.report()
            await asyncio.gather(*(person.stop() for person in scenario.people))
        return 1 if lost else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("chatter").setLevel(logging.INFO)
    # The library leaves tasks behind when a stream is cut.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        sys.exit(asyncio.run(main("--come-and-go" not in sys.argv)))
    except Exception:  # Whatever it is, the status says so.
        traceback.print_exc()
        sys.exit(1)
