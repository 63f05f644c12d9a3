//! What happens to a cluster in a bad hour: a table, and one function for each line of it.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use super::random::Random;
use super::robot::Order;
use super::{Crowd, LEASE, recovery};
use crate::cluster::TestCluster;
use crate::netns::{CUTS, Cut, Peer};
use crate::services::Shutdown;

/// A kind of event.
pub struct Kind {
    /// What it is called in reports.
    pub name: &'static str,
    /// How often it comes, among the others.
    pub weight: usize,
    /// Whether sessions die of it, so that they cannot be resumed.
    pub kills_sessions: bool,
    /// Whether nobody's contacts may see anything of it.
    pub is_unseen: bool,
    /// Makes it happen, and ends when everything that was broken is brought back.
    pub happen: for<'s> fn(&'s mut Stage<'_>) -> LocalBoxFuture<'s, ()>,
}

/// All kinds. A new one is a line here and a function below.
pub const EVENTS: &[Kind] = &[
    Kind {
        name: "node killed",
        weight: 2,
        kills_sessions: true,
        is_unseen: false,
        happen: |stage| kill_node(stage).boxed_local(),
    },
    Kind {
        name: "node drained",
        weight: 2,
        kills_sessions: false,
        is_unseen: true,
        happen: |stage| drain_node(stage).boxed_local(),
    },
    Kind {
        name: "Redis killed",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| kill_redis(stage).boxed_local(),
    },
    Kind {
        name: "Redis flushed",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| flush_redis(stage).boxed_local(),
    },
    Kind {
        name: "PostgreSQL restarted",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| restart_postgres(stage, Shutdown::Fast).boxed_local(),
    },
    Kind {
        name: "PostgreSQL crashed",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| restart_postgres(stage, Shutdown::Immediate).boxed_local(),
    },
    Kind {
        name: "PostgreSQL hung",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| freeze_postgres(stage).boxed_local(),
    },
    Kind {
        name: "connections cut",
        weight: 2,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_connections(stage).boxed_local(),
    },
    Kind {
        name: "connections stalled",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| stall_connections(stage).boxed_local(),
    },
    Kind {
        name: "clients moved",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| move_clients(stage).boxed_local(),
    },
    Kind {
        name: "rolling upgrade",
        weight: 1,
        kills_sessions: false,
        is_unseen: true,
        happen: |stage| upgrade_all(stage).boxed_local(),
    },
    Kind {
        name: "Redis hung",
        weight: 2,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| freeze_redis(stage).boxed_local(),
    },
    Kind {
        name: "Redis slow",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| slow_redis(stage).boxed_local(),
    },
    Kind {
        name: "link to Redis resets",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, &[Peer::Redis], Cut::Reset).boxed_local(),
    },
    Kind {
        name: "link to Redis swallows",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, &[Peer::Redis], Cut::Swallow).boxed_local(),
    },
    Kind {
        name: "link to PostgreSQL resets",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, &[Peer::Postgres], Cut::Reset).boxed_local(),
    },
    Kind {
        name: "link to PostgreSQL swallows",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, &[Peer::Postgres], Cut::Swallow).boxed_local(),
    },
    Kind {
        name: "both links reset",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, BOTH, Cut::Reset).boxed_local(),
    },
    Kind {
        name: "both links swallow",
        weight: 1,
        kills_sessions: false,
        is_unseen: false,
        happen: |stage| cut_off(stage, BOTH, Cut::Swallow).boxed_local(),
    },
    Kind {
        name: "node cut off for long",
        weight: 1,
        kills_sessions: true,
        is_unseen: false,
        happen: |stage| cut_off_for_long(stage).boxed_local(),
    },
];

/// All that a node needs.
const BOTH: &[Peer] = &[Peer::Redis, Peer::Postgres];

/// What events act on.
pub struct Stage<'a> {
    /// The nodes and what they need.
    pub cluster: &'a mut TestCluster,
    /// The clients.
    pub crowd: &'a Crowd,
    /// Where the choices come from.
    pub random: &'a mut Random,
    /// Whether some node's counters were lost.
    pub counters_lost: &'a mut bool,
}

/// The order of the events: each as often as it weighs, shuffled, and again.
pub struct Deck {
    kinds: Vec<&'static Kind>,
    cards: Vec<&'static Kind>,
}

impl Deck {
    /// A deck of the kinds of these names, or of all if there are none.
    ///
    /// # Errors
    /// A name that is no kind's.
    pub fn of(names: &[String]) -> Result<Self, String> {
        let known = |name: &&String| EVENTS.iter().any(|kind| kind.name == **name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            let all: Vec<_> = EVENTS.iter().map(|kind| kind.name).collect();
            return Err(format!(
                "no event is called {unknown}; there are {}",
                all.join(", ")
            ));
        }
        let wanted = |kind: &&Kind| names.is_empty() || names.iter().any(|name| name == kind.name);
        Ok(Self {
            kinds: EVENTS.iter().filter(wanted).collect(),
            cards: Vec::new(),
        })
    }

    /// The next event.
    pub fn deal(&mut self, random: &mut Random) -> &'static Kind {
        if self.cards.is_empty() {
            let kinds = self.kinds.iter();
            self.cards = kinds
                .flat_map(|&kind| std::iter::repeat_n(kind, kind.weight))
                .collect();
            random.shuffle(&mut self.cards);
        }
        self.cards.pop().expect("there is a kind")
    }
}

impl Stage<'_> {
    /// How long something stays broken.
    async fn a_while(&mut self, from: u64, to: u64) {
        tokio::time::sleep(self.random.millis(from, to)).await;
    }

    fn some_node(&mut self) -> usize {
        self.random.below(self.cluster.size())
    }

    /// Tells one client in `share` something.
    fn tell_some(&mut self, share: usize, order: impl Fn(&mut Random) -> Order) {
        for robot in 0..self.crowd.size() {
            if self.random.below(share) == 0 {
                self.crowd.tell(robot, order(self.random));
            }
        }
    }

    async fn bring_back(&mut self, node: usize) {
        *self.counters_lost = true;
        self.cluster.node_mut(node).come_back().await;
        self.crowd
            .node_is_at(node, self.cluster.node(node).address("c2s"));
    }
}

async fn kill_node(stage: &mut Stage<'_>) {
    let node = stage.some_node();
    stage.cluster.node_mut(node).kill();
    stage.a_while(500, 4000).await;
    stage.bring_back(node).await;
}

async fn drain_node(stage: &mut Stage<'_>) {
    let node = stage.some_node();
    stop_node(stage, node).await;
    stage.a_while(0, 1000).await;
    stage.bring_back(node).await;
}

async fn stop_node(stage: &mut Stage<'_>, node: usize) {
    let status = stage.cluster.node_mut(node).stop().await;
    if status.code() != Some(0) {
        stage
            .crowd
            .shared()
            .note(&format!("A DRAINED NODE ENDED WITH {status}"));
    }
}

/// As an operator does it: drain, stop, start the new binary, look whether all is well, go on.
async fn upgrade_all(stage: &mut Stage<'_>) {
    for node in 0..stage.cluster.size() {
        let drain = stage.cluster.node(node).start_cli(&["drain"]);
        let status = drain.ended().await;
        if status.code() != Some(0) {
            stage
                .crowd
                .shared()
                .note(&format!("A DRAIN ENDED WITH {status}"));
        }
        stop_node(stage, node).await;
        stage.bring_back(node).await;
        recovery(stage.cluster, stage.crowd).await;
    }
}

async fn kill_redis(stage: &mut Stage<'_>) {
    stage.cluster.redis.kill();
    stage.a_while(100, 2000).await;
    stage.cluster.redis.come_back().await;
}

async fn flush_redis(stage: &mut Stage<'_>) {
    let answer = stage.cluster.redis.command("FLUSHALL").await;
    assert_eq!(answer, "+OK", "FLUSHALL");
}

/// For less than a lease, so that nobody is given up.
async fn freeze_redis(stage: &mut Stage<'_>) {
    stage.cluster.redis.signal("STOP");
    stage.a_while(300, 4500).await;
    stage.cluster.redis.signal("CONT");
}

/// It stands still most of the time.
async fn slow_redis(stage: &mut Stage<'_>) {
    for _ in 0..15 {
        stage.cluster.redis.signal("STOP");
        stage.a_while(100, 300).await;
        stage.cluster.redis.signal("CONT");
        stage.a_while(20, 60).await;
    }
}

/// For less than a lease.
async fn cut_off(stage: &mut Stage<'_>, peers: &[Peer], cut: Cut) {
    let node = stage.some_node();
    for &peer in peers {
        stage.cluster.cut(node, peer, cut);
    }
    stage.a_while(300, 4000).await;
    stage.cluster.heal(node);
}

/// For so long that the others take the node for dead.
async fn cut_off_for_long(stage: &mut Stage<'_>) {
    let node = stage.some_node();
    let cut = CUTS[stage.random.below(CUTS.len())];
    let peers = [&BOTH[..1], BOTH][stage.random.below(2)];
    for &peer in peers {
        stage.cluster.cut(node, peer, cut);
    }
    let lease = u64::try_from(LEASE.as_millis()).expect("a short time");
    stage.a_while(lease + 1500, lease + 4000).await;
    stage.cluster.heal(node);
}

async fn restart_postgres(stage: &mut Stage<'_>, how: Shutdown) {
    stage.cluster.postgres().stop(how);
    stage.a_while(0, 1500).await;
    stage.cluster.postgres().come_back().await;
}

async fn freeze_postgres(stage: &mut Stage<'_>) {
    stage.cluster.postgres().freeze(true);
    stage.a_while(500, 2500).await;
    stage.cluster.postgres().freeze(false);
}

async fn cut_connections(stage: &mut Stage<'_>) {
    stage.tell_some(3, |_| Order::Cut);
    // So that they have lost them before anybody asks whether all are back.
    stage.a_while(50, 100).await;
}

async fn stall_connections(stage: &mut Stage<'_>) {
    stage.tell_some(5, |random| Order::Stall(random.millis(500, 3000)));
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn move_clients(stage: &mut Stage<'_>) {
    stage.tell_some(5, |_| Order::Move);
    stage.a_while(50, 100).await;
}
