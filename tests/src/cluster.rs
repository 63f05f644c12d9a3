//! Several nodes on a private Redis and a private PostgreSQL.

use std::sync::Arc;

use crate::client::managed::Broken;
use crate::client::{Client, Registry};
use crate::netns::Network;
use crate::place::Place;
use crate::server::{Accounts, TestServer};
use crate::services::{Postgres, Redis};

/// A running cluster. Its nodes are numbered from 0.
pub struct TestCluster {
    nodes: Vec<TestServer>,
    /// The directory and the bus.
    pub redis: Redis,
    database: String,
    postgres: Database,
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

/// What a cluster is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    settings: Vec<String>,
    own_database: bool,
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
        let redis = Redis::start().await;
        let postgres = if plan.own_database {
            Database::Own(Postgres::start().await)
        } else {
            Database::Shared(Postgres::shared().await)
        };
        Self::of(size, &plan.settings, redis, postgres, None).await
    }

    /// Starts a cluster in a network whose links can be cut; `None`, and a line that says why, where
    /// that is not permitted.
    pub async fn in_network(size: usize, settings: &[&str]) -> Option<Self> {
        let network = Network::create(size)?;
        let redis = Redis::start_at(network.redis_place()).await;
        let postgres = Postgres::start_at(network.postgres_place()).await;
        let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
        let postgres = Database::Own(postgres);
        Some(Self::of(size, &settings, redis, postgres, Some(network)).await)
    }

    async fn of(
        size: usize,
        settings: &[String],
        redis: Redis,
        postgres: Database,
        network: Option<Network>,
    ) -> Self {
        let database = match &postgres {
            Database::Shared(postgres) => postgres.database().await,
            Database::Own(postgres) => postgres.database().await,
        };
        let (accounts, registry) = (Accounts::default(), Registry::default());
        let mut nodes = Vec::new();
        for number in 0..size {
            let own = [
                format!("storage.url={database}"),
                format!("cluster.redis={}", redis.url()),
                format!("cluster.node=node{number}"),
            ];
            let settings = own.into_iter().chain(settings.iter().cloned()).collect();
            let place = match &network {
                Some(network) => network.node_place(number),
                None => Place::loopback(),
            };
            nodes.push(TestServer::node(place, settings, accounts.clone(), registry.clone()).await);
        }
        Self {
            nodes,
            redis,
            database,
            postgres,
            network,
        }
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
