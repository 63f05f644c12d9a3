//! Following stanzas on their way: what `rookery trace` shows of this node.
//!
//! The code at each stage of the way calls `stage`, which costs one load of a flag while nobody traces.
//! While somebody does, stanzas from or to the traced address become `Event`s in a queue of the trace.
//! Whoever asked reads them there, on this node or over the bus ([`crate::operators`]).
//!
//! Bounds: [`MAX_TRACES`] at a time, [`EVENTS_PER_SECOND`] and `WAITING` events of each, [`LONGEST`]. What
//! is left out is counted. Nothing that is traced ever waits for whoever looks.
//!
//! What a stanza says is shown only if it was asked for, [`CONTENT_BYTES`] at most, and never where it
//! carries passwords (`is_secret`).

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rookery_bus::LogRef;
use rookery_features::xep0004_data_forms;
use rookery_proto::error::StanzaError;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::metrics::{self, Outcome};

/// Traces of a node at a time.
pub const MAX_TRACES: usize = 4;

/// Events of a trace in a second, on each node.
pub const EVENTS_PER_SECOND: u32 = 500;

/// The longest that a trace runs, and how long it does if nothing is said.
pub const LONGEST: Duration = Duration::from_hours(1);
/// See [`LONGEST`].
pub const USUAL: Duration = Duration::from_mins(5);

/// Bytes of what a stanza says at most.
pub const CONTENT_BYTES: usize = 4096;

/// Events that wait for whoever reads them.
const WAITING: usize = 1000;

/// An event as JSON is not larger.
pub(crate) const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Children of a stanza that are named, and bytes of a name, a namespace or an `id`.
const CHILDREN: usize = 16;
const NAME_BYTES: usize = 256;

/// Namespaces of what is never shown: it may hold passwords under any name.
const SECRET: &[&str] = &[
    // Private storage (XEP-0049): whatever clients have put there.
    "jabber:iq:private",
    "jabber:iq:register",
    "http://jabber.org/protocol/commands",
    "jabber:iq:auth",
    "urn:ietf:params:xml:ns:xmpp-sasl",
    "urn:xmpp:sasl:2",
];

/// Whether there are traces. A stage that sees an old value misses the first or sees one that has ended.
static IS_ON: AtomicBool = AtomicBool::new(false);

static TRACES: RwLock<Vec<Arc<Trace>>> = RwLock::new(Vec::new());

/// Where on its way a stanza is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A client's session has taken it.
    Accepted,
    /// It waits for something.
    Held,
    /// Who gets it is known.
    Decided,
    /// It is on its way into the log.
    Logging,
    /// It is in the log.
    Committed,
    /// It went to another node.
    ToNode,
    /// It came from another node.
    FromNode,
    /// It came back from the bus: the other node has not handled it.
    Returned,
    /// It is in a client's outbox.
    Queued,
    /// A client's socket has it.
    Written,
    /// The client has it, as far as can be known.
    Confirmed,
    /// The session ended before that.
    GivenBack,
    /// It waits in the log.
    LeftInLog,
    /// The server itself was its addressee.
    Handled,
    /// Its sender was told that it did not arrive.
    Bounced,
    /// It ended without a word.
    Dropped,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Held => "held",
            Self::Decided => "decided",
            Self::Logging => "logging",
            Self::Committed => "committed",
            Self::ToNode => "to-node",
            Self::FromNode => "from-node",
            Self::Returned => "returned",
            Self::Queued => "queued",
            Self::Written => "written",
            Self::Confirmed => "confirmed",
            Self::GivenBack => "given-back",
            Self::LeftInLog => "left-in-log",
            Self::Handled => "handled",
            Self::Bounced => "bounced",
            Self::Dropped => "dropped",
        }
    }

    /// What has become of a stanza that gets here.
    fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Committed | Self::LeftInLog => Some(Outcome::Stored),
            Self::Confirmed | Self::Handled => Some(Outcome::Delivered),
            Self::Bounced => Some(Outcome::Bounced),
            Self::Dropped => Some(Outcome::Dropped),
            _ => None,
        }
    }

    /// Whether a node may meet a stanza here for the first time.
    fn is_first(self) -> bool {
        // Not all stanzas come from clients, and presence is seen by its recipients only on its way.
        matches!(
            self,
            Self::Accepted
                | Self::Held
                | Self::Decided
                | Self::ToNode
                | Self::FromNode
                | Self::Queued
        )
    }
}

/// What is known of a stage besides the stanza.
#[derive(Default)]
pub(crate) struct Step<'s> {
    resource: Option<&'s FullJid>,
    accounts: &'s [BareJid],
    entry: Option<LogRef>,
    detail: Option<Cow<'static, str>>,
    when: Option<SystemTime>,
}

impl<'s> Step<'s> {
    /// The client that it is for.
    pub(crate) fn at(self, resource: &'s FullJid) -> Self {
        let resource = Some(resource);
        Self { resource, ..self }
    }

    /// The accounts that it is for.
    pub(crate) fn to(self, accounts: &'s [BareJid]) -> Self {
        Self { accounts, ..self }
    }

    /// Its place in the recipient's log.
    pub(crate) fn entry(self, entry: Option<LogRef>) -> Self {
        Self { entry, ..self }
    }

    /// It came there earlier ([`now`]), and that is told only now.
    pub(crate) fn when(self, when: Option<SystemTime>) -> Self {
        Self { when, ..self }
    }

    /// A few words, for people.
    pub(crate) fn detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = Some(detail.into());
        Self { detail, ..self }
    }
}

/// The time, if somebody traces: before something that lets the stanza go on elsewhere and may fail.
#[inline]
pub(crate) fn now() -> Option<SystemTime> {
    is_on().then(SystemTime::now)
}

/// Whether anybody traces.
#[inline]
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// A stanza has come to a stage of its way.
#[inline]
pub(crate) fn stage<'s>(stage: Stage, stanza: &'s Stanza, more: impl FnOnce(Step<'s>) -> Step<'s>) {
    if is_on() {
        note(stage, stanza, &more(Step::default()));
    }
}

/// A stanza's sender is told that it did not arrive.
#[inline]
pub(crate) fn bounced(stanza: &Stanza, error: &StanzaError) {
    stage(Stage::Bounced, stanza, |step| {
        step.detail(error.condition.as_str())
    });
}

#[cold]
fn note(stage: Stage, stanza: &Stanza, step: &Step<'_>) {
    let traces = TRACES.read().unwrap_or_else(PoisonError::into_inner);
    for trace in traces.iter().filter(|trace| trace.is_about(stanza, step)) {
        trace.note(stage, stanza, step);
    }
}

/// What to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// A session, or an account with all of its sessions.
    pub jid: Jid,
    /// Whether to show what stanzas say.
    pub bodies: bool,
    /// How long.
    pub time: Duration,
}

/// A stanza has come to a stage of its way on a node. Part of what nodes say to each other: new fields
/// need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When, in microseconds since 1970 by the node's clock.
    pub(crate) at: u64,
    pub(crate) stage: Cow<'static, str>,
    #[serde(default)]
    pub(crate) outcome: Option<Cow<'static, str>>,
    #[serde(default)]
    pub(crate) detail: Option<String>,
    /// The same for the same stanza on all nodes.
    pub(crate) key: u64,
    pub(crate) kind: Cow<'static, str>,
    #[serde(default, rename = "type")]
    pub(crate) kind_type: Option<Cow<'static, str>>,
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) from: Option<String>,
    #[serde(default)]
    pub(crate) to: Option<String>,
    #[serde(default)]
    pub(crate) resource: Option<String>,
    /// Its place in the recipient's log.
    #[serde(default)]
    pub(crate) entry: Option<u64>,
    #[serde(default)]
    pub(crate) look: Option<Look>,
}

/// What a stanza is like, when a node meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Bytes of its content.
    pub size: usize,
    /// Its children, the first 16.
    pub children: Vec<Child>,
    /// What it says, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Why that is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Cow<'static, str>>,
}

/// A child of a stanza.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub ns: String,
}

/// A trace that runs on this node.
#[derive(Debug)]
struct Trace {
    jid: Jid,
    bodies: bool,
    events: mpsc::Sender<Event>,
    pace: Mutex<Pace>,
    left_out: AtomicU64,
}

/// Counts the events of a second.
#[derive(Debug)]
struct Pace {
    since: Instant,
    events: u32,
}

impl Pace {
    fn allows(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self {
                since: now,
                events: 0,
            };
        }
        self.events = self.events.saturating_add(1);
        self.events <= EVENTS_PER_SECOND
    }
}

impl Trace {
    fn is_about(&self, stanza: &Stanza, step: &Step<'_>) -> bool {
        let has = |jid: &Jid| self.is_of(jid.bare_str(), jid.as_str());
        stanza.from.as_ref().is_some_and(has)
            || stanza.to.as_ref().is_some_and(has)
            || step
                .resource
                .is_some_and(|client| self.is_of(client.bare_str(), client.as_str()))
            || step
                .accounts
                .iter()
                .any(|account| account.as_str() == self.jid.as_str())
    }

    /// Whether an address is the one that is traced, or one of its sessions.
    fn is_of(&self, bare: &str, whole: &str) -> bool {
        self.jid.as_str() == if self.jid.is_bare() { bare } else { whole }
    }

    fn note(&self, stage: Stage, stanza: &Stanza, step: &Step<'_>) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let is_allowed = pace.allows(Instant::now());
        drop(pace);
        if !is_allowed
            || self
                .events
                .try_send(event(stage, stanza, step, self.bodies))
                .is_err()
        {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn event(stage: Stage, stanza: &Stanza, step: &Step<'_>, bodies: bool) -> Event {
    let when = step.when.unwrap_or_else(SystemTime::now);
    let since = when.duration_since(SystemTime::UNIX_EPOCH);
    let text = |jid: &Jid| jid.as_str().to_owned();
    Event {
        at: u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX),
        stage: stage.name().into(),
        outcome: stage.outcome().map(|outcome| outcome.name().into()),
        detail: step.detail.as_deref().map(|detail| cut(detail, 1024)),
        key: key(stanza),
        kind: stanza.kind.name().into(),
        kind_type: stanza.kind.type_name().map(Cow::from),
        id: stanza.id.as_deref().map(|id| cut(id, NAME_BYTES)),
        from: stanza.from.as_ref().map(text),
        to: stanza.to.as_ref().map(text),
        resource: step.resource.map(|resource| resource.as_str().to_owned()),
        entry: step.entry.map(|entry| entry.id),
        look: stage.is_first().then(|| look(stanza, bodies)),
    }
}

/// A number for a stanza by which it is known on other nodes and at its later stages: of its kind, its
/// addresses and its `id`, or, if it has none, its content.
fn key(stanza: &Stanza) -> u64 {
    let from = stanza.from.as_ref();
    // Without a recipient it is for the sender's account, and is stamped so on its way.
    let to = stanza.to.as_ref().map(Jid::as_str);
    let to = to.or(from.map(Jid::bare_str)).unwrap_or_default();
    let parts = [
        stanza.kind.name(),
        stanza.kind.type_name().unwrap_or_default(),
        from.map(Jid::as_str).unwrap_or_default(),
        to,
        stanza.id.as_deref().unwrap_or_else(|| stanza.inner()),
    ];
    // FNV-1a: has to be the same on all nodes. Whoever makes two stanzas collide gets an odd trace.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // 0 is in no XML.
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

fn look(stanza: &Stanza, bodies: bool) -> Look {
    let children = stanza.children().iter().take(CHILDREN);
    let children = children.map(|child| Child {
        name: cut(child.name(), NAME_BYTES),
        ns: cut(child.ns(), NAME_BYTES),
    });
    let inner = stanza.inner();
    let mut look = Look {
        size: inner.len(),
        children: children.collect(),
        content: None,
        withheld: None,
    };
    if bodies && !inner.is_empty() {
        // What cannot be looked into may hold anything.
        if stanza.children().is_empty() || stanza.children().iter().any(is_secret) {
            look.withheld = Some("may hold passwords".into());
        } else {
            look.content = Some(cut(inner, CONTENT_BYTES));
            if inner.len() > CONTENT_BYTES {
                look.withheld = Some("longer than is shown".into());
            }
        }
    }
    look
}

/// Whether an element, or one inside, is never shown: by its namespace, as a password of any protocol (a
/// bookmark, a room), or as a field of a form. The parser bounds the depth.
fn is_secret(element: &Element) -> bool {
    SECRET.contains(&element.ns())
        || is_password(element.name())
        || element.attrs().any(|attribute| {
            let name = attribute.name();
            is_password(name.rsplit(':').next().unwrap_or(name))
        })
        || is_secret_field(element)
        || element.children().any(is_secret)
}

fn is_password(name: &str) -> bool {
    name.eq_ignore_ascii_case("password")
}

/// A field of a form (XEP-0004) that says so itself or by its name: `muc#roomconfig_roomsecret`.
fn is_secret_field(element: &Element) -> bool {
    let var = element.attr("var").unwrap_or_default().to_ascii_lowercase();
    element.is("field", xep0004_data_forms::NS)
        && (element.attr("type") == Some("text-private")
            || var.contains("password")
            || var.contains("secret"))
}

/// A text that is not longer than that.
fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// This node runs as many traces as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("runs {MAX_TRACES} traces already, which is all that it may")]
pub struct TooMany;

/// A running trace. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    trace: Arc<Trace>,
    events: mpsc::Receiver<Event>,
}

/// Starts a trace on this node; how long it runs is for the caller to see to.
///
/// # Errors
/// If there are as many as there may be.
pub(crate) fn start(wish: &Wish) -> Result<Listener, TooMany> {
    let (sender, events) = mpsc::channel(WAITING);
    let trace = Arc::new(Trace {
        jid: wish.jid.clone(),
        bodies: wish.bodies,
        events: sender,
        pace: Mutex::new(Pace {
            since: Instant::now(),
            events: 0,
        }),
        left_out: AtomicU64::new(0),
    });
    let mut traces = TRACES.write().unwrap_or_else(PoisonError::into_inner);
    if traces.len() >= MAX_TRACES {
        return Err(TooMany);
    }
    traces.push(Arc::clone(&trace));
    metrics::TRACES.inc();
    IS_ON.store(true, Ordering::Relaxed);
    Ok(Listener { trace, events })
}

impl Listener {
    /// The next events, a batch at most, as soon as there are any; none after `patience`.
    pub(crate) async fn next(&mut self, batch: usize, patience: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let waiting = self.events.recv_many(&mut events, batch);
        // Events are not lost when the time is up: it takes all of them or none.
        let _ = tokio::time::timeout(patience, waiting).await;
        events
    }

    /// The events that are left out.
    pub(crate) fn left_out(&self) -> LeftOut {
        LeftOut(Arc::clone(&self.trace))
    }
}

/// Counts the events of a trace that are left out.
#[derive(Debug)]
pub(crate) struct LeftOut(Arc<Trace>);

impl LeftOut {
    /// How many they were since this was asked last.
    pub(crate) fn take(&self) -> u64 {
        self.0.left_out.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut traces = TRACES.write().unwrap_or_else(PoisonError::into_inner);
        traces.retain(|trace| !Arc::ptr_eq(trace, &self.trace));
        metrics::TRACES.dec();
        IS_ON.store(!traces.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(xml: &str) -> Stanza {
        Stanza::from_xml(xml).unwrap()
    }

    fn trace(jid: &str, bodies: bool) -> (Trace, mpsc::Receiver<Event>) {
        let (events, received) = mpsc::channel(WAITING);
        let trace = Trace {
            jid: Jid::parse(jid).unwrap(),
            bodies,
            events,
            pace: Mutex::new(Pace {
                since: Instant::now(),
                events: 0,
            }),
            left_out: AtomicU64::new(0),
        };
        (trace, received)
    }

    #[test]
    fn a_trace_is_about_an_account_or_about_one_client() {
        let message = stanza("<message from='ann@x/desk' to='bob@x'><body>hi</body></message>");
        let phone = FullJid::parse("bob@x/phone").unwrap();
        let at_phone = Step::default().at(&phone);
        for (jid, alone, handed_out) in [
            ("ann@x", true, true),
            ("ann@x/desk", true, true),
            ("ann@x/tv", false, false),
            ("bob@x", true, true),
            ("bob@x/phone", false, true),
            ("bob@x/tv", false, false),
            ("b@x", false, false),
        ] {
            let (trace, _) = trace(jid, false);
            assert_eq!(trace.is_about(&message, &Step::default()), alone, "{jid}");
            assert_eq!(trace.is_about(&message, &at_phone), handed_out, "{jid}");
        }
        let (trace, _) = trace("bob@x", false);
        let presence = stanza("<presence from='ann@x/desk'/>");
        assert!(!trace.is_about(&presence, &Step::default()));
        let accounts = [BareJid::parse("eve@x").unwrap(), phone.to_bare()];
        assert!(trace.is_about(&presence, &Step::default().to(&accounts)));
    }

    #[test]
    fn what_a_stanza_says_is_shown_only_if_that_is_asked_for() {
        let message = stanza("<message><body>psst</body><x xmlns='urn:x'>psst</x></message>");
        let names = |look: &Look| -> Vec<String> {
            let children = look.children.iter();
            children.map(|c| format!("{} {}", c.name, c.ns)).collect()
        };
        let redacted = look(&message, false);
        assert_eq!(names(&redacted), ["body jabber:client", "x urn:x"]);
        assert_eq!(redacted.content, None);
        assert!(!serde_json::to_string(&redacted).unwrap().contains("psst"));
        let shown = look(&message, true).content.unwrap();
        assert!(shown.contains("<body>psst</body>"), "{shown}");

        let long = format!("<message><body>{}</body></message>", "ä".repeat(3000));
        let cut = look(&stanza(&long), true);
        let length = cut.content.unwrap().len();
        assert!((CONTENT_BYTES - 3..=CONTENT_BYTES).contains(&length));
        assert!(cut.withheld.is_some());
    }

    /// However the namespace is written, and however deep it is.
    #[test]
    fn passwords_are_never_shown() {
        let secret = "<password>psst</password>";
        let form = |field: &str| {
            format!(
                "<x xmlns='jabber:x:data' type='submit'><field {field}><value>psst</value></field></x>"
            )
        };
        for payload in [
            format!("<query xmlns='jabber:iq:register'>{secret}</query>"),
            format!("<query xmlns='jabber:iq:&#114;egister'>{secret}</query>"),
            format!("<r:query xmlns:r='jabber:iq:register'>{secret}</r:query>"),
            format!("<command xmlns='http://jabber.org/protocol/commands'>{secret}</command>"),
            format!("<x xmlns='urn:x'><y><q xmlns='jabber:iq:register'>{secret}</q></y></x>"),
            format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{secret}</auth>"),
            "<query xmlns='jabber:iq:private'><x xmlns='urn:x'>psst</x></query>".into(),
            format!(
                "<storage xmlns='storage:bookmarks'><conference>{secret}</conference></storage>"
            ),
            format!("<conference xmlns='urn:xmpp:bookmarks:1'>{secret}</conference>"),
            format!("<x xmlns='http://jabber.org/protocol/muc'>{secret}</x>"),
            format!("<x xmlns='http://jabber.org/protocol/muc#user'>{secret}</x>"),
            "<x xmlns='jabber:x:conference' jid='r@x' password='psst'/>".into(),
            "<x xmlns='urn:x'><y xmlns:p='urn:p' p:Password='psst'/></x>".into(),
            "<x xmlns='urn:x'><p:password xmlns:p='urn:p'>psst</p:password></x>".into(),
            form("type='text-private' var='x'"),
            form("var='muc#roomconfig_roomsecret'"),
            form("var='room-PASSWORD'"),
        ] {
            let iq = stanza(&format!("<iq type='set' id='1'>{payload}</iq>"));
            let look = look(&iq, true);
            assert_eq!(look.content, None, "{payload}");
            assert!(look.withheld.is_some());
            assert!(!serde_json::to_string(&look).unwrap().contains("psst"));
        }
    }

    #[test]
    fn what_is_too_much_is_counted_and_left_out() {
        let (trace, mut events) = trace("ann@x", false);
        let message = stanza("<message from='ann@x/desk' to='bob@x'><body>hi</body></message>");
        for _ in 0..EVENTS_PER_SECOND + 7 {
            trace.note(Stage::Accepted, &message, &Step::default());
        }
        // Unless a second has passed in this loop, which would allow as many again.
        let mut count = 0;
        while events.try_recv().is_ok() {
            count += 1;
        }
        let left_out = trace.left_out.load(Ordering::Relaxed);
        assert_eq!(count + left_out, u64::from(EVENTS_PER_SECOND) + 7);
        let mut pace = Pace {
            since: Instant::now(),
            events: 0,
        };
        let now = pace.since;
        let allowed = (0..1000).filter(|_| pace.allows(now)).count();
        assert_eq!(allowed, EVENTS_PER_SECOND as usize);
        assert!(pace.allows(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_stanza_is_known_again() {
        let sent = stanza("<message from='ann@x/desk' id='1'><body>hi</body></message>");
        let stamped = sent.clone().with_to(Jid::parse("ann@x").unwrap());
        let other = sent.clone().with_id("2");
        assert_eq!(key(&sent), key(&stamped));
        assert_ne!(key(&sent), key(&other));
        let delayed = "<message from='ann@x/desk' id='1'><body>hi</body><delay xmlns='urn:xmpp:delay'/></message>";
        assert_eq!(key(&sent), key(&stanza(delayed)));
    }

    /// A part of an answer has to fit into a frame whatever its events hold.
    #[test]
    fn an_event_has_a_largest_size() {
        let quotes = "\"".repeat(1000);
        let child = format!("<a xmlns='urn:{}'/>", "&quot;".repeat(1000));
        let message = stanza(&format!(
            "<message id='{quotes}'>{}<body>{}</body></message>",
            child.repeat(20),
            "\"".repeat(10_000)
        ));
        let jid = format!("{}@{}/{quotes}", "a".repeat(1023), "b".repeat(63));
        let jid = Jid::parse(&jid).unwrap();
        let resource = jid.to_full().unwrap();
        let message = message.with_from(jid.clone()).with_to(jid);
        let step = Step::default().at(&resource).detail(quotes.repeat(3));
        let event = event(Stage::Queued, &message, &step, true);
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.len() < MAX_EVENT_BYTES, "{}", text.len());
    }
}
