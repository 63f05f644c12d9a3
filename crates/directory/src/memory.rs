//! The directory inside one process: the embedded default, and several nodes in one test.
//!
//! [`MemoryCluster`] plays the part of Redis, each [`Memory`] one node of it. A node that is dropped
//! without [`Directory::shutdown`] has died: there is no lease to wait for, the others are told at
//! once. What Redis does in bad hours can be done to it, too.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid};

use crate::events::EventQueue;
use crate::{Directory, Error, Event, Events, NodeInfo, Registered, SessionRow};

/// Rows in one [`Event::Collect`] at most.
const COLLECT_BATCH: usize = 256;

/// What the nodes of one process share.
#[derive(Clone, Debug, Default)]
pub struct MemoryCluster {
    shared: Arc<Shared>,
}

/// One node's view of a [`MemoryCluster`].
#[derive(Debug)]
pub struct Memory {
    node: NodeInfo,
    events: EventQueue,
    shared: Arc<Shared>,
    left: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: HashMap<BareJid, Vec<SessionRow>>,
    nodes: HashMap<Epoch, (NodeInfo, EventQueue)>,
    /// Lost nodes that are not cleaned up yet.
    dead: HashMap<Epoch, Dead>,
    away: bool,
}

#[derive(Debug)]
struct Dead {
    node: NodeInfo,
    claimed_by: Option<Epoch>,
}

impl Memory {
    /// A node that is alone.
    pub fn single(name: &str) -> Self {
        MemoryCluster::default().node(name)
    }

    /// Something that nodes can join.
    pub fn cluster() -> MemoryCluster {
        MemoryCluster::default()
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, Error> {
        if self.left.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("it was shut down"));
        }
        let state = self.shared.lock();
        if state.away {
            return Err(Error::Unavailable("it was made unreachable"));
        }
        Ok(state)
    }

    fn leave(&self) {
        if !self.left.swap(true, Ordering::Relaxed) {
            self.shared.lock().lose(self.node.epoch);
            self.events.close();
        }
    }
}

impl MemoryCluster {
    /// A node that joins, speaking the oldest frames.
    pub fn node(&self, name: &str) -> Memory {
        self.node_speaking(name, NodeInfo::OLDEST_FRAMES)
    }

    /// A node that joins and speaks this version of the bus's frames.
    pub fn node_speaking(&self, name: &str, frames: u8) -> Memory {
        let node = NodeInfo {
            epoch: random_epoch(),
            name: name.into(),
            frames,
        };
        let events = EventQueue::new();
        let mut state = self.shared.lock();
        state
            .nodes
            .insert(node.epoch, (node.clone(), events.clone()));
        if state.away {
            events.push(Event::Fenced);
        } else {
            state.claim_unclaimed();
        }
        drop(state);
        Memory {
            node,
            events,
            shared: self.shared.clone(),
            left: AtomicBool::new(false),
        }
    }

    /// Loses all rows, as a Redis without persistence does when it restarts.
    pub fn lose_data(&self) {
        let mut state = self.shared.lock();
        state.rows.clear();
        state.dead.clear();
        for (_, events) in state.nodes.values() {
            events.flush_cache();
            events.push(Event::DataLost);
        }
    }

    /// Makes operations fail, as when Redis is away for longer than the lease, or work again.
    pub fn set_reachable(&self, reachable: bool) {
        let mut state = self.shared.lock();
        if state.away != reachable {
            return;
        }
        state.away = !reachable;
        for (_, events) in state.nodes.values() {
            if reachable {
                events.flush_cache();
            }
            events.push(if reachable {
                Event::Unfenced
            } else {
                Event::Fenced
            });
            if reachable {
                events.push(Event::CaughtUp);
            }
        }
        if reachable {
            state.claim_unclaimed();
        }
    }
}

#[async_trait]
impl Directory for Memory {
    fn this_node(&self) -> &NodeInfo {
        &self.node
    }

    fn nodes(&self) -> Vec<NodeInfo> {
        self.shared
            .lock()
            .nodes
            .values()
            .map(|(node, _)| node.clone())
            .collect()
    }

    fn frames(&self, node: Epoch) -> u8 {
        let state = self.shared.lock();
        state
            .nodes
            .get(&node)
            .map_or(NodeInfo::OLDEST_FRAMES, |(node, _)| node.frames)
    }

    fn is_behind(&self) -> bool {
        self.shared.lock().away
    }

    fn events(&self) -> Option<Events> {
        self.events.take()
    }

    async fn register(&self, jid: &FullJid) -> Result<Registered, Error> {
        let mut state = self.open()?;
        let bare = jid.to_bare();
        let displaced = state.remove(jid, |_| true);
        let sequence = displaced
            .as_ref()
            .map_or(0, |row| row.sequence + 1)
            .max(now_micros());
        state
            .rows
            .entry(bare.clone())
            .or_default()
            .push(SessionRow {
                jid: jid.clone(),
                epoch: self.node.epoch,
                sequence,
                priority: 0,
                available: false,
                presence: None,
            });
        state.changed(&bare);
        Ok(Registered {
            sequence,
            displaced,
        })
    }

    async fn update(&self, row: &SessionRow) -> Result<bool, Error> {
        let mut state = self.open()?;
        let bare = row.jid.to_bare();
        match state.find(&row.jid) {
            Some(old) if (old.sequence, old.epoch) != (row.sequence, row.epoch) => {
                return Ok(false);
            }
            Some(old) => *old = row.clone(),
            None => state
                .rows
                .entry(bare.clone())
                .or_default()
                .push(row.clone()),
        }
        state.changed(&bare);
        Ok(true)
    }

    async fn unregister(&self, jid: &FullJid, sequence: u64) -> Result<bool, Error> {
        let mut state = self.open()?;
        let owner = (sequence, self.node.epoch);
        let removed = state
            .remove(jid, |row| (row.sequence, row.epoch) == owner)
            .is_some();
        if removed {
            state.changed(&jid.to_bare());
        }
        Ok(removed)
    }

    async fn lookup(&self, accounts: &[BareJid]) -> Result<Vec<Vec<SessionRow>>, Error> {
        let state = self.open()?;
        let live = |row: &&SessionRow| state.nodes.contains_key(&row.epoch);
        let rows = |account| {
            let rows = state.rows.get(account).map_or(&[][..], Vec::as_slice);
            rows.iter().filter(live).cloned().collect()
        };
        Ok(accounts.iter().map(rows).collect())
    }

    async fn republish(&self, rows: Vec<SessionRow>) -> Result<Vec<FullJid>, Error> {
        let mut state = self.open()?;
        let mut lost = Vec::new();
        for row in rows {
            let bare = row.jid.to_bare();
            match state.find(&row.jid) {
                Some(old) if old.sequence > row.sequence => lost.push(row.jid),
                Some(old) => *old = row,
                None => state.rows.entry(bare.clone()).or_default().push(row),
            }
            state.changed(&bare);
        }
        Ok(lost)
    }

    async fn collected(&self, node: &NodeInfo, rows: &[SessionRow]) -> Result<(), Error> {
        let mut state = self.open()?;
        let claimed_by = state.dead.get(&node.epoch).and_then(|dead| dead.claimed_by);
        if claimed_by != Some(self.node.epoch) {
            return Err(Error::ClaimLost(node.epoch));
        }
        for row in rows {
            let owner = (row.sequence, row.epoch);
            state.remove(&row.jid, |row| (row.sequence, row.epoch) == owner);
            state.changed(&row.jid.to_bare());
        }
        state.collect_from(node.epoch);
        Ok(())
    }

    async fn shutdown(&self) {
        self.leave();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, jid: &FullJid) -> Option<&mut SessionRow> {
        self.rows
            .get_mut(jid.bare_str())?
            .iter_mut()
            .find(|row| row.jid == *jid)
    }

    fn remove(&mut self, jid: &FullJid, only: impl Fn(&SessionRow) -> bool) -> Option<SessionRow> {
        let rows = self.rows.get_mut(jid.bare_str())?;
        let at = rows.iter().position(|row| row.jid == *jid && only(row))?;
        let row = rows.swap_remove(at);
        if rows.is_empty() {
            self.rows.remove(jid.bare_str());
        }
        Some(row)
    }

    fn changed(&self, account: &BareJid) {
        for (_, events) in self.nodes.values() {
            events.changed([account.clone()]);
        }
    }

    /// The node is not there any more; those that it was cleaning up after need somebody else.
    fn lose(&mut self, epoch: Epoch) {
        let Some((node, _)) = self.nodes.remove(&epoch) else {
            return;
        };
        for (_, events) in self.nodes.values() {
            events.push(Event::NodeLost { node: node.clone() });
        }
        for dead in self.dead.values_mut() {
            if dead.claimed_by == Some(epoch) {
                dead.claimed_by = None;
            }
        }
        self.dead.insert(
            epoch,
            Dead {
                node,
                claimed_by: None,
            },
        );
        if !self.away {
            self.claim_unclaimed();
        }
    }

    fn claim_unclaimed(&mut self) {
        let Some(heir) = self.nodes.keys().min().copied() else {
            return;
        };
        let unclaimed = self
            .dead
            .values_mut()
            .filter(|dead| dead.claimed_by.is_none());
        let mut claimed = Vec::new();
        for dead in unclaimed {
            dead.claimed_by = Some(heir);
            claimed.push(dead.node.clone());
        }
        for node in claimed {
            let epoch = node.epoch;
            self.nodes[&heir].1.push(Event::Claimed { node });
            self.collect_from(epoch);
        }
    }

    /// Hands the next rows of a dead node to the one who claimed it, or forgets the node.
    fn collect_from(&mut self, epoch: Epoch) {
        let Some(Dead {
            node,
            claimed_by: Some(heir),
        }) = self.dead.get(&epoch)
        else {
            return;
        };
        let all = self.rows.values().flatten();
        let rows: Vec<SessionRow> = all
            .filter(|row| row.epoch == epoch)
            .take(COLLECT_BATCH)
            .cloned()
            .collect();
        if rows.is_empty() {
            self.dead.remove(&epoch);
        } else if let Some((_, events)) = self.nodes.get(heir) {
            events.push(Event::Collect {
                node: node.clone(),
                rows,
            });
        }
    }
}

/// A number that no other incarnation has: 64 bits from the system's source of randomness.
pub(crate) fn random_epoch() -> Epoch {
    Epoch(RandomState::new().hash_one(std::process::id()))
}

fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
