//! XEP-0352 Client State Indication, version 1.0.0.
//!
//! Supported: the stream feature (§4.1), both indications (§4.2), and which stanzas an inactive client
//! can do without for a while (§3.2).
//!
//! The session holds the state: active at first and after a resumption (§5.2), and told to nobody
//! (§6). What waits goes out before anything else from the same sender, so that the order of RFC 6120
//! §10.1 holds, and before any answer to what the client sends after `<active/>` (§5.1).

use rookery_proto::stanza::{IqType, Kind, MessageType, PresenceType, Stanza};
use rookery_proto::xml::Element;

use crate::nonza::local_name;
use crate::offline::{NS_CHAT_STATES, has_content};
use crate::{xep0280_carbons, xep0297_forwarding};

/// Namespace of every element in this file.
pub const NS: &str = "urn:xmpp:csi:0";

/// The stream feature, offered after login (§4.1).
pub fn stream_feature() -> Element {
    Element::new("csi", NS)
}

/// Whether somebody is looking at the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Yes: everything is to be sent at once.
    #[default]
    Active,
    /// No: [`may_wait`] says what can wait.
    Inactive,
}

impl State {
    /// Reads a first-level element of a stream (§4.2); `None` if it is no indication. Nothing is
    /// answered.
    pub fn parse(element: &Element) -> Option<Self> {
        if element.is("active", NS) {
            Some(Self::Active)
        } else {
            element.is("inactive", NS).then_some(Self::Inactive)
        }
    }
}

/// Whether a first-level element, as the framer cuts it out, is named like an indication. No message,
/// presence or IQ is named so.
pub fn is_nonza(raw: &[u8]) -> bool {
    matches!(local_name(raw), Some(b"active" | b"inactive"))
}

/// What an inactive client can do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Nothing: the stanza goes out at once.
    No,
    /// The stanza may wait.
    Later,
    /// It may wait, and is replaced by the next one of this kind from the same full JID.
    Latest,
    /// It means nothing later: it need not be sent at all.
    Never,
}

/// Decides about a stanza for an inactive client (§3.2).
///
/// - Presence of a contact or occupant: the latest counts.
/// - That somebody is typing, also in a copy (XEP-0280): of the moment.
/// - Receipts, markers and news of pubsub nodes, alone: nobody is looking.
/// - All else may be something to alert the user for, or answers the client itself.
pub fn may_wait(stanza: &Stanza) -> Wait {
    match stanza.kind {
        Kind::Presence(PresenceType::Available | PresenceType::Unavailable) => Wait::Latest,
        Kind::Presence(
            PresenceType::Subscribe
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed
            | PresenceType::Probe
            | PresenceType::Error,
        )
        | Kind::Iq(IqType::Get | IqType::Set | IqType::Result | IqType::Error)
        | Kind::Message(MessageType::Error) => Wait::No,
        Kind::Message(
            MessageType::Chat
            | MessageType::Groupchat
            | MessageType::Headline
            | MessageType::Normal,
        ) => match copied(stanza) {
            Some(original) => message_may_wait(&original),
            None => message_may_wait(stanza),
        },
    }
}

fn message_may_wait(message: &Stanza) -> Wait {
    let children = message.children();
    if !has_content(message) {
        let is_chat_state = |child: &Element| child.ns() == NS_CHAT_STATES;
        return if children.iter().any(is_chat_state) {
            Wait::Never
        } else {
            Wait::No
        };
    }
    if children.iter().all(is_unimportant) {
        Wait::Later
    } else {
        Wait::No
    }
}

/// Whether a child adds nothing that somebody would want to know at once.
fn is_unimportant(child: &Element) -> bool {
    match child.ns() {
        "urn:xmpp:receipts"
        | "urn:xmpp:chat-markers:0"
        | "http://jabber.org/protocol/pubsub#event"
        | NS_CHAT_STATES
        | crate::offline::NS_DELAY
        | crate::xep0334_hints::NS
        | crate::xep0359_stanza_ids::NS => true,
        rookery_proto::ns::CLIENT => child.name() == "thread",
        _ => false,
    }
}

/// The message of which this one is a copy.
fn copied(message: &Stanza) -> Option<Stanza> {
    ["received", "sent"].iter().find_map(|name| {
        let forwarded = message
            .child(name, xep0280_carbons::NS)?
            .child("forwarded", xep0297_forwarding::NS)?;
        Stanza::from_element(forwarded.child("message", rookery_proto::ns::CLIENT)?).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rookery_proto::jid::BareJid;

    use super::*;
    use crate::testing::{element, iq, message};
    use crate::xep0280_carbons::Direction;

    const TYPING: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";

    /// §4.1, §4.2
    #[test]
    fn indications_are_read() {
        assert_eq!(stream_feature().to_xml(""), "<csi xmlns='urn:xmpp:csi:0'/>");
        let parse = |xml| State::parse(&element(xml));
        assert_eq!(
            parse("<active xmlns='urn:xmpp:csi:0'/>"),
            Some(State::Active)
        );
        assert_eq!(
            parse("<c:inactive xmlns:c='urn:xmpp:csi:0'/>"),
            Some(State::Inactive)
        );
        assert_eq!(parse("<active xmlns='urn:x'/>"), None);
        assert_eq!(parse("<csi xmlns='urn:xmpp:csi:0'/>"), None);
        for raw in ["<active xmlns='urn:xmpp:csi:0'/>", "<c:inactive/>"] {
            assert!(is_nonza(raw.as_bytes()), "{raw}");
        }
        for raw in [
            "<message><active/></message>",
            "<iq type='active'/>",
            "<a/>",
            "",
        ] {
            assert!(!is_nonza(raw.as_bytes()), "{raw}");
        }
    }

    /// §3.2
    #[test]
    fn of_presence_the_latest_counts() {
        let presence = |kind| may_wait(&Stanza::presence(kind));
        assert_eq!(presence(PresenceType::Available), Wait::Latest);
        assert_eq!(presence(PresenceType::Unavailable), Wait::Latest);
        assert_eq!(presence(PresenceType::Subscribe), Wait::No);
        assert_eq!(presence(PresenceType::Unsubscribed), Wait::No);
        assert_eq!(presence(PresenceType::Error), Wait::No);
    }

    /// §3.2
    #[test]
    fn messages_wait_if_there_is_nothing_to_alert_for() {
        let id = "<origin-id xmlns='urn:xmpp:sid:0' id='1'/>";
        let receipt = "<received xmlns='urn:xmpp:receipts' id='1'/>";
        let marker = "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>";
        let event = "<event xmlns='http://jabber.org/protocol/pubsub#event'/>";
        for (children, expected) in [
            (TYPING.to_owned(), Wait::Never),
            (format!("{TYPING}<thread>1</thread>{id}"), Wait::Never),
            (format!("{TYPING}<body>hi</body>"), Wait::No),
            (receipt.to_owned(), Wait::Later),
            (format!("{marker}{id}"), Wait::Later),
            (event.to_owned(), Wait::Later),
            (format!("<body>hi</body>{receipt}"), Wait::No),
            ("<encrypted xmlns='urn:xmpp:omemo:2'/>".to_owned(), Wait::No),
            ("<subject>s</subject>".to_owned(), Wait::No),
            // Nobody knows what it is for.
            (String::new(), Wait::No),
            (
                "<result xmlns='urn:xmpp:mam:2' id='1'/>".to_owned(),
                Wait::No,
            ),
        ] {
            for kind in ["chat", "groupchat", "normal", "headline"] {
                assert_eq!(
                    may_wait(&message(kind, &children)),
                    expected,
                    "{kind} {children}"
                );
            }
            assert_eq!(
                may_wait(&message("error", &children)),
                Wait::No,
                "{children}"
            );
        }
        assert_eq!(
            may_wait(&iq("get", "<ping xmlns='urn:xmpp:ping'/>")),
            Wait::No
        );
    }

    #[test]
    fn copies_wait_like_what_they_are_copies_of() {
        let bob = BareJid::parse("bob@localhost").unwrap();
        for (children, expected) in [
            (TYPING, Wait::Never),
            ("<received xmlns='urn:xmpp:receipts' id='1'/>", Wait::Later),
            ("<body>hi</body>", Wait::No),
        ] {
            for direction in [Direction::Sent, Direction::Received] {
                let copy = xep0280_carbons::copy(&message("chat", children), direction, &bob);
                assert_eq!(
                    may_wait(&copy.unwrap()),
                    expected,
                    "{direction:?} {children}"
                );
            }
        }
        let empty = message("chat", "<received xmlns='urn:xmpp:carbons:2'/>");
        assert_eq!(may_wait(&empty), Wait::No);
    }

    proptest! {
        #[test]
        fn whatever_has_a_body_goes_out_at_once(
            others in proptest::collection::vec("active|received|event|stanza-id|x", 0..4),
            place in 0..4_usize,
        ) {
            let mut children: Vec<_> = others
                .iter()
                .zip([NS_CHAT_STATES, "urn:xmpp:receipts", xep0280_carbons::NS, "urn:x"])
                .map(|(name, ns)| Element::new(name, ns))
                .collect();
            let body = Element::new("body", rookery_proto::ns::CLIENT).with_text("hi");
            children.insert(place.min(children.len()), body);
            let mut stanza = Stanza::message(MessageType::Chat);
            for child in children {
                stanza.push(child);
            }
            prop_assert_eq!(may_wait(&stanza), Wait::No);
        }
    }
}
