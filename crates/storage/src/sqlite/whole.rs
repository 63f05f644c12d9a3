//! Accounts as a whole: rows in all tables at once.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{SqliteStorage, accounts, archive, roster};
use crate::{Error, WholeAccount, WholeStore, log::to_micros};

#[async_trait]
impl WholeStore for SqliteStorage {
    async fn put_accounts(
        &self,
        new_accounts: Vec<WholeAccount>,
        replace: bool,
    ) -> Result<u64, Error> {
        self.write_with_logs("put_accounts", move |db, logs| {
            let mut replaced = 0;
            for account in &new_accounts {
                for name in std::iter::once(&account.jid).chain(&account.log_of) {
                    logs.forget(name);
                }
                replaced += u64::from(put(db, account, replace)?);
            }
            Ok(replaced)
        })
        .await
    }
}

/// Writes one account; gives whether there was one before.
fn put(db: &Connection, account: &WholeAccount, replace: bool) -> Result<bool, Error> {
    let jid = &account.jid;
    let is_there = accounts::id(db, jid)?.is_some();
    if is_there {
        if !replace {
            return Err(Error::Exists);
        }
        accounts::delete(db, jid)?;
    }
    if let Some(log_of) = &account.log_of {
        let renamed = db
            .prepare_cached("UPDATE account SET jid = ?2, domain = ?3 WHERE jid = ?1")?
            .execute([log_of.as_str(), jid.as_str(), jid.domain()])?;
        if renamed == 0 {
            return Err(Error::NoAccount);
        }
        accounts::set_credentials(db, jid, &account.credentials)?;
    } else {
        accounts::create(db, jid, &account.credentials)?;
    }
    let id = accounts::existing(db, jid)?;
    let mut version: i64 = db
        .prepare_cached("SELECT version FROM roster WHERE account = ?1")?
        .query_row([id], |row| row.get(0))?;
    for item in &account.roster {
        version += 1;
        roster::put(db, id, version, item)?;
    }
    db.prepare_cached("UPDATE roster SET version = ?2 WHERE account = ?1")?
        .execute([id, version])?;
    for blocked in &account.blocked {
        db.prepare_cached("INSERT OR IGNORE INTO blocked VALUES (?1, ?2)")?
            .execute(params![id, blocked.as_str()])?;
    }
    if let Some(vcard) = &account.vcard {
        db.prepare_cached("INSERT INTO vcard (account, xml) VALUES (?1, ?2)")?
            .execute(params![id, vcard])?;
    }
    for element in &account.private {
        db.prepare_cached("INSERT INTO private (account, name, ns, xml) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![id, element.name, element.ns, element.xml])?;
    }
    if let Some((at, status)) = &account.last {
        db.prepare_cached("INSERT INTO last (account, at, status) VALUES (?1, ?2, ?3)")?
            .execute(params![id, to_micros(*at), status])?;
    }
    archive::set_preferences(db, jid, &account.preferences)?;
    Ok(is_there)
}
