//! The embedded database: one `SQLite` file, no server.
//!
//! One thread writes and commits in groups ([`writer`]); a few threads read ([`readers`]). In WAL
//! mode neither waits for the other. `synchronous=FULL`: a commit is on disk when it returns. Other
//! processes may open the same file at the same time (`rookery user add`); they wait for each other's
//! write transactions, at most [`BUSY_TIMEOUT`].

mod accounts;
mod archive;
pub mod backup;
mod blocks;
mod connection;
mod deliveries;
mod log;
mod log_rows;
mod log_writer;
mod profile;
mod queue;
mod readers;
mod retention;
mod roster;
mod schema;
mod secrets;
mod whole;
mod writer;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rusqlite::Connection;

use crate::{Error, Options, Storage, metrics};
use log_writer::Logs;
use readers::Readers;
use retention::Sweep;
use writer::{Weight, Writer};

/// Name of this backend in metrics.
const BACKEND: &str = "sqlite";

/// How long a process waits for another one's write transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A `SQLite` file.
#[derive(Debug)]
pub(crate) struct SqliteStorage {
    path: PathBuf,
    options: Arc<Options>,
    writer: Writer,
    readers: Readers,
    sweep: Sweep,
}

impl SqliteStorage {
    /// Opens or creates the file and starts the threads.
    pub(crate) async fn open(path: PathBuf, options: Options) -> Result<Self, Error> {
        let open = move || {
            let writing = connection::open_writing(&path)?;
            let reading = (0..options.readers.max(1))
                .map(|_| connection::open_reading(&path))
                .collect::<Result<Vec<_>, _>>()?;
            let writer = Writer::start(writing, &options).map_err(|e| no_thread(&path, &e))?;
            let readers = Readers::start(reading, &options).map_err(|e| no_thread(&path, &e))?;
            Ok(Self {
                path,
                options: Arc::new(options),
                writer,
                readers,
                sweep: Sweep::default(),
            })
        };
        // Opening waits for locks and disks, and must not hold up the caller's thread.
        let (answer, answered) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("rookery-open".to_owned())
            .spawn(move || answer.send(open()))
            .map_err(Error::unavailable_because)?;
        answered
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("the opening thread panicked")))
    }

    /// Runs `work` on a thread that reads.
    async fn read<T, F>(&self, op: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let started = Instant::now();
        let result = self
            .readers
            .run(op, started + self.options.timeout, work)
            .await;
        metrics::observe(BACKEND, op, started, &result);
        result
    }

    /// Runs `work` in the writer's next transaction; answers after the commit.
    async fn write<T, F>(&self, op: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.write_with_logs(op, |db, _| work(db)).await
    }

    /// [`Self::write`] for work that changes what the writing thread knows of logs.
    async fn write_with_logs<T, F>(&self, op: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Logs) -> Result<T, Error> + Send + 'static,
    {
        self.write_as(
            op,
            Weight {
                rows: 1,
                alone: true,
            },
            work,
        )
        .await
    }

    /// [`Self::write`] for work on logs that writes `rows` rows, and fails only if the database does:
    /// then all that is in its transaction fails.
    async fn write_batch<T, F>(&self, op: &'static str, rows: usize, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Logs) -> Result<T, Error> + Send + 'static,
    {
        self.write_as(op, Weight { rows, alone: false }, work).await
    }

    async fn write_as<T, F>(&self, op: &'static str, weight: Weight, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Logs) -> Result<T, Error> + Send + 'static,
    {
        let started = Instant::now();
        let result = self
            .writer
            .run(op, started + self.options.timeout, weight, work)
            .await;
        metrics::observe(BACKEND, op, started, &result);
        result
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn health(&self) -> Result<(), Error> {
        self.read("health", |db| {
            Ok(db
                .prepare_cached("SELECT max(version) FROM migration")?
                .query_one([], |_| Ok(()))?)
        })
        .await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        tracing::debug!(path = %self.path.display(), "database closed");
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }
}

fn no_thread(path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::Open {
        place: path.display().to_string(),
        reason: format!("a thread could not be started: {error}"),
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{
            DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, SystemIoFailure,
        };
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::corrupt("database", error),
            Some(DatabaseBusy | DatabaseLocked) => Self::unavailable(format!(
                "another process has locked the database file for more than {} s",
                BUSY_TIMEOUT.as_secs()
            )),
            Some(DiskFull) => {
                Self::unavailable("there is no space left on the device of the database file")
            }
            Some(SystemIoFailure) => Self::unavailable(format!(
                "the database file cannot be written or read: {error}"
            )),
            Some(_) => Self::unavailable_because(error),
            None => Self::corrupt("row", error),
        }
    }
}
