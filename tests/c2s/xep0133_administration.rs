//! XEP-0133, with the commands of XEP-0050: administration with a client.

use rookery_tests::prelude::*;

const COMMANDS: &str = "http://jabber.org/protocol/commands";
const ADMIN: &str = "http://jabber.org/protocol/admin";
const FORMS: &str = "jabber:x:data";
const INFO: &str = "http://jabber.org/protocol/disco#info";
const ITEMS: &str = "http://jabber.org/protocol/disco#items";

async fn server() -> TestServer {
    TestServer::with(&["admin.jids=boss@localhost"]).await
}

/// A request to the server itself.
fn ask(iq: Element) -> Element {
    iq.with_attr("to", "localhost")
}

fn command(name: &str) -> Element {
    Element::new("command", COMMANDS)
        .with_attr("node", format!("{ADMIN}#{name}"))
        .with_attr("action", "execute")
}

/// A command with its form filled in.
fn filled(name: &str, fields: &[(&str, &[&str])]) -> Element {
    let value = |text: &str| Element::new("value", FORMS).with_text(text);
    let field = |name: &str| Element::new("field", FORMS).with_attr("var", name);
    let about = field("FORM_TYPE").with_child(value(ADMIN));
    let fields = fields
        .iter()
        .map(|(name, values)| field(name).with_children(values.iter().map(|text| value(text))));
    let form = Element::new("x", FORMS)
        .with_attr("type", "submit")
        .with_child(about)
        .with_children(fields);
    command(name).with_child(form)
}

/// What a command that runs to its end tells.
async fn run(boss: &mut Client, command: Element) -> Option<Element> {
    let answer = boss.query(ask(set(command))).await.expect("a command");
    assert_eq!(answer.attr("status"), Some("completed"), "{answer:?}");
    assert!(answer.attr("sessionid").is_some(), "{answer:?}");
    answer.child("x", FORMS).cloned()
}

/// The values of a field of a form.
fn values(form: Option<&Element>, name: &str) -> Vec<String> {
    let fields = form.expect("a form").children();
    let field = fields.filter(|f| f.attr("var") == Some(name)).last();
    field
        .expect("the field")
        .children()
        .map(Element::text)
        .collect()
}

#[tokio::test]
async fn commands_are_shown_to_administrators_only() {
    let server = server().await;
    let mut boss = server.bound("boss/desk").await;
    let mut ann = server.bound("ann/desk").await;
    let items = Element::new("query", ITEMS).with_attr("node", COMMANDS);
    let list = boss.query(ask(get(items.clone()))).await.expect("a list");
    let nodes: Vec<_> = list
        .children()
        .filter_map(|item| item.attr("node"))
        .collect();
    assert!(
        nodes.contains(&"http://jabber.org/protocol/admin#add-user"),
        "{nodes:?}"
    );
    assert!(nodes.len() >= 11, "{nodes:?}");
    for node in nodes {
        let info = Element::new("query", INFO).with_attr("node", node);
        let info = boss.query(ask(get(info))).await.expect("what it is");
        let identity = info.child("identity", INFO).expect("an identity");
        assert_eq!(identity.attr("category"), Some("automation"));
        assert_eq!(identity.attr("type"), Some("command-node"));
        let asked = Element::new("query", INFO).with_attr("node", node);
        ann.refused(ask(get(asked)), "forbidden").await;
    }
    ann.refused(ask(get(items)), "forbidden").await;
    for order in [
        command("add-user"),
        command("get-online-users-num"),
        filled("delete-user", &[("accountjids", &["boss@localhost"])]),
        command("no-such-command"),
    ] {
        ann.refused(ask(set(order)), "forbidden").await;
    }
    boss.refused(ask(set(command("restart"))), "feature-not-implemented")
        .await;
}

#[tokio::test]
async fn an_administrator_manages_accounts() {
    let server = server().await;
    let mut boss = server.bound("boss/desk").await;
    let form = boss
        .query(ask(set(command("add-user"))))
        .await
        .expect("a form");
    assert_eq!(form.attr("status"), Some("executing"));
    let session = form.attr("sessionid").expect("a session").to_owned();
    let fields = form.child("x", FORMS).expect("a form").children();
    let required = fields.filter(|field| field.child("required", FORMS).is_some());
    let required: Vec<_> = required.filter_map(|field| field.attr("var")).collect();
    assert_eq!(required, ["accountjid", "password", "password-verify"]);

    let add = |again: &'static str| {
        filled(
            "add-user",
            &[
                ("accountjid", &["ann@localhost"]),
                ("password", &["first secret"]),
                ("password-verify", &[again]),
            ],
        )
        .with_attr("sessionid", &session)
    };
    boss.refused(ask(set(add("another"))), "not-acceptable")
        .await;
    run(&mut boss, add("first secret")).await;
    boss.refused(ask(set(add("first secret"))), "conflict")
        .await;
    let mut ann = Login::new("ann", "first secret")
        .bind(server.address("c2s"))
        .await;

    let stats = filled("user-stats", &[("accountjid", &["ann@localhost"])]);
    let stats = run(&mut boss, stats).await;
    assert_eq!(values(stats.as_ref(), "rostersize"), ["0"]);
    assert_eq!(values(stats.as_ref(), "ipaddresses"), ["127.0.0.1"]);
    assert_eq!(values(stats.as_ref(), "onlineresources").len(), 1);
    let both: &[&str] = &["ann@localhost", "boss@localhost"];
    let last = run(
        &mut boss,
        filled("get-user-lastlogin", &[("accountjids", both)]),
    )
    .await;
    for time in values(last.as_ref(), "lastlogin") {
        assert!(rookery_proto::datetime::parse(&time).is_some(), "{time}");
    }

    let change = filled(
        "change-user-password",
        &[
            ("accountjid", &["ann@localhost"]),
            ("password", &["second secret"]),
        ],
    );
    run(&mut boss, change).await;
    ann.expect_stream_error("not-authorized").await;
    let mut ann = Login::new("ann", "second secret")
        .bind(server.address("c2s"))
        .await;
    run(
        &mut boss,
        filled("end-user-session", &[("accountjids", &["ann@localhost"])]),
    )
    .await;
    ann.expect_stream_error("policy-violation").await;
    let mut ann = Login::new("ann", "second secret")
        .bind(server.address("c2s"))
        .await;

    // All of them or none.
    let one_too_many: &[&str] = &["ann@localhost", "cat@localhost"];
    let delete = |whom| filled("delete-user", &[("accountjids", whom)]);
    boss.refused(ask(set(delete(one_too_many))), "item-not-found")
        .await;
    ann.expect_nothing().await;
    run(&mut boss, delete(&["ann@localhost"])).await;
    ann.expect_stream_error("not-authorized").await;
    let log = server.log();
    assert!(
        log.contains(r#""who":"boss@localhost","via":"xmpp","on":"ann@localhost","outcome":"ok""#),
        "{log}"
    );
}

/// XEP-0133 §4.3, §4.4, §4.14, §4.19
#[tokio::test]
async fn an_administrator_disables_accounts_and_enables_them_again() {
    let server = server().await;
    let mut boss = server.bound("boss/desk").await;
    let mut ann = server.bound("ann/desk").await;
    server.add_user("ben").await;
    let both: &[&str] = &["ann@localhost", "ben@localhost"];
    let one_too_many: &[&str] = &["ann@localhost", "cat@localhost"];
    let disable = |whom| filled("disable-user", &[("accountjids", whom)]);
    boss.refused(ask(set(disable(one_too_many))), "item-not-found")
        .await;
    ann.expect_nothing().await;
    run(&mut boss, disable(both)).await;
    ann.expect_stream_error("not-authorized").await;
    let count = run(&mut boss, command("get-disabled-users-num")).await;
    assert_eq!(values(count.as_ref(), "disabledusersnum"), ["2"]);
    let enable = filled("reenable-user", &[("accountjids", &["ann@localhost"])]);
    run(&mut boss, enable).await;
    let list = filled("get-disabled-users-list", &[("max_items", &["25"])]);
    let list = run(&mut boss, list).await;
    assert_eq!(values(list.as_ref(), "disableduserjids"), ["ben@localhost"]);
    server.bound("ann/desk").await.close().await;
    let log = server.log();
    for act in ["user-disable", "user-enable"] {
        assert!(log.contains(&format!(r#""act":"{act}""#)), "{log}");
    }
}

#[tokio::test]
async fn an_administrator_counts_lists_and_announces() {
    let server = server().await;
    let mut boss = server.bound("boss/desk").await;
    let mut desk = server.online("ann/desk").await;
    let mut phone = server.online("ann/phone").await;
    server.add_user("ben").await;
    let registered = run(&mut boss, command("get-registered-users-num")).await;
    assert_eq!(values(registered.as_ref(), "registeredusersnum"), ["3"]);
    let online = run(&mut boss, command("get-online-users-num")).await;
    assert_eq!(values(online.as_ref(), "onlineusersnum"), ["2"]);
    let list = run(
        &mut boss,
        filled("get-registered-users-list", &[("max_items", &["2"])]),
    )
    .await;
    assert_eq!(
        values(list.as_ref(), "registereduserjids"),
        ["ann@localhost", "ben@localhost"]
    );
    let list = run(
        &mut boss,
        filled("get-online-users-list", &[("max_items", &["25"])]),
    )
    .await;
    assert_eq!(
        values(list.as_ref(), "onlineuserjids"),
        ["ann@localhost", "boss@localhost"]
    );
    run(
        &mut boss,
        filled("announce", &[("announcement", &["one", "two"])]),
    )
    .await;
    for client in [&mut desk, &mut phone] {
        client
            .expect(message_from("localhost").kind("headline").body("one\ntwo"))
            .await;
    }
    let cancelled = command("announce").with_attr("action", "cancel");
    let cancelled = boss.query(ask(set(cancelled))).await.expect("a command");
    assert_eq!(cancelled.attr("status"), Some("canceled"));
    desk.expect_nothing_from(&mut phone).await;
}
