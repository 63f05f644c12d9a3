//! Measures how soon the directory is whole again after Redis was away, with default settings: three
//! nodes with so many sessions each, which publish again as the server does.
//!
//! ```text
//! cargo run --release -p rookery-directory --example measure_recovery -- [sessions] [seconds away]
//! ```
//!
//! Starts a Redis of its own on a Unix socket. Prints the time from when Redis is there again, or was
//! flushed, until the last node has its lease and all rows are there.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rookery_directory::{Directory, Event, RedisAddress, RedisConfig, RedisDirectory, SessionRow};
use rookery_proto::jid::FullJid;

const NODES: usize = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| arguments.next().map_or(default, |n| n.parse().unwrap());
    let (sessions, away) = (number(30_000), number(20));
    let socket = std::env::temp_dir().join(format!("measure-recovery-{}", std::process::id()));
    let mut redis = start_redis(&socket).await;
    let url = format!("redis+unix://{}", socket.display());
    let whole = Arc::new(AtomicUsize::new(0));
    for node in 0..NODES {
        let config = RedisConfig::new(RedisAddress::parse(&url).unwrap(), "node");
        let directory = Arc::new(RedisDirectory::start(config).await.unwrap());
        let jids = (0..sessions).map(|at| {
            FullJid::parse(&format!("user{at:06}@node{node}.example.com/Phone.{at:06}")).unwrap()
        });
        let rows: Vec<SessionRow> = jids.map(|jid| row(&directory, jid)).collect();
        directory.republish(rows.clone()).await.unwrap();
        tokio::spawn(serve(directory, rows, whole.clone()));
    }
    let client = redis::Client::open(url).unwrap();
    println!("{} rows", rows_in(&client).await);

    let began = Instant::now();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut connection)
        .await
        .unwrap();
    wait(&whole, NODES).await;
    println!(
        "flushed: whole after {:?}, {} rows",
        began.elapsed(),
        rows_in(&client).await
    );

    for away in [Duration::ZERO, Duration::from_secs(u64::from(away))] {
        redis.kill().unwrap();
        redis.wait().unwrap();
        std::fs::remove_file(&socket).unwrap();
        tokio::time::sleep(away).await;
        whole.store(0, Ordering::Release);
        redis = start_redis(&socket).await;
        let began = Instant::now();
        wait(&whole, NODES).await;
        let took = began.elapsed();
        println!(
            "killed, back after {away:?}: whole after {took:?}, {} rows",
            rows_in(&client).await
        );
    }
    redis.kill().unwrap();
    redis.wait().unwrap();
    std::fs::remove_file(&socket).unwrap();
}

/// Publishes again whenever it has to, until it has worked.
async fn serve(directory: Arc<RedisDirectory>, rows: Vec<SessionRow>, whole: Arc<AtomicUsize>) {
    let mut events = directory.events().unwrap();
    while let Some(event) = events.recv().await {
        if event == Event::DataLost {
            while directory.republish(rows.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            whole.fetch_add(1, Ordering::AcqRel);
        }
    }
}

async fn wait(whole: &AtomicUsize, nodes: usize) {
    while whole.load(Ordering::Acquire) < nodes {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn row(directory: &RedisDirectory, jid: FullJid) -> SessionRow {
    let presence = format!(
        "<presence xmlns='jabber:client' from='{jid}'><show>away</show><c \
         xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://example.com' \
         ver='q07IKJEyjvHSyhy//CH0CxmKi8w='/></presence>"
    );
    SessionRow {
        jid,
        epoch: directory.this_node().epoch,
        sequence: 1,
        priority: 0,
        available: true,
        presence: Some(presence.into()),
    }
}

async fn rows_in(client: &redis::Client) -> usize {
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let all: usize = redis::cmd("DBSIZE")
        .query_async(&mut connection)
        .await
        .unwrap();
    // Besides rows there are the list of nodes, and a lease and a set of sessions for each.
    all - 1 - 2 * NODES
}

async fn start_redis(socket: &Path) -> Child {
    let process = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
        ])
        .arg(socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while tokio::net::UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process
}
