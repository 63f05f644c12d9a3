//! XEP-0077: making, changing and removing accounts.

use rookery_tests::prelude::*;

const NS: &str = "jabber:iq:register";
const FEATURE: &str = "http://jabber.org/features/iq-register";

fn fields(name: &str, password: &str) -> Element {
    Element::new("query", NS)
        .with_child(text("username", NS, name))
        .with_child(text("password", NS, password))
}

/// A stream under TLS on which nobody has logged in.
async fn stranger(server: &TestServer) -> (Wire, Element) {
    Login::new("nobody", "")
        .connect(server.address("c2s"))
        .await
}

async fn ask(wire: &mut Wire, iq: Element) -> Element {
    wire.ask(&iq.with_attr("id", "r").to_xml(CLIENT)).await
}

#[tokio::test]
async fn registration_is_off_unless_switched_on() {
    let server = TestServer::start().await;
    let (mut wire, features) = stranger(&server).await;
    assert!(
        features.child("register", FEATURE).is_none(),
        "{features:?}"
    );
    wire.send(
        &set(fields("eve", "secret"))
            .with_attr("id", "r")
            .to_xml(CLIENT),
    )
    .await;
    match wire.next().await {
        Event::Element(answer) => {
            assert!(
                answer.is("error", STREAM) || answer.attr("type") == Some("error"),
                "{answer:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let exists = server.cli(&["user", "exists", "eve@localhost"]).await;
    assert!(!exists.status.success());
}

/// XEP-0077 §3.1
#[tokio::test]
async fn a_stranger_makes_an_account_and_logs_in() {
    let server = TestServer::with(&["registration.enabled=true"]).await;
    let (mut wire, features) = stranger(&server).await;
    assert!(
        features.child("register", FEATURE).is_some(),
        "{features:?}"
    );
    let form = ask(&mut wire, get(Element::new("query", NS))).await;
    let query = form.child("query", NS).expect("a form");
    assert!(query.child("username", NS).is_some() && query.child("password", NS).is_some());
    assert!(query.child("registered", NS).is_none());

    let answer = ask(&mut wire, set(fields("Eve", "correct horse"))).await;
    assert_eq!(answer.attr("type"), Some("result"), "{answer:?}");
    // On the same stream, or another.
    let login = Login::new("eve", "correct horse").resource("x");
    let outcome = login.try_authenticate(&mut wire, &features).await;
    assert!(outcome.is("success", SASL), "{outcome:?}");
    let eve = login.bind(server.address("c2s")).await;
    assert_eq!(eve.jid(), "eve@localhost/x");
}

/// XEP-0077 §3.1: conflict, not-acceptable, and names that are none.
#[tokio::test]
async fn impossible_registrations_are_refused() {
    let server = TestServer::with(&["registration.enabled=true"]).await;
    server.add_user("alice").await;
    for (payload, conditions) in [
        (fields("alice", "stolen"), &["conflict"][..]),
        (fields("ALICE", "stolen"), &["conflict"]),
        (fields("eve", ""), &["not-acceptable", "bad-request"]),
        (
            fields("", "secret"),
            &["not-acceptable", "bad-request", "jid-malformed"],
        ),
        (
            fields("e ve", "secret"),
            &["not-acceptable", "jid-malformed", "bad-request"],
        ),
        (
            fields("eve@localhost", "secret"),
            &["not-acceptable", "jid-malformed", "bad-request"],
        ),
        (
            Element::new("query", NS).with_child(text("username", NS, "eve")),
            &["not-acceptable", "bad-request"],
        ),
        (
            Element::new("query", NS).with_child(Element::new("remove", NS)),
            &[
                "not-acceptable",
                "bad-request",
                "unexpected-request",
                "not-allowed",
                "forbidden",
                "registration-required",
                "not-authorized",
            ],
        ),
    ] {
        let (mut wire, _) = stranger(&server).await;
        let shown = payload.to_xml(CLIENT);
        let answer = ask(&mut wire, set(payload)).await;
        let error = answer
            .child("error", CLIENT)
            .unwrap_or_else(|| panic!("{shown}: {answer:?}"));
        assert!(
            error.children().any(|e| conditions.contains(&e.name())),
            "{shown}: {answer:?}"
        );
    }
    server.online("alice/desk").await.close().await;
}

/// Making accounts without TLS would show the password to all.
#[tokio::test]
async fn registration_waits_for_tls() {
    let server = TestServer::with(&["registration.enabled=true"]).await;
    let mut wire = server.tcp().await;
    let features = wire.open("localhost").await;
    assert!(
        features.child("register", FEATURE).is_none(),
        "{features:?}"
    );
}

/// XEP-0077 §3.3
#[tokio::test]
async fn a_user_changes_the_password() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut phone = server.online("alice/phone").await;
    alice.query(set(fields("alice", "a new one"))).await;
    alice.allow(unavailable_from("alice@localhost/phone"));
    ended_or_answering(&mut phone).await;
    phone.vanish();

    let old = server.login("alice").await;
    let (mut wire, features) = old.connect(server.address("c2s")).await;
    let outcome = old.try_authenticate(&mut wire, &features).await;
    assert!(outcome.is("failure", SASL), "{outcome:?}");
    Login::new("alice", "a new one")
        .bind(server.address("c2s"))
        .await
        .close()
        .await;

    // Somebody else's is not ours to change.
    server.add_user("bob").await;
    let answer = alice.request(set(fields("bob", "stolen"))).await;
    assert_eq!(answer.attr("type"), Some("error"), "{answer:?}");
    alice.refused(set(fields("alice", "")), "bad-request").await;
}

/// Other sessions may be ended by the change or go on; either way they get nothing else.
async fn ended_or_answering(phone: &mut Client) {
    let ping = get(Element::new("ping", PING)).with_attr("id", "after");
    let _ = phone.wire().try_send(ping.to_xml(CLIENT).as_bytes()).await;
    match phone.wire().next().await {
        Event::Element(e) if e.is("error", STREAM) || e.attr("id") == Some("after") => {}
        other => panic!("{other:?}"),
    }
}

/// XEP-0077 §3.2
#[tokio::test]
async fn a_user_removes_the_account_with_all_that_belongs_to_it() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let mut alice = server.online("alice/desk").await;
    befriend(&mut alice, &mut bob).await;
    alice
        .query(set(roster_item("carol@localhost", None, &[])))
        .await;
    alice
        .query(set(Element::new("vCard", "vcard-temp").with_child(text(
            "FN",
            "vcard-temp",
            "A",
        ))))
        .await;

    let removal = set(Element::new("query", NS).with_child(Element::new("remove", NS)));
    alice.send(removal.with_attr("id", "rm")).await;
    // The subscriptions end first; then come the result and the stream's end (§3.2).
    alice.allow(unavailable_from("bob@localhost/phone"));
    alice.expect(result_of("rm")).await;
    loop {
        match alice.wire().next().await {
            Event::Element(e) if e.is("error", STREAM) => break,
            Event::Element(e) if e.is("presence", CLIENT) => {}
            other => panic!("expected the stream's end, received {other:?}"),
        }
    }
    alice.vanish();
    // His contact sees it end: RFC 6121 has no rule, XEP-0077 §3.2 refers to the roster's.
    // The account and its resource are two senders, whose stanzas have no order (RFC 6120 §10.1).
    bob.allow(presence_from("unsubscribe", "alice@localhost"));
    bob.allow(presence_from("unsubscribed", "alice@localhost"));
    bob.expect(unavailable_from("alice@localhost/desk")).await;

    let exists = server.cli(&["user", "exists", "alice@localhost"]).await;
    assert_eq!(exists.status.code(), Some(1));
    let (mut wire, _) = stranger(&server).await;
    let login = Login::new("alice", &rookery_tests::server::password("alice")).mechanism("PLAIN");
    let outcome = login.try_authenticate(&mut wire, &element("x")).await;
    assert!(outcome.is("failure", SASL), "{outcome:?}");

    // The name can be had again, and nothing is left of its former owner.
    let jid = "alice@localhost";
    let added = server
        .cli_with_input(&["user", "add", jid, "--password-stdin"], "x y z")
        .await;
    assert!(added.status.success(), "{added:?}");
    let mut again = Login::new("alice", "x y z")
        .resource("desk")
        .bind(server.address("c2s"))
        .await;
    again.become_available().await;
    assert!(again.roster().await.is_empty());
    let card = again
        .request(get(Element::new("vCard", "vcard-temp")))
        .await;
    assert!(!card.to_xml(CLIENT).contains("<FN"), "{card:?}");
    bob.expect_nothing_from(&mut again).await;
}
