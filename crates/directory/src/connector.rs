//! How a connection to an address comes about: directly, through Sentinels, or to all masters of a
//! Redis Cluster.

use std::future::Future;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisResult, Value, from_redis_value,
};

use crate::RedisAddress;
use crate::address::Target;
use crate::dialer::{Dialer, Host};
use crate::slots::{SlotConnection, same_slot};

/// Makes connections to one address. Remembers which host answered.
pub(crate) struct Connector {
    target: Target,
    /// Which Sentinel, or seed of a cluster, is asked first.
    first: usize,
}

/// A connection to what an address names.
#[derive(Clone)]
pub(crate) enum Connection {
    /// One server.
    Server(MultiplexedConnection),
    /// All masters of a Redis Cluster.
    Cluster(SlotConnection),
}

impl Connector {
    /// # Errors
    /// If the files that the address names cannot be read.
    pub(crate) fn new(address: &RedisAddress) -> RedisResult<Self> {
        // The client asks for the process's default. If there is one already, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let target = address.target.clone();
        match &target {
            Target::Socket(_) => {}
            Target::Server(_, dialer)
            | Target::Sentinel { dialer, .. }
            | Target::Cluster { dialer, .. } => dialer.check()?,
        }
        Ok(Self { target, first: 0 })
    }

    /// `patience`: how long one of several hosts may take before the next one is asked.
    pub(crate) async fn connect(
        &mut self,
        config: &AsyncConnectionConfig,
        patience: Duration,
    ) -> RedisResult<Connection> {
        let first = &mut self.first;
        let server = match &self.target {
            Target::Socket(info) => {
                Client::open((**info).clone())?
                    .get_multiplexed_async_connection_with_config(config)
                    .await?
            }
            Target::Server(host, dialer) => dialer.dial(host, config).await?,
            Target::Sentinel {
                sentinels,
                ask,
                master,
                dialer,
            } => {
                let name = master.as_str();
                let ask = |host| master_of(ask, host, name, patience);
                let host = first_answer(sentinels, first, patience, ask).await?;
                master_at(dialer, &host, config).await?
            }
            Target::Cluster { seeds, dialer } => {
                let ask = |seed| SlotConnection::open(dialer.clone(), seed, config.clone());
                let cluster = first_answer(seeds, first, patience, ask).await?;
                return Ok(Connection::Cluster(cluster));
            }
        };
        Ok(Connection::Server(server))
    }
}

/// What the first host answers that answers at all. The one after it that did not is asked first
/// the next time, even if nobody waits for the answer any more.
async fn first_answer<'a, T, F>(
    hosts: &'a [Host],
    first: &mut usize,
    patience: Duration,
    ask: impl Fn(&'a Host) -> F,
) -> RedisResult<T>
where
    F: Future<Output = RedisResult<T>>,
{
    let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "there are no hosts"));
    for _ in hosts {
        let at = *first % hosts.len();
        *first = at + 1;
        let host = &hosts[at];
        match tokio::time::timeout(patience, ask(host)).await {
            Ok(Ok(answer)) => {
                *first = at;
                return Ok(answer);
            }
            Ok(Err(error)) => last = named(host, &error),
            Err(_) => last = named(host, &(ErrorKind::Io, "no answer in time").into()),
        }
    }
    Err(last)
}

/// The error, with the host that it came from.
fn named(host: &Host, error: &RedisError) -> RedisError {
    (error.kind(), "not connected", format!("{host}: {error}")).into()
}

/// Asks a Sentinel.
async fn master_of(
    dialer: &Dialer,
    sentinel: &Host,
    master: &str,
    patience: Duration,
) -> RedisResult<Host> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience));
    let mut connection = dialer.dial(sentinel, &config).await?;
    let found: Option<(String, u16)> = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(master)
        .query_async(&mut connection)
        .await?;
    let unknown = || {
        let kind = ErrorKind::MasterNameNotFoundBySentinel;
        RedisError::from((kind, "no master of that name", master.to_owned()))
    };
    let (name, port) = found.ok_or_else(unknown)?;
    Ok(Host { name, port })
}

/// Connects to a master. What a Sentinel says may be old.
async fn master_at(
    dialer: &Dialer,
    host: &Host,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let connected = dialer.dial(host, config).await;
    let mut connection = connected.map_err(|error| named(host, &error))?;
    // Unlike ROLE and INFO, this is allowed to everybody.
    let about: std::collections::HashMap<String, Value> = redis::cmd("HELLO")
        .arg(3)
        .query_async(&mut connection)
        .await?;
    let is_master = |role: &Value| matches!(role, Value::BulkString(role) if role == b"master");
    if about.get("role").is_some_and(is_master) {
        return Ok(connection);
    }
    let host = host.to_string();
    Err((ErrorKind::Io, "the master is none any more", host).into())
}

impl Connection {
    pub(crate) async fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(server) => command.query_async(server).await,
            Self::Cluster(cluster) => {
                let answers = cluster.run(&[command]).await?;
                let answer = answers.into_iter().next().unwrap_or(Value::Nil);
                Ok(from_redis_value(answer.extract_error()?)?)
            }
        }
    }

    /// Runs commands in one round trip. In a cluster only those on the same slot are run in order.
    pub(crate) async fn pipeline<T: FromRedisValue>(
        &mut self,
        pipeline: &Pipeline,
    ) -> RedisResult<T> {
        match self {
            Self::Server(server) => pipeline.query_async(server).await,
            Self::Cluster(cluster) => {
                let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
                let answers = Value::Array(cluster.run(&commands).await?);
                Ok(from_redis_value(answers.extract_error()?)?)
            }
        }
    }

    /// Runs two commands one after the other, in one round trip if that is possible. The second one
    /// answers; in a cluster it is not run if the first one fails.
    pub(crate) async fn in_order<T: FromRedisValue>(
        &mut self,
        first: &Cmd,
        second: &Cmd,
    ) -> RedisResult<T> {
        match self {
            Self::Server(server) => {
                let mut both = Pipeline::with_capacity(2);
                both.add_command(first.clone()).ignore();
                both.add_command(second.clone());
                let (answer,) = both.query_async(server).await?;
                Ok(answer)
            }
            Self::Cluster(cluster) if same_slot(first, second) => {
                let answers = Value::Array(cluster.run(&[first, second]).await?);
                let (_, answer): (Value, T) = from_redis_value(answers.extract_error()?)?;
                Ok(answer)
            }
            Self::Cluster(_) => {
                let _: Value = self.command(first).await?;
                self.command(second).await
            }
        }
    }

    /// The connections that it consists of.
    pub(crate) fn servers(&self) -> Vec<MultiplexedConnection> {
        match self {
            Self::Server(server) => vec![server.clone()],
            Self::Cluster(cluster) => cluster.masters(),
        }
    }
}
