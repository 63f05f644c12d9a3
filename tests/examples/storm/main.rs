//! A reconnect storm by one command: a node of three dies, and all of its clients come back at once.
//!
//! ```sh
//! cargo build --release -p rookery-server
//! cargo run --release -p rookery-tests --example storm -- --sessions 3000
//! ```
//!
//! Most sessions are on the node that dies; pairs of clients on the two others chat at a steady rate,
//! and how long their messages take is compared before, during and after the storm, within one run.
//! The clients that come back are processes of their own with a lower priority (`nice`), and so is the end of
//! the node that dies, because elsewhere they would not share the others' cores. `ROOKERY_BINARY` names another server to measure.
//!
//! Two settings of Linux make the machine more like several: with `kernel.sched_autogroup_enabled=0` priorities
//! count between sessions of the terminal, too, and with `net.core.netdev_max_backlog=16384` the loopback
//! interface does not drop packets of those who stayed when thousands connect. What they are is printed.
//!
//! Ends with status 1 if somebody is not back in time, or a pair lost a message or its connection.

mod accounts;
mod herd;
mod pairs;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use herd::Herds;
use pairs::{Latencies, Pairs};
use rookery_tests::TestCluster;
use rookery_tests::http::metric;

const USAGE: &str = "\
usage: storm [--sessions NUMBER] [--processes NUMBER] [--contacts NUMBER] [--pairs NUMBER]
             [--rate MESSAGES_A_SECOND_OF_A_PAIR] [--calm SECONDS] [--patience SECONDS]
             [--within SECONDS] [--login scram|plain] [--tls yes|no] [--resume yes|no]
             [--set SECTION.KEY=VALUE]...";

/// What a run is made of.
#[derive(Clone, Debug)]
struct Storm {
    sessions: usize,
    processes: usize,
    contacts: usize,
    pairs: usize,
    rate: f64,
    calm: Duration,
    patience: Duration,
    /// Clients come back after a random part of this (RFC 6120 §3.3 has a minute).
    within: Duration,
    plain: bool,
    tls: bool,
    resume: bool,
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    if words.first().is_some_and(|word| word == herd::WORD) {
        local.block_on(&runtime, herd::run(&words[1..]));
        return ExitCode::SUCCESS;
    }
    match storm(words.into_iter()) {
        Ok(storm) => local.block_on(&runtime, run(&storm)),
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn storm(mut words: impl Iterator<Item = String>) -> Result<Storm, String> {
    let mut storm = Storm {
        sessions: 3000,
        processes: 1,
        contacts: 4,
        pairs: 200,
        rate: 1.0,
        calm: Duration::from_secs(15),
        patience: Duration::from_mins(3),
        within: Duration::ZERO,
        plain: false,
        tls: false,
        resume: false,
        settings: Vec::new(),
    };
    while let Some(option) = words.next() {
        let value = words.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--sessions" => storm.sessions = number(&option, &value)?,
            "--processes" => storm.processes = number(&option, &value)?,
            "--contacts" => storm.contacts = number(&option, &value)?,
            "--pairs" => storm.pairs = number(&option, &value)?,
            "--rate" => storm.rate = number(&option, &value)?,
            "--calm" => storm.calm = Duration::from_secs(number(&option, &value)?),
            "--patience" => storm.patience = Duration::from_secs(number(&option, &value)?),
            "--within" => storm.within = Duration::from_secs(number(&option, &value)?),
            "--login" => storm.plain = value == "plain",
            "--tls" => storm.tls = value == "yes",
            "--resume" => storm.resume = value == "yes",
            "--set" => storm.settings.push(value),
            _ => return Err(format!("{option} is unknown")),
        }
    }
    if storm.plain && !storm.tls {
        return Err("PLAIN is offered under TLS only".to_owned());
    }
    if storm.sessions == 0 || storm.pairs == 0 || storm.rate <= 0.0 || storm.processes == 0 {
        return Err("there must be sessions, processes, pairs and messages".to_owned());
    }
    Ok(storm)
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{option}: {value} is no number"))
}

async fn run(storm: &Storm) -> ExitCode {
    println!("{storm:?}");
    println!("load of the machine before: {}", load());
    for name in [
        "kernel.sched_autogroup_enabled",
        "net.core.netdev_max_backlog",
    ] {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = std::fs::read_to_string(file).unwrap_or_else(|error| error.to_string());
        println!("{name} = {}", value.trim());
    }
    let mut settings = vec!["c2s.tls=optional"];
    settings.extend(storm.settings.iter().map(String::as_str));
    let cluster = TestCluster::with(3, &settings).await;
    accounts::create(cluster.database(), storm).await;

    let nodes = [0, 1, 2].map(|number| cluster.node(number).address("c2s"));
    let start = Instant::now();
    let mut herds = Herds::start(storm, nodes);
    herds.wait("up", Duration::from_mins(10)).await;
    println!(
        "{} sessions are up after {:.1} s",
        storm.sessions,
        start.elapsed().as_secs_f64()
    );
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let pairs = Pairs::start(storm, [nodes[1], nodes[2]], Rc::clone(&latencies)).await;
    tokio::time::sleep(storm.calm).await;

    println!("load of the machine when a node dies: {}", load());
    lower_priority(cluster.node(0).pid());
    // Without waiting for its end, which would hold up the pairs.
    cluster.node(0).signal("KILL");
    let killed = Instant::now();
    let all_back = herds.wait("back", storm.patience).await;
    let back = Instant::now();
    println!(
        "all are back: {all_back}, {:.1} s after the kill",
        (back - killed).as_secs_f64()
    );
    tokio::time::sleep(storm.calm).await;
    println!("load of the machine after: {}", load());
    herds.report().await;
    let lost = pairs.finish().await;

    tell_timeline(&latencies.borrow(), killed, back);
    tell_latencies(&latencies.borrow(), killed, back);
    println!("lost messages or connections of pairs: {lost}");
    tell_counters(&cluster).await;
    if all_back && lost == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Lowers the priority of all threads of a process.
fn lower_priority(pid: u32) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let threads = threads.map(|thread| thread.expect("readable").file_name());
    let status = std::process::Command::new("renice")
        .args(["-n", "10", "-p"])
        .args(threads)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("renice is part of every Linux");
    assert!(status.success());
}

/// How messages fared second by second.
fn tell_timeline(latencies: &Latencies, killed: Instant, back: Instant) {
    println!("\nsecond by second after the kill, milliseconds");
    println!(
        "{:<8} {:>8} {:>8} {:>8} {:>8}",
        "", "messages", "p50", "p99", "max"
    );
    let second = Duration::from_secs(1);
    let (mut from, mut number) = (killed, 0);
    while from < back + second {
        let summary = latencies.between(Some(from), Some(from + second));
        println!("{number:<8} {summary}");
        (from, number) = (from + second, number + 1);
    }
}

fn tell_latencies(latencies: &Latencies, killed: Instant, back: Instant) {
    let calm = latencies.between(None, Some(killed));
    println!("\nmessages of those who stayed, milliseconds");
    println!(
        "{:<8} {:>8} {:>8} {:>8} {:>8}",
        "", "messages", "p50", "p99", "max"
    );
    for (phase, summary) in [
        ("before", &calm),
        ("during", &latencies.between(Some(killed), Some(back))),
        ("after", &latencies.between(Some(back), None)),
    ] {
        let times = summary.p99 / calm.p99;
        println!("{phase:<8} {summary}   p99 {times:.1} times calm");
    }
}

/// What the nodes that live have counted.
async fn tell_counters(cluster: &TestCluster) {
    println!("\ncounters of the nodes that stayed");
    for number in [1, 2] {
        let exposition = cluster.node(number).admin("/metrics").await.body;
        let told: Vec<&str> = exposition
            .lines()
            .filter(|line| {
                [
                    "streams_refused",
                    "mailbox_overflows",
                    "stream_errors",
                    "logins_total",
                    "admission",
                ]
                .iter()
                .any(|name| line.starts_with(&format!("rookery_{name}")))
                    && !line.ends_with(" 0")
            })
            .collect();
        let cpu = metric(&exposition, "process_cpu_seconds_total", "");
        println!("node {number}: cpu {cpu:?} s\n  {}", told.join("\n  "));
    }
}

/// The system's load averages.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
