//! The bus on what stands behind every form of a Redis address.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

#[path = "../../directory/tests/redis_server/mod.rs"]
mod redis_server;
mod suite;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use rookery_bus::frame::VERSION;
use rookery_bus::{Bus, Frame, Inbound, Limits, RedisBus, RedisBusConfig, Spoken};
use rookery_directory::{RedisAddress, keys};
use rookery_proto::cluster::Epoch;

use crate::redis_server::cluster::RedisCluster;
use crate::redis_server::sentinel::{Watched, connect};
use crate::redis_server::tls::Certificates;
use crate::suite::{frame, patient, receive, receive_all, send, within};

/// A node, whose lease the test has taken care of.
async fn start(url: &str, prefix: &str, epoch: Epoch, limits: Limits, spoken: Spoken) -> RedisBus {
    let config = RedisBusConfig {
        prefix: prefix.to_owned(),
        patience: redis_server::PATIENCE,
        limits,
        ..RedisBusConfig::new(RedisAddress::parse(url).unwrap(), spoken)
    };
    RedisBus::start(epoch, config).await.unwrap()
}

fn newest() -> Spoken {
    Arc::new(|_| VERSION)
}

async fn lease(connection: &mut MultiplexedConnection, prefix: &str, epoch: Epoch) {
    let lease = keys::lease(prefix, epoch);
    let _: () = connection.set(lease, "node").await.unwrap();
}

/// The cluster that all hubs of the test are on.
static CLUSTER: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
static USED: AtomicUsize = AtomicUsize::new(0);

struct InCluster {
    cluster: Arc<RedisCluster>,
    prefix: String,
    inbox_batches: usize,
    older: Arc<Mutex<HashSet<Epoch>>>,
}

#[async_trait]
impl suite::Hub for InCluster {
    async fn start(inbox_batches: usize) -> Self {
        let cluster = CLUSTER.lock().unwrap().upgrade();
        let cluster = cluster.expect("the test has started it");
        // The test before may have left them frozen.
        for master in &cluster.masters {
            master.freeze(false);
        }
        cluster.ready().await;
        Self {
            cluster,
            prefix: format!("test{}", USED.fetch_add(1, Ordering::Relaxed)),
            inbox_batches,
            older: Arc::default(),
        }
    }

    async fn node(&self, epoch: Epoch, limits: Limits) -> Arc<dyn Bus> {
        let key = keys::lease(&self.prefix, epoch);
        let (_, mut owner) = self.cluster.owner(&key).await;
        lease(&mut owner, &self.prefix, epoch).await;
        let limits = Limits {
            inbox_batches: self.inbox_batches,
            ..limits
        };
        let older = self.older.clone();
        let spoken: Spoken = Arc::new(move |epoch| {
            let is_older = older.lock().unwrap().contains(&epoch);
            if is_older { 1 } else { VERSION }
        });
        Arc::new(start(&self.cluster.url(), &self.prefix, epoch, limits, spoken).await)
    }

    async fn older_node(&self, epoch: Epoch) -> Arc<dyn Bus> {
        self.older.lock().unwrap().insert(epoch);
        self.node(epoch, Limits::default()).await
    }

    async fn bury(&self, epoch: Epoch) {
        let key = keys::lease(&self.prefix, epoch);
        let (_, mut owner) = self.cluster.owner(&key).await;
        let _: () = owner.del(key).await.unwrap();
    }

    async fn set_reachable(&self, reachable: bool) {
        for master in &self.cluster.masters {
            master.freeze(!reachable);
        }
    }
}

#[tokio::test]
async fn all_of_the_suite_holds_in_a_redis_cluster() {
    let cluster = Arc::new(RedisCluster::start(None).await);
    *CLUSTER.lock().unwrap() = Arc::downgrade(&cluster);
    suite::bus_suite!(in turn: InCluster);
}

#[tokio::test]
async fn a_redis_cluster_may_speak_tls() {
    let cluster = RedisCluster::start(Some(Certificates::new(true))).await;
    let prefix = keys::DEFAULT_PREFIX;
    for epoch in [Epoch(1), Epoch(2)] {
        let (_, mut owner) = cluster.owner(&keys::lease(prefix, epoch)).await;
        lease(&mut owner, prefix, epoch).await;
    }
    let from = start(&cluster.url(), prefix, Epoch(1), patient(), newest()).await;
    let to = start(&cluster.url(), prefix, Epoch(2), patient(), newest()).await;
    send(&from, Epoch(2), &frame(1, 0)).await;
    let mut inbound = to.inbound().unwrap();
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));
}

#[tokio::test]
async fn an_inbox_may_move_to_another_master() {
    let cluster = RedisCluster::start(None).await;
    let prefix = keys::DEFAULT_PREFIX;
    let inbox = keys::inbox(prefix, Epoch(2));
    let (from_master, mut source) = cluster.owner(&inbox).await;
    let to_master = (from_master + 1) % 3;
    let mut target = cluster.connection(to_master).await;
    lease(&mut source, prefix, Epoch(2)).await;
    let from = start(&cluster.url(), prefix, Epoch(1), patient(), newest()).await;
    let to = start(&cluster.url(), prefix, Epoch(2), patient(), newest()).await;
    let mut inbound = to.inbound().unwrap();
    send(&from, Epoch(2), &frame(1, 0)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));

    let ask = |connection: &MultiplexedConnection, command: &[&str]| {
        let mut connection = connection.clone();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        async move { cmd.query_async::<redis::Value>(&mut connection).await }
    };
    let text = |value: redis::Value| -> String { redis::from_redis_value(value).unwrap() };
    let source_id = text(ask(&source, &["CLUSTER", "MYID"]).await.unwrap());
    let target_id = text(ask(&target, &["CLUSTER", "MYID"]).await.unwrap());
    let slot = text(ask(&source, &["CLUSTER", "KEYSLOT", &inbox]).await.unwrap());
    let set = ["CLUSTER", "SETSLOT", &slot];
    let importing = [&set[..], &["IMPORTING", &source_id]].concat();
    ask(&target, &importing).await.unwrap();
    let migrating = [&set[..], &["MIGRATING", &target_id]].concat();
    ask(&source, &migrating).await.unwrap();
    let port = cluster.masters[to_master].port.to_string();
    // Frames are on their way all the time.
    let sender = tokio::spawn(async move {
        for number in 1..300 {
            send(&from, Epoch(2), &frame(1, number)).await;
            tokio::task::yield_now().await;
        }
        from
    });
    let receiver = tokio::spawn(async move {
        let got = receive_all(&mut inbound, 299).await;
        (got, inbound)
    });
    // Both keys of the slot; while only one has moved, scripts on the two have to wait (TRYAGAIN).
    let keys: Vec<String> = source.keys("*").await.unwrap();
    for key in keys
        .iter()
        .filter(|key| key.contains(&Epoch(2).to_string()))
    {
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        ask(&source, &migrate).await.unwrap();
    }
    let owned = [&set[..], &["NODE", &target_id]].concat();
    ask(&target, &owned).await.unwrap();
    ask(&source, &owned).await.unwrap();
    let from = within(sender).await.unwrap();
    let (got, _inbound) = within(receiver).await.unwrap();
    let expected: Vec<Frame> = (1..300).map(|number| frame(1, number)).collect();
    assert_eq!(got, expected);
    let left: usize = target.exists(keys::lease(prefix, Epoch(2))).await.unwrap();
    assert_eq!(left, 1, "it has moved");
    drop(from);
}

async fn a_failover_loses_nothing_unnoticed(tls: Option<Certificates>) {
    let mut watched = Watched::start(tls, "s3cret").await;
    let prefix = keys::DEFAULT_PREFIX;
    let mut master = watched.master("s3cret").await;
    for epoch in [Epoch(1), Epoch(2)] {
        lease(&mut master, prefix, epoch).await;
    }
    // The replica has them, too.
    let copies: usize = redis::cmd("WAIT")
        .arg(1)
        .arg(0)
        .query_async(&mut master)
        .await
        .unwrap();
    assert_eq!(copies, 1);
    let limits = Limits {
        batch_bytes: 1,
        ..patient()
    };
    let url = watched.url("s3cret");
    let from = start(&url, prefix, Epoch(1), limits.clone(), newest()).await;
    let to = start(&url, prefix, Epoch(2), limits, newest()).await;
    let mut inbound = to.inbound().unwrap();
    send(&from, Epoch(2), &frame(1, 0)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));

    let last = 400;
    let sender = tokio::spawn(async move {
        for number in 1..=last {
            send(&from, Epoch(2), &frame(1, number)).await;
            if number == 200 {
                watched.master.kill();
            }
            tokio::task::yield_now().await;
        }
        (from, watched)
    });
    let mut next = 1;
    while next <= last {
        match within(inbound.recv()).await.unwrap() {
            Inbound::Frames { frames, .. } => {
                assert_eq!(frames.read().unwrap(), [frame(1, next)]);
                next += 1;
            }
            // What the replica had not got is missing, and this says so.
            Inbound::Gap { from: Epoch(1) } => loop {
                match within(inbound.recv()).await.unwrap() {
                    Inbound::Frames { frames, .. } => {
                        let frames = frames.read().unwrap();
                        let after = (next + 1..=last).find(|at| frames == [frame(1, *at)]);
                        next = after.expect("a later frame") + 1;
                        break;
                    }
                    Inbound::Gap { .. } => {}
                    other @ Inbound::Returned { .. } => panic!("{other:?}"),
                }
            },
            other => panic!("{other:?}"),
        }
    }
    sender.await.unwrap();
}

#[tokio::test]
async fn a_failover_by_sentinels_loses_nothing_unnoticed() {
    a_failover_loses_nothing_unnoticed(None).await;
}

#[tokio::test]
async fn a_failover_with_tls_loses_nothing_unnoticed() {
    a_failover_loses_nothing_unnoticed(Some(Certificates::new(true))).await;
}

#[tokio::test]
async fn one_redis_with_user_and_tls_is_enough() {
    let tls = Certificates::new(false);
    let arguments = [
        "--user",
        "rookery",
        "on",
        ">s3cret",
        "~rk1:*",
        "&rk1:*",
        "+@all",
        "-@dangerous",
        "--requirepass",
        "other",
    ];
    let server = redis_server::tcp::TcpServer::start(Some(&tls), &arguments).await;
    let mut connection = connect(&server.host(), "other", Some(&tls)).await;
    let prefix = keys::DEFAULT_PREFIX;
    for epoch in [Epoch(1), Epoch(2)] {
        lease(&mut connection, prefix, epoch).await;
    }
    let url = format!(
        "rediss://rookery:s3cret@{}?{}",
        server.host(),
        tls.parameters()
    );
    let from = start(&url, prefix, Epoch(1), patient(), newest()).await;
    let to = start(&url, prefix, Epoch(2), patient(), newest()).await;
    send(&from, Epoch(2), &frame(1, 0)).await;
    let mut inbound = to.inbound().unwrap();
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));
    within(from.shutdown()).await;
    drop(to);
    let _: () = connection.del(keys::lease(prefix, Epoch(2))).await.unwrap();
    let heir = start(&url, prefix, Epoch(3), patient(), newest()).await;
    heir.claim(Epoch(2)).await.unwrap();
}
