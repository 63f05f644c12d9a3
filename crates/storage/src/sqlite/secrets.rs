//! `secret`.

use async_trait::async_trait;
use rusqlite::params;

use super::SqliteStorage;
use crate::{Error, SecretStore, secrets::random};

#[async_trait]
impl SecretStore for SqliteStorage {
    async fn secret(&self, name: &str) -> Result<[u8; 32], Error> {
        let name = name.to_owned();
        let new = random()?;
        self.write("secret", move |db| {
            db.prepare_cached("INSERT OR IGNORE INTO secret (name, value) VALUES (?1, ?2)")?
                .execute(params![name, new])?;
            Ok(db
                .prepare_cached("SELECT value FROM secret WHERE name = ?1")?
                .query_row([name], |row| row.get(0))?)
        })
        .await
    }
}
