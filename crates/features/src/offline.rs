//! Offline messages: which messages are kept for an account that cannot take them now.
//!
//! XEP-0160 Best Practices for Handling Offline Messages, version 1.0.1 (§3, types), with the hints
//! `<no-store/>` and `<store/>` of XEP-0334. `<no-permanent-store/>` does not keep a message from being
//! stored until it is delivered (XEP-0334 §4.1 is about archives).
//!
//! What is delivered late carries the time at which it came: XEP-0203 Delayed Delivery, version 2.0.

use std::time::SystemTime;

use rookery_proto::datetime;
use rookery_proto::ns;
use rookery_proto::stanza::{Kind, MessageType, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::{xep0280_carbons, xep0334_hints, xep0359_stanza_ids};

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(160, "1.0.1", &["msgoffline"]);

/// Listed in the README; nothing asks servers about it.
pub const DELAY_FEATURE: Feature = Feature::full(203, "2.0", &[]);

/// Namespace of `<delay/>` (XEP-0203).
pub const NS_DELAY: &str = "urn:xmpp:delay";

/// Namespace of chat state notifications (XEP-0085).
pub(crate) const NS_CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";

/// Whether a message is kept for an account that has no resource for it (XEP-0160 §3): `chat` and
/// `normal`, unless they say no more than that somebody is typing, or ask not to be stored.
///
/// `groupchat` and `headline` are of the moment; `error` is never kept, whatever it holds.
pub fn is_stored(stanza: &Stanza) -> bool {
    match stanza.kind {
        Kind::Message(MessageType::Chat | MessageType::Normal) => {}
        Kind::Message(MessageType::Groupchat | MessageType::Headline | MessageType::Error)
        | Kind::Presence(_)
        | Kind::Iq(_) => return false,
    }
    !xep0334_hints::forbids_storing(stanza)
        && (xep0334_hints::asks_to_be_stored(stanza) || has_content(stanza))
}

/// Whether there is something in the message that is worth reading later.
///
/// Everything is, unless it is known to be of the moment or to say something about the message only:
/// clients invent payloads faster than servers learn of them, and one that is lost is worse than one
/// too many.
pub(crate) fn has_content(message: &Stanza) -> bool {
    message.has("body", ns::CLIENT) || message.children().iter().any(is_content)
}

fn is_content(child: &Element) -> bool {
    match (child.ns(), child.name()) {
        (ns::CLIENT, name) => name != "thread",
        // A receipt and a marker are content, a request for them is not (XEP-0184, XEP-0333).
        ("urn:xmpp:receipts", name) => name != "request",
        ("urn:xmpp:chat-markers:0", name) => name != "markable",
        // Answers to queries and copies: what they hold is in an archive (XEP-0313, XEP-0280).
        ("urn:xmpp:mam:2", name) => name != "result",
        (
            NS_CHAT_STATES
            | NS_DELAY
            | xep0334_hints::NS
            | xep0359_stanza_ids::NS
            | xep0280_carbons::NS
            // Somebody's nickname (XEP-0172), where else the message goes (XEP-0033), text while it is
            // typed (XEP-0301), how the message is encrypted (XEP-0380), parts of the body that stand
            // in for something else (XEP-0428).
            | "http://jabber.org/protocol/nick"
            | "http://jabber.org/protocol/address"
            | "urn:xmpp:rtt:0"
            | "urn:xmpp:eme:0"
            | "urn:xmpp:fallback:0",
            _,
        ) => false,
        _ => true,
    }
}

/// Adds `<delay/>` (XEP-0203 §2) to a message that `domain` stored at `stored_at`.
pub fn add_delay(stanza: &mut Stanza, domain: &str, stored_at: SystemTime) {
    stanza.push(
        Element::new("delay", NS_DELAY)
            .with_attr("from", domain)
            .with_attr("stamp", datetime::format(stored_at)),
    );
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::testing::message;

    const BODY: &str = "<body>hi</body>";
    const COMPOSING: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";

    fn hint(name: &str) -> String {
        format!("<{name} xmlns='urn:xmpp:hints'/>")
    }

    /// XEP-0160 §3
    #[test]
    fn chat_and_normal_messages_are_stored() {
        assert!(is_stored(&message("chat", BODY)));
        assert!(is_stored(&message("normal", BODY)));
        assert!(
            is_stored(&message("whatever", BODY)),
            "an unknown type is normal"
        );
        for kind in ["groupchat", "headline", "error"] {
            assert!(!is_stored(&message(kind, BODY)), "{kind}");
            assert!(!is_stored(&message(kind, &hint("store"))), "{kind}");
        }
    }

    #[test]
    fn messages_without_a_body_are_stored_for_their_payload() {
        let receipt = "<received xmlns='urn:xmpp:receipts' id='1'/>";
        let encrypted = "<encrypted xmlns='eu.siacs.conversations.axolotl'/>";
        for payload in [receipt, encrypted, "<subject/>"] {
            assert!(is_stored(&message("chat", payload)), "{payload}");
        }
    }

    #[test]
    fn that_somebody_is_typing_is_not_stored() {
        let id = "<origin-id xmlns='urn:xmpp:sid:0' id='1'/>";
        for payload in [
            COMPOSING.to_owned(),
            format!("{COMPOSING}<thread>1</thread>{id}"),
            String::new(),
        ] {
            assert!(!is_stored(&message("chat", &payload)), "{payload}");
            assert!(!is_stored(&message("normal", &payload)), "{payload}");
        }
        assert!(is_stored(&message("chat", &format!("{COMPOSING}{BODY}"))));
    }

    #[test]
    fn what_only_serves_the_moment_or_the_message_is_not_stored() {
        for payload in [
            "<request xmlns='urn:xmpp:receipts'/>",
            "<markable xmlns='urn:xmpp:chat-markers:0'/>",
            "<private xmlns='urn:xmpp:carbons:2'/>",
            "<result xmlns='urn:xmpp:mam:2' id='1'/>",
            "<rtt xmlns='urn:xmpp:rtt:0' seq='1'/>",
            "<delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25Z'/>",
        ] {
            assert!(!is_stored(&message("normal", payload)), "{payload}");
        }
        for payload in [
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
            "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
            "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
            "<x xmlns='jabber:x:conference' jid='room@muc.x'/>",
        ] {
            assert!(is_stored(&message("normal", payload)), "{payload}");
        }
    }

    /// XEP-0334 §4
    #[test]
    fn hints_are_heeded() {
        assert!(!is_stored(&message(
            "chat",
            &format!("{BODY}{}", hint("no-store"))
        )));
        assert!(is_stored(&message(
            "chat",
            &format!("{BODY}{}", hint("no-permanent-store"))
        )));
        assert!(is_stored(&message(
            "chat",
            &format!("{BODY}{}", hint("no-copy"))
        )));
        assert!(is_stored(&message(
            "chat",
            &format!("{COMPOSING}{}", hint("store"))
        )));
        let both = format!("{BODY}{}{}", hint("store"), hint("no-store"));
        assert!(!is_stored(&message("chat", &both)));
        let not_a_hint = format!("{BODY}<no-store xmlns='urn:x'/>");
        assert!(is_stored(&message("chat", &not_a_hint)));
    }

    #[test]
    fn presence_and_iqs_are_never_stored() {
        let presence = Stanza::from_xml("<presence xmlns='jabber:client'><x/></presence>").unwrap();
        assert!(!is_stored(&presence));
    }

    /// XEP-0203 §4
    #[test]
    fn a_late_message_says_since_when_it_waits() {
        let mut stanza = message("chat", BODY);
        add_delay(
            &mut stanza,
            "localhost",
            UNIX_EPOCH + Duration::from_secs(1_031_699_305),
        );
        let delay = stanza.child("delay", NS_DELAY).unwrap();
        assert_eq!(delay.attr("from"), Some("localhost"));
        assert_eq!(delay.attr("stamp"), Some("2002-09-10T23:08:25Z"));
        assert!(stanza.has("body", ns::CLIENT));
    }
}
