//! What can go wrong in the directory.

use thiserror::Error;

/// An operation on the directory, or the start of one, failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// Redis cannot be reached, did not answer in time, or this directory was shut down.
    #[error("the directory is unavailable: {0}")]
    Unavailable(&'static str),
    /// No connection came about within the time for the start.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The address, without its password.
        address: String,
        /// What the last attempt ended with.
        reason: String,
    },
    /// Redis answered with an error (no memory left, no permission, …).
    #[error("redis refused: {0}")]
    Refused(#[source] redis::RedisError),
    /// The address is none, or of a kind that is not supported.
    #[error("bad redis address {address}: {reason}")]
    Address {
        /// The address, without its password.
        address: String,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// The dead node whose sessions were being collected returned, or another node took over.
    #[error("the claim on node {0} was lost")]
    ClaimLost(rookery_proto::cluster::Epoch),
}
