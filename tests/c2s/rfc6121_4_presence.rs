//! RFC 6121 §4: presence from login to logout.

use rookery_tests::prelude::*;

fn show(value: &str) -> Element {
    presence().with_child(text("show", CLIENT, value))
}

/// RFC 6121 §4.2, §4.3
#[tokio::test]
async fn friends_see_each_other_come_and_go() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;

    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;

    let mut bob = server.online("bob/laptop").await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/laptop")).await;

    bob.vanish();
    alice.expect(unavailable_from("bob@localhost/laptop")).await;
}

/// RFC 6121 §4.2.2, §4.4.2, §4.5.2
#[tokio::test]
async fn presence_is_passed_on_as_it_is() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;

    let caps = Element::new("c", "http://jabber.org/protocol/caps").with_attr("ver", "x");
    bob.send(
        show("away")
            .with_attr("id", "p1")
            .with_child(text("status", CLIENT, "tea <3"))
            .with_child(caps),
    )
    .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    let seen = available_from("bob@localhost/phone")
        .id("p1")
        .text("status", CLIENT, "tea <3");
    alice
        .expect(seen.has("c", "http://jabber.org/protocol/caps"))
        .await;

    bob.send(unavailable().with_child(text("status", CLIENT, "bye")))
        .await;
    alice
        .expect(unavailable_from("bob@localhost/phone").text("status", CLIENT, "bye"))
        .await;
    // Unavailable is not logged out: the stream is still there.
    bob.allow(unavailable_from("bob@localhost/phone"));
    bob.expect_nothing().await;
    bob.send(presence()).await;
    bob.expect_all([
        available_from("bob@localhost/phone"),
        available_from("alice@localhost/desk"),
    ])
    .await;
    alice
        .expect(available_from("bob@localhost/phone").lacks("show", CLIENT))
        .await;
}

/// RFC 6121 §4.3.2: who comes later sees the last presence in full.
#[tokio::test]
async fn a_newcomer_sees_the_current_presence_of_friends() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    alice.close().await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    bob.send(show("xa").with_child(text("status", CLIENT, "gone fishing")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;

    let mut alice = server.online("alice/desk").await;
    let seen = available_from("bob@localhost/phone").text("show", CLIENT, "xa");
    alice
        .expect(
            seen.text("status", CLIENT, "gone fishing")
                .to("alice@localhost/desk"),
        )
        .await;
    bob.expect(available_from("alice@localhost/desk")).await;
}

/// RFC 6121 §4.2.2: strangers see nothing.
#[tokio::test]
async fn strangers_do_not_see_each_other() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    subscribe(&mut alice, &mut bob).await;
    let mut carol = server.online("carol/tv").await;
    // Alice sees bob; bob does not see alice; carol is nobody's friend.
    alice.send(show("away")).await;
    alice.expect(available_from("alice@localhost/desk")).await;
    carol.send(show("away")).await;
    carol.expect(available_from("carol@localhost/tv")).await;
    bob.expect_nothing_from(&mut alice).await;
    bob.expect_nothing_from(&mut carol).await;
    alice.expect_nothing_from(&mut carol).await;
}

/// RFC 6121 §4.2.2: the user's own resources see each other.
#[tokio::test]
async fn the_own_resources_see_each_other() {
    let server = TestServer::start().await;
    let mut desk = server.online("alice/desk").await;
    desk.send(show("dnd")).await;
    desk.expect(available_from("alice@localhost/desk")).await;
    // That both are told of each other is checked by `online`.
    let mut phone = server.online("alice/phone").await;
    phone.send(show("chat")).await;
    phone
        .expect(available_from("alice@localhost/phone").text("show", CLIENT, "chat"))
        .await;
    desk.expect(available_from("alice@localhost/phone").text("show", CLIENT, "chat"))
        .await;
    phone.send(unavailable()).await;
    desk.expect(unavailable_from("alice@localhost/phone")).await;
    phone.allow(unavailable_from("alice@localhost/phone"));
    desk.expect_nothing_from(&mut phone).await;
}

/// RFC 6121 §4.5.2: each of the resources goes for itself.
#[tokio::test]
async fn friends_see_every_resource() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let mut laptop = server.online("bob/laptop").await;
    laptop.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/laptop")).await;
    let mut other = server.online("alice/tv").await;
    other
        .expect_all([
            available_from("bob@localhost/phone"),
            available_from("bob@localhost/laptop"),
        ])
        .await;
    bob.expect(available_from("alice@localhost/tv")).await;
    laptop.expect(available_from("alice@localhost/tv")).await;
    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    other.expect(unavailable_from("bob@localhost/phone")).await;
    alice.expect_nothing_from(&mut laptop).await;
}

/// RFC 6121 §4.6
#[tokio::test]
async fn directed_presence_reaches_a_stranger_and_is_taken_back() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;

    alice
        .send(show("away").with_attr("to", "bob@localhost/phone"))
        .await;
    bob.expect(
        available_from("alice@localhost/desk")
            .to("bob@localhost/phone")
            .text("show", CLIENT, "away"),
    )
    .await;
    // §4.6.3: later changes are not for him, the end is.
    alice.send(show("dnd")).await;
    alice.expect(available_from("alice@localhost/desk")).await;
    bob.expect_nothing_from(&mut alice).await;
    alice.close().await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;

    // Also if the connection is lost, or the resource turns unavailable and stays.
    let mut alice = server.online("alice/desk").await;
    alice
        .send(presence().with_attr("to", "bob@localhost"))
        .await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.vanish();
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    let mut alice = server.online("alice/desk").await;
    alice
        .send(presence().with_attr("to", "bob@localhost"))
        .await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice
        .send(unavailable().with_child(text("status", CLIENT, "bye")))
        .await;
    bob.expect(unavailable_from("alice@localhost/desk").text("status", CLIENT, "bye"))
        .await;
    alice.allow(unavailable_from("alice@localhost/desk"));
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §4.6.4: directed unavailable presence ends it, once.
#[tokio::test]
async fn directed_presence_can_be_ended_by_itself() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    alice
        .send(presence().with_attr("to", "bob@localhost/phone"))
        .await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice
        .send(presence_to("unavailable", "bob@localhost/phone"))
        .await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    alice.close().await;
    bob.expect_nothing().await;
}

/// A friend that also got directed presence is told once that it is over.
#[tokio::test]
async fn a_friend_is_told_once_of_the_end() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    alice
        .send(show("chat").with_attr("to", "bob@localhost"))
        .await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.close().await;
    bob.expect(unavailable_from("alice@localhost/desk")).await;
    bob.expect_nothing().await;
}

/// RFC 6121 §4.7.2.3
#[tokio::test]
async fn a_priority_is_a_number_of_one_byte() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    for good in [-128, -1, 0, 127] {
        alice.send(priority(good)).await;
        alice
            .expect(available_from("alice@localhost/desk").text(
                "priority",
                CLIENT,
                &good.to_string(),
            ))
            .await;
    }
    for bad in ["128", "-129", "high", "1.5"] {
        let bad = presence()
            .with_attr("id", "bad")
            .with_child(text("priority", CLIENT, bad));
        alice.send(bad).await;
        alice
            .expect(Pattern::new("presence").id("bad").error("bad-request"))
            .await;
    }
}

/// RFC 6121 §4.3: a probe is answered for those who may see.
#[tokio::test]
async fn a_probe_is_answered_for_a_subscriber() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    subscribe(&mut alice, &mut bob).await;
    alice.send(presence_to("probe", "bob@localhost")).await;
    alice
        .expect(available_from("bob@localhost/phone").to("alice@localhost/desk"))
        .await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §4.3.2: a stranger's probe tells nothing about who is there.
#[tokio::test]
async fn a_strangers_probe_tells_nothing() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    server.add_user("offline").await;
    for contact in ["bob@localhost", "offline@localhost", "nobody@localhost"] {
        alice.send(presence_to("probe", contact)).await;
        alice.allow(presence_from("unsubscribed", contact));
        alice.expect_nothing().await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §4.2: before initial presence a resource is not there for anybody.
#[tokio::test]
async fn a_resource_without_presence_is_not_seen() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let mut silent = server.bound("bob/tv").await;
    silent.expect_nothing().await;
    silent.close().await;
    alice.expect_nothing_from(&mut bob).await;
}

/// A fan-out to many, in one account's order.
#[tokio::test]
async fn presence_reaches_many_friends() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut friends = Vec::new();
    for number in 0..20 {
        let mut friend = server.online(&format!("friend{number}/x")).await;
        subscribe(&mut friend, &mut alice).await;
        friends.push(friend);
    }
    for round in 0..3 {
        alice
            .send(show("away").with_attr("id", format!("round{round}")))
            .await;
        alice.expect(available_from("alice@localhost/desk")).await;
    }
    for friend in &mut friends {
        for round in 0..3 {
            friend
                .expect(available_from("alice@localhost/desk").id(&format!("round{round}")))
                .await;
        }
    }
}
