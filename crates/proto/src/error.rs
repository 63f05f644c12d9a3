//! Stanza errors (RFC 6120 §8.3).

use crate::jid::Jid;
use crate::ns;
use crate::xml::Element;

/// The defined conditions (RFC 6120 §8.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(
    missing_docs,
    reason = "RFC 6120 §8.3.3 explains them under these names"
)]
pub enum Condition {
    BadRequest,
    Conflict,
    FeatureNotImplemented,
    Forbidden,
    Gone,
    InternalServerError,
    ItemNotFound,
    JidMalformed,
    NotAcceptable,
    NotAllowed,
    NotAuthorized,
    PolicyViolation,
    RecipientUnavailable,
    Redirect,
    RegistrationRequired,
    RemoteServerNotFound,
    RemoteServerTimeout,
    ResourceConstraint,
    ServiceUnavailable,
    SubscriptionRequired,
    UndefinedCondition,
    UnexpectedRequest,
}

/// What the sender may do about an error (RFC 6120 §8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorType {
    /// Try again with credentials.
    Auth,
    /// Do not try again.
    Cancel,
    /// Go on: it was only a warning.
    Continue,
    /// Try again with other data.
    Modify,
    /// Try again later.
    Wait,
}

impl ErrorType {
    /// The value of the attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }
}

/// Every condition with its element's name and the type that RFC 6120 §8.3.3 gives it.
const CONDITIONS: [(Condition, &str, ErrorType); 22] = [
    (Condition::BadRequest, "bad-request", ErrorType::Modify),
    (Condition::Conflict, "conflict", ErrorType::Cancel),
    (
        Condition::FeatureNotImplemented,
        "feature-not-implemented",
        ErrorType::Cancel,
    ),
    (Condition::Forbidden, "forbidden", ErrorType::Auth),
    (Condition::Gone, "gone", ErrorType::Cancel),
    (
        Condition::InternalServerError,
        "internal-server-error",
        ErrorType::Cancel,
    ),
    (Condition::ItemNotFound, "item-not-found", ErrorType::Cancel),
    (Condition::JidMalformed, "jid-malformed", ErrorType::Modify),
    (
        Condition::NotAcceptable,
        "not-acceptable",
        ErrorType::Modify,
    ),
    (Condition::NotAllowed, "not-allowed", ErrorType::Cancel),
    (Condition::NotAuthorized, "not-authorized", ErrorType::Auth),
    (
        Condition::PolicyViolation,
        "policy-violation",
        ErrorType::Modify,
    ),
    (
        Condition::RecipientUnavailable,
        "recipient-unavailable",
        ErrorType::Wait,
    ),
    (Condition::Redirect, "redirect", ErrorType::Modify),
    (
        Condition::RegistrationRequired,
        "registration-required",
        ErrorType::Auth,
    ),
    (
        Condition::RemoteServerNotFound,
        "remote-server-not-found",
        ErrorType::Cancel,
    ),
    (
        Condition::RemoteServerTimeout,
        "remote-server-timeout",
        ErrorType::Wait,
    ),
    (
        Condition::ResourceConstraint,
        "resource-constraint",
        ErrorType::Wait,
    ),
    (
        Condition::ServiceUnavailable,
        "service-unavailable",
        ErrorType::Cancel,
    ),
    (
        Condition::SubscriptionRequired,
        "subscription-required",
        ErrorType::Auth,
    ),
    (
        Condition::UndefinedCondition,
        "undefined-condition",
        ErrorType::Cancel,
    ),
    (
        Condition::UnexpectedRequest,
        "unexpected-request",
        ErrorType::Wait,
    ),
];

impl Condition {
    fn row(self) -> &'static (Self, &'static str, ErrorType) {
        // The table stands in the order of the variants; a test checks that.
        &CONDITIONS[self as usize]
    }

    /// Name of the element that stands for the condition.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The type that RFC 6120 §8.3.3 gives the condition.
    pub fn default_type(self) -> ErrorType {
        self.row().2
    }

    /// The condition that an element of this name stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        CONDITIONS.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// What `<error/>` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StanzaError {
    /// The condition.
    pub condition: Condition,
    /// What the sender may do about it.
    pub kind: ErrorType,
    /// An explanation in English.
    pub text: Option<Box<str>>,
    /// A condition of the application's own, in its own namespace (RFC 6120 §8.3.4).
    pub app: Option<Box<Element>>,
    /// Who found the error.
    pub by: Option<Jid>,
}

impl StanzaError {
    /// An error of the condition's own type.
    pub fn new(condition: Condition) -> Self {
        Self {
            condition,
            kind: condition.default_type(),
            text: None,
            app: None,
            by: None,
        }
    }

    /// With an explanation.
    #[must_use]
    pub fn with_text(self, text: impl Into<Box<str>>) -> Self {
        Self {
            text: Some(text.into()),
            ..self
        }
    }

    /// With another type than the condition's own.
    #[must_use]
    pub fn with_kind(self, kind: ErrorType) -> Self {
        Self { kind, ..self }
    }

    /// With a condition of the application's own.
    #[must_use]
    pub fn with_app(self, app: Element) -> Self {
        Self {
            app: Some(Box::new(app)),
            ..self
        }
    }

    /// With the address of the one who found the error.
    #[must_use]
    pub fn with_by(self, by: Jid) -> Self {
        Self {
            by: Some(by),
            ..self
        }
    }

    /// `<error type='…'>…</error>` in the namespace `jabber:client`.
    pub fn to_element(&self) -> Element {
        let mut error = Element::new("error", ns::CLIENT).with_attr("type", self.kind.as_str());
        if let Some(by) = &self.by {
            error.set_attr("by", by);
        }
        error.push(Element::new(self.condition.as_str(), ns::STANZA_ERRORS));
        if let Some(text) = &self.text {
            let text = Element::new("text", ns::STANZA_ERRORS)
                .with_attr("xml:lang", "en")
                .with_text(text);
            error.push(text);
        }
        if let Some(app) = &self.app {
            error.push((**app).clone());
        }
        error
    }
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        Self::new(condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_variants() {
        for (index, row) in CONDITIONS.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(Condition::from_name(row.0.as_str()), Some(row.0));
        }
        assert_eq!(Condition::from_name("text"), None);
    }

    #[test]
    fn an_error_is_written_with_all_its_parts() {
        let error = StanzaError::new(Condition::NotAcceptable)
            .with_kind(ErrorType::Cancel)
            .with_text("no <thanks>")
            .with_by(Jid::parse("example.org").unwrap())
            .with_app(Element::new("blocked", "urn:xmpp:blocking:errors"));
        assert_eq!(
            error.to_element().to_xml(ns::CLIENT),
            "<error type='cancel' by='example.org'>\
             <not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>no &lt;thanks&gt;</text>\
             <blocked xmlns='urn:xmpp:blocking:errors'/></error>"
        );
    }
}
