//! The administration API.

use rookery_tests::api::{self, Api, TOKEN};
use rookery_tests::prelude::*;
use rookery_tests::server::refused_start;
use serde_json::{Value, json};

const NOTHING: &Value = &Value::Null;

async fn with_api() -> TestServer {
    TestServer::with(&[&api::setting()]).await
}

#[tokio::test]
async fn without_a_token_the_api_is_closed() {
    let server = TestServer::start().await;
    for token in [None, Some(""), Some("changeme"), Some(TOKEN)] {
        let refused = api::raw(&server, "GET", "/api/v1/users", token, NOTHING).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(
            refused.head.contains("application/problem+json"),
            "{refused:?}"
        );
        assert!(refused.body.contains("admin.token_file"), "{refused:?}");
    }
    for open in ["/metrics", "/healthz", "/readyz", "/api/v1/openapi.json"] {
        assert_eq!(server.admin(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn only_the_token_opens_the_api() {
    let server = with_api().await;
    for token in [
        None,
        Some(""),
        Some("token of the test"),
        Some("token of the tests2"),
    ] {
        let refused = api::raw(&server, "GET", "/api/v1/users", token, NOTHING).await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert!(
            refused.head.contains("www-authenticate: Bearer"),
            "{refused:?}"
        );
    }
    let allowed = api::raw(&server, "GET", "/api/v1/users", Some(TOKEN), NOTHING).await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
}

#[tokio::test]
async fn a_token_that_everybody_knows_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    for (settings, word) in [
        (vec!["admin.token=changeme".to_owned()], "changeme"),
        (vec!["admin.token=short".to_owned()], "16 characters"),
        (
            vec![format!("admin.token_file={}", file.display())],
            "admin.token_file",
        ),
        (
            vec![api::setting(), "admin.token_file=x".to_owned()],
            "one of them only",
        ),
    ] {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let refused = refused_start(dir.path(), &settings).await;
        assert!(!refused.status.success(), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(word), "{said}");
        assert!(!said.contains(TOKEN), "{said}");
    }
}

#[tokio::test]
async fn accounts_are_managed() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    for name in ["cat", "ann", "ben"] {
        let user = json!({ "jid": format!("{name}@localhost"), "password": "first secret" });
        let (status, made) = api.call("POST", "/api/v1/users", &user).await;
        assert_eq!((status, &made["jid"]), (201, &user["jid"]));
        let (status, again) = api.call("POST", "/api/v1/users", &user).await;
        assert_eq!((status, &again["field"]), (409, &json!("jid")));
    }
    let page = api.done("GET", "/api/v1/users?limit=2", NOTHING).await;
    assert_eq!(page["users"], json!(["ann@localhost", "ben@localhost"]));
    let next = page["next"].as_str().expect("there is more");
    let path = format!("/api/v1/users?limit=2&after={next}");
    let rest = api.done("GET", &path, NOTHING).await;
    assert_eq!(
        rest,
        json!({ "users": ["cat@localhost"], "disabled": [], "next": null })
    );

    let mut ann = Login::new("ann", "first secret")
        .bind(server.address("c2s"))
        .await;
    let shown = api
        .done("GET", "/api/v1/users/ann@localhost", NOTHING)
        .await;
    assert_eq!((&shown["sessions"], &shown["last"]), (&json!(1), NOTHING));
    let password = json!({ "password": "second secret" });
    let path = "/api/v1/users/ann@localhost/password";
    assert_eq!(api.call("PUT", path, &password).await, (204, Value::Null));
    ann.expect_stream_error("not-authorized").await;
    let mut ann = Login::new("ann", "second secret")
        .bind(server.address("c2s"))
        .await;

    let path = "/api/v1/users/ann@localhost";
    assert_eq!(api.call("DELETE", path, NOTHING).await.0, 204);
    ann.expect_stream_error("not-authorized").await;
    assert_eq!(api.call("DELETE", path, NOTHING).await.0, 404);
    assert_eq!(api.call("GET", path, NOTHING).await.0, 404);
    let path = "/api/v1/users/ann@localhost/password";
    assert_eq!(api.call("PUT", path, &password).await.0, 404);
}

/// XEP-0133 §4.3: it keeps what is its own, and messages wait for it.
#[tokio::test]
async fn an_account_is_disabled_and_enabled_again() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut ben = server.online("ben/desk").await;
    befriend(&mut ann, &mut ben).await;
    for name in ["cat", "dan"] {
        server.add_user(name).await;
    }
    let path = "/api/v1/users/ann@localhost";
    assert_eq!(api.done("GET", path, NOTHING).await["disabled"], false);
    for name in ["dan", "ann"] {
        let disable = format!("/api/v1/users/{name}@localhost/disable");
        assert_eq!(api.call("POST", &disable, NOTHING).await.0, 204);
    }
    ann.expect_stream_error("not-authorized").await;
    ann.vanish();
    ben.expect(unavailable_from("ann@localhost/desk")).await;
    let shown = api.done("GET", path, NOTHING).await;
    assert_eq!(
        (&shown["disabled"], &shown["contacts"]),
        (&json!(true), &json!(1))
    );
    let all = json!([
        "ann@localhost",
        "ben@localhost",
        "cat@localhost",
        "dan@localhost"
    ]);
    let users = api.done("GET", "/api/v1/users", NOTHING).await;
    let disabled = json!(["ann@localhost", "dan@localhost"]);
    assert_eq!(
        users,
        json!({ "users": all, "disabled": disabled, "next": null })
    );
    let page = api.done("GET", "/api/v1/users?limit=2", NOTHING).await;
    assert_eq!(page["disabled"], json!(["ann@localhost"]));
    let page = "/api/v1/users?disabled=true&limit=1&after=ann@localhost";
    let page = api.done("GET", page, NOTHING).await;
    assert_eq!(page["users"], json!(["dan@localhost"]));

    ben.send(chat_to("ann@localhost", "later")).await;
    let message = json!({ "to": "ann@localhost", "body": "from the server" });
    api.done("POST", "/api/v1/messages", &message).await;
    let enable = "/api/v1/users/ann@localhost/enable";
    for _ in 0..2 {
        assert_eq!(api.call("POST", enable, NOTHING).await.0, 204);
    }
    assert_eq!(api.done("GET", path, NOTHING).await["disabled"], false);
    let mut ann = server.online("ann/phone").await;
    ann.expect_all([
        chat_from("ben@localhost/desk", "later").has("delay", DELAY),
        message_from("localhost")
            .body("from the server")
            .has("delay", DELAY),
        available_from("ben@localhost/desk"),
    ])
    .await;
    ben.expect(available_from("ann@localhost/phone")).await;
    let nobody = "/api/v1/users/eve@localhost/disable";
    assert_eq!(api.call("POST", nobody, NOTHING).await.0, 404);
    ann.expect_nothing_from(&mut ben).await;
}

/// Each names the place that is wrong, and changes nothing.
#[expect(clippy::too_many_lines, reason = "a table of calls")]
#[tokio::test]
async fn bad_input_is_named() {
    let server = with_api().await;
    server.add_user("ann").await;
    let api = Api::of(&server).await;
    let roster = "/api/v1/users/ann@localhost/roster";
    let long = "x".repeat(2000);
    for (method, path, body, field) in [
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "ben@localhost" }),
            "password",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "ben@localhost", "password": "" }),
            "password",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "ben", "password": "secret" }),
            "jid",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "b@elsewhere", "password": "x" }),
            "jid",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "b@localhost/r", "password": "x" }),
            "jid",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": 1, "password": "x" }),
            "jid",
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "jid": "b@localhost", "pass": "x" }),
            "pass",
        ),
        ("POST", "/api/v1/users", json!("{\"jid\":"), "body"),
        ("POST", "/api/v1/users", json!("[]"), "body"),
        ("GET", "/api/v1/users?limit=0", Value::Null, "limit"),
        ("GET", "/api/v1/users?limit=1001", Value::Null, "limit"),
        ("GET", "/api/v1/users?page=2", Value::Null, "page"),
        ("GET", "/api/v1/users?disabled=no", Value::Null, "disabled"),
        (
            "POST",
            "/api/v1/users/ann@localhost/disable",
            json!({ "why": "" }),
            "why",
        ),
        (
            "GET",
            "/api/v1/users?domain=elsewhere",
            Value::Null,
            "domain",
        ),
        ("GET", "/api/v1/users/ann%40elsewhere", Value::Null, "jid"),
        (
            "PUT",
            "/api/v1/users/ann@localhost/password",
            json!({}),
            "password",
        ),
        ("PUT", &format!("{roster}/a@@b"), Value::Null, "contact"),
        (
            "PUT",
            &format!("{roster}/b@localhost%2Fx"),
            Value::Null,
            "contact",
        ),
        (
            "PUT",
            &format!("{roster}/ann@localhost"),
            Value::Null,
            "jid",
        ),
        (
            "PUT",
            &format!("{roster}/b@localhost"),
            json!({ "groups": ["a", "a"] }),
            "jid",
        ),
        (
            "PUT",
            &format!("{roster}/b@localhost"),
            json!({ "groups": "a" }),
            "groups",
        ),
        (
            "PUT",
            &format!("{roster}/b@localhost"),
            json!({ "name": long }),
            "jid",
        ),
        ("DELETE", "/api/v1/sessions/@", Value::Null, "jid"),
        (
            "POST",
            "/api/v1/messages",
            json!({ "to": "ann@localhost", "body": "" }),
            "body",
        ),
        (
            "POST",
            "/api/v1/messages",
            json!({ "to": "ann@localhost", "body": "a\u{1}" }),
            "body",
        ),
        (
            "POST",
            "/api/v1/messages",
            json!({ "to": "a@elsewhere", "body": "hi" }),
            "to",
        ),
        (
            "POST",
            "/api/v1/announcements",
            json!({ "audience": "all", "body": "hi" }),
            "audience",
        ),
        (
            "POST",
            "/api/v1/announcements",
            json!({ "audience": "accounts", "body": "hi" }),
            "domain",
        ),
        (
            "POST",
            "/api/v1/announcements",
            json!({ "audience": "online", "domain": "elsewhere", "body": "hi" }),
            "domain",
        ),
        ("PUT", "/api/v1/log", json!({ "level": "loud" }), "level"),
        (
            "POST",
            "/api/v1/drain",
            json!({ "timeout": "soon" }),
            "timeout",
        ),
        ("POST", "/api/v1/drain?node=*", Value::Null, "node"),
        (
            "PUT",
            "/api/v1/log?node=*",
            json!({ "level": "loud" }),
            "level",
        ),
        ("GET", "/api/v1/log?nodes=*", Value::Null, "nodes"),
        ("GET", "/api/v1/sessions?node=*", Value::Null, "node"),
    ] {
        let (status, problem) = api.call(method, path, &body).await;
        assert_eq!(status, 400, "{method} {path} {body}: {problem}");
        assert_eq!(problem["field"], field, "{method} {path} {body}: {problem}");
    }
    assert_eq!(api.call("GET", "/api/v1/nonsense", NOTHING).await.0, 404);
    let (status, problem) = api.call("GET", "/api/v1/log?node=other", NOTHING).await;
    assert_eq!((status, &problem["field"]), (404, &json!("node")));
    assert_eq!(api.call("PATCH", "/api/v1/users", NOTHING).await.0, 405);
    let big = json!({ "to": "ann@localhost", "body": "x".repeat(200_000) });
    let refused = api::raw(&server, "POST", "/api/v1/messages", Some(TOKEN), &big).await;
    assert_eq!(refused.status, 413, "{refused:?}");

    let users = api.done("GET", "/api/v1/users", NOTHING).await;
    assert_eq!(users["users"], json!(["ann@localhost"]));
    let contacts = api.done("GET", roster, NOTHING).await;
    assert_eq!(contacts["contacts"], json!([]));
    assert_eq!(
        api.done("GET", "/api/v1/log?node=*", NOTHING).await,
        json!({
            "nodes": [{ "node": "", "status": 200, "answer": { "level": "info" } }],
            "unanswered": []
        })
    );
    let mut ann = server.online("ann/desk").await;
    ann.expect_nothing().await;
}

#[tokio::test]
async fn sessions_are_shown_and_ended() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut desk = server.online("ann/desk").await;
    let phone = server.bound("ann/phone").await;
    let ben = server.bound("ben/a b").await;
    let all = api.done("GET", "/api/v1/sessions", NOTHING).await;
    assert_eq!((&all["total"], &all["next"]), (&json!(3), NOTHING));
    let jids = |page: &Value| -> Vec<String> {
        let sessions = page["sessions"].as_array().expect("a list").iter();
        sessions
            .map(|s| s["jid"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(jids(&all), [desk.jid(), phone.jid(), ben.jid()]);
    let first = api
        .done("GET", "/api/v1/sessions?jid=ann@localhost&limit=1", NOTHING)
        .await;
    assert_eq!(
        (jids(&first), &first["total"]),
        (vec![desk.jid().to_owned()], &json!(2))
    );
    let path = "/api/v1/sessions?jid=ann@localhost&limit=1&after=ann@localhost%2Fdesk";
    assert_eq!(jids(&api.done("GET", path, NOTHING).await), [phone.jid()]);

    let ended = api
        .done("DELETE", "/api/v1/sessions/ann@localhost%2Fdesk", NOTHING)
        .await;
    assert_eq!(ended["ended"], 1);
    desk.expect_stream_error("policy-violation").await;
    assert_eq!(
        api.call("DELETE", "/api/v1/sessions/cat@localhost", NOTHING)
            .await
            .0,
        404
    );
    let ended = api
        .done("DELETE", "/api/v1/sessions/ben@localhost", NOTHING)
        .await;
    assert_eq!(ended["ended"], 1);
    for client in [phone, ben] {
        client.vanish();
    }
}

/// In effect as the account's own change: RFC 6121 §2.1.6, §2.5.2.
#[tokio::test]
async fn rosters_are_changed_and_clients_are_told() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut ben = server.online("ben/desk").await;
    befriend(&mut ann, &mut ben).await;
    ann.roster().await;
    ben.roster().await;
    let contact = "/api/v1/users/ann@localhost/roster/ben@localhost";
    let named = json!({ "name": "Ben", "groups": ["Friends"] });
    let item = api.done("PUT", contact, &named).await;
    assert_eq!(item["subscription"], "both");
    let push = ann.expect(roster_push("ben@localhost", "both")).await;
    let pushed = pushed_item(&push).expect("an item");
    assert_eq!(pushed.attr("name"), Some("Ben"));
    let roster = api
        .done("GET", "/api/v1/users/ann@localhost/roster", NOTHING)
        .await;
    assert_eq!(roster["contacts"], json!([item]));

    assert_eq!(api.call("DELETE", contact, NOTHING).await.0, 204);
    ann.expect_all([
        roster_push("ben@localhost", "remove"),
        unavailable_from("ben@localhost/desk"),
    ])
    .await;
    ben.allow(presence_from("unsubscribe", "ann@localhost"));
    ben.allow(presence_from("unsubscribed", "ann@localhost"));
    ben.allow(roster_push("ann@localhost", "from"));
    ben.allow(roster_push("ann@localhost", "to"));
    ben.expect_all([
        unavailable_from("ann@localhost/desk"),
        roster_push("ann@localhost", "none"),
    ])
    .await;
    assert_eq!(api.call("DELETE", contact, NOTHING).await.0, 404);
    let nobody = "/api/v1/users/cat@localhost/roster/ben@localhost";
    assert_eq!(api.call("PUT", nobody, &named).await.0, 404);
    ann.expect_nothing_from(&mut ben).await;
}

#[tokio::test]
async fn messages_and_announcements_arrive() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut silent = server.bound("ann/silent").await;
    server.add_user("ben").await;
    let to = |jid: &str| json!({ "to": jid, "subject": "News", "body": "hello & <you>" });
    api.done("POST", "/api/v1/messages", &to("ann@localhost"))
        .await;
    let sent = || {
        message_from("localhost")
            .kind("normal")
            .body("hello & <you>")
            .text("subject", CLIENT, "News")
    };
    ann.expect(sent()).await;
    assert_eq!(
        api.call("POST", "/api/v1/messages", &to("cat@localhost"))
            .await
            .0,
        404
    );

    let now = json!({ "audience": "online", "body": "now" });
    let shown = api.done("POST", "/api/v1/announcements", &now).await;
    assert_eq!(shown["recipients"], 1);
    ann.expect(message_from("localhost").kind("headline").body("now"))
        .await;
    let all = json!({ "audience": "accounts", "domain": "localhost", "body": "all" });
    let sent = api.done("POST", "/api/v1/announcements", &all).await;
    assert_eq!(sent["recipients"], 2);
    ann.expect(message_from("localhost").kind("normal").body("all"))
        .await;
    let mut ben = server.online("ben/desk").await;
    ben.expect(
        message_from("localhost")
            .kind("normal")
            .body("all")
            .has("delay", DELAY),
    )
    .await;
    // The first announcement was for those who were there.
    ben.expect_nothing().await;
    silent.expect_nothing().await;
    ann.expect_nothing().await;
}

/// 202 would be wrong: nobody has it.
#[tokio::test]
async fn a_message_that_goes_nowhere_is_not_answered_as_sent() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let item = Element::new("item", BLOCKING).with_attr("jid", "localhost");
    let block = Element::new("block", BLOCKING).with_child(item);
    ann.query(set(block)).await;
    let message = json!({ "to": "ann@localhost", "body": "hello" });
    let (status, problem) = api.call("POST", "/api/v1/messages", &message).await;
    assert_eq!(
        (status, &problem["field"]),
        (503, &json!("to")),
        "{problem}"
    );
    let all = json!({ "audience": "accounts", "domain": "localhost", "body": "all" });
    let sent = api.done("POST", "/api/v1/announcements", &all).await;
    assert_eq!(sent["recipients"], 0);
    ann.expect_nothing().await;
}

#[tokio::test]
async fn a_configuration_is_taken_over_or_refused_as_a_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let setting = format!("admin.token_file={}", file.display());
    let server = TestServer::with(&[&setting]).await;
    let api = Api::of(&server).await;
    api.done("PUT", "/api/v1/log", &json!({ "level": "debug" }))
        .await;

    std::fs::write(&file, "short\n").expect("written");
    let (status, problem) = api.call("POST", "/api/v1/config/reload", NOTHING).await;
    assert_eq!(status, 422, "{problem}");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("admin.token_file"), "{detail}");
    assert_eq!(
        api.done("GET", "/api/v1/log", NOTHING).await["level"],
        "debug"
    );

    std::fs::write(&file, "another token than before\n").expect("written");
    let reloaded = api.done("POST", "/api/v1/config/reload", NOTHING).await;
    assert_eq!(
        reloaded,
        json!({ "applied": ["log.level"], "needs_restart": [] })
    );
    let path = "/api/v1/log";
    let old = api::raw(&server, "GET", path, Some(TOKEN), NOTHING).await;
    assert_eq!(old.status, 401, "{old:?}");
    let new = api::raw(
        &server,
        "GET",
        path,
        Some("another token than before"),
        NOTHING,
    )
    .await;
    assert_eq!((new.status, new.body.trim()), (200, r#"{"level":"info"}"#));
}

#[tokio::test]
async fn the_status_tells_how_the_node_is() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    ann.send(chat_to("ben@localhost", "to nobody")).await;
    let refused = Pattern::new("message").error("service-unavailable");
    ann.expect(refused).await;
    let status = api.done("GET", "/api/v1/status", NOTHING).await;
    assert_eq!(status["unanswered"], json!([]));
    let node = &status["nodes"][0];
    assert_eq!(node["node"], "", "a single node");
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&node["stage"], &node["problems"]),
        (&json!("serving"), &json!([]))
    );
    assert_eq!((&node["sessions"], &node["logins"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&node["storage"], &node["storage_away"]),
        (&json!("sqlite"), &json!(false))
    );
    assert_eq!(
        (&node["messages_accepted"], &node["messages_bounced"]),
        (&json!(1), &json!(1))
    );
    let events = node["events"].as_array().expect("a list");
    assert!(
        events.iter().any(|event| event["text"] == "ready"),
        "{events:?}"
    );
    assert!(!node["events"].to_string().contains("ann"), "{events:?}");
}
