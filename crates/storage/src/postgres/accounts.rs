//! `account`, and the rows that every account has in `roster` and `log`.

use async_trait::async_trait;
use rookery_proto::{
    credentials::{Credentials, ScramKeys},
    jid::BareJid,
};
use tokio_postgres::Row;

use super::{PostgresStorage, get, pool::Lease};
use crate::{
    AccountStore, Error,
    log::{first_number, to_i64},
};

#[async_trait]
impl AccountStore for PostgresStorage {
    async fn create(&self, account: &BareJid, credentials: &Credentials) -> Result<(), Error> {
        let (account, credentials) = (account.clone(), credentials.clone());
        self.write("create", async move |mut lease: Lease| {
            if create(&mut lease, &account, &credentials).await? {
                Ok(())
            } else {
                Err(Error::Exists)
            }
        })
        .await
    }

    async fn credentials(&self, account: &BareJid) -> Result<Option<Credentials>, Error> {
        let account = account.clone();
        self.read("credentials", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
                         sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key
                     FROM account WHERE jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            Ok(Some(Credentials {
                scram_sha1: keys(row, 0)?,
                scram_sha256: keys(row, 4)?,
            }))
        })
        .await
    }

    async fn set_credentials(
        &self,
        account: &BareJid,
        credentials: &Credentials,
    ) -> Result<bool, Error> {
        let (account, credentials) = (account.clone(), credentials.clone());
        self.write("set_credentials", async move |mut lease: Lease| {
            set_credentials(&mut lease, &account, &credentials).await
        })
        .await
    }

    async fn delete(&self, account: &BareJid) -> Result<bool, Error> {
        let account = account.clone();
        self.write("delete", async move |mut lease: Lease| {
            lease.begin().await?;
            let deleted = delete(&mut lease, &account).await?;
            lease.commit().await?;
            Ok(deleted)
        })
        .await
    }

    async fn exists(&self, account: &BareJid) -> Result<bool, Error> {
        let account = account.clone();
        self.read("exists", async move |mut lease: Lease| {
            is_there(&mut lease, &account).await
        })
        .await
    }

    async fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error> {
        let (domain, after) = (domain.to_owned(), after.unwrap_or_default().to_owned());
        self.read("accounts", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT jid FROM account WHERE domain = $1 AND jid > $2
                     ORDER BY jid LIMIT $3",
                    &[&domain, &after, &to_i64(limit as u64)],
                )
                .await?;
            rows.iter()
                .map(|row| {
                    BareJid::parse(get(row, 0)?).map_err(|error| Error::corrupt("address", error))
                })
                .collect()
        })
        .await
    }
}

/// Creates an account; false if there is one.
pub(super) async fn create(
    lease: &mut Lease,
    account: &BareJid,
    credentials: &Credentials,
) -> Result<bool, Error> {
    let (sha1, sha256) = (&credentials.scram_sha1, &credentials.scram_sha256);
    let created = lease
        .execute(
            "WITH a AS (
                 INSERT INTO account (jid, domain,
                     sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
                     sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                 ON CONFLICT DO NOTHING RETURNING id
             ), r AS (
                 INSERT INTO roster (account, version, forgotten) SELECT id, $11, $11 FROM a
             )
             INSERT INTO log (account, last, delivered, undelivered)
             SELECT id, $11, $11, 0 FROM a",
            &[
                &account.as_str(),
                &account.domain(),
                &sha1.salt,
                &i64::from(sha1.iterations),
                &sha1.stored_key,
                &sha1.server_key,
                &sha256.salt,
                &i64::from(sha256.iterations),
                &sha256.stored_key,
                &sha256.server_key,
                &first_number(),
            ],
        )
        .await?;
    Ok(created > 0)
}

/// Replaces an account's keys; false if there is no such account.
pub(super) async fn set_credentials(
    lease: &mut Lease,
    account: &BareJid,
    credentials: &Credentials,
) -> Result<bool, Error> {
    let (sha1, sha256) = (&credentials.scram_sha1, &credentials.scram_sha256);
    let changed = lease
        .execute(
            "UPDATE account SET
                 sha1_salt = $2, sha1_iterations = $3, sha1_stored_key = $4,
                 sha1_server_key = $5, sha256_salt = $6, sha256_iterations = $7,
                 sha256_stored_key = $8, sha256_server_key = $9
             WHERE jid = $1",
            &[
                &account.as_str(),
                &sha1.salt,
                &i64::from(sha1.iterations),
                &sha1.stored_key,
                &sha1.server_key,
                &sha256.salt,
                &i64::from(sha256.iterations),
                &sha256.stored_key,
                &sha256.server_key,
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// Deletes an account, in the transaction that was begun; false if there is no such account.
pub(super) async fn delete(lease: &mut Lease, account: &BareJid) -> Result<bool, Error> {
    // First the rows that appends and roster updates lock, then the account: the order in which
    // those take their locks.
    let rows = lease
        .query(
            "SELECT a.id FROM account a JOIN roster r ON r.account = a.id
             JOIN log l ON l.account = a.id WHERE a.jid = $1 FOR UPDATE OF r, l",
            &[&account.as_str()],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let id: i64 = get(row, 0)?;
    // All other tables refer to it with ON DELETE CASCADE; a trigger removes the entries.
    lease
        .execute("DELETE FROM account WHERE id = $1", &[&id])
        .await?;
    Ok(true)
}

/// Whether there is such an account.
pub(super) async fn is_there(lease: &mut Lease, account: &BareJid) -> Result<bool, Error> {
    let rows = lease
        .query("SELECT 1 FROM account WHERE jid = $1", &[&account.as_str()])
        .await?;
    Ok(!rows.is_empty())
}

/// Locks an existing account against its deletion, in a new transaction.
pub(super) async fn begin_locked(lease: &mut Lease, account: &BareJid) -> Result<i64, Error> {
    let rows = lease
        .begin_with(
            "SELECT id FROM account WHERE jid = $1 FOR NO KEY UPDATE",
            &[&account.as_str()],
        )
        .await?;
    get(rows.first().ok_or(Error::NoAccount)?, 0)
}

fn keys(row: &Row, first: usize) -> Result<ScramKeys, Error> {
    let iterations: i64 = get(row, first + 1)?;
    Ok(ScramKeys {
        salt: get(row, first)?,
        iterations: u32::try_from(iterations)
            .map_err(|error| Error::corrupt("credentials", error))?,
        stored_key: get(row, first + 2)?,
        server_key: get(row, first + 3)?,
    })
}
