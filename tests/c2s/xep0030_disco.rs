//! XEP-0030: what the server and an account say about themselves; XEP-0115: in short.

use std::collections::BTreeSet;

use rookery_tests::prelude::*;

const INFO: &str = "http://jabber.org/protocol/disco#info";
const ITEMS: &str = "http://jabber.org/protocol/disco#items";
const CAPS: &str = "http://jabber.org/protocol/caps";

fn info(to: &str) -> Element {
    get(Element::new("query", INFO)).with_attr("to", to)
}

fn features(info: &Element) -> BTreeSet<String> {
    info.children()
        .filter(|e| e.is("feature", INFO))
        .map(|e| e.attr("var").expect("a feature has a name").to_owned())
        .collect()
}

#[tokio::test]
async fn the_server_names_itself_and_its_features() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let info = alice.query(info("localhost")).await.expect("disco info");
    let identity = info.child("identity", INFO).expect("an identity");
    assert_eq!(
        (identity.attr("category"), identity.attr("type")),
        (Some("server"), Some("im"))
    );
    let features = features(&info);
    for feature in [
        INFO,
        ITEMS,
        CAPS,
        "urn:xmpp:ping",
        "jabber:iq:version",
        "urn:xmpp:time",
        "jabber:iq:last",
        "urn:xmpp:blocking",
        "vcard-temp",
        "jabber:iq:private",
        "msgoffline",
    ] {
        assert!(
            features.contains(feature),
            "{feature} is missing: {features:#?}"
        );
    }
}

#[tokio::test]
async fn the_servers_items_are_listed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let items = get(Element::new("query", ITEMS)).with_attr("to", "localhost");
    assert!(
        alice
            .query(items)
            .await
            .expect("disco items")
            .is("query", ITEMS)
    );
}

#[tokio::test]
async fn an_account_is_registered_to_itself_and_friends() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let info_of_alice = alice
        .query(info("alice@localhost"))
        .await
        .expect("disco info");
    let identity = info_of_alice.child("identity", INFO).expect("an identity");
    assert_eq!(
        (identity.attr("category"), identity.attr("type")),
        (Some("account"), Some("registered"))
    );

    // §8: strangers learn nothing, not even whether there is such an account.
    let mut mallory = server.online("mallory/x").await;
    mallory
        .refused(info("alice@localhost"), "service-unavailable")
        .await;
    mallory
        .refused(info("nobody@localhost"), "service-unavailable")
        .await;

    let mut bob = server.online("bob/phone").await;
    subscribe(&mut bob, &mut alice).await;
    bob.query(info("alice@localhost"))
        .await
        .expect("disco info for a friend");
}

/// XEP-0030 §7
#[tokio::test]
async fn an_unknown_node_is_not_found() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let unknown = get(Element::new("query", INFO).with_attr("node", "urn:example:none"));
    alice
        .refused(unknown.with_attr("to", "localhost"), "item-not-found")
        .await;
}

/// XEP-0115 §5, §6.3: the hash in the stream's features is that of the server's information.
#[tokio::test]
async fn the_capabilities_in_the_features_are_the_servers() {
    let server = TestServer::start().await;
    let (_, stream) = server
        .login("alice")
        .await
        .authenticate(server.address("c2s"))
        .await;
    let caps = stream.child("c", CAPS).expect("capabilities").clone();
    assert_eq!(caps.attr("hash"), Some("sha-1"));
    let mut alice = server.online("alice/desk").await;
    let node = format!(
        "{}#{}",
        caps.attr("node").unwrap(),
        caps.attr("ver").unwrap()
    );
    let request = get(Element::new("query", INFO).with_attr("node", &node));
    let by_node = alice
        .query(request.with_attr("to", "localhost"))
        .await
        .expect("disco info");
    let plain = alice.query(info("localhost")).await.expect("disco info");
    for info in [by_node, plain] {
        assert_eq!(caps.attr("ver"), Some(&verification_string(&info)[..]));
    }
}

/// XEP-0115 §5.1
fn verification_string(info: &Element) -> String {
    let mut identities: Vec<String> = info
        .children()
        .filter(|e| e.is("identity", INFO))
        .map(|e| {
            let field = |name| e.attr(name).unwrap_or_default();
            format!(
                "{}/{}/{}/{}<",
                field("category"),
                field("type"),
                field("xml:lang"),
                field("name")
            )
        })
        .collect();
    identities.sort();
    let mut input: String = identities.concat();
    for feature in features(info) {
        input.push_str(&feature);
        input.push('<');
    }
    let forms = info.children().filter(|e| e.is("x", "jabber:x:data"));
    for form in forms {
        let mut fields: Vec<(String, Vec<String>)> = form
            .children()
            .map(|field| {
                let mut values: Vec<String> = field.children().map(Element::text).collect();
                values.sort();
                (field.attr("var").unwrap_or_default().to_owned(), values)
            })
            .collect();
        fields.sort();
        let kind = fields
            .iter()
            .position(|(name, _)| name == "FORM_TYPE")
            .expect("a form has a type");
        let (_, kind) = fields.remove(kind);
        let names = fields
            .into_iter()
            .flat_map(|(name, values)| [vec![name], values].concat());
        for part in kind.into_iter().chain(names) {
            input.push_str(&part);
            input.push('<');
        }
    }
    rookery_tests::scram::base64(ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        input.as_bytes(),
    ))
}
