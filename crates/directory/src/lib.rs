//! The directory: which node runs the sessions of an account.
//!
//! Owns the leases of the nodes, the rows of the sessions, the hints that keep caches fresh, and the
//! discovery of nodes that died. It leaves to others: the cache itself (the actors keep it, fed by
//! [`Event`]s), the frames between nodes (`rookery-bus`), and what presence or a conflict means.
//!
//! What Redis holds is a cache of the truth; the truth about a session is the node that runs it. So
//! everything here can be published again, and nothing here is worth a backup.
//!
//! The types to know:
//! - [`Directory`]: the trait, with [`RedisDirectory`] for clusters and [`Memory`] for one process.
//! - [`SessionRow`]: one session as the directory knows it.
//! - [`NodeInfo`]: one incarnation of a node.
//! - [`Event`]: what the node that uses the directory must react to.
//! - [`RedisAddress`] and [`Link`]: a connection to Redis that comes back by itself (also the bus's).

mod address;
mod connector;
mod dialer;
mod error;
mod events;
mod link;
mod memory;
pub mod metrics;
mod redis_directory;
mod session;
mod slots;

pub use address::RedisAddress;
pub use error::Error;
pub use events::{Event, Events};
pub use link::{Link, LinkOptions, LinkState, OnMessage};
pub use memory::{Memory, MemoryCluster};
pub use redis_directory::{RedisConfig, RedisDirectory, keys};
pub use session::{NodeInfo, Registered, SessionRow};

use async_trait::async_trait;
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid};

/// Maps JIDs to the nodes that run their sessions.
///
/// Every write is compare-and-set on (sequence, epoch), so a node that lost a session can never
/// overwrite the node that has it now. No operation waits long: while Redis is known to be away they
/// fail at once with [`Error::Unavailable`], and work again by themselves when it is back.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// This incarnation of this node.
    fn this_node(&self) -> &NodeInfo;

    /// The nodes that hold a lease, as last seen (a second ago or less), this one included.
    fn nodes(&self) -> Vec<NodeInfo>;

    /// The newest version of the bus's frames that a node speaks; 1 if the node is not known.
    fn frames(&self, node: Epoch) -> u8;

    /// Whether rows in Redis are older than what this node wanted to write; until
    /// [`Event::CaughtUp`].
    fn is_behind(&self) -> bool;

    /// What happens around this node. `None` if it was taken before.
    fn events(&self) -> Option<Events>;

    /// Makes this node the owner of the session `jid`: not yet available, priority 0.
    ///
    /// The new sequence is higher than that of any session that held this full JID before, also
    /// of one that has ended if the clock of Redis did not go back. The session that was displaced
    /// has to be ended by the caller (`conflict`, RFC 6120 §7.7.2.2).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached. The row may then have been written or
    /// not; register again to know.
    async fn register(&self, jid: &FullJid) -> Result<Registered, Error>;

    /// Writes priority, availability and presence of a session. `false`: another session has the
    /// resource now; nothing was changed and this one's stream has to end.
    ///
    /// A row that is gone is written again: after a loss of data it is not the session that is at
    /// fault.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached.
    async fn update(&self, row: &SessionRow) -> Result<bool, Error>;

    /// Removes a session of this node. `false`: its row was gone or is another session's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached. The row then stays until the JID is
    /// registered again or this node ends.
    async fn unregister(&self, jid: &FullJid, sequence: u64) -> Result<bool, Error>;

    /// The sessions of each account, in the order asked. Sessions of nodes without a lease are left
    /// out.
    ///
    /// A caller that caches the answer must not keep it if [`Event::Changed`] for the account or
    /// [`Event::FlushCache`] came between the question and the answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached.
    async fn lookup(&self, accounts: &[BareJid]) -> Result<Vec<Vec<SessionRow>>, Error>;

    /// Writes sessions of this node again, with the sequences that they have, in paced batches.
    /// Returns those that a newer session has taken meanwhile, whose streams have to end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis goes away in between; call it again on the next
    /// [`Event::DataLost`] or later. Publishing twice does no harm.
    async fn republish(&self, rows: Vec<SessionRow>) -> Result<Vec<FullJid>, Error>;

    /// Says that the rows of an [`Event::Collect`] are dealt with, so that they can be removed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis cannot be reached, [`Error::ClaimLost`] when the node
    /// returned or another one has taken over; the rows are then handed to whoever it is.
    async fn collected(&self, node: &NodeInfo, rows: &[SessionRow]) -> Result<(), Error>;

    /// Gives up the lease and leaves at once. What is still registered is collected by the others
    /// as if this node had died. Operations fail afterwards.
    async fn shutdown(&self);
}
