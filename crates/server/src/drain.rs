//! Draining: the clients of this node go on elsewhere, and the server runs on without them.
//!
//! First the node turns not ready and goes on as before for `server.drain_delay`, so that load balancers
//! send nobody here any more; then it takes no new streams and sends its clients away
//! (`Node::drain` in `rookery-actors`).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::{Readiness, Stage};
use crate::api::with_query;
use crate::commands;
use crate::config::{Config, Value};
use crate::control::{self, Reply, Request};
use crate::wiring::NodeHandle;

/// How often the sessions are counted.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// How often another node is asked how many sessions it has left.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time after which clients that logged in meanwhile are sent away as well.
const SHORTEST_ROUND: Duration = Duration::from_secs(1);

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many sessions are left.
    Left(usize),
    /// It is over, with so many sessions left.
    Drained(usize),
}

/// Starts to drain a node, in the background on the thread that calls. `timeout` begins when the clients
/// are sent away. Doing it again while it is under way does no harm.
pub(crate) fn start(
    node: NodeHandle,
    readiness: &Arc<Readiness>,
    delay: Duration,
    timeout: Duration,
) -> watch::Receiver<Progress> {
    let leave_at = readiness.leave(Stage::Draining) + delay;
    let (progress, seen) = watch::channel(Progress::Left(node.session_count()));
    tokio::task::spawn_local(async move {
        tokio::time::sleep_until(leave_at).await;
        let deadline = Instant::now() + timeout;
        let left = send_elsewhere(&node, deadline, &progress).await;
        tracing::info!(sessions = left, "drained");
    });
    seen
}

/// Sends clients away until none is left or the time is up. What is heard of it ends when there is no
/// session; clients that were still logging in then are sent away as well.
async fn send_elsewhere(
    node: &NodeHandle,
    deadline: Instant,
    progress: &watch::Sender<Progress>,
) -> usize {
    let mut rounds = std::pin::pin!(rounds(node, deadline));
    let mut count = tokio::time::interval(COUNT_INTERVAL);
    loop {
        let left = tokio::select! {
            // First, so that no stream is taken when the sessions are counted.
            biased;
            left = rounds.as_mut() => {
                progress.send_replace(Progress::Drained(left));
                return left;
            }
            _ = count.tick() => node.session_count(),
        };
        if left == 0 {
            progress.send_replace(Progress::Drained(0));
            return rounds.await;
        }
        progress.send_if_modified(|seen| {
            let now = Progress::Left(left);
            std::mem::replace(seen, now) != now
        });
    }
}

/// A round sends away those who are here when it begins; clients that were logging in then are for the
/// next one.
async fn rounds(node: &NodeHandle, deadline: Instant) -> usize {
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        let round = (rest / 2).max(SHORTEST_ROUND).min(rest);
        let left = node.drain(round).await;
        if left == 0 || Instant::now() >= deadline {
            return left;
        }
    }
}

/// `rookery drain`: has the server of this data directory drained, or another node, and says how far it is.
///
/// # Errors
/// If there is no server, or sessions are left at the end.
pub(crate) async fn run(
    config: &Config,
    timeout: Duration,
    node: Option<&str>,
) -> anyhow::Result<ExitCode> {
    if let Some(node) = node {
        return run_elsewhere(config, timeout, node).await;
    }
    let request = Request::Drain {
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let mut conversation = control::ask(&config.server.data_dir, &request).await?;
    let mut said = None;
    loop {
        match conversation.next().await? {
            Reply::Draining {
                delay_ms,
                in_cluster,
            } => {
                let when = when(Duration::from_millis(delay_ms));
                println!("the node is not ready any more; its clients are sent away {when}");
                if !in_cluster {
                    eprintln!(
                        "rookery: this server is a single node, so its clients have nowhere else to go"
                    );
                }
            }
            Reply::Left { sessions } if said != Some(sessions) => {
                said = Some(sessions);
                println!("{sessions} {} left", sessions_are(sessions));
            }
            Reply::Left { .. } => {}
            Reply::Drained { sessions: 0 } => {
                println!("no session is left; the server runs until it is stopped");
                return Ok(ExitCode::SUCCESS);
            }
            Reply::Drained { sessions } => return Err(left(sessions, timeout)),
            other => return Err(control::unexpected(&other)),
        }
    }
}

/// The same for a node that the server of this data directory knows.
async fn run_elsewhere(config: &Config, timeout: Duration, node: &str) -> anyhow::Result<ExitCode> {
    let path = with_query("/api/v1/drain", &[("node", Some(node))]);
    let body = json!({ "timeout": timeout.to_toml().trim_matches('"') });
    let started = commands::call(config, "POST", path, Some(body)).await?;
    let node = commands::text(&started["node"]);
    let delay = Duration::from_millis(started["delay_ms"].as_u64().unwrap_or(0));
    let when = when(delay);
    println!("node {node} is not ready any more; its clients are sent away {when}");
    let leave_at = Instant::now() + delay;
    let deadline = leave_at + timeout + LOOK_INTERVAL;
    let mut said = None;
    loop {
        let status = commands::call(config, "GET", "/api/v1/status".into(), None).await?;
        let nodes = || status["nodes"].as_array().into_iter().flatten();
        let found = nodes().find(|other| is_it(other, &started));
        let draining = found.filter(|found| found["stage"] != "serving");
        let left_there = draining.and_then(|found| found["sessions"].as_u64());
        let left_there = left_there.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let now = Instant::now();
        match left_there {
            Some(0) if now >= leave_at => {
                println!("no session is left; node {node} runs until it is stopped");
                return Ok(ExitCode::SUCCESS);
            }
            Some(sessions) if now >= deadline => return Err(left(sessions, timeout)),
            Some(sessions) if said != Some(sessions) => {
                said = Some(sessions);
                println!("{sessions} {} left", sessions_are(sessions));
            }
            None if found.is_some() => bail!("node {node} was started anew and serves again"),
            None if nodes().any(|other| other["node"] == node) && !is_silent(&status, node) => {
                bail!("node {node} is gone: the one that has its name now is another one")
            }
            // It may be slow, or was stopped.
            None if now >= deadline => bail!("node {node} does not say how many are left"),
            Some(_) | None => {}
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Whether a node of the status is the one that said this when its drain began.
fn is_it(other: &serde_json::Value, started: &serde_json::Value) -> bool {
    match started["epoch"].as_str() {
        Some(epoch) => other["epoch"] == epoch,
        // It is of a release that does not say.
        None => other["node"] == started["node"],
    }
}

/// Whether a node of this name has not told its status.
fn is_silent(status: &serde_json::Value, node: &str) -> bool {
    let silent = status["unanswered"].as_array();
    silent.is_some_and(|silent| silent.iter().any(|other| other["node"] == node))
}

fn when(delay: Duration) -> String {
    if delay.is_zero() {
        "now".into()
    } else {
        format!("in {}", delay.to_toml().trim_matches('"'))
    }
}

fn left(sessions: usize, timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "{sessions} {} left after {}; the server takes no new clients until it is started again",
        sessions_are(sessions),
        timeout.to_toml().trim_matches('"')
    )
}

fn sessions_are(count: usize) -> &'static str {
    if count == 1 {
        "session is"
    } else {
        "sessions are"
    }
}
