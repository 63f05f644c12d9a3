//! The names of the keys in Redis.
//!
//! | key | type | what |
//! |---|---|---|
//! | `P:{bare JID}` | string | the sessions of an account (`row.rs`) |
//! | `P:{epoch}:lease` | string, expires | the node's name; there while the node lives |
//! | `P:{epoch}:sessions` | set | full JIDs that the node has, or had, rows of |
//! | `P:{epoch}:claim` | string, expires | which node (epoch) cleans up after this one |
//! | `P:{epoch}:inbox` | stream | the bus's inbox of the node |
//! | `P:nodes` | hash | epoch → name: the nodes that live or are not cleaned up yet; `{epoch}:frames` → the newest version of the bus's frames that the node speaks |
//!
//! `P` is the prefix, `rk1` by default; its number is the version of this layout. The braces are the
//! hash tags of Redis Cluster: all that one script touches is in one slot. `P:nodes` grows with the
//! number of nodes, nothing grows with the sessions of the whole cluster.

use rookery_proto::cluster::Epoch;

/// The prefix if the configuration names none.
pub const DEFAULT_PREFIX: &str = "rk1";

/// The sessions of an account.
pub fn account(prefix: &str, bare: &str) -> String {
    format!("{prefix}:{{{bare}}}")
}

/// The lease of a node.
pub fn lease(prefix: &str, epoch: Epoch) -> String {
    format!("{prefix}:{{{epoch}}}:lease")
}

/// The full JIDs that a node has, or had, rows of.
pub fn sessions(prefix: &str, epoch: Epoch) -> String {
    format!("{prefix}:{{{epoch}}}:sessions")
}

/// Which node cleans up after this one.
pub fn claim(prefix: &str, epoch: Epoch) -> String {
    format!("{prefix}:{{{epoch}}}:claim")
}

/// The inbox of a node on the bus.
pub fn inbox(prefix: &str, epoch: Epoch) -> String {
    format!("{prefix}:{{{epoch}}}:inbox")
}

/// The nodes that live or are not cleaned up yet.
pub fn nodes(prefix: &str) -> String {
    format!("{prefix}:nodes")
}

/// The field of [`nodes`] that says which frames a node speaks. Nodes of the first version, which
/// have none, skip what is no epoch.
pub(crate) fn frames_field(epoch: Epoch) -> String {
    format!("{epoch}:frames")
}

/// The pub/sub channel of the cache hints.
pub fn hints(prefix: &str) -> String {
    format!("{prefix}:hints")
}
