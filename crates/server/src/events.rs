//! The last events of this process in memory, for whoever looks at the status page.
//!
//! Kept are warnings and errors, the events in the life of a node, and what the audit log has but for
//! logins that went well. Of their fields only those in [`FIELDS`] are: no addresses of users or clients.
//! What happens again counts instead of taking another place, so that a flood of one kind does not push
//! out the others.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rookery_actors::audit;
use rookery_proto::datetime;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Events that are kept.
const EVENTS: usize = 100;

/// The longest text of an event in bytes, but for the mark that it was cut.
const MAX_TEXT_BYTES: usize = 300;

/// Where events that are neither warnings nor errors tell about the life of a node.
const LIFE: [&str; 5] = [
    "rookery",
    "rookery_actors::cluster",
    "rookery_bus",
    "rookery_directory",
    "rookery_storage",
];

/// The target of what a start tells that nobody looks for later.
pub(crate) const GREETING: &str = "rookery::greeting";

/// The fields that are shown. Others may name users.
const FIELDS: [&str; 22] = [
    "applied",
    "backend",
    "bytes",
    "days",
    "epoch",
    "error",
    "file",
    "frames",
    "key",
    "left",
    "listener",
    "mechanism",
    "node",
    "op",
    "place",
    "purpose",
    "reason",
    "restart",
    "rows",
    "sessions",
    "timeout",
    "version",
];

/// An event, and how often it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When it happened first, as XEP-0082 writes it.
    pub(crate) first: String,
    /// When it happened last.
    pub(crate) last: String,
    /// How often.
    pub(crate) times: u64,
    /// How bad it is.
    pub(crate) level: EventLevel,
    /// What happened.
    pub(crate) text: String,
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventLevel {
    /// Something does not work.
    Error,
    /// Something may need a look.
    Warn,
    /// It is good to know.
    Info,
}

/// The last events, the oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<VecDeque<Event>>>);

impl Events {
    /// What has been kept.
    pub(crate) fn all(&self) -> Vec<Event> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().cloned().collect()
    }

    fn add(&self, at: SystemTime, level: EventLevel, text: String) {
        let at = datetime::format(at);
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = events
            .iter()
            .position(|event| event.level == level && event.text == text);
        let again = same.and_then(|position| events.remove(position));
        let event = match again {
            Some(event) => Event {
                last: at,
                times: event.times.saturating_add(1),
                ..event
            },
            None => Event {
                first: at.clone(),
                last: at,
                times: 1,
                level,
                text,
            },
        };
        if events.len() >= EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }
}

/// Whether events like this are kept.
pub(crate) fn is_kept(event: &Metadata<'_>) -> bool {
    let target = event.target();
    if *event.level() > Level::INFO || !target.starts_with("rookery") {
        return false;
    }
    let is_of = |module: &&str| {
        let rest = target.strip_prefix(*module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    *event.level() < Level::INFO || (target != GREETING && LIFE.iter().any(is_of))
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut shown = Shown::default();
        event.record(&mut shown);
        let is_audit = metadata.target() == audit::TARGET;
        let text = if is_audit {
            shown.act()
        } else {
            Some(shown.text())
        };
        let Some(text) = text else {
            return;
        };
        let level = match *metadata.level() {
            Level::ERROR => EventLevel::Error,
            Level::WARN => EventLevel::Warn,
            _ => EventLevel::Info,
        };
        self.add(SystemTime::now(), level, text);
    }
}

/// What is shown of an event.
#[derive(Default)]
struct Shown {
    message: String,
    fields: String,
    act: String,
    via: String,
    outcome: String,
}

impl Shown {
    fn text(self) -> String {
        cut(self.message + &self.fields)
    }

    /// An act of the audit log: what, how, and whether it was done; why it was not may name somebody. `None`
    /// for a login that went well.
    fn act(self) -> Option<String> {
        let is_done = self.outcome == "ok";
        let Self { act, via, .. } = self;
        match (act.as_str(), is_done) {
            ("login", true) => None,
            ("login", false) => Some(cut(format!("login failed: {}", self.outcome))),
            (_, true) => Some(cut(format!("{act} by {via}"))),
            (_, false) => Some(cut(format!("{act} by {via}: refused"))),
        }
    }
}

impl Visit for Shown {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        // Writing to a String does not fail.
        let _ = match name {
            "message" => write!(self.message, "{value:?}"),
            "act" => write!(self.act, "{value:?}"),
            "via" => write!(self.via, "{value:?}"),
            "outcome" => write!(self.outcome, "{value:?}"),
            _ if FIELDS.contains(&name) => write!(self.fields, ", {name}: {value:?}"),
            _ => Ok(()),
        };
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn kept(happen: impl FnOnce()) -> Vec<(EventLevel, String, u64)> {
        let events = Events::default();
        let layer = events.clone().with_filter(filter_fn(is_kept));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), happen);
        let events = events.all().into_iter();
        events
            .map(|event| (event.level, event.text, event.times))
            .collect()
    }

    #[test]
    fn users_are_not_named() {
        let kept = kept(|| {
            tracing::warn!(target: "rookery_actors::router", jid = "ann@localhost", node = "a", "gone");
            tracing::warn!(target: audit::TARGET, act = "login", who = "ann@localhost", via = "xmpp",
                peer = "192.0.2.1:5", mechanism = "PLAIN", outcome = "not-authorized", "login failed");
            tracing::warn!(target: audit::TARGET, act = "user-add", who = "x", via = "api",
                on = "ann@localhost", outcome = %"ann@localhost exists", "user-add");
            tracing::info!(target: audit::TARGET, act = "drain", who = "x", via = "cli", on = "",
                outcome = "ok", "drain");
        });
        let texts: Vec<_> = kept.iter().map(|(_, text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "gone, node: a",
                "login failed: not-authorized",
                "user-add by api: refused",
                "drain by cli"
            ]
        );
    }

    #[test]
    fn only_what_an_operator_looks_for_is_kept() {
        let kept = kept(|| {
            tracing::info!(target: "rookery_directory::lease", "life");
            tracing::info!(target: "rookery::serve", "life too");
            tracing::info!(target: "rookery_actors::router", "a client");
            tracing::info!(target: GREETING, "listening");
            tracing::debug!(target: "rookery::serve", "detail");
            tracing::error!(target: "hyper::server", "another's");
            tracing::info!(target: audit::TARGET, act = "login", via = "xmpp", outcome = "ok", "in");
        });
        let texts: Vec<_> = kept.iter().map(|(_, text, _)| text.as_str()).collect();
        assert_eq!(texts, ["life", "life too"]);
    }

    #[test]
    fn what_happens_again_is_counted_and_all_of_it_is_bounded() {
        let kept = kept(|| {
            tracing::error!(target: "rookery::a", "once");
            for _ in 0..3 * EVENTS {
                tracing::warn!(target: "rookery::a", "again");
            }
            for number in 0..EVENTS - 2 {
                tracing::warn!(target: "rookery::a", frames = number, "new");
            }
            let long = "ä".repeat(MAX_TEXT_BYTES);
            tracing::warn!(target: "rookery::a", "{long}");
        });
        assert_eq!(kept.len(), EVENTS);
        assert_eq!(
            kept[0],
            (EventLevel::Warn, "again".into(), 3 * EVENTS as u64)
        );
        assert!(
            kept.iter()
                .all(|(_, text, _)| text.len() <= MAX_TEXT_BYTES + '…'.len_utf8())
        );
    }
}
