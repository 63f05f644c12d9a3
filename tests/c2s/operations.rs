//! What an operator sees of a running server: health, metrics, the end.

use rookery_tests::http;
use rookery_tests::prelude::*;

#[tokio::test]
async fn health_and_readiness_are_told() {
    let server = TestServer::start().await;
    assert_eq!(server.admin("/healthz").await.status, 200);
    rookery_tests::eventually("readiness", || async {
        server.admin("/readyz").await.status == 200
    })
    .await;
    assert_eq!(server.admin("/nowhere").await.status, 404);
    // They are for the operator, not for the world.
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(http::get(server.address("http"), path).await.status, 404);
    }
}

/// Every family of numbers that the issue names is there from the start, with 0.
#[tokio::test]
async fn metrics_are_there_from_the_start() {
    let server = TestServer::start().await;
    let response = server.admin("/metrics").await;
    assert_eq!(response.status, 200);
    for name in METRICS {
        assert!(
            response.body.lines().any(|line| line.starts_with(name)),
            "{name} is not in:\n{}",
            response.body
        );
    }
    assert!(
        response
            .body
            .lines()
            .filter(|l| !l.starts_with('#'))
            .all(|l| !l.contains('@')),
        "no JIDs in labels"
    );
}

const METRICS: &[&str] = &[
    "rookery_streams",
    "rookery_sessions",
    "rookery_stanzas_total",
    "rookery_logins_total",
    "rookery_login_seconds_bucket",
    "rookery_delivery_seconds_bucket",
    "rookery_mailbox_overflows_total",
    "rookery_storage_commit_rows_bucket",
    "rookery_storage_commit_seconds_bucket",
];

/// The numbers are real.
#[tokio::test]
async fn metrics_count_what_happens() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let login = Login::new("alice", "wrong");
    let (mut wire, features) = login.connect(server.address("c2s")).await;
    login.try_authenticate(&mut wire, &features).await;
    drop(wire);
    for number in 0..10 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
    }
    assert!((server.metric("rookery_sessions", "").await - 2.0).abs() < 0.1);
    assert!(server.metric("rookery_delivery_seconds_count", "").await >= 10.0);
    assert!(
        server
            .metric("rookery_logins_total", "outcome=\"ok\"")
            .await
            >= 2.0
    );
    assert!(server.metric("rookery_logins_total", "").await >= 3.0);
    assert!(server.metric("rookery_stanzas_total", "message").await >= 10.0);
    alice.close().await;
    bob.close().await;
    rookery_tests::eventually("the sessions' end to be counted", || async {
        server.metric("rookery_sessions", "").await.abs() < 0.1
    })
    .await;
}

/// RFC 6120 §4.9.3.20
#[tokio::test]
async fn sigterm_tells_clients_and_ends_with_status_0() {
    let mut server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut web = server.online_by("bob/web", Security::WebSocket).await;
    let mut wire = server.tcp().await;
    wire.open("localhost").await;
    server.signal("TERM");
    alice.expect_stream_error("system-shutdown").await;
    web.expect_stream_error("system-shutdown").await;
    wire.expect_stream_error("system-shutdown").await;
    assert_eq!(server.ended().await.code(), Some(0));
}

/// What was acknowledged before SIGTERM is there after it.
#[tokio::test]
async fn a_clean_end_loses_nothing() {
    let mut server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for number in 0..100 {
        alice
            .send(chat_to("bob@localhost", &number.to_string()))
            .await;
    }
    alice.expect_nothing().await;
    server.signal("TERM");
    alice.expect_stream_error("system-shutdown").await;
    assert!(server.ended().await.success());
    drop(alice);
    server.come_back().await;
    let mut bob = server.online("bob/phone").await;
    for number in 0..100 {
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
    }
}

#[tokio::test]
async fn sigint_is_as_good_as_sigterm() {
    let mut server = TestServer::start().await;
    server.signal("INT");
    assert_eq!(server.ended().await.code(), Some(0));
}

/// A log is for the operator; what people write and their passwords are not in it.
#[tokio::test]
async fn logs_hold_neither_passwords_nor_messages() {
    let server = TestServer::with(&["log.level=trace"]).await;
    let mut alice = server.online("alice/desk").await;
    let login = server.login("alice").await.mechanism("PLAIN");
    login.bind(server.address("c2s")).await.close().await;
    let mut bob = server.online("bob/phone").await;
    alice
        .send(chat_to("bob@localhost", "between you and me"))
        .await;
    bob.expect(chat_from("alice@localhost/desk", "between you and me"))
        .await;
    alice
        .send(chat_to("carol@localhost", "to nobody").with_attr("id", "n"))
        .await;
    alice
        .expect(Pattern::new("message").id("n").error("service-unavailable"))
        .await;
    let log = server.log();
    for secret in [
        "between you and me",
        "to nobody",
        "secret of alice",
        "AGFsaWNl",
    ] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
}

/// Several served domains are apart, and know each other.
#[tokio::test]
async fn several_domains_are_served_by_one_server() {
    let server = TestServer::with(&[r#"server.domains=["localhost","other.example"]"#]).await;
    let mut alice = server.online("alice/desk").await;
    let jid = "alice@other.example";
    let added = server
        .cli_with_input(&["user", "add", jid, "--password-stdin"], "x y z")
        .await;
    assert!(added.status.success(), "{added:?}");
    let login = Login::new("alice", "x y z")
        .domain("other.example")
        .resource("desk");
    let mut other = login.bind(server.address("c2s")).await;
    assert_eq!(other.jid(), "alice@other.example/desk");
    other.become_available().await;
    other.send(chat_to("alice@localhost", "namesake")).await;
    alice
        .expect(chat_from("alice@other.example/desk", "namesake"))
        .await;
    alice.send(chat_to("alice@other.example", "hello")).await;
    other
        .expect(chat_from("alice@localhost/desk", "hello"))
        .await;
    alice.expect_nothing().await;
}
