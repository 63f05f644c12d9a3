//! Addresses of Redis: which forms there are.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion};

use crate::Error;
use crate::dialer::{Dialer, Host, TlsFiles};

const FORMS: &str = "allowed are redis://[user:password@]host[:port][/db], \
    redis+unix:///path[?db=…&user=…&pass=…], \
    redis-sentinel://[user:password@]host[:port][,host[:port]…]/master[/db]\
    [?sentinel_user=…&sentinel_password=…], \
    redis-cluster://[user:password@]host[:port][,host[:port]…], and with TLS rediss://…, \
    rediss-sentinel://… and rediss-cluster://… with [?ca=file&cert=file&key=file]";

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The address of one Redis, of the Sentinels that know which one is the master, or of a Redis
/// Cluster.
///
/// | form | meaning |
/// |---|---|
/// | `redis://[user:password@]host[:port][/db]` | TCP |
/// | `redis+unix:///path[?db=…&user=…&pass=…]` | a Unix socket |
/// | `redis-sentinel://[user:password@]host[:port],…/master[/db]` | the master of that name, asked again on each connect; user and password are for Redis, those for the Sentinels are given as `?sentinel_user=…&sentinel_password=…` |
/// | `redis-cluster://[user:password@]host[:port],…` | a Redis Cluster; the hosts are those of its nodes that are asked first |
/// | `rediss://…`, `rediss-sentinel://…`, `rediss-cluster://…` | the same with TLS, also to the Sentinels |
///
/// With TLS the certificate of Redis is checked against the system's authorities, or those in the
/// PEM file that `?ca=…` names, or else the environment as `SSL_CERT_FILE`. `cert=…` and `key=…` name
/// this node's certificate and key, for a Redis that asks for one. The files are read on each connect.
///
/// User names, passwords and parameters are percent-encoded (RFC 3986 §2.1) where they have to be.
#[derive(Clone)]
pub struct RedisAddress {
    pub(crate) target: Target,
    shown: String,
}

/// What an address names.
#[derive(Clone)]
pub(crate) enum Target {
    /// A Unix socket.
    Socket(Box<ConnectionInfo>),
    /// One server.
    Server(Host, Dialer),
    /// The master that Sentinels know.
    Sentinel {
        sentinels: Vec<Host>,
        /// How to log in to the Sentinels.
        ask: Dialer,
        master: String,
        dialer: Dialer,
    },
    /// A Redis Cluster.
    Cluster { seeds: Vec<Host>, dialer: Dialer },
}

impl RedisAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Address`], with the forms that are allowed.
    pub fn parse(address: &str) -> Result<Self, Error> {
        let shown = without_password(address);
        match Parts::read(address).and_then(Parts::target) {
            Ok(target) => Ok(Self { target, shown }),
            Err(reason) => Err(Error::Address {
                address: shown,
                reason: format!("{reason}; {FORMS}"),
            }),
        }
    }
}

/// An address in pieces.
struct Parts<'a> {
    whole: &'a str,
    kind: Kind,
    tls: bool,
    /// With the `@`, or empty.
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    parameters: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Server,
    Sentinel,
    Cluster,
}

/// Why an address is none.
type Reason = Cow<'static, str>;

impl<'a> Parts<'a> {
    fn read(whole: &'a str) -> Result<Self, Reason> {
        let (scheme, rest) = whole.split_once("://").ok_or("it has no scheme")?;
        let (kind, tls) = match scheme {
            "redis+unix" | "unix" | "valkey+unix" => (Kind::Socket, false),
            "redis" | "valkey" => (Kind::Server, false),
            "rediss" | "valkeys" => (Kind::Server, true),
            "redis-sentinel" => (Kind::Sentinel, false),
            "rediss-sentinel" => (Kind::Sentinel, true),
            "redis-cluster" => (Kind::Cluster, false),
            "rediss-cluster" => (Kind::Cluster, true),
            _ => return Err("its scheme is not known".into()),
        };
        if rest.contains('#') {
            return Err("it has a fragment (a # in a password is written %23)".into());
        }
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (&rest[..=user.len()], hosts),
            None => ("", rest),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let query = redis::parse_redis_url(&format!("redis://host/?{query}"))
            .ok_or("its parameters cannot be read")?;
        let pairs = query.query_pairs();
        let parameters = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
        Ok(Self {
            whole,
            kind,
            tls,
            user,
            hosts,
            path,
            parameters: parameters.collect(),
        })
    }

    fn target(mut self) -> Result<Target, Reason> {
        if self.kind == Kind::Socket {
            let info = self
                .whole
                .into_connection_info()
                .map_err(|error| reason(&error))?;
            let redis = info.redis_settings().clone();
            let redis = redis.set_protocol(ProtocolVersion::RESP3);
            return Ok(Target::Socket(Box::new(info.set_redis_settings(redis))));
        }
        let tls = self.tls_files()?;
        let sentinel_user = self.take("sentinel_user");
        let sentinel_password = self.take("sentinel_password");
        if let Some((name, _)) = self.parameters.first() {
            return Err(format!("it has a parameter that is not known here, {name}").into());
        }
        if self.kind != Kind::Sentinel && (sentinel_user.is_some() || sentinel_password.is_some()) {
            return Err("only an address of Sentinels has a user and a password for them".into());
        }
        match self.kind {
            Kind::Socket | Kind::Server => {
                let [host] = self.hosts(REDIS_PORT)?.try_into().map_err(
                    |_| "it has several hosts (redis-sentinel:// and redis-cluster:// may)",
                )?;
                Ok(Target::Server(host, self.dialer(self.path, tls)?))
            }
            Kind::Sentinel => {
                let (master, db) = self.path.split_once('/').unwrap_or((self.path, ""));
                if master.is_empty() {
                    return Err("it names no master".into());
                }
                let ask = Dialer::new(tls.clone(), sentinel_user, sentinel_password);
                Ok(Target::Sentinel {
                    sentinels: self.hosts(SENTINEL_PORT)?,
                    ask,
                    master: master.to_owned(),
                    dialer: self.dialer(db, tls)?,
                })
            }
            Kind::Cluster if !self.path.is_empty() => {
                Err("a Redis Cluster has no numbered databases".into())
            }
            Kind::Cluster => Ok(Target::Cluster {
                seeds: self.hosts(REDIS_PORT)?,
                dialer: self.dialer("", tls)?,
            }),
        }
    }

    fn tls_files(&mut self) -> Result<Option<TlsFiles>, Reason> {
        let [ca, cert, key] = ["ca", "cert", "key"].map(|name| self.take(name).map(PathBuf::from));
        if !self.tls && (ca.is_some() || cert.is_some() || key.is_some()) {
            return Err("ca, cert and key are for addresses with TLS".into());
        }
        if cert.is_some() != key.is_some() {
            return Err("cert and key belong together".into());
        }
        let own = cert.zip(key);
        Ok(self.tls.then_some(TlsFiles { ca, own }))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self
            .parameters
            .iter()
            .position(|(found, _)| found == name)?;
        Some(self.parameters.swap_remove(at).1)
    }

    fn hosts(&self, port: u16) -> Result<Vec<Host>, Reason> {
        let host = |host: &str| {
            if host.is_empty() {
                return Err("it has no host, or an empty one".into());
            }
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let address = if has_port {
                format!("redis://{host}")
            } else {
                format!("redis://{host}:{port}")
            };
            match address
                .into_connection_info()
                .map_err(|error| reason(&error))?
                .addr()
            {
                ConnectionAddr::Tcp(name, port) => Ok(Host {
                    name: name.clone(),
                    port: *port,
                }),
                _ => Err("it has no host".into()),
            }
        };
        self.hosts.split(',').map(host).collect()
    }

    /// How to log in to Redis.
    fn dialer(&self, db: &str, tls: Option<TlsFiles>) -> Result<Dialer, Reason> {
        let info = format!("redis://{}host/{db}", self.user).into_connection_info();
        let redis = info
            .map_err(|error| reason(&error))?
            .redis_settings()
            .clone();
        Ok(Dialer::with(tls, redis))
    }
}

fn reason(error: &redis::RedisError) -> Reason {
    error.to_string().into()
}

/// The address with its password, if any, blotted out, and without parameters.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(u, rest)| (Some(u), rest));
    let user = user.map_or(String::new(), |user| {
        let name = user.split(':').next().unwrap_or_default();
        format!("{name}:***@")
    });
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
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

    fn target(address: &str) -> Target {
        RedisAddress::parse(address).unwrap().target
    }

    fn shown(hosts: &[Host]) -> Vec<String> {
        hosts.iter().map(Host::to_string).collect()
    }

    #[test]
    fn every_form_is_read() {
        for address in [
            "redis://localhost",
            "redis://ann:secret@10.0.0.1:7000/3",
            "rediss://[::1]:6379",
            "rediss://:secret@redis/2?ca=/etc/ca.pem&cert=/etc/cert.pem&key=/etc/key.pem",
            "redis+unix:///run/redis.sock?db=2&pass=secret",
            "redis-sentinel://one,two:26380/mymaster",
            "redis-sentinel://:s%40cret@one/mymaster/2?sentinel_password=secret",
            "rediss-sentinel://one,two:26380/mymaster?ca=/etc/ca.pem",
            "redis-cluster://one,two:7000,[::1]:7001",
            "rediss-cluster://ann:s%2Fcret@one?ca=%2Fetc%2Fca.pem",
        ] {
            let read = RedisAddress::parse(address).unwrap();
            assert!(!read.to_string().contains("cret"), "{read}");
        }
    }

    #[test]
    fn a_server_keeps_its_parts() {
        let Target::Server(host, dialer) = target("rediss://ann:s%40c@[::1]/3?ca=/a%20b") else {
            panic!("not a server")
        };
        assert_eq!(host.to_string(), "[::1]:6379");
        let redis = dialer.redis();
        assert_eq!(
            (redis.username(), redis.password(), redis.db()),
            (Some("ann"), Some("s@c"), 3)
        );
        let files = TlsFiles {
            ca: Some("/a b".into()),
            own: None,
        };
        assert_eq!(dialer.tls(), Some(&files));
        let Target::Server(_, dialer) = target("redis://one") else {
            panic!("not a server")
        };
        assert_eq!(dialer.tls(), None);
    }

    #[test]
    fn a_sentinel_address_keeps_its_parts() {
        let Target::Sentinel {
            sentinels,
            ask,
            master,
            dialer,
        } = target(
            "rediss-sentinel://ann:s%40cret@one,two:26380/mymaster/2?sentinel_user=bob&\
             sentinel_password=x%26y&cert=/c&key=/k",
        )
        else {
            panic!("not a Sentinel address")
        };
        assert_eq!(shown(&sentinels), ["one:26379", "two:26380"]);
        assert_eq!(master, "mymaster");
        let redis = dialer.redis();
        assert_eq!(
            (redis.username(), redis.password(), redis.db()),
            (Some("ann"), Some("s@cret"), 2)
        );
        let redis = ask.redis();
        assert_eq!(
            (redis.username(), redis.password(), redis.db()),
            (Some("bob"), Some("x&y"), 0)
        );
        let files = TlsFiles {
            ca: None,
            own: Some(("/c".into(), "/k".into())),
        };
        assert_eq!(dialer.tls(), Some(&files));
        assert_eq!(ask.tls(), Some(&files));
    }

    #[test]
    fn a_cluster_address_keeps_its_parts() {
        let Target::Cluster { seeds, dialer } = target("redis-cluster://:x@one,[::2],two:7000")
        else {
            panic!("not a cluster address")
        };
        assert_eq!(shown(&seeds), ["one:6379", "[::2]:6379", "two:7000"]);
        assert_eq!(dialer.redis().password(), Some("x"));
        assert_eq!(dialer.tls(), None);
    }

    #[test]
    fn others_are_refused_with_what_is_wrong_and_the_forms_that_are_allowed() {
        for (address, wrong) in [
            ("", "no scheme"),
            ("localhost:6379", "no scheme"),
            ("http://x", "not known"),
            ("redis://", "no host"),
            ("redis://a,b", "several hosts"),
            ("redis://a/x", "database"),
            ("redis://a?x=1", "not known here, x"),
            ("redis://a?ca=/x", "with TLS"),
            (
                "redis://a?sentinel_password=x",
                "only an address of Sentinels",
            ),
            ("rediss://a#insecure", "fragment"),
            ("rediss://a?cert=/x", "belong together"),
            ("redis-sentinel://a", "no master"),
            ("redis-sentinel://a,,b/m", "host"),
            ("redis-cluster://a,b/1", "no numbered databases"),
        ] {
            let error = RedisAddress::parse(address).unwrap_err().to_string();
            assert!(error.contains("allowed are redis://"), "{error}");
            assert!(error.contains(wrong), "{address}: {error}");
        }
    }
}
