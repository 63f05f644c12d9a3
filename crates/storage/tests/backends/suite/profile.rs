//! vCards, private storage, last activity.

use std::time::{Duration, SystemTime};

use rookery_storage::{Error, Options};

use super::{Place, add, bare};

pub(crate) async fn a_vcard_is_replaced(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    assert_eq!(storage.vcard(&ann).await.unwrap(), None);
    storage.set_vcard(&ann, "<vCard>1</vCard>").await.unwrap();
    storage.set_vcard(&ann, "<vCard>é</vCard>").await.unwrap();
    assert_eq!(
        storage.vcard(&ann).await.unwrap().unwrap(),
        "<vCard>é</vCard>"
    );
}

pub(crate) async fn private_elements_are_told_apart_by_name_and_namespace(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    for (name, ns) in [("a", "x"), ("b", "x"), ("a", "y")] {
        assert_eq!(storage.private(&ann, name, ns).await.unwrap(), None);
        storage
            .set_private(&ann, name, ns, &format!("<{name} xmlns='{ns}'/>"))
            .await
            .unwrap();
    }
    storage
        .set_private(&ann, "a", "x", "<a xmlns='x'>2</a>")
        .await
        .unwrap();

    assert_eq!(
        storage.private(&ann, "a", "x").await.unwrap().unwrap(),
        "<a xmlns='x'>2</a>"
    );
    assert_eq!(
        storage.private(&ann, "b", "x").await.unwrap().unwrap(),
        "<b xmlns='x'/>"
    );
    assert_eq!(
        storage.private(&ann, "a", "y").await.unwrap().unwrap(),
        "<a xmlns='y'/>"
    );
}

pub(crate) async fn private_storage_has_a_limit(place: Place) {
    let storage = place
        .open_with(Options {
            max_private: 1,
            ..Options::default()
        })
        .await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    storage.set_private(&ann, "a", "x", "1").await.unwrap();
    let full = storage.set_private(&ann, "b", "x", "1").await;
    assert!(
        matches!(full, Err(Error::Full { limit: 1, .. })),
        "{full:?}"
    );
    storage.set_private(&ann, "a", "x", "2").await.unwrap();
}

pub(crate) async fn the_last_activity_never_goes_back(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let late = early + Duration::from_secs(1);

    assert_eq!(storage.last(&ann).await.unwrap(), None);
    storage.set_last(&ann, late, "bye").await.unwrap();
    storage.set_last(&ann, early, "too early").await.unwrap();
    assert_eq!(
        storage.last(&ann).await.unwrap(),
        Some((late, "bye".to_owned()))
    );
    storage.set_last(&ann, late, "").await.unwrap();
    assert_eq!(
        storage.last(&ann).await.unwrap(),
        Some((late, String::new()))
    );
}
