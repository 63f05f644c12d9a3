//! What can go wrong on the bus.

use thiserror::Error;

use crate::Frame;

/// The queue to a node is full. Holds the frame that was refused.
#[derive(Debug, Error)]
#[error("the queue to the node is full")]
pub struct Busy(pub Frame);

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
