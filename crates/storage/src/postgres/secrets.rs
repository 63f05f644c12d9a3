//! `secret`.

use async_trait::async_trait;

use super::{PostgresStorage, get, pool::Lease};
use crate::{Error, SecretStore, secrets::random};

#[async_trait]
impl SecretStore for PostgresStorage {
    async fn secret(&self, name: &str) -> Result<[u8; 32], Error> {
        let name = name.to_owned();
        let new = random()?;
        self.write("secret", async move |mut lease: Lease| {
            lease
                .execute(
                    "INSERT INTO secret (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    &[&name, &new.as_slice()],
                )
                .await?;
            let rows = lease
                .query("SELECT value FROM secret WHERE name = $1", &[&name])
                .await?;
            let row = rows
                .first()
                .ok_or_else(|| Error::corrupt("secret", "it is gone"))?;
            get::<&[u8]>(row, 0)?
                .try_into()
                .map_err(|error| Error::corrupt("secret", error))
        })
        .await
    }
}
