//! What the bus counts.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, register_histogram, register_int_counter,
    register_int_counter_vec, register_int_gauge,
};

/// Registration of a metric fails only if its name is taken or malformed, which a test would show.
const REGISTERED: &str = "the name is used once";

const BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05, 0.1, 0.5,
    1.0, 5.0,
];

macro_rules! by_direction {
    ($name:literal, $help:literal) => {
        LazyLock::new(|| register_int_counter_vec!($name, $help, &["direction"]).expect(REGISTERED))
    };
}

macro_rules! counter {
    ($name:literal, $help:literal) => {
        LazyLock::new(|| register_int_counter!($name, $help).expect(REGISTERED))
    };
}

static BATCHES: LazyLock<IntCounterVec> = by_direction!(
    "rookery_bus_batches_total",
    "Batches appended to inboxes and read from ours"
);
static FRAMES: LazyLock<IntCounterVec> = by_direction!(
    "rookery_bus_frames_total",
    "Frames appended to inboxes and read from ours"
);
static BYTES: LazyLock<IntCounterVec> = by_direction!(
    "rookery_bus_bytes_total",
    "Bytes appended to inboxes and read from ours"
);

/// Batches, frames and bytes in one direction.
pub(crate) struct Traffic {
    batches: IntCounter,
    frames: IntCounter,
    bytes: IntCounter,
}

pub(crate) static SENT: LazyLock<Traffic> = LazyLock::new(|| Traffic::new("sent"));
pub(crate) static RECEIVED: LazyLock<Traffic> = LazyLock::new(|| Traffic::new("received"));

pub(crate) static APPEND_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rookery_bus_append_seconds",
        "Time to append one batch to an inbox",
        BUCKETS.to_vec()
    )
    .expect(REGISTERED)
});
pub(crate) static DELIVERY_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rookery_bus_delivery_seconds",
        "From queueing the oldest frame of a batch to reading it on the other node, by both clocks",
        BUCKETS.to_vec()
    )
    .expect(REGISTERED)
});
pub(crate) static QUEUED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rookery_bus_queued_frames", "Frames that wait to be sent")
        .expect(REGISTERED)
});
pub(crate) static QUEUED_BYTES: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_bus_queued_bytes",
        "Bytes of frames that wait to be sent"
    )
    .expect(REGISTERED)
});
pub(crate) static REFUSED: LazyLock<IntCounter> = counter!(
    "rookery_bus_refused_frames_total",
    "Frames refused because a queue was full"
);
pub(crate) static UNSPOKEN: LazyLock<IntCounter> = counter!(
    "rookery_bus_unspoken_frames_total",
    "Frames refused because their node speaks an older version that has none like them"
);
pub(crate) static TOO_LARGE: LazyLock<IntCounter> = counter!(
    "rookery_bus_too_large_frames_total",
    "Frames refused because they are too large"
);
pub(crate) static FULL: LazyLock<IntCounter> = counter!(
    "rookery_bus_full_inboxes_total",
    "Appends that had to wait for a full inbox"
);
pub(crate) static RETURNED: LazyLock<IntCounter> = counter!(
    "rookery_bus_returned_frames_total",
    "Frames that could not be sent and came back"
);
pub(crate) static CLAIMED: LazyLock<IntCounter> = counter!(
    "rookery_bus_claimed_frames_total",
    "Frames taken from the inboxes of dead nodes"
);
pub(crate) static GAPS: LazyLock<IntCounter> = counter!(
    "rookery_bus_gaps_total",
    "Times that batches of a sender were missing"
);
pub(crate) static DUPLICATES: LazyLock<IntCounter> = counter!(
    "rookery_bus_duplicate_batches_total",
    "Batches that came twice and were dropped"
);
pub(crate) static UNREADABLE: LazyLock<IntCounter> = counter!(
    "rookery_bus_unreadable_batches_total",
    "Batches of another version, damaged batches and damaged frames"
);

/// A frame of a batch turned out to be damaged.
pub fn unreadable() {
    UNREADABLE.inc();
}

/// Makes every metric of this crate show, with 0.
pub fn init() {
    for traffic in [&SENT, &RECEIVED] {
        LazyLock::force(traffic);
    }
    for histogram in [&APPEND_SECONDS, &DELIVERY_SECONDS] {
        LazyLock::force(histogram);
    }
    for gauge in [&QUEUED, &QUEUED_BYTES] {
        LazyLock::force(gauge);
    }
    for counter in [
        &REFUSED,
        &UNSPOKEN,
        &TOO_LARGE,
        &FULL,
        &RETURNED,
        &CLAIMED,
        &GAPS,
        &DUPLICATES,
        &UNREADABLE,
    ] {
        LazyLock::force(counter);
    }
}

impl Traffic {
    fn new(direction: &str) -> Self {
        Self {
            batches: BATCHES.with_label_values(&[direction]),
            frames: FRAMES.with_label_values(&[direction]),
            bytes: BYTES.with_label_values(&[direction]),
        }
    }

    pub(crate) fn batch(&self, frames: usize, bytes: usize) {
        self.batches.inc();
        self.frames.inc_by(frames as u64);
        self.bytes.inc_by(bytes as u64);
    }
}
