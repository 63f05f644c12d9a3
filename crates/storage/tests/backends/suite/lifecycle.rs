//! Opening, closing, bounds, secrets, metrics.

use std::{sync::mpsc, time::Duration};

use futures_util::future::join_all;
use rookery_proto::roster::RosterItem;
use rookery_storage::{Error, Options, RosterDecision, metrics};

use super::{Place, add, append, bare, credentials, offline};

pub(crate) async fn a_secret_is_made_once_for_all_nodes(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let asked = (0..20).map(|number| nodes[number % 2].secret("salt"));
    let secrets: Vec<[u8; 32]> = join_all(asked)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    assert_ne!(secrets[0], [0; 32]);
    assert_ne!(nodes[0].secret("another").await.unwrap(), secrets[0]);
}

pub(crate) async fn two_processes_start_at_once_on_an_empty_database(place: Place) {
    let nodes = join_all((0..4).map(|_| place.open())).await;
    add(&nodes[0], &["ann"]).await;
    for node in &nodes {
        node.health().await.unwrap();
        assert!(node.exists(&bare("ann@localhost")).await.unwrap());
    }
}

pub(crate) async fn closing_finishes_what_was_asked_for_and_refuses_the_rest(place: Place) {
    let storage = place.open().await;
    let names: Vec<_> = (0..100)
        .map(|number| bare(&format!("user{number}@localhost")))
        .collect();
    let additions = names.iter().map(|name| {
        let storage = storage.clone();
        async move { storage.create(name, &credentials(1)).await }
    });
    let (created, ()) = tokio::join!(join_all(additions), storage.close());
    storage.close().await;

    for created in created {
        created.unwrap();
    }
    let late = storage
        .create(&bare("late@localhost"), &credentials(1))
        .await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert!(matches!(storage.health().await, Err(Error::Unavailable(_))));
    let again = place.open().await;
    assert_eq!(
        again.accounts("localhost", None, 1000).await.unwrap().len(),
        100
    );
}

pub(crate) async fn everything_is_there_after_opening_again(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let put = |_: Option<&RosterItem>| RosterDecision::Put(RosterItem::new(bare("c@d")));
    let version = storage
        .update_roster(&ann, &bare("c@d"), Box::new(put))
        .await
        .unwrap()
        .version;
    let secret = storage.secret("salt").await.unwrap();
    storage.close().await;

    let storage = place.open().await;
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
    assert_eq!(storage.roster(&ann).await.unwrap().version, version);
    assert_eq!(storage.secret("salt").await.unwrap(), secret);
}

pub(crate) async fn a_full_queue_makes_callers_wait_and_then_fail(place: Place) {
    let options = Options {
        queue: 2,
        connections: 1,
        timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let setup = place.open().await;
    add(&setup, &["ann"]).await;
    let storage = place.open_with(options).await;
    let (ann, contact) = (bare("ann@localhost"), bare("c@d"));
    let (release, released) = mpsc::channel::<()>();
    let (holds, is_held) = tokio::sync::oneshot::channel();
    // Holds up the storage's own thread from within a transaction.
    let slow = storage.update_roster(
        &ann,
        &contact,
        Box::new(move |_| {
            let _: Result<(), _> = holds.send(());
            let _: Result<(), _> = released.recv();
            RosterDecision::Keep
        }),
    );
    let others = async {
        is_held.await.expect("the slow one holds what there is");
        let results = join_all((0..10).map(|_| storage.set_vcard(&ann, "<vCard/>"))).await;
        drop(release);
        results
    };
    let (_slow, others) = tokio::join!(slow, others);

    for other in others {
        assert!(
            matches!(other, Err(Error::Unavailable(_) | Error::Timeout(_))),
            "an operation got through: {other:?}"
        );
    }
    // And then it goes on.
    let patient = async { while storage.set_vcard(&ann, "<vCard/>").await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), patient)
        .await
        .expect("it recovers");
}

pub(crate) async fn operations_are_measured(place: Place) {
    metrics::init();
    let storage = place.open().await;
    let backend = storage.backend();
    add(&storage, &["ann"]).await;
    let appended = metrics::LOG_ROWS_APPENDED.get();
    append(&storage, offline("ann@localhost", "")).await;
    storage
        .create(&bare("ann@localhost"), &credentials(1))
        .await
        .unwrap_err();

    assert!(metrics::LOG_ROWS_APPENDED.get() > appended);
    let op = metrics::OPERATION_SECONDS.with_label_values(&[backend, "append"]);
    assert!(op.get_sample_count() > 0);
    assert!(
        metrics::ERRORS
            .with_label_values(&[backend, "create", "exists"])
            .get()
            > 0
    );
    assert!(
        metrics::COMMIT_ROWS
            .with_label_values(&[backend])
            .get_sample_sum()
            > 0.0
    );
}
