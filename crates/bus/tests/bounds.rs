//! Redis or the receiver is slower than the sender: what waits stays within the limits, and nothing is
//! lost.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

#[path = "../../directory/tests/redis_server/mod.rs"]
mod redis_server;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "only what its tests are written with"
)]
mod suite;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redis::AsyncCommands as _;
use rookery_bus::frame::VERSION;
use rookery_bus::{Bus, Deliver, Frame, Inbound, Limits, Queued, Reason, RedisBus, RedisBusConfig};
use rookery_directory::{RedisAddress, keys};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::FullJid;
use rookery_proto::{Element, MessageType, Stanza};

use crate::redis_server::proxy::Proxy;
use crate::redis_server::tcp::TcpServer;
use crate::suite::{PATIENCE, patient, within};

const SENDER: Epoch = Epoch(1);
const RECEIVER: Epoch = Epoch(2);

/// So small that they are felt: 16 KiB and 40 frames in the queue, batches of 2 KiB, 8 in the inbox.
fn small() -> Limits {
    Limits {
        queue_frames: 40,
        queue_bytes: 16 * 1024,
        batch_bytes: 2 * 1024,
        inbox_batches: 8,
        ..patient()
    }
}

async fn node(url: &str, epoch: Epoch, limits: Limits) -> RedisBus {
    let mut config = RedisBusConfig::new(RedisAddress::parse(url).unwrap(), Arc::new(|_| VERSION));
    config.limits = limits;
    config.patience = PATIENCE;
    config.response_timeout = PATIENCE;
    RedisBus::start(epoch, config).await.unwrap()
}

async fn connection(server: &TcpServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}", server.host())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for epoch in [SENDER, RECEIVER] {
        let lease = keys::lease(keys::DEFAULT_PREFIX, epoch);
        let _: () = connection.set(lease, "node").await.unwrap();
    }
    connection
}

/// A message of some 300 to 1,300 bytes.
fn message(number: usize) -> Frame {
    let to = FullJid::parse("bob@example.com/phone").unwrap();
    let text = "x".repeat(200 + number * 37 % 1000);
    let stanza = Stanza::message(MessageType::Chat)
        .with_id(&number.to_string())
        .with_child(Element::new("body", "jabber:client").with_text(&text));
    Frame::Deliver(Deliver {
        stanza: Arc::new(stanza),
        to: [to].into(),
        responsible: true,
        hops: 0,
        entry: None,
        counts: true,
    })
}

fn number(frame: &Frame) -> usize {
    let Frame::Deliver(Deliver { stanza, .. }) = frame else {
        panic!("another frame: {frame:?}")
    };
    stanza.id.as_deref().unwrap().parse().unwrap()
}

/// The longest that a queue was.
#[derive(Default)]
struct Longest(Queued);

impl Longest {
    fn look(&mut self, bus: &RedisBus, limits: &Limits) {
        let queued = bus.queued(RECEIVER);
        self.0.frames = self.0.frames.max(queued.frames);
        self.0.bytes = self.0.bytes.max(queued.bytes);
        assert!(queued.frames <= limits.queue_frames, "{queued:?}");
        // The last frame may go beyond.
        assert!(queued.bytes < limits.queue_bytes + 1500, "{queued:?}");
    }
}

/// Sends as fast as there is room; returns how often there was none.
async fn send_all(bus: &RedisBus, limits: &Limits, numbers: std::ops::Range<usize>) -> usize {
    let mut longest = Longest::default();
    let mut full = 0;
    for number in numbers {
        let mut frame = message(number);
        while let Err(refused) = bus.send(RECEIVER, frame) {
            assert_eq!(refused.reason, Reason::Full);
            frame = refused.frame;
            full += 1;
            within(bus.ready(RECEIVER)).await;
        }
        longest.look(bus, limits);
    }
    println!("{full} times full, at most {:?}", longest.0);
    full
}

#[tokio::test]
async fn a_slow_redis_holds_the_sender_back_and_loses_nothing() {
    const FRAMES: usize = 600;
    let server = TcpServer::start(None, &[]).await;
    let _leases = connection(&server).await;
    let proxy = Proxy::start(server.port).await;
    let slow = format!("redis://127.0.0.1:{}", proxy.port);
    let from = node(&slow, SENDER, small()).await;
    let to = node(&format!("redis://{}", server.host()), RECEIVER, small()).await;
    proxy.delay(Duration::from_millis(10));
    let mut inbound = to.inbound().unwrap();
    let receiver = async {
        let mut next = 0;
        while next < FRAMES {
            match within(inbound.recv()).await.unwrap() {
                Inbound::Frames { frames, .. } => {
                    for frame in frames.read().unwrap() {
                        assert_eq!(number(&frame), next);
                        next += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let limits = small();
    let sender = send_all(&from, &limits, 0..FRAMES);
    let (full, ()) = futures_util::future::join(sender, receiver).await;
    assert!(full > 0, "it was never felt");
    within(is_empty(&from)).await;
}

/// Until the answer to the last append is there.
async fn is_empty(bus: &RedisBus) {
    while bus.queued(RECEIVER) != Queued::default() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Set in the process that receives.
const ROLE: &str = "ROOKERY_TEST_RECEIVER_OF";

/// This test's own program, as a node that sends each message back.
struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let test = "a_stopped_receiver_holds_the_sender_back_and_loses_nothing";
        let process = Command::new(own)
            .args([test, "--exact", "--nocapture"])
            .env(ROLE, url)
            .stdout(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }

    fn stop(&self, stopped: bool) {
        let signal = if stopped { "-STOP" } else { "-CONT" };
        let id = self.0.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn send_back(url: &str) {
    let bus = node(url, RECEIVER, patient()).await;
    let mut inbound = bus.inbound().unwrap();
    while let Some(Inbound::Frames { frames, done, .. }) = inbound.recv().await {
        for mut frame in frames.read().unwrap() {
            while let Err(refused) = bus.send(SENDER, frame) {
                frame = refused.frame;
                bus.ready(SENDER).await;
            }
        }
        drop(done);
    }
}

#[tokio::test]
async fn a_stopped_receiver_holds_the_sender_back_and_loses_nothing() {
    if let Ok(url) = std::env::var(ROLE) {
        return send_back(&url).await;
    }
    let server = TcpServer::start(None, &[]).await;
    let mut behind = connection(&server).await;
    let url = format!("redis://{}", server.host());
    let process = Process::start(&url);
    let limits = small();
    let from = node(&url, SENDER, limits.clone()).await;
    let mut inbound = from.inbound().unwrap();
    let inbox = keys::inbox(keys::DEFAULT_PREFIX, RECEIVER);
    let mut next = 0;
    let mut sent = 0;
    for _ in 0..3 {
        process.stop(true);
        // Until the inbox is full, and then the queue.
        let mut longest = Longest::default();
        let mut batches: usize = 0;
        loop {
            let is_full = batches == limits.inbox_batches;
            match from.send(RECEIVER, message(sent)) {
                Ok(()) => sent += 1,
                Err(refused) if is_full => break assert_eq!(refused.reason, Reason::Full),
                Err(_) => {}
            }
            longest.look(&from, &limits);
            batches = behind.xlen(&inbox).await.unwrap();
            assert!(batches <= limits.inbox_batches, "{batches}");
        }
        println!(
            "{sent} sent, {batches} batches in the inbox, {:?}",
            longest.0
        );
        let mut ready = from.ready(RECEIVER);
        let pending = tokio::time::timeout(Duration::from_millis(50), &mut ready).await;
        assert!(pending.is_err(), "there is no room");

        process.stop(false);
        within(ready).await;
        let calm = sent..sent + 50;
        sent = calm.end;
        send_all(&from, &limits, calm).await;
        while next < sent {
            match within(inbound.recv()).await.unwrap() {
                Inbound::Frames { frames, .. } => {
                    for frame in frames.read().unwrap() {
                        assert_eq!(frame, message(next));
                        next += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        within(is_empty(&from)).await;
    }
}
