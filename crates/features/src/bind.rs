//! Resource binding, RFC 6120 §7.
//!
//! Reads the request, makes the full JID, builds the result. A resource that is bound already is
//! given to the newcomer, and the older stream ends with `conflict` (§7.7.2.2, second choice);
//! that is for the caller, as is the limit of resources per account.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, FullJid};
use rookery_proto::ns;
use rookery_proto::stanza::{IqType, Kind, Stanza};
use rookery_proto::xml::Element;

/// How many random bytes a generated resource is made of: enough that nobody guesses it.
pub const RANDOM_BYTES: usize = 12;

/// Why the server does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The account has as many resources as it may have (§7.6.2.1).
    TooManyResources,
    /// The stream has a resource already (§7.6.2.2).
    AlreadyBound,
    /// Another stream has the resource, and keeps it (§7.7.2.2, first choice).
    InUse,
}

impl Refusal {
    /// The condition that the client is told.
    pub const fn condition(self) -> Condition {
        match self {
            Self::TooManyResources => Condition::ResourceConstraint,
            Self::AlreadyBound => Condition::NotAllowed,
            Self::InUse => Condition::Conflict,
        }
    }
}

/// Reads a request: the resource that the client would like, if it names one (§7.6.1, §7.7.1).
///
/// # Errors
/// `BadRequest` unless the stanza is an IQ set with `<bind/>`.
pub fn requested_resource(iq: &Stanza) -> Result<Option<String>, Condition> {
    let bind = match iq.payload() {
        Some(payload) if iq.kind == Kind::Iq(IqType::Set) && payload.is("bind", ns::BIND) => {
            payload
        }
        _ => return Err(Condition::BadRequest),
    };
    let resource = bind.child("resource", ns::BIND).map(Element::text);
    Ok(resource.filter(|resource| !resource.is_empty()))
}

/// The full JID of a client: with the resource that it asked for, or with one made of `random`.
///
/// A resource that RFC 7622 forbids is replaced too: the server "SHOULD instead process the
/// resourcepart so that it is in conformance" (§7.7.2.1).
///
/// # Panics
/// Never: base64 of 12 bytes is a valid resource.
pub fn full_jid(account: &BareJid, requested: Option<&str>, random: [u8; RANDOM_BYTES]) -> FullJid {
    requested
        .and_then(|resource| account.with_resource(resource).ok())
        .unwrap_or_else(|| {
            account
                .with_resource(&URL_SAFE_NO_PAD.encode(random))
                .expect("16 letters, digits, hyphens and underscores are a valid resource")
        })
}

/// The `<bind/>` of the result, which tells the client its full JID (§7.6.1).
pub fn result(jid: &FullJid) -> Element {
    Element::new("bind", ns::BIND).with_child(Element::new("jid", ns::BIND).with_text(jid.as_str()))
}

/// The stream feature (§7.2).
pub fn stream_feature() -> Element {
    Element::new("bind", ns::BIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u8; RANDOM_BYTES] = [0xff; RANDOM_BYTES];

    fn request(iq: &str) -> Result<Option<String>, Condition> {
        requested_resource(&Stanza::from_xml(iq).unwrap())
    }

    fn juliet() -> BareJid {
        BareJid::parse("juliet@im.example.com").unwrap()
    }

    /// RFC 6120 §7.6.1, §7.7.1
    #[test]
    fn a_client_may_ask_for_a_resource() {
        let generated = "<iq xmlns='jabber:client' id='tn281v37' type='set'>\
                         <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        assert_eq!(request(generated), Ok(None));
        let chosen = "<iq xmlns='jabber:client' id='wy2xa82b4' type='set'>\
                      <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                      <resource>balcony</resource></bind></iq>";
        assert_eq!(request(chosen), Ok(Some("balcony".to_owned())));
        let empty = "<iq xmlns='jabber:client' id='a' type='set'>\
                     <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource/></bind></iq>";
        assert_eq!(request(empty), Ok(None));
    }

    #[test]
    fn only_a_set_with_bind_is_a_request() {
        for iq in [
            "<iq xmlns='jabber:client' id='a' type='get'>\
             <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
            "<iq xmlns='jabber:client' id='a' type='set'><bind xmlns='urn:other'/></iq>",
            "<iq xmlns='jabber:client' id='a' type='result'/>",
        ] {
            assert_eq!(request(iq), Err(Condition::BadRequest), "{iq}");
        }
    }

    #[test]
    fn a_resource_is_taken_or_made() {
        assert_eq!(
            full_jid(&juliet(), Some("balcony"), RANDOM).as_str(),
            "juliet@im.example.com/balcony"
        );
        assert_eq!(
            full_jid(&juliet(), None, RANDOM).as_str(),
            "juliet@im.example.com/________________"
        );
        assert_eq!(
            full_jid(&juliet(), None, [0; 12]).resource(),
            "AAAAAAAAAAAAAAAA"
        );
    }

    /// RFC 6120 §7.7.2.1
    #[test]
    fn a_resource_that_is_not_allowed_is_replaced() {
        for resource in ["a\u{0}b", &"x".repeat(1024)] {
            let jid = full_jid(&juliet(), Some(resource), RANDOM);
            assert_eq!(jid.resource(), "________________");
        }
    }

    /// RFC 6120 §7.6.1
    #[test]
    fn the_result_holds_the_full_jid() {
        let jid = full_jid(&juliet(), Some("balcony"), RANDOM);
        assert_eq!(
            result(&jid),
            Element::parse(
                "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                 <jid>juliet@im.example.com/balcony</jid></bind>",
                ""
            )
            .unwrap()
        );
    }

    /// RFC 6120 §7.6.2, §7.7.2
    #[test]
    fn refusals_have_the_conditions_of_the_rfc() {
        assert_eq!(
            Refusal::TooManyResources.condition(),
            Condition::ResourceConstraint
        );
        assert_eq!(Refusal::AlreadyBound.condition(), Condition::NotAllowed);
        assert_eq!(Refusal::InUse.condition(), Condition::Conflict);
    }
}
