//! One batch of changes to logs, in one transaction.
//!
//! Mostly that is one statement and one round trip: a batch is laid out as if all its accounts were there,
//! had room, and wanted everything archived, and the database does nothing if that is not so
//! (`change_logs.sql`, `add_message.sql`). Then it takes two: lock and read, then write and commit.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use rookery_proto::jid::{BareJid, Jid};
use tokio_postgres::Row;

use super::{
    get,
    log_columns::{Columns, NewEntry, names_to_block},
    log_writer::{Change, Outcome},
    pool::Lease,
};
use crate::{
    ArchiveDefault, ArchivePreferences, Error, LogCopy, NewMessage, Pending, Refused, Stored,
    log::{to_i64, to_micros, to_u64},
};

/// Accounts whose numbers are kept in memory.
const MAX_ACCOUNTS: usize = 100_000;

/// When a transaction failed.
pub(super) enum Failure<'b> {
    /// Nothing was committed.
    Before(Error),
    /// Perhaps it was committed: the answer is missing.
    Committing(Error, Box<Doubt<'b>>),
    /// The same, after all the time that there was.
    TooLate(Error),
}

/// A batch of which nobody knows yet whether it was committed.
pub(super) struct Doubt<'b> {
    columns: Columns<'b>,
    outcomes: Vec<Outcome>,
    /// For each log an entry that was there before.
    before: Vec<i64>,
}

/// What is known of accounts.
#[derive(Default)]
pub(super) struct Accounts {
    /// A number is never used for another account, so one that is known is right as long as there is a
    /// log for it.
    numbers: HashMap<BareJid, i64>,
    /// Those that did not want everything archived when their logs were last read.
    choosy: HashSet<i64>,
    /// The newest entries that were written here.
    newest: HashMap<i64, i64>,
}

/// One log, as a batch finds it and changes it.
struct Log {
    account: i64,
    /// Before the batch.
    undelivered: i64,
    preferences: ArchivePreferences,
    exceptions: bool,
    /// Contacts, of those that the batch asks for; only filled where the preferences need it.
    contacts: HashSet<String>,
    /// Whether the account blocks anybody, and whom.
    has_blocked: bool,
    blocked: HashSet<String>,
    /// How many entries are new, and how many of those are pending.
    entries: i64,
    pending: i64,
    /// How many undelivered ones it may have had for these to fit.
    room: i64,
    /// Of what is archived: the first and the last time, and how much earlier than one before it one is.
    earliest: i64,
    latest: i64,
    disorder: i64,
}

/// The logs of a batch, in the order of the accounts' numbers.
#[derive(Default)]
struct Logs {
    places: HashMap<i64, usize>,
    all: Vec<Log>,
}

/// Writes and commits a batch, unless the database has done its part only after `deadline`: callers may
/// have given up then. Gives what became of its appends.
pub(super) async fn write<'b>(
    lease: &mut Lease,
    accounts: &mut Accounts,
    batch: &'b [Change],
    deadline: Instant,
) -> Result<Vec<Outcome>, Failure<'b>> {
    lease.check().map_err(Failure::Before)?;
    let not_after = lease.time_there(deadline).await.map_err(Failure::Before)?;
    accounts
        .learn(lease, batch)
        .await
        .map_err(Failure::Before)?;
    if let Some(logs) = accounts.usual_logs(batch) {
        let (columns, outcomes) = lay_out(logs, accounts, batch);
        match columns.write(lease, not_after).await {
            Ok(Some(last_ids)) => return Ok(accounts.written(outcomes, &columns, &last_ids)),
            Ok(None) => {}
            Err(error) => return Err(accounts.failure(lease, error, columns, outcomes)),
        }
    }
    let logs = lock(lease, accounts, batch)
        .await
        .map_err(Failure::Before)?;
    let (columns, outcomes) = lay_out(logs, accounts, batch);
    if columns.is_empty() {
        lease.rollback().await.map_err(Failure::Before)?;
        return Ok(outcomes);
    }
    match columns.write_checked(lease, not_after).await {
        Ok(Some(last_ids)) => Ok(accounts.written(outcomes, &columns, &last_ids)),
        Ok(None) => {
            let error = Error::corrupt("log", "one that is locked is not there");
            Err(Failure::Before(error))
        }
        Err(error) => Err(accounts.failure(lease, error, columns, outcomes)),
    }
}

impl Doubt<'_> {
    /// Finds out whether the batch was committed, on another connection. Gives what became of its appends if
    /// it was. A batch without appends can be written again either way.
    pub(super) async fn resolve(
        &self,
        lease: &mut Lease,
        accounts: &mut Accounts,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        let found = self.columns.find(lease, &self.before).await?;
        Ok(found.map(|last_ids| accounts.written(self.outcomes.clone(), &self.columns, &last_ids)))
    }
}

/// Decides where everything goes; ids count from the last one of each log.
fn lay_out<'b>(
    mut logs: Logs,
    accounts: &Accounts,
    batch: &'b [Change],
) -> (Columns<'b>, Vec<Outcome>) {
    let mut columns = Columns::default();
    let mut outcomes = Vec::new();
    let mut marks = Vec::new();
    for change in batch {
        match change {
            Change::Append {
                messages, limit, ..
            } => {
                let place = |message| logs.place(accounts, message, *limit, &mut columns);
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
    columns.marks = marks.into_iter().unzip();
    for log in &logs.all {
        log.add_to(&mut columns);
    }
    (columns, outcomes)
}

/// What [`lay_out`] decided, with the ids that came of it.
fn numbered(mut outcomes: Vec<Outcome>, columns: &Columns<'_>, last_ids: &[i64]) -> Vec<Outcome> {
    let stored = outcomes.iter_mut().flatten().flatten();
    for (stored, [received, sent]) in stored.zip(columns.places()) {
        for (copy, place) in [
            (&mut stored.recipient, received),
            (&mut stored.sender, sent),
        ] {
            let last = place.and_then(|place| last_ids.get(place));
            if let (Some(copy), Some(last)) = (copy, last) {
                copy.id.0 += to_u64(*last);
            }
        }
    }
    outcomes
}

/// Begins a transaction that holds the logs of all accounts of the batch that exist. Their numbers are looked
/// up again if they turn out to be old.
async fn lock(lease: &mut Lease, accounts: &mut Accounts, batch: &[Change]) -> Result<Logs, Error> {
    let mut is_second_try = false;
    loop {
        let numbers = accounts.numbers_of(batch);
        let rows = lease
            .begin_with(
                "WITH l AS (
                     SELECT account, undelivered, archive_default, exceptions
                     FROM log WHERE account = ANY ($1::bigint[]) ORDER BY account FOR UPDATE
                 )
                 SELECT array_agg(account), array_agg(undelivered), array_agg(archive_default),
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
            accounts.learn_choosy(&logs);
            return Ok(logs);
        }
        // An account was deleted, and perhaps there is one of its name again.
        accounts.numbers.retain(|_, number| {
            numbers.binary_search(number).is_err() || logs.places.contains_key(number)
        });
        lease.rollback().await?;
        accounts.learn(lease, batch).await?;
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
            self.choosy.clear();
            self.newest.clear();
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

    /// The numbers of those accounts of a batch that are known, ascending.
    fn numbers_of(&self, batch: &[Change]) -> Vec<i64> {
        let mut numbers: Vec<i64> = names(batch)
            .filter_map(|name| self.numbers.get(name).copied())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The logs of a batch as they most likely are; `None` if it is known that they are not.
    fn usual_logs(&self, batch: &[Change]) -> Option<Logs> {
        let makes_no_entry = |copy: &LogCopy| !copy.archive && copy.pending == Pending::No;
        if copies(batch).any(makes_no_entry)
            || names(batch).any(|name| !self.numbers.contains_key(name))
        {
            return None;
        }
        let numbers = self.numbers_of(batch);
        if numbers.is_empty() || numbers.iter().any(|number| self.choosy.contains(number)) {
            return None;
        }
        let mut logs = Logs::default();
        for number in numbers {
            logs.push(Log::new(number));
        }
        Some(logs)
    }

    /// A batch was committed. Gives what became of its appends.
    fn written(
        &mut self,
        outcomes: Vec<Outcome>,
        columns: &Columns<'_>,
        last_ids: &[i64],
    ) -> Vec<Outcome> {
        let logs = &columns.logs;
        for ((account, last), new) in logs.accounts.iter().zip(last_ids).zip(&logs.entries) {
            if *new > 0 {
                self.newest.insert(*account, last + new);
            }
        }
        numbered(outcomes, columns, last_ids)
    }

    fn failure<'b>(
        &self,
        lease: &Lease,
        error: Error,
        columns: Columns<'b>,
        outcomes: Vec<Outcome>,
    ) -> Failure<'b> {
        if lease.is_rolled_back() {
            return Failure::Before(error);
        }
        let logs = columns.logs.accounts.iter();
        let newest = |account| self.newest.get(account).copied().unwrap_or(0);
        let before = logs.map(newest).collect();
        let doubt = Doubt {
            columns,
            outcomes,
            before,
        };
        Failure::Committing(error, Box::new(doubt))
    }

    /// Takes note of who has which preferences.
    fn learn_choosy(&mut self, logs: &Logs) {
        for log in &logs.all {
            if log.exceptions || log.preferences.default != ArchiveDefault::Always {
                self.choosy.insert(log.account);
            } else {
                self.choosy.remove(&log.account);
            }
        }
    }
}

impl Logs {
    /// Reads the one row that locking gives: columns of arrays.
    fn read(rows: &[Row]) -> Result<Self, Error> {
        let mut logs = Self::default();
        let row = match rows.first() {
            Some(row) if get::<Option<Vec<i64>>>(row, 0)?.is_some() => row,
            _ => return Ok(logs),
        };
        let accounts: Vec<i64> = get(row, 0)?;
        let (undelivered, default): (Vec<i64>, Vec<i64>) = (get(row, 1)?, get(row, 2)?);
        let (exceptions, has_blocked): (Vec<bool>, Vec<bool>) = (get(row, 3)?, get(row, 4)?);
        for (place, account) in accounts.into_iter().enumerate() {
            logs.push(Log {
                undelivered: undelivered[place],
                preferences: ArchivePreferences {
                    default: ArchiveDefault::from_number(default[place])?,
                    ..ArchivePreferences::default()
                },
                exceptions: exceptions[place],
                has_blocked: has_blocked[place],
                ..Log::new(account)
            });
        }
        Ok(logs)
    }

    fn push(&mut self, log: Log) {
        self.places.insert(log.account, self.all.len());
        self.all.push(log);
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
        columns: &mut Columns<'b>,
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
        let mut enter =
            |(place, copy): (usize, &'b LogCopy)| self.all[place].enter(place, copy, at);
        let (received, sent) = (received.and_then(&mut enter), sent.and_then(&mut enter));
        columns.push(at, &message.stanza, received, sent);
        Ok(Stored {
            recipient: received.map(NewEntry::stored),
            sender: sent.map(NewEntry::stored),
        })
    }
}

impl Log {
    /// A log with nothing undelivered, of an account that wants everything archived.
    fn new(account: i64) -> Self {
        Self {
            account,
            undelivered: 0,
            preferences: ArchivePreferences::default(),
            exceptions: false,
            contacts: HashSet::new(),
            has_blocked: false,
            blocked: HashSet::new(),
            entries: 0,
            pending: 0,
            room: i64::MAX,
            earliest: i64::MAX,
            latest: i64::MIN,
            disorder: 0,
        }
    }

    fn check(&mut self, copy: &LogCopy, limit: usize) -> Result<(), Refused> {
        if copy.pending != Pending::Offline {
            return Ok(());
        }
        let room = to_i64(limit as u64) - 1 - self.pending;
        self.room = self.room.min(room);
        if self.undelivered > room {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Adds an entry, if the log keeps one of the message.
    fn enter<'b>(&mut self, place: usize, copy: &'b LogCopy, at: i64) -> Option<NewEntry<'b>> {
        let archived = copy.archive && self.archives(&copy.peer);
        let pending = copy.pending != Pending::No;
        if !archived && !pending {
            return None;
        }
        self.entries += 1;
        self.pending += i64::from(pending);
        if archived {
            self.disorder = self.disorder.max(self.latest.saturating_sub(at));
            self.latest = self.latest.max(at);
            self.earliest = self.earliest.min(at);
        }
        Some(NewEntry {
            place,
            id: self.entries,
            archived,
            copy,
        })
    }

    fn add_to(&self, columns: &mut Columns<'_>) {
        let logs = &mut columns.logs;
        logs.accounts.push(self.account);
        logs.entries.push(self.entries);
        logs.pending.push(self.pending);
        logs.room.push(self.room);
        logs.earliest.push(self.earliest);
        logs.latest.push(self.latest);
        logs.disorder.push(self.disorder);
    }

    /// Whether the account blocks the one whom a message comes from.
    fn blocks(&self, copy: &LogCopy) -> bool {
        !self.blocked.is_empty()
            && names_to_block(copy)
                .iter()
                .any(|name| self.blocked.contains(*name))
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
