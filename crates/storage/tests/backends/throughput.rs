//! How much the storage commits and reads. Not part of the normal run:
//!
//! ```text
//! cargo test --release -p rookery-storage --test backends throughput -- --ignored --nocapture \
//!     --test-threads 1
//! ```
//!
//! `ROOKERY_MEASURE_IN` names another directory than the build's, say one in memory, to see what the
//! disk is to blame for.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::postgres_server::{Durability, Server};
use crate::suite::{Place, bare, credentials, jid};
use futures_util::future::join_all;
use rookery_storage::{NewEntry, Storage, metrics};

/// How long each number is measured.
const TIME: Duration = Duration::from_secs(4);

const ACCOUNTS: usize = 1000;

#[tokio::test]
#[ignore = "a measurement"]
async fn sqlite() {
    let directory = tempfile::TempDir::new_in(place_to_measure()).unwrap();
    let url = format!("sqlite://{}", directory.path().join("rookery.db").display());
    measure(Place {
        url,
        keep: Box::new(directory),
    })
    .await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn postgres() {
    let server = Server::start_in(place_to_measure(), Durability::Full);
    let url = server.create_database();
    measure(Place {
        url,
        keep: Box::new(server),
    })
    .await;
}

/// On the disk that the build is on: a temporary directory may be in memory.
fn place_to_measure() -> PathBuf {
    std::env::var_os("ROOKERY_MEASURE_IN")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// CPU time of this process so far, in hundredths of a second.
fn cpu() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let ticks = after_name.split(' ').skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u32>().unwrap()).sum()
}

async fn measure(place: Place) {
    let storage = place.open().await;
    let name = storage.backend();
    let accounts: Vec<_> = (0..ACCOUNTS)
        .map(|number| bare(&format!("user{number}@localhost")))
        .collect();
    join_all(accounts.iter().map(|account| {
        let storage = storage.clone();
        async move { storage.create(account, &credentials(1)).await.unwrap() }
    }))
    .await;

    for (callers, batch) in [(1, 1), (16, 1), (256, 1), (2048, 1), (16, 16), (64, 64)] {
        let cpu_before = cpu();
        let (rows, latencies) = append(&storage, &accounts, callers, batch).await;
        println!(
            "{name}: append, {callers} callers of {batch}: {:.0} rows/s, {:.1} CPU µs a row, \
             p50 {:?}, p99 {:?}",
            rows,
            f64::from(cpu() - cpu_before) * 10_000.0 / (rows * TIME.as_secs_f64()),
            latencies[latencies.len() / 2],
            latencies[latencies.len() * 99 / 100],
        );
        for account in &accounts {
            storage
                .mark_delivered(account, rookery_storage::EntryId(u64::MAX))
                .await
                .unwrap();
        }
    }
    for callers in [1, 16, 256] {
        let reads = run(callers, |number| {
            let (storage, account) = (storage.clone(), accounts[number % ACCOUNTS].clone());
            async move { assert!(storage.credentials(&account).await.unwrap().is_some()) }
        })
        .await;
        println!("{name}: credentials, {callers} callers: {:.0}/s", reads.0);
    }
    let rows = metrics::COMMIT_ROWS.with_label_values(&[name]);
    println!(
        "{name}: {:.1} rows a commit over all",
        rows.get_sample_sum() / f64::from(u32::try_from(rows.get_sample_count()).unwrap())
    );
    storage.close().await;
}

async fn append(
    storage: &Arc<dyn Storage>,
    accounts: &[rookery_proto::jid::BareJid],
    callers: usize,
    batch: usize,
) -> (f64, Vec<Duration>) {
    let stanza = "x".repeat(300);
    let (calls, latencies) = run(callers, |number| {
        let entries: Vec<_> = (0..batch)
            .map(|offset| NewEntry {
                account: accounts[(number * batch + offset) % ACCOUNTS].clone(),
                peer: jid("somebody@localhost/resource"),
                at: SystemTime::now(),
                stanza: stanza.clone(),
            })
            .collect();
        let storage = storage.clone();
        async move {
            let appended = storage.append(entries, usize::MAX).await.unwrap();
            assert!(appended.iter().all(Result::is_ok));
        }
    })
    .await;
    (calls * f64::from(u32::try_from(batch).unwrap()), latencies)
}

/// Calls `work` from so many callers for a while. Gives calls a second and sorted latencies.
async fn run<F: Future<Output = ()>>(
    callers: usize,
    work: impl Fn(usize) -> F,
) -> (f64, Vec<Duration>) {
    let start = Instant::now();
    let work = &work;
    let each = join_all((0..callers).map(|caller| async move {
        let mut latencies = Vec::new();
        while start.elapsed() < TIME {
            let asked = Instant::now();
            work(caller + latencies.len() * callers).await;
            latencies.push(asked.elapsed());
        }
        latencies
    }))
    .await;
    let took = start.elapsed().as_secs_f64();
    let mut latencies: Vec<_> = each.into_iter().flatten().collect();
    latencies.sort_unstable();
    (
        f64::from(u32::try_from(latencies.len()).unwrap()) / took,
        latencies,
    )
}
