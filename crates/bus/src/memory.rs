//! The bus inside one process, for tests with several nodes.
//!
//! [`MemoryHub`] plays the part of Redis, each [`MemoryBus`] one node. Frames are encoded and decoded as
//! between processes. A node that is dropped without [`Bus::shutdown`] has died: its inbox takes no
//! more, and waits to be claimed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rookery_proto::cluster::Epoch;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::frame::{ASSUMED_VERSION, VERSION};
use crate::inbox::{Handled, Inbox, Position, frames_of};
use crate::lanes::Lanes;
use crate::transport::{Appended, Transport};
use crate::{Bus, Error, Frame, Inbound, Limits, Queued, Refused, Spoken};

/// Undelivered [`Inbound`]s at most.
pub(crate) const INBOUND: usize = 16;

/// What the nodes of one process share.
#[derive(Clone)]
pub struct MemoryHub {
    shared: Arc<Shared>,
}

/// One node's end of a [`MemoryHub`].
pub struct MemoryBus {
    epoch: Epoch,
    lanes: Lanes,
    inbound: Mutex<Option<mpsc::Receiver<Inbound>>>,
    reader: AbortHandle,
    handled: Arc<Handled>,
    patience: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inboxes: Mutex<HashMap<Epoch, MemoryInbox>>,
    away: AtomicBool,
    inbox_batches: usize,
}

#[derive(Default)]
struct MemoryInbox {
    batches: VecDeque<(Position, Vec<u8>)>,
    appended: u64,
    alive: bool,
    /// The version of the frames that its node speaks.
    spoken: u8,
    notify: Arc<Notify>,
}

impl Default for MemoryHub {
    fn default() -> Self {
        Self::with_inbox_batches(Limits::default().inbox_batches)
    }
}

impl MemoryHub {
    /// A hub whose inboxes take this many batches.
    pub fn with_inbox_batches(inbox_batches: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                inbox_batches,
                ..Shared::default()
            }),
        }
    }

    /// A node that joins, with its tasks on the current tokio runtime.
    pub fn node(&self, epoch: Epoch, limits: Limits) -> MemoryBus {
        self.node_speaking(epoch, limits, VERSION)
    }

    /// A node that the others take for one that speaks this version of the frames.
    pub fn node_speaking(&self, epoch: Epoch, limits: Limits, version: u8) -> MemoryBus {
        let (sender, receiver) = mpsc::channel(INBOUND);
        {
            let mut inboxes = self.shared.lock();
            let inbox = inboxes.entry(epoch).or_default();
            inbox.alive = true;
            inbox.spoken = version;
        }
        let transport = Arc::new(MemoryTransport {
            shared: self.shared.clone(),
        });
        let patience = limits.flush_patience;
        let lanes = Lanes::new(epoch, limits, transport, sender.downgrade(), self.spoken());
        let inbox = Inbox::new(sender, Box::new(|_, _| {}));
        let handled = inbox.handled();
        let reader = tokio::spawn(read(self.shared.clone(), epoch, inbox)).abort_handle();
        MemoryBus {
            epoch,
            lanes,
            inbound: Mutex::new(Some(receiver)),
            reader,
            handled,
            patience,
            shared: self.shared.clone(),
        }
    }

    fn spoken(&self) -> Spoken {
        let shared = self.shared.clone();
        Arc::new(move |epoch| {
            let inboxes = shared.lock();
            inboxes
                .get(&epoch)
                .map_or(ASSUMED_VERSION, |inbox| inbox.spoken)
        })
    }

    /// Makes the bus fail, as when Redis is away, or work again.
    pub fn set_reachable(&self, reachable: bool) {
        self.shared.away.store(!reachable, Ordering::Release);
        for inbox in self.shared.lock().values() {
            inbox.notify.notify_one();
        }
    }

    /// Loses what is in the inboxes, as when Redis restarts without persistence.
    pub fn lose_data(&self) {
        for inbox in self.shared.lock().values_mut() {
            inbox.batches.clear();
        }
    }
}

#[async_trait]
impl Bus for MemoryBus {
    fn send(&self, to: Epoch, frame: Frame) -> Result<(), Refused> {
        self.lanes.send(to, frame)
    }

    fn ready(&self, to: Epoch) -> BoxFuture<'static, ()> {
        self.lanes.ready(to)
    }

    fn queued(&self, to: Epoch) -> Queued {
        self.lanes.queued(to)
    }

    fn inbound(&self) -> Option<mpsc::Receiver<Inbound>> {
        self.inbound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    async fn claim(&self, dead: Epoch) -> Result<Vec<Frame>, Error> {
        let mut inboxes = self.shared.lock();
        if inboxes.get(&dead).is_none_or(|inbox| inbox.alive) {
            return Ok(Vec::new());
        }
        let batches = inboxes
            .remove(&dead)
            .map(|inbox| inbox.batches)
            .unwrap_or_default();
        Ok(frames_of(batches.into_iter().map(|(_, batch)| batch)))
    }

    fn data_lost(&self) {
        self.lanes.probe();
    }

    fn fenced(&self) {}

    async fn shutdown(&self) {
        self.lanes.shutdown().await;
        self.reader.abort();
        let _ = tokio::time::timeout(self.patience, self.handled.all()).await;
        self.shared.delete(self.epoch, &self.handled);
        self.leave();
    }
}

impl MemoryBus {
    fn leave(&self) {
        self.reader.abort();
        self.lanes.abort();
        if let Some(inbox) = self.shared.lock().get_mut(&self.epoch) {
            inbox.alive = false;
        }
    }
}

impl Drop for MemoryBus {
    fn drop(&mut self) {
        self.leave();
    }
}

struct MemoryTransport {
    shared: Arc<Shared>,
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn append(&self, to: Epoch, batch: &[u8]) -> Appended {
        if self.shared.away.load(Ordering::Acquire) {
            return Appended::Away;
        }
        let mut inboxes = self.shared.lock();
        let Some(inbox) = inboxes.get_mut(&to).filter(|inbox| inbox.alive) else {
            return Appended::Gone;
        };
        if inbox.batches.len() >= self.shared.inbox_batches {
            return Appended::Full;
        }
        inbox.appended += 1;
        inbox
            .batches
            .push_back(((0, inbox.appended), batch.to_vec()));
        inbox.notify.notify_one();
        Appended::Done
    }

    fn is_settling(&self) -> bool {
        false
    }
}

/// Reads an inbox for as long as its node lives.
async fn read(shared: Arc<Shared>, epoch: Epoch, mut inbox: Inbox) {
    let handled = inbox.handled();
    let mut last: Position = (0, 0);
    let Some(notify) = shared.lock().get(&epoch).map(|inbox| inbox.notify.clone()) else {
        return;
    };
    loop {
        shared.delete(epoch, &handled);
        let next = shared.after(epoch, last);
        if let Some((position, batch)) = next {
            last = position;
            if !inbox.take(position, batch).await {
                return;
            }
        } else {
            tokio::select! {
                () = notify.notified() => {}
                () = handled.changed.notified() => {}
            }
        }
    }
}

impl Shared {
    fn after(&self, epoch: Epoch, last: Position) -> Option<(Position, Vec<u8>)> {
        if self.away.load(Ordering::Acquire) {
            return None;
        }
        let inboxes = self.lock();
        let mut batches = inboxes.get(&epoch)?.batches.iter();
        batches.find(|(position, _)| *position > last).cloned()
    }

    fn delete(&self, epoch: Epoch, handled: &Handled) {
        let Some(done) = handled.take() else { return };
        if let Some(inbox) = self.lock().get_mut(&epoch) {
            inbox.batches.retain(|(position, _)| *position > done);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Epoch, MemoryInbox>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
