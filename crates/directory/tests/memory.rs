//! The directory in memory: the suite, and what can be done to it.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

mod suite;

use std::sync::Arc;

use async_trait::async_trait;
use rookery_directory::{Directory, Error, Event, Memory, MemoryCluster};

struct InMemory(MemoryCluster);

#[async_trait]
impl suite::Cluster for InMemory {
    async fn start() -> Self {
        Self(Memory::cluster())
    }

    async fn node(&self, name: &str) -> Arc<dyn Directory> {
        Arc::new(self.0.node(name))
    }

    async fn lose_data(&self) {
        self.0.lose_data();
    }
}

suite::directory_suite!(InMemory);

#[tokio::test]
async fn it_can_be_made_unreachable() {
    let cluster = Memory::cluster();
    let node = cluster.node("one");
    let mut events = node.events().unwrap();
    let jid = suite::full("ann@example.com/desk");
    cluster.set_reachable(false);
    suite::expect(&mut events, |event| *event == Event::Fenced).await;
    assert!(matches!(
        node.register(&jid).await,
        Err(Error::Unavailable(_))
    ));
    cluster.set_reachable(true);
    suite::expect(&mut events, |event| *event == Event::FlushCache).await;
    suite::expect(&mut events, |event| *event == Event::Unfenced).await;
    node.register(&jid).await.unwrap();
}
