//! What waits to be written to one resource's client.
//!
//! The router pushes, the resource's connection drains; both live on the account's arbiter, so no
//! lock is needed and a delivery costs a queue push instead of an actor message. The queue is
//! bounded in bytes: a client that stops reading fills it and is then dropped, it never slows down
//! whoever writes to it (`design.md`, "Threads").

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rookery_proto::jid::Jid;
use rookery_proto::stanza::Stanza;

use crate::metrics;

/// A stanza on its way to a client.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The stanza; shared by all recipients of a fan-out.
    pub stanza: Arc<Stanza>,
    /// Replaces the stanza's `to` when it is written.
    pub to: Option<Jid>,
    /// When this node read or made it; the start of the delivery latency.
    pub accepted: Instant,
    /// The log entry it was read from, so that it is not stored a second time.
    pub entry: Option<u64>,
}

impl Outgoing {
    /// A stanza that is made or routed now and written as it is.
    pub fn new(stanza: Arc<Stanza>) -> Self {
        Self {
            stanza,
            to: None,
            accepted: Instant::now(),
            entry: None,
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
    entries_written: Cell<u64>,
    entry_waiter: RefCell<Option<Waker>>,
}

impl Outbox {
    /// An empty queue that takes up to `max_bytes` bytes of stanzas (and always at least one).
    pub fn new(max_bytes: usize) -> Self {
        Self {
            queue: RefCell::default(),
            bytes: Cell::new(0),
            max_bytes,
            closed: Cell::new(false),
            waker: RefCell::default(),
            entries_written: Cell::new(0),
            entry_waiter: RefCell::default(),
        }
    }

    /// Appends a stanza and wakes the connection.
    ///
    /// # Errors
    /// Gives the stanza back if the queue is full or closed.
    pub fn push(&self, outgoing: Outgoing) -> Result<(), Box<Outgoing>> {
        let size = outgoing.stanza.size();
        let bytes = self.bytes.get();
        if self.closed.get() || (bytes > 0 && bytes + size > self.max_bytes) {
            return Err(Box::new(outgoing));
        }
        self.bytes.set(bytes + size);
        self.queue.borrow_mut().push_back(outgoing);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        Ok(())
    }

    /// Ready when there is something to [`pop`](Self::pop); the connection polls it.
    pub fn poll_pending(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.queue.borrow().is_empty() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match waker.as_ref() {
            Some(current) if current.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The oldest stanza. Its bytes count until it is [`written`](Self::written).
    pub fn pop(&self) -> Option<Outgoing> {
        let mut queue = self.queue.borrow_mut();
        let outgoing = queue.pop_front();
        if queue.is_empty() && queue.capacity() > 16 {
            queue.shrink_to(0);
        }
        outgoing
    }

    /// The connection has handed this stanza to the socket completely.
    pub fn written(&self, outgoing: &Outgoing) {
        self.bytes
            .set(self.bytes.get().saturating_sub(outgoing.stanza.size()));
        metrics::delivered(outgoing);
        if let Some(entry) = outgoing.entry {
            self.entries_written.set(entry);
            if let Some(waker) = self.entry_waiter.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Bytes of stanzas that are queued or being written.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Ends the queue: pushes fail from now on. Returns what was never popped, oldest first.
    pub fn close(&self) -> Vec<Outgoing> {
        self.closed.set(true);
        if let Some(waker) = self.entry_waiter.borrow_mut().take() {
            waker.wake();
        }
        std::mem::take(&mut *self.queue.borrow_mut()).into()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Waits until the log entry `id`, or a later one, has been written.
    ///
    /// Returns the last entry that was written (0: none), which is less than `id` if the queue was
    /// closed before. One waiter at a time.
    pub async fn entry_written(&self, id: u64) -> u64 {
        std::future::poll_fn(|cx| {
            if self.entries_written.get() >= id || self.closed.get() {
                return Poll::Ready(self.entries_written.get());
            }
            *self.entry_waiter.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
