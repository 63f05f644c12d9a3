//! The message log.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rookery_storage::{
    Entry, EntryId, MAX_AHEAD, NewMessage, Pending, Refused, Stored, StoredCopy,
};

use super::{Place, add, append, at, bare, chat, copy, jid, mark, offline, stanzas, undelivered};

pub(crate) async fn entries_come_back_in_order_with_all_they_hold(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;

    let mut other = offline("ann@localhost", "<message>\u{1F426} &amp; '\"\n</message>");
    other.recipient = Some(copy("ann@localhost", "example.org", true, Pending::Live));
    other.at = SystemTime::UNIX_EPOCH;
    let stored = storage
        .append(vec![offline("ann@localhost", "one"), other], 10)
        .await
        .unwrap();
    let copies: Vec<StoredCopy> = stored
        .iter()
        .map(|stored| stored.unwrap().recipient.unwrap())
        .collect();
    assert!(copies[0].id < copies[1].id);
    assert_eq!((copies[0].archived, copies[1].archived), (false, true));
    assert_eq!(storage.append(Vec::new(), 10).await.unwrap(), []);

    let read = storage.undelivered(&ann, None, 10).await.unwrap();
    let expected = [
        Entry {
            id: copies[0].id,
            peer: jid("bob@example.org/desk"),
            at: at(0),
            stanza: "one".to_owned(),
            archived: false,
        },
        Entry {
            id: copies[1].id,
            peer: jid("example.org"),
            at: SystemTime::UNIX_EPOCH,
            stanza: "<message>\u{1F426} &amp; '\"\n</message>".to_owned(),
            archived: true,
        },
    ];
    assert_eq!(read, expected);
}

pub(crate) async fn undelivered_entries_are_read_in_pages(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    for stanza in ["1", "2", "3"] {
        append(&storage, offline("ann@localhost", stanza)).await;
    }
    append(&storage, offline("bob@localhost", "not hers")).await;

    let first = storage.undelivered(&ann, None, 2).await.unwrap();
    assert_eq!(stanzas(&first), ["1", "2"]);
    let after = Some(first[1].id);
    let second = storage.undelivered(&ann, after, 2).await.unwrap();
    assert_eq!(stanzas(&second), ["3"]);
    let after = Some(second[0].id);
    assert_eq!(storage.undelivered(&ann, after, 2).await.unwrap(), []);
    let nobody = bare("nobody@localhost");
    assert_eq!(undelivered(&storage, &nobody).await, []);
}

pub(crate) async fn both_ends_get_a_copy(place: Place) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    add(&storage, &["ann", "bob"]).await;
    let message = chat("ann@localhost/desk", "bob@localhost", "hi");

    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();

    let (received, sent) = (stored.recipient.unwrap(), stored.sender.unwrap());
    assert!(received.archived && sent.archived);
    let entries = undelivered(&storage, &bob).await;
    assert_eq!(entries[0].id, received.id);
    assert_eq!(entries[0].peer, jid("ann@localhost/desk"));
    // What one sent needs no delivery.
    assert_eq!(undelivered(&storage, &ann).await, []);
    let archive = super::archive::all(&storage, &ann).await;
    assert_eq!((archive[0].id, stanzas(&archive)), (sent.id, vec!["hi"]));
    assert_eq!(archive[0].peer, jid("bob@localhost"));
}

pub(crate) async fn a_message_to_oneself_may_have_two_copies(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let message = chat("ann@localhost/desk", "ann@localhost", "note");

    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();

    let (received, sent) = (stored.recipient.unwrap(), stored.sender.unwrap());
    assert!(received.id < sent.id);
    assert_eq!(super::archive::all(&storage, &ann).await.len(), 2);
    assert_eq!(undelivered(&storage, &ann).await[0].id, received.id);
    // One copy that is pending does as well.
    let mut message = chat("ann@localhost/desk", "ann@localhost", "other");
    message.recipient = None;
    message.sender = Some(copy(
        "ann@localhost",
        "ann@localhost/desk",
        true,
        Pending::Live,
    ));
    storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    assert_eq!(
        stanzas(&undelivered(&storage, &ann).await),
        ["note", "other"]
    );
}

pub(crate) async fn what_nobody_keeps_is_not_stored(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann", "bob"]).await;
    let mut message = chat("ann@localhost/desk", "bob@localhost", "x");
    message.recipient = Some(copy(
        "bob@localhost",
        "ann@localhost/desk",
        false,
        Pending::No,
    ));
    message.sender = None;
    let nothing = storage.append(vec![message.clone()], 10).await.unwrap();
    assert_eq!(nothing, [Ok(Stored::default())]);

    message.sender = Some(copy("ann@localhost", "bob@localhost", true, Pending::No));
    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    assert!(stored.recipient.is_none());
    assert!(stored.sender.unwrap().archived);
}

pub(crate) async fn deliveries_are_confirmed_in_any_order(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        // Some are archived, and between them are entries that need no delivery.
        let message = if number % 2 == 0 {
            chat("bob@localhost/desk", "ann@localhost", &number.to_string())
        } else {
            offline("ann@localhost", &number.to_string())
        };
        ids.push(append(&storage, message).await);
        let sent = chat("ann@localhost/desk", "bob@localhost", "sent");
        append(&storage, sent).await;
    }

    mark(&storage, &ann, &[ids[4], ids[1]]).await;
    assert_eq!(
        stanzas(&undelivered(&storage, &ann).await),
        ["0", "2", "3", "5"]
    );
    // Once more, and after opening again.
    mark(&storage, &ann, &[ids[1], ids[4], ids[4]]).await;
    let again = place.open().await;
    assert_eq!(
        stanzas(&undelivered(&again, &ann).await),
        ["0", "2", "3", "5"]
    );
    let after = again.undelivered(&ann, Some(ids[2]), 1).await.unwrap();
    assert_eq!(stanzas(&after), ["3"]);
    mark(&again, &ann, &[ids[0]]).await;
    mark(&storage, &ann, &[ids[3], ids[2]]).await;
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["5"]);
    mark(&again, &ann, &[ids[5]]).await;
    assert_eq!(undelivered(&storage, &ann).await, []);

    append(&storage, offline("ann@localhost", "new")).await;
    assert_eq!(stanzas(&undelivered(&again, &ann).await), ["new"]);
}

pub(crate) async fn confirmations_of_many_accounts_are_one_call(place: Place) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    add(&storage, &["ann", "bob"]).await;
    let one = append(&storage, offline("ann@localhost", "1")).await;
    let two = append(&storage, offline("bob@localhost", "2")).await;
    append(&storage, offline("bob@localhost", "3")).await;

    let delivered = vec![
        (ann.clone(), vec![one]),
        (bare("nobody@localhost"), vec![one]),
        (bob.clone(), vec![two]),
        (ann.clone(), Vec::new()),
    ];
    storage.mark_delivered(delivered).await.unwrap();

    assert_eq!(undelivered(&storage, &ann).await, []);
    assert_eq!(stanzas(&undelivered(&storage, &bob).await), ["3"]);
    storage.mark_delivered(Vec::new()).await.unwrap();
}

pub(crate) async fn ids_that_are_no_entries_are_ignored(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let other = append(&storage, offline("bob@localhost", "not hers")).await;
    let one = append(&storage, offline("ann@localhost", "1")).await;

    mark(
        &storage,
        &ann,
        &[EntryId(0), EntryId(one.0 + 1), EntryId(u64::MAX)],
    )
    .await;
    if other != one {
        mark(&storage, &ann, &[other]).await;
    }
    append(&storage, offline("ann@localhost", "2")).await;
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["1", "2"]);
    assert_eq!(undelivered(&storage, &bare("bob@localhost")).await.len(), 1);
}

pub(crate) async fn what_is_archived_stays_when_it_is_delivered(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let kept = append(
        &storage,
        chat("bob@localhost/desk", "ann@localhost", "kept"),
    )
    .await;
    let gone = append(&storage, offline("ann@localhost", "gone")).await;

    mark(&storage, &ann, &[gone, kept]).await;

    assert_eq!(undelivered(&storage, &ann).await, []);
    let archive = super::archive::all(&storage, &ann).await;
    assert_eq!(stanzas(&archive), ["kept"]);
}

pub(crate) async fn deliveries_far_ahead_are_forgotten_from_the_newest_on(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let message = |number: usize| {
        let stanza = number.to_string();
        chat("bob@localhost/desk", "ann@localhost", &stanza)
    };
    let messages = (0..MAX_AHEAD + 11).map(message).collect();
    let stored = storage.append(messages, 10).await.unwrap();
    let ids: Vec<EntryId> = stored
        .iter()
        .map(|stored| stored.unwrap().recipient.unwrap().id)
        .collect();

    // All but the first: ten more than fit.
    mark(&storage, &ann, &ids[1..]).await;
    let rest = undelivered(&storage, &ann).await;
    assert_eq!(rest.len(), 11);
    assert_eq!(rest[0].id, ids[0]);
    assert_eq!(rest[1].id, ids[MAX_AHEAD + 1]);
    // They are delivered once more, and then it is done.
    let rest: Vec<EntryId> = rest.iter().map(|entry| entry.id).collect();
    mark(&storage, &ann, &rest).await;
    assert_eq!(undelivered(&storage, &ann).await, []);
}

pub(crate) async fn confirmations_of_two_nodes_add_up(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let ann = bare("ann@localhost");
    add(&nodes[0], &["ann", "bob"]).await;
    let mut ids = Vec::new();
    for number in 0..60 {
        let stanza = number.to_string();
        let message = if number % 3 == 0 {
            offline("ann@localhost", &stanza)
        } else {
            chat("bob@localhost/desk", "ann@localhost", &stanza)
        };
        ids.push(append(&nodes[number % 2], message).await);
    }
    let confirm = |number: usize| {
        let delivered = vec![(ann.clone(), vec![ids[number]])];
        nodes[(number / 2) % 2].mark_delivered(delivered)
    };
    // The last first, and not the first.
    for done in join_all((1..60).rev().map(confirm)).await {
        done.unwrap();
    }
    let rest = undelivered(&nodes[0], &ann).await;
    assert_eq!(stanzas(&rest), ["0"]);
    confirm(0).await.unwrap();
    assert_eq!(undelivered(&nodes[1], &ann).await, []);
}

pub(crate) async fn a_log_has_a_limit_that_delivery_frees(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let batch = vec![
        offline("ann@localhost", "1"),
        offline("ann@localhost", "2"),
        offline("bob@localhost", "1"),
        offline("ann@localhost", "3"),
    ];
    let stored = storage.append(batch, 2).await.unwrap();
    assert!(stored[..3].iter().all(Result::is_ok));
    assert_eq!(stored[3], Err(Refused::Full));
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["1", "2"]);

    let first = stored[0].unwrap().recipient.unwrap().id;
    let second = stored[1].unwrap().recipient.unwrap().id;
    mark(&storage, &ann, &[first]).await;
    let three = vec![offline("ann@localhost", "3")];
    let again = storage.append(three.clone(), 2).await.unwrap();
    assert!(again[0].unwrap().recipient.unwrap().id > second);
    assert_eq!(
        storage.append(three, 2).await.unwrap(),
        [Err(Refused::Full)]
    );
}

pub(crate) async fn what_is_delivered_live_is_never_refused_for_the_limit(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let live = |stanza: &str| chat("bob@localhost/desk", "ann@localhost", stanza);
    let batch = vec![live("1"), live("2"), offline("ann@localhost", "3")];

    let stored = storage.append(batch, 1).await.unwrap();

    assert!(stored[0].is_ok() && stored[1].is_ok());
    // They count, though.
    assert_eq!(stored[2], Err(Refused::Full));
    assert_eq!(undelivered(&storage, &ann).await.len(), 2);
}

pub(crate) async fn messages_that_are_refused_do_not_stop_the_others(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let batch = vec![
        offline("nobody@localhost", "1"),
        offline("ann@localhost", "2"),
    ];
    let stored = storage.append(batch, 10).await.unwrap();
    assert_eq!(stored[0], Err(Refused::NoAccount));
    assert!(stored[1].is_ok());
}

pub(crate) async fn a_refused_message_is_in_neither_log(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let send = |to: &str| {
        let mut message = chat("ann@localhost/desk", to, "x");
        message.recipient = Some(copy(to, "ann@localhost/desk", true, Pending::Offline));
        message
    };
    let batch = vec![send("nobody@localhost"), send("bob@localhost")];

    let stored = storage.append(batch, 0).await.unwrap();

    assert_eq!(stored, [Err(Refused::NoAccount), Err(Refused::Full)]);
    assert_eq!(super::archive::all(&storage, &ann).await, []);
}

pub(crate) async fn a_sender_that_is_gone_does_not_stop_the_message(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let message = chat("gone@localhost/desk", "ann@localhost", "x");
    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    assert!(matches!(
        stored.recipient,
        Some(StoredCopy { archived: true, .. })
    ));
    assert_eq!(stored.sender, None);
}

pub(crate) async fn calls_of_one_caller_keep_their_order(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();

    // All at once: they queue up and share commits.
    let appends = expected
        .iter()
        .map(|stanza| append(&storage, offline("ann@localhost", stanza)));
    let ids = join_all(appends).await;

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
            offline("ann@localhost", &stanza),
            chat("ann@localhost/desk", "bob@localhost", &stanza),
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
        async move { append(&storage, offline("ann@localhost", "x")).await }
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
    let batch: Vec<NewMessage> = (0..2000)
        .map(|number| offline("ann@localhost", &number.to_string()))
        .collect();
    let long = "x".repeat(1_000_000);
    append(&storage, offline("ann@localhost", &long)).await;
    let appended = storage.append(batch, 10_000).await.unwrap();
    assert_eq!(appended.iter().filter(|one| one.is_ok()).count(), 2000);
    assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 2001);
    assert_eq!(
        storage.undelivered(&ann, None, 1).await.unwrap()[0].stanza,
        long
    );
}

/// XEP-0191 §3.3
pub(crate) async fn a_blocked_sender_is_refused(place: Place) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    add(&storage, &["ann", "bob"]).await;
    let message = || chat("ann@localhost/desk", "bob@localhost", "hi");
    let result = async |message: NewMessage| storage.append(vec![message], 10).await.unwrap()[0];
    result(message()).await.unwrap();
    for blocked in ["ann@localhost/desk", "ann@localhost", "localhost"] {
        storage.block(&bob, &[jid(blocked)]).await.unwrap();

        assert_eq!(result(message()).await, Err(Refused::Blocked), "{blocked}");
        // Nobody blocks oneself.
        let own = chat("bob@localhost/tv", "bob@localhost", "note");
        result(own).await.unwrap();
        storage.unblock(&bob, None).await.unwrap();
        result(message()).await.unwrap();
    }
    let others = [jid("ann@localhost/tv"), jid("eve@localhost")];
    storage.block(&bob, &others).await.unwrap();
    result(message()).await.unwrap();
    // What was refused is in neither log.
    assert_eq!(super::archive::all(&storage, &ann).await.len(), 5);
}

/// Whichever log comes first, and although the node that writes knows nothing of what has changed.
pub(crate) async fn a_message_that_is_refused_leaves_logs_as_they_were(place: Place) {
    let (storage, other) = (place.open().await, place.open().await);
    add(&storage, &["ann", "bob", "cat"]).await;
    for (from, to) in [("ann", "bob"), ("bob", "ann")] {
        let account = |name: &str| bare(&format!("{name}@localhost"));
        let (sender, recipient) = (account(from), account(to));
        let send = |stanza: &str| {
            let mut message = chat(&format!("{sender}/desk"), recipient.as_str(), stanza);
            message.recipient.as_mut().unwrap().pending = Pending::Offline;
            message
        };
        let append_all = async |stanzas: &[&str], limit: usize| {
            let messages = stanzas.iter().map(|stanza| send(stanza)).collect();
            storage.append(messages, limit).await.unwrap()
        };
        let first = append(&storage, send("first")).await;
        mark(&storage, &recipient, &[first]).await;
        let before = super::archive::all(&storage, &sender).await.len();

        other
            .block(&recipient, &[jid(sender.as_str())])
            .await
            .unwrap();
        assert_eq!(append_all(&["1"], 9).await, [Err(Refused::Blocked)]);
        assert_eq!(append_all(&["2", "3"], 9).await, [Err(Refused::Blocked); 2]);
        other.unblock(&recipient, None).await.unwrap();
        assert_eq!(append_all(&["4"], 0).await, [Err(Refused::Full)]);
        assert_eq!(append_all(&["5", "6"], 0).await, [Err(Refused::Full); 2]);

        // What comes now is undelivered, for both, and nothing else is.
        let with = |name: &str| chat("cat@localhost/tv", name, "now");
        for name in [&sender, &recipient] {
            let id = append(&storage, with(name.as_str())).await;
            let now = undelivered(&other, name).await;
            assert_eq!(stanzas(&now), ["now"], "{from}, {name}");
            assert_eq!(other.undelivered_count(name).await.unwrap(), 1);
            mark(&storage, name, &[id]).await;
            assert_eq!(other.undelivered_count(name).await.unwrap(), 0);
        }
        let after = super::archive::all(&storage, &sender).await.len();
        assert_eq!(after, before + 1, "{from}");
    }
}

pub(crate) async fn accounts_with_undelivered_entries_are_found(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann", "bob", "eve"]).await;
    append(&storage, offline("ann@localhost", "1")).await;
    let delivered = append(&storage, offline("bob@localhost", "2")).await;
    mark(&storage, &bare("bob@localhost"), &[delivered]).await;

    let asked = ["bob", "ann", "eve", "nobody"].map(|name| bare(&format!("{name}@localhost")));
    let found = storage.with_undelivered(&asked).await.unwrap();
    assert_eq!(found, [bare("ann@localhost")]);
    assert!(storage.with_undelivered(&[]).await.unwrap().is_empty());
}
