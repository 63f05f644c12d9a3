"""Two people with an ordinary client library: login, roster, subscription, presence, chat.

usage: two_users.py --ann HOST:PORT --ann-ca FILE --ben HOST:PORT --ben-ca FILE [--direct-tls]

Ann and Ben may be at different nodes. The accounts ann@localhost and ben@localhost exist, with the
passwords "secret of ann" and "secret of ben" and empty rosters. Exits with 0 if all of it works; else
prints what was awaited and exits with 1.
"""

import argparse
import asyncio
import sys
import traceback
from pathlib import Path

from slixmpp import ClientXMPP

DEADLINE = 20


class Person(ClientXMPP):
    """A client that puts what it receives into one queue per kind."""

    def __init__(self, name, args):
        super().__init__(f"{name}@localhost/slixmpp", f"secret of {name}")
        self.name = name
        self.address = getattr(args, name)
        self.ca_certs = Path(getattr(args, f"{name}_ca"))
        self.enable_direct_tls = args.direct_tls
        self.enable_starttls = not args.direct_tls
        # Subscriptions are answered by the script.
        self.auto_authorize = None
        self.auto_subscribe = False
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0199")
        self.register_plugin("xep_0203")
        self.queues = {}
        for event in (
            "session_start",
            "failed_auth",
            "disconnected",
            "message",
            "presence_subscribe",
            "presence_subscribed",
            "presence_unsubscribe",
            "presence_unsubscribed",
            "presence_available",
            "presence_away",
            "presence_unavailable",
            "roster_update",
        ):
            self.queues[event] = asyncio.Queue()
            self.add_event_handler(event, self.queues[event].put_nowait)

    async def wait(self, event, matches=lambda _: True):
        """The next event of a kind that matches; those before it are dropped."""
        what = f"{self.name} waits for {event}"
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    value = await self.queues[event].get()
                    if matches(value):
                        return value
        except TimeoutError:
            raise AssertionError(what) from None

    async def login(self):
        """Connects, authenticates, fetches the roster and becomes available."""
        host, port = self.address.rsplit(":", 1)
        self.connect(host, int(port))
        await self.wait("session_start")
        await self.get_roster(timeout=DEADLINE)
        self.send_presence()
        await self.wait("presence_available", lambda p: p["from"] == self.boundjid)

    async def logout(self):
        """Ends the stream."""
        await self.disconnect()

    async def roster_shows(self, contact, subscription):
        """Waits for a roster push that leaves the contact in a state."""

        def shows(iq):
            items = iq["roster"]["items"]
            return any(
                jid.bare == contact and item["subscription"] == subscription
                for jid, item in items.items()
            )

        await self.wait("roster_update", shows)


def from_bare(jid):
    """Whether a stanza comes from some resource of an account."""
    return lambda stanza: stanza["from"].bare == jid


async def befriend(one, other):
    """`one` asks for the presence of `other` and gets it."""
    one.send_presence(pto=other.boundjid.bare, ptype="subscribe")
    await other.wait("presence_subscribe", from_bare(one.boundjid.bare))
    other.send_presence(pto=one.boundjid.bare, ptype="subscribed")
    await one.wait("presence_subscribed", from_bare(other.boundjid.bare))
    # The server tells that the contact is there (RFC 6121 §3.1.5).
    await one.wait("presence_available", from_bare(other.boundjid.bare))


async def chat(one, other, count):
    """`one` writes some messages, which arrive in order."""
    for number in range(count):
        one.send_message(mto=other.boundjid.bare, mbody=f"number {number}", mtype="chat")
    for number in range(count):
        message = await other.wait("message", from_bare(one.boundjid.bare))
        assert message["body"] == f"number {number}", message
        assert message["type"] == "chat", message


async def play(args):
    """The whole story."""
    ann, ben = Person("ann", args), Person("ben", args)
    await asyncio.gather(ann.login(), ben.login())
    assert not [jid for jid in ann.client_roster if jid != ann.boundjid.bare]

    await befriend(ann, ben)
    await befriend(ben, ann)
    await asyncio.gather(
        ann.roster_shows("ben@localhost", "both"), ben.roster_shows("ann@localhost", "both")
    )
    await ann.update_roster("ben@localhost", name="Ben", groups=["Friends"])
    await ann.get_roster(timeout=DEADLINE)
    item = ann.client_roster["ben@localhost"]
    assert item["name"] == "Ben" and item["groups"] == ["Friends"], item

    await chat(ann, ben, 20)
    await chat(ben, ann, 20)

    ben.send_presence(pshow="away", pstatus="tea")
    presence = await ann.wait("presence_away")
    assert presence["status"] == "tea", presence
    await ann.plugin["xep_0199"].ping("localhost", timeout=DEADLINE)
    await ann.plugin["xep_0199"].ping(ben.boundjid.full, timeout=DEADLINE)
    info = await ann.plugin["xep_0030"].get_info("localhost", timeout=DEADLINE)
    assert "urn:xmpp:ping" in info["disco_info"]["features"], info

    await ben.logout()
    await ann.wait("presence_unavailable", from_bare("ben@localhost"))
    ann.send_message(mto="ben@localhost", mbody="while you were away", mtype="chat")
    # Processed, and so stored, once a later request has its answer.
    await ann.plugin["xep_0199"].ping("localhost", timeout=DEADLINE)

    ben = Person("ben", args)
    await ben.login()
    message = await ben.wait("message")
    assert message["body"] == "while you were away", message
    assert message["delay"]["stamp"], message
    await ann.wait("presence_available", from_bare("ben@localhost"))

    await ann.del_roster_item("ben@localhost")
    await ann.roster_shows("ben@localhost", "remove")
    await ben.roster_shows("ann@localhost", "none")
    await asyncio.gather(ann.logout(), ben.logout())


def main():
    """Reads the arguments and plays."""
    parser = argparse.ArgumentParser()
    for name in ("ann", "ben"):
        parser.add_argument(f"--{name}", required=True)
        parser.add_argument(f"--{name}-ca", required=True)
    parser.add_argument("--direct-tls", action="store_true")
    args = parser.parse_args()
    try:
        asyncio.run(play(args))
    except Exception:  # Whatever it is, the status says so.
        traceback.print_exc()
        return 1
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
