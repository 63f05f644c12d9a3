//! The bus on Redis Streams: the suite, and what happens to Redis in bad hours.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

#[path = "../../directory/tests/redis_server/mod.rs"]
mod redis_server;
mod suite;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::AsyncCommands as _;
use rookery_bus::frame::VERSION;
use rookery_bus::{Bus, Inbound, Limits, RedisBus, RedisBusConfig, Spoken};
use rookery_directory::keys;
use rookery_proto::cluster::Epoch;

use crate::redis_server::RedisServer;
use crate::suite::{PATIENCE, frame, patient, receive, send, within};

/// Batches of more than `SCRIPT_BYTES` are appended by transactions.
struct InRedis<const SCRIPT_BYTES: usize> {
    server: RedisServer,
    older: Arc<Mutex<HashSet<Epoch>>>,
    inbox_batches: usize,
}

#[async_trait]
impl<const SCRIPT_BYTES: usize> suite::Hub for InRedis<SCRIPT_BYTES> {
    async fn start(inbox_batches: usize) -> Self {
        Self {
            server: RedisServer::start().await,
            older: Arc::default(),
            inbox_batches,
        }
    }

    async fn node(&self, epoch: Epoch, limits: Limits) -> Arc<dyn Bus> {
        let limits = Limits {
            script_bytes: SCRIPT_BYTES,
            inbox_batches: self.inbox_batches,
            ..limits
        };
        let older = self.older.clone();
        let spoken: Spoken = Arc::new(move |epoch| {
            let is_older = older.lock().unwrap().contains(&epoch);
            if is_older { 1 } else { VERSION }
        });
        Arc::new(start_with(&self.server, epoch, limits, spoken).await)
    }

    async fn older_node(&self, epoch: Epoch) -> Arc<dyn Bus> {
        self.older.lock().unwrap().insert(epoch);
        self.node(epoch, Limits::default()).await
    }

    async fn bury(&self, epoch: Epoch) {
        let mut connection = self.server.connection().await;
        let _: () = connection
            .del(keys::lease(keys::DEFAULT_PREFIX, epoch))
            .await
            .unwrap();
    }

    async fn set_reachable(&self, reachable: bool) {
        self.server.freeze(!reachable);
    }
}

mod by_script {
    use super::{InRedis, suite};

    suite::bus_suite!(InRedis<{ usize::MAX }>);
}

mod by_transaction {
    use super::{InRedis, suite};

    suite::bus_suite!(InRedis<0>);
}

/// A node, with a lease that does not end by itself.
async fn start(server: &RedisServer, epoch: Epoch, limits: Limits) -> RedisBus {
    start_with(server, epoch, limits, Arc::new(|_| VERSION)).await
}

async fn start_with(
    server: &RedisServer,
    epoch: Epoch,
    limits: Limits,
    spoken: Spoken,
) -> RedisBus {
    lease(server, epoch).await;
    let mut config = RedisBusConfig::new(server.address(), spoken);
    config.limits = limits;
    RedisBus::start(epoch, config).await.unwrap()
}

async fn lease(server: &RedisServer, epoch: Epoch) {
    let mut connection = server.connection().await;
    let _: () = connection
        .set(keys::lease(keys::DEFAULT_PREFIX, epoch), "node")
        .await
        .unwrap();
}

fn inbox(epoch: Epoch) -> String {
    keys::inbox(keys::DEFAULT_PREFIX, epoch)
}

#[tokio::test]
async fn after_an_empty_restart_the_receiver_learns_what_it_missed() {
    let mut server = RedisServer::start().await;
    let limits = Limits {
        batch_bytes: 1,
        gather: Duration::ZERO,
        ..patient()
    };
    let from = start(&server, Epoch(1), limits.clone()).await;
    let to = start(&server, Epoch(2), limits).await;
    let mut inbound = to.inbound().unwrap();
    // More than the reader takes in advance, and none of it handled.
    for number in 0..200 {
        send(&from, Epoch(2), &frame(1, number)).await;
    }
    let mut connection = server.connection().await;
    while connection.xlen::<_, usize>(inbox(Epoch(2))).await.unwrap() < 200 {
        tokio::task::yield_now().await;
    }
    server.kill();
    server.restart().await;
    lease(&server, Epoch(1)).await;
    lease(&server, Epoch(2)).await;
    // What the reader had stays; what it had not is reported lost, although nobody sends anything.
    let mut number = 0;
    loop {
        match within(inbound.recv()).await.unwrap() {
            Inbound::Frames { frames, .. } => {
                assert_eq!(frames.read().unwrap(), [frame(1, number)]);
            }
            Inbound::Gap { from } => break assert_eq!(from, Epoch(1)),
            other @ Inbound::Returned { .. } => panic!("{other:?}"),
        }
        number += 1;
    }
    assert!(number < 200, "the reader took it all in advance");
    send(&from, Epoch(2), &frame(1, 1000)).await;
    let (_, mut frames) = receive(&mut inbound).await;
    if frames == [frame(1, 199)] {
        // The answer to its append was lost, so it was sent again.
        frames = receive(&mut inbound).await.1;
    }
    assert_eq!(frames, [frame(1, 1000)]);
}

#[tokio::test]
async fn after_an_empty_restart_without_loss_there_is_no_gap() {
    let mut server = RedisServer::start().await;
    let from = start(&server, Epoch(1), patient()).await;
    let to = start(&server, Epoch(2), patient()).await;
    let mut inbound = to.inbound().unwrap();
    for round in 0..3 {
        send(&from, Epoch(2), &frame(1, round)).await;
        assert_eq!(
            receive(&mut inbound).await,
            (Epoch(1), vec![frame(1, round)])
        );
        server.kill();
        send(&from, Epoch(2), &frame(2, round)).await;
        server.restart().await;
        lease(&server, Epoch(1)).await;
        lease(&server, Epoch(2)).await;
        assert_eq!(
            receive(&mut inbound).await,
            (Epoch(1), vec![frame(2, round)])
        );
    }
}

/// `FLUSHALL` leaves the connections as they are.
#[tokio::test]
async fn when_redis_is_flushed_under_load_what_is_missing_is_said_to_be() {
    const LAST: usize = 900;
    let server = RedisServer::start().await;
    let limits = Limits {
        batch_bytes: 1,
        ..patient()
    };
    let from = start(&server, Epoch(1), limits.clone()).await;
    let to = start(&server, Epoch(2), limits).await;
    let mut inbound = to.inbound().unwrap();
    let mut returned = from.inbound().unwrap();
    let sender = async {
        for number in 1..=LAST {
            send(&from, Epoch(2), &frame(1, number)).await;
            if number % 300 == 0 && number < LAST {
                let mut connection = server.connection().await;
                let _: () = redis::cmd("FLUSHALL")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                // Appends find no lease for a while; then the nodes notice, one after the other.
                for more in 1..20 {
                    tokio::task::yield_now().await;
                    send(&from, Epoch(2), &frame(2, more)).await;
                }
                from.data_lost();
                lease(&server, Epoch(1)).await;
                to.data_lost();
                lease(&server, Epoch(2)).await;
            }
        }
    };
    let receiver = async {
        let mut next = 1;
        let mut losses = 0;
        while next <= LAST {
            match within(inbound.recv()).await.unwrap() {
                Inbound::Frames { frames, .. } => {
                    let frames = frames.read().unwrap();
                    let at = (next..=LAST).find(|at| frames == [frame(1, *at)]);
                    match at {
                        Some(at) => {
                            assert!(at == next || losses > 0, "{next} is missing");
                            next = at + 1;
                            losses = 0;
                        }
                        None => assert!((1..20).any(|more| frames == [frame(2, more)])),
                    }
                }
                Inbound::Gap { from: Epoch(1) } => losses += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    futures_util::future::join(sender, receiver).await;
    assert!(returned.try_recv().is_err(), "the other node was there");
}

#[tokio::test]
async fn a_batch_that_is_appended_twice_is_dropped() {
    let server = RedisServer::start().await;
    let from = start(&server, Epoch(1), patient()).await;
    let to = start(&server, Epoch(2), patient()).await;
    let mut inbound = to.inbound().unwrap();
    send(&from, Epoch(2), &frame(1, 0)).await;
    let held = within(inbound.recv()).await.unwrap();
    let mut connection = server.connection().await;
    let entries: redis::streams::StreamRangeReply =
        connection.xrange_all(inbox(Epoch(2))).await.unwrap();
    let batch: Vec<u8> = entries.ids[0].get("b").unwrap();
    let _: String = connection
        .xadd(inbox(Epoch(2)), "*", &[("b", batch)])
        .await
        .unwrap();
    drop(held);
    send(&from, Epoch(2), &frame(1, 1)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 1)]));
}

/// The ids of the connections that buses append on.
async fn bus_connections(connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(connection)
        .await
        .unwrap();
    let of_buses = list
        .lines()
        .filter(|line| line.contains(" name=rookery-bus "));
    let ids = of_buses.filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
}

/// As a failover leaves a master whose clients it does not send away: they have to ask who the master is.
async fn a_master_that_becomes_a_replica_is_left(script_bytes: usize) {
    let server = RedisServer::start().await;
    let limits = Limits {
        script_bytes,
        ..patient()
    };
    let from = start(&server, Epoch(1), limits.clone()).await;
    let mut connection = server.connection().await;
    let senders = bus_connections(&mut connection).await;
    assert_eq!(senders.len(), 1, "{senders:?}");
    let to = start(&server, Epoch(2), limits).await;
    let mut inbound = to.inbound().unwrap();
    send(&from, Epoch(2), &frame(1, 0)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));

    let replica_of = |host: &str, port: &str| {
        let mut command = redis::cmd("REPLICAOF");
        command.arg(host).arg(port);
        command
    };
    // Nobody listens on that port.
    let nobody = replica_of("127.0.0.1", "1");
    let _: () = nobody.query_async(&mut connection).await.unwrap();
    send(&from, Epoch(2), &frame(1, 1)).await;
    let left = async { while bus_connections(&mut connection).await.contains(&senders[0]) {} };
    within(left).await;
    let master = replica_of("NO", "ONE");
    let _: () = master.query_async(&mut connection).await.unwrap();
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 1)]));
    send(&from, Epoch(2), &frame(1, 2)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 2)]));
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_by_scripts() {
    a_master_that_becomes_a_replica_is_left(usize::MAX).await;
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_by_transactions() {
    a_master_that_becomes_a_replica_is_left(0).await;
}

#[tokio::test]
async fn what_is_handled_is_deleted_soon() {
    let server = RedisServer::start().await;
    let from = start(&server, Epoch(1), patient()).await;
    let to = start(&server, Epoch(2), patient()).await;
    let mut inbound = to.inbound().unwrap();
    let mut connection = server.connection().await;
    for number in 0..5 {
        send(&from, Epoch(2), &frame(1, number)).await;
        receive(&mut inbound).await;
        let handled = Instant::now();
        while connection.xlen::<_, usize>(inbox(Epoch(2))).await.unwrap() > 0 {
            assert!(
                handled.elapsed() < Duration::from_secs(1),
                "sooner than the next read"
            );
        }
    }
}

#[tokio::test]
async fn an_inbox_without_a_lease_is_not_created() {
    for script_bytes in [usize::MAX, 0] {
        let limits = Limits {
            script_bytes,
            ..Limits::default()
        };
        let server = RedisServer::start().await;
        let from = start(&server, Epoch(1), limits.clone()).await;
        let mut inbound = from.inbound().unwrap();
        send(&from, Epoch(2), &frame(1, 0)).await;
        assert!(matches!(
            within(inbound.recv()).await,
            Some(Inbound::Returned { .. })
        ));
        let mut connection = server.connection().await;
        assert!(!connection.exists::<_, bool>(inbox(Epoch(2))).await.unwrap());
        // One that exists does not outlive its node for ever.
        let _to = start(&server, Epoch(3), limits).await;
        send(&from, Epoch(3), &frame(1, 0)).await;
        let began = Instant::now();
        while connection.ttl::<_, i64>(inbox(Epoch(3))).await.unwrap() <= 0 {
            assert!(began.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
    }
}
