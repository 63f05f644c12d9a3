//! What the server does for each request on the control socket.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use rookery_actors::administration::Refused;
use rookery_actors::audit::Operator;
use rookery_directory::NodeInfo;

use super::{AccountChanged, ClusterNode, ClusterStatus, Lease, Replies, Reply, Request, Session};
use crate::admin::Readiness;
use crate::api::{self, Api, Call, Lines};
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
    api: Api,
    drain_delay: Duration,
    lease: Duration,
}

impl Desk {
    /// The desk of a running server.
    pub(crate) fn new(
        config: &Config,
        node: NodeHandle,
        readiness: Arc<Readiness>,
        api: Api,
    ) -> Self {
        Self {
            node,
            readiness,
            api,
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
                let told = self.account_changed(&change, &replies.operator()).await;
                let reply = match told {
                    Ok(()) => Reply::Done,
                    Err(untold) => Reply::Refused {
                        reason: untold.to_string(),
                    },
                };
                replies.send(&reply).await
            }
            Request::Drain { timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                replies.operator().did("drain", "", Ok(()));
                self.drain(timeout, &mut replies).await
            }
            Request::Sessions => {
                for session in self.node.sessions().await {
                    let session = Session::new(session, String::new());
                    replies.send(&Reply::Session(session)).await?;
                }
                replies.send(&Reply::Done).await
            }
            Request::Kick { jid } => {
                let sessions = self.node.kick(&jid).await;
                let outcome: Result<(), &dyn Display> = match sessions {
                    0 => Err(&"no session on this node"),
                    _ => Ok(()),
                };
                replies
                    .operator()
                    .did("session-kick", jid.as_str(), outcome);
                replies.send(&Reply::Kicked { sessions }).await
            }
            Request::ClusterStatus => {
                let status = cluster_status(&self.node, self.lease);
                replies.send(&Reply::Cluster(status)).await
            }
            Request::AccountAdded { account } => {
                let by = replies.operator();
                by.did("user-add", account.as_str(), Ok(()));
                replies.send(&Reply::Done).await
            }
            Request::Trace {
                jid,
                bodies,
                time_ms,
            } => {
                let time = Duration::from_millis(time_ms);
                let wish = api::wish(jid, bodies, time);
                match wish.and_then(|wish| self.api.trace(wish, replies.operator())) {
                    Ok(lines) => trace(lines, &mut replies).await,
                    Err(problem) => {
                        let reason = problem.detail;
                        replies.send(&Reply::Refused { reason }).await
                    }
                }
            }
            Request::Call { method, path, body } => {
                let Ok(method) = Method::from_bytes(method.as_bytes()) else {
                    let reason = format!("{method:?} is no method");
                    return replies.send(&Reply::Refused { reason }).await;
                };
                let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
                let call = Call { method, path, body };
                let answer = self.api.call(&call, &replies.operator()).await;
                let status = answer.status.as_u16();
                let body = answer.body;
                replies.send(&Reply::Answer { status, body }).await
            }
        }
    }

    async fn account_changed(&self, change: &AccountChanged, by: &Operator) -> Result<(), Refused> {
        let AccountChanged {
            account,
            removed,
            disabled,
        } = change;
        let act = match (removed, disabled) {
            (true, _) => "user-delete",
            (false, Some(true)) => "user-disable",
            (false, Some(false)) => "user-enable",
            (false, None) => "user-password",
        };
        by.did(act, account.as_str(), Ok(()));
        match disabled {
            // It has no sessions.
            Some(false) => Ok(()),
            Some(true) | None => self.node.account_changed(account, *removed).await,
        }
    }

    /// The drain goes on if the command is interrupted.
    async fn drain(&self, timeout: Duration, replies: &mut Replies) -> io::Result<()> {
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
}

/// Tells what a trace shows, until its end or until the command is gone.
async fn trace(mut lines: Lines, replies: &mut Replies) -> io::Result<()> {
    while let Some(line) = lines.next().await {
        let line = serde_json::to_value(&line)?;
        if replies.send(&Reply::Line { line }).await.is_err() {
            // The usual end: Ctrl+C.
            return Ok(());
        }
    }
    replies.send(&Reply::Done).await
}

/// What a node knows of its cluster.
pub(crate) fn cluster_status(node: &NodeHandle, lease: Duration) -> ClusterStatus {
    let fenced = node.is_fenced();
    let cluster = node.nodes();
    let in_cluster = cluster.is_some();
    let own = cluster.as_ref().map(|(own, _)| *own);
    let nodes = cluster.map(|(_, nodes)| nodes).unwrap_or_default();
    let shown = |other: &NodeInfo| {
        let this = Some(other.epoch) == own;
        let lease = if this && fenced {
            Lease::Lapsed
        } else {
            Lease::Held
        };
        ClusterNode::new(&other.name, other.epoch, other.frames, this, lease)
    };
    ClusterStatus {
        in_cluster,
        fenced,
        sessions: node.session_count(),
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        nodes: nodes.iter().map(shown).collect(),
    }
}
