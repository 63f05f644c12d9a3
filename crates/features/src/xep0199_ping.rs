//! XEP-0199 XMPP Ping, version 2.0.1.
//!
//! Supported: client-to-server pings (§4.2) to the domain, to the client's own bare JID or without
//! an address. Pings to full JIDs are delivered like any IQ; pings to the bare JIDs of others get
//! `service-unavailable`, whether the account exists or not.

use rookery_proto::stanza::{IqType, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(199, "2.0.1", &[NS]);

/// Namespace of `<ping/>`.
pub const NS: &str = "urn:xmpp:ping";

/// The answer to a ping: an empty result.
pub fn pong(ping: &Stanza) -> Stanza {
    ping.reply_result()
}

/// A ping from the server to one of its clients (§4.1); sender and receiver are for the caller.
pub fn ping(id: &str) -> Stanza {
    Stanza::iq(IqType::Get, id).with_child(Element::new("ping", NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §4.2
    #[test]
    fn a_ping_gets_an_empty_result() {
        let request = Stanza::from_xml(
            "<iq xmlns='jabber:client' from='juliet@capulet.lit/balcony' to='capulet.lit' \
             id='c2s1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>",
        )
        .unwrap();
        let answer = pong(&request);
        assert_eq!(answer.id.as_deref(), Some("c2s1"));
        assert_eq!(answer.from, request.to);
        assert_eq!(answer.to, request.from);
        assert!(answer.payload().is_none());
    }

    /// §4.1
    #[test]
    fn the_server_can_ping_its_clients() {
        let ping = ping("s2c1");
        assert_eq!(ping.id.as_deref(), Some("s2c1"));
        assert!(ping.has("ping", NS));
    }
}
