//! `account`, and the rows that every account has in `roster` and `log`.

use std::collections::HashSet;

use async_trait::async_trait;
use rookery_proto::{
    credentials::{Credentials, ScramKeys},
    jid::BareJid,
};
use tokio_postgres::{Row, types::ToSql};

use super::{PostgresStorage, get, pool::Lease};
use crate::{
    AccountStore, Error, LoginKeys,
    log::{first_number, to_i64},
};

/// The columns of an account's keys, in the order of [`KeyValues::all`] and of what [`keys`] reads. A macro,
/// since statements are put together before the program runs.
macro_rules! key_columns {
    () => {
        "sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key, \
         sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key"
    };
}

/// An account's keys as parameters of a statement.
struct KeyValues<'c> {
    credentials: &'c Credentials,
    /// The database has no unsigned numbers.
    iterations: [i64; 2],
}

impl<'c> KeyValues<'c> {
    fn of(credentials: &'c Credentials) -> Self {
        let (sha1, sha256) = (&credentials.scram_sha1, &credentials.scram_sha256);
        Self {
            credentials,
            iterations: [sha1.iterations.into(), sha256.iterations.into()],
        }
    }

    fn all(&self) -> [&(dyn ToSql + Sync); 8] {
        let (sha1, sha256) = (&self.credentials.scram_sha1, &self.credentials.scram_sha256);
        [
            &sha1.salt,
            &self.iterations[0],
            &sha1.stored_key,
            &sha1.server_key,
            &sha256.salt,
            &self.iterations[1],
            &sha256.stored_key,
            &sha256.server_key,
        ]
    }
}

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

    async fn login_keys(&self, account: &BareJid) -> Result<Option<LoginKeys>, Error> {
        let account = account.clone();
        self.read("credentials", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    concat!(
                        "SELECT ",
                        key_columns!(),
                        ", disabled FROM account WHERE jid = $1"
                    ),
                    &[&account.as_str()],
                )
                .await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            let credentials = Credentials {
                scram_sha1: keys(row, 0)?,
                scram_sha256: keys(row, 4)?,
            };
            Ok(Some(LoginKeys {
                credentials,
                is_disabled: get(row, 8)?,
            }))
        })
        .await
    }

    async fn barred(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error> {
        let mut accounts = accounts.to_vec();
        self.read("barred", async move |mut lease: Lease| {
            let names: Vec<&str> = accounts.iter().map(BareJid::as_str).collect();
            let rows = lease
                .query(
                    "SELECT jid FROM account WHERE jid = ANY ($1::text[]) AND NOT disabled",
                    &[&names],
                )
                .await?;
            let enabled: Result<HashSet<&str>, _> = rows.iter().map(|row| get(row, 0)).collect();
            let enabled = enabled?;
            accounts.retain(|account| !enabled.contains(account.as_str()));
            Ok(accounts)
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

    async fn set_disabled(&self, account: &BareJid, disabled: bool) -> Result<bool, Error> {
        let account = account.clone();
        self.write("set_disabled", async move |mut lease: Lease| {
            let changed = lease
                .execute(
                    "UPDATE account SET disabled = $2 WHERE jid = $1",
                    &[&account.as_str(), &disabled],
                )
                .await?;
            Ok(changed > 0)
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
        let sql = "SELECT jid FROM account WHERE domain = $1 AND jid > $2 ORDER BY jid LIMIT $3";
        self.list_accounts("accounts", sql, domain, after, limit)
            .await
    }

    async fn disabled_accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error> {
        let sql = "SELECT jid FROM account WHERE domain = $1 AND jid > $2 AND disabled
                   ORDER BY jid LIMIT $3";
        self.list_accounts("disabled_accounts", sql, domain, after, limit)
            .await
    }
}

impl PostgresStorage {
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
        let limit = to_i64(limit as u64);
        self.read(op, async move |mut lease: Lease| {
            let rows = lease.query(sql, &[&domain, &after, &limit]).await?;
            let jids = rows.iter().map(|row| {
                BareJid::parse(get(row, 0)?).map_err(|error| Error::corrupt("address", error))
            });
            jids.collect()
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
    let keys = KeyValues::of(credentials);
    let version = first_number();
    let mut values = keys.all().to_vec();
    let (jid, domain) = (account.as_str(), account.domain());
    values.extend([&jid as &(dyn ToSql + Sync), &domain, &version]);
    let created = lease
        .execute(
            concat!(
                "WITH a AS (
                     INSERT INTO account (",
                key_columns!(),
                ", jid, domain)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                     ON CONFLICT DO NOTHING RETURNING id
                 ), r AS (
                     INSERT INTO roster (account, version, forgotten) SELECT id, $11, $11 FROM a
                 )
                 INSERT INTO log (account, last, delivered, undelivered)
                 SELECT id, $11, $11, 0 FROM a"
            ),
            &values,
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
    let keys = KeyValues::of(credentials);
    let mut values = keys.all().to_vec();
    let jid = account.as_str();
    values.push(&jid);
    let changed = lease
        .execute(
            concat!(
                "UPDATE account SET (",
                key_columns!(),
                ") = ($1, $2, $3, $4, $5, $6, $7, $8) WHERE jid = $9"
            ),
            &values,
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
