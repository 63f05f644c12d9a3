//! Operators ask one node, and all nodes answer.

use rookery_tests::api::{self, Api};
use rookery_tests::prelude::*;
use serde_json::{Value, json};

const NOTHING: &Value = &Value::Null;

/// Waits until a node knows so many nodes.
pub(crate) async fn all_know_each_other(cluster: &TestCluster) {
    for node in 0..cluster.size() {
        rookery_tests::eventually("the nodes to see each other", || async {
            let status = cluster
                .node(node)
                .cli(&["cluster", "status", "--json"])
                .await;
            let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
            status["nodes"].as_array().map(Vec::len) == Some(cluster.size())
        })
        .await;
    }
}

#[tokio::test]
async fn sessions_of_all_nodes_are_shown_and_ended() {
    let cluster = TestCluster::with(3, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let mut bob = cluster.bound(1, "bob/phone").await;
    let mut tv = cluster.bound(2, "bob/tv").await;
    let alice = cluster.bound(0, "alice/desk").await;
    let api = Api::of(cluster.node(0)).await;
    let all = api.done("GET", "/api/v1/sessions", NOTHING).await;
    let sessions = all["sessions"].as_array().expect("a list");
    let places: Vec<_> = sessions.iter().map(|s| [&s["jid"], &s["node"]]).collect();
    assert_eq!(
        json!(places),
        json!([
            ["alice@localhost/desk", "node0"],
            ["bob@localhost/phone", "node1"],
            ["bob@localhost/tv", "node2"]
        ])
    );
    assert_eq!((&all["total"], &all["unanswered"]), (&json!(3), &json!([])));
    // The same pages, whichever node has what.
    let path = "/api/v1/sessions?limit=1&after=alice@localhost%2Fdesk";
    let second = api.done("GET", path, NOTHING).await;
    assert_eq!(second["sessions"][0], sessions[1]);
    let user = api
        .done("GET", "/api/v1/users/bob@localhost", NOTHING)
        .await;
    assert_eq!(user["sessions"], 2);
    let nodes = api.done("GET", "/api/v1/nodes", NOTHING).await;
    assert_eq!(
        (&nodes["sessions"], &nodes["sessions_of_all_nodes"]),
        (&json!(1), &json!(3))
    );
    let table = cluster.node(2).cli(&["session", "list"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let row = table
        .lines()
        .find(|line| line.starts_with("bob@localhost/phone "));
    assert!(row.expect("a row").ends_with("node1"), "{table}");

    let ended = api
        .done("DELETE", "/api/v1/sessions/bob@localhost", NOTHING)
        .await;
    assert_eq!(ended, json!({ "ended": 2, "unanswered": [] }));
    bob.expect_stream_error("policy-violation").await;
    tv.expect_stream_error("policy-violation").await;
    alice.close().await;
}

#[tokio::test]
async fn what_operators_do_takes_effect_on_all_nodes() {
    let cluster = TestCluster::with(2, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    bob.roster().await;
    let api = Api::of(cluster.node(0)).await;
    let announcement = json!({ "audience": "online", "body": "hello" });
    let shown = api
        .done("POST", "/api/v1/announcements", &announcement)
        .await;
    assert_eq!(shown, json!({ "recipients": 2, "unanswered": [] }));
    for client in [&mut alice, &mut bob] {
        client
            .expect(message_from("localhost").kind("headline").body("hello"))
            .await;
    }
    let path = "/api/v1/users/bob@localhost/roster/eve@localhost";
    api.done("PUT", path, &json!({ "name": "Eve" })).await;
    bob.expect(roster_push("eve@localhost", "none")).await;
    api.done("DELETE", "/api/v1/users/bob@localhost", NOTHING)
        .await;
    bob.expect_stream_error("not-authorized").await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let cluster = TestCluster::with(2, &[&api::setting(), "cluster.lease=1m"]).await;
    all_know_each_other(&cluster).await;
    let alice = cluster.bound(0, "alice/desk").await;
    let bob = cluster.bound(1, "bob/phone").await;
    cluster.node(1).signal("STOP");
    let api = Api::of(cluster.node(0)).await;
    let all = api.done("GET", "/api/v1/sessions", NOTHING).await;
    assert_eq!(all["total"], 1);
    let silent = json!([{ "node": "node1", "reason": "did not answer" }]);
    assert_eq!(all["unanswered"], silent);
    let ended = api
        .done("DELETE", "/api/v1/sessions/bob@localhost", NOTHING)
        .await;
    assert_eq!(ended, json!({ "ended": 0, "unanswered": silent }));
    let listed = cluster.node(0).cli(&["session", "list"]).await;
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("node node1 did not answer"));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("alice@localhost/desk"));
    let here = cluster
        .node(0)
        .cli(&["session", "list", "--this-node"])
        .await;
    assert!(here.status.success(), "{here:?}");
    cluster.node(1).signal("CONT");
    // What it was asked while it was stopped, it does now.
    bob.vanish();
    alice.close().await;
}
