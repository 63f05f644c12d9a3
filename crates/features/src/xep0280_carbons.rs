//! XEP-0280 Message Carbons, version 1.0.1.
//!
//! Supported: enabling and disabling (§4, §5), the rules of §6.1, copies of what is received (§7) and
//! sent (§8), `<private/>` (§9) and the hint `<no-copy/>`.
//!
//! `<private/>` stays in the message: version 1.0 has lifted the rule that a server removes it (§9).
//!
//! What a single message does not tell is up to the caller, who gets it said by [`Copies`]: which
//! resources are in a room, and which message an error answers ([`Answerable`] remembers them).
//!
//! Not supported: nobody looks at these two, so that errors and private messages in rooms are not
//! copied, and `urn:xmpp:carbons:rules:0` is not announced.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::ns;
use rookery_proto::stanza::{IqType, Kind, MessageType, Stanza};

use crate::feature::Feature;
use crate::offline::NS_CHAT_STATES;
use crate::{xep0297_forwarding, xep0334_hints};

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::partial(280, "1.0.1", &[NS]);

/// Namespace of every element in this file.
pub const NS: &str = "urn:xmpp:carbons:2";

/// Announced where all of §6.1 is obeyed (§6.2).
pub const NS_RULES: &str = "urn:xmpp:carbons:rules:0";

/// Namespace of delivery receipts (XEP-0184).
const NS_RECEIPTS: &str = "urn:xmpp:receipts";

/// Namespace of chat markers (XEP-0333).
const NS_MARKERS: &str = "urn:xmpp:chat-markers:0";

/// Namespace of direct invitations to rooms (XEP-0249).
const NS_DIRECT_INVITATION: &str = "jabber:x:conference";

/// Namespace of what rooms say to users, mediated invitations among it (XEP-0045).
const NS_MUC_USER: &str = "http://jabber.org/protocol/muc#user";

/// Elements without which a message is used in instant messaging all the same (§6.1, third rule).
const PAYLOADS: [(&str, &str); 11] = [
    ("received", NS_RECEIPTS),
    ("request", NS_RECEIPTS),
    ("active", NS_CHAT_STATES),
    ("composing", NS_CHAT_STATES),
    ("paused", NS_CHAT_STATES),
    ("inactive", NS_CHAT_STATES),
    ("gone", NS_CHAT_STATES),
    ("displayed", NS_MARKERS),
    ("received", NS_MARKERS),
    ("acknowledged", NS_MARKERS),
    ("markable", NS_MARKERS),
];

/// What a resource wants. The answer is an empty result, also where nothing changes (§10.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Copies from now on.
    Enable,
    /// No more copies.
    Disable,
}

impl Request {
    /// Reads the payload of an IQ.
    ///
    /// # Errors
    /// `BadRequest` unless the IQ is a set holding `<enable/>` or `<disable/>`.
    pub fn parse(iq: &Stanza) -> Result<Self, Condition> {
        match iq.payload() {
            Some(e) if iq.kind == Kind::Iq(IqType::Set) && e.is("enable", NS) => Ok(Self::Enable),
            Some(e) if iq.kind == Kind::Iq(IqType::Set) && e.is("disable", NS) => Ok(Self::Disable),
            _ => Err(Condition::BadRequest),
        }
    }
}

/// On which way the message is, seen from the account whose resources might get copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// A resource of the account sent it.
    Sent,
    /// It is for the account or one of its resources.
    Received,
}

impl Direction {
    fn reversed(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }

    fn element_name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// Which of the account's resources with carbons enabled get a copy of a message.
///
/// Never the one that sent it (§8), nor one that gets the message itself (§7). Whether a resource is
/// available, and with which priority, does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// None.
    Nobody,
    /// All.
    Everybody,
    /// Those that are in the same room as the one that sent it: that sent directed presence to the
    /// room of the message's recipient. The message is private, for an occupant of that room.
    Occupants,
    /// The message is an error: all, if [`Answerable::is_answered_by`] it.
    IfAnswer,
}

/// Who gets copies of a message (§6.1). Nobody gets any of other stanzas.
pub fn copies(message: &Stanza, direction: Direction) -> Copies {
    let Kind::Message(kind) = message.kind else {
        return Copies::Nobody;
    };
    if message.has("private", NS) || xep0334_hints::forbids_copies(message) {
        return Copies::Nobody;
    }
    match kind {
        MessageType::Groupchat => Copies::Nobody,
        MessageType::Error => Copies::IfAnswer,
        MessageType::Chat | MessageType::Normal | MessageType::Headline => {
            if is_invitation(message) {
                return Copies::Everybody;
            }
            if message.has("x", NS_MUC_USER) && peer(message, direction).is_some_and(is_full) {
                return match direction {
                    Direction::Sent => Copies::Occupants,
                    // The room sends it to each resource that is there.
                    Direction::Received => Copies::Nobody,
                };
            }
            if is_instant_message(message, kind) {
                Copies::Everybody
            } else {
                Copies::Nobody
            }
        }
    }
}

/// Who is at the other end.
fn peer(message: &Stanza, direction: Direction) -> Option<&Jid> {
    match direction {
        Direction::Sent => message.to.as_ref(),
        Direction::Received => message.from.as_ref(),
    }
}

fn is_full(jid: &Jid) -> bool {
    !jid.is_bare()
}

/// Whether the message invites to a room, directly (XEP-0249) or through the room (XEP-0045 §7.8.2).
fn is_invitation(message: &Stanza) -> bool {
    message.has("x", NS_DIRECT_INVITATION)
        || (message.has("x", NS_MUC_USER)
            && message
                .children()
                .iter()
                .filter(|child| child.is("x", NS_MUC_USER))
                .any(|x| x.child("invite", NS_MUC_USER).is_some()))
}

fn is_instant_message(message: &Stanza, kind: MessageType) -> bool {
    kind == MessageType::Chat
        || (kind == MessageType::Normal && message.has("body", ns::CLIENT))
        || PAYLOADS.iter().any(|(name, ns)| message.has(name, ns))
}

/// The copy of a message for the account's resources (§7, §8). One serves all of them: each has its
/// own `to`, its full JID, put in.
///
/// `message` is what the account's archive holds, with its `<stanza-id/>` if it has one.
/// `None` if it cannot be written as XML, as no stanza that came from a network.
pub fn copy(message: &Stanza, direction: Direction, account: &BareJid) -> Option<Stanza> {
    let name = direction.element_name();
    let forwarded = xep0297_forwarding::forwarded(&message.to_xml(), None);
    let xml = format!(
        "<message xmlns='jabber:client'><{name} xmlns='{NS}'>{forwarded}</{name}></message>"
    );
    let mut copy = Stanza::from_xml(&xml).ok()?.with_from(account.clone());
    copy.kind = message.kind;
    Some(copy)
}

/// Remembers the last messages that were copied, so that errors that answer them are copied, too
/// (§6.1, fourth rule).
///
/// For one resource. Needs four bytes a message, and nothing at first. It forgets all but the last
/// [`Answerable::CAPACITY`], and those without an id cannot be told.
#[derive(Clone, Default, Debug)]
pub struct Answerable {
    marks: VecDeque<u32>,
}

impl Answerable {
    /// How many messages are remembered.
    pub const CAPACITY: usize = 128;

    /// Remembers a message that the resource sent or got, of which [`copies`] went out.
    pub fn note(&mut self, message: &Stanza, direction: Direction) {
        let Some(mark) = mark(message, direction, direction) else {
            return;
        };
        if self.marks.len() == Self::CAPACITY {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
    }

    /// Whether an error answers one of these messages: it goes the other way, between the same two,
    /// with the same id.
    pub fn is_answered_by(&self, error: &Stanza, direction: Direction) -> bool {
        mark(error, direction, direction.reversed()).is_some_and(|mark| self.marks.contains(&mark))
    }
}

/// A number for direction, peer and id of a message; the peer is known by its bare JID, as a resource
/// may answer for its account, or the account for it.
fn mark(stanza: &Stanza, direction: Direction, of: Direction) -> Option<u32> {
    let id = stanza.id.as_deref()?;
    let peer = peer(stanza, direction)?.bare_str();
    let mut hasher = DefaultHasher::new();
    (of, peer, id).hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    Some(hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{iq, message};

    const BODY: &str = "<body>hi</body>";
    const MUC: &str = "<x xmlns='http://jabber.org/protocol/muc#user'/>";

    fn both(message: &Stanza) -> Copies {
        let sent = copies(message, Direction::Sent);
        assert_eq!(copies(message, Direction::Received), sent, "{message:?}");
        sent
    }

    /// §4, §5
    #[test]
    fn requests_are_read() {
        let parse = |kind, name| Request::parse(&iq(kind, &format!("<{name} xmlns='{NS}'/>")));
        assert_eq!(parse("set", "enable"), Ok(Request::Enable));
        assert_eq!(parse("set", "disable"), Ok(Request::Disable));
        assert_eq!(parse("get", "enable"), Err(Condition::BadRequest));
        assert_eq!(parse("set", "private"), Err(Condition::BadRequest));
        assert_eq!(
            Request::parse(&iq("set", "<enable xmlns='urn:xmpp:carbons:1'/>")),
            Err(Condition::BadRequest)
        );
    }

    /// §6.1
    #[test]
    fn instant_messages_are_copied() {
        for (kind, children) in [
            ("chat", ""),
            ("chat", BODY),
            ("normal", BODY),
            ("unheard-of", BODY),
            ("normal", "<received xmlns='urn:xmpp:receipts' id='1'/>"),
            (
                "normal",
                "<paused xmlns='http://jabber.org/protocol/chatstates'/>",
            ),
            (
                "headline",
                "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
            ),
        ] {
            assert_eq!(
                both(&message(kind, children)),
                Copies::Everybody,
                "{kind} {children}"
            );
        }
        for (kind, children) in [
            ("normal", ""),
            ("normal", "<encrypted xmlns='urn:x'/>"),
            ("normal", "<received xmlns='urn:x'/>"),
            ("headline", BODY),
            ("groupchat", BODY),
            ("groupchat", "<x xmlns='jabber:x:conference' jid='r@x'/>"),
        ] {
            assert_eq!(
                both(&message(kind, children)),
                Copies::Nobody,
                "{kind} {children}"
            );
        }
        let presence = Stanza::from_xml("<presence xmlns='jabber:client'/>").unwrap();
        assert_eq!(both(&presence), Copies::Nobody);
    }

    /// §9, XEP-0334 §4.3
    #[test]
    fn private_messages_are_not_copied() {
        for element in [
            "<private xmlns='urn:xmpp:carbons:2'/>",
            "<no-copy xmlns='urn:xmpp:hints'/>",
        ] {
            let message = message("chat", &format!("{BODY}{element}"));
            assert_eq!(both(&message), Copies::Nobody, "{element}");
        }
        let other = message("chat", "<private xmlns='urn:x'/>");
        assert_eq!(both(&other), Copies::Everybody);
    }

    /// §6.1, rules for rooms
    #[test]
    fn invitations_are_copied_and_private_messages_in_rooms_stay_there() {
        for invitation in [
            "<x xmlns='jabber:x:conference' jid='room@muc.x'/>",
            "<x xmlns='http://jabber.org/protocol/muc#user'/>\
             <x xmlns='http://jabber.org/protocol/muc#user'><invite to='bob@localhost'/></x>",
        ] {
            assert_eq!(
                both(&message("normal", invitation)),
                Copies::Everybody,
                "{invitation}"
            );
        }
        let mut private = message("chat", &format!("{BODY}{MUC}"));
        private.to = Some(Jid::parse("room@muc.x/bob").unwrap());
        assert_eq!(copies(&private, Direction::Sent), Copies::Occupants);
        assert_eq!(copies(&private, Direction::Received), Copies::Nobody);
        private.from = Some(Jid::parse("room@muc.x").unwrap());
        assert_eq!(
            copies(&private, Direction::Received),
            Copies::Everybody,
            "the room itself"
        );
    }

    /// §7
    #[test]
    fn a_copy_holds_what_was_received() {
        let original = Stanza::from_xml(
            "<message xmlns='jabber:client' from='juliet@capulet.example/balcony' \
             to='romeo@montague.example/garden' type='chat' xml:lang='en'><body>What &amp; who</body>\
             <p:x xmlns:p='urn:p' p:a='1'/></message>",
        )
        .unwrap();
        let romeo = BareJid::parse("romeo@montague.example").unwrap();
        let copy = copy(&original, Direction::Received, &romeo).unwrap();
        assert_eq!(
            (copy.kind, &copy.from, &copy.to),
            (original.kind, &Some(romeo.into()), &None)
        );
        let received = copy.child("received", NS).unwrap();
        let forwarded = received.child("forwarded", "urn:xmpp:forward:0").unwrap();
        let inside = forwarded.child("message", ns::CLIENT).unwrap();
        let inside = Stanza::from_element(inside).unwrap();
        assert_eq!(inside.children(), original.children());
        assert_eq!(inside.without_content(), original.without_content());
    }

    /// §8
    #[test]
    fn a_copy_of_what_was_sent_is_marked_so() {
        let ann = BareJid::parse("ann@localhost").unwrap();
        let copy = copy(&message("normal", BODY), Direction::Sent, &ann).unwrap();
        assert_eq!(
            copy.to_xml(),
            "<message xmlns='jabber:client' from='ann@localhost'><sent xmlns='urn:xmpp:carbons:2'>\
             <forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' to='bob@localhost' \
             from='ann@localhost/desk' id='1'><body>hi</body></message></forwarded></sent></message>"
        );
    }

    fn error(from: &str, to: &str, id: &str) -> Stanza {
        Stanza::message(MessageType::Error)
            .with_from(Jid::parse(from).unwrap())
            .with_to(Jid::parse(to).unwrap())
            .with_id(id)
    }

    /// §6.1, fourth rule
    #[test]
    fn an_error_is_copied_if_it_answers_what_was() {
        let mut answerable = Answerable::default();
        let sent = message("chat", BODY);
        answerable.note(&sent, Direction::Sent);
        let refused = error("bob@localhost/phone", "ann@localhost/desk", "1");
        assert_eq!(both(&refused), Copies::IfAnswer);
        assert!(answerable.is_answered_by(&refused, Direction::Received));
        for (other, direction) in [
            (
                error("bob@localhost", "ann@localhost/desk", "2"),
                Direction::Received,
            ),
            (
                error("eve@localhost", "ann@localhost/desk", "1"),
                Direction::Received,
            ),
            (
                error("ann@localhost/desk", "bob@localhost", "1"),
                Direction::Sent,
            ),
            (
                Stanza::message(MessageType::Error).with_from(Jid::parse("bob@localhost").unwrap()),
                Direction::Received,
            ),
        ] {
            assert!(!answerable.is_answered_by(&other, direction), "{other:?}");
        }
        // What Bob got, Bob's error answers.
        let mut answerable = Answerable::default();
        answerable.note(&sent, Direction::Received);
        let answer = error("bob@localhost/phone", "ann@localhost/desk", "1");
        assert!(answerable.is_answered_by(&answer, Direction::Sent));
        assert!(!answerable.is_answered_by(&answer, Direction::Received));
    }

    #[test]
    fn old_messages_are_forgotten() {
        let mut answerable = Answerable::default();
        assert_eq!(answerable.marks.capacity(), 0);
        for id in 0..=Answerable::CAPACITY {
            answerable.note(
                &message("chat", "").with_id(&id.to_string()),
                Direction::Sent,
            );
        }
        let answer = |id: &str| error("bob@localhost", "ann@localhost/desk", id);
        assert_eq!(answerable.marks.len(), Answerable::CAPACITY);
        assert!(!answerable.is_answered_by(&answer("0"), Direction::Received));
        assert!(answerable.is_answered_by(&answer("1"), Direction::Received));
    }

    proptest::proptest! {
        /// Any message can be copied, and is found in its copy.
        #[test]
        fn any_message_is_copied_whole(body in "\\PC{0,40}", id in "\\PC{1,10}", lang in "[a-z]{2}") {
            let original = Stanza::message(MessageType::Chat)
                .with_id(&id)
                .with_lang(&lang)
                .with_child(rookery_proto::xml::Element::new("body", ns::CLIENT).with_text(&body));
            let account = BareJid::parse("ann@localhost").unwrap();
            for direction in [Direction::Sent, Direction::Received] {
                let copy = copy(&original, direction, &account).unwrap();
                let forwarded = copy.children()[0].children().next().unwrap();
                let inside = Stanza::from_element(forwarded.children().next().unwrap()).unwrap();
                proptest::prop_assert_eq!(&inside, &original);
            }
        }
    }
}
