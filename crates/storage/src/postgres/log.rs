//! `log` and `entry`: what is written to logs by `log_writer.rs`, and reading what is undelivered.

use std::time::Instant;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use tokio_postgres::Row;

use super::{BACKEND, PostgresStorage, get, pool::Lease};
use crate::{
    Entry, EntryId, Error, LogStore, NewMessage, Refused, Stored,
    log::{count_appended, from_micros, to_i64, to_u64},
    metrics,
};

#[async_trait]
impl LogStore for PostgresStorage {
    async fn append(
        &self,
        messages: Vec<NewMessage>,
        limit: usize,
    ) -> Result<Vec<Result<Stored, Refused>>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let deadline = started + self.options.timeout;
        let result = self.log.append(messages, limit, deadline).await;
        metrics::observe(BACKEND, "append", started, &result);
        if let Ok(appended) = &result {
            count_appended(appended);
        }
        result
    }

    async fn undelivered(
        &self,
        account: &BareJid,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let account = account.clone();
        let after = after.map_or(0, |id| to_i64(id.0));
        self.read("undelivered", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    concat!(
                        "SELECT ",
                        entry_columns!(),
                        " FROM account a JOIN log l ON l.account = a.id
                         JOIN entry e ON e.account = a.id
                         WHERE a.jid = $1 AND e.id > greatest(l.delivered, $2)
                         AND e.pending AND e.id <> ALL (l.ahead)
                         ORDER BY e.id LIMIT $3"
                    ),
                    &[&account.as_str(), &after, &to_i64(limit as u64)],
                )
                .await?;
            rows.iter().map(read_entry).collect()
        })
        .await
    }

    async fn mark_delivered(&self, delivered: Vec<(BareJid, Vec<EntryId>)>) -> Result<(), Error> {
        if delivered.iter().all(|one| one.1.is_empty()) {
            return Ok(());
        }
        let started = Instant::now();
        let deadline = started + self.options.timeout;
        let result = self.log.mark_delivered(delivered, deadline).await;
        metrics::observe(BACKEND, "mark_delivered", started, &result);
        result
    }

    async fn with_undelivered(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error> {
        let names: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        self.read("with_undelivered", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT a.jid FROM account a JOIN log l ON l.account = a.id
                     WHERE a.jid = ANY ($1::text[]) AND l.undelivered > 0",
                    &[&names],
                )
                .await?;
            let account = |row| {
                let jid: &str = get(row, 0)?;
                BareJid::parse(jid).map_err(|error| Error::corrupt("address", error))
            };
            rows.iter().map(account).collect()
        })
        .await
    }

    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error> {
        let account = account.clone();
        self.read("undelivered_count", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT l.undelivered FROM account a JOIN log l ON l.account = a.id
                     WHERE a.jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            rows.first().map_or(Ok(0), |row| Ok(to_u64(get(row, 0)?)))
        })
        .await
    }
}

/// The columns that [`read_entry`] expects, from `entry e`.
macro_rules! entry_columns {
    () => {
        "e.id, e.peer, e.at, e.stanza, e.archived"
    };
}
pub(super) use entry_columns;

/// An entry of a row with the columns of [`entry_columns`].
pub(super) fn read_entry(row: &Row) -> Result<Entry, Error> {
    Ok(Entry {
        id: EntryId(to_u64(get(row, 0)?)),
        peer: Jid::parse(get(row, 1)?).map_err(|error| Error::corrupt("address", error))?,
        at: from_micros(get(row, 2)?),
        stanza: get(row, 3)?,
        archived: get(row, 4)?,
    })
}
