//! Ports for servers that cannot be told to take any free one. Also part of other crates' tests, by its path.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::TcpListener;

/// A port that nobody listens on, for now. Below those that the system gives to outgoing connections, so
/// that none of these takes it before the server that is to have it, or while that one is away; and so is
/// the one 10,000 above it, which Redis Cluster takes as well.
pub(crate) fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(random % 12_000).expect("less than 12,000");
        let is_free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}
