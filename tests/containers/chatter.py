"""A person who writes numbered messages to another one and comes back whenever the stream ends.

A message counts as acknowledged when the server has answered a ping that was sent after it, and no error
came back for it. What is not acknowledged is sent again.
"""

import asyncio
import logging

from slixmpp import ClientXMPP
from slixmpp.exceptions import IqError, IqTimeout

log = logging.getLogger("chatter")

# How long a ping may take before the stream is given up.
PATIENCE = 5


class Chatter:
    """One account, one resource, one stream at a time."""

    def __init__(self, name, port, authority):
        self.name = name
        self.port = port
        self.authority = authority
        self.jid = f"{name}@localhost"
        self.client = None
        self.online = asyncio.Event()
        # Held by whoever wants nothing to be on its way.
        self.quiet = asyncio.Lock()
        self.logins = 0
        self.sent = 0
        self.sent_again = 0
        self.acknowledged = set()
        self.bounced = set()
        self.received = set()
        self.received_again = 0
        self.late = 0
        self.tasks = []

    def start(self, other):
        """Keeps a stream open and writes."""
        self.tasks = [
            asyncio.create_task(self._stay_online(), name=f"{self.name} stays online"),
            asyncio.create_task(self._write_to(other), name=f"{self.name} writes"),
        ]

    async def stop(self):
        """Ends both."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.client:
            await self.client.disconnect()

    def failed(self):
        """What ended a task, if something did: the test is wrong then, or a client library."""
        return [task.exception() for task in self.tasks if task.done()]

    async def _stay_online(self):
        while True:
            client = ClientXMPP(f"{self.jid}/test", f"secret of {self.name}")
            client.ca_certs = self.authority
            client.enable_direct_tls = False
            client.register_plugin("xep_0199")
            client.register_plugin("xep_0203")
            ended, started = asyncio.Event(), asyncio.Event()
            client.add_event_handler("session_start", lambda _, it=started: it.set())
            client.add_event_handler("message", self._read)
            client.add_event_handler("message_error", self._refused)
            for event in ("disconnected", "connection_failed", "failed_all_auth", "stream_error"):
                client.add_event_handler(event, lambda _, it=ended: it.set())
            client.connect("127.0.0.1", self.port)
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await first(started, ended)
                if started.is_set() and not ended.is_set():
                    client.send_presence()
                    self.client = client
                    self.logins += 1
                    log.info("%s is online (%d)", self.name, self.logins)
                    self.online.set()
                    await self._watch(client, ended)
            except TimeoutError:
                pass
            self.online.clear()
            self.client = None
            client.abort()
            log.info("%s is offline", self.name)
            await asyncio.sleep(0.3)

    async def _watch(self, client, ended):
        """Returns when the stream has ended or does not answer any more."""
        while not ended.is_set():
            if not await ping(client):
                return
            try:
                async with asyncio.timeout(1):
                    await ended.wait()
            except TimeoutError:
                pass

    async def _write_to(self, other):
        while True:
            await asyncio.sleep(0.02)
            async with self.quiet:
                await self._write_one(other)

    async def _write_one(self, other):
        number = min(self.bounced, default=self.sent + 1)
        self.bounced.discard(number)
        self.sent = max(self.sent, number)
        while True:
            await self.online.wait()
            client = self.client
            if client is None:
                await asyncio.sleep(0.1)
                continue
            client.send_raw(
                f"<message to='{other.jid}' type='chat' id='{number}'><body>{number}</body></message>"
            )
            if await ping(client) and number not in self.bounced:
                self.acknowledged.add(number)
                return
            self.bounced.discard(number)
            self.sent_again += 1
            await asyncio.sleep(0.1)

    def _read(self, message):
        if not message["body"]:
            return
        number = int(message["body"])
        if number in self.received:
            self.received_again += 1
        self.received.add(number)
        self.late += bool(message.get_plugin("delay", check=True))

    def _refused(self, message):
        number = int(message["id"])
        log.info("%s: %d was refused: %s", self.name, number, message["error"]["condition"])
        self.acknowledged.discard(number)
        self.bounced.add(number)


async def ping(client):
    """Whether the server answers."""
    try:
        await client.plugin["xep_0199"].ping("localhost", timeout=PATIENCE)
    except (IqError, IqTimeout):
        return False
    return True


async def first(*events):
    """Waits for the first of some events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
