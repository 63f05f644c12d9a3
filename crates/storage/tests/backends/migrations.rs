//! Databases of older versions, and programs of older versions beside this one.

use rookery_storage::{ArchiveDefault, ArchivePreferences, EntryId};
use tokio_postgres::{Client, Statement, types::ToSql};

use crate::{
    postgres_server::{Server, connect},
    suite::{
        Place, add, append, archive, at, bare, chat, credentials, jid, mark, offline, stanzas,
        undelivered,
    },
};

/// Accounts and undelivered entries as version 1 stored them; Ann's first one was delivered, and so
/// is gone.
const SQLITE_DATA: &str = "
    INSERT INTO account (id, jid, domain, sha1_salt, sha1_iterations, sha1_stored_key,
            sha1_server_key, sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key)
        VALUES (7, 'ann@localhost', 'localhost', x'01', 4096, x'02', x'03', x'04', 4096, x'05', x'06'),
               (8, 'bob@localhost', 'localhost', x'01', 4096, x'02', x'03', x'04', 4096, x'05', x'06');
    INSERT INTO roster (account, version, forgotten) VALUES (7, 100, 100), (8, 100, 100);
    INSERT INTO log_entry (id, account, peer, at, stanza)
        VALUES (20, 7, 'cat@example.org/x', 1700000000123456, 'gone'),
               (21, 7, 'cat@example.org/x', 1700000000123456, 'one'),
               (22, 8, 'cat@example.org', 1700000000123456, 'bob''s'),
               (23, 7, 'dan@example.org', 1600000000000000, 'two'),
               (24, 8, 'cat@example.org', 1700000000123456, 'gone');
    DELETE FROM log_entry WHERE stanza = 'gone';
    INSERT INTO log (account, delivered, undelivered) VALUES (7, 20, 2), (8, 0, 1);
    INSERT INTO vcard (account, xml) VALUES (7, '<vCard/>');
";

#[tokio::test]
async fn a_sqlite_database_of_version_1_is_migrated() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(include_str!("version_1/sqlite.sql"))
        .unwrap();
    db.execute_batch(SQLITE_DATA).unwrap();
    drop(db);
    let place = Place {
        url: format!("sqlite://{}", path.display()),
        keep: Box::new(directory),
    };

    what_version_1_stored_works_on(&place, [EntryId(21), EntryId(23)], EntryId(24)).await;
}

#[tokio::test]
async fn a_postgres_database_of_version_1_is_migrated() {
    let (place, client) = postgres().await;
    client
        .batch_execute(
            "INSERT INTO account (jid, domain, sha1_salt, sha1_iterations, sha1_stored_key,
                sha1_server_key, sha256_salt, sha256_iterations, sha256_stored_key,
                sha256_server_key)
            VALUES ('ann@localhost', 'localhost', '1', 4096, '2', '3', '4', 4096, '5', '6'),
                   ('bob@localhost', 'localhost', '1', 4096, '2', '3', '4', 4096, '5', '6');
            INSERT INTO roster (account, version, forgotten) VALUES (1, 100, 100), (2, 100, 100);
            INSERT INTO log (account, last, delivered, undelivered)
            VALUES (1, 23, 20, 2), (2, 23, 22, 1);
            INSERT INTO log_entry (account, id, peer, at, stanza)
            VALUES (1, 21, 'cat@example.org/x', 1700000000123456, 'one'),
                   (1, 23, 'dan@example.org', 1600000000000000, 'two'),
                   (2, 23, 'cat@example.org', 1700000000123456, 'bob''s');
            INSERT INTO vcard (account, xml) VALUES (1, '<vCard/>');",
        )
        .await
        .unwrap();

    what_version_1_stored_works_on(&place, [EntryId(21), EntryId(23)], EntryId(23)).await;
}

async fn what_version_1_stored_works_on(place: &Place, ids: [EntryId; 2], newest: EntryId) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    let entries = undelivered(&storage, &ann).await;
    assert_eq!(stanzas(&entries), ["one", "two"]);
    assert_eq!([entries[0].id, entries[1].id], ids);
    assert_eq!(entries[0].peer, jid("cat@example.org/x"));
    assert_eq!((entries[0].at, entries[0].archived), (at(0), false));
    assert_eq!(stanzas(&undelivered(&storage, &bob).await), ["bob's"]);
    assert_eq!(archive::all(&storage, &ann).await, []);
    let preferences = storage.archive_preferences(&ann).await.unwrap();
    assert_eq!(preferences, ArchivePreferences::default());
    assert_eq!(storage.vcard(&ann).await.unwrap().unwrap(), "<vCard/>");

    // New entries come after all that there ever were.
    let three = append(&storage, chat("bob@localhost/x", "ann@localhost", "three")).await;
    assert!(three > newest, "{three} after {newest}");
    mark(&storage, &ann, &[ids[1], three]).await;
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["one"]);
    mark(&storage, &ann, &ids).await;
    assert_eq!(undelivered(&storage, &ann).await, []);
    assert_eq!(stanzas(&archive::all(&storage, &ann).await), ["three"]);
    // An account of before can go, and the other keeps what is its own.
    assert!(storage.delete(&ann).await.unwrap());
    assert_eq!(stanzas(&archive::all(&storage, &bob).await), ["three"]);
    storage.close().await;
    let again = place.open().await;
    assert_eq!(stanzas(&undelivered(&again, &bob).await), ["bob's"]);
    again.health().await.unwrap();
}

/// A database with the schema of version 1.
async fn postgres() -> (Place, Client) {
    let url = tokio::task::spawn_blocking(|| Server::shared().create_database())
        .await
        .unwrap();
    let client = connect(&url).await;
    let schema = include_str!("version_1/postgres.sql");
    client.batch_execute(schema).await.unwrap();
    let place = Place {
        url,
        keep: Box::new(()),
    };
    (place, client)
}

/// The log as programs of version 1 work with it: their statements, word for word, prepared when
/// they started.
struct Version1 {
    lock: Statement,
    append: Statement,
    undelivered: Statement,
    mark: [Statement; 3],
    delete: [Statement; 3],
    client: Client,
}

impl Version1 {
    async fn start(client: Client) -> Self {
        let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
        let lock = prepare(
            "SELECT a.jid, l.account, l.last, l.undelivered
             FROM account a JOIN log l ON l.account = a.id
             WHERE a.jid = ANY($1::text[]) ORDER BY l.account FOR UPDATE OF l",
        )
        .await;
        let append = prepare(
            "WITH entry AS (
                 INSERT INTO log_entry (account, id, peer, at, stanza)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[],
                     $5::text[])
             )
             UPDATE log SET last = new.last, undelivered = new.undelivered
             FROM unnest($6::bigint[], $7::bigint[], $8::bigint[])
                 AS new (account, last, undelivered)
             WHERE log.account = new.account",
        )
        .await;
        let undelivered = prepare(
            "SELECT e.id, e.peer, e.at, e.stanza
             FROM account a JOIN log l ON l.account = a.id
             JOIN log_entry e ON e.account = a.id
             WHERE a.jid = $1 AND e.id > greatest(l.delivered, $2)
             ORDER BY e.id LIMIT $3",
        )
        .await;
        let mark = [
            prepare(
                "SELECT l.account, l.last, l.delivered
                 FROM account a JOIN log l ON l.account = a.id WHERE a.jid = $1 FOR UPDATE OF l",
            )
            .await,
            prepare("DELETE FROM log_entry WHERE account = $1 AND id <= $2").await,
            prepare(
                "UPDATE log SET delivered = $2, undelivered = undelivered - $3 WHERE account = $1",
            )
            .await,
        ];
        let delete = [
            prepare(
                "SELECT a.id FROM account a JOIN roster r ON r.account = a.id
                 JOIN log l ON l.account = a.id WHERE a.jid = $1 FOR UPDATE OF r, l",
            )
            .await,
            prepare("DELETE FROM log_entry WHERE account = $1").await,
            prepare("DELETE FROM account WHERE id = $1").await,
        ];
        Self {
            lock,
            append,
            undelivered,
            mark,
            delete,
            client,
        }
    }

    async fn append(&mut self, account: &str, stanza: &str) -> i64 {
        let transaction = self.client.transaction().await.unwrap();
        let names = [account];
        let row = transaction
            .query_one(&self.lock, &[&names.as_slice()])
            .await
            .unwrap();
        let (number, last, count): (i64, i64, i64) = (row.get(1), row.get(2), row.get(3));
        let id = last + 1;
        transaction
            .execute(
                &self.append,
                &[
                    &[number].as_slice(),
                    &[id].as_slice(),
                    &["cat@example.org/x"].as_slice(),
                    &[1_700_000_000_123_456_i64].as_slice(),
                    &[stanza].as_slice(),
                    &[number].as_slice(),
                    &[id].as_slice(),
                    &[count + 1].as_slice(),
                ],
            )
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        id
    }

    async fn undelivered(&self, account: &str) -> Vec<(i64, String)> {
        let rows = self
            .client
            .query(&self.undelivered, &[&account, &0_i64, &100_i64])
            .await
            .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(3))).collect()
    }

    /// Gives how many entries became delivered.
    async fn mark_delivered(&mut self, account: &str, up_to: i64) -> u64 {
        let transaction = self.client.transaction().await.unwrap();
        let [lock, delete, update] = &self.mark;
        let row = transaction.query_one(lock, &[&account]).await.unwrap();
        let number: i64 = row.get(0);
        let up_to = up_to.min(row.get(1));
        let count = transaction
            .execute(delete, &[&number, &up_to])
            .await
            .unwrap();
        let less = i64::try_from(count).unwrap();
        transaction
            .execute(update, &[&number, &up_to, &less])
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        count
    }

    async fn delete(&mut self, account: &str) {
        let transaction = self.client.transaction().await.unwrap();
        let [lock, entries, delete] = &self.delete;
        let row = transaction.query_one(lock, &[&account]).await.unwrap();
        let number: i64 = row.get(0);
        transaction.execute(entries, &[&number]).await.unwrap();
        transaction.execute(delete, &[&number]).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

fn texts(entries: &[(i64, String)]) -> Vec<&str> {
    entries.iter().map(|entry| entry.1.as_str()).collect()
}

#[tokio::test]
async fn a_node_of_version_1_works_beside_one_of_this_version() {
    let (place, client) = postgres().await;
    let mut old = Version1::start(client).await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    // The statements of the old node are prepared, and run, before the new one migrates.
    let accounts = "INSERT INTO account (jid, domain, sha1_salt, sha1_iterations, sha1_stored_key,
            sha1_server_key, sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key)
        VALUES ('ann@localhost', 'localhost', '1', 4096, '2', '3', '4', 4096, '5', '6'),
               ('bob@localhost', 'localhost', '1', 4096, '2', '3', '4', 4096, '5', '6');
        INSERT INTO roster (account, version, forgotten) SELECT id, 1, 1 FROM account;
        INSERT INTO log (account, last, delivered, undelivered) SELECT id, 1, 1, 0 FROM account;";
    old.client.batch_execute(accounts).await.unwrap();
    let one = old.append("ann@localhost", "1").await;
    assert_eq!(old.mark_delivered("ann@localhost", one).await, 1);
    old.append("ann@localhost", "2").await;
    assert_eq!(texts(&old.undelivered("ann@localhost").await), ["2"]);

    let new = place.open().await;
    assert_eq!(stanzas(&undelivered(&new, &ann).await), ["2"]);
    // Both append, in one order of ids, and both see what is undelivered and nothing else.
    old.append("ann@localhost", "3").await;
    let four = append(&new, chat("bob@localhost/x", "ann@localhost", "4")).await;
    append(&new, chat("ann@localhost/x", "bob@localhost", "sent")).await;
    old.append("ann@localhost", "5").await;
    append(&new, offline("ann@localhost", "6")).await;
    let expected = ["2", "3", "4", "5", "6"];
    assert_eq!(texts(&old.undelivered("ann@localhost").await), expected);
    assert_eq!(stanzas(&undelivered(&new, &ann).await), expected);

    // What the new one delivers ahead, the old one does not deliver again.
    mark(&new, &ann, &[four]).await;
    let expected = old.undelivered("ann@localhost").await;
    assert_eq!(texts(&expected), ["2", "3", "5", "6"]);
    // The old one delivers up to "5"; what is archived stays in the archive.
    assert_eq!(old.mark_delivered("ann@localhost", expected[2].0).await, 3);
    assert_eq!(stanzas(&undelivered(&new, &ann).await), ["6"]);
    assert_eq!(texts(&old.undelivered("ann@localhost").await), ["6"]);
    let archived = archive::all(&new, &ann).await;
    assert_eq!(stanzas(&archived), ["4", "sent"]);
    // And what the old one delivers of the archived.
    let ids = old.undelivered("bob@localhost").await;
    assert_eq!(texts(&ids), ["sent"]);
    assert_eq!(old.mark_delivered("bob@localhost", ids[0].0).await, 1);
    assert_eq!(undelivered(&new, &bob).await, []);
    assert_eq!(stanzas(&archive::all(&new, &bob).await), ["4", "sent"]);

    // An account that the old one deletes leaves nothing.
    old.delete("ann@localhost").await;
    let rest = "SELECT count(*) FROM entry e WHERE account NOT IN (SELECT id FROM account)";
    let rest: i64 = old.client.query_one(rest, &[]).await.unwrap().get(0);
    assert_eq!(rest, 0);
    add(&new, &["ann"]).await;
    assert_eq!(archive::all(&new, &ann).await, []);
    old.append("ann@localhost", "again").await;
    assert_eq!(stanzas(&undelivered(&new, &ann).await), ["again"]);
}

/// Old and new nodes append to the same logs at once: ids stay in the order in which readers see them.
#[tokio::test]
async fn nodes_of_both_versions_append_to_one_log_at_once() {
    let (place, client) = postgres().await;
    let new = place.open().await;
    add(&new, &["ann", "bob"]).await;
    let never = ArchivePreferences {
        default: ArchiveDefault::Never,
        ..ArchivePreferences::default()
    };
    let ann = bare("ann@localhost");
    new.set_archive_preferences(&ann, &never).await.unwrap();
    let mut old = Version1::start(client).await;
    let by_old = async {
        for number in 0..100 {
            old.append("ann@localhost", &number.to_string()).await;
        }
    };
    let by_new = async {
        for number in 0..100 {
            let message = chat("bob@localhost/x", "ann@localhost", &number.to_string());
            append(&new, message).await;
        }
    };
    let read = async {
        let (mut last, mut seen) = (None, 0);
        while seen < 200 {
            for entry in new.undelivered(&ann, last, 10).await.unwrap() {
                last = Some(entry.id);
                seen += 1;
            }
            tokio::task::yield_now().await;
        }
    };
    let all = async { tokio::join!(by_old, by_new, read) };
    tokio::time::timeout(std::time::Duration::from_secs(30), all)
        .await
        .expect("a page missed an entry");
    let entries = undelivered(&new, &ann).await;
    assert_eq!(entries.len(), 200);
    let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
    mark(&new, &ann, &ids).await;
    assert!(old.undelivered("ann@localhost").await.is_empty());
    assert_eq!(new.credentials(&ann).await.unwrap(), Some(credentials(1)));
}

/// Statements about accounts of version 2, word for word, prepared when it started.
struct Version2 {
    create: Statement,
    keys: Statement,
    set_keys: Statement,
    list: Statement,
    client: Client,
}

impl Version2 {
    async fn start(client: Client) -> Self {
        let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
        Self {
            create: prepare(
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
            )
            .await,
            keys: prepare(
                "SELECT sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
                     sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key
                 FROM account WHERE jid = $1",
            )
            .await,
            set_keys: prepare(
                "UPDATE account SET
                     sha1_salt = $2, sha1_iterations = $3, sha1_stored_key = $4,
                     sha1_server_key = $5, sha256_salt = $6, sha256_iterations = $7,
                     sha256_stored_key = $8, sha256_server_key = $9
                 WHERE jid = $1",
            )
            .await,
            list: prepare(
                "SELECT jid FROM account WHERE domain = $1 AND jid > $2
                 ORDER BY jid LIMIT $3",
            )
            .await,
            client,
        }
    }

    async fn create(&self, name: &str) -> u64 {
        let (bytes, number) = ([1_u8].as_slice(), 4096_i64);
        let parameters: [&(dyn ToSql + Sync); 11] = [
            &name,
            &"localhost",
            &bytes,
            &number,
            &bytes,
            &bytes,
            &bytes,
            &number,
            &bytes,
            &bytes,
            &7_i64,
        ];
        let created = self.client.execute(&self.create, &parameters);
        created.await.unwrap()
    }

    async fn set_keys(&self, name: &str, key: u8) -> u64 {
        let (key, number) = ([key], 4096_i64);
        let bytes = key.as_slice();
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &name, &bytes, &number, &bytes, &bytes, &bytes, &number, &bytes, &bytes,
        ];
        let changed = self.client.execute(&self.set_keys, &parameters);
        changed.await.unwrap()
    }

    /// The salt that a login is challenged with.
    async fn salt(&self, name: &str) -> Vec<u8> {
        let row = self.client.query_one(&self.keys, &[&name]).await.unwrap();
        row.get(0)
    }

    async fn list(&self) -> Vec<String> {
        let rows = self
            .client
            .query(&self.list, &[&"localhost", &"", &100_i64])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[tokio::test]
async fn a_node_of_version_2_works_beside_one_of_this_version() {
    let (place, client) = postgres().await;
    let step = include_str!("version_2/postgres.sql");
    client.batch_execute(step).await.unwrap();
    let old = Version2::start(client).await;
    assert_eq!(old.create("ann@localhost").await, 1);
    assert_eq!(old.salt("ann@localhost").await, [1]);

    let new = place.open().await;
    let is_disabled = async |name: &str| {
        let keys = new.login_keys(&bare(name)).await.unwrap();
        keys.unwrap().is_disabled
    };
    assert!(!is_disabled("ann@localhost").await);
    assert!(
        new.set_disabled(&bare("ann@localhost"), true)
            .await
            .unwrap()
    );
    // The old one knows nothing of it and changes nothing about it.
    assert_eq!(old.set_keys("ann@localhost", 2).await, 1);
    assert_eq!(old.salt("ann@localhost").await, [2]);
    assert!(is_disabled("ann@localhost").await);
    assert_eq!(old.create("bob@localhost").await, 1);
    assert!(!is_disabled("bob@localhost").await);
    add(&new, &["cat"]).await;
    assert_eq!(old.create("cat@localhost").await, 0);
    let all = ["ann@localhost", "bob@localhost", "cat@localhost"];
    assert_eq!(old.list().await, all);
    let disabled = new.disabled_accounts("localhost", None, 10).await.unwrap();
    assert_eq!(disabled, [bare("ann@localhost")]);
}

/// A program that was started before the file was migrated goes on working with it.
#[tokio::test]
async fn a_program_of_version_2_works_on_the_same_sqlite_file() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    for step in [
        include_str!("version_1/sqlite.sql"),
        SQLITE_DATA,
        include_str!("version_2/sqlite.sql"),
    ] {
        old.execute_batch(step).unwrap();
    }
    let place = Place {
        url: format!("sqlite://{}", path.display()),
        keep: Box::new(directory),
    };
    let new = place.open().await;
    let ann = bare("ann@localhost");
    assert!(new.set_disabled(&ann, true).await.unwrap());
    old.execute(
        "INSERT INTO account (jid, domain,
             sha1_salt, sha1_iterations, sha1_stored_key, sha1_server_key,
             sha256_salt, sha256_iterations, sha256_stored_key, sha256_server_key)
         VALUES ('cat@localhost', 'localhost', x'01', 1, x'01', x'01', x'01', 1, x'01', x'01')
         ON CONFLICT DO NOTHING",
        [],
    )
    .unwrap();
    old.execute(
        "UPDATE account SET sha1_salt = x'09' WHERE jid = 'ann@localhost'",
        [],
    )
    .unwrap();
    let keys = async |name: &str| new.login_keys(&bare(name)).await.unwrap().unwrap();
    assert!(!keys("cat@localhost").await.is_disabled);
    let anns = keys("ann@localhost").await;
    assert!(anns.is_disabled);
    assert_eq!(anns.credentials.scram_sha1.salt, [9]);
    let disabled = new.disabled_accounts("localhost", None, 10).await.unwrap();
    assert_eq!(disabled, [ann]);
}
