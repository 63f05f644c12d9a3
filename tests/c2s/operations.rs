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

/// Every message that the server took ended in one of the ways that it counts.
#[tokio::test]
async fn messages_are_accounted_for() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    server.add_user("carol").await;
    for number in 0..20 {
        alice
            .send(chat_to("bob@localhost/phone", &number.to_string()))
            .await;
        bob.expect(message_from("alice@localhost/desk")).await;
    }
    for number in 0..5 {
        alice
            .send(chat_to("carol@localhost", &number.to_string()))
            .await;
    }
    for _ in 0..3 {
        alice
            .send(chat_to("nobody@localhost", "hi").with_attr("id", "n"))
            .await;
        alice
            .expect(Pattern::new("message").id("n").error("service-unavailable"))
            .await;
    }
    for _ in 0..2 {
        alice.send(message("headline", "carol@localhost")).await;
    }
    // Of the moment only, so that no log has it.
    for _ in 0..4 {
        let typing = Element::new("composing", "http://jabber.org/protocol/chatstates");
        alice
            .send(message("chat", "bob@localhost/phone").with_child(typing))
            .await;
        bob.expect(message_from("alice@localhost/desk")).await;
    }
    alice.expect_nothing().await;
    rookery_tests::eventually("all messages to have ended", || async {
        server
            .metric("rookery_stanzas_total", "kind=\"message\"")
            .await
            > 33.5
    })
    .await;
    let accepted = server
        .metric("rookery_stanzas_accepted_total", "kind=\"message\"")
        .await;
    assert!((accepted - 34.0).abs() < 0.1, "{accepted}");
    let metrics = server.admin("/metrics").await.body;
    // Each once. What is in the log is stored, also if it was delivered at once.
    for (outcome, expected) in [
        ("delivered", 4.0),
        ("stored", 25.0),
        ("bounced", 3.0),
        ("dropped", 2.0),
    ] {
        let labels = format!("kind=\"message\",outcome=\"{outcome}\"");
        let counted = http::metric(&metrics, "rookery_stanzas_total", &labels).expect("a count");
        assert!(
            (counted - expected).abs() < 0.1,
            "{outcome}: {counted}, not {expected}"
        );
    }
}

/// The certificate that a new connection sees.
async fn certificate(server: &TestServer) -> Vec<u8> {
    let config = rookery_tests::tls::client_config(rustls::ALL_VERSIONS, &[]);
    let wire = Wire::direct_tls(server.address("c2s_direct_tls"), config).await;
    let chain = wire
        .tls()
        .expect("TLS")
        .peer_certificates()
        .expect("a certificate");
    chain[0].to_vec()
}

/// A renewed certificate needs no new start; a bad one changes nothing.
#[tokio::test]
async fn a_certificate_that_changes_is_read_again() {
    let (one, other) = (TestServer::start().await, TestServer::start().await);
    let pair =
        |server: &TestServer| std::fs::read(server.data_dir().join("self-signed.pem")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pair.pem");
    std::fs::write(&file, pair(&one)).unwrap();
    let settings = ["certificate", "key"].map(|key| format!("tls.{key}={}", file.display()));
    let server = TestServer::with(&[&settings[0], &settings[1]]).await;
    let mut alice = server.online("alice/desk").await;
    assert_eq!(certificate(&server).await, certificate(&one).await);

    std::fs::write(&file, pair(&other)).unwrap();
    server.signal("HUP");
    let renewed = certificate(&other).await;
    rookery_tests::eventually("the new certificate", || async {
        certificate(&server).await == renewed
    })
    .await;
    std::fs::write(&file, "no certificate").unwrap();
    server.signal("HUP");
    rookery_tests::eventually("a word about it in the log", || async {
        server.log().matches("pair.pem").count() > 1
    })
    .await;
    assert_eq!(certificate(&server).await, renewed);
    alice.expect_nothing().await;
}

/// The PROXY protocol's header, version 2, for a client at 192.0.2.`host`.
fn proxy_header(host: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, host, 127, 0, 0, 1, 0x30, 0x39, 0x14, 0x66]);
    header
}

/// Behind a load balancer, limits count for the clients' addresses and not for the balancer's.
#[tokio::test]
async fn the_proxy_protocol_tells_whose_connection_it_is() {
    let server = TestServer::with(&[
        "c2s.proxy_protocol=v2",
        r#"c2s.proxy_trusted=["127.0.0.1/32"]"#,
        "limits.connections_per_address=2",
    ])
    .await;
    let mut open = Vec::new();
    for host in 1..=6 {
        let mut wire = server.tcp().await;
        wire.try_send(&proxy_header(host)).await.unwrap();
        wire.open("localhost").await;
        open.push(wire);
    }
    // Two of one address, and no third.
    for _ in 0..2 {
        let mut wire = server.tcp().await;
        wire.try_send(&proxy_header(9)).await.unwrap();
        wire.open("localhost").await;
        open.push(wire);
    }
    let mut third = server.tcp().await;
    let _ = third.try_send(&proxy_header(9)).await;
    let header = third.header_to("localhost");
    let _ = third.try_send(header.as_bytes()).await;
    assert!(
        third.expect_bytes_to_end().await < 1000,
        "a third is refused"
    );

    // No header, no stream.
    let mut bare = server.tcp().await;
    let _ = bare.try_send(header.as_bytes()).await;
    bare.expect_bytes_to_end().await;
}

/// Who is no load balancer cannot pretend to come from elsewhere.
#[tokio::test]
async fn the_proxy_protocol_is_for_trusted_peers() {
    let server = TestServer::with(&[
        "c2s.proxy_protocol=v2",
        r#"c2s.proxy_trusted=["192.0.2.0/24"]"#,
    ])
    .await;
    let mut wire = server.tcp().await;
    let _ = wire.try_send(&proxy_header(1)).await;
    assert_eq!(wire.expect_bytes_to_end().await, 0);
}
