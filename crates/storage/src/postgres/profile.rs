//! `vcard`, `private` and `last`.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::BareJid;

use super::{PostgresStorage, accounts::begin_locked, get, pool::Lease};
use crate::{
    Error, LastStore, PrivateElement, PrivateStore, VcardStore,
    log::{from_micros, to_micros},
};

#[async_trait]
impl VcardStore for PostgresStorage {
    async fn vcard(&self, account: &BareJid) -> Result<Option<String>, Error> {
        let account = account.clone();
        self.read("vcard", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT v.xml FROM account a JOIN vcard v ON v.account = a.id WHERE a.jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            rows.first().map(|row| get(row, 0)).transpose()
        })
        .await
    }

    async fn set_vcard(&self, account: &BareJid, vcard: &str) -> Result<(), Error> {
        let (account, vcard) = (account.clone(), vcard.to_owned());
        self.write("set_vcard", async move |mut lease: Lease| {
            let account = begin_locked(&mut lease, &account).await?;
            lease
                .execute(
                    "INSERT INTO vcard (account, xml) VALUES ($1, $2)
                     ON CONFLICT (account) DO UPDATE SET xml = excluded.xml",
                    &[&account, &vcard],
                )
                .await?;
            lease.commit().await
        })
        .await
    }
}

#[async_trait]
impl PrivateStore for PostgresStorage {
    async fn all_private(&self, account: &BareJid) -> Result<Vec<PrivateElement>, Error> {
        let account = account.clone();
        self.read("all_private", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT p.name, p.ns, p.xml FROM account a JOIN private p ON p.account = a.id
                     WHERE a.jid = $1 ORDER BY p.ns COLLATE \"C\", p.name COLLATE \"C\"",
                    &[&account.as_str()],
                )
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(PrivateElement {
                        name: get(row, 0)?,
                        ns: get(row, 1)?,
                        xml: get(row, 2)?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn private(
        &self,
        account: &BareJid,
        name: &str,
        ns: &str,
    ) -> Result<Option<String>, Error> {
        let (account, name, ns) = (account.clone(), name.to_owned(), ns.to_owned());
        self.read("private", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT p.xml FROM account a JOIN private p ON p.account = a.id
                     WHERE a.jid = $1 AND p.name = $2 AND p.ns = $3",
                    &[&account.as_str(), &name, &ns],
                )
                .await?;
            rows.first().map(|row| get(row, 0)).transpose()
        })
        .await
    }

    async fn set_private(
        &self,
        account: &BareJid,
        name: &str,
        ns: &str,
        xml: &str,
    ) -> Result<(), Error> {
        let (account, xml) = (account.clone(), xml.to_owned());
        let (name, ns) = (name.to_owned(), ns.to_owned());
        let limit = self.options.max_private;
        self.write("set_private", async move |mut lease: Lease| {
            let account = begin_locked(&mut lease, &account).await?;
            lease
                .execute(
                    "INSERT INTO private (account, name, ns, xml) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (account, ns, name) DO UPDATE SET xml = excluded.xml",
                    &[&account, &name, &ns, &xml],
                )
                .await?;
            let rows = lease
                .query(
                    "SELECT count(*) FROM private WHERE account = $1",
                    &[&account],
                )
                .await?;
            let count: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
            if usize::try_from(count).is_ok_and(|count| count > limit) {
                // The lease rolls back.
                return Err(Error::Full {
                    what: "private storage",
                    limit,
                });
            }
            lease.commit().await
        })
        .await
    }
}

#[async_trait]
impl LastStore for PostgresStorage {
    async fn last(&self, account: &BareJid) -> Result<Option<(SystemTime, String)>, Error> {
        let account = account.clone();
        self.read("last", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT l.at, l.status FROM account a JOIN last l ON l.account = a.id
                     WHERE a.jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            Ok(Some((from_micros(get(row, 0)?), get(row, 1)?)))
        })
        .await
    }

    async fn set_last(&self, account: &BareJid, at: SystemTime, status: &str) -> Result<(), Error> {
        let (account, status) = (account.clone(), status.to_owned());
        self.write("set_last", async move |mut lease: Lease| {
            let account = begin_locked(&mut lease, &account).await?;
            lease
                .execute(
                    "INSERT INTO last (account, at, status) VALUES ($1, $2, $3)
                     ON CONFLICT (account) DO UPDATE SET at = excluded.at, status = excluded.status
                     WHERE excluded.at >= last.at",
                    &[&account, &to_micros(at), &status],
                )
                .await?;
            lease.commit().await
        })
        .await
    }
}
