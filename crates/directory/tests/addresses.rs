//! Every form of a Redis address, with the real thing behind it.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

mod redis_server;
mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rookery_directory::{Directory, Event, RedisAddress, RedisConfig, RedisDirectory, keys};
use tokio::sync::Mutex;

use crate::redis_server::cluster::RedisCluster;
use crate::redis_server::sentinel::Watched;
use crate::redis_server::tcp::TcpServer;
use crate::redis_server::tls::Certificates;
use crate::suite::{bound, eventually, expect, full, rows};

/// Leases of 600 ms, and much time to connect.
fn config(url: &str, name: &str) -> RedisConfig {
    RedisConfig {
        lease: Duration::from_millis(600),
        patience: redis_server::PATIENCE,
        ..RedisConfig::new(RedisAddress::parse(url).unwrap(), name)
    }
}

async fn start(url: &str, name: &str) -> RedisDirectory {
    RedisDirectory::start(config(url, name)).await.unwrap()
}

/// Why there is no connection.
async fn refusal(url: &str) -> String {
    let config = RedisConfig {
        patience: Duration::from_secs(1),
        ..config(url, "one")
    };
    RedisDirectory::start(config)
        .await
        .map(drop)
        .unwrap_err()
        .to_string()
}

/// Two nodes see each other's sessions and hear of changes.
async fn works(url: &str) {
    let (one, two) = (start(url, "one").await, start(url, "two").await);
    let mut events = two.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = one.register(&jid).await.unwrap().sequence;
    let account = jid.to_bare();
    expect(
        &mut events,
        |event| matches!(event, Event::Changed(accounts) if accounts.contains(&account)),
    )
    .await;
    assert_eq!(
        rows(&two, "ann@example.com").await,
        [bound(&one, &jid, sequence)]
    );
    assert!(one.unregister(&jid, sequence).await.unwrap());
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    // Of the dangerous commands INFO is wished for, to know one Redis from another, but not needed.
    let server = TcpServer::start(
        None,
        &[
            "--user",
            "default",
            "off",
            "--user",
            "rookery",
            "on",
            ">s3@cret",
            "~rk1:*",
            "&rk1:*",
            "+@all",
            "-@dangerous",
        ],
    )
    .await;
    works(&format!("redis://rookery:s3%40cret@{}", server.host())).await;
    for (login, expected) in [
        ("rookery:guess@", "WRONGPASS"),
        ("other:s3%40cret@", "WRONGPASS"),
        ("", "NOAUTH"),
    ] {
        let error = refusal(&format!("redis://{login}{}", server.host())).await;
        assert!(
            error.contains(expected) || error.contains("uthentication"),
            "{error}"
        );
        assert!(!error.contains("guess"), "{error}");
    }
}

#[tokio::test]
async fn tls_is_checked_against_the_authority_of_the_address() {
    let tls = Certificates::new(false);
    let server = TcpServer::start(Some(&tls), &["--requirepass", "s3cret"]).await;
    let url = format!("rediss://:s3cret@{}/1", server.host());
    works(&format!("{url}?{}", tls.parameters())).await;
    // The system does not know this authority.
    let error = refusal(&url).await;
    assert!(
        error.contains("ertificate") || error.contains("UnknownIssuer"),
        "{error}"
    );
    let other = Certificates::new(false);
    let error = refusal(&format!("{url}?{}", other.parameters())).await;
    assert!(error.contains("ertificate"), "{error}");
    let error = refusal(&format!("{url}?ca=/nonexistent/ca.pem")).await;
    assert!(error.contains("/nonexistent/ca.pem"), "{error}");
}

#[tokio::test]
async fn a_redis_that_asks_for_a_certificate_gets_one() {
    let tls = Certificates::new(true);
    let server = TcpServer::start(Some(&tls), &[]).await;
    works(&format!("rediss://{}?{}", server.host(), tls.parameters())).await;
    let only_ca = tls.parameters();
    let only_ca = only_ca.split('&').next().unwrap();
    let error = refusal(&format!("rediss://{}?{only_ca}", server.host())).await;
    assert!(error.contains("cannot connect"), "{error}");
}

async fn a_failover_is_survived(tls: Option<Certificates>) {
    let mut watched = Watched::start(tls, "s3cret").await;
    let url = watched.url("s3cret");
    works(&url).await;
    let node = start(&url, "one").await;
    let mut events = node.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = node.register(&jid).await.unwrap().sequence;
    watched.master.kill();
    // Whatever the replica had not heard of has to be published again.
    expect(&mut events, |event| *event == Event::DataLost).await;
    let row = bound(&node, &jid, sequence);
    let lost = eventually(|| node.republish(vec![row.clone()])).await;
    assert!(lost.is_empty());
    let later = start(&url, "two").await;
    assert_eq!(rows(&later, "ann@example.com").await, [row]);
}

#[tokio::test]
async fn sentinels_name_the_new_master_after_a_failover() {
    a_failover_is_survived(None).await;
}

#[tokio::test]
async fn sentinels_and_masters_may_speak_tls() {
    a_failover_is_survived(Some(Certificates::new(true))).await;
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_master_are_a_clear_error() {
    let watched = Watched::start(None, "s3cret").await;
    let other = watched.url("s3cret").replace("/mymaster", "/other");
    let error = refusal(&other).await;
    assert!(error.contains("no master of that name"), "{error}");
    assert!(error.contains("other"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let no_password = watched.url("s3cret");
    let (no_password, _) = no_password.split_once('?').unwrap();
    let error = refusal(no_password).await;
    assert!(
        error.contains("NOAUTH") || error.contains("uthentication"),
        "{error}"
    );
}

struct InCluster {
    servers: Arc<Mutex<RedisCluster>>,
    prefix: String,
}

#[async_trait]
impl suite::Cluster for InCluster {
    async fn start() -> Self {
        Self {
            servers: Arc::new(Mutex::new(RedisCluster::start(None).await)),
            prefix: keys::DEFAULT_PREFIX.to_owned(),
        }
    }

    async fn node(&self, name: &str) -> Arc<dyn Directory> {
        let config = RedisConfig {
            prefix: self.prefix.clone(),
            ..config(&self.servers.lock().await.url(), name)
        };
        Arc::new(RedisDirectory::start(config).await.unwrap())
    }

    async fn lose_data(&self) {
        self.servers.lock().await.restart().await;
    }
}

#[tokio::test]
async fn all_of_the_suite_holds_in_a_redis_cluster() {
    let first = <InCluster as suite::Cluster>::start().await;
    let used = AtomicUsize::new(0);
    // Nodes of the test before are still dying when the next one begins.
    let next = || InCluster {
        servers: first.servers.clone(),
        prefix: format!("test{}", used.fetch_add(1, Ordering::Relaxed)),
    };
    suite::directory_suite!(in turn: next());
}

#[tokio::test]
async fn a_redis_cluster_may_speak_tls() {
    let cluster = RedisCluster::start(Some(Certificates::new(true))).await;
    works(&cluster.url()).await;
}

/// Runs a command of the cluster's administrator.
async fn admin(connection: &mut redis::aio::MultiplexedConnection, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    let _: redis::Value = cmd.query_async(connection).await.unwrap();
}

#[tokio::test]
async fn slots_may_move_while_sessions_come_and_go() {
    let cluster = RedisCluster::start(None).await;
    let node = start(&cluster.url(), "one").await;
    let other = start(&cluster.url(), "two").await;
    let jid = full("ann@example.com/desk");
    let first = node.register(&jid).await.unwrap();
    let key = keys::account(keys::DEFAULT_PREFIX, "ann@example.com");
    let (from, mut source) = cluster.owner(&key).await;
    let to = (from + 1) % 3;
    let mut target = cluster.connection(to).await;
    let slot: u16 = redis::cmd("CLUSTER")
        .arg("KEYSLOT")
        .arg(&key)
        .query_async(&mut source)
        .await
        .unwrap();
    let slot = slot.to_string();
    let id = |connection: redis::aio::MultiplexedConnection| async move {
        let mut connection = connection;
        let id: String = redis::cmd("CLUSTER")
            .arg("MYID")
            .query_async(&mut connection)
            .await
            .unwrap();
        id
    };
    let (source_id, target_id) = (id(source.clone()).await, id(target.clone()).await);

    // On its way, with the row still here: nothing changes.
    admin(
        &mut target,
        &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id],
    )
    .await;
    admin(
        &mut source,
        &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id],
    )
    .await;
    let second = other.register(&jid).await.unwrap();
    assert_eq!(second.displaced, Some(bound(&node, &jid, first.sequence)));

    // The row has gone ahead: ASK.
    let port = cluster.masters[to].port.to_string();
    admin(
        &mut source,
        &["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"],
    )
    .await;
    let third = node.register(&jid).await.unwrap();
    assert_eq!(third.displaced, Some(bound(&other, &jid, second.sequence)));
    assert_eq!(
        rows(&other, "ann@example.com").await,
        [bound(&node, &jid, third.sequence)]
    );

    // All of it has moved: MOVED.
    for connection in [&mut target, &mut source] {
        admin(
            connection,
            &["CLUSTER", "SETSLOT", &slot, "NODE", &target_id],
        )
        .await;
    }
    let fourth = other.register(&jid).await.unwrap();
    assert_eq!(fourth.displaced, Some(bound(&node, &jid, third.sequence)));
    assert_eq!(
        rows(&node, "ann@example.com").await,
        [bound(&other, &jid, fourth.sequence)]
    );
}

#[tokio::test]
async fn a_master_that_comes_back_empty_is_filled_again() {
    let mut cluster = RedisCluster::start(None).await;
    let node = start(&cluster.url(), "one").await;
    let mut events = node.events().unwrap();
    // Rows on all masters.
    let mut known = Vec::new();
    for at in 0..30 {
        let jid = full(&format!("user{at}@example.com/desk"));
        let sequence = node.register(&jid).await.unwrap().sequence;
        known.push(bound(&node, &jid, sequence));
    }
    let lease = keys::lease(keys::DEFAULT_PREFIX, node.this_node().epoch);
    let (owner, _) = cluster.owner(&lease).await;
    // One that does not have the lease, which would show it.
    let lost = (owner + 1) % 3;
    cluster.masters[lost].kill();
    cluster.masters[lost].restart().await;
    cluster.ready().await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    assert!(
        eventually(|| node.republish(known.clone()))
            .await
            .is_empty()
    );
    let accounts: Vec<_> = known.iter().map(|row| row.jid.to_bare()).collect();
    let found = eventually(|| node.lookup(&accounts)).await;
    assert_eq!(found.concat(), known);
}
