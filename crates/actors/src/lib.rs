//! The actors: one per connection, per session and per account with sessions, and the routing
//! between them.
//!
//! Owns sockets after they were accepted, streams up to a bound resource, delivery inside the node
//! and to other nodes. It leaves the rules to `rookery-features`, what is kept to `rookery-storage`,
//! where sessions are to `rookery-directory` and how frames travel to `rookery-bus`.
//!
//! The types to know:
//!
//! - [`Node`]: starts the arbiters, takes connections, stops.
//! - [`connection::Connection`]: one transport stream.
//! - [`user_session::UserSession`]: one bound resource; applies the rules to what its client sends.
//! - [`presence_list::PresenceList`]: one account's roster and presence.
//! - [`shard::Shard`]: what the actors of one arbiter share; [`router`] has the delivery rules.
//!
//! A message from one client to another on the same node: the sender's `Connection` frames and
//! checks it, its `UserSession` stamps `from` and gives it to the `Shard` of the recipient's
//! account, which pushes it into the [`outbox::Outbox`] of each resource that gets it; the
//! recipient's `Connection` wakes and writes all that has gathered.

pub mod account;
pub mod administration;
pub mod admission;
pub mod answers;
pub(crate) mod archive;
pub mod audit;
pub mod budget;
pub(crate) mod carbons;
pub(crate) mod catch_up;
pub mod cluster;
pub(crate) mod commands;
pub mod connection;
pub mod dispatch;
pub(crate) mod frames;
pub mod inspect;
pub(crate) mod log_queue;
pub mod log_tracker;
pub mod metrics;
pub(crate) mod missed;
pub(crate) mod moving;
pub mod node;
pub mod operators;
pub mod outbox;
pub mod presence_list;
pub(crate) mod pulse;
pub mod receipts;
pub mod reply;
pub mod resumption;
pub mod router;
pub mod settings;
pub mod shard;
pub mod trace;
pub mod transport;
pub(crate) mod turnstile;
pub(crate) mod unread;
pub mod user_session;

pub use node::{Callee, Node, NodeShared, Reporter, StartError};
pub use settings::Settings;
