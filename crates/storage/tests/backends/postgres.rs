//! The suite on PostgreSQL, and what is particular to it.

use std::{cell::Cell, time::Duration};

use rookery_storage::{Error, NewMessage, Options, open};

use crate::{
    postgres_server::{Durability, Server},
    suite::{Place, add, bare, credentials, offline},
};

async fn place() -> Place {
    let url = tokio::task::spawn_blocking(|| Server::shared().create_database())
        .await
        .unwrap();
    Place {
        url,
        keep: Box::new(()),
    }
}

crate::run_suite!(place);

/// All rows of all tables, each as text.
pub(crate) async fn every_row(url: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let tables = client
        .query(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()",
            &[],
        )
        .await
        .unwrap();
    let mut texts = Vec::new();
    for table in &tables {
        let table: &str = table.get(0);
        let select = format!("SELECT t::text FROM {table} t");
        for row in client.query(&select, &[]).await.unwrap() {
            texts.push(format!("{table}: {}", row.get::<_, String>(0)));
        }
    }
    drop(client);
    driver.await.unwrap().unwrap();
    texts
}

async fn refusal(url: &str) -> String {
    match open(url, Options::default()).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error @ Error::Open { .. }) => error.to_string(),
        Err(error) => panic!("{url}: {error:?}"),
    }
}

fn entry(stanza: &str) -> NewMessage {
    offline("ann@localhost", stanza)
}

#[tokio::test]
async fn errors_on_opening_name_the_place_and_the_reason_but_no_password() {
    let server = Server::shared();
    let address = server.address();
    server.sql("CREATE ROLE guest LOGIN PASSWORD 'right'");

    let nobody_listens = refusal("postgres://ann:secret@127.0.0.1:1/rookery").await;
    assert!(
        nobody_listens.contains("127.0.0.1:1/rookery: "),
        "{nobody_listens}"
    );
    assert!(nobody_listens.contains("refused"), "{nobody_listens}");
    let password = refusal(&format!("postgres://guest:secret@{address}/postgres")).await;
    assert!(
        password.contains("password authentication failed"),
        "{password}"
    );
    let database = refusal(&format!("postgres://guest:right@{address}/secretless")).await;
    assert!(
        database.contains("\"secretless\" does not exist"),
        "{database}"
    );
    let no_tls = refusal(&format!(
        "postgres://guest:secret@{address}/x?sslmode=require"
    ))
    .await;
    assert!(no_tls.contains("TLS"), "{no_tls}");
    for text in [nobody_listens, password, no_tls] {
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn it_works_over_tcp_with_a_password() {
    let place = place().await;
    let server = Server::shared();
    let database = place.url.rsplit('/').next().unwrap();
    server.sql(&format!(
        "CREATE ROLE tcp LOGIN PASSWORD 'p@ss'; ALTER DATABASE {database} OWNER TO tcp"
    ));

    let url = format!("postgres://tcp:p%40ss@{}/{database}", server.address());
    let storage = open(&url, Options::default()).await.unwrap();
    add(&storage, &["ann"]).await;
    storage.health().await.unwrap();
    storage.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let place = place().await;
    place.open().await.close().await;
    let (client, connection) = tokio_postgres::connect(&place.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let newer = "INSERT INTO migration (version, needs) VALUES (99, 98)";
    client.batch_execute(newer).await.unwrap();

    let refused = refusal(&place.url).await;
    assert!(
        refused.contains("version 99") && refused.contains("update rookery"),
        "{refused}"
    );
    // A newer one that declares itself compatible is fine.
    client
        .batch_execute("UPDATE migration SET needs = 1 WHERE version = 99")
        .await
        .unwrap();
    place.open().await.health().await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_recovers_when_the_server_comes_back() {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::Full))
        .await
        .unwrap();
    let options = Options {
        timeout: Duration::from_millis(1500),
        ..Options::default()
    };
    let storage = open(&server.create_database(), options).await.unwrap();
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    storage.append(vec![entry("before")], 10).await.unwrap();

    for how in ["fast", "immediate"] {
        server.stop(how);
        // What is asked for meanwhile waits, with a bound, and then fails; nothing hangs.
        let read = storage.credentials(&ann);
        let write = storage.set_vcard(&ann, "<vCard/>");
        let append = storage.append(vec![entry("meanwhile")], 10);
        let (read, write, append) = tokio::join!(read, write, append);
        assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
        assert!(matches!(write, Err(Error::Unavailable(_))), "{write:?}");
        let failed = matches!(append, Err(Error::Unavailable(_) | Error::Timeout(_)));
        assert!(failed, "{append:?}");
        assert!(matches!(storage.health().await, Err(Error::Unavailable(_))));

        server.start_again();
        let health = async {
            while storage.health().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), health)
            .await
            .expect("it recovers");
        assert_eq!(
            storage.credentials(&ann).await.unwrap(),
            Some(credentials(1))
        );
        storage.set_vcard(&ann, "<vCard/>").await.unwrap();
        let stored = storage.undelivered(&ann, None, 10).await.unwrap();
        assert_eq!(stored[0].stanza, "before");
        storage.append(vec![entry("after")], 10).await.unwrap()[0].unwrap();
    }
}

#[tokio::test]
async fn an_append_waits_for_a_server_that_restarts() {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::Full))
        .await
        .unwrap();
    let storage = open(&server.create_database(), Options::default())
        .await
        .unwrap();
    add(&storage, &["ann"]).await;
    storage.append(vec![entry("first")], 10).await.unwrap();

    server.stop("fast");
    let restart = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let (appended, server) = tokio::join!(storage.append(vec![entry("second")], 10), restart);

    assert!(appended.unwrap()[0].is_ok());
    let stored = storage
        .undelivered(&bare("ann@localhost"), None, 10)
        .await
        .unwrap();
    assert_eq!(stored.len(), 2);
    drop(server);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash_of_the_server() {
    let server = tokio::task::spawn_blocking(|| Server::start(Durability::Full))
        .await
        .unwrap();
    let storage = open(&server.create_database(), Options::default())
        .await
        .unwrap();
    add(&storage, &["ann"]).await;
    let ann = bare("ann@localhost");
    let mut acknowledged = Vec::new();
    let is_back = Cell::new(false);
    let (under_way, go) = std::sync::mpsc::channel();
    let write = async {
        for number in 0.. {
            // What was under way at the crash may fail: nobody knows whether it was committed.
            let appended = storage
                .append(vec![entry(&number.to_string())], usize::MAX)
                .await;
            if let Ok(appended) = appended {
                let stored = appended[0].unwrap().recipient.unwrap();
                acknowledged.push((stored.id, number));
            }
            if number == 100 {
                under_way.send(()).unwrap();
            }
            if is_back.get() {
                return;
            }
        }
    };
    let crash = async {
        let crash = tokio::task::spawn_blocking(move || {
            go.recv().unwrap();
            server.stop("immediate");
            server.start_again();
            server
        });
        let server = crash.await.unwrap();
        is_back.set(true);
        server
    };
    let ((), server) = tokio::join!(write, crash);

    // What is asked while the server is still starting fails at once.
    let stored = loop {
        match storage.undelivered(&ann, None, usize::MAX).await {
            Ok(stored) => break stored,
            Err(Error::Unavailable(_) | Error::Timeout(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    for (id, number) in acknowledged {
        let entry = stored
            .iter()
            .find(|entry| entry.id == id)
            .expect("acknowledged, and lost");
        assert_eq!(entry.stanza, number.to_string());
    }
    drop(server);
}

#[tokio::test]
async fn one_caller_with_unacceptable_data_does_not_harm_the_others() {
    let place = place().await;
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    // PostgreSQL keeps no NUL in a text.
    let ann = bare("ann@localhost");
    let (bad, good, other) = tokio::join!(
        storage.append(vec![entry("a\0b")], 10),
        storage.append(vec![entry("good")], 10),
        storage.set_vcard(&ann, "\0"),
    );

    assert!(matches!(bad, Err(Error::Unavailable(_))), "{bad:?}");
    assert!(matches!(other, Err(Error::Unavailable(_))), "{other:?}");
    good.unwrap()[0].unwrap();
    assert_eq!(
        storage
            .undelivered_count(&bare("ann@localhost"))
            .await
            .unwrap(),
        1
    );
    storage
        .set_vcard(&bare("ann@localhost"), "<vCard/>")
        .await
        .unwrap();
}

#[tokio::test]
async fn connections_that_the_server_ends_are_replaced() {
    let place = place().await;
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let database = place.url.rsplit('/').next().unwrap();
    Server::shared().sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    ));

    let health = async {
        while storage.health().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), health)
        .await
        .expect("it recovers");
    storage.append(vec![entry("x")], 10).await.unwrap()[0].unwrap();
}
