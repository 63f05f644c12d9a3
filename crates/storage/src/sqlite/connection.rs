//! Opening the file, and saying what is wrong with it.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{BUSY_TIMEOUT, schema};
use crate::Error;

/// How long to wait before trying again for a lock that another process holds.
const BUSY_STEP: Duration = Duration::from_micros(500);

/// Prepared statements that a connection keeps; more than there are in this module.
const STATEMENTS: usize = 64;

/// Opens or creates the file for writing and brings its schema up to date.
pub(super) fn open_writing(path: &Path) -> Result<Connection, Error> {
    create(path)?;
    let why = |error: rusqlite::Error| explain(path, &error);
    let mut db = open(path).map_err(why)?;
    // Answers the mode that is in force. Changing it needs the file alone for a moment.
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(why)?;
    if mode != "wal" {
        return Err(refuse(
            path,
            format!("it cannot use a write-ahead log (mode {mode})"),
        ));
    }
    // A log that is written without a pause changes the same pages again and again; copying them
    // from the WAL to the file every 32 MB instead of every 4 (the default) does it less often.
    db.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA cache_size = -32000;
         PRAGMA wal_autocheckpoint = 8000;
         PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(why)?;
    schema::migrate(&mut db).map_err(|error| match error {
        schema::Failed::Sql(error) => explain(path, &error),
        schema::Failed::TooNew { found, known } => refuse(
            path,
            format!("its schema has version {found}, this program knows {known}: update rookery"),
        ),
    })?;
    Ok(db)
}

/// Opens the file, which [`open_writing`] has prepared, for reading.
pub(super) fn open_reading(path: &Path) -> Result<Connection, Error> {
    let why = |error: rusqlite::Error| explain(path, &error);
    let db = open(path).map_err(why)?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8000;")
        .map_err(why)?;
    Ok(db)
}

/// Opens the file as it is.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    // Each connection stays on one thread. No SQLITE_OPEN_URI: a path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    // SQLite's own busy_timeout waits up to 100 ms between tries and so may never see the short
    // gaps that a busy writer leaves.
    let tries = BUSY_TIMEOUT.as_micros() / BUSY_STEP.as_micros();
    db.busy_handler(Some(move |tried: i32| {
        thread::park_timeout(BUSY_STEP);
        u128::from(tried.unsigned_abs()) < tries
    }))?;
    // Without this, the planner looks at the values of parameters, and every run of a join prepares
    // its statement anew.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(db)
}

/// Creates the file, readable by its owner alone; `SQLite` gives its other files the same mode.
fn create(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Err(refuse(
            path,
            "the URL names no file; write sqlite://PATH".to_owned(),
        ));
    }
    if path.as_os_str() == ":memory:" {
        return Err(refuse(
            path,
            "a database in memory would lose everything".to_owned(),
        ));
    }
    match OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => {}
        Err(error) => return Err(refuse(path, explain_io(path, &error))),
    }
    // SQLite keeps two more files beside it, so the directory must be writable as well.
    let directory = directory(path);
    let probe = directory.join(format!(".rookery-write-test-{}", std::process::id()));
    let probed = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&probe);
    match probed {
        Ok(_) => drop(fs::remove_file(&probe)),
        Err(error) => {
            let why = explain_io(&probe, &error);
            return Err(refuse(
                path,
                format!("its directory must be writable, but {why}"),
            ));
        }
    }
    Ok(())
}

pub(super) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Why a file cannot be opened or created.
fn explain_io(path: &Path, error: &io::Error) -> String {
    let directory = directory(path);
    match error.kind() {
        ErrorKind::NotFound if !directory.exists() => {
            format!(
                "the directory {} does not exist; create it",
                directory.display()
            )
        }
        ErrorKind::NotADirectory => format!("{} is not a directory", directory.display()),
        ErrorKind::IsADirectory => "it is a directory, not a file".to_owned(),
        ErrorKind::PermissionDenied => {
            "permission is denied; let the user that runs rookery own it".to_owned()
        }
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "there is no space left on the device".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Why `SQLite` does not accept the file.
fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    refuse(path, reason(error))
}

/// What is wrong with a file, in words.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            "the file is not a SQLite database; name another file or move this one away".to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("the file is damaged ({error}); restore it from a backup")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
            "another process has locked it for more than {} s",
            BUSY_TIMEOUT.as_secs()
        ),
        Some(ErrorCode::DiskFull) => "there is no space left on the device".to_owned(),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it is read-only; let the user that runs rookery own and write it".to_owned()
        }
        _ => error.to_string(),
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Open {
        place: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus::RePrepare;

    use super::*;

    #[test]
    fn statements_are_prepared_once() {
        const SELECT: &str = "SELECT a.id, l.delivered FROM account a JOIN log l
            ON l.account = a.id WHERE a.jid = ?1";
        let directory = tempfile::TempDir::new().unwrap();
        let db = open_writing(&directory.path().join("rookery.db")).unwrap();
        let mut select = db.prepare(SELECT).unwrap();
        for number in 0..10 {
            assert!(!select.exists([number.to_string()]).unwrap());
        }
        assert_eq!(select.get_status(RePrepare), 0);
    }
}
