//! Every message is committed before it is delivered: what that means when the database or Redis fails
//! (design.md, "Acknowledged is durable").

use rookery_tests::prelude::*;
use rookery_tests::services::Shutdown;

use crate::conversations::{
    ask, becomes_ready, becomes_unready, expect_numbers, reach_each_other, send_numbers,
};

/// What a message gets whose commit did not come within its bound.
fn too_late(id: &str) -> Pattern {
    Pattern::new("message")
        .id(id)
        .error("resource-constraint")
        .that("type='wait'", |e| {
            let error = e.child("error", CLIENT);
            error.is_some_and(|error| error.attr("type") == Some("wait"))
        })
}

/// While the database is away messages wait, and then their sender is told; nobody sees them meanwhile, and
/// requests and presence overtake them.
#[tokio::test]
async fn a_message_waits_for_its_commit_within_a_bound() {
    let plan = Plan::new(&[]).own_database();
    let mut cluster = TestCluster::planned(2, &plan).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    ask(&mut alice, &mut carol, "before").await;
    alice.acknowledged().await;
    cluster.postgres().freeze(true);
    let before = alice.counts().acknowledged();
    alice
        .send(chat_to("bob@localhost", "across").with_attr("id", "m1"))
        .await;
    alice
        .send(chat_to("carol@localhost/tv", "here").with_attr("id", "m2"))
        .await;
    // Not handled yet: neither may count, and what came after them may not either (XEP-0198 §4).
    assert_eq!(alice.request_ack().await, before);
    // Others do not wait behind them.
    ask(&mut bob, &mut carol, "others").await;
    bob.send(presence().with_child(text("show", CLIENT, "away")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    let [_, _, _] = alice
        .expect_all([
            available_from("bob@localhost/phone").text("show", CLIENT, "away"),
            too_late("m1"),
            too_late("m2"),
        ])
        .await;
    alice.acknowledged().await;
    cluster.postgres().freeze(false);
    becomes_ready(cluster.node(0)).await;
    // Refused is refused: they do not come after all.
    bob.expect_nothing_from(&mut alice).await;
    carol.expect_nothing_from(&mut alice).await;
}

/// A restart that takes less than the bound is only a delay, but for what was being committed when the
/// connections broke: whether that was done nobody knows, so its sender is told.
#[tokio::test]
async fn messages_wait_for_a_short_restart_of_the_database() {
    let plan = Plan::new(&[]).own_database();
    let mut cluster = TestCluster::planned(2, &plan).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        for number in 0..10 {
            send_with_id(&mut alice, &format!("{how:?}-before-{number}")).await;
        }
        cluster.postgres().stop(how);
        for number in 0..10 {
            send_with_id(&mut alice, &format!("{how:?}-down-{number}")).await;
        }
        cluster.postgres().come_back().await;
        alice.acknowledged().await;
        for node in 0..2 {
            becomes_ready(cluster.node(node)).await;
        }
        // What waited while the database was away has waited for good.
        let refused = bounced(&mut alice).await;
        for when in ["before", "down"] {
            let all = (0..10).map(|number| format!("{how:?}-{when}-{number}"));
            for body in all.filter(|body| !refused.contains(body)) {
                bob.expect(chat_from("alice@localhost/desk", &body)).await;
            }
        }
        assert!(refused.len() < 20, "nothing waited: {refused:?}");
        bob.expect_nothing_from(&mut alice).await;
    }
}

async fn send_with_id(from: &mut Client, body: &str) {
    from.send(chat_to("bob@localhost", body).with_attr("id", body))
        .await;
}

/// The database dies in the midst of a stream of messages: each that was acknowledged is in the archive,
/// once, and each that was refused is not.
#[tokio::test]
async fn each_message_to_a_crashing_database_is_archived_or_refused() {
    let plan = Plan::new(&[]).own_database();
    let mut cluster = TestCluster::planned(2, &plan).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    cluster.node(0).add_user("bob").await;
    let mut all = String::new();
    for number in 0..200 {
        let number = number.to_string();
        all.push_str(
            &chat_to("bob@localhost", &number)
                .with_attr("id", &number)
                .to_xml(CLIENT),
        );
    }
    alice.send_raw(&all).await;
    cluster.postgres().stop(Shutdown::Immediate);
    becomes_unready(cluster.node(0)).await;
    for number in 200..220 {
        let number = number.to_string();
        alice
            .send(chat_to("bob@localhost", &number).with_attr("id", &number))
            .await;
    }
    alice.acknowledged().await;
    cluster.postgres().come_back().await;
    becomes_ready(cluster.node(0)).await;
    becomes_ready(cluster.node(1)).await;
    let refused = bounced(&mut alice).await;
    let mut bob = cluster.bound(1, "bob/phone").await;
    let archive = bob.whole_archive(&Query::new(), 100).await;
    let archived: Vec<String> = archive
        .iter()
        .map(rookery_tests::archive::Archived::body)
        .collect();
    for number in 0..220 {
        let number = number.to_string();
        let stored = archived.iter().filter(|body| **body == number).count();
        let told = usize::from(refused.contains(&number));
        // A commit whose answer was lost may have been one.
        assert!(
            stored + told == 1 || (stored, told) == (1, 1),
            "{number}: {stored} stored, {told} refused"
        );
    }
}

/// The ids of the errors that have come.
async fn bounced(client: &mut Client) -> Vec<String> {
    let mut ids = Vec::new();
    client
        .send(get(Element::new("ping", PING)).with_attr("id", "last"))
        .await;
    loop {
        let stanza = client.expect(Pattern::any()).await;
        if stanza.name() == "iq" {
            return ids;
        }
        assert!(
            Pattern::new("message")
                .error("resource-constraint")
                .matches(&stanza),
            "{stanza:?}"
        );
        ids.push(stanza.attr("id").expect("an id").to_owned());
    }
}

/// All that Redis held is lost, also messages between nodes: they come from the log, in order and once.
#[tokio::test]
async fn messages_survive_a_flush_under_load() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for round in 0..5 {
        let first = round * 100;
        send_numbers(&mut alice, "bob@localhost", first..first + 50).await;
        assert_eq!(cluster.redis.command("FLUSHALL").await, "+OK");
        send_numbers(&mut alice, "bob@localhost", first + 50..first + 100).await;
        alice.acknowledged().await;
        expect_numbers(&mut bob, "alice@localhost/desk", first..first + 100).await;
        reach_each_other(&mut alice, &mut bob).await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// Redis dies with what was on its way, and comes back empty.
#[tokio::test]
async fn messages_survive_a_crash_of_redis() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for round in 0..3 {
        let first = round * 40;
        send_numbers(&mut alice, "bob@localhost", first..first + 20).await;
        cluster.redis.kill();
        send_numbers(&mut alice, "bob@localhost", first + 20..first + 40).await;
        cluster.redis.come_back().await;
        alice.acknowledged().await;
        expect_numbers(&mut bob, "alice@localhost/desk", first..first + 40).await;
        reach_each_other(&mut alice, &mut bob).await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// A node that dies with messages for its users on their way.
#[tokio::test]
async fn messages_to_a_killed_node_are_in_the_log_in_order() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    send_numbers(&mut alice, "bob@localhost", 0..20).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..20).await;
    send_numbers(&mut alice, "bob@localhost", 20..100).await;
    cluster.node_mut(1).kill();
    send_numbers(&mut alice, "bob@localhost", 100..150).await;
    alice.acknowledged().await;
    bob.vanish();
    let mut bob = cluster.online(0, "bob/phone").await;
    // Some of those that went to the dead connection may come again; none may be missing.
    let mut next = 20;
    while next < 150 {
        let message = bob
            .expect(message_from("alice@localhost/desk").kind("chat"))
            .await;
        let number: u32 = message
            .child("body", CLIENT)
            .unwrap()
            .text()
            .parse()
            .unwrap();
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
    bob.expect_nothing_from(&mut alice).await;
}
