//! Messages from the log, for a resource that can take them now: what came while nobody could
//! (RFC 6121 §8.5.2.2.1, XEP-0160), and what others did not confirm.
//!
//! The resource reads what is undelivered, page by page, as fast as its client takes it; until it has
//! read everything, messages for the account go to the log only, so that none overtakes an older one.
//! An entry leaves the list of the undelivered when a client has confirmed it ([`crate::log_tracker`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rookery_bus::LogRef;
use rookery_features::offline;
use rookery_proto::jid::BareJid;
use rookery_proto::stanza::Stanza;
use rookery_storage::{Entry, EntryId};

use crate::account::{Account, Resource};
use crate::cluster::Remote;
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
        loop {
            let arrivals = account.log.arrivals();
            let page = match storage.undelivered(&account.jid, after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(account = %account.jid, %error,
                        "stored messages were not read; it is tried again");
                    self.read_log_later(account.jid.clone());
                    return;
                }
            };
            let is_last = page.len() < PAGE;
            for entry in page {
                after = Some(entry.id);
                if !account.log.knows(entry.id.0) && !self.hand_out(account, resource, &entry) {
                    return;
                }
                resource.read_up_to.set(entry.id.0);
                // A long log must not overflow the outbox.
                resource.outbox.room().await;
            }
            // What came while the last page was read is on the next one.
            if is_last && account.log.arrivals() == arrivals {
                return;
            }
            if resource.outbox.is_closed() {
                return;
            }
        }
    }

    /// Returns whether the resource can take more.
    fn hand_out(&self, account: &Account, resource: &Rc<Resource>, entry: &Entry) -> bool {
        let Ok(mut stanza) = Stanza::from_xml(&entry.stanza) else {
            tracing::error!(account = %account.jid, id = %entry.id, "a stored message is unreadable");
            return true;
        };
        offline::add_delay(&mut stanza, account.jid.domain(), entry.at);
        let outgoing = Outgoing {
            entry: Some(LogRef {
                id: entry.id.0,
                archived: entry.archived,
            }),
            ..Outgoing::new(Arc::new(stanza))
        };
        self.push(resource, outgoing)
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
        if let Some(resource) = account.most_willing() {
            self.catch_up(&account, &resource);
            return true;
        }
        let resources = account.resources.borrow();
        resources.iter().any(|resource| resource.reads_log.get())
    }

    /// The log cannot be read now.
    fn read_log_later(self: &Rc<Self>, account: BareJid) {
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            tokio::time::sleep(RETRY).await;
            shard.deliver_from_log(&account);
        });
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
                Ok(behind) => return behind,
                Err(error) => {
                    tracing::warn!(%error, "message logs were not read; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
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
