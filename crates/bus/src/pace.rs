//! Waits that are shorter than what the runtime's timer can do, which counts in milliseconds.
//!
//! One thread serves all lanes of a bus; it sleeps while nobody waits.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Ends waits after one fixed time.
pub(crate) struct Pace {
    time: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which they are due.
    waiting: VecDeque<(Instant, oneshot::Sender<()>)>,
    ended: bool,
}

impl Pace {
    /// `None` if nobody is to wait, or if no thread can be started.
    pub(crate) fn start(time: Duration) -> Option<Self> {
        if time.is_zero() {
            return None;
        }
        let shared: Arc<Shared> = Arc::default();
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("rookery-bus-pace".to_owned());
        match thread.spawn(move || for_thread.run()) {
            Ok(_) => Some(Self { time, shared }),
            Err(error) => {
                tracing::warn!(%error, "no thread to pace the bus, it does without");
                None
            }
        }
    }

    /// Waits for the time.
    pub(crate) async fn wait(&self) {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state
                .waiting
                .push_back((Instant::now() + self.time, sender));
            if state.waiting.len() == 1 {
                self.shared.changed.notify_one();
            }
        }
        let _ = receiver.await;
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            while state.waiting.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, waiter)) = state.waiting.pop_front() {
                    let _ = waiter.send(());
                }
            }
            state = match state.waiting.front() {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some((due, _)) => {
                    let pause = due.saturating_duration_since(now);
                    let waited = self.changed.wait_timeout(state, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_last_as_long_as_they_should() {
        let time = Duration::from_micros(300);
        let pace = Pace::start(time).unwrap();
        for _ in 0..20 {
            let began = Instant::now();
            futures_util::future::join(pace.wait(), pace.wait()).await;
            assert!(began.elapsed() >= time);
        }
    }

    #[tokio::test]
    async fn nobody_waits_when_it_has_ended_or_for_no_time() {
        assert!(Pace::start(Duration::ZERO).is_none());
        let pace = Pace::start(Duration::from_hours(1)).unwrap();
        let shared = pace.shared.clone();
        let (sender, receiver) = oneshot::channel();
        shared
            .lock()
            .waiting
            .push_back((Instant::now() + Duration::from_hours(1), sender));
        drop((pace, shared));
        // The thread has ended and dropped the other end.
        assert!(
            tokio::time::timeout(Duration::from_secs(10), receiver)
                .await
                .is_ok()
        );
    }
}
