//! What the directory knows about a session and about a node.

use std::sync::Arc;

use rookery_proto::cluster::Epoch;
use rookery_proto::jid::FullJid;

/// One session as the directory knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRow {
    /// The bound resource.
    pub jid: FullJid,
    /// The node incarnation that runs the session.
    pub epoch: Epoch,
    /// Which of the sessions that had this full JID one after another; later ones have higher
    /// numbers. Microseconds since 1970 unless two came within one.
    pub sequence: u64,
    /// The priority of its last available presence (RFC 6121 §4.7.2.3).
    pub priority: i8,
    /// Whether it has sent available presence (RFC 6121 §4.2).
    pub available: bool,
    /// The last available presence stanza, as XML.
    pub presence: Option<Arc<str>>,
}

/// One incarnation of a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeInfo {
    /// Identifies the incarnation.
    pub epoch: Epoch,
    /// The name shown to people (`cluster.node`). Two nodes may share one.
    pub name: Arc<str>,
    /// The newest version of the bus's frames that it speaks; 1 if it does not say.
    pub frames: u8,
}

impl NodeInfo {
    /// What a node speaks that does not say.
    pub const OLDEST_FRAMES: u8 = 1;
}

/// The outcome of [`Directory::register`](crate::Directory::register).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The sequence of the new session.
    pub sequence: u64,
    /// The session that held the full JID until now, on whichever node, dead or alive; this one
    /// included.
    pub displaced: Option<SessionRow>,
}
