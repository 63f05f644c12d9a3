//! Presence that may not have reached everybody because the directory was away.
//!
//! Meanwhile a node tells those of whom it knows where they are. Of others it does not know, or believes that
//! they are offline; and whoever comes on another node reads an old presence in the directory, because the new
//! one could not be written. So it is remembered who was told what, and on which nodes. When the directory
//! is there again and has got what it lacked, the presence is shown on the other ones.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::stanza::Stanza;
use smallvec::SmallVec;

use crate::shard::Shard;

/// Presences that are remembered at most, by each shard.
const MAX_MISSED: usize = 20_000;

/// Pause after the directory could not say where accounts are.
const RETRY: Duration = Duration::from_secs(1);

/// The last presence of a session for an account, by both.
pub(crate) type Missed = HashMap<(Jid, BareJid), Shown>;

/// Where it has been shown.
pub(crate) struct Shown {
    stanza: Arc<Stanza>,
    nodes: SmallVec<[Epoch; 2]>,
}

impl Shard {
    /// A presence of this node is being shown to an account, where that is known to be.
    pub(crate) fn note_shown(&self, stanza: &Arc<Stanza>, account: &BareJid) {
        let Some(cluster) = &self.node().cluster else {
            return;
        };
        let is_unsure =
            cluster.directory.is_behind() || self.cache.borrow().is_guess(account.as_str());
        if !is_unsure && self.missed.borrow().is_empty() {
            return;
        }
        let Some(from) = stanza.from.clone() else {
            return;
        };
        let mut missed = self.missed.borrow_mut();
        let key = (from, account.clone());
        if !is_unsure {
            // Nobody misses the one before.
            missed.remove(&key);
        } else if missed.len() < MAX_MISSED || missed.contains_key(&key) {
            let cache = self.cache.borrow();
            let remotes = cache.get(account.as_str()).iter();
            let shown = Shown {
                stanza: Arc::clone(stanza),
                nodes: remotes.map(|remote| remote.epoch).collect(),
            };
            missed.insert(key, shown);
        } else if !self.misses_more.replace(true) {
            tracing::warn!(
                limit = MAX_MISSED,
                "more presences than can be remembered may not have been shown to all: the directory is away"
            );
        }
    }

    /// The directory is there again, and has everything of this node.
    pub(crate) fn show_what_was_missed(self: &Rc<Self>) {
        self.misses_more.set(false);
        let keys: Vec<(Jid, BareJid)> = self.missed.borrow().keys().cloned().collect();
        if keys.is_empty() {
            return;
        }
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            let accounts: HashSet<BareJid> = keys.iter().map(|key| key.1.clone()).collect();
            let accounts: Vec<BareJid> = accounts.into_iter().collect();
            let taken = loop {
                let taken = shard.taken_by_others(&keys).await;
                if let (Ok(taken), Ok(())) = (taken, shard.look_up(&accounts).await) {
                    break taken;
                }
                tokio::time::sleep(RETRY).await;
            };
            for key in keys {
                // None if a newer presence has been shown meanwhile.
                let Some(shown) = shard.missed.borrow_mut().remove(&key) else {
                    continue;
                };
                let (from, account) = &key;
                if shard.cache.borrow().is_guess(account.as_str()) {
                    shard.missed.borrow_mut().insert(key, shown);
                } else if !taken.contains(from.as_str()) {
                    shard.show_elsewhere(&shown, account);
                }
            }
            shard.flush();
        });
    }

    /// Those of the senders whose full JIDs sessions on other nodes have: these show theirs.
    async fn taken_by_others(
        &self,
        keys: &[(Jid, BareJid)],
    ) -> Result<HashSet<String>, rookery_directory::Error> {
        let Some(cluster) = &self.node().cluster else {
            return Ok(HashSet::new());
        };
        let senders: HashSet<BareJid> = keys.iter().map(|key| key.0.to_bare()).collect();
        let senders: Vec<BareJid> = senders.into_iter().collect();
        let rows = cluster.directory.lookup(&senders).await?;
        let others = rows.iter().flatten();
        let others = others.filter(|row| row.epoch != cluster.epoch());
        Ok(others.map(|row| row.jid.as_str().to_owned()).collect())
    }

    fn show_elsewhere(&self, shown: &Shown, account: &BareJid) {
        let mut elsewhere = HashMap::new();
        self.note_nodes(account, &mut elsewhere);
        elsewhere.retain(|epoch, _| !shown.nodes.contains(epoch));
        self.send_broadcasts(&shown.stanza, elsewhere);
    }
}
