//! What a batch adds to logs, column by column, and the calls that write it.

use std::time::SystemTime;

use tokio_postgres::types::ToSql;

use super::{get, pool::Lease};
use crate::{
    EntryId, Error, LogCopy, MAX_AHEAD, Pending, StoredCopy,
    log::{peer_hash, to_u64},
    metrics,
};

/// See `change_logs.sql`.
const CHANGE: &str = "SELECT last_ids, now_delivered FROM change_logs(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
    $23, $24, $25, $26)";

/// See `add_message.sql`.
const ADD: &str = "SELECT one_id, two_id FROM add_message(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";

/// Finds entries, which are among the newest of their logs if they are there.
const FIND: &str = "SELECT (
        SELECT e.id FROM entry e
        WHERE e.account = f.account AND e.id > greatest(f.before, l.last - $5)
            AND e.at = f.at AND e.stanza = f.stanza
        ORDER BY e.id DESC LIMIT 1)
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
        WITH ORDINALITY AS f (account, before, at, stanza, place)
    LEFT JOIN log l ON l.account = f.account ORDER BY f.place";

/// Of how many entries [`FIND`] looks at most: more than come into one log while a connection is replaced.
const NEWEST: i64 = 5000;

/// The changes of a batch.
#[derive(Default)]
pub(super) struct Columns<'b> {
    /// One for each log, in the order of the accounts' numbers.
    pub(super) logs: LogColumns,
    messages: Vec<Message<'b>>,
    /// Deliveries: accounts and ids.
    pub(super) marks: (Vec<i64>, Vec<i64>),
}

/// What changes in logs.
#[derive(Default)]
pub(super) struct LogColumns {
    pub(super) accounts: Vec<i64>,
    pub(super) entries: Vec<i64>,
    pub(super) pending: Vec<i64>,
    pub(super) room: Vec<i64>,
    pub(super) earliest: Vec<i64>,
    pub(super) latest: Vec<i64>,
    pub(super) disorder: Vec<i64>,
}

/// One copy of a message.
#[derive(Clone, Copy)]
pub(super) struct NewEntry<'b> {
    /// In which of the logs, from 0.
    pub(super) place: usize,
    /// Counted from the log's last id.
    pub(super) id: i64,
    pub(super) archived: bool,
    pub(super) copy: &'b LogCopy,
}

/// A message, with its copies for the recipient and the sender.
struct Message<'b> {
    at: i64,
    stanza: &'b str,
    received: Option<NewEntry<'b>>,
    sent: Option<NewEntry<'b>>,
}

/// The copies of all messages for one of their ends.
#[derive(Default)]
struct Side<'b> {
    /// From 1; 0: there is no copy.
    places: Vec<i32>,
    ids: Vec<i64>,
    peers: Vec<&'b str>,
    hashes: Vec<i32>,
    pending: Vec<bool>,
    archived: Vec<bool>,
}

impl<'b> Columns<'b> {
    /// Adds a message with its copies.
    pub(super) fn push(
        &mut self,
        at: i64,
        stanza: &'b str,
        received: Option<NewEntry<'b>>,
        sent: Option<NewEntry<'b>>,
    ) {
        self.messages.push(Message {
            at,
            stanza,
            received,
            sent,
        });
    }

    /// For each message in which logs its copies are, from 0: the recipient's and the sender's.
    pub(super) fn places(&self) -> impl Iterator<Item = [Option<usize>; 2]> {
        let place = |entry: NewEntry<'_>| entry.place;
        let messages = self.messages.iter();
        messages.map(move |message| [message.received.map(place), message.sent.map(place)])
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.marks.0.is_empty()
    }

    /// Writes it, in a transaction of its own. Gives the last id that each log had; `None` if nothing was
    /// done, because a log is not there or something may have to be refused.
    ///
    /// # Errors
    /// Failures only; it is one if the database's clock is past `not_after` in the end. Whether it was
    /// committed all the same, the lease knows.
    pub(super) async fn write(
        &self,
        lease: &mut Lease,
        not_after: SystemTime,
    ) -> Result<Option<Vec<i64>>, Error> {
        if let [message] = self.messages.as_slice()
            && let Some((one, two)) = self.in_logs_of_their_own(message)
        {
            return self.write_single(lease, not_after, message, one, two).await;
        }
        self.write_all(lease, not_after, false).await
    }

    /// Writes it in the transaction which holds the logs, and where all was checked, and commits that.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(super) async fn write_checked(
        &self,
        lease: &mut Lease,
        not_after: SystemTime,
    ) -> Result<Option<Vec<i64>>, Error> {
        self.write_all(lease, not_after, true).await
    }

    async fn write_all(
        &self,
        lease: &mut Lease,
        not_after: SystemTime,
        is_checked: bool,
    ) -> Result<Option<Vec<i64>>, Error> {
        let logs = &self.logs;
        let messages = || self.messages.iter();
        let times: Vec<i64> = messages().map(|message| message.at).collect();
        let stanzas: Vec<&str> = messages().map(|message| message.stanza).collect();
        let received = Side::of(messages().map(|message| message.received));
        let sent = Side::of(messages().map(|message| message.sent));
        let ahead = i32::try_from(MAX_AHEAD).unwrap_or(i32::MAX);
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &not_after,
            &is_checked,
            &logs.accounts,
            &logs.entries,
            &logs.pending,
            &logs.room,
            &logs.earliest,
            &logs.latest,
            &logs.disorder,
            &times,
            &stanzas,
            &received.places,
            &received.ids,
            &received.peers,
            &received.hashes,
            &received.pending,
            &received.archived,
            &sent.places,
            &sent.ids,
            &sent.peers,
            &sent.hashes,
            &sent.pending,
            &sent.archived,
            &self.marks.0,
            &self.marks.1,
            &ahead,
        ];
        let rows = lease.query_and_commit(CHANGE, parameters).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        metrics::LOG_ROWS_DELIVERED.inc_by(to_u64(get(row, 1)?));
        get(row, 0)
    }

    /// Looks for it in the logs, as [`Self::write`] would have left it there, behind the entries `before`: gives
    /// the last id that each log had before it, or `None` if it is not there. A transaction that is still
    /// writing it is waited for.
    ///
    /// # Errors
    /// Failures, and `Corrupt` if only a part of it is there: what was delivered, or too old, may be gone.
    pub(super) async fn find(
        &self,
        lease: &mut Lease,
        before: &[i64],
    ) -> Result<Option<Vec<i64>>, Error> {
        let logs = &self.logs;
        let last = self.messages.iter().flat_map(|message| {
            let entries = [message.received, message.sent].into_iter().flatten();
            let last = entries.filter(|entry| entry.id == logs.entries[entry.place]);
            last.map(move |entry| (entry, message))
        });
        let mut last: Vec<(NewEntry<'_>, &Message<'_>)> = last.collect();
        // What is archived stays.
        last.sort_by_key(|(entry, _)| !entry.archived);
        let Some((first, others)) = last.split_at_checked(1) else {
            return Ok(None);
        };
        lease
            .begin_with(
                "SELECT account FROM log WHERE account = ANY ($1::bigint[])
                 ORDER BY account FOR UPDATE",
                &[&logs.accounts],
            )
            .await?;
        let mut last_ids = vec![0; logs.accounts.len()];
        // All of it was committed or nothing.
        let is_there = self
            .find_entries(lease, first, before, &mut last_ids)
            .await?;
        if is_there
            && !self
                .find_entries(lease, others, before, &mut last_ids)
                .await?
        {
            return Err(Error::corrupt("log", "a batch is there in part"));
        }
        lease.rollback().await?;
        Ok(is_there.then_some(last_ids))
    }

    /// Looks for the last entry that each of some logs got. Gives whether all are there.
    async fn find_entries(
        &self,
        lease: &mut Lease,
        some: &[(NewEntry<'_>, &Message<'_>)],
        before: &[i64],
        last_ids: &mut [i64],
    ) -> Result<bool, Error> {
        let accounts = some
            .iter()
            .map(|(entry, _)| self.logs.accounts[entry.place]);
        let accounts: Vec<i64> = accounts.collect();
        let before: Vec<i64> = some.iter().map(|(entry, _)| before[entry.place]).collect();
        let times: Vec<i64> = some.iter().map(|(_, message)| message.at).collect();
        let stanzas: Vec<&str> = some.iter().map(|(_, message)| message.stanza).collect();
        let rows = lease
            .query(FIND, &[&accounts, &before, &times, &stanzas, &NEWEST])
            .await?;
        let mut found = 0;
        for (row, (entry, _)) in rows.iter().zip(some) {
            if let Some(id) = get::<Option<i64>>(row, 0)? {
                last_ids[entry.place] = id - entry.id;
                found += 1;
            }
        }
        Ok(found == some.len())
    }

    /// The copies of a message in the order of the logs, if nothing else changes and each is in a log of its
    /// own.
    fn in_logs_of_their_own(
        &self,
        message: &Message<'b>,
    ) -> Option<(NewEntry<'b>, Option<NewEntry<'b>>)> {
        if !self.marks.0.is_empty() {
            return None;
        }
        let (one, two) = match (message.received, message.sent) {
            (Some(received), Some(sent)) if sent.place < received.place => (sent, Some(received)),
            (Some(received), sent) => (received, sent),
            (None, sent) => (sent?, None),
        };
        let places = [Some(one), two]
            .into_iter()
            .flatten()
            .map(|entry| entry.place);
        places.eq(0..self.logs.accounts.len()).then_some((one, two))
    }

    async fn write_single(
        &self,
        lease: &mut Lease,
        not_after: SystemTime,
        message: &Message<'b>,
        one: NewEntry<'b>,
        two: Option<NewEntry<'b>>,
    ) -> Result<Option<Vec<i64>>, Error> {
        let account = |entry: NewEntry<'_>| self.logs.accounts[entry.place];
        let recipient = message.received.map(account);
        let names = message.received.map(|entry| names_to_block(entry.copy));
        let (one, two) = (self.single(Some(one)), self.single(two));
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &not_after,
            &message.at,
            &message.stanza,
            &recipient,
            &names,
            &one.account,
            &one.peer,
            &one.hash,
            &one.pending,
            &one.archived,
            &one.room,
            &two.account,
            &two.peer,
            &two.hash,
            &two.pending,
            &two.archived,
            &two.room,
        ];
        let rows = lease.query_and_commit(ADD, parameters).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let ids: [Option<i64>; 2] = [get(row, 0)?, get(row, 1)?];
        Ok(ids[0].map(|_| ids.into_iter().flatten().map(|id| id - 1).collect()))
    }

    fn single(&self, entry: Option<NewEntry<'b>>) -> SingleColumns<'b> {
        entry.map_or_else(SingleColumns::default, |entry| SingleColumns {
            account: Some(self.logs.accounts[entry.place]),
            peer: Some(entry.peer()),
            hash: Some(entry.hash()),
            pending: Some(entry.is_pending()),
            archived: Some(entry.archived),
            room: Some(self.logs.room[entry.place]),
        })
    }
}

/// What is written of a copy of the only message; nothing if there is none.
#[derive(Default)]
struct SingleColumns<'b> {
    account: Option<i64>,
    peer: Option<&'b str>,
    hash: Option<i32>,
    pending: Option<bool>,
    archived: Option<bool>,
    room: Option<i64>,
}

/// The names by which the owner of a copy may block the one whom it comes from (XEP-0191 §3.3); none if it
/// is the owner.
pub(super) fn names_to_block(copy: &LogCopy) -> Vec<&str> {
    let peer = &copy.peer;
    if peer.bare_str() == copy.account.as_str() {
        return Vec::new();
    }
    vec![peer.as_str(), peer.bare_str(), peer.domain()]
}

impl<'b> NewEntry<'b> {
    fn peer(self) -> &'b str {
        self.copy.peer.as_str()
    }

    fn hash(self) -> i32 {
        peer_hash(&self.copy.peer)
    }

    fn is_pending(self) -> bool {
        self.copy.pending != Pending::No
    }

    /// What the one who appends it is told.
    pub(super) fn stored(self) -> StoredCopy {
        StoredCopy {
            id: EntryId(to_u64(self.id)),
            archived: self.archived,
        }
    }
}

impl<'b> Side<'b> {
    fn of(entries: impl Iterator<Item = Option<NewEntry<'b>>>) -> Self {
        let mut side = Self::default();
        for entry in entries {
            let place = entry.map(|entry| i32::try_from(entry.place + 1).unwrap_or(i32::MAX));
            side.places.push(place.unwrap_or(0));
            side.ids.push(entry.map_or(0, |entry| entry.id));
            side.peers.push(entry.map_or("", NewEntry::peer));
            side.hashes.push(entry.map_or(0, NewEntry::hash));
            side.pending.push(entry.is_some_and(NewEntry::is_pending));
            side.archived
                .push(entry.is_some_and(|entry| entry.archived));
        }
        side
    }
}
