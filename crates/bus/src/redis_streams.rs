//! The bus on Redis Streams: one inbox stream per node incarnation.
//!
//! Two connections: one that all lanes append on, one that reads blocking. What may be deleted rides
//! with the next read; when none comes soon, it is sent by itself, so that a node that dies leaves no
//! frames behind that it had long handled.
//!
//! An append checks the receiver's lease in the same step, so nobody adds to the inbox of a node that is
//! being cleaned up after, and no inbox outlives its node for more than a day. That step is a transaction,
//! which takes a batch back that should not be there; for a short batch, and in a Redis Cluster, it is a script
//! that does all of it. Long batches do not go through scripts where that can be helped: Lua hashes each octet
//! of a string.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use redis::{Script, Value};
use rookery_directory::{Link, LinkOptions, RedisAddress, keys};
use rookery_proto::cluster::Epoch;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::inbox::{Handled, Inbox, Position, frames_of};
use crate::lanes::Lanes;
use crate::memory::INBOUND;
use crate::transport::{Appended, Transport};
use crate::{Bus, Error, Frame, Inbound, Limits, Queued, Refused, Spoken};

/// Follows an `XADD` in its transaction, and takes the batch back if it should not be there. `KEYS`: inbox,
/// lease. `ARGV`: longest inbox. Returns as [`APPEND`].
const CHECK: &str = r"
redis.call('EXPIRE', KEYS[1], 86400)
local refused = 1
if redis.call('EXISTS', KEYS[2]) == 0 then refused = -1
elseif redis.call('XLEN', KEYS[1]) > tonumber(ARGV[1]) then refused = -2 end
if refused < 0 then
    redis.call('XDEL', KEYS[1], redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1])
    if redis.call('XLEN', KEYS[1]) == 0 then redis.call('UNLINK', KEYS[1]) end
end
return refused
";

/// `KEYS`: inbox, lease. `ARGV`: batch, longest inbox. Returns -1 if there is no lease, -2 if the
/// inbox is too long, else 1.
const APPEND: &str = r"
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then return -2 end
redis.call('XADD', KEYS[1], '*', 'b', ARGV[1])
redis.call('EXPIRE', KEYS[1], 86400)
return 1
";

/// How long a read waits for something to come.
const BLOCK: Duration = Duration::from_secs(2);
/// Batches per read.
const READ_BATCHES: usize = 64;
/// Batches per read of a dead node's inbox.
const CLAIM_BATCHES: usize = 32;
/// How long handled batches wait for a read that deletes them.
const DELETE_DELAY: Duration = Duration::from_millis(20);
/// For so long after a connection was made, or data was lost, a missing lease may only be late.
const SETTLING: Duration = Duration::from_secs(3);

/// How a node takes part in the bus.
#[derive(Clone)]
pub struct RedisBusConfig {
    /// Where Redis is; the directory's.
    pub address: RedisAddress,
    /// The prefix of the keys; the directory's.
    pub prefix: String,
    /// How long an append may take before Redis counts as unreachable.
    pub response_timeout: Duration,
    /// How long the start waits for the first connections.
    pub patience: Duration,
    /// The bounds.
    pub limits: Limits,
    /// Which frames other nodes speak; the directory knows.
    pub spoken: Spoken,
}

impl RedisBusConfig {
    /// The default prefix and limits, answers within 500 ms, 5 s to connect.
    pub fn new(address: RedisAddress, spoken: Spoken) -> Self {
        Self {
            address,
            prefix: keys::DEFAULT_PREFIX.to_owned(),
            response_timeout: Duration::from_millis(500),
            patience: Duration::from_secs(5),
            limits: Limits::default(),
            spoken,
        }
    }
}

/// One node's end of the bus. Dropping it without [`Bus::shutdown`] loses what is queued.
pub struct RedisBus {
    lanes: Arc<Lanes>,
    inbound: Mutex<Option<mpsc::Receiver<Inbound>>>,
    reader: AbortHandle,
    tasks: Vec<AbortHandle>,
    transport: Arc<RedisTransport>,
    key: String,
    handled: Arc<Handled>,
    patience: Duration,
    fence: Arc<Notify>,
}

struct RedisTransport {
    prefix: String,
    /// This node's lease.
    lease: String,
    script_bytes: usize,
    inbox_batches: usize,
    link: Link,
    append: String,
    /// When the current connection was made, or data was lost.
    since: Mutex<Instant>,
}

impl RedisBus {
    /// Connects and starts this node's tasks on the current tokio runtime. `epoch` is the one that
    /// the directory took a lease for.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no connection in time.
    pub async fn start(epoch: Epoch, config: RedisBusConfig) -> Result<Self, Error> {
        let link = Link::open(
            config.address.clone(),
            LinkOptions {
                response_timeout: Some(config.response_timeout),
                scripts: vec![APPEND],
                ..LinkOptions::new("bus")
            },
        )?;
        let reading = Link::open(
            config.address,
            LinkOptions {
                response_timeout: None,
                ..LinkOptions::new("inbox")
            },
        )?;
        link.connected(config.patience).await?;
        reading.connected(config.patience).await?;
        let transport = Arc::new(RedisTransport {
            lease: keys::lease(&config.prefix, epoch),
            prefix: config.prefix,
            script_bytes: config.limits.script_bytes,
            inbox_batches: config.limits.inbox_batches,
            link,
            append: Script::new(APPEND).get_hash().to_owned(),
            since: Mutex::new(Instant::now()),
        });
        let (sender, receiver) = mpsc::channel(INBOUND);
        let patience = config.limits.flush_patience;
        let lanes = Arc::new(Lanes::new(
            epoch,
            config.limits,
            transport.clone(),
            sender.downgrade(),
            config.spoken,
        ));
        let inbox = Inbox::new(sender, Lanes::listener(&lanes));
        let fence = Arc::new(Notify::new());
        let key = keys::inbox(&transport.prefix, epoch);
        let handled = inbox.handled();
        let delete = delete_handled(transport.clone(), key.clone(), handled.clone());
        let reader = Reader {
            key: key.clone(),
            link: reading,
            last: (0, 0),
            inbox,
            fence: Arc::clone(&fence),
        };
        let reader = tokio::spawn(reader.run()).abort_handle();
        let tasks = vec![
            tokio::spawn(delete).abort_handle(),
            tokio::spawn(watch(transport.clone(), lanes.clone())).abort_handle(),
        ];
        let inbound = Mutex::new(Some(receiver));
        Ok(Self {
            lanes,
            inbound,
            reader,
            tasks,
            transport,
            key,
            handled,
            patience,
            fence,
        })
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn send(&self, to: Epoch, frame: Frame) -> Result<(), Refused> {
        self.lanes.send(to, frame)
    }

    fn ready(&self, to: Epoch) -> BoxFuture<'static, ()> {
        self.lanes.ready(to)
    }

    fn queued(&self, to: Epoch) -> Queued {
        self.lanes.queued(to)
    }

    fn inbound(&self) -> Option<mpsc::Receiver<Inbound>> {
        self.inbound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    async fn claim(&self, dead: Epoch) -> Result<Vec<Frame>, Error> {
        self.transport.claim(dead).await
    }

    fn data_lost(&self) {
        self.transport.settle();
        self.lanes.probe();
    }

    fn fenced(&self) {
        self.fence.notify_one();
    }

    async fn shutdown(&self) {
        self.lanes.shutdown().await;
        self.reader.abort();
        let _ = tokio::time::timeout(self.patience, self.handled.all()).await;
        self.tasks.iter().for_each(AbortHandle::abort);
        self.transport.delete(&self.key, &self.handled).await;
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.reader.abort();
        self.tasks.iter().for_each(AbortHandle::abort);
        self.lanes.abort();
    }
}

#[async_trait]
impl Transport for RedisTransport {
    async fn append(&self, to: Epoch, batch: &[u8]) -> Appended {
        if !self.link.is_up() {
            return Appended::Away;
        }
        let inbox = keys::inbox(&self.prefix, to);
        let lease = keys::lease(&self.prefix, to);
        let outcome = if batch.len() > self.script_bytes && self.link.has_transactions() {
            self.append_and_check(&inbox, &lease, batch).await
        } else {
            let mut append = redis::cmd("EVALSHA");
            append.arg(&self.append).arg(2).arg(inbox).arg(lease);
            append.arg(batch).arg(self.inbox_batches);
            self.link.command(&append).await
        };
        match outcome {
            Ok(-1) => {
                if !self.is_settling() && !self.has_lease().await {
                    // Redis lost its data, and nobody has noticed yet.
                    self.settle();
                }
                Appended::Gone
            }
            Ok(-2) => Appended::Full,
            Ok(_) => Appended::Done,
            // No memory left in Redis, most likely: as good as a full inbox.
            Err(rookery_directory::Error::Refused(error)) => {
                tracing::warn!(%error, "redis refused a batch");
                Appended::Full
            }
            Err(_) => Appended::Unknown,
        }
    }

    fn is_settling(&self) -> bool {
        self.since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
            < SETTLING
    }
}

impl RedisTransport {
    async fn append_and_check(
        &self,
        inbox: &str,
        lease: &str,
        batch: &[u8],
    ) -> Result<i64, rookery_directory::Error> {
        let mut append = redis::Cmd::with_capacity(5, inbox.len() + batch.len() + 16);
        append.arg("XADD").arg(inbox).arg("*").arg("b").arg(batch);
        // With its text: a script that had been forgotten would be missed when the batch is there already.
        let mut check = redis::cmd("EVAL");
        check.arg(CHECK).arg(2).arg(inbox).arg(lease);
        check.arg(self.inbox_batches);
        let mut both = redis::Pipeline::with_capacity(2);
        both.atomic().add_command(append).ignore();
        both.add_command(check);
        let (outcome,) = self.link.pipeline(&both).await?;
        Ok(outcome)
    }

    /// Missing leases mean nothing for a while.
    fn settle(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether this node's own lease is there, or Redis does not say.
    async fn has_lease(&self) -> bool {
        let found: Result<bool, _> = self
            .link
            .command(redis::cmd("EXISTS").arg(&self.lease))
            .await;
        found.unwrap_or(true)
    }

    async fn delete(&self, key: &str, handled: &Handled) {
        let Some(done) = handled.take() else { return };
        let mut trim = redis::cmd("XTRIM");
        trim.arg(key).arg("MINID").arg(after(done));
        let trimmed: Result<(), _> = self.link.command(&trim).await;
        if let Err(error) = trimmed {
            tracing::debug!(%error, "handled frames stay in the inbox for now");
        }
    }

    async fn claim(&self, dead: Epoch) -> Result<Vec<Frame>, Error> {
        let key = keys::inbox(&self.prefix, dead);
        let lease = keys::lease(&self.prefix, dead);
        let lives: bool = self.link.command(redis::cmd("EXISTS").arg(lease)).await?;
        if lives {
            return Ok(Vec::new());
        }
        loop {
            let mut range = redis::cmd("XRANGE");
            range
                .arg(&key)
                .arg("-")
                .arg("+")
                .arg("COUNT")
                .arg(CLAIM_BATCHES);
            let reply: StreamRangeReply = self.link.command(&range).await?;
            if reply.ids.is_empty() {
                let () = self.link.command(redis::cmd("UNLINK").arg(&key)).await?;
                return Ok(Vec::new());
            }
            let mut delete = redis::cmd("XDEL");
            delete.arg(&key);
            for batch in &reply.ids {
                delete.arg(&batch.id);
            }
            let () = self.link.command(&delete).await?;
            let frames = frames_of(reply.ids.into_iter().filter_map(body));
            // None where nothing in these batches can be read.
            if !frames.is_empty() {
                return Ok(frames);
            }
        }
    }
}

/// Reads the inbox, one batch of batches after the other.
struct Reader {
    key: String,
    link: Link,
    last: Position,
    inbox: Inbox,
    /// Told when the connection must not be read any more.
    fence: Arc<Notify>,
}

impl Reader {
    async fn run(mut self) {
        let handled = self.inbox.handled();
        let mut state = self.link.state();
        let mut generation = 1;
        loop {
            let Ok(now) = state.wait_for(|state| state.up).await.map(|state| *state) else {
                return;
            };
            if now.generation != generation {
                if self.find_place().await.is_err() {
                    continue;
                }
                generation = now.generation;
            }
            let read = tokio::time::timeout(BLOCK * 2, self.read(&handled));
            let read = tokio::select! {
                biased;
                () = self.fence.notified() => {
                    self.link.reconnect();
                    continue;
                }
                read = read => read,
            };
            let entries = match read {
                Ok(Ok(entries)) => entries,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "could not read the inbox");
                    tokio::time::sleep(DELETE_DELAY).await;
                    continue;
                }
                Err(_) => {
                    self.link.reconnect();
                    continue;
                }
            };
            for entry in entries {
                let Some(position) = position(&entry.id) else {
                    continue;
                };
                self.last = position;
                let Some(batch) = body(entry) else { continue };
                if !self.inbox.take(position, batch).await {
                    return;
                }
            }
        }
    }

    /// Deletes what is handled and waits for what comes next.
    async fn read(&self, handled: &Handled) -> Result<Vec<StreamId>, Error> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT")
            .arg(READ_BATCHES)
            .arg("BLOCK")
            .arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX))
            .arg("STREAMS")
            .arg(&self.key)
            .arg(shown(self.last));
        let reply: Option<StreamReadReply> = match handled.take() {
            Some(done) => {
                let mut trim = redis::cmd("XTRIM");
                trim.arg(&self.key).arg("MINID").arg(after(done));
                self.link.in_order(&trim, &read).await?
            }
            None => self.link.command(&read).await?,
        };
        let streams = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(streams.into_iter().flat_map(|stream| stream.ids).collect())
    }

    /// After a new connection: if the stream is not the one that was read before, its entries may
    /// have lower numbers.
    async fn find_place(&mut self) -> Result<(), Error> {
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(&self.key).arg("+").arg("-").arg("COUNT").arg(1);
        let reply: StreamRangeReply = self.link.command(&newest).await?;
        let newest = reply.ids.first().and_then(|entry| position(&entry.id));
        if newest.is_none_or(|newest| newest < self.last) {
            self.last = (0, 0);
        }
        Ok(())
    }
}

/// Deletes what is handled when no read comes that does it.
async fn delete_handled(transport: Arc<RedisTransport>, key: String, handled: Arc<Handled>) {
    loop {
        handled.changed.notified().await;
        tokio::time::sleep(DELETE_DELAY).await;
        transport.delete(&key, &handled).await;
    }
}

/// Notes new connections, and has everybody told when inboxes may have lost something.
async fn watch(transport: Arc<RedisTransport>, lanes: Arc<Lanes>) {
    let mut state = transport.link.state();
    let mut seen = *state.borrow_and_update();
    while state.changed().await.is_ok() {
        let now = *state.borrow_and_update();
        if now.generation != seen.generation {
            transport.settle();
        }
        if now.server != seen.server {
            lanes.probe();
        }
        seen = now;
    }
}

/// The first position that is not deleted.
fn after((milliseconds, number): Position) -> String {
    shown((milliseconds, number + 1))
}

fn shown((milliseconds, number): Position) -> String {
    format!("{milliseconds}-{number}")
}

fn position(id: &str) -> Option<Position> {
    let (milliseconds, number) = id.split_once('-')?;
    Some((milliseconds.parse().ok()?, number.parse().ok()?))
}

fn body(mut entry: StreamId) -> Option<Vec<u8>> {
    match entry.map.remove("b") {
        Some(Value::BulkString(batch)) => Some(batch),
        _ => None,
    }
}
