//! Knows whether the server is away.
//!
//! An outage begins when a connection cannot be made, and ends when one could. For a while operations
//! wait for its end, so that a server that restarts is nothing but a delay; once it has lasted for
//! the grace period, they fail at once, and those that wait give up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep_until};

use crate::{Error, metrics};

/// Whether the server is away, and since when.
#[derive(Debug)]
pub(super) struct Breaker {
    outage: watch::Sender<Option<Outage>>,
    grace: Duration,
}

#[derive(Clone, Debug)]
struct Outage {
    reason: Arc<str>,
    since: Instant,
}

impl Breaker {
    /// A server that is there. `grace`: how long operations wait for one that is not.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            outage: watch::Sender::new(None),
            grace,
        }
    }

    /// Notes that the server is away, or why it still is. True if it was not known to be.
    pub(super) fn open(&self, reason: &str, since: Instant) -> bool {
        let mut is_new = false;
        self.outage.send_modify(|outage| {
            is_new = outage.is_none();
            let since = outage.as_ref().map_or(since, |outage| outage.since);
            *outage = Some(Outage {
                reason: reason.into(),
                since,
            });
        });
        metrics::OUTAGE.set(1);
        is_new
    }

    /// Notes that the server is there. True if it was not known to be.
    pub(super) fn close(&self) -> bool {
        metrics::OUTAGE.set(0);
        self.outage.send_replace(None).is_some()
    }

    /// Whether the server is away.
    pub(super) fn is_open(&self) -> bool {
        self.outage.borrow().is_some()
    }

    /// Why operations must not wait for the server any longer, if that is so.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &*self.outage.borrow() {
            Some(outage) if outage.since.elapsed() >= self.grace => {
                Err(Error::unavailable(&*outage.reason))
            }
            _ => Ok(()),
        }
    }

    /// Why the server is away, if it is.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check_now(&self) -> Result<(), Error> {
        match &*self.outage.borrow() {
            Some(outage) => Err(Error::unavailable(&*outage.reason)),
            None => Ok(()),
        }
    }

    /// Waits for the end of an outage.
    pub(super) async fn closed(&self) {
        // Fails only when `self` is gone.
        let _ = self.outage.subscribe().wait_for(Option::is_none).await;
    }

    /// Waits until `deadline`, or until operations must not wait for the server any longer. Gives
    /// why; `otherwise` if the server is not away.
    pub(super) async fn given_up(&self, deadline: Instant, otherwise: &str) -> Error {
        let mut changes = self.outage.subscribe();
        loop {
            let outage = changes.borrow_and_update().clone();
            let until = match &outage {
                Some(outage) => (outage.since + self.grace).min(deadline),
                None => deadline,
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(until.into()) => {
                    let reason = outage.map_or_else(|| otherwise.into(), |outage| outage.reason);
                    return Error::unavailable(&*reason);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_wait_for_the_grace_period_and_then_fail_at_once() {
        let breaker = Breaker::new(Duration::ZERO);
        let far = Instant::now() + Duration::from_hours(1);
        assert!(breaker.check().is_ok() && !breaker.is_open());
        assert!(breaker.open("first", Instant::now()));
        assert!(!breaker.open("second", Instant::now()));
        let error = breaker.given_up(far, "busy").await;
        assert!(error.to_string().contains("second"), "{error}");
        assert!(breaker.check().is_err() && breaker.check_now().is_err());
        assert!(breaker.close());
        assert!(!breaker.close());
        breaker.closed().await;

        let patient = Breaker::new(Duration::from_hours(1));
        patient.open("away", Instant::now());
        assert!(patient.check().is_ok());
        assert!(patient.check_now().is_err());
        // The operation's own deadline comes first, and tells why it waited.
        let error = patient.given_up(Instant::now(), "busy").await;
        assert!(error.to_string().contains("away"), "{error}");
        patient.close();
        let error = patient.given_up(Instant::now(), "busy").await;
        assert!(error.to_string().contains("busy"), "{error}");
    }
}
