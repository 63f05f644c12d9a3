//! What can go wrong on the bus.

use thiserror::Error;

use crate::Frame;

/// A frame was not queued. Holds it, and says why.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct Refused {
    /// What was refused.
    pub frame: Frame,
    /// Why.
    pub reason: Reason,
}

/// Why a frame was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Reason {
    /// The queue to the node is full: that node, or Redis, is slower than this one. Worth another
    /// try when [`Bus::ready`](crate::Bus::ready) resolves.
    #[error("the queue to the node is full")]
    Full,
    /// The bus is shut down.
    #[error("the bus is shut down")]
    Closed,
    /// It has more than [`MAX_FRAME_BYTES`](crate::frame::MAX_FRAME_BYTES).
    #[error("a frame of {bytes} bytes is too large for the bus")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// The node speaks an older version of the frames, which has none like this.
    #[error("the node's version has no such frame")]
    Unspoken,
}

impl Reason {
    /// Whether the same frame may be taken later.
    pub fn is_temporary(self) -> bool {
        self == Self::Full
    }
}

/// An operation on the bus, or the start of one, failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Redis cannot be reached or refused.
    #[error("the bus is unavailable: {0}")]
    Unavailable(#[from] rookery_directory::Error),
    /// A batch is damaged or of a format version that this node does not speak.
    #[error(transparent)]
    Batch(#[from] crate::frame::BatchError),
}
