//! The one place that knows how settings become a database, a cluster and a node.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rookery_actors::administration::Refused;
use rookery_actors::connection::Accepted;
use rookery_actors::inspect::{SessionInfo, SessionsOf};
use rookery_actors::settings::{self, Settings};
use rookery_actors::transport::exporter::ExporterLog;
use rookery_actors::transport::{BoxIo, WebSocketStream};
use rookery_actors::{Node, NodeShared};
use rookery_bus::{Bus, RedisBus, RedisBusConfig, frame};
use rookery_directory::{Directory, NodeInfo, RedisAddress, RedisConfig, RedisDirectory};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, Jid};
use rookery_storage::Storage;

use crate::config::{Config, ProxyProtocol};

/// Where sessions are and how frames travel, in a cluster.
type Cluster = (Arc<dyn Directory>, Arc<dyn Bus>);

/// The running node, for whoever brings it connections.
#[derive(Clone)]
pub(crate) struct NodeHandle(Arc<Node>);

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeHandle")
    }
}

impl NodeHandle {
    /// Whether a client from this address has a chance to be accepted now.
    pub(crate) fn admits(&self, peer: SocketAddr) -> bool {
        self.0.admits(peer)
    }

    /// Hands over a TCP connection. The node closes it if it has no room.
    pub(crate) fn accept_tcp(&self, socket: TcpStream, peer: SocketAddr, direct_tls: bool) {
        self.0.accept(Accepted::Tcp {
            socket,
            peer,
            direct_tls,
        });
    }

    /// Hands over a WebSocket. The node closes it if it has no room.
    pub(crate) fn accept_websocket(
        &self,
        stream: WebSocketStream<BoxIo>,
        peer: SocketAddr,
        secure: bool,
    ) {
        self.0.accept(Accepted::WebSocket {
            stream: Box::new(stream),
            peer,
            secure,
        });
    }

    /// An account changed in the database without the node's doing.
    ///
    /// # Errors
    /// If not all nodes could be told.
    pub(crate) async fn account_changed(
        &self,
        account: &BareJid,
        removed: bool,
    ) -> Result<(), Refused> {
        self.0.account_changed(account, removed).await
    }

    /// What the node's threads share.
    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        self.0.shared()
    }

    /// Whether the node has cut itself off because it cannot reach the directory.
    pub(crate) fn is_fenced(&self) -> bool {
        self.0.is_fenced()
    }

    /// The sessions of this node.
    pub(crate) async fn sessions(&self) -> Vec<SessionInfo> {
        let all = SessionsOf {
            of: None,
            after: None,
            limit: usize::MAX,
        };
        self.0.shared().sessions(all).await.sessions
    }

    /// How many sessions this node has.
    pub(crate) fn session_count(&self) -> usize {
        self.0.shared().session_count()
    }

    /// Ends a session, or all that an account has here. Returns how many there were.
    pub(crate) async fn kick(&self, who: &Jid) -> usize {
        self.0.shared().kick(who).await
    }

    /// In a cluster, this node's incarnation and the nodes with a lease, as it saw them last.
    pub(crate) fn nodes(&self) -> Option<(Epoch, Vec<NodeInfo>)> {
        let directory = &self.0.shared().cluster.as_ref()?.directory;
        Some((directory.this_node().epoch, directory.nodes()))
    }

    /// Takes no new streams and sends the clients elsewhere. Returns how many sessions are left when
    /// none is, or after `timeout`.
    pub(crate) async fn drain(&self, timeout: Duration) -> usize {
        self.0.drain(timeout).await
    }

    /// Ends all streams with `<system-shutdown/>` and waits until they are gone, `timeout` at most.
    pub(crate) async fn shutdown(&self, timeout: Duration) {
        self.0.shutdown(timeout).await;
    }
}

/// Opens the database that the configuration names.
///
/// # Errors
/// If it cannot be used; the text says what to do.
pub(crate) async fn open_storage(config: &Config) -> anyhow::Result<Arc<dyn Storage>> {
    rookery_storage::metrics::init();
    let limits = &config.limits;
    let options = rookery_storage::Options {
        max_roster_items: limits.roster_items.get(),
        max_blocked: limits.blocked_addresses.get(),
        ..rookery_storage::Options::default()
    };
    let url = config
        .storage_url_with_password()
        .context("storage.password_file")?;
    rookery_storage::open(&url, options)
        .await
        .context("storage.url")
}

/// Starts the node.
///
/// # Errors
/// If the cluster cannot be joined or a thread cannot be started.
pub(crate) async fn start(
    config: &Config,
    storage: Arc<dyn Storage>,
    tls: Arc<rustls::ServerConfig>,
) -> anyhow::Result<NodeHandle> {
    let cluster = join_cluster(config).await?;
    let node = Node::start(settings(config)?, storage, cluster, tls).await?;
    Ok(NodeHandle(Arc::new(node)))
}

async fn join_cluster(config: &Config) -> anyhow::Result<Option<Cluster>> {
    let Some(url) = &config.cluster.redis else {
        return Ok(None);
    };
    rookery_directory::metrics::init();
    rookery_bus::metrics::init();
    let address = RedisAddress::parse(url.as_str()).context("cluster.redis")?;
    let directory = RedisDirectory::start(RedisConfig {
        lease: config.cluster.lease,
        frames: frame::VERSION,
        ..RedisConfig::new(address.clone(), &config.cluster.node)
    })
    .await
    .context("cluster.redis")?;
    let directory = Arc::new(directory);
    let epoch = directory.this_node().epoch;
    let known = Arc::clone(&directory);
    let spoken = Arc::new(move |epoch| {
        if known.nodes().iter().any(|node| node.epoch == epoch) {
            known.frames(epoch)
        } else {
            frame::ASSUMED_VERSION
        }
    });
    let bus = RedisBus::start(epoch, RedisBusConfig::new(address, spoken))
        .await
        .context("cluster.redis")?;
    tracing::info!(node = config.cluster.node, %epoch, "joined the cluster");
    Ok(Some((directory, Arc::new(bus))))
}

/// What takes the exporter secrets of TLS handshakes.
pub(crate) fn key_log() -> Arc<dyn rustls::KeyLog> {
    Arc::new(ExporterLog)
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let Config { c2s, limits, .. } = config;
    Ok(Settings {
        domains: config
            .server
            .domains
            .iter()
            .map(|domain| domain.as_str().into())
            .collect(),
        c2s: settings::C2s {
            tls: c2s.tls,
            max_stanza_bytes: c2s.max_stanza_bytes.get(),
            max_depth: limits.max_depth.get(),
            negotiation_timeout: c2s.negotiation_timeout,
            max_unauthenticated: limits.unauthenticated_connections.get(),
            max_unauthenticated_per_address: limits.connections_per_address.get(),
            proxy_protocol: c2s.proxy_protocol == ProxyProtocol::V2,
            trusted_proxies: c2s.proxy_trusted.clone(),
            ..settings::C2s::default()
        },
        auth: settings::Auth {
            mechanisms: config
                .auth
                .mechanisms
                .iter()
                .map(|one| one.name().into())
                .collect(),
            attempts_per_stream: limits.auth_attempts_per_stream.get_u32(),
            attempts_per_account: limits.auth_failures_per_account.get_u32(),
            attempt_interval: limits.auth_failure_window
                / limits.auth_failures_per_account.get_u32(),
            scram_iterations: scram_iterations(config)?,
            registration: config.registration.enabled,
            ..settings::Auth::default()
        },
        sessions: settings::Sessions {
            resume_timeout: config.sm.resume_timeout,
            resume_location: config.sm.location.as_deref().map(Into::into),
            resources_per_user: limits.resources_per_user.get(),
            outbox_bytes: limits.outbox_bytes.get(),
            offline_messages: limits.offline_messages.get(),
            ..settings::Sessions::default()
        },
        archive: settings::Archive {
            enabled: config.archive.enabled,
            max_age: Some(config.archive.max_age).filter(|age| !age.is_zero()),
            max_messages: Some(config.archive.max_messages.get() as u64).filter(|&max| max > 0),
            ..settings::Archive::default()
        },
        workers: config.server.workers.get(),
        admins: config.admin_jids(),
    })
}

/// `auth.scram_iterations` as the type that those who hash need.
///
/// # Errors
/// Never: the setting's range begins above 0.
pub(crate) fn scram_iterations(config: &Config) -> anyhow::Result<NonZeroU32> {
    NonZeroU32::new(config.auth.scram_iterations.get_u32()).context("auth.scram_iterations is 0")
}
