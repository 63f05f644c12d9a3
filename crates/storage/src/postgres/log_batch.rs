//! One batch of changes to logs, in one transaction of two round trips: lock and read, then write
//! and commit.

use std::collections::{HashMap, HashSet};

use rookery_proto::jid::{BareJid, Jid};
use tokio_postgres::{Row, types::ToSql};

use super::{
    get,
    log_statements::{APPEND, MARK},
    log_writer::{Change, Outcome},
    pool::Lease,
};
use crate::{
    ArchiveDefault, ArchivePreferences, EntryId, Error, LogCopy, MAX_AHEAD, NewMessage, Pending,
    Refused, Stored, StoredCopy,
    log::{peer_hash, to_i64, to_micros, to_u64},
    metrics,
};

/// Accounts whose numbers are kept in memory.
const MAX_ACCOUNTS: usize = 100_000;

/// When a transaction failed.
pub(super) enum Failure {
    /// Nothing was committed.
    Before(Error),
    /// Perhaps it was committed: the answer is missing.
    Committing(Error),
}

/// The numbers of accounts. A number is never used for another account, so one that is known is right
/// as long as there is a log for it.
#[derive(Default)]
pub(super) struct Accounts {
    numbers: HashMap<BareJid, i64>,
}

/// A row of `log`, which is locked.
struct Log {
    account: i64,
    last: i64,
    undelivered: i64,
    latest: i64,
    disorder: i64,
    preferences: ArchivePreferences,
    exceptions: bool,
    /// Contacts, of those that the batch asks for; only filled where the preferences need it.
    contacts: HashSet<String>,
    /// Whether the account blocks anybody, and whom.
    has_blocked: bool,
    blocked: HashSet<String>,
    added: i64,
    changed: bool,
}

/// The logs of a batch.
struct Logs {
    places: HashMap<i64, usize>,
    all: Vec<Log>,
}

/// One side of the messages that a batch adds, column by column.
#[derive(Default)]
struct Side<'b> {
    /// 0: there is no copy.
    accounts: Vec<i64>,
    ids: Vec<i64>,
    peers: Vec<&'b str>,
    hashes: Vec<i32>,
    pending: Vec<bool>,
    archived: Vec<bool>,
}

/// The messages that a batch adds, column by column.
#[derive(Default)]
struct Columns<'b> {
    times: Vec<i64>,
    stanzas: Vec<&'b str>,
    received: Side<'b>,
    sent: Side<'b>,
}

/// Writes and commits a batch. Gives what became of its appends.
pub(super) async fn write(
    lease: &mut Lease,
    accounts: &mut Accounts,
    batch: &[Change],
) -> Result<Vec<Outcome>, Failure> {
    let mut logs = lock(lease, accounts, batch)
        .await
        .map_err(Failure::Before)?;
    let mut new = Columns::default();
    let mut outcomes = Vec::new();
    let mut marks = Vec::new();
    for change in batch {
        match change {
            Change::Append {
                messages, limit, ..
            } => {
                let place = |message| logs.place(accounts, message, *limit, &mut new);
                outcomes.push(messages.iter().map(place).collect());
            }
            Change::Mark { delivered, .. } => {
                for (account, ids) in delivered {
                    if let Some(place) = logs.find(accounts, account) {
                        let account = logs.all[place].account;
                        marks.extend(ids.iter().map(|id| (account, to_i64(id.0))));
                    }
                }
            }
        }
    }
    marks.sort_unstable();
    marks.dedup();
    commit(lease, &logs, &new, &marks.into_iter().unzip())
        .await
        .map_err(Failure::Committing)?;
    Ok(outcomes)
}

/// Begins a transaction that holds the logs of all accounts of the batch that exist.
async fn lock(lease: &mut Lease, accounts: &mut Accounts, batch: &[Change]) -> Result<Logs, Error> {
    let mut is_second_try = false;
    loop {
        accounts.learn(lease, batch).await?;
        let mut numbers: Vec<i64> = names(batch)
            .filter_map(|name| accounts.numbers.get(name).copied())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let rows = lease
            .begin_with(
                "WITH l AS (
                     SELECT account, last, undelivered, latest, disorder, archive_default, exceptions
                     FROM log WHERE account = ANY ($1::bigint[]) ORDER BY account FOR UPDATE
                 )
                 SELECT array_agg(account), array_agg(last), array_agg(undelivered),
                     array_agg(latest), array_agg(disorder), array_agg(archive_default),
                     array_agg(exceptions), array_agg(EXISTS (
                         SELECT 1 FROM blocked b WHERE b.account = l.account))
                 FROM l",
                &[&numbers],
            )
            .await?;
        let mut logs = Logs::read(&rows)?;
        if logs.all.len() == numbers.len() || is_second_try {
            logs.learn_preferences(lease, accounts, batch).await?;
            logs.learn_blocked(lease).await?;
            return Ok(logs);
        }
        // An account was deleted, and perhaps there is one of its name again.
        accounts.numbers.retain(|_, number| {
            numbers.binary_search(number).is_err() || logs.places.contains_key(number)
        });
        lease.rollback().await?;
        is_second_try = true;
    }
}

/// The copies that a batch appends.
fn copies(batch: &[Change]) -> impl Iterator<Item = &LogCopy> {
    batch
        .iter()
        .filter_map(|change| match change {
            Change::Append { messages, .. } => Some(messages),
            Change::Mark { .. } => None,
        })
        .flatten()
        .flat_map(|message| [message.recipient.as_ref(), message.sender.as_ref()])
        .flatten()
}

/// The accounts that a batch is about; each perhaps more than once.
fn names(batch: &[Change]) -> impl Iterator<Item = &BareJid> {
    let marked = batch.iter().filter_map(|change| match change {
        Change::Append { .. } => None,
        Change::Mark { delivered, .. } => Some(delivered),
    });
    copies(batch)
        .map(|copy| &copy.account)
        .chain(marked.flatten().map(|one| &one.0))
}

impl Accounts {
    /// Looks up the accounts of a batch that are not known.
    async fn learn(&mut self, lease: &mut Lease, batch: &[Change]) -> Result<(), Error> {
        let mut unknown: Vec<&str> = names(batch)
            .filter(|name| !self.numbers.contains_key(*name))
            .map(BareJid::as_str)
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort_unstable();
        unknown.dedup();
        if self.numbers.len() + unknown.len() > MAX_ACCOUNTS {
            self.numbers.clear();
            unknown = names(batch).map(BareJid::as_str).collect();
        }
        let rows = lease
            .query(
                "SELECT jid, id FROM account WHERE jid = ANY ($1::text[])",
                &[&unknown],
            )
            .await?;
        for row in &rows {
            let jid: &str = get(row, 0)?;
            let jid = BareJid::parse(jid).map_err(|error| Error::corrupt("address", error))?;
            self.numbers.insert(jid, get(row, 1)?);
        }
        Ok(())
    }
}

impl Logs {
    /// Reads the one row that locking gives: columns of arrays.
    fn read(rows: &[Row]) -> Result<Self, Error> {
        let mut logs = Self {
            places: HashMap::new(),
            all: Vec::new(),
        };
        let row = match rows.first() {
            Some(row) if get::<Option<Vec<i64>>>(row, 0)?.is_some() => row,
            _ => return Ok(logs),
        };
        let column = |number| get::<Vec<i64>>(row, number);
        let accounts = column(0)?;
        let (last, undelivered) = (column(1)?, column(2)?);
        let (latest, disorder, default) = (column(3)?, column(4)?, column(5)?);
        let exceptions: Vec<bool> = get(row, 6)?;
        let has_blocked: Vec<bool> = get(row, 7)?;
        for (place, account) in accounts.into_iter().enumerate() {
            logs.places.insert(account, place);
            logs.all.push(Log {
                account,
                last: last[place],
                undelivered: undelivered[place],
                latest: latest[place],
                disorder: disorder[place],
                preferences: ArchivePreferences {
                    default: ArchiveDefault::from_number(default[place])?,
                    ..ArchivePreferences::default()
                },
                exceptions: exceptions[place],
                contacts: HashSet::new(),
                has_blocked: has_blocked[place],
                blocked: HashSet::new(),
                added: 0,
                changed: false,
            });
        }
        Ok(logs)
    }

    /// Reads what the preferences of some accounts depend on.
    async fn learn_preferences(
        &mut self,
        lease: &mut Lease,
        accounts: &Accounts,
        batch: &[Change],
    ) -> Result<(), Error> {
        let excepting = self.all.iter().filter(|log| log.exceptions);
        let excepting: Vec<i64> = excepting.map(|log| log.account).collect();
        if !excepting.is_empty() {
            let rows = lease
                .query(
                    "SELECT account, jid, archive FROM archive_exception
                     WHERE account = ANY ($1::bigint[])",
                    &[&excepting],
                )
                .await?;
            for row in &rows {
                let jid =
                    Jid::parse(get(row, 1)?).map_err(|error| Error::corrupt("address", error))?;
                if let Some(place) = self.places.get(&get(row, 0)?) {
                    self.all[*place].preferences.add(jid, get(row, 2)?);
                }
            }
        }
        let asks = |log: &Log| log.preferences.default == ArchiveDefault::Roster;
        if !self.all.iter().any(asks) {
            return Ok(());
        }
        let (mut asking, mut contacts) = (Vec::new(), Vec::new());
        for copy in copies(batch) {
            if let Some(place) = self.find(accounts, &copy.account)
                && asks(&self.all[place])
            {
                asking.push(self.all[place].account);
                contacts.push(copy.peer.bare_str());
            }
        }
        let rows = lease
            .query(
                "SELECT DISTINCT i.account, i.contact
                 FROM unnest($1::bigint[], $2::text[]) AS p (account, contact)
                 JOIN roster_item i ON i.account = p.account AND i.contact = p.contact
                 WHERE NOT i.removed AND NOT i.hidden",
                &[&asking, &contacts],
            )
            .await?;
        for row in &rows {
            if let Some(place) = self.places.get(&get(row, 0)?) {
                self.all[*place].contacts.insert(get(row, 1)?);
            }
        }
        Ok(())
    }

    /// Reads whom accounts block that block anybody.
    async fn learn_blocked(&mut self, lease: &mut Lease) -> Result<(), Error> {
        let blocking = self.all.iter().filter(|log| log.has_blocked);
        let blocking: Vec<i64> = blocking.map(|log| log.account).collect();
        if blocking.is_empty() {
            return Ok(());
        }
        let rows = lease
            .query(
                "SELECT account, jid FROM blocked WHERE account = ANY ($1::bigint[])",
                &[&blocking],
            )
            .await?;
        for row in &rows {
            if let Some(place) = self.places.get(&get(row, 0)?) {
                self.all[*place].blocked.insert(get(row, 1)?);
            }
        }
        Ok(())
    }

    fn find(&self, accounts: &Accounts, account: &BareJid) -> Option<usize> {
        let number = accounts.numbers.get(account)?;
        self.places.get(number).copied()
    }

    /// Gives a message its places in the logs of its ends.
    fn place<'b>(
        &mut self,
        accounts: &Accounts,
        message: &'b NewMessage,
        limit: usize,
        new: &mut Columns<'b>,
    ) -> Result<Stored, Refused> {
        let mut received = None;
        if let Some(copy) = &message.recipient {
            let place = self
                .find(accounts, &copy.account)
                .ok_or(Refused::NoAccount)?;
            if self.all[place].blocks(copy) {
                return Err(Refused::Blocked);
            }
            self.all[place].check(copy, limit)?;
            received = Some((place, copy));
        }
        let mut sent = None;
        if let Some(copy) = &message.sender
            && let Some(place) = self.find(accounts, &copy.account)
        {
            if message.recipient.is_none() {
                self.all[place].check(copy, limit)?;
            }
            sent = Some((place, copy));
        }
        let at = to_micros(message.at);
        let mut enter = |copy: Option<(usize, &'b LogCopy)>, side: &mut Side<'b>| {
            let stored = copy.and_then(|(place, copy)| self.all[place].enter(copy, at));
            match (copy, stored) {
                (Some((place, copy)), Some(stored)) => {
                    side.push(self.all[place].account, copy, stored);
                }
                _ => side.push_none(),
            }
            stored
        };
        let stored = Stored {
            recipient: enter(received, &mut new.received),
            sender: enter(sent, &mut new.sent),
        };
        new.times.push(at);
        new.stanzas.push(&message.stanza);
        Ok(stored)
    }
}

impl Log {
    fn check(&self, copy: &LogCopy, limit: usize) -> Result<(), Refused> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        if copy.pending == Pending::Offline && self.undelivered + self.added >= limit {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Adds an entry, if the log keeps one of the message.
    fn enter(&mut self, copy: &LogCopy, at: i64) -> Option<StoredCopy> {
        let archived = copy.archive && self.archives(&copy.peer);
        let pending = copy.pending != Pending::No;
        if !archived && !pending {
            return None;
        }
        self.last += 1;
        self.changed = true;
        if pending {
            self.added += 1;
        }
        if archived {
            self.disorder = self.disorder.max(self.latest.saturating_sub(at));
            self.latest = self.latest.max(at);
        }
        Some(StoredCopy {
            id: EntryId(to_u64(self.last)),
            archived,
        })
    }

    /// Whether the account blocks the one whom a message comes from (XEP-0191 §3.3).
    fn blocks(&self, copy: &LogCopy) -> bool {
        let peer = &copy.peer;
        let names = [peer.as_str(), peer.bare_str(), peer.domain()];
        peer.bare_str() != copy.account.as_str()
            && names.iter().any(|name| self.blocked.contains(*name))
    }

    /// Whether the account's preferences want messages with `peer` archived.
    fn archives(&self, peer: &Jid) -> bool {
        if let Some(archives) = self.preferences.exception(peer) {
            return archives;
        }
        match self.preferences.default {
            ArchiveDefault::Always => true,
            ArchiveDefault::Never => false,
            ArchiveDefault::Roster => self.contacts.contains(peer.bare_str()),
        }
    }
}

impl<'b> Side<'b> {
    fn push(&mut self, account: i64, copy: &'b LogCopy, stored: StoredCopy) {
        self.accounts.push(account);
        self.ids.push(to_i64(stored.id.0));
        self.peers.push(copy.peer.as_str());
        self.hashes.push(peer_hash(&copy.peer));
        self.pending.push(copy.pending != Pending::No);
        self.archived.push(stored.archived);
    }

    fn push_none(&mut self) {
        self.accounts.push(0);
        self.ids.push(0);
        self.peers.push("");
        self.hashes.push(0);
        self.pending.push(false);
        self.archived.push(false);
    }
}

/// Writes all that a batch changes, and commits.
async fn commit(
    lease: &mut Lease,
    logs: &Logs,
    new: &Columns<'_>,
    marks: &(Vec<i64>, Vec<i64>),
) -> Result<(), Error> {
    let changed = || logs.all.iter().filter(|log| log.changed);
    let of_changed = |what: fn(&Log) -> i64| -> Vec<i64> { changed().map(what).collect() };
    if changed().next().is_none() && marks.0.is_empty() {
        return lease.rollback().await;
    }
    let accounts = of_changed(|log| log.account);
    let (last, added) = (of_changed(|log| log.last), of_changed(|log| log.added));
    let (latest, disorder) = (of_changed(|log| log.latest), of_changed(|log| log.disorder));
    let (received, sent) = (&new.received, &new.sent);
    let append: &[&(dyn ToSql + Sync)] = &[
        &new.times,
        &new.stanzas,
        &received.accounts,
        &received.ids,
        &received.peers,
        &received.hashes,
        &received.pending,
        &received.archived,
        &sent.accounts,
        &sent.ids,
        &sent.peers,
        &sent.hashes,
        &sent.pending,
        &sent.archived,
        &accounts,
        &last,
        &added,
        &latest,
        &disorder,
    ];
    let ahead = i32::try_from(MAX_AHEAD).unwrap_or(i32::MAX);
    let mark: &[&(dyn ToSql + Sync)] = &[&marks.0, &marks.1, &ahead];
    let [marked, _] = lease
        .commit_with([
            (!marks.0.is_empty()).then_some((MARK, mark)),
            (!accounts.is_empty()).then_some((APPEND, append)),
        ])
        .await?;
    if let Some(row) = marked.first() {
        metrics::LOG_ROWS_DELIVERED.inc_by(to_u64(get(row, 0)?));
    }
    Ok(())
}
