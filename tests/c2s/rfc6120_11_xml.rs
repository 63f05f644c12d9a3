//! RFC 6120 §11: the XML that streams may hold. Each hostile input ends its own stream in the right
//! error, and nobody else notices.

use rookery_tests::prelude::*;

/// Input after login, and the conditions that may answer it.
const HOSTILE: &[(&str, &[&str])] = &[
    // §11.1: restricted XML.
    ("<!-- a comment -->", RESTRICTED),
    ("<message><!-- a comment --></message>", RESTRICTED),
    ("<?php echo 1 ?>", RESTRICTED),
    ("<message><?pi?></message>", RESTRICTED),
    ("<!DOCTYPE message>", RESTRICTED),
    (
        "<!DOCTYPE x [<!ENTITY a 'b'>]><message>&a;</message>",
        RESTRICTED,
    ),
    ("<?xml version='1.0'?><message/>", RESTRICTED),
    ("<message><body>&undefined;</body></message>", ENTITY),
    ("<message to='&undefined;'/>", ENTITY),
    // §11.3: well-formedness.
    ("<message></presence>", MALFORMED),
    ("<message><a></b></message>", MALFORMED),
    ("</message>", MALFORMED),
    ("</stream:streams>", MALFORMED),
    ("<message", UNFINISHED),
    ("<message to='a' to='b'/>", MALFORMED),
    ("<message to=a/>", MALFORMED),
    ("<message to/>", MALFORMED),
    ("<message id='1'to='b'/>", MALFORMED),
    ("<message to='a<b'/>", MALFORMED),
    ("<message><a b='<'/></message>", MALFORMED),
    ("<message><body>&</body></message>", MALFORMED),
    ("<message><body>& amp;</body></message>", MALFORMED),
    ("<message><body>a ]]> b</body></message>", MALFORMED),
    ("<message><1a/></message>", MALFORMED),
    ("<message><a<b/></message>", MALFORMED),
    ("<message><a\u{c}b='c'/></message>", MALFORMED),
    ("< message/>", MALFORMED),
    ("<message/ ></message>", MALFORMED),
    ("<>", MALFORMED),
    ("text between stanzas", TEXT),
    ("<![CDATA[data between stanzas]]>", TEXT),
    ("&lt;", TEXT),
    // XML 1.0 §2.2: characters.
    ("<message><body>\u{0}</body></message>", MALFORMED),
    ("<message><body>\u{1}</body></message>", MALFORMED),
    ("<message><body>\u{ffff}</body></message>", MALFORMED),
    ("<message><body>&#0;</body></message>", MALFORMED),
    ("<message><body>&#1;</body></message>", MALFORMED),
    ("<message><body>&#xD800;</body></message>", MALFORMED),
    ("<message><body>&#xFFFE;</body></message>", MALFORMED),
    ("<message><body>&#x110000;</body></message>", MALFORMED),
    (
        "<message><body>&#99999999999999999999;</body></message>",
        MALFORMED,
    ),
    ("<message><body>&#;</body></message>", MALFORMED),
    ("<message><body>&#x;</body></message>", MALFORMED),
    ("<message><a b='&#1;'/></message>", MALFORMED),
    // §11.4 and Namespaces in XML 1.0.
    ("<message><p:x/></message>", NAMESPACE),
    ("<message><x p:a='1'/></message>", NAMESPACE),
    ("<message><a:b:c xmlns:a='urn:a'/></message>", NAMESPACE),
    ("<message><:a/></message>", NAMESPACE),
    ("<message><x xmlns:p=''/></message>", NAMESPACE),
    ("<message><x xmlns:xml='urn:x'/></message>", NAMESPACE),
    ("<message><x xmlns:xmlns='urn:x'/></message>", NAMESPACE),
    (
        "<message><x xmlns='http://www.w3.org/2000/xmlns/'/></message>",
        NAMESPACE,
    ),
    (
        "<message><x xmlns='http://www.w3.org/XML/1998/namespace'/></message>",
        NAMESPACE,
    ),
    (
        "<message><x xmlns:p='urn:a' xmlns:q='urn:a' p:x='1' q:x='2'/></message>",
        NAMESPACE,
    ),
];

const RESTRICTED: &[&str] = &["restricted-xml"];
/// An entity that only a DTD can declare breaks both rules.
const ENTITY: &[&str] = &["restricted-xml", "not-well-formed"];
const MALFORMED: &[&str] = &["not-well-formed"];
const NAMESPACE: &[&str] = &[
    "not-well-formed",
    "bad-namespace-prefix",
    "invalid-namespace",
];
/// RFC 6120 §4.6.1 allows white space; the condition for other text is left open.
const TEXT: &[&str] = &[
    "bad-format",
    "not-well-formed",
    "invalid-xml",
    "restricted-xml",
];
/// Not hostile yet: the stream is closed in the middle of it.
const UNFINISHED: &[&str] = &[];

#[tokio::test]
async fn hostile_input_ends_its_own_stream_and_no_other() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    for &(input, conditions) in HOSTILE {
        let mut alice = server.bound_by("alice/desk", Security::Plain).await;
        alice.send_raw(input).await;
        if conditions.is_empty() {
            alice.vanish();
        } else {
            expect_one_of(alice.wire(), input, conditions).await;
            alice.vanish();
        }
    }
    bob.expect_nothing().await;
}

/// The same before login, where a stream is the cheapest to open.
#[tokio::test]
async fn hostile_input_before_login_ends_the_stream_too() {
    let server = TestServer::start().await;
    for &(input, conditions) in HOSTILE
        .iter()
        .filter(|(_, conditions)| !conditions.is_empty())
    {
        let mut wire = server.tcp().await;
        wire.open("localhost").await;
        wire.send(input).await;
        // A stanza is out of place here anyway.
        let conditions: Vec<&str> = conditions
            .iter()
            .copied()
            .chain(["not-authorized"])
            .collect();
        expect_one_of(&mut wire, input, &conditions).await;
    }
    server.online("alice/desk").await.expect_nothing().await;
}

async fn expect_one_of(wire: &mut Wire, input: &str, conditions: &[&str]) {
    let event = rookery_tests::within(&format!("an answer to {input:?}"), wire.receive()).await;
    let Event::Element(error) = event else {
        panic!("{input:?}: expected {conditions:?}, received {event:?}")
    };
    assert!(
        error.is("error", STREAM)
            && conditions
                .iter()
                .any(|c| error.child(c, STREAM_ERRORS).is_some()),
        "{input:?}: expected {conditions:?}, received {error:?}"
    );
    wire.expect_close().await;
}

/// RFC 6120 §11.6
#[tokio::test]
async fn bytes_that_are_no_utf8_end_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    for bytes in [
        &b"<message><body>\xff</body></message>"[..],
        b"<message><body>\xc3</body></message>",
        // Overlong, and half of a surrogate pair.
        b"<message><body>\xc0\xaf</body></message>",
        b"<message><body>\xed\xa0\x80</body></message>",
        b"<message><a b='\x80'/></message>",
        b"<mess\xe4ge/>",
    ] {
        let mut alice = server.bound_by("alice/desk", Security::Plain).await;
        alice.wire().try_send(bytes).await.unwrap();
        let conditions = ["not-well-formed", "unsupported-encoding", "bad-format"];
        expect_one_of(alice.wire(), &String::from_utf8_lossy(bytes), &conditions).await;
        alice.vanish();
    }
    bob.expect_nothing().await;
}

/// Nothing of a refused stanza reaches the one that it is for.
#[tokio::test]
async fn a_refused_stanza_is_not_delivered() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    for inside in [
        "<body>&#1;</body>",
        "<x xmlns:p=''/>",
        "<a b='1'c='2'/>",
        "<p:x/>",
    ] {
        let mut alice = server.bound_by("alice/desk", Security::Plain).await;
        alice
            .send_raw(&format!("<message to='bob@localhost'>{inside}</message>"))
            .await;
        expect_one_of(alice.wire(), inside, NAMESPACE).await;
        alice.vanish();
    }
    bob.expect_nothing().await;
}

/// What only looks odd is fine.
#[tokio::test]
async fn unusual_but_correct_xml_is_accepted() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online_by("alice/desk", Security::Plain).await;
    let mut bob = server.online_by("bob/phone", Security::Plain).await;
    for inside in [
        "<body >a</body\n>",
        "<body>&#97;</body>",
        "<body>&#x61;</body>",
        "<body><![CDATA[a]]></body>",
        "<body>a</body><é xmlns='urn:é'/>",
        "<body>a</body><x y = 'a>b' z\t=\n\"'\"/>",
        "<body>a</body><_x-1.y xmlns='urn:x' _a='' xml:lang=''/>",
        "<body>a</body><x xmlns='urn:x'>]] > ]]&gt; ]</x>",
        "<body>a</body><x xmlns:p='urn:p' xmlns:q='urn:q' p:a='1' q:a='2' a='3'/>",
    ] {
        alice
            .send_raw(&format!(
                "<message to='bob@localhost' type='chat'>{inside}</message>"
            ))
            .await;
        bob.expect(chat_from("alice@localhost/desk", "a")).await;
    }
}

/// RFC 6120 §4.9.3.10, §4.9.3.24: a stanza's name in another namespace is no stanza.
#[tokio::test]
async fn a_stanza_in_another_namespace_ends_the_stream() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    for input in [
        "<message xmlns='jabber:server'/>",
        "<stream:message/>",
        "<message xmlns=''/>",
    ] {
        let mut alice = server.bound_by("alice/desk", Security::Plain).await;
        alice.send_raw(input).await;
        let conditions = ["unsupported-stanza-type", "invalid-namespace"];
        expect_one_of(alice.wire(), input, &conditions).await;
        alice.vanish();
    }
}
