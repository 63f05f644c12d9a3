//! What this crate measures.

use std::sync::LazyLock;

use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

/// Accepted connections by the setting of the listener.
pub(crate) static ACCEPTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_accepted_connections_total",
        "Connections accepted, by listener",
        &["listener"]
    )
    .expect("registered once")
});

/// Connections that could not be accepted because the process has no files or memory left.
pub(crate) static ACCEPT_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_accept_failures_total",
        "Times that no connection could be accepted for lack of files or memory, by listener",
        &["listener"]
    )
    .expect("registered once")
});

/// HTTP connections that were closed because `limits.http_connections` was reached.
pub(crate) static HTTP_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_http_refused_connections_total",
        "HTTP connections closed because too many were open, by listener",
        &["listener"]
    )
    .expect("registered once")
});

/// Answers to HTTP requests by path and status. Unknown paths are counted as `other`.
pub(crate) static HTTP_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_http_requests_total",
        "Answered HTTP requests, by path and status",
        &["path", "status"]
    )
    .expect("registered once")
});

/// When the certificate in use ends, in seconds since 1970.
pub(crate) static CERTIFICATE_NOT_AFTER: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_certificate_not_after_timestamp_seconds",
        "When the certificate in use ends, in seconds since 1970"
    )
    .expect("registered once")
});

/// 1 for the running version.
static BUILD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "rookery_build_info",
        "1, with the version as a label",
        &["version"]
    )
    .expect("registered once")
});

/// Makes all of them appear, with 0 where nothing has happened.
pub(crate) fn init() {
    for listener in [
        "c2s.listen",
        "c2s.direct_tls_listen",
        "http.listen",
        "http.tls_listen",
        "admin.listen",
    ] {
        ACCEPTED.with_label_values(&[listener]);
        ACCEPT_FAILURES.with_label_values(&[listener]);
    }
    for listener in ["http.listen", "http.tls_listen", "admin.listen"] {
        HTTP_REFUSED.with_label_values(&[listener]);
    }
    LazyLock::force(&HTTP_REQUESTS);
    LazyLock::force(&CERTIFICATE_NOT_AFTER);
    BUILD.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}
