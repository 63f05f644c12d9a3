//! Messages from the log, for a resource that can take them now: what came while nobody could
//! (RFC 6121 §8.5.2.2.1, XEP-0160), and what others did not confirm.
//!
//! The resource reads what is undelivered, page by page, as fast as its client takes it; until it has
//! read everything, messages for the account go to the log only, so that none overtakes an older one.
//! An entry leaves the list of the undelivered when a client has confirmed it ([`crate::log_tracker`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rookery_features::offline;
use rookery_proto::jid::BareJid;
use rookery_proto::stanza::Stanza;
use rookery_storage::{Entry, EntryId};

use crate::account::{Account, Resource};
use crate::cluster::Remote;
use crate::log_tracker::place;
use crate::outbox::Outgoing;
use crate::shard::Shard;

/// Entries that are read at a time.
const PAGE: usize = 100;

/// Accounts that are looked at in one query.
const ACCOUNTS: usize = 500;

/// Pause after storage could not be read.
const RETRY: Duration = Duration::from_secs(1);

impl Shard {
    /// A resource has become able to take messages. What is undelivered in its account's log is for the
    /// first such resource: if there is another one, on whichever node, it is on its way to that.
    pub(crate) async fn join_in(self: &Rc<Self>, account: &Rc<Account>, resource: &Rc<Resource>) {
        let arrivals = account.log.arrivals();
        let is_first = self.is_first(account, resource).await;
        // Or somebody who knows of it has left something in the log for it.
        if is_first || account.log.arrivals() != arrivals {
            self.catch_up(account, resource);
        } else {
            resource.takes_messages.set(true);
        }
    }

    async fn is_first(self: &Rc<Self>, account: &Account, resource: &Rc<Resource>) -> bool {
        if let Err(error) = self.look_up(std::slice::from_ref(&account.jid)).await {
            tracing::warn!(condition = ?error.condition, "the account's other resources are not known");
        }
        let is_other = |other: &Rc<Resource>| {
            !Rc::ptr_eq(other, resource) && (other.takes_messages.get() || other.reads_log.get())
        };
        if account.resources.borrow().iter().any(is_other) {
            return false;
        }
        // Of two that come at the same time on different nodes, the older session reads. One on a node
        // that has died is cleared up soon; then the log is read again.
        let is_older = |remote: &Remote| {
            remote.available && remote.priority >= 0 && remote.sequence < resource.sequence.get()
        };
        !self
            .cache
            .borrow()
            .get(account.jid.as_str())
            .iter()
            .any(is_older)
    }

    /// Gives a resource what is undelivered in its account's log. If it does not take messages yet,
    /// it does when it has that.
    pub(crate) fn catch_up(self: &Rc<Self>, account: &Rc<Account>, resource: &Rc<Resource>) {
        if resource.reads_log.replace(true) {
            // Whatever was undelivered before this moment is found by the reading that runs.
            account.log.came();
            return;
        }
        let shard = Rc::clone(self);
        let (account, resource) = (Rc::clone(account), Rc::clone(resource));
        actix_rt::spawn(async move {
            shard.read_to_the_end(&account, &resource).await;
        });
    }

    async fn read_to_the_end(self: &Rc<Self>, account: &Rc<Account>, resource: &Rc<Resource>) {
        self.read_log(account, resource).await;
        resource.reads_log.set(false);
        let is_willing = resource.is_available() && resource.priority.get() >= 0;
        resource
            .takes_messages
            .set(is_willing && account.holds(resource));
    }

    async fn read_log(self: &Rc<Self>, account: &Rc<Account>, resource: &Rc<Resource>) {
        // What was confirmed is not undelivered.
        self.write_confirmations().await;
        let _reading = account.log.reading();
        let storage = &self.node().storage;
        let mut after: Option<EntryId> = None;
        let mut count = PAGE;
        let mut may_wait = usize::MAX;
        // A page is read when there is room for it: none waits in memory for a slow client.
        while self.has_drained(resource, may_wait).await {
            let arrivals = account.log.arrivals();
            let page = match storage.undelivered(&account.jid, after, count).await {
                Ok(page) => page,
                Err(error) => {
                    self.logs_are_out_of_reach(&error);
                    // Until then nothing may overtake them.
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.logs_unread.set(false);
            let is_last = page.len() < count;
            let read = page.len();
            let mut taken = 0;
            for entry in page {
                if !account.log.knows(entry.id.0) && !hand_out(account, resource, &entry) {
                    break;
                }
                taken += 1;
                after = Some(entry.id);
                resource.read_up_to.set(entry.id.0);
            }
            // What came while the last page was read is on the next one.
            if taken == read && is_last && account.log.arrivals() == arrivals {
                return;
            }
            // The rest of the page is read again when there is room.
            count = if taken == read {
                PAGE.min(2 * count)
            } else {
                taken.max(1)
            };
            may_wait = if taken == 0 { 0 } else { usize::MAX };
        }
    }

    /// Waits until no more than so many bytes wait for a client, or what counts as room. If it takes
    /// nothing for as long as a peer may accept no bytes, its session ends: under stream management, where
    /// the bytes may be with the client and are not acknowledged, nothing else would notice.
    ///
    /// Returns whether the client can take more.
    async fn has_drained(self: &Rc<Self>, resource: &Rc<Resource>, bytes: usize) -> bool {
        let outbox = &resource.outbox;
        let patience = self.node().settings.c2s.write_timeout;
        loop {
            let (before, was_connected) = (outbox.bytes(), outbox.is_connected());
            let drained = outbox.drained_to(bytes);
            if tokio::time::timeout(patience, drained).await.is_ok() {
                return !outbox.is_closed();
            }
            if was_connected && outbox.is_connected() && outbox.bytes() >= before {
                self.end_slow(resource);
                return false;
            }
        }
    }

    /// A client is slower than what comes for it: what is in its account's log it reads from there, and
    /// is not ended. That is for the only resource that takes messages: where there are others, what
    /// they have got is not in the list of the undelivered.
    ///
    /// Returns whether it does so.
    pub(crate) fn falls_behind(self: &Rc<Self>, resource: &Rc<Resource>) -> bool {
        let account = self.accounts.borrow().get(resource.jid.bare_str()).cloned();
        let account = account.filter(|account| self.is_only_one(account, resource));
        let Some(account) = account.filter(|_| !resource.outbox.is_closed()) else {
            return false;
        };
        tracing::debug!(jid = %resource.jid, "client is slow; it goes on from the log");
        resource.takes_messages.set(false);
        self.catch_up(&account, resource);
        true
    }

    /// Whether it is the one resource that takes messages, on all nodes.
    fn is_only_one(&self, account: &Account, resource: &Rc<Resource>) -> bool {
        let is_willing =
            |other: &&Rc<Resource>| other.takes_messages.get() || other.reads_log.get();
        let resources = account.resources.borrow();
        let mut willing = resources.iter().filter(is_willing);
        let is_remote = |remote: &Remote| remote.available && remote.priority >= 0;
        resource.takes_messages.get()
            && willing.all(|other| Rc::ptr_eq(other, resource))
            && !self
                .cache
                .borrow()
                .get(account.jid.as_str())
                .iter()
                .any(is_remote)
    }

    /// Something in an account's log is undelivered although the account has resources: one of those
    /// here reads the log again. Returns whether there is one.
    pub(crate) fn read_log_again(self: &Rc<Self>, account: &BareJid) -> bool {
        let Some(account) = self.accounts.borrow().get(account).cloned() else {
            // Gone: the next login reads it.
            return false;
        };
        // For one that is reading, or is about to.
        account.log.came();
        let is_reading = |resource: &Rc<Resource>| resource.reads_log.get();
        if account.resources.borrow().iter().any(is_reading) {
            return true;
        }
        let Some(resource) = account.most_willing() else {
            return false;
        };
        // What comes now must not overtake what it reads.
        if !self.falls_behind(&resource) {
            self.catch_up(&account, &resource);
        }
        true
    }

    /// Messages may be undelivered in the logs of accounts with resources here: they are read again, a
    /// few at a time.
    pub(crate) fn read_all_logs(self: &Rc<Self>) {
        let accounts: Vec<BareJid> = self.accounts.borrow().keys().cloned().collect();
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            // What is on its way here counts as undelivered, too: it is left out where it is read.
            for some in accounts.chunks(ACCOUNTS) {
                for account in shard.with_undelivered(some).await {
                    shard.read_log_again(&account);
                }
                shard.flush();
            }
        });
    }

    /// Those of the accounts that have something undelivered in their logs; waits for storage.
    async fn with_undelivered(&self, accounts: &[BareJid]) -> Vec<BareJid> {
        loop {
            match self.node().storage.with_undelivered(accounts).await {
                Ok(behind) => {
                    self.logs_unread.set(false);
                    return behind;
                }
                Err(error) => {
                    self.logs_are_out_of_reach(&error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Said once, not for each account that waits.
    fn logs_are_out_of_reach(&self, error: &rookery_storage::Error) {
        if !self.logs_unread.replace(true) {
            tracing::warn!(%error, "stored messages were not read; it is tried again");
        }
    }
}

/// Returns whether the resource took it, or need not.
fn hand_out(account: &Account, resource: &Rc<Resource>, entry: &Entry) -> bool {
    let Ok(mut stanza) = Stanza::from_xml(&entry.stanza) else {
        tracing::error!(account = %account.jid, id = %entry.id, "a stored message is unreadable");
        return true;
    };
    offline::add_delay(&mut stanza, account.jid.domain(), entry.at);
    let outgoing = Outgoing {
        entry: Some(place(entry.id, entry.archived)),
        ..Outgoing::new(Arc::new(stanza))
    };
    resource.outbox.push(outgoing).is_ok()
}

impl Account {
    /// The resource here that has the highest priority of those that take messages.
    fn most_willing(&self) -> Option<Rc<Resource>> {
        let resources = self.resources.borrow();
        let willing = resources
            .iter()
            .filter(|resource| resource.takes_messages.get());
        willing
            .max_by_key(|resource| resource.priority.get())
            .cloned()
    }
}
