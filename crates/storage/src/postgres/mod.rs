//! The database server that the nodes of a cluster share.
//!
//! One thread of its own drives all connections and runs the operations, so that a transaction of
//! several steps crosses threads twice, however many steps it has. Appends to message logs are
//! gathered and committed in groups ([`log_writer`]); everything else is one statement or one transaction on
//! a connection of the [`pool`].

mod accounts;
mod archive;
mod blocks;
mod breaker;
mod config;
mod log;
mod log_batch;
mod log_columns;
mod log_writer;
mod pool;
mod profile;
mod retention;
mod roster;
mod schema;
mod secrets;
mod tls;
mod whole;

use std::{
    error::Error as _,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, oneshot},
    time::timeout_at,
};
use tokio_postgres::{Row, types::FromSql};

use crate::{Error, Options, Storage, metrics};
use config::Target;
use log_writer::LogWriter;
use pool::{Lease, Pool, closed};
use retention::Sweep;

/// Name of this backend in metrics.
const BACKEND: &str = "postgres";

/// Whether a URL can name a database, as far as that shows without asking anybody.
///
/// # Errors
/// In words, without the password.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    config::read(url).map(drop)
}

/// A database on a `PostgreSQL` server.
#[derive(Debug)]
pub(crate) struct PostgresStorage {
    options: Options,
    pool: Arc<Pool>,
    log: LogWriter,
    runtime: Handle,
    /// One for each operation that may wait or be under way.
    slots: Arc<Semaphore>,
    all_slots: u32,
    sweep: Sweep,
    /// Dropping it ends the thread.
    _thread: oneshot::Sender<()>,
}

impl PostgresStorage {
    /// Connects, migrates, and starts what is needed.
    pub(crate) async fn open(url: &str, options: Options) -> Result<Self, Error> {
        let target = Target::parse(url, options.timeout).map_err(|reason| Error::Open {
            place: "postgres://…".to_owned(),
            reason,
        })?;
        // The log has one for itself.
        let connections = options.connections.max(2);
        let pool = Arc::new(Pool::new(target, connections, options.timeout));
        let refuse = |reason: String| Error::Open {
            place: pool.place().to_owned(),
            reason,
        };
        let (runtime, stop) = start_thread().map_err(|error| refuse(error.to_string()))?;
        let prepare = {
            let (pool, deadline) = (Arc::clone(&pool), Instant::now() + options.timeout);
            async move {
                pool.try_connect().await?;
                let why = |error: Error| error.to_string();
                let mut lease = pool.lease(deadline).await.map_err(why)?;
                schema::migrate(&mut lease).await.map_err(why)?
            }
        };
        match runtime.spawn(prepare).await {
            Ok(prepared) => prepared.map_err(refuse)?,
            Err(error) => return Err(refuse(error.to_string())),
        }
        let log = LogWriter::start(&runtime, Arc::clone(&pool), options.queue);
        let all_slots = options.queue.clamp(1, Semaphore::MAX_PERMITS);
        let all_slots = u32::try_from(all_slots).unwrap_or(u32::MAX);
        let slots = Arc::new(Semaphore::new(all_slots as usize));
        Ok(Self {
            options,
            pool,
            log,
            runtime,
            slots,
            all_slots,
            sweep: Sweep::default(),
            _thread: stop,
        })
    }

    /// Runs `work` with a connection, on the storage's thread.
    async fn read<T, F, W>(&self, op: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Lease) -> W + Send + 'static,
        W: Future<Output = Result<T, Error>> + Send,
    {
        let started = Instant::now();
        let result = self.run(op, started + self.options.timeout, work).await;
        metrics::observe(BACKEND, op, started, &result);
        result
    }

    /// [`Self::read`] for work that commits something.
    async fn write<T, F, W>(&self, op: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Lease) -> W + Send + 'static,
        W: Future<Output = Result<T, Error>> + Send,
    {
        self.read(op, async move |lease| {
            let started = Instant::now();
            let result = work(lease).await;
            metrics::observe_commit(BACKEND, 1, started.elapsed());
            result
        })
        .await
    }

    async fn run<T, F, W>(&self, op: &'static str, deadline: Instant, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(Lease) -> W + Send + 'static,
        W: Future<Output = Result<T, Error>> + Send,
    {
        self.pool.breaker().check()?;
        let slots = Arc::clone(&self.slots);
        let slot = timeout_at(deadline.into(), slots.acquire_owned())
            .await
            .map_err(|_| Error::unavailable("too many operations are waiting"))?
            .map_err(|_| closed())?;
        let waiting = Waiting::new();
        let pool = Arc::clone(&self.pool);
        let task = self.runtime.spawn(async move {
            let _slot = slot;
            let lease = pool.lease(deadline).await?;
            drop(waiting);
            work(lease).await
        });
        let abort = task.abort_handle();
        // A little later than the deadline, so that the reason why it was missed comes through.
        let wait = timeout_at((deadline + Duration::from_millis(50)).into(), task);
        let suspicious = Instant::now() + suspicion(self.options.timeout);
        let answered = suspect_after(suspicious, wait, || {
            let _runtime = self.runtime.enter();
            self.pool.suspect();
        });
        match answered.await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) if error.is_panic() => Err(Error::unavailable("the operation panicked")),
            Ok(Err(_)) => Err(closed()),
            Err(_) => {
                abort.abort();
                Err(Error::Timeout(op))
            }
        }
    }
}

#[async_trait]
impl Storage for PostgresStorage {
    async fn health(&self) -> Result<(), Error> {
        // During an outage an operation would wait for the server; this is to know now.
        self.pool.breaker().check_now()?;
        self.read("health", async |mut lease: Lease| {
            lease
                .query("SELECT max(version) FROM migration", &[])
                .await
                .map(drop)
        })
        .await
    }

    async fn close(&self) {
        // What was asked for before has its slot, whether or not it has asked for a connection yet; what
        // comes now waits behind this, and is refused then.
        let deadline = Instant::now() + self.options.timeout;
        let ended = self.slots.acquire_many(self.all_slots);
        if timeout_at(deadline.into(), ended).await.is_err() {
            tracing::warn!("operations were under way when the storage was closed");
        }
        self.slots.close();
        self.log.close().await;
        let left = deadline.saturating_duration_since(Instant::now());
        self.pool.close(self.options.connections.max(2), left).await;
        tracing::debug!(place = self.pool.place(), "database closed");
    }

    fn backend(&self) -> &'static str {
        BACKEND
    }
}

/// Counts an operation as waiting until it is dropped.
struct Waiting(prometheus::IntGauge);

impl Waiting {
    fn new() -> Self {
        let gauge = metrics::QUEUE_LENGTH.with_label_values(&[BACKEND, "connection"]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// After how much of the time that an operation has it seems that the server is away.
fn suspicion(timeout: Duration) -> Duration {
    timeout / 4
}

/// Waits for `work`; once `suspicious` is over, does `suspect` and goes on waiting.
async fn suspect_after<T>(
    suspicious: Instant,
    work: impl Future<Output = T>,
    suspect: impl FnOnce(),
) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout_at(suspicious.into(), &mut work).await {
        return done;
    }
    suspect();
    work.await
}

/// A thread with a runtime, and what ends it when dropped.
fn start_thread() -> std::io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new()
        .name("rookery-postgres".to_owned())
        // Nothing is ever sent: the storage drops its side.
        .spawn(move || drop(runtime.block_on(stopped)))?;
    Ok((handle, stop))
}

/// A column.
fn get<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Result<T, Error> {
    row.try_get(column)
        .map_err(|error| Error::corrupt("row", explain(&error)))
}

/// An error with all its causes: tokio-postgres shows none by itself.
fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
