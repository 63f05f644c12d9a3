//! Which entries of an account's log are on their way to its clients on this node.
//!
//! An entry stays undelivered in the log until a client has confirmed it (by an acknowledgement of
//! XEP-0198, or, without that, by its socket taking the bytes). Confirmations are gathered and written
//! for many accounts at once, a little later: what a crash keeps from being written is delivered a
//! second time, never lost. Any copy that is confirmed counts; an entry whose last copy is gone
//! without is undelivered again, and whoever ends the session looks for another way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use rookery_bus::LogRef;
use rookery_proto::jid::BareJid;
use rookery_storage::EntryId;

use crate::shard::Shard;

/// How long confirmations gather before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// How long they wait when storage could not write the last ones.
const RETRY: Duration = Duration::from_secs(1);

/// A place in an account's log.
pub(crate) fn place(id: EntryId, archived: bool) -> LogRef {
    LogRef { id: id.0, archived }
}

/// The entries of one account that this node deals with.
#[derive(Debug)]
pub struct LogTracker {
    account: BareJid,
    state: RefCell<State>,
    /// Whether it stands in the shard's list of those with something to write.
    is_listed: Cell<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Copies of an entry that were handed to clients and are not confirmed.
    copies: HashMap<u64, u16>,
    /// Confirmed, and not yet written.
    confirmed: Vec<EntryId>,
    /// Written while a reading of the log was under way, which may have seen them as undelivered.
    written: HashSet<u64>,
    readings: usize,
    /// Counts what came into the log for resources that are reading it.
    arrivals: u64,
}

impl LogTracker {
    /// Nothing is on its way.
    pub fn new(account: BareJid) -> Self {
        Self {
            account,
            state: RefCell::default(),
            is_listed: Cell::new(false),
        }
    }

    /// A copy of an entry was handed to a client.
    pub(crate) fn handed_out(&self, entry: u64) {
        *self.state.borrow_mut().copies.entry(entry).or_default() += 1;
    }

    /// A client has an entry for sure.
    pub(crate) fn confirmed(self: &Rc<Self>, entry: u64) {
        let mut state = self.state.borrow_mut();
        // Other copies may have been confirmed before, or are still to be: they count once.
        if state.copies.remove(&entry).is_none() {
            return;
        }
        state.confirmed.push(EntryId(entry));
        drop(state);
        self.has_something_to_write();
    }

    fn has_something_to_write(self: &Rc<Self>) {
        if !self.is_listed.replace(true) {
            Shard::current().confirmations.borrow_mut().add(self);
        }
    }

    /// A copy is gone without a confirmation. Returns whether the entry is undelivered again.
    pub(crate) fn given_up(&self, entry: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(copies) = state.copies.get_mut(&entry) else {
            return false;
        };
        *copies -= 1;
        if *copies > 0 {
            return false;
        }
        state.copies.remove(&entry);
        true
    }

    /// Whether an entry that the log calls undelivered is being dealt with.
    pub(crate) fn knows(&self, entry: u64) -> bool {
        let state = self.state.borrow();
        state.copies.contains_key(&entry)
            || state.confirmed.contains(&EntryId(entry))
            || state.written.contains(&entry)
    }

    /// Something came that a resource which is reading the log has to find there.
    pub(crate) fn came(&self) {
        self.state.borrow_mut().arrivals += 1;
    }

    /// How often something [`came`](Self::came).
    pub(crate) fn arrivals(&self) -> u64 {
        self.state.borrow().arrivals
    }

    /// Somebody reads the log, until the guard is dropped.
    pub(crate) fn reading(self: &Rc<Self>) -> Reading {
        self.state.borrow_mut().readings += 1;
        Reading(Rc::clone(self))
    }

    fn take_confirmed(&self) -> Vec<EntryId> {
        self.is_listed.set(false);
        let mut state = self.state.borrow_mut();
        let confirmed = std::mem::take(&mut state.confirmed);
        // Until they are written, and until those who read before have gone on.
        state.written.extend(confirmed.iter().map(|entry| entry.0));
        confirmed
    }

    /// What was taken could not be written: it has to be tried again, and stays known until then.
    fn not_written(self: &Rc<Self>, entries: Vec<EntryId>) {
        let mut state = self.state.borrow_mut();
        for entry in &entries {
            state.written.remove(&entry.0);
        }
        state.confirmed.extend(entries);
        drop(state);
        self.has_something_to_write();
    }

    /// What was taken has been written.
    fn settled(&self, entries: &[EntryId]) {
        let mut state = self.state.borrow_mut();
        if state.readings > 0 {
            return;
        }
        for entry in entries {
            state.written.remove(&entry.0);
        }
        if state.written.is_empty() {
            state.written = HashSet::new();
        }
    }
}

/// A reading of the log.
pub(crate) struct Reading(Rc<LogTracker>);

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.readings -= 1;
        if state.readings == 0 {
            state.written = HashSet::new();
        }
    }
}

/// The accounts of a shard with confirmations to be written.
#[derive(Default)]
pub(crate) struct Confirmations {
    listed: Vec<Rc<LogTracker>>,
    /// Held while some are being written.
    writing: Rc<tokio::sync::Mutex<()>>,
    /// Whether the last ones could not be written.
    failed: bool,
}

impl Confirmations {
    /// How long confirmations gather now.
    fn pause(&self) -> Duration {
        if self.failed { RETRY } else { GATHER }
    }

    fn add(&mut self, tracker: &Rc<LogTracker>) {
        if self.listed.is_empty() {
            actix_rt::spawn(async {
                let pause = Shard::current().confirmations.borrow().pause();
                tokio::time::sleep(pause).await;
                Shard::current().write_confirmations().await;
            });
        }
        self.listed.push(Rc::clone(tracker));
    }
}

impl Shard {
    /// Moves delivered marks for all that was confirmed.
    ///
    /// When it returns, all that was confirmed before is written.
    pub(crate) async fn write_confirmations(&self) {
        let writing = Rc::clone(&self.confirmations.borrow().writing);
        let _turn = writing.lock().await;
        let listed = std::mem::take(&mut self.confirmations.borrow_mut().listed);
        let mut taken = Vec::with_capacity(listed.len());
        for tracker in listed {
            let confirmed = tracker.take_confirmed();
            if !confirmed.is_empty() {
                taken.push((tracker, confirmed));
            }
        }
        if taken.is_empty() {
            return;
        }
        let marks = taken
            .iter()
            .map(|(tracker, entries)| (tracker.account.clone(), entries.clone()))
            .collect();
        let written = self.node().storage.mark_delivered(marks).await;
        self.confirmations.borrow_mut().failed = written.is_err();
        if let Err(error) = &written {
            tracing::warn!(%error, "what was delivered could not be noted; it is tried again");
        }
        for (tracker, entries) in taken {
            match written {
                Ok(()) => tracker.settled(&entries),
                Err(_) => tracker.not_written(entries),
            }
        }
    }
}
