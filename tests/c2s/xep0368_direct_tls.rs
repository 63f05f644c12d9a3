//! XEP-0368: TLS from the first byte.

use rookery_tests::prelude::*;
use rookery_tests::tls::client_config;

#[tokio::test]
async fn a_client_logs_in_over_direct_tls() {
    let server = TestServer::start().await;
    let alice = server.online_by("alice/desk", Security::DirectTls).await;
    alice.close().await;
}

/// XEP-0368 §4: the protocol is called xmpp-client, and clients need not name it.
#[tokio::test]
async fn alpn_is_answered_where_it_is_used() {
    let server = TestServer::start().await;
    let address = server.address("c2s_direct_tls");
    for (offered, chosen) in [
        (&["xmpp-client"][..], Some(&b"xmpp-client"[..])),
        (&["h2", "xmpp-client"], Some(b"xmpp-client")),
        (&[], None),
    ] {
        let config = client_config(rustls::ALL_VERSIONS, offered);
        let mut wire = Wire::direct_tls(address, config).await;
        assert_eq!(wire.tls().expect("TLS").alpn_protocol(), chosen);
        let features = wire.open("localhost").await;
        assert!(features.child("starttls", TLS).is_none(), "{features:?}");
    }
}

/// RFC 7301 §3.2: a client of another protocol is told so.
#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let server = TestServer::start().await;
    let config = client_config(rustls::ALL_VERSIONS, &["h2"]);
    let tcp = Wire::tcp(server.address("c2s_direct_tls")).await;
    let error = tcp
        .try_start_tls(config)
        .await
        .err()
        .expect("no protocol in common");
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
}

#[tokio::test]
async fn plain_text_on_the_direct_tls_port_ends_the_connection() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut wire = Wire::tcp(server.address("c2s_direct_tls")).await;
    let header = wire.header_to("localhost");
    wire.send(&header).await;
    wire.expect_bytes_to_end().await;
    alice.expect_nothing().await;
}
