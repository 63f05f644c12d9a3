//! Operators ask one node, and all nodes answer.

use rookery_tests::api::{self, Api};
use rookery_tests::prelude::*;
use serde_json::{Value, json};

use crate::commands::one_is_left_by_a_drain;

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
async fn an_account_that_is_disabled_on_one_node_is_disabled_on_all() {
    let cluster = TestCluster::with(2, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let mut here = cluster.bound(0, "bob/phone").await;
    let mut there = cluster.bound(1, "bob/tv").await;
    let waiting = cluster.managed_online(1, "bob/desk").await;
    let broken = waiting.break_connection();
    let api = Api::of(cluster.node(0)).await;
    let disable = "/api/v1/users/bob@localhost/disable";
    assert_eq!(api.call("POST", disable, NOTHING).await.0, 204);
    here.expect_stream_error("not-authorized").await;
    there.expect_stream_error("not-authorized").await;
    rookery_tests::eventually("the session that waits to end", || async {
        let all = api.done("GET", "/api/v1/sessions", NOTHING).await;
        all["total"] == 0
    })
    .await;
    drop(broken);
    for node in 0..2 {
        let bob = cluster.node(node).login("bob").await;
        let (mut wire, features) = bob.connect(cluster.node(node).address("c2s")).await;
        let outcome = bob.try_authenticate(&mut wire, &features).await;
        assert!(
            outcome.child("account-disabled", SASL).is_some(),
            "{outcome:?}"
        );
    }
    let enable = "/api/v1/users/bob@localhost/enable";
    assert_eq!(api.call("POST", enable, NOTHING).await.0, 204);
    cluster.bound(1, "bob/tv").await.close().await;
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

/// The lines that a node has in its audit log: act, via, who, on, outcome.
fn audited(node: &TestServer) -> Vec<[String; 5]> {
    let data_dir = node.data_dir();
    let file = data_dir.parent().expect("a directory").join("audit.log");
    let text = std::fs::read_to_string(file).expect("it was made");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    lines
        .map(|line| ["act", "via", "who", "on", "outcome"].map(|name| field(&line, name)))
        .collect()
}

fn level(node: &str, level: &str) -> Value {
    json!({ "node": node, "status": 200, "answer": { "level": level } })
}

#[tokio::test]
async fn one_node_is_asked_for_another_or_for_all() {
    let cluster = TestCluster::with(3, &[&api::setting(), "audit.file=audit.log"]).await;
    all_know_each_other(&cluster).await;
    let api = Api::of(cluster.node(0)).await;
    let debug = json!({ "level": "debug" });
    let set = api.done("PUT", "/api/v1/log?node=node1", &debug).await;
    assert_eq!(set, debug);
    let all = api.done("GET", "/api/v1/log?node=*", NOTHING).await;
    let nodes = all["nodes"].as_array().expect("a list");
    assert_eq!(nodes.first(), Some(&level("node0", "info")));
    for expected in [level("node1", "debug"), level("node2", "info")] {
        assert!(nodes.contains(&expected), "{all}");
    }
    assert_eq!((nodes.len(), &all["unanswered"]), (3, &json!([])));

    // By its epoch, and itself.
    let status = api.done("GET", "/api/v1/nodes", NOTHING).await;
    for node in status["nodes"].as_array().expect("a list") {
        let path = format!("/api/v1/log?node={}", node["epoch"].as_str().expect("text"));
        let log = api.done("GET", &path, NOTHING).await;
        let is_changed = node["name"] == "node1";
        assert_eq!(log["level"], if is_changed { "debug" } else { "info" });
    }
    let theirs = api
        .done("GET", "/api/v1/certificate?node=node2", NOTHING)
        .await;
    let own = Api::of(cluster.node(2))
        .await
        .done("GET", "/api/v1/certificate", NOTHING)
        .await;
    assert_eq!(theirs, own);

    // What is refused there is refused here, and a level that is none is no level anywhere.
    for node in ["node1", "*"] {
        let path = format!("/api/v1/log?node={node}");
        let (status, problem) = api.call("PUT", &path, &json!({ "level": "loud" })).await;
        assert_eq!((status, &problem["field"]), (400, &json!("level")));
    }
    let (status, problem) = api.call("GET", "/api/v1/log?node=node7", NOTHING).await;
    assert_eq!((status, &problem["field"]), (404, &json!("node")));

    let reloaded = cluster
        .node(2)
        .cli(&["config", "reload", "--all-nodes"])
        .await;
    assert!(reloaded.status.success(), "{reloaded:?}");
    let text = String::from_utf8_lossy(&reloaded.stdout).into_owned();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "node0: no live setting has changed",
            "node1: taken over: log.level",
            "node2: no live setting has changed"
        ]
    );

    let acts = |node: usize| -> Vec<[String; 5]> {
        let mut acts = audited(cluster.node(node));
        acts.retain(|[_, _, _, _, outcome]| outcome == "ok");
        for [_, _, who, _, _] in &mut acts {
            // Addresses and users of the system are as they are.
            *who = who.split_once(" at ").map_or("", |(_, at)| at).to_owned();
        }
        acts
    };
    assert_eq!(
        acts(0),
        [
            ["log-level", "api", "", "debug at node node1", "ok"],
            ["config-reload", "cli", "node node2", "", "ok"]
        ]
    );
    assert_eq!(
        acts(1),
        [
            ["log-level", "api", "node node0", "debug", "ok"],
            ["config-reload", "cli", "node node2", "", "ok"]
        ]
    );
    assert_eq!(
        acts(2),
        [["config-reload", "cli", "", "at all nodes", "ok"]]
    );
}

#[tokio::test]
async fn another_node_is_drained() {
    let cluster = TestCluster::with(2, &[&api::setting()]).await;
    all_know_each_other(&cluster).await;
    let alice = cluster.bound(0, "alice/desk").await;
    let mut bob = cluster.bound(1, "bob/phone").await;
    let drain = cluster.node(0).cli(&["drain", "--node", "node1"]).await;
    assert!(drain.status.success(), "{drain:?}");
    let said = String::from_utf8_lossy(&drain.stdout).into_owned();
    assert!(said.contains("node node1 is not ready any more"), "{said}");
    assert!(said.contains("no session is left"), "{said}");
    bob.expect_stream_error("system-shutdown").await;
    let ready = cluster.node(1).admin("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains(r#"["draining"]"#), "{}", ready.body);
    let ready = cluster.node(0).admin("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    alice.close().await;
}

/// A session that nobody resumes is left, and its number is told.
#[tokio::test]
async fn a_drain_of_another_node_that_runs_out_of_time_says_what_is_left() {
    let cluster = TestCluster::with(2, &[]).await;
    all_know_each_other(&cluster).await;
    let drain = ["drain", "--node", "node1", "--timeout", "1s"];
    one_is_left_by_a_drain(&cluster, 0, &drain).await;
}

#[tokio::test]
async fn a_node_that_cannot_be_asked_for_something_is_named() {
    let cluster = TestCluster::with(2, &[&api::setting(), "cluster.lease=1m"]).await;
    all_know_each_other(&cluster).await;
    cluster.node(1).signal("STOP");
    let api = Api::of(cluster.node(0)).await;
    let debug = json!({ "level": "debug" });
    let set = api.done("PUT", "/api/v1/log?node=*", &debug).await;
    assert_eq!(
        set,
        json!({
            "nodes": [level("node0", "debug")],
            "unanswered": [{ "node": "node1", "reason": "did not answer" }]
        })
    );
    let (status, problem) = api.call("GET", "/api/v1/log?node=node1", NOTHING).await;
    assert_eq!((status, &problem["field"]), (503, &json!("node")));
    assert_eq!(problem["detail"], "node node1 did not answer");
    let listed = cluster.node(0).cli(&["log", "level", "--all-nodes"]).await;
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "node0: debug\n");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("node node1 did not answer"));
    cluster.node(1).signal("CONT");
    // What it was asked while it was stopped, it does now.
    rookery_tests::eventually("the level to change", || async {
        let log = cluster.node(1).cli(&["log", "level"]).await;
        log.stdout == b"debug\n"
    })
    .await;
}

#[tokio::test]
async fn nodes_of_one_name_are_told_apart_by_their_epochs() {
    let cluster = TestCluster::with(2, &[&api::setting(), "cluster.node=twin"]).await;
    all_know_each_other(&cluster).await;
    let api = Api::of(cluster.node(0)).await;
    let (status, problem) = api.call("GET", "/api/v1/log?node=twin", NOTHING).await;
    assert_eq!((status, &problem["field"]), (409, &json!("node")));
    let status = api.done("GET", "/api/v1/nodes", NOTHING).await;
    for node in status["nodes"].as_array().expect("a list") {
        let epoch = node["epoch"].as_str().expect("text");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(epoch), "{detail}");
    }
    // The other one is drained, and watched.
    let nodes = status["nodes"].as_array().expect("a list");
    let other = nodes.iter().find(|node| node["this"] == false);
    let other = other.expect("two nodes")["epoch"].as_str().expect("text");
    let alice = cluster.bound(0, "alice/desk").await;
    let mut bob = cluster.bound(1, "bob/phone").await;
    let drain = cluster.node(0).cli(&["drain", "--node", other]).await;
    assert!(drain.status.success(), "{drain:?}");
    bob.expect_stream_error("system-shutdown").await;
    alice.close().await;
}
