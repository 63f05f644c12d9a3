//! RFC 6120 §7: a stream gets its resource.

use rookery_tests::client::{BIND, bound_jid};
use rookery_tests::prelude::*;

fn bind(resource: &str) -> String {
    format!(
        "<iq type='set' id='b'><bind xmlns='{BIND}'><resource>{resource}</resource></bind></iq>"
    )
}

async fn authenticated(server: &TestServer, name: &str) -> Wire {
    server
        .login(name)
        .await
        .authenticate(server.address("c2s"))
        .await
        .0
}

/// RFC 6120 §7.6
#[tokio::test]
async fn the_server_makes_up_resources_that_cannot_be_guessed() {
    let server = TestServer::start().await;
    let one = server.bound("alice").await;
    let two = server.bound("alice").await;
    assert_ne!(one.jid(), two.jid());
    for client in [&one, &two] {
        let resource = client
            .jid()
            .strip_prefix("alice@localhost/")
            .expect("alice's");
        assert!(resource.len() >= 8, "{resource}");
    }
}

/// RFC 6120 §7.7
#[tokio::test]
async fn a_client_gets_the_resource_that_it_asks_for() {
    let server = TestServer::start().await;
    for resource in ["desk", "Alice's phone", "a/b@c", "münchen 😀"] {
        let mut wire = authenticated(&server, "alice").await;
        let escaped = resource.replace('\'', "&apos;");
        let answer = wire.ask(&bind(&escaped)).await;
        assert_eq!(
            bound_jid(&answer),
            Some(format!("alice@localhost/{resource}")),
            "{answer:?}"
        );
    }
}

/// RFC 6120 §7.7.2.1, RFC 7622 §3.4: the server makes one up instead, or refuses.
#[tokio::test]
async fn an_impossible_resource_is_not_bound() {
    let server = TestServer::start().await;
    for resource in [
        "x".repeat(1024),
        "soft\u{ad}hyphen".into(),
        "\u{200e}".into(),
    ] {
        let mut wire = authenticated(&server, "alice").await;
        let answer = wire.ask(&bind(&resource)).await;
        if let Some(jid) = bound_jid(&answer) {
            let made_up = jid.strip_prefix("alice@localhost/").expect("alice's");
            assert!(
                made_up != resource && made_up.is_ascii() && !made_up.is_empty(),
                "{jid}"
            );
        } else {
            assert!(
                Pattern::new("iq").error("bad-request").matches(&answer),
                "{answer:?}"
            );
            assert!(bound_jid(&wire.ask(&bind("desk")).await).is_some());
        }
    }
}

/// RFC 6120 §7.7.2.2: the newer one wins.
#[tokio::test]
async fn binding_a_taken_resource_ends_the_older_session() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let mut older = server.online("alice/desk").await;
    let newer = server.bound("alice/desk").await;
    older.expect_stream_error("conflict").await;
    drop(older);

    let mut newer = newer;
    newer.become_available().await;
    bob.send(chat_to("alice@localhost/desk", "which one?"))
        .await;
    newer
        .expect(chat_from("bob@localhost/phone", "which one?"))
        .await;
    newer.close().await;
}

/// RFC 6120 §7.6.2.1
#[tokio::test]
async fn a_user_has_a_limited_number_of_resources() {
    let server = TestServer::start().await;
    let mut resources = Vec::new();
    for _ in 0..100 {
        let mut wire = authenticated(&server, "alice").await;
        let answer = wire
            .ask(&format!(
                "<iq type='set' id='b'><bind xmlns='{BIND}'/></iq>"
            ))
            .await;
        if bound_jid(&answer).is_none() {
            assert!(
                Pattern::new("iq")
                    .error("resource-constraint")
                    .matches(&answer),
                "{answer:?}"
            );
            assert!(resources.len() >= 5, "{} are not many", resources.len());
            resources.pop();
            // A freed place is free, as soon as the server has noticed.
            return;
        }
        resources.push(wire);
    }
    panic!("a user can bind a hundred resources");
}

/// RFC 6120 §7.1
#[tokio::test]
async fn stanzas_before_binding_are_refused() {
    let server = TestServer::start().await;
    server.add_user("bob").await;
    for stanza in [
        "<message to='bob@localhost'><body>hi</body></message>",
        "<presence/>",
        "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
    ] {
        let mut wire = authenticated(&server, "alice").await;
        wire.send(stanza).await;
        wire.expect_stream_error("not-authorized").await;
    }
}

/// RFC 6120 §7.1: one stream, one resource.
#[tokio::test]
async fn a_second_binding_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let again = set(Element::new("bind", BIND).with_child(text("resource", BIND, "other")));
    alice.refused(again, "not-allowed").await;
    alice.expect_nothing().await;
}

/// A resource can be bound again right after its stream was closed.
#[tokio::test]
async fn a_closed_resource_is_free() {
    let server = TestServer::start().await;
    for _ in 0..5 {
        server.online("alice/desk").await.close().await;
    }
}

/// A login is worth nothing any more once the account is disabled, the password changed or the account
/// deleted, also if that is taken back before the client goes on.
#[tokio::test]
async fn a_login_from_before_an_account_changed_gets_no_resource() {
    let server = TestServer::start().await;
    let refused = async |wire: &mut Wire| {
        let answer = wire.ask(&bind("desk")).await;
        let error = answer.child("error", CLIENT).expect("an error");
        assert!(
            error
                .child("not-authorized", "urn:ietf:params:xml:ns:xmpp-stanzas")
                .is_some(),
            "{answer:?}"
        );
    };
    let mut wire = authenticated(&server, "alice").await;
    for words in [
        ["user", "disable", "alice@localhost"],
        ["user", "enable", "alice@localhost"],
    ] {
        let done = server.cli(&words).await;
        assert!(done.status.success(), "{done:?}");
        refused(&mut wire).await;
    }
    let mut after = authenticated(&server, "alice").await;
    let answer = after.ask(&bind("desk")).await;
    assert!(bound_jid(&answer).is_some(), "{answer:?}");

    let mut wire = authenticated(&server, "bob").await;
    let words = ["user", "passwd", "bob@localhost", "--password-stdin"];
    let done = server.cli_with_input(&words, "another secret").await;
    assert!(done.status.success(), "{done:?}");
    refused(&mut wire).await;

    let mut wire = authenticated(&server, "carol").await;
    let done = server.cli(&["user", "delete", "carol@localhost"]).await;
    assert!(done.status.success(), "{done:?}");
    refused(&mut wire).await;
}
