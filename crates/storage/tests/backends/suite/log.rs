//! The message log.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rookery_storage::{Entry, EntryId, NewEntry, Refused, Storage};

use super::{Place, add, bare, jid};

fn entry(account: &str, stanza: &str) -> NewEntry {
    NewEntry {
        account: bare(account),
        peer: jid("bob@localhost/desk"),
        at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
        stanza: stanza.to_owned(),
    }
}

async fn append(storage: &Arc<dyn Storage>, stanza: &str) -> EntryId {
    storage
        .append(vec![entry("ann@localhost", stanza)], 10_000)
        .await
        .unwrap()[0]
        .unwrap()
}

fn stanzas(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.stanza.as_str()).collect()
}

pub(crate) async fn entries_come_back_in_order_with_all_they_hold(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;

    let mut other = entry("ann@localhost", "<message>\u{1F426} &amp; '\"\n</message>");
    other.peer = jid("example.org");
    other.at = SystemTime::UNIX_EPOCH;
    let ids = storage
        .append(vec![entry("ann@localhost", "one"), other], 10)
        .await
        .unwrap();
    let (one, two) = (ids[0].unwrap(), ids[1].unwrap());
    assert!(one < two);
    assert_eq!(storage.append(Vec::new(), 10).await.unwrap(), []);

    let read = storage.undelivered(&ann, None, 10).await.unwrap();
    let first = entry("ann@localhost", "one");
    assert_eq!(
        read[0],
        Entry {
            id: one,
            peer: first.peer,
            at: first.at,
            stanza: first.stanza
        }
    );
    assert_eq!(read[1].id, two);
    assert_eq!(read[1].peer, jid("example.org"));
    assert_eq!(read[1].at, SystemTime::UNIX_EPOCH);
    assert_eq!(read[1].stanza, "<message>\u{1F426} &amp; '\"\n</message>");
}

pub(crate) async fn undelivered_entries_are_read_in_pages(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    for stanza in ["1", "2", "3"] {
        append(&storage, stanza).await;
    }
    storage
        .append(vec![entry("bob@localhost", "not hers")], 10)
        .await
        .unwrap();

    let first = storage.undelivered(&ann, None, 2).await.unwrap();
    assert_eq!(stanzas(&first), ["1", "2"]);
    let second = storage
        .undelivered(&ann, Some(first[1].id), 2)
        .await
        .unwrap();
    assert_eq!(stanzas(&second), ["3"]);
    assert!(
        storage
            .undelivered(&ann, Some(second[0].id), 2)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        storage
            .undelivered(&bare("nobody@localhost"), None, 2)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn the_delivered_mark_moves_forward_only(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let one = append(&storage, "1").await;
    let two = append(&storage, "2").await;
    let three = append(&storage, "3").await;
    assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 3);

    assert_eq!(storage.mark_delivered(&ann, two).await.unwrap(), 2);
    assert_eq!(storage.mark_delivered(&ann, one).await.unwrap(), 0);
    assert_eq!(storage.mark_delivered(&ann, two).await.unwrap(), 0);

    assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 1);
    let rest = storage.undelivered(&ann, None, 10).await.unwrap();
    assert_eq!((stanzas(&rest), rest[0].id), (vec!["3"], three));
    let rest = storage.undelivered(&ann, Some(one), 10).await.unwrap();
    assert_eq!(stanzas(&rest), ["3"]);
    assert_eq!(
        storage
            .mark_delivered(&bare("nobody@localhost"), two)
            .await
            .unwrap(),
        0
    );
}

pub(crate) async fn marking_more_than_there_is_spares_what_comes_later(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    append(&storage, "1").await;

    assert_eq!(
        storage
            .mark_delivered(&ann, EntryId(u64::MAX))
            .await
            .unwrap(),
        1
    );
    append(&storage, "2").await;
    assert_eq!(
        stanzas(&storage.undelivered(&ann, None, 10).await.unwrap()),
        ["2"]
    );
    assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 1);
}

pub(crate) async fn a_log_has_a_limit_that_delivery_frees(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let batch = vec![
        entry("ann@localhost", "1"),
        entry("ann@localhost", "2"),
        entry("bob@localhost", "1"),
        entry("ann@localhost", "3"),
    ];

    let appended = storage.append(batch, 2).await.unwrap();
    assert!(appended[0].is_ok() && appended[1].is_ok() && appended[2].is_ok());
    assert_eq!(appended[3], Err(Refused::Full));
    let again = storage
        .append(vec![entry("ann@localhost", "3")], 2)
        .await
        .unwrap();
    assert_eq!(again, [Err(Refused::Full)]);
    assert_eq!(
        stanzas(&storage.undelivered(&ann, None, 10).await.unwrap()),
        ["1", "2"]
    );

    storage
        .mark_delivered(&ann, appended[0].unwrap())
        .await
        .unwrap();
    let again = storage
        .append(vec![entry("ann@localhost", "3")], 2)
        .await
        .unwrap();
    assert!(again[0].unwrap() > appended[1].unwrap());
}

pub(crate) async fn entries_that_are_refused_do_not_stop_the_others(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let batch = vec![entry("nobody@localhost", "1"), entry("ann@localhost", "2")];
    let appended = storage.append(batch, 10).await.unwrap();
    assert_eq!(appended[0], Err(Refused::NoAccount));
    assert!(appended[1].is_ok());
}

pub(crate) async fn calls_of_one_caller_keep_their_order(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();

    // All at once: they queue up and share commits.
    let ids = join_all(expected.iter().map(|stanza| append(&storage, stanza))).await;

    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(
        stanzas(&storage.undelivered(&ann, None, 1000).await.unwrap()),
        expected
    );
}

pub(crate) async fn concurrent_appends_get_distinct_growing_ids(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let ann = bare("ann@localhost");
    add(&nodes[0], &["ann", "bob"]).await;
    let mut appends = Vec::new();
    for number in 0..200 {
        let stanza = number.to_string();
        // Accounts in both orders: nodes must not wait for each other in a circle.
        let mut batch = vec![
            entry("ann@localhost", &stanza),
            entry("bob@localhost", &stanza),
        ];
        if number % 3 == 0 {
            batch.reverse();
        }
        appends.push(nodes[number % 2].append(batch, 10_000));
    }

    for appended in join_all(appends).await {
        assert!(appended.unwrap().iter().all(Result::is_ok));
    }
    let entries = nodes[0].undelivered(&ann, None, 1000).await.unwrap();
    let ids: BTreeSet<EntryId> = entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(nodes[1].undelivered_count(&ann).await.unwrap(), 200);
    // Entries of one node are in its order.
    let numbers = stanzas(&entries)
        .into_iter()
        .map(|number| number.parse::<u32>().unwrap());
    let even: Vec<u32> = numbers.filter(|number| number % 2 == 0).collect();
    assert!(even.is_sorted(), "{even:?}");
}

pub(crate) async fn ids_grow_in_the_order_in_which_readers_see_them(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let ann = bare("ann@localhost");
    add(&nodes[0], &["ann"]).await;
    let write = join_all((0..300).map(|number| {
        let storage = nodes[number % 2].clone();
        async move { append(&storage, "x").await }
    }));
    // A client that pages "after the last id I know" must get all of them.
    let page = async {
        let mut seen = 0;
        let mut last = None;
        while seen < 300 {
            for entry in nodes[0].undelivered(&ann, last, 50).await.unwrap() {
                last = Some(entry.id);
                seen += 1;
            }
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(write, page) };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("a page missed an entry");
}

pub(crate) async fn one_append_may_be_large(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let batch: Vec<_> = (0..2000)
        .map(|n| entry("ann@localhost", &n.to_string()))
        .collect();
    let long = "x".repeat(1_000_000);
    append(&storage, &long).await;
    let appended = storage.append(batch, 10_000).await.unwrap();
    assert_eq!(appended.iter().filter(|one| one.is_ok()).count(), 2000);
    assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 2001);
    assert_eq!(
        storage.undelivered(&ann, None, 1).await.unwrap()[0].stanza,
        long
    );
}
