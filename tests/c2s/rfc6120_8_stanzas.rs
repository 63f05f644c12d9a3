//! RFC 6120 §8: what a stanza's attributes mean, and what becomes of malformed ones; §10: routing.

use rookery_tests::prelude::*;

/// RFC 6120 §8.1.2.1
#[tokio::test]
async fn stanzas_carry_the_senders_full_jid() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    for from in [
        None,
        Some("alice@localhost/desk"),
        Some("alice@localhost"),
        Some("alice@localhost/other"),
        Some("ALICE@localhost"),
    ] {
        let mut stanza = chat_to("bob@localhost", "hi");
        if let Some(from) = from {
            stanza.set_attr("from", from);
        }
        alice.send(stanza).await;
        bob.expect(chat_from("alice@localhost/desk", "hi")).await;
    }
}

/// RFC 6120 §4.9.3.9
#[tokio::test]
async fn a_stanza_in_somebody_elses_name_ends_the_stream() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    for from in [
        "bob@localhost/phone",
        "localhost",
        "alice@elsewhere.example",
        "alice@localhost@x",
    ] {
        let mut alice = server.online("alice/desk").await;
        alice
            .send(chat_to("bob@localhost", "forged").with_attr("from", from))
            .await;
        if from.ends_with("@x") {
            // No address at all: the stanza is refused, or the stream.
            match alice.wire().next().await {
                Event::Element(e) => assert!(
                    e.is("error", STREAM) || e.attr("type") == Some("error"),
                    "{e:?}"
                ),
                other => panic!("{other:?}"),
            }
        } else {
            alice.expect_stream_error("invalid-from").await;
        }
    }
    bob.expect_nothing().await;
}

/// RFC 6120 §8.3.3.8
#[tokio::test]
async fn an_address_that_is_none_is_refused_as_jid_malformed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    for to in [
        "@localhost",
        "bob@",
        "bob@localhost/",
        "b ob@localhost",
        "a\"b@localhost",
        "bob@lo cal",
        "&lt;@localhost",
        "",
    ] {
        alice
            .send_raw(&format!(
                "<message id='m' to='{to}' type='chat'><body>hi</body></message>"
            ))
            .await;
        alice
            .expect(Pattern::new("message").id("m").error("jid-malformed"))
            .await;
        alice
            .send_raw(&format!(
                "<iq id='i' to='{to}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>"
            ))
            .await;
        alice.expect(error_of("i", "jid-malformed")).await;
    }
}

/// RFC 6120 §8.2.3
#[tokio::test]
async fn malformed_iqs_are_bad_requests() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    for iq in [
        "<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='i' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='i' type='ask' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='i' type='get' to='localhost'/>",
        "<iq id='i' type='set' to='localhost'/>",
        "<iq id='i' type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/><ping xmlns='urn:xmpp:ping'/></iq>",
    ] {
        alice.send_raw(iq).await;
        let error = alice.expect(Pattern::new("iq").error("bad-request")).await;
        if iq.contains("id=") {
            assert_eq!(error.attr("id"), Some("i"));
        }
    }
    alice.expect_nothing().await;
}

/// RFC 6120 §8.2.3: results and errors are never answered.
#[tokio::test]
async fn stray_results_and_errors_are_ignored() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    for to in [
        "",
        "to='localhost'",
        "to='alice@localhost'",
        "to='bob@localhost'",
        "to='bob@localhost/x'",
        "to='nobody@localhost'",
        "to='remote.invalid'",
    ] {
        alice
            .send_raw(&format!("<iq id='r' type='result' {to}/>"))
            .await;
        alice
            .send_raw(&format!(
                "<iq id='e' type='error' {to}><error type='cancel'><item-not-found \
             xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            ))
            .await;
        alice
            .send_raw(&format!(
                "<message id='m' type='error' {to}><error type='cancel'><gone \
             xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
            ))
            .await;
    }
    alice.expect_nothing().await;
}

/// RFC 6120 §8.4, RFC 6121 §8.5
#[tokio::test]
async fn an_unknown_request_gets_service_unavailable_whoever_is_asked() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    let unknown = || Element::new("query", "urn:example:unknown");
    for to in [
        None,
        Some("localhost"),
        Some("localhost/somewhere"),
        Some("alice@localhost"),
        Some("bob@localhost"),
        Some("bob@localhost/away"),
        Some("nobody@localhost"),
        Some("nobody@localhost/away"),
    ] {
        for mut iq in [get(unknown()), set(unknown())] {
            if let Some(to) = to {
                iq.set_attr("to", to);
            }
            let error = alice.refused(iq, "service-unavailable").await;
            if let Some(to) = to {
                assert_eq!(error.attr("from"), Some(to));
            }
            assert_eq!(error.attr("to"), Some("alice@localhost/desk"));
        }
    }
}

/// RFC 6120 §10.5.4: without federation, other domains are not found.
#[tokio::test]
async fn another_domain_is_not_found() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let ping = get(Element::new("ping", PING)).with_attr("to", "remote.invalid");
    alice.refused(ping, "remote-server-not-found").await;
    alice
        .send(chat_to("bob@remote.invalid", "hi").with_attr("id", "m"))
        .await;
    let error = Pattern::new("message").from("bob@remote.invalid").id("m");
    alice.expect(error.error("remote-server-not-found")).await;
}

/// RFC 6120 §10.5.3.2: requests and answers pass between two resources.
#[tokio::test]
async fn a_request_to_a_resource_is_answered_by_it() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let question = get(Element::new("query", "urn:example:q").with_attr("node", "n&n"));
    alice
        .send(
            question
                .with_attr("id", "q1")
                .with_attr("to", "bob@localhost/phone"),
        )
        .await;
    let asked = bob
        .expect(
            Pattern::new("iq")
                .kind("get")
                .id("q1")
                .from("alice@localhost/desk")
                .has("query", "urn:example:q"),
        )
        .await;
    assert_eq!(asked.children().next().unwrap().attr("node"), Some("n&n"));
    let answer = element("iq")
        .with_attr("type", "result")
        .with_attr("id", "q1");
    bob.send(answer.with_attr("to", "alice@localhost/desk"))
        .await;
    alice
        .expect(result_of("q1").from("bob@localhost/phone"))
        .await;
}

/// RFC 6120 §8.1.5
#[tokio::test]
async fn the_streams_language_is_inherited() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    // The harness opens its streams in English.
    alice.send(chat_to("bob@localhost", "hi")).await;
    bob.expect(chat_from("alice@localhost/desk", "hi").attr("xml:lang", "en"))
        .await;
    alice
        .send(chat_to("bob@localhost", "moin").with_attr("xml:lang", "de"))
        .await;
    bob.expect(chat_from("alice@localhost/desk", "moin").attr("xml:lang", "de"))
        .await;
}

/// RFC 6120 §8.1.1.1: a message without an address is for the sender's own account.
#[tokio::test]
async fn a_message_without_to_goes_to_the_own_account() {
    let server = TestServer::start().await;
    let mut desk = server.online("alice/desk").await;
    let mut phone = server.online("alice/phone").await;
    desk.send_raw("<message type='chat'><body>note</body></message>")
        .await;
    desk.expect(chat_from("alice@localhost/desk", "note")).await;
    phone
        .expect(chat_from("alice@localhost/desk", "note"))
        .await;
}

/// RFC 6121 §4.7.1, RFC 6120 §8.3.3.1
#[tokio::test]
async fn presence_of_an_unknown_type_is_a_bad_request() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice.send_raw("<presence id='p' type='available'/>").await;
    alice
        .expect(Pattern::new("presence").id("p").error("bad-request"))
        .await;
}

/// RFC 6121 §5.2.2: a message of an unknown type is a normal one.
#[tokio::test]
async fn a_message_of_an_unknown_type_is_a_normal_one() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    alice
        .send(message("postcard", "bob@localhost").with_child(text("body", CLIENT, "hi")))
        .await;
    let received = bob
        .expect(message_from("alice@localhost/desk").body("hi"))
        .await;
    assert!(
        matches!(received.attr("type"), None | Some("normal")),
        "{received:?}"
    );
}

/// RFC 6120 §8.4, §11.7: what is inside a stanza is the business of those at its ends.
#[tokio::test]
async fn content_passes_unchanged() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let tabs = "a\tb\nc";
    alice
        .send_raw(&format!(
            "<message to='bob@localhost/phone' id='&lt;&amp;&#x27;&quot;' type='chat' \
         xmlns:x='urn:x' x:extra='kept'>\
         <body>{tabs} &amp;&lt;&gt;&#233;&#x1F600;<![CDATA[<raw>&amp;]]></body>\
         <x:a x:b='1' c='2'><d xmlns='urn:d'/><e xmlns=''/></x:a>\
         <f xmlns='urn:f' xml:lang='fr' g=\"it's\"> <h/> </f></message>"
        ))
        .await;
    let received = bob
        .expect(message_from("alice@localhost/desk").id("<&'\""))
        .await;
    assert_eq!(
        received.child("body", CLIENT).unwrap().text(),
        format!("{tabs} &<>é😀<raw>&amp;")
    );
    let a = received
        .child("a", "urn:x")
        .expect("the prefix kept its meaning");
    assert_eq!(a.attr("c"), Some("2"));
    assert!(a.child("d", "urn:d").is_some());
    assert!(a.child("e", "").is_some());
    let f = received.child("f", "urn:f").unwrap();
    assert_eq!(
        (f.attr("xml:lang"), f.attr("g")),
        (Some("fr"), Some("it's"))
    );
    assert_eq!(f.text(), "  ");
}

/// RFC 6120 §4.8.3: a prefix declared on the stream header means the same on the recipient's stream.
#[tokio::test]
async fn a_prefix_of_the_stream_header_keeps_its_meaning() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online("bob/phone").await;
    let login = server.login("alice").await.security(Security::Plain);
    let (mut wire, features) = login.connect(server.address("c2s")).await;
    assert!(
        login
            .try_authenticate(&mut wire, &features)
            .await
            .is("success", SASL)
    );
    wire.restart();
    wire.send(
        "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:ext='urn:ext' \
         xmlns:stream='http://etherx.jabber.org/streams'>",
    )
    .await;
    wire.expect_header().await;
    wire.expect_features().await;
    wire.ask("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        .await;
    wire.send("<message to='bob@localhost/phone' type='chat'><ext:mark/><x ext:y='z'/></message>")
        .await;
    let received = bob.expect(Pattern::new("message").kind("chat")).await;
    assert!(received.child("mark", "urn:ext").is_some(), "{received:?}");
    assert!(received.child("x", CLIENT).is_some(), "{received:?}");
}

/// RFC 6120 §10.1
#[tokio::test]
async fn stanzas_arrive_in_the_order_sent() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let mut all = String::new();
    for number in 0..500 {
        let to = if number % 3 == 0 {
            "bob@localhost"
        } else {
            "bob@localhost/phone"
        };
        all.push_str(&chat_to(to, &number.to_string()).to_xml(CLIENT));
    }
    alice.send_raw(&all).await;
    for number in 0..500 {
        bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
            .await;
    }
}

/// RFC 6120 §8.3.1: an error does not echo what may be anything, but says who refused what.
#[tokio::test]
async fn an_error_names_the_stanza_that_it_answers() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    alice
        .send(chat_to("nobody@localhost", "hi").with_attr("id", "m1"))
        .await;
    let error = Pattern::new("message")
        .id("m1")
        .from("nobody@localhost")
        .to("alice@localhost/desk");
    let error = alice.expect(error.error("service-unavailable")).await;
    let kind = error.child("error", CLIENT).unwrap().attr("type");
    assert_eq!(kind, Some("cancel"));
}
