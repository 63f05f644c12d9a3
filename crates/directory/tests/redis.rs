//! The directory in Redis: the suite, and what happens to Redis in bad hours.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

mod redis_server;
mod suite;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::AsyncCommands as _;
use rookery_directory::{Directory, Error, Event, RedisConfig, RedisDirectory, keys};
use tokio::sync::Mutex;

use crate::redis_server::RedisServer;
use crate::suite::{bare, bound, eventually, expect, full, rows};

struct InRedis(Mutex<RedisServer>);

#[async_trait]
impl suite::Cluster for InRedis {
    async fn start() -> Self {
        Self(Mutex::new(RedisServer::start().await))
    }

    async fn node(&self, name: &str) -> Arc<dyn Directory> {
        Arc::new(start(&*self.0.lock().await, name).await)
    }

    async fn lose_data(&self) {
        let mut server = self.0.lock().await;
        server.kill();
        server.restart().await;
    }
}

suite::directory_suite!(InRedis);

/// Leases of 600 ms.
fn config(server: &RedisServer, name: &str) -> RedisConfig {
    RedisConfig {
        lease: Duration::from_millis(600),
        ..RedisConfig::new(server.address(), name)
    }
}

async fn start(server: &RedisServer, name: &str) -> RedisDirectory {
    RedisDirectory::start(config(server, name)).await.unwrap()
}

#[tokio::test]
async fn without_redis_operations_fail_at_once_and_the_node_is_fenced() {
    let mut server = RedisServer::start().await;
    let node = start(&server, "one").await;
    let mut events = node.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = node.register(&jid).await.unwrap().sequence;
    server.kill();
    while node.lookup(&[bare("ann@example.com")]).await.is_ok() {}
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(matches!(
            node.register(&jid).await,
            Err(Error::Unavailable(_))
        ));
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    expect(&mut events, |event| *event == Event::Fenced).await;

    server.restart().await;
    expect(&mut events, |event| *event == Event::FlushCache).await;
    expect(&mut events, |event| *event == Event::Unfenced).await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    let row = bound(&node, &jid, sequence);
    assert!(node.republish(vec![row.clone()]).await.unwrap().is_empty());
    assert_eq!(rows(&node, "ann@example.com").await, [row]);
}

#[tokio::test]
async fn nodes_know_which_frames_the_others_speak() {
    let server = RedisServer::start().await;
    let newer = RedisConfig {
        frames: 7,
        ..config(&server, "newer")
    };
    let newer = RedisDirectory::start(newer).await.unwrap();
    let older = start(&server, "older").await;
    let epoch = newer.this_node().epoch;
    assert_eq!(older.frames(epoch), 7);
    while newer.nodes().len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(newer.frames(older.this_node().epoch), 1);
    assert_eq!(newer.frames(rookery_proto::cluster::Epoch(1)), 1, "unknown");
    let mut connection = server.connection().await;
    let nodes = keys::nodes(keys::DEFAULT_PREFIX);
    // One of the first version has no such field, and is not found by it either.
    let field = format!("{}:frames", older.this_node().epoch);
    let _: () = connection.hdel(&nodes, field).await.unwrap();
    let later = RedisConfig {
        frames: 7,
        ..config(&server, "later")
    };
    let later = RedisDirectory::start(later).await.unwrap();
    assert_eq!(later.nodes().len(), 3);
    assert_eq!(later.frames(older.this_node().epoch), 1);
    assert_eq!(later.frames(epoch), 7);

    // A node that is gone leaves nothing behind.
    drop(newer);
    let mut left = vec![String::new(); 9];
    while left.len() > 3 {
        left = connection.hkeys(&nodes).await.unwrap();
        tokio::task::yield_now().await;
    }
    left.sort();
    let (one, two) = (older.this_node().epoch, later.this_node().epoch);
    let mut expected = vec![one.to_string(), two.to_string(), format!("{two}:frames")];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_dead_node_is_claimed_by_one_that_speaks_its_frames() {
    let server = RedisServer::start().await;
    let newer = |name| {
        RedisDirectory::start(RedisConfig {
            frames: 2,
            ..config(&server, name)
        })
    };
    let older = start(&server, "older").await;
    let heir = newer("heir").await.unwrap();
    let mut older_events = older.events().unwrap();
    let mut events = heir.events().unwrap();
    for name in ["first", "second", "third"] {
        let dead = newer(name).await.unwrap();
        let node = dead.this_node().clone();
        drop(dead);
        let claimed = Event::Claimed { node: node.clone() };
        expect(&mut events, |event| *event == claimed).await;
        let lost = Event::NodeLost { node };
        let heard = expect(&mut older_events, |event| {
            matches!(event, Event::NodeLost { .. } | Event::Claimed { .. })
        });
        assert_eq!(heard.await, lost);
    }
    // With nobody else there it is the older one's turn.
    let claimed = Event::Claimed {
        node: heir.this_node().clone(),
    };
    drop(heir);
    expect(&mut older_events, |event| *event == claimed).await;
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_timeout() {
    let server = RedisServer::start().await;
    let mut config = config(&server, "one");
    config.response_timeout = Duration::from_millis(200);
    let node = RedisDirectory::start(config).await.unwrap();
    let mut events = node.events().unwrap();
    let jid = full("ann@example.com/desk");
    node.register(&jid).await.unwrap();
    server.freeze(true);
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(matches!(
            node.register(&jid).await,
            Err(Error::Unavailable(_))
        ));
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    expect(&mut events, |event| *event == Event::Fenced).await;
    server.freeze(false);
    expect(&mut events, |event| *event == Event::Unfenced).await;
    // Its lease ran out meanwhile, so others may have cleaned up after it.
    expect(&mut events, |event| *event == Event::DataLost).await;
    eventually(|| node.register(&jid)).await;
}

#[tokio::test]
async fn after_an_empty_restart_nobody_is_taken_for_dead() {
    let mut server = RedisServer::start().await;
    let (one, two) = (start(&server, "one").await, start(&server, "two").await);
    let mut events = [one.events().unwrap(), two.events().unwrap()];
    server.kill();
    server.restart().await;
    for events in &mut events {
        expect(events, |event| *event == Event::DataLost).await;
    }
    // A third node dies; by the time that this is noticed, the first two would have been, too.
    let third = start(&server, "three").await;
    let lost = third.this_node().clone();
    drop(third);
    for events in &mut events {
        let event = expect(events, |event| matches!(event, Event::NodeLost { .. })).await;
        assert_eq!(event, Event::NodeLost { node: lost.clone() });
    }
    assert_eq!(one.nodes().len(), 2);
}

#[tokio::test]
async fn a_node_that_was_taken_for_dead_keeps_its_sessions_when_it_returns() {
    let server = RedisServer::start().await;
    let (returning, survivor) = (
        start(&server, "returning").await,
        start(&server, "two").await,
    );
    let mut own = returning.events().unwrap();
    let mut events = survivor.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = returning.register(&jid).await.unwrap().sequence;
    let row = bound(&returning, &jid, sequence);
    let lease = keys::lease(keys::DEFAULT_PREFIX, returning.this_node().epoch);
    let mut connection = server.connection().await;
    // Until the survivor has looked at the leases, or else the renewal is first.
    let collected = loop {
        let _: () = connection.del(&lease).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), events.recv()).await;
        if let Ok(Some(Event::Collect { rows, .. })) = next {
            break rows;
        }
    };
    assert_eq!(collected, std::slice::from_ref(&row));
    let mut has_returned = false;
    while !has_returned {
        expect(&mut own, |event| *event == Event::DataLost).await;
        has_returned = connection.exists(&lease).await.unwrap();
    }
    assert!(
        returning
            .republish(vec![row.clone()])
            .await
            .unwrap()
            .is_empty()
    );
    let outcome = survivor.collected(returning.this_node(), &collected).await;
    assert!(matches!(outcome, Err(Error::ClaimLost(_))), "{outcome:?}");
    assert_eq!(rows(&survivor, "ann@example.com").await, [row]);
    let sessions = keys::sessions(keys::DEFAULT_PREFIX, returning.this_node().epoch);
    let indexed: HashSet<String> = connection.smembers(sessions).await.unwrap();
    assert_eq!(
        indexed,
        HashSet::from([jid.to_string()]),
        "its own death would be cleaned up"
    );
}

#[tokio::test]
async fn rows_and_the_set_of_sessions_agree_after_many_operations() {
    let server = RedisServer::start().await;
    let nodes = [
        Arc::new(start(&server, "one").await),
        Arc::new(start(&server, "two").await),
    ];
    let tasks = (0..8).map(|task: usize| {
        let nodes = nodes.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let node = &nodes[(task + round) % 2];
                let jid = full(&format!("user{}@example.com/desk", (task * 7 + round) % 5));
                let registered = node.register(&jid).await.unwrap();
                if let Some(old) = registered.displaced {
                    let owner = nodes
                        .iter()
                        .find(|node| node.this_node().epoch == old.epoch);
                    owner.unwrap().unregister(&jid, old.sequence).await.unwrap();
                }
                if round % 3 == 0 {
                    node.unregister(&jid, registered.sequence).await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let accounts: Vec<_> = (0..5)
        .map(|at| bare(&format!("user{at}@example.com")))
        .collect();
    let found = nodes[0].lookup(&accounts).await.unwrap().concat();
    let mut connection = server.connection().await;
    for node in nodes {
        let epoch = node.this_node().epoch;
        let sessions = keys::sessions(keys::DEFAULT_PREFIX, epoch);
        let indexed: HashSet<String> = connection.smembers(sessions).await.unwrap();
        let owned = found.iter().filter(|row| row.epoch == epoch);
        assert_eq!(indexed, owned.map(|row| row.jid.to_string()).collect());
    }
}

#[tokio::test]
async fn a_session_that_ends_while_it_is_published_again_does_not_come_back() {
    let mut server = RedisServer::start().await;
    let node = start(&server, "one").await;
    let mut events = node.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = node.register(&jid).await.unwrap().sequence;
    server.kill();
    server.restart().await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    let known = vec![bound(&node, &jid, sequence)];
    node.unregister(&jid, sequence).await.unwrap();
    node.republish(known).await.unwrap();
    assert_eq!(rows(&node, "ann@example.com").await, []);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let server = RedisServer::start().await;
    let node = start(&server, "one").await;
    let mut connection = server.connection().await;
    let _: () = redis::cmd("SCRIPT")
        .arg("FLUSH")
        .query_async(&mut connection)
        .await
        .unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = node.register(&jid).await.unwrap().sequence;
    assert_eq!(
        rows(&node, "ann@example.com").await,
        [bound(&node, &jid, sequence)]
    );
}

#[tokio::test]
async fn a_password_is_used_and_a_wrong_one_is_a_clear_error() {
    let server = RedisServer::start_with(&["--requirepass", "s3cret"]).await;
    let address = |query: &str| {
        rookery_directory::RedisAddress::parse(&format!("{}{query}", server.url())).unwrap()
    };
    let right = RedisConfig::new(address("?pass=s3cret"), "one");
    RedisDirectory::start(right).await.unwrap();
    let patience = Duration::from_millis(500);
    let wrong = RedisConfig {
        patience,
        ..RedisConfig::new(address("?pass=guess"), "one")
    };
    let error = RedisDirectory::start(wrong)
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("WRONGPASS") || error.contains("uthentication"),
        "{error}"
    );
    assert!(!error.contains("guess"), "{error}");
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_a_clear_error() {
    let address = rookery_directory::RedisAddress::parse("redis://127.0.0.1:1").unwrap();
    let patience = Duration::from_millis(300);
    let config = RedisConfig {
        patience,
        ..RedisConfig::new(address, "one")
    };
    let error = RedisDirectory::start(config)
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot connect to redis://127.0.0.1:1"),
        "{error}"
    );
}

#[tokio::test]
async fn hints_that_could_not_be_sent_become_a_flush_everywhere() {
    let server = RedisServer::start().await;
    let (one, two) = (start(&server, "one").await, start(&server, "two").await);
    let mut events = two.events().unwrap();
    let mut connection = server.connection().await;
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(&mut connection)
        .await
        .unwrap();
    // The connection of the first node is the older one.
    let id = clients
        .lines()
        .find(|line| line.contains("name=rookery-directory"))
        .unwrap();
    let id = id
        .split_whitespace()
        .find_map(|field| field.strip_prefix("id="))
        .unwrap();
    let killed: u64 = redis::cmd("CLIENT")
        .arg(&["KILL", "ID", id])
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(killed, 1);
    expect(&mut events, |event| *event == Event::FlushCache).await;
    let jid = full("ann@example.com/desk");
    eventually(|| one.register(&jid)).await;
}
