//! One connection to one Redis server or Sentinel, with or without TLS.

use std::fmt;
use std::path::{Path, PathBuf};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind,
    IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
};

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Host {
    /// A name or an IP address.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// How to log in to the servers of one address, which all take the same.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Option<TlsFiles>,
    redis: RedisConnectionInfo,
}

/// PEM files, for TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsFiles {
    /// The authorities that are trusted; the system's if there is no file.
    pub(crate) ca: Option<PathBuf>,
    /// This client's certificate and key, if the server wants to see one.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
}

impl Dialer {
    pub(crate) fn new(
        tls: Option<TlsFiles>,
        user: Option<String>,
        password: Option<String>,
    ) -> Self {
        let mut redis = RedisConnectionInfo::default();
        if let Some(user) = user {
            redis = redis.set_username(user);
        }
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        Self::with(tls, redis)
    }

    pub(crate) fn with(tls: Option<TlsFiles>, redis: RedisConnectionInfo) -> Self {
        let redis = redis.set_protocol(ProtocolVersion::RESP3);
        Self { tls, redis }
    }

    /// Reads the files.
    pub(crate) fn check(&self) -> RedisResult<()> {
        match &self.tls {
            Some(files) => files.read().map(drop),
            None => Ok(()),
        }
    }

    pub(crate) async fn dial(
        &self,
        host: &Host,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        self.client(host)?
            .get_multiplexed_async_connection_with_config(config)
            .await
    }

    fn client(&self, host: &Host) -> RedisResult<Client> {
        let Host { name, port } = host.clone();
        let addr = match self.tls {
            None => ConnectionAddr::Tcp(name, port),
            Some(_) => ConnectionAddr::TcpTls {
                host: name,
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = addr
            .into_connection_info()?
            .set_redis_settings(self.redis.clone())
            // A batch must not wait for the acknowledgement of the one before it.
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match &self.tls {
            None => Client::open(info),
            Some(files) => Client::build_with_tls(info, files.read()?),
        }
    }

    #[cfg(test)]
    pub(crate) fn redis(&self) -> &RedisConnectionInfo {
        &self.redis
    }

    #[cfg(test)]
    pub(crate) fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }
}

impl TlsFiles {
    fn read(&self) -> RedisResult<TlsCertificates> {
        let client_tls = match &self.own {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: read(cert)?,
                client_key: read(key)?,
            }),
        };
        let root_cert = match &self.ca {
            None => None,
            Some(ca) => Some(read(ca)?),
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert,
        })
    }
}

fn read(path: &Path) -> RedisResult<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let detail = format!("{}: {error}", path.display());
        RedisError::from((ErrorKind::InvalidClientConfig, "cannot read", detail))
    })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}
