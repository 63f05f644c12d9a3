//! Presence: one publisher whose updates go to all of its subscribers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rookery_tests::figures::Arrivals;
use rookery_tests::light::{Light, Reason};
use tokio::sync::Notify;

use crate::crew::{Crew, several};
use crate::usage::Meter;
use crate::{Load, Report};

/// Without any delivery for so long, the ones that are missing are lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the publisher and the subscribers know of each other.
struct Updates {
    /// Told in each update, so that those of an earlier run are not taken for this one's.
    run: String,
    subscribers: usize,
    window: usize,
    stop: Instant,
    sent: AtomicUsize,
    /// How many subscribers have each of the updates that are under way: the one with a number is at the
    /// number modulo the window.
    got: Vec<AtomicUsize>,
    /// Updates that all subscribers have.
    done: AtomicUsize,
    /// No update follows.
    is_over: AtomicBool,
    changed: Notify,
}

/// What one subscriber has seen, or several.
#[derive(Default)]
struct Tally {
    arrivals: Arrivals,
    broken: Vec<Reason>,
    last: Option<Instant>,
}

pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    let mut clients = crew.bring_up(load, crew.deal(0..load.accounts));
    let publisher = Mutex::new(Some(clients[0].remove(0)));
    let meter = Meter::start(load.process);
    let updates = Arc::new(Updates {
        run: std::process::id().to_string(),
        subscribers: load.accounts - 1,
        window: load.window,
        stop: meter.start + load.time,
        sent: AtomicUsize::new(0),
        got: (0..load.window).map(|_| AtomicUsize::new(0)).collect(),
        done: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        changed: Notify::new(),
    });
    // The publisher stays on the first thread.
    let hands = std::iter::zip([true, false], clients).map(|hand| vec![hand]);
    let tallies = crew.work(hands.collect(), async |mut hand| {
        let (has_publisher, subscribers) = hand.remove(0);
        let publisher = has_publisher.then(|| publisher.lock().expect("not poisoned").take());
        let publishing = publish(publisher.flatten(), &updates);
        let all = subscribers.len();
        let subscribing = several(subscribers, all, |light| {
            subscribe(light, Arc::clone(&updates))
        });
        let (outcome, mut tallies) = tokio::join!(publishing, subscribing);
        tallies.extend(outcome.err().map(|reason| Tally {
            broken: vec![format!("the publisher: {reason}")],
            ..Tally::default()
        }));
        tallies
    });

    let mut all = Tally::default();
    for tally in tallies.into_iter().flatten() {
        all.arrivals.add(&tally.arrivals);
        all.broken.extend(tally.broken);
        all.last = all.last.max(tally.last);
    }
    let end = all.last.unwrap_or_else(Instant::now);
    let mut figures = meter.figures(all.arrivals.received, end);
    let expected = updates.sent.load(Ordering::Acquire) * updates.subscribers;
    let mut faults = all.broken;
    for (what, count) in [
        ("lost", expected.saturating_sub(all.arrivals.received)),
        ("doubled", all.arrivals.doubled),
        ("out of order", all.arrivals.out_of_order),
    ] {
        figures[what] = count.into();
        if count > 0 {
            faults.push(format!("{count} of {expected} deliveries {what}"));
        }
    }
    if all.arrivals.received == 0 {
        faults.push("no update arrived".to_owned());
    }
    Report { figures, faults }
}

async fn publish(publisher: Option<Light>, updates: &Updates) -> Result<(), Reason> {
    let Some(mut publisher) = publisher else {
        return Ok(());
    };
    let updating = async {
        let mut sent = 0;
        // The first one is sent in any case: on a busy machine the time may be over before.
        while sent == 0 || Instant::now() < updates.stop {
            // Registered before it is looked, so that no change is missed.
            let changed = updates.changed.notified();
            if sent - updates.done.load(Ordering::Acquire) < updates.window {
                // Counted before it can arrive.
                updates.sent.store(sent + 1, Ordering::Release);
                let run = &updates.run;
                let update = format!("<presence><status>{run}.{sent}.</status></presence>");
                publisher.send(&update).await?;
                sent += 1;
                continue;
            }
            tokio::select! {
                () = changed => {}
                // Its own presence may come back.
                read = publisher.read() => {
                    read?;
                    publisher.take(|_| ());
                }
                () = tokio::time::sleep_until(updates.stop.into()) => {}
            }
        }
        Ok(())
    };
    let outcome: Result<(), Reason> = updating.await;
    updates.is_over.store(true, Ordering::Release);
    outcome?;
    // The connection stays until all have arrived.
    let all = async {
        loop {
            let changed = updates.changed.notified();
            if updates.done.load(Ordering::Acquire) == updates.sent.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, all).await;
    Ok(())
}

async fn subscribe(mut light: Light, updates: Arc<Updates>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let is_over = updates.is_over.load(Ordering::Acquire);
        if is_over && tally.arrivals.received == updates.sent.load(Ordering::Acquire) {
            return tally;
        }
        // At the end it may already have the last update when it learns that it was the last.
        let patience = if is_over {
            PATIENCE
        } else {
            Duration::from_millis(200)
        };
        match tokio::time::timeout(patience, light.read()).await {
            Ok(Ok(())) => light.take(|stanza| tally.receive(stanza, &updates)),
            Ok(Err(reason)) => {
                tally.broken.push(reason);
                return tally;
            }
            Err(_) if is_over => return tally,
            Err(_) => {}
        }
    }
}

impl Tally {
    fn receive(&mut self, stanza: &[u8], updates: &Updates) {
        if !stanza.starts_with(b"<presence") {
            return;
        }
        let text = std::str::from_utf8(stanza).unwrap_or_default();
        let number = text.split_once("<status>").and_then(|(_, status)| {
            let number = status.strip_prefix(&updates.run)?.strip_prefix('.')?;
            number.split('.').next()?.parse::<usize>().ok()
        });
        // Other presence is what was there before.
        let Some(number) = number else {
            return;
        };
        if !self.arrivals.count(number) {
            return;
        }
        self.last = Some(Instant::now());
        let place = &updates.got[number % updates.window];
        if place.fetch_add(1, Ordering::AcqRel) + 1 == updates.subscribers {
            place.store(0, Ordering::Release);
            updates.done.fetch_add(1, Ordering::AcqRel);
            updates.changed.notify_one();
        }
    }
}
