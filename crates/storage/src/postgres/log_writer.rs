//! Changes to logs, of many callers in one transaction.
//!
//! One task per node appends and marks, in the order of the calls. It locks the rows in `log` of all
//! accounts of its batch, in one order on all nodes, and holds them until it has committed: so the ids
//! of a log become visible in their order, whichever node writes. Whatever queues up meanwhile is the
//! next batch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use rookery_proto::jid::BareJid;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{timeout, timeout_at},
};

use super::{
    BACKEND,
    log_batch::{Accounts, Doubt, Failure, write},
    pool::{Lease, Pool, closed},
    suspect_after, suspicion,
};
use crate::{EntryId, Error, NewMessage, Refused, Stored, metrics};

/// Rows after which a batch is committed.
const MAX_ROWS: usize = 1000;

/// How long to wait before a failed batch is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for the server before looking again who still waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of each message of a call.
pub(super) type Outcome = Vec<Result<Stored, Refused>>;

/// One call.
pub(super) enum Change {
    Append {
        messages: Vec<NewMessage>,
        limit: usize,
        deadline: Instant,
        answer: oneshot::Sender<Result<Outcome, Error>>,
    },
    Mark {
        delivered: Vec<(BareJid, Vec<EntryId>)>,
        deadline: Instant,
        answer: oneshot::Sender<Result<(), Error>>,
    },
}

impl Change {
    /// About how many rows it writes.
    fn rows(&self) -> usize {
        match self {
            Self::Append { messages, .. } => messages.len() * 2,
            Self::Mark { delivered, .. } => delivered.len(),
        }
    }

    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Append { answer, .. } => answer.is_closed(),
            Self::Mark { answer, .. } => answer.is_closed(),
        }
    }

    /// Until when its caller waits.
    fn deadline(&self) -> Instant {
        match self {
            Self::Append { deadline, .. } | Self::Mark { deadline, .. } => *deadline,
        }
    }

    /// Tells its caller that it was not done.
    fn fail(self, error: Error) {
        // Sending fails when the caller stopped waiting meanwhile.
        match self {
            Self::Append { answer, .. } => drop(answer.send(Err(error))),
            Self::Mark { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

enum Message {
    Change(Change),
    /// End, and drop this then.
    Close(oneshot::Sender<()>),
}

/// The queue of the task.
#[derive(Debug)]
pub(super) struct LogWriter {
    sender: mpsc::Sender<Message>,
    pool: Arc<Pool>,
    length: IntGauge,
}

impl LogWriter {
    /// Starts the task, with a queue of so many calls.
    pub(super) fn start(runtime: &Handle, pool: Arc<Pool>, size: usize) -> Self {
        let (sender, receiver) = mpsc::channel(size.max(1));
        let length = metrics::QUEUE_LENGTH.with_label_values(&[BACKEND, "log"]);
        let writer = Writer {
            receiver,
            length: length.clone(),
            pool: Arc::clone(&pool),
            lease: None,
            accounts: Accounts::default(),
        };
        runtime.spawn(writer.run());
        Self {
            sender,
            pool,
            length,
        }
    }

    /// See [`crate::LogStore::append`].
    pub(super) async fn append(
        &self,
        messages: Vec<NewMessage>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        let change = Change::Append {
            messages,
            limit,
            deadline,
            answer,
        };
        self.change("append", change, answered, deadline).await
    }

    /// See [`crate::LogStore::mark_delivered`].
    pub(super) async fn mark_delivered(
        &self,
        delivered: Vec<(BareJid, Vec<EntryId>)>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let change = Change::Mark {
            delivered,
            deadline,
            answer,
        };
        self.change("mark_delivered", change, answered, deadline)
            .await
    }

    async fn change<T>(
        &self,
        op: &'static str,
        change: Change,
        answered: oneshot::Receiver<Result<T, Error>>,
        deadline: Instant,
    ) -> Result<T, Error> {
        self.pool.breaker().check()?;
        // Trying first keeps the order of the calls: waiting may yield although there is room.
        let slot = match self.sender.try_reserve() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), self.sender.reserve())
                .await
                .map_err(|_| Error::unavailable("too many changes to logs are waiting"))?
                .map_err(|_| closed())?,
        };
        self.length.inc();
        slot.send(Message::Change(change));
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::Timeout(op)),
        }
    }

    /// Commits what is queued, then ends the task.
    pub(super) async fn close(&self) {
        let (ended, end) = oneshot::channel();
        // Fails when the task has ended already.
        drop(self.sender.send(Message::Close(ended)).await);
        // Nothing is ever sent: the task drops its side.
        let _: Result<(), _> = end.await;
    }
}

/// The task.
struct Writer {
    receiver: mpsc::Receiver<Message>,
    length: IntGauge,
    pool: Arc<Pool>,
    /// Kept from batch to batch: the log always has a connection.
    lease: Option<Lease>,
    accounts: Accounts,
}

impl Writer {
    async fn run(mut self) {
        while let Some(message) = self.receiver.recv().await {
            let mut batch = Vec::new();
            let mut rows = 0;
            let mut ended = None;
            let mut next = Some(message);
            while let Some(message) = next.take() {
                match message {
                    Message::Change(change) => {
                        self.length.dec();
                        rows += change.rows();
                        batch.push(change);
                    }
                    Message::Close(sender) => {
                        self.receiver.close();
                        ended = Some(sender);
                    }
                }
                if rows < MAX_ROWS && ended.is_none() {
                    next = self.receiver.try_recv().ok();
                }
            }
            self.commit(batch).await;
            if ended.is_some() {
                self.lease = None;
                while let Some(Message::Change(_)) = self.receiver.recv().await {
                    // Pushed while it closed; dropping it tells its caller.
                    self.length.dec();
                }
                return;
            }
        }
    }

    /// Commits a batch and answers. Waits for the server as long as somebody waits for an answer.
    async fn commit(&mut self, mut batch: Vec<Change>) {
        loop {
            let soon = Instant::now() + self.pool.limit() / 4;
            for late in batch.extract_if(.., |change| change.deadline() < soon) {
                late.fail(Error::Timeout("message logs"));
            }
            batch.retain(|change| !change.is_abandoned());
            if batch.is_empty() {
                return;
            }
            let mut lease = match self.lease.take() {
                Some(lease) => lease,
                None => match self.pool.lease(Instant::now() + PATIENCE).await {
                    Ok(lease) => lease,
                    // The callers' own deadlines and the breaker bound this.
                    Err(_) if self.pool.may_wait() => continue,
                    Err(error) => return fail(batch, &error),
                },
            };
            let started = Instant::now();
            let rows = batch.iter().map(Change::rows).sum();
            let result = self.write(&mut lease, &batch).await;
            metrics::observe_commit(BACKEND, rows, started.elapsed());
            match result {
                Ok(outcomes) => {
                    self.lease = Some(lease);
                    answer(batch, outcomes);
                    return;
                }
                // Something in the batch is not acceptable; find out whose it is.
                Err(_) if lease.refused_data() && batch.len() > 1 => {
                    drop(lease);
                    for one in batch {
                        Box::pin(self.commit(vec![one])).await;
                    }
                    return;
                }
                Err(Failure::Before(error)) if !lease.refused_data() => {
                    tracing::warn!(%error, "writing to message logs is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failure::Committing(error, doubt)) => {
                    drop(lease);
                    match self.resolve(&doubt, &batch).await {
                        Some(Some(outcomes)) => return answer(batch, outcomes),
                        Some(None) => {
                            tracing::warn!(%error, "writing to message logs is tried again");
                        }
                        None => return fail(batch, &error),
                    }
                }
                Err(Failure::Before(error) | Failure::TooLate(error)) => {
                    return fail(batch, &error);
                }
            }
        }
    }

    /// The connection broke before a commit was answered: finds out what became of it, for as long as
    /// somebody waits. `None`: that did not work.
    async fn resolve(
        &mut self,
        doubt: &Doubt<'_>,
        batch: &[Change],
    ) -> Option<Option<Vec<Outcome>>> {
        while self.pool.may_wait() && !batch.iter().all(Change::is_abandoned) {
            let Ok(mut lease) = self.pool.lease(Instant::now() + PATIENCE).await else {
                continue;
            };
            match doubt.resolve(&mut lease, &mut self.accounts).await {
                Ok(resolved) => {
                    self.lease = Some(lease);
                    return Some(resolved);
                }
                Err(error @ (Error::Unavailable(_) | Error::Timeout(_))) => {
                    tracing::warn!(%error, "what became of a commit is not known yet");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "what became of a commit cannot be found out");
                    return None;
                }
            }
        }
        None
    }

    /// Writes and commits a batch, within the time that one request may take. A database that hung, and would
    /// come to commit it when callers give up, takes it back: they tell the senders that it failed.
    async fn write<'b>(
        &mut self,
        lease: &mut Lease,
        batch: &'b [Change],
    ) -> Result<Vec<Outcome>, Failure<'b>> {
        let limit = self.pool.limit();
        let now = Instant::now();
        let first = batch.iter().map(Change::deadline).min().unwrap_or(now);
        let left = first.saturating_duration_since(now);
        let deadline = now + left.saturating_sub(limit / 8).min(limit / 2);
        let work = timeout(limit, write(lease, &mut self.accounts, batch, deadline));
        let suspicious = now + suspicion(limit);
        suspect_after(suspicious, work, || self.pool.suspect())
            .await
            .unwrap_or(Err(Failure::TooLate(Error::Timeout("message logs"))))
    }
}

/// Tells the callers of a batch that it was not written.
fn fail(batch: Vec<Change>, error: &Error) {
    tracing::error!(%error, calls = batch.len(), "message logs were not written");
    for change in batch {
        change.fail(error.clone());
    }
}

/// Tells the callers of a batch; there is an outcome for each of its appends.
fn answer(batch: Vec<Change>, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for change in batch {
        // Sending fails when the caller stopped waiting meanwhile.
        match change {
            Change::Append { answer, .. } => drop(answer.send(outcomes.next().ok_or_else(closed))),
            Change::Mark { answer, .. } => drop(answer.send(Ok(()))),
        }
    }
}
