//! RFC 6120 §13.12 and the limits of `docs/configuration.md`: what one peer sends or does not read
//! costs bounded work and memory, and delays nobody else.

use std::time::{Duration, Instant};

use rookery_tests::prelude::*;
use rookery_tests::within;

/// Before login a stanza has 10,000 bytes at most.
#[tokio::test]
async fn a_large_stanza_before_login_ends_the_stream() {
    let server = TestServer::start().await;
    let (mut wire, _) = server
        .login("alice")
        .await
        .connect(server.address("c2s"))
        .await;
    let payload = "A".repeat(11_000);
    wire.send(&format!(
        "<auth xmlns='{SASL}' mechanism='PLAIN'>{payload}</auth>"
    ))
    .await;
    wire.expect_stream_error("policy-violation").await;
}

#[tokio::test]
async fn a_header_without_an_end_is_not_read_for_ever() {
    let server = TestServer::start().await;
    let mut wire = server.tcp().await;
    let header = format!("<stream:stream {}", "a='b' ".repeat(10_000));
    // The server may stop reading in the middle.
    let _ = wire.try_send(header.as_bytes()).await;
    wire.expect_bytes_to_end().await;
}

#[tokio::test]
async fn stanzas_up_to_the_limit_pass_and_larger_ones_end_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional", "c2s.max_stanza_bytes=20000"]).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    let sized = |bytes: usize| {
        let overhead = chat_to("bob@localhost", "x").to_xml(CLIENT).len() - 1;
        chat_to("bob@localhost", &"x".repeat(bytes - overhead))
    };
    alice.send(sized(20_000)).await;
    bob.expect(message_from("alice@localhost/desk")).await;
    alice.send(sized(20_001)).await;
    alice.expect_stream_error("policy-violation").await;
    bob.expect_nothing().await;
}

/// A stanza that never ends is given up at the limit, not when memory is full.
#[tokio::test]
async fn an_endless_stanza_ends_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    alice.send_raw("<message to='bob@localhost'><body>").await;
    let chunk = "x".repeat(64 << 10);
    for _ in 0..64 {
        if alice.wire().try_send(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    alice.expect_end_in("policy-violation").await;
    bob.expect_nothing().await;
}

#[tokio::test]
async fn deep_nesting_ends_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    alice
        .send_raw(&format!(
            "<message to='bob@localhost/phone'>{}</message>",
            nested(20)
        ))
        .await;
    bob.expect(message_from("alice@localhost/desk")).await;
    alice
        .send_raw(&format!(
            "<message to='bob@localhost/phone'>{}</message>",
            nested(10_000)
        ))
        .await;
    alice.expect_end_in("policy-violation").await;
    bob.expect_nothing().await;
}

#[tokio::test]
async fn too_many_attributes_end_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    for prefix in ["a", "xmlns:a"] {
        let mut alice = server.online_by("alice/desk", Security::Plain).await;
        let attributes: Vec<String> = (0..5_000).map(|n| format!("{prefix}{n}='{n}'")).collect();
        let attributes = attributes.join(" ");
        alice
            .send_raw(&format!(
                "<message to='bob@localhost'><x {attributes}/></message>"
            ))
            .await;
        alice.expect_end_in("policy-violation").await;
    }
    bob.expect_nothing().await;
}

/// A client that does not read is dropped, and nobody waits for it.
#[tokio::test]
async fn a_client_that_stops_reading_is_dropped_and_delays_nobody() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let mut bob = server.bound_by("bob/phone", Security::Plain).await;
    bob.send(presence()).await;
    let mut carol = server.online_by("carol/desk", Security::Plain).await;
    let before = server.resident_kib();

    let body = "x".repeat(100_000);
    let flood = message("headline", "bob@localhost/phone").with_child(text("body", CLIENT, &body));
    let flood = flood.to_xml(CLIENT);
    for number in 0..600 {
        alice.send_raw(&flood).await;
        if number % 20 == 0 {
            let start = Instant::now();
            alice
                .send(chat_to("carol@localhost", &number.to_string()))
                .await;
            carol
                .expect(chat_from("alice@localhost/desk", &number.to_string()))
                .await;
            let time = start.elapsed();
            assert!(
                time < Duration::from_secs(5),
                "carol waited {time:?} while bob slept"
            );
        }
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(
        grown < 64 << 10,
        "the server keeps {grown} KiB for one that does not read"
    );
    // Of 60 MB, bob gets what sockets and the server's queue held, and then the end.
    let received = bob.wire().expect_bytes_to_end().await;
    bob.vanish();
    assert!(
        received < 40_000_000,
        "{received} bytes were kept for one that does not read"
    );
    alice.expect_nothing().await;
    carol.expect_nothing().await;
}

/// A client that sends without end and reads nothing is slowed down, and delays nobody.
#[tokio::test]
async fn a_flood_of_requests_delays_nobody() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut mallory = server.bound_by("mallory/x", Security::Plain).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    let ping =
        "<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>".repeat(1000);
    let flood = async { while mallory.wire().try_send(ping.as_bytes()).await.is_ok() {} };
    let talk = async {
        for number in 0..50 {
            let start = Instant::now();
            alice
                .send(chat_to("bob@localhost", &number.to_string()))
                .await;
            bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
                .await;
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{:?}",
                start.elapsed()
            );
        }
    };
    tokio::select! {
        () = flood => panic!("the flood ended first"),
        () = talk => {}
    }
    mallory.vanish();
}

/// Connections that do not log in are limited for each address; who is logged in stays.
#[tokio::test]
async fn one_address_cannot_hold_any_number_of_unauthenticated_connections() {
    let server = TestServer::with(&["limits.connections_per_address=20"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut wire = server.tcp().await;
        let header = wire.header_to("localhost");
        let _ = wire.try_send(header.as_bytes()).await;
        match wire.next().await {
            Event::Open(_) => match wire.next().await {
                Event::Element(features) if features.is("features", STREAM) => open.push(wire),
                Event::Element(error) if error.is("error", STREAM) => refused += 1,
                other => panic!("{other:?}"),
            },
            Event::Element(_) | Event::Close | Event::Eof => refused += 1,
        }
    }
    assert!(
        (15..=20).contains(&open.len()),
        "{} open, {refused} refused",
        open.len()
    );
    alice.expect_nothing().await;
    drop(open);
    // The places are free again when the server has seen the ends.
    within("a free place", async {
        loop {
            let mut wire = server.tcp().await;
            let header = wire.header_to("localhost");
            let _ = wire.try_send(header.as_bytes()).await;
            if matches!(wire.next().await, Event::Open(_))
                && matches!(wire.next().await, Event::Element(e) if e.is("features", STREAM))
            {
                break;
            }
        }
    })
    .await;
}
