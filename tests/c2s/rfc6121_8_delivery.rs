//! RFC 6121 §8.5: which resources get what, for every kind of stanza and every case.

use rookery_tests::prelude::*;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Stored,
    Refused,
    Ignored,
}
use Fate::{Delivered, Ignored, Refused, Stored};

const TYPES: [&str; 5] = ["normal", "chat", "groupchat", "headline", "error"];

fn letter(kind: &str, to: &str) -> Element {
    let letter = message(kind, to)
        .with_attr("id", kind)
        .with_child(text("body", CLIENT, kind));
    if kind == "error" {
        let error = Element::new("error", CLIENT).with_attr("type", "cancel");
        return letter.with_child(
            error.with_child(Element::new("gone", "urn:ietf:params:xml:ns:xmpp-stanzas")),
        );
    }
    letter
}

/// Sends a message and checks the sender's side of its fate. `Stored` is left to the caller.
async fn send_and_watch(alice: &mut Client, kind: &str, to: &str, fate: Fate) {
    alice.send(letter(kind, to)).await;
    if fate == Refused {
        let refusal = Pattern::new("message")
            .id(kind)
            .from(to)
            .error("service-unavailable");
        alice.expect(refusal).await;
    }
    alice.expect_nothing().await;
}

/// RFC 6121 §8.5.2.1.1
#[tokio::test]
async fn a_chat_message_to_a_bare_jid_reaches_every_available_resource() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;

    alice.send(chat_to("bob@localhost", "hi")).await;

    phone.expect(chat_from("alice@localhost/desk", "hi")).await;
    laptop.expect(chat_from("alice@localhost/desk", "hi")).await;
}

/// RFC 6121 §8.5.2.1.1
#[tokio::test]
async fn messages_to_the_bare_jid_of_an_available_user() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let mut bound = server.bound("bob/silent").await;
    for (kind, fate) in TYPES
        .into_iter()
        .zip([Delivered, Delivered, Refused, Delivered, Ignored])
    {
        send_and_watch(&mut alice, kind, "bob@localhost", fate).await;
        if fate == Delivered {
            bob.expect(
                message_from("alice@localhost/desk")
                    .to("bob@localhost")
                    .kind(kind),
            )
            .await;
        }
        bob.expect_nothing_from(&mut alice).await;
    }
    bound.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.2.1.1: a negative priority wants nothing that is for the bare JID.
#[tokio::test]
async fn a_resource_of_negative_priority_gets_only_what_is_for_it() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut away = server.bound("bob/away").await;
    away.become_available_with(priority(-1)).await;
    let mut phone = server.online("bob/phone").await;
    for kind in ["normal", "chat", "headline"] {
        alice.send(letter(kind, "bob@localhost")).await;
        phone
            .expect(message_from("alice@localhost/desk").kind(kind))
            .await;
        away.expect_nothing_from(&mut alice).await;
        alice.send(letter(kind, "bob@localhost/away")).await;
        away.expect(message_from("alice@localhost/desk").kind(kind))
            .await;
        phone.expect_nothing_from(&mut alice).await;
    }
}

/// RFC 6121 §8.5.2.2.1, XEP-0160: nobody is available, or only with negative priority.
#[tokio::test]
async fn messages_to_a_user_without_a_willing_resource() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    let to_account = [Stored, Stored, Refused, Ignored, Ignored];
    // §8.5.3.2.1: only chats go on to the account.
    let to_resource = [Refused, Stored, Refused, Ignored, Ignored];
    for (to, fates) in [
        ("bob@localhost", to_account),
        ("bob@localhost/gone", to_resource),
    ] {
        for (kind, fate) in TYPES.into_iter().zip(fates) {
            send_and_watch(&mut alice, kind, to, fate).await;
        }
    }
    let mut bob = server.bound("bob/phone").await;
    bob.become_available_with(priority(-1)).await;
    bob.expect_nothing_from(&mut alice).await;
    send_and_watch(&mut alice, "chat", "bob@localhost", Stored).await;
    bob.expect_nothing_from(&mut alice).await;
    bob.send(priority(0)).await;
    bob.expect(available_from("bob@localhost/phone")).await;
    for kind in ["normal", "chat", "chat", "chat"] {
        bob.expect(
            message_from("alice@localhost/desk")
                .kind(kind)
                .has("delay", "urn:xmpp:delay"),
        )
        .await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.3.1
#[tokio::test]
async fn every_message_to_a_full_jid_reaches_that_resource() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    let mut bound = server.bound("bob/silent").await;
    for kind in TYPES {
        send_and_watch(&mut alice, kind, "bob@localhost/phone", Delivered).await;
        phone
            .expect(
                message_from("alice@localhost/desk")
                    .to("bob@localhost/phone")
                    .kind(kind),
            )
            .await;
        // A resource is connected whether it is available or not.
        send_and_watch(&mut alice, kind, "bob@localhost/silent", Delivered).await;
        bound
            .expect(
                message_from("alice@localhost/desk")
                    .to("bob@localhost/silent")
                    .kind(kind),
            )
            .await;
    }
    laptop.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.3.2.1: another resource is there.
#[tokio::test]
async fn messages_to_a_full_jid_that_is_gone() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    for (kind, fate) in TYPES
        .into_iter()
        .zip([Refused, Delivered, Refused, Ignored, Ignored])
    {
        send_and_watch(&mut alice, kind, "bob@localhost/gone", fate).await;
        if fate == Delivered {
            bob.expect(message_from("alice@localhost/desk").kind(kind))
                .await;
        }
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// RFC 6121 §8.5.1
#[tokio::test]
async fn stanzas_to_nobody() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    for to in ["nobody@localhost", "nobody@localhost/x"] {
        for (kind, fate) in TYPES
            .into_iter()
            .zip([Refused, Refused, Refused, Ignored, Ignored])
        {
            send_and_watch(&mut alice, kind, to, fate).await;
        }
        for kind in ["unavailable", "subscribed", "unsubscribed"] {
            alice.send(presence_to(kind, to)).await;
        }
        alice.send(presence().with_attr("to", to)).await;
        alice.expect_nothing().await;
    }
}

/// RFC 6121 §8.5.2.1.2, §8.5.3.1, §8.5.3.2.2
#[tokio::test]
async fn directed_presence_by_address() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    alice
        .send(presence().with_attr("to", "bob@localhost"))
        .await;
    phone.expect(available_from("alice@localhost/desk")).await;
    laptop.expect(available_from("alice@localhost/desk")).await;
    alice
        .send(presence().with_attr("to", "bob@localhost/phone"))
        .await;
    phone.expect(available_from("alice@localhost/desk")).await;
    laptop.expect_nothing_from(&mut alice).await;
    alice
        .send(presence().with_attr("to", "bob@localhost/gone"))
        .await;
    phone.expect_nothing_from(&mut alice).await;
    laptop.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.2.1.3: the server answers for the account.
#[tokio::test]
async fn a_request_to_a_bare_jid_is_not_for_the_clients() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let unknown = get(Element::new("query", "urn:example:q")).with_attr("to", "bob@localhost");
    alice.refused(unknown, "service-unavailable").await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.3.1, §8.5.3.2.3
#[tokio::test]
async fn a_request_to_a_full_jid_needs_that_resource() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let ping = |to: &str| get(Element::new("ping", PING)).with_attr("to", to);
    alice
        .refused(ping("bob@localhost/gone"), "service-unavailable")
        .await;
    alice
        .send(ping("bob@localhost/phone").with_attr("id", "1"))
        .await;
    bob.expect(Pattern::new("iq").kind("get").id("1").has("ping", PING))
        .await;
    let answer = element("iq")
        .with_attr("type", "result")
        .with_attr("id", "1");
    bob.send(answer.with_attr("to", "alice@localhost/desk"))
        .await;
    alice
        .expect(result_of("1").from("bob@localhost/phone"))
        .await;
}

/// RFC 6121 §8.1: among the own resources the same rules hold.
#[tokio::test]
async fn messages_to_the_own_resources() {
    let server = TestServer::start().await;
    let mut desk = server.online("alice/desk").await;
    let mut phone = server.online("alice/phone").await;
    desk.send(chat_to("alice@localhost/phone", "from desk"))
        .await;
    phone
        .expect(chat_from("alice@localhost/desk", "from desk"))
        .await;
    desk.send(chat_to("alice@localhost", "to all")).await;
    desk.expect(chat_from("alice@localhost/desk", "to all"))
        .await;
    phone
        .expect(chat_from("alice@localhost/desk", "to all"))
        .await;
    desk.expect_nothing().await;
}

/// RFC 6121 §8: messages to the domain itself.
#[tokio::test]
async fn a_message_to_the_server_is_no_chat() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice
        .send(chat_to("localhost", "hello?").with_attr("id", "m"))
        .await;
    alice.allow(Pattern::new("message").id("m").error("service-unavailable"));
    alice.expect_nothing().await;
    alice.send(presence().with_attr("to", "localhost")).await;
    alice.expect_nothing().await;
}
