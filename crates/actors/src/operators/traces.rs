//! A trace of stanzas on all nodes: each tells its events as they come, the node that is asked puts them in
//! order.
//!
//! Events of different nodes are in the order of their clocks. Each waits [`HOLD`] for what others have yet
//! to tell, so clocks that differ by less than a node needs to tell make no odd order; those that differ by
//! more do.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::{HashMap, HashSet};
use rookery_directory::NodeInfo;
use rookery_proto::cluster::Epoch;
use rookery_proto::datetime;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::questions::{Question, Refusal, to_text};
use super::{Answering, MAX_PART_BYTES, Silence};
use crate::node::NodeShared;
use crate::trace::{self, Event, LONGEST, LeftOut, Listener, Look, MAX_EVENT_BYTES, TooMany, Wish};

/// How long events wait for those of other nodes that were before them.
const HOLD: Duration = Duration::from_millis(250);

/// How long a node gathers events for one part of its answer.
const GATHER: Duration = Duration::from_millis(50);

/// A node says at least so often that it is there, and so does the trace as a whole.
const ALIVE: Duration = Duration::from_secs(1);

/// How long another node may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked for nodes that have come.
const LOOK_FOR_NODES: Duration = Duration::from_secs(1);

/// Events in one part of an answer, before they are divided by their size.
const EVENTS_A_PART: usize = 200;

/// What nodes have told and nobody has read.
const TOLD: usize = 16;

/// Stanzas that are known again.
const KNOWN: usize = 4096;

/// A stanza whose last stage was so long ago is probably at its end.
const LONG_AGO: Duration = Duration::from_secs(10);

/// Places of a stanza's beginning that are known again.
const MET: usize = 16;

/// Keys by which one stanza is known, and as many places in logs; the last ones.
const NAMES: usize = 8;

/// A part of a node's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    events: Vec<Event>,
    /// How many there were besides.
    left_out: u64,
}

/// What is to be read of a trace, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    /// A node takes part from now on, or does not.
    Node {
        /// How people call it; empty on a single node.
        node: String,
        /// Whether it takes part.
        tracing: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A stanza has come to a stage of its way.
    Stage(Box<Step>),
    /// Events of a node are missing, as there were too many.
    LeftOut {
        /// How people call it; empty on a single node.
        node: String,
        /// How many.
        events: u64,
    },
    /// Nothing has happened for a second.
    Alive,
    /// The time is up.
    End,
}

/// A stanza at a stage of its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The number of the stanza in this trace.
    pub stanza: u64,
    /// The node; empty on a single node.
    pub node: String,
    /// When, by the node's clock (XEP-0082).
    pub at: String,
    /// Microseconds since the stanza's stage before this one, perhaps on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_us: Option<u64>,
    /// The stage.
    pub stage: Cow<'static, str>,
    /// What has become of the stanza, where that is known: `delivered`, `stored`, `bounced`, `dropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'static, str>>,
    /// A few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `message`, `presence` or `iq`.
    pub kind: Cow<'static, str>,
    /// Its type, where it has one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind_type: Option<Cow<'static, str>>,
    /// Its identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The client that this stage is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Its place in the recipient's log, which is its `<stanza-id/>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// What it is like, at its first stage.
    #[serde(flatten)]
    pub look: Option<Look>,
}

/// A trace under way. It ends, on all nodes, when this is dropped.
pub struct Tracing {
    node: Arc<NodeShared>,
    wish: Wish,
    end: Instant,
    told: mpsc::Receiver<Told>,
    teller: mpsc::Sender<Told>,
    /// One for each node.
    tellers: JoinSet<()>,
    /// Of this node, since that was told last.
    left_out: LeftOut,
    asked: HashSet<Epoch>,
    look_at: Instant,
    /// Events that wait for those before them, in the order of their times.
    held: Vec<Held>,
    stanzas: Stanzas,
    ready: VecDeque<Line>,
    said: Instant,
    is_over: bool,
}

/// What a node tells.
struct Told {
    node: String,
    what: What,
}

enum What {
    /// It takes part from now on.
    Begins,
    /// So has happened.
    Part(Part),
    /// It does not take part any more.
    Silent(Absence),
}

/// Why a node takes no part.
#[derive(Debug, PartialEq, Eq)]
struct Absence {
    why: String,
    /// The node, if it is to be asked again.
    ask_again: Option<Epoch>,
}

impl Absence {
    fn new(why: impl Into<String>) -> Self {
        let why = why.into();
        let ask_again = None;
        Self { why, ask_again }
    }

    /// The node has said nothing, or too much. The latter is no fault of it: whoever reads is too slow, and
    /// it is asked again when they have read so far.
    fn after(silence: Silence, node: Epoch) -> Self {
        Self {
            ask_again: (silence == Silence::Overrun).then_some(node),
            ..Self::new(silence.to_string())
        }
    }
}

struct Held {
    until: Instant,
    node: String,
    event: Event,
}

impl NodeShared {
    /// Starts a trace on this node and all others. Has to be called, and read, on a thread on which local
    /// tasks may be started.
    ///
    /// # Errors
    /// If this node runs as many as it may.
    pub fn trace(self: &Arc<Self>, wish: Wish) -> Result<Tracing, TooMany> {
        let listener = trace::start(&wish)?;
        let (teller, told) = mpsc::channel(TOLD);
        let now = Instant::now();
        let mut tracing = Tracing {
            node: Arc::clone(self),
            end: now + wish.time.min(LONGEST),
            wish,
            told,
            tellers: JoinSet::new(),
            left_out: listener.left_out(),
            asked: HashSet::new(),
            look_at: now,
            held: Vec::new(),
            stanzas: Stanzas::default(),
            ready: VecDeque::from([line(self.name(), true, None)]),
            said: now,
            is_over: false,
            teller,
        };
        let to = tracing.teller.clone();
        tracing.tellers.spawn_local(tell(listener, self.name(), to));
        Ok(tracing)
    }
}

impl Tracing {
    /// The next line, as soon as there is one; `None` at the end. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.said = Instant::now();
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            let now = Instant::now();
            if now >= self.end {
                while let Ok(told) = self.told.try_recv() {
                    self.take(told);
                }
                let events = self.left_out.take();
                if events > 0 {
                    let node = self.node.name();
                    self.ready.push_back(Line::LeftOut { node, events });
                }
                self.release(None);
                self.ready.push_back(Line::End);
                self.is_over = true;
                continue;
            }
            if now >= self.look_at {
                self.look_at = now + LOOK_FOR_NODES;
                self.ask_new_nodes();
            }
            self.release(Some(now));
            if !self.ready.is_empty() {
                continue;
            }
            if now >= self.said + ALIVE {
                self.ready.push_back(Line::Alive);
                continue;
            }
            let due = self.held.iter().map(|held| held.until).min();
            let wake = self.end.min(self.look_at).min(self.said + ALIVE);
            let wake = due.map_or(wake, |due| due.min(wake));
            if let Ok(Some(told)) = tokio::time::timeout_at(wake, self.told.recv()).await {
                self.take(told);
            }
        }
    }

    fn take(&mut self, Told { node, what }: Told) {
        match what {
            What::Begins => self.ready.push_back(line(node, true, None)),
            What::Silent(Absence { why, ask_again }) => {
                if let Some(epoch) = ask_again {
                    self.asked.remove(&epoch);
                }
                self.ready.push_back(line(node, false, Some(why)));
            }
            What::Part(Part { events, left_out }) => {
                let until = Instant::now() + HOLD;
                self.held.extend(events.into_iter().map(|event| Held {
                    until,
                    node: node.clone(),
                    event,
                }));
                // Those of one node at the same time stay in their order.
                self.held.sort_by_key(|held| held.event.at);
                if left_out > 0 {
                    let events = left_out;
                    self.ready.push_back(Line::LeftOut { node, events });
                }
            }
        }
    }

    /// Lets go what has waited long enough until `now`, and what was before that; everything if there is no
    /// `now`.
    fn release(&mut self, now: Option<Instant>) {
        let is_due = |held: &Held| now.is_none_or(|now| held.until <= now);
        let Some(last) = self.held.iter().rposition(is_due) else {
            return;
        };
        for Held { node, event, .. } in self.held.drain(..=last) {
            let step = self.stanzas.step(node, event);
            self.ready.push_back(Line::Stage(Box::new(step)));
        }
    }

    /// Asks those nodes that were not asked.
    fn ask_new_nodes(&mut self) {
        let Some(cluster) = &self.node.cluster else {
            return;
        };
        let own = cluster.epoch();
        for info in cluster.directory.nodes() {
            if info.epoch == own || !self.asked.insert(info.epoch) {
                continue;
            }
            let rest = self.end.saturating_duration_since(Instant::now());
            let question = Question::Trace {
                jid: self.wish.jid.clone(),
                bodies: self.wish.bodies,
                time_ms: u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
            };
            let ask = ask(
                Arc::clone(&self.node),
                info,
                to_text(&question),
                self.teller.clone(),
            );
            self.tellers.spawn_local(ask);
        }
    }
}

/// Tells what this node sees.
async fn tell(mut listener: Listener, node: String, to: mpsc::Sender<Told>) {
    loop {
        // Whoever reads ends this task. Events that are left out wake nobody: it is looked for them.
        let events = listener.next(EVENTS_A_PART, ALIVE).await;
        let left_out = listener.left_out().take();
        let part = Part { events, left_out };
        if part == Part::default() {
            continue;
        }
        let told = Told {
            node: node.clone(),
            what: What::Part(part),
        };
        if to.send(told).await.is_err() {
            return;
        }
    }
}

fn line(node: String, tracing: bool, reason: Option<String>) -> Line {
    Line::Node {
        node,
        tracing,
        reason,
    }
}

/// Tells what another node sees.
async fn ask(node: Arc<NodeShared>, info: NodeInfo, question: String, to: mpsc::Sender<Told>) {
    let mut begun = false;
    let tell = async |what| {
        let node = info.name.to_string();
        to.send(Told { node, what }).await.map_err(|_| None)
    };
    let listen = async {
        let cluster = node.cluster.as_ref().ok_or(None)?;
        let silent = |silence| Some(Absence::after(silence, info.epoch));
        let mut answer = cluster.ask_operator(info.epoch, question).map_err(silent)?;
        while let Some(text) = answer.next(PATIENCE).await.map_err(silent)? {
            let Ok(part) = serde_json::from_str::<Part>(&text) else {
                return Err(Some(Absence::new(why_refused(&text))));
            };
            if !std::mem::replace(&mut begun, true) {
                tell(What::Begins).await?;
            }
            if part != Part::default() {
                tell(What::Part(part)).await?;
            }
        }
        Err(Some(Absence::new("has stopped to trace")))
    };
    let ended: Result<(), Option<Absence>> = listen.await;
    if let Err(Some(absence)) = ended {
        tracing::warn!(node = %info.name, why = %absence.why, "a trace on another node");
        // Nobody may read any more.
        let _ = tell(What::Silent(absence)).await;
    }
}

/// What a node says that does not take part.
fn why_refused(text: &str) -> String {
    match serde_json::from_str(text) {
        // Older ones do not know the question, and say so in words of their own.
        Ok(Refusal { refused }) if refused == TooMany.to_string() => refused,
        _ => Silence::Misunderstood.to_string(),
    }
}

/// Answers another node: an empty part at once, events as they come, an empty part each second.
pub(super) async fn answer(wish: Wish, mut answering: Answering) {
    let mut listener = match trace::start(&wish) {
        Ok(listener) => listener,
        Err(too_many) => {
            let refused = too_many.to_string();
            // Nobody may wait any more; here and below.
            let _ = answering.send(to_text(&Refusal { refused })).await;
            return;
        }
    };
    let end = Instant::now() + wish.time.min(LONGEST);
    let mut events = Vec::new();
    loop {
        let left_out = listener.left_out().take();
        for part in parts(events, left_out) {
            if answering.send(to_text(&part)).await.is_err() {
                return;
            }
        }
        if Instant::now() >= end || !answering.is_from_a_known_node() {
            return;
        }
        events = listener.next(EVENTS_A_PART, ALIVE).await;
        if !events.is_empty() && events.len() < EVENTS_A_PART {
            tokio::time::sleep(GATHER).await;
            let rest = EVENTS_A_PART - events.len();
            events.extend(listener.next(rest, Duration::ZERO).await);
        }
    }
}

/// Divides events into parts that fit into frames; one part at least.
fn parts(events: Vec<Event>, left_out: u64) -> Vec<Part> {
    let mut parts = vec![Part {
        events: Vec::new(),
        left_out,
    }];
    let mut bytes = 0;
    for event in events {
        let size = to_text(&event).len();
        if bytes > 0 && bytes + size > MAX_PART_BYTES - MAX_EVENT_BYTES {
            parts.push(Part::default());
            bytes = 0;
        }
        bytes += size + 1;
        if let Some(part) = parts.last_mut() {
            part.events.push(event);
        }
    }
    parts
}

/// The stanzas of a trace by what they are known by, the last ones.
#[derive(Default)]
struct Stanzas {
    by_key: HashMap<u64, u64>,
    /// What is read from a log has changed on the way.
    by_entry: HashMap<Entry, u64>,
    known: HashMap<u64, Known>,
    /// In the order of their numbers.
    order: VecDeque<u64>,
    next: u64,
}

/// An account and a place in its log.
type Entry = (String, u64);

struct Known {
    at: u64,
    /// Whether its last stage was an end. There may be others, as it may have several recipients.
    is_over: bool,
    /// The places where it was met, by their hashes; the first ones.
    met: Vec<u64>,
    keys: VecDeque<u64>,
    entries: VecDeque<Entry>,
}

impl Stanzas {
    fn step(&mut self, node: String, event: Event) -> Step {
        let account = event.resource.as_deref().or(event.to.as_deref());
        let account = account.map(|jid| jid.split('/').next().unwrap_or_default().to_owned());
        let entry = account.zip(event.entry);
        // A client may use an `id` again.
        let is_new = event.stage == "accepted";
        let place = place(&node, &event);
        let by_entry = entry.as_ref().and_then(|entry| self.by_entry.get(entry));
        let number = by_entry.copied().or_else(|| self.by_key(&event, place));
        let number = number.filter(|_| !is_new);
        let is_first = number.is_none();
        let number = number.unwrap_or_else(|| self.begin());
        let mut after_us = None;
        if let Some(known) = self.known.get_mut(&number) {
            after_us = Some(event.at.saturating_sub(known.at)).filter(|_| !is_first);
            known.at = event.at;
            known.is_over = event.outcome.is_some() && event.stage != "committed";
            if event.look.is_some() && known.met.len() < MET && !known.met.contains(&place) {
                known.met.push(place);
            }
            remember(&mut self.by_key, &mut known.keys, event.key, number);
            if let Some(entry) = entry {
                remember(&mut self.by_entry, &mut known.entries, entry, number);
            }
        }
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(event.at));
        Step {
            stanza: number,
            node,
            at: datetime::format_micros(at.unwrap_or(SystemTime::UNIX_EPOCH)),
            after_us,
            stage: event.stage,
            outcome: event.outcome,
            detail: event.detail,
            kind: event.kind,
            kind_type: event.kind_type,
            id: event.id,
            from: event.from,
            to: event.to,
            resource: event.resource,
            entry: event.entry.map(|entry| entry.to_string()),
            look: event.look.filter(|_| is_first),
        }
    }

    /// The number of a stanza that is known by its key; none if this is probably another one that says the
    /// same, as presence without an `id` does.
    fn by_key(&self, event: &Event, place: u64) -> Option<u64> {
        let number = *self.by_key.get(&event.key)?;
        let known = self.known.get(&number)?;
        let age = Duration::from_micros(event.at.saturating_sub(known.at));
        // One of them alone may be true of a stanza that has several recipients, or that comes back.
        let signs = [known.is_over, known.met.contains(&place), age >= LONG_AGO];
        let is_another =
            event.look.is_some() && signs.into_iter().filter(|is_true| *is_true).count() > 1;
        Some(number).filter(|_| !is_another)
    }

    fn begin(&mut self) -> u64 {
        self.next += 1;
        let number = self.next;
        let known = Known {
            at: 0,
            is_over: false,
            met: Vec::new(),
            keys: VecDeque::new(),
            entries: VecDeque::new(),
        };
        self.known.insert(number, known);
        self.order.push_back(number);
        if self.order.len() > KNOWN {
            self.forget_oldest();
        }
        number
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else {
            return;
        };
        let Some(Known { keys, entries, .. }) = self.known.remove(&oldest) else {
            return;
        };
        for key in keys {
            forget(&mut self.by_key, &key, oldest);
        }
        for entry in entries {
            forget(&mut self.by_entry, &entry, oldest);
        }
    }
}

/// A stanza is known by one more name: a key, or a place in a log. Its oldest name goes if it has too many.
fn remember<N: Clone + Eq + Hash>(
    by_name: &mut HashMap<N, u64>,
    names: &mut VecDeque<N>,
    name: N,
    number: u64,
) {
    if by_name.insert(name.clone(), number) == Some(number) {
        return;
    }
    names.push_back(name);
    if names.len() > NAMES
        && let Some(oldest) = names.pop_front()
    {
        forget(by_name, &oldest, number);
    }
}

/// A stanza is not known by this name any more; another one may be.
fn forget<N: Eq + Hash>(by_name: &mut HashMap<N, u64>, name: &N, number: u64) {
    if by_name.get(name) == Some(&number) {
        by_name.remove(name);
    }
}

/// Where a stanza is met: the same one is not met there twice, unless it has come back.
fn place(node: &str, event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    let resource = event.resource.as_deref();
    (node, &event.stage, resource, event.detail.as_deref()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use rookery_proto::jid::Jid;
    use rookery_proto::stanza::Stanza;

    use super::*;

    fn event(at: u64, stage: &'static str, key: u64) -> Event {
        serde_json::from_value(serde_json::json!({
            "at": at, "stage": stage, "key": key, "kind": "message", "to": "bob@x",
            "look": { "size": 1, "children": [] },
        }))
        .unwrap()
    }

    #[test]
    fn a_stanza_keeps_its_number_on_all_nodes() {
        let mut stanzas = Stanzas::default();
        let mut step = |event| {
            let step = stanzas.step("n".into(), event);
            (step.stanza, step.after_us, step.look.is_some())
        };
        assert_eq!(step(event(10, "accepted", 1)), (1, None, true));
        assert_eq!(step(event(11, "accepted", 2)), (2, None, true));
        let committed = Event {
            entry: Some(7),
            ..event(15, "committed", 1)
        };
        assert_eq!(step(committed), (1, Some(5), false));
        // From the log: another content, another key.
        let queued = Event {
            entry: Some(7),
            resource: Some("bob@x/phone".into()),
            ..event(25, "queued", 3)
        };
        assert_eq!(step(queued), (1, Some(10), false));
        assert_eq!(step(event(30, "written", 3)), (1, Some(5), false));
        // A clock that is behind.
        assert_eq!(step(event(29, "confirmed", 3)), (1, Some(0), false));
        // The same `id` once more.
        assert_eq!(step(event(40, "accepted", 1)), (3, None, true));
        assert_eq!(step(event(41, "queued", 1)), (3, Some(1), false));
    }

    /// A client's presence has no `id`, and says the same again and again.
    #[test]
    fn what_is_sent_once_more_has_another_number() {
        let mut stanzas = Stanzas::default();
        let mut step =
            |at, node: &str, stage, resource: Option<&str>, outcome: Option<&'static str>| {
                let event = event(at, stage, 1);
                let may_begin = ["from-node", "queued"].contains(&stage);
                let event = Event {
                    resource: resource.map(str::to_owned),
                    outcome: outcome.map(Cow::from),
                    look: event.look.filter(|_| may_begin),
                    ..event
                };
                let step = stanzas.step(node.into(), event);
                (step.stanza, step.after_us)
            };
        let (phone, tv) = (Some("bob@x/phone"), Some("bob@x/tv"));
        let delivered = Some("delivered");
        assert_eq!(step(10, "one", "from-node", None, None), (1, None));
        assert_eq!(step(11, "one", "queued", phone, None), (1, Some(1)));
        assert_eq!(step(12, "one", "confirmed", phone, delivered), (1, Some(1)));
        // Other places that the same one gets to.
        assert_eq!(step(13, "one", "queued", tv, None), (1, Some(1)));
        assert_eq!(step(14, "one", "confirmed", tv, delivered), (1, Some(1)));
        assert_eq!(step(15, "two", "from-node", None, None), (1, Some(1)));
        assert_eq!(
            step(16, "two", "dropped", None, Some("dropped")),
            (1, Some(1))
        );

        assert_eq!(step(20, "one", "from-node", None, None), (2, None));
        assert_eq!(step(21, "one", "queued", phone, None), (2, Some(1)));
        // It came back, which is no end.
        assert_eq!(step(22, "one", "given-back", phone, None), (2, Some(1)));
        assert_eq!(step(23, "one", "queued", phone, None), (2, Some(1)));
        // Nobody knows what became of that one.
        let later = 23 + u64::try_from(LONG_AGO.as_micros()).unwrap();
        assert_eq!(step(later, "one", "queued", phone, None), (3, None));
        assert_eq!(
            step(later + 1, "one", "confirmed", phone, delivered),
            (3, Some(1))
        );
        // An end long ago.
        let later = 2 * later;
        assert_eq!(step(later, "one", "queued", tv, None), (4, None));
    }

    #[test]
    fn all_that_stanzas_are_known_by_is_forgotten_with_them() {
        let mut stanzas = Stanzas::default();
        for number in 0..2 * KNOWN as u64 {
            for (account, part) in [("ann@x", 0), ("bob@x", 1)] {
                let event = Event {
                    entry: Some(number),
                    resource: Some(format!("{account}/desk")),
                    ..event(number, "queued", 2 * number + part)
                };
                stanzas.step(String::new(), event);
            }
            // Its content has changed on its way through the log.
            for change in 0..3_u64 {
                let event = Event {
                    entry: Some(number),
                    ..event(number, "queued", ((change + 1) << 32) + number)
                };
                stanzas.step(String::new(), event);
            }
        }
        assert_eq!(stanzas.known.len(), KNOWN);
        let known = |number: &u64| stanzas.known.contains_key(number);
        assert!(
            stanzas.by_key.values().all(known),
            "{}",
            stanzas.by_key.len()
        );
        assert!(
            stanzas.by_entry.values().all(known),
            "{}",
            stanzas.by_entry.len()
        );
    }

    #[test]
    fn old_stanzas_are_forgotten() {
        let mut stanzas = Stanzas::default();
        let many = 2 * KNOWN as u64;
        for number in 0..many {
            let event = Event {
                entry: Some(number),
                ..event(number, "queued", number)
            };
            stanzas.step(String::new(), event);
        }
        assert_eq!(stanzas.known.len(), KNOWN);
        assert_eq!(stanzas.by_key.len(), KNOWN);
        assert_eq!(stanzas.by_entry.len(), KNOWN);
        assert_eq!(stanzas.order.len(), KNOWN);
    }

    /// Also when nothing comes after them.
    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_is_told_though_nothing_comes_after_it() {
        let jid = Jid::parse("left-out@x").unwrap();
        let (bodies, time) = (false, LONGEST);
        let listener = trace::start(&Wish { jid, bodies, time }).unwrap();
        let message = Stanza::from_xml("<message to='left-out@x'/>").unwrap();
        let note = |count: u32| {
            for _ in 0..count {
                trace::stage(trace::Stage::Accepted, &message, |step| step);
            }
        };
        let (to, mut told) = mpsc::channel::<Told>(TOLD);
        let all = async {
            let mut next = async || match told.recv().await.unwrap().what {
                What::Part(part) => part,
                _ => panic!("a part"),
            };
            note(1);
            assert_eq!(next().await.events.len(), 1);
            note(trace::EVENTS_PER_SECOND);
            let (mut events, mut left_out) = (1, 0);
            while events < u64::from(trace::EVENTS_PER_SECOND) {
                let part = next().await;
                events += part.events.len() as u64;
                left_out += part.left_out;
            }
            // More of the same second, unless that has passed in between.
            note(7);
            while events + left_out < u64::from(trace::EVENTS_PER_SECOND) + 8 {
                let part = next().await;
                assert!(part != Part::default());
                events += part.events.len() as u64;
                left_out += part.left_out;
            }
        };
        tokio::select! {
            () = tell(listener, String::new(), to) => panic!("somebody listens"),
            told = tokio::time::timeout(Duration::from_secs(10), all) => told.unwrap(),
        }
    }

    #[test]
    fn parts_fit_into_frames() {
        let large = Event {
            detail: Some("x".repeat(60_000)),
            ..event(1, "queued", 1)
        };
        let parts = parts(vec![large; 9], 5);
        assert!(parts.len() > 1);
        assert!(
            parts
                .iter()
                .all(|part| to_text(part).len() < MAX_PART_BYTES)
        );
        let events: usize = parts.iter().map(|part| part.events.len()).sum();
        assert_eq!(events, 9);
        assert_eq!(parts.iter().map(|part| part.left_out).sum::<u64>(), 5);
    }

    #[test]
    fn only_a_node_that_was_too_quick_is_asked_again() {
        let node = Epoch(7);
        let ask_again = |silence| Absence::after(silence, node).ask_again;
        assert_eq!(ask_again(Silence::Overrun), Some(node));
        for silence in [
            Silence::Older,
            Silence::Congested,
            Silence::Late,
            Silence::Misunderstood,
        ] {
            assert_eq!(ask_again(silence), None, "{silence}");
        }
    }

    #[test]
    fn who_does_not_take_part_says_why() {
        let refusal = |refused: String| why_refused(&to_text(&Refusal { refused }));
        assert_eq!(refusal(TooMany.to_string()), TooMany.to_string());
        let unknown = refusal("unknown variant `trace`".into());
        assert_eq!(unknown, Silence::Misunderstood.to_string());
        assert_eq!(why_refused("?"), Silence::Misunderstood.to_string());
    }
}
