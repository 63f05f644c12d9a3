//! A bounded set of connections that come back by themselves.
//!
//! A connection is leased for one operation. It goes back to the pool only when nothing is under way
//! on it: a lease that was dropped in the middle of a request ends its connection, one that was
//! dropped in the middle of a transaction rolls back first. While the server is away, a task of its
//! own tries to connect, and operations wait or fail as the [`Breaker`] says.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_postgres::{
    Client, Row, Statement,
    error::{DbError, Severity, SqlState},
    types::ToSql,
};

use super::{breaker::Breaker, config::Target, explain};
use crate::{Error, metrics};

/// Pauses between attempts to connect grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// After how long a clock is looked at again. Two clocks differ by less than a hundredth of a second then.
const CLOCK_AGE: Duration = Duration::from_mins(1);

/// The connections.
pub(super) struct Pool {
    target: Target,
    /// How long one request may take on the server.
    limit: Duration,
    idle: Mutex<Vec<Link>>,
    permits: Arc<Semaphore>,
    breaker: Breaker,
    /// Whether a task finds out whether the server is there.
    is_probing: AtomicBool,
}

/// Why a connection could not be made.
struct NotConnected {
    reason: String,
    /// Whether a server answered, and refused.
    is_answered: bool,
}

/// One connection and its prepared statements.
struct Link {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    clock: Option<Clock>,
}

/// What the server's clock showed.
#[derive(Clone, Copy)]
struct Clock {
    shown: SystemTime,
    /// When that was known here.
    known: Instant,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("place", &self.target.place)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of up to `size` connections; none is made yet.
    pub(super) fn new(target: Target, size: usize, limit: Duration) -> Self {
        Self {
            target,
            limit,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(size.clamp(1, 1000))),
            breaker: Breaker::new(limit / 2),
            is_probing: AtomicBool::new(false),
        }
    }

    /// Where it connects to, for people.
    pub(super) fn place(&self) -> &str {
        &self.target.place
    }

    /// How long one request may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether it makes sense to ask for a connection once more.
    pub(super) fn may_wait(&self) -> bool {
        !self.permits.is_closed() && self.breaker.check().is_ok()
    }

    /// Whether the server is away, and for how long.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// A connection. Waits until `deadline` for a free one and for the server.
    ///
    /// # Errors
    /// `Unavailable`, with the reason why the server cannot be reached.
    pub(super) async fn lease(self: &Arc<Self>, deadline: Instant) -> Result<Lease, Error> {
        tokio::select! {
            biased;
            lease = self.lease_patiently() => lease,
            error = self.breaker.given_up(deadline, "all connections are busy") => Err(error),
        }
    }

    async fn lease_patiently(self: &Arc<Self>) -> Result<Lease, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| closed())?;
        let link = loop {
            if let Some(link) = self.take_idle() {
                break link;
            }
            if self.permits.is_closed() {
                return Err(closed());
            }
            if self.breaker.is_open() {
                self.breaker.closed().await;
            } else if let Ok(link) = self.connect(self.limit).await {
                break link;
            }
        };
        Ok(Lease {
            pool: Arc::clone(self),
            link: Some(link),
            permit: Some(permit),
            state: State::Free,
            refused: None,
            is_rolled_back: false,
        })
    }

    /// Waits for all leases to end, then closes the connections.
    pub(super) async fn close(&self, size: usize, patience: Duration) {
        let all = u32::try_from(size).unwrap_or(u32::MAX);
        let returned = timeout(patience, self.permits.acquire_many(all)).await;
        self.permits.close();
        if returned.is_err() {
            tracing::warn!("operations were under way when the storage was closed");
        }
        lock(&self.idle).clear();
    }

    fn take_idle(&self) -> Option<Link> {
        let mut idle = lock(&self.idle);
        idle.retain(|link| !link.client.is_closed());
        idle.pop()
    }

    /// Makes one attempt to connect. If it fails, the server is away.
    ///
    /// # Errors
    /// Tells that.
    async fn connect(self: &Arc<Self>, patience: Duration) -> Result<Link, ()> {
        let began = Instant::now();
        match self.attempt(patience).await {
            Ok(link) => {
                self.is_there();
                Ok(link)
            }
            Err(why) => {
                self.is_away(&why, began);
                Err(())
            }
        }
    }

    /// Something takes suspiciously long: finds out whether the server is there. To be called within
    /// the storage's runtime.
    pub(super) fn suspect(self: &Arc<Self>) {
        if self.breaker.is_open() || self.is_probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let began = Instant::now();
            let result = pool.attempt(pool.limit / 2).await;
            pool.is_probing.store(false, Ordering::Release);
            match result {
                Ok(link) => pool.keep(link),
                Err(why) => pool.is_away(&why, began),
            }
        });
    }

    fn is_there(&self) {
        if self.breaker.close() {
            tracing::info!(place = self.place(), "the database is back");
        }
    }

    /// Notes an outage, and lets a task wait for its end.
    fn is_away(self: &Arc<Self>, why: &NotConnected, since: Instant) {
        if self.breaker.open(&why.reason, since) {
            let reason = &why.reason;
            tracing::error!(place = self.place(), reason, "the database is unavailable");
            if !why.is_answered {
                // Requests on these would wait in vain.
                lock(&self.idle).clear();
            }
        }
        if !self.is_probing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(self).probe());
        }
    }

    /// Tries to connect until it succeeds.
    async fn probe(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        while self.breaker.is_open() && !self.permits.is_closed() {
            tokio::time::sleep(pause).await;
            match self.attempt(self.limit).await {
                Ok(link) => {
                    self.keep(link);
                    self.is_there();
                }
                Err(why) => {
                    self.breaker.open(&why.reason, Instant::now());
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        self.is_probing.store(false, Ordering::Release);
    }

    fn keep(&self, link: Link) {
        if !self.permits.is_closed() {
            lock(&self.idle).push(link);
        }
    }

    async fn attempt(&self, patience: Duration) -> Result<Link, NotConnected> {
        let (outcome, result) = match timeout(patience, self.handshake()).await {
            Ok(Ok(client)) => (
                "ok",
                Ok(Link {
                    client,
                    statements: HashMap::new(),
                    clock: None,
                }),
            ),
            Ok(Err(error)) => (
                "failed",
                Err(NotConnected {
                    reason: explain(&error),
                    is_answered: error.as_db_error().is_some(),
                }),
            ),
            Err(_) => (
                "failed",
                Err(NotConnected {
                    reason: "no answer to the attempt to connect".to_owned(),
                    is_answered: false,
                }),
            ),
        };
        metrics::CONNECTS.with_label_values(&[outcome]).inc();
        result
    }

    async fn handshake(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.target.config.connect(self.target.tls.clone()).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(
                    reason = explain(&error),
                    "a connection to the database ended"
                );
            }
        });
        let limit = self.limit.as_millis();
        // All statements look up rows by an index, and most a few only. Where statistics are missing,
        // the planner would rather read and sort everything (a page of an archive of a million
        // entries took 0.5 s). A commit that is not on disk when it returns would break what the log
        // promises.
        let settings = format!(
            "SET statement_timeout = {limit};
             SET idle_in_transaction_session_timeout = {limit};
             SET client_min_messages = warning;
             SET enable_seqscan = off;
             SET enable_bitmapscan = off;
             SET jit = off;
             SELECT set_config('synchronous_commit', 'on', false)
                 WHERE current_setting('synchronous_commit') = 'off'"
        );
        client.batch_execute(&settings).await?;
        Ok(client)
    }

    /// Makes the first connection.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn try_connect(&self) -> Result<(), String> {
        let link = self.attempt(self.limit).await.map_err(|why| why.reason)?;
        self.keep(link);
        Ok(())
    }
}

/// What is under way on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// A request that is not answered yet, or the connection broke.
    Busy,
    /// A transaction between two requests.
    Transaction,
}

/// A connection for one operation.
pub(super) struct Lease {
    pool: Arc<Pool>,
    /// Taken when the lease is dropped.
    link: Option<Link>,
    permit: Option<OwnedSemaphorePermit>,
    state: State,
    refused: Option<SqlState>,
    is_rolled_back: bool,
}

impl Lease {
    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        self.script("BEGIN", State::Transaction).await
    }

    /// Begins a transaction with this query, in one round trip.
    pub(super) async fn begin_with(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        self.state = State::Busy;
        let client = self.client()?;
        let (began, rows) = tokio::join!(
            biased;
            client.batch_execute("BEGIN"),
            client.query(&statement, parameters)
        );
        self.finish(began.and(rows), State::Transaction)
    }

    /// Commits.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        self.script("COMMIT", State::Free).await
    }

    /// Runs this query and commits, in one round trip: in the transaction that was begun, or in one of its
    /// own.
    pub(super) async fn query_and_commit(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        if self.state == State::Free {
            return self.query(sql, parameters).await;
        }
        let statement = self.prepare(sql).await?;
        self.state = State::Busy;
        let client = self.client()?;
        // Sent in this order. After an error the server takes COMMIT for ROLLBACK.
        let (rows, committed) = tokio::join!(
            biased;
            client.query(&statement, parameters),
            client.batch_execute("COMMIT")
        );
        self.finish(rows.and_then(|rows| committed.map(|()| rows)), State::Free)
    }

    /// Rolls back.
    pub(super) async fn rollback(&mut self) -> Result<(), Error> {
        self.script("ROLLBACK", State::Free).await
    }

    /// Runs a prepared query.
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let after = self.state;
        let statement = self.prepare(sql).await?;
        self.state = State::Busy;
        let rows = self.client()?.query(&statement, parameters).await;
        self.finish(rows, after)
    }

    /// Runs a prepared statement; gives the number of rows.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        let after = self.state;
        let statement = self.prepare(sql).await?;
        self.state = State::Busy;
        let changed = self.client()?.execute(&statement, parameters).await;
        self.finish(changed, after)
    }

    /// What the server's clock will show at an instant, or earlier than that by a little.
    pub(super) async fn time_there(&mut self, at: Instant) -> Result<SystemTime, Error> {
        let clock = self.link.as_ref().and_then(|link| link.clock);
        let clock = match clock.filter(|clock| clock.known.elapsed() < CLOCK_AGE) {
            Some(clock) => clock,
            None => self.read_clock().await?,
        };
        Ok(clock.shown + at.saturating_duration_since(clock.known))
    }

    async fn read_clock(&mut self) -> Result<Clock, Error> {
        let rows = self.query("SELECT clock_timestamp()", &[]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::corrupt("time", "none was given"))?;
        let clock = Clock {
            shown: super::get(row, 0)?,
            known: Instant::now(),
        };
        if let Some(link) = &mut self.link {
            link.clock = Some(clock);
        }
        Ok(clock)
    }

    /// Runs statements without parameters.
    pub(super) async fn run_script(&mut self, sql: &str) -> Result<(), Error> {
        let after = self.state;
        self.script(sql, after).await
    }

    /// Whether the server refused the last request, and may accept it from someone else: the data
    /// was at fault and not the server.
    pub(super) fn refused_data(&self) -> bool {
        // Data exceptions, integrity violations, exceeded program limits.
        self.refused.as_ref().is_some_and(|state| {
            ["22", "23", "54"]
                .iter()
                .any(|class| state.code().starts_with(class))
        })
    }

    /// Whether the server said that it has undone the last request, so that nothing was committed.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.is_rolled_back
    }

    /// Finds out whether the connection is still there, as far as that is known without a request.
    ///
    /// # Errors
    /// `Unavailable` if it is not.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.client()?.is_closed() {
            return Err(Error::unavailable("the connection was closed"));
        }
        Ok(())
    }

    async fn script(&mut self, sql: &str, after: State) -> Result<(), Error> {
        self.state = State::Busy;
        let result = self.client()?.batch_execute(sql).await;
        self.finish(result, after)
    }

    async fn prepare(&mut self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(link) = &self.link
            && let Some(statement) = link.statements.get(sql)
        {
            return Ok(statement.clone());
        }
        let after = mem::replace(&mut self.state, State::Busy);
        let prepared = self.client()?.prepare(sql).await;
        let statement = self.finish(prepared, after)?;
        if let Some(link) = &mut self.link {
            link.statements.insert(sql, statement.clone());
        }
        Ok(statement)
    }

    fn client(&self) -> Result<&Client, Error> {
        self.link
            .as_ref()
            .map(|link| &link.client)
            .ok_or_else(closed)
    }

    /// Notes that a request is answered.
    fn finish<T>(
        &mut self,
        result: Result<T, tokio_postgres::Error>,
        after: State,
    ) -> Result<T, Error> {
        self.refused = None;
        self.is_rolled_back = false;
        let error = match result {
            Ok(value) => {
                self.state = after;
                return Ok(value);
            }
            Err(error) => error,
        };
        let code = error.code().cloned();
        // An error of the data leaves the connection usable. Whatever else happened, a new one is
        // the safe choice: the server may be going down, or have become a read-only replica.
        self.refused.clone_from(&code);
        // One that ends the connection may come behind the commit.
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        self.is_rolled_back = severity == Some(Severity::Error);
        if self.refused_data() {
            // If there was a transaction, it has failed; rolling back without one does no harm.
            self.state = State::Transaction;
        }
        let reason = explain(&error);
        if code == Some(SqlState::QUERY_CANCELED) || code == Some(SqlState::LOCK_NOT_AVAILABLE) {
            tracing::warn!(reason, "the database took too long");
            return Err(Error::Timeout("the database server gave up"));
        }
        Err(Error::unavailable(reason))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(link), permit) = (self.link.take(), self.permit.take()) else {
            return;
        };
        match self.state {
            State::Free if !self.pool.permits.is_closed() => lock(&self.pool.idle).push(link),
            State::Transaction => {
                let pool = Arc::clone(&self.pool);
                let Ok(runtime) = Handle::try_current() else {
                    return;
                };
                runtime.spawn(async move {
                    if link.client.batch_execute("ROLLBACK").await.is_ok() {
                        lock(&pool.idle).push(link);
                    }
                    drop(permit);
                });
            }
            // Dropping the client ends its connection, and the server rolls back.
            State::Free | State::Busy => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn closed() -> Error {
    Error::unavailable("it was closed")
}
