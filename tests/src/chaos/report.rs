//! What a run of chaos found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Scenario;
use super::ledger::{Balance, Ledger};
use super::robot::REFUSED;
use super::watch::{Requests, Watch};

/// How an event ended.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// What happened.
    pub event: &'static str,
    /// From when everything was brought back to when all was well; nothing if that never came.
    pub took: Option<Duration>,
}

/// The nodes' counters of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Those that clients sent.
    pub accepted: i64,
    /// How they ended.
    pub outcomes: [(&'static str, i64); 4],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: 0,
            outcomes: ["delivered", "stored", "bounced", "dropped"].map(|name| (name, 0)),
        }
    }
}

impl Counters {
    /// What was counted since then.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.accepted -= before.accepted;
        for (now, before) in self.outcomes.iter_mut().zip(&before.outcomes) {
            now.1 -= before.1;
        }
        self
    }

    /// Whether each message that was accepted ended exactly once.
    pub fn balances(&self) -> bool {
        self.accepted == self.outcomes.iter().map(|(_, value)| value).sum::<i64>()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted {}", self.accepted)?;
        for (name, value) in &self.outcomes {
            write!(f, ", {name} {value}")?;
        }
        Ok(())
    }
}

/// All that is to be said of a run.
#[derive(Clone, Debug)]
pub struct Report {
    scenario: Scenario,
    cut_by: &'static str,
    /// What became of the messages.
    pub balance: Balance,
    /// Clients that went away and came back in the eyes of a contact, while they only moved.
    pub flaps: Vec<String>,
    /// What became of the requests.
    pub requests: Requests,
    /// How long each event took to be over.
    pub recoveries: Vec<Recovery>,
    /// What happened to connections and sessions, and how often.
    pub incidents: BTreeMap<String, usize>,
    /// The counters of the whole run, if no node was started again.
    pub whole: Option<Counters>,
    /// The counters of the calm at the end.
    pub calm: Counters,
    /// Whether something happened that sessions die of.
    pub sessions_killed: bool,
    /// What went wrong besides.
    pub problems: Vec<String>,
    /// What happened to messages that were lost or doubled.
    histories: Vec<String>,
}

impl Report {
    pub(super) fn new(scenario: &Scenario, cut_by: &'static str) -> Self {
        Self {
            scenario: scenario.clone(),
            cut_by,
            balance: Balance::default(),
            flaps: Vec::new(),
            requests: Requests::default(),
            recoveries: Vec::new(),
            incidents: BTreeMap::new(),
            whole: None,
            calm: Counters::default(),
            sessions_killed: false,
            problems: Vec::new(),
            histories: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, ledger: &Ledger, watch: &Watch) {
        self.flaps = watch.flaps().to_vec();
        self.requests = watch.requests();
        self.balance = ledger.balance();
        let Balance {
            lost,
            doubled,
            archived_twice,
            ..
        } = &self.balance;
        for which in [lost, doubled, archived_twice] {
            let some = which.iter().take(10);
            let some = some.map(|&id| format!("{id}: {}", ledger.history(id)));
            self.histories.extend(some);
        }
    }

    /// Why the run is a failure; empty if it is none.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.problems.clone();
        let mut found = |what: &str, which: &[super::ledger::Id]| {
            if !which.is_empty() {
                let some: Vec<_> = which.iter().take(10).map(ToString::to_string).collect();
                failures.push(format!("{} {what}: {}", which.len(), some.join(", ")));
            }
        };
        found("lost", &self.balance.lost);
        found("seen twice by a session", &self.balance.doubled);
        failures.extend(self.flaps.iter().cloned());
        let twice = self.requests.answered_twice.iter();
        failures.extend(twice.map(|one| format!("answered twice: {one}")));
        if self.requests.answered == self.requests.refused {
            failures.push("no request was answered: the run proves nothing".to_owned());
        }
        if !self.balance.strays.is_empty() {
            failures.push(format!("strays: {:?}", self.balance.strays));
        }
        for (what, counters) in [("whole", self.whole.as_ref()), ("calm", Some(&self.calm))] {
            if let Some(counters) = counters.filter(|counters| !counters.balances()) {
                failures.push(format!("the counters do not balance ({what}): {counters}"));
            }
        }
        let never = self.recoveries.iter().filter(|one| one.took.is_none());
        failures.extend(never.map(|one| format!("not well again after: {}", one.event)));
        let loud = self
            .incidents
            .keys()
            .filter(|name| **name == name.to_uppercase());
        failures.extend(loud.cloned());
        if let (false, Some(refusals)) = (self.sessions_killed, self.incidents.get(REFUSED)) {
            failures.push(format!(
                "{refusals} resumptions were refused, and nothing had died"
            ));
        }
        if self.balance.acknowledged == 0 {
            failures.push("nothing was acknowledged: the run proves nothing".to_owned());
        }
        failures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario {
            seed,
            duration,
            clients,
            nodes,
            ..
        } = &self.scenario;
        let seconds = duration.as_secs();
        writeln!(
            f,
            "seed {seed}: {clients} clients on {nodes} nodes for {seconds} s; links are cut by {}",
            self.cut_by
        )?;
        let balance = &self.balance;
        for (what, count) in [
            ("sent", balance.sent),
            ("acknowledged", balance.acknowledged),
            ("refused", balance.refused),
            ("delivered live", balance.live),
            ("recovered from the log", balance.recovered),
            ("seen again after a login", balance.again),
            ("out of order", balance.reordered),
            ("twice in the archive", balance.archived_twice.len()),
            ("doubled", balance.doubled.len()),
            ("lost", balance.lost.len()),
            ("flaps", self.flaps.len()),
            ("requests", self.requests.asked),
            ("answered", self.requests.answered),
            ("with an error", self.requests.refused),
            ("answered twice", self.requests.answered_twice.len()),
        ] {
            writeln!(f, "  {what:26} {count:7}")?;
        }
        let mut by_event: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for recovery in &self.recoveries {
            let took = recovery.took.map_or("never".to_owned(), |took| {
                format!("{:.2}", took.as_secs_f64())
            });
            by_event.entry(recovery.event).or_default().push(took);
        }
        writeln!(f, "seconds until all was well again")?;
        for (event, times) in by_event {
            writeln!(f, "  {event:26} {}", times.join(" "))?;
        }
        writeln!(f, "what happened to clients")?;
        for (incident, count) in &self.incidents {
            writeln!(f, "  {incident:50} {count:7}")?;
        }
        if let Some(whole) = &self.whole {
            writeln!(f, "counters of the whole run: {whole}")?;
        }
        writeln!(f, "counters of the calm at the end: {}", self.calm)?;
        self.histories
            .iter()
            .try_for_each(|one| writeln!(f, "{one}"))
    }
}
