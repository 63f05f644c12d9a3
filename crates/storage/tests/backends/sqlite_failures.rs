//! SQLite when its disk is full, files may not grow, or another process has locked the file: real ones.
//!
//! Each of these has a child: this program once more, told by an environment variable what to do. It
//! runs where the failure is.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rookery_storage::{Error, NewMessage, Options, Storage, open};
use tempfile::TempDir;

use crate::suite::{add, append, bare, chat, credentials, mark, offline, stanzas, undelivered};

/// Tells a child the path of its database.
const DATABASE: &str = "ROOKERY_TEST_DATABASE";

/// A command that runs one test of this program with a database at `path`.
fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(DATABASE, path);
    command
}

/// The same, run by a shell after `setup`, which sees the database's directory as `$1`.
fn child_after(setup: &str, test: &str, path: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{setup}; shift; exec \"$@\""), "sh"])
        .arg(path.parent().unwrap())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DATABASE, path);
    command
}

fn messages(round: u64) -> Vec<NewMessage> {
    let stanza = |number: u64| format!("{round}/{number} {}", "x".repeat(500));
    (0..100)
        .map(|number| chat("bob@localhost/x", "ann@localhost", &stanza(number)))
        .collect()
}

/// Appends until that fails; gives the number of messages before and the error.
async fn append_until_it_fails(storage: &Arc<dyn Storage>) -> (u64, Error) {
    for round in 0.. {
        match storage.append(messages(round), 10).await {
            Ok(stored) => assert!(stored.iter().all(Result::is_ok)),
            Err(error) => return (round * 100, error),
        }
    }
    unreachable!("there is no end of space")
}

/// There is no room for more: nothing is half written, reading goes on, and so does everything when
/// there is room again.
async fn work_on_a_full_disk(make_room: impl FnOnce()) {
    let path = std::env::var(DATABASE).unwrap();
    let storage = open(&format!("sqlite://{path}"), Options::default())
        .await
        .unwrap();
    let ann = bare("ann@localhost");
    add(&storage, &["ann", "bob"]).await;
    let kept = append(&storage, offline("ann@localhost", "kept")).await;

    let (count, error) = append_until_it_fails(&storage).await;
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("no space") || text.contains("cannot be written"),
        "{text}"
    );
    // All of a call that failed, or none; what was acknowledged is there.
    let entries = undelivered(&storage, &ann).await;
    assert_eq!(entries.len() as u64, count + 1);
    assert_eq!(entries[0].id, kept);
    storage.health().await.unwrap();
    assert_eq!(
        storage.credentials(&ann).await.unwrap(),
        Some(credentials(1))
    );
    let again = storage.append(messages(u64::MAX), 10).await;
    assert!(matches!(again, Err(Error::Unavailable(_))), "{again:?}");

    make_room();
    append(&storage, chat("bob@localhost/x", "ann@localhost", "after")).await;
    mark(&storage, &ann, &[kept]).await;
    let entries = undelivered(&storage, &ann).await;
    assert_eq!(entries.len() as u64, count + 1);
    assert_eq!(stanzas(&entries).last(), Some(&"after"));
    storage.close().await;
    let db = rusqlite::Connection::open(path).unwrap();
    let check: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn child_on_a_full_disk() {
    let Ok(path) = std::env::var(DATABASE) else {
        return;
    };
    // Leaves little room.
    let ballast = Path::new(&path).with_file_name("ballast");
    let mut file = File::create(&ballast).unwrap();
    file.write_all(&vec![1; 6 << 20]).unwrap();
    work_on_a_full_disk(|| fs::remove_file(ballast).unwrap()).await;
    println!("the child is done");
}

#[tokio::test]
async fn child_whose_files_may_not_grow() {
    if std::env::var(DATABASE).is_err() {
        return;
    }
    work_on_a_full_disk(|| {
        let lifted = Command::new("prlimit")
            .args(["--fsize=unlimited:unlimited", "--pid"])
            .arg(std::process::id().to_string())
            .status();
        assert!(lifted.unwrap().success());
    })
    .await;
    println!("the child is done");
}

fn is_done(mut command: Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("the child is done"), "{said}\n{errors}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_does_no_harm() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    // A small file system of the child's own, which needs a namespace to mount it in.
    let mut namespaces = Command::new("unshare");
    namespaces.args(["--user", "--map-root-user", "--mount"]);
    let may_mount = namespaces
        .args(["sh", "-c", "mount -t tmpfs tmpfs \"$0\""])
        .arg(directory.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !may_mount {
        // The test below has the same failure by other means.
        println!("left out: this system lets nobody mount a small file system");
        return;
    }
    let inner = child_after(
        "mount -t tmpfs -o size=8m tmpfs \"$1\"",
        "sqlite_failures::child_on_a_full_disk",
        &path,
    );
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(DATABASE, &path);
    is_done(command);
}

#[tokio::test]
async fn files_that_may_not_grow_are_told_and_do_no_harm() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    // The limit is a number of 512 octets; ignoring the signal turns it into an error.
    is_done(child_after(
        "trap '' XFSZ; ulimit -S -f 2000",
        "sqlite_failures::child_whose_files_may_not_grow",
        &path,
    ));
}

#[tokio::test]
async fn child_that_locks() {
    let Ok(path) = std::env::var(DATABASE) else {
        return;
    };
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    println!("locked");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    db.execute_batch("ROLLBACK").unwrap();
}

#[tokio::test]
async fn a_file_that_another_process_locks_is_told_and_works_again_afterwards() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    let storage = open(&format!("sqlite://{}", path.display()), Options::default())
        .await
        .unwrap();
    let ann = bare("ann@localhost");
    add(&storage, &["ann"]).await;
    let one = append(&storage, offline("ann@localhost", "1")).await;
    let mut locker = child("sqlite_failures::child_that_locks", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(locker.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("locked")));

    let refused = storage
        .append(vec![offline("ann@localhost", "2")], 10)
        .await
        .unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("another process has locked"), "{text}");
    // Reading goes on.
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["1"]);

    drop(locker.stdin.take());
    assert!(locker.wait().unwrap().success());
    append(&storage, offline("ann@localhost", "3")).await;
    mark(&storage, &ann, &[one]).await;
    assert_eq!(stanzas(&undelivered(&storage, &ann).await), ["3"]);
}

/// A process that is killed while it holds the lock leaves none behind.
#[tokio::test]
async fn a_locking_process_that_is_killed_locks_nobody_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rookery.db");
    let storage = open(&format!("sqlite://{}", path.display()), Options::default())
        .await
        .unwrap();
    add(&storage, &["ann"]).await;
    let mut locker = child("sqlite_failures::child_that_locks", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(locker.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("locked")));

    let write = append(&storage, offline("ann@localhost", "1"));
    let kill = async {
        // SIGKILL.
        locker.kill().unwrap();
    };
    let (id, ()) = tokio::join!(write, kill);
    let ann = bare("ann@localhost");
    assert_eq!(undelivered(&storage, &ann).await[0].id, id);
    locker.wait().unwrap();
}
