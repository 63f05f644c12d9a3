//! How fast newcomers are let in, so that those who are in notice little of them.
//!
//! When a node has died, all of its clients come to the others at once. Each costs a handshake, a login, a
//! roster; thousands of them stand in front of every message that somebody else sends meanwhile. So a new
//! connection passes a [`Turnstile`] before an arbiter gets it. Beyond its pace connections wait in the order in
//! which they came: unread, so that they cost a socket and nothing else, until there are too many of them,
//! and then the newest is told so.
//!
//! While connections wait, the arbiters' pulse is felt ([`crate::pulse`]): nobody is let in while one of them is
//! late, and the pace falls, except for a few; it grows while all are in time. Where nobody writes, nobody
//! has to be spared.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;

/// Newcomers a second: at first, when all goes well for long, and whatever happens.
const FIRST: f64 = 200.0;
const MOST: f64 = 50_000.0;
const LEAST: f64 = 100.0;

/// Newcomers that need not wait after a while without any.
const AT_ONCE: f64 = 10.0;

/// How often the pace changes while there are newcomers that wait.
const PERIOD: Duration = Duration::from_millis(50);

/// How often some of them are let in.
const TURN: Duration = Duration::from_millis(2);

/// The door of a node; see the module's description.
pub(crate) struct Turnstile<T> {
    queue: Mutex<Queue<T>>,
    came: Notify,
    /// Connections that may wait.
    room: usize,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    /// Whether somebody waits, or did a moment ago.
    is_crowded: bool,
    pace: Pace,
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

/// How those fare who are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What they send is dealt with in time.
    Well,
    /// It is late.
    Disturbed,
    /// They send nothing.
    Silent,
}

impl<T> Turnstile<T> {
    /// An open one; `room` connections may wait.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                is_crowded: false,
                pace: Pace::new(Instant::now()),
            }),
            came: Notify::new(),
            room,
        }
    }

    /// A connection comes.
    pub(crate) fn enter(&self, accepted: T) -> Entry<T> {
        let mut queue = self.queue();
        if !queue.is_crowded && queue.pace.take(Instant::now()) {
            return Entry::Free(accepted);
        }
        if queue.waiting.len() >= self.room {
            return Entry::Full(accepted);
        }
        queue.waiting.push_back(accepted);
        metrics::NEWCOMERS_WAITING.inc();
        if !std::mem::replace(&mut queue.is_crowded, true) {
            self.came.notify_one();
        }
        Entry::Waits
    }

    /// Lets those who wait in, at the pace, for ever. `feel` is asked how those fare who are in, every
    /// [`TURN`]; `under_way` how many newcomers there are that have not logged in.
    pub(crate) async fn turn(
        &self,
        mut feel: impl FnMut(Instant) -> Mood,
        under_way: impl Fn() -> usize,
        let_in: impl Fn(T),
    ) {
        loop {
            self.came.notified().await;
            let mut began = Instant::now();
            let mut worst = Mood::Silent;
            loop {
                tokio::time::sleep(TURN).await;
                let now = Instant::now();
                let mood = feel(now);
                worst = worst.or_worse(mood);
                if now - began >= PERIOD {
                    self.queue().pace.judge(worst);
                    (began, worst) = (now, mood);
                }
                let Some(some) = self.next(now, mood, under_way()) else {
                    break;
                };
                some.into_iter().for_each(&let_in);
            }
        }
    }

    /// Those who may pass now. `None` if nobody waits any more.
    fn next(&self, now: Instant, mood: Mood, mut under_way: usize) -> Option<Vec<T>> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.is_crowded = false;
            return None;
        }
        let mut some = Vec::new();
        while !queue.waiting.is_empty() && queue.pace.lets_in(now, mood, under_way) {
            some.extend(queue.waiting.pop_front());
            under_way += 1;
            metrics::NEWCOMERS_WAITING.dec();
        }
        Some(some)
    }

    /// Those who wait are gone.
    pub(crate) fn close(&self) {
        let waiting = std::mem::take(&mut self.queue().waiting);
        metrics::NEWCOMERS_WAITING.sub(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    }

    /// Whether newcomers wait.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue().is_crowded
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mood {
    fn or_worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Disturbed, _) | (_, Self::Disturbed) => Self::Disturbed,
            (Self::Well, _) | (_, Self::Well) => Self::Well,
            (Self::Silent, Self::Silent) => Self::Silent,
        }
    }
}

/// How many may pass: a bucket of turns that fills at an adapting rate.
#[derive(Debug)]
struct Pace {
    /// Turns a second.
    rate: f64,
    turns: f64,
    at: Instant,
    /// When somebody was let in last.
    last: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            rate: FIRST,
            turns: AT_ONCE,
            at: now,
            last: now,
        }
    }

    /// Takes a turn, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.at = now;
        // What comes together between two turns of the turnstile must not be lost.
        let most = AT_ONCE.max(self.rate * 2.0 * TURN.as_secs_f64());
        self.turns = (self.turns + gained).min(most);
        if self.turns < 1.0 {
            return false;
        }
        self.turns -= 1.0;
        self.last = now;
        true
    }

    /// Whether one who waits may pass.
    fn lets_in(&mut self, now: Instant, mood: Mood, under_way: usize) -> bool {
        // Logins that take longer than a second at this rate stand in a queue further inside.
        #[expect(
            clippy::cast_precision_loss,
            reason = "far fewer than a float counts exactly"
        )]
        let is_full = under_way as f64 >= self.rate.max(AT_ONCE);
        if mood == Mood::Silent || (mood == Mood::Well && !is_full) {
            return self.take(now);
        }
        // Somebody gets in however bad it is.
        let is_due = (now - self.last).as_secs_f64() >= LEAST.recip();
        if is_due {
            self.last = now;
        }
        is_due
    }

    /// A period has passed in which newcomers waited.
    fn judge(&mut self, worst: Mood) {
        let change = match worst {
            Mood::Silent => 8.0,
            Mood::Well => 1.03,
            Mood::Disturbed => 0.8,
        };
        self.rate = (self.rate * change).clamp(LEAST, MOST);
        metrics::NEWCOMERS_PACE.set(self.rate);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// How many pass within a time, if some come every millisecond.
    fn passed(pace: &mut Pace, time: Duration, mood: Mood, under_way: usize) -> usize {
        let end = pace.at + time;
        let mut now = pace.at;
        let mut passed = 0;
        while now < end {
            now += Duration::from_millis(1);
            passed +=
                std::iter::from_fn(|| pace.lets_in(now, mood, under_way).then_some(())).count();
        }
        passed
    }

    #[test]
    fn some_pass_at_once_and_the_others_at_the_pace() {
        let mut pace = Pace::new(Instant::now());
        let at_once = std::iter::from_fn(|| pace.take(pace.at).then_some(())).count();
        assert_eq!(at_once, 10);
        let second = passed(&mut pace, Duration::from_secs(1), Mood::Well, 0);
        assert!((199..=200).contains(&second), "{second}");
    }

    #[test]
    fn a_quick_pace_does_not_depend_on_how_often_the_turnstile_turns() {
        let mut pace = Pace::new(Instant::now());
        pace.rate = 20_000.0;
        let mut passed = 0;
        for turn in 1..=100 {
            let now = pace.last.max(pace.at) + TURN;
            let some = std::iter::from_fn(|| pace.lets_in(now, Mood::Silent, 0).then_some(()));
            passed += some.count();
            assert!(passed <= 40 * turn + 10, "{passed} after {turn} turns");
        }
        assert!(passed >= 3990, "{passed}");
    }

    #[test]
    fn few_pass_while_those_who_are_in_are_disturbed_or_logins_pile_up() {
        for (mood, under_way) in [(Mood::Disturbed, 0), (Mood::Well, 200)] {
            let mut pace = Pace::new(Instant::now());
            let second = passed(&mut pace, Duration::from_secs(1), mood, under_way);
            assert_eq!(second, 100);
        }
        // Those who log in slowly are in nobody's way where nobody writes.
        let mut pace = Pace::new(Instant::now());
        let second = passed(&mut pace, Duration::from_secs(1), Mood::Silent, 10_000);
        assert!((209..=210).contains(&second), "{second}");
    }

    #[test]
    fn the_pace_follows_the_mood_within_its_bounds() {
        for (mood, first, last) in [
            (Mood::Disturbed, 160.0, LEAST),
            (Mood::Well, 206.0, MOST),
            (Mood::Silent, 1600.0, MOST),
        ] {
            let mut pace = Pace::new(Instant::now());
            pace.judge(mood);
            assert!((pace.rate - first).abs() < 1e-6, "{}", pace.rate);
            for _ in 0..1000 {
                pace.judge(mood);
            }
            assert!((pace.rate - last).abs() < 1e-6, "{}", pace.rate);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_let_in_in_their_order_and_too_many_are_told() {
        let turnstile = Turnstile::new(200);
        let free = (0..).take_while(|n| turnstile.enter(*n) == Entry::Free(*n));
        assert_eq!(free.count(), 10);
        // The first that waits was taken above.
        let waiting = (11..).take_while(|n| turnstile.enter(*n) == Entry::Waits);
        assert_eq!(waiting.count(), 199);
        assert_eq!(turnstile.enter(1000), Entry::Full(1000));
        let let_in = RefCell::new(Vec::new());
        let all = async {
            while turnstile.queue().is_crowded {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = turnstile.turn(|_| Mood::Silent, || 0, |n| let_in.borrow_mut().push(n)) => {}
            () = all => {}
        }
        assert_eq!(let_in.into_inner(), (10..210).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(turnstile.enter(1001), Entry::Free(1001));
    }
}
