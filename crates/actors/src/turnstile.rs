//! How fast newcomers are let in, so that those who are in notice little of them.
//!
//! When a node has died, all of its clients come to the others at once. Each costs a handshake, a login, a
//! roster; thousands of them stand in front of every message that somebody else sends meanwhile. So a new
//! connection passes a [`Turnstile`] before an arbiter gets it. Beyond its pace connections wait in the order in
//! which they came: unread, so that they cost a socket and nothing else, until there are too many of them,
//! and then the newest is told so.
//!
//! The pace follows what newcomers are seen to do to others: it falls while messages take longer than they
//! do without them, and grows else. Where nobody writes, nobody has to be spared.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;

/// Newcomers a second: at first, when all goes well for long, and whatever happens.
const FIRST: f64 = 1000.0;
const MOST: f64 = 50_000.0;
const LEAST: f64 = 100.0;

/// Newcomers that need not wait after a while without any.
const AT_ONCE: f64 = 50.0;

/// How often the pace changes while there are newcomers that wait.
const PERIOD: Duration = Duration::from_millis(100);

/// How often some of them are let in.
const TURN: Duration = Duration::from_millis(2);

/// How much longer than before a message may take because of newcomers.
const SLOWER: u32 = 3;
/// What is not late in any case.
const QUICK: Duration = Duration::from_millis(4);

/// The door of a node; see the module's description.
pub(crate) struct Turnstile<T> {
    queue: Mutex<Queue<T>>,
    came: Notify,
    is_crowded: AtomicBool,
    /// How long messages take without newcomers, in microseconds; a moving average.
    calm: AtomicU64,
    /// Messages that were delivered in this period, and how many microseconds they took together.
    messages: AtomicU64,
    took: AtomicU64,
    /// Connections that may wait.
    room: usize,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    pace: Pace,
}

impl<T> Turnstile<T> {
    /// An open one; `room` connections may wait.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                pace: Pace::new(Instant::now()),
            }),
            came: Notify::new(),
            is_crowded: AtomicBool::new(false),
            calm: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            took: AtomicU64::new(0),
            room,
        }
    }

    /// A connection comes.
    pub(crate) fn enter(&self, accepted: T) -> Entry<T> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() && queue.pace.take(Instant::now()) {
            return Entry::Free(accepted);
        }
        if queue.waiting.len() >= self.room {
            return Entry::Full(accepted);
        }
        queue.waiting.push_back(accepted);
        metrics::NEWCOMERS_WAITING.inc();
        if !self.is_crowded.swap(true, Ordering::Relaxed) {
            self.came.notify_one();
        }
        Entry::Waits
    }

    /// Lets those who wait in, at the pace, for ever.
    pub(crate) async fn turn(&self, let_in: impl Fn(T)) {
        loop {
            self.came.notified().await;
            let mut judged = Instant::now();
            self.forget_period();
            while self.is_crowded.load(Ordering::Relaxed) {
                tokio::time::sleep(TURN).await;
                let now = Instant::now();
                if now - judged >= PERIOD {
                    judged = now;
                    self.judge();
                }
                while let Some(accepted) = self.next(now) {
                    let_in(accepted);
                }
            }
        }
    }

    /// Those who wait are gone.
    pub(crate) fn close(&self) {
        let waiting = std::mem::take(&mut self.queue().waiting);
        metrics::NEWCOMERS_WAITING.sub(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    }

    fn next(&self, now: Instant) -> Option<T> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            self.is_crowded.store(false, Ordering::Relaxed);
            return None;
        }
        if !queue.pace.take(now) {
            return None;
        }
        metrics::NEWCOMERS_WAITING.dec();
        queue.waiting.pop_front()
    }

    fn judge(&self) {
        let calm = Duration::from_micros(self.calm.load(Ordering::Relaxed));
        let seen = self.forget_period();
        self.queue().pace.judge(calm, seen);
    }

    /// How long a message took in this period; a new one begins.
    fn forget_period(&self) -> Option<Duration> {
        let messages = self.messages.swap(0, Ordering::Relaxed);
        let took = self.took.swap(0, Ordering::Relaxed);
        took.checked_div(messages).map(Duration::from_micros)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether newcomers wait, so that it matters how long messages take.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded.load(Ordering::Relaxed)
    }

    /// A message was delivered. While there is no crowd a sample is enough.
    pub(crate) fn delivered(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if self.is_crowded() {
            self.messages.fetch_add(1, Ordering::Relaxed);
            self.took.fetch_add(took, Ordering::Relaxed);
        } else {
            // Whoever writes at the same time is lost, which does not matter.
            let calm = self.calm.load(Ordering::Relaxed);
            let calm = if calm == 0 {
                took
            } else {
                (15 * calm + took) / 16
            };
            self.calm.store(calm, Ordering::Relaxed);
        }
    }
}

/// What becomes of a connection that comes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<T> {
    /// It passes.
    Free(T),
    /// It waits until it is let in.
    Waits,
    /// Too many wait.
    Full(T),
}

/// How many may pass: a bucket of turns that fills at an adapting rate.
#[derive(Debug)]
struct Pace {
    /// Turns a second.
    rate: f64,
    turns: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            rate: FIRST,
            turns: AT_ONCE,
            at: now,
        }
    }

    /// Takes a turn, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.at = now;
        self.turns = (self.turns + gained).min(AT_ONCE);
        if self.turns < 1.0 {
            return false;
        }
        self.turns -= 1.0;
        true
    }

    /// A period has passed in which newcomers waited. `calm` is how long messages took before, `seen` how
    /// long they took now, if there were any.
    fn judge(&mut self, calm: Duration, seen: Option<Duration>) {
        let change = match seen {
            None => 2.0,
            Some(seen) if seen <= (calm * SLOWER).max(QUICK) => 1.1,
            Some(_) => 0.6,
        };
        self.rate = (self.rate * change).clamp(LEAST, MOST);
        metrics::NEWCOMERS_PACE.set(self.rate);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const CALM: Duration = Duration::from_millis(2);

    /// How many pass within a time, if some come every millisecond.
    fn passed(pace: &mut Pace, time: Duration) -> usize {
        let end = pace.at + time;
        let mut now = pace.at;
        let mut passed = 0;
        while now < end {
            now += Duration::from_millis(1);
            passed += std::iter::from_fn(|| pace.take(now).then_some(())).count();
        }
        passed
    }

    #[test]
    fn some_pass_at_once_and_the_others_at_the_pace() {
        let mut pace = Pace::new(Instant::now());
        let at_once = std::iter::from_fn(|| pace.take(pace.at).then_some(())).count();
        assert_eq!(at_once, 50);
        let second = passed(&mut pace, Duration::from_secs(1));
        assert!((999..=1000).contains(&second), "{second}");
    }

    #[test]
    fn the_pace_falls_while_messages_are_late_and_never_to_nothing() {
        let mut pace = Pace::new(Instant::now());
        pace.judge(CALM, Some(SLOWER * CALM + Duration::from_micros(1)));
        assert!((pace.rate - 600.0).abs() < 1e-6, "{}", pace.rate);
        for _ in 0..100 {
            pace.judge(CALM, Some(Duration::from_secs(1)));
        }
        assert!((pace.rate - LEAST).abs() < 1e-6, "{}", pace.rate);
    }

    #[test]
    fn the_pace_grows_while_messages_are_in_time_or_nobody_writes() {
        let mut pace = Pace::new(Instant::now());
        // In time is also what is quick, however quick it was before.
        for (calm, seen) in [(CALM, SLOWER * CALM), (Duration::ZERO, QUICK)] {
            let before = pace.rate;
            pace.judge(calm, Some(seen));
            assert!((pace.rate / before - 1.1).abs() < 1e-6, "{}", pace.rate);
        }
        let before = pace.rate;
        pace.judge(CALM, None);
        assert!((pace.rate / before - 2.0).abs() < 1e-6, "{}", pace.rate);
        for _ in 0..100 {
            pace.judge(CALM, None);
        }
        assert!((pace.rate - MOST).abs() < 1e-6, "{}", pace.rate);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_let_in_in_their_order_and_too_many_are_told() {
        let turnstile = Turnstile::new(200);
        let free = (0..).take_while(|n| turnstile.enter(*n) == Entry::Free(*n));
        assert_eq!(free.count(), 50);
        let waiting = (51..).take_while(|n| turnstile.enter(*n) == Entry::Waits);
        // The one that was refused at the end of the line above waits already.
        assert_eq!(waiting.count(), 199);
        assert_eq!(turnstile.enter(1000), Entry::Full(1000));
        assert!(turnstile.is_crowded());
        let let_in = RefCell::new(Vec::new());
        let all = async {
            while turnstile.is_crowded() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = turnstile.turn(|n| let_in.borrow_mut().push(n)) => {}
            () = all => {}
        }
        assert_eq!(let_in.into_inner(), (50..250).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(turnstile.enter(1001), Entry::Free(1001));
    }

    #[tokio::test(start_paused = true)]
    async fn what_messages_take_counts_while_newcomers_wait() {
        let turnstile = Turnstile::new(10_000);
        turnstile.delivered(CALM);
        while turnstile.enter(()) != Entry::Waits {}
        let late = async {
            // Nobody who waits has to wait for ever.
            while turnstile.is_crowded() {
                turnstile.delivered(Duration::from_millis(50));
                let _ = turnstile.enter(());
                tokio::time::sleep(Duration::from_millis(1)).await;
                if turnstile.queue().pace.rate <= LEAST {
                    return;
                }
            }
            panic!("the pace did not fall");
        };
        tokio::select! {
            () = turnstile.turn(|()| ()) => {}
            () = late => {}
        }
    }
}
