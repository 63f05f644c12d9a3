//! A connection to Redis that comes back by itself.
//!
//! While there is none, operations fail at once instead of waiting: one timeout or I/O error is
//! enough to give the connection up for all who use it, and a task makes the next one. Before a new
//! connection is handed out, its scripts are loaded and its channels subscribed, so who sees it up
//! knows that no hint is missed from then on.
//!
//! To a Redis Cluster it consists of one connection to each master; one that breaks breaks them all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, PushKind,
    RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::address::Target;
use crate::connector::{Connection, Connector};
use crate::{Error, RedisAddress, metrics};

/// Shortest pause between two attempts to connect; doubles up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Pause before an attempt that was asked for, by a Redis that answers but cannot serve.
const GIVEN_UP_PAUSE: Duration = Duration::from_millis(20);

/// What is called with the payload of each message on a subscribed channel.
pub type OnMessage = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How a [`Link`] behaves.
#[derive(Clone)]
pub struct LinkOptions {
    /// What the connection is for; shown in the metrics and by `CLIENT LIST`.
    pub purpose: &'static str,
    /// How long an answer may take; `None`: for ever (for blocking reads).
    pub response_timeout: Option<Duration>,
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// Lua scripts that are used by their hashes.
    pub scripts: Vec<&'static str>,
    /// Channels to listen on, and who gets the messages.
    pub channels: Option<(Vec<String>, OnMessage)>,
}

impl LinkOptions {
    /// Answers within half a second, connections within one; no scripts, no channels.
    pub fn new(purpose: &'static str) -> Self {
        Self {
            purpose,
            response_timeout: Some(Duration::from_millis(500)),
            connect_timeout: Duration::from_secs(1),
            scripts: Vec::new(),
            channels: None,
        }
    }
}

/// Whether a [`Link`] has a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkState {
    /// Whether there is a connection.
    pub up: bool,
    /// How many connections there were; increases with each.
    pub generation: u64,
    /// How many different Redis processes these were to: when it increases, data may be lost.
    pub server: u64,
}

/// A connection to Redis that comes back by itself. Dropping it ends it.
pub struct Link {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    address: RedisAddress,
    options: LinkOptions,
    current: RwLock<Option<Live>>,
    /// Counts the attempts to connect.
    attempt: AtomicU64,
    broken: Notify,
    state: watch::Sender<LinkState>,
    last_error: Mutex<Option<String>>,
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    /// The attempt that made it.
    attempt: u64,
}

impl Link {
    /// Starts connecting, in a task on this thread's tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] if the address cannot be used at all.
    pub fn open(address: RedisAddress, options: LinkOptions) -> Result<Self, Error> {
        let connector = Connector::new(&address).map_err(|error| Error::Address {
            address: address.to_string(),
            reason: error.to_string(),
        })?;
        let shared = Arc::new(Shared {
            address,
            options,
            current: RwLock::new(None),
            attempt: AtomicU64::new(0),
            broken: Notify::new(),
            state: watch::Sender::default(),
            last_error: Mutex::new(None),
        });
        let task = tokio::spawn(shared.clone().keep_connected(connector)).abort_handle();
        Ok(Self { shared, task })
    }

    /// Waits for the first connection.
    ///
    /// # Errors
    /// [`Error::Connect`] with what the last attempt ended with, when `patience` has passed.
    pub async fn connected(&self, patience: Duration) -> Result<(), Error> {
        let mut state = self.state();
        let up = tokio::time::timeout(patience, state.wait_for(|state| state.up)).await;
        if up.is_ok_and(|up| up.is_ok()) {
            return Ok(());
        }
        let last = self
            .shared
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Err(Error::Connect {
            address: self.shared.address.to_string(),
            reason: last.unwrap_or_else(|| format!("no answer within {patience:?}")),
        })
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.shared
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// The state and its changes.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without waiting if there is no connection, or when the answer does not
    /// come; [`Error::Refused`] when the answer is an error.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let mut live = self.shared.live()?;
        let mut result = live.connection.command(command).await;
        if result.as_ref().is_err_and(is_no_script) {
            result = match self.load_scripts(&live).await {
                Ok(()) => live.connection.command(command).await,
                Err(error) => Err(error),
            };
        }
        self.shared.judge(result, &live)
    }

    /// Runs commands in one round trip, none of them marked as ignored. Those on keys of the same
    /// slot are run in their order; in a Redis Cluster the others are not.
    ///
    /// # Errors
    /// As [`Link::command`]; the first error that any command gave.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Error> {
        let mut live = self.shared.live()?;
        let mut result = live.connection.pipeline(pipeline).await;
        if result.as_ref().is_err_and(is_no_script) {
            result = match self.load_scripts(&live).await {
                Ok(()) => live.connection.pipeline(pipeline).await,
                Err(error) => Err(error),
            };
        }
        self.shared.judge(result, &live)
    }

    /// Runs two commands one after the other, wherever their keys are, and answers as the second.
    ///
    /// # Errors
    /// As [`Link::command`]. When the first command failed, the second has had no effect in a Redis
    /// Cluster; on a single server it may have, if the first one's error was an answer.
    pub async fn in_order<T: FromRedisValue>(&self, first: &Cmd, second: &Cmd) -> Result<T, Error> {
        let mut live = self.shared.live()?;
        let mut result = live.connection.in_order(first, second).await;
        if result.as_ref().is_err_and(is_no_script) {
            result = match self.load_scripts(&live).await {
                Ok(()) => live.connection.in_order(first, second).await,
                Err(error) => Err(error),
            };
        }
        self.shared.judge(result, &live)
    }

    /// Whether commands can be run as a transaction (`MULTI`): a pipeline that is atomic. In a Redis Cluster
    /// they cannot, as each command may be answered with where its slot is now.
    pub fn has_transactions(&self) -> bool {
        !matches!(self.shared.address.target, Target::Cluster { .. })
    }

    /// Gives the connection up, so that a new one is made. For callers that know better than the
    /// timeouts that it is dead.
    pub fn reconnect(&self) {
        if let Ok(live) = self.shared.live() {
            self.shared.give_up(live.attempt);
        }
    }

    /// The server has forgotten the scripts.
    async fn load_scripts(&self, live: &Live) -> RedisResult<()> {
        for mut server in live.connection.servers() {
            load_scripts(&mut server, &self.shared.options.scripts).await?;
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.set_current(None);
    }
}

impl Shared {
    fn live(&self) -> Result<Live, Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .clone()
            .ok_or(Error::Unavailable("there is no connection to redis"))
    }

    fn set_current(&self, live: Option<Live>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Decides what an outcome says about the connection.
    fn judge<T>(&self, result: RedisResult<T>, live: &Live) -> Result<T, Error> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match kind(&error) {
            // The master became a replica, or was never one: ask the Sentinels again.
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                self.give_up(live.attempt);
                Err(Error::Unavailable("redis is read-only"))
            }
            // The slots are not where they were, or nowhere: ask the cluster again.
            ErrorKind::Server(
                ServerErrorKind::ClusterDown | ServerErrorKind::Moved | ServerErrorKind::Ask,
            ) => {
                self.give_up(live.attempt);
                Err(Error::Unavailable("the redis cluster is not in order"))
            }
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain,
            ) => Err(Error::Unavailable("redis is moving or loading its data")),
            ErrorKind::Server(_)
            | ErrorKind::Extension
            | ErrorKind::Parse
            | ErrorKind::UnexpectedReturnType => Err(Error::Refused(error)),
            _ => {
                tracing::debug!(%error, purpose = self.options.purpose, "redis connection failed");
                self.give_up(live.attempt);
                Err(Error::Unavailable("redis did not answer"))
            }
        }
    }

    /// Drops the connection that this attempt made, if it is still the current one.
    fn give_up(&self, attempt: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|live| live.attempt == attempt) {
            *current = None;
            self.broken.notify_one();
        }
    }

    async fn keep_connected(self: Arc<Self>, mut connector: Connector) {
        let purpose = self.options.purpose;
        let connected = metrics::REDIS_CONNECTED.with_label_values(&[purpose]);
        let mut pause = SHORTEST_PAUSE;
        let mut run_id = None;
        let mut failing = false;
        loop {
            let attempt = self.attempt.fetch_add(1, Ordering::AcqRel) + 1;
            match self.connect(&mut connector, attempt).await {
                Ok((connection, found)) => {
                    tracing::info!(address = %self.address, purpose, "connected to redis");
                    let other_server = run_id.is_none() || run_id != found;
                    run_id = found;
                    failing = false;
                    pause = SHORTEST_PAUSE;
                    self.set_current(Some(Live {
                        connection,
                        attempt,
                    }));
                    connected.set(1);
                    self.state.send_modify(|state| {
                        state.up = true;
                        state.generation += 1;
                        state.server += u64::from(other_server);
                    });
                    self.broken.notified().await;
                    connected.set(0);
                    self.state.send_modify(|state| state.up = false);
                    tracing::warn!(address = %self.address, purpose, "lost the connection to redis");
                    tokio::time::sleep(GIVEN_UP_PAUSE).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(address = %self.address, purpose, %error, "cannot connect to redis");
                    }
                    *self
                        .last_error
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Makes a connection that is ready for use; also tells which Redis process answered.
    async fn connect(
        self: &Arc<Self>,
        connector: &mut Connector,
        attempt: u64,
    ) -> RedisResult<(Connection, Option<String>)> {
        let timeout = self.options.connect_timeout;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(self.options.response_timeout)
            .set_pipeline_buffer_size(1024)
            .set_push_sender(self.on_push(attempt));
        let ready = async {
            let connection = connector.connect(&config, timeout / 2).await?;
            let servers = connection.servers();
            let mut found = Vec::with_capacity(servers.len());
            for (at, mut server) in servers.into_iter().enumerate() {
                // In a cluster every master passes all messages on.
                found.push(set_up(&mut server, &self.options, at == 0).await?);
            }
            let found: Option<Vec<String>> = found.into_iter().collect();
            let found = found.map(|mut servers| {
                servers.sort();
                servers.join(" ")
            });
            Ok((connection, found))
        };
        let late = |_| Err((ErrorKind::Io, "no answer in time").into());
        tokio::time::timeout(timeout * 2, ready)
            .await
            .unwrap_or_else(late)
    }

    /// What to do with messages that are no answers.
    fn on_push(self: &Arc<Self>, attempt: u64) -> impl Fn(PushInfo) -> Result<(), ()> + use<> {
        let shared = Arc::downgrade(self);
        let listener = self
            .options
            .channels
            .as_ref()
            .map(|(_, listener)| listener.clone());
        move |push| {
            match push.kind {
                PushKind::Disconnection => {
                    if let Some(shared) = shared.upgrade() {
                        shared.give_up(attempt);
                    }
                }
                PushKind::Message => {
                    if let (Some(listener), Some(Value::BulkString(payload))) =
                        (&listener, push.data.get(1))
                    {
                        listener(payload);
                    }
                }
                _ => {}
            }
            Ok(())
        }
    }
}

/// Makes one server ready; returns which process it is.
async fn set_up(
    connection: &mut MultiplexedConnection,
    options: &LinkOptions,
    listens: bool,
) -> RedisResult<Option<String>> {
    let name = format!("rookery-{}", options.purpose);
    redis::cmd("CLIENT")
        .arg("SETNAME")
        .arg(name)
        .exec_async(connection)
        .await?;
    load_scripts(connection, &options.scripts).await?;
    if let Some((channels, _)) = options.channels.as_ref().filter(|_| listens) {
        connection.subscribe(channels).await?;
    }
    // Where an access list forbids it, every connection counts as one to another server.
    let info: RedisResult<String> = redis::cmd("INFO")
        .arg("server")
        .query_async(connection)
        .await;
    match info {
        Ok(info) => {
            let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            Ok(id.map(|id| id.trim().to_owned()))
        }
        Err(error) if error.is_io_error() => Err(error),
        Err(_) => Ok(None),
    }
}

async fn load_scripts(
    connection: &mut MultiplexedConnection,
    scripts: &[&'static str],
) -> RedisResult<()> {
    if scripts.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for script in scripts {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(*script).ignore();
    }
    pipeline.exec_async(connection).await
}

/// What kind of error it is; of a transaction that was not run, the first reason for that.
fn kind(error: &RedisError) -> ErrorKind {
    let kind = error.kind();
    if kind != ErrorKind::Server(ServerErrorKind::ExecAbort) {
        return kind;
    }
    let reasons = error.clone().into_server_errors();
    let first = reasons
        .as_ref()
        .and_then(|reasons| reasons.first()?.1.kind());
    first.map_or(kind, ErrorKind::Server)
}

fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
