//! Copies of the file while it is in use, and putting one in its place.
//!
//! A backup is one `SQLite` file that holds what was committed when it began: `SQLite`'s online backup
//! copies the pages while a read transaction keeps them as they were. Nobody waits for it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{connection, schema};

/// Pages that are copied at a time: 8 MB of the usual ones.
const PAGES: i32 = 2000;

/// How long to wait for somebody who holds the copy's file.
const PAUSE: Duration = Duration::from_millis(20);

/// A backup was not made, or not put into place. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct BackupError {
    /// The file that is the reason.
    pub path: PathBuf,
    /// What is wrong with it, for the person who asked.
    pub reason: String,
}

/// What a file was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The version of its schema.
    pub version: i64,
    /// How many accounts it has.
    pub accounts: i64,
}

/// What was put into place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup held.
    pub backup: Checked,
    /// Where the database is that was there before, if there was one.
    pub kept: Option<PathBuf>,
}

/// Copies the database into a file that does not exist yet, readable by its owner alone. `progress` is
/// told how many pages of how many are copied.
///
/// What was committed before the call is in the copy. The file appears when it is complete, checked and
/// on disk.
///
/// # Errors
/// If the copy exists, or cannot be made; then there is none.
pub fn back_up(
    database: &Path,
    copy: &Path,
    progress: impl FnMut(u64, u64),
) -> Result<Checked, BackupError> {
    if copy.symlink_metadata().is_ok() {
        return Err(wrong(copy, &"it exists already, and is not overwritten"));
    }
    if !database.is_file() {
        return Err(wrong(database, &"there is no database"));
    }
    let partial = Partial::create(beside(copy, "partial"))?;
    let source = connection::open(database).map_err(|error| why(database, &error))?;
    copy_pages(database, &source, &partial.path, progress)?;
    let checked = check(&partial.path, "quick_check")?;
    // Fails if somebody made the file meanwhile.
    fs::hard_link(&partial.path, copy)
        .or_else(|error| rename_if_absent(&partial.path, copy, error))
        .map_err(|error| wrong(copy, &error))?;
    drop(partial);
    sync_directory(copy)?;
    Ok(checked)
}

/// Puts a backup into the place of the database, which no process may have open. The one before stays
/// beside it under another name.
///
/// # Errors
/// If the backup is damaged, no database of this program or one of a newer, if the database is in use,
/// or cannot be replaced.
pub fn restore(
    backup: &Path,
    database: &Path,
    progress: impl FnMut(u64, u64),
) -> Result<Restored, BackupError> {
    let metadata = fs::metadata(backup).map_err(|error| wrong(backup, &error))?;
    if !metadata.is_file() {
        return Err(wrong(backup, &"it is no file"));
    }
    let partial = Partial::create(beside(database, "restoring"))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(backup, flags).map_err(|error| why(backup, &error))?;
    copy_pages(backup, &source, &partial.path, progress)?;
    drop(source);
    let checked =
        check(&partial.path, "integrity_check").map_err(|error| wrong(backup, &error.reason))?;
    let kept = keep(database)?;
    if let Err(error) = fs::rename(&partial.path, database) {
        put_back(database, kept.as_deref())?;
        return Err(wrong(database, &error));
    }
    sync_directory(database)?;
    match connection::open_writing(database) {
        Ok(db) => drop(db),
        Err(error) => {
            put_back(database, kept.as_deref())?;
            return Err(wrong(backup, &error));
        }
    }
    Ok(Restored {
        backup: checked,
        kept,
    })
}

/// A file that goes unless it has become something else.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn create(path: PathBuf) -> Result<Self, BackupError> {
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match created {
            Ok(_) => Ok(Self { path }),
            Err(error) => Err(wrong(&path, &error)),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        for file in with_companions(&self.path) {
            drop(fs::remove_file(file));
        }
    }
}

/// A file and those that `SQLite` keeps beside it.
fn with_companions(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|suffix| suffixed(path, suffix))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn beside(path: &Path, what: &str) -> PathBuf {
    suffixed(path, &format!(".{what}-{}", std::process::id()))
}

/// Copies what is committed, into an empty file.
fn copy_pages(
    path: &Path,
    source: &Connection,
    copy: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), BackupError> {
    let at_source = |error| why(path, &error);
    let at_copy = |error| why(copy, &error);
    // What is committed later is not seen, so the copy need not begin anew for it.
    source.execute_batch("BEGIN").map_err(at_source)?;
    let _: i64 = source
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(at_source)?;
    let mut target = Connection::open(copy).map_err(at_copy)?;
    let backup = Backup::new(source, &mut target).map_err(at_copy)?;
    loop {
        let step = backup.step(PAGES).map_err(at_source)?;
        let state = backup.progress();
        let all = u64::try_from(state.pagecount).unwrap_or(0);
        let left = u64::try_from(state.remaining).unwrap_or(0);
        progress(all - left, all);
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            _ => std::thread::park_timeout(PAUSE),
        }
    }
    drop(backup);
    // One file, that can be read anywhere.
    target
        .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .map_err(at_copy)?;
    target.close().map_err(|(_, error)| at_copy(error))?;
    File::open(copy)
        .and_then(|file| file.sync_all())
        .map_err(|error| wrong(copy, &error))
}

/// Whether a file is undamaged and a database that this program knows.
fn check(path: &Path, how: &str) -> Result<Checked, BackupError> {
    let at = |error| why(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(at)?;
    let sound: String = db
        .query_row(&format!("PRAGMA {how}(1)"), [], |row| row.get(0))
        .map_err(at)?;
    if sound != "ok" {
        return Err(wrong(path, &format!("it is damaged: {sound}")));
    }
    if !db.table_exists(None, "migration").map_err(at)? {
        return Err(wrong(path, &"it is no database of rookery"));
    }
    let (version, needs) = schema::version(&db).map_err(at)?;
    if needs > schema::KNOWN {
        let known = schema::KNOWN;
        return Err(wrong(
            path,
            &format!(
                "its schema has version {version}, this program knows {known}: update rookery"
            ),
        ));
    }
    let accounts = db
        .query_row("SELECT count(*) FROM account", [], |row| row.get(0))
        .map_err(at)?;
    Ok(Checked { version, accounts })
}

/// Gives the database a second name, and makes sure that it is one file that nobody has open.
fn keep(database: &Path) -> Result<Option<PathBuf>, BackupError> {
    if !database.exists() {
        return Ok(None);
    }
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let kept = suffixed(database, &format!(".before-restore-{seconds}"));
    // Needs the file alone, and leaves no write-ahead log.
    let alone = connection::open(database).and_then(|db| {
        db.query_row("PRAGMA journal_mode = DELETE", [], |row| {
            row.get::<_, String>(0)
        })
    });
    let is_damaged = match alone {
        Ok(mode) if mode != "wal" => false,
        Err(error)
            if !matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ) =>
        {
            true
        }
        _ => return Err(wrong(database, &"another process uses it; stop it first")),
    };
    fs::hard_link(database, &kept)
        .or_else(|_| fs::copy(database, &kept).map(drop))
        .map_err(|error| wrong(&kept, &error))?;
    // Perhaps that is why a backup is wanted. It is kept as it is.
    if is_damaged {
        for suffix in ["-wal", "-shm", "-journal"] {
            let companion = suffixed(database, suffix);
            if companion.exists() {
                fs::rename(&companion, suffixed(&kept, suffix))
                    .map_err(|error| wrong(&companion, &error))?;
            }
        }
    }
    Ok(Some(kept))
}

/// Undoes a restore.
fn put_back(database: &Path, kept: Option<&Path>) -> Result<(), BackupError> {
    for file in with_companions(database) {
        drop(fs::remove_file(file));
    }
    if let Some(kept) = kept {
        for (from, to) in with_companions(kept).iter().zip(with_companions(database)) {
            if from.exists() {
                fs::rename(from, to).map_err(|error| wrong(database, &error))?;
            }
        }
    }
    sync_directory(database)
}

/// For file systems without hard links.
fn rename_if_absent(from: &Path, to: &Path, error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied if !to.exists() => {
            fs::rename(from, to)
        }
        _ => Err(error),
    }
}

fn sync_directory(path: &Path) -> Result<(), BackupError> {
    let directory = connection::directory(path);
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| wrong(&directory, &error))
}

fn why(path: &Path, error: &rusqlite::Error) -> BackupError {
    wrong(path, &connection::reason(error))
}

fn wrong(path: &Path, reason: &dyn fmt::Display) -> BackupError {
    BackupError {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
