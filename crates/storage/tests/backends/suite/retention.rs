//! What archives need not keep.

use rookery_storage::Pending;

use super::{
    Place, add, append,
    archive::{all, from_bob, with_messages},
    at, bare, copy, mark, offline, stanzas, undelivered,
};

pub(crate) async fn entries_expire_by_age(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 20).await;
    // One that was accepted late by a clock that is slow.
    let late = append(&storage, from_bob("late", at(3))).await;
    mark(&storage, &ann, &[late]).await;

    assert_eq!(storage.expire(None, None, 100).await.unwrap(), 0);
    assert_eq!(storage.expire(Some(at(5)), None, 0).await.unwrap(), 0);
    let mut removed = 0;
    loop {
        let batch = storage.expire(Some(at(5)), None, 4).await.unwrap();
        assert!(batch <= 4);
        removed += batch;
        if batch == 0 {
            break;
        }
    }
    // Of Ann's six, and of Bob's.
    assert_eq!(removed, 12);
    let rest = all(&storage, &ann).await;
    assert_eq!((rest.len(), rest[0].id), (15, ids[5]));
    let bobs = all(&storage, &bare("bob@localhost")).await;
    assert_eq!((bobs.len(), bobs[0].stanza.as_str()), (15, "5"));
    let bounds = storage.archive_bounds(&ann).await.unwrap().unwrap();
    assert_eq!(bounds.first, (ids[5], at(5)));
}

pub(crate) async fn entries_expire_by_count(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 20).await;
    let removed = storage.expire(None, Some(7), 1000).await.unwrap();
    let more = storage.expire(None, Some(7), 1000).await.unwrap();
    assert_eq!((removed, more), (26, 0));
    let rest = all(&storage, &ann).await;
    assert_eq!((rest.len(), rest[0].id), (7, ids[13]));
    // Both rules at once.
    let removed = storage.expire(Some(at(15)), Some(6), 1000).await.unwrap();
    assert_eq!(removed, 4);
    assert_eq!(all(&storage, &ann).await[0].id, ids[15]);
    assert_eq!(storage.expire(None, Some(0), 1000).await.unwrap(), 10);
    assert_eq!(all(&storage, &ann).await, []);
    append(&storage, from_bob("new", at(50))).await;
    assert_eq!(stanzas(&all(&storage, &ann).await), ["new"]);
}

pub(crate) async fn undelivered_entries_do_not_expire(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(append(&storage, from_bob(&number.to_string(), at(number))).await);
    }
    append(&storage, offline("ann@localhost", "pending")).await;
    mark(&storage, &ann, &[ids[1], ids[3]]).await;

    // Those two, and what Bob sent.
    assert_eq!(storage.expire(Some(at(100)), None, 100).await.unwrap(), 8);
    assert_eq!(storage.expire(Some(at(100)), None, 100).await.unwrap(), 0);
    assert_eq!(
        stanzas(&undelivered(&storage, &ann).await),
        ["0", "2", "4", "5", "pending"]
    );
    mark(&storage, &ann, &ids).await;
    assert_eq!(storage.expire(None, Some(1), 100).await.unwrap(), 3);
    assert_eq!(stanzas(&all(&storage, &ann).await), ["5"]);
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["pending"]);
}

pub(crate) async fn one_end_may_forget_what_the_other_keeps(place: Place) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    add(&storage, &["ann", "bob"]).await;
    let mut message = from_bob("x", at(0));
    message.recipient = Some(copy(
        "ann@localhost",
        "bob@localhost/desk",
        false,
        Pending::Live,
    ));
    let id = append(&storage, message.clone()).await;
    mark(&storage, &ann, &[id]).await;
    assert_eq!(stanzas(&all(&storage, &bob).await), ["x"]);

    let id = append(&storage, from_bob("y", at(0))).await;
    assert_eq!(storage.expire(None, Some(0), 100).await.unwrap(), 2);
    // Ann's is undelivered.
    assert_eq!(all(&storage, &bob).await, []);
    assert_eq!(undelivered(&storage, &ann).await[0].id, id);
    mark(&storage, &ann, &[id]).await;
    assert_eq!(stanzas(&all(&storage, &ann).await), ["y"]);
}
