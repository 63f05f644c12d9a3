//! What a measured part took: time, and CPU time of the server and of this program.

use std::time::{Duration, Instant};

use rookery_tests::figures::{cpu_seconds, family, float};

/// Readings at the beginning.
pub(crate) struct Meter {
    server: Vec<u32>,
    server_before: f64,
    own_before: f64,
    pub(crate) start: Instant,
}

impl Meter {
    /// Reads the server's process and its children, if there is one to read, and this program.
    pub(crate) fn start(server: Option<u32>) -> Self {
        let server = server.map(family).unwrap_or_default();
        Self {
            server_before: cpu_seconds(&server),
            own_before: cpu_seconds(&[std::process::id()]),
            server,
            start: Instant::now(),
        }
    }

    /// The figures of `count` things that were done until `end`, under names that say what they are.
    pub(crate) fn figures(&self, count: usize, end: Instant) -> serde_json::Value {
        let took = end.saturating_duration_since(self.start).as_secs_f64();
        let per_million = |seconds: f64| seconds / float(count) * 1e6;
        let server = cpu_seconds(&self.server) - self.server_before;
        let own = cpu_seconds(&[std::process::id()]) - self.own_before;
        serde_json::json!({
            "count": count,
            "per_second": float(count) / took,
            "server_cpu_per_million": per_million(server),
            "client_cpu_per_million": per_million(own),
        })
    }
}

/// Adds the median and the 99th percentile of latencies to figures, in milliseconds.
pub(crate) fn add_latencies(figures: &mut serde_json::Value, latencies: Vec<Duration>) {
    let mut millis: Vec<f64> = latencies
        .into_iter()
        .map(|latency| latency.as_secs_f64() * 1000.0)
        .collect();
    millis.sort_by(f64::total_cmp);
    for (name, part) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        figures[name] = rookery_tests::figures::percentile(&millis, part).into();
    }
}
