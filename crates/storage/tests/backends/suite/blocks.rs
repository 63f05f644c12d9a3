//! Block lists.

use rookery_storage::{Error, Options};

use super::{Place, add, bare, jid};

pub(crate) async fn a_block_list_keeps_each_address_once(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let (user, full, domain) = (jid("x@d"), jid("x@d/r"), jid("d"));

    let added = storage
        .block(&ann, &[user.clone(), domain.clone(), user.clone()])
        .await
        .unwrap();
    assert_eq!(added, [user.clone(), domain.clone()]);
    let added = storage
        .block(&ann, &[domain.clone(), full.clone()])
        .await
        .unwrap();
    assert_eq!(added, std::slice::from_ref(&full));

    assert_eq!(storage.blocked(&ann).await.unwrap(), [domain, user, full]);
    assert!(
        storage
            .blocked(&bare("bob@localhost"))
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn unblocking_tells_who_was_blocked(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    storage
        .block(&ann, &[jid("a@d"), jid("b@d"), jid("c@d")])
        .await
        .unwrap();

    let removed = storage
        .unblock(&ann, Some(&[jid("b@d"), jid("z@d")]))
        .await
        .unwrap();
    assert_eq!(removed, [jid("b@d")]);
    let removed = storage.unblock(&ann, None).await.unwrap();
    assert_eq!(removed, [jid("a@d"), jid("c@d")]);
    assert!(storage.unblock(&ann, None).await.unwrap().is_empty());
    assert!(storage.blocked(&ann).await.unwrap().is_empty());
}

pub(crate) async fn a_block_list_has_a_limit_and_is_then_left_as_it_was(place: Place) {
    let storage = place
        .open_with(Options {
            max_blocked: 2,
            ..Options::default()
        })
        .await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    storage.block(&ann, &[jid("a@d")]).await.unwrap();

    let full = storage.block(&ann, &[jid("b@d"), jid("c@d")]).await;
    assert!(
        matches!(full, Err(Error::Full { limit: 2, .. })),
        "{full:?}"
    );
    assert_eq!(storage.blocked(&ann).await.unwrap(), [jid("a@d")]);
    storage.block(&ann, &[jid("b@d")]).await.unwrap();
    // Blocking the blocked needs no room.
    assert!(
        storage
            .block(&ann, &[jid("a@d"), jid("b@d")])
            .await
            .unwrap()
            .is_empty()
    );
}
