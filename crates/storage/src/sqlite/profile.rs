//! `vcard`, `private` and `last`.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::BareJid;
use rusqlite::{OptionalExtension, Row, params};

use super::{SqliteStorage, accounts};
use crate::{
    Error, LastStore, PrivateElement, PrivateStore, VcardStore,
    log::{from_micros, to_micros},
};

#[async_trait]
impl VcardStore for SqliteStorage {
    async fn vcard(&self, account: &BareJid) -> Result<Option<String>, Error> {
        let account = account.clone();
        self.read("vcard", move |db| {
            Ok(db
                .prepare_cached(
                    "SELECT v.xml FROM account a JOIN vcard v ON v.account = a.id WHERE a.jid = ?1",
                )?
                .query_row([account.as_str()], |row| row.get(0))
                .optional()?)
        })
        .await
    }

    async fn set_vcard(&self, account: &BareJid, vcard: &str) -> Result<(), Error> {
        let (account, vcard) = (account.clone(), vcard.to_owned());
        self.write("set_vcard", move |db| {
            let account = accounts::existing(db, &account)?;
            db.prepare_cached("INSERT OR REPLACE INTO vcard (account, xml) VALUES (?1, ?2)")?
                .execute(params![account, vcard])?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl PrivateStore for SqliteStorage {
    async fn all_private(&self, account: &BareJid) -> Result<Vec<PrivateElement>, Error> {
        let account = account.clone();
        self.read("all_private", move |db| {
            let mut select = db.prepare_cached(
                "SELECT p.name, p.ns, p.xml FROM account a JOIN private p ON p.account = a.id
                 WHERE a.jid = ?1 ORDER BY p.ns, p.name",
            )?;
            let read = |row: &Row<'_>| {
                Ok(PrivateElement {
                    name: row.get(0)?,
                    ns: row.get(1)?,
                    xml: row.get(2)?,
                })
            };
            let all = select.query_map([account.as_str()], read)?;
            Ok(all.collect::<Result<_, _>>()?)
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
        self.read("private", move |db| {
            Ok(db
                .prepare_cached(
                    "SELECT p.xml FROM account a JOIN private p ON p.account = a.id
                     WHERE a.jid = ?1 AND p.name = ?2 AND p.ns = ?3",
                )?
                .query_row(params![account.as_str(), name, ns], |row| row.get(0))
                .optional()?)
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
        self.write("set_private", move |db| {
            let account = accounts::existing(db, &account)?;
            let changed = db
                .prepare_cached(
                    "UPDATE private SET xml = ?4 WHERE account = ?1 AND name = ?2 AND ns = ?3",
                )?
                .execute(params![account, name, ns, xml])?;
            if changed > 0 {
                return Ok(());
            }
            let count: i64 = db
                .prepare_cached("SELECT count(*) FROM private WHERE account = ?1")?
                .query_row([account], |row| row.get(0))?;
            if usize::try_from(count).is_ok_and(|count| count >= limit) {
                return Err(Error::Full {
                    what: "private storage",
                    limit,
                });
            }
            db.prepare_cached(
                "INSERT INTO private (account, name, ns, xml) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![account, name, ns, xml])?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl LastStore for SqliteStorage {
    async fn last(&self, account: &BareJid) -> Result<Option<(SystemTime, String)>, Error> {
        let account = account.clone();
        self.read("last", move |db| {
            Ok(db
                .prepare_cached(
                    "SELECT l.at, l.status FROM account a JOIN last l ON l.account = a.id
                     WHERE a.jid = ?1",
                )?
                .query_row([account.as_str()], |row| {
                    Ok((from_micros(row.get(0)?), row.get(1)?))
                })
                .optional()?)
        })
        .await
    }

    async fn set_last(&self, account: &BareJid, at: SystemTime, status: &str) -> Result<(), Error> {
        let (account, status) = (account.clone(), status.to_owned());
        self.write("set_last", move |db| {
            let account = accounts::existing(db, &account)?;
            db.prepare_cached(
                "INSERT INTO last (account, at, status) VALUES (?1, ?2, ?3)
                 ON CONFLICT (account) DO UPDATE SET at = excluded.at, status = excluded.status
                 WHERE excluded.at >= last.at",
            )?
            .execute(params![account, to_micros(at), status])?;
            Ok(())
        })
        .await
    }
}
