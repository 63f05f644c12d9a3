//! `rookery trace` and its call of the API: the way of a stanza through several nodes.

use rookery_tests::api::{self, Api, Following};
use rookery_tests::eventually;
use rookery_tests::prelude::*;
use serde_json::{Value, json};

use crate::administration::all_know_each_other;

/// The stages of the stanza with this `id`, until a client has confirmed it.
async fn confirmed(trace: &mut Following<'_>, id: &str) -> Vec<Value> {
    let is_end = |line: &Value| line["stage"] == "confirmed" && line["id"] == id;
    let mut stages = trace.until(is_end).await;
    // What was sent before may still be under way.
    stages.retain(|line| line["id"] == id);
    stages
}

/// These fields of the stages, but for those at which the stanza waited.
fn way(stages: &[Value], fields: &[&str]) -> Value {
    let stages = stages.iter().filter(|line| line["stage"] != "held");
    let way = stages.map(|line| fields.iter().map(|field| line[*field].clone()).collect());
    Value::Array(way.collect())
}

#[tokio::test]
async fn a_message_is_followed_from_node_to_node() {
    let cluster = TestCluster::with(3, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    alice.send(chat_to("bob@localhost/phone", "first")).await;
    bob.expect(chat_from("alice@localhost/desk", "first")).await;
    bob.acknowledge().await;
    // One that has nothing to do with it is asked.
    let api = Api::of(cluster.node(2)).await;
    for jid in ["alice@localhost", "bob@localhost%2Fphone"] {
        let mut trace = api
            .trace(&format!("jid={jid}"), &["node0", "node1", "node2"])
            .await;
        alice
            .send(chat_to("bob@localhost/phone", "psst").with_attr("id", "m1"))
            .await;
        bob.expect(chat_from("alice@localhost/desk", "psst")).await;
        bob.acknowledge().await;
        let stages = confirmed(&mut trace, "m1").await;
        assert_eq!(
            way(&stages, &["node", "stage", "outcome"]),
            json!([
                ["node0", "accepted", null],
                ["node0", "decided", null],
                ["node0", "logging", null],
                ["node0", "committed", "stored"],
                ["node0", "decided", null],
                ["node0", "to-node", null],
                ["node1", "from-node", null],
                ["node1", "queued", null],
                ["node1", "written", null],
                ["node1", "confirmed", "delivered"],
            ]),
            "{stages:#?}"
        );
        let number = &stages[0]["stanza"];
        assert!(stages.iter().all(|line| line["stanza"] == *number));
        let at = |stage: &str| {
            let found = stages.iter().find(|line| line["stage"] == stage);
            found.expect("a stage").clone()
        };
        assert_eq!(at("to-node")["detail"], "node1");
        assert_eq!(at("from-node")["detail"], "node0");
        assert_eq!(at("committed")["entry"], at("confirmed")["entry"]);
        assert!(!json!(stages).to_string().contains("psst"));
    }
    // Nothing goes on when nobody looks any more.
    for node in 0..3 {
        eventually("the traces to end", || async {
            cluster.node(node).metric("rookery_traces", "").await < 0.1
        })
        .await;
    }
}

/// Requests and presence go without the log.
#[tokio::test]
async fn presence_and_requests_are_followed_from_node_to_node() {
    let cluster = TestCluster::with(2, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let api = Api::of(cluster.node(0)).await;
    let mut trace = api.trace("jid=bob@localhost", &["node0", "node1"]).await;
    alice.send(priority(3).with_attr("id", "a1")).await;
    alice.expect(available_from("alice@localhost/desk")).await;
    bob.expect(available_from("alice@localhost/desk")).await;
    let stages = confirmed(&mut trace, "a1").await;
    assert_eq!(
        way(&stages, &["node", "stage"]),
        json!([
            ["node0", "to-node"],
            ["node1", "from-node"],
            ["node1", "queued"],
            ["node1", "written"],
            ["node1", "confirmed"]
        ]),
        "{stages:#?}"
    );
    assert_eq!(stages[0]["stanza"], stages[stages.len() - 1]["stanza"]);

    let ping = get(Element::new("ping", PING));
    let ping = ping
        .with_attr("to", "bob@localhost/phone")
        .with_attr("id", "p1");
    alice.send(ping).await;
    let stages = confirmed(&mut trace, "p1").await;
    assert_eq!(
        way(&stages, &["node", "stage"]),
        json!([
            ["node0", "accepted"],
            ["node0", "decided"],
            ["node0", "to-node"],
            ["node1", "from-node"],
            ["node1", "queued"],
            ["node1", "written"],
            ["node1", "confirmed"]
        ]),
        "{stages:#?}"
    );
    bob.expect(Pattern::new("iq").id("p1")).await;
    alice.vanish();
}

/// A node that cannot be asked is named; one whose asker has died stops to trace.
#[tokio::test]
async fn nodes_come_and_go_while_a_trace_runs() {
    let mut cluster = TestCluster::with(2, &[&api::setting(), "cluster.lease=1s"]).await;
    all_know_each_other(&cluster).await;
    {
        let api = Api::of(cluster.node(0)).await;
        let mut trace = api.trace("jid=alice@localhost", &["node0", "node1"]).await;
        cluster.node(1).signal("STOP");
        let gone = loop {
            let line = trace.next().await.expect("a line");
            if line["line"] == "node" {
                break line;
            }
        };
        assert_eq!(
            gone,
            json!({ "line": "node", "node": "node1", "tracing": false, "reason": "did not answer" })
        );
        cluster.node(1).signal("CONT");
    }
    all_know_each_other(&cluster).await;
    eventually("the trace to end", || async {
        cluster.node(1).metric("rookery_traces", "").await < 0.1
    })
    .await;
    let mut command = cluster.node(0).start_cli(&["trace", "alice@localhost"]);
    command.says("tracing on node1").await;
    assert!((cluster.node(1).metric("rookery_traces", "").await - 1.0).abs() < 0.1);
    cluster.node_mut(0).kill();
    eventually("the trace to end", || async {
        cluster.node(1).metric("rookery_traces", "").await < 0.1
    })
    .await;
    assert_eq!(command.ended().await.code(), Some(1));
}
