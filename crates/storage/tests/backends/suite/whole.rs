//! Accounts as a whole, and what is left of a deleted one.

use rookery_proto::{
    credentials::{Credentials, ScramKeys},
    roster::{RosterItem, Subscription},
};
use rookery_storage::{
    ArchiveAnswer, ArchiveDefault, ArchivePreferences, ArchiveQuery, Error, NewMessage, Page,
    Pending, PrivateElement, RosterDecision, WholeAccount,
};

use super::{Place, add, append, at, bare, chat, copy, credentials, jid, undelivered};

fn whole(account: &str) -> WholeAccount {
    let item = |contact: &str| RosterItem::new(bare(contact));
    let element = |name: &str| PrivateElement {
        name: name.to_owned(),
        ns: "x".to_owned(),
        xml: format!("<{name} xmlns='x'/>"),
    };
    WholeAccount {
        jid: bare(account),
        log_of: None,
        credentials: credentials(7),
        roster: vec![
            RosterItem {
                name: Some("Bob".to_owned()),
                subscription: Subscription::Both,
                groups: vec!["a".to_owned(), "b".to_owned()],
                ..item("bob@localhost")
            },
            RosterItem {
                pending_in: Some("<presence/>".to_owned()),
                ..item("cat@localhost")
            },
            RosterItem {
                ask: true,
                approved: true,
                ..item("dan@localhost")
            },
        ],
        blocked: vec![jid("bad@y"), jid("y")],
        vcard: Some("<vCard/>".to_owned()),
        private: vec![element("a"), element("b")],
        last: Some((at(3), "gone".to_owned())),
        preferences: ArchivePreferences {
            default: ArchiveDefault::Roster,
            always: vec![jid("a@x")],
            never: vec![jid("b@x")],
        },
    }
}

/// That `account` is what [`whole`] makes.
async fn is_whole(storage: &dyn rookery_storage::Storage, account: &str) {
    let expected = whole(account);
    let account = &expected.jid;
    assert_eq!(
        storage.credentials(account).await.unwrap(),
        Some(expected.credentials)
    );
    let roster = storage.roster(account).await.unwrap();
    assert_eq!(roster.items, expected.roster);
    let changes = storage
        .roster_changes_since(account, roster.version - 3)
        .await
        .unwrap();
    assert_eq!(changes.map(|changes| changes.len()), Some(3));
    assert_eq!(storage.blocked(account).await.unwrap(), expected.blocked);
    assert_eq!(storage.vcard(account).await.unwrap(), expected.vcard);
    assert_eq!(
        storage.all_private(account).await.unwrap(),
        expected.private
    );
    assert_eq!(storage.last(account).await.unwrap(), expected.last);
    assert_eq!(
        storage.archive_preferences(account).await.unwrap(),
        expected.preferences
    );
}

fn everything() -> ArchiveQuery {
    ArchiveQuery {
        with: None,
        start: None,
        end: None,
        after_id: None,
        before_id: None,
        ids: Vec::new(),
        page: Page::First,
        max: 100,
    }
}

async fn archived(storage: &dyn rookery_storage::Storage, account: &str) -> Vec<String> {
    match storage
        .archive(&bare(account), &everything())
        .await
        .unwrap()
    {
        ArchiveAnswer::Page(page) => page.entries.into_iter().map(|e| e.stanza).collect(),
        ArchiveAnswer::NotFound => panic!("no page"),
    }
}

pub(crate) async fn accounts_are_put_with_all_that_is_theirs(place: Place) {
    let storage = place.open().await;
    let names = ["ann@localhost", "bob@localhost", "ann@example.org"];
    let accounts = names.map(whole).to_vec();
    assert_eq!(storage.put_accounts(accounts, false).await.unwrap(), 0);
    for name in names {
        is_whole(&*storage, name).await;
    }
    let ann = bare("ann@localhost");
    assert!(
        storage
            .all_private(&bare("nobody@x"))
            .await
            .unwrap()
            .is_empty()
    );
    // And they are accounts like others.
    append(&storage, chat("bob@localhost/r", "ann@localhost/r", "hi")).await;
    assert_eq!(undelivered(&storage, &ann).await.len(), 1);
    assert_eq!(archived(&*storage, "ann@localhost").await, ["hi"]);
    let put = |_: Option<&RosterItem>| RosterDecision::Put(RosterItem::new(bare("new@x")));
    storage
        .update_roster(&ann, &bare("new@x"), Box::new(put))
        .await
        .unwrap();
    let others = storage.accounts("localhost", None, 10).await.unwrap();
    assert_eq!(others, [bare("ann@localhost"), bare("bob@localhost")]);
}

pub(crate) async fn one_that_exists_keeps_all_from_being_put(place: Place) {
    let storage = place.open().await;
    add(&storage, &["bob"]).await;
    let accounts = vec![whole("ann@localhost"), whole("bob@localhost")];
    let refused = storage.put_accounts(accounts.clone(), false).await;
    assert!(matches!(refused, Err(Error::Exists)), "{refused:?}");
    assert!(!storage.exists(&bare("ann@localhost")).await.unwrap());
    let bob = bare("bob@localhost");
    assert_eq!(
        storage.credentials(&bob).await.unwrap(),
        Some(credentials(1))
    );
    assert!(storage.roster(&bob).await.unwrap().items.is_empty());
    let nobody = WholeAccount {
        log_of: Some(bare("nobody@x")),
        ..whole("ann@localhost")
    };
    let refused = storage.put_accounts(vec![nobody], true).await;
    assert!(matches!(refused, Err(Error::NoAccount)), "{refused:?}");

    // The old one goes with all that was its own.
    let version = storage.roster(&bob).await.unwrap().version;
    append(&storage, chat("cat@x/r", "bob@localhost/r", "old")).await;
    assert_eq!(storage.put_accounts(accounts, true).await.unwrap(), 1);
    is_whole(&*storage, "bob@localhost").await;
    assert!(archived(&*storage, "bob@localhost").await.is_empty());
    assert!(storage.roster(&bob).await.unwrap().version > version);
}

pub(crate) async fn an_account_takes_over_the_log_of_another(place: Place) {
    let storage = place.open().await;
    let [unfinished, ann] = [bare("1@import.invalid"), bare("ann@localhost")];
    let none = Credentials {
        scram_sha1: ScramKeys::missing(),
        scram_sha256: ScramKeys::missing(),
    };
    add(&storage, &["ann"]).await;
    append(&storage, chat("cat@x/r", "ann@localhost/r", "old")).await;
    storage.create(&unfinished, &none).await.unwrap();
    assert_eq!(storage.credentials(&unfinished).await.unwrap(), Some(none));
    let message = |number: u64, pending| NewMessage {
        at: at(number),
        stanza: number.to_string().into(),
        recipient: Some(copy("1@import.invalid", "bob@x/r", true, pending)),
        sender: None,
    };
    let messages = (0..5)
        .map(|n| message(n, if n < 3 { Pending::No } else { Pending::Offline }))
        .collect();
    storage.append(messages, usize::MAX).await.unwrap();
    let account = WholeAccount {
        log_of: Some(unfinished.clone()),
        ..whole("ann@localhost")
    };
    assert_eq!(storage.put_accounts(vec![account], true).await.unwrap(), 1);

    is_whole(&*storage, "ann@localhost").await;
    assert!(!storage.exists(&unfinished).await.unwrap());
    assert_eq!(
        archived(&*storage, "ann@localhost").await,
        ["0", "1", "2", "3", "4"]
    );
    let waiting = undelivered(&storage, &ann).await;
    let waiting: Vec<_> = waiting.iter().map(|e| (e.at, &*e.stanza)).collect();
    assert_eq!(waiting, [(at(3), "3"), (at(4), "4")]);
    // What comes now comes after it.
    append(&storage, chat("cat@x/r", "ann@localhost/r", "new")).await;
    assert_eq!(undelivered(&storage, &ann).await.len(), 3);
}

/// What others have of conversations with the account is theirs.
pub(crate) async fn nothing_is_left_of_a_deleted_account(place: Place) {
    let storage = place.open().await;
    let deleted = "deleted@localhost";
    storage
        .put_accounts(vec![whole(deleted), whole("cat@localhost")], false)
        .await
        .unwrap();
    // Made by use, and not by an import.
    let account = bare(deleted);
    for contact in ["one@x", "two@x"] {
        let item = RosterItem::new(bare(contact));
        let put = move |_: Option<&RosterItem>| RosterDecision::Put(item);
        storage
            .update_roster(&account, &bare(contact), Box::new(put))
            .await
            .unwrap();
    }
    let gone = |_: Option<&RosterItem>| RosterDecision::Remove;
    storage
        .update_roster(&account, &bare("one@x"), Box::new(gone))
        .await
        .unwrap();
    storage
        .set_private(&account, "n", "x", "<n from='deleted@localhost'/>")
        .await
        .unwrap();
    for number in 0..3 {
        let stanza = format!("<message from='{deleted}'>{number}</message>");
        append(&storage, chat("far@away/r", "deleted@localhost/r", &stanza)).await;
        let sent = NewMessage {
            recipient: None,
            ..chat("deleted@localhost/r", "far@away/r", &stanza)
        };
        storage.append(vec![sent], 100).await.unwrap();
    }
    let number = |texts: Vec<String>| texts.iter().filter(|t| t.contains("deleted@")).count();
    assert!(number(place.every_row().await) > 3);

    assert!(storage.delete(&account).await.unwrap());
    assert_eq!(number(place.every_row().await), 0);

    // A conversation with somebody here stays with that one only.
    storage
        .put_accounts(vec![whole(deleted)], false)
        .await
        .unwrap();
    let both = chat("deleted@localhost/r", "cat@localhost/r", "kept");
    let both = NewMessage {
        recipient: Some(copy(
            "cat@localhost",
            "deleted@localhost/r",
            true,
            Pending::No,
        )),
        sender: Some(copy(deleted, "cat@localhost/r", true, Pending::No)),
        ..both
    };
    // `whole` archives contacts only.
    let always = ArchivePreferences::default();
    for name in [deleted, "cat@localhost"] {
        let name = bare(name);
        let set = storage.set_archive_preferences(&name, &always);
        assert!(set.await.unwrap());
    }
    storage.append(vec![both], 100).await.unwrap();
    assert!(storage.delete(&account).await.unwrap());
    assert_eq!(archived(&*storage, "cat@localhost").await, ["kept"]);
    assert_eq!(number(place.every_row().await), 1);
    storage.delete(&bare("cat@localhost")).await.unwrap();
    assert_eq!(number(place.every_row().await), 0);
}
