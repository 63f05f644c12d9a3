//! Both backends: one suite that each must pass, and what is particular to one of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
#[path = "../../../../tests/src/free_port.rs"]
mod free_port;
mod migrations;
mod postgres;
mod postgres_doubt;
mod postgres_failures;
mod postgres_server;
mod sqlite;
mod sqlite_failures;
mod suite;
mod throughput;
