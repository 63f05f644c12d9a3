//! A resource belongs to one session, wherever its streams are.

use rookery_tests::prelude::*;

/// RFC 6120 §7.7.2.2
#[tokio::test]
async fn binding_a_resource_that_is_bound_on_another_node_ends_that_one() {
    let cluster = TestCluster::start(2).await;
    let mut bob = cluster.online(0, "bob/phone").await;
    let mut older = cluster.online(0, "alice/desk").await;
    let mut newer = cluster.bound(1, "alice/desk").await;
    older.expect_stream_error("conflict").await;
    drop(older);
    newer.become_available().await;
    bob.send(chat_to("alice@localhost/desk", "which one?"))
        .await;
    newer
        .expect(chat_from("bob@localhost/phone", "which one?"))
        .await;
    bob.send(chat_to("alice@localhost", "and this?")).await;
    newer
        .expect(chat_from("bob@localhost/phone", "and this?"))
        .await;
    newer.expect_nothing_from(&mut bob).await;
}

/// Back and forth: the last one wins each time, and friends see who is there.
#[tokio::test]
async fn a_resource_may_wander_between_nodes() {
    let cluster = TestCluster::start(3).await;
    let mut bob = cluster.online(0, "bob/phone").await;
    for round in 0..6 {
        let mut alice = cluster.online(round % 3, "alice/desk").await;
        let number = round.to_string();
        bob.send(chat_to("alice@localhost/desk", &number)).await;
        alice
            .expect(chat_from("bob@localhost/phone", &number))
            .await;
        bob.send(chat_to("alice@localhost", &number)).await;
        alice
            .expect(chat_from("bob@localhost/phone", &number))
            .await;
        alice.close().await;
    }
}

/// An account that a command deletes is gone on all nodes.
#[tokio::test]
async fn an_account_removed_by_its_user_is_removed_everywhere() {
    let cluster = TestCluster::start(2).await;
    let mut desk = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "alice/phone").await;
    let ns = "jabber:iq:register";
    let removal = set(Element::new("query", ns).with_child(Element::new("remove", ns)));
    desk.send(removal.with_attr("id", "rm")).await;
    desk.expect(result_of("rm")).await;
    for client in [&mut desk, &mut phone] {
        loop {
            match client.wire().next().await {
                Event::Element(e) if e.is("error", STREAM) => break,
                Event::Element(e) if e.is("presence", CLIENT) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    desk.vanish();
    phone.vanish();
    let exists = cluster
        .node(1)
        .cli(&["user", "exists", "alice@localhost"])
        .await;
    assert_eq!(exists.status.code(), Some(1));
}

/// A new password counts on all nodes.
#[tokio::test]
async fn a_new_password_counts_on_every_node() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    cluster.online(1, "alice/phone").await.close().await;
    let ns = "jabber:iq:register";
    let change = Element::new("query", ns)
        .with_child(text("username", ns, "alice"))
        .with_child(text("password", ns, "a new one"));
    alice.query(set(change)).await;
    for node in 0..2 {
        let address = cluster.node(node).address("c2s");
        let old = cluster.node(node).login("alice").await;
        let (mut wire, features) = old.connect(address).await;
        assert!(
            old.try_authenticate(&mut wire, &features)
                .await
                .is("failure", SASL)
        );
        Login::new("alice", "a new one")
            .bind(address)
            .await
            .close()
            .await;
    }
}

/// A client that comes back at another node with the resource it had (a lost network, a load balancer)
/// is online for its contacts, whatever becomes of its old session.
#[tokio::test]
async fn contacts_see_a_resource_that_moved_online() {
    let cluster = TestCluster::start(3).await;
    let mut bob = cluster.online(0, "bob/phone").await;
    let mut carol = cluster.online(2, "carol/tv").await;
    let mut alice = cluster.online(0, "alice/desk").await;
    befriend(&mut alice, &mut bob).await;
    befriend(&mut alice, &mut carol).await;
    for round in 0..12 {
        let node = (round + 1) % 3;
        let mut newer = cluster.bound(node, "alice/desk").await;
        alice.allow(unavailable_from("alice@localhost/desk"));
        alice.expect_stream_error("conflict").await;
        newer.become_available().await;
        newer
            .expect_all([
                available_from("bob@localhost/phone"),
                available_from("carol@localhost/tv"),
            ])
            .await;
        for friend in [&mut bob, &mut carol] {
            friend
                .expect(unavailable_from("alice@localhost/desk"))
                .await;
            friend.expect(available_from("alice@localhost/desk")).await;
        }
        alice = newer;
    }
    bob.expect_nothing_from(&mut alice).await;
    carol.expect_nothing_from(&mut alice).await;
}
