//! A logged-in resource that ignores nothing, and the ways to log in.

pub mod archive;
pub mod managed;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};

use futures_util::FutureExt as _;
use rookery_proto::xml::Element;
use rustls::ClientConfig;

use crate::pattern::{self, Pattern};
use crate::scram::{self, Hash, Scram};
use crate::stanza::{self, BLOCKING, CLIENT, PING, ROSTER};
use crate::stream_management::is_stanza;
use crate::tls::client_config;
use crate::wire::{Event, SASL, STREAM, STREAM_ERRORS, TLS, Wire};
use managed::Managed;

/// Namespace of resource binding.
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";

/// How a stream is protected, and what carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TCP without TLS, where the server allows that.
    Plain,
    /// TCP with STARTTLS.
    StartTls,
    /// TLS from the first byte.
    DirectTls,
    /// A WebSocket without TLS.
    WebSocket,
    /// A WebSocket over TLS.
    SecureWebSocket,
}

impl Security {
    /// The key of the listener in the server's file of ports.
    pub fn listener(self) -> &'static str {
        match self {
            Self::Plain | Self::StartTls => "c2s",
            Self::DirectTls => "c2s_direct_tls",
            Self::WebSocket => "http",
            Self::SecureWebSocket => "http_tls",
        }
    }
}

/// Who logs in, and how.
#[derive(Clone)]
pub struct Login {
    user: String,
    domain: String,
    password: String,
    resource: Option<String>,
    mechanism: Option<String>,
    security: Security,
    tls: Arc<ClientConfig>,
}

impl Login {
    /// `name@localhost` over STARTTLS, with the best mechanism on offer.
    pub fn new(name: &str, password: &str) -> Self {
        Self {
            user: name.to_owned(),
            domain: "localhost".to_owned(),
            password: password.to_owned(),
            resource: None,
            mechanism: None,
            security: Security::StartTls,
            tls: client_config(rustls::ALL_VERSIONS, &["xmpp-client"]),
        }
    }

    /// With a resource of the client's choice.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// With a mechanism, whether the server offers it or not.
    #[must_use]
    pub fn mechanism(mut self, mechanism: &str) -> Self {
        self.mechanism = Some(mechanism.to_owned());
        self
    }

    /// In another way than by STARTTLS.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        if matches!(security, Security::WebSocket | Security::SecureWebSocket) {
            // An HTTP listener knows nothing of the protocol xmpp-client.
            self.tls = client_config(rustls::ALL_VERSIONS, &[]);
        }
        self
    }

    /// With a TLS configuration of the test's own.
    #[must_use]
    pub fn tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = config;
        self
    }

    /// At another domain than `localhost`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.domain);
        self
    }

    /// Connects to the listener of [`Security::listener`] and negotiates TLS; returns the features
    /// that come then, SASL among them.
    pub async fn connect(&self, address: SocketAddr) -> (Wire, Element) {
        let mut wire = match self.security {
            Security::Plain => Wire::tcp(address).await,
            Security::DirectTls => Wire::direct_tls(address, self.tls.clone()).await,
            Security::WebSocket => Wire::websocket(address).await,
            Security::SecureWebSocket => Wire::secure_websocket(address, self.tls.clone()).await,
            Security::StartTls => {
                let mut wire = Wire::tcp(address).await;
                wire.open(&self.domain).await;
                let answer = wire.ask(&format!("<starttls xmlns='{TLS}'/>")).await;
                assert!(
                    answer.is("proceed", TLS),
                    "expected <proceed/>, received {answer:?}"
                );
                wire.start_tls(self.tls.clone()).await
            }
        };
        let features = wire.open(&self.domain).await;
        (wire, features)
    }

    /// Logs in; returns the stream after its restart and the features, binding among them.
    pub async fn authenticate(&self, address: SocketAddr) -> (Wire, Element) {
        let (mut wire, features) = self.connect(address).await;
        let outcome = self.try_authenticate(&mut wire, &features).await;
        assert!(
            outcome.is("success", SASL),
            "{} cannot log in: {outcome:?}",
            self.user
        );
        let features = wire.open(&self.domain).await;
        (wire, features)
    }

    /// Goes through SASL and returns `<success/>` or `<failure/>`. A success that does not prove that
    /// the server knows the password too is a panic.
    pub async fn try_authenticate(&self, wire: &mut Wire, features: &Element) -> Element {
        let offered = mechanisms(features);
        let mechanism = self
            .mechanism
            .clone()
            .unwrap_or_else(|| best(&offered, wire));
        if mechanism == "PLAIN" {
            let message = scram::base64(format!("\0{}\0{}", self.user, self.password));
            return wire.ask(&auth(&mechanism, &message)).await;
        }
        let hash = if mechanism.starts_with("SCRAM-SHA-256") {
            Hash::Sha256
        } else {
            Hash::Sha1
        };
        let mut exchange = Scram::new(hash, &self.user, &self.password);
        if mechanism.ends_with("-PLUS") {
            let data = wire.tls_exporter().expect("-PLUS needs TLS 1.3");
            exchange = exchange.bound_to("tls-exporter", &data);
        }
        let challenge = wire
            .ask(&auth(&mechanism, &scram::base64(exchange.first())))
            .await;
        if !challenge.is("challenge", SASL) {
            return challenge;
        }
        let answer = exchange.last(&scram::from_base64(&challenge.text()));
        let outcome = wire.ask(&response(&scram::base64(answer))).await;
        if outcome.is("success", SASL) {
            exchange.verify(&scram::from_base64(&outcome.text()));
        }
        outcome
    }

    /// Logs in and binds a resource, without sending presence.
    pub async fn bind(&self, address: SocketAddr) -> Client {
        let (wire, features) = self.authenticate(address).await;
        assert!(
            features.child("bind", BIND).is_some(),
            "binding is not offered: {features:?}"
        );
        self.bind_on(wire).await
    }

    /// Binds a resource on a stream that is logged in.
    pub async fn bind_on(&self, mut wire: Wire) -> Client {
        let resource = self
            .resource
            .as_deref()
            .map_or_else(String::new, |resource| {
                format!("<resource>{resource}</resource>")
            });
        let answer = wire
            .ask(&format!(
                "<iq xmlns='{CLIENT}' type='set' id='bind'><bind xmlns='{BIND}'>{resource}</bind></iq>"
            ))
            .await;
        let jid = bound_jid(&answer).unwrap_or_else(|| panic!("binding failed: {answer:?}"));
        Client::new(wire, jid)
    }
}

/// `<auth/>` with an initial response.
pub fn auth(mechanism: &str, payload: &str) -> String {
    format!("<auth xmlns='{SASL}' mechanism='{mechanism}'>{payload}</auth>")
}

/// `<response/>`.
pub fn response(payload: &str) -> String {
    format!("<response xmlns='{SASL}'>{payload}</response>")
}

/// The SASL mechanisms in features.
pub fn mechanisms(features: &Element) -> Vec<String> {
    features
        .child("mechanisms", SASL)
        .into_iter()
        .flat_map(Element::children)
        .filter(|e| e.is("mechanism", SASL))
        .map(Element::text)
        .collect()
}

/// The full JID in the result of a binding.
pub fn bound_jid(answer: &Element) -> Option<String> {
    let jid = answer.child("bind", BIND)?.child("jid", BIND)?;
    (answer.attr("type") == Some("result")).then(|| jid.text())
}

fn best(offered: &[String], wire: &Wire) -> String {
    let binding = wire.tls_exporter().is_some();
    [
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
    ]
    .into_iter()
    .filter(|name| binding || !name.ends_with("-PLUS"))
    .find(|name| offered.iter().any(|o| o == name))
    .unwrap_or_else(|| panic!("no mechanism that this client knows: {offered:?}"))
    .to_owned()
}

/// The test's clients that are available, so that one resource's coming and going does not
/// surprise the user's other ones.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Weak<Mutex<Entry>>>>>);

/// What the registry knows about one client.
struct Entry {
    jid: String,
    available: bool,
    /// Stanzas that may come at any time.
    allowed: Vec<Pattern>,
}

impl Registry {
    /// Tells the user's other available clients of a presence; returns their full JIDs.
    fn announce(&self, jid: &str, presence: fn(&str) -> Pattern) -> Vec<String> {
        let clients = self.0.lock().expect("no test panics while holding it");
        let mut others = Vec::new();
        for client in clients.iter().filter_map(Weak::upgrade) {
            let mut client = client.lock().expect("no test panics while holding it");
            if client.jid != jid && client.available && bare(&client.jid) == bare(jid) {
                client.allowed.push(presence(jid));
                others.push(client.jid.clone());
            }
        }
        others
    }
}

/// One bound resource.
pub struct Client {
    wire: Wire,
    jid: String,
    queue: VecDeque<Element>,
    entry: Arc<Mutex<Entry>>,
    registry: Registry,
    requests: u32,
    /// Stream management, once it is enabled.
    managed: Option<Managed>,
    ended: bool,
}

impl Client {
    fn new(wire: Wire, jid: String) -> Self {
        let entry = Entry {
            jid: jid.clone(),
            available: false,
            allowed: Vec::new(),
        };
        let entry = Arc::new(Mutex::new(entry));
        let registry = Registry::default();
        Self {
            wire,
            jid,
            queue: VecDeque::new(),
            entry,
            registry,
            requests: 0,
            managed: None,
            ended: false,
        }
    }

    /// Joins the clients of a server or a cluster.
    #[must_use]
    pub fn registered(mut self, registry: &Registry) -> Self {
        self.registry = registry.clone();
        let clients = &mut *registry.0.lock().expect("no test panics while holding it");
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(&self.entry));
        self
    }

    /// The full JID.
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// The bare JID.
    pub fn bare(&self) -> &str {
        bare(&self.jid)
    }

    /// Sends initial presence and waits until the server has told the user's resources of each other
    /// (RFC 6121 §4.2.2, §4.3.2). What else arrives meanwhile is kept for the test.
    pub async fn become_available(&mut self) {
        self.become_available_with(stanza::presence()).await;
    }

    /// As [`Self::become_available`], with a presence of the test's choice.
    pub async fn become_available_with(&mut self, presence: Element) {
        self.send(presence).await;
        let jid = self.jid.clone();
        let mut others = self.registry.announce(&jid, pattern::available_from);
        self.entry.lock().expect("not poisoned").available = true;
        others.push(jid);
        for resource in others {
            self.take(&pattern::available_from(&resource)).await;
        }
    }

    /// Allows a stanza to come at any later time, once.
    pub fn allow(&mut self, pattern: Pattern) {
        self.entry
            .lock()
            .expect("not poisoned")
            .allowed
            .push(pattern);
    }

    /// Sends a stanza.
    pub async fn send(&mut self, stanza: Element) {
        let text = self.wire.write(&stanza);
        if let Some(managed) = &mut self.managed {
            managed.counts.send(stanza);
        }
        self.wire.send(&text).await;
    }

    /// Sends text as it is: under stream management whole stanzas, which are counted.
    pub async fn send_raw(&mut self, text: &str) {
        if let Some(managed) = &mut self.managed {
            let stanzas = Element::parse(&format!("<all>{text}</all>"), CLIENT);
            let stanzas = stanzas.unwrap_or_else(|e| panic!("cannot be counted: {e}: {text}"));
            let stanzas = stanzas.into_children().filter(is_stanza);
            stanzas.for_each(|stanza| managed.counts.send(stanza));
        }
        self.wire.send(text).await;
    }

    /// The stream below.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Expects a stanza to come next. Pushes are answered.
    pub async fn expect(&mut self, pattern: Pattern) -> Element {
        let stanza = self.next(&pattern).await;
        assert!(
            pattern.matches(&stanza),
            "{} expected {pattern:?}\nbut received {}\nwhich lacks {:?}",
            self.jid,
            stanza.to_xml(CLIENT),
            pattern.misses(&stanza),
        );
        self.answer_push(&stanza).await;
        stanza
    }

    /// Expects stanzas to come next, in any order; returns them in the order of the patterns.
    pub async fn expect_all<const N: usize>(&mut self, patterns: [Pattern; N]) -> [Element; N] {
        let mut found: [Option<Element>; N] = [const { None }; N];
        for _ in 0..N {
            let stanza = self.next(&patterns).await;
            let slot = (0..N).find(|&i| found[i].is_none() && patterns[i].matches(&stanza));
            let Some(slot) = slot else {
                let open: Vec<_> = (0..N).filter(|&i| found[i].is_none()).collect();
                let open: Vec<_> = open.into_iter().map(|i| &patterns[i]).collect();
                panic!(
                    "{} expected one of {open:#?}\nbut received {}",
                    self.jid,
                    stanza.to_xml(CLIENT)
                );
            };
            self.answer_push(&stanza).await;
            found[slot] = Some(stanza);
        }
        found.map(|stanza| stanza.expect("every slot was filled"))
    }

    /// Expects that nothing came before the answer to a request to the own server.
    pub async fn expect_nothing(&mut self) {
        let pong = self.request(stanza::get(Element::new("ping", PING))).await;
        assert_eq!(pong.attr("type"), Some("result"), "{pong:?}");
    }

    /// Expects that nothing came that `other` caused before now: the next stanza is one that `other`
    /// sends now, and stanzas between two resources keep their order (RFC 6120 §10.1).
    pub async fn expect_nothing_from(&mut self, other: &mut Client) {
        other.requests += 1;
        let body = format!("barrier {}", other.requests);
        // A headline: nobody copies or archives it.
        let barrier =
            stanza::message("headline", &self.jid).with_child(stanza::text("body", CLIENT, &body));
        other.send(barrier).await;
        self.expect(pattern::message_from(&other.jid).body(&body))
            .await;
    }

    /// Waits until the server has dealt with everything that this client sent to an account: a request
    /// to a resource that the account does not have is answered behind it (RFC 6120 §10.1).
    pub async fn handled_for(&mut self, account: &str) {
        let ping = stanza::get(Element::new("ping", PING));
        let ping = ping.with_attr("to", format!("{account}/no such resource"));
        self.refused(ping, "service-unavailable").await;
    }

    /// Sends an IQ, with an id of its own if it has none, and expects its answer next.
    pub async fn request(&mut self, mut iq: Element) -> Element {
        if iq.attr("id").is_none() {
            iq.set_attr("id", self.next_id());
        }
        let id = iq.attr("id").expect("just set").to_owned();
        self.send(iq).await;
        let answer = Pattern::new("iq")
            .id(&id)
            .that("type='result' or 'error'", |e| {
                matches!(e.attr("type"), Some("result" | "error"))
            });
        self.expect(answer).await
    }

    /// Sends an IQ and expects a result, whose payload it returns.
    pub async fn query(&mut self, iq: Element) -> Option<Element> {
        let answer = self.request(iq).await;
        assert_eq!(
            answer.attr("type"),
            Some("result"),
            "{}",
            answer.to_xml(CLIENT)
        );
        answer.children().next().cloned()
    }

    /// Sends an IQ and expects an error with this condition.
    pub async fn refused(&mut self, iq: Element, condition: &'static str) -> Element {
        let answer = self.request(iq).await;
        let refusal = Pattern::new("iq").error(condition);
        assert!(
            refusal.matches(&answer),
            "expected {condition}: {}",
            answer.to_xml(CLIENT)
        );
        answer
    }

    /// Asks for the roster; returns its items.
    pub async fn roster(&mut self) -> Vec<Element> {
        let query = self.query(stanza::get(Element::new("query", ROSTER))).await;
        let query = query.expect("a roster's result has a payload without versioning");
        query.children().cloned().collect()
    }

    /// Expects a stream error and the end; returns the error.
    pub async fn expect_stream_error(&mut self, condition: &str) -> Element {
        let error = self.next(&condition).await;
        assert!(
            error.is("error", STREAM) && error.child(condition, STREAM_ERRORS).is_some(),
            "{} expected the stream error {condition}, received {error:?}",
            self.jid
        );
        self.wire.expect_close().await;
        self.ended = true;
        error
    }

    /// As [`Self::expect_stream_error`], where the server may have closed while we were still sending,
    /// so that the connection is reset and the error lost on the way.
    pub async fn expect_end_in(&mut self, condition: &str) {
        self.ended = true;
        match self.wire.next().await {
            Event::Eof => {}
            Event::Element(e) if e.child(condition, STREAM_ERRORS).is_some() => {
                self.wire.expect_bytes_to_end().await;
            }
            other => panic!("{} expected {condition}, received {other:?}", self.jid),
        }
    }

    /// Logs out: ends the stream and checks that nothing was left to expect.
    pub async fn close(mut self) {
        if self.is_available() {
            self.registry.announce(&self.jid, pattern::unavailable_from);
        }
        self.ended = true;
        self.wire
            .send(if self.wire.is_websocket() {
                "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
            } else {
                "</stream:stream>"
            })
            .await;
        loop {
            let event = match self.queue.pop_front() {
                Some(stanza) => Event::Element(stanza),
                None => crate::within("the stream's end", self.receive()).await,
            };
            match event {
                Event::Close => break,
                Event::Element(stanza) if self.is_allowed(&stanza) => {}
                other => panic!("{} did not expect {other:?} before the end", self.jid),
            }
        }
        self.wire.expect_eof().await;
    }

    /// Loses the connection: no end of the stream is sent.
    pub fn vanish(mut self) {
        self.ended = true;
        if self.is_available() {
            self.registry.announce(&self.jid, pattern::unavailable_from);
        }
    }

    fn is_available(&self) -> bool {
        self.entry.lock().expect("not poisoned").available
    }

    /// An id for a request.
    fn next_id(&mut self) -> String {
        self.requests += 1;
        format!("{}-{}", self.resource(), self.requests)
    }

    fn resource(&self) -> &str {
        self.jid
            .split_once('/')
            .map_or("", |(_, resource)| resource)
    }

    /// Waits for a stanza, whatever comes before it, and leaves the rest in the queue.
    async fn take(&mut self, pattern: &Pattern) -> Element {
        let mut passed = VecDeque::new();
        loop {
            let stanza = self.next(pattern).await;
            if pattern.matches(&stanza) {
                passed.append(&mut self.queue);
                self.queue = passed;
                return stanza;
            }
            passed.push_back(stanza);
        }
    }

    /// The next stanza that is not allowed anyway. `expected` is for the message.
    async fn next(&mut self, expected: &impl std::fmt::Debug) -> Element {
        loop {
            let stanza = if let Some(stanza) = self.queue.pop_front() {
                stanza
            } else {
                let what = format!("{} to receive {expected:?}", self.jid);
                match crate::within(&what, self.receive()).await {
                    Event::Element(stanza) => stanza,
                    other => {
                        self.ended = true;
                        panic!("{} expected {expected:?}, but received {other:?}", self.jid)
                    }
                }
            };
            if !self.is_allowed(&stanza) {
                return stanza;
            }
        }
    }

    /// Whether the stanza was announced; uses the announcement up.
    fn is_allowed(&self, stanza: &Element) -> bool {
        let allowed = &mut self.entry.lock().expect("not poisoned").allowed;
        let found = allowed.iter().position(|pattern| pattern.matches(stanza));
        found.map(|i| allowed.remove(i)).is_some()
    }

    /// Answers a roster push or a block list push, as every client must (RFC 6120 §8.2.3).
    async fn answer_push(&mut self, stanza: &Element) {
        let is_push = stanza.is("iq", CLIENT)
            && stanza.attr("type") == Some("set")
            && stanza
                .children()
                .any(|e| e.ns() == ROSTER || e.ns() == BLOCKING);
        if is_push && let Some(id) = stanza.attr("id") {
            self.send(
                stanza::element("iq")
                    .with_attr("type", "result")
                    .with_attr("id", id),
            )
            .await;
        }
    }
}

impl Drop for Client {
    /// Fails the test if something was received that it did not ask for. The unavailable presence of
    /// somebody else is none: at the end of a test its clients go in an order of their own.
    fn drop(&mut self) {
        if std::thread::panicking() || self.ended {
            return;
        }
        if self.is_available() {
            self.registry.announce(&self.jid, pattern::unavailable_from);
        }
        while let Some(Event::Element(stanza)) = self.receive().now_or_never() {
            self.queue.push_back(stanza);
        }
        let farewell = pattern::Pattern::new("presence").kind("unavailable");
        for stanza in &self.queue {
            assert!(
                self.is_allowed(stanza) || farewell.matches(stanza),
                "{} received what the test did not expect: {}",
                self.jid,
                stanza.to_xml(CLIENT)
            );
        }
    }
}

/// Makes two available users subscribe to each other's presence. Neither may have asked for the roster,
/// or pushes come as well.
pub async fn befriend(one: &mut Client, other: &mut Client) {
    subscribe(one, other).await;
    subscribe(other, one).await;
}

/// Makes `one` see the presence of `other`, both being available.
pub async fn subscribe(one: &mut Client, other: &mut Client) {
    one.send(stanza::presence_to("subscribe", other.bare()))
        .await;
    other
        .expect(pattern::presence_from("subscribe", one.bare()))
        .await;
    other
        .send(stanza::presence_to("subscribed", one.bare()))
        .await;
    one.expect_all([
        pattern::presence_from("subscribed", other.bare()),
        pattern::available_from(other.jid()),
    ])
    .await;
}

/// The bare JID of a full one.
pub fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}
