//! `blocked`.

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};
use rusqlite::{Connection, params};

use super::{SqliteStorage, accounts};
use crate::{BlockStore, Error};

#[async_trait]
impl BlockStore for SqliteStorage {
    async fn blocked(&self, account: &BareJid) -> Result<Vec<Jid>, Error> {
        let account = account.clone();
        self.read("blocked", move |db| match accounts::id(db, &account)? {
            Some(account) => blocked(db, account),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn block(&self, account: &BareJid, jids: &[Jid]) -> Result<Vec<Jid>, Error> {
        let (account, jids) = (account.clone(), jids.to_vec());
        let limit = self.options.max_blocked;
        self.write_with_logs("block", move |db, logs| {
            logs.forget(&account);
            block(db, &account, jids, limit)
        })
        .await
    }

    async fn unblock(&self, account: &BareJid, jids: Option<&[Jid]>) -> Result<Vec<Jid>, Error> {
        let (account, jids) = (account.clone(), jids.map(<[Jid]>::to_vec));
        self.write_with_logs("unblock", move |db, logs| {
            logs.forget(&account);
            unblock(db, &account, jids)
        })
        .await
    }
}

fn blocked(db: &Connection, account: i64) -> Result<Vec<Jid>, Error> {
    db.prepare_cached("SELECT jid FROM blocked WHERE account = ?1 ORDER BY jid")?
        .query_and_then([account], |row| {
            let jid = row
                .get_ref(0)?
                .as_str()
                .map_err(|error| Error::corrupt("address", error))?;
            Jid::parse(jid).map_err(|error| Error::corrupt("address", error))
        })?
        .collect()
}

fn block(
    db: &Connection,
    account: &BareJid,
    jids: Vec<Jid>,
    limit: usize,
) -> Result<Vec<Jid>, Error> {
    let account = accounts::existing(db, account)?;
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO blocked VALUES (?1, ?2)")?;
    let mut added = Vec::new();
    for jid in jids {
        if insert.execute(params![account, jid.as_str()])? > 0 {
            added.push(jid);
        }
    }
    let count: i64 = db
        .prepare_cached("SELECT count(*) FROM blocked WHERE account = ?1")?
        .query_row([account], |row| row.get(0))?;
    if !added.is_empty() && usize::try_from(count).is_ok_and(|count| count > limit) {
        return Err(Error::Full {
            what: "block list",
            limit,
        });
    }
    Ok(added)
}

fn unblock(db: &Connection, account: &BareJid, jids: Option<Vec<Jid>>) -> Result<Vec<Jid>, Error> {
    let Some(account) = accounts::id(db, account)? else {
        return Ok(Vec::new());
    };
    let Some(jids) = jids else {
        let all = blocked(db, account)?;
        db.prepare_cached("DELETE FROM blocked WHERE account = ?1")?
            .execute([account])?;
        return Ok(all);
    };
    let mut delete = db.prepare_cached("DELETE FROM blocked WHERE account = ?1 AND jid = ?2")?;
    let mut removed = Vec::new();
    for jid in jids {
        if delete.execute(params![account, jid.as_str()])? > 0 {
            removed.push(jid);
        }
    }
    Ok(removed)
}
