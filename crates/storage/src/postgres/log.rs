//! `log` and `log_entry`: appends of many callers in one transaction.
//!
//! One task per node appends, in the order of the calls. It locks the rows in `log` of all accounts
//! of its batch, in one order on all nodes, and holds them until it has committed: so the ids of a
//! log become visible in their order, whichever node writes. Whatever queues up meanwhile is the
//! next batch.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use prometheus::IntGauge;
use rookery_proto::jid::{BareJid, Jid};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout_at,
};

use super::{
    BACKEND, PostgresStorage, get,
    pool::{Lease, Pool, closed},
};
use crate::{
    Entry, EntryId, Error, LogStore, NewEntry, Refused,
    log::{count_appended, from_micros, to_i64, to_micros, to_u64},
    metrics,
};

/// Rows after which a batch is committed.
const MAX_ROWS: usize = 500;

/// How long to wait before a failed batch is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for the server before looking again who still waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of each entry of a call.
type Outcome = Vec<Result<EntryId, Refused>>;

#[async_trait]
impl LogStore for PostgresStorage {
    async fn append(
        &self,
        entries: Vec<NewEntry>,
        limit: usize,
    ) -> Result<Vec<Result<EntryId, Refused>>, Error> {
        let started = Instant::now();
        let result = self
            .log
            .append(entries, limit, started + self.options.timeout)
            .await;
        metrics::observe(BACKEND, "append", started, &result);
        if let Ok(appended) = &result {
            count_appended(appended);
        }
        result
    }

    async fn undelivered(
        &self,
        account: &BareJid,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let account = account.clone();
        let after = after.map_or(0, |id| to_i64(id.0));
        self.read("undelivered", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT e.id, e.peer, e.at, e.stanza
                     FROM account a JOIN log l ON l.account = a.id
                     JOIN log_entry e ON e.account = a.id
                     WHERE a.jid = $1 AND e.id > greatest(l.delivered, $2)
                     ORDER BY e.id LIMIT $3",
                    &[&account.as_str(), &after, &to_i64(limit as u64)],
                )
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(Entry {
                        id: EntryId(to_u64(get(row, 0)?)),
                        peer: Jid::parse(get(row, 1)?)
                            .map_err(|error| Error::corrupt("address", error))?,
                        at: from_micros(get(row, 2)?),
                        stanza: get(row, 3)?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn mark_delivered(&self, account: &BareJid, up_to: EntryId) -> Result<u64, Error> {
        let account = account.clone();
        let delivered = self
            .write("mark_delivered", move |lease| {
                mark_delivered(lease, account, up_to)
            })
            .await?;
        metrics::LOG_ROWS_DELIVERED.inc_by(delivered);
        Ok(delivered)
    }

    async fn undelivered_count(&self, account: &BareJid) -> Result<u64, Error> {
        let account = account.clone();
        self.read("undelivered_count", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    "SELECT l.undelivered FROM account a JOIN log l ON l.account = a.id
                     WHERE a.jid = $1",
                    &[&account.as_str()],
                )
                .await?;
            rows.first().map_or(Ok(0), |row| Ok(to_u64(get(row, 0)?)))
        })
        .await
    }
}

async fn mark_delivered(mut lease: Lease, account: BareJid, up_to: EntryId) -> Result<u64, Error> {
    let rows = lease
        .begin_with(
            "SELECT l.account, l.last, l.delivered
             FROM account a JOIN log l ON l.account = a.id WHERE a.jid = $1 FOR UPDATE OF l",
            &[&account.as_str()],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let (account, last, delivered): (i64, i64, i64) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
    // An id that no entry has yet must not swallow those that come.
    let up_to = to_i64(up_to.0).min(last);
    if up_to <= delivered {
        return Ok(0);
    }
    let count = lease
        .execute(
            "DELETE FROM log_entry WHERE account = $1 AND id <= $2",
            &[&account, &up_to],
        )
        .await?;
    lease
        .execute(
            "UPDATE log SET delivered = $2, undelivered = undelivered - $3 WHERE account = $1",
            &[&account, &up_to, &to_i64(count)],
        )
        .await?;
    lease.commit().await?;
    Ok(count)
}

/// One call of `append`.
struct Append {
    entries: Vec<NewEntry>,
    limit: usize,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

enum Message {
    Append(Append),
    /// End, and drop this then.
    Close(oneshot::Sender<()>),
}

/// The queue of the task that appends.
#[derive(Debug)]
pub(super) struct LogWriter {
    sender: mpsc::Sender<Message>,
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
            pool,
            lease: None,
        };
        runtime.spawn(writer.run());
        Self { sender, length }
    }

    async fn append(
        &self,
        entries: Vec<NewEntry>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Outcome, Error> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        // Trying first keeps the order of the calls: waiting may yield although there is room.
        let slot = match self.sender.try_reserve() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), self.sender.reserve())
                .await
                .map_err(|_| Error::unavailable("too many appends are waiting"))?
                .map_err(|_| closed())?,
        };
        self.length.inc();
        slot.send(Message::Append(Append {
            entries,
            limit,
            answer,
        }));
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::Timeout("append")),
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

/// The task that appends.
struct Writer {
    receiver: mpsc::Receiver<Message>,
    length: IntGauge,
    pool: Arc<Pool>,
    /// Kept from batch to batch: the log always has a connection.
    lease: Option<Lease>,
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
                    Message::Append(append) => {
                        self.length.dec();
                        rows += append.entries.len();
                        batch.push(append);
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
                while let Some(Message::Append(_)) = self.receiver.recv().await {
                    // Pushed while it closed; dropping it tells its caller.
                    self.length.dec();
                }
                return;
            }
        }
    }

    /// Commits a batch and answers. Waits for the server as long as somebody waits for an answer.
    async fn commit(&mut self, mut batch: Vec<Append>) {
        loop {
            batch.retain(|append| !append.answer.is_closed());
            if batch.is_empty() {
                return;
            }
            let mut lease = match self.lease.take() {
                Some(lease) => lease,
                // The callers' own deadlines bound this.
                None => match self.pool.lease(Instant::now() + PATIENCE).await {
                    Ok(lease) => lease,
                    Err(_) => continue,
                },
            };
            let started = Instant::now();
            let rows = batch.iter().map(|append| append.entries.len()).sum();
            let result = append(&mut lease, &batch).await;
            metrics::observe_commit(BACKEND, rows, started.elapsed());
            match result {
                Ok(outcomes) => {
                    self.lease = Some(lease);
                    for (append, outcome) in batch.into_iter().zip(outcomes) {
                        // Fails when the caller stopped waiting meanwhile.
                        drop(append.answer.send(Ok(outcome)));
                    }
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
                    tracing::warn!(%error, "appending to message logs is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failure::Before(error) | Failure::Committing(error)) => {
                    tracing::error!(%error, calls = batch.len(), "message logs were not written");
                    for append in batch {
                        drop(append.answer.send(Err(error.clone())));
                    }
                    return;
                }
            }
        }
    }
}

/// When a transaction failed.
enum Failure {
    /// Nothing was committed.
    Before(Error),
    /// Perhaps it was committed: the answer is missing.
    Committing(Error),
}

/// A row of `log`.
struct State {
    account: i64,
    last: i64,
    undelivered: i64,
}

/// The rows that a batch adds and changes, column by column.
#[derive(Default)]
struct Columns<'b> {
    accounts: Vec<i64>,
    ids: Vec<i64>,
    peers: Vec<&'b str>,
    times: Vec<i64>,
    stanzas: Vec<&'b str>,
}

async fn append(lease: &mut Lease, batch: &[Append]) -> Result<Vec<Outcome>, Failure> {
    let mut states = lock_logs(lease, batch).await.map_err(Failure::Before)?;
    let mut new = Columns::default();
    let mut outcomes = Vec::with_capacity(batch.len());
    for append in batch {
        outcomes.push(
            append
                .entries
                .iter()
                .map(|entry| place(entry, append.limit, &mut states, &mut new))
                .collect(),
        );
    }
    let mut accounts = Vec::new();
    let mut lasts = Vec::new();
    let mut undelivered = Vec::new();
    for state in states.values() {
        accounts.push(state.account);
        lasts.push(state.last);
        undelivered.push(state.undelivered);
    }
    lease
        .commit_with(
            "WITH entry AS (
                 INSERT INTO log_entry (account, id, peer, at, stanza)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[],
                     $5::text[])
             )
             UPDATE log SET last = new.last, undelivered = new.undelivered
             FROM unnest($6::bigint[], $7::bigint[], $8::bigint[])
                 AS new (account, last, undelivered)
             WHERE log.account = new.account",
            &[
                &new.accounts,
                &new.ids,
                &new.peers,
                &new.times,
                &new.stanzas,
                &accounts,
                &lasts,
                &undelivered,
            ],
        )
        .await
        .map_err(Failure::Committing)?;
    Ok(outcomes)
}

/// Begins a transaction that holds the logs of all accounts of the batch that exist.
async fn lock_logs(lease: &mut Lease, batch: &[Append]) -> Result<HashMap<BareJid, State>, Error> {
    let entries = || batch.iter().flat_map(|append| &append.entries);
    let mut names: Vec<&str> = entries().map(|entry| entry.account.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let rows = lease
        .begin_with(
            "SELECT a.jid, l.account, l.last, l.undelivered
             FROM account a JOIN log l ON l.account = a.id
             WHERE a.jid = ANY($1::text[]) ORDER BY l.account FOR UPDATE OF l",
            &[&names],
        )
        .await?;
    let mut states = HashMap::with_capacity(rows.len());
    for row in &rows {
        let jid = BareJid::parse(get(row, 0)?).map_err(|error| Error::corrupt("address", error))?;
        let state = State {
            account: get(row, 1)?,
            last: get(row, 2)?,
            undelivered: get(row, 3)?,
        };
        states.insert(jid, state);
    }
    Ok(states)
}

/// Gives an entry its place in its account's log.
fn place<'b>(
    entry: &'b NewEntry,
    limit: usize,
    states: &mut HashMap<BareJid, State>,
    new: &mut Columns<'b>,
) -> Result<EntryId, Refused> {
    let state = states.get_mut(&entry.account).ok_or(Refused::NoAccount)?;
    if usize::try_from(state.undelivered).is_ok_and(|count| count >= limit) {
        return Err(Refused::Full);
    }
    state.last += 1;
    state.undelivered += 1;
    new.accounts.push(state.account);
    new.ids.push(state.last);
    new.peers.push(entry.peer.as_str());
    new.times.push(to_micros(entry.at));
    new.stanzas.push(&entry.stanza);
    Ok(EntryId(to_u64(state.last)))
}
