//! What survives a crash: accounts, rosters, block lists, the message log and small per-account data.
//!
//! Owns the traits, one for each kind of data, their two implementations and the schemas. It leaves
//! to others what the data means: rules are in `rookery-features`. Reads always ask the database, so
//! that a change made by another process or node is seen by the next one.
//!
//! Acknowledged is durable: a write returns after its commit, and `kill -9` of any process loses
//! nothing that returned. Everything is bounded: who finds a queue full waits for
//! [`Options::timeout`] and then gets [`Error::Unavailable`]; while a database server is known to be
//! away, everybody gets that at once.
//!
//! The types to know:
//!
//! - [`open()`] and [`Options`]: a URL in, an `Arc<dyn Storage>` out.
//! - [`Storage`]: all the traits together, with [`Storage::health`] and [`Storage::close`].
//! - [`RosterStore::update_roster`]: read, decide and write in one transaction.
//! - [`LogStore`]: the message log, committed in groups.
//! - [`ArchiveStore`]: what accounts may read of their logs.
//! - [`WholeStore`]: accounts that come from elsewhere. [`backup`]: copies of a `SQLite` file in use.
//! - [`Error`]: refusals and failures, told apart by [`Error::is_failure`].
//!
//! Backends: `sqlite` (one file, a thread that writes and a few that read) and `postgres` (a pool of
//! connections that come back by themselves). Both pass the suite in `tests/backends/suite`.

use std::fmt::Debug;

use async_trait::async_trait;

mod accounts;
mod archive;
mod blocks;
mod error;
mod log;
pub mod metrics;
mod open;
mod postgres;
mod profile;
mod roster;
mod secrets;
mod sqlite;
mod whole;

pub use accounts::{AccountStore, LoginKeys};
pub use archive::{
    ArchiveAnswer, ArchiveBounds, ArchiveDefault, ArchivePage, ArchivePreferences, ArchiveQuery,
    ArchiveStore, Page,
};
pub use blocks::BlockStore;
pub use error::{Cause, Error};
pub use log::{
    Entry, EntryId, LogCopy, LogStore, MAX_AHEAD, NewMessage, Pending, Refused, Stored, StoredCopy,
};
pub use open::{Options, check_url, open};
pub use profile::{LastStore, PrivateElement, PrivateStore, VcardStore};
pub use roster::{
    MAX_TOMBSTONES, Roster, RosterChange, RosterCommit, RosterDecision, RosterStore, RosterUpdate,
};
pub use secrets::SecretStore;
pub use sqlite::backup;
pub use whole::{WholeAccount, WholeStore};

/// Everything that an installation stores.
///
/// All methods may be called from any thread that runs a tokio runtime with timers. Dropping a
/// returned future gives up waiting; whether a write happens then is open.
#[async_trait]
pub trait Storage:
    AccountStore
    + RosterStore
    + BlockStore
    + LogStore
    + ArchiveStore
    + VcardStore
    + PrivateStore
    + LastStore
    + SecretStore
    + WholeStore
    + Debug
    + Send
    + Sync
{
    /// Asks the database something cheap.
    ///
    /// # Errors
    /// What every other operation would get now.
    async fn health(&self) -> Result<(), Error>;

    /// Finishes what was asked for before, then closes the database. Operations that come later
    /// get [`Error::Unavailable`]. May be called more than once.
    async fn close(&self);

    /// `sqlite` or `postgres`.
    fn backend(&self) -> &'static str;
}
