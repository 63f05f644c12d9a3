//! RFC 6121 §2: the roster.

use rookery_tests::prelude::*;

fn query() -> Element {
    get(Element::new("query", ROSTER))
}

fn since(version: &str) -> Element {
    get(Element::new("query", ROSTER).with_attr("ver", version))
}

/// Expects the result of a change and its push, in whichever order.
async fn change(client: &mut Client, payload: Element, contact: &str, state: &str) -> Element {
    let iq = set(payload).with_attr("id", "change");
    client.send(iq).await;
    let [_, push] = client
        .expect_all([result_of("change"), roster_push(contact, state)])
        .await;
    push
}

/// RFC 6121 §2.2, §2.3
#[tokio::test]
async fn a_contact_is_added_pushed_and_listed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    assert!(alice.roster().await.is_empty());

    let payload = roster_item("bob@localhost", Some("Bob & Co"), &["Friends", "Work"]);
    let push = change(&mut alice, payload, "bob@localhost", "none").await;
    assert_eq!(push.attr("to"), Some("alice@localhost/desk"));
    assert!(
        matches!(push.attr("from"), None | Some("alice@localhost")),
        "RFC 6121 §2.1.6"
    );
    let pushed = pushed_item(&push).unwrap().clone();

    let roster = alice.roster().await;
    assert_eq!(roster.len(), 1);
    for item in [&roster[0], &pushed] {
        assert_eq!(item.attr("jid"), Some("bob@localhost"));
        assert_eq!(item.attr("name"), Some("Bob & Co"));
        assert_eq!(item.attr("subscription"), Some("none"));
        assert_eq!(item.attr("ask"), None);
        let mut groups: Vec<String> = item.children().map(Element::text).collect();
        groups.sort();
        assert_eq!(groups, ["Friends", "Work"]);
    }
}

/// RFC 6121 §2.1.6: pushes go to the resources that asked for the roster.
#[tokio::test]
async fn only_interested_resources_get_pushes() {
    let server = TestServer::start().await;
    let mut desk = server.online("alice/desk").await;
    let mut phone = server.bound("alice/phone").await;
    let mut uninterested = server.online("alice/tv").await;
    desk.roster().await;
    phone.roster().await;
    change(
        &mut desk,
        roster_item("bob@localhost", None, &[]),
        "bob@localhost",
        "none",
    )
    .await;
    phone
        .expect(roster_push("bob@localhost", "none").to("alice@localhost/phone"))
        .await;
    uninterested.expect_nothing().await;

    // A change by one that has not asked is made all the same.
    uninterested
        .query(set(roster_item("carol@localhost", None, &[])))
        .await;
    desk.expect(roster_push("carol@localhost", "none")).await;
    phone.expect(roster_push("carol@localhost", "none")).await;
    uninterested.expect_nothing().await;
}

/// RFC 6121 §2.4
#[tokio::test]
async fn a_contact_is_renamed_and_regrouped() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    let bob = "bob@localhost";
    change(
        &mut alice,
        roster_item(bob, Some("Bob"), &["Old"]),
        bob,
        "none",
    )
    .await;
    change(&mut alice, roster_item(bob, None, &["New"]), bob, "none").await;
    let roster = alice.roster().await;
    assert_eq!(roster.len(), 1);
    assert_eq!(roster[0].attr("name").unwrap_or_default(), "");
    let groups: Vec<String> = roster[0].children().map(Element::text).collect();
    assert_eq!(groups, ["New"]);
}

/// RFC 6121 §2.5
#[tokio::test]
async fn a_contact_is_removed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    let bob = "bob@localhost";
    let removal = || {
        let item = Element::new("item", ROSTER)
            .with_attr("jid", bob)
            .with_attr("subscription", "remove");
        Element::new("query", ROSTER).with_child(item)
    };
    alice.refused(set(removal()), "item-not-found").await;
    change(&mut alice, roster_item(bob, None, &[]), bob, "none").await;
    change(&mut alice, removal(), bob, "remove").await;
    assert!(alice.roster().await.is_empty());
}

/// RFC 6121 §2.1.2: what the server manages, the client cannot set.
#[tokio::test]
async fn subscription_and_ask_of_the_client_are_ignored() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    for state in ["both", "to", "from", "none"] {
        let item = Element::new("item", ROSTER)
            .with_attr("jid", "bob@localhost")
            .with_attr("subscription", state)
            .with_attr("ask", "subscribe")
            .with_attr("approved", "true");
        let payload = Element::new("query", ROSTER).with_child(item);
        alice.send(set(payload).with_attr("id", "s")).await;
        alice.expect(roster_push_or_result("s")).await;
        alice.expect(roster_push_or_result("s")).await;
        let roster = alice.roster().await;
        assert_eq!(roster[0].attr("subscription"), Some("none"));
        assert_eq!(
            (roster[0].attr("ask"), roster[0].attr("approved")),
            (None, None)
        );
    }
}

fn roster_push_or_result(id: &'static str) -> Pattern {
    Pattern::new("iq").that("a push or the result", move |iq| {
        pushed_item(iq).is_some()
            || (iq.attr("type") == Some("result") && iq.attr("id") == Some(id))
    })
}

/// RFC 6121 §2.1.5, §2.3.3
#[tokio::test]
async fn a_set_that_makes_no_sense_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let item = |jid: &str| Element::new("item", ROSTER).with_attr("jid", jid);
    let query = || Element::new("query", ROSTER);
    let group = |name: &str| text("group", ROSTER, name);
    for (payload, condition) in [
        (query(), "bad-request"),
        (
            query()
                .with_child(item("bob@localhost"))
                .with_child(item("carol@localhost")),
            "bad-request",
        ),
        (
            query().with_child(Element::new("item", ROSTER)),
            "bad-request",
        ),
        (
            query().with_child(
                item("bob@localhost")
                    .with_child(group("a"))
                    .with_child(group("a")),
            ),
            "bad-request",
        ),
        (
            query().with_child(item("bob@localhost").with_child(group(""))),
            "not-acceptable",
        ),
        (
            query().with_child(item("bob@localhost").with_child(group(&"g".repeat(2000)))),
            "not-acceptable",
        ),
        (
            query().with_child(item("bob@localhost").with_attr("name", "n".repeat(2000))),
            "not-acceptable",
        ),
    ] {
        alice.refused(set(payload), condition).await;
    }
    let answer = alice.request(set(query().with_child(item("@")))).await;
    assert_eq!(answer.attr("type"), Some("error"));
    assert!(alice.roster().await.is_empty());
}

/// RFC 6121 §2.1.5, §2.3.3
#[tokio::test]
async fn nobody_else_may_see_or_change_a_roster() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut mallory = server.online("mallory/x").await;
    alice.roster().await;
    let set = set(roster_item("mallory@localhost", None, &[])).with_attr("to", "alice@localhost");
    for iq in [set, query().with_attr("to", "alice@localhost")] {
        let answer = mallory.request(iq).await;
        let allowed = ["forbidden", "service-unavailable"];
        let error = answer.child("error", CLIENT).expect("an error");
        assert!(
            error.children().any(|e| allowed.contains(&e.name())),
            "{answer:?}"
        );
    }
    alice.expect_nothing().await;
    assert!(alice.roster().await.is_empty());
}

/// The own account may be named.
#[tokio::test]
async fn the_own_roster_can_be_addressed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice
        .query(query().with_attr("to", "alice@localhost"))
        .await
        .expect("a roster");
}

/// RFC 6121 §2.6
#[tokio::test]
async fn a_client_that_knows_the_version_gets_only_what_changed() {
    let server = TestServer::start().await;
    let login = server.login("alice").await;
    let (_, features) = login.authenticate(server.address("c2s")).await;
    assert!(
        features
            .child("ver", "urn:xmpp:features:rosterver")
            .is_some(),
        "{features:?}"
    );

    let mut alice = server.online("alice/desk").await;
    let version = |roster: &Element| roster.attr("ver").expect("a version").to_owned();
    let empty = version(&alice.query(since("")).await.expect("a roster"));
    assert!(
        alice.query(since(&empty)).await.is_none(),
        "nothing changed"
    );

    let push = change(
        &mut alice,
        roster_item("bob@localhost", None, &[]),
        "bob@localhost",
        "none",
    )
    .await;
    let first = version(push.children().next().unwrap());
    change(
        &mut alice,
        roster_item("carol@localhost", None, &[]),
        "carol@localhost",
        "none",
    )
    .await;
    let push = change(
        &mut alice,
        roster_item("dave@localhost", None, &[]),
        "dave@localhost",
        "none",
    )
    .await;
    let last = version(push.children().next().unwrap());
    let removal = Element::new("item", ROSTER)
        .with_attr("jid", "carol@localhost")
        .with_attr("subscription", "remove");
    let push = change(
        &mut alice,
        Element::new("query", ROSTER).with_child(removal),
        "carol@localhost",
        "remove",
    )
    .await;
    let newest = version(push.children().next().unwrap());
    assert_eq!(
        [&empty, &first, &last, &newest]
            .iter()
            .collect::<std::collections::HashSet<_>>()
            .len(),
        4
    );

    let mut phone = server.bound("alice/phone").await;
    assert!(phone.query(since(&newest)).await.is_none());
    // Since the first change: carol is gone and dave is new (§2.6.3), pushed after an empty result.
    assert!(
        phone.query(since(&first)).await.is_none(),
        "changes come as pushes"
    );
    let mut pushed = Vec::new();
    let ping = get(Element::new("ping", PING)).with_attr("id", "done");
    phone.send(ping).await;
    loop {
        let iq = phone.expect(Pattern::new("iq")).await;
        match pushed_item(&iq) {
            Some(item) => pushed.push(format!(
                "{} {}",
                item.attr("jid").unwrap(),
                item.attr("subscription").unwrap()
            )),
            None => break,
        }
    }
    pushed.sort();
    assert_eq!(pushed, ["carol@localhost remove", "dave@localhost none"]);
    // A version that never was: the whole roster.
    let whole = phone
        .query(since("no such version"))
        .await
        .expect("the whole roster");
    assert_eq!((whole.children().count(), version(&whole)), (2, newest));
}

/// A result means that the change is on disk.
#[tokio::test]
async fn the_roster_survives_a_crash() {
    let mut server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice
        .query(set(roster_item("bob@localhost", Some("Bob"), &["x"])))
        .await;
    server.kill();
    alice.vanish();
    server.come_back().await;
    let mut alice = server.online("alice/desk").await;
    let roster = alice.roster().await;
    assert_eq!(roster[0].attr("name"), Some("Bob"));
}

/// A roster has a limit.
#[tokio::test]
async fn a_full_roster_takes_no_more_contacts() {
    let server = TestServer::with(&["limits.roster_items=3"]).await;
    let mut alice = server.online("alice/desk").await;
    for number in 0..3 {
        alice
            .query(set(roster_item(&format!("c{number}@localhost"), None, &[])))
            .await;
    }
    let one_more = set(roster_item("c3@localhost", None, &[]));
    let answer = alice.request(one_more).await;
    assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    alice
        .query(set(roster_item("c0@localhost", Some("renamed"), &[])))
        .await;
    assert_eq!(alice.roster().await.len(), 3);
}
