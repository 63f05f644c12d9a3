//! One actor per account that has sessions on this node: its roster, and the presence it brings.
//!
//! Holds the subscription state machine (RFC 6121 §3), sends the account's presence to its contacts
//! and its contacts' presence to its resources (§4), pushes roster and block list changes. Storage
//! is the truth for the roster: a change is committed before anyone is told, so that several nodes
//! may serve one account. Requests are handled one after the other. Started when something first
//! asks for it, also for an account without sessions that gets a subscription request; stops when
//! the shard forgets the account.

mod block_list;
mod roster;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use hashbrown::HashMap;
use rookery_bus::Frame;
use rookery_proto::cluster::Epoch;
use rookery_proto::error::StanzaError;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::{PresenceType, Stanza};
use rookery_proto::xml::Element;

pub(crate) use self::block_list::{BlockListChanged, BlockListRequest};
pub(crate) use self::roster::{
    InboundSubscription, OutboundSubscription, RosterChanged, RosterOrder, RosterRequest,
};
use crate::account::{Account, Resource};
use crate::cluster::Remote;
use crate::outbox::Outgoing;
use crate::reply;
use crate::shard::{Broadcast, Parcel, Shard, Work};
use crate::user_session::PresenceRequest;

/// Requests that wait for their turn; more come only when many contacts subscribe at once, and
/// their shard waits for each answer.
const MAILBOX: usize = 64;

/// An account's roster and presence.
pub struct PresenceList {
    list: Rc<List>,
}

/// What the handlers share with the futures that they start.
struct List {
    shard: Rc<Shard>,
    account: Rc<Account>,
    /// `None` until it is needed.
    roster: RefCell<Option<Contacts>>,
}

/// The roster in memory.
struct Contacts {
    version: u64,
    items: HashMap<BareJid, RosterItem>,
}

impl PresenceList {
    pub(crate) fn new(shard: &Rc<Shard>, account: &Rc<Account>) -> Self {
        let (shard, account) = (Rc::clone(shard), Rc::clone(account));
        Self {
            list: Rc::new(List {
                shard,
                account,
                roster: RefCell::default(),
            }),
        }
    }

    /// Runs a request; the next one is handled when this one is done.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        request: impl FnOnce(Rc<List>) -> F,
    ) -> AtomicResponse<Self, T> {
        AtomicResponse::new(Box::pin(request(Rc::clone(&self.list)).into_actor(self)))
    }
}

impl Actor for PresenceList {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// A resource of the account broadcasts available presence (RFC 6121 §4.2, §4.4).
#[derive(Message)]
#[rtype(result = "Vec<Stanza>")]
pub(crate) struct UserPresence {
    pub(crate) resource: String,
    pub(crate) presence: Broadcast,
}

impl PresenceRequest for UserPresence {}

impl Handler<UserPresence> for PresenceList {
    type Result = AtomicResponse<Self, Vec<Stanza>>;

    fn handle(&mut self, request: UserPresence, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            match list.user_presence(&request).await {
                Ok(()) => Vec::new(),
                Err(error) => {
                    let answer = request.presence.stanza.reply_error(&error);
                    answer.into_iter().collect()
                }
            }
        })
    }
}

/// A resource of the account is not available any more (RFC 6121 §4.5): it says so, or its session
/// has ended.
#[derive(Message)]
#[rtype(result = "Vec<Stanza>")]
pub(crate) struct Unavailable {
    pub(crate) resource: String,
    /// Unavailable presence from the resource's full JID.
    pub(crate) presence: Broadcast,
    /// Whether it was available before, so that contacts have to be told.
    pub(crate) was_available: bool,
    /// Who got directed presence and is to be told as well (§4.6.3).
    pub(crate) directed: Vec<Jid>,
}

impl PresenceRequest for Unavailable {}

impl Handler<Unavailable> for PresenceList {
    type Result = AtomicResponse<Self, Vec<Stanza>>;

    fn handle(&mut self, request: Unavailable, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.unavailable(request).await;
            Vec::new()
        })
    }
}

/// A resource was online on a node that died.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SessionLost {
    /// Unavailable presence from the resource's full JID.
    pub(crate) stanza: Arc<Stanza>,
}

impl Handler<SessionLost> for PresenceList {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, request: SessionLost, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.tell_contacts(&Broadcast::new(request.stanza)).await;
            list.shard.flush();
        })
    }
}

/// Contacts of a resource may think that it is gone, and it may think so of them.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ShowAgain {
    pub(crate) resource: String,
}

impl Handler<ShowAgain> for PresenceList {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, request: ShowAgain, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.show_again(&request.resource).await;
            list.shard.flush();
        })
    }
}

/// Somebody asks for the account's presence (RFC 6121 §4.3).
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Probe {
    pub(crate) stanza: Arc<Stanza>,
}

impl Handler<Probe> for PresenceList {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Probe { stanza }: Probe, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.answer_probe(&stanza).await;
            list.shard.flush();
        })
    }
}

impl List {
    fn node(&self) -> &crate::node::NodeShared {
        self.shard.node()
    }

    /// Reads the roster, once.
    async fn load(&self) -> Result<(), StanzaError> {
        if self.roster.borrow().is_some() {
            return Ok(());
        }
        let storage = &self.node().storage;
        let roster = storage
            .roster(&self.account.jid)
            .await
            .map_err(|e| reply::storage_error(&e))?;
        let items = roster
            .items
            .into_iter()
            .map(|item| (item.jid.clone(), item))
            .collect();
        *self.roster.borrow_mut() = Some(Contacts {
            version: roster.version,
            items,
        });
        self.shard
            .load_block_list(&self.account)
            .await
            .map_err(|e| reply::storage_error(&e))
    }

    fn blocks(&self, contact: &BareJid) -> bool {
        let list = self.account.block_list.borrow();
        list.as_ref()
            .is_some_and(|list| list.blocks(&Jid::from(contact.clone())))
    }

    /// Contacts for which `wanted` holds and whom the account does not block.
    fn contacts(&self, wanted: impl Fn(&RosterItem) -> bool) -> Vec<BareJid> {
        let roster = self.roster.borrow();
        let Some(roster) = roster.as_ref() else {
            return Vec::new();
        };
        let items = roster.items.values().filter(|item| wanted(item));
        items
            .map(|item| item.jid.clone())
            .filter(|jid| !self.blocks(jid))
            .collect()
    }

    async fn user_presence(&self, request: &UserPresence) -> Result<(), StanzaError> {
        let stanza = &request.presence.stanza;
        let priority = rookery_features::presence::priority(stanza)?;
        self.load().await?;
        let Some(resource) = self.account.resource(&request.resource) else {
            // Unbound meanwhile.
            return Ok(());
        };
        let initial = !resource.is_available();
        let had_messages = !initial && resource.priority.get() >= 0;
        *resource.presence.borrow_mut() = Some(Arc::clone(stanza));
        resource.priority.set(priority);
        if priority < 0 {
            resource.takes_messages.set(false);
        }
        if let Some(cluster) = &self.node().cluster {
            cluster.update(&resource).await;
        }
        self.tell_contacts(&request.presence).await;
        if initial {
            self.tell_resource(&resource);
        }
        if priority >= 0 && !had_messages {
            self.shard.join_in(&self.account, &resource).await;
        }
        self.shard.flush();
        Ok(())
    }

    /// What a resource gets when it becomes available: its contacts' presence (§4.3), that of the
    /// account's other resources, and the subscription requests that wait for an answer (§3.1.3).
    fn tell_resource(&self, resource: &Rc<Resource>) {
        let mut contacts = self.contacts(|item| item.subscription.sees_contact());
        contacts.push(self.account.jid.clone());
        self.shard.probe(&resource.jid, contacts);
        let requests: Vec<Stanza> = {
            let roster = self.roster.borrow();
            let items = roster.iter().flat_map(|roster| roster.items.values());
            let pending = items.filter_map(|item| item.pending_in.as_deref());
            // What was stored was parsed before.
            pending
                .filter_map(|xml| Stanza::from_xml(xml).ok())
                .collect()
        };
        for request in requests {
            self.shard.push(resource, Outgoing::new(Arc::new(request)));
        }
    }

    async fn unavailable(&self, request: Unavailable) {
        let gone = self.account.resource(&request.resource);
        if let Some(resource) = &gone {
            resource.presence.take();
            resource.priority.set(0);
            resource.takes_messages.set(false);
            if let Some(cluster) = &self.node().cluster {
                cluster.update(resource).await;
            }
        }
        let stanza = &request.presence.stanza;
        if request.was_available {
            self.tell_contacts(&request.presence).await;
            if let Some(resource) = &gone {
                // RFC 6121 §4.5.2: the resource itself is told as well; it is not among the
                // available ones any more.
                self.shard.push(
                    resource,
                    Outgoing {
                        to: Some(Jid::from(self.account.jid.clone())),
                        accepted: request.presence.accepted,
                        ..Outgoing::new(Arc::clone(stanza))
                    },
                );
            }
            self.note_last_activity(stanza).await;
        }
        let told = self.contacts(|item| item.subscription.seen_by_contact());
        for to in request.directed {
            if told.iter().any(|contact| contact.as_str() == to.bare_str()) {
                continue;
            }
            let stanza = Stanza::clone(stanza).with_to(to);
            self.shard.accept(Work::Route(Parcel::new(stanza)));
        }
        self.shard.flush();
    }

    /// XEP-0012 §4: when the account was last here, and what its client said then.
    async fn note_last_activity(&self, stanza: &Stanza) {
        if self
            .account
            .resources
            .borrow()
            .iter()
            .any(|resource| resource.is_available())
        {
            return;
        }
        let status = stanza
            .child("status", rookery_proto::ns::CLIENT)
            .map(Element::text);
        let now = std::time::SystemTime::now();
        let status = status.unwrap_or_default();
        if let Err(error) = self
            .node()
            .storage
            .set_last(&self.account.jid, now, &status)
            .await
        {
            tracing::warn!(%error, "the last activity of an account was not noted");
        }
    }

    /// Sends the account's presence to the contacts that may see it, and to its own resources
    /// (§4.2.2, §4.4.2, §4.5.2).
    async fn tell_contacts(&self, presence: &Broadcast) {
        if let Err(error) = self.load().await {
            tracing::warn!(account = %self.account.jid, condition = ?error.condition,
                "contacts were not told of a presence");
            return;
        }
        let mut recipients = self.contacts(|item| item.subscription.seen_by_contact());
        recipients.push(self.account.jid.clone());
        self.shard.broadcast(presence, recipients);
    }

    async fn show_again(&self, resource: &str) {
        let resource = self.account.resource(resource);
        let Some(resource) = resource.filter(|resource| resource.is_available()) else {
            return;
        };
        if self.load().await.is_err() {
            return;
        }
        self.learn_own_rows().await;
        let presence = resource.presence.borrow().clone();
        if let Some(presence) = presence {
            let contacts = self.contacts(|item| item.subscription.seen_by_contact());
            let broadcast = Broadcast::new(Arc::clone(&presence));
            self.shard.broadcast(&broadcast, contacts);
            // Its client knows, and those of the account's other resources here.
            let own = self.account.jid.as_str();
            let elsewhere = self.shard.cache.borrow().get(own).to_vec();
            let is_other = |remote: &Remote| remote.available && remote.jid != resource.jid;
            for remote in elsewhere.into_iter().filter(is_other) {
                let mut stanza = Stanza::clone(&presence);
                stanza.to = Some(Jid::from(remote.jid));
                self.shard.accept(Work::Route(Parcel::new(stanza)));
            }
        }
        let contacts = self.contacts(|item| item.subscription.sees_contact());
        self.shard.probe(&resource.jid, contacts);
    }

    async fn answer_probe(&self, stanza: &Stanza) {
        let Some(from) = &stanza.from else { return };
        if self.load().await.is_err() {
            return;
        }
        self.learn_own_rows().await;
        let own = from.bare_str() == self.account.jid.as_str();
        let allowed = own || {
            let roster = self.roster.borrow();
            let item = roster
                .as_ref()
                .and_then(|roster| roster.items.get(from.bare_str()));
            item.is_some_and(|item| item.subscription.seen_by_contact())
        };
        if !allowed {
            // RFC 6121 §4.3.2: a prober who may not see the presence learns just that.
            let answer = Stanza::presence(PresenceType::Unsubscribed)
                .with_from(Jid::from(self.account.jid.clone()))
                .with_to(Jid::from(from.to_bare()));
            return self.shard.accept(Work::Route(Parcel::new(answer)));
        }
        let available = self
            .account
            .resources
            .borrow()
            .iter()
            .any(|resource| resource.is_available())
            || self
                .shard
                .cache
                .borrow()
                .get(self.account.jid.as_str())
                .iter()
                .any(|r| r.available);
        if !available {
            let answer = Stanza::presence(PresenceType::Unavailable)
                .with_from(Jid::from(self.account.jid.clone()))
                .with_to(from.clone());
            return self.shard.accept(Work::Route(Parcel::new(answer)));
        }
        if let Some(prober) = from.to_full() {
            self.shard.tell_presence(&prober, &self.account.jid);
        } else {
            self.send_presence_to(&from.to_bare()).await;
        }
    }

    /// The presence of all the account's resources, here and elsewhere, to one contact.
    async fn send_presence_to(&self, contact: &BareJid) {
        self.learn_own_rows().await;
        let to = Jid::from(contact.clone());
        let here = self.account.all();
        let here = here
            .iter()
            .filter_map(|resource| resource.presence.borrow().clone());
        let mut all: Vec<Arc<Stanza>> = here.collect();
        let account = self.account.jid.as_str();
        let cache = self.shard.cache.borrow();
        all.extend(
            cache
                .get(account)
                .iter()
                .filter_map(|remote| remote.presence.clone()),
        );
        drop(cache);
        for presence in all {
            let mut stanza = Stanza::clone(&presence);
            stanza.to = Some(to.clone());
            self.shard.accept(Work::Route(Parcel::new(stanza)));
        }
    }

    /// Unavailable presence from all the account's available resources to one contact, who may not
    /// see them any more.
    async fn send_unavailable_to(&self, contact: &Jid) {
        self.learn_own_rows().await;
        let here = self.account.all();
        let here = here
            .iter()
            .filter(|r| r.is_available())
            .map(|r| r.jid.clone());
        let mut all: Vec<FullJid> = here.collect();
        let cache = self.shard.cache.borrow();
        let elsewhere = cache
            .get(self.account.jid.as_str())
            .iter()
            .filter(|r| r.available);
        all.extend(elsewhere.map(|remote| remote.jid.clone()));
        drop(cache);
        for jid in all {
            let stanza = Stanza::presence(PresenceType::Unavailable)
                .with_from(Jid::from(jid))
                .with_to(contact.clone());
            self.shard.accept(Work::Route(Parcel::new(stanza)));
        }
    }

    /// Makes sure that the cache knows the account's resources on other nodes.
    async fn learn_own_rows(&self) {
        if let Err(error) = self
            .shard
            .look_up(std::slice::from_ref(&self.account.jid))
            .await
        {
            tracing::warn!(condition = ?error.condition, "the account's other resources are not known");
        }
    }

    /// The other nodes on which the account has sessions.
    async fn other_nodes(&self) -> Vec<Epoch> {
        let Some(cluster) = &self.node().cluster else {
            return Vec::new();
        };
        let own = cluster.epoch();
        match cluster
            .directory
            .lookup(std::slice::from_ref(&self.account.jid))
            .await
        {
            Ok(rows) => {
                let mut nodes: Vec<Epoch> = rows
                    .iter()
                    .flatten()
                    .map(|row| row.epoch)
                    .filter(|e| *e != own)
                    .collect();
                nodes.sort_unstable();
                nodes.dedup();
                nodes
            }
            Err(error) => {
                tracing::warn!(%error, "the account's other nodes are not known");
                let cache = self.shard.cache.borrow();
                cache
                    .get(self.account.jid.as_str())
                    .iter()
                    .map(|row| row.epoch)
                    .collect()
            }
        }
    }

    async fn tell_other_nodes(&self, frame: Frame) {
        let nodes = self.other_nodes().await;
        if let Some(cluster) = &self.node().cluster {
            cluster.tell(nodes, &frame);
        }
    }
}
