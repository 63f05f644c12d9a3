//! From the stream header to the request for a resource: RFC 6120 §4 to §7, as the server.
//!
//! A plain state machine: frames in, [`Action`]s and output out. The connection that owns it does
//! what an action says (starts TLS, asks storage, binds) and comes back with what it has found.

use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use rookery_features::password::Password;
use rookery_features::sasl::{self, Condition, Failure, Mechanism};
use rookery_features::sasl_exchange::{Exchange, Step};
use rookery_features::scram::{BindingKind, ChannelBinding, NONCE_LEN, Offer};
use rookery_features::xep0198_stream_management as sm;
use rookery_features::{bind, xep0077_register};
use rookery_proto::error::{Condition as StanzaCondition, StanzaError};
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::ns;
use rookery_proto::stanza::{IqType, Kind, Rejected, Stanza};
use rookery_proto::stream::{
    Frame, Framing, StreamCondition, StreamError, StreamHeader, StreamScope, Version, ws_close,
};
use rookery_proto::xml::Element;
use rookery_storage::LoginKeys;

use super::job::Verdict;
use super::rules::{Rules, Security, header};
use crate::resumption::NotResumed;
use crate::transport::Output;
use crate::transport::exporter::BINDING_BYTES;

/// How far a stream has come.
#[derive(Debug)]
enum Phase {
    /// Nothing protects the stream, nobody has logged in.
    Plain,
    /// TLS is in place, nobody has logged in.
    Secured,
    /// A login is under way.
    Authenticating(Box<Login>),
    /// This user has logged in, and no resource is bound.
    Authenticated(BareJid),
}

/// A login under way.
#[derive(Debug)]
struct Login {
    exchange: Exchange,
    /// Whom the client wants to be, once that is known.
    user: Option<BareJid>,
    /// Whether the account is disabled. Only who proves to be its user learns that.
    is_disabled: bool,
    since: Instant,
}

/// What the owner of the stream has to do next; the output is to be sent first.
#[derive(Debug)]
pub(crate) enum Action {
    /// Read on.
    Continue,
    /// Start TLS; what has arrived after `<starttls/>` is void (RFC 6120 §5.4.3.3).
    StartTls,
    /// Read this user's credentials and come back to [`Negotiation::credentials`].
    LookUp(BareJid),
    /// Check this password and come back to [`Negotiation::verified`].
    Verify(BareJid, Password),
    /// A login failed.
    LoginFailed(FailedLogin),
    /// A login succeeded: a new stream is expected, without the memory of the old one.
    LoggedIn(Success),
    /// Create an account and come back to [`Negotiation::registered`].
    Register {
        /// The account's address.
        account: BareJid,
        /// Its password.
        password: Password,
        /// The request.
        iq: Box<Stanza>,
    },
    /// Bind a resource and come back to [`Negotiation::bound`] or [`Negotiation::not_bound`].
    Bind {
        /// For whom.
        account: BareJid,
        /// The resource that the client asked for.
        resource: Option<String>,
        /// The request.
        iq: Box<Stanza>,
    },
    /// Go on with a session whose connection broke (XEP-0198 §5); come back to
    /// [`Negotiation::not_resumed`] if there is none.
    Resume {
        /// Who has logged in.
        account: BareJid,
        /// The session's identifier.
        previd: String,
        /// How many stanzas the client has got in it.
        h: u32,
    },
    /// Send this error and close.
    Fail(StreamError),
    /// Close without an error.
    Close,
    /// The client has closed the stream.
    Closed,
}

/// A failed login; `<failure/>` is in the output.
#[derive(Debug)]
pub(crate) struct FailedLogin {
    /// Whom the client wanted to be, if it came that far.
    pub(crate) user: Option<BareJid>,
    /// How, if it was a mechanism that is offered.
    pub(crate) mechanism: Option<Mechanism>,
    /// What the client was told.
    pub(crate) condition: Condition,
    /// Whether the stream has to be closed, because there were too many of them.
    pub(crate) is_last: bool,
}

/// A successful login; `<success/>` is in the output.
#[derive(Debug)]
pub(crate) struct Success {
    /// Who has logged in.
    pub(crate) user: BareJid,
    /// How.
    pub(crate) mechanism: Mechanism,
    /// How long it took, network included.
    pub(crate) took: Duration,
}

/// The state of a stream without a resource.
#[derive(Debug)]
pub(crate) struct Negotiation {
    rules: Rc<Rules>,
    framing: Framing,
    phase: Phase,
    security: Security,
    bindings: Vec<ChannelBinding>,
    /// The domain that the client named in the current stream header.
    domain: Option<Jid>,
    scope: StreamScope,
    /// Whether our header of the current stream is out.
    is_open: bool,
    failed_logins: u32,
    registrations: u32,
}

impl Negotiation {
    /// A stream on which nothing has happened. `secure`: its bytes are encrypted on their way.
    pub(crate) fn new(rules: Rc<Rules>, framing: Framing, secure: bool) -> Self {
        Self {
            rules,
            framing,
            phase: if secure { Phase::Secured } else { Phase::Plain },
            security: if secure {
                Security::Secured
            } else {
                Security::Plain
            },
            bindings: Vec::new(),
            domain: None,
            scope: StreamScope::default(),
            is_open: false,
            failed_logins: 0,
            registrations: 0,
        }
    }

    /// A stream that has logged in on another arbiter and is to be opened again.
    pub(crate) fn logged_in(
        rules: Rc<Rules>,
        framing: Framing,
        security: Security,
        user: BareJid,
    ) -> Self {
        let phase = Phase::Authenticated(user);
        Self {
            phase,
            security,
            ..Self::new(rules, framing, false)
        }
    }

    /// The rules of the stream.
    pub(crate) fn rules(&self) -> &Rc<Rules> {
        &self.rules
    }

    /// Whether somebody has logged in.
    pub(crate) fn has_logged_in(&self) -> bool {
        matches!(self.phase, Phase::Authenticated(_))
    }

    /// What protects the stream.
    pub(crate) fn security(&self) -> Security {
        self.security
    }

    /// What the client's stream header declared.
    pub(crate) fn scope(&self) -> &StreamScope {
        &self.scope
    }

    /// TLS is in place: a new stream is expected (RFC 6120 §5.4.3.3).
    pub(crate) fn secured(&mut self, binding: Option<[u8; BINDING_BYTES]>) {
        self.phase = Phase::Secured;
        self.is_open = false;
        self.security = if binding.is_some() {
            Security::Bindable
        } else {
            Security::Secured
        };
        self.bindings = binding
            .map(|data| ChannelBinding {
                kind: BindingKind::TlsExporter,
                data: data.to_vec(),
            })
            .into_iter()
            .collect();
    }

    /// Takes what the client sent.
    pub(crate) fn frame(&mut self, frame: Frame<'_>, output: &mut Output) -> Action {
        match frame {
            Frame::Open(raw) => match self.open(raw, output) {
                Ok(()) => Action::Continue,
                Err(error) => Action::Fail(error),
            },
            Frame::Stanza(raw) if self.is_open => match Element::from_stream(raw, &self.scope) {
                Ok(element) => self.element(&element, output),
                Err(error) => Action::Fail(error),
            },
            // Only a WebSocket can bring something before the header (RFC 7395 §3.4).
            Frame::Stanza(_) => Action::Fail(StreamError::with_text(
                StreamCondition::BadFormat,
                "a stream starts with <open/>",
            )),
            Frame::Close => Action::Closed,
        }
    }

    /// The client's stream header (RFC 6120 §4.7).
    fn open(&mut self, raw: &[u8], output: &mut Output) -> Result<(), StreamError> {
        if self.is_open {
            // Only a WebSocket can, because the framer of TCP expects one header.
            return Err(StreamError::with_text(
                StreamCondition::BadFormat,
                "the stream is open already",
            ));
        }
        let (theirs, scope) = match self.framing {
            Framing::Tcp => StreamHeader::parse(raw)?,
            Framing::WebSocket => StreamHeader::parse_ws(raw)?,
        };
        self.scope = scope;
        let to = theirs.to.as_ref();
        let domain = to.filter(|to| to.local().is_none() && to.resource().is_none());
        self.domain = domain
            .and_then(|to| self.rules.domain(to.domain()))
            .cloned();
        let reply_to = theirs.from.as_ref().map(|from| Jid::from(from.to_bare()));
        self.send_header(reply_to, output);
        self.check_header(&theirs)?;
        let features = match self.phase {
            Phase::Authenticated(_) => self.rules.features_after_login(self.framing),
            _ => self.rules.offered(self.security).features(self.framing),
        };
        output.push_bytes(features.as_bytes());
        Ok(())
    }

    /// Whether we can go on with the client's header. Ours is out already (RFC 6120 §4.9.1.2).
    fn check_header(&self, theirs: &StreamHeader) -> Result<(), StreamError> {
        if theirs.version < Version::V1_0 {
            return Err(StreamCondition::UnsupportedVersion.into());
        }
        let Some(domain) = &self.domain else {
            return Err(match &theirs.to {
                None => StreamError::with_text(
                    StreamCondition::ImproperAddressing,
                    "the stream header names no server",
                ),
                Some(_) => StreamCondition::HostUnknown.into(),
            });
        };
        if let Phase::Authenticated(user) = &self.phase {
            if user.domain() != domain.domain() {
                return Err(StreamCondition::HostUnknown.into());
            }
            // RFC 6120 §4.9.3.9
            if theirs
                .from
                .as_ref()
                .is_some_and(|from| from.bare_str() != user.as_str())
            {
                return Err(StreamCondition::InvalidFrom.into());
            }
        }
        if self.framing == Framing::WebSocket
            && self.security == Security::Plain
            && self.rules.requires_tls()
        {
            return Err(StreamError::with_text(
                StreamCondition::PolicyViolation,
                "encryption is required: connect to wss:",
            ));
        }
        Ok(())
    }

    fn send_header(&mut self, to: Option<Jid>, output: &mut Output) {
        let id = URL_SAFE_NO_PAD.encode(random::<15>());
        let from = self.domain.as_ref().or_else(|| self.rules.default_domain());
        output.push_bytes(header(from, to, &id, self.framing).as_bytes());
        self.is_open = true;
    }

    /// A first-level element.
    fn element(&mut self, element: &Element, output: &mut Output) -> Action {
        match (element.name(), element.ns()) {
            ("starttls", ns::TLS) => self.starttls(element, output),
            (_, ns::SASL) => self.sasl(element, output),
            (_, sm::NS) => self.stream_management(element, output),
            ("iq" | "message" | "presence", ns::CLIENT) => self.stanza(element, output),
            _ => Action::Fail(StreamCondition::UnsupportedStanzaType.into()),
        }
    }

    /// RFC 6120 §5.4.2
    fn starttls(&mut self, element: &Element, output: &mut Output) -> Action {
        let is_possible = matches!(self.phase, Phase::Plain)
            && self.framing == Framing::Tcp
            && self.rules.offers_starttls()
            && element.children().next().is_none();
        if is_possible {
            output.push_bytes(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            return Action::StartTls;
        }
        output.push_bytes(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        Action::Close
    }

    /// XEP-0198 §3, §5: before a resource is bound a session can be resumed, and nothing else.
    fn stream_management(&mut self, element: &Element, output: &mut Output) -> Action {
        match (sm::Nonza::parse(element), &self.phase) {
            (Ok(sm::Nonza::Resume { previd, h }), Phase::Authenticated(user)) => Action::Resume {
                account: user.clone(),
                previd,
                h,
            },
            (Ok(_), _) => {
                output.push_bytes(sm::failed(StanzaCondition::UnexpectedRequest, None).as_bytes());
                Action::Continue
            }
            (Err(sm::Malformed::Failed(condition)), _) => {
                output.push_bytes(sm::failed(condition, None).as_bytes());
                Action::Continue
            }
            (Err(sm::Malformed::Stream(error)), _) => Action::Fail(error),
        }
    }

    /// A session could not be resumed; the client may bind a resource instead (XEP-0198 §5).
    pub(crate) fn not_resumed(refused: &NotResumed, output: &mut Output) -> Action {
        match refused {
            NotResumed::Failed(condition, h) => {
                output.push_bytes(sm::failed(*condition, *h).as_bytes());
                Action::Continue
            }
            NotResumed::Fatal(error) => Action::Fail(error.clone()),
        }
    }

    /// RFC 6120 §6.4
    fn sasl(&mut self, element: &Element, output: &mut Output) -> Action {
        if matches!(self.phase, Phase::Authenticated(_)) {
            return Action::Fail(StreamError::with_text(
                StreamCondition::UnsupportedStanzaType,
                "logged in already",
            ));
        }
        let request = match sasl::Request::parse(element) {
            Ok(request) => request,
            Err(failure) => return self.fail(failure, output),
        };
        match (request, &mut self.phase) {
            (sasl::Request::Auth { mechanism, initial }, Phase::Plain | Phase::Secured) => {
                self.begin(&mechanism, initial.as_deref(), output)
            }
            (sasl::Request::Response(response), Phase::Authenticating(login)) => {
                let Some(domain) = &self.domain else {
                    return self.fail(Condition::MalformedRequest.into(), output);
                };
                let offered = self.rules.offered(self.security);
                let offer = offer(&offered.mechanisms, &self.bindings);
                let nonce = random::<NONCE_LEN>();
                let step = login
                    .exchange
                    .respond(&response, domain.domain(), offer, &nonce);
                self.step(step, output)
            }
            (sasl::Request::Abort, _) => self.fail(Condition::Aborted.into(), output),
            // An <auth/> during a login, a <response/> outside of one.
            _ => self.fail(Condition::MalformedRequest.into(), output),
        }
    }

    fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>, output: &mut Output) -> Action {
        if self.security == Security::Plain && self.rules.requires_tls() {
            return self.fail(Condition::EncryptionRequired.into(), output);
        }
        let Some(domain) = &self.domain else {
            return self.fail(Condition::MalformedRequest.into(), output);
        };
        let offered = self.rules.offered(self.security);
        let is_secure = self.security != Security::Plain;
        let exchange = match Exchange::start(mechanism, &offered.mechanisms, is_secure) {
            Ok(exchange) => exchange,
            Err(failure) => return self.fail(failure, output),
        };
        let mut login = Box::new(Login {
            exchange,
            user: None,
            is_disabled: false,
            since: Instant::now(),
        });
        let offer = offer(&offered.mechanisms, &self.bindings);
        let nonce = random::<NONCE_LEN>();
        let step = login
            .exchange
            .initial(initial, domain.domain(), offer, &nonce);
        self.phase = Phase::Authenticating(login);
        self.step(step, output)
    }

    /// The keys of the user that [`Action::LookUp`] asked for, real or made up.
    pub(crate) fn credentials(&mut self, keys: &LoginKeys, output: &mut Output) -> Action {
        let Phase::Authenticating(login) = &mut self.phase else {
            return self.fail(Condition::MalformedRequest.into(), output);
        };
        login.is_disabled = keys.is_disabled;
        let step = login.exchange.credentials(&keys.credentials);
        self.step(step, output)
    }

    /// What the user may do, whose password [`Action::Verify`] was about.
    pub(crate) fn verified(&mut self, verdict: Verdict, output: &mut Output) -> Action {
        let user = match &mut self.phase {
            Phase::Authenticating(login) if verdict != Verdict::Wrong => {
                login.is_disabled = verdict == Verdict::Disabled;
                login.user.clone()
            }
            _ => None,
        };
        match user {
            Some(user) => self.step(
                Ok(Step::Success {
                    user,
                    data: Vec::new(),
                }),
                output,
            ),
            None => self.fail(Condition::NotAuthorized.into(), output),
        }
    }

    fn step(&mut self, step: Result<Step, Failure>, output: &mut Output) -> Action {
        let Phase::Authenticating(login) = &mut self.phase else {
            return self.fail(Condition::MalformedRequest.into(), output);
        };
        match step {
            Ok(Step::Challenge(data)) => {
                push(output, &sasl::challenge_element(&data));
                Action::Continue
            }
            Ok(Step::LookUp(user)) => {
                login.user = Some(user.clone());
                Action::LookUp(user)
            }
            Ok(Step::Verify { user, password }) => {
                login.user = Some(user.clone());
                Action::Verify(user, password)
            }
            // RFC 6120 §6.5.2
            Ok(Step::Success { .. }) if login.is_disabled => {
                self.fail(Condition::AccountDisabled.into(), output)
            }
            Ok(Step::Success { user, data }) => {
                let (mechanism, took) = (login.exchange.mechanism(), login.since.elapsed());
                push(output, &sasl::success_element(&data));
                // A new stream is expected (§6.4.6); what the channel was bound by has served.
                self.phase = Phase::Authenticated(user.clone());
                self.bindings = Vec::new();
                self.is_open = false;
                Action::LoggedIn(Success {
                    user,
                    mechanism,
                    took,
                })
            }
            Err(failure) => self.fail(failure, output),
        }
    }

    /// Ends a login (RFC 6120 §6.4.5).
    pub(crate) fn fail(&mut self, failure: Failure, output: &mut Output) -> Action {
        push(output, &failure.to_element());
        let unsuccessful = match self.security {
            Security::Plain => Phase::Plain,
            Security::Secured | Security::Bindable => Phase::Secured,
        };
        let (user, mechanism) = match std::mem::replace(&mut self.phase, unsuccessful) {
            Phase::Authenticating(login) => (login.user, Some(login.exchange.mechanism())),
            _ => (None, None),
        };
        self.failed_logins += 1;
        Action::LoginFailed(FailedLogin {
            user,
            mechanism,
            condition: failure.condition,
            is_last: self.failed_logins >= self.rules.attempts(),
        })
    }

    /// A stanza before there is a resource (RFC 6120 §7.1): only the requests that lead there.
    fn stanza(&mut self, element: &Element, output: &mut Output) -> Action {
        let iq = match Stanza::from_element(element) {
            Ok(stanza) if matches!(stanza.kind, Kind::Iq(IqType::Get | IqType::Set)) => stanza,
            Ok(_) | Err(Rejected::Stanza(_)) => return not_authorized(),
            Err(Rejected::Stream(error)) => return Action::Fail(error),
        };
        match &self.phase {
            Phase::Authenticated(user) => {
                let account = user.clone();
                match bind::requested_resource(&iq) {
                    Ok(resource) => Action::Bind {
                        account,
                        resource,
                        iq: Box::new(iq),
                    },
                    Err(_) => not_authorized(),
                }
            }
            _ if iq
                .payload()
                .is_some_and(|p| p.is("query", xep0077_register::NS)) =>
            {
                self.register(iq, output)
            }
            _ => not_authorized(),
        }
    }

    /// XEP-0077 §3.1
    fn register(&mut self, iq: Stanza, output: &mut Output) -> Action {
        let policy = self.rules.registration(self.security);
        let domain = self.domain.as_ref().map_or("", Jid::domain);
        match xep0077_register::before_login(&iq, domain, policy) {
            Ok(xep0077_register::BeforeLogin::Form) => {
                self.push_stanza(&iq.reply_result_with(xep0077_register::form()), output);
                Action::Continue
            }
            Ok(xep0077_register::BeforeLogin::Create { account, password }) => {
                self.registrations += 1;
                if self.registrations > self.rules.attempts() {
                    return Action::Fail(StreamError::with_text(
                        StreamCondition::PolicyViolation,
                        "too many registrations",
                    ));
                }
                Action::Register {
                    account,
                    password,
                    iq: Box::new(iq),
                }
            }
            Err(condition) => {
                self.push_error(&iq, &condition.into(), output);
                Action::Continue
            }
        }
    }

    /// What became of [`Action::Register`].
    pub(crate) fn registered(
        &mut self,
        iq: &Stanza,
        result: Result<(), StanzaError>,
        output: &mut Output,
    ) -> Action {
        match result {
            Ok(()) => self.push_stanza(&iq.reply_result(), output),
            Err(error) => self.push_error(iq, &error, output),
        }
        Action::Continue
    }

    /// The resource that [`Action::Bind`] asked for (RFC 6120 §7.6.1).
    pub(crate) fn bound(&self, iq: &Stanza, jid: &FullJid, output: &mut Output) {
        self.push_stanza(&iq.reply_result_with(bind::result(jid)), output);
    }

    /// Why there is no resource; the client may try again (RFC 6120 §7.6.2).
    pub(crate) fn not_bound(&self, iq: &Stanza, error: &StanzaError, output: &mut Output) {
        self.push_error(iq, error, output);
    }

    fn push_error(&self, iq: &Stanza, error: &StanzaError, output: &mut Output) {
        if let Some(reply) = iq.reply_error(error) {
            self.push_stanza(&reply, output);
        }
    }

    fn push_stanza(&self, stanza: &Stanza, output: &mut Output) {
        output.push(|out| stanza.write_to(out, None, self.framing));
    }

    /// The end of the stream, inside of a stream that is opened if need be (RFC 6120 §4.9.1.2).
    pub(crate) fn end(&mut self, error: Option<&StreamError>, output: &mut Output) {
        if !self.is_open {
            self.send_header(None, output);
        }
        end(error, self.framing, output);
    }
}

/// The end of an open stream: an error if there is one, then the closing tag (RFC 6120 §4.4, §4.9.1.1;
/// RFC 7395 §3.6).
pub(crate) fn end(error: Option<&StreamError>, framing: Framing, output: &mut Output) {
    if let Some(error) = error {
        let xml = match framing {
            Framing::Tcp => error.to_xml(),
            Framing::WebSocket => error.to_xml_ws(),
        };
        output.push_bytes(xml.as_bytes());
    }
    match framing {
        Framing::Tcp => output.push_bytes(b"</stream:stream>"),
        Framing::WebSocket => output.push_bytes(ws_close(None).as_bytes()),
    }
}

fn offer<'a>(mechanisms: &[Mechanism], bindings: &'a [ChannelBinding]) -> Offer<'a> {
    Offer {
        plus: mechanisms.iter().any(|mechanism| mechanism.is_plus()),
        bindings,
    }
}

fn not_authorized() -> Action {
    Action::Fail(StreamCondition::NotAuthorized.into())
}

fn push(output: &mut Output, element: &Element) {
    output.push_bytes(element.to_xml(ns::CLIENT).as_bytes());
}

/// Random bytes of the operating system.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system's random source works");
    bytes
}

#[cfg(test)]
mod tests;
