//! What people see when parts of the cluster die: the table "What fails" of the design.

use std::time::{Duration, Instant};

use rookery_tests::prelude::*;

/// How long contacts may believe that users of a dead node are there.
const UNAVAILABLE_WITHIN: Duration = Duration::from_secs(15);

/// Waits for unavailable presence with the design's deadline instead of the harness's.
async fn sees_leave(client: &mut Client, jid: &str, since: Instant) {
    client.expect(unavailable_from(jid)).await;
    let time = since.elapsed();
    assert!(
        time <= UNAVAILABLE_WITHIN,
        "{jid} was seen for another {time:?}"
    );
}

#[tokio::test]
async fn contacts_see_the_users_of_a_killed_node_leave() {
    let mut cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    let mut carol = cluster.online(2, "carol/tv").await;
    befriend(&mut alice, &mut bob).await;
    befriend(&mut carol, &mut bob).await;

    cluster.node_mut(1).kill();
    let killed = Instant::now();
    bob.vanish();
    sees_leave(&mut alice, "bob@localhost/phone", killed).await;
    sees_leave(&mut carol, "bob@localhost/phone", killed).await;

    // Once, and for good: he is offline, and what is for him waits.
    alice.send(chat_to("bob@localhost", "come back")).await;
    alice.expect_nothing().await;
    let mut bob = cluster.online(2, "bob/phone").await;
    bob.expect_all([
        available_from("alice@localhost/desk"),
        available_from("carol@localhost/tv"),
        chat_from("alice@localhost/desk", "come back"),
    ])
    .await;
    alice.expect(available_from("bob@localhost/phone")).await;
    carol.expect(available_from("bob@localhost/phone")).await;
}

/// At once, not when the dead node's lease has ended.
#[tokio::test]
async fn users_of_a_killed_node_log_in_on_another_at_once() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    alice.send(chat_to("bob@localhost", "1")).await;
    bob.expect(chat_from("alice@localhost/desk", "1")).await;

    // What a node has not noted as delivered when it dies is delivered once more.
    rookery_tests::eventually("the delivery to be noted", || async {
        let noted = "rookery_storage_log_rows_delivered_total";
        cluster.node(1).metric(noted, "").await > 0.5
    })
    .await;
    cluster.node_mut(1).kill();
    bob.vanish();
    let start = Instant::now();
    let mut bob = cluster.online(0, "bob/phone").await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    alice.send(chat_to("bob@localhost", "2")).await;
    bob.expect(chat_from("alice@localhost/desk", "2")).await;
    alice.send(chat_to("bob@localhost/phone", "3")).await;
    bob.expect(chat_from("alice@localhost/desk", "3")).await;
}

/// A user with a resource on each node keeps the one that lives.
#[tokio::test]
async fn the_resources_on_other_nodes_go_on() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "bob/phone").await;
    let mut laptop = cluster.online(0, "bob/laptop").await;
    subscribe_all(&mut alice, [&mut phone, &mut laptop]).await;
    cluster.node_mut(1).kill();
    let killed = Instant::now();
    phone.vanish();
    sees_leave(&mut alice, "bob@localhost/phone", killed).await;
    laptop.expect_nothing().await;
    alice.send(chat_to("bob@localhost", "still there?")).await;
    laptop
        .expect(chat_from("alice@localhost/desk", "still there?"))
        .await;
    laptop.expect_nothing_from(&mut alice).await;
}

/// `one` subscribes to an account with two resources; the first of them answers.
async fn subscribe_all(one: &mut Client, others: [&mut Client; 2]) {
    let [first, second] = others;
    one.send(presence_to("subscribe", first.bare())).await;
    first.expect(presence_from("subscribe", one.bare())).await;
    second.expect(presence_from("subscribe", one.bare())).await;
    first.send(presence_to("subscribed", one.bare())).await;
    one.expect_all([
        presence_from("subscribed", first.bare()),
        available_from(first.jid()),
        available_from(second.jid()),
    ])
    .await;
}

/// Messages on their way to a node that dies are not lost: they are found in the log.
#[tokio::test]
async fn messages_to_a_node_that_dies_reach_the_user_elsewhere() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    alice.send(chat_to("bob@localhost", "before")).await;
    bob.expect(chat_from("alice@localhost/desk", "before"))
        .await;
    cluster.node_mut(1).kill();
    bob.vanish();
    // The dead node's lease still holds: these go to its inbox.
    for number in 0..10 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
    }
    alice.expect_nothing().await;
    let mut bob = cluster.online(0, "bob/phone").await;
    let mut missing: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let message = bob
            .expect(message_from("alice@localhost/desk").kind("chat"))
            .await;
        let body = message.child("body", CLIENT).unwrap().text();
        missing.retain(|number| *number != body);
    }
}

/// A node that is stopped says goodbye for its users.
#[tokio::test]
async fn a_node_that_is_stopped_leaves_nobody_online() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    cluster.node(1).signal("TERM");
    bob.expect_stream_error("system-shutdown").await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    assert_eq!(cluster.node_mut(1).ended().await.code(), Some(0));
    drop(bob);
    // And comes back as a new one.
    cluster.node_mut(1).come_back().await;
    let mut bob = cluster.online(1, "bob/phone").await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/phone")).await;
    alice.send(chat_to("bob@localhost", "welcome back")).await;
    bob.expect(chat_from("alice@localhost/desk", "welcome back"))
        .await;
}

/// Redis dies with all that it held and comes back empty: nobody is disconnected, and the directory is
/// whole again within 10 s.
#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_again() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/x").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    alice.send(chat_to("bob@localhost", "before")).await;
    bob.expect(chat_from("alice@localhost/desk", "before"))
        .await;

    cluster.redis.kill();
    // Nobody needs Redis to talk on one node.
    alice.send(chat_to("carol@localhost/x", "local")).await;
    carol
        .expect(chat_from("alice@localhost/desk", "local"))
        .await;
    cluster.redis.come_back().await;
    let back = Instant::now();

    // Requests and answers may be lost until all is whole.
    let mut attempt = 0;
    loop {
        attempt += 1;
        let id = format!("try{attempt}");
        let asked = tokio::time::timeout(Duration::from_secs(1), ask(&mut alice, &mut bob, &id));
        if matches!(asked.await, Ok(true)) {
            break;
        }
        assert!(
            back.elapsed() < Duration::from_secs(10),
            "not whole after {attempt} attempts"
        );
        bob.allow(Pattern::new("iq").kind("get").id(&id));
        alice.allow(Pattern::new("iq").id(&id));
    }
    assert!(
        back.elapsed() < Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
    for number in 0..20 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
        bob.send(chat_to("alice@localhost/desk", &number.to_string()))
            .await;
        alice
            .expect(chat_from("bob@localhost/phone", &number.to_string()))
            .await;
    }
    // New logins are found, too.
    let mut dave = cluster.online(1, "dave/x").await;
    alice.send(chat_to("dave@localhost", "hi")).await;
    dave.expect(chat_from("alice@localhost/desk", "hi")).await;
}

/// One request and its answer; false if it was refused.
async fn ask(alice: &mut Client, bob: &mut Client, id: &str) -> bool {
    let question = get(Element::new("ping", PING)).with_attr("to", bob.jid());
    alice.send(question.with_attr("id", id)).await;
    tokio::select! {
        asked = bob.expect(Pattern::new("iq").kind("get").id(id)) => {
            let answer = element("iq").with_attr("type", "result").with_attr("id", id);
            bob.send(answer.with_attr("to", asked.attr("from").expect("stamped"))).await;
        }
        _ = alice.expect(Pattern::new("iq").kind("error").id(id)) => return false,
    }
    alice.expect(result_of(id).from(bob.jid())).await;
    true
}

/// A message that cannot be brought to its node while Redis is away ends up somewhere.
#[tokio::test]
async fn messages_while_redis_is_away_are_accounted_for() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    alice.send(chat_to("bob@localhost", "before")).await;
    bob.expect(chat_from("alice@localhost/desk", "before"))
        .await;
    cluster.redis.kill();
    alice
        .send(chat_to("bob@localhost", "meanwhile").with_attr("id", "m"))
        .await;
    cluster.redis.come_back().await;
    // Delivered, or stored for the next login, or bounced.
    let delivered = tokio::select! {
        message = bob.expect(chat_from("alice@localhost/desk", "meanwhile")) => message.attr("id").is_some(),
        error = alice.expect(Pattern::new("message").id("m").kind("error")) => error.attr("id").is_some(),
        () = stored(&cluster) => false,
    };
    if !delivered {
        bob.close().await;
        let mut bob = cluster.online(1, "bob/phone").await;
        bob.expect(chat_from("alice@localhost/desk", "meanwhile"))
            .await;
    }
}

/// Waits until the database holds a message for bob.
async fn stored(cluster: &TestCluster) {
    let (client, connection) = tokio_postgres::connect(cluster.database(), tokio_postgres::NoTls)
        .await
        .expect("the database runs");
    let driver = tokio::spawn(connection);
    rookery_tests::eventually("a stored message", || async {
        let rows = client
            .query("SELECT 1 FROM log WHERE undelivered > 0", &[])
            .await;
        rows.is_ok_and(|rows| !rows.is_empty())
    })
    .await;
    driver.abort();
}

/// PostgreSQL's absence is a problem of those who need it.
#[tokio::test]
async fn a_cluster_without_its_database_says_so_at_the_start() {
    let redis = rookery_tests::services::Redis::start().await;
    let dir = tempfile::tempdir().unwrap();
    let output = rookery_tests::server::refused_start(
        dir.path(),
        &[
            &format!("cluster.redis={}", redis.url()),
            "storage.url=postgres://rookery@127.0.0.1:1/rookery",
        ],
    )
    .await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
