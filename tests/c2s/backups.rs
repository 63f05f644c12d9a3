//! `rookery backup` and `rookery restore`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use rookery_tests::prelude::*;

#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// What a client saw acknowledged before the backup began is in it, whatever is written meanwhile.
#[tokio::test]
async fn a_backup_of_a_running_server_is_restored_elsewhere() {
    let server = TestServer::with(&["limits.offline_messages=1000000"]).await;
    server.add_user("bob").await;
    let mut ann = server.managed_online("ann/desk").await;
    for number in 0..100 {
        ann.send(chat_to("bob@localhost", &number.to_string()))
            .await;
    }
    ann.acknowledged().await;
    let file = server.data_dir().join("backup.db");
    let name = file.to_str().expect("UTF-8").to_owned();
    let words = ["backup", &*name];
    let mut backup = std::pin::pin!(server.cli(&words));
    let mut number = 100;
    let output = loop {
        tokio::select! {
            output = &mut backup => break output,
            () = async {
                ann.send(chat_to("bob@localhost", &number.to_string())).await;
                ann.acknowledged().await;
            } => number += 1,
        }
    };
    assert!(output.status.success(), "{output:?}");
    let mode = std::fs::metadata(&file)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    ann.vanish();

    let mut other = TestServer::start().await;
    other.add_user("cat").await;
    let running = refused(&other.cli(&["restore", &name]).await);
    assert!(
        running.contains("has to be stopped for a restore"),
        "{running}"
    );
    assert!(other.stop().await.success());
    let restored = other.cli(&["restore", &name]).await;
    assert!(restored.status.success(), "{restored:?}");
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(said.contains("restored 2 accounts"), "{said}");
    assert!(said.contains("rookery.db.before-restore-"), "{said}");
    other.come_back().await;
    let list = other.cli(&["user", "list"]).await;
    assert_eq!(list.stdout, b"ann@localhost\nbob@localhost\n");
    other.knows_user("bob");
    let mut bob = other.bound("bob/phone").await;
    let archive = bob.whole_archive(&Query::new(), 50).await;
    let bodies: Vec<String> = archive
        .iter()
        .map(rookery_tests::archive::Archived::body)
        .collect();
    assert!(bodies.len() >= 100, "{}", bodies.len());
    let all: Vec<String> = (0..bodies.len()).map(|number| number.to_string()).collect();
    assert_eq!(bodies, all);
    bob.close().await;
}

#[tokio::test]
async fn a_file_that_exists_is_not_overwritten_and_one_that_is_no_backup_changes_nothing() {
    let mut server = TestServer::start().await;
    server.add_user("ann").await;
    let file = server.data_dir().join("text");
    std::fs::write(&file, "something else").expect("a file");
    let name = file.to_str().expect("UTF-8");
    let exists = refused(&server.cli(&["backup", name]).await);
    assert!(exists.contains("it exists already"), "{exists}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "something else");
    assert!(server.stop().await.success());
    let wrong = refused(&server.cli(&["restore", name]).await);
    assert!(
        wrong.contains("text: the file is not a SQLite database"),
        "{wrong}"
    );
    server.come_back().await;
    let mut ann = server.bound("ann/desk").await;
    assert!(ann.roster().await.is_empty());
    ann.close().await;
}

#[tokio::test]
async fn a_database_on_a_server_has_commands_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    for (words, hint) in [
        (["backup", "x"], "pg_dump"),
        (["restore", "x"], "pg_restore"),
    ] {
        let mut command = rookery_tests::server::rookery();
        command
            .args(words)
            .args(["--set", "storage.url=postgres://rookery@localhost/rookery"])
            .current_dir(directory.path());
        let complaint = refused(&rookery_tests::server::run(command, "").await);
        assert!(complaint.contains(hint), "{complaint}");
    }
}
