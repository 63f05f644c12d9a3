//! What carries batches; the queues before it and the inbox behind it are the same for all.

use async_trait::async_trait;
use rookery_proto::cluster::Epoch;

/// Puts batches into the inboxes of nodes.
#[async_trait]
pub(crate) trait Transport: Send + Sync + 'static {
    /// Appends a batch to the inbox of a node.
    async fn append(&self, to: Epoch, batch: &[u8]) -> Appended;

    /// Whether it came back so lately that a missing lease may only be late.
    fn is_settling(&self) -> bool;
}

/// How an append ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Appended {
    /// It is in the inbox.
    Done,
    /// The inbox is as long as it may be; not appended.
    Full,
    /// The node has no lease; not appended.
    Gone,
    /// There is no connection; not appended.
    Away,
    /// The answer was lost: it may be in the inbox or not.
    Unknown,
}
