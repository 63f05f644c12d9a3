//! Rosters with their versions (RFC 6121 §2).

use async_trait::async_trait;
use rookery_proto::{
    jid::BareJid,
    roster::{RosterItem, Subscription},
};

use crate::{Error, Options};

/// How many removed contacts a roster remembers for clients that ask for the changes since a
/// version. Older versions are answered with the whole roster.
pub const MAX_TOMBSTONES: u32 = 128;

/// All of an account's roster items at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// The version that these items make up (RFC 6121 §2.6). Opaque to clients; grows with every
    /// change. 0 if there is no such account.
    pub version: u64,
    /// The items, also those that only hold an inbound subscription request; sorted by contact.
    pub items: Vec<RosterItem>,
}

/// What a contact's item became by the newest change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterChange {
    /// The roster's version after that change.
    pub version: u64,
    /// The contact.
    pub contact: BareJid,
    /// The item as it is now; `None`: it was removed.
    pub item: Option<RosterItem>,
}

/// What is to happen to an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterDecision {
    /// Nothing; the version stays.
    Keep,
    /// The item is created or replaced. Putting back what is there is the same as `Keep`. Its JID
    /// must be the contact that the update is for.
    Put(RosterItem),
    /// The item goes. Removing what is not there is the same as `Keep`.
    Remove,
}

/// Decides about one item, given what is stored of it. Runs inside the transaction, on the
/// storage's own thread: it must be quick, and it sees no other change until its own is committed.
pub type RosterUpdate = Box<dyn FnOnce(Option<&RosterItem>) -> RosterDecision + Send>;

/// A committed (or needless) update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterCommit {
    /// The roster's version now; as before if nothing changed.
    pub version: u64,
    /// The item before.
    pub before: Option<RosterItem>,
    /// The item now.
    pub after: Option<RosterItem>,
}

impl RosterCommit {
    /// Whether anything changed.
    pub fn is_change(&self) -> bool {
        self.before != self.after
    }
}

/// The rosters of all accounts.
#[async_trait]
pub trait RosterStore {
    /// The roster; empty with version 0 if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn roster(&self, account: &BareJid) -> Result<Roster, Error>;

    /// One item.
    ///
    /// # Errors
    /// Failures only.
    async fn roster_item(
        &self,
        account: &BareJid,
        contact: &BareJid,
    ) -> Result<Option<RosterItem>, Error>;

    /// For each contact changed after `version` its newest change, in the order of versions. `None`
    /// if that version is too old or not of this roster: then the whole roster has to be sent.
    ///
    /// # Errors
    /// Failures only.
    async fn roster_changes_since(
        &self,
        account: &BareJid,
        version: u64,
    ) -> Result<Option<Vec<RosterChange>>, Error>;

    /// Reads one item, lets `update` decide, and writes, in one transaction; updates of one roster
    /// run one after the other, also when several nodes make them.
    ///
    /// # Errors
    /// [`Error::NoAccount`], and [`Error::Full`] when a new item would exceed the limit. Items that
    /// hold nothing but an inbound subscription request are counted apart, so that strangers
    /// cannot fill up a roster.
    async fn update_roster(
        &self,
        account: &BareJid,
        contact: &BareJid,
        update: RosterUpdate,
    ) -> Result<RosterCommit, Error>;
}

/// What an update amounts to.
pub(crate) enum Plan {
    /// Nothing to write.
    Unchanged,
    /// Write this item; it differs from what is there.
    Put(RosterItem),
    /// Remove the item, which is there.
    Remove,
}

/// Asks `update` and finds out what has to be written.
pub(crate) fn plan(before: Option<&RosterItem>, contact: &BareJid, update: RosterUpdate) -> Plan {
    match (update(before), before) {
        (RosterDecision::Keep, _) | (RosterDecision::Remove, None) => Plan::Unchanged,
        (RosterDecision::Remove, Some(_)) => Plan::Remove,
        (RosterDecision::Put(item), _) => {
            let subscription = match item.subscription {
                // Never stored.
                Subscription::Remove => Subscription::None,
                stored => stored,
            };
            let item = RosterItem {
                jid: contact.clone(),
                subscription,
                ..item
            };
            if before == Some(&item) {
                Plan::Unchanged
            } else {
                Plan::Put(item)
            }
        }
    }
}

/// Whether the item holds nothing but an inbound request; such items have a limit of their own.
pub(crate) fn is_only_request(item: &RosterItem) -> bool {
    item.pending_in.is_some()
        && item.subscription == Subscription::None
        && !item.ask
        && !item.approved
        && item.name.is_none()
        && item.groups.is_empty()
}

/// Groups as a database keeps them: a JSON array of strings.
pub(crate) fn groups_to_json(groups: &[String]) -> String {
    serde_json::Value::from(groups).to_string()
}

/// Reads what [`groups_to_json`] wrote.
pub(crate) fn groups_from_json(json: &str) -> Result<Vec<String>, Error> {
    if json == "[]" {
        return Ok(Vec::new());
    }
    serde_json::from_str(json).map_err(|error| Error::corrupt("roster groups", error))
}

/// Whether there is room for one more item beside `count` of its kind.
pub(crate) fn check_limit(options: &Options, hidden: bool, count: i64) -> Result<(), Error> {
    let (what, limit) = if hidden {
        ("subscription requests", options.max_pending_requests)
    } else {
        ("roster", options.max_roster_items)
    };
    if usize::try_from(count).is_ok_and(|count| count < limit) {
        Ok(())
    } else {
        Err(Error::Full { what, limit })
    }
}
