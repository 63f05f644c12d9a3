//! Measures the directory against a Redis that runs already and holds nothing else.
//!
//! ```text
//! redis-server --port 6400 --save '' &
//! cargo run --release -p rookery-directory --example measure_directory -- redis://127.0.0.1:6400
//! ```
//!
//! Prints registrations, updates and lookups per second for several numbers of callers, and what a
//! session costs in Redis: one per account, with a presence of 150 bytes.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

use std::sync::Arc;
use std::time::Instant;

use rookery_directory::{Directory, RedisAddress, RedisConfig, RedisDirectory, SessionRow};
use rookery_proto::jid::{BareJid, FullJid};

const SESSIONS: usize = 100_000;
const LOOKUPS: usize = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).expect("the address of a Redis");
    let client = redis::Client::open(url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let address = RedisAddress::parse(&url).unwrap();
    let directory = RedisDirectory::start(RedisConfig::new(address, "measure"))
        .await
        .unwrap();
    let directory = Arc::new(directory);
    let jids: Arc<Vec<FullJid>> = Arc::new(
        (0..SESSIONS)
            .map(|at| FullJid::parse(&format!("user{at:06}@example.com/Phone.{at:06}")).unwrap())
            .collect(),
    );
    let before = memory(&mut connection).await;
    let mut rows = Vec::new();
    for (callers, share) in [
        (1, 0..10_000),
        (16, 10_000..30_000),
        (256, 30_000..SESSIONS),
    ] {
        let number = share.len();
        let began = Instant::now();
        let tasks = (0..callers).map(|caller| {
            let (directory, jids, share) = (directory.clone(), jids.clone(), share.clone());
            tokio::spawn(async move {
                let mut rows = Vec::new();
                for at in share.skip(caller).step_by(callers) {
                    let sequence = directory.register(&jids[at]).await.unwrap().sequence;
                    rows.push(row(&directory, &jids[at], sequence));
                }
                rows
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            rows.extend(task.await.unwrap());
        }
        report("register", callers, number, began);
    }
    let bound = memory(&mut connection).await - before;
    let rows = Arc::new(rows);
    let began = Instant::now();
    let tasks = (0..256).map(|caller| {
        let (directory, rows) = (directory.clone(), rows.clone());
        tokio::spawn(async move {
            for row in rows.iter().skip(caller).step_by(256) {
                assert!(directory.update(row).await.unwrap());
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    report("update", 256, rows.len(), began);
    let online = memory(&mut connection).await - before;
    println!(
        "bytes per bound session   {:>8.0}",
        bound as f64 / SESSIONS as f64
    );
    println!(
        "bytes per online session  {:>8.0}",
        online as f64 / SESSIONS as f64
    );

    for (callers, number) in [(1, LOOKUPS / 10), (16, LOOKUPS), (256, LOOKUPS)] {
        let began = Instant::now();
        let tasks = (0..callers).map(|caller| {
            let (directory, jids) = (directory.clone(), jids.clone());
            tokio::spawn(async move {
                for at in (0..number).skip(caller).step_by(callers) {
                    let account = jids[at.wrapping_mul(7919) % SESSIONS].to_bare();
                    assert_eq!(directory.lookup(&[account]).await.unwrap()[0].len(), 1);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        report("lookup", callers, number, began);
    }
    let began = Instant::now();
    for round in 0..200 {
        let accounts: Vec<BareJid> = (0..1000)
            .map(|at| jids[(round * 7919 + at * 31) % SESSIONS].to_bare())
            .collect();
        assert_eq!(directory.lookup(&accounts).await.unwrap().len(), 1000);
    }
    report("lookup of 1000 at a time", 1, 200_000, began);
    let began = Instant::now();
    let lost = directory.republish(rows.to_vec()).await.unwrap();
    assert!(lost.is_empty());
    report("republish", 1, rows.len(), began);
    directory.shutdown().await;
}

fn row(directory: &RedisDirectory, jid: &FullJid, sequence: u64) -> SessionRow {
    let presence = format!(
        "<presence xmlns='jabber:client' from='{jid}'><c xmlns='http://jabber.org/protocol/caps' \
         hash='sha-1' node='x' ver='0'/></presence>"
    );
    SessionRow {
        jid: jid.clone(),
        epoch: directory.this_node().epoch,
        sequence,
        priority: 5,
        available: true,
        presence: Some(presence.into()),
    }
}

fn report(what: &str, callers: usize, number: usize, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let each = seconds * 1e6 * callers as f64 / number as f64;
    let rate = number as f64 / seconds;
    println!("{what:<24} {callers:>4} callers {rate:>10.0}/s  {each:>7.0} µs each");
}

async fn memory(connection: &mut redis::aio::MultiplexedConnection) -> i64 {
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query_async(connection)
        .await
        .unwrap();
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    used.unwrap().trim().parse().unwrap()
}
