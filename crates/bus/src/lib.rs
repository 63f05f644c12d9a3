//! The bus: frames from node to node.
//!
//! Owns the batches and their format ([`frame`]), the queue to each node and its bound, the inbox of
//! this node, and what is noticed when something is lost or comes twice. It leaves to others: which
//! node a frame goes to (`rookery-directory` and the actors), and what a frame does there.
//!
//! Frames from one node to another arrive in the order sent, and at most once while both live. They
//! are not durable: when Redis loses its data, what was under way is lost and the receiver is told
//! ([`Inbound::Gap`]); when the receiver dies, a survivor gets what it had not handled
//! ([`Bus::claim`]), among which may be frames that it had.
//!
//! The types to know:
//! - [`Bus`]: the trait, with [`RedisBus`] (Redis Streams) and [`MemoryBus`] (one process).
//! - [`Frame`]: what one node says to another; [`MovedSession`]: a session on its way.
//! - [`Refused`]: a frame that was not taken, and why.
//! - [`Inbound`]: what comes in, and what comes back.
//! - [`Limits`]: the bounds of queues, batches and patience.

mod error;
pub mod frame;
mod inbox;
mod incoming;
mod lanes;
mod limits;
mod memory;
pub mod metrics;
mod moved;
mod pace;
mod redis_streams;
mod transport;

pub use error::{Error, Reason, Refused};
pub use frame::{Deliver, Frame, Sessions};
pub use inbox::Ack;
pub use incoming::{Batch, Frames};
pub use limits::Limits;
pub use memory::{MemoryBus, MemoryHub};
pub use moved::{LogRef, MovedSession, MovedStanza, ResumeReady, ResumeRefused};
pub use redis_streams::{RedisBus, RedisBusConfig};

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rookery_proto::cluster::Epoch;
use tokio::sync::mpsc;

/// Tells which version of the frames a node speaks: [`frame::ASSUMED_VERSION`] if it is not known.
pub type Spoken = Arc<dyn Fn(Epoch) -> u8 + Send + Sync>;

/// Carries frames between nodes.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Queues a frame for a node and returns at once.
    ///
    /// # Errors
    /// [`Refused`], with the frame: the queue to that node is full (it or Redis is slower than this
    /// node), the frame is too large or that node's version has none like it, or the bus is shut
    /// down.
    #[expect(
        clippy::result_large_err,
        reason = "refusals are rare and want the frame back"
    )]
    fn send(&self, to: Epoch, frame: Frame) -> Result<(), Refused>;

    /// Resolves when the queue to a node has room again; at once if it has.
    fn ready(&self, to: Epoch) -> BoxFuture<'static, ()>;

    /// What waits for a node: at most [`Limits::queue_frames`] frames, and fewer than
    /// [`Limits::queue_bytes`] bytes before the last of them.
    fn queued(&self, to: Epoch) -> Queued;

    /// What comes in. `None` if it was taken before. The channel is short: a consumer that is slow
    /// makes the inbox grow, and full inboxes make the queues of the senders full.
    fn inbound(&self) -> Option<mpsc::Receiver<Inbound>>;

    /// The oldest frames that a dead node has not handled, in the order of its inbox, from which they are
    /// deleted. To be called by the one who cleans up after it (`Event::Claimed` of the directory), until
    /// there are none: then the inbox is gone, too.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached.
    async fn claim(&self, dead: Epoch) -> Result<Vec<Frame>, Error>;

    /// The directory found that Redis lost its data (`Event::DataLost`), which the bus sees by itself
    /// only if its connection broke: tells the receivers what they have missed, and waits for leases
    /// that are late.
    fn data_lost(&self);

    /// Others take this node for dead (`Event::Fenced`), and one of them claims its inbox: what hangs in
    /// a connection to Redis that was cut is not handled here as well.
    fn fenced(&self);

    /// Sends what is queued, waits until what was handed out is handled, each within
    /// [`Limits::flush_patience`], and ends. What could not be sent comes back as
    /// [`Inbound::Returned`], so the consumer should listen until the channel ends.
    ///
    /// To be called before the directory gives up the lease: whoever then cleans up after this node
    /// claims what came into its inbox too late.
    async fn shutdown(&self);
}

/// How much waits for a node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Queued {
    /// Frames, those of the batch that is being appended included.
    pub frames: usize,
    /// Their bytes, encoded.
    pub bytes: usize,
}

/// What comes in from other nodes, or back.
#[derive(Debug)]
pub enum Inbound {
    /// Frames from a node, in the order sent.
    Frames {
        /// The sender.
        from: Epoch,
        /// At least one.
        frames: Frames,
        /// To be dropped when the frames are handled: until then a survivor would get them.
        done: Ack,
    },
    /// Frames from this node were lost, before those that come next. What the log holds past the
    /// delivered mark has to be delivered from there.
    Gap {
        /// The sender.
        from: Epoch,
    },
    /// Frames that could not be sent: the node died, or Redis stayed away for longer than
    /// [`Limits::give_up`].
    Returned {
        /// Whom they were for.
        to: Epoch,
        /// In the order of [`Bus::send`].
        frames: Vec<Frame>,
        /// Whether they may have arrived nevertheless: an answer of Redis was lost, and then the
        /// node died or the bus was shut down. While both live, such frames wait until it is known.
        in_doubt: bool,
    },
}
