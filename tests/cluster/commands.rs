//! Commands that are about the cluster: draining a node, and looking at all of them.

use rookery_tests::prelude::*;

/// What `rookery cluster status --json` prints on a node.
async fn status(cluster: &TestCluster, node: usize) -> serde_json::Value {
    let output = cluster
        .node(node)
        .cli(&["cluster", "status", "--json"])
        .await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// How many sessions a node lists.
async fn sessions(cluster: &TestCluster, node: usize) -> Vec<serde_json::Value> {
    let words = ["session", "list", "--this-node", "--json"];
    let output = cluster.node(node).cli(&words).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The names of the nodes that a node knows.
fn names(status: &serde_json::Value) -> Vec<&str> {
    let nodes = status["nodes"].as_array().expect("an array");
    let mut names: Vec<_> = nodes.iter().filter_map(|n| n["name"].as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn each_node_tells_of_all_nodes() {
    let mut cluster = TestCluster::with(3, &["cluster.lease=1s"]).await;
    let bob = cluster.bound(1, "bob/phone").await;
    for node in 0..3 {
        rookery_tests::eventually("the nodes to see each other", || async {
            names(&status(&cluster, node).await) == ["node0", "node1", "node2"]
        })
        .await;
    }
    let seen = status(&cluster, 1).await;
    assert_eq!(seen["in_cluster"], true);
    assert_eq!(seen["fenced"], false);
    assert_eq!(seen["sessions"], 1);
    assert_eq!(seen["lease_ms"], 1000);
    for node in seen["nodes"].as_array().expect("an array") {
        assert_eq!(node["this"], node["name"] == "node1", "{node}");
        assert_eq!(node["lease"], "held");
        assert!(node["frames"].as_u64() >= Some(1), "{node}");
        let epoch = node["epoch"].as_str().expect("text");
        assert!(epoch.parse::<rookery_proto::cluster::Epoch>().is_ok());
    }
    assert_eq!(status(&cluster, 0).await["sessions"], 0);
    let text = cluster.node(1).cli(&["cluster", "status"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let own = text.lines().find(|line| line.starts_with("node1 "));
    assert!(
        own.expect("a line").ends_with("  held   this node"),
        "{text}"
    );
    assert!(text.contains("A lease lasts 1s without renewal."), "{text}");
    assert!(text.ends_with("Sessions here: 1\n"), "{text}");

    cluster.node_mut(2).kill();
    rookery_tests::eventually("the dead node to be gone", || async {
        names(&status(&cluster, 1).await) == ["node0", "node1"]
    })
    .await;
    bob.close().await;
}

/// A node that cannot reach Redis still answers its operator.
#[tokio::test]
async fn a_fenced_node_says_so() {
    let mut cluster = TestCluster::with(2, &["cluster.lease=1s"]).await;
    cluster.redis.kill();
    rookery_tests::eventually("the node to be fenced", || async {
        status(&cluster, 0).await["fenced"] == true
    })
    .await;
    let fenced = status(&cluster, 0).await;
    let nodes = fenced["nodes"].as_array().expect("an array");
    let own = nodes.iter().find(|node| node["this"] == true);
    assert_eq!(own.expect("this node")["lease"], "lapsed", "{fenced}");
    let text = cluster.node(0).cli(&["cluster", "status"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("This node is fenced"), "{text}");
}

/// `rookery drain`: sessions under stream management go on elsewhere, the others end; the node stays.
#[tokio::test]
async fn a_drained_node_sends_its_clients_elsewhere_and_stays() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    let mut carol = cluster.online(1, "carol/tv").await;
    befriend(&mut alice, &mut bob).await;
    befriend(&mut alice, &mut carol).await;
    bob.acknowledge().await;
    bob.expect_nothing().await;

    let mut drain = cluster.node(1).start_cli(&["drain"]);
    carol.expect_stream_error("system-shutdown").await;
    alice.expect(unavailable_from("carol@localhost/tv")).await;
    loop {
        match bob.wire().next().await {
            Event::Element(e) if e.is("a", SM) || e.is("r", SM) => {}
            Event::Eof => break,
            other => panic!("expected the connection's end, received {other:?}"),
        }
    }
    let broken = bob.break_connection();
    drain.says("1 session is left").await;
    let ready = cluster.node(1).admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(r#"["draining"]"#), "{}", ready.body);
    let waiting = sessions(&cluster, 1).await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert_eq!(waiting[0]["jid"], "bob@localhost/phone");
    assert_eq!(waiting[0]["state"], "waiting");

    alice.send(chat_to("bob@localhost", "meanwhile")).await;
    let mut bob = cluster.resume(0, broken).await;
    bob.expect(chat_from("alice@localhost/desk", "meanwhile"))
        .await;
    drain.says("no session is left").await;
    assert_eq!(drain.ended().await.code(), Some(0));
    assert!(sessions(&cluster, 1).await.is_empty());
    let moved = sessions(&cluster, 0).await;
    let bobs = moved.iter().find(|s| s["jid"] == "bob@localhost/phone");
    assert_eq!(bobs.expect("it moved")["state"], "connected");

    // It runs on, part of the cluster, and takes nobody.
    assert_eq!(status(&cluster, 1).await["sessions"], 0);
    assert_eq!(names(&status(&cluster, 0).await), ["node0", "node1"]);
    cluster.node(1).tcp().await.expect_eof().await;
    assert_eq!(cluster.node_mut(1).stop().await.code(), Some(0));
    alice.expect_nothing_from(&mut bob).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// A session that nobody resumes is left, and its number is told.
#[tokio::test]
async fn a_drain_that_runs_out_of_time_says_what_is_left() {
    let cluster = TestCluster::start(2).await;
    let drain = ["drain", "--timeout", "1s"];
    one_is_left_by_a_drain(&cluster, 1, &drain).await;
}

/// Somebody is on the second node, which is drained by a command on this one.
pub(crate) async fn one_is_left_by_a_drain(cluster: &TestCluster, on: usize, drain: &[&str]) {
    let bob = cluster.node(1).managed("bob/phone").await;
    let output = cluster.node(on).cli(drain).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("1 session is left after 1s"), "{error}");
    // It is not lost by that.
    cluster
        .resume(0, bob.break_connection())
        .await
        .close()
        .await;
}

/// With `--this-node`, the session that is on another node is not this node's to end.
#[tokio::test]
async fn a_node_ends_its_own_sessions() {
    let cluster = TestCluster::start(2).await;
    let mut bob = cluster.bound(1, "bob/phone").await;
    let kick = ["session", "kick", "--this-node", "bob@localhost"];
    let elsewhere = cluster.node(0).cli(&kick).await;
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    bob.expect_nothing().await;
    let here = cluster.node(1).cli(&kick).await;
    assert!(here.status.success(), "{here:?}");
    bob.expect_stream_error("policy-violation").await;
}

/// SIGTERM: load balancers see that a node of a cluster is not ready before its clients leave.
#[tokio::test]
async fn a_node_that_is_stopped_serves_on_for_a_moment() {
    let cluster = TestCluster::with(2, &["server.drain_delay=1h"]).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    cluster.node(0).signal("TERM");
    rookery_tests::eventually("the node not to be ready", || async {
        let ready = cluster.node(0).admin("/readyz").await;
        ready.status == 503 && ready.body.contains(r#"["stopping"]"#)
    })
    .await;
    let mut bob = cluster.online(0, "bob/phone").await;
    bob.send(chat_to("alice@localhost/desk", "still here?"))
        .await;
    alice
        .expect(chat_from("bob@localhost/phone", "still here?"))
        .await;
    alice.expect_nothing_from(&mut bob).await;
}
