//! The message log: one per account, append-only. Offline messages, what a crash left undelivered, and
//! the archive (`archive.rs`) are views of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

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

/// A message to append to the logs of its two ends, in one transaction.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// When the server accepted it; kept to the microsecond.
    pub at: SystemTime,
    /// The stanza as standalone XML; the same text goes into both logs.
    pub stanza: Arc<str>,
    /// The recipient's copy. `None`: the recipient has no account here, or is the sender.
    pub recipient: Option<LogCopy>,
    /// The sender's copy. `None`: the sender has no account here, or keeps nothing.
    pub sender: Option<LogCopy>,
}

/// What one log gets of a [`NewMessage`].
#[derive(Clone, Debug)]
pub struct LogCopy {
    /// Whose log.
    pub account: BareJid,
    /// Who it came from or went to, as stamped: full or bare.
    pub peer: Jid,
    /// Whether it belongs in the archive, if the account's preferences agree.
    pub archive: bool,
    /// Whether it has to be delivered from the log.
    pub pending: Pending,
}

/// Whether an entry has to be delivered from the log, if nobody confirms its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// No: it is for the archive alone.
    No,
    /// It is about to be delivered live. Undelivered until it is marked; never refused for the
    /// limit.
    Live,
    /// Nobody is there. Refused with [`Refused::Full`] if the account has as many undelivered
    /// entries as it may have.
    Offline,
}

/// What became of a [`NewMessage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The recipient's copy. `None`: there is none, as it is not pending and the recipient's
    /// preferences do not want it archived.
    pub recipient: Option<StoredCopy>,
    /// The sender's copy; `None` also if the sender's account is gone.
    pub sender: Option<StoredCopy>,
}

/// An entry that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCopy {
    /// Its place in its log.
    pub id: EntryId,
    /// Whether it is in the archive, and so has an id that clients may know (XEP-0359).
    pub archived: bool,
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
    /// Whether it is in the archive.
    pub archived: bool,
}

/// Why one message of a batch was not stored, in neither log. The others were.
///
/// It is about the recipient; about the sender only if the message has no recipient's copy, and then
/// only [`Refused::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The account has as many undelivered entries as it may have.
    #[error("the account's log is full")]
    Full,
    /// There is no such account.
    #[error("there is no such account")]
    NoAccount,
    /// The account blocks the sender (XEP-0191 §3.3), who is not its owner.
    #[error("the account blocks the sender")]
    Blocked,
}

/// The logs of all accounts.
///
/// An entry is *pending* if it has to be delivered, and *undelivered* until that is confirmed. A log
/// has a delivered mark, up to which nothing is undelivered, and keeps the ids of at most
/// [`MAX_AHEAD`] entries above it that are delivered all the same.
#[async_trait]
pub trait LogStore {
    /// Appends messages, and answers when they are on disk: what an `Ok` holds survives a crash.
    ///
    /// Calls that queue up while a commit runs share the next commit. Entries of one log get their
    /// ids in the order of the calls of one node, and of the messages within a call. `limit` is the
    /// number of undelivered entries that an account may have.
    ///
    /// # Errors
    /// Failures only; per message see [`Refused`]. After a failure the messages may have been stored
    /// all the same (all of them or none), if the answer to the commit was lost.
    async fn append(
        &self,
        messages: Vec<NewMessage>,
        limit: usize,
    ) -> Result<Vec<Result<Stored, Refused>>, Error>;

    /// The first `limit` undelivered entries, past `after` if that is given.
    ///
    /// # Errors
    /// Failures only.
    async fn undelivered(
        &self,
        account: &BareJid,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error>;

    /// Notes that entries were delivered: of many accounts, in one transaction, in any order. Ids
    /// that are no entries, or are delivered already, are ignored. Entries that are in no archive
    /// are removed in the same transaction.
    ///
    /// Beyond [`MAX_AHEAD`] entries that were delivered before older ones, the newest are
    /// forgotten, and so delivered once more.
    ///
    /// # Errors
    /// Failures only.
    async fn mark_delivered(&self, delivered: Vec<(BareJid, Vec<EntryId>)>) -> Result<(), Error>;

    /// Those of the accounts that have undelivered entries.
    ///
    /// # Errors
    /// Failures only.
    async fn with_undelivered(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error>;

    /// Number of undelivered entries.
    ///
    /// # Errors
    /// Failures only.
    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error>;
}

/// How many archived entries above the delivered mark a log remembers as delivered.
pub const MAX_AHEAD: usize = 1000;

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

/// The number that stands for a bare JID in searches: FNV-1a of 32 bits. Different JIDs may share one,
/// so the text has to be compared as well.
pub(crate) fn peer_hash(peer: &Jid) -> i32 {
    let fold = |hash: u32, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    peer.bare_str()
        .bytes()
        .fold(0x811c_9dc5, fold)
        .cast_signed()
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
pub(crate) fn count_appended(appended: &[Result<Stored, Refused>]) {
    let (mut rows, mut refused) = (0, 0);
    for one in appended {
        match one {
            Ok(stored) => {
                rows += u64::from(stored.recipient.is_some()) + u64::from(stored.sender.is_some());
            }
            Err(_) => refused += 1,
        }
    }
    metrics::LOG_ROWS_APPENDED.inc_by(rows);
    metrics::LOG_ROWS_REFUSED.inc_by(refused);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_peer_never_changes() {
        let hash = |jid: &str| peer_hash(&Jid::parse(jid).unwrap()).cast_unsigned();
        // Published values of FNV-1a.
        assert_eq!(hash("a"), 0xe40c_292c);
        assert_eq!(hash("foobar"), 0xbf9c_f968);
        assert_eq!(hash("foobar/resource"), hash("foobar"));
    }

    #[test]
    fn times_survive_to_the_microsecond() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000] {
            assert_eq!(to_micros(from_micros(micros)), micros);
        }
    }
}
