//! Stream errors (RFC 6120 §4.9). They cannot be recovered from: the stream ends.

use std::borrow::Cow;

use crate::xml::{self, Element};
use crate::{ns, xml::push_escaped};

/// The defined conditions (RFC 6120 §4.9.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(
    missing_docs,
    reason = "RFC 6120 §4.9.3 explains them under these names"
)]
pub enum StreamCondition {
    BadFormat,
    BadNamespacePrefix,
    Conflict,
    ConnectionTimeout,
    HostGone,
    HostUnknown,
    ImproperAddressing,
    InternalServerError,
    InvalidFrom,
    InvalidNamespace,
    InvalidXml,
    NotAuthorized,
    NotWellFormed,
    PolicyViolation,
    RemoteConnectionFailed,
    Reset,
    ResourceConstraint,
    RestrictedXml,
    SeeOtherHost,
    SystemShutdown,
    UndefinedCondition,
    UnsupportedEncoding,
    UnsupportedFeature,
    UnsupportedStanzaType,
    UnsupportedVersion,
}

impl StreamCondition {
    /// Name of the element that stands for the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadFormat => "bad-format",
            Self::BadNamespacePrefix => "bad-namespace-prefix",
            Self::Conflict => "conflict",
            Self::ConnectionTimeout => "connection-timeout",
            Self::HostGone => "host-gone",
            Self::HostUnknown => "host-unknown",
            Self::ImproperAddressing => "improper-addressing",
            Self::InternalServerError => "internal-server-error",
            Self::InvalidFrom => "invalid-from",
            Self::InvalidNamespace => "invalid-namespace",
            Self::InvalidXml => "invalid-xml",
            Self::NotAuthorized => "not-authorized",
            Self::NotWellFormed => "not-well-formed",
            Self::PolicyViolation => "policy-violation",
            Self::RemoteConnectionFailed => "remote-connection-failed",
            Self::Reset => "reset",
            Self::ResourceConstraint => "resource-constraint",
            Self::RestrictedXml => "restricted-xml",
            Self::SeeOtherHost => "see-other-host",
            Self::SystemShutdown => "system-shutdown",
            Self::UndefinedCondition => "undefined-condition",
            Self::UnsupportedEncoding => "unsupported-encoding",
            Self::UnsupportedFeature => "unsupported-feature",
            Self::UnsupportedStanzaType => "unsupported-stanza-type",
            Self::UnsupportedVersion => "unsupported-version",
        }
    }
}

/// Why a stream ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}{}", .condition.as_str(), if .text.is_some() { ": " } else { "" }, .text.as_deref().unwrap_or_default())]
pub struct StreamError {
    /// The condition.
    pub condition: StreamCondition,
    /// An explanation in English.
    pub text: Option<Cow<'static, str>>,
    /// Where to go instead, for [`StreamCondition::SeeOtherHost`].
    pub host: Option<Box<str>>,
    /// A condition of the application's own, in its own namespace (RFC 6120 §4.9.4).
    pub app: Option<Box<Element>>,
}

impl StreamError {
    /// An error without an explanation.
    pub fn new(condition: StreamCondition) -> Self {
        Self {
            condition,
            text: None,
            host: None,
            app: None,
        }
    }

    /// An error with an explanation.
    pub fn with_text(condition: StreamCondition, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::new(condition)
        }
    }

    /// With a condition of the application's own.
    #[must_use]
    pub fn with_app(self, app: Element) -> Self {
        Self {
            app: Some(Box::new(app)),
            ..self
        }
    }

    /// Tells the client to connect to `host[:port]` (RFC 6120 §4.9.3.19).
    pub fn see_other_host(host: &str) -> Self {
        Self {
            host: Some(host.into()),
            ..Self::new(StreamCondition::SeeOtherHost)
        }
    }

    /// `<stream:error>…</stream:error>`, for a stream whose header declares the prefix.
    pub fn to_xml(&self) -> String {
        self.write("<stream:error>")
    }

    /// The same with the prefix declared, for a WebSocket.
    pub fn to_xml_ws(&self) -> String {
        self.write("<stream:error xmlns:stream='http://etherx.jabber.org/streams'>")
    }

    fn write(&self, opening: &str) -> String {
        let mut out = String::from(opening);
        let mut condition = Element::new(self.condition.as_str(), ns::STREAM_ERRORS);
        if let Some(host) = &self.host {
            condition.push_text(host);
        }
        condition.write_to(&mut out, "");
        if let Some(text) = &self.text {
            out.push_str("<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>");
            push_escaped(&mut out, text);
            out.push_str("</text>");
        }
        if let Some(app) = &self.app {
            app.write_to(&mut out, "");
        }
        out.push_str("</stream:error>");
        out
    }
}

impl From<StreamCondition> for StreamError {
    fn from(condition: StreamCondition) -> Self {
        Self::new(condition)
    }
}

impl From<xml::Error> for StreamError {
    fn from(error: xml::Error) -> Self {
        let (condition, text) = match error {
            // Namespace errors too: §4.9.3.13 names XML-NAMES.
            xml::Error::NotWellFormed(text) => (StreamCondition::NotWellFormed, text),
            xml::Error::Restricted(text) => (StreamCondition::RestrictedXml, text),
            xml::Error::TooComplex(text) => (StreamCondition::PolicyViolation, text),
            // §4.9.3.22: "improperly encoded the stream (e.g., by violating the rules of the UTF-8
            // encoding)".
            xml::Error::Encoding => (StreamCondition::UnsupportedEncoding, "not UTF-8"),
        };
        Self::with_text(condition, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_for_either_framing() {
        let error = StreamError::with_text(StreamCondition::HostUnknown, "no <such> host");
        assert_eq!(
            error.to_xml(),
            "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>no &lt;such&gt; host\
             </text></stream:error>"
        );
        let read = Element::parse(&error.to_xml_ws(), "").unwrap();
        assert!(read.is("error", ns::STREAMS));
        assert!(read.child("host-unknown", ns::STREAM_ERRORS).is_some());
    }

    /// RFC 6120 §4.9.2, §4.9.4
    #[test]
    fn an_application_s_own_condition_comes_last() {
        let error = StreamError::with_text(StreamCondition::UndefinedCondition, "too many")
            .with_app(Element::new("too-many", "urn:example"));
        assert!(
            error
                .to_xml()
                .ends_with("too many</text><too-many xmlns='urn:example'/></stream:error>"),
            "{error:?}"
        );
    }

    #[test]
    fn see_other_host_names_the_host() {
        let xml = StreamError::see_other_host("[2001:db8::1]:5222").to_xml();
        assert!(
            xml.contains(">[2001:db8::1]:5222</see-other-host>"),
            "{xml}"
        );
    }
}
