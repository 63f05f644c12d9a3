//! Accounts by the thousand, written to the database directly: all have the same password and salt, so
//! that no client has to derive keys.

use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use tokio_postgres::NoTls;

use crate::Storm;

/// Everybody's password.
pub(crate) const PASSWORD: &str = "secret of the herd";
/// Everybody's salt.
pub(crate) const SALT: &[u8] = b"0123456789abcdef";
/// As many as the server uses.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(10_000).expect("not 0");

/// The key that a client proves to have, for SCRAM-SHA-1.
pub(crate) fn client_key() -> Vec<u8> {
    let (salted, algorithm) = (salted_sha1(), hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY);
    sign(algorithm, &salted, b"Client Key")
}

fn salted_sha1() -> Vec<u8> {
    let mut salted = vec![0; digest::SHA1_OUTPUT_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA1,
        ITERATIONS,
        SALT,
        PASSWORD.as_bytes(),
        &mut salted,
    );
    salted
}

fn salted_sha256() -> Vec<u8> {
    let mut salted = vec![0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        ITERATIONS,
        SALT,
        PASSWORD.as_bytes(),
        &mut salted,
    );
    salted
}

fn sign(algorithm: hmac::Algorithm, key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), data)
        .as_ref()
        .to_vec()
}

/// Makes the accounts: `u0`… for the sessions, whose rosters have the neighbours in the row, and `a0`…,
/// `b0`… for the pairs.
pub(crate) async fn create(database: &str, storm: &Storm) {
    let (client, connection) = tokio_postgres::connect(database, NoTls)
        .await
        .expect("the cluster's database");
    let driver = tokio::spawn(connection);
    let keys = |salted: &[u8], algorithm, hash| {
        let client_key = sign(algorithm, salted, b"Client Key");
        let stored = digest::digest(hash, &client_key).as_ref().to_vec();
        (stored, sign(algorithm, salted, b"Server Key"))
    };
    let sha1 = keys(
        &salted_sha1(),
        hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
    );
    let sha256 = keys(&salted_sha256(), hmac::HMAC_SHA256, &digest::SHA256);
    for (prefix, count) in [
        ("u", storm.sessions),
        ("a", storm.pairs),
        ("b", storm.pairs),
    ] {
        let last = i64::try_from(count).expect("not that many") - 1;
        let iterations = i64::from(ITERATIONS.get());
        client
            .execute(
                "INSERT INTO account (jid, domain, sha1_salt, sha1_iterations, sha1_stored_key,
                     sha1_server_key, sha256_salt, sha256_iterations, sha256_stored_key,
                     sha256_server_key)
                 SELECT $1::text || g || '@localhost', 'localhost', $2, $3, $4, $5, $2, $3, $6, $7
                 FROM generate_series(0, $8::bigint) g",
                &[
                    &prefix,
                    &SALT,
                    &iterations,
                    &sha1.0,
                    &sha1.1,
                    &sha256.0,
                    &sha256.1,
                    &last,
                ],
            )
            .await
            .expect("accounts");
    }
    befriend(&client, storm).await;
    drop(client);
    driver.await.expect("no panic").expect("a clean end");
}

/// Everybody is a contact of the next ones and of the ones before.
async fn befriend(client: &tokio_postgres::Client, storm: &Storm) {
    let half = i64::try_from(storm.contacts / 2).expect("not that many");
    let count = i64::try_from(storm.sessions).expect("not that many");
    client
        .execute(
            "INSERT INTO roster_item (account, contact, version, removed, hidden, subscription, ask,
                 approved, groups)
             SELECT DISTINCT account.id,
                 'u' || ((g + step + $1::bigint) % $1::bigint) || '@localhost',
                 1::bigint, false, false, 'both', false, false, '[]'
             FROM generate_series(0, $1::bigint - 1) g
             CROSS JOIN generate_series(-$2::bigint, $2::bigint) step
             JOIN account ON account.jid = 'u' || g || '@localhost'
             WHERE step % $1::bigint <> 0",
            &[&count, &half],
        )
        .await
        .expect("contacts");
    client
        .batch_execute(
            "INSERT INTO roster (account, version, forgotten) SELECT id, 1, 0 FROM account;
             INSERT INTO log (account, last, delivered, undelivered)
                 SELECT id, 0, 0, 0 FROM account;
             ANALYZE",
        )
        .await
        .expect("rosters");
}
