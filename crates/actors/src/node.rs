//! The node: its arbiters, and what they share.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix::Addr;
use actix_rt::Arbiter;
use futures_util::future::BoxFuture;
use ring::rand::{SecureRandom, SystemRandom};
use rookery_bus::Bus;
use rookery_directory::Directory;
use rookery_features::password::{self, Password, SALT_LEN};
use rookery_proto::credentials::Credentials;
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::BareJid;
use rookery_proto::stream::StreamCondition;
use rookery_storage::Storage;
use tokio::sync::oneshot;

use crate::administration::Refused;
use crate::admission::Admission;
use crate::archive;
use crate::budget::{Budget, Load};
use crate::cluster::{self, Cluster};
use crate::connection::Accepted;
use crate::pulse::{Pulse, Usual};
use crate::settings::Settings;
use crate::shard::{Accept, Run, Shard, ShardActor};
use crate::turnstile::{Entry, Turnstile};
use crate::user_session::Leave;
use crate::{metrics, reply};

/// The longest pause after a session that leaves.
const MAX_PAUSE: Duration = Duration::from_millis(5);

/// Tells how a node is, as JSON of 256 KB at most; what it says is the server's business.
pub struct Reporter(Box<dyn Fn() -> BoxFuture<'static, serde_json::Value> + Send + Sync>);

impl Reporter {
    /// Calls this each time that somebody asks.
    pub fn new(
        report: impl Fn() -> BoxFuture<'static, serde_json::Value> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(report))
    }
}

/// Does what an operator has asked another node for, and tells what became of it; what is asked and
/// answered is the server's business. An answer has 256 KB at most.
pub struct Callee(Box<dyn Fn(serde_json::Value) -> Answering + Send + Sync>);

/// What a [`Callee`] is at.
type Answering = BoxFuture<'static, serde_json::Value>;

impl Callee {
    /// Calls this each time that another node passes a call on.
    pub fn new(call: impl Fn(serde_json::Value) -> Answering + Send + Sync + 'static) -> Self {
        Self(Box::new(call))
    }
}

/// What all arbiters of the process share.
pub struct NodeShared {
    /// How the node behaves.
    pub settings: Settings,
    /// The database.
    pub storage: Arc<dyn Storage>,
    /// TLS for client streams.
    pub tls: Arc<rustls::ServerConfig>,
    /// Limits on streams and logins.
    pub admission: Admission,
    /// What new connections pass.
    pub(crate) turnstile: Turnstile<Accepted>,
    /// How long a commit of messages takes while there are no newcomers.
    pub(crate) usual_commit: Usual,
    /// The other nodes; `None` on a single node.
    pub cluster: Option<Cluster>,
    /// What stanzas that have not ended take.
    pub(crate) budget: Arc<Budget>,
    /// The part of them that other nodes have sent.
    pub(crate) from_nodes: Arc<Load>,
    /// Key of the made-up salts for unknown users (RFC 5802 has none; see `features::scram`).
    pub salt_key: [u8; 32],
    /// When the node started.
    pub started: Instant,
    /// Who may administer the server with a client.
    admins: RwLock<Vec<BareJid>>,
    shards: OnceLock<Vec<Addr<ShardActor>>>,
    /// Which shard gets the next connection.
    next: AtomicUsize,
    random: SystemRandom,
    reporter: OnceLock<Reporter>,
    callee: OnceLock<Callee>,
}

impl NodeShared {
    /// Who tells from now on how this node is, if somebody asks here or on another node.
    pub fn report_by(&self, reporter: Reporter) {
        // A server starts once.
        let _ = self.reporter.set(reporter);
    }

    /// How this node is; `None` before anybody can tell.
    pub(crate) async fn report(&self) -> Option<serde_json::Value> {
        let reporter = self.reporter.get()?;
        Some(reporter.0().await)
    }

    /// Who answers from now on what operators ask other nodes for.
    pub fn calls_by(&self, callee: Callee) {
        // A server starts once.
        let _ = self.callee.set(callee);
    }

    /// Does what another node passes on; `None` before anybody can.
    pub(crate) async fn called(&self, call: serde_json::Value) -> Option<serde_json::Value> {
        let callee = self.callee.get()?;
        Some(callee.0(call).await)
    }

    /// The number of the shard that owns an account.
    pub(crate) fn shard_of(&self, account: &str) -> usize {
        // The choice must be the same on all threads, and quick; nothing depends on it being hard to
        // predict.
        let mix = |hash: u64, word: u64| {
            let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            product ^ (product >> 32)
        };
        let (words, rest) = account.as_bytes().as_chunks::<8>();
        let hash = words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
            mix(hash, u64::from_le_bytes(*word))
        });
        let last = rest.iter().fold(account.len() as u64, |word, byte| {
            word << 8 | u64::from(*byte)
        });
        let shards = self.shards().len() as u64;
        usize::try_from((mix(hash, last) >> 16) % shards).expect("less than the number of shards")
    }

    /// Accounts by the number of the shard that owns them; shards without any are left out.
    pub(crate) fn by_shard(
        &self,
        accounts: impl IntoIterator<Item = BareJid>,
    ) -> Vec<(usize, Vec<BareJid>)> {
        let mut by_shard: Vec<Vec<BareJid>> = vec![Vec::new(); self.shards().len()];
        for account in accounts {
            by_shard[self.shard_of(account.as_str())].push(account);
        }
        let by_shard = by_shard.into_iter().enumerate();
        by_shard
            .filter(|(_, accounts)| !accounts.is_empty())
            .collect()
    }

    pub(crate) fn shards(&self) -> &[Addr<ShardActor>] {
        self.shards
            .get()
            .expect("set before the first connection is accepted")
    }

    pub(crate) fn shard(&self, index: usize) -> &Addr<ShardActor> {
        &self.shards()[index]
    }

    /// Fills `bytes` with randomness of the operating system.
    ///
    /// # Panics
    /// If the operating system has none, which no Linux does after boot.
    pub fn random(&self, bytes: &mut [u8]) {
        self.random
            .fill(bytes)
            .expect("the operating system's random source works");
    }

    /// Makes the keys of a new password, away from the arbiter: that is slow on purpose.
    ///
    /// # Errors
    /// `not-acceptable` if the text cannot be a password.
    pub(crate) async fn derive_credentials(
        &self,
        password: Password,
    ) -> Result<Credentials, StanzaError> {
        let mut salts = [[0; SALT_LEN]; 2];
        for salt in &mut salts {
            self.random(salt);
        }
        let iterations = self.settings.auth.scram_iterations;
        let permit = self.admission.password_checks().acquire_owned().await;
        let derived = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            password::derive_credentials(&password, [&salts[0], &salts[1]], iterations)
        });
        match derived.await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error)) => {
                Err(StanzaError::new(Condition::NotAcceptable).with_text(error.to_string()))
            }
            Err(_) => Err(Condition::InternalServerError.into()),
        }
    }

    /// Asks the shard that owns an account; `None` if it has stopped.
    pub(crate) async fn on_shard_of<T: Send + 'static>(
        &self,
        account: &str,
        question: impl FnOnce(&Rc<Shard>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job = Run(Box::new(move |shard| {
            // Nobody waits any more.
            let _ = answer.send(question(shard));
        }));
        self.shard(self.shard_of(account)).send(job).await.ok()?;
        answered.await.ok()
    }

    /// Whether an account has an available resource anywhere.
    pub(crate) async fn is_online(&self, account: &BareJid) -> Result<bool, StanzaError> {
        let name = account.clone();
        let here = self.on_shard_of(account.as_str(), move |shard| {
            let accounts = shard.accounts.borrow();
            let account = accounts.get(&name);
            account.is_some_and(|a| a.resources.borrow().iter().any(|r| r.is_available()))
        });
        if here.await.unwrap_or(false) {
            return Ok(true);
        }
        let Some(cluster) = &self.cluster else {
            return Ok(false);
        };
        let rows = cluster
            .directory
            .lookup(std::slice::from_ref(account))
            .await;
        let rows = rows.map_err(|e| reply::directory_error(&e))?;
        Ok(rows.iter().flatten().any(|row| row.available))
    }

    /// Gives a connection to an arbiter, the next one to the next.
    fn hand_over(&self, connection: Accept) {
        let shards = self.shards();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % shards.len();
        if shards[index].try_send(connection).is_err() {
            metrics::MAILBOX_OVERFLOWS
                .with_label_values(&["accept"])
                .inc();
        }
    }

    /// From now on these may administer the server with a client (XEP-0133).
    pub fn set_admins(&self, admins: Vec<BareJid>) {
        *self.admins.write().unwrap_or_else(PoisonError::into_inner) = admins;
    }

    /// Whether an account may administer the server.
    pub fn is_admin(&self, account: &BareJid) -> bool {
        let admins = self.admins.read().unwrap_or_else(PoisonError::into_inner);
        admins.contains(account)
    }

    /// Whether this node serves a domain.
    pub fn serves(&self, domain: &str) -> bool {
        self.settings.domains.iter().any(|d| **d == *domain)
    }
}

/// A running node.
pub struct Node {
    shared: Arc<NodeShared>,
    arbiters: Vec<Arbiter>,
    stopping: AtomicBool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error("cannot use the database: {0}")]
    Storage(#[from] rookery_storage::Error),
    /// An arbiter ended before it could be used.
    #[error("a worker thread did not start")]
    Arbiter,
}

impl Node {
    /// Starts the arbiters.
    ///
    /// # Errors
    /// When the database cannot be read, or a thread cannot be started.
    pub async fn start(
        settings: Settings,
        storage: Arc<dyn Storage>,
        cluster: Option<(Arc<dyn Directory>, Arc<dyn Bus>)>,
        tls: Arc<rustls::ServerConfig>,
    ) -> Result<Self, StartError> {
        metrics::init();
        let salt_key = storage.secret("scram-salt").await?;
        let workers = settings.workers.max(1);
        let budget = Arc::default();
        let shared = Arc::new(NodeShared {
            admission: Admission::new(&settings),
            turnstile: Turnstile::new(settings.c2s.max_unauthenticated),
            usual_commit: Usual::default(),
            admins: RwLock::new(settings.admins.clone()),
            cluster: cluster.map(|(directory, bus)| Cluster::new(directory, bus)),
            settings,
            storage,
            tls,
            from_nodes: Load::new(&budget),
            budget,
            salt_key,
            started: Instant::now(),
            shards: OnceLock::new(),
            next: AtomicUsize::new(0),
            random: SystemRandom::new(),
            reporter: OnceLock::new(),
            callee: OnceLock::new(),
        });
        let mut arbiters = Vec::with_capacity(workers);
        let mut shards = Vec::with_capacity(workers);
        for index in 0..workers {
            let arbiter = Arbiter::new();
            let (running, address) = oneshot::channel();
            let node = Arc::clone(&shared);
            arbiter.spawn_fn(move || {
                // Fails only if the start was given up.
                let _ = running.send(ShardActor::start_here(index, node, workers));
            });
            shards.push(address.await.map_err(|_| StartError::Arbiter)?);
            arbiters.push(arbiter);
        }
        if shared.shards.set(shards).is_err() {
            unreachable!("the cell was made a few lines above");
        }
        if shared.cluster.is_some() {
            cluster::start(&shared);
        }
        archive::start_expiry(&shared);
        let door = Arc::clone(&shared);
        actix_rt::spawn(async move {
            let node = &door;
            let mut pulse = Pulse::of(Arc::clone(node));
            let under_way = || node.admission.waiting();
            let let_in = |accepted| node.hand_over(Accept::Welcome(accepted));
            node.turnstile
                .turn(|now| pulse.feel(now), under_way, let_in)
                .await;
        });
        Ok(Self {
            shared,
            arbiters,
            stopping: AtomicBool::new(false),
        })
    }

    /// Takes a new transport stream. It is closed at once if the node stops, is cut off from the others
    /// or cannot keep up.
    pub fn accept(&self, accepted: Accepted) {
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        if self.is_fenced() {
            metrics::STREAMS_REFUSED
                .with_label_values(&["fenced"])
                .inc();
            return;
        }
        match self.shared.turnstile.enter(accepted) {
            Entry::Free(accepted) => self.shared.hand_over(Accept::Welcome(accepted)),
            Entry::Waits => {}
            Entry::Full(accepted) => self.shared.hand_over(Accept::TooMany(accepted)),
        }
    }

    /// What the arbiters share.
    pub fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// Whether a connection from this address may be accepted now; the listener asks before it reads.
    pub fn admits(&self, peer: SocketAddr) -> bool {
        self.shared.admission.admits(peer)
    }

    /// An account was removed or disabled, or its password changed, from outside of its sessions: they end,
    /// on all nodes.
    ///
    /// # Errors
    /// [`Refused::Untold`]: they go on there.
    pub async fn account_changed(&self, account: &BareJid, removed: bool) -> Result<(), Refused> {
        account_changed(&self.shared, account, removed).await
    }

    /// Whether this node has cut itself off because it cannot reach the directory.
    pub fn is_fenced(&self) -> bool {
        self.shared.cluster.as_ref().is_some_and(Cluster::is_fenced)
    }

    /// Sends the clients elsewhere, at a pace that the other nodes can take: sessions that can be
    /// resumed lose their connection and wait for their client to come to another node; the others
    /// end with `<system-shutdown/>`. No streams are taken meanwhile.
    ///
    /// Returns when no session is left, or after `timeout`, with the number of those that are.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.stopping.store(true, Ordering::Relaxed);
        self.shared.turnstile.close();
        let deadline = Instant::now() + timeout;
        // Half of the time is for those who leave, half for those who are slow to come back.
        let pause = self.pause_between(timeout / 2);
        let leave = self.on_all_shards_until_done(move |shard| shard.let_all_leave(pause));
        // Those who were not told by then are left.
        let _ = tokio::time::timeout_at(deadline.into(), leave).await;
        self.wait_until_empty(deadline).await;
        usize::try_from(metrics::SESSIONS.get()).unwrap_or(0)
    }

    /// How long to wait after each session, so that all have left within `time`.
    fn pause_between(&self, time: Duration) -> Duration {
        let sessions = u32::try_from(metrics::SESSIONS.get()).unwrap_or(0).max(1);
        let shards = u32::try_from(self.shared.shards().len()).unwrap_or(1);
        (time * shards / sessions).min(MAX_PAUSE)
    }

    async fn wait_until_empty(&self, deadline: Instant) {
        while (metrics::SESSIONS.get() > 0 || metrics::open_streams() > 0)
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends all streams and waits until they are gone, `timeout` at most. In a cluster, sessions that
    /// can be resumed get half of that time to go on elsewhere.
    pub async fn shutdown(&self, timeout: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        self.shared.turnstile.close();
        if self.shared.cluster.is_some() {
            self.drain(timeout / 2).await;
        }
        self.on_all_shards(|shard| {
            for resource in shard.all_resources() {
                resource.end(StreamCondition::SystemShutdown);
            }
            shard.end_connections(StreamCondition::SystemShutdown);
        })
        .await;
        self.wait_until_empty(Instant::now() + timeout / 2).await;
        self.write_confirmations().await;
        if let Some(cluster) = &self.shared.cluster {
            cluster.shutdown().await;
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }

    async fn on_all_shards(&self, job: impl Fn(&Rc<Shard>) + Clone + Send + 'static) {
        for shard in self.shared.shards() {
            // Fails only if the shard is gone.
            let _ = shard.send(Run(Box::new(job.clone()))).await;
        }
    }

    /// Runs something on all shards at the same time, and waits for it.
    async fn on_all_shards_until_done<F: Future<Output = ()> + 'static>(
        &self,
        work: impl Fn(Rc<Shard>) -> F + Clone + Send + 'static,
    ) {
        let started = self.shared.shards().iter().map(|shard| {
            let (done, finished) = oneshot::channel();
            let work = work.clone();
            let job = Run(Box::new(move |shard: &Rc<Shard>| {
                let work = work(Rc::clone(shard));
                actix_rt::spawn(async move {
                    work.await;
                    // Nobody waits any more.
                    let _ = done.send(());
                });
            }));
            async move {
                // Fails only if the shard is gone.
                if shard.send(job).await.is_ok() {
                    let _ = finished.await;
                }
            }
        });
        futures_util::future::join_all(started).await;
    }

    /// Storage gives up before for ever.
    async fn write_confirmations(&self) {
        self.on_all_shards_until_done(|shard| async move { shard.write_confirmations().await })
            .await;
    }
}

impl Shard {
    /// Tells all sessions to leave, with a pause after each.
    async fn let_all_leave(self: Rc<Self>, pause: Duration) {
        for resource in self.all_resources() {
            // A session that has stopped needs no word.
            let _ = resource.session.send(Leave).await;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// An account was disabled or removed, or its password changed: its sessions end here and elsewhere, and
/// logins that have begun before are void.
///
/// # Errors
/// [`Refused::Untold`]: they go on there.
pub(crate) async fn account_changed(
    node: &Arc<NodeShared>,
    account: &BareJid,
    removed: bool,
) -> Result<(), Refused> {
    sessions_end(Arc::clone(node), account.clone()).await;
    let Some(cluster) = &node.cluster else {
        return Ok(());
    };
    let untold = cluster.account_changed(account, removed).await;
    if untold.is_empty() {
        return Ok(());
    }
    Err(Refused::Untold {
        account: account.clone(),
        nodes: untold.join(", "),
    })
}

/// Ends all sessions that an account has on this node, soon.
pub(crate) fn end_sessions(node: &Arc<NodeShared>, account: &BareJid) {
    actix_rt::spawn(sessions_end(Arc::clone(node), account.clone()));
}

async fn sessions_end(node: Arc<NodeShared>, account: BareJid) {
    // `None` only when the node stops.
    let _ = node
        .on_shard_of(account.as_str(), {
            let account = account.clone();
            move |shard| shard.end_sessions(&account, StreamCondition::NotAuthorized)
        })
        .await;
}
