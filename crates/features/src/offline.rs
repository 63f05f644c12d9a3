//! Offline messages: which messages are kept for an account that cannot take them now.
//!
//! XEP-0160 Best Practices for Handling Offline Messages, version 1.0.1 (§3, types), with the hints
//! of XEP-0334, version 1.0.0: `<no-store/>` and `<store/>`. `<no-permanent-store/>` does not keep a
//! message from being stored until it is delivered (XEP-0334 §4.1 is about archives).
//!
//! What is delivered late carries the time at which it came: XEP-0203 Delayed Delivery, version 2.0.

use std::time::SystemTime;

use rookery_proto::datetime;
use rookery_proto::ns;
use rookery_proto::stanza::{Kind, MessageType, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(160, "1.0.1", &["msgoffline"]);

/// Listed in the README; nothing asks servers about it.
pub const DELAY_FEATURE: Feature = Feature::full(203, "2.0", &[]);

/// Namespace of `<delay/>` (XEP-0203).
pub const NS_DELAY: &str = "urn:xmpp:delay";

/// Namespace of message processing hints (XEP-0334).
pub const NS_HINTS: &str = "urn:xmpp:hints";

/// Namespace of chat state notifications (XEP-0085).
const NS_CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";

/// Namespace of message identifiers (XEP-0359), which many clients put into each message.
const NS_STANZA_IDS: &str = "urn:xmpp:sid:0";

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
    let children = stanza.children();
    if children.iter().any(|child| child.is("no-store", NS_HINTS)) {
        return false;
    }
    children
        .iter()
        .any(|child| child.is("store", NS_HINTS) || is_content(child))
}

/// Whether a child is worth reading later.
fn is_content(child: &Element) -> bool {
    match child.ns() {
        NS_CHAT_STATES | NS_HINTS | NS_STANZA_IDS => false,
        ns::CLIENT => child.name() != "thread",
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

    const BODY: &str = "<body>hi</body>";
    const COMPOSING: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";

    fn message(kind: &str, children: &str) -> Stanza {
        Stanza::from_xml(&format!(
            "<message xmlns='jabber:client' from='ann@localhost/desk' to='bob@localhost' \
             type='{kind}'>{children}</message>"
        ))
        .unwrap()
    }

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
