//! What comes in: order, duplicates, gaps, and what may be deleted.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rookery_proto::cluster::Epoch;
use tokio::sync::{Notify, mpsc};

use crate::frame::{self, BatchHead};
use crate::{Frame, Inbound, metrics};

/// Where a batch stands in its inbox (the two halves of a stream's entry id).
pub(crate) type Position = (u64, u64);

/// Turns the batches of an inbox into [`Inbound`]s.
pub(crate) struct Inbox {
    last: HashMap<Epoch, u64>,
    out: mpsc::Sender<Inbound>,
    handled: Arc<Handled>,
    heard: Heard,
}

/// Told which version of the frames a node has written.
pub(crate) type Heard = Box<dyn Fn(Epoch, u8) + Send + Sync>;

/// Held by whoever handles frames; dropping it says that they are handled.
#[derive(Debug)]
pub struct Ack {
    handled: Arc<Handled>,
    ticket: u64,
}

/// Which batches are handled. Those before the first that is not may be deleted.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    state: Mutex<HandledState>,
    /// Notified when there is something to delete.
    pub(crate) changed: Notify,
    idle: Notify,
}

#[derive(Debug, Default)]
struct HandledState {
    first: u64,
    pending: VecDeque<(Position, bool)>,
    done: Option<Position>,
}

impl Inbox {
    pub(crate) fn new(out: mpsc::Sender<Inbound>, heard: Heard) -> Self {
        Self {
            last: HashMap::new(),
            out,
            handled: Arc::default(),
            heard,
        }
    }

    pub(crate) fn handled(&self) -> Arc<Handled> {
        self.handled.clone()
    }

    /// Takes the next batch of the inbox. Waits while the consumer is behind; `false` when there is
    /// none any more. Dropping the future takes back nothing and counts nothing as handled.
    pub(crate) async fn take(&mut self, at: Position, batch: Vec<u8>) -> bool {
        let (version, bytes) = (batch.first().copied(), batch.len());
        let (head, frames) = match frame::read_batch(batch) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "frames from another node are lost");
                metrics::UNREADABLE.inc();
                drop(self.handled.begin(at));
                return true;
            }
        };
        metrics::RECEIVED.batch(frames.len(), bytes);
        if let Some(version) = version {
            (self.heard)(head.from, version);
        }
        let last = self.last.entry(head.from).or_default();
        if head.sequence <= *last {
            metrics::DUPLICATES.inc();
            drop(self.handled.begin(at));
            return true;
        }
        let gap = head.sequence != *last + 1;
        *last = head.sequence;
        if gap {
            metrics::GAPS.inc();
            if self
                .out
                .send(Inbound::Gap { from: head.from })
                .await
                .is_err()
            {
                return false;
            }
        }
        if frames.is_empty() {
            drop(self.handled.begin(at));
            return true;
        }
        observe_delay(head);
        let Ok(room) = self.out.reserve().await else {
            return false;
        };
        let done = self.handled.begin(at);
        room.send(Inbound::Frames {
            from: head.from,
            frames,
            done,
        });
        true
    }
}

/// The frames of a dead node's inbox, without those that came twice.
pub(crate) fn frames_of(batches: impl IntoIterator<Item = Vec<u8>>) -> Vec<Frame> {
    let mut last: HashMap<Epoch, u64> = HashMap::new();
    let mut all = Vec::new();
    for batch in batches {
        let read = frame::read_batch(batch);
        match read.and_then(|(head, frames)| Ok((head, frames.read()?))) {
            Ok((head, frames)) => {
                let last = last.entry(head.from).or_default();
                if head.sequence > *last {
                    *last = head.sequence;
                    all.extend(frames);
                }
            }
            Err(error) => {
                tracing::error!(%error, "frames for a dead node are lost");
                metrics::UNREADABLE.inc();
            }
        }
    }
    metrics::CLAIMED.inc_by(all.len() as u64);
    all
}

impl Handled {
    fn begin(self: &Arc<Self>, at: Position) -> Ack {
        let mut state = self.lock();
        let ticket = state.first + state.pending.len() as u64;
        state.pending.push_back((at, false));
        Ack {
            handled: self.clone(),
            ticket,
        }
    }

    /// The last batch that may be deleted, if there is a new one since the last call.
    pub(crate) fn take(&self) -> Option<Position> {
        self.lock().done.take()
    }

    fn end(&self, ticket: u64) {
        let mut state = self.lock();
        let at = usize::try_from(ticket - state.first).unwrap_or(usize::MAX);
        if let Some((_, handled)) = state.pending.get_mut(at) {
            *handled = true;
        }
        while let Some(&(position, true)) = state.pending.front() {
            state.pending.pop_front();
            state.first += 1;
            state.done = Some(position);
        }
        if state.done.is_some() {
            self.changed.notify_one();
        }
        if state.pending.is_empty() {
            self.idle.notify_waiters();
        }
    }

    /// Waits until all that was handed out is handled.
    pub(crate) async fn all(&self) {
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.lock().pending.is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HandledState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        self.handled.end(self.ticket);
    }
}

/// Microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "delays are far below 2^52 µs")]
fn observe_delay(head: BatchHead) {
    let delay = now_micros().saturating_sub(head.sent_at);
    metrics::DELIVERY_SECONDS.observe(delay as f64 / 1e6);
}

#[cfg(test)]
mod tests {
    use rookery_proto::jid::BareJid;

    use super::*;
    use crate::frame::VERSION;

    fn frame(number: u64) -> Frame {
        let account = BareJid::parse(&format!("user{number}@example.com")).unwrap();
        Frame::AccountChanged {
            account,
            removed: false,
        }
    }

    fn batch(from: u64, sequence: u64, frames: &[Frame]) -> Vec<u8> {
        let mut body = Vec::new();
        for frame in frames {
            frame::append_frame(frame, VERSION, &mut body).unwrap();
        }
        let head = BatchHead {
            from: Epoch(from),
            sequence,
            sent_at: now_micros(),
        };
        frame::write_batch(VERSION, head, frames.len(), &body)
    }

    fn inbox() -> (Inbox, mpsc::Receiver<Inbound>) {
        let (sender, receiver) = mpsc::channel(16);
        (Inbox::new(sender, Box::new(|_, _| {})), receiver)
    }

    fn frames(inbound: Inbound) -> (Epoch, Vec<Frame>) {
        match inbound {
            Inbound::Frames { from, frames, .. } => (from, frames.read().unwrap()),
            other => panic!("no frames: {other:?}"),
        }
    }

    #[tokio::test]
    async fn batches_that_come_twice_are_dropped() {
        let (mut inbox, mut inbound) = inbox();
        for (at, sequence) in [(1, 1), (2, 1), (3, 2), (4, 1), (5, 2), (6, 3_u64)] {
            assert!(inbox.take((at, 0), batch(7, sequence, &[frame(at)])).await);
        }
        for number in [1, 3, 6] {
            let next = frames(inbound.try_recv().unwrap());
            assert_eq!(next, (Epoch(7), vec![frame(number)]));
        }
        assert!(inbound.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_missing_batch_is_a_gap_of_its_sender_only() {
        let (mut inbox, mut inbound) = inbox();
        assert!(inbox.take((1, 0), batch(7, 1, &[frame(1)])).await);
        assert!(inbox.take((2, 0), batch(8, 1, &[frame(2)])).await);
        assert!(inbox.take((3, 0), batch(7, 3, &[frame(3)])).await);
        assert!(inbox.take((4, 0), batch(8, 2, &[frame(4)])).await);
        assert!(inbox.take((5, 0), batch(9, 2, &[])).await);
        frames(inbound.try_recv().unwrap());
        frames(inbound.try_recv().unwrap());
        assert!(matches!(
            inbound.try_recv().unwrap(),
            Inbound::Gap { from: Epoch(7) }
        ));
        frames(inbound.try_recv().unwrap());
        frames(inbound.try_recv().unwrap());
        // Also the very first may be missing, and a batch without frames shows it.
        assert!(matches!(
            inbound.try_recv().unwrap(),
            Inbound::Gap { from: Epoch(9) }
        ));
        assert!(inbound.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_skipped() {
        let (mut inbox, mut inbound) = inbox();
        assert!(inbox.take((1, 0), b"\x09nonsense".to_vec()).await);
        assert!(inbox.take((2, 0), Vec::new()).await);
        assert_eq!(inbox.handled().take(), Some((2, 0)));
        assert!(inbox.take((3, 0), batch(7, 1, &[frame(1)])).await);
        frames(inbound.try_recv().unwrap());
    }

    #[tokio::test]
    async fn only_what_is_handled_with_all_before_it_may_be_deleted() {
        let (mut inbox, mut inbound) = inbox();
        let handled = inbox.handled();
        for at in 1..=3 {
            assert!(inbox.take((at, 0), batch(7, at, &[frame(1)])).await);
        }
        let first = inbound.try_recv().unwrap();
        let second = inbound.try_recv().unwrap();
        drop(second);
        assert_eq!(handled.take(), None);
        drop(first);
        assert_eq!(handled.take(), Some((2, 0)));
        assert_eq!(handled.take(), None);
        drop(inbound.try_recv().unwrap());
        assert_eq!(handled.take(), Some((3, 0)));
        handled.all().await;
    }

    #[test]
    fn a_dead_nodes_frames_come_once_and_in_order() {
        let batches = [
            batch(7, 4, &[frame(1), frame(2)]),
            batch(8, 1, &[frame(3)]),
            batch(7, 4, &[frame(1), frame(2)]),
            b"nonsense".to_vec(),
            batch(7, 6, &[frame(4)]),
        ];
        assert_eq!(frames_of(batches), [frame(1), frame(2), frame(3), frame(4)]);
    }
}
