//! XEP-0359 Unique and Stable Stanza IDs, version 0.7.0.
//!
//! Supported: `<stanza-id/>` of an account's archive (§3, rules 2 to 7), on messages that the account
//! gets. `<origin-id/>` and the ids of others pass through.
//!
//! Not supported: ids that cannot be predicted (§3, rule 1). An id is the decimal number of the
//! message's place in the archive: it tells the account's owner, who alone sees it, no more than the
//! time of the message and the order of the archive do.

use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::ns;
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery of accounts and listed in the README.
pub const FEATURE: Feature = Feature::partial(359, "0.7.0", &[]).on_accounts(&[NS]);

/// Namespace of every element in this file.
pub const NS: &str = "urn:xmpp:sid:0";

/// Removes every `<stanza-id/>` that claims to be the account's (§3, rule 2): for each message that is
/// archived for the account or delivered to it. Returns whether there were any.
///
/// Nothing is built where there is no `<stanza-id/>` at all.
pub fn remove_claimed(message: &mut Stanza, account: &BareJid) -> bool {
    message.has("stanza-id", NS)
        && message.retain_children(|child| !child.is("stanza-id", NS) || !claims(child, account))
}

fn claims(stanza_id: &Element, account: &BareJid) -> bool {
    stanza_id
        .attr("by")
        .and_then(|by| Jid::parse(by).ok())
        .is_some_and(|by| by.as_str() == account.as_str())
}

/// The `<stanza-id/>` of a message in the account's archive.
pub fn stanza_id(account: &BareJid, id: u64) -> Element {
    Element::new("stanza-id", NS)
        .with_attr("id", id.to_string())
        .with_attr("by", account.as_str())
}

/// The same as text, for a place where `jabber:client` is the default namespace.
pub fn stanza_id_xml(account: &BareJid, id: u64) -> String {
    stanza_id(account, id).to_xml(ns::CLIENT)
}

/// Reads an id as it is written here; `None` for any other text.
pub fn parse_id(text: &str) -> Option<u64> {
    let canonical = text == "0" || matches!(text.as_bytes(), [b'1'..=b'9', ..]);
    text.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::message;

    fn bob() -> BareJid {
        BareJid::parse("bob@localhost").unwrap()
    }

    fn claimed(by: &str) -> String {
        format!("<stanza-id xmlns='urn:xmpp:sid:0' id='9'{by}/>")
    }

    /// §3, rule 2
    #[test]
    fn ids_that_somebody_else_made_up_are_removed() {
        for by in [" by='bob@localhost'", " by='BOB@LocalHost'"] {
            let mut spoofed = message(
                "chat",
                &format!(
                    "<body>hi</body>{}{}<x xmlns='y'/>",
                    claimed(by),
                    claimed(by)
                ),
            );
            assert!(remove_claimed(&mut spoofed, &bob()), "{by}");
            assert_eq!(spoofed, message("chat", "<body>hi</body><x xmlns='y'/>"));
        }
        let mut prefixed = message(
            "chat",
            "<s:stanza-id xmlns:s='urn:xmpp:sid:0' id='9' by='bob@localhost'/><body>hi</body>",
        );
        assert!(remove_claimed(&mut prefixed, &bob()));
        assert_eq!(prefixed, message("chat", "<body>hi</body>"));
    }

    /// §3, rule 3
    #[test]
    fn ids_of_others_and_of_the_origin_stay() {
        for child in [
            claimed(" by='room@muc.localhost'"),
            claimed(" by='bob@localhost/phone'"),
            claimed(" by='@'"),
            claimed(""),
            "<origin-id xmlns='urn:xmpp:sid:0' id='1' by='bob@localhost'/>".to_owned(),
            "<stanza-id xmlns='urn:x' id='1' by='bob@localhost'/>".to_owned(),
            format!("<x xmlns='y'>{}</x>", claimed(" by='bob@localhost'")),
        ] {
            let before = message("chat", &format!("<body>hi</body> {child}"));
            let mut after = before.clone();
            assert!(!remove_claimed(&mut after, &bob()), "{child}");
            assert_eq!(after, before);
        }
    }

    /// §3, rules 4 to 6
    #[test]
    fn an_id_is_written_for_the_account() {
        let xml =
            "<stanza-id xmlns='urn:xmpp:sid:0' id='18446744073709551615' by='bob@localhost'/>";
        assert_eq!(stanza_id_xml(&bob(), u64::MAX), xml);
        let mut stamped = message("chat", "<body>hi</body>");
        stamped.push(stanza_id(&bob(), u64::MAX));
        assert_eq!(stamped, message("chat", &format!("<body>hi</body>{xml}")));
        assert!(remove_claimed(&mut stamped, &bob()));
        assert_eq!(stamped, message("chat", "<body>hi</body>"));
    }

    #[test]
    fn only_what_could_have_been_written_is_an_id() {
        for bad in [
            "",
            "00",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1a",
            "18446744073709551616",
            "١",
        ] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
        assert_eq!(parse_id("0"), Some(0));
    }

    proptest! {
        #[test]
        fn ids_are_read_back(id in any::<u64>()) {
            prop_assert_eq!(parse_id(&id.to_string()), Some(id));
        }

        #[test]
        fn any_text_is_an_id_or_none(text in "\\PC{0,24}|[0-9]{0,24}") {
            if let Some(id) = parse_id(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        /// Whatever is claimed, by whomever: afterwards nobody but the account speaks for it.
        #[test]
        fn what_remains_claims_nothing(
            authors in proptest::collection::vec("bob@localhost|BOB@localhost|ann@x|[a-z@/]{0,8}", 0..6),
        ) {
            let children: String = authors.iter().map(|by| claimed(&format!(" by='{by}'"))).collect();
            let mut stanza = message("chat", &children);
            remove_claimed(&mut stanza, &bob());
            let others = authors.iter().filter(|by| !by.eq_ignore_ascii_case("bob@localhost")).count();
            prop_assert_eq!(stanza.children().len(), others);
            let again = Stanza::from_xml(&stanza.to_xml()).unwrap();
            prop_assert!(again.children().iter().all(|child| !claims(child, &bob())));
        }
    }
}
