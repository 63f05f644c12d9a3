//! Writes that failed while Redis was away, and those that happen while rows are published again.
//!
//! A write that fails is tried again when Redis is back: a row that shows an old presence, or a
//! session that has ended, would stay like that for as long as the node lives. The last write of a
//! session is the one that counts; a later one that works makes it pointless.
//!
//! All of it happens under the lock of the JID ([`Inner::lock`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rookery_proto::jid::FullJid;
use tokio::sync::Notify;

use super::Inner;
use crate::{Error, Event, SessionRow, metrics};

/// Writes that wait at most; when more have failed, all sessions are published again.
const MAX_WAITING: usize = 16 * 1024;
/// Writes that are tried again at the same time.
const AT_ONCE: usize = 64;
/// Pause after one that failed again.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long after a loss of data it is remembered which sessions were written since.
const REMEMBER: Duration = Duration::from_mins(2);

/// Writes that wait for Redis.
#[derive(Default)]
pub(super) struct Unwritten {
    state: Mutex<State>,
    notify: Notify,
    /// Whether there are some: to be asked without a lock.
    any: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: HashMap<FullJid, Write>,
    /// More than [`MAX_WAITING`] have failed.
    overflowed: bool,
}

/// A write that failed.
#[derive(Clone)]
enum Write {
    Update(SessionRow),
    Unregister(u64),
}

impl Unwritten {
    /// Notes how a write of a session ended.
    pub(super) fn updated(&self, row: &SessionRow, failed: bool) {
        self.note(&row.jid, failed.then(|| Write::Update(row.clone())));
    }

    /// The same for its end.
    pub(super) fn unregistered(&self, jid: &FullJid, sequence: u64, failed: bool) {
        self.note(jid, failed.then_some(Write::Unregister(sequence)));
    }

    /// A new session has the JID: what is left of an older one does not matter.
    pub(super) fn registered(&self, jid: &FullJid) {
        self.note(jid, None);
    }

    /// Redis is there again: if nothing waits, that is to be told. Comes after [`Event::DataLost`].
    pub(super) fn reconnected(&self) {
        self.notify.notify_one();
    }

    /// Whether some wait.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn note(&self, jid: &FullJid, failed: Option<Write>) {
        let mut state = self.lock();
        let Some(write) = failed else {
            self.settled(&mut state, jid);
            return;
        };
        self.any.store(true, Ordering::Release);
        let is_full = state.waiting.len() >= MAX_WAITING;
        match state.waiting.entry(jid.clone()) {
            Entry::Vacant(_) if is_full => state.overflowed = true,
            Entry::Vacant(entry) => drop(entry.insert(write)),
            Entry::Occupied(mut entry) => drop(entry.insert(write)),
        }
        drop(state);
        self.notify.notify_one();
    }

    fn settled(&self, state: &mut State, jid: &FullJid) {
        if state.waiting.remove(jid).is_some() && state.waiting.is_empty() {
            self.any.store(false, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what could not be written, for as long as the directory runs.
pub(super) async fn write(inner: Arc<Inner>) {
    let mut link = inner.link.state();
    loop {
        inner.unwritten.notify.notified().await;
        loop {
            if link.wait_for(|state| state.up).await.is_err() {
                return;
            }
            let (some, overflowed) = {
                let mut state = inner.unwritten.lock();
                let some: Vec<FullJid> = state.waiting.keys().take(AT_ONCE).cloned().collect();
                let overflowed = some.is_empty() && std::mem::take(&mut state.overflowed);
                (some, overflowed)
            };
            if overflowed {
                tracing::warn!("too many writes have failed, publishing the sessions again");
                inner.lost_data();
            }
            if some.is_empty() {
                break;
            }
            let outcomes = join_all(some.iter().map(|jid| inner.write_again(jid))).await;
            if outcomes.iter().any(Result::is_err) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        inner.events.push(Event::CaughtUp);
    }
}

impl Inner {
    async fn write_again(&self, jid: &FullJid) -> Result<(), Error> {
        let _lock = self.lock(jid).await;
        let write = self.unwritten.lock().waiting.get(jid).cloned();
        let outcome = match write {
            None => return Ok(()),
            Some(Write::Update(row)) => self.write_row(&row).await.map(drop),
            Some(Write::Unregister(sequence)) => {
                let ended = self.remove_row(jid, sequence).await;
                ended.map(drop)
            }
        };
        if let Err(Error::Unavailable(_)) = outcome {
            return outcome;
        }
        metrics::WRITTEN_AGAIN.inc();
        self.unwritten.settled(&mut self.unwritten.lock(), jid);
        outcome
    }

    /// Redis may not have this node's rows any more: they have to be published again.
    pub(super) fn lost_data(&self) {
        self.touched.begin();
        self.events.push(Event::DataLost);
    }
}

/// Which sessions were written, or ended, since data was lost, so that
/// [`Directory::republish`](crate::Directory::republish) does not bring back what they were before.
#[derive(Default)]
pub(super) struct Touched {
    state: Mutex<TouchedState>,
}

#[derive(Default)]
struct TouchedState {
    /// Counts the losses.
    losses: u64,
    until: Option<Instant>,
    /// With the number of the last loss before.
    sessions: HashMap<FullJid, u64>,
}

impl Touched {
    /// From now on it is remembered, for a while.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        state.losses += 1;
        state.until = Some(Instant::now() + REMEMBER);
    }

    /// A session was written, or will be.
    pub(super) fn note(&self, jid: &FullJid) {
        let mut state = self.lock();
        match state.until {
            Some(until) if Instant::now() < until => {
                let losses = state.losses;
                state.sessions.insert(jid.clone(), losses);
            }
            Some(_) => {
                state.until = None;
                state.sessions = HashMap::new();
            }
            None => {}
        }
    }

    /// To be called when rows are about to be published; for [`Touched::since`].
    pub(super) fn losses(&self) -> u64 {
        self.lock().losses
    }

    /// Whether a session was written since this loss.
    pub(super) fn since(&self, loss: u64, jid: &FullJid) -> bool {
        let state = self.lock();
        state.sessions.get(jid).is_some_and(|after| *after >= loss)
    }

    fn lock(&self) -> MutexGuard<'_, TouchedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_the_last_loss_is_published_again() {
        let touched = Touched::default();
        let jid = FullJid::parse("ann@example.com/desk").unwrap();
        touched.note(&jid);
        assert!(!touched.since(touched.losses(), &jid), "no loss");
        touched.begin();
        let first = touched.losses();
        assert!(!touched.since(first, &jid));
        touched.note(&jid);
        assert!(touched.since(first, &jid));
        touched.begin();
        assert!(touched.since(first, &jid), "what began before goes on");
        assert!(!touched.since(touched.losses(), &jid));
    }

    #[test]
    fn the_last_write_counts_and_there_is_a_bound() {
        let unwritten = Unwritten::default();
        let jid = |at: usize| FullJid::parse(&format!("user{at}@example.com/desk")).unwrap();
        unwritten.unregistered(&jid(0), 1, true);
        unwritten.registered(&jid(0));
        assert!(unwritten.lock().waiting.is_empty());
        for at in 0..=MAX_WAITING {
            unwritten.unregistered(&jid(at), 1, true);
        }
        unwritten.unregistered(&jid(0), 2, true);
        let state = unwritten.lock();
        assert_eq!(state.waiting.len(), MAX_WAITING);
        assert!(state.overflowed);
        assert!(matches!(state.waiting[&jid(0)], Write::Unregister(2)));
    }
}
