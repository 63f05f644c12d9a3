//! The message log: one per account, append-only, of which offline messages are a view.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};

use crate::{Error, metrics};

/// Place of an entry in its account's log.
///
/// Ids of one log grow in the order in which entries become visible: an entry that a reader can see
/// later never sorts before one that it could have seen already, whichever node wrote it. They say
/// nothing about entries of other accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Whose log.
    pub account: BareJid,
    /// Who it came from or went to.
    pub peer: Jid,
    /// When the server accepted it; kept to the microsecond.
    pub at: SystemTime,
    /// The stanza as standalone XML.
    pub stanza: String,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: EntryId,
    /// Who it came from or went to.
    pub peer: Jid,
    /// When the server accepted it.
    pub at: SystemTime,
    /// The stanza as standalone XML.
    pub stanza: String,
}

/// Why one entry of a batch was not stored. The others were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The account has as many undelivered entries as it may have.
    #[error("the account's log is full")]
    Full,
    /// There is no such account.
    #[error("there is no such account")]
    NoAccount,
}

/// The logs of all accounts.
#[async_trait]
pub trait LogStore {
    /// Appends entries, and answers when they are on disk: what an `Ok` holds survives a crash.
    ///
    /// Calls that queue up while a commit runs share the next commit. Entries of one account get
    /// their ids in the order of the calls of one node, and of the entries within a call.
    /// `limit` is the number of undelivered entries that an account may have.
    ///
    /// # Errors
    /// Failures only; per entry see [`Refused`]. After a failure the entries may have been stored
    /// all the same (all of them or none), if the answer to the commit was lost.
    async fn append(
        &self,
        entries: Vec<NewEntry>,
        limit: usize,
    ) -> Result<Vec<Result<EntryId, Refused>>, Error>;

    /// The first `limit` entries past the delivered mark, and past `after` if that is given.
    ///
    /// # Errors
    /// Failures only.
    async fn undelivered(
        &self,
        account: &BareJid,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error>;

    /// Moves the delivered mark up to and including `up_to`; it never moves back. Gives the number
    /// of entries that this made delivered. As nothing reads delivered entries yet, they are
    /// removed in the same transaction.
    ///
    /// # Errors
    /// Failures only.
    async fn mark_delivered(&self, account: &BareJid, up_to: EntryId) -> Result<u64, Error>;

    /// Number of entries past the delivered mark.
    ///
    /// # Errors
    /// Failures only.
    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error>;
}

/// Microseconds since 1970, as databases keep times. Times that do not fit are brought to the
/// nearest that does.
pub(crate) fn to_micros(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// The time that [`to_micros`] gave as `micros`.
pub(crate) fn from_micros(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let at = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Where the ids of a new account's log, and the versions of its roster, begin: above those that an
/// account of this name may have had before.
pub(crate) fn first_number() -> i64 {
    to_micros(SystemTime::now())
}

/// An id or version as databases keep it; those that are out of range lie above all that exist.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An id or version from a database, which holds none below 0.
pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Counts the outcome of an append.
pub(crate) fn count_appended(appended: &[Result<EntryId, Refused>]) {
    let stored = appended.iter().filter(|one| one.is_ok()).count();
    metrics::LOG_ROWS_APPENDED.inc_by(stored as u64);
    metrics::LOG_ROWS_REFUSED.inc_by((appended.len() - stored) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_to_the_microsecond() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000] {
            assert_eq!(to_micros(from_micros(micros)), micros);
        }
    }
}
