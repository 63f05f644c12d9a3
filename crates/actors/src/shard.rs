//! One arbiter's part of the node: the accounts whose address hashes to it.
//!
//! A [`Shard`] is plain, single-threaded data that the actors of its arbiter share (`Rc`). What one
//! shard has for another travels as [`Work`] in the mailbox of that arbiter's [`ShardActor`],
//! gathered into one message per turn, so that the order between any two addresses is kept
//! (RFC 6120 §10.1).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::WeakAddr;
use actix::prelude::*;
use hashbrown::HashMap;
use rookery_bus::{LogRef, MovedSession};
use rookery_features::bind;
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::stanza::{PresenceType, Stanza};
use rookery_proto::stream::{StreamCondition, StreamError};
use tokio::sync::oneshot;

use crate::account::{Account, Resource};
use crate::answers::Answers;
use crate::budget::{Load, Share};
use crate::cluster::Cache;
use crate::connection::{Accepted, Close, Connection, Parts};
use crate::log_queue::LogQueue;
use crate::log_tracker::Confirmations;
use crate::metrics::Outcome;
use crate::missed::Missed;
use crate::node::NodeShared;
use crate::outbox::{Outbox, Outgoing};
use crate::presence_list::{PresenceList, SessionLost};
use crate::receipts::Receipt;
use crate::router::Queued;
use crate::trace::{self, Stage};
use crate::unread::Unread;
use crate::user_session::{End, UserSession};
use crate::{metrics, reply};

/// Batches of work that one shard's mailbox holds. When it is full, the sender keeps what it has, and
/// the sessions that feed it are slowed down by what they have under way (`budget.rs`).
const MAILBOX_BATCHES: usize = 256;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

/// A stanza on its way to the shard that owns its recipient.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The stanza, with `from` and `to` stamped.
    pub stanza: Arc<Stanza>,
    /// How often it has been looked up again; see [`crate::router`].
    pub hops: u8,
    /// When this node accepted it.
    pub accepted: Instant,
    /// Where it stands in the recipient's log, once it does.
    pub entry: Option<LogRef>,
    /// What tells its sender that it is dealt with.
    pub receipt: Option<Arc<Receipt>>,
    /// Its part of what its sender has under way; `None` for what the server makes.
    pub share: Option<Share>,
    /// Whether a client sent it and nothing has become of it yet: its outcome is to be counted.
    pub counts: bool,
    /// Whether it has been in the queue for the log, and need not be again.
    pub passed_log: bool,
    /// Whether its sender's other clients are to get copies (XEP-0280).
    pub copies: bool,
}

impl Parcel {
    /// A stanza of the server's own.
    pub fn new(stanza: Stanza) -> Self {
        Self {
            counts: false,
            ..Self::counted(Arc::new(stanza), Instant::now())
        }
    }

    /// A stanza of a client.
    pub fn counted(stanza: Arc<Stanza>, accepted: Instant) -> Self {
        Self {
            stanza,
            hops: 0,
            accepted,
            entry: None,
            receipt: None,
            share: None,
            counts: true,
            passed_log: false,
            copies: false,
        }
    }

    /// The stanza, to be changed.
    pub(crate) fn stanza_mut(&mut self) -> &mut Stanza {
        Arc::make_mut(&mut self.stanza)
    }

    /// It ends like that, and its sender may know.
    pub(crate) fn end(self, outcome: Outcome) {
        let stage = match outcome {
            Outcome::Delivered => Some(Stage::Handled),
            Outcome::Dropped => Some(Stage::Dropped),
            // Noted where it is known why, or where.
            Outcome::Bounced | Outcome::Stored => None,
        };
        if let Some(stage) = stage {
            trace::stage(stage, &self.stanza, |step| step);
        }
        metrics::count(self.counts, self.stanza.kind, outcome);
    }

    /// What is written to one client.
    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing {
            stanza: Arc::clone(&self.stanza),
            to: None,
            accepted: self.accepted,
            entry: self.entry,
            counts: false,
        }
    }
}

/// Presence on its way to many accounts.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// The presence stanza; its `to` is replaced by each account's address.
    pub stanza: Arc<Stanza>,
    /// When this node accepted it.
    pub accepted: Instant,
    /// Whether it came from another node, so that it is for local resources alone.
    pub from_bus: bool,
    /// Its part of what its sender has under way; `None` for what the server makes.
    pub share: Option<Arc<Share>>,
}

impl Broadcast {
    /// Presence that a client sends; it takes the share along.
    pub(crate) fn of(parcel: &mut Parcel) -> Self {
        Self {
            stanza: Arc::clone(&parcel.stanza),
            accepted: parcel.accepted,
            from_bus: false,
            share: parcel.share.take().map(Arc::new),
        }
    }

    /// Presence that the server makes.
    pub(crate) fn new(stanza: Arc<Stanza>) -> Self {
        Self {
            stanza,
            accepted: Instant::now(),
            from_bus: false,
            share: None,
        }
    }
}

/// What one shard asks of another.
#[derive(Debug)]
pub enum Work {
    /// Deliver by the rules of RFC 6121 §8.5.
    Route(Parcel),
    /// Hand presence to all available resources of these accounts.
    Broadcast {
        /// The presence.
        presence: Broadcast,
        /// Accounts of the receiving shard.
        to: Vec<BareJid>,
    },
    /// A client of an account of the receiving shard has sent a message: copies for its other clients.
    Copy {
        /// The message, from the client's full JID.
        message: Arc<Stanza>,
        /// Where it stands in the sender's log, if it does.
        entry: Option<LogRef>,
        /// Its part of what its sender has under way.
        share: Option<Share>,
    },
    /// Send the current presence of these accounts to one resource (RFC 6121 §4.3.2).
    Probe {
        /// Who gets it.
        prober: FullJid,
        /// Accounts of the receiving shard that the prober is subscribed to.
        contacts: Vec<BareJid>,
    },
}

/// The state of one arbiter; see the module's description.
pub struct Shard {
    index: usize,
    node: Arc<NodeShared>,
    pub(crate) accounts: RefCell<HashMap<BareJid, Rc<Account>>>,
    /// Work for accounts for which something must be looked up first, in its order.
    pub(crate) waiting: RefCell<HashMap<BareJid, VecDeque<Queued>>>,
    pub(crate) cache: RefCell<Cache>,
    pub(crate) log_queue: LogQueue,
    pub(crate) confirmations: RefCell<Confirmations>,
    pub(crate) unread: RefCell<Unread>,
    /// Whether the last attempt to read an account's log failed.
    pub(crate) logs_unread: Cell<bool>,
    /// Presence that some may not have seen because the directory was away.
    pub(crate) missed: RefCell<Missed>,
    /// Whether there were too many of them.
    pub(crate) misses_more: Cell<bool>,
    /// Sessions that another node has taken and not yet registered. Dropping one lets go what waits.
    pub(crate) moved_out: RefCell<HashMap<FullJid, oneshot::Sender<()>>>,
    /// Accounts whose sessions ended because of what happened to the account, and when: logins that began
    /// before are void.
    void_logins: RefCell<HashMap<BareJid, tokio::time::Instant>>,
    outgoing: Vec<ForShard>,
    next_id: Cell<u64>,
    /// All connections of this arbiter, for the end of the node; those that are gone are taken out
    /// when the list has doubled.
    connections: RefCell<Vec<WeakAddr<Connection>>>,
}

/// What has gathered for another shard.
#[derive(Default)]
struct ForShard {
    work: RefCell<Vec<Work>>,
    sending: Cell<bool>,
}

/// What a connection asks for to become a session (RFC 6120 §7).
pub struct BindRequest {
    /// Who has authenticated.
    pub account: BareJid,
    /// The resource that the client asked for.
    pub resource: Option<String>,
    /// The stream.
    pub connection: Addr<Connection>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether the stream runs over a WebSocket.
    pub websocket: bool,
    /// When its login began.
    pub login_began: tokio::time::Instant,
}

/// A bound resource, as its connection needs it.
pub struct Bound {
    /// The full JID.
    pub jid: FullJid,
    /// Where the client's stanzas go.
    pub session: Addr<UserSession>,
    /// Where the stanzas for the client come from.
    pub outbox: Rc<Outbox>,
    /// What the client has sent and is not dealt with.
    pub load: Arc<Load>,
    /// Which of the session's connections has it now.
    pub generation: u32,
}

impl Work {
    /// Its part of what its sender has under way.
    pub(crate) fn share(&self) -> Option<&Share> {
        match self {
            Self::Route(Parcel { share, .. }) | Self::Copy { share, .. } => share.as_ref(),
            Self::Broadcast { presence, .. } => presence.share.as_deref(),
            Self::Probe { .. } => None,
        }
    }
}

impl Shard {
    fn new(index: usize, node: Arc<NodeShared>, shards: usize) -> Self {
        let cached = node.settings.sessions.directory_cache / shards.max(1);
        Self {
            index,
            node,
            accounts: RefCell::default(),
            waiting: RefCell::default(),
            cache: RefCell::new(Cache::new(cached)),
            log_queue: LogQueue::default(),
            confirmations: RefCell::default(),
            unread: RefCell::default(),
            missed: RefCell::default(),
            misses_more: Cell::default(),
            logs_unread: Cell::default(),
            moved_out: RefCell::default(),
            void_logins: RefCell::default(),
            outgoing: (0..shards).map(|_| ForShard::default()).collect(),
            next_id: Cell::new(0),
            connections: RefCell::default(),
        }
    }

    /// The shard of the arbiter that calls.
    ///
    /// # Panics
    /// On a thread that is no arbiter of a [`Node`](crate::Node): a mistake of the program.
    pub fn current() -> Rc<Self> {
        CURRENT
            .with_borrow(Clone::clone)
            .expect("actors run only on arbiters that Node::start made, each of which has a shard")
    }

    /// This shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What the whole process shares.
    pub fn node(&self) -> &Arc<NodeShared> {
        &self.node
    }

    /// The number of the shard that owns an account.
    pub fn index_of(&self, account: &BareJid) -> usize {
        self.node.shard_of(account.as_str())
    }

    /// Moves a connection to the arbiter that owns its account.
    pub fn hand_over(&self, to: usize, parts: Box<Parts>) {
        // Dropped when that mailbox is full: the client sees its connection end and tries again.
        if self.node.shard(to).try_send(Adopt(parts)).is_err() {
            metrics::MAILBOX_OVERFLOWS
                .with_label_values(&["shard"])
                .inc();
        }
    }

    /// An `id` for a stanza that the server sends by itself; unique on this node.
    pub fn stanza_id(&self) -> String {
        let id = self.next_id.get() + 1;
        self.next_id.set(id);
        format!("r{}-{id}", self.index)
    }

    /// Makes a session of a connection (RFC 6120 §7).
    ///
    /// A resource that is bound already, here or on another node, is ended with `<conflict/>`: the
    /// client that comes now is more likely to be alive (RFC 6120 §7.7.2.2).
    ///
    /// # Errors
    /// `not-authorized` if the account was disabled or removed, or its password changed, since the client
    /// logged in; `resource-constraint` if the account has as many resources as it may have, or if the directory
    /// cannot be reached.
    pub async fn bind(self: Rc<Self>, request: BindRequest) -> Result<Bound, StanzaError> {
        let mut random = [0; bind::RANDOM_BYTES];
        self.node.random(&mut random);
        if self.is_login_void(&request.account, request.login_began) {
            return Err(Condition::NotAuthorized.into());
        }
        let jid = bind::full_jid(&request.account, request.resource.as_deref(), random);
        let mut sequence = 0;
        let mut displaced = None;
        if let Some(cluster) = &self.node.cluster {
            let registered = cluster.directory.register(&jid).await.map_err(|e| {
                tracing::warn!(jid = %jid, error = %e, "cannot register a session");
                reply::directory_error(&e)
            })?;
            sequence = registered.sequence;
            if let Some(old) = registered.displaced {
                cluster.evict(&old);
                self.node.wait_for_confirmations(&old).await;
                displaced = old.available.then_some(old.jid);
            }
            self.cache.borrow_mut().forget(request.account.as_str());
        }
        loop {
            let account = self.account(&request.account);
            if account.resource(jid.resource()).is_some() {
                self.end_local(&request.account, &jid).await;
                continue;
            }
            let refusal = if self.is_login_void(&request.account, request.login_began) {
                Some(Condition::NotAuthorized)
            } else if account.resources.borrow().len()
                >= self.node.settings.sessions.resources_per_user
            {
                Some(Condition::ResourceConstraint)
            } else {
                None
            };
            if let Some(condition) = refusal {
                self.tidy(&request.account);
                if let Some(cluster) = &self.node.cluster {
                    cluster.unregister(&jid, sequence);
                }
                return Err(condition.into());
            }
            let bound = self.start_session(&account, &jid, &request, sequence);
            if let Some(old) = displaced {
                self.tell_of_displaced(&account, old).await;
            }
            return Ok(bound);
        }
    }

    /// Something happened to an account that ends its sessions; those who are logging in do not get one.
    pub(crate) fn void_logins(&self, account: &BareJid) {
        let now = tokio::time::Instant::now();
        let mut void = self.void_logins.borrow_mut();
        if void.len() == void.capacity() {
            // Streams without a session end by then.
            let longest = self.node.settings.c2s.negotiation_timeout;
            void.retain(|_, at| now.duration_since(*at) <= longest);
        }
        void.insert(account.clone(), now);
    }

    /// Whether a login began before something happened to its account.
    pub(crate) fn is_login_void(&self, account: &BareJid, began: tokio::time::Instant) -> bool {
        let void = self.void_logins.borrow();
        void.get(account).is_some_and(|at| began <= *at)
    }

    /// Ends the session that has a full JID on this node, if there is one.
    pub(crate) async fn end_local(&self, account: &BareJid, jid: &FullJid) {
        let entry = self.accounts.borrow().get(account).cloned();
        let Some(old) = entry.and_then(|account| account.resource(jid.resource())) else {
            return;
        };
        let end = End {
            error: Some(StreamError::from(StreamCondition::Conflict)),
        };
        // A session that cannot answer in time has stopped or hangs; it is unbound here.
        let done = tokio::time::timeout(
            self.node.settings.sessions.actor_timeout,
            old.session.send(end),
        );
        if !matches!(done.await, Ok(Ok(()))) {
            self.unbind(&old);
        }
    }

    /// Contacts learn from here that the session which had the resource before is gone, so that they
    /// hear it before the new one's presence. The node of the old one keeps silent.
    pub(crate) async fn tell_of_displaced(self: &Rc<Self>, account: &Rc<Account>, old: FullJid) {
        let stanza = Stanza::presence(PresenceType::Unavailable).with_from(Jid::from(old));
        let gone = SessionLost {
            stanza: Arc::new(stanza),
        };
        let told = self.presence_list(account).send(gone);
        let limit = self.node.settings.sessions.actor_timeout;
        if !matches!(tokio::time::timeout(limit, told).await, Ok(Ok(()))) {
            tracing::error!("the contacts of a displaced session were not told");
        }
    }

    fn start_session(
        self: &Rc<Self>,
        account: &Rc<Account>,
        jid: &FullJid,
        request: &BindRequest,
        sequence: u64,
    ) -> Bound {
        let connection = Some(request.connection.clone());
        let mut made = None;
        let session = UserSession::create(|ctx| {
            let resource = self.add_resource(account, jid, ctx.address(), sequence);
            made = Some(Rc::clone(&resource));
            UserSession::new(self, account, resource, connection)
        });
        Self::bound(session, made)
    }

    /// Starts a session that was on another node; without a connection only to end it.
    pub(crate) fn start_moved_session(
        self: &Rc<Self>,
        account: &Rc<Account>,
        state: &MovedSession,
        connection: Option<Addr<Connection>>,
        sequence: u64,
    ) -> (Bound, Rc<Resource>) {
        let mut made = None;
        let session = UserSession::create(|ctx| {
            let resource = self.add_resource(account, &state.jid, ctx.address(), sequence);
            *resource.presence.borrow_mut() = state.presence.clone().map(Arc::new);
            resource.priority.set(state.priority);
            resource.wants_roster.set(state.wants_roster);
            resource
                .uses_roster_versions
                .set(state.uses_roster_versions);
            resource.wants_block_list.set(state.wants_block_list);
            resource.carbons.set(state.carbons);
            made = Some(Rc::clone(&resource));
            let session = UserSession::new(self, account, resource, connection);
            session.go_on_with(state);
            session
        });
        let resource = made.clone().expect("made by the closure that has just run");
        (Self::bound(session, made), resource)
    }

    fn bound(session: Addr<UserSession>, resource: Option<Rc<Resource>>) -> Bound {
        let resource = resource.expect("made by the closure that has just run");
        metrics::SESSIONS.inc();
        Bound {
            jid: resource.jid.clone(),
            session,
            outbox: Rc::clone(&resource.outbox),
            load: Arc::clone(&resource.load),
            generation: 0,
        }
    }

    fn add_resource(
        &self,
        account: &Rc<Account>,
        jid: &FullJid,
        session: Addr<UserSession>,
        sequence: u64,
    ) -> Rc<Resource> {
        let max_bytes = self.node.settings.sessions.outbox_bytes;
        let resource = Rc::new(Resource {
            jid: jid.clone(),
            outbox: Rc::new(Outbox::new(max_bytes, Rc::clone(&account.log), jid.clone())),
            load: Load::new(&self.node.budget),
            session,
            presence: RefCell::default(),
            priority: Cell::new(0),
            takes_messages: Cell::new(false),
            reads_log: Cell::new(false),
            read_up_to: Cell::new(0),
            carbons: Cell::new(false),
            answerable: RefCell::default(),
            answers: Answers::default(),
            resume_id: RefCell::default(),
            wants_roster: Cell::new(false),
            uses_roster_versions: Cell::new(false),
            wants_block_list: Cell::new(false),
            sequence: Cell::new(sequence),
        });
        account.resources.borrow_mut().push(Rc::clone(&resource));
        resource
    }

    /// Takes a resource out of the tables. Harmless if it is not there any more.
    pub(crate) fn unbind(&self, resource: &Rc<Resource>) {
        let bare = resource.jid.bare_str();
        if let Some(account) = self.accounts.borrow().get(bare) {
            account
                .resources
                .borrow_mut()
                .retain(|r| !Rc::ptr_eq(r, resource));
        }
        self.tidy_str(bare);
    }

    /// The account's entry, made if it is not there. Whoever does not bind a resource to it calls
    /// [`tidy`](Self::tidy) when done.
    pub(crate) fn account(&self, jid: &BareJid) -> Rc<Account> {
        let mut accounts = self.accounts.borrow_mut();
        if let Some(account) = accounts.get(jid) {
            return Rc::clone(account);
        }
        let account = Rc::new(Account::new(jid.clone()));
        accounts.insert(jid.clone(), Rc::clone(&account));
        account
    }

    /// The account's presence list, started if it does not run.
    pub(crate) fn presence_list(self: &Rc<Self>, account: &Rc<Account>) -> Addr<PresenceList> {
        let mut list = account.presence_list.borrow_mut();
        match list.as_ref() {
            Some(addr) if addr.connected() => addr.clone(),
            _ => list
                .insert(PresenceList::new(self, account).start())
                .clone(),
        }
    }

    /// Forgets an account without resources and without work; its presence list then stops.
    pub(crate) fn tidy(&self, account: &BareJid) {
        self.tidy_str(account.as_str());
    }

    fn tidy_str(&self, account: &str) {
        if self.waiting.borrow().contains_key(account) {
            return;
        }
        let mut accounts = self.accounts.borrow_mut();
        if accounts
            .get(account)
            .is_some_and(|a| a.resources.borrow().is_empty())
        {
            accounts.remove(account);
        }
    }

    /// Queues work for the shard `to`; [`flush`](Self::flush) sends it.
    pub(crate) fn pass(&self, to: usize, work: Work) {
        self.outgoing[to].work.borrow_mut().push(work);
    }

    /// Sends what has gathered for other shards. Called at the end of every turn that routed.
    pub fn flush(self: &Rc<Self>) {
        for (to, outgoing) in self.outgoing.iter().enumerate() {
            if outgoing.work.borrow().is_empty() || outgoing.sending.get() {
                continue;
            }
            let batch = outgoing.work.take();
            match self.node.shard(to).try_send(Batch(batch)) {
                Ok(()) => {}
                Err(SendError::Full(batch)) => self.send_when_there_is_room(to, batch),
                Err(SendError::Closed(_)) => tracing::error!(shard = to, "a shard has stopped"),
            }
        }
    }

    /// The mailbox of shard `to` is full: this batch waits in its queue, and nothing overtakes it.
    fn send_when_there_is_room(self: &Rc<Self>, to: usize, batch: Batch) {
        metrics::MAILBOX_OVERFLOWS
            .with_label_values(&["shard"])
            .inc();
        self.outgoing[to].sending.set(true);
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            if shard.node.shard(to).send(batch).await.is_err() {
                tracing::error!(shard = to, "a shard has stopped");
            }
            shard.outgoing[to].sending.set(false);
            shard.flush();
        });
    }

    /// A connection runs on this arbiter from now on.
    pub(crate) fn remember(&self, connection: WeakAddr<Connection>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.upgrade().is_some());
            let live = connections.len();
            connections.reserve(live.max(16));
        }
        connections.push(connection);
    }

    /// Ends the streams of all connections; those with a session are ended through it before.
    pub(crate) fn end_connections(&self, condition: StreamCondition) {
        for connection in self
            .connections
            .borrow()
            .iter()
            .filter_map(WeakAddr::upgrade)
        {
            // Full: it has been told already.
            let _ = connection.try_send(Close(Some(StreamError::from(condition))));
        }
    }

    /// All resources of this shard.
    pub(crate) fn all_resources(&self) -> Vec<Rc<Resource>> {
        self.accounts
            .borrow()
            .values()
            .flat_map(|a| a.all())
            .collect()
    }
}

/// The mailbox of a shard.
pub struct ShardActor {
    shard: Rc<Shard>,
}

impl ShardActor {
    /// Makes the arbiter that calls a shard of `node`.
    pub(crate) fn start_here(index: usize, node: Arc<NodeShared>, shards: usize) -> Addr<Self> {
        let shard = Rc::new(Shard::new(index, node, shards));
        CURRENT.set(Some(Rc::clone(&shard)));
        Self { shard }.start()
    }
}

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_BATCHES);
    }
}

/// A new transport stream.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum Accept {
    /// It may negotiate.
    Welcome(Accepted),
    /// Too many others wait for that.
    TooMany(Accepted),
}

impl Handler<Accept> for ShardActor {
    type Result = ();

    fn handle(&mut self, accept: Accept, _: &mut Self::Context) {
        match accept {
            Accept::Welcome(accepted) => Connection::accept(accepted),
            Accept::TooMany(accepted) => Connection::turn_away(&self.shard, &accepted),
        }
    }
}

/// A connection that authenticated on another arbiter.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt(pub Box<Parts>);

impl Handler<Adopt> for ShardActor {
    type Result = ();

    fn handle(&mut self, Adopt(parts): Adopt, _: &mut Self::Context) {
        Connection::adopt(parts);
    }
}

/// Work from another shard, in its order.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Batch(pub(crate) Vec<Work>);

impl Handler<Batch> for ShardActor {
    type Result = ();

    fn handle(&mut self, Batch(batch): Batch, _: &mut Self::Context) {
        for work in batch {
            self.shard.accept(work);
        }
        self.shard.flush();
    }
}

/// Something to be done on the shard's arbiter by code that runs elsewhere.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Run(pub(crate) ShardJob);

/// What [`Run`] runs.
pub(crate) type ShardJob = Box<dyn FnOnce(&Rc<Shard>) + Send>;

impl Handler<Run> for ShardActor {
    type Result = ();

    fn handle(&mut self, Run(job): Run, _: &mut Self::Context) {
        job(&self.shard);
        self.shard.flush();
    }
}
