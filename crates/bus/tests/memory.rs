//! The bus inside one process: the suite, and a loss of data.

#![allow(clippy::unwrap_used, reason = "a test fails where something is wrong")]

mod suite;

use std::sync::Arc;

use async_trait::async_trait;
use rookery_bus::{Bus, Limits, MemoryHub};
use rookery_proto::cluster::Epoch;

struct InMemory(MemoryHub);

#[async_trait]
impl suite::Hub for InMemory {
    async fn start(inbox_batches: usize) -> Self {
        Self(MemoryHub::with_inbox_batches(inbox_batches))
    }

    async fn node(&self, epoch: Epoch, limits: Limits) -> Arc<dyn Bus> {
        Arc::new(self.0.node(epoch, limits))
    }

    async fn older_node(&self, epoch: Epoch) -> Arc<dyn Bus> {
        Arc::new(self.0.node_speaking(epoch, Limits::default(), 1))
    }

    async fn bury(&self, _: Epoch) {}

    async fn set_reachable(&self, reachable: bool) {
        self.0.set_reachable(reachable);
    }
}

suite::bus_suite!(InMemory);
