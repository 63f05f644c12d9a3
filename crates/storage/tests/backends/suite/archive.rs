//! Archives: queries, preferences, retention.

use std::{sync::Arc, time::SystemTime};

use rookery_proto::{
    jid::BareJid,
    roster::{RosterItem, Subscription},
};
use rookery_storage::{
    ArchiveAnswer, ArchiveBounds, ArchiveDefault, ArchivePage, ArchivePreferences, ArchiveQuery,
    Entry, EntryId, NewMessage, Page, RosterDecision, Storage,
};

use super::{Place, add, append, at, bare, chat, jid, mark, offline, stanzas, undelivered};

/// Everything, from the beginning.
pub(crate) fn query() -> ArchiveQuery {
    ArchiveQuery {
        with: None,
        start: None,
        end: None,
        after_id: None,
        before_id: None,
        ids: Vec::new(),
        page: Page::First,
        max: 1_000_000,
    }
}

/// All that an account's archive has.
pub(crate) async fn all(storage: &Arc<dyn Storage>, account: &BareJid) -> Vec<Entry> {
    page(storage, account, query()).await.entries
}

async fn page(storage: &Arc<dyn Storage>, account: &BareJid, query: ArchiveQuery) -> ArchivePage {
    match storage.archive(account, &query).await.unwrap() {
        ArchiveAnswer::Page(page) => page,
        ArchiveAnswer::NotFound => panic!("{query:?} names an id that is not there"),
    }
}

async fn found(storage: &Arc<dyn Storage>, account: &BareJid, query: ArchiveQuery) -> Vec<String> {
    let page = page(storage, account, query.clone()).await;
    assert!(page.complete);
    // Backwards it is the same.
    let backwards = match query.page {
        Page::First => Page::Last,
        other => other,
    };
    let query = ArchiveQuery {
        page: backwards,
        ..query
    };
    assert_eq!(
        self::page(storage, account, query).await.entries,
        page.entries
    );
    page.entries.into_iter().map(|entry| entry.stanza).collect()
}

/// A message from Bob in Ann's archive.
pub(super) fn from_bob(stanza: &str, at: SystemTime) -> NewMessage {
    NewMessage {
        at,
        ..chat("bob@localhost/desk", "ann@localhost", stanza)
    }
}

/// An archive of Ann with messages from Bob, named by their numbers; all are delivered.
pub(super) async fn with_messages(
    place: &Place,
    count: u64,
) -> (Arc<dyn Storage>, BareJid, Vec<EntryId>) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let messages = (0..count)
        .map(|number| from_bob(&number.to_string(), at(number)))
        .collect();
    let stored = storage.append(messages, 10).await.unwrap();
    let ids: Vec<EntryId> = stored
        .iter()
        .map(|stored| stored.unwrap().recipient.unwrap().id)
        .collect();
    mark(&storage, &ann, &ids).await;
    (storage, ann, ids)
}

pub(crate) async fn an_archive_is_read_in_pages_both_ways(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 5).await;
    let read = async |page, max| {
        let query = ArchiveQuery {
            page,
            max,
            ..query()
        };
        self::page(&storage, &ann, query).await
    };

    let first = read(Page::First, 2).await;
    assert_eq!(stanzas(&first.entries), ["0", "1"]);
    assert!(!first.complete);
    assert_eq!((first.count, first.index), (None, None));
    let entry = &first.entries[1];
    assert_eq!((entry.id, entry.at, entry.archived), (ids[1], at(1), true));
    assert_eq!(entry.peer, jid("bob@localhost/desk"));
    let second = read(Page::After(ids[1]), 2).await;
    assert_eq!(stanzas(&second.entries), ["2", "3"]);
    assert!(!second.complete);
    let third = read(Page::After(ids[3]), 2).await;
    assert_eq!(stanzas(&third.entries), ["4"]);
    assert!(third.complete);
    let nothing = read(Page::After(ids[4]), 2).await;
    assert!(nothing.entries.is_empty() && nothing.complete);

    let last = read(Page::Last, 2).await;
    assert_eq!(stanzas(&last.entries), ["3", "4"]);
    assert!(!last.complete);
    let before = read(Page::Before(ids[3]), 3).await;
    assert_eq!(stanzas(&before.entries), ["0", "1", "2"]);
    assert!(before.complete);
    let nothing = read(Page::Before(ids[0]), 2).await;
    assert!(nothing.entries.is_empty() && nothing.complete);

    for page in [Page::First, Page::Last] {
        let whole = read(page, 5).await;
        assert!(whole.complete);
        assert_eq!((whole.count, whole.index), (Some(5), Some(0)));
        let none = read(page, 0).await;
        assert!(none.entries.is_empty() && !none.complete);
    }
}

pub(crate) async fn pages_of_a_growing_archive_miss_nothing(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let ann = bare("ann@localhost");
    add(&nodes[0], &["ann", "bob"]).await;
    // Clocks that differ by minutes.
    let write = futures_util::future::join_all((0..300).map(|number: usize| {
        let storage = nodes[number % 2].clone();
        let at = at(1000 * (number as u64 % 2) + number as u64);
        async move { append(&storage, from_bob(&number.to_string(), at)).await }
    }));
    let read = async {
        let (mut last, mut seen) = (None, Vec::new());
        while seen.len() < 300 {
            let query = ArchiveQuery {
                page: last.map_or(Page::First, Page::After),
                max: 50,
                ..query()
            };
            for entry in page(&nodes[0], &ann, query).await.entries {
                last = Some(entry.id);
                seen.push(entry.stanza.parse::<u32>().unwrap());
            }
            tokio::task::yield_now().await;
        }
        seen
    };
    let both = async { tokio::join!(write, read) };
    let (_, mut seen) = tokio::time::timeout(std::time::Duration::from_secs(30), both)
        .await
        .expect("a page missed an entry");
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..300));
}

pub(crate) async fn with_a_bare_jid_finds_all_resources_and_a_full_one_itself(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    for (from, to) in [
        ("bob@localhost/desk", "ann@localhost"),
        ("bob@localhost/phone", "ann@localhost"),
        ("ann@localhost/desk", "bob@localhost"),
        ("ann@localhost/desk", "bob@localhost/desk"),
        ("bobby@localhost/desk", "ann@localhost"),
        ("ann@localhost/desk", "ann@localhost/phone"),
        ("ann@localhost/desk", "localhost"),
    ] {
        let mut message = chat(from, to, &format!("{from} {to}"));
        if to != "ann@localhost" {
            message.recipient = None;
        }
        storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    }
    let with = async |who: &str| {
        let query = ArchiveQuery {
            with: Some(jid(who)),
            ..query()
        };
        found(&storage, &ann, query).await
    };

    assert_eq!(
        with("bob@localhost").await,
        [
            "bob@localhost/desk ann@localhost",
            "bob@localhost/phone ann@localhost",
            "ann@localhost/desk bob@localhost",
            "ann@localhost/desk bob@localhost/desk",
        ]
    );
    assert_eq!(
        with("bob@localhost/desk").await,
        [
            "bob@localhost/desk ann@localhost",
            "ann@localhost/desk bob@localhost/desk",
        ]
    );
    // XEP-0313 §4.1.1: with oneself are only messages to oneself.
    assert_eq!(
        with("ann@localhost").await,
        ["ann@localhost/desk ann@localhost/phone"]
    );
    assert_eq!(with("localhost").await, ["ann@localhost/desk localhost"]);
    assert!(with("nobody@localhost").await.is_empty());
    // Pages count what meets the condition.
    let query = ArchiveQuery {
        with: Some(jid("bob@localhost")),
        page: Page::Last,
        max: 1,
        ..query()
    };
    let last = page(&storage, &ann, query).await;
    assert_eq!(
        stanzas(&last.entries),
        ["ann@localhost/desk bob@localhost/desk"]
    );
    assert!(!last.complete);
}

pub(crate) async fn start_and_end_are_inclusive(place: Place) {
    let (storage, ann, _) = with_messages(&place, 100).await;
    let between = async |start: Option<u64>, end: Option<u64>| {
        let query = ArchiveQuery {
            start: start.map(at),
            end: end.map(at),
            ..query()
        };
        found(&storage, &ann, query).await
    };
    let numbers =
        |range: std::ops::Range<u64>| range.map(|number| number.to_string()).collect::<Vec<_>>();
    assert_eq!(between(Some(98), None).await, ["98", "99"]);
    assert_eq!(between(None, Some(1)).await, ["0", "1"]);
    assert_eq!(between(Some(50), Some(50)).await, ["50"]);
    assert_eq!(between(Some(37), Some(63)).await, numbers(37..64));
    assert_eq!(between(Some(0), Some(99)).await, numbers(0..100));
    assert!(between(Some(100), None).await.is_empty());
    assert!(between(Some(60), Some(59)).await.is_empty());
}

pub(crate) async fn times_that_are_out_of_order_are_found(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    // Two clocks, ten minutes apart, and one entry of a third.
    let times: Vec<u64> = (0..200)
        .map(|number| match number {
            70 => 100_000,
            _ => 1000 + number + 600 * (number % 2),
        })
        .collect();
    for chunk in times.chunks(50) {
        let messages = chunk
            .iter()
            .map(|seconds| from_bob(&seconds.to_string(), at(*seconds)))
            .collect();
        storage.append(messages, 10).await.unwrap();
    }

    for (start, end) in [(0, 999), (1100, 1150), (1650, 1700), (1790, 99_999)] {
        for storage in [&storage, &place.open().await] {
            let query = ArchiveQuery {
                start: Some(at(start)),
                end: Some(at(end)),
                ..query()
            };
            let expected: Vec<String> = times
                .iter()
                .filter(|time| (start..=end).contains(time))
                .map(ToString::to_string)
                .collect();
            assert_eq!(found(storage, &ann, query).await, expected);
        }
    }
}

pub(crate) async fn a_range_of_ids_is_exclusive(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 6).await;
    let within = async |after_id, before_id, page| {
        let query = ArchiveQuery {
            after_id,
            before_id,
            page,
            ..query()
        };
        found(&storage, &ann, query).await
    };
    assert_eq!(
        within(Some(ids[1]), Some(ids[4]), Page::First).await,
        ["2", "3"]
    );
    assert_eq!(within(Some(ids[4]), None, Page::First).await, ["5"]);
    assert_eq!(within(None, Some(ids[1]), Page::First).await, ["0"]);
    // Pages lie within it.
    let page = Page::After(ids[2]);
    assert_eq!(within(Some(ids[1]), Some(ids[4]), page).await, ["3"]);
    let page = Page::Before(ids[3]);
    assert_eq!(within(Some(ids[1]), Some(ids[4]), page).await, ["2"]);
    let page = Page::Before(ids[5]);
    assert_eq!(within(Some(ids[1]), Some(ids[4]), page).await, ["2", "3"]);
}

pub(crate) async fn single_entries_are_read_by_their_ids(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 6).await;
    let query = ArchiveQuery {
        ids: vec![ids[4], ids[1], ids[3], ids[4]],
        ..query()
    };
    assert_eq!(found(&storage, &ann, query.clone()).await, ["1", "3", "4"]);
    let paged = ArchiveQuery {
        page: Page::Last,
        max: 2,
        ..query.clone()
    };
    let paged = page(&storage, &ann, paged).await;
    assert_eq!(stanzas(&paged.entries), ["3", "4"]);
    assert!(!paged.complete);
    let narrowed = ArchiveQuery {
        start: Some(at(3)),
        before_id: Some(ids[4]),
        ..query
    };
    assert_eq!(found(&storage, &ann, narrowed).await, ["3"]);
}

pub(crate) async fn an_unknown_id_is_told(place: Place) {
    let (storage, ann, ids) = with_messages(&place, 3).await;
    // Pending, and in no archive.
    let other = append(&storage, offline("ann@localhost", "x")).await;
    for id in [EntryId(ids[2].0 + 1000), EntryId(u64::MAX), other] {
        let queries = [
            ArchiveQuery {
                after_id: Some(id),
                ..query()
            },
            ArchiveQuery {
                before_id: Some(id),
                ..query()
            },
            ArchiveQuery {
                page: Page::After(id),
                ..query()
            },
            ArchiveQuery {
                page: Page::Before(id),
                ..query()
            },
            ArchiveQuery {
                ids: vec![ids[0], id],
                ..query()
            },
        ];
        for query in queries {
            let answer = storage.archive(&ann, &query).await.unwrap();
            assert_eq!(answer, ArchiveAnswer::NotFound, "{query:?}");
        }
    }
}

pub(crate) async fn only_archived_entries_are_found(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    append(&storage, offline("ann@localhost", "pending")).await;
    append(&storage, from_bob("archived", at(0))).await;
    append(&storage, offline("ann@localhost", "pending")).await;

    assert_eq!(found(&storage, &ann, query()).await, ["archived"]);
    let query = ArchiveQuery {
        with: Some(jid("bob@example.org")),
        start: Some(at(0)),
        end: Some(at(0)),
        ..query()
    };
    assert!(found(&storage, &ann, query).await.is_empty());
}

pub(crate) async fn an_archive_has_bounds(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    append(&storage, offline("ann@localhost", "pending")).await;
    assert_eq!(storage.archive_bounds(&ann).await.unwrap(), None);

    let first = append(&storage, from_bob("1", at(1))).await;
    let bounds = ArchiveBounds {
        first: (first, at(1)),
        last: (first, at(1)),
    };
    assert_eq!(storage.archive_bounds(&ann).await.unwrap(), Some(bounds));
    append(&storage, from_bob("2", at(2))).await;
    let last = append(&storage, from_bob("3", at(3))).await;
    append(&storage, offline("ann@localhost", "pending")).await;
    let bounds = ArchiveBounds {
        last: (last, at(3)),
        ..bounds
    };
    assert_eq!(storage.archive_bounds(&ann).await.unwrap(), Some(bounds));
}

pub(crate) async fn preferences_read_back_and_decide(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    assert_eq!(
        storage.archive_preferences(&ann).await.unwrap(),
        ArchivePreferences::default()
    );
    append(&storage, from_bob("before", at(0))).await;

    let preferences = ArchivePreferences {
        default: ArchiveDefault::Never,
        always: vec![jid("bob@localhost/desk"), jid("cat@localhost")],
        never: vec![jid("cat@localhost/phone")],
    };
    let set = storage.set_archive_preferences(&ann, &preferences);
    assert!(set.await.unwrap());
    assert_eq!(
        storage.archive_preferences(&ann).await.unwrap(),
        preferences
    );
    for from in [
        "bob@localhost/desk",
        "bob@localhost/phone",
        "cat@localhost/desk",
        "cat@localhost/phone",
        "cat@localhost",
        "dan@localhost/x",
    ] {
        let message = chat(from, "ann@localhost", from);
        let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
        let expected = !matches!(
            from,
            "bob@localhost/phone" | "cat@localhost/phone" | "dan@localhost/x"
        );
        assert_eq!(stored.recipient.unwrap().archived, expected, "{from}");
    }
    // What she sends is looked up by its addressee, and then she keeps nothing at all.
    let message = chat("ann@localhost/x", "bob@localhost", "sent");
    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    assert_eq!(stored.sender, None);
    assert!(stored.recipient.unwrap().archived);

    // A list that is replaced is gone; an address in both is in `never`.
    let preferences = ArchivePreferences {
        default: ArchiveDefault::Always,
        always: vec![jid("dan@localhost"), jid("bob@localhost")],
        never: vec![jid("bob@localhost"), jid("bob@localhost")],
    };
    let set = storage.set_archive_preferences(&ann, &preferences);
    assert!(set.await.unwrap());
    let read = storage.archive_preferences(&ann).await.unwrap();
    assert_eq!(read.default, ArchiveDefault::Always);
    assert_eq!(read.always, [jid("dan@localhost")]);
    assert_eq!(read.never, [jid("bob@localhost")]);
    append(&storage, from_bob("no", at(9))).await;
    assert_eq!(
        found(&storage, &ann, query()).await,
        [
            "before",
            "bob@localhost/desk",
            "cat@localhost/desk",
            "cat@localhost"
        ]
    );
}

pub(crate) async fn a_change_of_preferences_by_another_process_counts(place: Place) {
    let nodes = [place.open().await, place.open().await];
    let ann = bare("ann@localhost");
    add(&nodes[0], &["ann", "bob"]).await;
    append(&nodes[0], from_bob("1", at(0))).await;
    let never = ArchivePreferences {
        default: ArchiveDefault::Never,
        ..ArchivePreferences::default()
    };
    let set = nodes[1].set_archive_preferences(&ann, &never);
    assert!(set.await.unwrap());
    append(&nodes[0], from_bob("2", at(0))).await;
    // And so does an account that is made anew.
    nodes[1].delete(&ann).await.unwrap();
    let gone = nodes[0].append(vec![from_bob("3", at(0))], 10).await;
    assert!(gone.unwrap()[0].is_err());
    add(&nodes[1], &["ann"]).await;
    append(&nodes[0], from_bob("4", at(0))).await;
    assert_eq!(found(&nodes[0], &ann, query()).await, ["4"]);
    assert_eq!(stanzas(&undelivered(&nodes[1], &ann).await), ["4"]);
}

pub(crate) async fn the_roster_decides_if_preferences_say_so(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let preferences = ArchivePreferences {
        default: ArchiveDefault::Roster,
        always: vec![jid("dan@localhost")],
        never: vec![jid("eve@localhost")],
    };
    let set = storage.set_archive_preferences(&ann, &preferences);
    assert!(set.await.unwrap());
    for contact in ["bob@localhost", "eve@localhost"] {
        let mut item = RosterItem::new(bare(contact));
        item.subscription = Subscription::Both;
        let put = Box::new(move |_: Option<&RosterItem>| RosterDecision::Put(item));
        storage
            .update_roster(&ann, &bare(contact), put)
            .await
            .unwrap();
    }
    // A stranger who asked is no contact.
    let mut request = RosterItem::new(bare("fay@localhost"));
    request.pending_in = Some("<presence/>".to_owned());
    let put = Box::new(move |_: Option<&RosterItem>| RosterDecision::Put(request));
    storage
        .update_roster(&ann, &bare("fay@localhost"), put)
        .await
        .unwrap();

    for (from, expected) in [
        ("bob@localhost/any", true),
        ("cat@localhost/x", false),
        ("dan@localhost/x", true),
        ("eve@localhost/x", false),
        ("fay@localhost/x", false),
    ] {
        let message = chat(from, "ann@localhost", "x");
        let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
        assert_eq!(stored.recipient.unwrap().archived, expected, "{from}");
    }
    storage
        .update_roster(
            &ann,
            &bare("bob@localhost"),
            Box::new(|_| RosterDecision::Remove),
        )
        .await
        .unwrap();
    let message = chat("bob@localhost/any", "ann@localhost", "x");
    let stored = storage.append(vec![message], 10).await.unwrap()[0].unwrap();
    assert!(!stored.recipient.unwrap().archived);
}

pub(crate) async fn pending_messages_are_stored_whatever_preferences_say(place: Place) {
    let storage = place.open().await;
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let never = ArchivePreferences {
        default: ArchiveDefault::Never,
        ..ArchivePreferences::default()
    };
    let set = storage.set_archive_preferences(&ann, &never);
    assert!(set.await.unwrap());

    let one = append(&storage, from_bob("1", at(0))).await;
    assert_eq!(all(&storage, &ann).await, []);
    let pending = undelivered(&storage, &ann).await;
    assert_eq!((stanzas(&pending), pending[0].archived), (vec!["1"], false));
    mark(&storage, &ann, &[one]).await;
    assert_eq!(undelivered(&storage, &ann).await, []);
    // Bob, who wanted it, still has it.
    assert_eq!(stanzas(&all(&storage, &bare("bob@localhost")).await), ["1"]);
}

pub(crate) async fn an_unknown_account_has_an_empty_archive(place: Place) {
    let storage = place.open().await;
    let nobody = bare("nobody@localhost");
    assert_eq!(all(&storage, &nobody).await, []);
    assert_eq!(storage.archive_bounds(&nobody).await.unwrap(), None);
    let query = ArchiveQuery {
        ids: vec![EntryId(1)],
        ..query()
    };
    let answer = storage.archive(&nobody, &query).await.unwrap();
    assert_eq!(answer, ArchiveAnswer::NotFound);
    let preferences = ArchivePreferences::default();
    let set = storage.set_archive_preferences(&nobody, &preferences);
    assert!(!set.await.unwrap());
}
