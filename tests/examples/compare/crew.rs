//! Threads that share the clients among them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use rookery_tests::light::{Light, Manner, Proof, Reason};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::{Load, PASSWORD};

/// Logins that are under way at the same time.
pub(crate) const AT_ONCE: usize = 32;
/// One of them could be slower than a server with two cores.
pub(crate) const THREADS: usize = 2;
/// What is read at once.
const ROOM: usize = 16_384;

/// A runtime for each thread. A client stays with the one that it came up on.
pub(crate) struct Crew(Vec<Runtime>);

impl Crew {
    pub(crate) fn new() -> Self {
        let runtime = |_| Builder::new_current_thread().enable_all().build();
        let runtimes = (0..THREADS).map(runtime).collect::<Result<_, _>>();
        Self(runtimes.expect("runtimes"))
    }

    /// Deals the items out, one to each thread in turn.
    pub(crate) fn deal<T>(&self, items: impl IntoIterator<Item = T>) -> Vec<Vec<T>> {
        let mut hands: Vec<Vec<T>> = self.0.iter().map(|_| Vec::new()).collect();
        for (number, item) in items.into_iter().enumerate() {
            hands[number % self.0.len()].push(item);
        }
        hands
    }

    /// Does the work on all threads at the same time, each with its hand, until all are done.
    pub(crate) fn work<T: Send, R: Send>(
        &self,
        hands: Vec<Vec<T>>,
        work: impl AsyncFn(Vec<T>) -> R + Sync,
    ) -> Vec<R> {
        let work = &work;
        std::thread::scope(|scope| {
            let threads: Vec<_> = std::iter::zip(&self.0, hands)
                .map(|(runtime, hand)| {
                    scope.spawn(move || LocalSet::new().block_on(runtime, work(hand)))
                })
                .collect();
            let done = threads.into_iter().map(ScopedJoinHandle::join);
            done.map(|done| done.expect("no panic")).collect()
        })
    }

    /// Does something on one thread.
    pub(crate) fn alone<R>(&self, work: impl Future<Output = R>) -> R {
        LocalSet::new().block_on(&self.0[0], work)
    }

    /// Logs these accounts in, one resource of each, and makes them available.
    pub(crate) fn bring_up(&self, load: &Load, numbers: Vec<Vec<usize>>) -> Vec<Vec<Light>> {
        self.work(numbers, async |numbers| {
            let online = |number| {
                let load = load.clone();
                async move { online(&load, number).await }
            };
            several(numbers, AT_ONCE / THREADS, online).await
        })
    }
}

/// Does something with each of the items, some at the same time; the results are in the items' order.
pub(crate) async fn several<T, R: 'static, F: Future<Output = R> + 'static>(
    items: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> F,
) -> Vec<R> {
    let turns = Arc::new(tokio::sync::Semaphore::new(at_once));
    let mut tasks = Vec::new();
    for item in items {
        let turn = Arc::clone(&turns).acquire_owned().await;
        let turn = turn.expect("never closed");
        let work = work(item);
        tasks.push(tokio::task::spawn_local(async move {
            let result = work.await;
            drop(turn);
            result
        }));
    }
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("no panic"));
    }
    results
}

/// Logs an account in and makes it available.
///
/// Panics if that fails: then there is nothing to measure.
pub(crate) async fn online(load: &Load, number: usize) -> Light {
    let manner = Manner {
        tls: load.tls.clone(),
        proof: Proof::Password(PASSWORD.into()),
    };
    let coming = async {
        let mut light = log_in(load, number, &manner).await?;
        light.bind("load").await?;
        // As clients do: only who has asked for the roster is told of changes (RFC 6121 §2.2).
        light
            .send(
                "<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>\
                 <presence/>",
            )
            .await?;
        ping(&mut light).await?;
        Ok::<_, Reason>(light)
    };
    let light = coming.await;
    light.unwrap_or_else(|reason| panic!("{} cannot start: {reason}", name(number)))
}

pub(crate) async fn log_in(load: &Load, number: usize, manner: &Manner) -> Result<Light, Reason> {
    let light = Light::log_in(load.address, &name(number), Ipv4Addr::LOCALHOST, manner).await?;
    Ok(light.with_room(ROOM))
}

/// Asks the server and waits for its answer: it has then taken what was sent before.
pub(crate) async fn ping(light: &mut Light) -> Result<(), Reason> {
    light
        .send("<iq type='get' id='ping' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await?;
    light.wait_for(|stanza| is_iq(stanza, "ping")).await
}

/// Whether this answers the request with this id.
pub(crate) fn is_iq(stanza: &str, id: &str) -> bool {
    let tag = stanza.split('>').next().unwrap_or_default();
    tag.starts_with("<iq")
        && ['\'', '"']
            .iter()
            .any(|quote| tag.contains(&format!(" id={quote}{id}{quote}")))
}

pub(crate) fn name(number: usize) -> String {
    format!("user{number}")
}
