//! Small questions to the server: XEP-0199 ping, XEP-0092 version, XEP-0202 time, XEP-0012 last activity.

use rookery_tests::prelude::*;

/// XEP-0199 §4.2
#[tokio::test]
async fn pings_to_the_server_and_the_own_account_are_answered() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    for to in [None, Some("localhost"), Some("alice@localhost")] {
        let mut ping = get(Element::new("ping", PING));
        if let Some(to) = to {
            ping.set_attr("to", to);
        }
        assert!(alice.query(ping).await.is_none(), "a pong is empty");
    }
}

/// XEP-0092
#[tokio::test]
async fn the_server_tells_its_version() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let ns = "jabber:iq:version";
    let query = get(Element::new("query", ns)).with_attr("to", "localhost");
    let version = alice.query(query).await.expect("a version");
    assert_eq!(version.child("name", ns).unwrap().text(), "Rookery");
    assert!(!version.child("version", ns).unwrap().text().is_empty());
    // What the machine runs is nobody's business.
    assert!(version.child("os", ns).is_none());
}

/// XEP-0202
#[tokio::test]
async fn the_server_tells_the_time() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let ns = "urn:xmpp:time";
    let time = alice
        .query(get(Element::new("time", ns)).with_attr("to", "localhost"))
        .await;
    let time = time.expect("a time");
    let offset = time.child("tzo", ns).unwrap().text();
    assert!(
        ["Z", "+00:00"].contains(&offset.as_str()),
        "XEP-0082: {offset}"
    );
    let utc = time.child("utc", ns).unwrap().text();
    assert!(
        utc.starts_with("20") && utc.ends_with('Z'),
        "XEP-0082: {utc}"
    );
}

const LAST: &str = "jabber:iq:last";

fn last(to: &str) -> Element {
    get(Element::new("query", LAST)).with_attr("to", to)
}

/// XEP-0012 §5
#[tokio::test]
async fn the_server_tells_how_long_it_runs() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let up = alice.query(last("localhost")).await.expect("an answer");
    assert!(up.attr("seconds").unwrap().parse::<u64>().unwrap() < 600);
}

/// XEP-0012 §4: friends learn when the user was last there, and what was said then.
#[tokio::test]
async fn friends_learn_when_a_user_was_last_there() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let here = alice.query(last("bob@localhost")).await.expect("an answer");
    assert_eq!(
        here.attr("seconds"),
        Some("0"),
        "an available resource (§4)"
    );

    bob.send(unavailable().with_child(text("status", CLIENT, "good night")))
        .await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    bob.allow(unavailable_from("bob@localhost/phone"));
    bob.expect_nothing().await;
    bob.close().await;
    let gone = alice.query(last("bob@localhost")).await.expect("an answer");
    assert!(gone.attr("seconds").unwrap().parse::<u64>().unwrap() < 60);
    assert_eq!(gone.text(), "good night");
}

/// XEP-0012 §8: nobody else does.
#[tokio::test]
async fn strangers_learn_nothing_about_a_users_activity() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    for contact in ["bob@localhost", "nobody@localhost"] {
        let answer = alice.request(last(contact)).await;
        let error = answer
            .child("error", CLIENT)
            .unwrap_or_else(|| panic!("{answer:?}"));
        let conditions: Vec<&str> = error.children().map(Element::name).collect();
        assert!(
            conditions == ["forbidden"] || conditions == ["service-unavailable"],
            "{conditions:?}"
        );
    }
    bob.expect_nothing_from(&mut alice).await;
}
