//! How much the storage commits and reads. Not part of the normal run:
//!
//! ```text
//! cargo test --release -p rookery-storage --test backends throughput -- --ignored --nocapture \
//!     --test-threads 1
//! ```
//!
//! `ROOKERY_MEASURE=16x50` measures only 16 callers that append 50 messages at a time.
//! `ROOKERY_MEASURE_IN` names another directory than the build's, say one in memory, to see what the
//! disk is to blame for.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::postgres_server::{Durability, Server};
use crate::suite::{Place, archive::query, at, bare, chat, credentials, jid};
use futures_util::future::join_all;
use rookery_proto::jid::BareJid;
use rookery_storage::{ArchiveQuery, NewMessage, Page, Pending, Storage, metrics};

/// How long each number is measured.
const TIME: Duration = Duration::from_secs(4);

const ACCOUNTS: usize = 200;

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

#[tokio::test]
#[ignore = "a measurement"]
async fn sqlite_archive() {
    let directory = tempfile::TempDir::new_in(place_to_measure()).unwrap();
    let url = format!("sqlite://{}", directory.path().join("rookery.db").display());
    measure_archive(Place {
        url,
        keep: Box::new(directory),
    })
    .await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn postgres_archive() {
    let server = Server::start_in(place_to_measure(), Durability::None);
    let url = server.create_database();
    measure_archive(Place {
        url,
        keep: Box::new(server),
    })
    .await;
}

/// Entries of the archive that is queried.
const ARCHIVED: u64 = 1_000_000;

/// Queries of an archive with a million entries: one of 1000 peers wrote each, in turn, but for one
/// that wrote two.
async fn measure_archive(place: Place) {
    let storage = place.open().await;
    let (name, ann) = (storage.backend(), bare("ann@localhost"));
    storage.create(&ann, &credentials(1)).await.unwrap();
    let body = "x".repeat(250);
    let mut ids = Vec::new();
    for first in (0..ARCHIVED).step_by(1000) {
        let messages = (first..first + 1000).map(|number| {
            let peer = match number {
                200_000 | 800_000 => 1000,
                _ => number % 1000,
            };
            let peer = format!("user{peer}@localhost/desk");
            let mut message = chat(&peer, "ann@localhost", &body);
            message.at = at(number);
            message.recipient.as_mut().unwrap().pending = Pending::No;
            message
        });
        let stored = storage.append(messages.collect(), 1).await.unwrap();
        ids.push(stored[0].unwrap().recipient.unwrap().id);
    }
    let page = |page| ArchiveQuery {
        page,
        max: 50,
        ..query()
    };
    let with = |number, page| ArchiveQuery {
        with: Some(jid(&format!("user{number}@localhost"))),
        max: 50,
        page,
        ..query()
    };
    let from = |seconds| ArchiveQuery {
        start: Some(at(seconds)),
        end: Some(at(seconds + 100_000)),
        ..page(Page::First)
    };
    for (what, query) in [
        ("first page", page(Page::First)),
        ("last page", page(Page::Last)),
        ("page in the middle", page(Page::After(ids[500]))),
        ("page before the middle", page(Page::Before(ids[500]))),
        ("page from a time on", from(700_000)),
        ("last page with a peer", with(7, Page::Last)),
        ("first page with a peer", with(7, Page::First)),
        (
            "page with a peer in the middle",
            with(7, Page::After(ids[500])),
        ),
        ("with a peer that wrote twice", with(1000, Page::Last)),
        ("with a peer that never wrote", with(1001, Page::First)),
    ] {
        let (_, latencies) = run(1, |_| {
            let (storage, ann, query) = (&storage, &ann, &query);
            async move {
                storage.archive(ann, query).await.unwrap();
            }
        })
        .await;
        println!(
            "{name}: {what} of {ARCHIVED}: p50 {:?}, p99 {:?}",
            latencies[latencies.len() / 2],
            latencies[latencies.len() * 99 / 100]
        );
    }
    let bounds = Instant::now();
    storage.archive_bounds(&ann).await.unwrap().unwrap();
    println!("{name}: bounds: {:?}", bounds.elapsed());
    let expire = Instant::now();
    let removed = storage.expire(Some(at(10_000)), None, 1000).await.unwrap();
    println!("{name}: {removed} expired in {:?}", expire.elapsed());
    storage.close().await;
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

    // About 300 octets, as a client sends them.
    let body = "x".repeat(200);
    let messages: Vec<NewMessage> = (0..ACCOUNTS)
        .map(|number| {
            let from = format!("user{number}@localhost/desk");
            let to = format!("user{}@localhost", (number + 7) % ACCOUNTS);
            let stanza = format!(
                "<message xmlns='jabber:client' type='chat' from='{from}' to='{to}' id='m{number}'>\
                 <body>{body}</body></message>"
            );
            chat(&from, &to, &stanza)
        })
        .collect();
    for (callers, batch) in [
        (1, 1),
        (16, 1),
        (256, 1),
        (4, 16),
        (16, 16),
        (16, 50),
        (200, 50),
    ] {
        let only = std::env::var("ROOKERY_MEASURE");
        if only.is_ok_and(|only| only != format!("{callers}x{batch}")) {
            continue;
        }
        for is_marked in [false, true] {
            let commits_before = commits(name);
            let cpu_before = cpu();
            let (sent, latencies) = send(&storage, &messages, callers, batch, is_marked).await;
            println!(
                "{name}: {callers} callers of {batch}{}: {sent:.0} messages/s, {:.2} CPU µs each, \
                 {:.1} messages a commit, p50 {:?}, p99 {:?}",
                if is_marked { ", marked" } else { "" },
                f64::from(cpu() - cpu_before) * 10_000.0 / (sent * TIME.as_secs_f64()),
                sent * TIME.as_secs_f64() / (commits(name) - commits_before),
                latencies[latencies.len() / 2],
                latencies[latencies.len() * 99 / 100],
            );
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
    storage.close().await;
}

/// Commits so far.
fn commits(backend: &str) -> f64 {
    let rows = metrics::COMMIT_ROWS.with_label_values(&[backend]);
    f64::from(u32::try_from(rows.get_sample_count()).unwrap())
}

/// Sends messages; with `is_marked` they have to be delivered, and that is noted as soon as they are
/// stored.
async fn send(
    storage: &Arc<dyn Storage>,
    messages: &[NewMessage],
    callers: usize,
    batch: usize,
    is_marked: bool,
) -> (f64, Vec<Duration>) {
    let (calls, latencies) = run(callers, |number| {
        let batch: Vec<NewMessage> = (0..batch)
            .map(|offset| {
                let mut message = messages[(number * batch + offset) % messages.len()].clone();
                message.at = SystemTime::now();
                if let (Some(copy), false) = (&mut message.recipient, is_marked) {
                    copy.pending = Pending::No;
                }
                message
            })
            .collect();
        let storage = storage.clone();
        async move {
            let accounts: Vec<BareJid> = batch
                .iter()
                .map(|message| message.recipient.as_ref().unwrap().account.clone())
                .collect();
            let stored = storage.append(batch, usize::MAX).await.unwrap();
            if is_marked {
                let ids = stored
                    .iter()
                    .map(|stored| vec![stored.unwrap().recipient.unwrap().id]);
                let delivered = accounts.into_iter().zip(ids).collect();
                storage.mark_delivered(delivered).await.unwrap();
            }
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
