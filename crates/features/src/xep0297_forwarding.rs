//! XEP-0297 Stanza Forwarding, version 1.0.
//!
//! Supported: writing a stanza into another one (§3), for carbons and archives. Nothing here reads
//! forwarded stanzas: what users forward to each other only passes through.

use std::time::SystemTime;

use rookery_proto::datetime;
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::offline::NS_DELAY;

/// Listed in the README; announced by clients only (§4).
pub const FEATURE: Feature = Feature::full(297, "1.0", &[]);

/// Namespace of `<forwarded/>`.
pub const NS: &str = "urn:xmpp:forward:0";

/// The text of `<forwarded/>` around a stanza.
///
/// `stanza` is standalone XML that declares its namespace (§3.2, rule 3), as
/// [`rookery_proto::Stanza::to_xml`] writes it. `received_at` becomes a `<delay/>` (rule 2).
pub fn forwarded(stanza: &str, received_at: Option<SystemTime>) -> String {
    let mut xml = String::with_capacity(stanza.len() + 160);
    xml.push_str("<forwarded xmlns='");
    xml.push_str(NS);
    xml.push_str("'>");
    if let Some(time) = received_at {
        Element::new("delay", NS_DELAY)
            .with_attr("stamp", datetime::format_millis(time))
            .write_to(&mut xml, NS);
    }
    xml.push_str(stanza);
    xml.push_str("</forwarded>");
    xml
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rookery_proto::stanza::Stanza;

    use super::*;
    use crate::testing::element;

    /// §3.2
    #[test]
    fn the_stanza_keeps_its_namespace_and_says_when_it_came() {
        let stanza = Stanza::from_xml(
            "<message xmlns='jabber:client' to='b@x' type='chat'><body>a &lt; b</body></message>",
        )
        .unwrap();
        let at = UNIX_EPOCH + Duration::from_millis(1_278_803_305_040);
        let forwarded = element(&forwarded(&stanza.to_xml(), Some(at)));
        assert!(forwarded.is("forwarded", NS));
        let delay = forwarded.child("delay", NS_DELAY).unwrap();
        assert_eq!(delay.attr("stamp"), Some("2010-07-10T23:08:25.040Z"));
        let message = forwarded.child("message", "jabber:client").unwrap();
        assert_eq!(Stanza::from_element(message).unwrap(), stanza);
    }

    #[test]
    fn without_a_time_there_is_no_delay() {
        assert_eq!(
            forwarded("<message xmlns='jabber:client'/>", None),
            "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/></forwarded>"
        );
    }
}
