//! What goes out: one queue and one task per node.
//!
//! Frames are encoded when they are sent, by the thread that sends them, straight into the batch that
//! is gathering. At most one append is under way per inbox; what gathers meanwhile is the next batch,
//! so nothing waits at light load and batches grow under load. While traffic is steady a batch also
//! waits [`Limits::gather`], which costs latency and saves most of the appends.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use rookery_proto::cluster::Epoch;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::frame::{self, BatchHead, MAX_FRAME_BYTES, OLDEST_VERSION, VERSION};
use crate::inbox::{Heard, now_micros};
use crate::pace::Pace;
use crate::transport::{Appended, Transport};
use crate::{Frame, Inbound, Limits, Queued, Reason, Refused, Spoken, metrics};

/// Pause before an append is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// Traffic is steady while batches have at least this many frames.
const STEADY: usize = 4;

/// The queues to all nodes.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Kept for as long as the bus runs: a node that was taken for dead may return, and would drop
    /// batches that count from 1 again.
    by_node: RwLock<HashMap<Epoch, Arc<Lane>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    from: Epoch,
    limits: Limits,
    transport: Arc<dyn Transport>,
    returned: mpsc::WeakSender<Inbound>,
    spoken: Spoken,
    pace: Option<Pace>,
    closed: AtomicBool,
}

/// The queue to one node.
struct Lane {
    to: Epoch,
    /// The version of the frames for it, as far as that is known.
    version: AtomicU8,
    state: Mutex<LaneState>,
    work: Notify,
    room: Notify,
}

#[derive(Default)]
struct LaneState {
    batches: VecDeque<Gathering>,
    /// Whether the first of `batches` is being appended.
    sending: bool,
    frames: usize,
    bytes: usize,
    /// What the metrics have of `frames` and `bytes`.
    noted: Queued,
    /// How long the last batch was; the next one will be like it.
    usual_bytes: usize,
}

/// A batch. The last one takes more frames unless it is being appended.
struct Gathering {
    version: u8,
    frames: usize,
    body: Vec<u8>,
    since: Instant,
    sent_at: u64,
    /// Sent although it has no frames: shows the receiver what it has missed.
    probe: bool,
    /// An append of it was not answered: it may have arrived.
    in_doubt: bool,
}

/// How the attempts to append a batch ended.
struct Outcome {
    sent: bool,
    /// Whether its number may have been seen by the receiver.
    number_used: bool,
}

impl Lanes {
    /// The tasks run on the current tokio runtime.
    pub(crate) fn new(
        from: Epoch,
        limits: Limits,
        transport: Arc<dyn Transport>,
        returned: mpsc::WeakSender<Inbound>,
        spoken: Spoken,
    ) -> Self {
        let closed = AtomicBool::new(false);
        let pace = Pace::start(limits.gather);
        Self {
            shared: Arc::new(Shared {
                from,
                limits,
                transport,
                returned,
                spoken,
                pace,
                closed,
            }),
            runtime: Handle::current(),
            by_node: RwLock::default(),
            tasks: Mutex::default(),
        }
    }

    #[expect(
        clippy::result_large_err,
        reason = "refusals are rare and want the frame back"
    )]
    pub(crate) fn send(&self, to: Epoch, frame: Frame) -> Result<(), Refused> {
        let pushed = if self.shared.is_closed() {
            Err(Reason::Closed)
        } else {
            self.with_lane(to, |lane| lane.push(&frame, &self.shared))
        };
        pushed.map_err(|reason| {
            match reason {
                Reason::Full | Reason::Closed => metrics::REFUSED.inc(),
                Reason::Unspoken => metrics::UNSPOKEN.inc(),
                Reason::TooLarge { bytes } => {
                    metrics::TOO_LARGE.inc();
                    tracing::error!(node = %to, bytes, "a frame is too large for the bus");
                }
            }
            Refused { frame, reason }
        })
    }

    /// Takes note of which version other nodes have written: one that has just joined may ask before the
    /// directory knows it.
    pub(crate) fn listener(lanes: &Arc<Self>) -> Heard {
        let lanes = Arc::clone(lanes);
        Box::new(move |from, version| {
            if version > OLDEST_VERSION {
                let lane = lanes.lane(from);
                lane.version
                    .fetch_max(version.min(VERSION), Ordering::Relaxed);
            }
        })
    }

    pub(crate) fn ready(&self, to: Epoch) -> BoxFuture<'static, ()> {
        let lane = self.lane(to);
        let shared = self.shared.clone();
        Box::pin(async move {
            loop {
                let mut room = pin!(lane.room.notified());
                room.as_mut().enable();
                if shared.is_closed() || lane.lock().has_room(&shared.limits) {
                    return;
                }
                room.await;
            }
        })
    }

    pub(crate) fn queued(&self, to: Epoch) -> Queued {
        let lanes = self.by_node.read().unwrap_or_else(PoisonError::into_inner);
        let Some(lane) = lanes.get(&to) else {
            return Queued::default();
        };
        let LaneState { frames, bytes, .. } = *lane.lock();
        Queued { frames, bytes }
    }

    /// What was in the inboxes may be lost: a batch to everybody shows who missed something.
    pub(crate) fn probe(&self) {
        for lane in self.all() {
            lane.lock().batches.push_back(Gathering::probe());
            lane.work.notify_one();
        }
    }

    /// Takes no more frames and waits until the queues are empty, within the patience. What is left
    /// comes back.
    pub(crate) async fn shutdown(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let lanes = self.all();
        for lane in &lanes {
            lane.work.notify_one();
            lane.room.notify_waiters();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = tokio::time::Instant::now() + self.shared.limits.flush_patience;
        for mut task in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                let _ = task.await;
            }
        }
        for lane in lanes {
            while let Some(batch) = lane.finish() {
                self.shared.give_back(lane.to, &batch).await;
            }
        }
    }

    /// Ends without waiting for anything.
    pub(crate) fn abort(&self) {
        self.shared.closed.store(true, Ordering::Release);
        for task in &*self.tasks.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }

    fn with_lane<T>(&self, to: Epoch, run: impl FnOnce(&Lane) -> T) -> T {
        let lanes = self.by_node.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&to) {
            return run(lane);
        }
        drop(lanes);
        run(&self.lane(to))
    }

    fn lane(&self, to: Epoch) -> Arc<Lane> {
        let mut lanes = self.by_node.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let lane = Arc::new(Lane::new(to));
            let task = self
                .runtime
                .spawn(self.shared.clone().keep_sending(lane.clone()));
            self.tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(task);
            lane
        };
        lanes.entry(to).or_insert_with(new).clone()
    }

    fn all(&self) -> Vec<Arc<Lane>> {
        let lanes = self.by_node.read().unwrap_or_else(PoisonError::into_inner);
        lanes.values().cloned().collect()
    }
}

impl Shared {
    async fn keep_sending(self: Arc<Self>, lane: Arc<Lane>) {
        let mut sequence = 1;
        let mut steady = false;
        while lane.has_work(&self).await {
            if let Some(pace) = self.pace.as_ref().filter(|_| steady)
                && !lane.is_filled(&self.limits)
                && !self.is_closed()
            {
                pace.wait().await;
            }
            let Some(sending) = lane.begin(self.from, sequence) else {
                continue;
            };
            steady = sending.frames >= STEADY;
            let outcome = self.append(&lane, &sending).await;
            sequence += u64::from(outcome.number_used);
            let batch = lane.finish();
            if let (false, Some(batch)) = (outcome.sent, batch) {
                self.give_back(lane.to, &batch).await;
            }
        }
    }

    /// Tries until the batch is in the inbox or there is no point in it.
    ///
    /// A batch that may have arrived is not given up while the receiver lives: only under its own
    /// number it arrives once. What waits behind it comes back when its time is over.
    async fn append(&self, lane: &Lane, sending: &Sending) -> Outcome {
        let mut in_doubt = false;
        loop {
            let began = Instant::now();
            match self.transport.append(lane.to, &sending.batch).await {
                Appended::Done => {
                    metrics::APPEND_SECONDS.observe(began.elapsed().as_secs_f64());
                    metrics::SENT.batch(sending.frames, sending.batch.len());
                    return Outcome {
                        sent: true,
                        number_used: true,
                    };
                }
                Appended::Gone if !self.transport.is_settling() => break,
                Appended::Full => metrics::FULL.inc(),
                Appended::Unknown => {
                    in_doubt = true;
                    lane.doubt();
                }
                Appended::Gone | Appended::Away => {}
            }
            if in_doubt {
                for batch in lane.take_expired(self.limits.give_up) {
                    self.give_back(lane.to, &batch).await;
                }
            } else if sending.since.elapsed() > self.limits.give_up {
                break;
            }
            lane.lock().note();
            tokio::time::sleep(RETRY).await;
        }
        Outcome {
            sent: false,
            number_used: in_doubt,
        }
    }

    /// Hands frames back to the one who sent them.
    async fn give_back(&self, to: Epoch, batch: &Gathering) {
        if batch.frames == 0 {
            return;
        }
        metrics::RETURNED.inc_by(batch.frames as u64);
        let frames = match frame::read_body(batch.version, batch.frames, &batch.body) {
            Ok(frames) => frames,
            Err(error) => {
                tracing::error!(%error, "frames that were encoded here cannot be read");
                return;
            }
        };
        let sent_back = match self.returned.upgrade() {
            Some(returned) => returned
                .send(Inbound::Returned {
                    to,
                    frames,
                    in_doubt: batch.in_doubt,
                })
                .await
                .is_ok(),
            None => false,
        };
        if !sent_back {
            tracing::warn!(node = %to, frames = batch.frames, "nobody takes frames that came back");
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A batch as it is appended.
struct Sending {
    batch: Vec<u8>,
    frames: usize,
    since: Instant,
}

impl Lane {
    fn new(to: Epoch) -> Self {
        Self {
            to,
            version: AtomicU8::new(OLDEST_VERSION),
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    fn push(&self, frame: &Frame, shared: &Shared) -> Result<(), Reason> {
        let version = self.version(&shared.spoken);
        let mut state = self.lock();
        if !state.has_room(&shared.limits) {
            return Err(Reason::Full);
        }
        state.push(frame, version, &shared.limits)?;
        // The task goes on by itself until there is nothing left.
        let wake = state.frames == 1;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// The highest version that both nodes speak. An incarnation never speaks another one, so only
    /// what is not the newest is asked for again: it may be a node that is not known yet.
    fn version(&self, spoken: &Spoken) -> u8 {
        let known = self.version.load(Ordering::Relaxed);
        if known == VERSION {
            return known;
        }
        let version = spoken(self.to).clamp(known.max(OLDEST_VERSION), VERSION);
        self.version.store(version, Ordering::Relaxed);
        version
    }

    /// Waits for a batch; `false` when the bus ends and there is none.
    async fn has_work(&self, shared: &Shared) -> bool {
        loop {
            let work = self.work.notified();
            if !self.lock().batches.is_empty() {
                return true;
            }
            if shared.is_closed() {
                return false;
            }
            work.await;
        }
    }

    /// Whether waiting would not make the next batch larger.
    fn is_filled(&self, limits: &Limits) -> bool {
        let state = self.lock();
        state
            .batches
            .front()
            .is_some_and(|batch| batch.body.len() >= limits.batch_bytes)
    }

    /// The next batch, which stays in the queue. `None`: it was a probe that nobody needs.
    fn begin(&self, from: Epoch, sequence: u64) -> Option<Sending> {
        let mut state = self.lock();
        let next = state.batches.front()?;
        if next.probe && sequence == 1 {
            state.batches.pop_front();
            return None;
        }
        let head = BatchHead {
            from,
            sequence,
            sent_at: next.sent_at,
        };
        let batch = frame::write_batch(next.version, head, next.frames, &next.body);
        let sending = Sending {
            batch,
            frames: next.frames,
            since: next.since,
        };
        state.usual_bytes = sending.batch.len();
        state.sending = true;
        state.note();
        Some(sending)
    }

    /// Takes the first batch out of the queue.
    fn finish(&self) -> Option<Gathering> {
        let mut state = self.lock();
        state.sending = false;
        let done = state.batches.pop_front()?;
        self.taken_out(state, std::slice::from_ref(&done));
        Some(done)
    }

    /// The batch that is being appended may have arrived.
    fn doubt(&self) {
        if let Some(first) = self.lock().batches.front_mut() {
            first.in_doubt = true;
        }
    }

    /// Takes out what has waited for so long behind the batch that is being appended.
    fn take_expired(&self, give_up: Duration) -> Vec<Gathering> {
        let mut state = self.lock();
        let waiting = state.batches.iter().skip(1);
        let expired = waiting.take_while(|batch| batch.since.elapsed() > give_up);
        let behind = 1 + expired.count();
        if behind == 1 {
            return Vec::new();
        }
        let expired: Vec<Gathering> = state.batches.drain(1..behind).collect();
        self.taken_out(state, &expired);
        expired
    }

    fn taken_out(&self, mut state: MutexGuard<'_, LaneState>, batches: &[Gathering]) {
        let frames: usize = batches.iter().map(|batch| batch.frames).sum();
        let bytes: usize = batches.iter().map(|batch| batch.body.len()).sum();
        state.frames -= frames;
        state.bytes -= bytes;
        state.note();
        drop(state);
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    fn has_room(&self, limits: &Limits) -> bool {
        self.frames < limits.queue_frames && self.bytes < limits.queue_bytes
    }

    /// Tells the metrics, which all lanes share: not for each frame, as threads would wait for each other.
    fn note(&mut self) {
        let now = Queued {
            frames: self.frames,
            bytes: self.bytes,
        };
        let was = std::mem::replace(&mut self.noted, now);
        metrics::QUEUED.add(signed(now.frames) - signed(was.frames));
        metrics::QUEUED_BYTES.add(signed(now.bytes) - signed(was.bytes));
    }

    fn push(&mut self, frame: &Frame, version: u8, limits: &Limits) -> Result<(), Reason> {
        let may_add = self.batches.len() > usize::from(self.sending);
        let takes_more = |last: &&mut Gathering| {
            may_add
                && !last.probe
                && last.version == version
                && last.body.len() < limits.batch_bytes
        };
        let bytes = if let Some(last) = self.batches.back_mut().filter(takes_more) {
            last.add(frame)?
        } else {
            let mut batch = Gathering::new(version);
            batch.body.reserve(self.usual_bytes);
            let bytes = batch.add(frame)?;
            self.batches.push_back(batch);
            bytes
        };
        self.frames += 1;
        self.bytes += bytes;
        Ok(())
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Gathering {
    fn new(version: u8) -> Self {
        Self {
            version,
            frames: 0,
            body: Vec::new(),
            since: Instant::now(),
            sent_at: now_micros(),
            probe: false,
            in_doubt: false,
        }
    }

    /// The head of a batch is the same in all versions.
    fn probe() -> Self {
        Self {
            probe: true,
            ..Self::new(OLDEST_VERSION)
        }
    }

    /// Returns the frame's length.
    fn add(&mut self, frame: &Frame) -> Result<usize, Reason> {
        let before = self.body.len();
        let bytes =
            frame::append_frame(frame, self.version, &mut self.body).ok_or(Reason::Unspoken)?;
        if bytes > MAX_FRAME_BYTES {
            self.body.truncate(before);
            return Err(Reason::TooLarge { bytes });
        }
        self.frames += 1;
        Ok(bytes)
    }
}
