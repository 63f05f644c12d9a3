//! Removing what archives need not keep any longer.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::{PostgresStorage, get, pool::Lease};
use crate::{
    Error,
    log::{to_i64, to_micros},
};

/// Accounts that are looked at in one go.
const ACCOUNTS: i64 = 200;

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
    batch: i64,
}

/// What became of one go.
struct Swept {
    removed: u64,
    /// The last account that was looked at; `None` if there are none behind it.
    account: Option<i64>,
}

impl PostgresStorage {
    /// See [`crate::ArchiveStore::expire`]. Searching goes on with the account at which the call
    /// before stopped.
    pub(super) async fn expire_batch(
        &self,
        older_than: Option<SystemTime>,
        max_per_account: Option<u64>,
        batch: usize,
    ) -> Result<u64, Error> {
        let rule = Rule {
            before: older_than.map(to_micros),
            max: max_per_account.map(to_i64),
            batch: to_i64(batch as u64),
        };
        if rule.before.is_none() && rule.max.is_none() || batch == 0 {
            return Ok(0);
        }
        // From there to the end, and then once from the beginning.
        let mut rounds = 0;
        while rounds < 2 {
            let account = self.sweep.get();
            let swept = self
                .write("expire", move |lease| sweep(lease, account, rule))
                .await?;
            self.sweep.set(swept.account.unwrap_or(0));
            if swept.account.is_none() {
                rounds += 1;
            }
            if swept.removed > 0 {
                return Ok(swept.removed);
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

/// Finds entries that must go in the accounts after `account`, and removes them.
async fn sweep(mut lease: Lease, account: i64, rule: Rule) -> Result<Swept, Error> {
    // All that must go lies before `by_count` or `by_age`.
    let rows = lease
        .query(
            "WITH l AS MATERIALIZED (
                 SELECT * FROM log WHERE account > $1 ORDER BY account LIMIT $5
             )
             SELECT l.account, ARRAY(
                 SELECT e.id FROM entry e
                 WHERE e.account = l.account AND e.archived
                     AND e.id < greatest(b.by_count, b.by_age)
                     AND (e.id < b.by_count OR e.at < $2::bigint)
                     AND (NOT e.pending OR e.id <= l.delivered OR e.id = ANY (l.ahead))
                 ORDER BY e.id LIMIT $4)
             FROM l CROSS JOIN LATERAL (SELECT
                 coalesce((SELECT e.id + 1 FROM entry e WHERE e.account = l.account AND e.archived
                     AND $3::bigint IS NOT NULL ORDER BY e.id DESC LIMIT 1 OFFSET $3), 0)
                     AS by_count,
                 CASE WHEN $2::bigint IS NULL THEN 0
                     ELSE log_place(l.account, $2 - 1, l.disorder, true) END AS by_age) b
             ORDER BY l.account",
            &[&account, &rule.before, &rule.max, &rule.batch, &ACCOUNTS],
        )
        .await?;
    let (mut accounts, mut ids) = (Vec::new(), Vec::new());
    let mut last = None;
    let mut room = usize::try_from(rule.batch).unwrap_or(usize::MAX);
    for row in &rows {
        let account: i64 = get(row, 0)?;
        let mut found: Vec<i64> = get(row, 1)?;
        // That account is looked at again.
        let is_all = found.len() < room;
        found.truncate(room);
        room -= found.len();
        accounts.extend(std::iter::repeat_n(account, found.len()));
        ids.extend(found);
        last = Some(if is_all { account } else { account - 1 });
        if !is_all {
            break;
        }
    }
    let is_end = to_i64(rows.len() as u64) < ACCOUNTS && room > 0;
    let mut swept = Swept {
        removed: 0,
        account: last.filter(|_| !is_end),
    };
    if ids.is_empty() {
        return Ok(swept);
    }
    // Something that was delivered may have become undelivered again (`MAX_AHEAD`).
    let mut locked = accounts.clone();
    locked.dedup();
    lease
        .begin_with(
            "SELECT FROM log WHERE account = ANY ($1::bigint[]) ORDER BY account FOR UPDATE",
            &[&locked],
        )
        .await?;
    swept.removed = lease
        .execute(
            "DELETE FROM entry e USING unnest($1::bigint[], $2::bigint[]) AS x (account, id), log l
             WHERE e.account = x.account AND e.id = x.id AND l.account = x.account
                 AND (NOT e.pending OR e.id <= l.delivered OR e.id = ANY (l.ahead))",
            &[&accounts, &ids],
        )
        .await?;
    lease.commit().await?;
    Ok(swept)
}
