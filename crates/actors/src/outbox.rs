//! What waits to be written to one resource's client.
//!
//! The router pushes, the resource's connection drains; both live on the account's arbiter, so no
//! lock is needed and a delivery costs a queue push instead of an actor message. The queue is
//! bounded in bytes: a client that stops reading fills it and is then dropped, it never slows down
//! whoever writes to it (`design.md`, "Threads").
//!
//! With stream management (XEP-0198) what was written stays here until the client has acknowledged
//! it, and counts towards the bound; the outbox outlives the connection, and the next one resumes
//! with what is left.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rookery_bus::{LogRef, MovedStanza};
use rookery_features::xep0198_stream_management as sm;
use rookery_proto::jid::{FullJid, Jid};
use rookery_proto::stanza::Stanza;

use crate::inspect::Link;
use crate::log_tracker::LogTracker;
use crate::metrics;
use crate::trace::{self, Stage};

/// A stanza on its way to a client.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The stanza; shared by all recipients of a fan-out.
    pub stanza: Arc<Stanza>,
    /// Replaces the stanza's `to` when it is written.
    pub to: Option<Jid>,
    /// When this node read or made it; the start of the delivery latency.
    pub accepted: Instant,
    /// Its place in the account's log, if it has one: it is confirmed there, and not routed again if
    /// the client never gets it.
    pub entry: Option<LogRef>,
    /// Whether its outcome is counted when it is written: not for copies and what the server makes.
    pub counts: bool,
}

impl Outgoing {
    /// A stanza that the server makes, or a copy of one.
    pub fn new(stanza: Arc<Stanza>) -> Self {
        Self {
            stanza,
            to: None,
            accepted: Instant::now(),
            entry: None,
            counts: false,
        }
    }
}

/// The queue between the router and one connection.
#[derive(Debug)]
pub struct Outbox {
    queue: RefCell<VecDeque<Outgoing>>,
    bytes: Cell<usize>,
    max_bytes: usize,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Which connection of the session may drain it.
    connection: Cell<u32>,
    managed: RefCell<Option<Box<Managed>>>,
    /// Elements of stream management that go out before the next stanza.
    controls: RefCell<Vec<String>>,
    log: Rc<LogTracker>,
    /// Whose it is.
    owner: FullJid,
    /// Wake those who wait for room.
    room: RefCell<Vec<Waker>>,
    /// For whoever looks at the sessions.
    pub(crate) link: Cell<Option<Link>>,
}

/// What stream management keeps.
#[derive(Debug, Default)]
struct Managed {
    /// Written and not acknowledged, oldest first.
    unacked: VecDeque<Outgoing>,
    /// Stanzas that the client has acknowledged, modulo 2³².
    acked: u32,
    /// Whether an `<r/>` is out that was not answered.
    requested: bool,
}

impl Outbox {
    /// An empty queue of a client that takes up to `max_bytes` bytes of stanzas (and always at least one).
    pub fn new(max_bytes: usize, log: Rc<LogTracker>, owner: FullJid) -> Self {
        Self {
            queue: RefCell::default(),
            bytes: Cell::new(0),
            max_bytes,
            closed: Cell::new(false),
            waker: RefCell::default(),
            connection: Cell::new(0),
            managed: RefCell::default(),
            controls: RefCell::default(),
            log,
            owner,
            room: RefCell::default(),
            link: Cell::new(None),
        }
    }

    /// Appends a stanza and wakes the connection.
    ///
    /// # Errors
    /// Gives the stanza back if the queue is full or closed.
    pub fn push(&self, outgoing: Outgoing) -> Result<(), Box<Outgoing>> {
        if self.closed.get() || !self.has_room_for(&outgoing) {
            return Err(Box::new(outgoing));
        }
        self.bytes.set(self.bytes.get() + outgoing.stanza.size());
        if let Some(entry) = outgoing.entry {
            self.log.handed_out(entry.id);
        }
        self.trace(Stage::Queued, &outgoing, "");
        self.queue.borrow_mut().push_back(outgoing);
        self.wake();
        Ok(())
    }

    /// Whether a stanza fits.
    pub(crate) fn has_room_for(&self, outgoing: &Outgoing) -> bool {
        let bytes = self.bytes.get();
        bytes == 0 || bytes + outgoing.stanza.size() <= self.max_bytes
    }

    /// Something happens to a stanza here. `detail`: a few words, if there is something to say.
    #[inline]
    pub(crate) fn trace(&self, stage: Stage, outgoing: &Outgoing, detail: &'static str) {
        trace::stage(stage, &outgoing.stanza, |step| {
            let step = step.at(&self.owner).entry(outgoing.entry);
            if detail.is_empty() {
                step
            } else {
                step.detail(detail)
            }
        });
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready when there is something to write; the connection polls it.
    pub fn poll_pending(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.queue.borrow().is_empty() || !self.controls.borrow().is_empty() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match waker.as_ref() {
            Some(current) if current.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The oldest stanza. Its bytes count until it is [`written`](Self::written), or, with stream
    /// management, acknowledged.
    pub fn pop(&self) -> Option<Outgoing> {
        let mut queue = self.queue.borrow_mut();
        let outgoing = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > 16 {
            queue.shrink_to(0);
        }
        if let Some(managed) = &mut *self.managed.borrow_mut() {
            managed.unacked.push_back(outgoing.clone());
        }
        Some(outgoing)
    }

    /// The connection has handed this stanza to the socket completely.
    pub fn written(&self, outgoing: &Outgoing) {
        metrics::written(outgoing);
        self.trace(Stage::Written, outgoing, "");
        if self.managed.borrow().is_none() {
            self.trace(Stage::Confirmed, outgoing, "by its socket");
            self.finished(outgoing);
        }
    }

    /// The client has this stanza, as far as can be known.
    fn finished(&self, outgoing: &Outgoing) {
        self.bytes
            .set(self.bytes.get().saturating_sub(outgoing.stanza.size()));
        if outgoing.counts {
            metrics::outcome(outgoing.stanza.kind, metrics::Outcome::Delivered);
        }
        if let Some(entry) = outgoing.entry {
            self.log.confirmed(entry.id);
        }
        if self.bytes.get() <= self.max_bytes / 4 {
            self.wake_for_room();
        }
    }

    fn wake_for_room(&self) {
        self.room.take().into_iter().for_each(Waker::wake);
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Bytes of stanzas that are queued, being written or not acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Stanzas that are queued, or written and not acknowledged.
    pub fn len(&self) -> usize {
        let managed = self.managed.borrow();
        self.queue.borrow().len() + managed.as_ref().map_or(0, |m| m.unacked.len())
    }

    /// Ends the queue: pushes fail from now on. Returns what the client may not have, oldest first:
    /// what was written and not acknowledged, and what was never popped.
    pub fn close(&self) -> Vec<Outgoing> {
        self.closed.set(true);
        self.wake_for_room();
        let unacked = self.managed.borrow_mut().take().map(|m| m.unacked);
        let queued = std::mem::take(&mut *self.queue.borrow_mut());
        unacked.into_iter().flatten().chain(queued).collect()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Waits until no more than so many bytes are taken, a quarter of the bound at most, or the queue is
    /// closed.
    pub(crate) async fn drained_to(&self, bytes: usize) {
        let bytes = bytes.min(self.max_bytes / 4);
        std::future::poll_fn(|cx| {
            if self.bytes.get() <= bytes || self.closed.get() {
                return Poll::Ready(());
            }
            self.room.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    // Stream management.

    /// Keeps what is written from now on until it is acknowledged. `enabled` goes out first.
    pub(crate) fn manage(&self, enabled: String) {
        *self.managed.borrow_mut() = Some(Box::default());
        self.control(enabled);
    }

    /// Whether stream management is enabled.
    pub fn is_managed(&self) -> bool {
        self.managed.borrow().is_some()
    }

    /// Sends an element of stream management before the next stanza.
    pub(crate) fn control(&self, element: String) {
        self.controls.borrow_mut().push(element);
        self.wake();
    }

    /// What has to go out before the next stanza; usually nothing.
    pub(crate) fn take_controls(&self) -> Vec<String> {
        self.controls.take()
    }

    /// Whether the client is to be asked for an acknowledgement now: something was written since it
    /// was asked last, and that was answered.
    pub(crate) fn take_request(&self) -> bool {
        let mut managed = self.managed.borrow_mut();
        match &mut *managed {
            Some(managed) if !managed.requested && !managed.unacked.is_empty() => {
                managed.requested = true;
                true
            }
            _ => false,
        }
    }

    /// The client has got `h` stanzas since stream management was enabled (XEP-0198 §4).
    ///
    /// # Errors
    /// It claims more than were sent.
    pub(crate) fn acknowledge(&self, h: u32) -> Result<(), sm::TooHigh> {
        let done: Vec<Outgoing> = {
            let mut managed = self.managed.borrow_mut();
            let Some(managed) = &mut *managed else {
                return Ok(());
            };
            let count = sm::acked(managed.acked, managed.unacked.len(), h)?;
            let done = managed.unacked.drain(..count).collect();
            managed.acked = h;
            // What was written meanwhile wants an acknowledgement of its own.
            managed.requested = !managed.unacked.is_empty();
            if managed.requested {
                self.controls.borrow_mut().push(sm::request().to_owned());
            }
            done
        };
        for outgoing in &done {
            self.trace(Stage::Confirmed, outgoing, "by its client");
            self.finished(outgoing);
        }
        self.wake();
        Ok(())
    }

    /// Stanzas that were sent since stream management was enabled, modulo 2³².
    pub(crate) fn sent(&self) -> u32 {
        let managed = self.managed.borrow();
        managed.as_ref().map_or(0, |m| {
            let unacked = u32::try_from(m.unacked.len()).unwrap_or(u32::MAX);
            m.acked.wrapping_add(unacked)
        })
    }

    /// Makes a connection the only one that may drain the queue.
    pub(crate) fn belongs_to(&self, connection: u32) {
        self.connection.set(connection);
    }

    /// Whether this connection may drain the queue.
    pub(crate) fn is_drained_by(&self, connection: u32) -> bool {
        self.connection.get() == connection
    }

    /// A new connection goes on (XEP-0198 §5): `resumed` goes out first, then what was not
    /// acknowledged, then what waits.
    pub(crate) fn resume(&self, resumed: String) {
        if let Some(managed) = &mut *self.managed.borrow_mut() {
            let mut queue = self.queue.borrow_mut();
            for outgoing in managed.unacked.drain(..).rev() {
                queue.push_front(outgoing);
            }
            managed.requested = false;
            *self.controls.borrow_mut() = vec![resumed];
        }
        self.wake();
    }

    /// Closes the queue for a session that moves: how many stanzas the client has acknowledged, how
    /// many of those that follow were written to it, and all that it has not acknowledged.
    pub(crate) fn take_all(&self) -> (u32, u32, Vec<MovedStanza>) {
        let (acked, unacked) = {
            let managed = self.managed.borrow();
            let managed = managed.as_ref();
            let unacked = managed.map_or(0, |m| m.unacked.len());
            (managed.map_or(0, |m| m.acked), unacked)
        };
        let all = self.close();
        for outgoing in &all {
            self.trace(
                Stage::GivenBack,
                outgoing,
                "the session moves to another node",
            );
        }
        for entry in all.iter().filter_map(|outgoing| outgoing.entry) {
            self.log.given_up(entry.id);
        }
        let moved = all.into_iter().map(|outgoing| MovedStanza {
            stanza: Stanza::clone(&outgoing.stanza),
            to: outgoing.to,
            entry: outgoing.entry,
            counts: outgoing.counts,
        });
        (
            acked,
            u32::try_from(unacked).unwrap_or(u32::MAX),
            moved.collect(),
        )
    }

    /// Goes on with what a session on another node had: all of it is written (again) after `resumed`, if
    /// there is somebody to write it to.
    pub(crate) fn go_on(&self, acked: u32, stanzas: Vec<MovedStanza>, resumed: Option<String>) {
        *self.managed.borrow_mut() = Some(Box::new(Managed {
            acked,
            ..Managed::default()
        }));
        for moved in stanzas {
            let outgoing = Outgoing {
                to: moved.to,
                entry: moved.entry,
                counts: moved.counts,
                ..Outgoing::new(Arc::new(moved.stanza))
            };
            let size = outgoing.stanza.size();
            self.bytes.set(self.bytes.get() + size);
            if let Some(entry) = outgoing.entry {
                self.log.handed_out(entry.id);
            }
            self.trace(
                Stage::Queued,
                &outgoing,
                "the session came from another node",
            );
            self.queue.borrow_mut().push_back(outgoing);
        }
        if let Some(resumed) = resumed {
            self.control(resumed);
        }
    }
}
