//! Addresses of Redis: which forms there are, and how a connection comes about.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisResult,
};

use crate::Error;

const FORMS: &str = "allowed are redis://[user:password@]host[:port][/db], rediss://… (TLS), \
    redis+unix:///path[?db=…&pass=…] and \
    redis-sentinel://[user:password@]host[:port][,host[:port]…]/master[/db]";

/// The address of one Redis, or of the Sentinels that know which one is the master.
///
/// | form | meaning |
/// |---|---|
/// | `redis://[user:password@]host[:port][/db]` | TCP |
/// | `rediss://…` | TLS, checked against the system's certificate authorities, or those in the file that the environment names as `SSL_CERT_FILE` |
/// | `redis+unix:///path[?db=…&pass=…]` | a Unix socket |
/// | `redis-sentinel://[user:password@]host[:port],…/master[/db]` | the master of that name, asked again on each connect; user and password are for Redis, the Sentinels are asked without |
///
/// `redis-cluster://` is refused: keys carry the hash tags it needs, the connection is not made yet.
#[derive(Clone)]
pub struct RedisAddress {
    target: Target,
    shown: String,
}

#[derive(Clone)]
enum Target {
    Server(ConnectionInfo),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
        redis: RedisConnectionInfo,
    },
}

/// Makes connections to one address. Remembers which Sentinel answered.
pub(crate) enum Connector {
    Server(Box<Client>),
    Sentinel(Box<SentinelClient>),
}

impl RedisAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Address`], with the forms that are allowed.
    pub fn parse(address: &str) -> Result<Self, Error> {
        let shown = without_password(address);
        let bad = |reason: String| Error::Address {
            address: shown.clone(),
            reason,
        };
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| bad(FORMS.to_owned()))?;
        let target = match scheme {
            "redis" | "rediss" | "redis+unix" | "unix" | "valkey" | "valkeys" | "valkey+unix" => {
                let info = address
                    .into_connection_info()
                    .map_err(|error| bad(format!("{error}; {FORMS}")))?;
                let settings = info
                    .redis_settings()
                    .clone()
                    .set_protocol(ProtocolVersion::RESP3);
                Target::Server(info.set_redis_settings(settings))
            }
            "redis-sentinel" => {
                sentinel(rest).ok_or_else(|| bad(format!("it is not complete; {FORMS}")))?
            }
            "redis-cluster" | "rediss-cluster" | "rediss-sentinel" => {
                return Err(bad(format!("{scheme} is not supported yet; {FORMS}")));
            }
            _ => return Err(bad(FORMS.to_owned())),
        };
        Ok(Self { target, shown })
    }

    pub(crate) fn connector(&self) -> RedisResult<Connector> {
        // The client asks for the process's default. If there is one already, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match &self.target {
            Target::Server(info) => Ok(Connector::Server(Box::new(Client::open(info.clone())?))),
            Target::Sentinel {
                sentinels,
                master,
                redis,
            } => {
                let node =
                    SentinelNodeConnectionInfo::default().set_redis_connection_info(redis.clone());
                let client = SentinelClient::build(
                    sentinels.clone(),
                    master.clone(),
                    Some(node),
                    SentinelServerType::Master,
                )?;
                Ok(Connector::Sentinel(Box::new(client)))
            }
        }
    }
}

impl Connector {
    pub(crate) async fn connect(
        &mut self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::Server(client) => {
                client
                    .get_multiplexed_async_connection_with_config(config)
                    .await
            }
            Self::Sentinel(client) => client.get_async_connection_with_config(config).await,
        }
    }
}

/// Reads what stands behind `redis-sentinel://`, piecewise as `redis://` addresses.
fn sentinel(rest: &str) -> Option<Target> {
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, path) = rest.split_once('/')?;
    let (master, db) = path.split_once('/').unwrap_or((path, "0"));
    if master.is_empty() {
        return None;
    }
    let read = |address: String| address.into_connection_info().ok();
    let with_port = |host: &str| {
        let named = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if named {
            host.to_owned()
        } else {
            format!("{host}:26379")
        }
    };
    let sentinels: Option<Vec<_>> = hosts
        .split(',')
        .map(|host| read(format!("redis://{}", with_port(host))))
        .collect();
    let redis = read(format!("redis://{user}host/{db}"))?;
    let redis = redis
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    Some(Target::Sentinel {
        sentinels: sentinels?,
        master: master.to_owned(),
        redis,
    })
}

/// The address with its password, if any, blotted out.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(u, rest)| (Some(u), rest));
    let user = user.map_or(String::new(), |user| {
        let name = user.split(':').next().unwrap_or_default();
        format!("{name}:***@")
    });
    let rest = rest.split('?').next().unwrap_or_default();
    if scheme.is_empty() {
        format!("{user}{rest}")
    } else {
        format!("{scheme}://{user}{rest}")
    }
}

/// Without the password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for address in [
            "redis://localhost",
            "redis://ann:secret@10.0.0.1:7000/3",
            "rediss://[::1]:6379",
            "redis+unix:///run/redis.sock?db=2",
            "redis-sentinel://one,two:26380/mymaster",
            "redis-sentinel://:s%40cret@one/mymaster/2",
        ] {
            let read = RedisAddress::parse(address).unwrap();
            read.connector().unwrap();
            assert!(!read.to_string().contains("cret"), "{read}");
        }
    }

    #[test]
    fn a_sentinel_address_keeps_its_parts() {
        let address = "redis-sentinel://ann:s%40cret@one,two:26380/mymaster/2";
        let Target::Sentinel {
            sentinels,
            master,
            redis,
        } = RedisAddress::parse(address).unwrap().target
        else {
            panic!("not a Sentinel address")
        };
        let shown: Vec<String> = sentinels
            .iter()
            .map(|info| info.addr().to_string())
            .collect();
        assert_eq!(shown, ["one:26379", "two:26380"]);
        assert_eq!(master, "mymaster");
        assert_eq!(redis.username(), Some("ann"));
        assert_eq!(redis.password(), Some("s@cret"));
        assert_eq!(redis.db(), 2);
    }

    #[test]
    fn others_are_refused_with_the_forms_that_are_allowed() {
        for address in [
            "",
            "localhost:6379",
            "http://x",
            "redis-cluster://a,b",
            "redis-sentinel://a",
        ] {
            let error = RedisAddress::parse(address).unwrap_err().to_string();
            assert!(error.contains("allowed are redis://"), "{error}");
        }
    }
}
