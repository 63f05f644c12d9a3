//! RFC 6121 §3 and Appendix A: presence subscriptions.

use rookery_tests::prelude::*;

/// Two users with an interested resource each.
async fn pair(server: &TestServer) -> (Client, Client) {
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    alice.roster().await;
    bob.roster().await;
    (alice, bob)
}

fn asked_push(contact: &str, state: &str) -> Pattern {
    let jid = contact.to_owned();
    roster_push(contact, state).that(format!("ask='subscribe' for {jid}"), |iq| {
        pushed_item(iq).is_some_and(|item| item.attr("ask") == Some("subscribe"))
    })
}

fn settled_push(contact: &str, state: &str) -> Pattern {
    roster_push(contact, state).that("no ask", |iq| {
        pushed_item(iq).is_some_and(|item| item.attr("ask").is_none())
    })
}

/// `alice` asks `bob` and he says yes.
async fn approve(alice: &mut Client, bob: &mut Client, alice_state: (&str, &str), bob_state: &str) {
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice
        .expect(asked_push("bob@localhost", alice_state.0))
        .await;
    bob.expect(presence_from("subscribe", "alice@localhost").to("bob@localhost"))
        .await;
    bob.send(presence_to("subscribed", "alice@localhost")).await;
    bob.expect(settled_push("alice@localhost", bob_state)).await;
    alice
        .expect_all([
            settled_push("bob@localhost", alice_state.1),
            presence_from("subscribed", "bob@localhost").to("alice@localhost"),
            available_from("bob@localhost/phone"),
        ])
        .await;
}

/// Both see each other.
async fn both(server: &TestServer) -> (Client, Client) {
    let (mut alice, mut bob) = pair(server).await;
    approve(&mut alice, &mut bob, ("none", "to"), "from").await;
    bob.send(presence_to("subscribe", "alice@localhost")).await;
    bob.expect(asked_push("alice@localhost", "from")).await;
    alice
        .expect(presence_from("subscribe", "bob@localhost"))
        .await;
    alice.send(presence_to("subscribed", "bob@localhost")).await;
    alice.expect(settled_push("bob@localhost", "both")).await;
    bob.expect_all([
        settled_push("alice@localhost", "both"),
        presence_from("subscribed", "alice@localhost"),
        available_from("alice@localhost/desk"),
    ])
    .await;
    (alice, bob)
}

/// RFC 6121 §3.1
#[tokio::test]
async fn a_request_that_is_approved_shows_the_contacts_presence() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    approve(&mut alice, &mut bob, ("none", "to"), "from").await;
    bob.send(presence().with_child(text("show", CLIENT, "away")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    alice
        .expect(available_from("bob@localhost/phone").text("show", CLIENT, "away"))
        .await;
    // Not the other way.
    alice
        .send(presence().with_child(text("show", CLIENT, "dnd")))
        .await;
    alice.expect(available_from("alice@localhost/desk")).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §3.1, in both directions
#[tokio::test]
async fn two_users_subscribe_to_each_other() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = both(&server).await;
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// RFC 6121 §3.1.4, §3.2.1: a request that is refused.
#[tokio::test]
async fn a_request_can_be_denied() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    bob.expect(presence_from("subscribe", "alice@localhost"))
        .await;
    bob.send(presence_to("unsubscribed", "alice@localhost"))
        .await;
    alice
        .expect_all([
            settled_push("bob@localhost", "none"),
            presence_from("unsubscribed", "bob@localhost"),
        ])
        .await;
    bob.expect_nothing_from(&mut alice).await;
    assert!(
        bob.roster().await.is_empty(),
        "a request that was denied leaves nothing"
    );
}

/// RFC 6121 §3.1.3: the text of a request arrives, its resource does not.
#[tokio::test]
async fn a_request_carries_its_text_and_goes_to_bare_jids() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    let request = presence_to("subscribe", "bob@localhost/phone");
    alice
        .send(request.with_child(text("status", CLIENT, "It's me")))
        .await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    let request = presence_from("subscribe", "alice@localhost").to("bob@localhost");
    bob.expect(request.text("status", CLIENT, "It's me")).await;
}

/// RFC 6121 §3.1.3: a second request is not pushed again, and a contact that said yes need not again.
#[tokio::test]
async fn a_repeated_request_changes_nothing() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    approve(&mut alice, &mut bob, ("none", "to"), "from").await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    // The server may answer for the contact that the subscription stands.
    alice.allow(presence_from("subscribed", "bob@localhost"));
    alice.allow(available_from("bob@localhost/phone"));
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
    assert_eq!(alice.roster().await[0].attr("subscription"), Some("to"));
}

/// RFC 6121 §3.2: the contact takes its presence back.
#[tokio::test]
async fn a_subscription_can_be_cancelled_by_the_contact() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = both(&server).await;
    bob.send(presence_to("unsubscribed", "alice@localhost"))
        .await;
    bob.expect(settled_push("alice@localhost", "to")).await;
    alice
        .expect_all([
            settled_push("bob@localhost", "from"),
            presence_from("unsubscribed", "bob@localhost").to("alice@localhost"),
            unavailable_from("bob@localhost/phone"),
        ])
        .await;
    bob.send(presence().with_child(text("show", CLIENT, "away")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// RFC 6121 §3.3: the user does not want to see the contact any more.
#[tokio::test]
async fn a_subscription_can_be_given_up() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = both(&server).await;
    alice
        .send(presence_to("unsubscribe", "bob@localhost"))
        .await;
    alice
        .expect_all([
            settled_push("bob@localhost", "from"),
            unavailable_from("bob@localhost/phone"),
        ])
        .await;
    bob.expect_all([
        settled_push("alice@localhost", "to"),
        presence_from("unsubscribe", "alice@localhost").to("bob@localhost"),
    ])
    .await;
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// RFC 6121 §2.5.2: removing a contact ends the subscriptions in both directions.
#[tokio::test]
async fn removing_a_contact_ends_both_subscriptions() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = both(&server).await;
    let removal = Element::new("item", ROSTER)
        .with_attr("jid", "bob@localhost")
        .with_attr("subscription", "remove");
    alice
        .send(set(Element::new("query", ROSTER).with_child(removal)).with_attr("id", "rm"))
        .await;
    alice
        .expect_all([
            result_of("rm"),
            roster_push("bob@localhost", "remove"),
            unavailable_from("bob@localhost/phone"),
        ])
        .await;
    // Two steps for the contact: it is no longer seen, and it no longer sees.
    bob.expect_all([
        presence_from("unsubscribe", "alice@localhost"),
        presence_from("unsubscribed", "alice@localhost"),
        unavailable_from("alice@localhost/desk"),
        Pattern::new("iq").that("a push", |iq| pushed_item(iq).is_some()),
        Pattern::new("iq").that("a push", |iq| pushed_item(iq).is_some()),
    ])
    .await;
    assert_eq!(bob.roster().await[0].attr("subscription"), Some("none"));
    assert!(alice.roster().await.is_empty());
}

/// RFC 6121 §3.1.4: a request waits for a contact that is offline, and is shown again until answered.
#[tokio::test]
async fn a_request_to_an_offline_contact_waits() {
    let mut server = TestServer::start().await;
    server.add_user("bob").await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    let request = presence_to("subscribe", "bob@localhost");
    alice
        .send(request.with_child(text("status", CLIENT, "hello")))
        .await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    alice.expect_nothing().await;

    for _ in 0..2 {
        let mut bob = server.online("bob/phone").await;
        let shown = presence_from("subscribe", "alice@localhost");
        bob.expect(shown.text("status", CLIENT, "hello")).await;
        // A request that meets the login may be shown by both.
        bob.allow(presence_from("subscribe", "alice@localhost"));
        assert!(
            bob.roster().await.is_empty(),
            "a request alone is no contact (§3.1.3)"
        );
        bob.close().await;
    }
    alice.close().await;
    server.kill();
    server.come_back().await;

    let mut bob = server.online("bob/phone").await;
    bob.expect(presence_from("subscribe", "alice@localhost"))
        .await;
    bob.roster().await;
    bob.send(presence_to("subscribed", "alice@localhost")).await;
    bob.expect(settled_push("alice@localhost", "from")).await;
    bob.handled_for("alice@localhost").await;
    bob.close().await;

    // The answer was for one who was offline: the roster holds it.
    let mut alice = server.online("alice/desk").await;
    let roster = alice.roster().await;
    assert_eq!(roster[0].attr("subscription"), Some("to"));
    assert_eq!(roster[0].attr("ask"), None);
    alice.allow(presence_from("subscribed", "bob@localhost"));
    let mut bob = server.online("bob/phone").await;
    alice.expect(available_from("bob@localhost/phone")).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §3.1.3: each of the contact's resources may answer.
#[tokio::test]
async fn a_request_goes_to_all_available_resources() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut laptop = server.online("bob/laptop").await;
    let mut bound = server.bound("bob/tv").await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    phone
        .expect(presence_from("subscribe", "alice@localhost"))
        .await;
    laptop
        .expect(presence_from("subscribe", "alice@localhost"))
        .await;
    bound.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §3.4
#[tokio::test]
async fn a_subscription_can_be_approved_before_it_is_asked_for() {
    let server = TestServer::start().await;
    let (_, features) = server
        .login("bob")
        .await
        .authenticate(server.address("c2s"))
        .await;
    assert!(
        features
            .child("sub", "urn:xmpp:features:pre-approval")
            .is_some(),
        "{features:?}"
    );
    let (mut alice, mut bob) = pair(&server).await;

    bob.send(presence_to("subscribed", "alice@localhost")).await;
    let approved = roster_push("alice@localhost", "none").that("approved", |iq| {
        pushed_item(iq).is_some_and(|item| item.attr("approved") == Some("true"))
    });
    bob.expect(approved).await;
    alice.expect_nothing_from(&mut bob).await;

    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    alice
        .expect_all([
            settled_push("bob@localhost", "to"),
            presence_from("subscribed", "bob@localhost"),
            available_from("bob@localhost/phone"),
        ])
        .await;
    bob.expect(settled_push("alice@localhost", "from")).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §3.4.3: the approval is taken back.
#[tokio::test]
async fn an_approval_can_be_taken_back_before_it_is_used() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    bob.send(presence_to("subscribed", "alice@localhost")).await;
    bob.expect(roster_push("alice@localhost", "none")).await;
    bob.send(presence_to("unsubscribed", "alice@localhost"))
        .await;
    bob.expect(
        roster_push("alice@localhost", "none").that("not approved", |iq| {
            pushed_item(iq).is_some_and(|item| item.attr("approved").is_none())
        }),
    )
    .await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    bob.expect(presence_from("subscribe", "alice@localhost"))
        .await;
}

/// Appendix A.3: answers to questions that nobody asked are not shown.
#[tokio::test]
async fn answers_without_a_request_are_not_delivered() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = pair(&server).await;
    for kind in ["unsubscribed", "unsubscribe"] {
        bob.send(presence_to(kind, "alice@localhost")).await;
        alice.expect_nothing_from(&mut bob).await;
        bob.expect_nothing().await;
    }
    assert!(alice.roster().await.is_empty());
    assert!(bob.roster().await.is_empty());
}

/// RFC 6121 §3.1.3: who does not exist cannot be told from who does not answer.
#[tokio::test]
async fn a_request_to_nobody_tells_nothing() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    alice
        .send(presence_to("subscribe", "nobody@localhost"))
        .await;
    alice.expect(asked_push("nobody@localhost", "none")).await;
    alice.handled_for("nobody@localhost").await;
    // An account that is made later starts without it.
    let mut nobody = server.online("nobody/desk").await;
    assert!(nobody.roster().await.is_empty());
}

/// RFC 6121 §3.1.2: the sender's roster knows the request while the contact is away.
#[tokio::test]
async fn a_request_can_be_withdrawn() {
    let server = TestServer::start().await;
    server.add_user("bob").await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice.expect(asked_push("bob@localhost", "none")).await;
    alice
        .send(presence_to("unsubscribe", "bob@localhost"))
        .await;
    alice.expect(settled_push("bob@localhost", "none")).await;
    alice.handled_for("bob@localhost").await;
    let mut bob = server.online("bob/phone").await;
    assert!(bob.roster().await.is_empty());
    bob.expect_nothing().await;
}

/// A user sees the own resources without asking.
#[tokio::test]
async fn a_subscription_to_oneself_is_no_contact() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.roster().await;
    for kind in ["subscribe", "subscribed", "unsubscribe", "unsubscribed"] {
        alice
            .send(presence_to(kind, "alice@localhost").with_attr("id", kind))
            .await;
    }
    alice.expect_nothing().await;
    assert!(alice.roster().await.is_empty());
}
