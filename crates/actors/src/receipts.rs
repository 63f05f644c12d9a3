//! Which of a client's stanzas have been dealt with, for its acknowledgements (XEP-0198 §4).
//!
//! A stanza counts once it is delivered, stored or bounced for good: for a message that is when the
//! commit to the log is done. A [`Receipt`] travels with the stanza, also to other threads; when its
//! last holder drops it, the stanza has been dealt with. Operators' messages have receipts as well
//! ([`crate::administration`]): they get no bounces, so theirs are counted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rookery_features::xep0198_stream_management::Ledger;
use tokio::sync::Notify;

/// The stanzas of one session since stream management was enabled.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    ledger: Mutex<Ledger>,
    bounced: AtomicU32,
    changed: Notify,
}

/// A stanza that has not been dealt with as long as this lives.
#[derive(Debug)]
pub struct Receipt {
    receipts: Arc<Receipts>,
    number: u32,
}

impl Receipts {
    /// Goes on where a session on another node left off: it had handled `h` stanzas.
    pub(crate) fn resumed_at(h: u32) -> Self {
        Self {
            ledger: Mutex::new(Ledger::resuming(h)),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stanza came.
    pub(crate) fn receive(self: &Arc<Self>) -> Arc<Receipt> {
        let number = self.lock().receive();
        Arc::new(Receipt {
            receipts: Arc::clone(self),
            number,
        })
    }

    /// How many stanzas have been dealt with, without a gap, modulo 2³².
    pub(crate) fn h(&self) -> u32 {
        self.lock().h()
    }

    /// How many of the stanzas went back to their sender.
    pub(crate) fn bounced(&self) -> u32 {
        self.bounced.load(Ordering::Relaxed)
    }

    /// Whether everything that has come is dealt with.
    pub(crate) fn is_settled(&self) -> bool {
        self.lock().is_complete()
    }

    /// Waits until everything that has come so far is dealt with.
    pub(crate) async fn settled(&self) {
        let received = self.lock().received();
        loop {
            let changed = self.changed.notified();
            // Both counts wrap; they are never far apart.
            if received.wrapping_sub(self.h()).cast_signed() <= 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Receipt {
    /// The stanza goes back to its sender.
    pub(crate) fn bounce(&self) {
        self.receipts.bounced.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.receipts.lock().handled(self.number);
        self.receipts.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stanza_counts_when_the_last_one_who_deals_with_it_is_done() {
        let receipts = Arc::new(Receipts::default());
        let first = receipts.receive();
        let second = receipts.receive();
        let copy = Arc::clone(&first);
        drop(second);
        drop(first);
        assert_eq!(receipts.h(), 0);
        drop(copy);
        assert_eq!(receipts.h(), 2);
    }

    #[test]
    fn what_went_back_is_counted() {
        let receipts = Arc::new(Receipts::default());
        let (first, _second) = (receipts.receive(), receipts.receive());
        assert_eq!(receipts.bounced(), 0);
        first.bounce();
        assert_eq!(receipts.bounced(), 1);
    }

    #[tokio::test]
    async fn who_waits_learns_that_all_is_dealt_with() {
        let receipts = Arc::new(Receipts::default());
        receipts.settled().await;
        let stanza = receipts.receive();
        let waits = {
            let receipts = Arc::clone(&receipts);
            tokio::spawn(async move { receipts.settled().await })
        };
        tokio::task::yield_now().await;
        // What comes later is not waited for.
        let _later = receipts.receive();
        drop(stanza);
        waits.await.unwrap();
        assert_eq!(receipts.h(), 1);
    }
}
