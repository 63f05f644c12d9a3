//! The roster: requests of the account's clients, subscriptions both ways, pushes (RFC 6121 §2, §3).
//!
//! Each change is one transaction in which storage hands the item to the state machine of
//! `rookery_features::subscription`; what follows from it (pushes, stanzas to the contact, presence)
//! is carried out after the commit.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use rookery_bus::Frame;
use rookery_features::roster as rules;
use rookery_features::subscription::{self, Change, Farewell, Presence};
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::roster::{RosterItem, Subscription};
use rookery_proto::stanza::{IqType, Kind, PresenceType, Stanza};
use rookery_storage::{RosterCommit, RosterDecision};

use super::{List, PresenceList};
use crate::account::Account;
use crate::metrics::{self, Outcome};
use crate::outbox::Outgoing;
use crate::reply;
use crate::shard::{Broadcast, Parcel, Shard, Work};
use crate::user_session::PresenceRequest;

/// A client asks for the roster or changes it (RFC 6121 §2.1.3, §2.1.5).
#[derive(Message)]
#[rtype(result = "Vec<Stanza>")]
pub(crate) struct RosterRequest {
    pub(crate) resource: String,
    pub(crate) stanza: Stanza,
}

impl PresenceRequest for RosterRequest {}

impl Handler<RosterRequest> for PresenceList {
    type Result = AtomicResponse<Self, Vec<Stanza>>;

    fn handle(&mut self, request: RosterRequest, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            let kind = request.stanza.kind;
            let answers = match list.roster_request(&request).await {
                Ok(answers) => {
                    metrics::outcome(kind, Outcome::Delivered);
                    answers
                }
                Err(error) => {
                    metrics::outcome(kind, Outcome::Bounced);
                    request.stanza.reply_error(&error).into_iter().collect()
                }
            };
            list.shard.flush();
            answers
        })
    }
}

/// An operator changes the roster, as a client of the account would.
#[derive(Message)]
#[rtype(result = "Result<(), StanzaError>")]
pub(crate) struct RosterOrder {
    pub(crate) set: rules::RosterSet,
}

impl Handler<RosterOrder> for PresenceList {
    type Result = AtomicResponse<Self, Result<(), StanzaError>>;

    fn handle(&mut self, RosterOrder { set }: RosterOrder, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            let changed = list.change_roster(set).await;
            list.shard.flush();
            changed
        })
    }
}

/// A client sends `subscribe`, `subscribed`, `unsubscribe` or `unsubscribed` (§3).
#[derive(Message)]
#[rtype(result = "Vec<Stanza>")]
pub(crate) struct OutboundSubscription {
    pub(crate) stanza: Stanza,
}

impl PresenceRequest for OutboundSubscription {}

impl Handler<OutboundSubscription> for PresenceList {
    type Result = AtomicResponse<Self, Vec<Stanza>>;

    fn handle(&mut self, request: OutboundSubscription, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            let answer = match list.outbound_subscription(&request.stanza).await {
                Ok(()) => None,
                Err(error) => {
                    metrics::outcome(request.stanza.kind, Outcome::Bounced);
                    request.stanza.reply_error(&error)
                }
            };
            list.shard.flush();
            answer.into_iter().collect()
        })
    }
}

/// A contact sends one of these to the account.
#[derive(Message)]
#[rtype(result = "Result<(), StanzaError>")]
pub(crate) struct InboundSubscription {
    pub(crate) stanza: Arc<Stanza>,
}

impl Handler<InboundSubscription> for PresenceList {
    type Result = AtomicResponse<Self, Result<(), StanzaError>>;

    fn handle(&mut self, request: InboundSubscription, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            let outcome = list.inbound_subscription(&request.stanza).await;
            list.shard.flush();
            outcome
        })
    }
}

/// An item changed on another node of the account.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RosterChanged {
    /// The item now; with the subscription `remove` if it was removed.
    pub(crate) item: RosterItem,
    pub(crate) version: u64,
}

impl Handler<RosterChanged> for PresenceList {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, change: RosterChanged, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.apply(&change.item, change.version);
            list.push(&change.item, change.version);
        })
    }
}

/// What a decision inside a transaction leaves for after the commit.
struct Decided<T>(Arc<Mutex<Option<T>>>);

impl<T> Decided<T> {
    fn new() -> (Self, Self) {
        let shared = Arc::new(Mutex::new(None));
        (Self(Arc::clone(&shared)), Self(shared))
    }

    fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// # Errors
    /// `internal-server-error` if the transaction committed without asking, which is a mistake of
    /// the storage.
    fn take(self) -> Result<T, StanzaError> {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(reply::internal)
    }
}

fn to_store(change: Change) -> RosterDecision {
    match change {
        Change::Keep => RosterDecision::Keep,
        Change::Put(item) => RosterDecision::Put(item),
        Change::Remove => RosterDecision::Remove,
    }
}

impl List {
    async fn roster_request(
        self: &Rc<Self>,
        request: &RosterRequest,
    ) -> Result<Vec<Stanza>, StanzaError> {
        if matches!(request.stanza.kind, Kind::Iq(IqType::Get)) {
            self.roster_get(request).await
        } else {
            self.roster_set(&request.stanza)
                .await
                .map(|answer| vec![answer])
        }
    }

    /// §2.1.3, and §2.6 for a client that has an older copy: what changed since comes as pushes.
    async fn roster_get(&self, request: &RosterRequest) -> Result<Vec<Stanza>, StanzaError> {
        let get = rules::RosterGet::parse(&request.stanza)?;
        self.load().await?;
        let Some(resource) = self.account.resource(&request.resource) else {
            return Ok(Vec::new());
        };
        resource.wants_roster.set(true);
        resource.uses_roster_versions.set(get.uses_versions());
        if let Some(known) = get.known_version() {
            let storage = &self.node().storage;
            let changes = storage.roster_changes_since(&self.account.jid, known).await;
            if let Some(changes) = changes.map_err(|e| reply::storage_error(&e))? {
                let mut answers = vec![get.result_by_pushes(&request.stanza)];
                answers.extend(changes.iter().map(|change| {
                    let (item, version) = (change.item.as_ref(), Some(change.version));
                    let id = self.shard.stanza_id();
                    rules::push(&id, &resource.jid, &change.contact, item, version)
                }));
                return Ok(answers);
            }
        }
        let roster = self.roster.borrow();
        let Some(roster) = roster.as_ref() else {
            return Err(reply::internal());
        };
        Ok(vec![get.result(
            &request.stanza,
            roster.version,
            roster.items.values(),
        )])
    }

    /// §2.1.5
    async fn roster_set(self: &Rc<Self>, stanza: &Stanza) -> Result<Stanza, StanzaError> {
        let set = rules::RosterSet::parse(stanza, &self.account.jid)?;
        self.change_roster(set).await?;
        Ok(stanza.reply_result())
    }

    async fn change_roster(self: &Rc<Self>, set: rules::RosterSet) -> Result<(), StanzaError> {
        self.load().await?;
        let contact = set.jid().clone();
        let (decided, inside) = Decided::new();
        let commit = self
            .update(&contact, move |item| match set.decide(item) {
                Ok(outcome) => {
                    let decision = to_store(outcome.change.clone());
                    inside.set(Ok(outcome));
                    decision
                }
                Err(condition) => {
                    inside.set(Err(condition));
                    RosterDecision::Keep
                }
            })
            .await?;
        let outcome = decided.take()??;
        self.changed(&contact, &commit).await;
        if let Some(farewell) = outcome.farewell {
            self.say_farewell(&contact, farewell).await;
        }
        Ok(())
    }

    /// §2.5.2, §3.2, §3.3: the contact of a removed item is told.
    async fn say_farewell(self: &Rc<Self>, contact: &BareJid, farewell: Farewell) {
        if farewell.unsubscribe {
            self.send_subscription(PresenceType::Unsubscribe, contact);
        }
        if farewell.unavailable {
            self.send_unavailable_to(&Jid::from(contact.clone())).await;
        }
        if farewell.unsubscribed {
            self.send_subscription(PresenceType::Unsubscribed, contact);
        }
    }

    fn send_subscription(self: &Rc<Self>, kind: PresenceType, contact: &BareJid) {
        let stanza = Stanza::presence(kind)
            .with_from(self.account.jid.clone())
            .with_to(contact.clone());
        self.shard.accept(Work::Route(Parcel::new(stanza)));
    }

    /// §3.1.2, §3.1.5, §3.2.2, §3.3.2
    async fn outbound_subscription(self: &Rc<Self>, stanza: &Stanza) -> Result<(), StanzaError> {
        let (Some(to), Some(kind)) = (&stanza.to, request_of(stanza)) else {
            return Err(Condition::BadRequest.into());
        };
        let contact = to.to_bare();
        if contact == self.account.jid {
            // One's own resources see each other without a subscription (§4.2.2).
            return Ok(());
        }
        self.load().await?;
        if self.blocks(&contact) {
            return Err(reply::blocked_by_sender());
        }
        let (decided, inside) = Decided::new();
        let name = contact.clone();
        let commit = self
            .update(&contact, move |item| {
                let outbound = subscription::outbound(kind, &name, item);
                let decision = to_store(outbound.change.clone());
                inside.set(outbound);
                decision
            })
            .await?;
        let outbound = decided.take()?;
        if outbound.push {
            self.changed(&contact, &commit).await;
        } else {
            self.apply_commit(&contact, &commit);
        }
        if outbound.presence == Presence::SendUnavailable {
            self.send_unavailable_to(&Jid::from(contact.clone())).await;
        }
        if outbound.route {
            let mut stanza = stanza.clone();
            stanza.from = Some(Jid::from(self.account.jid.clone()));
            stanza.to = Some(Jid::from(contact.clone()));
            self.shard.accept(Work::Route(Parcel::new(stanza)));
        }
        if outbound.presence == Presence::SendAvailable {
            self.send_presence_to(&contact).await;
        }
        Ok(())
    }

    /// §3.1.3, §3.1.6, §3.2.3, §3.3.3
    async fn inbound_subscription(
        self: &Rc<Self>,
        stanza: &Arc<Stanza>,
    ) -> Result<(), StanzaError> {
        let (Some(from), Some(kind)) = (&stanza.from, request_of(stanza)) else {
            return Ok(());
        };
        let contact = from.to_bare();
        self.load().await?;
        if contact == self.account.jid || self.blocks(&contact) {
            return Ok(());
        }
        let mut stamped = Stanza::clone(stanza);
        stamped.from = Some(Jid::from(contact.clone()));
        stamped.to = Some(Jid::from(self.account.jid.clone()));
        let stamped = Arc::new(stamped);
        let (decided, inside) = Decided::new();
        let (name, request) = (contact.clone(), Arc::clone(&stamped));
        let commit = self
            .update(&contact, move |item| {
                let inbound = subscription::inbound(kind, &name, item, &request);
                let decision = to_store(inbound.change.clone());
                inside.set(inbound);
                decision
            })
            .await?;
        let inbound = decided.take()?;
        if inbound.deliver {
            // A resource that came on another node before the commit has not read the request.
            self.shard
                .cache
                .borrow_mut()
                .forget(self.account.jid.as_str());
            let presence = Broadcast::new(stamped);
            self.shard.broadcast(&presence, [self.account.jid.clone()]);
        }
        if inbound.push {
            self.changed(&contact, &commit).await;
        } else {
            self.apply_commit(&contact, &commit);
        }
        if inbound.presence == Presence::SendUnavailable {
            self.send_unavailable_to(&Jid::from(contact.clone())).await;
        }
        if inbound.auto_reply {
            self.send_subscription(PresenceType::Subscribed, &contact);
        }
        if inbound.presence == Presence::SendAvailable {
            self.send_presence_to(&contact).await;
        }
        Ok(())
    }

    async fn update(
        &self,
        contact: &BareJid,
        decide: impl FnOnce(Option<&RosterItem>) -> RosterDecision + Send + 'static,
    ) -> Result<RosterCommit, StanzaError> {
        let storage = &self.node().storage;
        storage
            .update_roster(&self.account.jid, contact, Box::new(decide))
            .await
            .map_err(|e| reply::storage_error(&e))
    }

    /// A change is committed: remember it, push it here and on the account's other nodes.
    async fn changed(&self, contact: &BareJid, commit: &RosterCommit) {
        let item = self.apply_commit(contact, commit);
        self.push(&item, commit.version);
        let account = self.account.jid.clone();
        self.tell_other_nodes(Frame::RosterChanged {
            account,
            item,
            version: commit.version,
        })
        .await;
    }

    /// The item that a commit left, with the subscription `remove` if it left none.
    fn apply_commit(&self, contact: &BareJid, commit: &RosterCommit) -> RosterItem {
        let item = commit.after.clone().unwrap_or_else(|| RosterItem {
            subscription: Subscription::Remove,
            ..RosterItem::new(contact.clone())
        });
        self.apply(&item, commit.version);
        item
    }

    fn apply(&self, item: &RosterItem, version: u64) {
        let mut roster = self.roster.borrow_mut();
        let Some(roster) = roster.as_mut() else {
            return;
        };
        roster.version = roster.version.max(version);
        if item.subscription == Subscription::Remove {
            roster.items.remove(&item.jid);
        } else {
            roster.items.insert(item.jid.clone(), item.clone());
        }
    }

    /// Roster push to the interested resources on this node (§2.1.6).
    fn push(&self, item: &RosterItem, version: u64) {
        let kept = Some(item).filter(|item| item.subscription != Subscription::Remove);
        for resource in self.account.all() {
            if resource.wants_roster.get() {
                let version = resource.uses_roster_versions.get().then_some(version);
                let id = self.shard.stanza_id();
                let push = rules::push(&id, &resource.jid, &item.jid, kept, version);
                self.shard.push(&resource, Outgoing::new(Arc::new(push)));
            }
        }
    }
}

fn request_of(stanza: &Stanza) -> Option<subscription::Request> {
    match stanza.kind {
        Kind::Presence(kind) => subscription::Request::of(kind),
        _ => None,
    }
}

impl Shard {
    /// The account is about to be removed: its contacts are told that all subscriptions end
    /// (XEP-0077 §3.2).
    pub(crate) async fn cancel_subscriptions(
        self: &Rc<Self>,
        account: &Rc<Account>,
    ) -> Result<(), StanzaError> {
        let list = List {
            shard: Rc::clone(self),
            account: Rc::clone(account),
            roster: std::cell::RefCell::default(),
        };
        let list = Rc::new(list);
        list.load().await?;
        let items: Vec<RosterItem> = list
            .roster
            .borrow()
            .iter()
            .flat_map(|roster| roster.items.values().cloned())
            .collect();
        for item in items {
            // Its sessions end next, which tells those who see them.
            let farewell = Farewell {
                unavailable: false,
                ..subscription::farewell(&item)
            };
            list.say_farewell(&item.jid, farewell).await;
        }
        self.flush();
        Ok(())
    }
}
