//! Harness of the suites: real servers, real Redis and PostgreSQL, and a client that ignores nothing.
//!
//! - [`TestServer`] runs one `rookery` process on free ports in a directory of its own;
//!   [`TestCluster`] runs several on a private Redis and PostgreSQL.
//! - [`Client`] is a logged-in resource. It sends its initial presence, and a stanza that the test
//!   did not ask for fails the test. [`Login`] says how it connects and authenticates. Under stream
//!   management it counts, and a [`Broken`] one can be resumed. [`archive`] has the queries of XEP-0313.
//! - [`Wire`] is a stream without a login, for what happens before one and for hostile input.
//! - [`api::Api`] makes calls of the administration API and compares the answers with their description.
//! - [`Browser`] is a headless Chromium, for the status page.
//! - [`light::Light`] is a client of the measuring examples: it costs next to nothing.
//! - [`Pattern`] describes an expected stanza; [`stanza`] builds the ones to send.
//!
//! The client side of SASL, TLS and framing is written anew here instead of being shared with the
//! server, so that a misreading of an RFC does not cancel itself out.
//!
//! Only the suites use this crate, so what cannot go on panics and says why.
#![expect(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

pub mod api;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod cluster;
pub mod command;
pub mod figures;
mod free_port;
pub mod http;
pub mod light;
pub mod netns;
pub mod pattern;
pub mod place;
pub mod prelude;
pub mod proxy;
pub mod python;
pub mod scram;
pub mod server;
pub mod services;
pub mod stanza;
pub mod stream_management;
pub mod tls;
pub mod wire;

pub use browser::Browser;
pub use client::managed::Broken;
pub use client::{Client, Login, Security, archive};
pub use cluster::TestCluster;
pub use pattern::Pattern;
pub use server::TestServer;
pub use wire::Wire;

use std::time::Duration;

/// How long anything may take that a test waits for: far more than it needs on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future` for [`DEADLINE`] at most.
///
/// Panics with `what` when the time is up.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(DEADLINE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {} s for {what}", DEADLINE.as_secs()))
}

/// Asks `probe` again and again until it holds, for [`DEADLINE`] at most: for what no stanza tells.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    within(what, async {
        loop {
            pace.tick().await;
            if probe().await {
                return;
            }
        }
    })
    .await;
}
