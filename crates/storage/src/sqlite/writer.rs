//! The one thread that writes, in groups: whatever queued up while the last commit ran goes into
//! the next one, so that one wait for the disk serves many callers.
//!
//! Each job runs in a savepoint of its own: one that fails, or panics, is undone alone. What changes
//! logs goes without, as it cannot fail alone: a savepoint costs a copy of each page changed. What
//! jobs did to [`Logs`] is written before a savepoint and before the commit.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    BACKEND,
    log_writer::Logs,
    queue::{Ended, Jobs, Next, Queue, answer, queue},
};
use crate::{Error, Options, metrics};

/// Rows after which a group is committed. The more, the fewer times a page with entries of one account
/// is written.
const MAX_ROWS: usize = 1000;

/// How long the thread may hold the file without a gap in which another process gets its turn.
const TURN: Duration = Duration::from_millis(100);

/// The gap; longer than other processes wait between two tries.
const GAP: Duration = Duration::from_millis(2);

/// What to do in a transaction.
trait Job: Send {
    /// Does it.
    fn run(self: Box<Self>, db: &Connection, logs: &mut Logs) -> Done;
    /// Tells its caller that it was not done.
    fn fail(self: Box<Self>, error: Error);
}

/// What is left to do after a job ran.
enum Done {
    /// Nobody waits for it any more; nothing was written.
    Abandoned,
    /// It failed and has told so; what it wrote must be undone.
    Failed,
    /// To be told how the commit went.
    Written(Answer),
}

type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// A closure and the place of its answer.
struct Work<T, F> {
    work: F,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send + 'static,
    F: FnOnce(&Connection, &mut Logs) -> Result<T, Error> + Send,
{
    fn run(self: Box<Self>, db: &Connection, logs: &mut Logs) -> Done {
        let Self { work, answer } = *self;
        if answer.is_closed() {
            return Done::Abandoned;
        }
        // Sending fails when the caller stopped waiting meanwhile.
        match work(db, logs) {
            Ok(value) => Done::Written(Box::new(move |commit| {
                drop(answer.send(commit.map(|()| value)));
            })),
            Err(error) => {
                drop(answer.send(Err(error)));
                Done::Failed
            }
        }
    }

    fn fail(self: Box<Self>, error: Error) {
        drop(self.answer.send(Err(error)));
    }
}

/// What a job is to its group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    /// About how many rows it writes.
    pub(super) rows: usize,
    /// Whether it may fail alone.
    pub(super) alone: bool,
}

/// A job and what it is to its group.
type Weighed = (Weight, Box<dyn Job>);

/// The writing thread's queue.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Queue<Weighed>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(connection: Connection, options: &Options) -> io::Result<Self> {
        let (queue, jobs) = queue("write", options.queue);
        thread::Builder::new()
            .name("rookery-write".to_owned())
            .spawn(move || write(connection, &jobs))?;
        Ok(Self { queue })
    }

    /// Runs `work` in the next transaction, and waits for its
    /// commit.
    pub(super) async fn run<T, F>(
        &self,
        op: &'static str,
        deadline: Instant,
        weight: Weight,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Logs) -> Result<T, Error> + Send + 'static,
    {
        let (sender, answered) = oneshot::channel();
        let work = Box::new(Work {
            work,
            answer: sender,
        });
        self.queue.push((weight, work), deadline).await?;
        answer(op, deadline, answered).await
    }

    /// Commits what is queued, then ends the thread and closes the file.
    pub(super) async fn close(&self) {
        self.queue.close(1).await;
    }
}

fn write(connection: Connection, jobs: &Jobs<Weighed>) {
    let mut turn_began = Instant::now();
    let mut logs = Logs::default();
    let ended = loop {
        let first = if let Some(next) = jobs.try_next() {
            if turn_began.elapsed() > TURN {
                thread::park_timeout(GAP);
                turn_began = Instant::now();
            }
            next
        } else {
            let next = jobs.next();
            turn_began = Instant::now();
            next
        };
        match first {
            Next::Job(job) => {
                if let Some(ended) = write_group(&connection, &mut logs, job, jobs) {
                    break ended;
                }
            }
            Next::Close(ended) => break ended,
        }
    };
    // The last connection to a file folds the WAL into it and removes it.
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "the database was not closed cleanly; nothing is lost");
    }
    drop(ended);
}

/// One transaction. Gives what `Next::Close` held if the queue ended meanwhile.
fn write_group(
    db: &Connection,
    logs: &mut Logs,
    first: Weighed,
    jobs: &Jobs<Weighed>,
) -> Option<Ended> {
    let started = Instant::now();
    if let Err(error) = begin(db, logs) {
        tracing::error!(%error, "a transaction could not be started");
        first.1.fail(error);
        return None;
    }
    let mut answers = Vec::new();
    let mut rows = 0;
    let mut next = Some(first);
    let mut ended = None;
    let mut result = Ok(());
    while let Some((weight, job)) = next.take() {
        rows += weight.rows;
        result = if weight.alone {
            run_alone(db, logs, job, &mut answers)
        } else {
            run_one(db, logs, job, &mut answers)
        };
        if result.is_err() || rows >= MAX_ROWS {
            break;
        }
        match jobs.try_next() {
            Some(Next::Job(job)) => next = Some(job),
            Some(Next::Close(sender)) => ended = Some(sender),
            None => {}
        }
    }
    let result = result
        .and_then(|()| logs.flush(db))
        .and_then(|()| execute(db, "COMMIT"));
    if let Err(error) = &result {
        tracing::error!(%error, writes = answers.len(), "a group of writes was rolled back");
        roll_back(db, logs);
    }
    metrics::observe_commit(BACKEND, rows, started.elapsed());
    for answer in answers {
        answer(result.clone());
    }
    ended
}

fn begin(db: &Connection, logs: &mut Logs) -> Result<(), Error> {
    execute(db, "BEGIN IMMEDIATE")?;
    logs.begin(db).inspect_err(|_| roll_back(db, logs))
}

fn roll_back(db: &Connection, logs: &mut Logs) {
    logs.clear();
    if !db.is_autocommit() {
        // The error that matters is the one before.
        let _: Result<(), _> = execute(db, "ROLLBACK");
    }
}

/// Runs one job in a savepoint. An error means that the whole transaction is lost.
fn run_alone(
    db: &Connection,
    logs: &mut Logs,
    job: Box<dyn Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    let ready = logs.flush(db).and_then(|()| execute(db, "SAVEPOINT job"));
    if let Err(error) = ready {
        job.fail(error.clone());
        return Err(error);
    }
    let done = run_one(db, logs, job, answers);
    // Out of space or memory, SQLite may have rolled back everything.
    if db.is_autocommit() {
        return Err(Error::unavailable("the transaction was rolled back"));
    }
    if done.is_err() {
        execute(db, "ROLLBACK TO job")?;
    }
    execute(db, "RELEASE job")
}

/// Runs one job. An error means that what it wrote must be undone; its caller has been told.
fn run_one(
    db: &Connection,
    logs: &mut Logs,
    job: Box<dyn Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    match unwind(|| job.run(db, logs)) {
        Some(Done::Written(answer)) => {
            answers.push(answer);
            Ok(())
        }
        Some(Done::Abandoned) => Ok(()),
        // A job that panicked dropped the place of its answer, which tells its caller.
        Some(Done::Failed) | None => Err(Error::unavailable("a write of the same group failed")),
    }
}

/// Runs `work`; a panic is logged by the panic hook and ends nothing but the work.
pub(super) fn unwind<T>(work: impl FnOnce() -> T) -> Option<T> {
    // The work's captures are gone after a panic, and the connection is rolled back.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn execute(db: &Connection, sql: &str) -> Result<(), Error> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}
