//! XEP-0280: the other resources of an account get copies.

use rookery_tests::prelude::*;

/// A resource that has asked for copies, and is online.
async fn with_carbons(server: &TestServer, who: &str) -> Client {
    let mut client = server.online(who).await;
    enable(&mut client).await;
    client
}

async fn enable(client: &mut Client) {
    client.query(set(Element::new("enable", CARBONS))).await;
}

async fn disable(client: &mut Client) {
    client.query(set(Element::new("disable", CARBONS))).await;
}

/// §3
#[tokio::test]
async fn the_server_announces_them() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let disco = "http://jabber.org/protocol/disco#info";
    let request = get(Element::new("query", disco)).with_attr("to", "localhost");
    let info = alice.query(request).await.expect("features");
    assert!(
        info.children().any(|e| e.attr("var") == Some(CARBONS)),
        "{info:?}"
    );
}

/// §7: what is sent to one resource, the others get a copy of.
#[tokio::test]
async fn received_messages_are_copied_to_the_other_resources() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    let mut tv = server.online("bob/tv").await;
    alice
        .send(chat_to("bob@localhost/phone", "hi").with_attr("id", "m1"))
        .await;
    let original = || {
        chat_from("alice@localhost/desk", "hi")
            .to("bob@localhost/phone")
            .id("m1")
    };
    phone.expect(original()).await;
    let copy = carbon("bob@localhost", "received", original());
    laptop
        .expect(copy.kind("chat").to("bob@localhost/laptop"))
        .await;
    for bob in [&mut phone, &mut laptop, &mut tv] {
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// §7: who got the message itself gets no copy.
#[tokio::test]
async fn a_message_to_all_resources_is_not_copied() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = with_carbons(&server, "bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    let mut away = server.bound("bob/away").await;
    enable(&mut away).await;
    away.become_available_with(priority(-1)).await;
    alice.send(chat_to("bob@localhost", "all")).await;
    let original = || chat_from("alice@localhost/desk", "all");
    phone.expect(original()).await;
    laptop.expect(original()).await;
    away.expect(carbon("bob@localhost", "received", original()))
        .await;
    for bob in [&mut phone, &mut laptop, &mut away] {
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// §8: what one resource sends, the others get a copy of; it itself does not.
#[tokio::test]
async fn sent_messages_are_copied_to_the_other_resources() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    // Whether the sender has asked for copies itself does not matter.
    let mut phone = server.online("bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    phone.send(chat_to("alice@localhost/desk", "hello")).await;
    let original = || chat_from("bob@localhost/phone", "hello").to("alice@localhost/desk");
    alice.expect(original()).await;
    let copy = carbon("bob@localhost", "sent", original());
    laptop
        .expect(copy.kind("chat").to("bob@localhost/laptop"))
        .await;
    laptop.send(chat_to("alice@localhost/desk", "me too")).await;
    alice
        .expect(chat_from("bob@localhost/laptop", "me too"))
        .await;
    for bob in [&mut phone, &mut laptop] {
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// §7, §8, XEP-0313 §3.5: copies name the id in the account's archive.
#[tokio::test]
async fn copies_say_where_the_message_is_archived() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let phone = server.online("bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    let mut phone = phone;
    phone.expect_nothing().await;
    phone.send(chat_to("alice@localhost/desk", "out")).await;
    alice.expect(chat_from("bob@localhost/phone", "out")).await;
    alice.send(chat_to("bob@localhost/phone", "in")).await;
    phone.expect(chat_from("alice@localhost/desk", "in")).await;
    let archived = |body: &str| {
        Pattern::new("message")
            .body(body)
            .that("a stanza-id by the account", |message| {
                let mut children = message.children();
                children
                    .any(|e| e.is("stanza-id", STANZA_IDS) && e.attr("by") == Some("bob@localhost"))
            })
    };
    laptop
        .expect(carbon("bob@localhost", "sent", archived("out")))
        .await;
    laptop
        .expect(carbon("bob@localhost", "received", archived("in")))
        .await;
}

/// §6.1: which messages are copied.
#[tokio::test]
async fn only_conversations_are_copied() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    let to = "bob@localhost/phone";
    let state = Element::new("composing", "http://jabber.org/protocol/chatstates");
    let body = || text("body", CLIENT, "x");
    let copied = [
        message("chat", to).with_child(state).with_attr("id", "1"),
        message("normal", to)
            .with_child(body())
            .with_attr("id", "2"),
    ];
    let private = Element::new("private", CARBONS);
    let no_copy = Element::new("no-copy", HINTS);
    let not_copied = [
        message("headline", to).with_child(body()),
        message("normal", to).with_child(Element::new("x", "urn:x")),
        chat_to(to, "x")
            .with_child(private.clone())
            .with_child(no_copy),
        // §9: for older clients it suffices alone.
        chat_to(to, "x").with_child(private),
    ];
    for stanza in not_copied.into_iter().chain(copied) {
        alice.send(stanza).await;
        phone.expect(message_from("alice@localhost/desk")).await;
    }
    for id in ["1", "2"] {
        let original = message_from("alice@localhost/desk").id(id);
        laptop
            .expect(carbon("bob@localhost", "received", original))
            .await;
    }
    laptop.expect_nothing_from(&mut alice).await;
}

/// §9: a private message is not copied on the sending side either.
#[tokio::test]
async fn a_private_message_is_not_copied_to_the_senders_resources() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = with_carbons(&server, "bob/laptop").await;
    let private = chat_to("alice@localhost/desk", "secret")
        .with_child(Element::new("private", CARBONS))
        .with_child(Element::new("no-copy", HINTS));
    phone.send(private).await;
    alice
        .expect(chat_from("bob@localhost/phone", "secret"))
        .await;
    laptop.expect_nothing_from(&mut phone).await;
}

/// §4, §5, §10.1: as often as the client likes, each time for that resource alone.
#[tokio::test]
async fn they_can_be_switched_on_and_off() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    let mut talk = async |phone: &mut Client, body: &str| {
        alice.send(chat_to("bob@localhost/phone", body)).await;
        phone.expect(chat_from("alice@localhost/desk", body)).await;
    };
    let copy = |body| {
        carbon(
            "bob@localhost",
            "received",
            chat_from("alice@localhost/desk", body),
        )
    };
    disable(&mut laptop).await;
    talk(&mut phone, "0").await;
    for body in ["1", "2"] {
        enable(&mut laptop).await;
        enable(&mut laptop).await;
        talk(&mut phone, body).await;
        laptop.expect(copy(body)).await;
        disable(&mut laptop).await;
        disable(&mut laptop).await;
        talk(&mut phone, "no copy").await;
    }
    laptop.expect_nothing_from(&mut phone).await;
}

/// §4.1, §5.1: nobody switches them for somebody else.
#[tokio::test]
async fn only_the_own_resource_can_be_switched() {
    let server = TestServer::start().await;
    let mut bob = with_carbons(&server, "bob/phone").await;
    let mut mallory = server.online("mallory/x").await;
    for name in ["enable", "disable"] {
        let request = set(Element::new(name, CARBONS)).with_attr("to", "bob@localhost");
        let answer = mallory.request(request).await;
        assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    }
    bob.expect_nothing().await;
}

/// Copies are stanzas under stream management: a resumed session has them.
#[tokio::test]
async fn copies_and_the_wish_for_them_survive_a_broken_connection() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.managed_online("bob/laptop").await;
    phone.expect_nothing().await;
    enable(&mut laptop).await;
    let broken = laptop.break_connection();
    let copy = |body| {
        carbon(
            "bob@localhost",
            "received",
            chat_from("alice@localhost/desk", body),
        )
    };
    alice
        .send(chat_to("bob@localhost/phone", "while away"))
        .await;
    phone
        .expect(chat_from("alice@localhost/desk", "while away"))
        .await;
    let mut laptop = server.resume(broken).await;
    laptop.expect(copy("while away")).await;
    alice
        .send(chat_to("bob@localhost/phone", "when back"))
        .await;
    phone
        .expect(chat_from("alice@localhost/desk", "when back"))
        .await;
    laptop.expect(copy("when back")).await;
    laptop.expect_nothing_from(&mut alice).await;
}

/// §11: a copy that somebody else made up is a message from them, and no copy.
#[tokio::test]
async fn a_forged_copy_keeps_its_true_sender() {
    let server = TestServer::start().await;
    let mut bob = with_carbons(&server, "bob/phone").await;
    let mut mallory = server.online("mallory/x").await;
    let inner = chat_to("bob@localhost/phone", "lies").with_attr("from", "alice@localhost/desk");
    let forwarded = Element::new("forwarded", "urn:xmpp:forward:0").with_child(inner);
    let copy = Element::new("received", CARBONS).with_child(forwarded);
    let forged = message("chat", "bob@localhost").with_attr("from", "mallory@localhost/x");
    mallory.send(forged.with_child(copy)).await;
    bob.expect(message_from("mallory@localhost/x")).await;
    bob.expect_nothing_from(&mut mallory).await;
}
