//! Messages and requests between users of different nodes.

use rookery_tests::prelude::*;

#[tokio::test]
async fn two_users_on_different_nodes_chat() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for to in ["bob@localhost", "bob@localhost/phone"] {
        alice.send(chat_to(to, "hi <&>")).await;
        bob.expect(
            chat_from("alice@localhost/desk", "hi <&>")
                .to(to)
                .attr("xml:lang", "en"),
        )
        .await;
    }
    bob.send(chat_to("alice@localhost", "hello")).await;
    alice
        .expect(chat_from("bob@localhost/phone", "hello"))
        .await;
    alice.expect_nothing_from(&mut bob).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// RFC 6121 §8.5.2.1.1, wherever the resources are.
#[tokio::test]
async fn a_message_to_a_bare_jid_reaches_the_resources_on_every_node() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut one = cluster.online(0, "bob/one").await;
    let mut two = cluster.online(1, "bob/two").await;
    let mut three = cluster.online(2, "bob/three").await;
    let mut away = cluster.bound(1, "bob/away").await;
    away.become_available_with(priority(-1)).await;
    alice.send(chat_to("bob@localhost", "all of you")).await;
    for bob in [&mut one, &mut two, &mut three] {
        bob.expect(chat_from("alice@localhost/desk", "all of you"))
            .await;
    }
    away.expect_nothing_from(&mut alice).await;
    alice.send(chat_to("bob@localhost/away", "only you")).await;
    away.expect(chat_from("alice@localhost/desk", "only you"))
        .await;
    for bob in [&mut one, &mut two, &mut three] {
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// RFC 6120 §10.1
#[tokio::test]
async fn messages_between_nodes_keep_their_order() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    let mut all = String::new();
    for number in 0..1000 {
        let to = if number % 3 == 0 {
            "bob@localhost"
        } else {
            "bob@localhost/phone"
        };
        all.push_str(&chat_to(to, &number.to_string()).to_xml(CLIENT));
    }
    alice.send_raw(&all).await;
    for number in 0..1000 {
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
    }
}

/// The first message has to look the recipient up, the second must not overtake it.
#[tokio::test]
async fn the_first_messages_to_somebody_keep_their_order() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    for number in 0..10 {
        let name = format!("user{number}");
        let mut user = cluster.online(1, &format!("{name}/x")).await;
        let to = [format!("{name}@localhost"), format!("{name}@localhost/x")];
        let both: String = (0..6)
            .map(|n| chat_to(&to[n % 2], &n.to_string()).to_xml(CLIENT))
            .collect();
        alice.send_raw(&both).await;
        for n in 0..6 {
            user.expect(chat_from("alice@localhost/desk", &n.to_string()))
                .await;
        }
    }
}

/// RFC 6120 §10.5.3.2
#[tokio::test]
async fn requests_and_answers_cross_nodes() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    let ping = || get(Element::new("ping", PING));
    alice
        .send(
            ping()
                .with_attr("id", "1")
                .with_attr("to", "bob@localhost/phone"),
        )
        .await;
    bob.expect(
        Pattern::new("iq")
            .kind("get")
            .id("1")
            .from("alice@localhost/desk"),
    )
    .await;
    let answer = element("iq")
        .with_attr("type", "result")
        .with_attr("id", "1");
    bob.send(answer.with_attr("to", "alice@localhost/desk"))
        .await;
    alice
        .expect(result_of("1").from("bob@localhost/phone"))
        .await;
    for to in [
        "bob@localhost/gone",
        "nobody@localhost/x",
        "nobody@localhost",
    ] {
        alice
            .refused(ping().with_attr("to", to), "service-unavailable")
            .await;
    }
}

/// Accounts, rosters and vCards are the cluster's, not a node's.
#[tokio::test]
async fn what_is_stored_by_one_node_is_there_on_the_other() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let card = Element::new("vCard", "vcard-temp").with_child(text("FN", "vcard-temp", "Alice"));
    alice.query(set(card)).await;
    alice
        .query(set(roster_item("bob@localhost", Some("Bob"), &[])))
        .await;
    alice.close().await;
    let mut alice = cluster.online(1, "alice/desk").await;
    let card = alice
        .query(get(Element::new("vCard", "vcard-temp")))
        .await
        .expect("a vCard");
    assert_eq!(card.child("FN", "vcard-temp").unwrap().text(), "Alice");
    assert_eq!(alice.roster().await[0].attr("name"), Some("Bob"));
}

#[tokio::test]
async fn offline_messages_wait_for_their_user_at_any_node() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    // Was there, so that a node may remember where.
    cluster.online(1, "bob/phone").await.close().await;
    for number in 0..20 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
    }
    alice.handled_for("bob@localhost").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for number in 0..20 {
        let stored = chat_from("alice@localhost/desk", &number.to_string());
        bob.expect(stored).await;
    }
    bob.expect_nothing_from(&mut alice).await;
    bob.close().await;
    let mut bob = cluster.online(0, "bob/phone").await;
    bob.expect_nothing_from(&mut alice).await;
}

/// Whether the recipient counts as away or as there when a message meets its login on another node, it
/// gets the message.
#[tokio::test]
async fn a_message_that_meets_a_login_on_another_node_is_not_left_behind() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    for round in 0..40 {
        let number = round.to_string();
        let mut bob = cluster.bound(1, "bob/phone").await;
        let login = async {
            // The end of the round before may be told late; it is told first.
            bob.allow(unavailable_from("bob@localhost/phone"));
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

/// A node that looked somebody up in vain asks again when that may have changed.
#[tokio::test]
async fn a_user_who_was_not_there_is_found_after_login() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    cluster.node(0).add_user("bob").await;
    for number in 0..5 {
        alice
            .send(message("headline", "bob@localhost").with_attr("id", "nobody there"))
            .await;
        alice.expect_nothing().await;
        let mut bob = cluster.online(1, "bob/phone").await;
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
        bob.close().await;
    }
}

/// XEP-0191: a block counts on every node.
#[tokio::test]
async fn a_block_holds_across_nodes() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "alice/phone").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for client in [&mut alice, &mut phone] {
        client.query(get(Element::new("blocklist", BLOCKING))).await;
    }
    let list = |kind: &str| {
        let item = Element::new("item", BLOCKING).with_attr("jid", "bob@localhost");
        set(Element::new(kind, BLOCKING).with_child(item)).with_attr("id", kind)
    };
    alice.send(list("block")).await;
    alice
        .expect_all([result_of("block"), block_push("block", &["bob@localhost"])])
        .await;
    phone.expect(block_push("block", &["bob@localhost"])).await;

    for to in [
        "alice@localhost",
        "alice@localhost/desk",
        "alice@localhost/phone",
    ] {
        bob.send(chat_to(to, "hi").with_attr("id", "m")).await;
        bob.expect(Pattern::new("message").id("m").error("service-unavailable"))
            .await;
    }
    phone
        .send(chat_to("bob@localhost", "hi").with_attr("id", "m"))
        .await;
    phone
        .expect(Pattern::new("message").id("m").error("not-acceptable"))
        .await;

    phone.send(list("unblock")).await;
    phone
        .expect_all([
            result_of("unblock"),
            block_push("unblock", &["bob@localhost"]),
        ])
        .await;
    alice
        .expect(block_push("unblock", &["bob@localhost"]))
        .await;
    bob.send(chat_to("alice@localhost", "again")).await;
    alice
        .expect(chat_from("bob@localhost/phone", "again"))
        .await;
    phone
        .expect(chat_from("bob@localhost/phone", "again"))
        .await;
}

/// Many pairs at once, both ways: nothing lost, nothing twice, nothing out of order.
#[tokio::test]
async fn many_conversations_cross_at_once() {
    let cluster = TestCluster::start(2).await;
    let mut pairs = Vec::new();
    for number in 0..8 {
        let left = cluster.online(0, &format!("left{number}/x")).await;
        let right = cluster.online(1, &format!("right{number}/x")).await;
        pairs.push((left, right));
    }
    let talks = pairs.iter_mut().map(|(left, right)| async move {
        for round in 0..20 {
            for n in 0..5 {
                left.send(chat_to(right.bare(), &format!("{round}.{n}")))
                    .await;
                right
                    .send(chat_to(left.jid(), &format!("{round}.{n}")))
                    .await;
            }
            for n in 0..5 {
                left.expect(chat_from(right.jid(), &format!("{round}.{n}")))
                    .await;
                right
                    .expect(chat_from(left.jid(), &format!("{round}.{n}")))
                    .await;
            }
        }
    });
    futures_util::future::join_all(talks).await;
}
