//! `log`, `log_entry` and `message`: what is written to logs by `log_writer.rs`, and reading what is
//! undelivered.

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    SqliteStorage,
    deliveries::from_blob,
    log_writer::kind::{ARCHIVED, PENDING},
};
use crate::{
    Entry, EntryId, Error, LogStore, NewMessage, Refused, Stored,
    log::{from_micros, to_i64, to_u64},
    metrics,
};

#[async_trait]
impl LogStore for SqliteStorage {
    async fn append(
        &self,
        messages: Vec<NewMessage>,
        limit: usize,
    ) -> Result<Vec<Result<Stored, Refused>>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let copies = |one: &NewMessage| {
            usize::from(one.recipient.is_some()) + usize::from(one.sender.is_some())
        };
        let rows = messages.iter().map(copies).sum();
        let appended = self
            .write_batch("append", rows, move |db, logs| {
                logs.append(db, &messages, limit)
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

    async fn mark_delivered(&self, delivered: Vec<(BareJid, Vec<EntryId>)>) -> Result<(), Error> {
        let ids: usize = delivered.iter().map(|one| one.1.len()).sum();
        if ids == 0 {
            return Ok(());
        }
        // Most often they cost one row an account.
        let marked = self
            .write_batch("mark_delivered", delivered.len(), move |db, logs| {
                logs.mark_delivered(db, &delivered)
            })
            .await?;
        metrics::LOG_ROWS_DELIVERED.inc_by(marked);
        Ok(())
    }

    async fn with_undelivered(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error> {
        let mut accounts = accounts.to_vec();
        self.read("with_undelivered", move |db| {
            let mut failed = None;
            accounts.retain(|account| match undelivered_count(db, account) {
                Ok(count) => count > 0,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
            failed.map_or(Ok(accounts), Err)
        })
        .await
    }

    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error> {
        let account = account.clone();
        self.read("undelivered_count", move |db| {
            undelivered_count(db, &account)
        })
        .await
    }
}

/// The columns that [`read_entry`] expects, from `log_entry e` and `message m`.
macro_rules! entry_columns {
    () => {
        "e.id, e.kind, m.at, CASE WHEN e.kind & 4 THEN m.sender_peer ELSE m.recipient_peer END,
         m.stanza"
    };
}
pub(super) use entry_columns;

/// An entry of a row with the columns of [`entry_columns`].
pub(super) fn read_entry(row: &Row<'_>) -> Result<Entry, Error> {
    let corrupt = |error: &dyn std::fmt::Display| Error::corrupt("log entry", error);
    let peer = row.get_ref(3)?.as_str().map_err(|error| corrupt(&error))?;
    Ok(Entry {
        id: EntryId(to_u64(row.get(0)?)),
        peer: Jid::parse(peer).map_err(|error| corrupt(&error))?,
        at: from_micros(row.get(2)?),
        stanza: row.get(4)?,
        archived: row.get::<_, i64>(1)? & ARCHIVED != 0,
    })
}

/// How far an account's log is delivered.
struct Mark {
    account: i64,
    delivered: i64,
    ahead: Vec<i64>,
}

impl Mark {
    fn of(db: &Connection, account: &BareJid) -> Result<Option<Self>, Error> {
        let row = db
            .prepare_cached(
                "SELECT l.account, l.delivered, l.ahead
                 FROM account a JOIN log l ON l.account = a.id WHERE a.jid = ?1",
            )?
            .query_row([account.as_str()], |row| {
                let ahead: Option<Vec<u8>> = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, ahead.unwrap_or_default()))
            })
            .optional()?;
        row.map(|(account, delivered, ahead)| {
            Ok(Self {
                account,
                delivered,
                ahead: from_blob(&ahead)?,
            })
        })
        .transpose()
    }
}

fn undelivered(
    db: &Connection,
    account: &BareJid,
    after: Option<EntryId>,
    limit: usize,
) -> Result<Vec<Entry>, Error> {
    // Mark and entries of the same moment.
    let _snapshot = db.unchecked_transaction()?;
    let Some(mark) = Mark::of(db, account)? else {
        return Ok(Vec::new());
    };
    let after = after.map_or(0, |id| to_i64(id.0)).max(mark.delivered);
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        entry_columns!(),
        " FROM log_entry e CROSS JOIN message m ON m.id = e.id
         WHERE e.account = ?1 AND e.id > ?2 AND e.kind & ?3 ORDER BY e.id"
    ))?;
    let mut rows = select.query([mark.account, after, PENDING])?;
    let mut entries = Vec::new();
    while entries.len() < limit
        && let Some(row) = rows.next()?
    {
        if mark.ahead.binary_search(&row.get(0)?).is_err() {
            entries.push(read_entry(row)?);
        }
    }
    Ok(entries)
}

fn undelivered_count(db: &Connection, account: &BareJid) -> Result<u64, Error> {
    let _snapshot = db.unchecked_transaction()?;
    let Some(mark) = Mark::of(db, account)? else {
        return Ok(0);
    };
    let mut select =
        db.prepare_cached("SELECT id FROM log_entry WHERE account = ?1 AND id > ?2 AND kind & ?3")?;
    let mut rows = select.query([mark.account, mark.delivered, PENDING])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += u64::from(mark.ahead.binary_search(&row.get(0)?).is_err());
    }
    Ok(count)
}
