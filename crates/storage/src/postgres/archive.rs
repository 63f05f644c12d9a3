//! Queries to archives, and `archive_exception`.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use tokio_postgres::types::ToSql;

use super::{
    PostgresStorage, get,
    log::{entry_columns, read_entry},
    pool::Lease,
};
use crate::{
    ArchiveAnswer, ArchiveBounds, ArchiveDefault, ArchivePreferences, ArchiveQuery, ArchiveStore,
    EntryId, Error,
    log::{from_micros, peer_hash, to_i64, to_micros, to_u64},
};

#[async_trait]
impl ArchiveStore for PostgresStorage {
    async fn archive(
        &self,
        account: &BareJid,
        query: &ArchiveQuery,
    ) -> Result<ArchiveAnswer, Error> {
        let (account, query) = (account.clone(), query.clone());
        self.read("archive", move |lease| archive(lease, account, query))
            .await
    }

    async fn archive_bounds(&self, account: &BareJid) -> Result<Option<ArchiveBounds>, Error> {
        let account = account.clone();
        self.read("archive_bounds", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT f.id, f.at, n.id, n.at FROM account a
                     CROSS JOIN LATERAL (
                         SELECT id, at FROM entry WHERE account = a.id AND archived
                         ORDER BY id LIMIT 1) f
                     CROSS JOIN LATERAL (
                         SELECT id, at FROM entry WHERE account = a.id AND archived
                         ORDER BY id DESC LIMIT 1) n
                     WHERE a.jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            Ok(Some(ArchiveBounds {
                first: (EntryId(to_u64(get(row, 0)?)), from_micros(get(row, 1)?)),
                last: (EntryId(to_u64(get(row, 2)?)), from_micros(get(row, 3)?)),
            }))
        })
        .await
    }

    async fn archive_preferences(&self, account: &BareJid) -> Result<ArchivePreferences, Error> {
        let account = account.clone();
        self.read("archive_preferences", move |lease| {
            preferences(lease, account)
        })
        .await
    }

    async fn set_archive_preferences(
        &self,
        account: &BareJid,
        preferences: &ArchivePreferences,
    ) -> Result<bool, Error> {
        let (account, preferences) = (account.clone(), preferences.clone());
        self.write("set_archive_preferences", move |lease| {
            set_preferences(lease, account, preferences)
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

async fn archive(
    mut lease: Lease,
    account: BareJid,
    query: ArchiveQuery,
) -> Result<ArchiveAnswer, Error> {
    let named = query.named();
    let (start, end) = (query.start.map(to_micros), query.end.map(to_micros));
    let rows = lease
        .query(
            "SELECT l.account,
                 (SELECT count(*) FROM entry e
                  WHERE e.account = l.account AND e.id = ANY ($2::bigint[]) AND e.archived),
                 CASE WHEN $3::bigint IS NULL THEN -1
                     ELSE log_place(l.account, $3, l.disorder, false) - 1 END,
                 CASE WHEN $4::bigint IS NULL THEN 9223372036854775807
                     ELSE log_place(l.account, $4, l.disorder, true) END
             FROM account a JOIN log l ON l.account = a.id WHERE a.jid = $1",
            &[&account.as_str(), &named, &start, &end],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(if named.is_empty() {
            ArchiveAnswer::Page(query.page_of(Vec::new()))
        } else {
            ArchiveAnswer::NotFound
        });
    };
    if get::<i64>(row, 1)? < to_i64(named.len() as u64) {
        return Ok(ArchiveAnswer::NotFound);
    }
    let account: i64 = get(row, 0)?;
    let (mut low, mut high) = query.between();
    low = low.max(get(row, 2)?);
    high = high.min(get(row, 3)?);
    let (start, end) = (start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX));
    let limit = to_i64((query.max as u64).saturating_add(1));
    let ids = query.sorted_ids();
    let ids = (!ids.is_empty()).then_some(&ids);
    // A statement for each way that it has to be looked up.
    macro_rules! select {
        ($ids:literal, $with:literal, $order:literal) => {
            concat!(
                "SELECT ",
                entry_columns!(),
                " FROM entry e
                 WHERE e.account = $1 AND e.id > $2 AND e.id < $3 AND e.archived
                 AND e.at BETWEEN $4 AND $5 ",
                $ids,
                $with,
                " ORDER BY e.id ",
                $order,
                " LIMIT $7"
            )
        };
    }
    macro_rules! select_all {
        ($ids:literal, $order:literal) => {
            select!($ids, "", $order)
        };
    }
    macro_rules! select_with {
        ($ids:literal, $order:literal) => {
            select!(
                $ids,
                " AND e.peer_hash = $8
                 AND CASE WHEN $9 THEN split_part(e.peer, '/', 1) ELSE e.peer END = $10",
                $order
            )
        };
    }
    macro_rules! in_direction {
        ($select:ident) => {
            match (ids.is_some(), query.page.is_backwards()) {
                (false, false) => $select!("AND $6::bigint[] IS NULL", ""),
                (false, true) => $select!("AND $6::bigint[] IS NULL", "DESC"),
                (true, false) => $select!("AND e.id = ANY ($6::bigint[])", ""),
                (true, true) => $select!("AND e.id = ANY ($6::bigint[])", "DESC"),
            }
        };
    }
    let mut parameters: Vec<&(dyn ToSql + Sync)> =
        vec![&account, &low, &high, &start, &end, &ids, &limit];
    let with = query.with.as_ref();
    let with = with.map(|with| (peer_hash(with), with.is_bare(), with.as_str()));
    let sql = match &with {
        None => in_direction!(select_all),
        Some((hash, is_bare, text)) => {
            parameters.extend([hash as &(dyn ToSql + Sync), is_bare, text]);
            in_direction!(select_with)
        }
    };
    let rows = lease.query(sql, &parameters).await?;
    let entries = rows.iter().map(read_entry).collect::<Result<_, _>>()?;
    Ok(ArchiveAnswer::Page(query.page_of(entries)))
}

async fn preferences(mut lease: Lease, account: BareJid) -> Result<ArchivePreferences, Error> {
    let rows = lease
        .query(
            "SELECT l.archive_default, x.jid, x.archive
             FROM account a JOIN log l ON l.account = a.id
             LEFT JOIN archive_exception x ON x.account = a.id
             WHERE a.jid = $1 ORDER BY x.jid",
            &[&account.as_str()],
        )
        .await?;
    let mut preferences = ArchivePreferences::default();
    for row in &rows {
        preferences.default = ArchiveDefault::from_number(get(row, 0)?)?;
        if let Some(jid) = get::<Option<&str>>(row, 1)? {
            let jid = Jid::parse(jid).map_err(|error| Error::corrupt("address", error))?;
            preferences.add(jid, get(row, 2)?);
        }
    }
    Ok(preferences)
}

async fn set_preferences(
    mut lease: Lease,
    account: BareJid,
    preferences: ArchivePreferences,
) -> Result<bool, Error> {
    // Locked as appends lock it.
    let rows = lease
        .begin_with(
            "SELECT l.account FROM account a JOIN log l ON l.account = a.id
             WHERE a.jid = $1 FOR UPDATE OF l",
            &[&account.as_str()],
        )
        .await?;
    let Some(row) = rows.first() else {
        lease.rollback().await?;
        return Ok(false);
    };
    let account: i64 = get(row, 0)?;
    put_preferences(&mut lease, account, &preferences).await?;
    lease.commit().await?;
    Ok(true)
}

/// Replaces the preferences of an account whose log is locked.
pub(super) async fn put_preferences(
    lease: &mut Lease,
    account: i64,
    preferences: &ArchivePreferences,
) -> Result<(), Error> {
    let exceptions = preferences.exceptions();
    let jids: Vec<&str> = exceptions.iter().map(|(jid, _)| jid.as_str()).collect();
    let archive: Vec<bool> = exceptions.iter().map(|(_, archive)| *archive).collect();
    lease
        .execute(
            "DELETE FROM archive_exception WHERE account = $1",
            &[&account],
        )
        .await?;
    lease
        .execute(
            "WITH added AS (
                 INSERT INTO archive_exception (account, jid, archive)
                 SELECT $1, * FROM unnest($3::text[], $4::boolean[])
             )
             UPDATE log SET archive_default = $2, exceptions = cardinality($3) > 0
             WHERE account = $1",
            &[&account, &preferences.default.to_number(), &jids, &archive],
        )
        .await?;
    Ok(())
}
