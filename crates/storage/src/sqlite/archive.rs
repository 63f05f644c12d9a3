//! Queries to archives, and `archive_exception`.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStorage,
    log::{entry_columns, read_entry},
    log_writer::kind::ARCHIVED,
};
use crate::{
    ArchiveAnswer, ArchiveBounds, ArchiveDefault, ArchivePreferences, ArchiveQuery, ArchiveStore,
    Entry, EntryId, Error,
    log::{from_micros, peer_hash, to_micros, to_u64},
};

#[async_trait]
impl ArchiveStore for SqliteStorage {
    async fn archive(
        &self,
        account: &BareJid,
        query: &ArchiveQuery,
    ) -> Result<ArchiveAnswer, Error> {
        let (account, query) = (account.clone(), query.clone());
        self.read("archive", move |db| archive(db, &account, &query))
            .await
    }

    async fn archive_bounds(&self, account: &BareJid) -> Result<Option<ArchiveBounds>, Error> {
        let account = account.clone();
        self.read("archive_bounds", move |db| bounds(db, &account))
            .await
    }

    async fn archive_preferences(&self, account: &BareJid) -> Result<ArchivePreferences, Error> {
        let account = account.clone();
        self.read("archive_preferences", move |db| preferences(db, &account))
            .await
    }

    async fn set_archive_preferences(
        &self,
        account: &BareJid,
        preferences: &ArchivePreferences,
    ) -> Result<bool, Error> {
        let (account, preferences) = (account.clone(), preferences.clone());
        self.write_with_logs("set_archive_preferences", move |db, logs| {
            logs.forget(&account);
            set_preferences(db, &account, &preferences)
        })
        .await
    }

    async fn expire(
        &self,
        older_than: Option<SystemTime>,
        max_per_account: Option<u64>,
        batch: usize,
    ) -> Result<u64, Error> {
        self.expire_batch(older_than, max_per_account, batch).await
    }
}

fn archive(
    db: &Connection,
    account: &BareJid,
    query: &ArchiveQuery,
) -> Result<ArchiveAnswer, Error> {
    let _snapshot = db.unchecked_transaction()?;
    let named = query.named();
    let Some(times) = Times::of(db, account)? else {
        return Ok(if named.is_empty() {
            ArchiveAnswer::Page(query.page_of(Vec::new()))
        } else {
            ArchiveAnswer::NotFound
        });
    };
    let account = times.account;
    let mut exists =
        db.prepare_cached("SELECT 1 FROM log_entry WHERE account = ?1 AND id = ?2 AND kind & ?3")?;
    for id in named {
        if !exists.exists([account, id, ARCHIVED])? {
            return Ok(ArchiveAnswer::NotFound);
        }
    }
    let (mut low, mut high) = query.between();
    if let Some(start) = query.start {
        low = low.max(times.first_from(db, to_micros(start))? - 1);
    }
    if let Some(end) = query.end {
        high = high.min(times.first_past(db, to_micros(end))?);
    }
    let mut entries = Vec::new();
    let ids = query.sorted_ids();
    if ids.is_empty() {
        search(db, account, query, (low, high), &mut entries)?;
    } else {
        // Each is a range of its own.
        let mut ids: Vec<i64> = ids
            .into_iter()
            .filter(|id| low < *id && *id < high)
            .collect();
        if query.page.is_backwards() {
            ids.reverse();
        }
        for id in ids {
            search(db, account, query, (id - 1, id + 1), &mut entries)?;
        }
    }
    Ok(ArchiveAnswer::Page(query.page_of(entries)))
}

/// Adds the entries between two ids, both exclusive, in the direction of the page; in all as many as
/// are wanted and one more.
fn search(
    db: &Connection,
    account: i64,
    query: &ArchiveQuery,
    (low, high): (i64, i64),
    entries: &mut Vec<Entry>,
) -> Result<(), Error> {
    // What `log_entry` can tell is asked before the message is looked up.
    macro_rules! select {
        ($order:literal) => {
            concat!(
                "SELECT ",
                entry_columns!(),
                " FROM log_entry e CROSS JOIN message m ON m.id = e.id
                 WHERE e.account = ?1 AND e.id > ?2 AND e.id < ?3 AND e.kind & 1
                 AND (?4 IS NULL OR e.peer = ?4) AND m.at BETWEEN ?5 AND ?6 ORDER BY e.id",
                $order
            )
        };
    }
    let mut select = db.prepare_cached(if query.page.is_backwards() {
        select!(" DESC")
    } else {
        select!("")
    })?;
    let mut rows = select.query(params![
        account,
        low,
        high,
        query.with.as_ref().map(peer_hash),
        query.start.map_or(i64::MIN, to_micros),
        query.end.map_or(i64::MAX, to_micros),
    ])?;
    while entries.len() <= query.max
        && let Some(row) = rows.next()?
    {
        let entry = read_entry(row)?;
        if query.matches(&entry.peer) {
            entries.push(entry);
        }
    }
    Ok(())
}

/// Finds places in a log by time.
///
/// Times grow with the ids, but for what clocks and threads make of them. How much is known: an
/// archived entry was accepted at most `disorder` before any earlier one of its log.
pub(super) struct Times {
    pub(super) account: i64,
    pub(super) disorder: i64,
}

impl Times {
    fn of(db: &Connection, account: &BareJid) -> Result<Option<Self>, Error> {
        let mut select = db.prepare_cached(
            "SELECT l.account, l.disorder FROM account a JOIN log l ON l.account = a.id
             WHERE a.jid = ?1",
        )?;
        let found = select.query_row([account.as_str()], |row| {
            Ok(Self {
                account: row.get(0)?,
                disorder: row.get(1)?,
            })
        });
        Ok(found.optional()?)
    }

    /// An id: all archived entries before it were accepted before `start`. Not much after the first that was
    /// not.
    fn first_from(&self, db: &Connection, start: i64) -> Result<i64, Error> {
        let (mut low, mut high) = self.range(db)?;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry_from(db, middle)? {
                Some((id, at)) if at.saturating_add(self.disorder) < start => low = id + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// An id: it and all archived entries after it were accepted after `end`. Not much after the last that
    /// was not.
    pub(super) fn first_past(&self, db: &Connection, end: i64) -> Result<i64, Error> {
        let (mut low, mut high) = self.range(db)?;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry_from(db, middle)? {
                Some((id, at)) if at.saturating_sub(self.disorder) <= end => low = id + 1,
                _ => high = middle,
            }
        }
        Ok(high)
    }

    /// The first id, and the one after the last.
    fn range(&self, db: &Connection) -> Result<(i64, i64), Error> {
        // Two statements: SQLite looks up a single minimum or maximum, but reads everything for both.
        let first: Option<i64> = db
            .prepare_cached("SELECT min(id) FROM log_entry WHERE account = ?1")?
            .query_row([self.account], |row| row.get(0))?;
        let last: Option<i64> = db
            .prepare_cached("SELECT max(id) FROM log_entry WHERE account = ?1")?
            .query_row([self.account], |row| row.get(0))?;
        Ok((first.unwrap_or(0), last.map_or(0, |last| last + 1)))
    }

    /// The first entry that is not before an id, and its time.
    fn entry_from(&self, db: &Connection, id: i64) -> Result<Option<(i64, i64)>, Error> {
        Ok(db
            .prepare_cached(
                "SELECT e.id, m.at FROM log_entry e CROSS JOIN message m ON m.id = e.id
                 WHERE e.account = ?1 AND e.id >= ?2 AND e.kind & 1 ORDER BY e.id LIMIT 1",
            )?
            .query_row([self.account, id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?)
    }
}

fn bounds(db: &Connection, account: &BareJid) -> Result<Option<ArchiveBounds>, Error> {
    macro_rules! select {
        ($order:literal) => {
            concat!(
                "SELECT e.id, m.at FROM account a CROSS JOIN log_entry e CROSS JOIN message m
                 WHERE a.jid = ?1 AND e.account = a.id AND e.kind & 1 AND m.id = e.id
                 ORDER BY e.id ",
                $order,
                " LIMIT 1"
            )
        };
    }
    let _snapshot = db.unchecked_transaction()?;
    let one = |sql: &str| {
        db.prepare_cached(sql)?
            .query_row([account.as_str()], |row| {
                Ok((EntryId(to_u64(row.get(0)?)), from_micros(row.get(1)?)))
            })
            .optional()
    };
    let (first, last) = (one(select!("ASC"))?, one(select!("DESC"))?);
    Ok(first
        .zip(last)
        .map(|(first, last)| ArchiveBounds { first, last }))
}

fn preferences(db: &Connection, account: &BareJid) -> Result<ArchivePreferences, Error> {
    let _snapshot = db.unchecked_transaction()?;
    let mut preferences = ArchivePreferences::default();
    let found: Option<(i64, i64)> = db
        .prepare_cached(
            "SELECT l.account, l.archive_default FROM account a JOIN log l ON l.account = a.id
             WHERE a.jid = ?1",
        )?
        .query_row([account.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((account, default)) = found {
        preferences.default = ArchiveDefault::from_number(default)?;
        read_exceptions(db, account, &mut preferences)?;
    }
    Ok(preferences)
}

/// Reads an account's exceptions into `preferences`.
pub(super) fn read_exceptions(
    db: &Connection,
    account: i64,
    preferences: &mut ArchivePreferences,
) -> Result<(), Error> {
    let mut select = db.prepare_cached(
        "SELECT jid, archive FROM archive_exception WHERE account = ?1 ORDER BY jid",
    )?;
    let mut rows = select.query([account])?;
    while let Some(row) = rows.next()? {
        let corrupt = |error: &dyn std::fmt::Display| Error::corrupt("address", error);
        let jid = row.get_ref(0)?.as_str().map_err(|error| corrupt(&error))?;
        let jid = Jid::parse(jid).map_err(|error| corrupt(&error))?;
        preferences.add(jid, row.get(1)?);
    }
    Ok(())
}

pub(super) fn set_preferences(
    db: &Connection,
    account: &BareJid,
    preferences: &ArchivePreferences,
) -> Result<bool, Error> {
    let Some(account) = super::accounts::id(db, account)? else {
        return Ok(false);
    };
    let exceptions = preferences.exceptions();
    db.prepare_cached("UPDATE log SET archive_default = ?2, exceptions = ?3 WHERE account = ?1")?
        .execute(params![
            account,
            preferences.default.to_number(),
            !exceptions.is_empty()
        ])?;
    db.prepare_cached("DELETE FROM archive_exception WHERE account = ?1")?
        .execute([account])?;
    let mut insert = db.prepare_cached(
        "INSERT INTO archive_exception (account, jid, archive) VALUES (?1, ?2, ?3)",
    )?;
    for (jid, archive) in exceptions {
        insert.execute(params![account, jid.as_str(), archive])?;
    }
    Ok(true)
}
