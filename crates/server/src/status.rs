//! How this node is: what the API's status call and the page that shows it have to tell.
//!
//! The numbers are those of `/metrics`, read by name from the registry, so that they cannot disagree.

use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use prometheus::proto::{Metric, MetricFamily};
use rookery_actors::Reporter;
use rookery_proto::datetime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::{Readiness, Stage};
use crate::events::{Event, Events};

/// How a node is. Fields that come later need a default: nodes of different releases ask each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// Empty on a single node, and from nodes of older releases.
    #[serde(default)]
    epoch: String,
    version: String,
    started: String,
    uptime_ms: u64,
    stage: Stage,
    problems: Vec<String>,
    fenced: bool,
    storage: String,
    storage_away: bool,
    redis_away: Vec<String>,
    sessions: u64,
    sessions_waiting: u64,
    newcomers_waiting: u64,
    messages_accepted: u64,
    messages_written: u64,
    messages_bounced: u64,
    logins: u64,
    logins_failed: u64,
    memory_bytes: u64,
    delivery: Latencies,
    commit: Latencies,
    events: Vec<Event>,
}

/// A node and how it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeReport {
    /// How people call it; empty on a single node.
    #[serde(rename = "node")]
    pub(crate) name: String,
    /// How it is.
    #[serde(flatten)]
    pub(crate) status: NodeStatus,
}

/// A histogram.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Latencies {
    upper_bounds_us: Vec<u64>,
    cumulative: Vec<u64>,
    total: u64,
}

/// Tells how the server with this readiness is, which began to serve now.
pub(crate) fn reporter(readiness: &Arc<Readiness>, events: Events) -> Reporter {
    // The node keeps the reporter and is kept by the readiness.
    let readiness = Arc::downgrade(readiness);
    let started = (SystemTime::now(), Instant::now());
    Reporter::new(move || {
        let (readiness, events) = (Weak::clone(&readiness), events.clone());
        Box::pin(async move {
            let Some(readiness) = readiness.upgrade() else {
                return Value::Null;
            };
            let status = status(&readiness, started, &events).await;
            serde_json::to_value(status).unwrap_or_default()
        })
    })
}

async fn status(
    readiness: &Readiness,
    (since, started): (SystemTime, Instant),
    events: &Events,
) -> NodeStatus {
    let problems = readiness.problems().await;
    let numbers = Numbers(prometheus::gather());
    let parts = readiness.parts();
    let cluster = parts.and_then(|(_, node)| node.nodes());
    NodeStatus {
        epoch: cluster.map_or_else(String::new, |(own, _)| own.to_string()),
        version: env!("CARGO_PKG_VERSION").into(),
        started: datetime::format(since),
        uptime_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        stage: readiness.current_stage(),
        problems,
        fenced: parts.is_some_and(|(_, node)| node.is_fenced()),
        storage: parts.map_or("", |(storage, _)| storage.backend()).into(),
        storage_away: numbers.gauge("rookery_storage_outage") > 0,
        redis_away: numbers.zeros("rookery_redis_connected", "purpose"),
        sessions: numbers.gauge("rookery_sessions"),
        sessions_waiting: numbers.gauge("rookery_sessions_waiting"),
        newcomers_waiting: numbers.gauge("rookery_newcomers_waiting"),
        messages_accepted: numbers.counter("rookery_stanzas_accepted_total", &[MESSAGE]),
        messages_written: numbers.counter("rookery_stanzas_written_total", &[MESSAGE]),
        messages_bounced: numbers
            .counter("rookery_stanzas_total", &[MESSAGE, ("outcome", "bounced")]),
        logins: numbers.counter("rookery_logins_total", &[SUCCESS]),
        logins_failed: numbers
            .counter("rookery_logins_total", &[])
            .saturating_sub(numbers.counter("rookery_logins_total", &[SUCCESS])),
        memory_bytes: numbers.gauge("process_resident_memory_bytes"),
        delivery: numbers.latencies("rookery_delivery_seconds"),
        commit: numbers.latencies("rookery_storage_commit_seconds"),
        events: events.all(),
    }
}

const MESSAGE: (&str, &str) = ("kind", "message");
const SUCCESS: (&str, &str) = ("outcome", "ok");

/// The metrics at one moment.
struct Numbers(Vec<MetricFamily>);

impl Numbers {
    fn of(&self, name: &str) -> &[Metric] {
        let family = self.0.iter().find(|family| family.name() == name);
        family.map_or(&[], |family| family.get_metric())
    }

    /// The sum over all labels.
    fn gauge(&self, name: &str) -> u64 {
        let values = self.of(name).iter();
        whole(values.map(|metric| metric.get_gauge().get_value()).sum())
    }

    /// The sum over those that have these labels.
    fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let wanted = self.of(name).iter().filter(|metric| {
            labels
                .iter()
                .all(|(name, value)| label(metric, name) == Some(*value))
        });
        whole(wanted.map(|metric| metric.get_counter().get_value()).sum())
    }

    /// The values of a label for which a gauge is 0.
    fn zeros(&self, name: &str, of: &str) -> Vec<String> {
        let zeros = self.of(name).iter();
        let zeros = zeros.filter(|metric| metric.get_gauge().get_value() == 0.0);
        let mut zeros: Vec<_> = zeros
            .filter_map(|metric| label(metric, of).map(str::to_owned))
            .collect();
        zeros.sort();
        zeros
    }

    /// A histogram, summed over its labels.
    fn latencies(&self, name: &str) -> Latencies {
        let mut sum = Latencies::default();
        for metric in self.of(name) {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            sum.total += histogram.get_sample_count();
            if sum.upper_bounds_us.is_empty() {
                let bounds = buckets.iter();
                sum.upper_bounds_us = bounds.map(|b| whole(b.upper_bound() * 1e6)).collect();
                sum.cumulative = vec![0; buckets.len()];
            }
            for (sum, bucket) in sum.cumulative.iter_mut().zip(buckets) {
                *sum += bucket.cumulative_count();
            }
        }
        sum
    }
}

fn label<'m>(metric: &'m Metric, name: &str) -> Option<&'m str> {
    let labels = metric.get_label().iter();
    let mut named = labels.filter(|label| label.name() == name);
    named.next().map(prometheus::proto::LabelPair::value)
}

/// Counts and sizes are whole and not negative, and far below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}
