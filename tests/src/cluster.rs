//! Several nodes on a private Redis and a private PostgreSQL.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::client::managed::Broken;
use crate::client::{Client, Registry};
use crate::netns::{Cut, Network, Peer};
use crate::place::Place;
use crate::proxy::{Mode, Proxy};
use crate::server::{Accounts, TestServer};
use crate::services::{Postgres, Redis};

/// A running cluster. Its nodes are numbered from 0.
pub struct TestCluster {
    nodes: Vec<TestServer>,
    /// The directory and the bus.
    pub redis: Redis,
    database: String,
    postgres: Database,
    proxies: Option<(Proxy, Proxy)>,
    /// In front of Redis and PostgreSQL, for each node.
    links: Vec<(Proxy, Proxy)>,
    /// Dropped last: what is in it has ended.
    network: Option<Network>,
}

/// The PostgreSQL of a cluster.
enum Database {
    /// One that other tests use, too.
    Shared(Arc<Postgres>),
    /// One that may be stopped.
    Own(Postgres),
}

impl Database {
    fn server(&self) -> &Postgres {
        match self {
            Self::Shared(postgres) => postgres,
            Self::Own(postgres) => postgres,
        }
    }
}

/// What a cluster is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    settings: Vec<String>,
    own_database: bool,
    proxies: bool,
    cuttable: bool,
}

impl Plan {
    /// Nodes with these settings, each `section.key=value`.
    pub fn new(settings: &[&str]) -> Self {
        Self {
            settings: settings.iter().map(|&s| s.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// With a PostgreSQL that no other test uses, so that it may be stopped.
    #[must_use]
    pub fn own_database(mut self) -> Self {
        self.own_database = true;
        self
    }

    /// With links from each node to Redis and to PostgreSQL that can be [cut](TestCluster::cut): in a network
    /// of its own where that is permitted, otherwise through proxies. The database is the cluster's own.
    #[must_use]
    pub fn cuttable(mut self) -> Self {
        self.cuttable = true;
        self.own_database = true;
        self
    }

    /// With proxies in front of Redis and PostgreSQL, for the nodes.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxies = true;
        self
    }
}

impl TestCluster {
    /// Starts a cluster of `size` nodes.
    pub async fn start(size: usize) -> Self {
        Self::with(size, &[]).await
    }

    /// Starts a cluster whose nodes have these settings, each `section.key=value`.
    pub async fn with(size: usize, settings: &[&str]) -> Self {
        Self::planned(size, &Plan::new(settings)).await
    }

    /// Starts a cluster by a plan.
    pub async fn planned(size: usize, plan: &Plan) -> Self {
        if plan.cuttable
            && let Ok(network) = Network::try_create(size)
        {
            return Self::within(network, size, plan).await;
        }
        let redis = Redis::start().await;
        let postgres = if plan.own_database {
            Database::Own(Postgres::start().await)
        } else {
            Database::Shared(Postgres::shared().await)
        };
        Self::of(size, plan, redis, postgres, None).await
    }

    /// Starts a cluster in a network whose links can be cut; `None`, and a line that says why, where
    /// that is not permitted.
    pub async fn in_network(size: usize, settings: &[&str]) -> Option<Self> {
        let network = Network::create(size)?;
        Some(Self::within(network, size, &Plan::new(settings)).await)
    }

    async fn within(network: Network, size: usize, plan: &Plan) -> Self {
        let redis = Redis::start_at(network.redis_place()).await;
        let postgres = Postgres::start_at(network.postgres_place()).await;
        let postgres = Database::Own(postgres);
        Self::of(size, plan, redis, postgres, Some(network)).await
    }

    async fn of(
        size: usize,
        plan: &Plan,
        redis: Redis,
        postgres: Database,
        network: Option<Network>,
    ) -> Self {
        let server = postgres.server();
        let database = server.database().await;
        let direct = (database.clone(), redis.url());
        let through = |both: &(Proxy, Proxy)| {
            let replace = |url: &str, from: SocketAddr, proxy: &Proxy| {
                url.replace(&from.to_string(), &proxy.address().to_string())
            };
            (
                replace(&direct.0, server.address(), &both.1),
                replace(&direct.1, redis.address(), &both.0),
            )
        };
        let both = async || {
            (
                Proxy::start(redis.address()).await,
                Proxy::start(server.address()).await,
            )
        };
        let mut proxies = None;
        if plan.proxies {
            proxies = Some(both().await);
        }
        let mut links = Vec::new();
        let (accounts, registry) = (Accounts::default(), Registry::default());
        let mut nodes = Vec::new();
        for number in 0..size {
            if plan.cuttable && network.is_none() {
                links.push(both().await);
            }
            let between = links.last().or(proxies.as_ref());
            let urls = between.map_or_else(|| direct.clone(), through);
            let own = [
                format!("storage.url={}", urls.0),
                format!("cluster.redis={}", urls.1),
                format!("cluster.node=node{number}"),
                // No load balancer has to learn that a node is not ready.
                "server.drain_delay=0s".to_owned(),
            ];
            let settings = own.into_iter().chain(plan.settings.iter().cloned());
            let place = match &network {
                Some(network) => network.node_place(number),
                None => Place::loopback(),
            };
            let (accounts, registry) = (accounts.clone(), registry.clone());
            nodes.push(TestServer::node(place, settings.collect(), accounts, registry).await);
        }
        Self {
            nodes,
            redis,
            database,
            postgres,
            proxies,
            links,
            network,
        }
    }

    /// Cuts a node off from a part; clients still reach it. For clusters that are
    /// [cuttable](Plan::cuttable), or in a network.
    pub fn cut(&self, node: usize, peer: Peer, cut: Cut) {
        if let Some(network) = &self.network {
            return network.cut(node, peer, cut);
        }
        let (redis, postgres) = &self.links[node];
        let proxy = match peer {
            Peer::Redis => redis,
            Peer::Postgres => postgres,
        };
        match cut {
            Cut::Reset => {
                proxy.set(Mode::Refuse);
                proxy.cut();
            }
            Cut::Swallow => proxy.set(Mode::Swallow),
        }
    }

    /// Mends everything that was cut at a node.
    pub fn heal(&self, node: usize) {
        if let Some(network) = &self.network {
            return network.heal(node);
        }
        let (redis, postgres) = &self.links[node];
        for proxy in [redis, postgres] {
            // What a proxy has swallowed nobody sends again: such connections are of no use.
            proxy.cut();
            proxy.set(Mode::Pass);
        }
    }

    /// What cuts the links: a real network, or proxies.
    pub fn cut_by(&self) -> &'static str {
        match self.network {
            Some(_) => "network namespaces",
            None => "proxies",
        }
    }

    /// What stands between the nodes and Redis.
    pub fn redis_proxy(&self) -> &Proxy {
        &self.proxies.as_ref().expect("planned with proxies").0
    }

    /// What stands between the nodes and PostgreSQL.
    pub fn postgres_proxy(&self) -> &Proxy {
        &self.proxies.as_ref().expect("planned with proxies").1
    }

    /// The network that the cluster runs in.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("made by in_network")
    }

    /// The cluster's own PostgreSQL.
    pub fn postgres(&mut self) -> &mut Postgres {
        match &mut self.postgres {
            Database::Own(postgres) => postgres,
            Database::Shared(_) => panic!("other tests use this PostgreSQL"),
        }
    }

    /// A node.
    pub fn node(&self, number: usize) -> &TestServer {
        &self.nodes[number]
    }

    /// A node, to kill it or to start it again.
    pub fn node_mut(&mut self, number: usize) -> &mut TestServer {
        &mut self.nodes[number]
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The URL of the cluster's database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A resource on a node, with initial presence.
    pub async fn online(&self, node: usize, who: &str) -> Client {
        self.nodes[node].online(who).await
    }

    /// A resource on a node, without presence.
    pub async fn bound(&self, node: usize, who: &str) -> Client {
        self.nodes[node].bound(who).await
    }

    /// A resource under stream management on a node, with initial presence.
    pub async fn managed_online(&self, node: usize, who: &str) -> Client {
        self.nodes[node].managed_online(who).await
    }

    /// Resumes a session on a node, which must work.
    pub async fn resume(&self, node: usize, broken: Broken) -> Client {
        self.nodes[node].resume(broken).await
    }
}
