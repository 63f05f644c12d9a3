//! XEP-0160, RFC 6121 §8.5.2.2: messages that wait for their user; XEP-0203: since when.

use rookery_tests::prelude::*;

const DELAY: &str = "urn:xmpp:delay";

#[tokio::test]
async fn messages_wait_in_order_and_say_since_when() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for number in 0..50 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()).with_attr("id", "x"))
            .await;
    }
    alice.handled_for("bob@localhost").await;

    let mut bob = server.online("bob/phone").await;
    for number in 0..50 {
        let message = bob
            .expect(chat_from("alice@localhost/desk", &number.to_string()).id("x"))
            .await;
        let delay = message.child("delay", DELAY).expect("XEP-0203");
        assert_eq!(delay.attr("from"), Some("localhost"), "XEP-0160 §3");
        let stamp = delay.attr("stamp").expect("a stamp");
        assert!(
            stamp.starts_with("20") && stamp.ends_with('Z') && stamp.len() >= 20,
            "XEP-0082: {stamp}"
        );
    }
    bob.expect_nothing_from(&mut alice).await;
    bob.close().await;
    // Once.
    let mut bob = server.online("bob/phone").await;
    bob.expect_nothing_from(&mut alice).await;
}

/// What is committed stays, whatever happens.
#[tokio::test]
async fn stored_messages_survive_a_crash() {
    let mut server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    alice.send(chat_to("bob@localhost", "don't lose me")).await;
    // Without XEP-0198 nothing tells the sender that its message is on disk; the count does.
    rookery_tests::eventually("the message to be stored", || async {
        server
            .metric("rookery_storage_log_rows_appended_total", "")
            .await
            > 0.5
    })
    .await;
    server.kill();
    alice.vanish();
    server.come_back().await;
    let mut bob = server.online("bob/phone").await;
    bob.expect(chat_from("alice@localhost/desk", "don't lose me").has("delay", DELAY))
        .await;
}

/// XEP-0160 §3: only a resource that wants messages gets them.
#[tokio::test]
async fn they_wait_for_presence_of_a_priority_that_is_not_negative() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    alice.send(chat_to("bob@localhost", "hi")).await;
    alice.expect_nothing().await;
    let mut bob = server.bound("bob/phone").await;
    bob.expect_nothing_from(&mut alice).await;
    bob.become_available_with(priority(-5)).await;
    bob.expect_nothing_from(&mut alice).await;
    bob.send(priority(1)).await;
    bob.expect(available_from("bob@localhost/phone")).await;
    bob.expect(chat_from("alice@localhost/desk", "hi")).await;
}

/// What nobody would read later is not kept.
#[tokio::test]
async fn passing_notes_are_not_stored() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    let typing = Element::new("composing", "http://jabber.org/protocol/chatstates");
    alice
        .send(message("chat", "bob@localhost").with_child(typing))
        .await;
    let hint = Element::new("no-store", "urn:xmpp:hints");
    alice
        .send(chat_to("bob@localhost", "forget me").with_child(hint))
        .await;
    alice.send(chat_to("bob@localhost", "keep me")).await;
    alice.allow(Pattern::new("message").error("service-unavailable"));
    alice.allow(Pattern::new("message").error("service-unavailable"));
    alice.handled_for("bob@localhost").await;
    let mut bob = server.online("bob/phone").await;
    bob.expect(chat_from("alice@localhost/desk", "keep me"))
        .await;
    bob.expect_nothing_from(&mut alice).await;
}

/// XEP-0160 §3: the sender learns that the store is full.
#[tokio::test]
async fn a_full_store_refuses_messages() {
    let server = TestServer::with(&["limits.offline_messages=3"]).await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for number in 0..5 {
        let number = number.to_string();
        alice
            .send(chat_to("bob@localhost", &number).with_attr("id", &number))
            .await;
    }
    for id in ["3", "4"] {
        let refused = Pattern::new("message").from("bob@localhost").id(id);
        let error = alice.expect(refused.kind("error")).await;
        let error = error.child("error", CLIENT).unwrap();
        assert!(
            error
                .children()
                .any(|e| ["service-unavailable", "resource-constraint"].contains(&e.name()))
        );
    }
    let mut bob = server.online("bob/phone").await;
    for number in 0..3 {
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// A stanza that arrived with a stamp keeps it, and its content is what was sent.
#[tokio::test]
async fn a_stored_message_is_the_one_that_was_sent() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    alice.send_raw(
        "<message to='bob@localhost' type='chat' id='a&amp;b' xml:lang='de'><body>&lt;ü😀&gt;</body>\
         <x:y xmlns:x='urn:x' x:z='1'/></message>",
    )
    .await;
    alice.handled_for("bob@localhost").await;
    let mut bob = server.online("bob/phone").await;
    let stored = chat_from("alice@localhost/desk", "<ü😀>")
        .id("a&b")
        .attr("xml:lang", "de");
    bob.expect(stored.has("y", "urn:x").to("bob@localhost"))
        .await;
}

/// Whether the recipient counts as away or as there when a message meets its login, it gets the message.
#[tokio::test]
async fn a_message_that_meets_a_login_is_not_left_behind() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    for round in 0..40 {
        let number = round.to_string();
        let mut bob = server.bound_by("bob/phone", Security::Plain).await;
        let login = async {
            bob.become_available().await;
            bob.expect(chat_from("alice@localhost/desk", &number)).await;
            bob.close().await;
        };
        let message = async {
            // At another moment in each round.
            for _ in 0..round % 8 {
                tokio::task::yield_now().await;
            }
            alice.send(chat_to("bob@localhost", &number)).await;
        };
        tokio::join!(login, message);
    }
    alice.expect_nothing().await;
}
