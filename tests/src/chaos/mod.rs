//! A cluster with some hundreds of clients that write to each other while its parts die and come back, and
//! the proof that nothing was lost: whoever saw a message acknowledged can rely on it.
//!
//! [`run`] starts the nodes, Redis and PostgreSQL, lets the events of [`events::EVENTS`] happen in an order
//! that the seed decides, brings everything back, reads all archives, and returns a [`Report`].

pub mod events;
pub mod ledger;
pub mod random;
mod report;
pub mod robot;
pub mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Plan, TestCluster};
use crate::http;
use events::{Deck, Stage};
use ledger::Ledger;
use random::Random;
pub use report::{Counters, Recovery, Report};
use robot::{Order, Robot, Shared, State, lock};
use watch::Watch;

/// How long a node counts as alive without a sign of it.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
/// How long it may take until all is well after an event, or at the end.
const RECOVERY: Duration = Duration::from_mins(1);
/// How long messages may take to their recipients, who are all there.
const SETTLING: Duration = Duration::from_secs(30);
/// Nothing more comes once nothing has come for so long.
const REST: Duration = Duration::from_secs(3);

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides on the events and on what the clients do.
    pub seed: u64,
    /// For how long there are events.
    pub duration: Duration,
    /// How many clients there are.
    pub clients: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// Messages a second, of all clients together.
    pub rate: f64,
    /// The names of the events that may happen; all if there are none.
    pub only: Vec<String>,
    /// Whether events are told as they happen.
    pub told: bool,
    /// Where the nodes' logs are kept, if anywhere.
    pub logs: Option<std::path::PathBuf>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            duration: Duration::from_secs(75),
            clients: 150,
            nodes: 3,
            rate: 100.0,
            only: Vec::new(),
            told: false,
            logs: None,
        }
    }
}

/// The clients.
pub struct Crowd {
    shared: Arc<Shared>,
    orders: Vec<UnboundedSender<Order>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Runs a scenario to its end. Its events must exist.
pub async fn run(scenario: &Scenario) -> Report {
    let mut deck = Deck::of(&scenario.only).unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::new(&[
        "c2s.tls=optional",
        "registration.enabled=true",
        "auth.scram_iterations=4096",
        // Clients give a dead node's session up at once; a session on a living node waits for long.
        &format!("cluster.lease={}s", LEASE.as_secs()),
    ])
    .cuttable();
    let mut cluster = TestCluster::planned(scenario.nodes, &plan).await;
    let mut random = Random::new(scenario.seed);
    let crowd = Crowd::start(&cluster, scenario, &mut random).await;
    let started = Instant::now();
    let mut report = Report::new(scenario, cluster.cut_by());
    let tell = |text: &str| {
        if scenario.told {
            println!("{:7.1} s  {text}", started.elapsed().as_secs_f64());
        }
    };
    tell("all clients are online");
    let mut counters_lost = false;
    let mut last_is_unseen = true;
    while started.elapsed() < scenario.duration {
        tokio::time::sleep(random.millis(200, 1500)).await;
        let kind = deck.deal(&mut random);
        if kind.is_unseen && !last_is_unseen {
            // What came before may be seen late: by the end of a lease.
            tokio::time::sleep(LEASE + REST).await;
        }
        last_is_unseen = kind.is_unseen;
        crowd.shared.watch().begins(kind.name, !kind.is_unseen);
        tell(kind.name);
        let mut stage = Stage {
            cluster: &mut cluster,
            crowd: &crowd,
            random: &mut random,
            counters_lost: &mut counters_lost,
        };
        (kind.happen)(&mut stage).await;
        let took = recovery(&cluster, &crowd).await;
        tell(&match took {
            Some(took) => format!(
                "{}: well again after {:.2} s",
                kind.name,
                took.as_secs_f64()
            ),
            None => format!("{}: NOT WELL AGAIN", kind.name),
        });
        report.sessions_killed |= kind.kills_sessions;
        report.recoveries.push(Recovery {
            event: kind.name,
            took,
        });
    }
    crowd.tell_all(Order::Quiet);
    if recovery(&cluster, &crowd).await.is_none() {
        report
            .problems
            .push("not everybody came back at the end".to_owned());
    }
    if !crowd.settle().await {
        report
            .problems
            .push("messages were acknowledged and not seen".to_owned());
    }
    if !counters_lost {
        report.whole = Some(counters(&cluster).await);
    }
    tell("calm: a few messages more, to see that the counters balance");
    report.calm = calm(&cluster, &crowd).await;
    tell("the archives are read");
    let (left, shared) = crowd.finish().await;
    if left > 0 {
        report
            .problems
            .push(format!("{left} clients could not finish"));
    }
    report.take(&shared.ledger(), &shared.watch());
    report.incidents = lock(&shared.incidents).clone();
    if let Some(directory) = &scenario.logs {
        keep_logs(&cluster, directory);
    }
    report
}

/// How long it takes until every node is ready and every client has a session on a stream.
pub(crate) async fn recovery(cluster: &TestCluster, crowd: &Crowd) -> Option<Duration> {
    let start = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while start.elapsed() < RECOVERY {
        pace.tick().await;
        if !crowd.all(|state| state.online) {
            continue;
        }
        let mut ready = true;
        for node in 0..cluster.size() {
            ready &= cluster.node(node).admin("/readyz").await.status == 200;
        }
        if ready {
            return Some(start.elapsed());
        }
    }
    None
}

/// The counters over all nodes, for messages.
async fn counters(cluster: &TestCluster) -> Counters {
    let mut sum = Counters::default();
    for node in 0..cluster.size() {
        let exposition = cluster.node(node).admin("/metrics").await.body;
        let count = |name, labels: &str| {
            let value = http::metric(&exposition, name, labels).unwrap_or(0.0);
            #[expect(clippy::cast_possible_truncation, reason = "a counter of a short run")]
            let value = value as i64;
            value
        };
        sum.accepted += count("rookery_stanzas_accepted_total", r#"kind="message""#);
        for (name, value) in &mut sum.outcomes {
            let labels = format!(r#"kind="message",outcome="{name}""#);
            *value += count("rookery_stanzas_total", &labels);
        }
    }
    sum
}

/// Has everybody send something while nothing fails, and counts what became of it: all nodes live, so that
/// their counters must balance, whatever was lost of them before.
async fn calm(cluster: &TestCluster, crowd: &Crowd) -> Counters {
    let before = counters(cluster).await;
    crowd.tell_all(Order::Burst(3));
    // Until they have sent them, nothing waits for an ack.
    tokio::time::sleep(Duration::from_millis(500)).await;
    crowd.settle().await;
    let mut after = counters(cluster).await.since(&before);
    let start = Instant::now();
    while !after.balances() && start.elapsed() < REST {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = counters(cluster).await.since(&before);
    }
    after
}

fn keep_logs(cluster: &TestCluster, directory: &std::path::Path) {
    for node in 0..cluster.size() {
        let file = directory.join(format!("node{node}.log"));
        if let Err(error) = std::fs::write(&file, cluster.node(node).log()) {
            println!("{}: {error}", file.display());
        }
    }
}

impl Crowd {
    /// Makes the accounts and waits until everybody is online.
    async fn start(cluster: &TestCluster, scenario: &Scenario, random: &mut Random) -> Self {
        let addresses =
            |listener: &'static str| (0..cluster.size()).map(|n| cluster.node(n).address(listener));
        let nodes: Vec<SocketAddr> = addresses("c2s").collect();
        let secure: Vec<SocketAddr> = addresses("c2s_direct_tls").collect();
        let registrations = (0..scenario.clients).map(|number| {
            let node = secure[number % secure.len()];
            async move {
                let registered = crate::within("an account", robot::register(number, node)).await;
                registered.unwrap_or_else(|e| panic!("registering {number}: {e}"));
            }
        });
        let registrations = futures_util::stream::iter(registrations);
        registrations
            .buffer_unordered(16)
            .collect::<Vec<()>>()
            .await;
        let shared = Arc::new(Shared {
            nodes: Mutex::new(nodes),
            ledger: Mutex::new(Ledger::default()),
            watch: Mutex::new(Watch::default()),
            robots: scenario.clients,
            #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
            pause: Duration::from_secs_f64(scenario.clients as f64 / scenario.rate),
            states: Mutex::new(vec![State::default(); scenario.clients]),
            incidents: Mutex::new(BTreeMap::new()),
        });
        let (mut orders, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..scenario.clients {
            let (sender, receiver) = mpsc::unbounded_channel();
            let robot = Robot::new(number, shared.clone(), receiver, random.draw());
            orders.push(sender);
            tasks.push(tokio::spawn(robot.run()));
        }
        let crowd = Self {
            shared,
            orders,
            tasks,
        };
        if recovery(cluster, &crowd).await.is_none() {
            let incidents = lock(&crowd.shared.incidents).clone();
            panic!("the clients do not get online: {incidents:?}");
        }
        crowd.tell_all(Order::Subscribe);
        crate::eventually("everybody to see a contact", async || {
            crowd.shared.watch().pairs() == crowd.size()
        })
        .await;
        crowd
    }

    /// How many clients there are.
    pub fn size(&self) -> usize {
        self.orders.len()
    }

    /// Tells a client something.
    pub fn tell(&self, robot: usize, order: Order) {
        // One that panicked is missed at the end.
        let _ = self.orders[robot].send(order);
    }

    /// Tells all of them.
    pub fn tell_all(&self, order: Order) {
        (0..self.size()).for_each(|robot| self.tell(robot, order));
    }

    /// A node came back at another address.
    pub fn node_is_at(&self, node: usize, address: SocketAddr) {
        lock(&self.shared.nodes)[node] = address;
    }

    /// What they share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn all(&self, claim: impl Fn(&State) -> bool) -> bool {
        lock(&self.shared.states).iter().all(claim)
    }

    /// Waits until everything is acknowledged and seen, and nothing more comes; false if that takes too
    /// long.
    async fn settle(&self) -> bool {
        let start = Instant::now();
        let mut last = (Instant::now(), 0);
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            let sightings = self.shared.ledger().sightings();
            if sightings != last.1 {
                last = (Instant::now(), sightings);
            }
            let acknowledged = self.all(|state| state.waiting == 0);
            let settled = acknowledged && self.shared.ledger().unseen().is_empty();
            if last.0.elapsed() > REST && settled {
                return true;
            }
            if start.elapsed() > SETTLING {
                return false;
            }
        }
    }

    /// Has everybody read the archive and leave; returns how many did not manage, and what they shared.
    async fn finish(self) -> (usize, Arc<Shared>) {
        self.tell_all(Order::Finish);
        let deadline = Instant::now() + RECOVERY;
        let mut left = 0;
        for mut task in self.tasks {
            match tokio::time::timeout_at(deadline, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => left += 1,
                Err(_) => {
                    task.abort();
                    left += 1;
                }
            }
        }
        (left, self.shared)
    }
}
