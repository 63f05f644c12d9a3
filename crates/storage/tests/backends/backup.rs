//! Copies of a SQLite file that is in use, and putting them into its place.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::join_all;
use rookery_storage::{
    Options, Storage,
    backup::{back_up, restore},
    open,
};
use tempfile::TempDir;

use crate::suite::{add, bare, offline, undelivered};

/// A directory with a database in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("rookery.db")
    }

    async fn open(&self) -> Arc<dyn Storage> {
        let url = format!("sqlite://{}", self.database().display());
        open(&url, Options::default()).await.unwrap()
    }

    /// The names of all files, sorted.
    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A database with these accounts, closed.
    async fn with(self, names: &[&str]) -> Self {
        let storage = self.open().await;
        add(&storage, names).await;
        storage.close().await;
        self
    }
}

fn nobody_asks(_: u64, _: u64) {}

#[tokio::test]
async fn a_copy_has_what_was_acknowledged_before_while_others_write() {
    let place = Place::new();
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    let append = |number: usize| {
        let message = offline("ann@localhost", &number.to_string());
        storage.append(vec![message], usize::MAX)
    };
    join_all((0..200).map(append)).await;
    let (database, copy) = (place.database(), place.path("copy"));
    let copying = tokio::task::spawn_blocking(move || back_up(&database, &copy, nobody_asks));
    // As long as it runs, and longer.
    let mut number = 200;
    while !copying.is_finished() {
        join_all((number..number + 50).map(append)).await;
        number += 50;
    }
    let checked = copying.await.unwrap().unwrap();
    assert_eq!(checked.accounts, 1);
    storage.close().await;

    let other = Place::new();
    let copy = place.path("copy");
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let restored = restore(&copy, &other.database(), nobody_asks).unwrap();
    assert_eq!(restored.kept, None);
    let storage = other.open().await;
    let entries = undelivered(&storage, &bare("ann@localhost")).await;
    let numbers: Vec<usize> = entries.iter().map(|e| e.stanza.parse().unwrap()).collect();
    assert!(numbers.len() >= 200, "{}", numbers.len());
    let all: Vec<usize> = (0..numbers.len()).collect();
    assert_eq!(numbers, all, "one moment's state, without gaps");
}

#[tokio::test]
async fn a_copy_overwrites_nothing_and_leaves_nothing_behind() {
    let place = Place::new().with(&["ann"]).await;
    fs::write(place.path("there"), "something else").unwrap();
    let refused = back_up(&place.database(), &place.path("there"), nobody_asks).unwrap_err();
    assert!(refused.to_string().contains("exists already"), "{refused}");
    assert_eq!(
        fs::read_to_string(place.path("there")).unwrap(),
        "something else"
    );
    for (from, to) in [
        (place.path("missing"), place.path("copy")),
        (place.path("there"), place.path("copy")),
        (place.database(), place.path("no/such/directory")),
    ] {
        let refused = back_up(&from, &to, nobody_asks).unwrap_err();
        assert!(!refused.reason.is_empty());
    }
    assert_eq!(place.files(), ["rookery.db", "there"]);
    back_up(&place.database(), &place.path("copy"), nobody_asks).unwrap();
    assert_eq!(place.files(), ["copy", "rookery.db", "there"]);
}

#[tokio::test]
async fn the_database_that_was_there_is_kept() {
    let place = Place::new().with(&["ann"]).await;
    back_up(&place.database(), &place.path("copy"), nobody_asks).unwrap();
    let place = place.with(&["bob"]).await;
    let restored = restore(&place.path("copy"), &place.database(), nobody_asks).unwrap();
    assert_eq!(restored.backup.accounts, 1);
    let kept = restored.kept.unwrap();
    let name = kept.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("rookery.db.before-restore-"), "{name}");
    let storage = place.open().await;
    assert!(!storage.exists(&bare("bob@localhost")).await.unwrap());
    storage.close().await;
    // And it can be put back.
    restore(&kept, &place.database(), nobody_asks).unwrap();
    let storage = place.open().await;
    assert!(storage.exists(&bare("bob@localhost")).await.unwrap());
}

#[tokio::test]
async fn what_is_no_backup_changes_nothing() {
    let place = Place::new().with(&["ann"]).await;
    back_up(&place.database(), &place.path("copy"), nobody_asks).unwrap();
    fs::write(place.path("text"), "no database ".repeat(1000)).unwrap();
    let whole = fs::read(place.path("copy")).unwrap();
    fs::write(place.path("truncated"), &whole[..whole.len() / 2]).unwrap();
    fs::write(place.path("empty"), "").unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 6000].fill(0x55);
    fs::write(place.path("damaged"), damaged).unwrap();
    let other = rusqlite::Connection::open(place.path("other")).unwrap();
    other.execute_batch("CREATE TABLE x (y)").unwrap();
    drop(other);
    fs::write(place.path("newer"), &whole).unwrap();
    let newer = rusqlite::Connection::open(place.path("newer")).unwrap();
    newer
        .execute("INSERT INTO migration (version, needs) VALUES (99, 98)", [])
        .unwrap();
    drop(newer);
    let (before, files) = (fs::read(place.database()).unwrap(), place.files());
    for (name, reason) in [
        ("text", "not a SQLite database"),
        ("truncated", "damaged"),
        ("empty", "no database of rookery"),
        ("damaged", "damaged"),
        ("other", "no database of rookery"),
        ("newer", "update rookery"),
        ("missing", "No such file"),
    ] {
        let refused = restore(&place.path(name), &place.database(), nobody_asks).unwrap_err();
        assert!(refused.reason.contains(reason), "{name}: {refused}");
        assert_eq!(refused.path, place.path(name));
    }
    assert_eq!(place.files(), files);
    assert_eq!(fs::read(place.database()).unwrap(), before);
}

#[tokio::test]
async fn a_database_that_is_in_use_is_not_replaced() {
    let place = Place::new();
    let storage = place.open().await;
    add(&storage, &["ann"]).await;
    back_up(&place.database(), &place.path("copy"), nobody_asks).unwrap();
    let (copy, database) = (place.path("copy"), place.database());
    let restoring = tokio::task::spawn_blocking(move || restore(&copy, &database, nobody_asks));
    let refused = restoring.await.unwrap().unwrap_err();
    assert!(
        refused.reason.contains("another process uses it"),
        "{refused}"
    );
    add(&storage, &["bob"]).await;
    storage.close().await;
    assert_eq!(place.files(), ["copy", "rookery.db"]);
}

/// The reason why a backup is wanted.
#[tokio::test]
async fn a_damaged_database_is_replaced_and_kept() {
    let place = Place::new().with(&["ann"]).await;
    back_up(&place.database(), &place.path("copy"), nobody_asks).unwrap();
    fs::write(place.database(), "this was a database once").unwrap();
    let restored = restore(&place.path("copy"), &place.database(), nobody_asks).unwrap();
    let kept = restored.kept.unwrap();
    assert_eq!(content(&kept), "this was a database once");
    let storage = place.open().await;
    assert!(storage.exists(&bare("ann@localhost")).await.unwrap());
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
