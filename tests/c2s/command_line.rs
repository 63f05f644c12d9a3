//! `rookery user …`, while the server runs and while it does not.

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
    for command in ["serve", "user", "config"] {
        assert!(help.contains(command), "{help}");
    }
}
