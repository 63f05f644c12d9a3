//! `log` and `log_entry`.

use std::collections::HashMap;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStorage;
use crate::{
    Entry, EntryId, Error, LogStore, NewEntry, Refused,
    log::{from_micros, to_i64, to_micros, to_u64},
    metrics,
};

#[async_trait]
impl LogStore for SqliteStorage {
    async fn append(
        &self,
        entries: Vec<NewEntry>,
        limit: usize,
    ) -> Result<Vec<Result<EntryId, Refused>>, Error> {
        let appended = self
            .write_batch("append", entries.len(), move |db| {
                append(db, &entries, limit)
            })
            .await?;
        crate::log::count_appended(&appended);
        Ok(appended)
    }

    async fn undelivered(
        &self,
        account: &BareJid,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let account = account.clone();
        self.read("undelivered", move |db| {
            undelivered(db, &account, after, limit)
        })
        .await
    }

    async fn mark_delivered(&self, account: &BareJid, up_to: EntryId) -> Result<u64, Error> {
        let account = account.clone();
        let delivered = self
            .write("mark_delivered", move |db| {
                mark_delivered(db, &account, up_to)
            })
            .await?;
        metrics::LOG_ROWS_DELIVERED.inc_by(delivered);
        Ok(delivered)
    }

    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error> {
        let account = account.clone();
        self.read("undelivered_count", move |db| {
            Ok(State::of(db, &account)?.map_or(0, |state| to_u64(state.undelivered)))
        })
        .await
    }
}

/// A row of `log`.
struct State {
    account: i64,
    delivered: i64,
    undelivered: i64,
}

impl State {
    fn of(db: &Connection, account: &BareJid) -> Result<Option<Self>, Error> {
        Ok(db
            .prepare_cached(
                "SELECT l.account, l.delivered, l.undelivered
                 FROM account a JOIN log l ON l.account = a.id WHERE a.jid = ?1",
            )?
            .query_row([account.as_str()], |row| {
                Ok(Self {
                    account: row.get(0)?,
                    delivered: row.get(1)?,
                    undelivered: row.get(2)?,
                })
            })
            .optional()?)
    }

    fn save(&self, db: &Connection) -> Result<(), Error> {
        db.prepare_cached("UPDATE log SET delivered = ?2, undelivered = ?3 WHERE account = ?1")?
            .execute([self.account, self.delivered, self.undelivered])?;
        Ok(())
    }
}

fn append(
    db: &Connection,
    entries: &[NewEntry],
    limit: usize,
) -> Result<Vec<Result<EntryId, Refused>>, Error> {
    let mut states: HashMap<&BareJid, Option<State>> = HashMap::new();
    let mut insert = db.prepare_cached(
        "INSERT INTO log_entry (account, peer, at, stanza) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut appended = Vec::with_capacity(entries.len());
    for entry in entries {
        if !states.contains_key(&entry.account) {
            states.insert(&entry.account, State::of(db, &entry.account)?);
        }
        let Some(Some(state)) = states.get_mut(&entry.account) else {
            appended.push(Err(Refused::NoAccount));
            continue;
        };
        if usize::try_from(state.undelivered).is_ok_and(|count| count >= limit) {
            appended.push(Err(Refused::Full));
            continue;
        }
        state.undelivered += 1;
        insert.execute(params![
            state.account,
            entry.peer.as_str(),
            to_micros(entry.at),
            entry.stanza,
        ])?;
        appended.push(Ok(EntryId(to_u64(db.last_insert_rowid()))));
    }
    for state in states.values().flatten() {
        state.save(db)?;
    }
    Ok(appended)
}

fn undelivered(
    db: &Connection,
    account: &BareJid,
    after: Option<EntryId>,
    limit: usize,
) -> Result<Vec<Entry>, Error> {
    let read = |row: &Row<'_>| {
        let peer = row
            .get_ref(1)?
            .as_str()
            .map_err(|error| Error::corrupt("address", error))?;
        Ok(Entry {
            id: EntryId(to_u64(row.get(0)?)),
            peer: Jid::parse(peer).map_err(|error| Error::corrupt("address", error))?,
            at: from_micros(row.get(2)?),
            stanza: row.get(3)?,
        })
    };
    db.prepare_cached(
        "SELECT e.id, e.peer, e.at, e.stanza
         FROM account a JOIN log l ON l.account = a.id JOIN log_entry e ON e.account = a.id
         WHERE a.jid = ?1 AND e.id > max(l.delivered, ?2) ORDER BY e.id LIMIT ?3",
    )?
    .query_and_then(
        params![
            account.as_str(),
            after.map_or(0, |id| to_i64(id.0)),
            i64::try_from(limit).unwrap_or(i64::MAX),
        ],
        read,
    )?
    .collect()
}

fn mark_delivered(db: &Connection, account: &BareJid, up_to: EntryId) -> Result<u64, Error> {
    let Some(mut state) = State::of(db, account)? else {
        return Ok(0);
    };
    // An id that no entry has yet must not swallow those that come.
    let last: Option<i64> = db
        .prepare_cached("SELECT max(id) FROM log_entry WHERE account = ?1")?
        .query_row([state.account], |row| row.get(0))?;
    let up_to = to_i64(up_to.0).min(last.unwrap_or(0));
    if up_to <= state.delivered {
        return Ok(0);
    }
    let delivered = db
        .prepare_cached("DELETE FROM log_entry WHERE account = ?1 AND id <= ?2")?
        .execute([state.account, up_to])?;
    state.delivered = up_to;
    state.undelivered -= i64::try_from(delivered).unwrap_or(i64::MAX);
    state.save(db)?;
    Ok(u64::try_from(delivered).unwrap_or(u64::MAX))
}
