//! Watching the other nodes.
//!
//! Each node looks at all leases nine times per lease. A node that is known and has no lease is lost:
//! everybody is told, and one of those who noticed claims what it left behind, one that speaks its
//! frames if there is one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use rookery_proto::cluster::Epoch;
use tokio::task::JoinSet;

use super::{Inner, collect, keys};
use crate::{Error, Event, NodeInfo, metrics};

/// What the watcher remembers from one look to the next.
#[derive(Default)]
struct Watch {
    /// Lost nodes that were announced and are still listed.
    announced: HashSet<Epoch>,
}

/// Watches for as long as the directory runs; what this node collects ends with it.
pub(super) async fn watch(inner: Arc<Inner>) {
    let pause = (inner.config.lease / 9).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut watch = Watch::default();
    let mut collectors = JoinSet::new();
    loop {
        tokio::time::sleep(pause).await;
        while collectors.try_join_next().is_some() {}
        if let Err(error) = watch.look(&inner, &mut collectors).await {
            tracing::debug!(%error, "could not look at the leases");
        }
    }
}

/// Learns who is there.
pub(super) async fn watch_once(inner: &Inner) -> Result<(), Error> {
    let listed = listed(inner).await?;
    let epochs: Vec<Epoch> = listed.keys().copied().collect();
    let leases = leases(inner, &epochs).await?;
    inner.living_mut().extend(leases);
    Ok(())
}

impl Watch {
    async fn look(
        &mut self,
        inner: &Arc<Inner>,
        collectors: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let listed = listed(inner).await?;
        let known: HashMap<Epoch, NodeInfo> = inner.living().clone();
        let epochs: HashSet<Epoch> = listed.keys().chain(known.keys()).copied().collect();
        let mut epochs: Vec<Epoch> = epochs.into_iter().collect();
        if !epochs.contains(&inner.node.epoch) {
            epochs.push(inner.node.epoch);
        }
        let living = leases(inner, &epochs).await?;
        let is_missing = !living.contains_key(&inner.node.epoch);
        if is_missing {
            inner.lease_missing.notify_one();
        }
        if is_missing || inner.in_grace() {
            // Others may be as little dead as this one: they are about to take theirs again.
            inner.living_mut().extend(living);
            return Ok(());
        }
        metrics::NODES.set(i64::try_from(living.len()).unwrap_or(i64::MAX));
        self.announced
            .retain(|epoch| listed.contains_key(epoch) && !living.contains_key(epoch));
        let lost = epochs.iter().filter(|epoch| !living.contains_key(epoch));
        let lost: Vec<NodeInfo> = lost
            .filter_map(|epoch| known.get(epoch).or(listed.get(epoch)).cloned())
            .collect();
        let learned = |epoch: &Epoch| living.contains_key(epoch) || !known.contains_key(epoch);
        {
            // What a lookup found out meanwhile stays.
            let mut current = inner.living_mut();
            current.retain(|epoch, _| learned(epoch));
            current.extend(living.iter().map(|(epoch, node)| (*epoch, node.clone())));
        }
        for node in lost {
            self.lose(inner, node, &listed, collectors).await?;
        }
        Ok(())
    }

    async fn lose(
        &mut self,
        inner: &Arc<Inner>,
        node: NodeInfo,
        listed: &HashMap<Epoch, NodeInfo>,
        collectors: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let is_listed = listed.contains_key(&node.epoch);
        let announced = if is_listed {
            !self.announced.insert(node.epoch)
        } else {
            self.announced.remove(&node.epoch)
        };
        if !announced {
            tracing::warn!(node = %node.name, epoch = %node.epoch, "a node is lost");
            metrics::NODES_LOST.inc();
            inner.events.push(Event::NodeLost { node: node.clone() });
        }
        // Not listed: somebody has cleaned up after it already.
        if is_listed
            && inner.can_read_inbox_of(&node)
            && collect::claim(inner, node.epoch).await?
            && inner.collections.begin(node.epoch)
        {
            collectors.spawn(collect::collect(inner.clone(), node));
        }
        Ok(())
    }
}

impl Inner {
    /// Whether the frames that a dead node was sent can be read here, or nowhere. What is in its
    /// inbox may be of its version; while nodes are upgraded there are older ones, too.
    fn can_read_inbox_of(&self, dead: &NodeInfo) -> bool {
        let reads = |node: &NodeInfo| node.frames >= dead.frames;
        reads(&self.node) || !self.living().values().any(reads)
    }
}

/// The nodes that live or are not cleaned up yet.
async fn listed(inner: &Inner) -> Result<HashMap<Epoch, NodeInfo>, Error> {
    let mut all = redis::cmd("HGETALL");
    let all: HashMap<String, String> = inner
        .link
        .command(all.arg(keys::nodes(&inner.config.prefix)))
        .await?;
    let node = |(field, name): (&String, &String)| {
        let epoch: Epoch = field.parse().ok()?;
        let frames = all
            .get(&keys::frames_field(epoch))
            .and_then(|frames| frames.parse().ok());
        Some((epoch, node(epoch, name, frames)))
    };
    Ok(all.iter().filter_map(node).collect())
}

/// Those of the nodes that have a lease.
pub(super) async fn leases(
    inner: &Inner,
    epochs: &[Epoch],
) -> Result<HashMap<Epoch, NodeInfo>, Error> {
    if epochs.is_empty() {
        return Ok(HashMap::new());
    }
    let prefix = &inner.config.prefix;
    let mut pipeline = Pipeline::with_capacity(epochs.len());
    for epoch in epochs {
        pipeline.cmd("GET").arg(keys::lease(prefix, *epoch));
    }
    let names: Vec<Option<String>> = inner.link.pipeline(&pipeline).await?;
    let mut fields = redis::cmd("HMGET");
    fields.arg(keys::nodes(prefix));
    for epoch in epochs {
        fields.arg(keys::frames_field(*epoch));
    }
    let frames: Vec<Option<u8>> = inner.link.command(&fields).await?;
    let found = epochs.iter().zip(names).zip(frames);
    Ok(found
        .filter_map(|((epoch, name), frames)| Some((*epoch, node(*epoch, &name?, frames))))
        .collect())
}

fn node(epoch: Epoch, name: &str, frames: Option<u8>) -> NodeInfo {
    NodeInfo {
        epoch,
        name: name.into(),
        frames: frames.unwrap_or(NodeInfo::OLDEST_FRAMES),
    }
}
