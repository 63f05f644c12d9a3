//! RFC 6120 §4: opening and closing streams, and the errors that end them.

use rookery_tests::prelude::*;

const HEADER_END: &str = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

/// RFC 6120 §4.7
#[tokio::test]
async fn the_servers_header_names_the_domain_the_version_and_an_id() {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut wire = server.tcp().await;
        let header = wire.header_to("localhost");
        wire.send(&header).await;
        let header = wire.expect_header().await;
        assert_eq!(header.attr("from"), Some("localhost"));
        assert_eq!(header.attr("version"), Some("1.0"));
        assert!(header.attr("xml:lang").is_some(), "RFC 6120 §4.7.4");
        assert_eq!(header.attr("to"), None, "nobody said who they are");
        ids.push(header.attr("id").expect("an id").to_owned());
        wire.expect_features().await;
    }
    assert_ne!(ids[0], ids[1]);
    assert!(
        ids[0].len() >= 16,
        "an id cannot be guessed (RFC 6120 §4.7.3): {}",
        ids[0]
    );
}

/// RFC 6120 §4.7.2
#[tokio::test]
async fn a_client_that_says_who_it_is_is_addressed() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    wire.send(&format!(
        "<stream:stream from='alice@localhost' to='localhost' version='1.0' {HEADER_END}"
    ))
    .await;
    let header = wire.expect_header().await;
    assert_eq!(header.attr("to"), Some("alice@localhost"));
}

/// RFC 6120 §4.7.2: the first domain answers.
#[tokio::test]
async fn a_header_that_names_no_domain_gets_the_first_one() {
    let server = TestServer::with(&[r#"server.domains=["one.example","two.example"]"#]).await;
    let mut wire = server.tcp().await;
    wire.send(&format!("<stream:stream version='1.0' {HEADER_END}"))
        .await;
    assert_eq!(wire.expect_header().await.attr("from"), Some("one.example"));
    let mut wire = server.tcp().await;
    wire.send(&format!(
        "<stream:stream to='TWO.example' version='1.0' {HEADER_END}"
    ))
    .await;
    assert_eq!(wire.expect_header().await.attr("from"), Some("two.example"));
}

/// Each header is answered by a header and then this stream error (RFC 6120 §4.9.1.2).
async fn refused_header(server: &TestServer, header: &str, condition: &str) {
    let mut wire = server.tcp().await;
    wire.send(header).await;
    let answer = wire.expect_header().await;
    assert!(
        answer.attr("id").is_some(),
        "an error, too, comes in a proper stream"
    );
    wire.expect_stream_error(condition).await;
}

/// RFC 6120 §4.9.3.6
#[tokio::test]
async fn an_unknown_domain_is_refused_as_host_unknown() {
    let server = TestServer::start().await;
    let header = format!("<stream:stream to='elsewhere.example' version='1.0' {HEADER_END}");
    refused_header(&server, &header, "host-unknown").await;
}

/// RFC 6120 §4.9.3.10
#[tokio::test]
async fn other_namespaces_are_refused_as_invalid_namespace() {
    let server = TestServer::start().await;
    for header in [
        "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' \
         xmlns:stream='http://example.com/streams'>",
        "<stream:stream to='localhost' version='1.0' xmlns='jabber:server' \
         xmlns:stream='http://etherx.jabber.org/streams'>",
        "<stream:stream to='localhost' version='1.0' xmlns='urn:example' \
         xmlns:stream='http://etherx.jabber.org/streams'>",
    ] {
        refused_header(&server, header, "invalid-namespace").await;
    }
}

/// RFC 6120 §4.9.3.25
#[tokio::test]
async fn a_stream_without_a_version_is_refused() {
    let server = TestServer::start().await;
    let header = format!("<stream:stream to='localhost' {HEADER_END}");
    refused_header(&server, &header, "unsupported-version").await;
}

/// RFC 6120 §4.7.5
#[tokio::test]
async fn a_higher_version_is_answered_with_the_highest_that_we_speak() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    wire.send(&format!(
        "<stream:stream to='localhost' version='2.7' {HEADER_END}"
    ))
    .await;
    assert_eq!(wire.expect_header().await.attr("version"), Some("1.0"));
    wire.expect_features().await;
}

/// RFC 6120 §4.9.3.22, §11.6
#[tokio::test]
async fn another_encoding_than_utf8_is_refused() {
    let server = TestServer::start().await;
    let rest = format!("<stream:stream to='localhost' version='1.0' {HEADER_END}");
    let header = format!("<?xml version='1.0' encoding='ISO-8859-1'?>{rest}");
    refused_header(&server, &header, "unsupported-encoding").await;
    for declaration in [
        "<?xml version='1.0' encoding='utf-8'?>",
        "<?xml version=\"1.0\"?>\r\n",
        " ",
    ] {
        let mut wire = server.tcp().await;
        wire.send(&format!("{declaration}{rest}")).await;
        wire.expect_header().await;
        wire.expect_features().await;
    }
}

/// RFC 6120 §4.9.3.13
#[tokio::test]
async fn what_is_no_xml_is_refused_as_not_well_formed() {
    let server = TestServer::start().await;
    for input in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "<stream:stream <>",
        "<a></b>",
    ] {
        let mut wire = server.tcp().await;
        wire.send(input).await;
        let mut event = wire.next().await;
        if matches!(event, Event::Open(_)) {
            event = wire.next().await;
        }
        let Event::Element(error) = event else {
            panic!("{input}: {event:?}")
        };
        assert!(error.is("error", STREAM), "{input}: {error:?}");
        wire.expect_close().await;
    }
}

/// RFC 6120 §4.4
#[tokio::test]
async fn a_closed_stream_is_closed_by_the_server_too() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    wire.open("localhost").await;
    wire.close().await;

    server.online("alice/desk").await.close().await;
}

/// RFC 6120 §4.9.3.12: no stanza before the stream is authenticated.
#[tokio::test]
async fn a_stanza_before_login_ends_the_stream_as_not_authorized() {
    let server = TestServer::start().await;
    for stanza in [
        "<message to='alice@localhost'><body>hi</body></message>",
        "<presence/>",
        "<iq type='get' id='1' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>",
    ] {
        let mut wire = server.tcp().await;
        wire.open("localhost").await;
        wire.send(stanza).await;
        wire.expect_stream_error("not-authorized").await;
    }
}

/// RFC 6120 §4.9.3.24
#[tokio::test]
async fn an_unknown_element_ends_the_stream_as_unsupported_stanza_type() {
    let server = TestServer::start().await;
    for element in ["<pigeon/>", "<query xmlns='jabber:iq:roster'/>"] {
        let mut alice = server.online("alice/desk").await;
        alice.send_raw(element).await;
        alice.expect_stream_error("unsupported-stanza-type").await;
    }
}

/// RFC 6120 §4.9.3.4
#[tokio::test]
async fn a_stream_that_does_not_get_anywhere_times_out() {
    let server = TestServer::with(&["c2s.negotiation_timeout=1s"]).await;
    let mut silent = server.tcp().await;
    let mut open = server.tcp().await;
    open.open("localhost").await;
    let mut slow = server.tcp().await;
    slow.send("<stream:stream to='local").await;
    let (mut idle, _) = server
        .login("alice")
        .await
        .authenticate(server.address("c2s"))
        .await;

    open.expect_stream_error("connection-timeout").await;
    idle.expect_stream_error("connection-timeout").await;
    slow.expect_stream_error("connection-timeout").await;
    loop {
        // Whether a peer that never said a word is told so is left open.
        if matches!(silent.next().await, Event::Eof) {
            break;
        }
    }
}

/// The time to negotiate is over once a resource is bound.
#[tokio::test]
async fn a_bound_resource_may_be_silent() {
    let server = TestServer::with(&["c2s.negotiation_timeout=1s"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut other = server.tcp().await;
    other.open("localhost").await;
    other.expect_stream_error("connection-timeout").await;
    alice.expect_nothing().await;
}

/// RFC 6120 §4.6.1: white space between stanzas means nothing.
#[tokio::test]
async fn white_space_between_stanzas_keeps_the_stream_alive() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.send_raw(" \n\t ").await;
    alice.expect_nothing().await;
}

/// RFC 6120 §4.9.3.3 and style: bytes may come in any portions.
#[tokio::test]
async fn a_stream_that_comes_byte_by_byte_is_read_as_any_other() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    for byte in
        "<message to='bob@localhost/phone' type='chat'><body>&lt;é😀</body></message>".bytes()
    {
        alice.wire().try_send(&[byte]).await.unwrap();
    }
    bob.expect(chat_from("alice@localhost/desk", "<é😀")).await;
}
