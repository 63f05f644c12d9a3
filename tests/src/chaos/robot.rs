//! A client that takes failures as they come: it reconnects to whichever node answers, resumes its session
//! or begins a new one, sends again what was not acknowledged, and tells the ledger what it sees.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rookery_proto::xml::Element;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};

use super::ledger::{Id, Ledger};
use super::random::Random;
use super::watch::Watch;
use crate::archive::{DATA_FORMS, MAM, Query, RSM};
use crate::client::{BIND, auth, bound_jid, response};
use crate::scram::{self, Hash, Scram};
use crate::server::password;
use crate::stanza::{self, CLIENT, DELAY, PING, STANZA_IDS};
use crate::stream_management::{self as sm, Counts, SM};
use crate::tls::client_config;
use crate::wire::{Event, SASL, STREAM, Wire};

/// How long anything that a node is asked may take before the robot tries elsewhere.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often acks are asked for while some are missing.
const ASK: Duration = Duration::from_millis(500);

/// One message in so many is sent with a ping.
const PINGS: usize = 5;

/// The incident of a session that is not resumed.
pub(super) const REFUSED: &str = "resumption refused";

/// What a robot is told to do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Lose the connection.
    Cut,
    /// Keep the connection for so long without reading, then lose it.
    Stall(Duration),
    /// Log out and log in on another node.
    Move,
    /// Subscribe to the presence of the next robot.
    Subscribe,
    /// Send so many messages at once.
    Burst(u32),
    /// Send nothing more by itself.
    Quiet,
    /// Read the archive into the ledger and log out.
    Finish,
}

/// What all robots share.
pub struct Shared {
    /// The nodes' addresses, also of those that are down.
    pub nodes: Mutex<Vec<SocketAddr>>,
    /// What became of the messages.
    pub ledger: Mutex<Ledger>,
    /// What they see of each other.
    pub watch: Mutex<Watch>,
    /// How many robots there are.
    pub robots: usize,
    /// The mean pause between two messages of one robot.
    pub pause: Duration,
    /// What each robot is at.
    pub states: Mutex<Vec<State>>,
    /// How often what happened to connections and sessions.
    pub incidents: Mutex<std::collections::BTreeMap<String, usize>>,
}

/// What a robot is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// It has a session on a stream.
    pub online: bool,
    /// Messages that nobody acknowledged yet.
    pub waiting: usize,
    /// It is done.
    pub finished: bool,
}

impl Shared {
    /// Counts something that happened.
    pub fn note(&self, incident: &str) {
        let mut incidents = lock(&self.incidents);
        *incidents.entry(incident.to_owned()).or_default() += 1;
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// What they see of each other.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

/// A lock that is never held across a wait.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

/// A session, with or without a stream.
struct Session {
    /// Counts this robot's sessions.
    number: u32,
    id: String,
    counts: Counts,
}

/// Why a stream ended.
enum End {
    /// It broke, or the robot broke it.
    Lost,
    /// It was closed: the session is over.
    Closed,
    /// All is done.
    Finished,
}

/// A client.
pub struct Robot {
    number: usize,
    shared: Arc<Shared>,
    orders: UnboundedReceiver<Order>,
    random: Random,
    session: Option<Session>,
    sessions: u32,
    /// What a lost session had not seen acknowledged.
    again: Vec<Element>,
    next: u32,
    asked: u32,
    quiet: bool,
    finishing: bool,
    due: Instant,
    avoided: Option<SocketAddr>,
}

/// The name of a robot's account.
pub fn name(number: usize) -> String {
    format!("robot{number}")
}

impl Robot {
    /// A robot that has not begun.
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        orders: UnboundedReceiver<Order>,
        seed: u64,
    ) -> Self {
        Self {
            number,
            shared,
            orders,
            random: Random::new(seed),
            session: None,
            sessions: 0,
            again: Vec::new(),
            next: 0,
            asked: 0,
            quiet: false,
            finishing: false,
            due: Instant::now(),
            avoided: None,
        }
    }

    /// Goes on until it is told to finish.
    pub async fn run(mut self) {
        loop {
            let address = self.choose();
            match timeout(PATIENCE, self.begin(address)).await {
                Ok(Ok(wire)) => match self.serve(wire).await {
                    End::Lost => self.avoided = None,
                    End::Closed => {
                        self.abandon_session();
                        self.avoided = Some(address);
                    }
                    End::Finished => {
                        self.set_state(|state| {
                            *state = State {
                                finished: true,
                                ..*state
                            }
                        });
                        return;
                    }
                },
                Ok(Err(reason)) => self.shared.note(&format!("no session: {reason}")),
                Err(_) => self.shared.note("no session: no answer"),
            }
            self.set_state(|state| state.online = false);
            tokio::time::sleep(self.random.millis(20, 200)).await;
        }
    }

    fn choose(&mut self) -> SocketAddr {
        let nodes = lock(&self.shared.nodes).clone();
        loop {
            let address = nodes[self.random.below(nodes.len())];
            if nodes.len() == 1 || Some(address) != self.avoided {
                return address;
            }
        }
    }

    fn set_state(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.shared.states)[self.number]);
    }

    /// Logs in, and resumes the session or binds a new one.
    async fn begin(&mut self, address: SocketAddr) -> Result<Wire, String> {
        let mut wire = self.log_in(address).await?;
        if let Some(session) = &self.session {
            let resume = sm::resume(&session.id, session.counts.handled());
            let answer = ask(&mut wire, &resume).await?;
            if answer.is("resumed", SM) {
                self.resumed(&mut wire, &answer).await?;
                return Ok(wire);
            }
            if !answer.is("failed", SM) {
                return Err(format!("the answer to resume was {}", said(&answer)));
            }
            self.shared.note(REFUSED);
            self.abandon_session();
        }
        self.bind(&mut wire).await?;
        Ok(wire)
    }

    async fn log_in(&self, address: SocketAddr) -> Result<Wire, String> {
        let tcp = Wire::try_tcp(address).await;
        let mut wire = tcp.map_err(|_| "connection refused".to_owned())?;
        open(&mut wire).await?;
        let user = name(self.number);
        let mut exchange = Scram::new(Hash::Sha1, &user, &password(&user));
        let first = auth("SCRAM-SHA-1", &scram::base64(exchange.first()));
        let challenge = ask(&mut wire, &first).await?;
        if !challenge.is("challenge", SASL) {
            return Err(format!("login: {}", said(&challenge)));
        }
        let last = exchange.last(&scram::from_base64(&challenge.text()));
        let outcome = ask(&mut wire, &response(&scram::base64(last))).await?;
        if !outcome.is("success", SASL) {
            return Err(format!("login: {}", said(&outcome)));
        }
        let features = open(&mut wire).await?;
        if features.child("sm", SM).is_none() {
            return Err("stream management is not offered".to_owned());
        }
        Ok(wire)
    }

    async fn resumed(&mut self, wire: &mut Wire, answer: &Element) -> Result<(), String> {
        self.shared.note("resumed");
        let h = sm::h_of(answer).ok_or("no h in <resumed/>")?;
        self.acknowledge(h)?;
        let session = self.session.as_ref().expect("it was resumed");
        let again: String = session
            .counts
            .unacknowledged()
            .map(|e| wire.write(e))
            .collect();
        send(wire, &again).await
    }

    async fn bind(&mut self, wire: &mut Wire) -> Result<(), String> {
        let bind = format!(
            "<iq type='set' id='bind'><bind xmlns='{BIND}'><resource>r</resource></bind></iq>"
        );
        let answer = ask(wire, &bind).await?;
        if bound_jid(&answer).is_none() {
            return Err(format!("binding: {}", said(&answer)));
        }
        let mut enabled = ask(wire, &format!("<enable xmlns='{SM}' resume='true'/>")).await?;
        while sm::is_stanza(&enabled) {
            // Somebody's ping, which came before.
            enabled = ask(wire, "").await?;
        }
        let id = enabled
            .attr("id")
            .ok_or("stream management was not enabled")?;
        self.shared.note("new session");
        self.sessions += 1;
        self.session = Some(Session {
            number: self.sessions,
            id: id.to_owned(),
            counts: Counts::default(),
        });
        self.send_stanza(wire, stanza::presence()).await?;
        for message in std::mem::take(&mut self.again) {
            self.transmit(wire, message).await?;
        }
        Ok(())
    }

    /// The session is over: its messages that nobody acknowledged go out in the next one.
    fn abandon_session(&mut self) {
        if let Some(session) = self.session.take() {
            let messages = session
                .counts
                .unacknowledged()
                .filter(|e| e.name() == "message");
            self.again.extend(messages.cloned());
        }
    }

    /// Lives on a stream until it ends.
    async fn serve(&mut self, mut wire: Wire) -> End {
        self.set_state(|state| state.online = true);
        match self.live(&mut wire).await {
            Ok(end) => end,
            Err(reason) => {
                self.shared.note(&format!("stream lost: {reason}"));
                End::Lost
            }
        }
    }

    async fn live(&mut self, wire: &mut Wire) -> Result<End, String> {
        let mut ask_for_acks = tokio::time::interval(ASK);
        loop {
            if self.finishing {
                self.read_archive(wire).await?;
                self.log_out(wire).await?;
                return Ok(End::Finished);
            }
            tokio::select! {
                event = wire.receive() => {
                    if let Some(element) = self.take(wire, event).await? {
                        return Err(format!("unexpected {}", said(&element)));
                    }
                }
                _ = ask_for_acks.tick() => {
                    if self.unacknowledged() > 0 {
                        send(wire, &sm::request()).await?;
                    }
                }
                () = tokio::time::sleep_until(self.due), if !self.quiet => self.chat(wire).await?,
                order = self.orders.recv() => match order {
                    Some(Order::Cut) => return Ok(End::Lost),
                    Some(Order::Stall(time)) => {
                        // As if the network had gone: nothing is read, and nothing of what is sent
                        // counts.
                        tokio::time::sleep(time).await;
                        return Ok(End::Lost);
                    }
                    Some(Order::Move) => {
                        self.log_out(wire).await?;
                        return Ok(End::Closed);
                    }
                    Some(Order::Subscribe) => {
                        let contact = name((self.number + 1) % self.shared.robots);
                        let contact = format!("{contact}@localhost");
                        let subscribe = stanza::presence_to("subscribe", &contact);
                        self.send_stanza(wire, subscribe).await?;
                    }
                    Some(Order::Burst(count)) => {
                        for _ in 0..count {
                            self.chat(wire).await?;
                        }
                    }
                    Some(Order::Quiet) => self.quiet = true,
                    Some(Order::Finish) | None => self.finishing = true,
                },
            }
        }
    }

    /// Deals with what comes by itself; gives the rest back.
    async fn take(&mut self, wire: &mut Wire, event: Event) -> Result<Option<Element>, String> {
        let element = match event {
            Event::Element(element) => element,
            Event::Open(_) => return Err("a second header".to_owned()),
            Event::Close => return Err("the stream was closed".to_owned()),
            Event::Eof => return Err("the connection ended".to_owned()),
        };
        if element.is("r", SM) {
            send(wire, &sm::ack(self.counts().handled())).await?;
        } else if element.is("a", SM) {
            let h = sm::h_of(&element).ok_or("no h in <a/>")?;
            self.acknowledge(h)?;
        } else if sm::is_stanza(&element) {
            self.counts().handle();
            if element.name() == "iq" {
                return self.take_iq(wire, element).await;
            }
            if element.child("result", MAM).is_some() {
                return Ok(Some(element));
            }
            if element.name() == "message" {
                self.read(&element);
            } else {
                self.look(wire, &element).await?;
            }
        } else {
            return Err(said(&element));
        }
        Ok(None)
    }

    /// Answers a ping and notes the answer to one; gives the rest back.
    async fn take_iq(&mut self, wire: &mut Wire, iq: Element) -> Result<Option<Element>, String> {
        let (kind, id) = (iq.attr("type"), iq.attr("id").unwrap_or_default());
        if kind == Some("get") && iq.child("ping", PING).is_some() {
            let pong = stanza::element("iq")
                .with_attr("type", "result")
                .with_attr("to", iq.attr("from").ok_or("a ping of nobody")?)
                .with_attr("id", id);
            self.send_stanza(wire, pong).await?;
        } else if id.starts_with("ping.") {
            let is_result = kind == Some("result");
            self.shared.watch().answered(id, is_result);
        } else {
            return Ok(Some(iq));
        }
        Ok(None)
    }

    /// Looks at a presence: a contact's, or that of somebody who wants to be one.
    async fn look(&mut self, wire: &mut Wire, presence: &Element) -> Result<(), String> {
        let from = presence.attr("from").unwrap_or_default();
        let (user, _) = from.split_once('@').unwrap_or_default();
        let contact = user.strip_prefix("robot").and_then(|n| n.parse().ok());
        let Some(contact) = contact.filter(|contact| *contact != self.number) else {
            return Ok(());
        };
        match presence.attr("type") {
            None => self.shared.watch().presence(self.number, contact, true),
            Some("unavailable") => self.shared.watch().presence(self.number, contact, false),
            Some("subscribe") => {
                let answer = stanza::presence_to("subscribed", from);
                self.send_stanza(wire, answer).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Asks somebody's client whether it is there.
    async fn ping(&mut self, wire: &mut Wire, to: usize) -> Result<(), String> {
        self.asked += 1;
        let id = format!("ping.{}.{}", self.number, self.asked);
        self.shared.watch().asked(id.clone());
        let ping = stanza::get(Element::new("ping", PING))
            .with_attr("to", format!("{}@localhost/r", name(to)))
            .with_attr("id", id);
        self.send_stanza(wire, ping).await
    }

    fn read(&self, message: &Element) {
        let session = (self.number, self.session.as_ref().map_or(0, |s| s.number));
        let Some(id) = message.attr("id").and_then(|id| id.parse().ok()) else {
            return;
        };
        if message.attr("type") == Some("error") {
            self.shared
                .note(&format!("refused: {}", condition(message)));
            self.shared.ledger().refused(id);
        } else {
            let late = message.child("delay", DELAY).is_some();
            let stanza_id = message.child("stanza-id", STANZA_IDS);
            let stanza_id = stanza_id.and_then(|e| e.attr("id")).unwrap_or("nothing");
            self.shared.ledger().seen(session, id, late, stanza_id);
        }
    }

    /// Sends a message to somebody, and thinks of when to send the next one.
    async fn chat(&mut self, wire: &mut Wire) -> Result<(), String> {
        let mean = u64::try_from(self.shared.pause.as_millis()).expect("a short time");
        self.due = Instant::now() + self.random.millis(mean / 2, mean * 3 / 2);
        let mut to = self.random.below(self.shared.robots - 1);
        to += usize::from(to >= self.number);
        if self.random.below(PINGS) == 0 {
            self.ping(wire, to).await?;
        }
        let id = Id {
            from: self.number,
            number: self.next,
        };
        self.next += 1;
        let text = format!("{id}");
        let jid = format!("{}@localhost", name(to));
        let message = stanza::chat_to(&jid, &text).with_attr("id", &text);
        self.transmit(wire, message).await
    }

    async fn transmit(&mut self, wire: &mut Wire, message: Element) -> Result<(), String> {
        let id = message.attr("id").and_then(|id| id.parse().ok());
        let to = message.attr("to").and_then(|to| to.split_once('@'));
        let to = to.and_then(|(user, _)| user.strip_prefix("robot")?.parse().ok());
        if let (Some(id), Some(to)) = (id, to) {
            self.shared.ledger().transmitted(id, to);
        }
        self.send_stanza(wire, message).await
    }

    /// Sends a stanza, which counts from now on, whether it arrives or not.
    async fn send_stanza(&mut self, wire: &mut Wire, stanza: Element) -> Result<(), String> {
        let text = wire.write(&stanza);
        self.counts().send(stanza);
        let waiting = self.unacknowledged();
        self.set_state(|state| state.waiting = waiting);
        send(wire, &text).await
    }

    fn acknowledge(&mut self, h: u32) -> Result<(), String> {
        let counted = match self.counts().acknowledge(h) {
            Ok(counted) => counted,
            Err(wrong) => {
                self.shared.note("WRONG COUNT");
                self.abandon_session();
                return Err(wrong);
            }
        };
        for stanza in counted {
            if let Some(id) = stanza.attr("id").and_then(|id| id.parse().ok()) {
                self.shared.ledger().acknowledged(id);
            }
        }
        let waiting = self.unacknowledged();
        self.set_state(|state| state.waiting = waiting);
        Ok(())
    }

    fn counts(&mut self) -> &mut Counts {
        &mut self.session.as_mut().expect("a session on a stream").counts
    }

    fn unacknowledged(&self) -> usize {
        let session = self.session.as_ref();
        session.map_or(0, |session| session.counts.unacknowledged().count())
    }

    /// Waits for acks, acknowledges, and closes the stream.
    async fn log_out(&mut self, wire: &mut Wire) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.unacknowledged() > 0 && Instant::now() < deadline {
            send(wire, &sm::request()).await?;
            if let Ok(event) = timeout(ASK, wire.receive()).await {
                self.take(wire, event).await?;
            }
        }
        let h = self.counts().handled();
        send(wire, &format!("{}</stream:stream>", sm::ack(h))).await?;
        loop {
            match timeout(PATIENCE, wire.receive()).await {
                Ok(Event::Close) => return Ok(()),
                Ok(event) => drop(self.take(wire, event).await?),
                Err(_) => return Err("no end of the stream".to_owned()),
            }
        }
    }

    /// Reads the whole archive, page by page.
    async fn read_archive(&mut self, wire: &mut Wire) -> Result<(), String> {
        let mut last: Option<String> = None;
        let mut found = Vec::new();
        loop {
            let mut query = Query::new().max(100);
            if let Some(last) = &last {
                query = query.after(last);
            }
            let request = stanza::set(query.to_element("archive")).with_attr("id", "archive");
            self.send_stanza(wire, request).await?;
            let answer = loop {
                let event = timeout(PATIENCE, wire.receive()).await;
                let event = event.map_err(|_| "no answer of the archive")?;
                let Some(stanza) = self.take(wire, event).await? else {
                    continue;
                };
                if stanza.name() == "iq" {
                    break stanza;
                }
                found.extend(archived(&stanza));
            };
            let fin = answer.child("fin", MAM);
            let fin = fin.ok_or_else(|| format!("archive: {}", said(&answer)))?;
            if fin.attr("complete") == Some("true") {
                break;
            }
            let set = fin.child("set", RSM).and_then(|set| set.child("last", RSM));
            last = Some(set.ok_or("a page without an end")?.text());
        }
        // At once, so that an attempt that fails leaves nothing.
        for id in found {
            self.shared.ledger().archived(self.number, id);
        }
        Ok(())
    }
}

/// The message in a result of the archive.
fn archived(stanza: &Element) -> Option<Id> {
    let forwarded = stanza.child("result", MAM)?.children().next()?;
    let message = forwarded.child("message", CLIENT)?;
    message.attr("id")?.parse().ok()
}

/// Opens a stream; returns the features.
async fn open(wire: &mut Wire) -> Result<Element, String> {
    wire.restart();
    let header = wire.header_to("localhost");
    send(wire, &header).await?;
    match wire.receive().await {
        Event::Open(_) => {}
        _ => return Err("the connection ended".to_owned()),
    }
    match wire.receive().await {
        Event::Element(features) if features.is("features", STREAM) => Ok(features),
        Event::Element(other) => Err(said(&other)),
        _ => Err("the connection ended".to_owned()),
    }
}

async fn ask(wire: &mut Wire, request: &str) -> Result<Element, String> {
    send(wire, request).await?;
    match wire.receive().await {
        Event::Element(answer) => Ok(answer),
        _ => Err("the connection ended".to_owned()),
    }
}

async fn send(wire: &mut Wire, text: &str) -> Result<(), String> {
    match timeout(PATIENCE, wire.try_send(text.as_bytes())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the connection ended".to_owned()),
        Err(_) => Err("the node does not read".to_owned()),
    }
}

/// An answer in a few words.
fn said(element: &Element) -> String {
    format!("{} {}", element.name(), condition(element))
}

/// The condition of an error, of a failure or of a stream error.
fn condition(element: &Element) -> String {
    let error = element.child("error", CLIENT).unwrap_or(element);
    let conditions = error
        .children()
        .filter(|e| e.ns() != CLIENT && e.ns() != DATA_FORMS);
    let names: Vec<_> = conditions
        .map(Element::name)
        .filter(|name| *name != "text")
        .collect();
    names.join(" ")
}

/// Makes a robot's account, by XEP-0077, at a port for direct TLS: a password is told.
///
/// # Errors
/// What the server said.
pub async fn register(number: usize, address: SocketAddr) -> Result<(), String> {
    const NS: &str = "jabber:iq:register";
    let tls = client_config(rustls::ALL_VERSIONS, &["xmpp-client"]);
    let mut wire = Wire::direct_tls(address, tls).await;
    open(&mut wire).await?;
    let name = name(number);
    let fields = Element::new("query", NS)
        .with_child(stanza::text("username", NS, &name))
        .with_child(stanza::text("password", NS, &password(&name)));
    let request = stanza::set(fields).with_attr("id", "register");
    let answer = ask(&mut wire, &request.to_xml(CLIENT)).await?;
    if answer.attr("type") == Some("result") {
        Ok(())
    } else {
        Err(said(&answer))
    }
}
