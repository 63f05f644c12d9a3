//! Questions of operators from node to node: sent over the bus, answered in parts.
//!
//! What is asked and answered is text here; `questions` owns its meaning. Nothing about it is durable:
//! a node that dies, or that is of an older version, leaves its question without an answer, and whoever
//! asked learns which node that was ([`Silence`]).
//!
//! Bounds: a part has `MAX_PART_BYTES` at most; `PARTS` of them wait for who asked, and an answer that
//! is faster ends as [`Silence::Overrun`]; a node works on `MAX_ANSWERS` answers at a time. Who does
//! not want the rest of an answer just drops it.

mod questions;
mod traces;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use rookery_bus::{Frame, Reason};
use rookery_proto::cluster::Epoch;
use tokio::sync::{mpsc, oneshot};

pub use self::questions::{AllSessions, Everywhere, SessionThere, Silent};
pub use self::traces::{Line, Step, Tracing};
use crate::cluster::Cluster;
use crate::node::NodeShared;

/// The largest part of an answer.
pub(crate) const MAX_PART_BYTES: usize = 256 * 1024;

/// Parts that wait for who asked.
const PARTS: usize = 64;

/// Answers that a node works on at a time.
const MAX_ANSWERS: usize = 64;

/// How long a part of an answer waits for room on the bus.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// A question's number, and the node that is asked, or that asks.
type Key = (Epoch, u64);

/// What this node has asked and what it answers.
#[derive(Default)]
pub(crate) struct Operators {
    next: AtomicU64,
    asked: Mutex<HashMap<Key, mpsc::Sender<Part>>>,
    answering: Mutex<HashMap<Key, oneshot::Sender<()>>>,
}

struct Part {
    text: String,
    last: bool,
}

/// Why a node's answer does not come, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Its version has no such questions.
    #[error("speaks an older version that cannot be asked")]
    Older,
    /// The question could not be sent.
    #[error("cannot be asked now: the way to it is congested")]
    Congested,
    /// It said nothing for too long.
    #[error("did not answer")]
    Late,
    /// It answered more quickly than this node could take.
    #[error("answered more than could be taken")]
    Overrun,
    /// It said something that makes no sense here, or that it cannot do it.
    #[error("did not understand the question")]
    Misunderstood,
}

/// An answer under way. Dropping it before its end tells the node that the rest is not wanted.
pub(crate) struct Answer<'c> {
    cluster: &'c Cluster,
    key: Key,
    parts: mpsc::Receiver<Part>,
    ended: bool,
}

impl Cluster {
    /// Asks a node something.
    ///
    /// # Errors
    /// [`Silence::Older`] and [`Silence::Congested`]: it was not asked.
    pub(crate) fn ask_operator(&self, to: Epoch, question: String) -> Result<Answer<'_>, Silence> {
        let request = self.operators.next.fetch_add(1, Ordering::Relaxed);
        let key = (to, request);
        let (sender, parts) = mpsc::channel(PARTS);
        lock(&self.operators.asked).insert(key, sender);
        let answer = Answer {
            cluster: self,
            key,
            parts,
            ended: false,
        };
        let frame = Frame::OperatorAsk { request, question };
        match self.bus.send(to, frame) {
            Ok(()) => Ok(answer),
            Err(refused) => {
                answer.forget();
                Err(match refused.reason {
                    Reason::Unspoken => Silence::Older,
                    Reason::Full | Reason::Closed | Reason::TooLarge { .. } => Silence::Congested,
                })
            }
        }
    }

    /// Tells a node that the rest of its answer is not wanted.
    fn wants_no_more(&self, to: Epoch, request: u64) {
        let enough = Frame::OperatorAsk {
            request,
            question: String::new(),
        };
        // If there is no room for this, it is told again when the next part comes.
        let _ = self.bus.send(to, enough);
    }

    /// A part of an answer came.
    pub(crate) fn operator_answered(&self, from: Epoch, request: u64, text: String, last: bool) {
        let mut asked = lock(&self.operators.asked);
        let Some(parts) = asked.get(&(from, request)) else {
            drop(asked);
            if !last {
                // Not wanted any more. It was told so, but that may have got lost with an inbox, and an answer
                // may go on for an hour.
                self.wants_no_more(from, request);
            }
            return;
        };
        let taken = parts.try_send(Part { text, last });
        if last || taken.is_err() {
            asked.remove(&(from, request));
        }
    }
}

impl Answer<'_> {
    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// When none has come for `patience`, or one was lost because too many waited.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<Option<String>, Silence> {
        if self.ended {
            return Ok(None);
        }
        match tokio::time::timeout(patience, self.parts.recv()).await {
            Ok(Some(part)) => {
                self.ended = part.last;
                // The end may be all that it says.
                Ok(Some(part.text).filter(|text| !(part.last && text.is_empty())))
            }
            Ok(None) => Err(Silence::Overrun),
            Err(_) => Err(Silence::Late),
        }
    }

    fn forget(mut self) {
        lock(&self.cluster.operators.asked).remove(&self.key);
        self.ended = true;
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (to, request) = self.key;
        lock(&self.cluster.operators.asked).remove(&self.key);
        self.cluster.wants_no_more(to, request);
    }
}

/// Where the parts of one answer go. The answer ends when it is dropped.
pub(crate) struct Answering {
    node: Arc<NodeShared>,
    key: Key,
    unwanted: oneshot::Receiver<()>,
}

/// Nobody wants the answer any more, or nobody can be told.
#[derive(Debug)]
pub(crate) struct Unwanted;

impl Answering {
    /// Takes a question of another node; `None` if it works on too many answers already, which ends this
    /// one at once.
    fn begin(node: &Arc<NodeShared>, from: Epoch, request: u64) -> Option<Self> {
        let cluster = node.cluster.as_ref()?;
        let (enough, unwanted) = oneshot::channel();
        let key = (from, request);
        let mut answering = lock(&cluster.operators.answering);
        if answering.len() >= MAX_ANSWERS {
            drop(answering);
            tracing::warn!(%from, "an operator's question was refused: too many are being answered");
            let last = end(request);
            // Who asked gives up by itself.
            let _ = cluster.bus.send(from, last);
            return None;
        }
        answering.insert(key, enough);
        Some(Self {
            node: Arc::clone(node),
            key,
            unwanted,
        })
    }

    /// Whether who asked is still part of the cluster, as this node sees it.
    fn is_from_a_known_node(&self) -> bool {
        let cluster = self.node.cluster.as_ref();
        cluster.is_some_and(|cluster| {
            let nodes = cluster.directory.nodes();
            nodes.iter().any(|node| node.epoch == self.key.0)
        })
    }

    /// Sends a part; waits for room on the bus.
    ///
    /// # Errors
    /// If who asked is gone or wants no more.
    pub(crate) async fn send(&mut self, part: String) -> Result<(), Unwanted> {
        if self.unwanted.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            return Err(Unwanted);
        }
        let Some(cluster) = &self.node.cluster else {
            return Err(Unwanted);
        };
        if part.len() > MAX_PART_BYTES {
            tracing::error!(bytes = part.len(), "an answer to an operator is too large");
            return Err(Unwanted);
        }
        let (to, request) = self.key;
        let last = false;
        let frame = Frame::OperatorAnswer {
            request,
            part,
            last,
        };
        let Err(refused) = cluster.bus.send(to, frame) else {
            return Ok(());
        };
        if !refused.reason.is_temporary() {
            return Err(Unwanted);
        }
        let room = tokio::time::timeout(ROOM_PATIENCE, cluster.bus.ready(to)).await;
        room.map_err(|_| Unwanted)?;
        cluster.bus.send(to, refused.frame).map_err(|_| Unwanted)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(cluster) = &self.node.cluster else {
            return;
        };
        let (to, request) = self.key;
        let wanted = lock(&cluster.operators.answering).remove(&self.key);
        if wanted.is_some() {
            // Who asked gives up by itself if there is no room for this.
            let _ = cluster.bus.send(to, end(request));
        }
    }
}

/// The end of an answer.
fn end(request: u64) -> Frame {
    Frame::OperatorAnswer {
        request,
        part: String::new(),
        last: true,
    }
}

/// A question of another node came, or its wish for no more of an answer.
pub(crate) fn asked(node: &Arc<NodeShared>, from: Epoch, request: u64, question: String) {
    if question.is_empty() {
        if let Some(cluster) = &node.cluster {
            let enough = lock(&cluster.operators.answering).remove(&(from, request));
            // It may have ended at the same time.
            if let Some(enough) = enough {
                let _ = enough.send(());
            }
        }
        return;
    }
    if let Some(answering) = Answering::begin(node, from, request) {
        let node = Arc::clone(node);
        actix_rt::spawn(async move { questions::answer(&node, &question, answering).await });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
