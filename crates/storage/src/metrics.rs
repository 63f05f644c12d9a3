//! What the storage measures. Labels hold the backend and the operation, never an account.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

use crate::Error;

/// Durations from 20 µs to 10 s.
const SECONDS: &[f64] = &[
    2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0,
];

/// Rows that one commit made durable: log entries, and one for each other write.
pub static COMMIT_ROWS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rookery_storage_commit_rows",
        "Rows written by one commit (one for each write that is not a log entry).",
        &["backend"],
        exponential_buckets(1.0, 2.0, 10).expect("a start above 0 and a factor above 1")
    )
    .expect("registered once")
});

/// Duration of commits, from the first statement to the answer.
pub static COMMIT_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rookery_storage_commit_seconds",
        "Time a group of writes took, from its first statement to the end of the commit.",
        &["backend"],
        SECONDS.to_vec()
    )
    .expect("registered once")
});

/// Operations that wait in a queue.
pub static QUEUE_LENGTH: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "rookery_storage_queue_length",
        "Operations waiting to be taken up.",
        &["backend", "queue"]
    )
    .expect("registered once")
});

/// Duration of operations as their caller sees it.
pub static OPERATION_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rookery_storage_operation_seconds",
        "Time from asking the storage to its answer.",
        &["backend", "op"],
        SECONDS.to_vec()
    )
    .expect("registered once")
});

/// Operations that ended with an error; refusals such as a full roster included.
pub static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_storage_errors_total",
        "Operations that ended with an error, by its kind.",
        &["backend", "op", "kind"]
    )
    .expect("registered once")
});

/// Entries appended to message logs.
pub static LOG_ROWS_APPENDED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_storage_log_rows_appended_total",
        "Entries committed to message logs by this process."
    )
    .expect("registered once")
});

/// Entries that became delivered.
pub static LOG_ROWS_DELIVERED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_storage_log_rows_delivered_total",
        "Entries of message logs that this process marked as delivered."
    )
    .expect("registered once")
});

/// Messages that were refused because a log was full or its account gone.
pub static LOG_ROWS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "rookery_storage_log_rows_refused_total",
        "Messages that were not stored: the log was full or the account did not exist."
    )
    .expect("registered once")
});

/// Connections to the database server.
pub static CONNECTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_storage_connects_total",
        "Attempts to connect to the database server, by outcome.",
        &["outcome"]
    )
    .expect("registered once")
});

/// Whether the database server is away.
pub static OUTAGE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_storage_outage",
        "1 while the database server cannot be reached, else 0."
    )
    .expect("registered once")
});

/// Makes all of them show up, with 0.
pub fn init() {
    for vec in [&COMMIT_ROWS, &COMMIT_SECONDS, &OPERATION_SECONDS] {
        LazyLock::force(vec);
    }
    LazyLock::force(&QUEUE_LENGTH);
    LazyLock::force(&ERRORS);
    LazyLock::force(&OUTAGE);
    for counter in [&LOG_ROWS_APPENDED, &LOG_ROWS_DELIVERED, &LOG_ROWS_REFUSED] {
        LazyLock::force(counter);
    }
    for outcome in ["ok", "failed"] {
        CONNECTS.with_label_values(&[outcome]);
    }
}

/// Notes how one operation went.
pub(crate) fn observe<T>(
    backend: &'static str,
    op: &'static str,
    started: Instant,
    result: &Result<T, Error>,
) {
    OPERATION_SECONDS
        .with_label_values(&[backend, op])
        .observe(started.elapsed().as_secs_f64());
    if let Err(error) = result {
        ERRORS.with_label_values(&[backend, op, error.kind()]).inc();
    }
}

/// Notes one commit.
pub(crate) fn observe_commit(backend: &'static str, rows: usize, took: Duration) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a commit has far fewer than 2^52 rows"
    )]
    COMMIT_ROWS
        .with_label_values(&[backend])
        .observe(rows as f64);
    COMMIT_SECONDS
        .with_label_values(&[backend])
        .observe(took.as_secs_f64());
}
