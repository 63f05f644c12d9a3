//! Cache hints: telling every node that what it knows of some accounts is old.
//!
//! Hints go out at once while none is on its way; what gathers meanwhile goes out in the next one.
//! They are sent after the write that they are about. A node that dies in between leaves only rows
//! of its own behind, and those are flushed when it is found dead.
//!
//! A hint that could not be sent becomes "everything" and is sent when the connection is back.
//!
//! ```text
//! hint = version (1) · sender's epoch (u64) · kind (0: everything, 1: accounts) · accounts
//! account = length (u16) · bare JID
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rookery_proto::cluster::Epoch;
use rookery_proto::jid::BareJid;
use tokio::sync::Notify;

use super::{Inner, keys};
use crate::events::EventQueue;
use crate::link::OnMessage;
use crate::metrics;

const VERSION: u8 = 1;
const EVERYTHING: u8 = 0;
const ACCOUNTS: u8 = 1;
/// Accounts in one hint at most.
const BATCH: usize = 512;
/// More than these waiting become "everything".
const MAX_WAITING: usize = 16 * 1024;

/// Hints that wait to be sent, and those that come in.
pub(super) struct Hints {
    epoch: Epoch,
    events: EventQueue,
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Default)]
struct Waiting {
    accounts: HashSet<BareJid>,
    everything: bool,
}

impl Hints {
    pub(super) fn new(epoch: Epoch, events: EventQueue) -> Self {
        Self {
            epoch,
            events,
            waiting: Mutex::default(),
            notify: Notify::new(),
        }
    }

    /// This node changed sessions of the account.
    pub(super) fn changed(&self, account: BareJid) {
        self.events.changed([account.clone()]);
        let mut waiting = self.lock();
        if !waiting.everything {
            waiting.accounts.insert(account);
            if waiting.accounts.len() > MAX_WAITING {
                waiting.give_up();
            }
            self.notify.notify_one();
        }
    }

    /// The other nodes may have missed hints of this one.
    pub(super) fn flush_everywhere(&self) {
        self.lock().give_up();
        self.notify.notify_one();
    }

    /// What handles the hints that come in.
    pub(super) fn listener(self: &Arc<Self>) -> OnMessage {
        let hints = Arc::downgrade(self);
        Arc::new(move |payload| {
            if let Some(hints) = hints.upgrade() {
                hints.receive(payload);
            }
        })
    }

    fn receive(&self, payload: &[u8]) {
        match decode(payload) {
            Some((from, _)) if from == self.epoch => {}
            Some((_, Some(accounts))) => {
                metrics::HINTS
                    .with_label_values(&["received"])
                    .inc_by(accounts.len() as u64);
                self.events.changed(accounts);
            }
            // Whatever a newer version says, forgetting everything is right.
            Some((_, None)) | None => {
                metrics::HINTS.with_label_values(&["flushed"]).inc();
                self.events.flush_cache();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn give_up(&mut self) {
        self.accounts = HashSet::new();
        self.everything = true;
    }
}

/// Sends hints for as long as the directory runs.
pub(super) async fn send(inner: Arc<Inner>) {
    let mut link = inner.link.state();
    loop {
        inner.hints.notify.notified().await;
        if link.wait_for(|state| state.up).await.is_err() {
            return;
        }
        flush(&inner).await;
    }
}

/// Sends what is waiting.
pub(super) async fn flush(inner: &Inner) {
    let Waiting {
        accounts,
        everything,
    } = std::mem::take(&mut *inner.hints.lock());
    let accounts: Vec<BareJid> = accounts.into_iter().collect();
    let mut hints: Vec<Vec<u8>> = accounts
        .chunks(BATCH)
        .map(|some| encode(inner.hints.epoch, Some(some)))
        .collect();
    if everything {
        hints = vec![encode(inner.hints.epoch, None)];
    }
    for hint in hints {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(keys::hints(&inner.config.prefix)).arg(hint);
        let sent: Result<(), _> = inner.link.command(&publish).await;
        if sent.is_err() {
            inner.hints.flush_everywhere();
            return;
        }
    }
    metrics::HINTS
        .with_label_values(&["sent"])
        .inc_by(accounts.len() as u64);
}

/// `None`: everything.
fn encode(epoch: Epoch, accounts: Option<&[BareJid]>) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&epoch.0.to_be_bytes());
    let Some(accounts) = accounts else {
        out.push(EVERYTHING);
        return out;
    };
    out.push(ACCOUNTS);
    for account in accounts {
        // RFC 7622 §3.1: local part and domain are of 1023 octets each at most.
        let length = u16::try_from(account.as_str().len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(account.as_str().as_bytes());
    }
    out
}

/// The sender and its accounts, `None` for everything; `None` if it cannot be read.
fn decode(hint: &[u8]) -> Option<(Epoch, Option<Vec<BareJid>>)> {
    let (&version, rest) = hint.split_first()?;
    if version != VERSION {
        return None;
    }
    let (epoch, rest) = rest.split_first_chunk()?;
    let epoch = Epoch(u64::from_be_bytes(*epoch));
    let (&kind, mut rest) = rest.split_first()?;
    if kind == EVERYTHING {
        return Some((epoch, None));
    }
    let mut accounts = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk() {
        let (account, more) = more.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        accounts.push(BareJid::parse(std::str::from_utf8(account).ok()?).ok()?);
        rest = more;
    }
    rest.is_empty().then_some((epoch, Some(accounts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_reads_back_equal() {
        let accounts: Vec<BareJid> = ["ann@example.com", "bob@example.com"]
            .map(|jid| BareJid::parse(jid).unwrap())
            .into();
        let hint = encode(Epoch(7), Some(&accounts));
        assert_eq!(decode(&hint), Some((Epoch(7), Some(accounts))));
        assert_eq!(decode(&encode(Epoch(7), None)), Some((Epoch(7), None)));
        for end in 0..hint.len() {
            let cut = decode(&hint[..end]);
            assert!(cut.is_none_or(|(_, accounts)| accounts.is_none_or(|some| some.len() < 2)));
        }
    }
}
