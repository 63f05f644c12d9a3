//! SASL as XMPP carries it (RFC 6120 §6): mechanisms, the elements of the negotiation, failures.
//!
//! The mechanisms themselves are in [`crate::scram`] and [`crate::plain`];
//! [`crate::sasl_exchange`] leads through one attempt with any of them. Everything here is pure:
//! what arrives is passed in, what goes out is returned, and so is the randomness.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_proto::ns;
use rookery_proto::xml::Element;

/// A SASL mechanism, strongest first: the order in which they are offered (RFC 6120 §6.3.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mechanism {
    /// `SCRAM-SHA-256-PLUS` (RFC 7677), bound to the TLS channel.
    ScramSha256Plus,
    /// `SCRAM-SHA-256` (RFC 7677).
    ScramSha256,
    /// `SCRAM-SHA-1-PLUS` (RFC 5802), bound to the TLS channel.
    ScramSha1Plus,
    /// `SCRAM-SHA-1` (RFC 5802).
    ScramSha1,
    /// `PLAIN` (RFC 4616): the password itself, so only under TLS.
    Plain,
}

impl Mechanism {
    /// Every mechanism, strongest first.
    pub const ALL: [Self; 5] = [
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::ScramSha1Plus,
        Self::ScramSha1,
        Self::Plain,
    ];

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::Plain => "PLAIN",
        }
    }

    /// Reads a registered name; they are upper case (RFC 4422 §3.1).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name() == name)
    }

    /// Whether the mechanism binds to the TLS channel.
    pub fn is_plus(self) -> bool {
        matches!(self, Self::ScramSha256Plus | Self::ScramSha1Plus)
    }

    /// Whether the stream may offer it: `PLAIN` needs TLS (RFC 6120 §13.8.3), `-PLUS` a channel to
    /// bind to.
    fn is_possible(self, secure: bool, channel_binding: bool) -> bool {
        match self {
            Self::Plain => secure,
            Self::ScramSha256Plus | Self::ScramSha1Plus => secure && channel_binding,
            Self::ScramSha256 | Self::ScramSha1 => true,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The mechanisms to offer on a stream, strongest first and each once.
///
/// `secure`: TLS is in place. `channel_binding`: there is binding data for its channel.
pub fn offered(secure: bool, channel_binding: bool, configured: &[Mechanism]) -> Vec<Mechanism> {
    Mechanism::ALL
        .into_iter()
        .filter(|mechanism| configured.contains(mechanism))
        .filter(|mechanism| mechanism.is_possible(secure, channel_binding))
        .collect()
}

/// `<mechanisms/>`, the stream feature (RFC 6120 §6.4.1).
pub fn mechanisms_element(offered: &[Mechanism]) -> Element {
    let mut mechanisms = Element::new("mechanisms", ns::SASL);
    for mechanism in offered {
        mechanisms.push(Element::new("mechanism", ns::SASL).with_text(mechanism.name()));
    }
    mechanisms
}

/// What the client sends while it authenticates (RFC 6120 §6.4).
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// `<auth/>`, with the initial response if there is one.
    Auth {
        /// As the client wrote it.
        mechanism: String,
        /// `None`: the client waits for a first challenge. A single `=` is an empty response.
        initial: Option<Vec<u8>>,
    },
    /// `<response/>`.
    Response(Vec<u8>),
    /// `<abort/>`; to be answered by [`Condition::Aborted`].
    Abort,
}

impl Request {
    /// Reads an element of the SASL namespace.
    ///
    /// # Errors
    /// `incorrect-encoding` if the content is not base64 of RFC 4648 §4, white space included;
    /// `malformed-request` for any other element or content.
    pub fn parse(element: &Element) -> Result<Self, Failure> {
        if element.ns() != ns::SASL || element.children().next().is_some() {
            return Err(Condition::MalformedRequest.into());
        }
        let text = element.text();
        match element.name() {
            "auth" => {
                let mechanism = element
                    .attr("mechanism")
                    .ok_or(Condition::InvalidMechanism)?;
                let initial = if text.is_empty() {
                    None
                } else {
                    Some(decode(&text)?)
                };
                Ok(Self::Auth {
                    mechanism: mechanism.to_owned(),
                    initial,
                })
            }
            "response" => Ok(Self::Response(decode(&text)?)),
            "abort" if text.is_empty() => Ok(Self::Abort),
            _ => Err(Condition::MalformedRequest.into()),
        }
    }
}

// The content may be a password.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth { mechanism, .. } => write!(f, "Auth({mechanism:?})"),
            Self::Response(_) => f.write_str("Response"),
            Self::Abort => f.write_str("Abort"),
        }
    }
}

/// `<challenge/>` with `data` (RFC 6120 §6.4.3).
pub fn challenge_element(data: &[u8]) -> Element {
    with_data("challenge", data)
}

/// `<success/>` with the mechanism's last words, if any (RFC 6120 §6.4.6).
pub fn success_element(data: &[u8]) -> Element {
    with_data("success", data)
}

/// No content for no data: in both elements the two mean the same.
fn with_data(name: &str, data: &[u8]) -> Element {
    let element = Element::new(name, ns::SASL);
    if data.is_empty() {
        element
    } else {
        element.with_text(&STANDARD.encode(data))
    }
}

/// Base64 to the letter: padded, nothing outside of the alphabet, no stray bits (RFC 6120 §6.4.2,
/// §13.9.1).
fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    if text == "=" {
        return Ok(Vec::new());
    }
    STANDARD
        .decode(text)
        .map_err(|_| Condition::IncorrectEncoding.into())
}

/// The conditions of RFC 6120 §6.5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Condition {
    /// The client sent `<abort/>` (§6.5.1).
    Aborted,
    /// The account was switched off (§6.5.2).
    AccountDisabled,
    /// The password has to be changed (§6.5.3).
    CredentialsExpired,
    /// The mechanism needs TLS (§6.5.4).
    EncryptionRequired,
    /// Not base64 (§6.5.5).
    IncorrectEncoding,
    /// The user may not act as the `authzid` (§6.5.6).
    InvalidAuthzid,
    /// A mechanism that was not offered (§6.5.7).
    InvalidMechanism,
    /// Not what the mechanism prescribes (§6.5.8).
    MalformedRequest,
    /// The mechanism is weaker than policy allows this user (§6.5.9).
    MechanismTooWeak,
    /// Wrong user or password, without saying which (§6.5.10).
    NotAuthorized,
    /// The server cannot tell now, as when storage is away (§6.5.11).
    TemporaryAuthFailure,
}

impl Condition {
    /// The name of the element.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::AccountDisabled => "account-disabled",
            Self::CredentialsExpired => "credentials-expired",
            Self::EncryptionRequired => "encryption-required",
            Self::IncorrectEncoding => "incorrect-encoding",
            Self::InvalidAuthzid => "invalid-authzid",
            Self::InvalidMechanism => "invalid-mechanism",
            Self::MalformedRequest => "malformed-request",
            Self::MechanismTooWeak => "mechanism-too-weak",
            Self::NotAuthorized => "not-authorized",
            Self::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .condition.name())]
pub struct Failure {
    /// What the client is told.
    pub condition: Condition,
    /// What it is told in words: for SCRAM the value of RFC 5802 §7 (`server-error-value`). Never
    /// set where it would tell a wrong password from an unknown user.
    pub text: Option<&'static str>,
}

impl Failure {
    /// A failure with a text for people.
    pub fn with_text(condition: Condition, text: &'static str) -> Self {
        Self {
            condition,
            text: Some(text),
        }
    }

    /// `<failure/>` (RFC 6120 §6.4.5).
    pub fn to_element(&self) -> Element {
        let condition = Element::new(self.condition.name(), ns::SASL);
        let failure = Element::new("failure", ns::SASL).with_child(condition);
        match self.text {
            None => failure,
            Some(text) => failure.with_child(
                Element::new("text", ns::SASL)
                    .with_attr("xml:lang", "en")
                    .with_text(text),
            ),
        }
    }
}

impl From<Condition> for Failure {
    fn from(condition: Condition) -> Self {
        Self {
            condition,
            text: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(xml: &str) -> Result<Request, Condition> {
        Request::parse(&Element::parse(xml, ns::CLIENT).unwrap())
            .map_err(|failure| failure.condition)
    }

    fn sasl(name: &str, rest: &str) -> String {
        format!("<{name} xmlns='{}'{rest}</{name}>", ns::SASL)
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::parse(mechanism.name()), Some(mechanism));
        }
        assert_eq!(Mechanism::parse("plain"), None);
        assert_eq!(Mechanism::parse("SCRAM-SHA-512"), None);
    }

    #[test]
    fn plain_needs_tls_and_plus_needs_a_channel() {
        use Mechanism::{Plain, ScramSha1, ScramSha1Plus, ScramSha256, ScramSha256Plus};
        let all = Mechanism::ALL;
        assert_eq!(offered(false, false, &all), [ScramSha256, ScramSha1]);
        assert_eq!(offered(false, true, &all), [ScramSha256, ScramSha1]);
        assert_eq!(offered(true, false, &all), [ScramSha256, ScramSha1, Plain]);
        assert_eq!(
            offered(
                true,
                true,
                &[Plain, ScramSha1, ScramSha1Plus, ScramSha256Plus]
            ),
            [ScramSha256Plus, ScramSha1Plus, ScramSha1, Plain]
        );
        assert_eq!(offered(true, true, &[]), []);
    }

    #[test]
    fn the_feature_lists_the_mechanisms_in_order() {
        assert_eq!(
            mechanisms_element(&[Mechanism::ScramSha1, Mechanism::Plain]).to_xml(ns::STREAMS),
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism>\
             <mechanism>PLAIN</mechanism></mechanisms>"
        );
    }

    /// RFC 6120 §6.4.2: no data is not the same as empty data.
    #[test]
    fn an_initial_response_may_be_absent_or_empty() {
        let auth = |initial| {
            Ok(Request::Auth {
                mechanism: "PLAIN".to_owned(),
                initial,
            })
        };
        assert_eq!(parse(&sasl("auth", " mechanism='PLAIN'>")), auth(None));
        assert_eq!(
            parse(&sasl("auth", " mechanism='PLAIN'>=")),
            auth(Some(vec![]))
        );
        assert_eq!(
            parse(&sasl("auth", " mechanism='PLAIN'>AGE=")),
            auth(Some(vec![0, b'a']))
        );
    }

    #[test]
    fn responses_and_aborts_are_read() {
        assert_eq!(parse(&sasl("response", ">")), Ok(Request::Response(vec![])));
        assert_eq!(
            parse(&sasl("response", ">=")),
            Ok(Request::Response(vec![]))
        );
        assert_eq!(
            parse(&sasl("response", ">YQ==")),
            Ok(Request::Response(vec![b'a']))
        );
        assert_eq!(parse(&sasl("abort", ">")), Ok(Request::Abort));
    }

    #[test]
    fn base64_is_taken_to_the_letter() {
        for bad in [
            "YQ", "YQ=", " YQ==", "YQ==\n", "Y Q==", "YR==", "Y*==", "====", "YQ==YQ==", "_-==",
        ] {
            let response = parse(&sasl("response", &format!(">{bad}")));
            assert_eq!(response, Err(Condition::IncorrectEncoding), "{bad}");
            let auth = parse(&sasl("auth", &format!(" mechanism='PLAIN'>{bad}")));
            assert_eq!(auth, Err(Condition::IncorrectEncoding), "{bad}");
        }
    }

    #[test]
    fn other_elements_are_malformed() {
        for bad in [
            sasl("challenge", ">"),
            sasl("abort", ">x"),
            sasl("response", "><x/>"),
            "<auth xmlns='urn:x' mechanism='PLAIN'/>".to_owned(),
        ] {
            assert_eq!(parse(&bad), Err(Condition::MalformedRequest), "{bad}");
        }
        assert_eq!(parse(&sasl("auth", ">")), Err(Condition::InvalidMechanism));
    }

    #[test]
    fn answers_are_built() {
        assert_eq!(
            challenge_element(b"a").to_xml(ns::CLIENT),
            "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>YQ==</challenge>"
        );
        assert_eq!(
            success_element(b"").to_xml(ns::CLIENT),
            "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
        );
        assert_eq!(
            Failure::from(Condition::NotAuthorized)
                .to_element()
                .to_xml(ns::CLIENT),
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
        );
        assert_eq!(
            Failure::with_text(Condition::MalformedRequest, "why")
                .to_element()
                .to_xml(ns::CLIENT),
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><malformed-request/>\
             <text xml:lang='en'>why</text></failure>"
        );
    }

    #[test]
    fn a_logged_request_shows_no_password() {
        let request = parse(&sasl("auth", " mechanism='PLAIN'>AGEAc2VjcmV0")).unwrap();
        assert_eq!(format!("{request:?}"), "Auth(\"PLAIN\")");
    }
}
