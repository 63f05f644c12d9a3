//! What happens around a node, in a queue that cannot grow without a bound.
//!
//! Producers never wait: changed accounts are merged into one set, which turns into a flush of the
//! whole cache when it gets large; of the other events there are only a few at a time (one batch to
//! collect per dead node, one lease).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rookery_proto::jid::BareJid;
use tokio::sync::Notify;

use crate::{NodeInfo, SessionRow};

/// Changed accounts beyond this number become one [`Event::FlushCache`].
const MAX_CHANGED: usize = 16 * 1024;
/// Accounts in one [`Event::Changed`] at most.
const CHANGED_BATCH: usize = 1024;

/// Something that the node must react to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Sessions of these accounts changed, on whichever node: drop what the cache holds for them,
    /// also "nobody there".
    Changed(Vec<BareJid>),
    /// Hints may have been lost (the connection to Redis was established anew): drop the cache.
    FlushCache,
    /// A node's lease ended, by death or by leaving: drop its sessions from the cache. Every other
    /// node gets this.
    NodeLost {
        /// Who it was.
        node: NodeInfo,
    },
    /// This node, and no other at this time, cleans up after a node that is lost: its inbox on the
    /// bus now, its sessions in the [`Event::Collect`]s that follow (none if it had none).
    Claimed {
        /// Who it was.
        node: NodeInfo,
    },
    /// Sessions of a lost node that nobody has taken over. Tell those who saw them online, then call
    /// [`Directory::collected`](crate::Directory::collected) with the same rows; the next batch
    /// comes after that. If this node dies before, another one gets the same rows.
    Collect {
        /// Whose sessions these were.
        node: NodeInfo,
        /// The sessions, 256 at most.
        rows: Vec<SessionRow>,
    },
    /// Redis is there but may not have our rows any more: it lost its data, was replaced, or others
    /// took us for dead. Publish all sessions again
    /// ([`Directory::republish`](crate::Directory::republish)).
    DataLost,
    /// Redis is there again, after it was away or a write had failed, and has all that this node could not
    /// write meanwhile. Until then whoever came on another node may have read old rows of this one. If Redis
    /// may have lost its data, [`Event::DataLost`] came before.
    CaughtUp,
    /// The lease could not be renewed for its whole time: others take this node for dead. Accept no
    /// streams, keep serving those that are here.
    Fenced,
    /// The lease is held again, after [`Event::Fenced`]. Comes before the [`Event::DataLost`] that
    /// usually goes with it.
    Unfenced,
}

/// The consumer's end of the events of one node. Dropping it drops the events.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
}

impl Events {
    /// The next event; `None` after the directory was shut down or dropped and all is read.
    ///
    /// Dropping the returned future loses nothing.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            let notified = self.queue.notify.notified();
            {
                let mut state = self.queue.lock();
                if let Some(event) = state.next() {
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            notified.await;
        }
    }

    /// The next event if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.queue.lock().next()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        state.others.clear();
        state.changed.clear();
    }
}

/// The producers' end. Its clones feed the same consumer.
#[derive(Clone, Debug)]
pub(crate) struct EventQueue {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    changed: HashSet<BareJid>,
    others: VecDeque<Event>,
    flush: bool,
    taken: bool,
    closed: bool,
}

impl EventQueue {
    pub(crate) fn new() -> Self {
        Self {
            queue: Arc::default(),
        }
    }

    /// The consumer's end, once.
    pub(crate) fn take(&self) -> Option<Events> {
        let mut state = self.queue.lock();
        if std::mem::replace(&mut state.taken, true) {
            return None;
        }
        Some(Events {
            queue: self.queue.clone(),
        })
    }

    /// Adds an event that is not about the cache.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.queue.lock();
        if !state.closed {
            state.others.push_back(event);
            self.queue.notify.notify_one();
        }
    }

    /// The accounts have to leave the cache.
    pub(crate) fn changed(&self, accounts: impl IntoIterator<Item = BareJid>) {
        let mut state = self.queue.lock();
        if state.closed || state.flush {
            return;
        }
        state.changed.extend(accounts);
        if state.changed.len() > MAX_CHANGED {
            state.changed = HashSet::new();
            state.flush = true;
        }
        self.queue.notify.notify_one();
    }

    /// The whole cache has to go.
    pub(crate) fn flush_cache(&self) {
        let mut state = self.queue.lock();
        if !state.closed {
            state.changed = HashSet::new();
            state.flush = true;
            self.queue.notify.notify_one();
        }
    }

    /// No events any more.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.notify.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What concerns the cache comes first: an answer to anything else may be looked up.
    fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.flush) {
            return Some(Event::FlushCache);
        }
        if !self.changed.is_empty() {
            let accounts = if self.changed.len() <= CHANGED_BATCH {
                self.changed.drain().collect()
            } else {
                let some: Vec<BareJid> = self.changed.iter().take(CHANGED_BATCH).cloned().collect();
                for account in &some {
                    self.changed.remove(account);
                }
                some
            };
            return Some(Event::Changed(accounts));
        }
        self.others.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(n: usize) -> BareJid {
        BareJid::parse(&format!("user{n}@example.com")).unwrap()
    }

    #[tokio::test]
    async fn changed_accounts_are_merged_and_come_first() {
        let queue = EventQueue::new();
        let mut events = queue.take().unwrap();
        queue.push(Event::DataLost);
        queue.changed([bare(1)]);
        queue.changed([bare(1)]);
        assert_eq!(events.recv().await, Some(Event::Changed(vec![bare(1)])));
        assert_eq!(events.recv().await, Some(Event::DataLost));
        assert_eq!(events.try_recv(), None);
        queue.close();
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn many_changed_accounts_become_one_flush() {
        let queue = EventQueue::new();
        let mut events = queue.take().unwrap();
        queue.changed((0..=MAX_CHANGED).map(bare));
        queue.changed([bare(1)]);
        assert_eq!(events.recv().await, Some(Event::FlushCache));
        assert_eq!(events.try_recv(), None);
    }

    #[tokio::test]
    async fn changed_accounts_come_in_bounded_batches() {
        let queue = EventQueue::new();
        let mut events = queue.take().unwrap();
        queue.changed((0..=CHANGED_BATCH).map(bare));
        let mut seen = HashSet::new();
        while let Some(Event::Changed(some)) = events.try_recv() {
            assert!(some.len() <= CHANGED_BATCH);
            seen.extend(some);
        }
        assert_eq!(seen.len(), CHANGED_BATCH + 1);
    }

    #[test]
    fn the_consumer_can_be_taken_once() {
        let queue = EventQueue::new();
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
