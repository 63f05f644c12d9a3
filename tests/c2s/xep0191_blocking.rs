//! XEP-0191: blocking.

use rookery_tests::prelude::*;

fn list(kind: &str, jids: &[&str]) -> Element {
    let items = jids
        .iter()
        .map(|jid| Element::new("item", BLOCKING).with_attr("jid", jid));
    items.fold(Element::new(kind, BLOCKING), Element::with_child)
}

async fn blocklist(client: &mut Client) -> Vec<String> {
    let list = client
        .query(get(Element::new("blocklist", BLOCKING)))
        .await
        .expect("a list");
    let mut jids: Vec<String> = list
        .children()
        .map(|item| item.attr("jid").expect("an address").to_owned())
        .collect();
    jids.sort();
    jids
}

/// Changes the list. A client that has asked for it gets a push as well (§3.3).
async fn change(client: &mut Client, kind: &'static str, jids: &[&str]) {
    client
        .send(set(list(kind, jids)).with_attr("id", "change"))
        .await;
    client
        .expect_all([result_of("change"), block_push(kind, jids)])
        .await;
}

/// XEP-0191 §3.2, §3.3, §3.4
#[tokio::test]
async fn the_list_is_kept_and_pushed_to_interested_resources() {
    let mut server = TestServer::start().await;
    let mut desk = server.online("alice/desk").await;
    let mut phone = server.online("alice/phone").await;
    let mut uninterested = server.online("alice/tv").await;
    assert!(blocklist(&mut desk).await.is_empty());
    assert!(blocklist(&mut phone).await.is_empty());

    change(&mut desk, "block", &["bob@localhost", "spam.example"]).await;
    phone
        .expect(block_push("block", &["bob@localhost", "spam.example"]))
        .await;
    change(&mut desk, "unblock", &["spam.example"]).await;
    phone.expect(block_push("unblock", &["spam.example"])).await;
    uninterested.expect_nothing().await;
    assert_eq!(blocklist(&mut phone).await, ["bob@localhost"]);

    server.kill();
    desk.vanish();
    phone.vanish();
    uninterested.vanish();
    server.come_back().await;
    let mut desk = server.online("alice/desk").await;
    assert_eq!(blocklist(&mut desk).await, ["bob@localhost"]);
    change(&mut desk, "unblock", &[]).await;
    assert!(blocklist(&mut desk).await.is_empty());
}

/// XEP-0191 §3.3
#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.refused(set(list("block", &[])), "bad-request").await;
    let answer = alice.request(set(list("block", &["@"]))).await;
    assert_eq!(answer.attr("type"), Some("error"));
    assert!(blocklist(&mut alice).await.is_empty());
}

/// XEP-0191 §3.3: nothing comes in, and the sender cannot tell it from absence; nothing goes out.
#[tokio::test]
async fn a_blocked_contact_gets_nothing_through() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    alice.query(set(list("block", &["bob@localhost"]))).await;

    for to in ["alice@localhost", "alice@localhost/desk"] {
        bob.send(chat_to(to, "hi").with_attr("id", "m")).await;
        bob.expect(
            Pattern::new("message")
                .id("m")
                .from(to)
                .error("service-unavailable"),
        )
        .await;
        bob.send(presence().with_attr("to", to)).await;
        bob.send(presence_to("subscribe", to)).await;
        let ping = get(Element::new("ping", PING)).with_attr("to", to);
        bob.refused(ping, "service-unavailable").await;
        bob.send(message("headline", to).with_attr("id", "h")).await;
        bob.allow(Pattern::new("message").id("h").error("service-unavailable"));
        bob.expect_nothing().await;
    }
    alice.expect_nothing().await;

    // §3.5 and §3.3: the user's own stanzas are refused with a condition of their own.
    for to in ["bob@localhost", "bob@localhost/phone"] {
        alice.send(chat_to(to, "hi").with_attr("id", "m")).await;
        let refused = Pattern::new("message").id("m").error("not-acceptable");
        let error = alice.expect(refused).await;
        let error = error.child("error", CLIENT).unwrap();
        assert!(
            error.child("blocked", "urn:xmpp:blocking:errors").is_some(),
            "{error:?}"
        );
        let ping = get(Element::new("ping", PING)).with_attr("to", to);
        alice.refused(ping, "not-acceptable").await;
    }
    bob.expect_nothing().await;

    alice.query(set(list("unblock", &["bob@localhost"]))).await;
    bob.send(chat_to("alice@localhost", "again")).await;
    alice
        .expect(chat_from("bob@localhost/phone", "again"))
        .await;
}

/// XEP-0191 §3.3, §3.4: the contact sees the user go, and come back when the block ends.
#[tokio::test]
async fn blocking_changes_what_the_contact_sees() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;

    alice.query(set(list("block", &["bob@localhost"]))).await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    alice
        .send(presence().with_child(text("show", CLIENT, "away")))
        .await;
    alice.expect(available_from("alice@localhost/desk")).await;
    bob.send(presence().with_child(text("show", CLIENT, "dnd")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    bob.expect_nothing().await;
    alice.expect_nothing().await;

    alice
        .send(set(list("unblock", &["bob@localhost"])).with_attr("id", "u"))
        .await;
    bob.expect(available_from("alice@localhost/desk").text("show", CLIENT, "away"))
        .await;
    alice
        .expect_all([
            result_of("u"),
            available_from("bob@localhost/phone").text("show", CLIENT, "dnd"),
        ])
        .await;
}

/// A block holds for logins to come, of both.
#[tokio::test]
async fn a_block_holds_across_logins() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    alice.query(set(list("block", &["bob@localhost"]))).await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    alice.close().await;
    let mut alice = server.online("alice/desk").await;
    alice.expect_nothing().await;
    bob.expect_nothing().await;
    bob.close().await;
    let mut bob = server.online("bob/phone").await;
    bob.expect_nothing().await;
    alice.expect_nothing().await;
    // Nothing is kept for later either.
    alice.close().await;
    bob.send(chat_to("alice@localhost", "hi").with_attr("id", "m"))
        .await;
    bob.expect(Pattern::new("message").id("m").error("service-unavailable"))
        .await;
    let mut alice = server.online("alice/desk").await;
    alice.expect_nothing().await;
}

/// XEP-0191 §3.1 (the match order of XEP-0016): full JIDs, domains, and not the account itself.
#[tokio::test]
async fn single_resources_and_whole_domains_can_be_blocked() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    alice
        .query(set(list("block", &["bob@localhost/phone"])))
        .await;
    phone
        .send(chat_to("alice@localhost", "hi").with_attr("id", "m"))
        .await;
    phone
        .expect(Pattern::new("message").id("m").error("service-unavailable"))
        .await;
    laptop.send(chat_to("alice@localhost", "hi")).await;
    alice.expect(chat_from("bob@localhost/laptop", "hi")).await;

    let mut carol = server.online("carol/x").await;
    carol.query(set(list("block", &["localhost"]))).await;
    laptop
        .send(chat_to("carol@localhost", "hi").with_attr("id", "d"))
        .await;
    laptop
        .expect(Pattern::new("message").id("d").error("service-unavailable"))
        .await;
    // Still the own server and the own resources.
    carol.expect_nothing().await;
}

/// The one who blocks is not told what was kept from him, and the list tells nobody else.
#[tokio::test]
async fn lists_are_private() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut mallory = server.online("mallory/x").await;
    alice.query(set(list("block", &["bob@localhost"]))).await;
    let theirs = get(Element::new("blocklist", BLOCKING)).with_attr("to", "alice@localhost");
    let answer = mallory.request(theirs).await;
    assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
}
