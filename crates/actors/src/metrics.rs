//! What this crate measures; in prometheus' default registry. No JIDs in labels.

use std::sync::LazyLock;

use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    exponential_buckets, register_gauge, register_histogram, register_histogram_vec,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

use rookery_proto::stanza::Kind;

use crate::outbox::Outgoing;

/// Registers everything, so that it shows before it first happens.
pub fn init() {
    init_streams();
    init_stanzas();
}

// Streams, by `connection.rs` and `transport/`.

/// Open transport streams by transport: `tcp`, `tls`, `websocket`.
pub(crate) static STREAMS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("rookery_streams", "Open transport streams.", &["transport"])
        .expect("registered once")
});

/// Open transport streams of all kinds.
pub(crate) fn open_streams() -> i64 {
    ["tcp", "tls", "websocket"]
        .iter()
        .map(|t| STREAMS.with_label_values(&[t]).get())
        .sum()
}

/// Transport streams that were let in.
pub(crate) static STREAMS_ACCEPTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_streams_accepted_total",
        "Transport streams that were let in.",
        &["transport"]
    )
    .expect("registered once")
});

/// New connections that wait for their turn.
pub(crate) static NEWCOMERS_WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_newcomers_waiting",
        "New connections that wait for their turn."
    )
    .expect("registered once")
});

/// The pace at which new connections get their turn.
pub(crate) static NEWCOMERS_PACE: LazyLock<Gauge> = LazyLock::new(|| {
    register_gauge!(
        "rookery_newcomers_per_second_limit",
        "How many new connections get their turn in a second while others wait."
    )
    .expect("registered once")
});

/// Transport streams that were turned away, by reason.
pub(crate) static STREAMS_REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_streams_refused_total",
        "Transport streams that were turned away.",
        &["reason"]
    )
    .expect("registered once")
});

/// Stream errors sent, by condition.
pub(crate) static STREAM_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_stream_errors_total",
        "Stream errors sent.",
        &["condition"]
    )
    .expect("registered once")
});

static STREAM_BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_stream_bytes_total",
        "Bytes of streams, without TLS and WebSocket framing.",
        &["direction"]
    )
    .expect("registered once")
});

/// Bytes read from clients.
pub(crate) static BYTES_IN: LazyLock<IntCounter> =
    LazyLock::new(|| STREAM_BYTES.with_label_values(&["in"]));

/// Bytes written to clients.
pub(crate) static BYTES_OUT: LazyLock<IntCounter> =
    LazyLock::new(|| STREAM_BYTES.with_label_values(&["out"]));

/// TLS handshakes by outcome: `ok`, `failed`.
pub(crate) static TLS_HANDSHAKES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_tls_handshakes_total",
        "TLS handshakes.",
        &["outcome"]
    )
    .expect("registered once")
});

/// Duration of complete TLS handshakes, network included.
pub(crate) static TLS_HANDSHAKE_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rookery_tls_handshake_seconds",
        "Duration of complete TLS handshakes, network included.",
        exponential_buckets(0.000_25, 2.0, 16).expect("sensible buckets")
    )
    .expect("registered once")
});

/// Login attempts by mechanism and outcome (`ok` or the SASL failure condition).
pub(crate) static LOGINS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_logins_total",
        "Login attempts.",
        &["mechanism", "outcome"]
    )
    .expect("registered once")
});

/// Duration of successful logins by mechanism, network included.
pub(crate) static LOGIN_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "rookery_login_seconds",
        "Duration of successful logins, network included.",
        &["mechanism"],
        exponential_buckets(0.000_25, 2.0, 16).expect("sensible buckets")
    )
    .expect("registered once")
});

/// Registrations of accounts by strangers (XEP-0077), by outcome.
pub(crate) static REGISTRATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_registrations_total",
        "Accounts that strangers tried to register.",
        &["outcome"]
    )
    .expect("registered once")
});

fn init_streams() {
    for transport in ["tcp", "tls", "websocket"] {
        STREAMS.with_label_values(&[transport]);
        STREAMS_ACCEPTED.with_label_values(&[transport]);
    }
    for reason in [
        "limit",
        "address_limit",
        "proxy_header",
        "untrusted_proxy",
        "fenced",
    ] {
        STREAMS_REFUSED.with_label_values(&[reason]);
    }
    LazyLock::force(&NEWCOMERS_WAITING);
    LazyLock::force(&NEWCOMERS_PACE);
    LazyLock::force(&STREAM_ERRORS);
    LazyLock::force(&BYTES_IN);
    LazyLock::force(&BYTES_OUT);
    for outcome in ["ok", "failed"] {
        TLS_HANDSHAKES.with_label_values(&[outcome]);
    }
    LazyLock::force(&TLS_HANDSHAKE_SECONDS);
    for mechanism in [
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
    ] {
        for outcome in ["ok", "not-authorized"] {
            LOGINS.with_label_values(&[mechanism, outcome]);
        }
        LOGIN_SECONDS.with_label_values(&[mechanism]);
    }
    LazyLock::force(&REGISTRATIONS);
}

// Sessions and stanzas, by `shard.rs`, `router.rs`, `outbox.rs` and `user_session.rs`.

/// Bound resources on this node.
pub(crate) static SESSIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("rookery_sessions", "Bound resources on this node.")
        .expect("registered once")
});

/// Sessions whose connection broke and that wait to be resumed; they count as sessions.
pub(crate) static SESSIONS_WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_sessions_waiting",
        "Sessions without a connection that wait to be resumed (XEP-0198)."
    )
    .expect("registered once")
});

/// Attempts to resume a session by outcome: `ok`, `unknown`, `failed`; `expired`: nobody tried in time;
/// `moved`: another node took it.
pub(crate) static RESUMPTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_resumptions_total",
        "Sessions that were resumed, or were not (XEP-0198).",
        &["outcome"]
    )
    .expect("registered once")
});

/// Bounded queues that were full, by queue: `accept`, `shard`, `outbox`, `bus`.
pub(crate) static MAILBOX_OVERFLOWS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "rookery_mailbox_overflows_total",
        "How often a bounded queue was full.",
        &["queue"]
    )
    .expect("registered once")
});

/// Traces of stanzas that run on this node.
pub(crate) static TRACES: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "rookery_traces",
        "Traces of stanzas that run on this node (`rookery trace`)."
    )
    .expect("registered once")
});

static DELIVERY_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "rookery_delivery_seconds",
        "From reading a stanza to handing it to its recipient's socket, on this node.",
        exponential_buckets(0.000_01, 2.0, 20).expect("sensible buckets")
    )
    .expect("registered once")
});

/// How a stanza ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Handed to a client's stream, or handled by the server itself.
    Delivered,
    /// Committed to the log.
    Stored,
    /// Answered with an error.
    Bounced,
    /// Ended without an answer, as the RFC demands for its kind.
    Dropped,
}

impl Outcome {
    /// As in metrics.
    pub(crate) fn name(self) -> &'static str {
        OUTCOMES[self.index()]
    }

    fn index(self) -> usize {
        match self {
            Self::Delivered => 0,
            Self::Stored => 1,
            Self::Bounced => 2,
            Self::Dropped => 3,
        }
    }
}

const KINDS: [&str; 3] = ["message", "presence", "iq"];
const OUTCOMES: [&str; 4] = ["delivered", "stored", "bounced", "dropped"];

/// Counters by kind, looked up once: a stanza costs an addition.
struct Stanzas {
    accepted: [IntCounter; 3],
    ended: [[IntCounter; 4]; 3],
    written: [IntCounter; 3],
}

static STANZAS: LazyLock<Stanzas> = LazyLock::new(|| {
    let accepted = register_int_counter_vec!(
        "rookery_stanzas_accepted_total",
        "Stanzas that clients sent.",
        &["kind"]
    )
    .expect("registered once");
    let ended = register_int_counter_vec!(
        "rookery_stanzas_total",
        "Stanzas that clients sent by kind and by how they ended: each once, on one node of the \
         cluster. A message that was committed to the log is stored, also if it is delivered at once.",
        &["kind", "outcome"]
    )
    .expect("registered once");
    let written = register_int_counter_vec!(
        "rookery_stanzas_written_total",
        "Stanzas that were handed to clients' sockets; one that several clients get, or one client \
         twice, counts each time.",
        &["kind"]
    )
    .expect("registered once");
    Stanzas {
        written: KINDS.map(|kind| written.with_label_values(&[kind])),
        accepted: KINDS.map(|kind| accepted.with_label_values(&[kind])),
        ended: KINDS.map(|kind| OUTCOMES.map(|o| ended.with_label_values(&[kind, o]))),
    }
});

fn index(kind: Kind) -> usize {
    match kind {
        Kind::Message(_) => 0,
        Kind::Presence(_) => 1,
        Kind::Iq(_) => 2,
    }
}

/// A client sent a stanza.
pub(crate) fn stanza_in(kind: Kind) {
    STANZAS.accepted[index(kind)].inc();
}

/// Messages that clients have sent.
pub(crate) fn messages_in() -> u64 {
    STANZAS.accepted[0].get()
}

/// A stanza ended.
pub(crate) fn outcome(kind: Kind, outcome: Outcome) {
    STANZAS.ended[index(kind)][outcome.index()].inc();
}

/// A stanza ended, if it `counts`: if a client sent it, and it is no copy.
pub(crate) fn count(counts: bool, kind: Kind, outcome: Outcome) {
    if counts {
        self::outcome(kind, outcome);
    }
}

/// A stanza was handed to its recipient's socket.
pub(crate) fn written(outgoing: &Outgoing) {
    STANZAS.written[index(outgoing.stanza.kind)].inc();
    DELIVERY_SECONDS.observe(outgoing.accepted.elapsed().as_secs_f64());
}

fn init_stanzas() {
    LazyLock::force(&SESSIONS);
    LazyLock::force(&SESSIONS_WAITING);
    for outcome in ["ok", "unknown", "failed", "expired", "moved"] {
        RESUMPTIONS.with_label_values(&[outcome]);
    }
    LazyLock::force(&STANZAS);
    LazyLock::force(&TRACES);
    LazyLock::force(&DELIVERY_SECONDS);
    for queue in ["accept", "shard", "outbox", "bus"] {
        MAILBOX_OVERFLOWS.with_label_values(&[queue]);
    }
}
