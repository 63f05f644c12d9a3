//! The commands that are calls of the administration API.

use std::process::Output;

use rookery_tests::api::{self, Api};
use rookery_tests::prelude::*;
use serde_json::{Value, json};

const NOTHING: &Value = &Value::Null;

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[tokio::test]
async fn the_log_can_be_changed_while_the_server_runs() {
    let server = TestServer::with(&[&api::setting()]).await;
    let api = Api::of(&server).await;
    server.bound("ann/one").await.close().await;
    assert!(!server.log().contains(r#""level":"DEBUG""#));
    assert_eq!(
        stdout(&server.cli(&["log", "level", "debug"]).await),
        "debug\n"
    );
    server.bound("ann/two").await.close().await;
    rookery_tests::eventually("the log to say more", || async {
        server.log().contains(r#""level":"DEBUG""#)
    })
    .await;
    let bad = server
        .cli(&["log", "level", "info,rookery_actors=loud"])
        .await;
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("level: \"loud\" is no level"));
    assert_eq!(
        api.done("GET", "/api/v1/log", NOTHING).await,
        json!({ "level": "debug" })
    );
}

#[tokio::test]
async fn commands_ask_the_running_server() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    ann.roster().await;
    server.add_user("ben").await;
    let words = [
        "roster",
        "set",
        "ann@localhost",
        "ben@localhost",
        "--name",
        "Ben",
        "--group",
        "a",
    ];
    assert_eq!(
        stdout(&server.cli(&words).await),
        "ben@localhost is in the roster of ann@localhost\n"
    );
    ann.expect(roster_push("ben@localhost", "none")).await;
    let listed = stdout(&server.cli(&["roster", "list", "ann@localhost"]).await);
    let row: Vec<_> = listed
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .collect();
    assert_eq!(row, ["ben@localhost", "none", "Ben", "a"], "{listed}");
    let json = stdout(
        &server
            .cli(&["roster", "list", "ann@localhost", "--json"])
            .await,
    );
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["name"], "Ben");
    stdout(
        &server
            .cli(&["roster", "remove", "ann@localhost", "ben@localhost"])
            .await,
    );
    ann.expect(roster_push("ben@localhost", "remove")).await;

    stdout(
        &server
            .cli(&["message", "send", "ann@localhost", "hello"])
            .await,
    );
    ann.expect(message_from("localhost").body("hello")).await;
    let said = stdout(&server.cli(&["message", "announce", "to all"]).await);
    assert_eq!(said, "sent to 1 clients that are online\n");
    ann.expect(message_from("localhost").kind("headline").body("to all"))
        .await;

    let shown = stdout(&server.cli(&["user", "show", "ann@localhost"]).await);
    assert_eq!(shown, "ann@localhost\nsessions: 1\ncontacts: 0\n");
    let users = stdout(&server.cli(&["user", "list", "--json"]).await);
    assert_eq!(users, "[\n\"ann@localhost\",\n\"ben@localhost\"\n]\n");
    let certificate = stdout(&server.cli(&["certificate", "show", "--json"]).await);
    let certificate: Value = serde_json::from_str(&certificate).expect("JSON");
    assert_eq!(
        certificate["domains"],
        json!([{ "domain": "localhost", "covered": true }])
    );
    let reloaded = stdout(&server.cli(&["config", "reload"]).await);
    assert_eq!(reloaded, "no live setting has changed\n");
    for (words, error) in [
        (
            &["user", "show", "cat@localhost"][..],
            "jid: there is no account cat@localhost",
        ),
        (
            &["roster", "list", "cat"][..],
            "jid: cat is no account's address",
        ),
        (&["roster", "set", "ann@localhost", "b@@c"][..], "contact: "),
        (
            &["message", "send", "cat@localhost", "hi"][..],
            "to: there is no account",
        ),
    ] {
        let output = server.cli(words).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(error), "{said}");
    }
    ann.expect_nothing().await;
}
