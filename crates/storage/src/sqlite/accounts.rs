//! `account`, and the rows that every account has in `roster` and `log`.

use async_trait::async_trait;
use rookery_proto::{
    credentials::{Credentials, ScramKeys},
    jid::BareJid,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStorage;
use crate::{AccountStore, Error, LoginKeys, log::first_number};

#[async_trait]
impl AccountStore for SqliteStorage {
    async fn create(&self, account: &BareJid, credentials: &Credentials) -> Result<(), Error> {
        let (account, credentials) = (account.clone(), credentials.clone());
        self.write("create", move |db| create(db, &account, &credentials))
            .await
    }

    async fn login_keys(&self, account: &BareJid) -> Result<Option<LoginKeys>, Error> {
        let account = account.clone();
        self.read("credentials", move |db| login_keys(db, &account))
            .await
    }

    async fn barred(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error> {
        let accounts = accounts.to_vec();
        self.read("barred", move |db| {
            let mut query =
                db.prepare_cached("SELECT 1 FROM account WHERE jid = ?1 AND NOT disabled")?;
            let mut barred = Vec::new();
            for account in accounts {
                if !query.exists([account.as_str()])? {
                    barred.push(account);
                }
            }
            Ok(barred)
        })
        .await
    }

    async fn set_credentials(
        &self,
        account: &BareJid,
        credentials: &Credentials,
    ) -> Result<bool, Error> {
        let (account, credentials) = (account.clone(), credentials.clone());
        self.write("set_credentials", move |db| {
            set_credentials(db, &account, &credentials)
        })
        .await
    }

    async fn set_disabled(&self, account: &BareJid, disabled: bool) -> Result<bool, Error> {
        let account = account.clone();
        self.write("set_disabled", move |db| {
            let changed = db
                .prepare_cached("UPDATE account SET disabled = ?2 WHERE jid = ?1")?
                .execute(params![account.as_str(), disabled])?;
            Ok(changed > 0)
        })
        .await
    }

    async fn delete(&self, account: &BareJid) -> Result<bool, Error> {
        let account = account.clone();
        self.write_with_logs("delete", move |db, logs| {
            logs.forget(&account);
            delete(db, &account)
        })
        .await
    }

    async fn exists(&self, account: &BareJid) -> Result<bool, Error> {
        let account = account.clone();
        self.read("exists", move |db| Ok(id(db, &account)?.is_some()))
            .await
    }

    async fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error> {
        let sql = "SELECT jid FROM account WHERE domain = ?1 AND jid > ?2 ORDER BY jid LIMIT ?3";
        self.list_accounts("accounts", sql, domain, after, limit)
            .await
    }

    async fn disabled_accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error> {
        let sql = "SELECT jid FROM account WHERE domain = ?1 AND jid > ?2 AND disabled
                   ORDER BY jid LIMIT ?3";
        self.list_accounts("disabled_accounts", sql, domain, after, limit)
            .await
    }
}

impl SqliteStorage {
    /// A page of accounts; `sql` takes the domain, the address before the first, and how many.
    async fn list_accounts(
        &self,
        op: &'static str,
        sql: &'static str,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error> {
        let (domain, after) = (domain.to_owned(), after.unwrap_or_default().to_owned());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(op, move |db| {
            db.prepare_cached(sql)?
                .query_and_then(params![domain, after, limit], |row| {
                    let jid = row
                        .get_ref(0)?
                        .as_str()
                        .map_err(|error| Error::corrupt("address", error))?;
                    BareJid::parse(jid).map_err(|error| Error::corrupt("address", error))
                })?
                .collect()
        })
        .await
    }
}

/// The account's number.
pub(super) fn id(db: &Connection, account: &BareJid) -> Result<Option<i64>, Error> {
    let mut select = db.prepare_cached("SELECT id FROM account WHERE jid = ?1")?;
    Ok(select
        .query_row([account.as_str()], |row| row.get(0))
        .optional()?)
}

/// The account's number, which a write needs.
pub(super) fn existing(db: &Connection, account: &BareJid) -> Result<i64, Error> {
    id(db, account)?.ok_or(Error::NoAccount)
}

pub(super) fn create(
    db: &Connection,
    account: &BareJid,
    credentials: &Credentials,
) -> Result<(), Error> {
    let (sha1, sha256) = (&credentials.scram_sha1, &credentials.scram_sha256);
    let created = db
        .prepare_cached(
            "INSERT INTO account (jid, domain,
                 sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
                 sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            account.as_str(),
            account.domain(),
            sha1.salt,
            sha1.iterations,
            sha1.stored_key,
            sha1.server_key,
            sha256.salt,
            sha256.iterations,
            sha256.stored_key,
            sha256.server_key,
        ])?;
    if created == 0 {
        return Err(Error::Exists);
    }
    let id = db.last_insert_rowid();
    let first = first_number();
    db.prepare_cached("INSERT INTO roster (account, version, forgotten) VALUES (?1, ?2, ?2)")?
        .execute([id, first])?;
    db.prepare_cached("INSERT INTO log (account) VALUES (?1)")?
        .execute([id])?;
    Ok(())
}

fn login_keys(db: &Connection, account: &BareJid) -> Result<Option<LoginKeys>, Error> {
    let keys = |row: &Row<'_>, first: usize| -> rusqlite::Result<ScramKeys> {
        Ok(ScramKeys {
            salt: row.get(first)?,
            iterations: row.get(first + 1)?,
            stored_key: row.get(first + 2)?,
            server_key: row.get(first + 3)?,
        })
    };
    Ok(db
        .prepare_cached(
            "SELECT sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
                 sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key, disabled
             FROM account WHERE jid = ?1",
        )?
        .query_row([account.as_str()], |row| {
            let credentials = Credentials {
                scram_sha1: keys(row, 0)?,
                scram_sha256: keys(row, 4)?,
            };
            Ok(LoginKeys {
                credentials,
                is_disabled: row.get(8)?,
            })
        })
        .optional()?)
}

pub(super) fn set_credentials(
    db: &Connection,
    account: &BareJid,
    credentials: &Credentials,
) -> Result<bool, Error> {
    let (sha1, sha256) = (&credentials.scram_sha1, &credentials.scram_sha256);
    let changed = db
        .prepare_cached(
            "UPDATE account SET
                 sha1_salt = ?2, sha1_iterations = ?3, sha1_stored_key = ?4, sha1_server_key = ?5,
                 sha256_salt = ?6, sha256_iterations = ?7, sha256_stored_key = ?8,
                 sha256_server_key = ?9
             WHERE jid = ?1",
        )?
        .execute(params![
            account.as_str(),
            sha1.salt,
            sha1.iterations,
            sha1.stored_key,
            sha1.server_key,
            sha256.salt,
            sha256.iterations,
            sha256.stored_key,
            sha256.server_key,
        ])?;
    Ok(changed > 0)
}

pub(super) fn delete(db: &Connection, account: &BareJid) -> Result<bool, Error> {
    let Some(id) = id(db, account)? else {
        return Ok(false);
    };
    // What the other ends have in their logs stays there.
    for sql in [
        "DELETE FROM message WHERE id IN (SELECT id FROM log_entry WHERE account = ?1)
         AND ifnull(recipient, ?1) = ?1 AND ifnull(sender, ?1) = ?1",
        "UPDATE message SET recipient = NULL, recipient_peer = NULL
         WHERE id IN (SELECT id FROM log_entry WHERE account = ?1) AND recipient = ?1",
        "UPDATE message SET sender = NULL, sender_peer = NULL
         WHERE id IN (SELECT id FROM log_entry WHERE account = ?1) AND sender = ?1",
        "DELETE FROM log_entry WHERE account = ?1",
    ] {
        db.prepare_cached(sql)?.execute([id])?;
    }
    // All other tables refer to it with ON DELETE CASCADE.
    db.prepare_cached("DELETE FROM account WHERE id = ?1")?
        .execute([id])?;
    Ok(true)
}
