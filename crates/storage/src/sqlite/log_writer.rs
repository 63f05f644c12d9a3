//! The logs as the writing thread knows them.
//!
//! It is the only one in this process that changes logs, so it keeps in memory what it needs to know
//! about the accounts it wrote to: most messages then cost one row in `message` and one in
//! `log_entry` for each copy, and no reading. When another process has written to the file, or a
//! transaction is rolled back, all of that is forgotten.
//!
//! All rows are gathered and written, sorted and many in one statement, before anything reads them: at
//! the end of the transaction.

use std::{collections::HashMap, sync::Arc};

use rookery_proto::jid::{BareJid, Jid};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    deliveries::{Confirmed, Deliveries, from_blob, to_blob},
    log_rows::{LogEntry, Message, insert_entries, insert_messages, remove},
};
use crate::{
    ArchiveDefault, ArchivePreferences, EntryId, Error, LogCopy, NewMessage, Pending, Refused,
    Stored, StoredCopy,
    log::{peer_hash, to_i64, to_micros, to_u64},
};

/// What an entry is; columns `kind` are sums of these.
pub(super) mod kind {
    /// It is in the archive.
    pub(in super::super) const ARCHIVED: i64 = 1;
    /// It has to be delivered.
    pub(in super::super) const PENDING: i64 = 2;
    /// It is the sender's copy.
    pub(in super::super) const SENT: i64 = 4;
}

/// Accounts that are kept in memory.
const MAX_ACCOUNTS: usize = 50_000;

/// Ids of undelivered entries that are kept in memory; 16 octets each.
const MAX_UNDELIVERED: usize = 4_000_000;

/// After so many entries that need no delivery, the mark is stored although nothing was delivered:
/// whoever looks for undelivered entries begins there.
const MARK_EVERY: usize = 250;

/// All logs.
#[derive(Debug, Default)]
pub(super) struct Logs {
    places: HashMap<BareJid, usize>,
    all: Vec<Log>,
    /// Places of those whose row has to be written.
    changed: Vec<usize>,
    /// Rows that have to be written.
    messages: Vec<Message>,
    entries: Vec<LogEntry>,
    /// The newest id that was given to any entry, and the one that is stored as such.
    newest: i64,
    stored_newest: i64,
    /// Ids of undelivered entries in memory.
    undelivered: usize,
    /// Changes when another process commits.
    version: Option<i64>,
}

/// One log.
#[derive(Debug)]
struct Log {
    account: i64,
    deliveries: Deliveries,
    /// The latest time that an archived entry has, and how much earlier a later one was at most.
    latest: i64,
    disorder: i64,
    preferences: ArchivePreferences,
    /// Whether the account blocks anybody.
    has_blocked: bool,
    changed: bool,
    /// Entries since the mark was stored.
    since_mark: usize,
}

/// An entry about to be written.
struct Copy<'m> {
    place: usize,
    account: i64,
    peer: &'m Jid,
    archived: bool,
    pending: bool,
}

impl Logs {
    /// Looks whether what is in memory is still true. To be called in each transaction first.
    pub(super) fn begin(&mut self, db: &Connection) -> Result<(), Error> {
        let version = db
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        let full = self.all.len() > MAX_ACCOUNTS || self.undelivered > MAX_UNDELIVERED;
        if self.version != Some(version) || full {
            self.clear();
            self.newest = db
                .prepare_cached("SELECT newest FROM log_position")?
                .query_row([], |row| row.get(0))?;
            self.stored_newest = self.newest;
            self.version = Some(version);
        }
        Ok(())
    }

    /// Forgets everything, also what is not written yet.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets an account that is created, deleted or changed otherwise. What there was to write
    /// must be written.
    pub(super) fn forget(&mut self, account: &BareJid) {
        if let Some(place) = self.places.remove(account) {
            let deliveries = std::mem::take(&mut self.all[place].deliveries);
            self.undelivered -= deliveries.count();
        }
    }

    /// Writes what is not written yet.
    pub(super) fn flush(&mut self, db: &Connection) -> Result<(), Error> {
        insert_messages(db, &self.messages)?;
        self.messages.clear();
        // Neighbours share pages.
        self.entries.sort_unstable();
        insert_entries(db, &self.entries)?;
        self.entries.clear();
        if !self.changed.is_empty() {
            let mut update = db.prepare_cached(
                "UPDATE log SET delivered = ?2, ahead = ?3, disorder = ?4 WHERE account = ?1",
            )?;
            for place in self.changed.drain(..) {
                let log = &mut self.all[place];
                let ahead = log.deliveries.ahead();
                update.execute(params![
                    log.account,
                    log.deliveries.mark(),
                    (!ahead.is_empty()).then(|| to_blob(ahead)),
                    log.disorder,
                ])?;
                log.changed = false;
                log.since_mark = 0;
            }
        }
        if self.newest != self.stored_newest {
            db.prepare_cached("UPDATE log_position SET newest = ?1")?
                .execute([self.newest])?;
            self.stored_newest = self.newest;
        }
        Ok(())
    }

    /// See [`crate::LogStore::append`].
    pub(super) fn append(
        &mut self,
        db: &Connection,
        messages: &[NewMessage],
        limit: usize,
    ) -> Result<Vec<Result<Stored, Refused>>, Error> {
        let mut appended = Vec::with_capacity(messages.len());
        for message in messages {
            appended.push(self.append_one(db, message, limit)?);
        }
        Ok(appended)
    }

    fn append_one(
        &mut self,
        db: &Connection,
        message: &NewMessage,
        limit: usize,
    ) -> Result<Result<Stored, Refused>, Error> {
        let mut received = None;
        if let Some(copy) = &message.recipient {
            let Some(place) = self.place(db, &copy.account)? else {
                return Ok(Err(Refused::NoAccount));
            };
            if self.all[place].blocks(db, copy)? {
                return Ok(Err(Refused::Blocked));
            }
            if self.is_full(place, copy, limit) {
                return Ok(Err(Refused::Full));
            }
            received = self.copy(db, place, copy)?;
        }
        let mut sent = None;
        if let Some(copy) = &message.sender
            && let Some(place) = self.place(db, &copy.account)?
        {
            if message.recipient.is_none() && self.is_full(place, copy, limit) {
                return Ok(Err(Refused::Full));
            }
            sent = self.copy(db, place, copy)?;
        }
        let same_log = matches!((&received, &sent), (Some(r), Some(s)) if r.place == s.place);
        Ok(Ok(if same_log {
            Stored {
                recipient: self.write(message, received, None).recipient,
                sender: self.write(message, None, sent).sender,
            }
        } else {
            self.write(message, received, sent)
        }))
    }

    fn is_full(&self, place: usize, copy: &LogCopy, limit: usize) -> bool {
        copy.pending == Pending::Offline && self.all[place].deliveries.count() >= limit
    }

    /// What a log keeps of a message, if anything.
    fn copy<'m>(
        &self,
        db: &Connection,
        place: usize,
        copy: &'m LogCopy,
    ) -> Result<Option<Copy<'m>>, Error> {
        let log = &self.all[place];
        let archived = copy.archive && log.archives(db, &copy.peer)?;
        let pending = copy.pending != Pending::No;
        Ok((archived || pending).then_some(Copy {
            place,
            account: log.account,
            peer: &copy.peer,
            archived,
            pending,
        }))
    }

    /// Adds one row of `message` for up to two copies in different logs.
    fn write(
        &mut self,
        message: &NewMessage,
        received: Option<Copy<'_>>,
        sent: Option<Copy<'_>>,
    ) -> Stored {
        if received.is_none() && sent.is_none() {
            return Stored::default();
        }
        let id = self.newest + 1;
        let at = to_micros(message.at);
        let end = |copy: &Copy<'_>| (copy.account, copy.peer.clone());
        self.messages.push(Message {
            id,
            at,
            recipient: received.as_ref().map(end),
            sender: sent.as_ref().map(end),
            stanza: Arc::clone(&message.stanza),
        });
        self.newest = id;
        let mut enter = |copy: Copy<'_>, role| {
            self.enter(id, at, role, &copy);
            StoredCopy {
                id: EntryId(to_u64(id)),
                archived: copy.archived,
            }
        };
        Stored {
            recipient: received.map(|copy| enter(copy, 0)),
            sender: sent.map(|copy| enter(copy, kind::SENT)),
        }
    }

    fn enter(&mut self, id: i64, at: i64, role: i64, copy: &Copy<'_>) {
        let mut kind = role;
        if copy.archived {
            kind |= kind::ARCHIVED;
        }
        if copy.pending {
            kind |= kind::PENDING;
            self.undelivered += 1;
        }
        self.entries
            .push([copy.account, id, kind, peer_hash(copy.peer).into()]);
        let log = &mut self.all[copy.place];
        log.deliveries.push(id, copy.pending, copy.archived);
        log.since_mark += 1;
        let changed = copy.archived && log.note_time(at) || log.since_mark >= MARK_EVERY;
        if changed {
            self.changed(copy.place);
        }
    }

    fn changed(&mut self, place: usize) {
        if !self.all[place].changed {
            self.all[place].changed = true;
            self.changed.push(place);
        }
    }

    /// Notes deliveries; gives how many entries became delivered.
    pub(super) fn mark_delivered(
        &mut self,
        db: &Connection,
        delivered: &[(BareJid, Vec<EntryId>)],
    ) -> Result<u64, Error> {
        let mut count = 0;
        for (account, ids) in delivered {
            let Some(place) = self.place(db, account)? else {
                continue;
            };
            let before = self.all[place].deliveries.count();
            for id in ids {
                let (id, newest) = (to_i64(id.0), self.newest);
                match self.all[place].deliveries.confirm(id, newest) {
                    Confirmed::Ignored | Confirmed::Forgotten => continue,
                    Confirmed::Kept => {}
                    Confirmed::Useless => {
                        self.flush_entries_of(db, id)?;
                        remove(db, self.all[place].account, id)?;
                    }
                }
                count += 1;
                self.changed(place);
            }
            self.undelivered -= before - self.all[place].deliveries.count();
        }
        Ok(count)
    }

    /// Makes sure that an entry of this transaction is written before it is removed.
    fn flush_entries_of(&mut self, db: &Connection, id: i64) -> Result<(), Error> {
        if self.entries.iter().any(|entry| entry[1] == id) {
            self.flush(db)?;
        }
        Ok(())
    }

    /// Removes those of the entries that are not undelivered; gives their number.
    pub(super) fn remove_expired(
        &mut self,
        db: &Connection,
        expired: &[(BareJid, Vec<i64>)],
    ) -> Result<u64, Error> {
        self.flush(db)?;
        let mut removed = 0;
        for (account, ids) in expired {
            let Some(place) = self.place(db, account)? else {
                continue;
            };
            let log = &self.all[place];
            for id in ids {
                if !log.deliveries.is_undelivered(*id) && remove(db, log.account, *id)? {
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Where an account's log is, if there is such an account.
    fn place(&mut self, db: &Connection, account: &BareJid) -> Result<Option<usize>, Error> {
        if let Some(place) = self.places.get(account) {
            return Ok(Some(*place));
        }
        let Some(log) = Log::load(db, account)? else {
            return Ok(None);
        };
        self.undelivered += log.deliveries.count();
        self.all.push(log);
        let place = self.all.len() - 1;
        self.places.insert(account.clone().compact(), place);
        Ok(Some(place))
    }
}

impl Log {
    fn load(db: &Connection, account: &BareJid) -> Result<Option<Self>, Error> {
        let row = db
            .prepare_cached(
                "SELECT l.account, l.delivered, l.ahead, l.disorder, l.archive_default, l.exceptions,
                     EXISTS (SELECT 1 FROM blocked b WHERE b.account = l.account)
                 FROM account a JOIN log l ON l.account = a.id WHERE a.jid = ?1",
            )?
            .query_row([account.as_str()], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get::<_, Option<Vec<u8>>>(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get::<_, bool>(5)?,
                    row.get(6)?,
                ))
            })
            .optional()?;
        let Some((account, delivered, ahead, disorder, default, exceptions, has_blocked)) = row
        else {
            return Ok(None);
        };
        let ahead = from_blob(&ahead.unwrap_or_default())?;
        let mut preferences = ArchivePreferences {
            default: ArchiveDefault::from_number(default)?,
            ..ArchivePreferences::default()
        };
        if exceptions {
            super::archive::read_exceptions(db, account, &mut preferences)?;
        }
        let mut deliveries = Deliveries::new(delivered, ahead);
        let mut select = db.prepare_cached(
            "SELECT id, kind FROM log_entry WHERE account = ?1 AND id > ?2 ORDER BY id",
        )?;
        let mut rows = select.query([account, delivered])?;
        let mut since_mark = 0;
        while let Some(row) = rows.next()? {
            let kind: i64 = row.get(1)?;
            deliveries.push(
                row.get(0)?,
                kind & kind::PENDING != 0,
                kind & kind::ARCHIVED != 0,
            );
            since_mark += 1;
        }
        let newest: Option<i64> = db
            .prepare_cached(
                "SELECT m.at FROM log_entry e CROSS JOIN message m ON m.id = e.id
                 WHERE e.account = ?1 AND e.kind & 1 ORDER BY e.id DESC LIMIT 1",
            )?
            .query_row([account], |row| row.get(0))
            .optional()?;
        Ok(Some(Self {
            account,
            deliveries,
            // Perhaps there is none as late as that, but none is later.
            latest: newest.map_or(i64::MIN, |at| at.saturating_add(disorder)),
            disorder,
            preferences,
            has_blocked,
            changed: false,
            since_mark,
        }))
    }

    /// Whether the account blocks the one whom a message comes from (XEP-0191 §3.3).
    fn blocks(&self, db: &Connection, copy: &LogCopy) -> Result<bool, Error> {
        let peer = &copy.peer;
        if !self.has_blocked || peer.bare_str() == copy.account.as_str() {
            return Ok(false);
        }
        Ok(db
            .prepare_cached("SELECT 1 FROM blocked WHERE account = ?1 AND jid IN (?2, ?3, ?4)")?
            .exists(params![
                self.account,
                peer.as_str(),
                peer.bare_str(),
                peer.domain()
            ])?)
    }

    /// Whether the account's preferences want messages with `peer` archived.
    fn archives(&self, db: &Connection, peer: &Jid) -> Result<bool, Error> {
        if let Some(archives) = self.preferences.exception(peer) {
            return Ok(archives);
        }
        match self.preferences.default {
            ArchiveDefault::Always => Ok(true),
            ArchiveDefault::Never => Ok(false),
            ArchiveDefault::Roster => Ok(db
                .prepare_cached(
                    "SELECT 1 FROM roster_item
                     WHERE account = ?1 AND contact = ?2 AND NOT removed AND NOT hidden",
                )?
                .exists(params![self.account, peer.bare_str()])?),
        }
    }

    /// Notes the time of the next entry. True if times are less in order than was known.
    fn note_time(&mut self, at: i64) -> bool {
        let earlier = self.latest.saturating_sub(at);
        self.latest = self.latest.max(at);
        let worse = earlier > self.disorder;
        if worse {
            self.disorder = earlier;
        }
        worse
    }
}
