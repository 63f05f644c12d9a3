//! XEP-0049: private storage.

use rookery_tests::prelude::*;

const NS: &str = "jabber:iq:private";

fn private(payload: Element) -> Element {
    Element::new("query", NS).with_child(payload)
}

#[tokio::test]
async fn what_is_stored_comes_back_and_survives_a_crash() {
    let mut server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let bookmarks = || Element::new("storage", "storage:bookmarks");
    let room = Element::new("conference", "storage:bookmarks").with_attr("jid", "a@b");
    alice
        .query(set(private(bookmarks().with_child(room))))
        .await;
    alice
        .query(set(private(Element::new("storage", "urn:other"))))
        .await;
    server.kill();
    alice.vanish();
    server.come_back().await;
    let mut alice = server.online("alice/desk").await;
    let query = alice
        .query(get(private(bookmarks())))
        .await
        .expect("a result");
    let stored = query
        .child("storage", "storage:bookmarks")
        .expect("bookmarks");
    assert_eq!(stored.children().next().unwrap().attr("jid"), Some("a@b"));
    // §3: what was never stored comes back empty.
    let query = alice
        .query(get(private(Element::new("notes", "urn:notes"))))
        .await
        .expect("a result");
    assert_eq!(
        query
            .child("notes", "urn:notes")
            .expect("an empty element")
            .children()
            .count(),
        0
    );
}

#[tokio::test]
async fn nobody_else_may_look_and_nonsense_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for iq in [
        get(private(Element::new("x", "urn:x"))),
        set(private(Element::new("x", "urn:x"))),
    ] {
        let answer = alice.request(iq.with_attr("to", "bob@localhost")).await;
        assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    }
    for payload in [Element::new("query", NS), private(Element::new("x", NS))] {
        let answer = alice.request(set(payload)).await;
        assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    }
}
