//! XEP-0313: the archive of an account, and XEP-0359: the ids of messages in it.

use rookery_tests::archive::{Archived, DATA_FORMS, MAM, RSM, page};
use rookery_tests::prelude::*;

const DISCO: &str = "http://jabber.org/protocol/disco#info";

/// Alice and Bob, both online, after `count` messages from her to him, numbered from 0.
async fn after_messages(server: &TestServer, count: usize) -> (Client, Client) {
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    say(&mut alice, &mut bob, 0..count).await;
    (alice, bob)
}

async fn say(from: &mut Client, to: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        from.send(chat_to(to.jid(), &number.to_string())).await;
        to.expect(chat_from(from.jid(), &number.to_string())).await;
    }
}

fn numbers(range: impl Iterator<Item = usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The id under which a delivered message is archived (XEP-0359 §3).
fn stanza_id<'m>(message: &'m Element, by: &str) -> &'m str {
    let mut ids = message
        .children()
        .filter(|e| e.is("stanza-id", STANZA_IDS) && e.attr("by") == Some(by));
    let id = ids
        .next()
        .unwrap_or_else(|| panic!("no stanza-id: {}", message.to_xml(CLIENT)));
    assert!(ids.next().is_none(), "XEP-0359 §4, rule 4: one");
    id.attr("id").expect("XEP-0359 §4, rule 5: an id")
}

// §3: what is archived

/// §3.5: the id that comes with a message is its id in the archive.
#[tokio::test]
async fn a_delivered_message_tells_its_place_in_the_archive() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let mut ids = Vec::new();
    for to in ["bob@localhost", "bob@localhost/phone"] {
        alice.send(chat_to(to, "hi").with_attr("id", "m1")).await;
        let message = bob
            .expect(chat_from("alice@localhost/desk", "hi").to(to))
            .await;
        ids.push(stanza_id(&message, "bob@localhost").to_owned());
        let foreign = |e: &&Element| e.attr("by") == Some("alice@localhost");
        assert!(
            message.children().find(foreign).is_none(),
            "§3.5: not the sender's id"
        );
    }
    let archive = bob.whole_archive(&Query::new(), 10).await;
    let archived: Vec<_> = archive.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(archived, ids);
    let message = &archive[0].message;
    assert_eq!(message.attr("from"), Some("alice@localhost/desk"));
    assert_eq!(message.attr("to"), Some("bob@localhost"));
    assert_eq!(
        (message.attr("id"), message.attr("type")),
        (Some("m1"), Some("chat"))
    );
    assert!(archive[0].stamp.starts_with("20") && archive[0].stamp.ends_with('Z'));
    bob.expect_nothing_from(&mut alice).await;
}

/// XEP-0359 §4, rule 2: an id that somebody else made up in the account's name is taken out.
#[tokio::test]
async fn a_forged_id_does_not_arrive() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let id = |by: &str| {
        Element::new("stanza-id", STANZA_IDS)
            .with_attr("by", by)
            .with_attr("id", "forged")
    };
    let message = chat_to("bob@localhost", "hi")
        .with_child(id("bob@localhost"))
        .with_child(id("room@elsewhere"));
    alice.send(message).await;
    let received = bob.expect(chat_from("alice@localhost/desk", "hi")).await;
    assert_ne!(stanza_id(&received, "bob@localhost"), "forged");
    assert_eq!(
        stanza_id(&received, "room@elsewhere"),
        "forged",
        "rule 3: others stay"
    );
}

/// §3: both sides have it, once each, however many resources got it.
#[tokio::test]
async fn a_message_is_in_both_archives_once() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    alice.send(chat_to("bob@localhost", "hi")).await;
    for bob in [&mut phone, &mut laptop] {
        bob.expect(chat_from("alice@localhost/desk", "hi")).await;
    }
    for client in [&mut alice, &mut phone] {
        let archive = client.archive(&Query::new()).await;
        assert_eq!(archive.bodies(), ["hi"]);
        assert_eq!(
            archive.messages[0].message.attr("from"),
            Some("alice@localhost/desk")
        );
    }
    // Both resources were told the same id, and it is not the one of the sender's archive.
    phone.expect_nothing_from(&mut alice).await;
}

/// §6.1.1, XEP-0334 §4.
#[tokio::test]
async fn what_is_no_conversation_is_not_archived() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let hint = |name: &str| Element::new(name, HINTS);
    let state = Element::new("composing", "http://jabber.org/protocol/chatstates");
    for stanza in [
        message("chat", bob.jid()).with_child(state.clone()),
        message("headline", bob.jid()).with_child(text("body", CLIENT, "news")),
        chat_to(bob.jid(), "forget me").with_child(hint("no-store")),
        chat_to(bob.jid(), "forget me, too").with_child(hint("no-permanent-store")),
        message("normal", bob.jid()).with_child(text("body", CLIENT, "a letter")),
        message("chat", bob.jid())
            .with_child(state)
            .with_child(hint("store")),
    ] {
        alice.send(stanza).await;
        bob.expect(message_from("alice@localhost/desk")).await;
    }
    for client in [&mut alice, &mut bob] {
        assert_eq!(
            client.archive(&Query::new()).await.bodies(),
            ["a letter", ""]
        );
    }
}

/// §6.1: what nobody accepted is in nobody's conversation.
#[tokio::test]
async fn refused_messages_are_not_in_the_archive_of_who_refused_them() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let item = Element::new("item", BLOCKING).with_attr("jid", "alice@localhost");
    bob.query(set(Element::new("block", BLOCKING).with_child(item)))
        .await;
    alice
        .send(chat_to(bob.jid(), "hi").with_attr("id", "m"))
        .await;
    alice
        .expect(Pattern::new("message").id("m").error("service-unavailable"))
        .await;
    assert!(bob.archive(&Query::new()).await.messages.is_empty());
}

/// Offline messages are the same rows.
#[tokio::test]
async fn messages_to_an_offline_user_are_archived_once() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for number in 0..3 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
    }
    alice.handled_for("bob@localhost").await;
    let mut bob = server.online("bob/phone").await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let message = bob
            .expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
        ids.push(stanza_id(&message, "bob@localhost").to_owned());
    }
    let archive = bob.archive(&Query::new()).await;
    let archived: Vec<_> = archive
        .messages
        .iter()
        .map(|entry| entry.id.clone())
        .collect();
    assert_eq!(archived, ids);
    // What was read from the archive alone stays there.
    bob.close().await;
    let mut bob = server.online("bob/phone").await;
    assert_eq!(bob.archive(&Query::new()).await.bodies(), numbers(0..3));
}

/// §2, §3: the archive is on disk.
#[tokio::test]
async fn the_archive_survives_a_restart() {
    let mut server = TestServer::start().await;
    let (alice, bob) = after_messages(&server, 5).await;
    alice.close().await;
    bob.close().await;
    server.stop().await;
    server.come_back().await;
    let mut bob = server.online("bob/phone").await;
    assert_eq!(bob.archive(&Query::new()).await.bodies(), numbers(0..5));
}

/// `archive.enabled = false`: nothing is kept, and nothing announced.
#[tokio::test]
async fn it_can_be_switched_off() {
    let server = TestServer::with(&["archive.enabled=false"]).await;
    let (mut alice, mut bob) = after_messages(&server, 3).await;
    for client in [&mut alice, &mut bob] {
        let answer = client.request(set(Query::new().to_element("q"))).await;
        if answer.attr("type") == Some("result") {
            assert!(page(&answer, Vec::new()).complete, "an empty archive");
        }
        let account = client.bare().to_owned();
        let features = features_of(client, &account).await;
        assert!(!features.contains(&MAM.to_owned()), "{features:?}");
    }
}

// §4.1: filters

/// §4.1.1
#[tokio::test]
async fn the_other_party_can_be_chosen() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    let mut carol = server.online("carol/tv").await;
    say(&mut bob, &mut alice, 0..1).await;
    say(&mut laptop, &mut alice, 1..2).await;
    say(&mut alice, &mut bob, 2..3).await;
    say(&mut carol, &mut alice, 3..4).await;
    say(&mut alice, &mut carol, 4..5).await;
    alice.send(chat_to("alice@localhost/desk", "note")).await;
    alice
        .expect(chat_from("alice@localhost/desk", "note"))
        .await;
    let mut with = async |jid: &str| alice.archive(&Query::new().with(jid)).await.bodies();
    assert_eq!(with("bob@localhost").await, numbers(0..3));
    assert_eq!(with("bob@localhost/phone").await, ["0", "2"]);
    assert_eq!(with("carol@localhost").await, numbers(3..5));
    assert_eq!(with("dave@localhost").await, numbers(0..0));
    assert_eq!(
        with("alice@localhost").await,
        ["note"],
        "to and from oneself"
    );
}

/// §4.1.2: `start` and `end` belong to what is looked for.
#[tokio::test]
async fn a_span_of_time_can_be_chosen() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 6).await;
    let all = bob.archive(&Query::new()).await.messages;
    let (second, fourth) = (&all[1].stamp, &all[3].stamp);
    let within: Vec<_> = all
        .iter()
        .filter(|entry| entry.stamp >= *second && entry.stamp <= *fourth)
        .map(Archived::body)
        .collect();
    let span = Query::new()
        .field("start", &[second])
        .field("end", &[fourth]);
    assert_eq!(bob.archive(&span).await.bodies(), within);
    let future = Query::new().field("start", &["2999-01-01T00:00:00Z"]);
    assert!(bob.archive(&future).await.messages.is_empty());
    let past = Query::new().field("end", &["1999-01-01T00:00:00Z"]);
    assert!(bob.archive(&past).await.messages.is_empty());
    let offset = Query::new().field("start", &["1999-01-01T00:00:00+02:00"]);
    assert_eq!(
        bob.archive(&offset).await.messages.len(),
        6,
        "XEP-0082 §3.2"
    );
}

/// §4.1.3
#[tokio::test]
async fn messages_between_known_ones_can_be_chosen() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 6).await;
    let all = bob.archive(&Query::new()).await.messages;
    let id = |number: usize| &*all[number].id;
    let after = Query::new().field("after-id", &[id(1)]);
    assert_eq!(bob.archive(&after).await.bodies(), numbers(2..6));
    let before = Query::new().field("before-id", &[id(4)]);
    assert_eq!(bob.archive(&before).await.bodies(), numbers(0..4));
    let between = after.field("before-id", &[id(4)]);
    assert_eq!(bob.archive(&between).await.bodies(), numbers(2..4));
    let some = Query::new().field("ids", &[id(5), id(0)]);
    assert_eq!(bob.archive(&some).await.bodies(), ["0", "5"]);
}

/// §4.1.3, §4.3.2
#[tokio::test]
async fn ids_that_are_not_in_the_archive_are_not_found() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = after_messages(&server, 2).await;
    let own = bob.archive(&Query::new()).await.messages[0].id.clone();
    for query in [
        Query::new().field("after-id", &["nonsense"]),
        Query::new().field("before-id", &["nonsense"]),
        Query::new().field("ids", &[&own, "nonsense"]),
        Query::new().after("nonsense"),
        Query::new().before("nonsense"),
    ] {
        bob.refused(set(query.to_element("q")), "item-not-found")
            .await;
    }
    // Nor is an id of somebody else's archive.
    let foreign = alice.archive(&Query::new()).await.messages[0].id.clone();
    if foreign != own {
        let query = Query::new().field("ids", &[&foreign]);
        bob.refused(set(query.to_element("q")), "item-not-found")
            .await;
    }
}

/// §4.1.5
#[tokio::test]
async fn the_form_names_its_fields_and_others_are_refused() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let form = bob
        .query(get(Element::new("query", MAM)))
        .await
        .expect("a form");
    let form = form.child("x", DATA_FORMS).expect("a form");
    let kinds = [
        ("with", "jid-single"),
        ("start", "text-single"),
        ("end", "text-single"),
        ("before-id", "text-single"),
        ("after-id", "text-single"),
        ("ids", "list-multi"),
    ];
    for (name, kind) in kinds {
        let field = form.children().find(|e| e.attr("var") == Some(name));
        let field = field.unwrap_or_else(|| panic!("no field {name}"));
        assert_eq!(field.attr("type"), Some(kind), "{name}");
    }
    let unknown = Query::new().field("{urn:x}colour", &["blue"]);
    bob.refused(set(unknown.to_element("q")), "feature-not-implemented")
        .await;
    for bad in [
        Query::new().with("@@"),
        Query::new().field("start", &["yesterday"]),
        Query::new().field("end", &["2010-13-01T00:00:00Z"]),
    ] {
        let answer = bob.request(set(bad.to_element("q"))).await;
        assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    }
}

// §4.3: pages

/// §4.3.2
#[tokio::test]
async fn pages_follow_each_other_forwards_and_backwards() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 10).await;
    let first = bob.archive(&Query::new().max(4)).await;
    assert_eq!((first.bodies(), first.complete), (numbers(0..4), false));
    if let Some(count) = first.count {
        assert_eq!(count, 10);
    }
    let last_id = |page: &rookery_tests::archive::Page| page.last.clone().expect("a page");
    let second = bob
        .archive(&Query::new().max(4).after(&last_id(&first)))
        .await;
    assert_eq!((second.bodies(), second.complete), (numbers(4..8), false));
    let third = bob
        .archive(&Query::new().max(4).after(&last_id(&second)))
        .await;
    assert_eq!((third.bodies(), third.complete), (numbers(8..10), true));

    let last = bob.archive(&Query::new().max(4).before("")).await;
    assert_eq!((last.bodies(), last.complete), (numbers(6..10), false));
    let oldest = last.first.as_deref().expect("a page");
    let previous = bob.archive(&Query::new().max(6).before(oldest)).await;
    assert_eq!(
        (previous.bodies(), previous.complete),
        (numbers(0..6), true)
    );

    let whole = bob.whole_archive(&Query::new(), 3).await;
    let bodies: Vec<_> = whole.iter().map(Archived::body).collect();
    assert_eq!(bodies, numbers(0..10));
}

/// §4.3.4: the same messages, the newest first.
#[tokio::test]
async fn a_page_may_be_flipped() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 6).await;
    let last = bob.archive(&Query::new().max(3).before("").flipped()).await;
    assert_eq!(last.bodies(), numbers((3..6).rev()));
    let first = bob.archive(&Query::new().max(3).flipped()).await;
    assert_eq!(first.bodies(), numbers((0..3).rev()));
}

/// XEP-0059 §2.7: a page of no messages, for its count.
#[tokio::test]
async fn messages_can_be_counted_without_reading_them() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 5).await;
    let request = set(Query::new().max(0).to_element("q"));
    let answer = bob.query(request).await.expect("an answer");
    let set = answer.child("set", RSM).expect("XEP-0313 §4: a set");
    if let Some(count) = set.child("count", RSM) {
        assert_eq!(count.text(), "5");
    }
    assert!(set.child("first", RSM).is_none(), "{answer:?}");
}

/// An empty archive has an end.
#[tokio::test]
async fn an_empty_archive_is_complete() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    for query in [
        Query::new(),
        Query::new().max(10),
        Query::new().max(10).before(""),
    ] {
        let page = bob.archive(&query).await;
        assert!(page.complete && page.messages.is_empty(), "{page:?}");
    }
}

/// A server has a limit of its own (§4.3.1); clients page.
#[tokio::test]
async fn a_long_archive_is_paged_whatever_is_asked_for() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    for round in 0..10 {
        let all: String = (0..100)
            .map(|n| chat_to(bob.jid(), &(round * 100 + n).to_string()).to_xml(CLIENT))
            .collect();
        alice.send_raw(&all).await;
        for n in 0..100 {
            bob.expect(chat_from(
                "alice@localhost/desk",
                &(round * 100 + n).to_string(),
            ))
            .await;
        }
    }
    let all = bob.whole_archive(&Query::new(), 1_000_000).await;
    let bodies: Vec<_> = all.iter().map(Archived::body).collect();
    assert_eq!(bodies, numbers(0..1000));
    let mut ids: Vec<_> = all.iter().map(|entry| &entry.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000, "§6.2: ids are unique");
}

// §5: metadata

#[tokio::test]
async fn the_ends_of_the_archive_are_told() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let metadata = get(Element::new("metadata", MAM));
    let empty = bob.query(metadata.clone()).await.expect("metadata");
    assert!(
        empty.is("metadata", MAM) && empty.children().next().is_none(),
        "{empty:?}"
    );
    let mut alice = server.online("alice/desk").await;
    say(&mut alice, &mut bob, 0..3).await;
    let all = bob.archive(&Query::new()).await.messages;
    let metadata = bob.query(metadata).await.expect("metadata");
    for (name, entry) in [("start", &all[0]), ("end", &all[2])] {
        let end = metadata
            .child(name, MAM)
            .unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(end.attr("id"), Some(&*entry.id));
        assert_eq!(end.attr("timestamp"), Some(&*entry.stamp));
    }
}

// §7: discovery; §8: access

async fn features_of(client: &mut Client, jid: &str) -> Vec<String> {
    let request = get(Element::new("query", DISCO)).with_attr("to", jid);
    let info = client.query(request).await.expect("features");
    info.children()
        .filter_map(|e| Some(e.attr("var")?.to_owned()))
        .collect()
}

#[tokio::test]
async fn the_account_announces_its_archive() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let features = features_of(&mut bob, "bob@localhost").await;
    for feature in [MAM, "urn:xmpp:mam:2#extended", STANZA_IDS] {
        assert!(
            features.contains(&feature.to_owned()),
            "{feature} is not in {features:?}"
        );
    }
}

/// §8.1
#[tokio::test]
async fn a_foreign_archive_is_forbidden() {
    let server = TestServer::start().await;
    let (_alice, mut bob) = after_messages(&server, 1).await;
    let mut mallory = server.online("mallory/x").await;
    for payload in [
        Query::new().to_element("q"),
        Query::new().max(1).to_element("q"),
    ] {
        let query = set(payload).with_attr("to", "bob@localhost");
        mallory.refused(query, "forbidden").await;
    }
    let own = set(Query::new().to_element("q")).with_attr("to", "bob@localhost");
    // Addressed to the own account it is the own archive.
    bob.send(own.with_attr("id", "q")).await;
    let result = bob.expect(Pattern::new("message").has("result", MAM)).await;
    let fin = bob.expect(result_of("q")).await;
    let entry = rookery_tests::archive::archived(&result, "q");
    assert_eq!(page(&fin, vec![entry]).bodies(), ["0"]);
}
