//! Rosters.

use std::sync::Arc;

use futures_util::future::join_all;
use rookery_proto::{
    jid::BareJid,
    roster::{RosterItem, Subscription},
};
use rookery_storage::{
    Error, MAX_TOMBSTONES, Options, RosterChange, RosterCommit, RosterDecision, Storage,
};

use super::{Place, add, bare};

fn named(contact: &str, name: &str) -> RosterItem {
    RosterItem {
        name: Some(name.to_owned()),
        ..RosterItem::new(bare(contact))
    }
}

async fn put(
    storage: &Arc<dyn Storage>,
    account: &BareJid,
    item: RosterItem,
) -> Result<RosterCommit, Error> {
    let contact = item.jid.clone();
    storage
        .update_roster(account, &contact, Box::new(|_| RosterDecision::Put(item)))
        .await
}

async fn remove(storage: &Arc<dyn Storage>, account: &BareJid, contact: &str) -> RosterCommit {
    storage
        .update_roster(
            account,
            &bare(contact),
            Box::new(|_| RosterDecision::Remove),
        )
        .await
        .unwrap()
}

pub(crate) async fn an_item_reads_back_as_it_was_put(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    assert!(storage.roster(&ann).await.unwrap().items.is_empty());

    let full = RosterItem {
        jid: bare("bob@localhost"),
        name: Some("Bob \"the\" ‘Büilder’ \u{1F426}".to_owned()),
        subscription: Subscription::Both,
        ask: true,
        approved: true,
        pending_in: Some("<presence from='bob@localhost'/>".to_owned()),
        groups: vec!["Friends".to_owned(), "a,b".to_owned(), "[\"x\"]".to_owned()],
    };
    let empty = RosterItem::new(bare("example.org"));
    let committed = put(&storage, &ann, full.clone()).await.unwrap();
    assert_eq!(
        (committed.before.as_ref(), committed.after.as_ref()),
        (None, Some(&full))
    );
    assert!(committed.is_change());
    for subscription in [Subscription::None, Subscription::To, Subscription::From] {
        let item = RosterItem {
            subscription,
            ..empty.clone()
        };
        put(&storage, &ann, item.clone()).await.unwrap();
        assert_eq!(
            storage.roster_item(&ann, &item.jid).await.unwrap(),
            Some(item)
        );
    }
    let last = put(&storage, &ann, empty.clone()).await.unwrap();

    let roster = storage.roster(&ann).await.unwrap();
    assert_eq!(roster.items, [full.clone(), empty]);
    assert_eq!(roster.version, last.version);
    assert_eq!(
        storage.roster_item(&ann, &full.jid).await.unwrap(),
        Some(full)
    );
    assert_eq!(storage.roster_item(&ann, &bare("c@d")).await.unwrap(), None);
}

pub(crate) async fn versions_grow_with_changes_only(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let start = storage.roster(&ann).await.unwrap().version;

    let first = put(&storage, &ann, named("bob@localhost", "Bob"))
        .await
        .unwrap();
    assert!(first.version > start);
    let same = put(&storage, &ann, named("bob@localhost", "Bob"))
        .await
        .unwrap();
    assert_eq!(same.version, first.version);
    assert!(!same.is_change());
    let kept = storage
        .update_roster(
            &ann,
            &bare("bob@localhost"),
            Box::new(|_| RosterDecision::Keep),
        )
        .await
        .unwrap();
    assert_eq!((kept.version, kept.before), (first.version, kept.after));
    let absent = remove(&storage, &ann, "cat@localhost").await;
    assert_eq!((absent.version, absent.after), (first.version, None));
    let removed = remove(&storage, &ann, "bob@localhost").await;
    assert!(removed.version > first.version);
    assert_eq!(removed.before, Some(named("bob@localhost", "Bob")));
    assert_eq!(storage.roster(&ann).await.unwrap().version, removed.version);
}

pub(crate) async fn an_update_sees_what_is_stored(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    put(&storage, &ann, named("bob@localhost", "Bob"))
        .await
        .unwrap();

    let rename = |item: Option<&RosterItem>| {
        let item = item.unwrap();
        RosterDecision::Put(RosterItem {
            name: item.name.as_ref().map(|name| format!("{name}!")),
            ..item.clone()
        })
    };
    let committed = storage
        .update_roster(&ann, &bare("bob@localhost"), Box::new(rename))
        .await
        .unwrap();

    assert_eq!(committed.before.unwrap().name.unwrap(), "Bob");
    assert_eq!(committed.after.unwrap().name.unwrap(), "Bob!");
}

pub(crate) async fn changes_since_a_version_tell_the_newest_state_of_each_contact(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    put(&storage, &ann, named("old@localhost", "Old"))
        .await
        .unwrap();
    put(&storage, &ann, named("gone@localhost", "Gone"))
        .await
        .unwrap();
    let since = put(&storage, &ann, named("bob@localhost", "Bob"))
        .await
        .unwrap()
        .version;
    assert_eq!(
        storage.roster_changes_since(&ann, since).await.unwrap(),
        Some(Vec::new())
    );

    put(&storage, &ann, named("bob@localhost", "Robert"))
        .await
        .unwrap();
    let gone = remove(&storage, &ann, "gone@localhost").await.version;
    let bob = put(&storage, &ann, named("bob@localhost", "Bobby"))
        .await
        .unwrap()
        .version;
    remove(&storage, &ann, "old@localhost").await;
    let old = put(&storage, &ann, named("old@localhost", "Back"))
        .await
        .unwrap()
        .version;

    let expected = [
        RosterChange {
            version: gone,
            contact: bare("gone@localhost"),
            item: None,
        },
        RosterChange {
            version: bob,
            contact: bare("bob@localhost"),
            item: Some(named("bob@localhost", "Bobby")),
        },
        RosterChange {
            version: old,
            contact: bare("old@localhost"),
            item: Some(named("old@localhost", "Back")),
        },
    ];
    let changes = storage.roster_changes_since(&ann, since).await.unwrap();
    assert_eq!(changes.as_deref(), Some(&expected[..]));
    let changes = storage.roster_changes_since(&ann, bob).await.unwrap();
    assert_eq!(changes.as_deref(), Some(&expected[2..]));
}

pub(crate) async fn a_version_that_is_too_old_or_unknown_asks_for_everything(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let version = put(&storage, &ann, named("bob@localhost", "Bob"))
        .await
        .unwrap()
        .version;

    for unknown in [0, 1, version + 1, u64::MAX] {
        assert_eq!(
            storage.roster_changes_since(&ann, unknown).await.unwrap(),
            None
        );
    }
    let nobody = bare("nobody@localhost");
    assert_eq!(
        storage.roster_changes_since(&nobody, 0).await.unwrap(),
        None
    );
    assert_eq!(storage.roster(&nobody).await.unwrap().version, 0);
}

pub(crate) async fn forgotten_removals_ask_for_everything(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let mut versions = Vec::new();
    for number in 0..=MAX_TOMBSTONES {
        let contact = format!("{number}@localhost");
        put(&storage, &ann, named(&contact, "x")).await.unwrap();
        versions.push(remove(&storage, &ann, &contact).await.version);
    }

    // The oldest removal is forgotten: who has seen it has missed nothing, who has not must ask.
    let known = storage
        .roster_changes_since(&ann, versions[0])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known.len(), MAX_TOMBSTONES as usize);
    assert!(known.iter().all(|change| change.item.is_none()));
    assert_eq!(
        storage
            .roster_changes_since(&ann, versions[0] - 1)
            .await
            .unwrap(),
        None
    );
    assert!(storage.roster(&ann).await.unwrap().items.is_empty());
}

pub(crate) async fn a_roster_has_a_limit(place: Place) {
    let storage = place
        .open_with(Options {
            max_roster_items: 2,
            ..Options::default()
        })
        .await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    put(&storage, &ann, named("a@d", "A")).await.unwrap();
    let second = put(&storage, &ann, named("b@d", "B")).await.unwrap();

    let third = put(&storage, &ann, named("c@d", "C")).await;
    assert!(
        matches!(third, Err(Error::Full { limit: 2, .. })),
        "{third:?}"
    );
    let roster = storage.roster(&ann).await.unwrap();
    assert_eq!((roster.items.len(), roster.version), (2, second.version));
    // Changing what is there is no new item, and removing one makes room.
    put(&storage, &ann, named("b@d", "Bea")).await.unwrap();
    remove(&storage, &ann, "a@d").await;
    put(&storage, &ann, named("c@d", "C")).await.unwrap();
}

pub(crate) async fn requests_of_strangers_have_a_limit_of_their_own(place: Place) {
    let options = Options {
        max_roster_items: 1,
        max_pending_requests: 2,
        ..Options::default()
    };
    let storage = place.open_with(options).await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let request = |contact: &str| RosterItem {
        pending_in: Some("<presence/>".to_owned()),
        ..RosterItem::new(bare(contact))
    };
    put(&storage, &ann, request("a@d")).await.unwrap();
    put(&storage, &ann, request("b@d")).await.unwrap();

    assert!(matches!(
        put(&storage, &ann, request("c@d")).await,
        Err(Error::Full { .. })
    ));
    put(&storage, &ann, named("friend@d", "F")).await.unwrap();
    // Accepting a request makes it an item.
    let accepted = RosterItem {
        name: Some("A".to_owned()),
        ..request("a@d")
    };
    assert!(matches!(
        put(&storage, &ann, accepted.clone()).await,
        Err(Error::Full { .. })
    ));
    remove(&storage, &ann, "friend@d").await;
    put(&storage, &ann, accepted).await.unwrap();
    put(&storage, &ann, request("c@d")).await.unwrap();
}

/// Appends a letter to the contact's name.
async fn grow(storage: &Arc<dyn Storage>, account: &BareJid, contact: &BareJid) {
    let owned = contact.clone();
    let grow = move |item: Option<&RosterItem>| {
        let mut item = item.cloned().unwrap_or_else(|| RosterItem::new(owned));
        item.name.get_or_insert_default().push('x');
        RosterDecision::Put(item)
    };
    storage
        .update_roster(account, contact, Box::new(grow))
        .await
        .unwrap();
}

async fn race(first: Arc<dyn Storage>, second: Arc<dyn Storage>) {
    let ann = bare("ann@localhost");
    add(&first, &["ann"]).await;
    let start = first.roster(&ann).await.unwrap().version;
    let contacts = [bare("bob@localhost"), bare("cat@localhost")];

    let mut updates = Vec::new();
    for _ in 0..50 {
        for contact in &contacts {
            updates.push(grow(&first, &ann, contact));
            updates.push(grow(&second, &ann, contact));
        }
    }
    join_all(updates).await;

    let roster = first.roster(&ann).await.unwrap();
    for item in &roster.items {
        assert_eq!(item.name.as_ref().unwrap().len(), 100, "{}", item.jid);
    }
    assert_eq!(roster.items.len(), 2);
    assert_eq!(roster.version, start + 200);
}

pub(crate) async fn updates_race_and_none_is_lost(place: Place) {
    let storage = place.open().await;
    race(storage.clone(), storage).await;
}

pub(crate) async fn updates_of_two_processes_race_and_none_is_lost(place: Place) {
    race(place.open().await, place.open().await).await;
}

pub(crate) async fn a_panicking_update_harms_nobody_else(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let bob = bare("bob@localhost");

    let panics = storage.update_roster(&ann, &bob, Box::new(|_| panic!("on purpose")));
    let (panicked, put) = tokio::join!(panics, put(&storage, &ann, named("cat@d", "Cat")));

    assert!(
        matches!(panicked, Err(Error::Unavailable(_))),
        "{panicked:?}"
    );
    put.unwrap();
    assert_eq!(
        storage.roster(&ann).await.unwrap().items,
        [named("cat@d", "Cat")]
    );
}

pub(crate) async fn an_update_without_account_is_refused(place: Place) {
    let storage = place.open().await;
    let update = put(&storage, &bare("nobody@localhost"), named("a@d", "A")).await;
    assert!(matches!(update, Err(Error::NoAccount)), "{update:?}");
}
