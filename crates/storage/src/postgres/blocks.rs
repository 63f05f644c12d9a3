//! `blocked`.

use std::collections::HashSet;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use tokio_postgres::Row;

use super::{PostgresStorage, accounts::begin_locked, get, pool::Lease};
use crate::{BlockStore, Error};

#[async_trait]
impl BlockStore for PostgresStorage {
    async fn blocked(&self, account: &BareJid) -> Result<Vec<Jid>, Error> {
        let account = account.clone();
        self.read("blocked", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT b.jid FROM account a JOIN blocked b ON b.account = a.id
                     WHERE a.jid = $1 ORDER BY b.jid",
                    &[&account.as_str()],
                )
                .await?;
            read(&rows)
        })
        .await
    }

    async fn block(&self, account: &BareJid, jids: &[Jid]) -> Result<Vec<Jid>, Error> {
        let (account, jids) = (account.clone(), jids.to_vec());
        let limit = self.options.max_blocked;
        self.write("block", move |lease| block(lease, account, jids, limit))
            .await
    }

    async fn unblock(&self, account: &BareJid, jids: Option<&[Jid]>) -> Result<Vec<Jid>, Error> {
        let (account, jids) = (account.clone(), jids.map(<[Jid]>::to_vec));
        self.write("unblock", move |lease| unblock(lease, account, jids))
            .await
    }
}

fn read(rows: &[Row]) -> Result<Vec<Jid>, Error> {
    rows.iter()
        .map(|row| Jid::parse(get(row, 0)?).map_err(|error| Error::corrupt("address", error)))
        .collect()
}

/// Those of `jids` that are in `rows`, each once, in the order of `jids`.
fn in_order(rows: &[Row], jids: Vec<Jid>) -> Result<Vec<Jid>, Error> {
    let mut found = HashSet::new();
    for row in rows {
        found.insert(get::<&str>(row, 0)?);
    }
    Ok(jids
        .into_iter()
        .filter(|jid| found.remove(jid.as_str()))
        .collect())
}

async fn block(
    mut lease: Lease,
    account: BareJid,
    jids: Vec<Jid>,
    limit: usize,
) -> Result<Vec<Jid>, Error> {
    let account = begin_locked(&mut lease, &account).await?;
    let names: Vec<&str> = jids.iter().map(Jid::as_str).collect();
    let rows = lease
        .query(
            "INSERT INTO blocked (account, jid) SELECT $1, * FROM unnest($2::text[])
             ON CONFLICT DO NOTHING RETURNING jid",
            &[&account, &names],
        )
        .await?;
    let added = in_order(&rows, jids)?;
    let rows = lease
        .query(
            "SELECT count(*) FROM blocked WHERE account = $1",
            &[&account],
        )
        .await?;
    let count: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    if !added.is_empty() && usize::try_from(count).is_ok_and(|count| count > limit) {
        // The lease rolls back.
        return Err(Error::Full {
            what: "block list",
            limit,
        });
    }
    lease.commit().await?;
    Ok(added)
}

async fn unblock(
    mut lease: Lease,
    account: BareJid,
    jids: Option<Vec<Jid>>,
) -> Result<Vec<Jid>, Error> {
    let Some(jids) = jids else {
        let rows = lease
            .query(
                "DELETE FROM blocked b USING account a WHERE a.jid = $1 AND b.account = a.id
                 RETURNING b.jid",
                &[&account.as_str()],
            )
            .await?;
        let mut removed = read(&rows)?;
        removed.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        return Ok(removed);
    };
    let names: Vec<&str> = jids.iter().map(Jid::as_str).collect();
    let rows = lease
        .query(
            "DELETE FROM blocked b USING account a
             WHERE a.jid = $1 AND b.account = a.id AND b.jid = ANY($2::text[]) RETURNING b.jid",
            &[&account.as_str(), &names],
        )
        .await?;
    in_order(&rows, jids)
}
