//! Measures the bus between two nodes in one process, each on a thread of its own, against a Redis
//! that runs already.
//!
//! ```text
//! redis-server --port 6400 --save '' &
//! cargo run --release -p rookery-bus --example measure_bus -- redis://127.0.0.1:6400 [gather in µs]
//! ```
//!
//! Messages with 300 bytes of text at 1,000 a second, 50,000 a second, and as many as fit. Prints
//! the delay from [`Bus::send`] to the decoded frame, and CPU seconds (both nodes; Redis) per million.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use rookery_bus::frame::VERSION;
use rookery_bus::{Bus, Deliver, Frame, Inbound, Limits, RedisBus, RedisBusConfig};
use rookery_directory::{RedisAddress, keys};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::FullJid;
use rookery_proto::{Element, MessageType, Stanza};

fn main() {
    let url = std::env::args().nth(1).expect("the address of a Redis");
    let gather = std::env::args()
        .nth(2)
        .map(|text| Duration::from_micros(text.parse().unwrap()));
    let mut limits = Limits::default();
    limits.gather = gather.unwrap_or(limits.gather);
    for (rate, number) in [
        (Some(1_000), 3_000),
        (Some(50_000), 200_000),
        (None, 1_000_000),
    ] {
        let (done, all_received) = tokio::sync::oneshot::channel();
        let (ready, started) = tokio::sync::oneshot::channel();
        let receiver = {
            let (url, limits) = (url.clone(), limits.clone());
            std::thread::spawn(move || run(receive(&url, limits, number, ready, done)))
        };
        let sender = {
            let (url, limits) = (url.clone(), limits.clone());
            std::thread::spawn(move || run(send(&url, limits, rate, number, started, all_received)))
        };
        let (began, cpu, redis_cpu) = sender.join().unwrap();
        let (ended, mut delays) = receiver.join().unwrap();
        delays.sort_unstable();
        let million = number as f64 / 1e6;
        let at = |share: f64| delays[(share * (delays.len() - 1) as f64) as usize];
        println!(
            "{:>9} asked {:>9.0}/s  p50 {:>6} µs  p99 {:>6} µs  CPU-s per million: nodes {:>6.2}, redis {:>6.2}",
            rate.map_or("max".to_owned(), |rate: usize| rate.to_string()),
            number as f64 / (ended - began).as_secs_f64(),
            at(0.5),
            at(0.99),
            cpu / million,
            redis_cpu / million,
        );
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

async fn node(url: &str, epoch: Epoch, limits: Limits) -> RedisBus {
    let mut connection = redis_connection(url).await;
    let _: () = connection
        .set(keys::lease(keys::DEFAULT_PREFIX, epoch), "node")
        .await
        .unwrap();
    let _: () = connection
        .del(keys::inbox(keys::DEFAULT_PREFIX, epoch))
        .await
        .unwrap();
    let config = RedisBusConfig {
        limits,
        ..RedisBusConfig::new(RedisAddress::parse(url).unwrap(), Arc::new(|_| VERSION))
    };
    RedisBus::start(epoch, config).await.unwrap()
}

async fn redis_connection(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn send(
    url: &str,
    limits: Limits,
    rate: Option<usize>,
    number: usize,
    started: tokio::sync::oneshot::Receiver<()>,
    all_received: tokio::sync::oneshot::Receiver<()>,
) -> (Instant, f64, f64) {
    let bus = node(url, Epoch(1), limits).await;
    let mut connection = redis_connection(url).await;
    started.await.unwrap();
    let (cpu, redis_cpu) = (own_cpu(), redis_cpu(&mut connection).await);
    let from = FullJid::parse("ann@example.com/desk").unwrap();
    let to = FullJid::parse("bob@example.com/phone").unwrap();
    let text = "x".repeat(300);
    let began = Instant::now();
    let mut sent = 0;
    while sent < number {
        let due = rate.map_or(number, |rate| {
            (began.elapsed().as_secs_f64() * rate as f64) as usize + 1
        });
        if sent >= due.min(number) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let stanza = Stanza::message(MessageType::Chat)
            .with_from(from.clone())
            .with_to(to.clone())
            .with_id(&micros().to_string())
            .with_child(Element::new("body", "jabber:client").with_text(&text));
        let mut frame = Frame::Deliver(Deliver {
            stanza: Arc::new(stanza),
            to: [to.clone()].into(),
            responsible: true,
            hops: 0,
            entry: None,
            counts: true,
        });
        while let Err(refused) = bus.send(Epoch(2), frame) {
            frame = refused.frame;
            bus.ready(Epoch(2)).await;
        }
        sent += 1;
        if sent % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    all_received.await.unwrap();
    let used = (
        own_cpu() - cpu,
        self::redis_cpu(&mut connection).await - redis_cpu,
    );
    bus.shutdown().await;
    (began, used.0, used.1)
}

async fn receive(
    url: &str,
    limits: Limits,
    number: usize,
    ready: tokio::sync::oneshot::Sender<()>,
    done: tokio::sync::oneshot::Sender<()>,
) -> (Instant, Vec<u64>) {
    let bus = node(url, Epoch(2), limits).await;
    let mut inbound = bus.inbound().unwrap();
    let mut delays = Vec::with_capacity(number);
    ready.send(()).unwrap();
    while delays.len() < number {
        let Some(Inbound::Frames { frames, .. }) = inbound.recv().await else {
            panic!("something was lost")
        };
        let now = micros();
        for frame in frames.read().unwrap() {
            let Frame::Deliver(Deliver { stanza, .. }) = frame else {
                panic!("another frame")
            };
            let sent: u64 = stanza.id.as_deref().unwrap().parse().unwrap();
            delays.push(now.saturating_sub(sent));
        }
    }
    done.send(()).unwrap();
    (Instant::now(), delays)
}

fn micros() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_micros() as u64
}

/// CPU seconds of this process so far.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

async fn redis_cpu(connection: &mut redis::aio::MultiplexedConnection) -> f64 {
    let info: String = redis::cmd("INFO")
        .arg("cpu")
        .query_async(connection)
        .await
        .unwrap();
    let value = |name: &str| -> f64 {
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        found.trim().parse().unwrap()
    };
    value("used_cpu_sys:") + value("used_cpu_user:")
}
