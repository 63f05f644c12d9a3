//! Removing what archives need not keep any longer.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use rookery_proto::jid::BareJid;
use rusqlite::{Connection, params};

use super::{
    SqliteStorage,
    archive::Times,
    deliveries::from_blob,
    log_writer::kind::{ARCHIVED, PENDING},
};
use crate::{Error, log::to_micros};

/// Accounts that are looked at in one go.
const ACCOUNTS: i64 = 500;

/// Where the search for old entries stopped.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    account: Mutex<i64>,
}

/// What must go.
#[derive(Clone, Copy)]
struct Rule {
    /// What was accepted before.
    before: Option<i64>,
    /// What is beyond so many.
    max: Option<i64>,
    /// The most entries to find.
    batch: usize,
}

/// Entries that must go.
struct Found {
    entries: Vec<(BareJid, Vec<i64>)>,
    count: usize,
    /// The last account that has no more of them; `None` if there are no accounts behind it.
    done: Option<i64>,
}

impl SqliteStorage {
    /// See [`crate::ArchiveStore::expire`]. Searching goes on with the account at which the call
    /// before stopped, and is up to the reading threads.
    pub(super) async fn expire_batch(
        &self,
        older_than: Option<SystemTime>,
        max_per_account: Option<u64>,
        batch: usize,
    ) -> Result<u64, Error> {
        let rule = Rule {
            before: older_than.map(to_micros),
            max: max_per_account.map(crate::log::to_i64),
            batch,
        };
        if rule.before.is_none() && rule.max.is_none() || batch == 0 {
            return Ok(0);
        }
        let mut account = self.sweep.get();
        // From there to the end, and then once from the beginning.
        let mut rounds = 0;
        while rounds < 2 {
            let found = self
                .read("expire", move |db| find(db, account, rule))
                .await?;
            account = found.done.unwrap_or(0);
            self.sweep.set(account);
            if found.done.is_none() {
                rounds += 1;
            }
            if found.count > 0 {
                let entries = found.entries;
                let removed = self
                    .write_batch("expire", found.count, move |db, logs| {
                        logs.remove_expired(db, &entries)
                    })
                    .await?;
                if removed > 0 {
                    return Ok(removed);
                }
            }
        }
        Ok(0)
    }
}

impl Sweep {
    fn get(&self) -> i64 {
        *self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, account: i64) {
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = account;
    }
}

/// Looks for entries that must go in the accounts after `account`.
fn find(db: &Connection, account: i64, rule: Rule) -> Result<Found, Error> {
    let _snapshot = db.unchecked_transaction()?;
    let mut found = Found {
        entries: Vec::new(),
        count: 0,
        done: None,
    };
    let mut select = db.prepare_cached(
        "SELECT l.account, a.jid, l.delivered, l.ahead, l.disorder
         FROM log l JOIN account a ON a.id = l.account
         WHERE l.account > ?1 ORDER BY l.account LIMIT ?2",
    )?;
    let mut rows = select.query([account, ACCOUNTS])?;
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        let times = Times {
            account: row.get(0)?,
            disorder: row.get(4)?,
        };
        let ahead: Option<Vec<u8>> = row.get(3)?;
        let ahead = from_blob(&ahead.unwrap_or_default())?;
        let mut ids = expired(
            db,
            &times,
            rule,
            row.get(2)?,
            &ahead,
            rule.batch - found.count,
        )?;
        let is_all = found.count + ids.len() < rule.batch;
        if !ids.is_empty() {
            let jid: String = row.get(1)?;
            let jid = BareJid::parse(&jid).map_err(|error| Error::corrupt("address", error))?;
            found.count += ids.len();
            found.entries.push((jid, std::mem::take(&mut ids)));
        }
        if !is_all {
            found.done = Some(times.account - 1);
            return Ok(found);
        }
        seen += 1;
        if seen == ACCOUNTS {
            found.done = Some(times.account);
        }
    }
    Ok(found)
}

/// The first `limit` entries of a log that must go.
fn expired(
    db: &Connection,
    times: &Times,
    rule: Rule,
    delivered: i64,
    ahead: &[i64],
    limit: usize,
) -> Result<Vec<i64>, Error> {
    // All that must go lies before one of these.
    let mut by_count = 0;
    if let Some(max) = rule.max {
        let mut select = db.prepare_cached(
            "SELECT id FROM log_entry WHERE account = ?1 AND kind & ?2
             ORDER BY id DESC LIMIT 1 OFFSET ?3",
        )?;
        let mut rows = select.query([times.account, ARCHIVED, max])?;
        if let Some(row) = rows.next()? {
            by_count = row.get::<_, i64>(0)? + 1;
        }
    }
    let by_age = match rule.before {
        Some(before) => times.first_past(db, before.saturating_sub(1))?,
        None => 0,
    };
    let mut select = db.prepare_cached(
        "SELECT e.id, e.kind FROM log_entry e CROSS JOIN message m ON m.id = e.id
         WHERE e.account = ?1 AND e.id < ?2 AND e.kind & ?3 AND (e.id < ?4 OR m.at < ?5)
         ORDER BY e.id",
    )?;
    let mut rows = select.query(params![
        times.account,
        by_count.max(by_age),
        ARCHIVED,
        by_count,
        rule.before.unwrap_or(i64::MIN),
    ])?;
    let mut ids = Vec::new();
    while ids.len() < limit
        && let Some(row) = rows.next()?
    {
        let (id, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
        let is_pending = kind & PENDING != 0;
        if !is_pending || id <= delivered || ahead.binary_search(&id).is_ok() {
            ids.push(id);
        }
    }
    Ok(ids)
}
