//! What the directory counts. No JIDs in labels.

use std::sync::LazyLock;
use std::time::Instant;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

use crate::Error;

/// Registration of a metric fails only if its name is taken or malformed, which a test would show.
const REGISTERED: &str = "the name is used once";

const BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
];

static OPERATIONS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rookery_directory_operation_seconds",
        "Duration of directory operations, by operation and outcome",
        &["operation", "outcome"],
        BUCKETS.to_vec()
    )
    .expect(REGISTERED)
});

pub(crate) static LEASE_RENEWALS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_directory_lease_renewals_total",
        "Renewals of this node's lease: renewed, taken (anew), failed",
        &["outcome"]
    )
    .expect(REGISTERED)
});

pub(crate) static FENCED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_directory_fenced",
        "1 while the lease could not be renewed for its whole time"
    )
    .expect(REGISTERED)
});

pub(crate) static NODES: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_directory_nodes",
        "Nodes that hold a lease, this one included"
    )
    .expect(REGISTERED)
});

pub(crate) static NODES_LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_directory_nodes_lost_total",
        "Other nodes whose lease ended"
    )
    .expect(REGISTERED)
});

pub(crate) static COLLECTED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_directory_collected_sessions_total",
        "Sessions of lost nodes that this node cleaned up after"
    )
    .expect(REGISTERED)
});

pub(crate) static WRITTEN_AGAIN: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_directory_written_again_total",
        "Writes of sessions that failed while Redis was away and were made up for"
    )
    .expect(REGISTERED)
});

pub(crate) static HINTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_directory_cache_hints_total",
        "Accounts named in cache hints, and whole-cache flushes: sent, received, flushed",
        &["direction"]
    )
    .expect(REGISTERED)
});

/// 1 while there is a connection for this purpose.
pub(crate) static REDIS_CONNECTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "rookery_redis_connected",
        "1 while there is a connection to Redis, by purpose",
        &["purpose"]
    )
    .expect(REGISTERED)
});

pub(crate) static REGISTER: LazyLock<Operation> = LazyLock::new(|| Operation::new("register"));
pub(crate) static UPDATE: LazyLock<Operation> = LazyLock::new(|| Operation::new("update"));
pub(crate) static UNREGISTER: LazyLock<Operation> = LazyLock::new(|| Operation::new("unregister"));
pub(crate) static LOOKUP: LazyLock<Operation> = LazyLock::new(|| Operation::new("lookup"));
pub(crate) static REPUBLISH: LazyLock<Operation> = LazyLock::new(|| Operation::new("republish"));
pub(crate) static COLLECT: LazyLock<Operation> = LazyLock::new(|| Operation::new("collected"));

/// Makes every metric of this crate show, with 0.
pub fn init() {
    for operation in [
        &REGISTER,
        &UPDATE,
        &UNREGISTER,
        &LOOKUP,
        &REPUBLISH,
        &COLLECT,
    ] {
        LazyLock::force(operation);
    }
    for outcome in ["renewed", "taken", "failed"] {
        LEASE_RENEWALS.with_label_values(&[outcome]);
    }
    for direction in ["sent", "received", "flushed"] {
        HINTS.with_label_values(&[direction]);
    }
    for gauge in [&FENCED, &NODES] {
        LazyLock::force(gauge);
    }
    for counter in [&NODES_LOST, &COLLECTED, &WRITTEN_AGAIN] {
        LazyLock::force(counter);
    }
    REDIS_CONNECTED.with_label_values(&["directory"]);
}

/// The durations of one operation, by outcome.
pub(crate) struct Operation {
    ok: Histogram,
    unavailable: Histogram,
    failed: Histogram,
}

impl Operation {
    fn new(operation: &str) -> Self {
        let by = |outcome: &str| OPERATIONS.with_label_values(&[operation, outcome]);
        Self {
            ok: by("ok"),
            unavailable: by("unavailable"),
            failed: by("failed"),
        }
    }

    /// Runs the operation and notes how long it took and how it ended.
    pub(crate) async fn measure<T>(
        &self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = run.await;
        let histogram = match &result {
            Ok(_) => &self.ok,
            Err(Error::Unavailable(_)) => &self.unavailable,
            Err(_) => &self.failed,
        };
        histogram.observe(began.elapsed().as_secs_f64());
        result
    }
}
