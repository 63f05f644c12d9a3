//! Delivery to an account: RFC 6121 §8.5, on the shard that owns the account.
//!
//! Every stanza for an account passes through its shard, which knows the resources on this node and
//! caches those on others. Where that is not enough (the directory or the block list has to be read,
//! a subscription changes the roster, a message goes to the log), the account is *held*: this
//! stanza's job runs, and whatever comes meanwhile for the same account queues up behind it, so that
//! the order of RFC 6120 §10.1 is kept.
//!
//! A message that is delivered to several resources has one that is *responsible* for it: when that
//! one turns out to be gone, the message is looked up again (`hops` bounds how often) and in the end
//! stored or bounced. The other copies may get lost with their resources.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rookery_bus::{Deliver, Frame, Sessions};
use rookery_features::delivery::{self, Decision};
use rookery_features::offline;
use rookery_features::xep0191_blocking::BlockList;
use rookery_features::xep0359_stanza_ids as stanza_ids;
use rookery_proto::cluster::Epoch;
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::stanza::{IqType, Kind, MessageType, PresenceType, Stanza};
use rookery_proto::stream::StreamCondition;
use smallvec::SmallVec;

use crate::account::{Account, Resource};
use crate::budget::Share;
use crate::cluster::Remote;
use crate::metrics::{self, Outcome};
use crate::node::NodeShared;
use crate::outbox::Outgoing;
use crate::presence_list::{InboundSubscription, Probe};
use crate::reply;
use crate::shard::{Broadcast, Parcel, Shard, Work};
use crate::trace::{self, Stage, Step};

/// How often a stanza is looked up again before it counts as undeliverable.
const MAX_HOPS: u8 = 3;

/// How long a message that is in the log waits for the way to a node; then the node reads the log.
const LANE_PATIENCE: Duration = Duration::from_secs(2);

/// Something that has to be done before the next stanza for the same account.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()>>>;

/// What waits for its turn at an account.
pub(crate) enum Queued {
    /// Something to deliver.
    Work(Work),
    /// Something to do that must not be overtaken.
    Job(Job),
    /// Messages that did not wait here, as there was too much: they are in the log.
    LeftInLog,
}

impl Work {
    /// The account that this is for; the first of several.
    fn account(&self) -> Option<&str> {
        match self {
            Self::Route(parcel) => parcel.stanza.to.as_ref().map(Jid::bare_str),
            Self::Broadcast { to, .. } => to.first().map(BareJid::as_str),
            Self::Probe { contacts, .. } => contacts.first().map(BareJid::as_str),
            Self::Copy { message, .. } => message.from.as_ref().map(Jid::bare_str),
        }
    }

    /// It waits, for this reason.
    pub(crate) fn trace_held(&self, why: &'static str) {
        match self {
            Self::Route(parcel) => trace::stage(Stage::Held, &parcel.stanza, |step| {
                step.entry(parcel.entry).detail(why)
            }),
            Self::Broadcast { presence, to } => {
                trace::stage(Stage::Held, &presence.stanza, |step| {
                    step.to(to).detail(why)
                });
            }
            // The message itself is on its way.
            Self::Copy { .. } | Self::Probe { .. } => {}
        }
    }

    /// The account, as something that outlives the work.
    fn bare(&self) -> Option<Jid> {
        match self {
            Self::Route(parcel) => parcel.stanza.to.clone(),
            Self::Broadcast { to, .. } => to.first().cloned().map(Jid::from),
            Self::Probe { contacts, .. } => contacts.first().cloned().map(Jid::from),
            Self::Copy { message, .. } => message.from.clone(),
        }
    }
}

/// A stanza that another node has sent.
pub(crate) struct FromBus {
    /// The stanza; `hops` counts the nodes that have passed it on.
    pub(crate) parcel: Parcel,
    /// Resources of one account that it is for.
    pub(crate) to: Sessions,
    /// Whether it has to be looked up again if none of them is here.
    pub(crate) responsible: bool,
}

impl FromBus {
    /// It has been in the queue for the log, on the node that sent it.
    pub(crate) fn of(node: &NodeShared, deliver: Deliver, accepted: Instant) -> Self {
        let share = node.from_nodes.share(deliver.stanza.size());
        Self {
            parcel: Parcel {
                hops: deliver.hops,
                entry: deliver.entry,
                counts: deliver.counts,
                passed_log: true,
                share: Some(share),
                ..Parcel::counted(deliver.stanza, accepted)
            },
            to: deliver.to,
            responsible: deliver.responsible,
        }
    }
}

/// A resource that may get a stanza.
pub(crate) enum Place {
    Here(Rc<Resource>),
    There(Epoch, FullJid),
}

impl Place {
    /// The resource's address.
    pub(crate) fn jid(&self) -> &FullJid {
        match self {
            Self::Here(resource) => &resource.jid,
            Self::There(_, jid) => jid,
        }
    }
}

impl Shard {
    /// Takes work from a session, another shard or another node.
    pub(crate) fn accept(self: &Rc<Self>, work: Work) {
        match work {
            Work::Route(parcel) => self.route(parcel),
            Work::Broadcast { presence, to } => self.broadcast_here(&presence, to),
            Work::Probe { prober, contacts } => self.probe_here(&prober, contacts),
            Work::Copy { .. } => self.deliver(work),
        }
    }

    fn route(self: &Rc<Self>, parcel: Parcel) {
        let Some(to) = &parcel.stanza.to else {
            // Everything is stamped before it is routed.
            return parcel.end(Outcome::Dropped);
        };
        if !self.node().serves(to.domain()) {
            // There is no server-to-server link yet (RFC 6120 §10.4).
            return self.bounce(parcel, &Condition::RemoteServerNotFound.into());
        }
        if to.local().is_none() {
            return self.for_the_server(parcel);
        }
        let owner = self.node().shard_of(to.bare_str());
        if owner == self.index() {
            self.deliver(Work::Route(parcel));
        } else {
            self.pass(owner, Work::Route(parcel));
        }
    }

    /// What reaches the domain itself and is no request of a local session (`dispatch.rs`).
    fn for_the_server(self: &Rc<Self>, parcel: Parcel) {
        match parcel.stanza.kind {
            Kind::Message(MessageType::Error)
            | Kind::Presence(_)
            | Kind::Iq(IqType::Result | IqType::Error) => parcel.end(Outcome::Delivered),
            Kind::Message(_) | Kind::Iq(_) => {
                self.bounce(parcel, &Condition::ServiceUnavailable.into());
            }
        }
    }

    /// Sends an error back to the sender, if the stanza is one that gets errors (RFC 6120 §8.3.1). Until
    /// that has arrived the sender has it under way.
    pub(crate) fn bounce(self: &Rc<Self>, mut parcel: Parcel, error: &StanzaError) {
        if let Some(receipt) = &parcel.receipt {
            receipt.bounce();
        }
        if let Some(answer) = parcel.stanza.reply_error(error) {
            self.route(Parcel {
                share: parcel.share.take(),
                ..Parcel::new(answer)
            });
        }
        trace::bounced(&parcel.stanza, error);
        parcel.end(Outcome::Bounced);
    }

    /// Puts a stanza into a resource's outbox. A resource whose outbox is full is ended: its client
    /// does not read.
    ///
    /// Returns whether the stanza was taken.
    pub(crate) fn push(&self, resource: &Rc<Resource>, outgoing: Outgoing) -> bool {
        if resource.outbox.push(outgoing).is_ok() {
            return true;
        }
        if !resource.outbox.is_closed() {
            self.end_slow(resource);
        }
        false
    }

    /// A client does not read: its session ends.
    pub(crate) fn end_slow(&self, resource: &Rc<Resource>) {
        metrics::MAILBOX_OVERFLOWS
            .with_label_values(&["outbox"])
            .inc();
        tracing::info!(jid = %resource.jid, "client does not read; its session ends");
        self.unbind(resource);
        resource.end(StreamCondition::ResourceConstraint);
    }

    /// Delivers now, or behind what is waiting for the same account.
    pub(crate) fn deliver(self: &Rc<Self>, work: Work) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(queue) = work.account().and_then(|account| waiting.get_mut(account)) {
            if self.may_wait(work.share(), queue) {
                work.trace_held("behind what waits for the account");
                queue.push_back(Queued::Work(work));
            } else if let Work::Route(parcel) = &work
                && parcel.entry.is_some()
            {
                trace::stage(Stage::LeftInLog, &parcel.stanza, |step| {
                    step.entry(parcel.entry)
                        .detail("too much waits for the account")
                });
                leave_in_log(queue);
            } else {
                drop(waiting);
                self.give_up(work, &Condition::ResourceConstraint.into());
            }
            return;
        }
        drop(waiting);
        let account = work.bare();
        if let (Some(job), Some(account)) = (self.attempt(work), account) {
            self.in_turn(account.to_bare(), job);
        }
    }

    /// Whether something may wait for its account. Sessions are slowed down by what waits of theirs.
    fn may_wait(&self, share: Option<&Share>, queue: &VecDeque<Queued>) -> bool {
        match share {
            Some(share) => !share.is_too_much(),
            None => queue.len() < self.node().settings.sessions.waiting_stanzas,
        }
    }

    /// Runs a job when nothing else is under way for the account; until it is done, everything for
    /// the account waits.
    pub(crate) fn in_turn(self: &Rc<Self>, account: BareJid, job: Job) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(queue) = waiting.get_mut(&account) {
            queue.push_back(Queued::Job(job));
            return;
        }
        waiting.insert(account.clone(), VecDeque::from([Queued::Job(job)]));
        drop(waiting);
        self.drain(account);
    }

    /// Works off what waits for an account, one after the other.
    fn drain(self: &Rc<Self>, account: BareJid) {
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            loop {
                let next = shard
                    .waiting
                    .borrow_mut()
                    .get_mut(&account)
                    .and_then(VecDeque::pop_front);
                match next {
                    Some(Queued::Job(job)) => job.await,
                    Some(Queued::Work(work)) => {
                        if let Some(job) = shard.attempt(work) {
                            job.await;
                        }
                    }
                    Some(Queued::LeftInLog) => shard.deliver_from_log(&account),
                    None => break,
                }
            }
            shard.waiting.borrow_mut().remove(&account);
            shard.tidy(&account);
            shard.flush();
        });
    }

    /// Puts work back in front of what waits for its account; for jobs that were only its
    /// preparation.
    fn put_back(&self, account: &str, work: Work) {
        if let Some(queue) = self.waiting.borrow_mut().get_mut(account) {
            queue.push_front(Queued::Work(work));
        }
    }

    /// Delivers if all that is needed is known; otherwise returns what has to be done first.
    fn attempt(self: &Rc<Self>, work: Work) -> Option<Job> {
        if self.lacks(work.account()?) {
            return Some(self.look_up_and_retry(work));
        }
        match work {
            Work::Route(parcel) => self.attempt_stanza(parcel),
            Work::Broadcast { presence, to } => {
                for account in &to {
                    self.show_presence(&presence, account);
                }
                None
            }
            Work::Probe { prober, contacts } => {
                for account in &contacts {
                    self.tell_presence(&prober, account);
                }
                None
            }
            Work::Copy { message, entry, .. } => {
                self.copy_sent(&message, entry);
                None
            }
        }
    }

    /// Whether something about the account must be read before a stanza can be delivered to it.
    fn lacks(&self, account: &str) -> bool {
        if self.node().cluster.is_some() && !self.cache.borrow().knows(account) {
            return true;
        }
        self.accounts.borrow().get(account).is_some_and(|account| {
            !account.resources.borrow().is_empty() && account.block_list.borrow().is_none()
        })
    }

    fn look_up_and_retry(self: &Rc<Self>, work: Work) -> Job {
        work.trace_held("the account's clients, or whom it blocks, are looked up");
        let shard = Rc::clone(self);
        Box::pin(async move {
            let Some(account) = work.bare().map(|account| account.to_bare()) else {
                return;
            };
            match shard.look_up(std::slice::from_ref(&account)).await {
                Ok(()) => shard.put_back(account.as_str(), work),
                Err(error) => shard.give_up(work, &error),
            }
        })
    }

    /// Reads what [`lacks`](Self::lacks) found missing for these accounts.
    pub(crate) async fn look_up(self: &Rc<Self>, accounts: &[BareJid]) -> Result<(), StanzaError> {
        if let Some(cluster) = &self.node().cluster {
            let unknown: Vec<BareJid> = accounts
                .iter()
                .filter(|a| !self.cache.borrow().knows(a.as_str()))
                .cloned()
                .collect();
            if !unknown.is_empty() {
                let asked = self.cache.borrow_mut().asking();
                match cluster.directory.lookup(&unknown).await {
                    Ok(rows) => {
                        let own = cluster.epoch();
                        self.cache.borrow_mut().learned(asked, &unknown, rows, own);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the directory does not answer");
                        // Local delivery goes on; what would be elsewhere is stored or bounced.
                        self.cache.borrow_mut().assume_last_known(&unknown);
                    }
                }
            }
        }
        for account in accounts {
            let entry = self.accounts.borrow().get(account).cloned();
            if let Some(entry) = entry
                && !entry.resources.borrow().is_empty()
            {
                self.load_block_list(&entry)
                    .await
                    .map_err(|e| reply::storage_error(&e))?;
            }
        }
        Ok(())
    }

    /// Reads whom an account blocks, once.
    pub(crate) async fn load_block_list(
        &self,
        account: &Account,
    ) -> Result<(), rookery_storage::Error> {
        if account.block_list.borrow().is_none() {
            let blocked = self.node().storage.blocked(&account.jid).await?;
            account
                .block_list
                .borrow_mut()
                .get_or_insert_with(|| Rc::new(BlockList::new(blocked)));
        }
        Ok(())
    }

    /// Ends work that cannot be delivered for a reason of ours.
    fn give_up(self: &Rc<Self>, work: Work, error: &StanzaError) {
        match work {
            // It is in the log, where its recipient finds it.
            Work::Route(parcel) if parcel.entry.is_some() => self.leave_in_log(&parcel),
            Work::Route(parcel) => self.bounce(parcel, error),
            Work::Broadcast { .. } | Work::Probe { .. } | Work::Copy { .. } => {}
        }
    }

    fn attempt_stanza(self: &Rc<Self>, mut parcel: Parcel) -> Option<Job> {
        if !parcel.passed_log && parcel.stanza.has("stanza-id", stanza_ids::NS) {
            let account = parcel.stanza.to.as_ref()?.to_bare();
            stanza_ids::remove_claimed(parcel.stanza_mut(), &account);
        }
        let stanza = Arc::clone(&parcel.stanza);
        let to = stanza.to.as_ref()?;
        let account = to.bare_str();
        let here = self.accounts.borrow().get(account).cloned();
        if let (Some(here), Some(from)) = (&here, &stanza.from)
            && from.bare_str() != account
            && here
                .block_list
                .borrow()
                .as_ref()
                .is_some_and(|list| list.blocks(from))
        {
            self.refuse_blocked(parcel);
            return None;
        }
        if let Kind::Presence(_) = stanza.kind
            && self.has_to_wait(&parcel, account)
        {
            self.put_behind_log(Work::Route(parcel), to.to_bare());
            return None;
        }
        match stanza.kind {
            Kind::Presence(
                PresenceType::Subscribe
                | PresenceType::Subscribed
                | PresenceType::Unsubscribe
                | PresenceType::Unsubscribed,
            ) => return Some(self.subscription_job(parcel, to.to_bare())),
            Kind::Presence(PresenceType::Probe) => {
                return Some(self.probe_job(parcel, to.to_bare()));
            }
            _ => {}
        }
        let places = self.places(here.as_deref(), account);
        let candidates: SmallVec<[delivery::Resource<'_>; 4]> = places
            .iter()
            .map(|(place, available, priority)| delivery::Resource {
                name: match place {
                    Place::Here(resource) => resource.jid.resource(),
                    Place::There(_, jid) => jid.resource(),
                },
                available: *available,
                priority: *priority,
            })
            .collect();
        let decision = delivery::decide(stanza.kind, to.resource(), &candidates);
        trace::stage(Stage::Decided, &stanza, |step| {
            step.entry(parcel.entry).detail(said(&decision, &places))
        });
        if let Some(kept) = self.wants_log(&parcel, &decision) {
            self.log(parcel, kept);
            return None;
        }
        if self.has_to_wait(&parcel, account) {
            self.put_behind_log(Work::Route(parcel), to.to_bare());
            return None;
        }
        self.copy_to_sender(&mut parcel, None);
        self.carry_out(parcel, decision, here.as_deref(), &places)
    }

    /// Whether a message from the same sender has to be in the log first.
    fn has_to_wait(&self, parcel: &Parcel, account: &str) -> bool {
        !parcel.passed_log && self.is_behind_log(parcel.stanza.from.as_ref(), account)
    }

    fn carry_out(
        self: &Rc<Self>,
        parcel: Parcel,
        decision: Decision,
        here: Option<&Account>,
        places: &[(Place, bool, i8)],
    ) -> Option<Job> {
        match decision {
            Decision::Deliver(chosen) => {
                let chosen: SmallVec<[&Place; 4]> = chosen
                    .iter()
                    .filter_map(|i| places.get(*i).map(|p| &p.0))
                    .collect();
                if self.is_behind_unread(&parcel, &chosen) {
                    self.leave_in_log(&parcel);
                    return None;
                }
                if let (Kind::Message(_), Some(to)) = (parcel.stanza.kind, &parcel.stanza.to)
                    && places.len() > chosen.len()
                {
                    self.copy_received(&to.to_bare(), here, &parcel, &chosen);
                }
                self.hand_to(parcel, &chosen)
            }
            // It is in the log. A resource may have come elsewhere after it was looked up in vain and
            // before the commit, and may have read the log too early.
            _ if parcel.entry.is_some() => {
                self.leave_in_log(&parcel);
                None
            }
            Decision::Bounce(condition) => {
                self.bounce(parcel, &condition.into());
                None
            }
            // Requests of local clients were answered in `dispatch.rs`.
            Decision::HandleByServer
                if matches!(parcel.stanza.kind, Kind::Iq(IqType::Get | IqType::Set)) =>
            {
                self.bounce(parcel, &Condition::ServiceUnavailable.into());
                None
            }
            // RFC 6121 §8.5.2.2.1 allows silence for what is not worth keeping (chat states).
            Decision::Store | Decision::Ignore | Decision::HandleByServer => {
                parcel.end(Outcome::Dropped);
                None
            }
        }
    }

    /// All resources of an account in the cluster: where, whether available, priority. One that does
    /// not take messages yet counts as one of negative priority.
    fn places(&self, here: Option<&Account>, account: &str) -> SmallVec<[(Place, bool, i8); 2]> {
        let mut places = SmallVec::new();
        if let Some(here) = here {
            for resource in here.resources.borrow().iter() {
                let available = resource.is_available();
                let priority = if resource.takes_messages.get() {
                    resource.priority.get()
                } else {
                    -1
                };
                places.push((Place::Here(Rc::clone(resource)), available, priority));
            }
        }
        if self.node().cluster.is_some() {
            for remote in self.cache.borrow().get(account) {
                let Remote {
                    jid,
                    epoch,
                    available,
                    priority,
                    ..
                } = remote;
                places.push((Place::There(*epoch, jid.clone()), *available, *priority));
            }
        }
        places
    }

    /// XEP-0191 §3.5..3.7: what a blocked sender is told.
    pub(crate) fn refuse_blocked(self: &Rc<Self>, parcel: Parcel) {
        match parcel.stanza.kind {
            Kind::Message(_) | Kind::Iq(_) => {
                self.bounce(parcel, &Condition::ServiceUnavailable.into());
            }
            Kind::Presence(_) => parcel.end(Outcome::Dropped),
        }
    }

    /// Hands a stanza to resources here and on other nodes; the first that takes it is responsible.
    fn hand_to(self: &Rc<Self>, mut parcel: Parcel, chosen: &[&Place]) -> Option<Job> {
        let mut is_taken = false;
        let mut away: SmallVec<[(Epoch, Sessions); 1]> = SmallVec::new();
        for place in chosen {
            match place {
                Place::Here(resource) => {
                    let mut outgoing = parcel.outgoing();
                    outgoing.counts = parcel.counts;
                    if self.push_once(resource, outgoing, chosen.len() == 1) {
                        is_taken = true;
                        parcel.counts = false;
                    }
                }
                Place::There(epoch, jid) => match away.iter_mut().find(|(e, _)| e == epoch) {
                    Some((_, to)) => to.push(jid.clone()),
                    None => away.push((*epoch, Sessions::from_iter([jid.clone()]))),
                },
            }
        }
        for (epoch, to) in away {
            let frame = Frame::Deliver(Deliver {
                stanza: Arc::clone(&parcel.stanza),
                to,
                responsible: !is_taken,
                hops: parcel.hops,
                entry: parcel.entry,
                counts: parcel.counts,
            });
            let now = trace::now();
            match self.send_frame(epoch, frame) {
                Ok(()) => {
                    self.trace_parcel_to_node(&parcel, epoch, now);
                    is_taken = true;
                    parcel.counts = false;
                }
                // The rest of the nodes get no copy: rare, and only the responsible one counts.
                Err(frame) if !is_taken => return Some(self.resend_job(epoch, *frame, parcel)),
                Err(_) => {}
            }
        }
        if !is_taken {
            // Every chosen resource turned out to be unable to take it.
            parcel.hops += 1;
            self.again(parcel);
        }
        None
    }

    /// Puts a stanza into a resource's outbox, unless the resource has it, or will have it, from the
    /// log, or it answers a request once more. Returns whether it need not be given to anybody else.
    ///
    /// `is_only`: no other resource gets it. While that one reads the log, it finds the stanza there, in
    /// its place.
    fn push_once(
        self: &Rc<Self>,
        resource: &Rc<Resource>,
        outgoing: Outgoing,
        is_only: bool,
    ) -> bool {
        if let Kind::Iq(IqType::Result | IqType::Error) = outgoing.stanza.kind
            && resource.answers.is_repeated(&outgoing.stanza)
        {
            metrics::count(outgoing.counts, outgoing.stanza.kind, Outcome::Dropped);
            let outbox = &resource.outbox;
            outbox.trace(
                Stage::Dropped,
                &outgoing,
                "that request was answered before",
            );
            return true;
        }
        if let Some(entry) = outgoing.entry
            && offline::is_stored(&outgoing.stanza)
        {
            let left = |detail| {
                resource.outbox.trace(Stage::LeftInLog, &outgoing, detail);
            };
            if entry.id <= resource.read_up_to.get() {
                left("the client has read it there");
                return true;
            }
            if resource.reads_log.get() && (is_only || !resource.takes_messages.get()) {
                if let Some(account) = self.accounts.borrow().get(resource.jid.bare_str()) {
                    account.log.came();
                }
                left("the client reads the log");
                return true;
            }
            if !resource.outbox.has_room_for(&outgoing) && self.falls_behind(resource) {
                left("the client is slow: it goes on from the log");
                return true;
            }
        }
        self.push(resource, outgoing)
    }

    /// Looks a stanza up again, unless that has been done too often. One that waits in the log is left
    /// there: only the log knows whether somebody has got it meanwhile.
    pub(crate) fn again(self: &Rc<Self>, parcel: Parcel) {
        if parcel.entry.is_some() && offline::is_stored(&parcel.stanza) {
            return self.leave_in_log(&parcel);
        }
        if parcel.hops > MAX_HOPS {
            if parcel.entry.is_some() {
                // It is in the archive.
                trace::stage(Stage::LeftInLog, &parcel.stanza, |step| {
                    step.entry(parcel.entry).detail("only in the archive")
                });
                return;
            }
            return self.bounce(parcel, &Condition::RecipientUnavailable.into());
        }
        trace::stage(Stage::Held, &parcel.stanza, |step| {
            step.entry(parcel.entry)
                .detail("its client is not there any more: looked up again")
        });
        self.route(parcel);
    }

    /// A stanza may have arrived on a node that is gone: nothing is delivered twice. A request is refused,
    /// and if its answer comes all the same, that is dropped ([`crate::answers`]).
    pub(crate) fn give_up_in_doubt(self: &Rc<Self>, parcel: Parcel) {
        match parcel.stanza.kind {
            Kind::Iq(IqType::Get | IqType::Set) => {
                self.bounce(parcel, &Condition::RecipientUnavailable.into());
            }
            Kind::Message(_) if parcel.entry.is_none() => parcel.end(Outcome::Dropped),
            _ => self.again(parcel),
        }
    }

    /// The node that it went to may be quicker than this one.
    fn trace_parcel_to_node(&self, parcel: &Parcel, to: Epoch, when: Option<SystemTime>) {
        self.trace_to_node(&parcel.stanza, to, |step| {
            step.entry(parcel.entry).when(when)
        });
    }

    /// A stanza went to another node.
    pub(crate) fn trace_to_node<'s>(
        &self,
        stanza: &'s Stanza,
        to: Epoch,
        more: impl FnOnce(Step<'s>) -> Step<'s>,
    ) {
        trace::stage(Stage::ToNode, stanza, |step| {
            let step = more(step);
            match &self.node().cluster {
                Some(cluster) => step.detail(cluster.name_of(to)),
                None => step,
            }
        });
    }

    fn send_frame(&self, to: Epoch, frame: Frame) -> Result<(), Box<Frame>> {
        match &self.node().cluster {
            Some(cluster) => cluster.send(to, frame),
            None => Err(Box::new(frame)),
        }
    }

    /// Waits until the bus has room for a node. What follows for the account waits as well, and slows
    /// down who sent it.
    fn resend_job(self: &Rc<Self>, to: Epoch, frame: Frame, parcel: Parcel) -> Job {
        trace::stage(Stage::Held, &parcel.stanza, |step| {
            step.entry(parcel.entry)
                .detail("there is no room on the way to its node")
        });
        let shard = Rc::clone(self);
        Box::pin(async move {
            let Some(cluster) = &shard.node().cluster else {
                return;
            };
            let limit = if parcel.entry.is_some() {
                LANE_PATIENCE
            } else {
                shard.node().settings.sessions.actor_timeout
            };
            let ready = tokio::time::timeout(limit, cluster.bus.ready(to)).await;
            let now = trace::now();
            if ready.is_ok() && cluster.send(to, frame).is_ok() {
                shard.trace_parcel_to_node(&parcel, to, now);
                return;
            }
            shard.give_up(Work::Route(parcel), &Condition::ResourceConstraint.into());
        })
    }

    fn subscription_job(self: &Rc<Self>, parcel: Parcel, account: BareJid) -> Job {
        let shard = Rc::clone(self);
        Box::pin(async move {
            match shard.node().storage.exists(&account).await {
                Ok(true) => {}
                // RFC 6121 §8.5.1: silence, so that nobody learns which accounts exist.
                Ok(false) => return parcel.end(Outcome::Dropped),
                Err(error) => return shard.bounce(parcel, &reply::storage_error(&error)),
            }
            let entry = shard.account(&account);
            let list = shard.presence_list(&entry);
            let stanza = Arc::clone(&parcel.stanza);
            let limit = shard.node().settings.sessions.actor_timeout;
            let answer = tokio::time::timeout(limit, list.send(InboundSubscription { stanza }));
            match answer.await {
                Ok(Ok(Ok(()))) => parcel.end(Outcome::Delivered),
                Ok(Ok(Err(error))) => shard.bounce(parcel, &error),
                Ok(Err(_)) | Err(_) => {
                    shard.bounce(parcel, &Condition::InternalServerError.into());
                }
            }
        })
    }

    fn probe_job(self: &Rc<Self>, parcel: Parcel, account: BareJid) -> Job {
        let shard = Rc::clone(self);
        Box::pin(async move {
            let entry = shard.account(&account);
            let list = shard.presence_list(&entry);
            let limit = shard.node().settings.sessions.actor_timeout;
            let probe = Probe {
                stanza: Arc::clone(&parcel.stanza),
            };
            if !matches!(
                tokio::time::timeout(limit, list.send(probe)).await,
                Ok(Ok(()))
            ) {
                tracing::error!(%account, "a probe was not answered");
            }
            parcel.end(Outcome::Delivered);
        })
    }

    /// Hands presence to the available resources of many accounts, in all shards.
    pub(crate) fn broadcast(
        self: &Rc<Self>,
        presence: &Broadcast,
        recipients: impl IntoIterator<Item = BareJid>,
    ) {
        let served = recipients
            .into_iter()
            .filter(|recipient| self.node().serves(recipient.domain()));
        for (index, to) in self.node().by_shard(served) {
            if index == self.index() {
                self.broadcast_here(presence, to);
            } else {
                let presence = presence.clone();
                self.pass(index, Work::Broadcast { presence, to });
            }
        }
    }

    fn broadcast_here(self: &Rc<Self>, presence: &Broadcast, to: Vec<BareJid>) {
        let Broadcast {
            stanza, from_bus, ..
        } = presence;
        let mut elsewhere: hashbrown::HashMap<Epoch, Vec<BareJid>> = hashbrown::HashMap::new();
        let mut unknown = Vec::new();
        for account in to {
            if self.is_behind_log(stanza.from.as_ref(), account.as_str()) {
                let work = presence.to_one(account.clone());
                self.put_behind_log(work, account);
            } else if self.waiting.borrow().contains_key(&account) {
                self.deliver(presence.to_one(account));
            } else if self.lacks(account.as_str()) {
                unknown.push(account);
            } else {
                self.show_here(presence, &account);
                if !*from_bus {
                    self.note_shown(stanza, &account);
                    self.note_nodes(&account, &mut elsewhere);
                }
            }
        }
        self.send_broadcasts(stanza, elsewhere);
        if !unknown.is_empty() {
            self.look_up_for_broadcast(presence, unknown);
        }
    }

    /// One look-up for all accounts of a fan-out about which something is missing.
    fn look_up_for_broadcast(self: &Rc<Self>, presence: &Broadcast, accounts: Vec<BareJid>) {
        for account in &accounts {
            let work = presence.to_one(account.clone());
            self.waiting
                .borrow_mut()
                .entry(account.clone())
                .or_default()
                .push_back(Queued::Work(work));
        }
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            if let Err(error) = shard.look_up(&accounts).await {
                tracing::warn!(error = ?error.condition, "presence was not delivered");
            }
            for account in accounts {
                shard.drain(account);
            }
        });
    }

    /// Presence for one account: its resources here and, unless another node sent it, elsewhere.
    fn show_presence(self: &Rc<Self>, presence: &Broadcast, account: &BareJid) {
        let Broadcast {
            stanza, from_bus, ..
        } = presence;
        self.show_here(presence, account);
        if !*from_bus {
            self.note_shown(stanza, account);
            let mut elsewhere = hashbrown::HashMap::new();
            self.note_nodes(account, &mut elsewhere);
            self.send_broadcasts(stanza, elsewhere);
        }
    }

    fn show_here(self: &Rc<Self>, presence: &Broadcast, account: &BareJid) {
        let Broadcast {
            stanza, accepted, ..
        } = presence;
        let Some(here) = self.accounts.borrow().get(account).cloned() else {
            return;
        };
        let own = stanza
            .from
            .as_ref()
            .is_some_and(|from| from.bare_str() == account.as_str());
        if !own
            && let (Some(list), Some(from)) = (&*here.block_list.borrow(), &stanza.from)
            && list.blocks(from)
        {
            return;
        }
        let to = Jid::from(account.clone());
        let mut next = 0;
        loop {
            // By index, as a resource whose outbox is full leaves the list.
            let Some(resource) = here.resources.borrow().get(next).cloned() else {
                return;
            };
            // The end of a session is not for the next one that has its full JID.
            let is_own_end = own
                && stanza.kind == Kind::Presence(PresenceType::Unavailable)
                && stanza
                    .from
                    .as_ref()
                    .is_some_and(|from| from.as_str() == resource.jid.as_str());
            if resource.is_available() && !is_own_end {
                let outgoing = Outgoing {
                    stanza: Arc::clone(stanza),
                    to: Some(to.clone()),
                    accepted: *accepted,
                    entry: None,
                    counts: false,
                };
                if !self.push(&resource, outgoing) && !here.holds(&resource) {
                    continue;
                }
            }
            next += 1;
        }
    }

    pub(crate) fn note_nodes(
        &self,
        account: &BareJid,
        elsewhere: &mut hashbrown::HashMap<Epoch, Vec<BareJid>>,
    ) {
        if self.node().cluster.is_none() {
            return;
        }
        for remote in self.cache.borrow().get(account.as_str()) {
            if remote.available {
                let to = elsewhere.entry(remote.epoch).or_default();
                if to.last() != Some(account) {
                    to.push(account.clone());
                }
            }
        }
    }

    pub(crate) fn send_broadcasts(
        &self,
        stanza: &Arc<Stanza>,
        elsewhere: hashbrown::HashMap<Epoch, Vec<BareJid>>,
    ) {
        for (epoch, to) in elsewhere {
            self.trace_to_node(stanza, epoch, |step| step.to(&to));
            let frame = Frame::Broadcast {
                stanza: Stanza::clone(stanza),
                to,
            };
            if self.send_frame(epoch, frame).is_err() {
                metrics::MAILBOX_OVERFLOWS.with_label_values(&["bus"]).inc();
                trace::stage(Stage::Dropped, stanza, |step| {
                    step.detail("there is no room on the way to a node")
                });
            }
        }
    }

    /// Sends a resource the current presence of its contacts (RFC 6121 §4.3).
    pub(crate) fn probe(self: &Rc<Self>, prober: &FullJid, contacts: Vec<BareJid>) {
        let served = contacts
            .into_iter()
            .filter(|contact| self.node().serves(contact.domain()));
        for (index, contacts) in self.node().by_shard(served) {
            if index == self.index() {
                self.probe_here(prober, contacts);
            } else {
                self.pass(
                    index,
                    Work::Probe {
                        prober: prober.clone(),
                        contacts,
                    },
                );
            }
        }
    }

    fn probe_here(self: &Rc<Self>, prober: &FullJid, contacts: Vec<BareJid>) {
        let mut unknown = Vec::new();
        for contact in contacts {
            let work = || Work::Probe {
                prober: prober.clone(),
                contacts: vec![contact.clone()],
            };
            if let Some(queue) = self.waiting.borrow_mut().get_mut(&contact) {
                queue.push_back(Queued::Work(work()));
                continue;
            }
            if self.lacks(contact.as_str()) {
                self.waiting
                    .borrow_mut()
                    .insert(contact.clone(), VecDeque::from([Queued::Work(work())]));
                unknown.push(contact);
            } else {
                self.tell_presence(prober, &contact);
            }
        }
        if unknown.is_empty() {
            return;
        }
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            if let Err(error) = shard.look_up(&unknown).await {
                tracing::warn!(error = ?error.condition, "presence was not looked up");
            }
            for contact in unknown {
                shard.drain(contact);
            }
        });
    }

    /// The current presence of an account's resources, to one resource that may see it. An account
    /// that blocks the other one looks unavailable (XEP-0191 §3.3), and so does one without
    /// resources: nothing is sent.
    pub(crate) fn tell_presence(self: &Rc<Self>, prober: &FullJid, account: &BareJid) {
        let to = Jid::from(prober.clone());
        if let Some(here) = self.accounts.borrow().get(account).cloned() {
            let own = prober.bare_str() == account.as_str();
            if !own
                && here
                    .block_list
                    .borrow()
                    .as_ref()
                    .is_some_and(|list| list.blocks(&to))
            {
                return;
            }
            for resource in here.all() {
                if resource.jid != *prober
                    && let Some(presence) = &*resource.presence.borrow()
                {
                    let mut stanza = Stanza::clone(presence);
                    stanza.to = Some(to.clone());
                    self.route(Parcel::new(stanza));
                }
            }
        }
        if self.node().cluster.is_some() {
            let presences: Vec<Arc<Stanza>> = self
                .cache
                .borrow()
                .get(account.as_str())
                .iter()
                .filter(|remote| remote.jid != *prober)
                .filter_map(|remote| remote.presence.clone())
                .collect();
            for presence in presences {
                let mut stanza = Stanza::clone(&presence);
                stanza.to = Some(to.clone());
                self.route(Parcel::new(stanza));
            }
        }
    }

    /// A stanza from another node for resources of one account, which is there if it has any here.
    pub(crate) fn deliver_from_bus(
        self: &Rc<Self>,
        delivery: FromBus,
        account: Option<Rc<Account>>,
    ) {
        let Some(first) = delivery.to.first() else {
            return;
        };
        let bare = first.bare_str();
        let Some(account) = account else {
            self.cache.borrow_mut().forget(bare);
            return self.not_here(delivery);
        };
        let mut waiting = self.waiting.borrow_mut();
        if let Some(queue) = waiting.get_mut(bare) {
            if !self.may_wait(delivery.parcel.share.as_ref(), queue) {
                if delivery.parcel.entry.is_some() {
                    trace::stage(Stage::LeftInLog, &delivery.parcel.stanza, |step| {
                        step.entry(delivery.parcel.entry)
                            .detail("too much waits for the account")
                    });
                    leave_in_log(queue);
                } else if delivery.responsible {
                    drop(waiting);
                    self.bounce(delivery.parcel, &Condition::ResourceConstraint.into());
                }
                return;
            }
        } else if account.block_list.borrow().is_some() {
            drop(waiting);
            return self.deliver_to_named(&account, delivery);
        }
        drop(waiting);
        let shard = Rc::clone(self);
        let jid = account.jid.clone();
        let job = Box::pin(async move {
            if let Err(error) = shard.load_block_list(&account).await {
                let work = Work::Route(delivery.parcel);
                return shard.give_up(work, &reply::storage_error(&error));
            }
            shard.deliver_to_named(&account, delivery);
        });
        self.in_turn(jid, job);
    }

    fn deliver_to_named(self: &Rc<Self>, account: &Account, delivery: FromBus) {
        let FromBus {
            parcel,
            to,
            responsible,
        } = &delivery;
        let stanza = &parcel.stanza;
        if let (Some(list), Some(from)) = (&*account.block_list.borrow(), &stanza.from)
            && from.bare_str() != account.jid.as_str()
            && list.blocks(from)
        {
            if *responsible {
                self.refuse_blocked(delivery.parcel);
            }
            return;
        }
        let for_the_account =
            matches!(stanza.kind, Kind::Message(_)) && stanza.to.as_ref().is_some_and(Jid::is_bare);
        let mut counts = parcel.counts;
        let mut taken = false;
        let is_only = *responsible && to.len() == 1;
        for jid in to {
            let Some(resource) = account.resource(jid.resource()) else {
                continue;
            };
            let is_willing = resource.takes_messages.get()
                || (parcel.entry.is_some() && resource.reads_log.get());
            if for_the_account && !is_willing {
                continue;
            }
            let mut outgoing = parcel.outgoing();
            outgoing.counts = counts;
            if self.push_once(&resource, outgoing, is_only) {
                taken = true;
                counts = false;
            }
        }
        if !taken {
            self.cache.borrow_mut().forget(account.jid.as_str());
            self.not_here(delivery);
        }
    }

    /// None of the resources is here any more: whoever is responsible looks again.
    fn not_here(self: &Rc<Self>, delivery: FromBus) {
        if delivery.responsible {
            let mut parcel = delivery.parcel;
            parcel.hops += 1;
            self.again(parcel);
        }
    }

    /// Ends all sessions of an account, and those that are about to begin, e.g. because it was removed.
    pub(crate) fn end_sessions(&self, account: &BareJid, condition: StreamCondition) {
        self.void_logins(account);
        let Some(entry) = self.accounts.borrow().get(account).cloned() else {
            return;
        };
        entry.block_list.take();
        for resource in entry.all() {
            resource.end(condition);
        }
    }
}

impl Broadcast {
    fn to_one(&self, account: BareJid) -> Work {
        Work::Broadcast {
            presence: self.clone(),
            to: vec![account],
        }
    }
}

/// What was decided, for whoever traces the stanza.
fn said(decision: &Decision, places: &[(Place, bool, i8)]) -> String {
    match decision {
        Decision::Deliver(chosen) => {
            let names = chosen.iter().filter_map(|i| places.get(*i));
            let names: Vec<_> = names.map(|(place, ..)| place.jid().as_str()).collect();
            format!("for {}", names.join(", "))
        }
        Decision::Store => "nobody can take it now".into(),
        Decision::Bounce(condition) => format!("refused: {}", condition.as_str()),
        Decision::Ignore => "nobody can take it, and it is not kept".into(),
        Decision::HandleByServer => "for the server".into(),
    }
}

/// A message for the account of this queue is in the log, and does not wait here: when its turn comes,
/// whoever takes the account's messages reads the log.
fn leave_in_log(queue: &mut VecDeque<Queued>) {
    if !matches!(queue.back(), Some(Queued::LeftInLog)) {
        queue.push_back(Queued::LeftInLog);
    }
}
