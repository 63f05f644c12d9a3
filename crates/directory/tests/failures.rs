//! What Redis does in bad hours, while sessions come, change and go.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

mod redis_server;
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "only what its tests are written with"
)]
mod suite;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use rookery_directory::{
    Directory, Error, Event, RedisAddress, RedisConfig, RedisDirectory, SessionRow, keys,
};
use rookery_proto::jid::FullJid;
use tokio::sync::Mutex;

use crate::redis_server::RedisServer;
use crate::redis_server::proxy::Proxy;
use crate::redis_server::tcp::TcpServer;
use crate::suite::{PATIENCE, bound, eventually, expect, full, rows};

/// Leases of 600 ms, answers within 300 ms.
fn config(address: RedisAddress, name: &str) -> RedisConfig {
    RedisConfig {
        lease: Duration::from_millis(600),
        response_timeout: Duration::from_millis(300),
        ..RedisConfig::new(address, name)
    }
}

async fn start(server: &RedisServer, name: &str) -> RedisDirectory {
    RedisDirectory::start(config(server.address(), name))
        .await
        .unwrap()
}

async fn flush(server: &RedisServer) {
    let mut connection = server.connection().await;
    let _: () = redis::cmd("FLUSHALL")
        .query_async(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn writes_that_failed_are_made_up_for() {
    let server = RedisServer::start().await;
    let node = start(&server, "one").await;
    let mut events = node.events().unwrap();
    let (desk, phone) = (full("ann@example.com/desk"), full("ann@example.com/phone"));
    let sequence = node.register(&desk).await.unwrap().sequence;
    let ends = node.register(&phone).await.unwrap().sequence;
    server.freeze(true);
    // From here on nothing is sent that a Redis that wakes up might still do.
    while node.lookup(&[desk.to_bare()]).await.is_ok() {}
    let mut row = bound(&node, &desk, sequence);
    for priority in [1, 2] {
        row.priority = priority;
        row.available = true;
        let written = node.update(&row).await;
        assert!(matches!(written, Err(Error::Unavailable(_))), "{written:?}");
    }
    let removed = node.unregister(&phone, ends).await;
    assert!(matches!(removed, Err(Error::Unavailable(_))), "{removed:?}");
    assert!(node.is_behind());
    server.freeze(false);
    let began = Instant::now();
    expect(&mut events, |event| *event == Event::CaughtUp).await;
    assert!(!node.is_behind());
    let accounts = [desk.to_bare()];
    loop {
        let found = eventually(|| node.lookup(&accounts)).await;
        if found == [vec![row.clone()]] {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut connection = server.connection().await;
    let sessions = keys::sessions(keys::DEFAULT_PREFIX, node.this_node().epoch);
    let mut indexed = HashSet::new();
    while indexed != HashSet::from([desk.to_string()]) {
        assert!(began.elapsed() < PATIENCE, "{indexed:?}");
        indexed = connection.smembers(&sessions).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_published_again_does_not_replace_what_is_newer() {
    let server = RedisServer::start().await;
    let node = start(&server, "one").await;
    let mut events = node.events().unwrap();
    let jids =
        ["desk", "phone", "gone"].map(|resource| full(&format!("ann@example.com/{resource}")));
    let mut known = Vec::new();
    for jid in &jids {
        let sequence = node.register(jid).await.unwrap().sequence;
        known.push(bound(&node, jid, sequence));
    }
    flush(&server).await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    let mut newer = known[0].clone();
    newer.priority = 7;
    assert!(eventually(|| node.update(&newer)).await);
    eventually(|| node.unregister(&jids[2], known[2].sequence)).await;
    let lost = eventually(|| node.republish(known.clone())).await;
    assert!(lost.is_empty());
    let mut found = rows(&node, "ann@example.com").await;
    found.sort_by_key(|row| row.jid.to_string());
    assert_eq!(found, [newer, known[1].clone()]);

    // What was newer then is lost with the next loss, and is published again.
    flush(&server).await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    let lost = eventually(|| node.republish(found.clone())).await;
    assert!(lost.is_empty());
    let mut again = rows(&node, "ann@example.com").await;
    again.sort_by_key(|row| row.jid.to_string());
    assert_eq!(again, found);
}

/// A node and what it knows to be true.
struct Load {
    node: Arc<RedisDirectory>,
    truth: Mutex<HashMap<FullJid, SessionRow>>,
}

impl Load {
    async fn start(config: RedisConfig, sessions: usize) -> Arc<Self> {
        let name = config.node.clone();
        let node = RedisDirectory::start(config).await.unwrap();
        let mut truth = HashMap::new();
        for at in 0..sessions {
            let jid = full(&format!("user{at}@example.com/{name}"));
            let sequence = eventually(|| node.register(&jid)).await.sequence;
            truth.insert(jid.clone(), bound(&node, &jid, sequence));
        }
        Arc::new(Self {
            node: Arc::new(node),
            truth: Mutex::new(truth),
        })
    }

    /// As the actors do: publishes again until it has worked.
    async fn listen(self: Arc<Self>) {
        let mut events = self.node.events().unwrap();
        while let Some(event) = events.recv().await {
            if event != Event::DataLost {
                continue;
            }
            loop {
                let rows = self.truth.lock().await.values().cloned().collect();
                match self.node.republish(rows).await {
                    Ok(lost) => break assert!(lost.is_empty()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    }

    /// Sessions change and end, whatever Redis does. Returns how long the longest operation took.
    async fn change(self: Arc<Self>, rounds: usize) -> Duration {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            let mut truth = self.truth.lock().await;
            let mut jids: Vec<FullJid> = truth.keys().cloned().collect();
            jids.sort_by_key(FullJid::to_string);
            let jid = &jids[round * 7 % jids.len()];
            let began = Instant::now();
            if round % 10 == 9 {
                let row = truth.remove(jid).unwrap();
                let _ = self.node.unregister(jid, row.sequence).await;
            } else {
                let row = truth.get_mut(jid).unwrap();
                row.priority = i8::try_from(round % 100).unwrap();
                row.available = true;
                // What fails is made up for.
                let _ = self.node.update(row).await;
            }
            longest = longest.max(began.elapsed());
            drop(truth);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        longest
    }

    /// Waits until the directory holds what is true, seen from another node.
    async fn is_whole(&self, seen_by: &RedisDirectory) -> Duration {
        let began = Instant::now();
        loop {
            let truth = self.truth.lock().await;
            let accounts: HashSet<_> = truth.keys().map(FullJid::to_bare).collect();
            let accounts: Vec<_> = accounts.into_iter().collect();
            let found = eventually(|| seen_by.lookup(&accounts)).await;
            let epoch = self.node.this_node().epoch;
            let own = found.into_iter().flatten().filter(|row| row.epoch == epoch);
            let own: HashMap<FullJid, SessionRow> = own.map(|row| (row.jid.clone(), row)).collect();
            if own == *truth {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < 3 * PATIENCE,
                "{} of {} rows, {} right",
                own.len(),
                truth.len(),
                own.iter()
                    .filter(|(jid, row)| truth.get(*jid) == Some(row))
                    .count()
            );
            drop(truth);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Two nodes under load, while something happens to Redis.
async fn under_load(server: &mut RedisServer, happens: impl AsyncFnOnce(&mut RedisServer)) {
    let one = Load::start(config(server.address(), "one"), 400).await;
    let two = Load::start(config(server.address(), "two"), 400).await;
    let listeners = [&one, &two].map(|load| tokio::spawn(load.clone().listen()));
    let changes = [&one, &two].map(|load| tokio::spawn(load.clone().change(1200)));
    happens(server).await;
    for change in changes {
        println!("the longest operation took {:?}", change.await.unwrap());
    }
    println!("whole after {:?}", one.is_whole(&two.node).await);
    println!("whole after {:?}", two.is_whole(&one.node).await);
    for listener in listeners {
        assert!(!listener.is_finished());
        listener.abort();
    }
}

#[tokio::test]
async fn after_flushes_under_load_the_directory_is_whole_again() {
    let mut server = RedisServer::start().await;
    under_load(&mut server, async |server| {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            flush(server).await;
        }
    })
    .await;
}

#[tokio::test]
async fn after_kills_and_empty_restarts_under_load_the_directory_is_whole_again() {
    let mut server = RedisServer::start().await;
    under_load(&mut server, async |server| {
        for pause in [0, 800, 100] {
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            server.restart().await;
        }
    })
    .await;
}

#[tokio::test]
async fn after_hanging_under_load_the_directory_is_whole_again() {
    let mut server = RedisServer::start().await;
    under_load(&mut server, async |server| {
        // The first is too short for a timeout, the last longer than a lease.
        for pause in [100, 450, 900] {
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.freeze(true);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            server.freeze(false);
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_redis_slows_and_one_that_is_too_slow_counts_as_away() {
    let server = TcpServer::start(None, &[]).await;
    let proxy = Proxy::start(server.port).await;
    let direct = RedisAddress::parse(&format!("redis://{}", server.host())).unwrap();
    let slow = RedisAddress::parse(&format!("redis://127.0.0.1:{}", proxy.port)).unwrap();
    let patient = |address, name| RedisConfig {
        lease: Duration::from_secs(3),
        response_timeout: Duration::from_secs(1),
        ..config(address, name)
    };
    let load = Load::start(patient(slow, "one"), 100).await;
    let other = RedisDirectory::start(patient(direct, "other"))
        .await
        .unwrap();

    // 80 ms for each round trip: everything works, and the lease is kept.
    proxy.delay(Duration::from_millis(40));
    let jid = full("late@example.com/desk");
    let sequence = load.node.register(&jid).await.unwrap().sequence;
    let mut events = load.node.events().unwrap();
    while events.try_recv().is_some() {}
    for priority in 0..10 {
        let row = SessionRow {
            priority,
            ..bound(&*load.node, &jid, sequence)
        };
        assert!(load.node.update(&row).await.unwrap());
    }
    assert!(load.node.unregister(&jid, sequence).await.unwrap());
    while let Some(event) = events.try_recv() {
        assert!(matches!(event, Event::Changed(_)), "{event:?}");
    }

    // Longer than an answer may take: away, and the node fences itself.
    proxy.delay(Duration::from_millis(1500));
    let jid = load.truth.lock().await.keys().next().unwrap().clone();
    let mut truth = load.truth.lock().await;
    let row = truth.get_mut(&jid).unwrap();
    row.priority = 42;
    let written = load.node.update(row).await;
    assert!(matches!(written, Err(Error::Unavailable(_))), "{written:?}");
    drop(truth);
    expect(&mut events, |event| *event == Event::Fenced).await;

    proxy.delay(Duration::ZERO);
    expect(&mut events, |event| *event == Event::Unfenced).await;
    // If the lease ended at Redis as well, the other one has cleaned up after this node.
    let known = load
        .truth
        .lock()
        .await
        .values()
        .cloned()
        .collect::<Vec<_>>();
    eventually(|| load.node.republish(known.clone())).await;
    load.is_whole(&other).await;
}
