//! Placeholder.

pub mod admission;
pub mod connection;
pub mod settings;
pub mod transport;
