//! What a batch adds to logs, column by column, and the call that writes it.

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
    $23, $24, $25)";

/// The changes of a batch.
#[derive(Default)]
pub(super) struct Columns<'b> {
    /// One for each log, in the order of the accounts' numbers.
    pub(super) logs: LogColumns,
    /// One for each message.
    times: Vec<i64>,
    stanzas: Vec<&'b str>,
    received: Side<'b>,
    sent: Side<'b>,
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
        self.times.push(at);
        self.stanzas.push(stanza);
        self.received.push(received);
        self.sent.push(sent);
    }

    /// For each message in which logs its copies are, from 0: the recipient's and the sender's.
    pub(super) fn places(&self) -> impl Iterator<Item = [Option<usize>; 2]> {
        let from_0 = |place: &i32| usize::try_from(*place - 1).ok();
        let sides = self.received.places.iter().zip(&self.sent.places);
        sides.map(move |(received, sent)| [from_0(received), from_0(sent)])
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty() && self.marks.0.is_empty()
    }

    /// Writes it, in a transaction of its own or in the one which holds the logs, which is committed then.
    /// Gives the last id that each log had; `None` if nothing was done, because a log is not there or,
    /// unless it `is_checked`, something may have to be refused.
    ///
    /// # Errors
    /// Failures only. Whether it was committed all the same, the lease knows.
    pub(super) async fn write(
        &self,
        lease: &mut Lease,
        is_checked: bool,
    ) -> Result<Option<Vec<i64>>, Error> {
        let (logs, received, sent) = (&self.logs, &self.received, &self.sent);
        let ahead = i32::try_from(MAX_AHEAD).unwrap_or(i32::MAX);
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &is_checked,
            &logs.accounts,
            &logs.entries,
            &logs.pending,
            &logs.room,
            &logs.earliest,
            &logs.latest,
            &logs.disorder,
            &self.times,
            &self.stanzas,
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
}

impl NewEntry<'_> {
    /// What the one who appends it is told.
    pub(super) fn stored(self) -> StoredCopy {
        StoredCopy {
            id: EntryId(to_u64(self.id)),
            archived: self.archived,
        }
    }
}

impl<'b> Side<'b> {
    fn push(&mut self, entry: Option<NewEntry<'b>>) {
        let place = entry.map(|entry| i32::try_from(entry.place + 1).unwrap_or(i32::MAX));
        self.places.push(place.unwrap_or(0));
        self.ids.push(entry.map_or(0, |entry| entry.id));
        self.peers
            .push(entry.map_or("", |entry| entry.copy.peer.as_str()));
        self.hashes
            .push(entry.map_or(0, |entry| peer_hash(&entry.copy.peer)));
        self.pending
            .push(entry.is_some_and(|entry| entry.copy.pending != Pending::No));
        self.archived
            .push(entry.is_some_and(|entry| entry.archived));
    }
}
