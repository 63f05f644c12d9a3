//! Chat: pairs of clients, one of which writes to the other with a number of messages under way.
//!
//! Every message has its number, so that loss, doubling and order are seen, and its whole body is checked.

use std::pin::pin;
use std::time::{Duration, Instant};

use rookery_tests::figures::Arrivals;
use rookery_tests::light::{Light, Reason};

use crate::crew::{Crew, name, several};
use crate::usage::{Meter, add_latencies};
use crate::{DOMAIN, Load, Report};

/// How long the body of a message is.
const BODY: usize = 100;
/// Without any message for so long, the ones that are missing are lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of the messages of a pair, or of several.
#[derive(Default)]
struct Tally {
    sent: usize,
    arrivals: Arrivals,
    latencies: Vec<Duration>,
    /// Came back as errors, or did not have the body that was sent.
    refused: usize,
    broken: Vec<Reason>,
    last: Option<Instant>,
}

/// The receiving end's view of one sender's messages.
struct Lane {
    /// Told in each message, so that those of an earlier run are not taken for this one's.
    run: String,
    /// When each message was sent.
    sent: Vec<Instant>,
    tally: Tally,
}

pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    let pairs = crew.deal(0..load.count);
    let ends = pairs
        .iter()
        .map(|pairs| {
            pairs
                .iter()
                .flat_map(|pair| [2 * pair, 2 * pair + 1])
                .collect()
        })
        .collect();
    let clients = crew.bring_up(load, ends);
    let hands = std::iter::zip(pairs, clients).map(|(pairs, clients)| {
        let mut clients = clients.into_iter();
        let pairs = pairs.into_iter().map(|pair| {
            let mut next = || clients.next().expect("two for each pair");
            (pair, next(), next())
        });
        pairs.collect()
    });
    let hands: Vec<Vec<(usize, Light, Light)>> = hands.collect();

    let meter = Meter::start(load.process);
    let stop = meter.start + load.time;
    let tallies = crew.work(hands, async |pairs| {
        let all = pairs.len();
        let window = load.window;
        let talk = |(pair, from, to)| talk(pair, from, to, window, stop);
        several(pairs, all, talk).await
    });
    report(&meter, tallies.into_iter().flatten())
}

fn report(meter: &Meter, tallies: impl Iterator<Item = Tally>) -> Report {
    let mut all = Tally::default();
    for tally in tallies {
        all.sent += tally.sent;
        all.arrivals.add(&tally.arrivals);
        all.latencies.extend(tally.latencies);
        all.refused += tally.refused;
        all.broken.extend(tally.broken);
        all.last = all.last.max(tally.last);
    }
    let received = all.arrivals.received;
    let end = all.last.unwrap_or_else(Instant::now);
    let mut figures = meter.figures(received, end);
    add_latencies(&mut figures, all.latencies);
    let counts = [
        ("lost", all.sent - received),
        ("doubled", all.arrivals.doubled),
        ("out of order", all.arrivals.out_of_order),
        ("refused or changed", all.refused),
    ];
    let mut faults = all.broken;
    for (what, count) in counts {
        figures[what] = count.into();
        if count > 0 {
            faults.push(format!("{count} of {} messages {what}", all.sent));
        }
    }
    if received == 0 {
        faults.push("no message arrived".to_owned());
    }
    Report { figures, faults }
}

/// One pair until the time is over and what was sent has arrived.
async fn talk(pair: usize, mut from: Light, mut to: Light, window: usize, stop: Instant) -> Tally {
    let id = std::process::id();
    let mut lane = Lane {
        run: format!("{id}-{pair}"),
        sent: Vec::new(),
        tally: Tally::default(),
    };
    let address = format!("{}@{DOMAIN}", name(2 * pair + 1));
    if let Err(reason) = lane.talk(&mut from, &mut to, &address, window, stop).await {
        lane.tally.broken.push(format!("pair {pair}: {reason}"));
    }
    lane.tally
}

impl Lane {
    async fn talk(
        &mut self,
        from: &mut Light,
        to: &mut Light,
        address: &str,
        window: usize,
        stop: Instant,
    ) -> Result<(), Reason> {
        let mut out = String::new();
        let mut patience = pin!(tokio::time::sleep(PATIENCE));
        let mut before = 0;
        loop {
            let now = Instant::now();
            out.clear();
            // The first ones are sent in any case: on a busy machine the time may be over before.
            let is_time = now < stop || self.sent.is_empty();
            while is_time && self.sent.len() - self.tally.arrivals.received < window {
                let body = self.body(self.sent.len());
                out.push_str("<message type='chat' to='");
                out.push_str(address);
                out.push_str("'><body>");
                out.push_str(&body);
                out.push_str("</body></message>");
                self.sent.push(now);
            }
            self.tally.sent = self.sent.len();
            if !out.is_empty() {
                from.send(&out).await?;
            }
            if now >= stop && self.tally.arrivals.received == self.sent.len() {
                return Ok(());
            }
            tokio::select! {
                read = to.read() => {
                    read?;
                    let now = Instant::now();
                    to.take(|stanza| self.receive(stanza, now));
                }
                read = from.read() => {
                    read?;
                    from.take(|stanza| self.tally.refused += usize::from(stanza.starts_with(b"<message")));
                }
                () = &mut patience => {
                    let received = self.tally.arrivals.received;
                    if received == before {
                        return Err(format!("nothing has come for {} s", PATIENCE.as_secs()));
                    }
                    before = received;
                    patience.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
                }
            }
        }
    }

    fn body(&self, number: usize) -> String {
        let start = format!("{}.{number}.", self.run);
        format!("{start:x<BODY$}")
    }

    fn receive(&mut self, stanza: &[u8], now: Instant) {
        if !stanza.starts_with(b"<message") {
            return;
        }
        let text = std::str::from_utf8(stanza).unwrap_or_default();
        let body = text
            .split_once("<body>")
            .and_then(|(_, rest)| Some(rest.split_once("</body>")?.0));
        let Some(body) = body else {
            self.tally.refused += 1;
            return;
        };
        let rest = body
            .strip_prefix(&self.run)
            .and_then(|rest| rest.strip_prefix('.'));
        let Some(rest) = rest else {
            // What an earlier run has left behind.
            return;
        };
        let number = rest.split('.').next().and_then(|n| n.parse().ok());
        let known = number.filter(|&number| number < self.sent.len() && body == self.body(number));
        let Some(number) = known else {
            self.tally.refused += 1;
            return;
        };
        if self.tally.arrivals.count(number) {
            self.tally.latencies.push(now - self.sent[number]);
            self.tally.last = Some(now);
        }
    }
}
