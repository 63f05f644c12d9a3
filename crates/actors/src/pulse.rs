//! Whether the arbiters are in time: felt only while somebody has a reason to.
//!
//! Every few milliseconds each shard gets a message that does next to nothing. How long it waits is how long
//! whatever else is sent to the shard waits; one that has not been answered tells as much. A message that
//! goes to the log waits for storage as well, so the shard tells how long that has taken so far.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics;
use crate::node::NodeShared;
use crate::shard::Run;
use crate::turnstile::Mood;

/// How often a shard is asked.
const BEAT: Duration = Duration::from_millis(5);

/// An answer after this is late.
const LATE: Duration = Duration::from_micros(1200);

/// A commit that takes longer than this, and so many times longer than others did, is late.
const LATE_COMMIT: Duration = Duration::from_millis(5);
const SLOWER: u32 = 3;

/// Without a message for so long those who are in are silent. Longer than whatever may hold messages up.
const SILENCE: Duration = Duration::from_secs(10);

/// The pulse of all shards.
pub(crate) struct Pulse {
    node: Arc<NodeShared>,
    beats: Vec<Beat>,
    /// Messages that clients had sent when one came last, and when that was noticed.
    messages: u64,
    heard: Option<Instant>,
}

struct Beat {
    asked: Instant,
    answer: Arc<Answer>,
}

#[derive(Default)]
struct Answer {
    came: AtomicBool,
    /// How long the question waited, in microseconds.
    waited: AtomicU64,
    /// How long the commit under way has taken then, in microseconds.
    commit: AtomicU64,
}

impl Pulse {
    /// Nothing is felt yet.
    pub(crate) fn of(node: Arc<NodeShared>) -> Self {
        Self {
            node,
            beats: Vec::new(),
            messages: 0,
            heard: None,
        }
    }

    /// How those fare who are in.
    pub(crate) fn feel(&mut self, now: Instant) -> Mood {
        let messages = metrics::messages_in();
        if messages != self.messages {
            (self.messages, self.heard) = (messages, Some(now));
        }
        if self.heard.is_none_or(|heard| now - heard > SILENCE) {
            return Mood::Silent;
        }
        let commit = self.node.usual_commit.get();
        let late_commit = LATE_COMMIT.max(commit * SLOWER);
        let shards = self.node.shards().len();
        let mut is_late = false;
        for index in 0..shards {
            if self.beats.len() <= index {
                let beat = self.ask(index, now);
                self.beats.push(beat);
                continue;
            }
            let Beat { asked, answer } = &self.beats[index];
            let micros = |value: &AtomicU64| Duration::from_micros(value.load(Ordering::Relaxed));
            if answer.came.load(Ordering::Acquire) {
                is_late |= micros(&answer.waited) > LATE || micros(&answer.commit) > late_commit;
                if now - *asked >= BEAT {
                    self.beats[index] = self.ask(index, now);
                }
            } else {
                is_late |= now - *asked > LATE;
            }
        }
        if is_late { Mood::Disturbed } else { Mood::Well }
    }

    fn ask(&self, index: usize, now: Instant) -> Beat {
        let answer = Arc::<Answer>::default();
        let told = Arc::clone(&answer);
        let question = Run(Box::new(move |shard| {
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            told.waited.store(micros(now.elapsed()), Ordering::Relaxed);
            told.commit
                .store(micros(shard.commit_time()), Ordering::Relaxed);
            told.came.store(true, Ordering::Release);
        }));
        // A mailbox that is full does not answer, which is answer enough.
        let _ = self.node.shard(index).try_send(question);
        Beat { asked: now, answer }
    }
}

/// How long commits take when there are no newcomers: a moving average.
#[derive(Debug, Default)]
pub(crate) struct Usual(AtomicU64);

impl Usual {
    /// One took so long. Of two that come at the same time one may be lost, which does not matter.
    pub(crate) fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let usual = self.0.load(Ordering::Relaxed);
        let usual = if usual == 0 {
            time
        } else {
            (usual * 31 + time) / 32
        };
        self.0.store(usual, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}
