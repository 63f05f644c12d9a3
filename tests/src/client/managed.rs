//! The client under stream management (XEP-0198): it counts, answers requests for acks, and its session
//! outlives its connection.

use std::net::SocketAddr;
use std::time::Duration;

use rookery_proto::xml::Element;

use super::{Client, Login};
use crate::stream_management::{self as sm, Counts, SM};
use crate::wire::{Event, Wire};
use crate::within;

/// How long an ack that does not count everything yet may stay the last one before the client asks again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the server said to `<enable/>`, and the counters since.
pub(super) struct Managed {
    enabled: Element,
    pub(super) counts: Counts,
    /// Whether requests for acks are answered.
    answers: bool,
    /// An answer that is due.
    owes_ack: bool,
    requests: usize,
}

impl Managed {
    fn new(enabled: Element) -> Self {
        Self {
            enabled,
            counts: Counts::default(),
            answers: true,
            owes_ack: false,
            requests: 0,
        }
    }
}

/// Something that came on the stream.
enum Input {
    /// An `<a/>`, which was counted.
    Ack,
    /// Anything else.
    Event(Event),
}

/// A session whose connection broke. Its stream was not closed, so the server keeps it (XEP-0198 §6).
#[must_use = "a session that nobody resumes"]
pub struct Broken(Box<Client>);

/// A resumption that the server refused.
pub struct Refusal {
    /// The stream: logged in, without a resource.
    pub wire: Wire,
    /// What the server answered.
    pub failed: Element,
    /// The session that was not resumed.
    pub broken: Broken,
}

impl Client {
    /// Enables stream management with resumption, and returns the server's `<enabled/>`.
    pub async fn enable_management(&mut self) -> Element {
        let enable = Element::new("enable", SM).with_attr("resume", "true");
        let enabled = self.manage(enable).await;
        assert!(
            matches!(enabled.attr("resume"), Some("true" | "1")) && enabled.attr("id").is_some(),
            "a session to resume has an id: {enabled:?}"
        );
        enabled
    }

    /// Enables stream management by an `<enable/>` of the test's choice, which the server must take.
    pub async fn manage(&mut self, enable: Element) -> Element {
        assert!(self.managed.is_none(), "enabled twice");
        self.wire.send(&enable.to_xml("")).await;
        loop {
            // Not counted: the server counts from its <enabled/> on (XEP-0198 §4).
            match within("<enabled/>", self.wire.receive()).await {
                Event::Element(e) if e.is("enabled", SM) => {
                    self.managed = Some(Managed::new(e.clone()));
                    return e;
                }
                Event::Element(stanza) if sm::is_stanza(&stanza) => self.queue.push_back(stanza),
                other => panic!("{} expected <enabled/>, received {other:?}", self.jid),
            }
        }
    }

    /// The SM-ID of the session.
    pub fn session_id(&self) -> &str {
        let id = self.managed().enabled.attr("id");
        id.expect("the session can be resumed")
    }

    /// The counters.
    pub fn counts(&self) -> &Counts {
        &self.managed().counts
    }

    /// How often the server asked for an ack.
    pub fn ack_requests(&self) -> usize {
        self.managed().requests
    }

    /// From now on requests for acks are not answered.
    pub fn withhold_acks(&mut self) {
        self.managed_mut().answers = false;
    }

    /// Acknowledges what has come, unasked.
    pub async fn acknowledge(&mut self) {
        let h = self.counts().handled();
        self.wire.send(&sm::ack(h)).await;
    }

    /// Asks for an ack and returns its `h`.
    pub async fn request_ack(&mut self) -> u32 {
        self.wire.send(&sm::request()).await;
        let what = format!("{} to receive an ack", self.jid);
        within(&what, self.read_ack()).await;
        self.counts().acknowledged()
    }

    /// Waits until the server has acknowledged everything that was sent. An ack may count less at first:
    /// it means that what it counts is safe.
    pub async fn acknowledged(&mut self) {
        let what = format!("{} to see its stanzas acknowledged", self.jid);
        within(&what, async {
            while self.counts().unacknowledged().next().is_some() {
                self.wire.send(&sm::request()).await;
                self.read_ack().await;
                // The server may tell the rest by itself.
                while self.counts().unacknowledged().next().is_some()
                    && tokio::time::timeout(ASK_AGAIN, self.read_ack())
                        .await
                        .is_ok()
                {}
            }
        })
        .await;
    }

    /// Breaks the connection without a word: the session is not closed.
    pub fn break_connection(self) -> Broken {
        self.stall().0
    }

    /// As [`Self::break_connection`], but the connection stays open and nobody reads from it: what a
    /// server sees of a phone in a tunnel. Dropping the connection ends it.
    pub fn stall(mut self) -> (Broken, Wire) {
        assert!(self.managed.is_some(), "no session would be left");
        self.ended = true;
        let wire = std::mem::replace(&mut self.wire, Wire::gone());
        (Broken(Box::new(self)), wire)
    }

    /// Sends everything that was not acknowledged, as after a resumption.
    async fn send_again(&mut self) {
        let again: String = self
            .counts()
            .unacknowledged()
            .map(|stanza| self.wire.write(stanza))
            .collect();
        if !again.is_empty() {
            self.wire.send(&again).await;
        }
    }

    /// What comes next, acks aside.
    pub(super) async fn receive(&mut self) -> Event {
        loop {
            if let Input::Event(event) = self.read().await {
                return event;
            }
        }
    }

    /// Waits for an ack; stanzas that come before it are kept.
    async fn read_ack(&mut self) {
        loop {
            match self.read().await {
                Input::Ack => return,
                Input::Event(Event::Element(e)) if sm::is_stanza(&e) => self.queue.push_back(e),
                Input::Event(other) => {
                    self.ended = true;
                    panic!("{} expected an ack, received {other:?}", self.jid)
                }
            }
        }
    }

    /// Reads one thing; counts stanzas, answers requests. Nothing is lost when it is dropped.
    async fn read(&mut self) -> Input {
        loop {
            if let Some(managed) = &mut self.managed
                && managed.owes_ack
            {
                let ack = sm::ack(managed.counts.handled());
                // If the connection is gone, reading says so.
                let _ = self.wire.try_send(ack.as_bytes()).await;
                managed.owes_ack = false;
            }
            let event = self.wire.receive().await;
            let (Some(managed), Event::Element(element)) = (&mut self.managed, &event) else {
                return Input::Event(event);
            };
            if element.is("r", SM) {
                managed.requests += 1;
                managed.owes_ack = managed.answers;
            } else if element.is("a", SM) {
                let h = sm::h_of(element).unwrap_or_else(|| panic!("no h: {element:?}"));
                if let Err(wrong) = managed.counts.acknowledge(h) {
                    self.ended = true;
                    panic!("{}: {wrong}", self.jid);
                }
                return Input::Ack;
            } else {
                if sm::is_stanza(element) {
                    managed.counts.handle();
                }
                return Input::Event(event);
            }
        }
    }

    fn managed(&self) -> &Managed {
        self.managed.as_ref().expect("stream management is enabled")
    }

    fn managed_mut(&mut self) -> &mut Managed {
        self.managed.as_mut().expect("stream management is enabled")
    }
}

impl Broken {
    /// The full JID.
    pub fn jid(&self) -> &str {
        &self.0.jid
    }

    /// The SM-ID.
    pub fn session_id(&self) -> &str {
        self.0.session_id()
    }

    /// The counters.
    pub fn counts(&self) -> &Counts {
        self.0.counts()
    }

    /// Gives the session up: what it received and the test did not look at no longer matters.
    pub fn forget(self) {
        if self.0.is_available() {
            self.0
                .registry
                .announce(&self.0.jid, crate::pattern::unavailable_from);
        }
    }

    /// Resumes the session on a new connection to `address`, which must work. Both sides send again what
    /// the other one has not counted.
    pub async fn resume(self, login: &Login, address: SocketAddr) -> Client {
        match self.try_resume(login, address).await {
            Ok(client) => client,
            Err(refusal) => panic!("resumption was refused: {:?}", refusal.failed),
        }
    }

    /// As [`Self::resume`], where the server may refuse.
    ///
    /// # Errors
    /// The server's `<failed/>`, and the stream, on which a resource can be bound instead.
    pub async fn try_resume(
        self,
        login: &Login,
        address: SocketAddr,
    ) -> Result<Client, Box<Refusal>> {
        let (wire, features) = login.authenticate(address).await;
        assert!(
            features.child("sm", SM).is_some(),
            "stream management is not offered: {features:?}"
        );
        self.resume_on(wire).await
    }

    /// As [`Self::try_resume`], on a stream that is logged in.
    ///
    /// # Errors
    /// The server's `<failed/>`.
    pub async fn resume_on(self, mut wire: Wire) -> Result<Client, Box<Refusal>> {
        let mut client = *self.0;
        let (id, counts) = (client.session_id().to_owned(), client.counts());
        let answer = wire.ask(&sm::resume(&id, counts.handled())).await;
        if answer.is("failed", SM) {
            return Err(Box::new(Refusal {
                wire,
                failed: answer,
                broken: Broken(Box::new(client)),
            }));
        }
        assert!(
            answer.is("resumed", SM) && answer.attr("previd") == Some(&id),
            "expected <resumed/>, received {answer:?}"
        );
        client.wire = wire;
        client.ended = false;
        let managed = client.managed_mut();
        managed.owes_ack = false;
        let h = sm::h_of(&answer).unwrap_or_else(|| panic!("no h: {answer:?}"));
        if let Err(wrong) = managed.counts.acknowledge(h) {
            client.ended = true;
            panic!("{}: {wrong}", client.jid);
        }
        client.send_again().await;
        Ok(client)
    }
}

impl Refusal {
    /// The condition in `<failed/>`.
    pub fn condition(&self) -> &str {
        let condition = self.failed.children().next();
        condition.map_or("", Element::name)
    }
}

impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.failed.to_xml(""))
    }
}
