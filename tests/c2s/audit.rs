//! The audit log: who logged in or failed to, and what administrators did.

use rookery_tests::api::{self, Api, TOKEN};
use rookery_tests::prelude::*;
use serde_json::Value;

const NOTHING: &Value = &Value::Null;

/// What the audit log has, without the time of each line.
fn audited(text: &str) -> Vec<Value> {
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines
        .filter(|line: &Value| line["target"] == "rookery::audit")
        .collect()
}

#[tokio::test]
async fn logins_and_acts_are_audited() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("audit.log");
    let setting = format!("audit.file={}", file.display());
    let server = TestServer::with(&[&api::setting(), &setting, "log.level=off"]).await;
    let api = Api::of(&server).await;
    server.bound("ann/desk").await.close().await;
    let (mut wire, features) = Login::new("ann", "wrong")
        .connect(server.address("c2s"))
        .await;
    Login::new("ann", "wrong")
        .try_authenticate(&mut wire, &features)
        .await;
    let path = "/api/v1/users/ben@localhost";
    assert_eq!(api.call("DELETE", path, NOTHING).await.0, 404);
    api::raw(&server, "GET", path, Some("a wrong token"), NOTHING).await;
    let deleted = server.cli(&["user", "delete", "ann@localhost"]).await;
    assert!(deleted.status.success(), "{deleted:?}");

    let text = std::fs::read_to_string(&file).expect("it was made");
    let lines = audited(&text);
    let short: Vec<_> = lines
        .iter()
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default();
            let who = if field("via") == "xmpp" {
                field("who")
            } else {
                ""
            };
            [
                field("act"),
                field("via"),
                who,
                field("on"),
                field("outcome"),
            ]
        })
        .collect();
    assert_eq!(
        short,
        [
            ["user-add", "cli", "", "ann@localhost", "ok"],
            ["login", "xmpp", "ann@localhost", "", "ok"],
            ["login", "xmpp", "ann@localhost", "", "not-authorized"],
            [
                "user-delete",
                "api",
                "",
                "ben@localhost",
                "there is no account ben@localhost"
            ],
            ["api-token", "api", "", "", "wrong token"],
            ["user-delete", "cli", "", "ann@localhost", "ok"],
        ]
    );
    assert!(
        lines[1]["peer"]
            .as_str()
            .expect("text")
            .starts_with("127.0.0.1:")
    );
    assert!(
        lines[3]["who"]
            .as_str()
            .expect("text")
            .starts_with("127.0.0.1:")
    );
    assert!(lines[5]["who"].as_str().expect("text").starts_with("user "));
    assert!(!text.contains("secret of ann") && !text.contains(TOKEN));
    // It is not in the log as well, and does not depend on its level.
    assert_eq!(server.log(), "");

    // After a rotation it goes on in a new file.
    std::fs::rename(&file, dir.path().join("audit.1")).expect("renamed");
    api.done("POST", "/api/v1/config/reload", NOTHING).await;
    api.call("DELETE", path, NOTHING).await;
    let acts = audited(&std::fs::read_to_string(&file).expect("made anew"));
    let acts: Vec<_> = acts.iter().map(|line| line["act"].clone()).collect();
    assert_eq!(acts, ["config-reload", "user-delete"]);
}

/// Without a file of its own it is in the log, as JSON.
#[tokio::test]
async fn the_audit_log_is_part_of_the_log() {
    let server = TestServer::with(&["log.format=text"]).await;
    server.bound("ann/desk").await.close().await;
    let log = server.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let logins: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["act"] == "login")
        .collect();
    assert_eq!(logins.len(), 1, "{log}");
    assert_eq!(logins[0]["mechanism"], "SCRAM-SHA-256-PLUS");
}
