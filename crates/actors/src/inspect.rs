//! What an operator sees of the sessions of a node, and how one is ended.
//!
//! A connection notes in its session's [`Outbox`] where its client is; that survives the connection, so
//! that a session which waits to be resumed shows where its client was last.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use futures_util::future::join_all;
use rookery_proto::jid::{FullJid, Jid};
use rookery_proto::stream::{StreamCondition, StreamError};
use tokio::sync::oneshot;

use crate::account::Resource;
use crate::metrics;
use crate::node::NodeShared;
use crate::outbox::Outbox;
use crate::shard::{Run, Shard};
use crate::user_session::End;

/// A session of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The bound resource.
    pub jid: FullJid,
    /// Since when it is on this node.
    pub since: SystemTime,
    /// `tcp`, `tls` or `websocket`, as in the metrics: its connection, or the last one.
    pub transport: &'static str,
    /// The client's address, as far as it is known: proxies tell it. While the session waits to be
    /// resumed, the last one.
    pub address: SocketAddr,
    /// Whether it has a connection, rather than waits to be resumed (XEP-0198 §5).
    pub connected: bool,
    /// Stanzas that are queued, or written and not acknowledged.
    pub queued_stanzas: usize,
    /// Their size in bytes.
    pub queued_bytes: usize,
}

/// The connection that a session has, or had last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    since: SystemTime,
    transport: &'static str,
    address: SocketAddr,
    /// Which of the session's connections it is.
    generation: u32,
    broken: bool,
}

impl Outbox {
    /// The session has a connection.
    pub(crate) fn is_linked(&self, generation: u32, transport: &'static str, address: SocketAddr) {
        let former = self.link.get();
        self.link.set(Some(Link {
            since: former.map_or_else(SystemTime::now, |former| former.since),
            transport,
            address,
            generation,
            broken: false,
        }));
    }

    /// Whether the session has a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        let link = self.link.get();
        link.is_some_and(|link| !link.broken && self.is_drained_by(link.generation))
    }

    /// A connection of the session is gone, perhaps not the newest.
    pub(crate) fn link_broke(&self, generation: u32) {
        if let Some(link) = self.link.get().filter(|link| link.generation == generation) {
            let broken = true;
            self.link.set(Some(Link { broken, ..link }));
        }
    }
}

/// `None` in the moment between the binding and the client's learning of it.
fn describe(resource: &Resource) -> Option<SessionInfo> {
    let outbox = &resource.outbox;
    let link = outbox.link.get()?;
    Some(SessionInfo {
        jid: resource.jid.clone(),
        since: link.since,
        transport: link.transport,
        address: link.address,
        connected: outbox.is_connected(),
        queued_stanzas: outbox.len(),
        queued_bytes: outbox.bytes(),
    })
}

impl NodeShared {
    /// How many sessions this node has, as `rookery_sessions` counts them: those that still say goodbye
    /// are among them.
    pub fn session_count(&self) -> usize {
        usize::try_from(metrics::SESSIONS.get()).unwrap_or(0)
    }

    /// The sessions of this node, in no order.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let mut all = Vec::new();
        for shard in self.shards() {
            let (answer, answered) = oneshot::channel();
            let job = Run(Box::new(move |shard: &Rc<Shard>| {
                let resources = shard.all_resources();
                let sessions: Vec<_> = resources.iter().filter_map(|r| describe(r)).collect();
                // Nobody waits any more.
                let _ = answer.send(sessions);
            }));
            // Fails only when the node stops.
            if shard.send(job).await.is_ok() {
                all.extend(answered.await.unwrap_or_default());
            }
        }
        all
    }

    /// Ends a session of this node, or with a bare JID all that the account has here, with
    /// `<policy-violation/>` (RFC 6120 §4.9.3.14); also those that wait to be resumed. Returns how many
    /// there were, when they are gone.
    pub async fn kick(&self, who: &Jid) -> usize {
        let (answer, answered) = oneshot::channel();
        let owner = self.shard(self.shard_of(who.bare_str()));
        let who = who.clone();
        let job = Run(Box::new(move |shard: &Rc<Shard>| {
            let shard = Rc::clone(shard);
            actix_rt::spawn(async move {
                // Nobody waits any more.
                let _ = answer.send(shard.kick(&who).await);
            });
        }));
        // Fails only when the node stops.
        match owner.send(job).await {
            Ok(()) => answered.await.unwrap_or(0),
            Err(_) => 0,
        }
    }
}

impl Shard {
    async fn kick(&self, who: &Jid) -> usize {
        let account = self.accounts.borrow().get(who.bare_str()).cloned();
        let mut resources = account.map(|account| account.all()).unwrap_or_default();
        if let Some(name) = who.resource() {
            resources.retain(|resource| resource.jid.resource() == name);
        }
        let limit = self.node().settings.sessions.actor_timeout;
        let end = async |resource: &Rc<Resource>| {
            let error = StreamError::with_text(
                StreamCondition::PolicyViolation,
                "the session was ended by the server's operator",
            );
            let ended = resource.session.send(End { error: Some(error) });
            // A session that cannot answer in time has stopped or hangs; it is unbound here.
            if !matches!(tokio::time::timeout(limit, ended).await, Ok(Ok(()))) {
                self.unbind(resource);
            }
        };
        join_all(resources.iter().map(end)).await;
        resources.len()
    }
}
