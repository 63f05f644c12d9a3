//! The suite on SQLite, and what is particular to it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::suite::{Place, add, bare, credentials, mark, offline, undelivered};
use rookery_storage::{EntryId, Error, NewMessage, Options, open};
use tempfile::TempDir;

async fn place() -> Place {
    let directory = TempDir::new().unwrap();
    let url = format!("sqlite://{}", directory.path().join("rookery.db").display());
    Place {
        url,
        keep: Box::new(directory),
    }
}

crate::run_suite!(place);

/// All rows of all tables, each as text.
pub(crate) fn every_row(path: &str) -> Vec<String> {
    let db = rusqlite::Connection::open(path).unwrap();
    let mut tables = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut texts = Vec::new();
    for table in tables {
        let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let text = |column| match row.get_ref(column).unwrap() {
                rusqlite::types::ValueRef::Text(octets)
                | rusqlite::types::ValueRef::Blob(octets) => {
                    String::from_utf8_lossy(octets).into_owned()
                }
                other => format!("{other:?}"),
            };
            let texts_of_row: Vec<String> = (0..columns).map(text).collect();
            texts.push(format!("{table}: {}", texts_of_row.join("|")));
        }
    }
    texts
}

async fn refusal(url: &str) -> String {
    match open(url, Options::default()).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error @ Error::Open { .. }) => error.to_string(),
        Err(error) => panic!("{url}: {error:?}"),
    }
}

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

#[tokio::test]
async fn its_files_are_for_the_owner_only() {
    let directory = TempDir::new().unwrap();
    let storage = open(
        &url(&directory.path().join("rookery.db")),
        Options::default(),
    )
    .await
    .unwrap();
    add(&storage, &["ann"]).await;

    let mut names = Vec::new();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["rookery.db", "rookery.db-shm", "rookery.db-wal"]);
    // Closed, the write-ahead log is folded into the file.
    storage.close().await;
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn errors_on_opening_say_what_to_do() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    std::fs::write(
        path.join("text"),
        "no database, but longer than a header".repeat(100),
    )
    .unwrap();

    let missing = refusal(&url(&path.join("no/such/rookery.db"))).await;
    assert!(
        missing.contains("no/such does not exist; create it"),
        "{missing}"
    );
    let text = refusal(&url(&path.join("text"))).await;
    assert!(text.contains("not a SQLite database"), "{text}");
    let below_file = refusal(&url(&path.join("text/rookery.db"))).await;
    assert!(
        below_file.contains("text is not a directory"),
        "{below_file}"
    );
    let is_directory = refusal(&url(path)).await;
    assert!(is_directory.contains("it is a directory"), "{is_directory}");
    let read_only = refusal("sqlite:///proc/rookery.db").await;
    assert!(
        read_only.starts_with("cannot open the storage /proc/rookery.db: "),
        "{read_only}"
    );
    assert!(refusal("sqlite://").await.contains("names no file"));
    assert!(
        refusal("sqlite::memory:")
            .await
            .contains("would lose everything")
    );
    let scheme = refusal("mysql://root:secret@localhost/x").await;
    assert!(
        scheme.contains("sqlite:// or postgres://") && !scheme.contains("secret"),
        "{scheme}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let place = place().await;
    place.open().await.close().await;
    let path = place.url.strip_prefix("sqlite://").unwrap();
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute("INSERT INTO migration (version, needs) VALUES (99, 98)", [])
        .unwrap();

    let refused = refusal(&place.url).await;
    assert!(
        refused.contains("version 99") && refused.contains("update rookery"),
        "{refused}"
    );
    // A newer one that declares itself compatible is fine.
    db.execute("UPDATE migration SET needs = 1 WHERE version = 99", [])
        .unwrap();
    place.open().await.health().await.unwrap();
}

#[tokio::test]
async fn a_locked_file_is_reported_and_waited_for() {
    let place = place().await;
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let path = place.url.strip_prefix("sqlite://").unwrap();
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();

    // Reading goes on meanwhile, writing waits and then goes on.
    let ann = bare("ann@localhost");
    let new = credentials(2);
    let write = storage.set_credentials(&ann, &new);
    let read = async {
        assert_eq!(
            storage.credentials(&ann).await.unwrap(),
            Some(credentials(1))
        );
        db.execute_batch("COMMIT").unwrap();
    };
    let (written, ()) = tokio::join!(write, read);
    assert!(written.unwrap());
    db.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = refusal(&place.url).await;
    assert!(
        refused.contains("another process has locked it"),
        "{refused}"
    );
}

#[tokio::test]
async fn another_process_gets_its_turn_while_the_log_is_written_without_a_pause() {
    let place = place().await;
    let server = place.open().await;
    let command_line = place.open().await;
    add(&server, &["ann"]).await;
    let flood = async {
        loop {
            let batches = (0..100).map(|_| server.append(vec![entry("x"); 10], usize::MAX));
            for appended in futures_util::future::join_all(batches).await {
                appended.unwrap();
            }
        }
    };
    let add_users = async {
        for number in 0..20 {
            let name = bare(&format!("user{number}@localhost"));
            command_line.create(&name, &credentials(1)).await.unwrap();
        }
    };
    tokio::select! {
        () = flood => {}
        () = add_users => {}
    }
    assert_eq!(
        server.accounts("localhost", None, 100).await.unwrap().len(),
        21
    );
}

fn entry(stanza: &str) -> NewMessage {
    offline("ann@localhost", stanza)
}

/// Set for the process that `what_was_acknowledged_survives_a_kill` starts and kills.
const VICTIM: &str = "ROOKERY_TEST_APPEND_TO";

#[tokio::test]
async fn victim() {
    let Ok(url) = std::env::var(VICTIM) else {
        return;
    };
    let storage = open(&url, Options::default()).await.unwrap();
    for round in 0u64.. {
        let numbers = (0..50).map(|number| round * 50 + number);
        let batches = numbers.map(|number| {
            let storage = storage.clone();
            async move {
                let appended = storage
                    .append(vec![entry(&number.to_string())], usize::MAX)
                    .await;
                assert!(appended.unwrap()[0].is_ok());
                // Straight to the pipe: what is in it outlives this process.
                writeln!(std::io::stdout(), "acknowledged {number}").unwrap();
            }
        });
        futures_util::future::join_all(batches).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let place = place().await;
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    storage.close().await;

    for _ in 0..3 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite::victim", "--nocapture"])
            .env(VICTIM, &place.url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let Some((_, number)) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged.push(number.to_owned());
            if acknowledged.len() == 500 {
                // SIGKILL, in the middle of its work.
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(acknowledged.len() >= 500, "the victim ended by itself");

        let storage = place.open().await;
        let ann = bare("ann@localhost");
        let entries = undelivered(&storage, &ann).await;
        let stored: std::collections::HashSet<&str> =
            entries.iter().map(|entry| entry.stanza.as_str()).collect();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|number| !stored.contains(number.as_str()))
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
        mark(&storage, &ann, &ids).await;
        tokio::time::timeout(Duration::from_secs(10), storage.close())
            .await
            .unwrap();
    }
}
