//! XEP-0054: vCards.

use rookery_tests::prelude::*;

const NS: &str = "vcard-temp";

fn ask(to: Option<&str>) -> Element {
    let iq = get(Element::new("vCard", NS));
    match to {
        Some(to) => iq.with_attr("to", to),
        None => iq,
    }
}

#[tokio::test]
async fn a_vcard_is_kept_and_shown_to_others() {
    let mut server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let card = Element::new("vCard", NS).with_child(text("FN", NS, "Alice <3"));
    alice.query(set(card)).await;
    server.kill();
    alice.vanish();
    server.come_back().await;

    let mut alice = server.online("alice/desk").await;
    let mut bob = server.online("bob/phone").await;
    let own = alice.query(ask(None)).await.expect("a vCard");
    let seen = bob
        .query(ask(Some("alice@localhost")))
        .await
        .expect("a vCard");
    for card in [own, seen] {
        assert!(card.is("vCard", NS));
        assert_eq!(card.child("FN", NS).unwrap().text(), "Alice <3");
    }
    alice.expect_nothing_from(&mut bob).await;
}

/// XEP-0054 §3.1, §3.3: the own empty one; another's absent one tells nothing about the account.
#[tokio::test]
async fn who_has_no_vcard_and_who_does_not_exist_look_the_same() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    let own = alice.request(ask(None)).await;
    if own.attr("type") == Some("result") {
        assert!(
            own.children()
                .all(|card| card.is("vCard", NS) && card.children().count() == 0)
        );
    } else {
        assert!(
            Pattern::new("iq").error("item-not-found").matches(&own),
            "{own:?}"
        );
    }
    let nameless = |iq: Element| iq.children().map(|e| e.to_xml(CLIENT)).collect::<String>();
    let bob = alice.request(ask(Some("bob@localhost"))).await;
    let nobody = alice.request(ask(Some("nobody@localhost"))).await;
    assert_eq!(bob.attr("type"), nobody.attr("type"));
    assert_eq!(nameless(bob), nameless(nobody));
}

#[tokio::test]
async fn only_the_owner_may_write_and_not_too_much() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    server.add_user("bob").await;
    let card = || Element::new("vCard", NS).with_child(text("FN", NS, "X"));
    let answer = alice
        .request(set(card()).with_attr("to", "bob@localhost"))
        .await;
    assert_eq!(answer.attr("type"), Some("error"));
    let large = Element::new("vCard", NS).with_child(text("DESC", NS, &"x".repeat(140_000)));
    let answer = alice.request(set(large)).await;
    assert_eq!(answer.attr("type"), Some("error"));
    alice.query(set(card())).await;
}
