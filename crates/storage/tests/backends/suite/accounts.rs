//! Accounts.

use std::time::SystemTime;

use rookery_proto::roster::RosterItem;
use rookery_storage::{ArchiveDefault, ArchivePreferences, Error, Refused, RosterDecision};

use super::{Place, add, append, archive, bare, chat, credentials, jid, offline, stanzas};

pub(crate) async fn an_account_is_created_once(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");

    assert!(!storage.exists(&ann).await.unwrap());
    storage.create(&ann, &credentials(1)).await.unwrap();

    assert!(storage.exists(&ann).await.unwrap());
    let again = storage.create(&ann, &credentials(2)).await;
    assert!(matches!(again, Err(Error::Exists)), "{again:?}");
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
}

pub(crate) async fn credentials_read_back_as_they_were_set(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");

    assert_eq!(storage.credentials(&ann).await.unwrap(), None);
    assert!(
        !storage
            .set_credentials(&ann, &credentials(1))
            .await
            .unwrap()
    );
    storage.create(&ann, &credentials(1)).await.unwrap();
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
    assert!(
        storage
            .set_credentials(&ann, &credentials(255))
            .await
            .unwrap()
    );
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(255))
    );
}

pub(crate) async fn accounts_without_a_login_are_found(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann", "bob", "cat", "dan"]).await;
    let [ann, bob, cat, dan, eve] =
        ["ann", "bob", "cat", "dan", "eve"].map(|name| bare(&format!("{name}@localhost")));
    for (account, disabled) in [(&bob, true), (&cat, true), (&cat, false)] {
        assert!(storage.set_disabled(account, disabled).await.unwrap());
    }
    storage.delete(&dan).await.unwrap();
    let asked = [ann, bob.clone(), cat, dan.clone(), eve.clone()];
    assert_eq!(storage.barred(&asked).await.unwrap(), [bob, dan, eve]);
    assert!(storage.barred(&[]).await.unwrap().is_empty());
}

pub(crate) async fn a_disabled_account_keeps_what_is_its_own(place: Place) {
    let storage = place.open().await;
    add(&storage, &["ann", "bob", "cat"]).await;
    let ann = bare("ann@localhost");
    let is_disabled = async || {
        let keys = storage.login_keys(&ann).await.unwrap().unwrap();
        assert_eq!(keys.credentials, credentials(1));
        keys.is_disabled
    };
    let disabled = async |after| {
        let page = storage.disabled_accounts("localhost", after, 2).await;
        page.unwrap()
    };
    assert!(!is_disabled().await);
    assert!(disabled(None).await.is_empty());
    for _ in 0..2 {
        assert!(storage.set_disabled(&ann, true).await.unwrap());
    }
    assert!(is_disabled().await);
    assert!(storage.exists(&ann).await.unwrap());
    append(&storage, offline("ann@localhost", "kept")).await;

    // A new password changes nothing about it.
    let same = credentials(1);
    assert!(storage.set_credentials(&ann, &same).await.unwrap());
    assert!(is_disabled().await);
    let cat = bare("cat@localhost");
    assert!(storage.set_disabled(&cat, true).await.unwrap());
    assert_eq!(disabled(None).await, [ann.clone(), cat.clone()]);
    assert_eq!(disabled(Some("ann@localhost")).await, [cat]);
    let elsewhere = storage.disabled_accounts("example.org", None, 2).await;
    assert!(elsewhere.unwrap().is_empty());

    assert!(storage.set_disabled(&ann, false).await.unwrap());
    assert!(!is_disabled().await);
    let entries = super::undelivered(&storage, &ann).await;
    assert_eq!(stanzas(&entries), ["kept"]);
    // Who comes after somebody of the same name is somebody else.
    assert!(storage.set_disabled(&ann, true).await.unwrap());
    assert!(storage.delete(&ann).await.unwrap());
    assert!(!storage.set_disabled(&ann, true).await.unwrap());
    assert_eq!(storage.login_keys(&ann).await.unwrap(), None);
    add(&storage, &["ann"]).await;
    assert!(!is_disabled().await);
}

pub(crate) async fn a_change_by_another_process_is_seen_by_the_next_read(place: Place) {
    let server = place.open().await;
    let command_line = place.open().await;
    let ann = bare("ann@localhost");

    assert!(!server.exists(&ann).await.unwrap());
    command_line.create(&ann, &credentials(1)).await.unwrap();
    assert_eq!(
        server.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
    command_line
        .set_credentials(&ann, &credentials(2))
        .await
        .unwrap();
    assert_eq!(
        server.credentials(&ann).await.unwrap(),
        Some(credentials(2))
    );
    command_line.delete(&ann).await.unwrap();
    assert_eq!(server.credentials(&ann).await.unwrap(), None);
}

pub(crate) async fn accounts_are_listed_in_pages_by_domain(place: Place) {
    let storage = place.open().await;
    for name in [
        "cat@localhost",
        "ann@localhost",
        "éva@localhost",
        "bob@example.org",
    ] {
        storage.create(&bare(name), &credentials(1)).await.unwrap();
    }

    let all = storage.accounts("localhost", None, 10).await.unwrap();
    assert_eq!(
        all,
        [
            bare("ann@localhost"),
            bare("cat@localhost"),
            bare("éva@localhost")
        ]
    );
    let first = storage.accounts("localhost", None, 2).await.unwrap();
    assert_eq!(first, all[..2]);
    let second = storage
        .accounts("localhost", Some("cat@localhost"), 2)
        .await
        .unwrap();
    assert_eq!(second, all[2..]);
    assert_eq!(
        storage.accounts("localhost", Some("b"), 1).await.unwrap(),
        all[1..2]
    );
    assert!(
        storage
            .accounts("nowhere", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn deleting_an_account_removes_everything(place: Place) {
    let storage = place.open().await;
    let (ann, bob) = (bare("ann@localhost"), bare("bob@localhost"));
    add(&storage, &["ann", "bob"]).await;
    for account in [&ann, &bob] {
        append(&storage, offline(account.as_str(), "<message/>")).await;
        let preferences = ArchivePreferences {
            default: ArchiveDefault::Roster,
            always: vec![jid("c@d"), ann.clone().into(), bob.clone().into()],
            never: vec![jid("e@d")],
        };
        let set = storage.set_archive_preferences(account, &preferences);
        assert!(set.await.unwrap());
        let put = |_: Option<&RosterItem>| RosterDecision::Put(RosterItem::new(bare("c@d")));
        storage
            .update_roster(account, &bare("c@d"), Box::new(put))
            .await
            .unwrap();
        storage.block(account, &[jid("c@d")]).await.unwrap();
        storage.set_vcard(account, "<vCard/>").await.unwrap();
        storage
            .set_private(account, "a", "b", "<a xmlns='b'/>")
            .await
            .unwrap();
        storage
            .set_last(account, SystemTime::now(), "bye")
            .await
            .unwrap();
    }

    append(&storage, chat("ann@localhost/x", "bob@localhost", "to bob")).await;
    append(&storage, chat("bob@localhost/x", "ann@localhost", "to ann")).await;
    assert_eq!(archive::all(&storage, &ann).await.len(), 2);

    assert!(storage.delete(&ann).await.unwrap());
    assert!(!storage.delete(&ann).await.unwrap());

    for round in 0..2 {
        assert_eq!(storage.undelivered_count(&ann).await.unwrap(), 0);
        assert!(
            storage
                .undelivered(&ann, None, 10)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(archive::all(&storage, &ann).await, []);
        assert_eq!(storage.archive_bounds(&ann).await.unwrap(), None);
        assert_eq!(
            storage.archive_preferences(&ann).await.unwrap(),
            ArchivePreferences::default()
        );
        assert!(storage.roster(&ann).await.unwrap().items.is_empty());
        assert_eq!(storage.roster_item(&ann, &bare("c@d")).await.unwrap(), None);
        assert!(storage.blocked(&ann).await.unwrap().is_empty());
        assert_eq!(storage.vcard(&ann).await.unwrap(), None);
        assert_eq!(storage.private(&ann, "a", "b").await.unwrap(), None);
        assert_eq!(storage.last(&ann).await.unwrap(), None);
        if round == 0 {
            // And nothing can be added to what is gone.
            assert!(matches!(
                storage.set_vcard(&ann, "x").await,
                Err(Error::NoAccount)
            ));
            let last = storage.set_last(&ann, SystemTime::now(), "x").await;
            assert!(matches!(last, Err(Error::NoAccount)));
            let private = storage.set_private(&ann, "a", "b", "x").await;
            assert!(matches!(private, Err(Error::NoAccount)));
            assert!(matches!(
                storage.block(&ann, &[jid("c@d")]).await,
                Err(Error::NoAccount)
            ));
            assert!(storage.unblock(&ann, None).await.unwrap().is_empty());
            let preferences = ArchivePreferences::default();
            let set = storage.set_archive_preferences(&ann, &preferences);
            assert!(!set.await.unwrap());
            let message = offline("ann@localhost", "x");
            let appended = storage.append(vec![message], 10).await.unwrap();
            assert_eq!(appended, [Err(Refused::NoAccount)]);
            // Then nothing of the old account shows up in a new one.
            add(&storage, &["ann"]).await;
        }
    }

    // What she wrote to others, and they to her, stays theirs.
    assert_eq!(
        stanzas(&archive::all(&storage, &bob).await),
        ["to bob", "to ann"]
    );
    assert_eq!(storage.undelivered_count(&bob).await.unwrap(), 2);
    assert_eq!(storage.roster(&bob).await.unwrap().items.len(), 1);
    assert_eq!(storage.blocked(&bob).await.unwrap().len(), 1);
    assert!(storage.vcard(&bob).await.unwrap().is_some());
    assert!(storage.private(&bob, "a", "b").await.unwrap().is_some());
    assert!(storage.last(&bob).await.unwrap().is_some());
}

pub(crate) async fn an_account_created_again_starts_empty_and_above_the_old_numbers(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let old_version = storage.roster(&ann).await.unwrap().version;
    let old_id = append(&storage, offline("ann@localhost", "old")).await;
    storage.delete(&ann).await.unwrap();
    add(&storage, &["ann"]).await;

    assert!(storage.roster(&ann).await.unwrap().version > old_version);
    assert!(
        storage
            .roster_changes_since(&ann, old_version)
            .await
            .unwrap()
            .is_none()
    );
    let new_id = append(&storage, offline("ann@localhost", "new")).await;
    assert!(new_id > old_id, "{new_id} after {old_id}");
}
