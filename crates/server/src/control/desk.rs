//! What the server does for each request on the control socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rookery_actors::inspect::SessionInfo;
use rookery_directory::NodeInfo;
use rookery_proto::datetime;
use rookery_proto::jid::Jid;

use super::{
    AccountChanged, ClusterNode, ClusterStatus, Lease, Replies, Reply, Request, Session,
    SessionState,
};
use crate::admin::Readiness;
use crate::config::Config;
use crate::drain::{self, Progress};
use crate::wiring::NodeHandle;

/// How often a command hears that there is still work to do.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What commands may look at and change.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    node: NodeHandle,
    readiness: Arc<Readiness>,
    drain_delay: Duration,
    lease: Duration,
}

impl Desk {
    /// The desk of a running server.
    pub(crate) fn new(config: &Config, node: NodeHandle, readiness: Arc<Readiness>) -> Self {
        Self {
            node,
            readiness,
            drain_delay: config.server.drain_delay,
            lease: config.cluster.lease,
        }
    }

    /// Does what a command asks for.
    ///
    /// # Errors
    /// If the command is gone.
    pub(crate) async fn answer(self, request: Request, mut replies: Replies) -> io::Result<()> {
        match request {
            Request::AccountChanged(change) => {
                self.account_changed(&change).await;
                replies.send(&Reply::Done).await
            }
            Request::Drain { timeout_ms } => {
                self.drain(Duration::from_millis(timeout_ms), &mut replies)
                    .await
            }
            Request::Sessions => {
                for session in self.node.sessions().await {
                    replies.send(&Reply::Session(shown(session))).await?;
                }
                replies.send(&Reply::Done).await
            }
            Request::Kick { jid } => {
                let sessions = self.kick(&jid).await;
                replies.send(&Reply::Kicked { sessions }).await
            }
            Request::ClusterStatus => replies.send(&Reply::Cluster(self.cluster())).await,
        }
    }

    async fn account_changed(&self, change: &AccountChanged) {
        let AccountChanged { account, removed } = change;
        tracing::info!(%account, removed, "an account was changed by a command");
        self.node.account_changed(account, *removed).await;
    }

    /// The drain goes on if the command is interrupted.
    async fn drain(&self, timeout: Duration, replies: &mut Replies) -> io::Result<()> {
        tracing::info!(?timeout, "told to drain by a command");
        let (node, readiness) = (self.node.clone(), &self.readiness);
        let mut progress = drain::start(node, readiness, self.drain_delay, timeout);
        // Before the drain has a chance to go on: how many there were.
        let mut now = *progress.borrow_and_update();
        let draining = Reply::Draining {
            delay_ms: u64::try_from(self.drain_delay.as_millis()).unwrap_or(u64::MAX),
            in_cluster: self.node.nodes().is_some(),
        };
        replies.send(&draining).await?;
        loop {
            match now {
                Progress::Left(sessions) => replies.send(&Reply::Left { sessions }).await?,
                Progress::Drained(sessions) => {
                    return replies.send(&Reply::Drained { sessions }).await;
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, progress.changed()).await {
                return Err(io::Error::other("the drain ended without a result"));
            }
            now = *progress.borrow_and_update();
        }
    }

    async fn kick(&self, jid: &Jid) -> usize {
        let sessions = self.node.kick(jid).await;
        tracing::info!(%jid, sessions, "sessions were ended by a command");
        sessions
    }

    fn cluster(&self) -> ClusterStatus {
        let fenced = self.node.is_fenced();
        let cluster = self.node.nodes();
        let in_cluster = cluster.is_some();
        let own = cluster.as_ref().map(|(own, _)| *own);
        let nodes = cluster.map(|(_, nodes)| nodes).unwrap_or_default();
        let shown = |node: &NodeInfo| {
            let this = Some(node.epoch) == own;
            let lease = if this && fenced {
                Lease::Lapsed
            } else {
                Lease::Held
            };
            ClusterNode::new(&node.name, node.epoch, node.frames, this, lease)
        };
        ClusterStatus {
            in_cluster,
            fenced,
            sessions: self.node.session_count(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            nodes: nodes.iter().map(shown).collect(),
        }
    }
}

fn shown(session: SessionInfo) -> Session {
    Session {
        jid: session.jid,
        since: datetime::format(session.since),
        transport: session.transport.into(),
        address: session.address.to_string(),
        state: if session.connected {
            SessionState::Connected
        } else {
            SessionState::Waiting
        },
        queued_stanzas: session.queued_stanzas,
        queued_bytes: session.queued_bytes,
    }
}
