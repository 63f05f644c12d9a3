//! The one timer of a connection.
//!
//! Timeouts rarely happen, but each message starts and ends one. So the timer is left alone when it is
//! set early enough: it fires, finds nothing due, and is set again or dropped. A busy connection costs
//! one timer operation per timeout's length, an idle one none.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer, and since when the peer accepts no data.
#[derive(Debug, Default)]
pub(super) struct Watch {
    timer: Option<Pin<Box<Sleep>>>,
    stalled: Option<Box<Stalled>>,
}

/// The peer's socket is full.
#[derive(Debug)]
struct Stalled {
    since: Instant,
    unsent: usize,
}

impl Watch {
    /// Whether the timer has fired since it was set; then it is gone.
    pub(super) fn has_fired(&mut self) -> bool {
        let fired = self.timer.as_ref().is_some_and(|timer| timer.is_elapsed());
        if fired {
            self.timer = None;
        }
        fired
    }

    /// Makes sure that the task is woken when `due` comes, at the latest.
    pub(super) fn arm(&mut self, due: Option<Instant>, cx: &mut Context<'_>) {
        let Some(due) = due else { return };
        if self
            .timer
            .as_ref()
            .is_some_and(|timer| timer.deadline() <= due)
        {
            return;
        }
        let timer = self.timer.insert(Box::pin(sleep_until(due)));
        if timer.as_mut().poll(cx) == Poll::Ready(()) {
            cx.waker().wake_by_ref();
        }
    }

    /// Drops the timer: nothing will be due for long.
    pub(super) fn rest(&mut self) {
        self.timer = None;
    }

    /// Notes how many bytes the socket has not taken.
    pub(super) fn unsent(&mut self, unsent: usize) {
        match &mut self.stalled {
            None => {
                self.stalled = Some(Box::new(Stalled {
                    since: Instant::now(),
                    unsent,
                }));
            }
            Some(stalled) if stalled.unsent != unsent => {
                **stalled = Stalled {
                    since: Instant::now(),
                    unsent,
                };
            }
            Some(_) => {}
        }
    }

    /// The socket has taken everything.
    pub(super) fn all_sent(&mut self) {
        self.stalled = None;
    }

    /// Since when the socket has taken nothing although something waits for it.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled.as_ref().map(|stalled| stalled.since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_timer_is_set_again_only_for_something_earlier() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        std::future::poll_fn(|cx| {
            watch.arm(None, cx);
            assert!(watch.timer.is_none());
            watch.arm(at(10), cx);
            watch.arm(at(20), cx);
            assert_eq!(watch.timer.as_ref().map(|t| t.deadline()), at(10));
            watch.arm(at(5), cx);
            assert_eq!(watch.timer.as_ref().map(|t| t.deadline()), at(5));
            Poll::Ready(())
        })
        .await;
        assert!(!watch.has_fired());
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(watch.has_fired());
        assert!(!watch.has_fired());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_is_not_stalled() {
        let mut watch = Watch::default();
        watch.unsent(100);
        let first = watch.stalled_since().unwrap();
        tokio::time::advance(Duration::from_secs(20)).await;
        watch.unsent(100);
        assert_eq!(watch.stalled_since(), Some(first));
        watch.unsent(99);
        assert_eq!(watch.stalled_since(), Some(Instant::now()));
        watch.all_sent();
        assert_eq!(watch.stalled_since(), None);
    }
}
