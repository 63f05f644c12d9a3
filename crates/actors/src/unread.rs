//! Accounts that have something undelivered in their logs, for which somebody who reads it is looked for.
//!
//! A message that is in the log is delivered from there whenever its live delivery failed or was not
//! possible: nobody was known to take it, the directory did not answer, the bus gave it back, a session
//! ended without confirming it. A resource on this node reads the log again, or the node of one elsewhere
//! is told to; the directory is asked until it answers. If nobody is online, the next login reads it.
//!
//! Until somebody was told, whatever else comes for the account goes to the log only, so that it does
//! not overtake what is there (RFC 6120 §10.1).

use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashSet;
use rookery_bus::Frame;
use rookery_directory::SessionRow;
use rookery_features::offline;
use rookery_proto::jid::{BareJid, Jid};

use crate::cluster::Cluster;
use crate::router::Place;
use crate::shard::{Parcel, Shard};
use crate::trace::{self, Stage};

/// Accounts of a shard at most; of those beyond, messages wait for the next login.
const MAX_ACCOUNTS: usize = 20_000;

/// Accounts that are looked up at a time.
const AT_ONCE: usize = 500;

/// Pause after the directory did not answer, or a node could not be told, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The accounts of a shard.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Something came into their logs since they were looked up last.
    waiting: HashSet<BareJid>,
    /// Those that are being looked up.
    asked: HashSet<BareJid>,
    /// Whether the task that works them off is running.
    is_running: bool,
}

impl Unread {
    fn holds(&self, account: &str) -> bool {
        self.waiting.contains(account) || self.asked.contains(account)
    }

    /// Those to look up next; the task ends if there are none.
    fn ask(&mut self) -> Vec<BareJid> {
        let some: Vec<BareJid> = self.waiting.iter().take(AT_ONCE).cloned().collect();
        for account in &some {
            self.waiting.remove(account);
        }
        self.asked.extend(some.iter().cloned());
        self.is_running = !some.is_empty();
        some
    }

    /// Somebody reads all that came until now.
    fn told(&mut self, account: &BareJid) {
        self.waiting.remove(account);
    }
}

impl Shard {
    /// Something in an account's log is undelivered, which was committed before: whoever is online gets
    /// it, on this node or on another. If there is nobody, it waits in the log.
    pub(crate) fn deliver_from_log(self: &Rc<Self>, account: &BareJid) {
        if self.read_log_again(account) || self.node().cluster.is_none() {
            return;
        }
        let mut unread = self.unread.borrow_mut();
        if unread.waiting.len() >= MAX_ACCOUNTS {
            tracing::warn!(%account, "stored messages may wait until their account's next login");
            return;
        }
        unread.waiting.insert(account.clone());
        if !std::mem::replace(&mut unread.is_running, true) {
            actix_rt::spawn(Rc::clone(self).tell_readers());
        }
    }

    /// A message that has its place in the log is not delivered in another way.
    pub(crate) fn leave_in_log(self: &Rc<Self>, parcel: &Parcel) {
        trace::stage(Stage::LeftInLog, &parcel.stanza, |step| {
            step.entry(parcel.entry)
        });
        // One that is only archived is not waited for.
        if offline::is_stored(&parcel.stanza)
            && let Some(to) = &parcel.stanza.to
        {
            self.deliver_from_log(&to.to_bare());
        }
    }

    /// Whether a message that is in the log has to be read there, as others for resources elsewhere have.
    pub(crate) fn is_behind_unread(&self, parcel: &Parcel, chosen: &[&Place]) -> bool {
        let account = parcel.stanza.to.as_ref().map(Jid::bare_str);
        parcel.entry.is_some()
            && account.is_some_and(|account| self.unread.borrow().holds(account))
            && offline::is_stored(&parcel.stanza)
            && chosen.iter().all(|place| matches!(place, Place::There(..)))
    }

    async fn tell_readers(self: Rc<Self>) {
        let Some(cluster) = &self.node().cluster else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let accounts = self.unread.borrow_mut().ask();
            if accounts.is_empty() {
                return;
            }
            let rows = cluster.directory.lookup(&accounts).await;
            self.unread.borrow_mut().asked.clear();
            let not_told = match rows {
                Ok(rows) => {
                    let each = accounts.into_iter().zip(rows);
                    let not_told =
                        each.filter(|(account, rows)| !self.tell_reader(cluster, account, rows));
                    not_told.map(|(account, _)| account).collect()
                }
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        tracing::warn!(%error, "stored messages wait until the directory answers");
                    }
                    accounts
                }
            };
            if not_told.is_empty() {
                pause = FIRST_PAUSE;
                continue;
            }
            self.unread.borrow_mut().waiting.extend(not_told);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Has somebody read an account's log. Returns false if a node has to be told and could not be.
    fn tell_reader(
        self: &Rc<Self>,
        cluster: &Cluster,
        account: &BareJid,
        rows: &[SessionRow],
    ) -> bool {
        let own = cluster.epoch();
        let willing = rows
            .iter()
            .filter(|row| row.available && row.priority >= 0 && row.epoch != own);
        let Some(row) = willing.max_by_key(|row| row.priority) else {
            // One may have come here meanwhile.
            self.read_log_again(account);
            return true;
        };
        // What comes now follows it.
        self.cache.borrow_mut().forget(account.as_str());
        let account = account.clone();
        let changed = Frame::LogChanged {
            account: account.clone(),
        };
        if cluster.send(row.epoch, changed).is_err() {
            return false;
        }
        self.unread.borrow_mut().told(&account);
        true
    }
}
