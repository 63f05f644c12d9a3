//! The directory in Redis, for clusters.
//!
//! One connection carries the operations of all threads (they share round trips by themselves) and
//! the cache hints. Four tasks run beside it: [`lease`] keeps this node's lease, [`nodes`] watches
//! the others and cleans up after them ([`collect`]), [`hints`] tells other nodes what changed,
//! [`unwritten`] makes up for writes that failed.
//!
//! **A row is never without its entry in the node's set of sessions**, which is what a survivor
//! cleans up from. The two are in different slots and cannot change in one step, so: the entry is
//! written before the row and removed after it, and operations on one JID wait for each other.

pub(crate) mod collect;
mod hints;
pub mod keys;
mod lease;
mod nodes;
mod presence_text;
mod row;
mod scripts;
mod unwritten;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Script};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid};
use tokio::task::AbortHandle;

use self::collect::Collections;
use self::hints::Hints;
use self::unwritten::{Touched, Unwritten};
use crate::events::EventQueue;
use crate::memory::random_epoch;
use crate::{
    Directory, Error, Events, Link, LinkOptions, NodeInfo, RedisAddress, Registered, SessionRow,
    metrics,
};

/// Operations on one JID wait for each other; these many locks keep most others apart.
const JID_LOCKS: usize = 1024;
/// Rows in one round trip of [`Directory::republish`].
const REPUBLISH_BATCH: usize = 256;
/// Accounts in one round trip of [`Directory::lookup`].
const LOOKUP_BATCH: usize = 1024;

/// How a node takes part in a directory in Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where Redis is.
    pub address: RedisAddress,
    /// The node's name, shown to people.
    pub node: String,
    /// Starts every key; clusters that share a Redis need different ones.
    pub prefix: String,
    /// How long a lease lasts without renewal, so how late a death is noticed.
    pub lease: Duration,
    /// How long an operation may take before Redis counts as unreachable.
    pub response_timeout: Duration,
    /// How long the start waits for the first connection.
    pub patience: Duration,
    /// The newest version of the bus's frames that this node speaks.
    pub frames: u8,
}

impl RedisConfig {
    /// A lease of 9 s, answers within 500 ms, 5 s to connect, the oldest frames.
    pub fn new(address: RedisAddress, node: &str) -> Self {
        Self {
            address,
            node: node.to_owned(),
            prefix: keys::DEFAULT_PREFIX.to_owned(),
            lease: Duration::from_secs(9),
            response_timeout: Duration::from_millis(500),
            patience: Duration::from_secs(5),
            frames: NodeInfo::OLDEST_FRAMES,
        }
    }
}

/// One node's view of the directory in Redis. Dropping it without [`Directory::shutdown`] lets the
/// lease run out, as a crash does.
pub struct RedisDirectory {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

struct Inner {
    config: RedisConfig,
    node: NodeInfo,
    link: Link,
    events: EventQueue,
    hashes: Hashes,
    hints: Arc<Hints>,
    /// Counts how often the lease was taken anew.
    lease_number: AtomicU8,
    /// Nodes that hold a lease, as last seen.
    living: RwLock<HashMap<Epoch, NodeInfo>>,
    /// Until then a missing lease means nothing: its owner may not have reconnected yet.
    grace: Mutex<Instant>,
    jid_locks: Vec<tokio::sync::Mutex<()>>,
    jid_hasher: RandomState,
    unwritten: Unwritten,
    touched: Touched,
    /// Wakes the task that keeps the lease: it seems to be gone.
    lease_missing: tokio::sync::Notify,
    collections: Collections,
    left: AtomicBool,
}

/// The names under which Redis knows the loaded scripts.
struct Hashes {
    register: String,
    update: String,
    unregister: String,
    republish: String,
    remove: String,
    take_lease: String,
    claim: String,
    forget: String,
    close: String,
}

impl RedisDirectory {
    /// Connects, takes a lease, and starts this node's tasks on the current tokio runtime.
    ///
    /// A runtime that is busy for longer than the lease gets the node fenced, so it should not be
    /// one that serves clients.
    ///
    /// # Errors
    /// [`Error::Connect`] if there is no connection in time, [`Error::Address`] if there never can
    /// be, [`Error::Refused`] or [`Error::Unavailable`] if the lease cannot be taken.
    pub async fn start(config: RedisConfig) -> Result<Self, Error> {
        let events = EventQueue::new();
        let node = NodeInfo {
            epoch: random_epoch(),
            name: config.node.as_str().into(),
            frames: config.frames,
        };
        let hints = Arc::new(Hints::new(node.epoch, events.clone()));
        let link = Link::open(
            config.address.clone(),
            LinkOptions {
                response_timeout: Some(config.response_timeout),
                scripts: scripts::ALL.to_vec(),
                channels: Some((vec![keys::hints(&config.prefix)], hints.listener())),
                ..LinkOptions::new("directory")
            },
        )?;
        link.connected(config.patience).await?;
        let inner = Arc::new(Inner {
            grace: Mutex::new(Instant::now() + config.lease),
            config,
            node,
            link,
            events,
            hashes: Hashes::new(),
            hints,
            lease_number: AtomicU8::new(0),
            living: RwLock::default(),
            jid_locks: std::iter::repeat_with(tokio::sync::Mutex::default)
                .take(JID_LOCKS)
                .collect(),
            jid_hasher: RandomState::new(),
            unwritten: Unwritten::default(),
            touched: Touched::default(),
            lease_missing: tokio::sync::Notify::new(),
            collections: Collections::default(),
            left: AtomicBool::new(false),
        });
        let seen = *inner.link.state().borrow();
        lease::take(&inner).await?;
        nodes::watch_once(&inner).await?;
        let tasks = vec![
            tokio::spawn(lease::keep(inner.clone(), seen)).abort_handle(),
            tokio::spawn(nodes::watch(inner.clone())).abort_handle(),
            tokio::spawn(hints::send(inner.clone())).abort_handle(),
            tokio::spawn(unwritten::write(inner.clone())).abort_handle(),
        ];
        Ok(Self { inner, tasks })
    }
}

#[async_trait]
impl Directory for RedisDirectory {
    fn this_node(&self) -> &NodeInfo {
        &self.inner.node
    }

    fn nodes(&self) -> Vec<NodeInfo> {
        self.inner.living().values().cloned().collect()
    }

    fn frames(&self, node: Epoch) -> u8 {
        self.inner
            .living()
            .get(&node)
            .map_or(NodeInfo::OLDEST_FRAMES, |node| node.frames)
    }

    fn is_behind(&self) -> bool {
        self.inner.unwritten.any()
    }

    fn events(&self) -> Option<Events> {
        self.inner.events.take()
    }

    async fn register(&self, jid: &FullJid) -> Result<Registered, Error> {
        metrics::REGISTER.measure(self.inner.register(jid)).await
    }

    async fn update(&self, row: &SessionRow) -> Result<bool, Error> {
        metrics::UPDATE.measure(self.inner.update(row)).await
    }

    async fn unregister(&self, jid: &FullJid, sequence: u64) -> Result<bool, Error> {
        metrics::UNREGISTER
            .measure(self.inner.unregister(jid, sequence))
            .await
    }

    async fn lookup(&self, accounts: &[BareJid]) -> Result<Vec<Vec<SessionRow>>, Error> {
        metrics::LOOKUP.measure(self.inner.lookup(accounts)).await
    }

    async fn republish(&self, rows: Vec<SessionRow>) -> Result<Vec<FullJid>, Error> {
        metrics::REPUBLISH.measure(self.inner.republish(rows)).await
    }

    async fn collected(&self, node: &NodeInfo, rows: &[SessionRow]) -> Result<(), Error> {
        let jids = rows.iter().map(|row| row.jid.clone()).collect();
        metrics::COLLECT
            .measure(self.inner.collections.done(node.epoch, jids))
            .await
    }

    async fn shutdown(&self) {
        if self.inner.left.swap(true, Ordering::Relaxed) {
            return;
        }
        self.tasks.iter().for_each(AbortHandle::abort);
        hints::flush(&self.inner).await;
        let lease = keys::lease(&self.inner.config.prefix, self.inner.node.epoch);
        let released: Result<(), _> = self.inner.link.command(redis::cmd("DEL").arg(lease)).await;
        if let Err(error) = released {
            tracing::warn!(%error, "the lease was not released, it will run out");
        }
        self.inner.events.close();
    }
}

impl Drop for RedisDirectory {
    fn drop(&mut self) {
        self.inner.left.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(AbortHandle::abort);
        self.inner.events.close();
    }
}

impl Inner {
    async fn register(&self, jid: &FullJid) -> Result<Registered, Error> {
        self.check_open()?;
        let _lock = self.lock(jid).await;
        let index = self.index([jid]);
        let mut register = self.on_account(&self.hashes.register, jid);
        register
            .arg(&self.node.epoch.0.to_be_bytes())
            .arg(&row::fresh_tail(self.lease_number()));
        let (sequence, old): (u64, Option<Vec<u8>>) = self.link.in_order(&index, &register).await?;
        self.touched.note(jid);
        self.unwritten.registered(jid);
        self.hints.changed(jid.to_bare());
        let displaced = old
            .and_then(|old| row::decode(jid.clone(), &old))
            .map(|stored| stored.row);
        Ok(Registered {
            sequence,
            displaced,
        })
    }

    async fn update(&self, row: &SessionRow) -> Result<bool, Error> {
        self.check_open()?;
        let _lock = self.lock(&row.jid).await;
        let outcome = self.write_row(row).await;
        if !matches!(outcome, Err(Error::Refused(_))) {
            self.touched.note(&row.jid);
            self.unwritten.updated(row, outcome.is_err());
        }
        outcome
    }

    async fn write_row(&self, row: &SessionRow) -> Result<bool, Error> {
        let index = self.index([&row.jid]);
        let mut update = self.on_account(&self.hashes.update, &row.jid);
        update.arg(row::encode(row, self.lease_number()));
        let written: bool = self.link.in_order(&index, &update).await?;
        if written {
            self.hints.changed(row.jid.to_bare());
        }
        Ok(written)
    }

    async fn unregister(&self, jid: &FullJid, sequence: u64) -> Result<bool, Error> {
        self.check_open()?;
        let _lock = self.lock(jid).await;
        let outcome = self.remove_row(jid, sequence).await;
        if !matches!(outcome, Err(Error::Refused(_))) {
            self.touched.note(jid);
            self.unwritten.unregistered(jid, sequence, outcome.is_err());
        }
        outcome
    }

    async fn remove_row(&self, jid: &FullJid, sequence: u64) -> Result<bool, Error> {
        let mut unregister = self.on_account(&self.hashes.unregister, jid);
        unregister.arg(&row::owner(self.node.epoch, sequence));
        let outcome: u8 = self.link.command(&unregister).await?;
        // 2: another session of this node has the JID now, and needs the entry.
        if outcome != 2 {
            let sessions = keys::sessions(&self.config.prefix, self.node.epoch);
            let _: () = self
                .link
                .command(redis::cmd("SREM").arg(sessions).arg(jid.as_str()))
                .await?;
        }
        if outcome == 1 {
            self.hints.changed(jid.to_bare());
        }
        Ok(outcome == 1)
    }

    async fn lookup(&self, accounts: &[BareJid]) -> Result<Vec<Vec<SessionRow>>, Error> {
        self.check_open()?;
        let mut found: Vec<Vec<SessionRow>> = Vec::with_capacity(accounts.len());
        for some in accounts.chunks(LOOKUP_BATCH) {
            let mut pipeline = Pipeline::with_capacity(some.len());
            for account in some {
                pipeline
                    .cmd("GET")
                    .arg(keys::account(&self.config.prefix, account.as_str()));
            }
            let values: Vec<Option<Vec<u8>>> = self.link.pipeline(&pipeline).await?;
            found.extend(some.iter().zip(values).map(|(account, value)| {
                let rows = row::decode_account(account, value.as_deref().unwrap_or_default());
                rows.into_iter().map(|stored| stored.row).collect()
            }));
        }
        self.leave_out_the_dead(&mut found).await?;
        Ok(found)
    }

    /// Keeps the rows of nodes with a lease. Nodes that are not known yet are asked for.
    async fn leave_out_the_dead(&self, found: &mut [Vec<SessionRow>]) -> Result<(), Error> {
        let unknown: HashSet<Epoch> = {
            let living = self.living();
            let epochs = found.iter().flatten().map(|row| row.epoch);
            epochs.filter(|epoch| !living.contains_key(epoch)).collect()
        };
        let mut dead = HashSet::new();
        if !unknown.is_empty() {
            let unknown: Vec<Epoch> = unknown.into_iter().collect();
            let living = nodes::leases(self, &unknown).await?;
            dead.extend(unknown);
            dead.retain(|epoch| !living.contains_key(epoch));
            self.living_mut().extend(living);
        }
        if !dead.is_empty() {
            for rows in found {
                rows.retain(|row| !dead.contains(&row.epoch));
            }
        }
        Ok(())
    }

    async fn republish(&self, rows: Vec<SessionRow>) -> Result<Vec<FullJid>, Error> {
        let last_loss = self.touched.losses();
        let mut lost = Vec::new();
        for some in rows.chunks(REPUBLISH_BATCH) {
            self.check_open()?;
            let began = Instant::now();
            lost.extend(self.republish_batch(some, last_loss).await?);
            // Half of the time is left to others: every node does this at the same time.
            tokio::time::sleep(began.elapsed()).await;
        }
        Ok(lost)
    }

    async fn republish_batch(
        &self,
        rows: &[SessionRow],
        last_loss: u64,
    ) -> Result<Vec<FullJid>, Error> {
        let _locks = self.lock_all(rows).await;
        let is_old = |row: &&SessionRow| !self.touched.since(last_loss, &row.jid);
        let rows: Vec<&SessionRow> = rows.iter().filter(is_old).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let index = self.index(rows.iter().map(|row| &row.jid));
        let _: u64 = self.link.command(&index).await?;
        let mut pipeline = Pipeline::with_capacity(rows.len());
        for row in &rows {
            let mut republish = self.on_account(&self.hashes.republish, &row.jid);
            republish.arg(row::encode(row, self.lease_number()));
            pipeline.add_command(republish);
        }
        let written: Vec<bool> = self.link.pipeline(&pipeline).await?;
        let mut lost = Vec::new();
        for (row, written) in rows.into_iter().zip(written) {
            if written {
                self.hints.changed(row.jid.to_bare());
            } else {
                lost.push(row.jid.clone());
            }
        }
        Ok(lost)
    }

    /// Writes entries in the node's set of sessions.
    fn index<'a>(&self, jids: impl IntoIterator<Item = &'a FullJid>) -> Cmd {
        let mut index = redis::cmd("SADD");
        index.arg(keys::sessions(&self.config.prefix, self.node.epoch));
        for jid in jids {
            index.arg(jid.as_str());
        }
        index
    }

    /// A script on the account of `jid`; its first argument is the resource.
    fn on_account(&self, hash: &str, jid: &FullJid) -> Cmd {
        let key = keys::account(&self.config.prefix, jid.bare_str());
        let mut script = redis::cmd("EVALSHA");
        script.arg(hash).arg(1).arg(key).arg(jid.resource());
        script
    }

    async fn lock(&self, jid: &FullJid) -> tokio::sync::MutexGuard<'_, ()> {
        self.jid_locks[self.lock_number(jid)].lock().await
    }

    /// The locks of several JIDs, always in the same order, so that nobody waits for ever.
    async fn lock_all(&self, rows: &[SessionRow]) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        let numbers: BTreeSet<usize> = rows.iter().map(|row| self.lock_number(&row.jid)).collect();
        let mut locks = Vec::with_capacity(numbers.len());
        for number in numbers {
            locks.push(self.jid_locks[number].lock().await);
        }
        locks
    }

    fn lock_number(&self, jid: &FullJid) -> usize {
        let hash = self.jid_hasher.hash_one(jid.as_str());
        usize::try_from(hash % JID_LOCKS as u64).unwrap_or_default()
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.left.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("it was shut down"));
        }
        Ok(())
    }

    fn lease_number(&self) -> u8 {
        self.lease_number.load(Ordering::Acquire)
    }

    fn living(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Epoch, NodeInfo>> {
        self.living.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn living_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Epoch, NodeInfo>> {
        self.living.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Missing leases mean nothing for the time of one lease.
    fn begin_grace(&self) {
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now() + self.config.lease;
    }

    fn in_grace(&self) -> bool {
        Instant::now() < *self.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hashes {
    fn new() -> Self {
        let hash = |script| Script::new(script).get_hash().to_owned();
        Self {
            register: hash(scripts::REGISTER),
            update: hash(scripts::UPDATE),
            unregister: hash(scripts::UNREGISTER),
            republish: hash(scripts::REPUBLISH),
            remove: hash(scripts::REMOVE),
            take_lease: hash(scripts::TAKE_LEASE),
            claim: hash(scripts::CLAIM),
            forget: hash(scripts::FORGET),
            close: hash(scripts::CLOSE),
        }
    }
}
