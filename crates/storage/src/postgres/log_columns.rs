//! What a batch adds to logs, column by column, and the calls that write it.

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

/// See `add_message.sql`.
const ADD: &str = "SELECT one_id, two_id FROM add_message(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

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
    archived: Vec<bool>,
    copies: Vec<Option<&'b LogCopy>>,
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

    /// Writes it, in a transaction of its own. Gives the last id that each log had; `None` if nothing was
    /// done, because a log is not there or something may have to be refused.
    ///
    /// # Errors
    /// Failures only. Whether it was committed all the same, the lease knows.
    pub(super) async fn write(&self, lease: &mut Lease) -> Result<Option<Vec<i64>>, Error> {
        match self.single() {
            Some(single) => self.write_single(lease, single).await,
            None => self.write_all(lease, false).await,
        }
    }

    /// Writes it in the transaction which holds the logs, and where all was checked, and commits that.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(super) async fn write_checked(&self, lease: &mut Lease) -> Result<Option<Vec<i64>>, Error> {
        self.write_all(lease, true).await
    }

    async fn write_all(
        &self,
        lease: &mut Lease,
        is_checked: bool,
    ) -> Result<Option<Vec<i64>>, Error> {
        let (logs, received, sent) = (&self.logs, &self.received, &self.sent);
        let (received_peers, sent_peers) = (received.peers(), sent.peers());
        let (received_hashes, sent_hashes) = (received.hashes(), sent.hashes());
        let (received_pending, sent_pending) = (received.pending(), sent.pending());
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
            &received_peers,
            &received_hashes,
            &received_pending,
            &received.archived,
            &sent.places,
            &sent.ids,
            &sent_peers,
            &sent_hashes,
            &sent_pending,
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

    /// The only message, if there are no other changes and each of its copies is in a log of its own.
    fn single(&self) -> Option<Single<'b>> {
        if self.times.len() != 1 || !self.marks.0.is_empty() {
            return None;
        }
        let [received, sent] = self.places().next()?;
        let sides = [(&self.received, received), (&self.sent, sent)];
        let mut copies: Vec<(usize, SingleCopy<'b>)> = sides
            .into_iter()
            .filter_map(|(side, place)| Some((place?, side.copies[0]?, side.archived[0])))
            .map(|(place, copy, archived)| {
                let (account, room) = (self.logs.accounts[place], self.logs.room[place]);
                (
                    place,
                    SingleCopy {
                        account,
                        room,
                        archived,
                        copy,
                    },
                )
            })
            .collect();
        copies.sort_by_key(|(place, _)| *place);
        // As many logs as copies, and in this order: their ids are given in it.
        let are_all = copies
            .iter()
            .map(|(place, _)| *place)
            .eq(0..self.logs.accounts.len());
        let mut copies = copies.into_iter().map(|(_, copy)| copy);
        let (one, two) = (copies.next()?, copies.next());
        are_all.then(|| Single {
            recipient: received.map(|place| self.logs.accounts[place]),
            sender_names: self.received.copies[0]
                .map(names_to_block)
                .unwrap_or_default(),
            one,
            two,
        })
    }

    async fn write_single(
        &self,
        lease: &mut Lease,
        single: Single<'b>,
    ) -> Result<Option<Vec<i64>>, Error> {
        let (one, two) = (
            SingleColumns::of(Some(single.one)),
            SingleColumns::of(single.two),
        );
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &self.times[0],
            &self.stanzas[0],
            &single.recipient,
            &single.sender_names,
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
}

/// A message that is the only change of its batch.
struct Single<'b> {
    /// Whose copy may be refused because of who sends it, and by which names.
    recipient: Option<i64>,
    sender_names: Vec<&'b str>,
    /// Its copies, in the order of the logs.
    one: SingleCopy<'b>,
    two: Option<SingleCopy<'b>>,
}

/// A copy of it.
#[derive(Clone, Copy)]
struct SingleCopy<'b> {
    account: i64,
    room: i64,
    archived: bool,
    copy: &'b LogCopy,
}

/// What is written of it; nothing if there is none.
#[derive(Default)]
struct SingleColumns<'b> {
    account: Option<i64>,
    peer: Option<&'b str>,
    hash: Option<i32>,
    pending: Option<bool>,
    archived: Option<bool>,
    room: Option<i64>,
}

impl<'b> SingleColumns<'b> {
    fn of(single: Option<SingleCopy<'b>>) -> Self {
        single.map_or_else(Self::default, |single| Self {
            account: Some(single.account),
            peer: Some(single.copy.peer.as_str()),
            hash: Some(peer_hash(&single.copy.peer)),
            pending: Some(single.copy.pending != Pending::No),
            archived: Some(single.archived),
            room: Some(single.room),
        })
    }
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
        self.archived
            .push(entry.is_some_and(|entry| entry.archived));
        self.copies.push(entry.map(|entry| entry.copy));
    }

    fn peers(&self) -> Vec<&'b str> {
        self.column("", |copy| copy.peer.as_str())
    }

    fn hashes(&self) -> Vec<i32> {
        self.column(0, |copy| peer_hash(&copy.peer))
    }

    fn pending(&self) -> Vec<bool> {
        self.column(false, |copy| copy.pending != Pending::No)
    }

    fn column<T: Copy>(&self, none: T, of: impl Fn(&'b LogCopy) -> T) -> Vec<T> {
        let all = self.copies.iter();
        all.map(|copy| copy.map_or(none, &of)).collect()
    }
}
