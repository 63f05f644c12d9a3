//! Stream features, RFC 6120 §4.3.2: what the server offers at each step of a stream.

use rookery_proto::ns;
use rookery_proto::stream::Framing;
use rookery_proto::xml::Element;

use crate::sasl::{self, Mechanism};
use crate::scram::ChannelBinding;
use crate::{
    bind, xep0077_register, xep0115_caps, xep0198_stream_management, xep0440_channel_binding,
};

/// Whether TLS can be negotiated on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starttls {
    /// No: it is under way already, comes with the transport, or is switched off.
    None,
    /// Yes, and the client may do without.
    Optional,
    /// Yes, and nothing else is offered before.
    Required,
}

/// The facts of a stream whose client has not logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeforeLogin<'a> {
    /// Whether TLS is offered.
    pub starttls: Starttls,
    /// The SASL mechanisms to offer, from [`sasl::offered`]; nothing of SASL is offered if empty.
    pub mechanisms: &'a [Mechanism],
    /// What the stream's channel can be bound by; announced beside a `-PLUS` mechanism.
    pub channel_bindings: &'a [ChannelBinding],
    /// Whether the client may create an account on this stream.
    pub registration: bool,
}

/// The children of `<stream:features/>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFeatures(Vec<Element>);

impl StreamFeatures {
    /// What is offered before login.
    ///
    /// Where TLS is required it stands alone (RFC 6120 §5.3.1): whatever else was offered might be
    /// used by a client that an attacker keeps from seeing TLS.
    pub fn before_login(facts: &BeforeLogin<'_>) -> Self {
        let starttls = Element::new("starttls", ns::TLS);
        let mut offered = match facts.starttls {
            Starttls::Required => {
                return Self(vec![starttls.with_child(Element::new("required", ns::TLS))]);
            }
            Starttls::Optional => vec![starttls],
            Starttls::None => Vec::new(),
        };
        if facts.mechanisms.iter().any(|mechanism| mechanism.is_plus()) {
            offered.extend(xep0440_channel_binding::element(facts.channel_bindings));
        }
        if !facts.mechanisms.is_empty() {
            offered.push(sasl::mechanisms_element(facts.mechanisms));
        }
        if facts.registration {
            offered.push(xep0077_register::stream_feature());
        }
        Self(offered)
    }

    /// What is offered after login, the same on every stream.
    pub fn after_login() -> Self {
        Self(vec![
            bind::stream_feature(),
            // RFC 3921 §3; "optional" keeps newer clients from asking for it.
            Element::new("session", ns::SESSION).with_child(Element::new("optional", ns::SESSION)),
            Element::new("ver", ns::ROSTER_VERSIONING),
            Element::new("sub", ns::PRE_APPROVAL),
            xep0198_stream_management::stream_feature(),
            xep0115_caps::server_caps(),
        ])
    }

    /// The features themselves.
    pub fn elements(&self) -> &[Element] {
        &self.0
    }

    /// `<stream:features>…</stream:features>` for the wire.
    ///
    /// The prefix `stream` comes from the stream header over TCP and is declared here for a
    /// WebSocket, where every message is a document of its own (RFC 7395 §3.3.3).
    pub fn to_xml(&self, framing: Framing) -> String {
        let (mut xml, content_ns) = match framing {
            Framing::Tcp => ("<stream:features>".to_owned(), ns::CLIENT),
            Framing::WebSocket => (
                format!("<stream:features xmlns:stream='{}'>", ns::STREAMS),
                "",
            ),
        };
        for feature in &self.0 {
            feature.write_to(&mut xml, content_ns);
        }
        xml.push_str("</stream:features>");
        xml
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scram::BindingKind;

    const PLAIN_STREAM: BeforeLogin<'_> = BeforeLogin {
        starttls: Starttls::Optional,
        mechanisms: &[Mechanism::ScramSha256],
        channel_bindings: &[],
        registration: false,
    };

    /// Reads the features back as a document and compares them with what is expected.
    fn assert_features(features: &StreamFeatures, expected: &str) {
        let expected = Element::parse(
            &format!("<features xmlns='{}'>{expected}</features>", ns::STREAMS),
            "",
        )
        .unwrap();
        let expected: Vec<_> = expected.children().cloned().collect();
        assert_eq!(features.elements(), expected);
        let sent = Element::parse(&features.to_xml(Framing::WebSocket), "").unwrap();
        assert!(sent.is("features", ns::STREAMS));
        assert_eq!(sent.children().cloned().collect::<Vec<_>>(), expected);
    }

    /// RFC 6120 §5.3.1, §5.4.1
    #[test]
    fn required_tls_is_offered_alone() {
        let facts = BeforeLogin {
            starttls: Starttls::Required,
            registration: true,
            ..PLAIN_STREAM
        };
        assert_features(
            &StreamFeatures::before_login(&facts),
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>",
        );
    }

    #[test]
    fn optional_tls_is_offered_beside_login_and_registration() {
        let facts = BeforeLogin {
            registration: true,
            ..PLAIN_STREAM
        };
        assert_features(
            &StreamFeatures::before_login(&facts),
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
             <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
             <mechanism>SCRAM-SHA-256</mechanism></mechanisms>\
             <register xmlns='http://jabber.org/features/iq-register'/>",
        );
    }

    /// XEP-0440 §2, §3
    #[test]
    fn channel_bindings_are_announced_with_the_mechanisms_that_use_them() {
        let bindings =
            [BindingKind::TlsExporter, BindingKind::TlsServerEndPoint].map(|kind| ChannelBinding {
                kind,
                data: Vec::new(),
            });
        let facts = BeforeLogin {
            starttls: Starttls::None,
            mechanisms: &[Mechanism::ScramSha1Plus, Mechanism::Plain],
            channel_bindings: &bindings,
            registration: false,
        };
        assert_features(
            &StreamFeatures::before_login(&facts),
            "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>\
             <channel-binding type='tls-exporter'/>\
             <channel-binding type='tls-server-end-point'/></sasl-channel-binding>\
             <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
             <mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>PLAIN</mechanism></mechanisms>",
        );
        let unbound = BeforeLogin {
            mechanisms: &[Mechanism::Plain],
            ..facts
        };
        assert_features(
            &StreamFeatures::before_login(&unbound),
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
             <mechanism>PLAIN</mechanism></mechanisms>",
        );
        let none = BeforeLogin {
            mechanisms: &[],
            ..facts
        };
        assert_features(&StreamFeatures::before_login(&none), "");
    }

    /// RFC 6120 §7.2, RFC 6121 §2.6.1 and §3.4.3, XEP-0115 §6.3, XEP-0198 §2
    #[test]
    fn after_login_binding_and_what_the_server_can_do_is_offered() {
        let features = StreamFeatures::after_login();
        let names: Vec<_> = features
            .elements()
            .iter()
            .map(|feature| (feature.name(), feature.ns()))
            .collect();
        assert_eq!(
            names,
            [
                ("bind", "urn:ietf:params:xml:ns:xmpp-bind"),
                ("session", "urn:ietf:params:xml:ns:xmpp-session"),
                ("ver", "urn:xmpp:features:rosterver"),
                ("sub", "urn:xmpp:features:pre-approval"),
                ("sm", "urn:xmpp:sm:3"),
                ("c", "http://jabber.org/protocol/caps"),
            ]
        );
        assert!(
            features.elements()[1]
                .child("optional", ns::SESSION)
                .is_some()
        );
    }

    #[test]
    fn over_tcp_the_prefix_is_that_of_the_stream_header() {
        let xml = StreamFeatures::before_login(&PLAIN_STREAM).to_xml(Framing::Tcp);
        assert!(
            xml.starts_with("<stream:features><starttls xmlns="),
            "{xml}"
        );
        assert!(xml.ends_with("</mechanisms></stream:features>"), "{xml}");
    }
}
