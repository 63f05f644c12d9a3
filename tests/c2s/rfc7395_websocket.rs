//! RFC 7395: XMPP over WebSocket.

use rookery_tests::http;
use rookery_tests::prelude::*;
use rookery_tests::wire::FRAMING;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn websockets_and_tcp_streams_meet() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/web", Security::WebSocket).await;
    let mut carol = server
        .online_by("carol/web", Security::SecureWebSocket)
        .await;
    let mut bob = server.online("bob/phone").await;
    alice
        .send(chat_to("bob@localhost", "from the web <&>"))
        .await;
    bob.expect(chat_from("alice@localhost/web", "from the web <&>"))
        .await;
    bob.send(chat_to("alice@localhost", "from tcp")).await;
    alice
        .expect(chat_from("bob@localhost/phone", "from tcp"))
        .await;
    carol
        .send(chat_to("alice@localhost/web", "from the secure web"))
        .await;
    alice
        .expect(chat_from("carol@localhost/web", "from the secure web"))
        .await;
    alice.close().await;
    carol.close().await;
}

/// Where TLS is required, a WebSocket needs it as well.
#[tokio::test]
async fn a_websocket_without_tls_cannot_log_in_where_tls_is_required() {
    let server = TestServer::start().await;
    let mut wire = Wire::websocket(server.address("http")).await;
    let header = wire.header_to("localhost");
    wire.send(&header).await;
    let mut offered = Vec::new();
    loop {
        match wire.next().await {
            Event::Element(e) if e.is("features", STREAM) => {
                offered = rookery_tests::client::mechanisms(&e);
                break;
            }
            Event::Open(_) => {}
            Event::Element(_) | Event::Close | Event::Eof => break,
        }
    }
    assert!(offered.is_empty(), "{offered:?}");
    server
        .online_by("alice/web", Security::SecureWebSocket)
        .await
        .close()
        .await;
}

/// RFC 7395 §3.4: the header is an element; no STARTTLS here (§3.3.1).
#[tokio::test]
async fn the_stream_opens_with_an_element() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut wire = Wire::websocket(server.address("http")).await;
    let header = wire.header_to("localhost");
    wire.send(&header).await;
    let open = wire.expect_header().await;
    assert_eq!(
        (open.attr("from"), open.attr("version")),
        (Some("localhost"), Some("1.0"))
    );
    assert!(open.attr("id").is_some());
    let features = wire.expect_features().await;
    assert!(features.child("starttls", TLS).is_none(), "{features:?}");
    wire.close().await;
}

/// RFC 7395 §3.3.3, §3.5: errors are elements of their own, with their namespaces.
#[tokio::test]
async fn stream_errors_come_as_messages() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let address = server.address("http");
    let open = |to: &str| format!("<open xmlns='{FRAMING}' to='{to}' version='1.0'/>");
    for (input, condition) in [
        (open("elsewhere.example"), "host-unknown"),
        ("<message xmlns='jabber:client'/>".to_owned(), ""),
        (
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' to='localhost'>"
                .to_owned(),
            "",
        ),
        (
            "<open xmlns='urn:wrong' to='localhost' version='1.0'/>".to_owned(),
            "",
        ),
        ("hello".to_owned(), ""),
    ] {
        let mut wire = Wire::websocket(address).await;
        wire.send(&input).await;
        let mut event = wire.next().await;
        if matches!(event, Event::Open(_)) {
            event = wire.next().await;
        }
        match event {
            Event::Element(error) if error.is("error", STREAM) => {
                assert!(
                    condition.is_empty() || error.child(condition, STREAM_ERRORS).is_some(),
                    "{error:?}"
                );
                wire.expect_close().await;
            }
            other => panic!("{input}: {other:?}"),
        }
    }
}

/// RFC 7395 §3.3.3: one stanza to a message, complete.
#[tokio::test]
async fn a_message_holds_one_whole_stanza() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online("bob/phone").await;
    for input in [
        "<message xmlns='jabber:client' to='bob@localhost'><body>half",
        "<message xmlns='jabber:client'/><message xmlns='jabber:client'/>",
        "<message xmlns='jabber:client'/>text",
        "<!-- comment -->",
        "<message xmlns='jabber:client'>&undefined;</message>",
        "",
    ] {
        let mut alice = server.bound_by("alice/web", Security::WebSocket).await;
        alice.wire().send(input).await;
        match alice.wire().next().await {
            Event::Element(error) if error.is("error", STREAM) => {}
            other => panic!("{input:?}: {other:?}"),
        }
        alice.vanish();
    }
    bob.expect_nothing().await;
}

/// RFC 7395 §3.3.3: stanzas need no namespace of their own on TCP, and have one here.
#[tokio::test]
async fn stanzas_declare_their_namespace_on_a_websocket() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/web", Security::WebSocket).await;
    let mut bob = server.online("bob/phone").await;
    bob.send_raw(
        "<message to='alice@localhost' type='chat'><body>a</body><x:y xmlns:x='urn:x'/></message>",
    )
    .await;
    // The harness reads each message without a default namespace.
    alice
        .expect(chat_from("bob@localhost/phone", "a").has("y", "urn:x"))
        .await;
}

/// RFC 7395 §3.2: XMPP is text.
#[tokio::test]
async fn binary_messages_are_refused() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut wire = Wire::websocket(server.address("http")).await;
    wire.open("localhost").await;
    wire.send_message(Message::binary(b"<presence/>".to_vec()))
        .await;
    loop {
        match wire.next().await {
            Event::Eof => break,
            Event::Element(error) => assert!(error.is("error", STREAM), "{error:?}"),
            Event::Close => {}
            Event::Open(header) => panic!("{header:?}"),
        }
    }
}

/// RFC 6455 §5.5.2, and messages in fragments.
#[tokio::test]
async fn pings_and_fragments_are_part_of_a_websocket() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/web", Security::WebSocket).await;
    let mut bob = server.online("bob/phone").await;
    alice
        .wire()
        .send_message(Message::Ping(b"are you there".to_vec().into()))
        .await;
    let stanza = chat_to("bob@localhost", "in pieces")
        .to_xml("")
        .into_bytes();
    let (head, tail) = stanza.split_at(20);
    let first = Frame::message(head.to_vec(), OpCode::Data(Data::Text), false);
    alice.wire().send_message(Message::Frame(first)).await;
    // A control frame may come between the pieces.
    alice
        .wire()
        .send_message(Message::Ping(b"still".to_vec().into()))
        .await;
    let last = Frame::message(tail.to_vec(), OpCode::Data(Data::Continue), true);
    alice.wire().send_message(Message::Frame(last)).await;
    bob.expect(chat_from("alice@localhost/web", "in pieces"))
        .await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional", "c2s.max_stanza_bytes=20000"]).await;
    let mut alice = server.online_by("alice/web", Security::WebSocket).await;
    alice
        .send(chat_to("alice@localhost", &"x".repeat(19_000)))
        .await;
    alice.expect(message_from("alice@localhost/web")).await;
    alice
        .send(chat_to("alice@localhost", &"x".repeat(30_000)))
        .await;
    alice.expect_end_in("policy-violation").await;
}

/// RFC 7395 §3.1: the subprotocol is part of the handshake.
#[tokio::test]
async fn a_handshake_that_does_not_speak_xmpp_is_refused() {
    let server = TestServer::start().await;
    let http = server.address("http");
    let handshake = |extra: &str| {
        format!(
            "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        )
    };
    for extra in ["", "Sec-WebSocket-Protocol: chat\r\n"] {
        let response = http::send(http, &handshake(extra)).await;
        assert_eq!(response.status, 400, "{response:?}");
    }
    let plain = http::get(http, "/xmpp-websocket").await;
    assert!((400..500).contains(&plain.status), "{plain:?}");
    assert_eq!(http::get(http, "/nowhere").await.status, 404);
}

/// A site that is not allowed cannot use its visitors' browsers.
#[tokio::test]
async fn other_origins_are_refused_where_some_are_named() {
    let server = TestServer::with(&[r#"http.allowed_origins=["https://chat.example.org"]"#]).await;
    let handshake = "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\
         Origin: https://evil.example\r\n\r\n";
    let response = http::send(server.address("http"), handshake).await;
    assert_eq!(response.status, 403, "{response:?}");
}

/// XEP-0156 §3: where the WebSocket is.
#[tokio::test]
async fn host_meta_tells_where_the_websocket_is() {
    let server = TestServer::start().await;
    let tls_port = server.address("http_tls").port();
    for path in ["/.well-known/host-meta", "/.well-known/host-meta.json"] {
        let response = http::get(server.address("http"), path).await;
        assert_eq!(response.status, 200, "{response:?}");
        assert!(
            response.body.contains("urn:xmpp:alt-connections:websocket"),
            "{response:?}"
        );
        assert!(
            response
                .body
                .contains(&format!("wss://localhost:{tls_port}/xmpp-websocket")),
            "{response:?}"
        );
        let head = response.head.to_ascii_lowercase();
        assert!(
            head.contains("access-control-allow-origin: *"),
            "XEP-0156 §3.2: {head}"
        );
    }
}
