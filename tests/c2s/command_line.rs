//! Commands: `rookery user …`, while the server runs and while it does not, and those for the running server.

use std::process::Output;

use rookery_tests::prelude::*;

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

async fn story(server: &TestServer) {
    assert_eq!(stdout(&server.cli(&["user", "list"]).await), "");
    let add = ["user", "add", "Ann@localhost", "--password-stdin"];
    stdout(&server.cli_with_input(&add, "first secret").await);
    let again = server.cli_with_input(&add, "first secret").await;
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("exists"),
        "{again:?}"
    );

    assert!(
        server
            .cli(&["user", "exists", "ann@localhost"])
            .await
            .status
            .success()
    );
    assert_eq!(
        server
            .cli(&["user", "exists", "ben@localhost"])
            .await
            .status
            .code(),
        Some(1)
    );

    let generated = stdout(
        &server
            .cli(&["user", "add", "ben@localhost", "--generate"])
            .await,
    );
    assert!(generated.contains("password: "), "{generated}");
    assert_eq!(
        stdout(&server.cli(&["user", "list"]).await),
        "ann@localhost\nben@localhost\n"
    );

    stdout(
        &server
            .cli_with_input(
                &["user", "passwd", "ann@localhost", "--password-stdin"],
                "second secret",
            )
            .await,
    );
    stdout(&server.cli(&["user", "delete", "ben@localhost"]).await);
    assert_eq!(
        stdout(&server.cli(&["user", "list", "--domain", "localhost"]).await),
        "ann@localhost\n"
    );
    for absent in [
        server.cli(&["user", "delete", "ben@localhost"]).await,
        server
            .cli_with_input(
                &["user", "passwd", "ben@localhost", "--password-stdin"],
                "x y z",
            )
            .await,
    ] {
        assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    }
}

#[tokio::test]
async fn accounts_are_managed_while_the_server_runs() {
    let server = TestServer::start().await;
    story(&server).await;
    Login::new("ann", "second secret")
        .bind(server.address("c2s"))
        .await
        .close()
        .await;
}

#[tokio::test]
async fn accounts_are_managed_while_the_server_does_not_run() {
    let mut server = TestServer::start().await;
    assert!(server.stop().await.success());
    story(&server).await;
    server.come_back().await;
    Login::new("ann", "second secret")
        .bind(server.address("c2s"))
        .await
        .close()
        .await;
}

#[tokio::test]
async fn what_cannot_be_an_account_is_refused() {
    let server = TestServer::start().await;
    for address in [
        "ann",
        "ann@elsewhere.example",
        "ann@localhost/desk",
        "@localhost",
        "a nn@localhost",
    ] {
        let output = server
            .cli_with_input(&["user", "add", address, "--password-stdin"], "a secret")
            .await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!output.stderr.is_empty());
    }
    let empty = server
        .cli_with_input(&["user", "add", "ann@localhost", "--password-stdin"], "")
        .await;
    assert!(!empty.status.success(), "{empty:?}");
    assert_eq!(stdout(&server.cli(&["user", "list"]).await), "");
}

/// XEP-0077 §3.2: what a deleted account's contacts had with it ends.
#[tokio::test]
async fn contacts_of_a_deleted_account_are_told() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    let mut ben = server.online("ben/desk").await;
    befriend(&mut ann, &mut ben).await;
    ann.roster().await;
    // His subscription ends before his session does.
    ben.allow(unavailable_from("ann@localhost/desk"));
    stdout(&server.cli(&["user", "delete", "ben@localhost"]).await);
    ben.expect_stream_error("not-authorized").await;
    ann.allow(roster_push("ben@localhost", "to"));
    ann.expect_all([
        presence_from("unsubscribe", "ben@localhost"),
        presence_from("unsubscribed", "ben@localhost"),
        unavailable_from("ben@localhost/desk"),
        roster_push("ben@localhost", "none"),
    ])
    .await;
    ann.expect_nothing().await;
}

/// The same while no server runs: the contacts find it when they log in.
#[tokio::test]
async fn rosters_forget_an_account_that_is_deleted_while_no_server_runs() {
    let mut server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    let mut ben = server.online("ben/desk").await;
    server.add_user("cat").await;
    server.add_user("dan").await;
    befriend(&mut ann, &mut ben).await;
    // Ben has not had an answer from Cat, and Dan none from Ben.
    ben.send(presence_to("subscribe", "cat@localhost")).await;
    ben.expect_nothing().await;
    let mut dan = server.online("dan/desk").await;
    dan.send(presence_to("subscribe", "ben@localhost")).await;
    ben.expect(presence_from("subscribe", "dan@localhost"))
        .await;
    server.kill();
    for client in [ann, ben, dan] {
        client.vanish();
    }
    stdout(&server.cli(&["user", "delete", "ben@localhost"]).await);
    let again = server.cli(&["user", "delete", "ben@localhost"]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    server.come_back().await;
    for (who, left) in [
        ("ann/desk", Some("none")),
        ("cat/desk", None),
        ("dan/desk", Some("none")),
    ] {
        let mut contact = server.online(who).await;
        let roster = contact.roster().await;
        let item = roster.first();
        assert_eq!(item.and_then(|item| item.attr("subscription")), left);
        assert_eq!(item.and_then(|item| item.attr("ask")), None, "{who}");
        // No request of somebody who is gone.
        contact.expect_nothing().await;
    }
}

#[tokio::test]
async fn accounts_are_disabled_whether_a_server_runs_or_not() {
    let mut server = TestServer::start().await;
    let mut ann = server.bound("ann/desk").await;
    server.add_user("ben").await;
    let user = async |server: &TestServer, words: &[&str]| {
        stdout(&server.cli(&[&["user"], words].concat()).await)
    };
    let said = user(&server, &["disable", "ann@localhost"]).await;
    assert_eq!(said, "disabled ann@localhost\n");
    ann.expect_stream_error("not-authorized").await;
    let shown = user(&server, &["show", "ann@localhost"]).await;
    assert!(shown.contains("disabled: nobody can log in\n"), "{shown}");
    server.kill();
    let only = ["list", "--disabled"];
    assert_eq!(user(&server, &only).await, "ann@localhost\n");
    user(&server, &["disable", "ben@localhost"]).await;
    let said = user(&server, &["enable", "ann@localhost"]).await;
    assert_eq!(said, "enabled ann@localhost\n");
    assert_eq!(user(&server, &only).await, "ben@localhost\n");
    let all = user(&server, &["list"]).await;
    assert_eq!(all, "ann@localhost\nben@localhost\n");
    for words in [
        ["user", "disable", "cat@localhost"],
        ["user", "enable", "cat"],
    ] {
        let refused = server.cli(&words).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
    server.come_back().await;
    server.bound("ann/desk").await.close().await;
    let refused = server.cli(&["user", "disable", "cat@localhost"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let ben = server.login("ben").await;
    let (mut wire, features) = ben.connect(server.address("c2s")).await;
    let outcome = ben.try_authenticate(&mut wire, &features).await;
    assert!(
        outcome.child("account-disabled", SASL).is_some(),
        "{outcome:?}"
    );
}

/// The command may have another configuration than the server that runs, or the domain is served no more.
#[tokio::test]
async fn disabling_an_account_of_a_foreign_domain_tells_the_server() {
    let server = TestServer::with(&["audit.file=audit.log"]).await;
    let mut ann = server.bound("ann/desk").await;
    for verb in ["disable", "enable"] {
        let elsewhere = ["--set", "server.domains=elsewhere.example"];
        let words = [&["user", verb, "ann@localhost"][..], &elsewhere].concat();
        let done = server.cli(&words).await;
        assert_eq!(stdout(&done), format!("{verb}d ann@localhost\n"));
        assert!(done.stderr.is_empty(), "{done:?}");
    }
    ann.expect_stream_error("not-authorized").await;
    let data_dir = server.data_dir();
    let file = data_dir.parent().expect("a directory").join("audit.log");
    let audited = std::fs::read_to_string(file).expect("it was made");
    let acts: Vec<_> = audited
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["on"] == "ann@localhost" && line["via"] == "cli")
        .map(|line| line["act"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(acts, ["user-add", "user-disable", "user-enable"]);
}

/// RFC 6120 §4.9.3.12: whose account is gone, or whose password changed, is logged in no longer.
#[tokio::test]
async fn a_deleted_account_and_a_changed_password_end_sessions() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    let mut ben = server.online("ben/desk").await;
    let mut cat = server.online("cat/desk").await;
    stdout(&server.cli(&["user", "delete", "ann@localhost"]).await);
    stdout(
        &server
            .cli_with_input(
                &["user", "passwd", "ben@localhost", "--password-stdin"],
                "another secret",
            )
            .await,
    );
    for client in [&mut ann, &mut ben] {
        match client.wire().next().await {
            Event::Element(error) if error.is("error", STREAM) => {}
            other => panic!("{other:?}"),
        }
    }
    ann.vanish();
    ben.vanish();
    cat.expect_nothing().await;
}

#[tokio::test]
async fn help_and_version_are_there() {
    let mut version = rookery_tests::server::rookery();
    version.arg("--version");
    let version = stdout(&rookery_tests::server::run(version, "").await);
    assert!(version.starts_with("rookery "), "{version}");
    let mut help = rookery_tests::server::rookery();
    help.arg("--help");
    let help = stdout(&rookery_tests::server::run(help, "").await);
    for command in [
        "serve",
        "user",
        "config",
        "health",
        "drain",
        "session",
        "cluster",
        "roster",
        "message",
        "log",
        "certificate",
        "export",
        "import",
        "backup",
        "restore",
    ] {
        assert!(help.contains(command), "{help}");
    }
}

#[tokio::test]
async fn commands_for_a_server_that_does_not_run_say_so() {
    let mut server = TestServer::start().await;
    server.kill();
    for words in [
        &["drain"][..],
        &["session", "list"],
        &["session", "list", "--json"],
        &["session", "kick", "ann@localhost"],
        &["cluster", "status"],
        &["user", "show", "ann@localhost"],
        &["roster", "list", "ann@localhost"],
        &["message", "send", "ann@localhost", "hello"],
        &["log", "level"],
        &["config", "reload"],
        &["certificate", "show"],
    ] {
        let output = server.cli(words).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("no server runs on"), "{error}");
        assert!(error.contains("server.data_dir"), "{error}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// What `rookery session list --json` prints.
async fn sessions(server: &TestServer) -> Vec<serde_json::Value> {
    let printed = stdout(&server.cli(&["session", "list", "--json"]).await);
    serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"))
}

#[tokio::test]
async fn sessions_are_listed() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    assert!(sessions(&server).await.is_empty());
    let empty = stdout(&server.cli(&["session", "list"]).await);
    assert_eq!(empty, "JID  SINCE  TRANSPORT  ADDRESS  STATE  QUEUE\n");

    let mut ann = server.managed_online("ann/desk").await;
    let ben = server.bound_by("ben/web", Security::WebSocket).await;
    let cat = server.bound_by("cat/old", Security::Plain).await;
    let listed = sessions(&server).await;
    let named = |key: &str| -> Vec<&str> {
        let values = listed.iter().map(|session| session[key].as_str());
        values.map(|value| value.expect("text")).collect()
    };
    assert_eq!(
        named("jid"),
        [
            "ann@localhost/desk",
            "ben@localhost/web",
            "cat@localhost/old"
        ]
    );
    assert_eq!(named("transport"), ["tls", "websocket", "tcp"]);
    assert_eq!(named("state"), ["connected"; 3]);
    for session in &listed {
        let address = session["address"].as_str().expect("text");
        assert!(address.starts_with("127.0.0.1:"), "{session}");
        let since = session["since"].as_str().expect("text");
        assert!(rookery_proto::datetime::parse(since).is_some(), "{session}");
    }
    assert_eq!(listed[1]["queued_stanzas"], 0);
    assert_eq!(listed[1]["queued_bytes"], 0);

    // What a client has not acknowledged is in its queue; its connection's end does not change that.
    ann.acknowledge().await;
    ann.expect_nothing().await;
    ann.withhold_acks();
    let mut ben = ben;
    ben.send(chat_to("ann@localhost/desk", "one")).await;
    ben.send(chat_to("ann@localhost/desk", "two")).await;
    for body in ["one", "two"] {
        ann.expect(chat_from("ben@localhost/web", body)).await;
    }
    let broken = ann.break_connection();
    rookery_tests::eventually("the session to wait", || async {
        sessions(&server).await[0]["state"] == "waiting"
    })
    .await;
    let waiting = sessions(&server).await.swap_remove(0);
    assert!(waiting["queued_stanzas"].as_u64() >= Some(2), "{waiting}");
    assert!(waiting["queued_bytes"].as_u64() > Some(100), "{waiting}");
    for key in ["jid", "since", "transport", "address"] {
        assert_eq!(waiting[key], listed[0][key]);
    }
    let table = stdout(&server.cli(&["session", "list"]).await);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert_eq!(lines[1][0], "ann@localhost/desk");
    assert_eq!(lines[1][4], "waiting");
    assert_eq!(lines[2][4..], ["connected", "empty"]);

    // A session that goes on is the same one, by another connection.
    let ann = server.resume(broken).await;
    let resumed = sessions(&server).await.swap_remove(0);
    assert_eq!(resumed["state"], "connected");
    assert_eq!(resumed["since"], listed[0]["since"]);
    assert_ne!(resumed["address"], listed[0]["address"]);
    for client in [ann, ben, cat] {
        client.vanish();
    }
}

/// RFC 6120 §4.9.3.14
#[tokio::test]
async fn sessions_are_ended() {
    let server = TestServer::start().await;
    let mut desk = server.online("ann/desk").await;
    let mut phone = server.managed_online("ann/phone").await;
    let mut ben = server.online("ben/desk").await;

    for nobody in ["ann@localhost/sofa", "cat@localhost", "Cat@localhost/x y"] {
        let output = server.cli(&["session", "kick", nobody]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("has no session"), "{error}");
    }
    let bad = server.cli(&["session", "kick", "ann@@localhost"]).await;
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("no address"));

    let one = stdout(&server.cli(&["session", "kick", "ann@localhost/desk"]).await);
    assert_eq!(one, "ended 1 session of ann@localhost/desk\n");
    desk.expect_stream_error("policy-violation").await;
    phone.expect(unavailable_from("ann@localhost/desk")).await;

    // One that waits to be resumed is ended as well: it does not go on.
    let broken = phone.break_connection();
    rookery_tests::eventually("the session to wait", || async {
        server.metric("rookery_sessions_waiting", "").await > 0.5
    })
    .await;
    let mut sofa = server.bound("ann/sofa").await;
    let both = stdout(&server.cli(&["session", "kick", "Ann@localhost"]).await);
    assert_eq!(both, "ended 2 sessions of ann@localhost\n");
    sofa.expect_stream_error("policy-violation").await;
    let refused = server.try_resume(broken).await.err().expect("it was ended");
    assert_eq!(refused.condition(), "item-not-found");
    server.bind_instead(*refused).await.close().await;
    ben.expect_nothing().await;
    let listed = sessions(&server).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["jid"], "ben@localhost/desk");
}

#[tokio::test]
async fn a_single_node_has_no_cluster_to_tell_about() {
    let server = TestServer::start().await;
    let ann = server.bound("ann/desk").await;
    let status = stdout(&server.cli(&["cluster", "status"]).await);
    assert_eq!(
        status,
        "This server is a single node: cluster.redis is not set.\nSessions here: 1\n"
    );
    let json = stdout(&server.cli(&["cluster", "status", "--json"]).await);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["in_cluster"], false);
    assert_eq!(json["sessions"], 1);
    assert_eq!(json["nodes"], serde_json::json!([]));
    ann.close().await;
}

#[tokio::test]
async fn a_drained_server_has_no_clients_and_takes_none() {
    let mut server = TestServer::with(&["server.drain_delay=0s"]).await;
    let mut ann = server.online("ann/desk").await;
    let drained = server.cli(&["drain"]).await;
    ann.expect_stream_error("system-shutdown").await;
    let said = stdout(&drained);
    assert!(said.contains("its clients are sent away now\n"), "{said}");
    assert!(said.contains("1 session is left\n"), "{said}");
    assert!(said.ends_with("no session is left; the server runs until it is stopped\n"));
    assert!(String::from_utf8_lossy(&drained.stderr).contains("single node"));

    let ready = server.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(r#"["draining"]"#), "{}", ready.body);
    assert_eq!(server.admin("/healthz").await.status, 200);
    server.tcp().await.expect_eof().await;
    assert!(stdout(&server.cli(&["drain"]).await).contains("no session is left"));
    assert!(sessions(&server).await.is_empty());
    assert_eq!(server.stop().await.code(), Some(0));
}

/// A session that waits to be resumed has nowhere to go from a single node.
#[tokio::test]
async fn a_drain_says_how_many_sessions_are_left() {
    let server = TestServer::with(&["server.drain_delay=0s"]).await;
    let ann = server.managed("ann/desk").await;
    let ben = server.managed("ben/desk").await;
    let output = server.cli(&["drain", "--timeout", "100ms"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    let left = "2 sessions are left after 100ms; the server takes no new clients";
    assert!(error.contains(left), "{error}");
    for session in sessions(&server).await {
        assert_eq!(session["state"], "waiting");
    }
    ann.vanish();
    ben.vanish();
}

/// Load balancers see that the node is not ready before its clients leave.
#[tokio::test]
async fn a_node_serves_on_between_not_being_ready_and_the_drain() {
    let server = TestServer::with(&["server.drain_delay=1h"]).await;
    let mut ann = server.online("ann/desk").await;
    let mut drain = server.start_cli(&["drain"]);
    drain.says("its clients are sent away in 1h").await;
    let ready = server.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(r#"["draining"]"#), "{}", ready.body);
    let mut ben = server.online("ben/desk").await;
    ben.send(chat_to("ann@localhost/desk", "still here?")).await;
    ann.expect(chat_from("ben@localhost/desk", "still here?"))
        .await;
    // Somebody who lost patience; the server is not to be told.
    drain.kill().await;
    assert_eq!(server.admin("/readyz").await.status, 503);
    ann.expect_nothing_from(&mut ben).await;
}
