//! Those who stay: pairs of clients that chat at a steady rate, and how long their messages take.

use std::cell::RefCell;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_tests::chaos::random::Random;
use rookery_tests::eventually;
use rookery_tests::figures::percentile;
use rookery_tests::light::{Light, Manner, Proof, Tls};
use tokio::task::JoinHandle;

use crate::{Storm, accounts};

/// When messages were sent, and how many seconds they took.
#[derive(Default)]
pub(crate) struct Latencies(Vec<(Instant, f64)>);

/// The latencies of a phase, in milliseconds.
pub(crate) struct Summary {
    messages: usize,
    p50: f64,
    /// 99 of 100 were not slower.
    pub(crate) p99: f64,
    max: f64,
}

impl Latencies {
    /// Of the messages that were sent in a time.
    pub(crate) fn between(&self, from: Option<Instant>, to: Option<Instant>) -> Summary {
        let mut millis: Vec<f64> = self
            .0
            .iter()
            .filter(|(at, _)| from.is_none_or(|from| *at >= from) && to.is_none_or(|to| *at < to))
            .map(|(_, seconds)| seconds * 1000.0)
            .collect();
        millis.sort_by(f64::total_cmp);
        Summary {
            messages: millis.len(),
            p50: percentile(&millis, 0.5),
            p99: percentile(&millis, 0.99),
            max: percentile(&millis, 1.0),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            p50,
            p99,
            max,
        } = self;
        write!(f, "{messages:>8} {p50:>8.1} {p99:>8.1} {max:>8.1}")
    }
}

/// The pairs' tasks.
pub(crate) struct Pairs {
    senders: Vec<JoinHandle<Result<(), String>>>,
    receivers: Vec<JoinHandle<()>>,
    counts: Rc<RefCell<Counts>>,
}

#[derive(Default)]
struct Counts {
    sent: usize,
    received: usize,
    broken: usize,
    stop: bool,
}

impl Pairs {
    /// Logs the pairs in on two nodes and lets them talk. Half of the pairs have an end on each.
    pub(crate) async fn start(
        storm: &Storm,
        nodes: [SocketAddr; 2],
        latencies: Rc<RefCell<Latencies>>,
    ) -> Self {
        let manner = Manner {
            tls: Tls::Never,
            proof: Proof::Key(Arc::from(accounts::client_key())),
        };
        let counts = Rc::new(RefCell::new(Counts::default()));
        let epoch = Instant::now();
        let pace = Duration::from_secs_f64(1.0 / storm.rate);
        let mut ends = Vec::new();
        for number in 0..storm.pairs {
            let (from, to) = (nodes[number % 2], nodes[number / 2 % 2]);
            let sender = come(&format!("a{number}"), from, &manner).await;
            let receiver = come(&format!("b{number}"), to, &manner).await;
            ends.push((sender, receiver));
        }
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for (number, (sender, receiver)) in ends.into_iter().enumerate() {
            let counts = || Rc::clone(&counts);
            let receiving = receive(receiver, epoch, Rc::clone(&latencies), counts());
            receivers.push(tokio::task::spawn_local(receiving));
            let sending = send(sender, number, epoch, pace, counts());
            senders.push(tokio::task::spawn_local(sending));
        }
        Self {
            senders,
            receivers,
            counts,
        }
    }

    /// Lets them stop, and returns how many messages and connections are missing.
    pub(crate) async fn finish(self) -> usize {
        self.counts.borrow_mut().stop = true;
        let mut broken = 0;
        for sender in self.senders {
            if let Err(reason) = sender.await.expect("no panic") {
                println!("a sender lost its connection: {reason}");
                broken += 1;
            }
        }
        let counts = Rc::clone(&self.counts);
        eventually("the last messages", || async {
            let counts = counts.borrow();
            counts.received >= counts.sent || counts.broken > 0
        })
        .await;
        for receiver in self.receivers {
            receiver.abort();
        }
        let counts = self.counts.borrow();
        broken + counts.broken + counts.sent.saturating_sub(counts.received)
    }
}

async fn come(name: &str, node: SocketAddr, manner: &Manner) -> Light {
    let from = Ipv4Addr::LOCALHOST;
    let light = Light::managed(node, name, from, manner, None).await;
    let mut light = light.unwrap_or_else(|reason| panic!("{name} cannot start: {reason}"));
    let available = light.become_available().await;
    available.unwrap_or_else(|reason| panic!("{name} cannot start: {reason}"));
    light
}

async fn send(
    mut light: Light,
    number: usize,
    epoch: Instant,
    pace: Duration,
    counts: Rc<RefCell<Counts>>,
) -> Result<(), String> {
    // Not all in one moment.
    let millis = u64::try_from(pace.as_millis())
        .expect("a short time")
        .max(1);
    tokio::time::sleep(Random::new(number as u64).millis(0, millis)).await;
    let mut ticks = tokio::time::interval(pace);
    loop {
        tokio::select! {
            reason = light.idle(|_| ()) => return Err(reason),
            _ = ticks.tick() => {}
        }
        if counts.borrow().stop {
            return Ok(());
        }
        let at = epoch.elapsed().as_nanos();
        counts.borrow_mut().sent += 1;
        light
            .send(&format!(
                "<message to='b{number}@localhost/phone' id='t{at}' type='chat'><body>Hi!</body></message>"
            ))
            .await?;
    }
}

async fn receive(
    mut light: Light,
    epoch: Instant,
    latencies: Rc<RefCell<Latencies>>,
    counts: Rc<RefCell<Counts>>,
) {
    let reason = light
        .idle(|text| {
            let now = epoch.elapsed();
            for id in text.split(" id='t").skip(1) {
                let nanos = id.split('\'').next().and_then(|n| n.parse().ok());
                let sent = Duration::from_nanos(nanos.expect("the time of a message"));
                let took = now.saturating_sub(sent).as_secs_f64();
                latencies.borrow_mut().0.push((epoch + sent, took));
                counts.borrow_mut().received += 1;
            }
        })
        .await;
    println!("a receiver lost its connection: {reason}");
    counts.borrow_mut().broken += 1;
}
