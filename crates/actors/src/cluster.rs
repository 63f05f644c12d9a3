//! The other nodes: where their sessions are, and what goes to and comes from them.
//!
//! The directory is a cache of the truth, which is the node that runs a session; each shard caches
//! the rows of the accounts that it routes to (`Cache`). Events of the directory and frames of the
//! bus arrive on one task each, which hands them to the shards in their order.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use rookery_bus::{Bus, Frame};
use rookery_directory::{Directory, Event, NodeInfo, SessionRow};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::stanza::{PresenceType, Stanza};
use rookery_proto::stream::StreamCondition;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::account::Resource;
use crate::frames::{route_again, take_inbound};
use crate::metrics;
use crate::moving::Questions;
use crate::node::NodeShared;
use crate::operators::Operators;
use crate::presence_list::{SessionLost, ShowAgain};
use crate::shard::{Run, Shard};

/// How long a cached row is believed without a hint that it changed.
const CACHE_TIME: Duration = Duration::from_mins(1);

/// After a loss of data, how long it may take until the other nodes have published their sessions again.
const OTHERS_PUBLISH: Duration = Duration::from_secs(10);

/// How long the contacts of an ended session wait for the directory's word on who tells them.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// How much time the farewell of a dead node's session gets: those of 15,000 take 4.5 s. While the dead
/// node's clients crowd in, who need none then, it has twice as much.
const FAREWELL: Duration = Duration::from_micros(300);

/// How long the word that an account changed waits for room on the bus.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a node is told again what came back from the bus: by then it is known if it is gone.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Pause before sessions are published again that could not be, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many accounts are looked up at once when nodes may not have heard of changes.
const BARRED_ACCOUNTS: usize = 200;

/// What the process shares of its cluster.
pub struct Cluster {
    /// JIDs to nodes.
    pub directory: Arc<dyn Directory>,
    /// Frames to nodes.
    pub bus: Arc<dyn Bus>,
    /// What was asked of other nodes.
    pub(crate) questions: Questions,
    /// What operators ask of other nodes, and what they ask here.
    pub(crate) operators: Operators,
    fenced: AtomicBool,
    /// Whether others may have told the contacts of the sessions here that these are gone.
    given_up: AtomicBool,
    /// The directory lost its data, and has not caught up since.
    lost_data: AtomicBool,
}

impl Cluster {
    pub(crate) fn new(directory: Arc<dyn Directory>, bus: Arc<dyn Bus>) -> Self {
        Self {
            directory,
            bus,
            questions: Questions::default(),
            operators: Operators::default(),
            fenced: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            lost_data: AtomicBool::new(false),
        }
    }

    /// This node's incarnation.
    pub(crate) fn epoch(&self) -> Epoch {
        self.directory.this_node().epoch
    }

    /// How people call a node: its epoch, if it is not known.
    pub(crate) fn name_of(&self, epoch: Epoch) -> String {
        let nodes = self.directory.nodes();
        let known = nodes.iter().find(|node| node.epoch == epoch);
        known.map_or_else(|| epoch.to_string(), |node| node.name.to_string())
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Queues a frame for a node; gives it back if that node's queue is full.
    pub(crate) fn send(&self, to: Epoch, frame: Frame) -> Result<(), Box<Frame>> {
        self.bus
            .send(to, frame)
            .map_err(|refused| Box::new(refused.frame))
    }

    /// Sends a frame to nodes that can do without it: if there is no room for it, they do not get it.
    pub(crate) fn tell(&self, nodes: impl IntoIterator<Item = Epoch>, frame: &Frame) {
        for epoch in nodes {
            if self.send(epoch, frame.clone()).is_err() {
                metrics::MAILBOX_OVERFLOWS.with_label_values(&["bus"]).inc();
            }
        }
    }

    /// Tells all other nodes that an account was removed or disabled, or its password changed. Also those that
    /// joined a moment ago and are not known yet: the directory names them with their sessions.
    ///
    /// Waits for room on the bus. Returns the names of those that could not be told, whose sessions of the
    /// account go on.
    pub(crate) async fn account_changed(&self, account: &BareJid, removed: bool) -> Vec<String> {
        let own = self.epoch();
        let rows = self.directory.lookup(std::slice::from_ref(account)).await;
        let nodes = self.directory.nodes();
        let with_sessions = rows.iter().flatten().flatten().map(|row| row.epoch);
        let epochs: BTreeSet<Epoch> = with_sessions
            .chain(nodes.iter().map(|node| node.epoch))
            .filter(|epoch| *epoch != own)
            .collect();
        let told = epochs.into_iter().map(async |epoch| {
            let told = self.tell_of_account(epoch, account, removed).await;
            told.err().map(|()| self.name_of(epoch))
        });
        let untold = futures_util::future::join_all(told).await;
        untold.into_iter().flatten().collect()
    }

    /// Tells a node that something happened to an account that ends its sessions, as soon as the bus has
    /// room.
    ///
    /// # Errors
    /// If that takes too long; an operator can read it in the log.
    pub(crate) async fn tell_of_account(
        &self,
        to: Epoch,
        account: &BareJid,
        removed: bool,
    ) -> Result<(), ()> {
        let frame = Frame::AccountChanged {
            account: account.clone(),
            removed,
        };
        let Err(frame) = self.send(to, frame) else {
            return Ok(());
        };
        let room = tokio::time::timeout(ROOM_PATIENCE, self.bus.ready(to)).await;
        if room.is_ok() && self.send(to, *frame).is_ok() {
            return Ok(());
        }
        tracing::warn!(
            node = %self.name_of(to), %account,
            "a node could not be told that an account changed: its sessions there go on"
        );
        Err(())
    }

    /// Tells the node that had a resource before that a newer session took it.
    pub(crate) fn evict(&self, old: &SessionRow) {
        if old.epoch != self.epoch() {
            let frame = Frame::Evict {
                session: old.jid.clone(),
                sequence: old.sequence,
            };
            self.tell([old.epoch], &frame);
        }
    }

    /// Takes an ended session out of the directory. Returns whether its contacts are to be told by this
    /// node: not if a newer session has its full JID. Whoever bound that one has told them (see
    /// [`Shard::bind`]); what two nodes say would have no order.
    pub(crate) async fn release(&self, jid: &FullJid, sequence: u64) -> bool {
        let removed = self.directory.unregister(jid, sequence);
        match tokio::time::timeout(RELEASE_TIME, removed).await {
            // Gone with Redis' data, or another session's.
            Ok(Ok(false)) => match self.directory.lookup(&[jid.to_bare()]).await {
                Ok(rows) => !rows.iter().flatten().any(|row| row.jid == *jid),
                Err(_) => true,
            },
            Ok(Err(error)) => {
                // The row stays until this incarnation's lease ends or the resource is bound again.
                tracing::warn!(%jid, %error, "a session stayed in the directory");
                true
            }
            Ok(Ok(true)) | Err(_) => true,
        }
    }

    /// Takes a session out of the directory, in the background.
    pub(crate) fn unregister(&self, jid: &FullJid, sequence: u64) {
        let (directory, jid) = (Arc::clone(&self.directory), jid.clone());
        actix_rt::spawn(async move {
            if let Err(error) = directory.unregister(&jid, sequence).await {
                // The row stays until this incarnation's lease ends or the resource is bound again.
                tracing::warn!(%jid, %error, "a session stayed in the directory");
            }
        });
    }

    /// Writes what a session's presence now is.
    pub(crate) async fn update(&self, resource: &Resource) {
        let row = row(resource, self.epoch());
        if let Err(error) = self.directory.update(&row).await {
            tracing::warn!(jid = %row.jid, %error, "the directory has an old presence");
        }
    }

    pub(crate) async fn shutdown(&self) {
        self.bus.shutdown().await;
        self.directory.shutdown().await;
    }
}

/// A session on another node.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) jid: FullJid,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) available: bool,
    pub(crate) priority: i8,
    pub(crate) presence: Option<Arc<Stanza>>,
}

/// Which sessions accounts have on other nodes, also "none"; bounded, oldest out first.
pub(crate) struct Cache {
    entries: HashMap<BareJid, Entry>,
    order: VecDeque<(BareJid, u64)>,
    capacity: usize,
    /// Counts invalidations; an answer that was asked for before one is not kept.
    stamp: u64,
    forgotten: HashMap<BareJid, u64>,
    forgotten_all: u64,
}

struct Entry {
    rows: Vec<Remote>,
    until: Instant,
    stamp: u64,
    /// Whether nothing was known, and the directory could not say.
    is_guess: bool,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(16),
            stamp: 0,
            forgotten: HashMap::new(),
            forgotten_all: 0,
        }
    }

    /// Whether the account's sessions elsewhere are known.
    pub(crate) fn knows(&self, account: &str) -> bool {
        self.entries
            .get(account)
            .is_some_and(|entry| entry.until > Instant::now())
    }

    /// The account's sessions on other nodes, as far as they are known.
    pub(crate) fn get(&self, account: &str) -> &[Remote] {
        self.entries.get(account).map_or(&[], |entry| &entry.rows)
    }

    /// Call before asking the directory; the result goes into [`learned`](Self::learned).
    pub(crate) fn asking(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Keeps what the directory said of these accounts.
    ///
    /// What was invalidated since it was asked for is believed for this moment only: an entry must
    /// exist for the stanza that waits, and it is outdated at once.
    pub(crate) fn learned(
        &mut self,
        asked: u64,
        accounts: &[BareJid],
        rows: Vec<Vec<SessionRow>>,
        own: Epoch,
    ) {
        for (account, rows) in accounts.iter().zip(rows) {
            let rows = rows
                .into_iter()
                .filter(|row| row.epoch != own)
                .map(remote)
                .collect();
            let stale = self.forgotten_all > asked
                || self
                    .forgotten
                    .get(account)
                    .is_some_and(|forgotten| *forgotten > asked);
            let time = if stale {
                Duration::from_millis(20)
            } else {
                CACHE_TIME
            };
            self.insert(account, rows, time);
        }
        self.forgotten.retain(|_, forgotten| *forgotten > asked);
    }

    /// The directory cannot be reached: what was known stays, the rest counts as "nobody" for a
    /// moment.
    pub(crate) fn assume_last_known(&mut self, accounts: &[BareJid]) {
        for account in accounts {
            let last = self.entries.remove(account).map(|entry| entry.rows);
            let is_guess = last.is_none();
            self.insert(account, last.unwrap_or_default(), Duration::from_secs(1));
            if let Some(entry) = self.entries.get_mut(account) {
                entry.is_guess = is_guess;
            }
        }
    }

    /// Whether the account may have sessions elsewhere that nothing is known of.
    pub(crate) fn is_guess(&self, account: &str) -> bool {
        self.entries
            .get(account)
            .is_some_and(|entry| entry.is_guess)
    }

    fn insert(&mut self, account: &BareJid, rows: Vec<Remote>, time: Duration) {
        self.stamp += 1;
        let entry = Entry {
            rows,
            until: Instant::now() + time,
            stamp: self.stamp,
            is_guess: false,
        };
        self.entries.insert(account.clone(), entry);
        self.order.push_back((account.clone(), self.stamp));
        while self.entries.len() > self.capacity || self.order.len() > 2 * self.capacity {
            let Some((oldest, stamp)) = self.order.pop_front() else {
                break;
            };
            if self
                .entries
                .get(&oldest)
                .is_some_and(|entry| entry.stamp == stamp)
            {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Something about the account changed.
    pub(crate) fn forget(&mut self, account: &str) {
        self.stamp += 1;
        self.entries.remove(account);
        if self.forgotten.len() >= self.capacity {
            self.forgotten.clear();
            self.forgotten_all = self.stamp;
        } else if let Ok(account) = BareJid::parse(account) {
            self.forgotten.insert(account, self.stamp);
        }
    }

    /// Hints may have been lost.
    pub(crate) fn forget_all(&mut self) {
        self.stamp += 1;
        self.entries.clear();
        self.order.clear();
        self.forgotten_all = self.stamp;
    }

    /// A node died.
    pub(crate) fn forget_node(&mut self, epoch: Epoch) {
        self.stamp += 1;
        self.entries
            .retain(|_, entry| entry.rows.iter().all(|row| row.epoch != epoch));
        self.forgotten_all = self.stamp;
    }
}

fn remote(row: SessionRow) -> Remote {
    // What this cluster's own nodes wrote reads back; if not, the resource just shows no presence.
    let presence = row
        .presence
        .as_deref()
        .and_then(|xml| Stanza::from_xml(xml).ok())
        .map(Arc::new);
    Remote {
        jid: row.jid,
        epoch: row.epoch,
        sequence: row.sequence,
        available: row.available,
        priority: row.priority,
        presence,
    }
}

/// How many batches of other nodes are handed to the shards at once.
const INBOUND_AT_ONCE: usize = 16;

/// Starts the tasks that listen to the directory and to the bus, on the calling arbiter.
pub(crate) fn start(node: &Arc<NodeShared>) {
    let Some(cluster) = &node.cluster else { return };
    let (Some(mut events), Some(mut frames)) = (cluster.directory.events(), cluster.bus.inbound())
    else {
        tracing::error!("the directory or the bus is used by another node of this process");
        return;
    };
    let (losses, told) = watch::channel(());
    let for_events = Arc::clone(node);
    actix_rt::spawn(async move {
        while let Some(event) = events.recv().await {
            take_event(&for_events, &losses, event).await;
        }
    });
    let for_losses = Arc::clone(node);
    actix_rt::spawn(async move {
        let shards = for_losses.shards().len();
        let publish = async |index| publish(&for_losses, index).await;
        keep_published(told, shards, publish).await;
    });
    let for_frames = Arc::clone(node);
    actix_rt::spawn(async move {
        let mut inbound = Vec::with_capacity(INBOUND_AT_ONCE);
        while frames.recv_many(&mut inbound, INBOUND_AT_ONCE).await > 0 {
            take_inbound(&for_frames, &mut inbound).await;
        }
    });
}

async fn take_event(node: &Arc<NodeShared>, losses: &watch::Sender<()>, event: Event) {
    let Some(cluster) = &node.cluster else { return };
    match event {
        Event::Changed(accounts) => {
            for (index, accounts) in node.by_shard(accounts) {
                run(node, index, move |shard| {
                    for account in &accounts {
                        shard.cache.borrow_mut().forget(account.as_str());
                    }
                })
                .await;
            }
        }
        Event::FlushCache => {
            run_everywhere(node, |shard| {
                shard.cache.borrow_mut().forget_all();
            })
            .await;
        }
        Event::NodeLost { node: lost } => {
            tracing::warn!(node = %lost.name, epoch = %lost.epoch, "a node is gone");
            run_everywhere(node, move |shard| {
                shard.cache.borrow_mut().forget_node(lost.epoch);
            })
            .await;
            // It may have committed messages for accounts here without getting to deliver them, and its
            // sessions have not confirmed what is now for the accounts' resources here. Each node does it.
            read_all_logs(node).await;
        }
        Event::Claimed { node: lost } => claim_inbox(node, cluster, lost.epoch),
        Event::Collect { node: lost, rows } => collect(node, cluster, lost, rows),
        Event::DataLost => {
            tracing::warn!("the directory lost its data; sessions are published again");
            cluster.lost_data.store(true, Ordering::Relaxed);
            cluster.bus.data_lost();
            run_everywhere(node, |shard| shard.cache.borrow_mut().forget_all()).await;
            losses.send_replace(());
        }
        // Everybody is shown everything when the sessions are published again.
        Event::CaughtUp if cluster.given_up.load(Ordering::Relaxed) => {}
        Event::CaughtUp => {
            let node = Arc::clone(node);
            let pause = if cluster.lost_data.swap(false, Ordering::Relaxed) {
                OTHERS_PUBLISH
            } else {
                Duration::ZERO
            };
            actix_rt::spawn(async move {
                tokio::time::sleep(pause).await;
                run_everywhere(&node, Shard::show_what_was_missed).await;
            });
        }
        Event::Fenced => {
            tracing::error!("cannot renew the node's lease; no new streams until it can");
            cluster.fenced.store(true, Ordering::Relaxed);
            cluster.given_up.store(true, Ordering::Relaxed);
            cluster.bus.fenced();
        }
        Event::Unfenced => {
            tracing::info!("the node's lease is renewed again");
            cluster.fenced.store(false, Ordering::Relaxed);
        }
    }
}

/// After each loss, publishes what each shard has, one shard after the other, until all of it has
/// worked. A newer loss makes what was published before it pointless: all of it starts again.
async fn keep_published<E: std::fmt::Display>(
    mut losses: watch::Receiver<()>,
    shards: usize,
    publish: impl AsyncFn(usize) -> Result<(), E>,
) {
    let mut next = shards;
    let mut pause = FIRST_PAUSE;
    loop {
        if next == shards && losses.changed().await.is_err() {
            return;
        }
        if next == shards || losses.has_changed().unwrap_or(false) {
            losses.mark_unchanged();
            (next, pause) = (0, FIRST_PAUSE);
        }
        match publish(next).await {
            Ok(()) => (next, pause) = (next + 1, FIRST_PAUSE),
            Err(error) => {
                tracing::warn!(%error, "sessions were not published again, trying once more");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Publishes the sessions of one shard: the truth about them is here.
async fn publish(node: &Arc<NodeShared>, index: usize) -> Result<(), rookery_directory::Error> {
    let Some(cluster) = &node.cluster else {
        return Ok(());
    };
    let (sender, rows) = oneshot::channel();
    let own = cluster.epoch();
    run(node, index, move |shard| {
        let resources = shard.all_resources();
        let rows: Vec<SessionRow> = resources.iter().map(|r| row(r, own)).collect();
        // Fails only when the node stops.
        let _ = sender.send(rows);
    })
    .await;
    let Ok(rows) = rows.await else { return Ok(()) };
    let lost = cluster.directory.republish(rows).await?;
    if index + 1 == node.shards().len() {
        // Until now others took these sessions for gone, and their messages only went to the log. Frames are
        // lost as well, perhaps the last ones from a node that has nothing more to say.
        make_up_for_lost_frames(node).await;
        if cluster.given_up.swap(false, Ordering::Relaxed) {
            run_everywhere(node, Shard::show_again).await;
        }
    }
    if !lost.is_empty() {
        run(node, index, move |shard| {
            for jid in &lost {
                shard.evict(jid, u64::MAX);
            }
        })
        .await;
    }
    Ok(())
}

/// What the directory is told of a session.
fn row(resource: &Resource, own: Epoch) -> SessionRow {
    let presence = resource.presence.borrow();
    SessionRow {
        jid: resource.jid.clone(),
        epoch: own,
        sequence: resource.sequence.get(),
        priority: resource.priority.get(),
        available: presence.is_some(),
        presence: presence.as_ref().map(|stanza| stanza.to_xml().into()),
    }
}

/// What came back from the bus, which gave up: a node that lives has to hear that an account changed, also
/// twice. At worst that ends a session that began since, whose client logs in again.
pub(crate) fn tell_of_accounts_again(node: &Arc<NodeShared>, to: Epoch, frames: &[Frame]) {
    let changes: Vec<(BareJid, bool)> = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::AccountChanged { account, removed } => Some((account.clone(), *removed)),
            _ => None,
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    let node = Arc::clone(node);
    actix_rt::spawn(async move {
        tokio::time::sleep(TELL_AGAIN).await;
        let Some(cluster) = &node.cluster else { return };
        for (account, removed) in changes {
            if cluster
                .directory
                .nodes()
                .iter()
                .all(|node| node.epoch != to)
            {
                return;
            }
            // The log says if it cannot be told.
            let _ = cluster.tell_of_account(to, &account, removed).await;
        }
    });
}

/// Routes again what was on its way to a node that died.
fn claim_inbox(node: &Arc<NodeShared>, cluster: &Cluster, lost: Epoch) {
    let bus = Arc::clone(&cluster.bus);
    let node = Arc::clone(node);
    actix_rt::spawn(async move {
        loop {
            match bus.claim(lost).await {
                Ok(frames) if frames.is_empty() => return,
                Ok(frames) => route_again(&node, frames, false).await,
                Err(error) => {
                    tracing::warn!(%error, "what was sent to a dead node is out of reach");
                    return;
                }
            }
        }
    });
}

/// Tells the contacts of a dead node's sessions that these are gone.
fn collect(node: &Arc<NodeShared>, cluster: &Cluster, lost: NodeInfo, rows: Vec<SessionRow>) {
    tracing::info!(node = %lost.name, sessions = rows.len(), "clearing up after a node");
    let directory = Arc::clone(&cluster.directory);
    let node = Arc::clone(node);
    actix_rt::spawn(async move {
        // Each costs a roster and its presence: thousands of them at once would be in everybody's way.
        let mut next = Instant::now();
        for row in rows.iter().filter(|row| row.available).cloned() {
            tokio::time::sleep_until(next).await;
            let times = if node.turnstile.is_crowded() { 2 } else { 1 };
            next += FAREWELL * times;
            let index = node.shard_of(row.jid.bare_str());
            run(&node, index, move |shard| shard.session_lost(row.jid)).await;
        }
        if let Err(error) = directory.collected(&lost, &rows).await {
            tracing::warn!(%error, "a dead node's sessions stayed in the directory");
        }
    });
}

/// Frames may have been lost on their way: storage says what messages they leave undelivered, and which
/// accounts are no more.
pub(crate) async fn make_up_for_lost_frames(node: &Arc<NodeShared>) {
    read_all_logs(node).await;
    run_everywhere(node, Shard::end_barred).await;
}

/// Live deliveries were lost on their way: what they leave undelivered is found in the log.
async fn read_all_logs(node: &Arc<NodeShared>) {
    run_everywhere(node, Shard::read_all_logs).await;
}

/// Runs a job on a shard; waits while its mailbox is full, which is the back-pressure on the bus.
pub(crate) async fn run(
    node: &NodeShared,
    index: usize,
    job: impl FnOnce(&Rc<Shard>) + Send + 'static,
) {
    // Fails only when the node stops.
    let _ = node.shard(index).send(Run(Box::new(job))).await;
}

async fn run_everywhere(node: &NodeShared, job: impl Fn(&Rc<Shard>) + Clone + Send + 'static) {
    for index in 0..node.shards().len() {
        let job = job.clone();
        run(node, index, move |shard| job(shard)).await;
    }
}

impl Shard {
    /// Others may have disabled or removed accounts, and the word of it was lost: their sessions end.
    fn end_barred(self: &Rc<Self>) {
        let accounts: Vec<BareJid> = self.accounts.borrow().keys().cloned().collect();
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            for some in accounts.chunks(BARRED_ACCOUNTS) {
                for account in shard.barred(some).await {
                    shard.end_sessions(&account, StreamCondition::NotAuthorized);
                }
            }
        });
    }

    /// Those of the accounts that nobody may log in to; waits for storage.
    async fn barred(&self, accounts: &[BareJid]) -> Vec<BareJid> {
        loop {
            match self.node().storage.barred(accounts).await {
                Ok(barred) => return barred,
                Err(error) => {
                    tracing::debug!(%error, "accounts were not looked up; it is tried again");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }

    /// Others have given this node up, and it has returned: those who may see its sessions see them again,
    /// and they see those of others.
    fn show_again(self: &Rc<Self>) {
        self.missed.borrow_mut().clear();
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            let limit = shard.node().settings.sessions.actor_timeout;
            for resource in shard.all_resources() {
                let entry = shard
                    .accounts
                    .borrow()
                    .get(resource.jid.bare_str())
                    .cloned();
                let Some(entry) = entry else { continue };
                let again = ShowAgain {
                    resource: resource.jid.resource().to_owned(),
                };
                let shown = shard.presence_list(&entry).send(again);
                if !matches!(tokio::time::timeout(limit, shown).await, Ok(Ok(()))) {
                    tracing::error!(jid = %resource.jid, "contacts were not told that a session is still there");
                }
            }
        });
    }

    /// A session of a dead node was online: its contacts learn that it is not any more.
    fn session_lost(self: &Rc<Self>, jid: FullJid) {
        let account = jid.to_bare();
        let shard = Rc::clone(self);
        let job = Box::pin(async move {
            let entry = shard.account(&jid.to_bare());
            let stanza = Stanza::presence(PresenceType::Unavailable).with_from(Jid::from(jid));
            let list = shard.presence_list(&entry);
            let limit = shard.node().settings.sessions.actor_timeout;
            let gone = SessionLost {
                stanza: Arc::new(stanza),
            };
            if !matches!(
                tokio::time::timeout(limit, list.send(gone)).await,
                Ok(Ok(()))
            ) {
                tracing::error!("the contacts of a lost session were not told");
            }
        });
        self.in_turn(account, job);
    }

    /// Tells an account's presence list something, if the account has sessions here.
    pub(crate) fn tell_presence_list<M>(self: &Rc<Self>, account: &BareJid, message: M)
    where
        M: actix::Message<Result = ()> + Send + 'static,
        crate::presence_list::PresenceList: actix::Handler<M>,
    {
        let Some(entry) = self.accounts.borrow().get(account).cloned() else {
            return;
        };
        let shard = Rc::clone(self);
        let job = Box::pin(async move {
            let list = shard.presence_list(&entry);
            let limit = shard.node().settings.sessions.actor_timeout;
            if !matches!(
                tokio::time::timeout(limit, list.send(message)).await,
                Ok(Ok(()))
            ) {
                tracing::error!(account = %entry.jid, "a change was not shown to its sessions");
            }
        });
        self.in_turn(account.clone(), job);
    }

    /// A newer session took this resource on another node.
    pub(crate) fn evict(&self, session: &FullJid, sequence: u64) {
        self.cache.borrow_mut().forget(session.bare_str());
        // What waited for a session to be registered on its new node goes there now.
        drop(self.moved_out.borrow_mut().remove(session));
        let Some(entry) = self.accounts.borrow().get(session.bare_str()).cloned() else {
            return;
        };
        if let Some(resource) = entry.resource(session.resource())
            && resource.sequence.get() <= sequence
        {
            resource.end(StreamCondition::Conflict);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use rookery_bus::{Limits, MemoryHub};
    use rookery_directory::Memory;

    use super::*;

    /// No room on the bus is waited for, and a node that cannot be told is named.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_cannot_be_told_of_an_account_is_named() {
        let nodes = Memory::cluster();
        let (here, there) = (nodes.node("here"), nodes.node("there"));
        let hub = MemoryHub::default();
        let limits = Limits {
            queue_frames: 1,
            give_up: Duration::from_mins(1),
            ..Limits::default()
        };
        let to = there.this_node().epoch;
        let bus = hub.node(here.this_node().epoch, limits);
        let inbox = hub.node(to, Limits::default());
        let mut heard = inbox.inbound().unwrap();
        let cluster = Cluster::new(Arc::new(here), Arc::new(bus));
        let ann = BareJid::parse("ann@localhost").unwrap();
        let changed = |account: &BareJid| Frame::AccountChanged {
            account: account.clone(),
            removed: false,
        };
        hub.set_reachable(false);
        let other = BareJid::parse("bob@localhost").unwrap();
        cluster.send(to, changed(&other)).unwrap();
        assert_eq!(cluster.account_changed(&ann, false).await, ["there"]);

        let told = cluster.account_changed(&ann, false);
        let room = async {
            tokio::time::sleep(ROOM_PATIENCE / 2).await;
            hub.set_reachable(true);
        };
        let (untold, ()) = futures_util::future::join(told, room).await;
        assert!(untold.is_empty(), "{untold:?}");
        let mut all = Vec::new();
        while all.len() < 2 {
            match heard.recv().await.unwrap() {
                rookery_bus::Inbound::Frames { frames, .. } => all.extend(frames.read().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all, [changed(&other), changed(&ann)]);
    }

    /// The attempts that are made: which shard, and the tenths of a second since the start.
    async fn attempts(
        fails: impl Fn(usize, u128) -> bool,
        losses_at: &[u64],
    ) -> Vec<(usize, u128)> {
        let began = Instant::now();
        let (sender, receiver) = watch::channel(());
        let seen = RefCell::new(Vec::new());
        let under_way = Cell::new(false);
        let publish = async |shard: usize| {
            assert!(!under_way.replace(true), "two at once");
            let at = began.elapsed().as_millis() / 100;
            seen.borrow_mut().push((shard, at));
            tokio::time::sleep(Duration::from_millis(200)).await;
            under_way.set(false);
            if fails(shard, at) {
                Err("away")
            } else {
                Ok(())
            }
        };
        let lose = async {
            for at in losses_at {
                tokio::time::sleep_until(began + Duration::from_millis(at * 100)).await;
                sender.send_replace(());
            }
            tokio::time::sleep(Duration::from_mins(1)).await;
            drop(sender);
        };
        futures_util::future::join(keep_published(receiver, 2, publish), lose).await;
        seen.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_published_until_it_has_worked() {
        assert_eq!(attempts(|_, _| false, &[]).await, []);
        let once = attempts(|_, _| false, &[5]).await;
        assert_eq!(once, [(0, 5), (1, 7)]);
        let at_last = attempts(|shard, at| shard == 1 && at < 15, &[5]).await;
        assert_eq!(at_last, [(0, 5), (1, 7), (1, 10), (1, 14), (1, 20)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_loss_starts_it_again_and_never_beside_itself() {
        let again = attempts(|_, _| false, &[5, 6]).await;
        assert_eq!(again, [(0, 5), (0, 7), (1, 9)]);
        let after_a_failure = attempts(|_, at| at < 6, &[5, 7]).await;
        assert_eq!(after_a_failure, [(0, 5), (0, 8), (1, 10)]);
        let much_later = attempts(|_, _| false, &[5, 50]).await;
        assert_eq!(much_later, [(0, 5), (1, 7), (0, 50), (1, 52)]);
    }
}
