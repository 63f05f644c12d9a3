//! XEP-0191 Blocking Command, version 1.3.
//!
//! Supported: the block list (§3.2), blocking (§3.3), unblocking (§3.4, §3.5), pushes, the presence
//! changes that they demand, matching of all four forms of address (§6). Blocking is "polite" (§4):
//! subscriptions stay, and nobody is told.
//!
//! Not here: who has asked for the list and so gets pushes is a fact of the session. Never ask a list
//! about the owner's own resources: they cannot be blocked (§5).

use std::collections::HashSet;

use rookery_proto::error::{Condition, ErrorType, StanzaError};
use rookery_proto::jid::{FullJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::{IqType, Kind, MessageType, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(191, "1.3", &[NS]);

/// Namespace of the commands.
pub const NS: &str = "urn:xmpp:blocking";

/// Namespace of `<blocked/>`.
pub const NS_ERRORS: &str = "urn:xmpp:blocking:errors";

/// A command of the account's owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// What is blocked? The resource gets pushes from now on.
    List,
    /// Block these, at least one.
    Block(Vec<Jid>),
    /// Do not block these any more, at least one.
    Unblock(Vec<Jid>),
    /// Block nobody any more.
    UnblockAll,
}

impl Request {
    /// Reads the IQ.
    ///
    /// # Errors
    /// `bad-request` for a `<block/>` without items, an item without address, or any other payload;
    /// `jid-malformed`.
    pub fn parse(iq: &Stanza) -> Result<Self, Condition> {
        let payload = iq
            .payload()
            .filter(|p| p.ns() == NS)
            .ok_or(Condition::BadRequest)?;
        match (iq.kind, payload.name()) {
            (Kind::Iq(IqType::Get), "blocklist") => Ok(Self::List),
            (Kind::Iq(IqType::Set), "block") => match items(payload)? {
                empty if empty.is_empty() => Err(Condition::BadRequest),
                jids => Ok(Self::Block(jids)),
            },
            (Kind::Iq(IqType::Set), "unblock") => match items(payload)? {
                empty if empty.is_empty() => Ok(Self::UnblockAll),
                jids => Ok(Self::Unblock(jids)),
            },
            _ => Err(Condition::BadRequest),
        }
    }

    /// The push that tells one of the owner's resources of the change (§3.3, §3.4, §3.5); `None` for
    /// a request that changes nothing.
    pub fn push(&self, id: &str, to: &FullJid) -> Option<Stanza> {
        let change = match self {
            Self::List => return None,
            Self::Block(jids) => with_items("block", jids),
            Self::Unblock(jids) => with_items("unblock", jids),
            Self::UnblockAll => Element::new("unblock", NS),
        };
        Some(
            Stanza::iq(IqType::Set, id)
                .with_to(to.clone())
                .with_child(change),
        )
    }
}

/// The addresses of a command, each once.
fn items(command: &Element) -> Result<Vec<Jid>, Condition> {
    let mut jids = Vec::new();
    let mut known = HashSet::new();
    for item in command.children().filter(|child| child.is("item", NS)) {
        let jid = item.attr("jid").ok_or(Condition::BadRequest)?;
        let jid = Jid::parse(jid).map_err(|_| Condition::JidMalformed)?;
        if known.insert(jid.clone()) {
            jids.push(jid);
        }
    }
    Ok(jids)
}

fn with_items<'a>(name: &str, jids: impl IntoIterator<Item = &'a Jid>) -> Element {
    let mut element = Element::new(name, NS);
    for jid in jids {
        element.push(Element::new("item", NS).with_attr("jid", jid.as_str()));
    }
    element
}

/// Whom an account blocks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlockList(HashSet<Jid>);

impl BlockList {
    /// The list as it is stored.
    pub fn new(blocked: impl IntoIterator<Item = Jid>) -> Self {
        Self(blocked.into_iter().collect())
    }

    /// Whether stanzas from and to `jid` are blocked (§6): by its full JID, its bare JID or its
    /// domain. Three look-ups at most, none if the list is empty.
    pub fn blocks(&self, jid: &Jid) -> bool {
        !self.0.is_empty()
            && (self.0.contains(jid.as_str())
                || self.0.contains(jid.bare_str())
                || self.0.contains(jid.domain()))
    }

    /// Whether nobody is blocked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blocked addresses, in no order.
    pub fn jids(&self) -> impl Iterator<Item = &Jid> {
        self.0.iter()
    }

    /// The list after a request.
    #[must_use]
    pub fn after(&self, request: &Request) -> Self {
        let mut list = self.0.clone();
        match request {
            Request::List => {}
            Request::Block(jids) => list.extend(jids.iter().cloned()),
            Request::Unblock(jids) => list.retain(|jid| !jids.contains(jid)),
            Request::UnblockAll => list.clear(),
        }
        Self(list)
    }

    /// The answer to [`Request::List`] (§3.2), sorted.
    pub fn result(&self, iq: &Stanza) -> Stanza {
        let mut jids: Vec<&Jid> = self.0.iter().collect();
        jids.sort_unstable();
        iq.reply_result_with(with_items("blocklist", jids))
    }
}

/// Who gets the user's presence, and stops or starts to get it when `before` becomes `after`: send
/// them unavailable presence from each available resource after blocking (§3.3), and the current one
/// after unblocking (§3.4).
///
/// Contacts are named by their bare JIDs, or by the full JID if no more than that is (un)blocked.
/// Whom the user sent directed presence is not among them:
/// [`crate::presence::DirectedPresence::take_blocked`].
pub fn presence_changes<'a>(
    roster: impl IntoIterator<Item = &'a RosterItem>,
    before: &BlockList,
    after: &BlockList,
) -> Vec<Jid> {
    let mut changes = Vec::new();
    for item in roster
        .into_iter()
        .filter(|item| item.subscription.seen_by_contact())
    {
        let contact = Jid::from(&item.jid);
        let (was_blocked, is_blocked) = (before.blocks(&contact), after.blocks(&contact));
        if was_blocked != is_blocked {
            changes.push(contact);
        } else if !is_blocked {
            let resources = before.0.symmetric_difference(&after.0);
            changes.extend(
                resources
                    .filter(|jid| !jid.is_bare() && item.jid == *jid.bare_str())
                    .cloned(),
            );
        }
    }
    changes
}

/// What the owner gets for a stanza to somebody it blocks (§3.3): `not-acceptable` with `<blocked/>`.
pub fn outgoing_error() -> StanzaError {
    let mut error = StanzaError::from(Condition::NotAcceptable);
    error.kind = ErrorType::Cancel;
    error.app = Some(Box::new(Element::new("blocked", NS_ERRORS)));
    error
}

/// What becomes of a stanza from somebody whom its recipient blocks (§3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// It vanishes.
    Drop,
    /// The sender gets this error, as if the account were offline.
    Bounce(Condition),
}

/// Decides about a stanza from a blocked sender (§3.3). Presence is never answered, errors and
/// results neither.
pub fn incoming(kind: Kind) -> Incoming {
    match kind {
        Kind::Presence(_)
        | Kind::Message(MessageType::Error)
        | Kind::Iq(IqType::Result | IqType::Error) => Incoming::Drop,
        Kind::Message(
            MessageType::Chat
            | MessageType::Groupchat
            | MessageType::Headline
            | MessageType::Normal,
        )
        | Kind::Iq(IqType::Get | IqType::Set) => Incoming::Bounce(Condition::ServiceUnavailable),
    }
}

#[cfg(test)]
mod tests {
    use rookery_proto::jid::BareJid;
    use rookery_proto::ns;
    use rookery_proto::roster::Subscription;
    use rookery_proto::stanza::PresenceType;

    use super::*;
    use crate::testing::iq;

    fn parse(kind: &str, payload: &str) -> Result<Request, Condition> {
        Request::parse(&iq(kind, payload))
    }

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn list(jids: &[&str]) -> BlockList {
        BlockList::new(jids.iter().map(|text| jid(text)))
    }

    /// XEP-0191 §3.2 to §3.5
    #[test]
    fn commands_are_read() {
        assert_eq!(
            parse("get", "<blocklist xmlns='urn:xmpp:blocking'/>"),
            Ok(Request::List)
        );
        assert_eq!(
            parse(
                "set",
                "<block xmlns='urn:xmpp:blocking'><item jid='Eve@x'/><item jid='eve@x'/>\
                 <item jid='x.example/r'/></block>"
            ),
            Ok(Request::Block(vec![jid("eve@x"), jid("x.example/r")]))
        );
        assert_eq!(
            parse(
                "set",
                "<unblock xmlns='urn:xmpp:blocking'><item jid='eve@x/r'/></unblock>"
            ),
            Ok(Request::Unblock(vec![jid("eve@x/r")]))
        );
        assert_eq!(
            parse("set", "<unblock xmlns='urn:xmpp:blocking'/>"),
            Ok(Request::UnblockAll)
        );
    }

    #[test]
    fn bad_commands_are_refused() {
        for (kind, payload, condition) in [
            (
                "set",
                "<block xmlns='urn:xmpp:blocking'/>",
                Condition::BadRequest,
            ),
            (
                "set",
                "<block xmlns='urn:xmpp:blocking'><item/></block>",
                Condition::BadRequest,
            ),
            (
                "set",
                "<block xmlns='urn:xmpp:blocking'><item xmlns='urn:x' jid='a@x'/></block>",
                Condition::BadRequest,
            ),
            (
                "set",
                "<block xmlns='urn:xmpp:blocking'><item jid='@x'/></block>",
                Condition::JidMalformed,
            ),
            (
                "set",
                "<unblock xmlns='urn:xmpp:blocking'><item jid=''/></unblock>",
                Condition::JidMalformed,
            ),
            (
                "set",
                "<blocklist xmlns='urn:xmpp:blocking'/>",
                Condition::BadRequest,
            ),
            (
                "get",
                "<block xmlns='urn:xmpp:blocking'><item jid='a@x'/></block>",
                Condition::BadRequest,
            ),
            ("get", "<blocklist xmlns='urn:x'/>", Condition::BadRequest),
        ] {
            assert_eq!(parse(kind, payload), Err(condition), "{kind} {payload}");
        }
    }

    /// XEP-0191 §6
    #[test]
    fn addresses_match_by_their_form() {
        let full = list(&["eve@x/r"]);
        assert!(full.blocks(&jid("eve@x/r")));
        assert!(!full.blocks(&jid("eve@x")) && !full.blocks(&jid("eve@x/s")));
        let bare = list(&["eve@x"]);
        assert!(bare.blocks(&jid("eve@x")) && bare.blocks(&jid("eve@x/r")));
        assert!(!bare.blocks(&jid("x")) && !bare.blocks(&jid("bob@x")));
        let resource = list(&["x/r"]);
        assert!(resource.blocks(&jid("x/r")));
        assert!(!resource.blocks(&jid("x")) && !resource.blocks(&jid("eve@x/r")));
        let domain = list(&["x"]);
        for blocked in ["x", "x/r", "eve@x", "eve@x/r"] {
            assert!(domain.blocks(&jid(blocked)), "{blocked}");
        }
        assert!(!domain.blocks(&jid("sub.x")) && !domain.blocks(&jid("eve@y")));
        assert!(!BlockList::default().blocks(&jid("x")));
    }

    #[test]
    fn requests_change_the_list() {
        let before = list(&["eve@x", "y"]);
        assert_eq!(
            before.after(&Request::Block(vec![jid("a@x"), jid("y")])),
            list(&["a@x", "eve@x", "y"])
        );
        assert_eq!(
            before.after(&Request::Unblock(vec![jid("y"), jid("z")])),
            list(&["eve@x"])
        );
        assert!(before.after(&Request::UnblockAll).is_empty());
        assert_eq!(before.after(&Request::List), before);
        assert_eq!(before.jids().count(), 2);
    }

    #[test]
    fn the_result_lists_the_addresses() {
        let request = iq("get", "<blocklist xmlns='urn:xmpp:blocking'/>");
        assert_eq!(
            list(&["y", "eve@x"])
                .result(&request)
                .payload()
                .unwrap()
                .to_xml(ns::CLIENT),
            "<blocklist xmlns='urn:xmpp:blocking'><item jid='eve@x'/><item jid='y'/></blocklist>"
        );
        assert_eq!(
            list(&[])
                .result(&request)
                .payload()
                .unwrap()
                .to_xml(ns::CLIENT),
            "<blocklist xmlns='urn:xmpp:blocking'/>"
        );
    }

    #[test]
    fn pushes_repeat_the_command() {
        let desk = FullJid::parse("ann@localhost/desk").unwrap();
        let pushed = |request: Request| {
            request.push("p1", &desk).map(|push| {
                assert_eq!(
                    (push.kind, &push.to),
                    (Kind::Iq(IqType::Set), &Some(desk.clone().into()))
                );
                push.payload().unwrap().to_xml(ns::CLIENT)
            })
        };
        assert_eq!(
            pushed(Request::Block(vec![jid("eve@x")])).unwrap(),
            "<block xmlns='urn:xmpp:blocking'><item jid='eve@x'/></block>"
        );
        assert_eq!(
            pushed(Request::Unblock(vec![jid("eve@x")])).unwrap(),
            "<unblock xmlns='urn:xmpp:blocking'><item jid='eve@x'/></unblock>"
        );
        assert_eq!(
            pushed(Request::UnblockAll).unwrap(),
            "<unblock xmlns='urn:xmpp:blocking'/>"
        );
        assert_eq!(pushed(Request::List), None);
    }

    /// XEP-0191 §3.3, §3.4
    #[test]
    fn contacts_who_see_presence_are_told() {
        let item = |jid: &str, subscription| RosterItem {
            subscription,
            ..RosterItem::new(BareJid::parse(jid).unwrap())
        };
        let roster = [
            item("from@x", Subscription::From),
            item("both@y", Subscription::Both),
            item("to@x", Subscription::To),
            item("none@x", Subscription::None),
        ];
        let changes = |before: &[&str], after: &[&str]| -> Vec<String> {
            presence_changes(&roster, &list(before), &list(after))
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(changes(&[], &["x"]), ["from@x"]);
        assert_eq!(changes(&["x"], &[]), ["from@x"]);
        assert_eq!(
            changes(&[], &["from@x", "both@y", "to@x"]),
            ["from@x", "both@y"]
        );
        assert_eq!(
            changes(&["x"], &["x", "from@x"]),
            [""; 0],
            "blocked already"
        );
        assert_eq!(changes(&[], &["both@y/desk", "to@x/desk"]), ["both@y/desk"]);
        assert_eq!(changes(&["both@y/desk"], &[]), ["both@y/desk"]);
        assert_eq!(changes(&["both@y/desk"], &["both@y"]), ["both@y"]);
        assert_eq!(changes(&["both@y"], &["both@y", "both@y/desk"]), [""; 0]);
    }

    #[test]
    fn the_owner_is_told_that_it_blocks_the_addressee() {
        let error = outgoing_error();
        assert_eq!(
            (error.condition, error.kind),
            (Condition::NotAcceptable, ErrorType::Cancel)
        );
        assert!(
            error
                .app
                .is_some_and(|app| app.is("blocked", "urn:xmpp:blocking:errors"))
        );
    }

    #[test]
    fn a_blocked_sender_finds_the_account_offline() {
        let bounce = Incoming::Bounce(Condition::ServiceUnavailable);
        for kind in [
            Kind::Message(MessageType::Chat),
            Kind::Message(MessageType::Normal),
            Kind::Message(MessageType::Headline),
            Kind::Message(MessageType::Groupchat),
            Kind::Iq(IqType::Get),
            Kind::Iq(IqType::Set),
        ] {
            assert_eq!(incoming(kind), bounce, "{kind:?}");
        }
        for kind in [
            Kind::Message(MessageType::Error),
            Kind::Iq(IqType::Result),
            Kind::Iq(IqType::Error),
            Kind::Presence(PresenceType::Available),
            Kind::Presence(PresenceType::Subscribe),
            Kind::Presence(PresenceType::Probe),
        ] {
            assert_eq!(incoming(kind), Incoming::Drop, "{kind:?}");
        }
    }
}
