//! Several nodes on a private Redis and a private PostgreSQL.

use std::sync::Arc;

use crate::client::managed::Broken;
use crate::client::{Client, Registry};
use crate::server::{Accounts, TestServer};
use crate::services::{Postgres, Redis};

/// A running cluster. Its nodes are numbered from 0.
pub struct TestCluster {
    nodes: Vec<TestServer>,
    /// The directory and the bus.
    pub redis: Redis,
    database: String,
    _postgres: Arc<Postgres>,
}

impl TestCluster {
    /// Starts a cluster of `size` nodes.
    pub async fn start(size: usize) -> Self {
        Self::with(size, &[]).await
    }

    /// Starts a cluster whose nodes have these settings, each `section.key=value`.
    pub async fn with(size: usize, settings: &[&str]) -> Self {
        let postgres = Postgres::shared().await;
        let database = postgres.database().await;
        let redis = Redis::start().await;
        let (accounts, registry) = (Accounts::default(), Registry::default());
        let mut nodes = Vec::new();
        for number in 0..size {
            let own = [
                format!("storage.url={database}"),
                format!("cluster.redis={}", redis.url()),
                format!("cluster.node=node{number}"),
            ];
            let settings = settings.iter().map(|&s| s.to_owned());
            let settings = own.into_iter().chain(settings).collect();
            nodes.push(TestServer::node(settings, accounts.clone(), registry.clone()).await);
        }
        Self {
            nodes,
            redis,
            database,
            _postgres: postgres,
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
