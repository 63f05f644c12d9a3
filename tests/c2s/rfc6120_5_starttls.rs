//! RFC 6120 §5: TLS on a stream that began without.

use rookery_tests::client::mechanisms;
use rookery_tests::prelude::*;
use rookery_tests::tls::client_config;

const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// RFC 6120 §5.3.1
#[tokio::test]
async fn tls_is_required_and_nothing_else_is_offered_before_it() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    let features = wire.open("localhost").await;
    let starttls = features
        .child("starttls", TLS)
        .expect("STARTTLS is offered");
    assert!(starttls.child("required", TLS).is_some());
    assert_eq!(features.children().count(), 1, "{features:?}");
}

/// RFC 6120 §5.4.3.3
#[tokio::test]
async fn the_stream_after_tls_is_a_new_one_without_starttls() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    let header = wire.header_to("localhost");
    wire.send(&header).await;
    let before = wire.expect_header().await;
    wire.expect_features().await;
    assert!(wire.ask(STARTTLS).await.is("proceed", TLS));
    let mut wire = wire
        .start_tls(client_config(rustls::ALL_VERSIONS, &[]))
        .await;
    wire.send(&header).await;
    let after = wire.expect_header().await;
    let features = wire.expect_features().await;

    assert_ne!(before.attr("id"), after.attr("id"));
    assert!(features.child("starttls", TLS).is_none(), "{features:?}");
    assert!(!mechanisms(&features).is_empty());
}

/// RFC 6120 §5.3.4 and the injections that made others famous: what was sent along with
/// `<starttls/>` is not taken as if it had come over TLS.
#[tokio::test]
async fn nothing_pipelined_before_tls_survives_it() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    wire.open("localhost").await;
    let injected = wire.header_to("localhost");
    let proceed = wire
        .ask(&format!(
            "{STARTTLS}{injected}<auth xmlns='{SASL}' mechanism='PLAIN'>"
        ))
        .await;
    assert!(proceed.is("proceed", TLS));
    let secured = wire
        .try_start_tls(client_config(rustls::ALL_VERSIONS, &[]))
        .await;
    // Taking the injected bytes for TLS and giving up on them is as good as forgetting them.
    if let Ok(mut wire) = secured {
        wire.open("localhost").await;
        let answer = wire
            .ask(&format!("<auth xmlns='{SASL}' mechanism='NONSENSE'/>"))
            .await;
        assert!(
            answer.is("failure", SASL),
            "the stream under TLS is its own: {answer:?}"
        );
    }
}

/// RFC 6120 §5.4.2.2
#[tokio::test]
async fn a_handshake_that_fails_ends_the_connection_and_nothing_else() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut wire = server.tcp().await;
    wire.open("localhost").await;
    assert!(wire.ask(STARTTLS).await.is("proceed", TLS));
    wire.restart();
    wire.send("this is no ClientHello, whichever way it is read")
        .await;
    // An alert may come before the end; it is no XML, so only the bytes' end is looked at.
    wire.expect_bytes_to_end().await;
    alice.expect_nothing().await;
}

/// RFC 6120 §5.3.1: a server that requires TLS does not go on without it.
#[tokio::test]
async fn login_before_tls_is_refused() {
    let server = TestServer::start().await;
    server.add_user("alice").await;
    let mut wire = server.tcp().await;
    wire.open("localhost").await;
    let message = rookery_tests::scram::base64("\0alice\0secret of alice");
    wire.send(&rookery_tests::client::auth("PLAIN", &message))
        .await;
    match wire.next().await {
        Event::Element(answer) if answer.is("failure", SASL) => {
            assert!(
                answer.child("encryption-required", SASL).is_some(),
                "{answer:?}"
            );
        }
        other => panic!("expected <failure/>, received {other:?}"),
    }
}

/// A second STARTTLS inside TLS is no feature of the stream.
#[tokio::test]
async fn starttls_inside_tls_ends_the_stream() {
    let server = TestServer::start().await;
    let (mut wire, _) = server
        .login("alice")
        .await
        .connect(server.address("c2s"))
        .await;
    wire.send(STARTTLS).await;
    let answer = wire.expect_element().await;
    assert!(
        answer.is("failure", TLS) || answer.is("error", STREAM),
        "{answer:?}"
    );
    wire.expect_close().await;
}

#[tokio::test]
async fn tls_1_2_and_1_3_both_lead_to_a_login() {
    let server = TestServer::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for security in [Security::StartTls, Security::DirectTls] {
            let config = client_config(&[version], &["xmpp-client"]);
            let login = server.login("alice").await.tls(config).security(security);
            let mut alice = login.bind(server.address(security.listener())).await;
            let tls = alice.wire().tls().expect("TLS").protocol_version();
            assert_eq!(tls, Some(version.version));
            alice.become_available().await;
            alice.close().await;
        }
    }
}

/// Where TLS is optional it is offered and not required, and PLAIN waits for it.
#[tokio::test]
async fn optional_tls_is_optional() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut wire = server.tcp().await;
    let features = wire.open("localhost").await;
    let starttls = features
        .child("starttls", TLS)
        .expect("STARTTLS is offered");
    assert!(starttls.child("required", TLS).is_none());
    let mut offered = mechanisms(&features);
    offered.sort();
    assert_eq!(offered, ["SCRAM-SHA-1", "SCRAM-SHA-256"]);

    for security in [Security::Plain, Security::StartTls] {
        server.online_by("alice/desk", security).await.close().await;
    }
}

#[tokio::test]
async fn disabled_tls_is_not_offered() {
    let server = TestServer::with(&["c2s.tls=disabled"]).await;
    let mut wire = server.tcp().await;
    let features = wire.open("localhost").await;
    assert!(features.child("starttls", TLS).is_none(), "{features:?}");
    server
        .online_by("alice/desk", Security::Plain)
        .await
        .close()
        .await;
}
