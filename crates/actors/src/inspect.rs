//! What an operator sees of the sessions of a node, and how one is ended.
//!
//! A connection notes in its session's [`Outbox`] where its client is; that survives the connection, so
//! that a session which waits to be resumed shows where its client was last.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use futures_util::future::join_all;
use rookery_proto::datetime;
use rookery_proto::jid::{FullJid, Jid};
use rookery_proto::stanza::Stanza;
use rookery_proto::stream::{StreamCondition, StreamError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::oneshot;

use crate::account::Resource;
use crate::metrics;
use crate::node::NodeShared;
use crate::outbox::{Outbox, Outgoing};
use crate::shard::{Run, Shard};
use crate::user_session::End;

/// A session of a node. As JSON, its time is written as XEP-0082 has it, with milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The bound resource.
    pub jid: FullJid,
    /// Since when it is on its node.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub since: SystemTime,
    /// `tcp`, `tls` or `websocket`, as in the metrics: its connection, or the last one.
    pub transport: String,
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

/// Which sessions somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsOf {
    /// One session, or those of an account; all if there is none.
    pub of: Option<Jid>,
    /// Only those whose JIDs sort after this text.
    pub after: Option<String>,
    /// The first so many of them.
    pub limit: usize,
}

/// Sessions of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPage {
    /// In the order of their JIDs.
    pub sessions: Vec<SessionInfo>,
    /// How many there are, those that were left out included.
    pub total: usize,
}

fn write_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&datetime::format_millis(*time))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    datetime::parse(&text).ok_or_else(|| de::Error::custom("no date and time"))
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
        transport: link.transport.into(),
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

    /// The sessions of this node.
    pub async fn sessions(&self, wanted: SessionsOf) -> SessionPage {
        let SessionsOf { of, after, limit } = wanted;
        let mut all = Vec::new();
        for shard in self.shards() {
            let (answer, answered) = oneshot::channel();
            let of = of.clone();
            let job = Run(Box::new(move |shard: &Rc<Shard>| {
                let resources = shard.all_resources();
                let wanted = resources.iter().filter(|r| is_of(&r.jid, of.as_ref()));
                let sessions: Vec<_> = wanted.filter_map(|r| describe(r)).collect();
                // Nobody waits any more.
                let _ = answer.send(sessions);
            }));
            // Fails only when the node stops.
            if shard.send(job).await.is_ok() {
                all.extend(answered.await.unwrap_or_default());
            }
        }
        let total = all.len();
        if let Some(after) = after {
            all.retain(|session: &SessionInfo| session.jid.as_str() > after.as_str());
        }
        all.sort_unstable_by(|one, other| one.jid.as_str().cmp(other.jid.as_str()));
        all.truncate(limit);
        let sessions = all;
        SessionPage { sessions, total }
    }

    /// Shows a message to all available resources of this node that take messages, or to those of one
    /// domain. It is not stored. Returns how many there were.
    pub(crate) async fn announce_here(&self, message: Stanza, domain: Option<String>) -> usize {
        let mut reached = 0;
        for shard in self.shards() {
            let (answer, answered) = oneshot::channel();
            let (message, domain) = (message.clone(), domain.clone());
            let job = Run(Box::new(move |shard: &Rc<Shard>| {
                // Nobody waits any more.
                let _ = answer.send(shard.announce(&message, domain.as_deref()));
            }));
            // Fails only when the node stops.
            if shard.send(job).await.is_ok() {
                reached += answered.await.unwrap_or(0);
            }
        }
        reached
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

fn is_of(session: &FullJid, wanted: Option<&Jid>) -> bool {
    wanted.is_none_or(|wanted| match wanted.resource() {
        Some(_) => session.as_str() == wanted.as_str(),
        None => session.bare_str() == wanted.as_str(),
    })
}

impl Shard {
    fn announce(&self, message: &Stanza, domain: Option<&str>) -> usize {
        let mut resources = self.all_resources();
        resources.retain(|resource| {
            let is_there = domain.is_none_or(|domain| resource.jid.domain() == domain);
            is_there && resource.is_available() && resource.priority.get() >= 0
        });
        let message = std::sync::Arc::new(message.clone());
        let shown = resources.iter().filter(|resource| {
            let outgoing = Outgoing {
                to: Some(Jid::from(resource.jid.clone())),
                ..Outgoing::new(std::sync::Arc::clone(&message))
            };
            self.push(resource, outgoing)
        });
        shown.count()
    }

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
