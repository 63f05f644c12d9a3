//! Cleaning up after a node that is lost.
//!
//! The node that holds the claim reads the dead node's set of sessions in batches, hands the rows that
//! are still the dead node's to its own user, and removes them when that one says so. The claim
//! expires; if this node dies or stalls too, another one gets what is left. If the dead node returns,
//! it takes its lease and thereby ends the claim; rows that it publishes again have another head and
//! are not removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::FullJid;
use tokio::sync::{mpsc, oneshot};

use super::lease::milliseconds;
use super::row::{self, StoredRow};
use super::{Inner, keys};
use crate::{Error, Event, NodeInfo, metrics};

/// Sessions in one batch.
const BATCH: usize = 256;
/// How long the user of the directory may take for a batch.
const STALLED: Duration = Duration::from_mins(1);

/// The clean-ups that this node has under way.
#[derive(Default)]
pub(super) struct Collections {
    by_node: Mutex<HashMap<Epoch, Collection>>,
}

struct Collection {
    done: mpsc::Sender<Done>,
    receiver: Option<mpsc::Receiver<Done>>,
}

/// The user has dealt with these sessions.
struct Done {
    jids: Vec<FullJid>,
    reply: oneshot::Sender<Result<(), Error>>,
}

impl Collections {
    /// Notes a clean-up; `false` if it is under way already.
    pub(super) fn begin(&self, epoch: Epoch) -> bool {
        let mut by_node = self.lock();
        if by_node.contains_key(&epoch) {
            return false;
        }
        let (done, receiver) = mpsc::channel(4);
        by_node.insert(
            epoch,
            Collection {
                done,
                receiver: Some(receiver),
            },
        );
        true
    }

    /// Passes on what the user says, and waits until it is carried out.
    pub(super) async fn done(&self, epoch: Epoch, jids: Vec<FullJid>) -> Result<(), Error> {
        let lost = Error::ClaimLost(epoch);
        let done = self
            .lock()
            .get(&epoch)
            .map(|collection| collection.done.clone());
        let Some(done) = done else { return Err(lost) };
        let (reply, answer) = oneshot::channel();
        if done.send(Done { jids, reply }).await.is_err() {
            return Err(lost);
        }
        answer.await.unwrap_or(Err(lost))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Epoch, Collection>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes or renews the claim on a node; `false` if it lives or is another node's.
pub(super) async fn claim(inner: &Inner, dead: Epoch) -> Result<bool, Error> {
    let prefix = &inner.config.prefix;
    let mut claim = redis::cmd("EVALSHA");
    claim
        .arg(&inner.hashes.claim)
        .arg(2)
        .arg(keys::lease(prefix, dead))
        .arg(keys::claim(prefix, dead))
        .arg(inner.node.epoch.to_string())
        .arg(milliseconds(inner.config.lease));
    inner.link.command(&claim).await
}

/// Cleans up after `node`, which this node has claimed.
pub(super) async fn collect(inner: Arc<Inner>, node: NodeInfo) {
    let receiver = inner
        .collections
        .lock()
        .get_mut(&node.epoch)
        .and_then(|c| c.receiver.take());
    if let Some(done) = receiver {
        inner.events.push(Event::Claimed { node: node.clone() });
        match (Collector {
            inner: &inner,
            node: &node,
            done,
        })
        .run()
        .await
        {
            Ok(rows) => tracing::info!(node = %node.name, epoch = %node.epoch, rows, "cleaned up"),
            // Whoever looks at the leases next tries again.
            Err(error) => tracing::warn!(node = %node.name, %error, "could not clean up"),
        }
    }
    inner.collections.lock().remove(&node.epoch);
}

struct Collector<'a> {
    inner: &'a Inner,
    node: &'a NodeInfo,
    done: mpsc::Receiver<Done>,
}

impl Collector<'_> {
    /// Returns how many rows were removed.
    async fn run(mut self) -> Result<usize, Error> {
        let sessions = keys::sessions(&self.inner.config.prefix, self.node.epoch);
        let mut removed = 0;
        loop {
            let mut cursor = 0;
            loop {
                let mut scan = redis::cmd("SSCAN");
                scan.arg(&sessions).arg(cursor).arg("COUNT").arg(BATCH);
                let (next, members): (u64, Vec<String>) = self.inner.link.command(&scan).await?;
                for some in members.chunks(BATCH) {
                    removed += self.batch(some).await?;
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            let left: u64 = self
                .inner
                .link
                .command(redis::cmd("SCARD").arg(&sessions))
                .await?;
            if left == 0 {
                break;
            }
        }
        self.close().await?;
        Ok(removed)
    }

    /// Deals with some entries of the set of sessions.
    async fn batch(&mut self, members: &[String]) -> Result<usize, Error> {
        let mut rows = self.rows(members).await?;
        // Those that others have taken over, or that ended.
        let stale: Vec<&str> = members
            .iter()
            .map(String::as_str)
            .filter(|member| !rows.contains_key(*member))
            .collect();
        if !stale.is_empty() {
            self.forget(&stale).await?;
        }
        let found = rows.len();
        if found > 0 {
            let rows = rows.values().map(|stored| stored.row.clone()).collect();
            self.inner.events.push(Event::Collect {
                node: self.node.clone(),
                rows,
            });
        }
        let mut renew = tokio::time::interval(self.inner.config.lease / 3);
        let mut deadline = tokio::time::Instant::now() + STALLED;
        while !rows.is_empty() {
            tokio::select! {
                done = self.done.recv() => {
                    let Some(Done { jids, reply }) = done else { return Err(self.lost()) };
                    let outcome = self.remove(&mut rows, &jids).await;
                    let failed = outcome.clone().err();
                    let _ = reply.send(outcome);
                    if let Some(error) = failed {
                        return Err(error);
                    }
                    deadline = tokio::time::Instant::now() + STALLED;
                }
                _ = renew.tick() => {
                    if !claim(self.inner, self.node.epoch).await? {
                        return Err(self.lost());
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Err(self.lost()),
            }
        }
        Ok(found)
    }

    /// The rows that are the dead node's.
    async fn rows(&self, members: &[String]) -> Result<HashMap<FullJid, StoredRow>, Error> {
        let jids: Vec<FullJid> = members
            .iter()
            .filter_map(|member| FullJid::parse(member).ok())
            .collect();
        let mut pipeline = Pipeline::with_capacity(jids.len());
        for jid in &jids {
            pipeline
                .cmd("GET")
                .arg(keys::account(&self.inner.config.prefix, jid.bare_str()));
        }
        let values: Vec<Option<Vec<u8>>> = self.inner.link.pipeline(&pipeline).await?;
        let dead = |(jid, value): (FullJid, Option<Vec<u8>>)| {
            let rows = row::decode_account(&jid.to_bare(), &value?);
            let stored = rows.into_iter().find(|stored| stored.row.jid == jid)?;
            (stored.row.epoch == self.node.epoch).then_some((jid, stored))
        };
        Ok(jids.into_iter().zip(values).filter_map(dead).collect())
    }

    async fn remove(
        &self,
        rows: &mut HashMap<FullJid, StoredRow>,
        jids: &[FullJid],
    ) -> Result<(), Error> {
        let mut pipeline = Pipeline::with_capacity(jids.len());
        let known: Vec<&FullJid> = jids.iter().filter(|jid| rows.contains_key(*jid)).collect();
        for jid in &known {
            let mut remove = self.inner.on_account(&self.inner.hashes.remove, jid);
            remove.arg(&rows[*jid].head);
            pipeline.add_command(remove);
        }
        if known.is_empty() {
            return Ok(());
        }
        let removed: Vec<bool> = self.inner.link.pipeline(&pipeline).await?;
        // A row that changed under our hands keeps its entry; the next pass looks at it again.
        let gone = known.iter().zip(removed).filter(|(_, removed)| *removed);
        self.forget(&gone.map(|(jid, _)| jid.as_str()).collect::<Vec<_>>())
            .await?;
        for jid in known {
            rows.remove(jid);
            self.inner.hints.changed(jid.to_bare());
            metrics::COLLECTED.inc();
        }
        Ok(())
    }

    /// Takes entries out of the set of sessions.
    async fn forget(&self, members: &[&str]) -> Result<(), Error> {
        let mut forget = self.claimed(&self.inner.hashes.forget);
        forget
            .arg(milliseconds(self.inner.config.lease))
            .arg(members);
        let held: bool = self.inner.link.command(&forget).await?;
        if held { Ok(()) } else { Err(self.lost()) }
    }

    async fn close(&self) -> Result<(), Error> {
        let close = self.claimed(&self.inner.hashes.close);
        let held: bool = self.inner.link.command(&close).await?;
        if !held {
            return Err(self.lost());
        }
        let nodes = keys::nodes(&self.inner.config.prefix);
        let epoch = self.node.epoch.to_string();
        let frames = keys::frames_field(self.node.epoch);
        self.inner
            .link
            .command(redis::cmd("HDEL").arg(nodes).arg(epoch).arg(frames))
            .await
    }

    /// A script that does nothing unless the claim is held.
    fn claimed(&self, hash: &str) -> Cmd {
        let (prefix, dead) = (&self.inner.config.prefix, self.node.epoch);
        let mut script = redis::cmd("EVALSHA");
        script
            .arg(hash)
            .arg(3)
            .arg(keys::lease(prefix, dead))
            .arg(keys::claim(prefix, dead))
            .arg(keys::sessions(prefix, dead))
            .arg(self.inner.node.epoch.to_string());
        script
    }

    fn lost(&self) -> Error {
        Error::ClaimLost(self.node.epoch)
    }
}
