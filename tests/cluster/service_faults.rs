//! Redis and PostgreSQL that die, hang, are slow, or refuse: what needs them waits within bounds and is told
//! clearly, what does not goes on, and nothing has to be restarted.

use std::time::Duration;

use rookery_tests::prelude::*;
use rookery_tests::proxy::Mode;
use rookery_tests::services::Shutdown;

use crate::conversations::{
    ask, becomes_ready, becomes_unready, expect_numbers, login_failure, reach_each_other, ready,
    send_numbers, talk,
};

/// A cluster of two nodes whose PostgreSQL may be stopped.
async fn cluster() -> TestCluster {
    TestCluster::planned(2, &Plan::new(&[]).own_database()).await
}

/// Friends: Alice on node 0, Bob on node 1.
async fn friends(cluster: &TestCluster) -> (Client, Client) {
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    (alice, bob)
}

/// Requests and presence flow between the nodes: they need no commit.
async fn flows(alice: &mut Client, bob: &mut Client, round: &str) {
    ask(alice, bob, &format!("{round}-there")).await;
    ask(bob, alice, &format!("{round}-back")).await;
    tell(alice, bob, round).await;
    tell(bob, alice, round).await;
}

/// A status, and a friend who sees it.
async fn tell(one: &mut Client, other: &mut Client, status: &str) {
    let jid = one.jid().to_owned();
    one.send(presence().with_child(text("status", CLIENT, status)))
        .await;
    let seen = || available_from(&jid).text("status", CLIENT, status);
    one.expect(seen()).await;
    other.expect(seen()).await;
}

/// A change that needs the database is made or refused with `resource-constraint`, type `wait`, soon.
async fn change(client: &mut Client, contact: &str) -> bool {
    let item = set(roster_item(&format!("{contact}@localhost"), None, &[]));
    let answer = client.request(item).await;
    if answer.attr("type") == Some("result") {
        return true;
    }
    assert!(
        Pattern::new("iq")
            .error("resource-constraint")
            .matches(&answer),
        "{}",
        answer.to_xml(CLIENT)
    );
    let error = answer.child("error", CLIENT).expect("matched");
    assert_eq!(error.attr("type"), Some("wait"), "RFC 6120 §8.3.3.18");
    false
}

// PostgreSQL

/// Restarted, in the ordinary way or at once, under traffic.
#[tokio::test]
async fn a_restart_of_the_database_is_bridged() {
    let mut cluster = cluster().await;
    let (mut alice, mut bob) = friends(&cluster).await;
    cluster.node(0).add_user("carol").await;
    for (round, how) in [Shutdown::Fast, Shutdown::Immediate]
        .into_iter()
        .enumerate()
    {
        cluster.postgres().stop(how);
        flows(&mut alice, &mut bob, &format!("{how:?}-down")).await;
        becomes_unready(cluster.node(0)).await;
        becomes_unready(cluster.node(1)).await;
        assert!(!change(&mut alice, "nobody").await, "there is no database");
        assert_eq!(
            login_failure(cluster.node(0), "carol").await,
            "temporary-auth-failure"
        );
        flows(&mut alice, &mut bob, &format!("{how:?}-still-down")).await;

        cluster.postgres().come_back().await;
        for node in 0..2 {
            becomes_ready(cluster.node(node)).await;
        }
        assert!(change(&mut alice, &format!("friend{round}")).await);
        assert!(change(&mut bob, &format!("friend{round}")).await);
        let mut carol = cluster.online(0, "carol/tv").await;
        talk(&mut carol, &mut bob, "hi").await;
        carol.close().await;
        flows(&mut alice, &mut bob, &format!("{how:?}-back")).await;
    }
    alice.expect_nothing_from(&mut bob).await;
}

/// Changes that were acknowledged are there after a crash of the database.
#[tokio::test]
async fn what_was_acknowledged_survives_a_crash_of_the_database() {
    let mut cluster = cluster().await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let contact = format!("friend{number}");
        if change(&mut alice, &contact).await {
            acknowledged.push(format!("{contact}@localhost"));
        }
        if number == 10 {
            cluster.postgres().stop(Shutdown::Immediate);
            assert!(!change(&mut alice, "nobody").await);
            cluster.postgres().come_back().await;
            becomes_ready(cluster.node(0)).await;
        }
    }
    assert_eq!(acknowledged.len(), 20);
    alice.close().await;
    let mut alice = cluster.online(1, "alice/desk").await;
    let roster = alice.roster().await;
    for jid in acknowledged {
        assert!(
            roster.iter().any(|item| item.attr("jid") == Some(&jid)),
            "{jid}"
        );
    }
}

/// A database that hangs is worse than one that is gone: nothing answers. Waiting has a bound.
#[tokio::test]
async fn a_database_that_hangs_holds_up_nobody_who_does_not_need_it() {
    let mut cluster = cluster().await;
    let (mut alice, mut bob) = friends(&cluster).await;
    cluster.node(0).add_user("carol").await;
    cluster.postgres().freeze(true);
    flows(&mut alice, &mut bob, "frozen").await;
    assert!(!change(&mut alice, "nobody").await, "nothing is committed");
    becomes_unready(cluster.node(0)).await;
    assert_eq!(
        login_failure(cluster.node(1), "carol").await,
        "temporary-auth-failure"
    );
    flows(&mut alice, &mut bob, "still-frozen").await;
    cluster.postgres().freeze(false);
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    assert!(change(&mut alice, "friend").await);
    let mut carol = cluster.online(1, "carol/tv").await;
    talk(&mut carol, &mut alice, "hi").await;
}

/// Connections are refused, and those that there were break: what a failing proxy or a full server does.
#[tokio::test]
async fn a_database_that_refuses_connections_is_found_again() {
    let cluster = TestCluster::planned(2, &Plan::new(&[]).proxied()).await;
    let (mut alice, mut bob) = friends(&cluster).await;
    for round in 0..3 {
        cluster.postgres_proxy().set(Mode::Refuse);
        cluster.postgres_proxy().cut();
        flows(&mut alice, &mut bob, &format!("refused-{round}")).await;
        becomes_unready(cluster.node(0)).await;
        assert!(!change(&mut alice, "nobody").await);
        cluster.postgres_proxy().set(Mode::Pass);
        becomes_ready(cluster.node(0)).await;
        assert!(change(&mut alice, &format!("friend{round}")).await);
    }
}

/// A slow database makes what needs it slow.
#[tokio::test]
async fn a_slow_database_is_waited_for() {
    let cluster = TestCluster::planned(2, &Plan::new(&[]).proxied()).await;
    let (mut alice, mut bob) = friends(&cluster).await;
    cluster.node(0).add_user("carol").await;
    cluster
        .postgres_proxy()
        .set(Mode::Slow(Duration::from_millis(150)));
    flows(&mut alice, &mut bob, "slow").await;
    assert!(change(&mut alice, "friend").await);
    let mut carol = cluster.online(0, "carol/tv").await;
    talk(&mut carol, &mut bob, "hi").await;
    assert!(ready(cluster.node(0)).await);
}

// Redis

/// Everything in it is gone at once, while it is used: nobody is disconnected, and all are found again.
#[tokio::test]
async fn a_flush_under_load_is_repaired() {
    let cluster = TestCluster::start(3).await;
    let mut pairs = Vec::new();
    for number in 0..6 {
        let one = cluster.online(number % 3, &format!("left{number}/x")).await;
        let other = cluster
            .online((number + 1) % 3, &format!("right{number}/x"))
            .await;
        pairs.push((one, other));
    }
    for _ in 0..3 {
        let talks = pairs.iter_mut().map(|(one, other)| async move {
            for _ in 0..20 {
                // Requests and answers may be lost with what was in Redis; whoever asked asks again.
                reach_each_other(one, other).await;
            }
        });
        let flush = async {
            tokio::task::yield_now().await;
            assert_eq!(cluster.redis.command("FLUSHALL").await, "+OK");
        };
        tokio::join!(futures_util::future::join_all(talks), flush);
    }
    // Whole again: also for who was not spoken to meanwhile.
    let mut dave = cluster.online(0, "dave/x").await;
    for (one, other) in &mut pairs {
        talk(&mut dave, one, "hi").await;
        talk(&mut dave, other, "hi").await;
    }
}

/// What Redis loses may be the word that an account was disabled, or removed: as if it had been on its way.
#[tokio::test]
async fn a_lost_word_of_an_accounts_end_is_made_up_for() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    let mut carol = cluster.online(1, "carol/tv").await;
    let (client, connection) = tokio_postgres::connect(cluster.database(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let change = "UPDATE account SET disabled = true WHERE jid = 'bob@localhost';
        DELETE FROM account WHERE jid = 'carol@localhost'";
    client.batch_execute(change).await.unwrap();
    assert_eq!(cluster.redis.command("FLUSHALL").await, "+OK");
    bob.expect_stream_error("not-authorized").await;
    carol.expect_stream_error("not-authorized").await;
    let mut dave = cluster.online(1, "dave/x").await;
    talk(&mut dave, &mut alice, "still here").await;
}

/// Redis is killed and comes back empty under load.
#[tokio::test]
async fn a_redis_that_dies_under_load_is_filled_again() {
    let mut cluster = TestCluster::start(2).await;
    let (mut alice, mut bob) = friends(&cluster).await;
    let mut carol = cluster.online(0, "carol/tv").await;
    for round in 0..3 {
        cluster.redis.kill();
        for number in 0..20 {
            talk(&mut alice, &mut carol, &format!("{round}-{number}")).await;
        }
        cluster.redis.come_back().await;
        reach_each_other(&mut alice, &mut bob).await;
        reach_each_other(&mut bob, &mut carol).await;
        talk(&mut alice, &mut bob, &format!("{round}")).await;
    }
}

/// Answers come late, but in time: all works, later. Local traffic does not notice.
#[tokio::test]
async fn a_slow_redis_makes_nothing_fail() {
    let cluster = TestCluster::planned(2, &Plan::new(&[]).proxied()).await;
    let (mut alice, mut bob) = friends(&cluster).await;
    cluster
        .redis_proxy()
        .set(Mode::Slow(Duration::from_millis(100)));
    send_numbers(&mut alice, "bob@localhost", 0..200).await;
    send_numbers(&mut bob, "alice@localhost/desk", 0..200).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..200).await;
    expect_numbers(&mut alice, "bob@localhost/phone", 0..200).await;
    flows(&mut alice, &mut bob, "slow").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    talk(&mut alice, &mut carol, "hi").await;
    talk(&mut carol, &mut bob, "hi").await;
    for node in 0..2 {
        assert!(ready(cluster.node(node)).await);
    }
}

/// Answers come too late to be of use: the same as none. It is over when it is over.
#[tokio::test]
async fn a_redis_that_is_too_slow_is_as_good_as_gone() {
    let plan = Plan::new(&["cluster.lease=3s"]).proxied();
    let cluster = TestCluster::planned(2, &plan).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    cluster
        .redis_proxy()
        .set(Mode::Slow(Duration::from_secs(5)));
    for number in 0..50 {
        talk(&mut alice, &mut carol, &number.to_string()).await;
    }
    for node in 0..2 {
        becomes_unready(cluster.node(node)).await;
    }
    talk(&mut alice, &mut carol, "fenced").await;
    cluster.redis_proxy().set(Mode::Pass);
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    reach_each_other(&mut alice, &mut bob).await;
    reach_each_other(&mut bob, &mut alice).await;
}

/// A Redis that hangs: connections stay open and nothing answers.
#[tokio::test]
async fn a_redis_that_hangs_holds_up_nobody_on_one_node() {
    let cluster = TestCluster::with(2, &["cluster.lease=3s"]).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    cluster.redis.signal("STOP");
    for number in 0..50 {
        talk(&mut alice, &mut carol, &number.to_string()).await;
    }
    // An address that has to be looked up is answered within a bound, too.
    let ping = get(Element::new("ping", PING)).with_attr("to", "nobody@localhost/x");
    let answer = alice.request(ping).await;
    assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    becomes_unready(cluster.node(0)).await;
    cluster.redis.signal("CONT");
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    reach_each_other(&mut alice, &mut bob).await;
    reach_each_other(&mut bob, &mut alice).await;
}
