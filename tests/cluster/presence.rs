//! Presence, subscriptions and rosters between nodes.

use rookery_tests::prelude::*;

fn show(value: &str) -> Element {
    presence().with_child(text("show", CLIENT, value))
}

#[tokio::test]
async fn friends_on_different_nodes_see_each_other() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;

    bob.send(show("away").with_child(text("status", CLIENT, "tea")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    alice
        .expect(available_from("bob@localhost/phone").text("show", CLIENT, "away"))
        .await;

    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;

    let mut bob = cluster.online(1, "bob/laptop").await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/laptop")).await;
    bob.vanish();
    alice.expect(unavailable_from("bob@localhost/laptop")).await;
}

/// RFC 6121 §4.3.2: a newcomer learns the current presence from the directory.
#[tokio::test]
async fn a_newcomer_sees_the_presence_of_friends_on_all_nodes() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut friends = Vec::new();
    for number in 0..6 {
        let mut friend = cluster
            .online(number % 3, &format!("friend{number}/x"))
            .await;
        befriend(&mut alice, &mut friend).await;
        friends.push(friend);
    }
    alice.close().await;
    for (number, friend) in friends.iter_mut().enumerate() {
        friend
            .expect(unavailable_from("alice@localhost/desk"))
            .await;
        friend
            .send(show("xa").with_attr("id", format!("f{number}")))
            .await;
        friend
            .expect(available_from(&format!("friend{number}@localhost/x")))
            .await;
        friend.expect_nothing().await;
    }
    let mut alice = cluster.online(1, "alice/desk").await;
    alice
        .expect_all(std::array::from_fn::<_, 6, _>(|number| {
            available_from(&format!("friend{number}@localhost/x")).text("show", CLIENT, "xa")
        }))
        .await;
    for friend in &mut friends {
        friend.expect(available_from("alice@localhost/desk")).await;
    }
}

/// One stanza, and every friend gets it once, in order.
#[tokio::test]
async fn presence_fans_out_to_friends_on_all_nodes() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut friends = Vec::new();
    for number in 0..16 {
        let mut friend = cluster
            .online(number % 2, &format!("friend{number}/x"))
            .await;
        subscribe(&mut friend, &mut alice).await;
        friends.push(friend);
    }
    for round in 0..5 {
        alice
            .send(show("chat").with_attr("id", format!("r{round}")))
            .await;
        alice.expect(available_from("alice@localhost/desk")).await;
    }
    alice.close().await;
    for friend in &mut friends {
        for round in 0..5 {
            friend
                .expect(available_from("alice@localhost/desk").id(&format!("r{round}")))
                .await;
        }
        friend
            .expect(unavailable_from("alice@localhost/desk"))
            .await;
        friend.expect_nothing().await;
    }
}

/// RFC 6121 §3.1.3: a request reaches the contact on its node, also one that is offline now.
#[tokio::test]
async fn a_request_waits_in_the_cluster() {
    let cluster = TestCluster::start(2).await;
    cluster.node(1).add_user("bob").await;
    let mut alice = cluster.online(0, "alice/desk").await;
    alice.send(presence_to("subscribe", "bob@localhost")).await;
    alice.expect_nothing().await;
    let mut bob = cluster.online(1, "bob/phone").await;
    bob.expect(presence_from("subscribe", "alice@localhost"))
        .await;
    // A request that meets the login may be shown by both nodes.
    bob.allow(presence_from("subscribe", "alice@localhost"));
    bob.send(presence_to("subscribed", "alice@localhost")).await;
    alice
        .expect_all([
            presence_from("subscribed", "bob@localhost"),
            available_from("bob@localhost/phone"),
        ])
        .await;
}

/// RFC 6121 §2.1.6: pushes reach the user's resources on other nodes.
#[tokio::test]
async fn roster_changes_are_pushed_to_all_nodes() {
    let cluster = TestCluster::start(2).await;
    let mut desk = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "alice/phone").await;
    desk.roster().await;
    phone.roster().await;
    desk.send(set(roster_item("bob@localhost", Some("Bob"), &[])).with_attr("id", "1"))
        .await;
    desk.expect_all([result_of("1"), roster_push("bob@localhost", "none")])
        .await;
    let push = phone
        .expect(roster_push("bob@localhost", "none").to("alice@localhost/phone"))
        .await;
    assert_eq!(pushed_item(&push).unwrap().attr("name"), Some("Bob"));

    phone
        .send(set(roster_item("bob@localhost", Some("Robert"), &[])).with_attr("id", "2"))
        .await;
    phone
        .expect_all([result_of("2"), roster_push("bob@localhost", "none")])
        .await;
    desk.expect(roster_push("bob@localhost", "none")).await;
    assert_eq!(desk.roster().await[0].attr("name"), Some("Robert"));
}

/// A subscription that changes on one node counts at once on the user's other node.
#[tokio::test]
async fn a_subscription_counts_on_the_users_other_node() {
    let cluster = TestCluster::start(2).await;
    let mut desk = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "alice/phone").await;
    let mut bob = cluster.online(0, "bob/x").await;
    desk.roster().await;
    phone.roster().await;
    bob.send(presence_to("subscribe", "alice@localhost")).await;
    desk.expect(presence_from("subscribe", "bob@localhost"))
        .await;
    phone
        .expect(presence_from("subscribe", "bob@localhost"))
        .await;
    desk.send(presence_to("subscribed", "bob@localhost")).await;
    desk.expect(roster_push("bob@localhost", "from")).await;
    phone.expect(roster_push("bob@localhost", "from")).await;
    bob.expect_all([
        presence_from("subscribed", "alice@localhost"),
        available_from("alice@localhost/desk"),
        available_from("alice@localhost/phone"),
    ])
    .await;
    phone.send(show("away")).await;
    phone.expect(available_from("alice@localhost/phone")).await;
    desk.expect(available_from("alice@localhost/phone")).await;
    bob.expect(available_from("alice@localhost/phone").text("show", CLIENT, "away"))
        .await;

    phone
        .send(presence_to("unsubscribed", "bob@localhost"))
        .await;
    phone.expect(roster_push("bob@localhost", "none")).await;
    desk.expect(roster_push("bob@localhost", "none")).await;
    bob.expect_all([
        presence_from("unsubscribed", "alice@localhost"),
        unavailable_from("alice@localhost/desk"),
        unavailable_from("alice@localhost/phone"),
    ])
    .await;
    desk.send(show("dnd")).await;
    desk.expect(available_from("alice@localhost/desk")).await;
    phone.expect(available_from("alice@localhost/desk")).await;
    bob.expect_nothing_from(&mut desk).await;
}

/// The user's own resources see each other across nodes.
#[tokio::test]
async fn the_own_resources_on_other_nodes_are_seen() {
    let cluster = TestCluster::start(2).await;
    let mut desk = cluster.online(0, "alice/desk").await;
    // `online` waits until both have seen each other.
    let mut phone = cluster.online(1, "alice/phone").await;
    phone.send(show("away")).await;
    phone.expect(available_from("alice@localhost/phone")).await;
    desk.expect(available_from("alice@localhost/phone").text("show", CLIENT, "away"))
        .await;
    phone.close().await;
    desk.expect_nothing().await;
}

/// RFC 6121 §4.6
#[tokio::test]
async fn directed_presence_crosses_nodes_and_is_taken_back() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for _ in 0..2 {
        alice
            .send(presence().with_attr("to", "bob@localhost/phone"))
            .await;
        bob.expect(available_from("alice@localhost/desk")).await;
        alice.vanish();
        bob.expect(unavailable_from("alice@localhost/desk")).await;
        alice = cluster.online(0, "alice/desk").await;
    }
}

/// The end of a session and the beginning of the next one with the same address are seen in that order.
#[tokio::test]
async fn quick_logins_are_seen_in_order() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    for round in 0..20 {
        bob.close().await;
        bob = cluster.bound(1 - round % 2, "bob/phone").await;
        bob.allow(unavailable_from("bob@localhost/phone"));
        bob.become_available().await;
        bob.expect(available_from("alice@localhost/desk")).await;
        alice.expect(unavailable_from("bob@localhost/phone")).await;
        alice.expect(available_from("bob@localhost/phone")).await;
    }
    alice.expect_nothing_from(&mut bob).await;
}
