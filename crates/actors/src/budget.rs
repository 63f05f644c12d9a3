//! How many bytes of stanzas the node has accepted and not yet dealt with.
//!
//! A [`Share`] travels with each stanza, through all queues and also to other threads; when it is
//! dropped the stanza has ended: it is in an outbox, on the bus, stored and left in the log, answered or
//! dropped. A connection does not read on while its session has too much under way, so who writes to
//! what is slow is slowed down, and nobody else. If the whole process has too much under way, sessions
//! go on one read at a time: what they brought has to end first. Nothing but reading from clients waits
//! for it, so whatever has to happen for shares to end can happen.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Bytes that one sender may have under way.
const FOR_ONE: usize = 2 << 20;

/// Bytes that may be under way in the whole process before everybody goes step by step.
const FOR_ALL: usize = 32 << 20;

/// Bytes that other nodes may have waiting here. They are not slowed down by their share, but by the
/// log: what has its place there does not wait beyond this.
const FOR_NODES: usize = 8 << 20;

/// What a stanza takes besides its text.
const OVERHEAD: usize = 512;

/// What is under way in the process.
#[derive(Debug, Default)]
pub struct Budget {
    bytes: AtomicUsize,
    /// Those who wait until there is less.
    waiting: Mutex<Vec<Arc<Load>>>,
}

/// What one sender has under way: a session, or all other nodes together.
#[derive(Debug)]
pub struct Load {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    /// The connection that waits until there is less.
    waker: AtomicWaker,
    /// Whether it is among those who wait for the whole process.
    is_listed: AtomicBool,
}

/// A stanza that has not ended as long as this lives. A clone counts as much again.
#[derive(Debug)]
pub struct Share {
    load: Arc<Load>,
    bytes: usize,
}

impl Budget {
    fn is_high(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > FOR_ALL
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Load>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Nothing is under way.
    pub(crate) fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            bytes: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            is_listed: AtomicBool::new(false),
        })
    }

    /// A stanza of this size came.
    pub(crate) fn share(self: &Arc<Self>, size: usize) -> Share {
        let bytes = size + OVERHEAD;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        Share {
            load: Arc::clone(self),
            bytes,
        }
    }

    /// Ready when more may be read. One task may wait.
    pub(crate) fn poll_room(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_high() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.budget.is_high() && !self.is_listed.swap(true, Ordering::AcqRel) {
            self.budget.lock().push(Arc::clone(self));
        }
        // It may have changed just before.
        if self.is_high() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn is_high(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes > FOR_ONE || (bytes > 0 && self.budget.is_high())
    }
}

impl Share {
    /// Whether so much of its sender waits that this should not: never so for a session, whose
    /// connection has stopped reading long before.
    pub(crate) fn is_too_much(&self) -> bool {
        self.load.bytes.load(Ordering::Relaxed) > FOR_NODES
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        self.load.share(self.bytes - OVERHEAD)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Load { budget, bytes, .. } = &*self.load;
        let all_before = budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        let before = bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        let after = before - self.bytes;
        if after == 0 || (before > FOR_ONE && after <= FOR_ONE) {
            self.load.waker.wake();
        }
        if all_before > FOR_ALL && all_before - self.bytes <= FOR_ALL {
            let waiting = std::mem::take(&mut *budget.lock());
            for load in waiting {
                load.is_listed.store(false, Ordering::Release);
                load.waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::{Wake, Waker};

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session and its connection.
    struct Sender {
        load: Arc<Load>,
        woken: Arc<Woken>,
    }

    impl Sender {
        fn new(budget: &Arc<Budget>) -> Self {
            Self {
                load: Load::new(budget),
                woken: Arc::default(),
            }
        }

        fn may_read(&self) -> bool {
            let waker = Waker::from(Arc::clone(&self.woken));
            let mut cx = Context::from_waker(&waker);
            self.load.poll_room(&mut cx).is_ready()
        }

        fn was_woken(&self) -> bool {
            self.woken.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    #[test]
    fn a_sender_reads_on_when_enough_of_its_stanzas_have_ended() {
        let budget = Arc::default();
        let (slow, other) = (Sender::new(&budget), Sender::new(&budget));
        let half = || slow.load.share(FOR_ONE / 2);
        let (first, second) = (half(), half());
        assert!(!slow.may_read(), "the overhead is more than its part");
        assert!(other.may_read(), "it is nothing to others");
        let copy = second.clone();
        drop(first);
        assert!(
            !slow.was_woken() && !slow.may_read(),
            "a copy counts as well"
        );
        drop(second);
        assert!(slow.was_woken() && slow.may_read());
        drop(copy);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn when_all_have_too_much_each_goes_step_by_step() {
        let budget = Arc::default();
        let many: Vec<Sender> = (0..17).map(|_| Sender::new(&budget)).collect();
        let mut shares: Vec<Share> = many
            .iter()
            .map(|s| s.load.share(FOR_ONE - OVERHEAD))
            .collect();
        assert!(many.iter().all(|sender| !sender.may_read()));
        let quick = Sender::new(&budget);
        assert!(quick.may_read(), "nothing of it is under way");
        let step = quick.load.share(1);
        assert!(!quick.may_read());
        drop(step);
        assert!(quick.was_woken() && quick.may_read());
        let _step = quick.load.share(1);
        assert!(!quick.may_read());
        assert!(!many[1].was_woken());
        shares.truncate(15);
        // The others may as well, if that is all that they have.
        assert!(many.iter().chain([&quick]).all(Sender::was_woken));
        assert!(many.iter().chain([&quick]).all(Sender::may_read));
    }
}
