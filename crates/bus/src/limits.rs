//! The bounds of the bus.

use std::time::Duration;

/// How much may wait where, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Frames waiting for one node.
    pub queue_frames: usize,
    /// Bytes waiting for one node.
    pub queue_bytes: usize,
    /// A batch takes no more frames once it has this many bytes.
    pub batch_bytes: usize,
    /// A batch of more bytes is appended to its inbox in Redis by a transaction, which takes longer than a
    /// script to begin with, and not for each byte.
    pub script_bytes: usize,
    /// Batches in an inbox; a longer one takes no more.
    pub inbox_batches: usize,
    /// How long a frame waits for Redis, or for room in an inbox, before it comes back. One that may have
    /// arrived waits until Redis says.
    pub give_up: Duration,
    /// How long [`Bus::shutdown`](crate::Bus::shutdown) waits for queues to empty.
    pub flush_patience: Duration,
    /// How long a batch may gather frames while traffic to the node is steady; zero: not at all.
    /// Light traffic never waits.
    pub gather: Duration,
}

impl Default for Limits {
    /// Per node 16,384 frames and 8 MiB in the queue; batches of 64 KiB, 1024 in an inbox (64 MiB in
    /// Redis); frames come back after 5 s.
    fn default() -> Self {
        Self {
            queue_frames: 16 * 1024,
            queue_bytes: 8 * 1024 * 1024,
            batch_bytes: 64 * 1024,
            script_bytes: 4 * 1024,
            inbox_batches: 1024,
            give_up: Duration::from_secs(5),
            flush_patience: Duration::from_secs(2),
            gather: Duration::from_micros(250),
        }
    }
}
