//! Messages on their way into the log, and what must not overtake them.
//!
//! A message that is archived, or that nobody can take now, or whose sender wants to know that it is
//! safe, is committed to the logs of its recipient and its sender first and delivered then: what the
//! log has, no crash loses. Each shard has one call to storage under way; what gathers meanwhile goes
//! into the next. Stanzas that need no commit pass by, unless one from the same sender to the same
//! recipient waits (RFC 6120 §10.1): a slow database delays nobody else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use rookery_features::delivery::Decision;
use rookery_features::{offline, xep0313_mam as mam};
use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::stanza::Kind;
use rookery_storage::{LogCopy, NewMessage, Pending, Refused, Stored};

use crate::log_tracker::place;
use crate::metrics::{self, Outcome};
use crate::reply;
use crate::shard::{Parcel, Shard, Work};
use crate::trace::{self, Stage};

/// Messages in one call to storage.
const BATCH: usize = 250;

/// Bytes of messages after which a call takes no more: each is copied for it.
const BATCH_BYTES: usize = 1 << 20;

/// One shard's queue.
#[derive(Default)]
pub(crate) struct LogQueue {
    items: RefCell<VecDeque<Item>>,
    /// Whether the task that works it off is running.
    is_running: Cell<bool>,
    /// How much waits for each recipient.
    recipients: RefCell<HashMap<BareJid, usize>>,
    /// What is with storage now.
    committing: RefCell<Vec<Item>>,
    /// Since when it is there.
    committing_since: Cell<Option<Instant>>,
}

struct Item {
    work: Work,
    to: BareJid,
    /// How the message is kept; `None` for what only must not overtake.
    message: Option<Kept>,
}

/// How a message is kept.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    /// For its recipient.
    pending: Pending,
    /// Whether the archives have it, if the accounts want that.
    archive: bool,
}

impl Shard {
    /// Whether a message has to be in the log before it is delivered, and how it is kept there.
    pub(crate) fn wants_log(&self, parcel: &Parcel, decision: &Decision) -> Option<Kept> {
        let stanza = &parcel.stanza;
        if parcel.entry.is_some() || parcel.passed_log || !matches!(stanza.kind, Kind::Message(_)) {
            return None;
        }
        let archive = self.node().settings.archive.enabled && mam::is_archived(stanza);
        let is_stored = offline::is_stored(stanza);
        let pending = match decision {
            Decision::Store if is_stored => Pending::Offline,
            Decision::Deliver(_) if is_stored && (archive || parcel.receipt.is_some()) => {
                Pending::Live
            }
            Decision::Store | Decision::Deliver(_) if archive => Pending::No,
            _ => return None,
        };
        Some(Kept { pending, archive })
    }

    /// Commits a message; it comes back to be delivered.
    pub(crate) fn log(self: &Rc<Self>, parcel: Parcel, kept: Kept) {
        let Some(to) = parcel.stanza.to.as_ref().map(Jid::to_bare) else {
            return;
        };
        trace::stage(Stage::Logging, &parcel.stanza, |step| {
            step.detail(match kept.pending {
                Pending::Live => "to be delivered then",
                Pending::Offline => "nobody can take it now",
                Pending::No => "for the archives",
            })
        });
        self.queue_for_log(Item {
            work: Work::Route(parcel),
            to,
            message: Some(kept),
        });
    }

    /// Whether something from the same sender to this account is on its way into the log, which this
    /// must not overtake.
    pub(crate) fn is_behind_log(&self, from: Option<&Jid>, account: &str) -> bool {
        let queue = &self.log_queue;
        if !queue.recipients.borrow().contains_key(account) {
            return false;
        }
        let from = from.map(Jid::bare_str);
        let is_same = |item: &Item| {
            item.to.as_str() == account && item.work.from().map(Jid::bare_str) == from
        };
        queue.committing.borrow().iter().any(is_same) || queue.items.borrow().iter().any(is_same)
    }

    /// Lets something for an account wait behind the messages for it.
    pub(crate) fn put_behind_log(self: &Rc<Self>, work: Work, account: BareJid) {
        work.trace_held("behind a message on its way into the log");
        self.queue_for_log(Item {
            work,
            to: account,
            message: None,
        });
    }

    fn queue_for_log(self: &Rc<Self>, item: Item) {
        let queue = &self.log_queue;
        *queue
            .recipients
            .borrow_mut()
            .entry_ref(&item.to)
            .or_default() += 1;
        queue.items.borrow_mut().push_back(item);
        if !queue.is_running.replace(true) {
            actix_rt::spawn(Rc::clone(self).work_off_log());
        }
    }

    /// How long the commit under way has taken so far.
    pub(crate) fn commit_time(&self) -> Duration {
        let since = self.log_queue.committing_since.get();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    async fn work_off_log(self: Rc<Self>) {
        loop {
            self.take_batch();
            if self.log_queue.committing.borrow().is_empty() {
                break;
            }
            self.commit().await;
            self.flush();
        }
        self.log_queue.is_running.set(false);
    }

    /// Takes what is to be committed next.
    fn take_batch(&self) {
        let queue = &self.log_queue;
        let mut items = queue.items.borrow_mut();
        let mut bytes = 0;
        let fits = |item: &&Item| {
            let has_room = bytes < BATCH_BYTES;
            bytes += item.size();
            has_room
        };
        let count = items.iter().take(BATCH).take_while(fits).count();
        queue.committing.borrow_mut().extend(items.drain(..count));
        if items.is_empty() && items.capacity() > 4 * BATCH {
            *items = VecDeque::new();
        }
    }

    async fn commit(self: &Rc<Self>) {
        let messages: Vec<NewMessage> = {
            let batch = self.log_queue.committing.borrow();
            batch.iter().filter_map(|item| self.message(item)).collect()
        };
        let limit = self.node().settings.sessions.offline_messages;
        let mut results = if messages.is_empty() {
            Ok(Vec::new().into_iter())
        } else {
            let began = Instant::now();
            self.log_queue.committing_since.set(Some(began));
            let appended = self.node().storage.append(messages, limit).await;
            self.log_queue.committing_since.set(None);
            if !self.node().turnstile.is_crowded() {
                self.node().usual_commit.took(began.elapsed());
            }
            appended
                .map(Vec::into_iter)
                .map_err(|e| reply::storage_error(&e))
        };
        let batch = self.log_queue.committing.take();
        for item in batch {
            self.forget_recipient(&item.to);
            let mut parcel = match (item.message, item.work) {
                (Some(_), Work::Route(parcel)) => parcel,
                (_, mut work) => {
                    work.has_passed_log();
                    self.deliver(work);
                    continue;
                }
            };
            parcel.passed_log = true;
            let result = match &mut results {
                // One for each message.
                Ok(results) => results.next().unwrap_or(Err(Refused::NoAccount)),
                Err(error) => {
                    self.bounce(parcel, error);
                    continue;
                }
            };
            if let Some(parcel) = self.committed(parcel, result) {
                self.deliver(Work::Route(parcel));
            }
        }
    }

    fn forget_recipient(&self, account: &BareJid) {
        let mut recipients = self.log_queue.recipients.borrow_mut();
        if let Some(count) = recipients.get_mut(account) {
            *count -= 1;
            if *count == 0 {
                recipients.remove(account);
            }
        }
    }

    /// What the log gets of an item.
    fn message(&self, item: &Item) -> Option<NewMessage> {
        let (Some(Kept { pending, archive }), Work::Route(parcel)) = (item.message, &item.work)
        else {
            return None;
        };
        let stanza = &parcel.stanza;
        let (from, to) = (stanza.from.as_ref()?, stanza.to.as_ref()?);
        let sends_to_self = from.bare_str() == to.bare_str();
        let has_log = from.local().is_some() && self.node().serves(from.domain());
        let sender = (archive && has_log && !sends_to_self).then(|| LogCopy {
            account: from.to_bare(),
            peer: to.clone(),
            archive,
            pending: Pending::No,
        });
        Some(NewMessage {
            at: now_in_millis(),
            stanza: stanza.to_xml().into(),
            recipient: Some(LogCopy {
                account: to.to_bare(),
                peer: from.clone(),
                archive,
                pending,
            }),
            sender,
        })
    }

    /// What storage made of a message. Returns what is to be delivered.
    fn committed(
        self: &Rc<Self>,
        mut parcel: Parcel,
        result: Result<Stored, Refused>,
    ) -> Option<Parcel> {
        match result {
            Ok(Stored { recipient, sender }) => {
                let sent = sender.map(|copy| place(copy.id, copy.archived));
                self.copy_to_sender(&mut parcel, sent);
                let Some(copy) = recipient else {
                    // Not for the recipient's log: it is delivered, or is not.
                    return Some(parcel);
                };
                metrics::count(parcel.counts, parcel.stanza.kind, Outcome::Stored);
                let entry = Some(place(copy.id, copy.archived));
                trace::stage(Stage::Committed, &parcel.stanza, |step| step.entry(entry));
                Some(Parcel {
                    entry,
                    receipt: None,
                    counts: false,
                    ..parcel
                })
            }
            Err(Refused::Blocked) => {
                self.refuse_blocked(parcel);
                None
            }
            // XEP-0160 §3: a full store answers service-unavailable; so does an account that does not
            // exist (RFC 6121 §8.5.1).
            Err(Refused::Full | Refused::NoAccount) => {
                self.bounce(parcel, &Condition::ServiceUnavailable.into());
                None
            }
        }
    }
}

impl Item {
    fn size(&self) -> usize {
        match &self.work {
            Work::Route(parcel) => parcel.stanza.size(),
            _ => 0,
        }
    }
}

impl Work {
    /// Who sends it.
    fn from(&self) -> Option<&Jid> {
        match self {
            Self::Route(parcel) => parcel.stanza.from.as_ref(),
            Self::Broadcast { presence, .. } => presence.stanza.from.as_ref(),
            Self::Copy { message, .. } => message.from.as_ref(),
            Self::Probe { .. } => None,
        }
    }

    fn has_passed_log(&mut self) {
        if let Self::Route(parcel) = self {
            parcel.passed_log = true;
        }
    }
}

/// The time as clients see it in an archive, who come back with it to ask for what came since.
fn now_in_millis() -> SystemTime {
    let now = SystemTime::now();
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let beyond = Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000));
    now.checked_sub(beyond).unwrap_or(now)
}
