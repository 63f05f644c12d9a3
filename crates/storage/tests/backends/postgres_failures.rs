//! PostgreSQL that is away, frozen, or refuses connections.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use rookery_storage::{Error, Options, Storage, open};

use crate::{
    postgres_server::{Durability, Server, connect},
    suite::{add, append, bare, credentials, mark, offline, stanzas, undelivered},
};

/// A server of one's own, and a storage that soon gives up.
async fn impatient() -> (Server, String, Arc<dyn Storage>) {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::None))
        .await
        .unwrap();
    let url = server.create_database();
    let options = Options {
        timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let storage = open(&url, options).await.unwrap();
    add(&storage, &["ann"]).await;
    append(&storage, offline("ann@localhost", "before")).await;
    (server, url, storage)
}

/// The server is gone, and that is known: everything fails at once, and says why.
async fn everything_fails_at_once(storage: &Arc<dyn Storage>) -> String {
    let ann = bare("ann@localhost");
    // Known for longer than operations wait for a server that restarts.
    let until_known = async {
        loop {
            match storage.credentials(&ann).now_or_never() {
                Some(result) => return result.unwrap_err(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), until_known)
        .await
        .expect("the outage is noticed");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    // Without waiting for anything.
    for _ in 0..1000 {
        let read = storage.credentials(&ann).now_or_never();
        assert!(matches!(read, Some(Err(Error::Unavailable(_)))), "{read:?}");
    }
    let write = storage.set_vcard(&ann, "<vCard/>").now_or_never();
    assert!(matches!(write, Some(Err(Error::Unavailable(_)))));
    let message = vec![offline("ann@localhost", "meanwhile")];
    let append = storage.append(message, 10).now_or_never();
    assert!(matches!(append, Some(Err(Error::Unavailable(_)))));
    let id = rookery_storage::EntryId(1);
    let mark = storage.mark_delivered(vec![(ann.clone(), vec![id])]);
    assert!(matches!(
        mark.now_or_never(),
        Some(Err(Error::Unavailable(_)))
    ));
    let health = storage.health().now_or_never();
    assert!(matches!(health, Some(Err(Error::Unavailable(_)))));
    error.to_string()
}

/// Nobody has to ask for it: the storage finds out that the server is back.
async fn it_works_again(storage: &Arc<dyn Storage>) {
    let ann = bare("ann@localhost");
    let health = async {
        while storage.health().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), health)
        .await
        .expect("it recovers");
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
    let entries = undelivered(storage, &ann).await;
    // What failed was not stored.
    assert_eq!(stanzas(&entries), ["before"]);
    let id = append(storage, offline("ann@localhost", "after")).await;
    mark(storage, &ann, &[id]).await;
}

#[tokio::test]
async fn while_the_server_is_known_to_be_away_everything_fails_at_once() {
    let (server, _, storage) = impatient().await;
    for how in ["fast", "immediate"] {
        server.stop(how);
        let wait = storage.append(vec![offline("ann@localhost", "meanwhile")], 10);
        let first = wait.await;
        let failed = matches!(first, Err(Error::Unavailable(_) | Error::Timeout(_)));
        assert!(failed, "{first:?}");
        everything_fails_at_once(&storage).await;
        server.start_again();
        it_works_again(&storage).await;
    }
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_everything_fails_at_once() {
    let (server, url, storage) = impatient().await;
    let before = Connections::of(&url).await;
    server.freeze();
    let ann = bare("ann@localhost");
    // These reach the server's sockets, and nobody answers.
    let read = storage.credentials(&ann);
    let append = storage.append(vec![offline("ann@localhost", "meanwhile")], 10);
    let (read, append) = tokio::join!(read, append);
    for failed in [read.map(drop), append.map(drop)] {
        let expected = matches!(failed, Err(Error::Unavailable(_) | Error::Timeout(_)));
        assert!(expected, "{failed:?}");
    }
    everything_fails_at_once(&storage).await;
    server.thaw();

    // The server finds what it was asked for in its sockets, and does not do it: that it failed was told.
    before.have_ended().await;
    it_works_again(&storage).await;
    append_works(&storage).await;
}

/// The connections that a storage has at some time.
struct Connections {
    client: tokio_postgres::Client,
    pids: Vec<i32>,
}

impl Connections {
    async fn of(url: &str) -> Self {
        let client = connect(url).await;
        let all = "SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let rows = client.query(all, &[]).await.unwrap();
        let pids = rows.iter().map(|row| row.get(0)).collect();
        Self { client, pids }
    }

    async fn have_ended(self) {
        assert!(!self.pids.is_empty());
        let count = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)";
        let until_none = async {
            loop {
                let row = self.client.query_one(count, &[&self.pids]).await.unwrap();
                if row.get::<_, i64>(0) == 0 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), until_none)
            .await
            .expect("the server ends what nobody listens to");
    }
}

async fn append_works(storage: &Arc<dyn Storage>) {
    let ann = bare("ann@localhost");
    let id = append(storage, offline("ann@localhost", "after")).await;
    let entries = undelivered(storage, &ann).await;
    assert_eq!(entries.last().unwrap().id, id);
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_reported_with_its_reason() {
    let (server, url, storage) = impatient().await;
    let database = url.rsplit('/').next().unwrap();
    server.sql(&format!(
        "ALTER DATABASE {database} ALLOW_CONNECTIONS false"
    ));
    let end_all = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    );
    server.sql(&end_all);
    // Connections that are in use notice at their next request.
    let _: Result<_, Error> = storage
        .append(vec![offline("ann@localhost", "meanwhile")], 10)
        .await;

    let reason = everything_fails_at_once(&storage).await;
    assert!(
        reason.contains("not currently accepting connections"),
        "{reason}"
    );
    server.sql(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true"));
    it_works_again(&storage).await;
}

/// Somebody holds a lock that appends need: they wait, with a bound, and do no harm to reading.
#[tokio::test]
async fn an_append_that_is_locked_out_waits_with_a_bound() {
    let (_server, url, storage) = impatient().await;
    let mut client = connect(&url).await;
    let transaction = client.transaction().await.unwrap();
    transaction
        .batch_execute("SELECT * FROM log FOR UPDATE")
        .await
        .unwrap();

    let failed = storage
        .append(vec![offline("ann@localhost", "meanwhile")], 10)
        .await
        .unwrap_err();
    assert!(matches!(failed, Error::Timeout(_)), "{failed:?}");
    storage.health().await.unwrap();
    assert_eq!(undelivered(&storage, &bare("ann@localhost")).await.len(), 1);
    transaction.rollback().await.unwrap();

    append_works(&storage).await;
}
