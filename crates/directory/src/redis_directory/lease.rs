//! This node's lease: the proof that it lives.
//!
//! Renewed every third of its time, or when somebody finds it gone. When it is gone although it was
//! never released, Redis has lost data or others took this node for dead; either way all sessions have
//! to be published again. When it cannot be renewed for all of its time, the node is fenced until it
//! can.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Inner, keys};
use crate::{Error, Event, LinkState, metrics};

/// Takes the lease anew, then makes the node known.
pub(super) async fn take(inner: &Inner) -> Result<(), Error> {
    let (prefix, epoch) = (&inner.config.prefix, inner.node.epoch);
    let mut take = redis::cmd("EVALSHA");
    take.arg(&inner.hashes.take_lease)
        .arg(2)
        .arg(keys::lease(prefix, epoch))
        .arg(keys::claim(prefix, epoch))
        .arg(&*inner.node.name)
        .arg(milliseconds(inner.config.lease));
    let mut list = redis::cmd("HSET");
    list.arg(keys::nodes(prefix))
        .arg(epoch.to_string())
        .arg(&*inner.node.name)
        .arg(keys::frames_field(epoch))
        .arg(inner.node.frames);
    // In this order: a node that is listed and has no lease is dead.
    let _: i64 = inner.link.in_order(&take, &list).await?;
    metrics::LEASE_RENEWALS.with_label_values(&["taken"]).inc();
    Ok(())
}

/// Keeps the lease for as long as the directory runs. `seen`: the connection that it was taken on.
pub(super) async fn keep(inner: Arc<Inner>, mut seen: LinkState) {
    let lease = inner.config.lease;
    let mut link = inner.link.state();
    let mut held = Held {
        until: Instant::now() + lease,
        fenced: false,
    };
    let mut next = Instant::now() + lease / 3;
    loop {
        let wake = if held.fenced {
            next
        } else {
            next.min(held.until)
        };
        tokio::select! {
            () = tokio::time::sleep_until(wake.into()) => {}
            _ = link.changed() => {}
            () = inner.lease_missing.notified() => {}
        }
        let state = *link.borrow_and_update();
        let is_new = state.up && state.generation != seen.generation;
        if is_new {
            inner.begin_grace();
            inner.hints.flush_everywhere();
            inner.events.flush_cache();
        }
        let asked = Instant::now();
        let outcome = if state.up {
            renew(&inner).await
        } else {
            Err(Error::Unavailable(""))
        };
        if let Ok(renewed) = outcome {
            held.renewed(&inner, asked + lease);
            if renewed && state.server == seen.server {
                metrics::LEASE_RENEWALS
                    .with_label_values(&["renewed"])
                    .inc();
            } else {
                tracing::warn!("redis may have lost data, publishing the sessions again");
                inner.lost_data();
            }
            if is_new {
                inner.unwritten.reconnected();
            }
            seen = state;
            next = asked + lease / 3;
        } else {
            metrics::LEASE_RENEWALS.with_label_values(&["failed"]).inc();
            next = Instant::now() + (lease / 30).max(Duration::from_millis(20));
        }
        held.check(&inner);
    }
}

/// What this node may believe about its lease.
struct Held {
    until: Instant,
    fenced: bool,
}

impl Held {
    fn renewed(&mut self, inner: &Inner, until: Instant) {
        self.until = until;
        if std::mem::take(&mut self.fenced) {
            tracing::warn!("the lease is held again");
            metrics::FENCED.set(0);
            inner.events.push(Event::Unfenced);
        }
    }

    fn check(&mut self, inner: &Inner) {
        if !self.fenced && Instant::now() >= self.until {
            tracing::error!("the lease ran out: accepting no new streams until redis is back");
            self.fenced = true;
            metrics::FENCED.set(1);
            inner.events.push(Event::Fenced);
        }
    }
}

/// Renews the lease, `true`, or takes it anew, `false`.
async fn renew(inner: &Inner) -> Result<bool, Error> {
    let mut set = redis::cmd("SET");
    set.arg(keys::lease(&inner.config.prefix, inner.node.epoch))
        .arg(&*inner.node.name)
        .arg("XX")
        .arg("PX")
        .arg(milliseconds(inner.config.lease));
    let renewed: bool = inner.link.command(&set).await?;
    if renewed {
        return Ok(true);
    }
    // In this order: whoever sees the new lease must leave other missing ones alone, and rows must
    // not be taken for those that somebody may be removing.
    inner.begin_grace();
    inner.lease_number.fetch_add(1, Ordering::AcqRel);
    take(inner).await?;
    Ok(false)
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
