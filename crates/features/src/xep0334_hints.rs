//! XEP-0334 Message Processing Hints, version 1.0.0.
//!
//! The four hints (§4) decide about offline messages ([`crate::offline`]), archives
//! ([`crate::xep0313_mam`]) and carbons ([`crate::xep0280_carbons`]). In messages of type `error` they
//! mean nothing (§5): there they are what the original held.

use rookery_proto::stanza::Stanza;

use crate::feature::Feature;

/// Listed in the README; hints are not negotiated.
pub const FEATURE: Feature = Feature::full(334, "1.0.0", &[]);

/// Namespace of the hints.
pub const NS: &str = "urn:xmpp:hints";

/// Whether the message must not outlive its delivery: `no-permanent-store` (§4.1) or `no-store`.
pub fn forbids_archiving(message: &Stanza) -> bool {
    forbids_storing(message) || has(message, "no-permanent-store")
}

/// Whether the message is only for those who can take it now: `no-store` (§4.2).
pub fn forbids_storing(message: &Stanza) -> bool {
    has(message, "no-store")
}

/// Whether nobody but the one it is addressed to should get the message: `no-copy` (§4.3). Does not
/// change who gets a message to a bare JID by RFC 6121.
pub fn forbids_copies(message: &Stanza) -> bool {
    has(message, "no-copy")
}

/// Whether the message is worth keeping whatever it holds: `store` (§4.4).
pub fn asks_to_be_stored(message: &Stanza) -> bool {
    has(message, "store")
}

fn has(message: &Stanza, hint: &str) -> bool {
    !message.is_error() && message.has(hint, NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    type Claim = fn(&Stanza) -> bool;

    /// §4
    #[test]
    fn each_hint_means_its_own() {
        let claims: [(&str, Claim); 4] = [
            ("no-permanent-store", forbids_archiving),
            ("no-store", forbids_storing),
            ("no-copy", forbids_copies),
            ("store", asks_to_be_stored),
        ];
        for (hint, _) in claims {
            let message = message("chat", &format!("<{hint} xmlns='urn:xmpp:hints'/>"));
            for (other, claim) in claims {
                let also = hint == "no-store" && other == "no-permanent-store";
                assert_eq!(claim(&message), hint == other || also, "{hint}, {other}");
            }
        }
        let not_a_hint = message("chat", "<no-store xmlns='urn:x'/>");
        assert!(!forbids_storing(&not_a_hint));
    }

    /// §5
    #[test]
    fn errors_carry_no_hints() {
        let error = message(
            "error",
            "<no-store xmlns='urn:xmpp:hints'/><no-copy xmlns='urn:xmpp:hints'/>\
             <store xmlns='urn:xmpp:hints'/>",
        );
        assert!(
            !forbids_archiving(&error) && !forbids_copies(&error) && !asks_to_be_stored(&error)
        );
    }
}
