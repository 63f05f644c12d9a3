//! Copies of messages for the user's other clients: XEP-0280, on all nodes.

use std::rc::Rc;
use std::sync::Arc;

use rookery_bus::{Frame, LogRef};
use rookery_features::xep0280_carbons::{self as carbons, Copies, Direction};
use rookery_features::xep0359_stanza_ids as stanza_ids;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::stanza::Stanza;
use smallvec::SmallVec;

use crate::account::{Account, Resource};
use crate::outbox::Outgoing;
use crate::router::Place;
use crate::shard::{Parcel, Shard, Work};

impl Shard {
    /// A client's message is on its way: once, its user's other clients get copies (§8).
    pub(crate) fn copy_to_sender(self: &Rc<Self>, parcel: &mut Parcel, entry: Option<LogRef>) {
        let Some(from) = parcel.stanza.from.as_ref().filter(|_| parcel.copies) else {
            return;
        };
        parcel.copies = false;
        let work = Work::Copy {
            message: Arc::clone(&parcel.stanza),
            entry,
            share: parcel.share.clone(),
        };
        let owner = self.node().shard_of(from.bare_str());
        if owner == self.index() {
            self.accept(work);
        } else {
            self.pass(owner, work);
        }
    }

    /// Copies of what one of an account's clients has sent.
    pub(crate) fn copy_sent(&self, message: &Stanza, entry: Option<LogRef>) {
        let Some(from) = message.from.as_ref().and_then(Jid::to_full) else {
            return;
        };
        let Some(account) = self.accounts.borrow().get(from.bare_str()).cloned() else {
            return;
        };
        let sender = account.resource(from.resource());
        if is_copied(message, Direction::Sent, sender.as_deref())
            && let Some(copy) = copy_of(message, entry, Direction::Sent, &account.jid)
        {
            self.copy(&account.jid, Some(&account), copy, vec![from]);
        }
    }

    /// Whether copies of what a client sends may be wanted.
    pub(crate) fn wants_copies(&self, account: &Account, message: &Stanza) -> bool {
        self.has_others(&account.jid, Some(account), 1)
            && carbons::copies(message, Direction::Sent) != Copies::Nobody
    }

    /// A message goes to some of an account's clients: the others get it as well (§7).
    pub(crate) fn copy_received(
        &self,
        account: &BareJid,
        here: Option<&Account>,
        parcel: &Parcel,
        to: &[&Place],
    ) {
        let message = &parcel.stanza;
        let addressee = match to {
            [Place::Here(resource)] => Some(&**resource),
            _ => None,
        };
        if !self.has_others(account, here, to.len())
            || !is_copied(message, Direction::Received, addressee)
        {
            return;
        }
        let copy = copy_of(message, parcel.entry, Direction::Received, account);
        if let Some(copy) = copy {
            let except: Vec<FullJid> = to.iter().map(|place| place.jid().clone()).collect();
            self.copy(account, here, copy, except);
        }
    }

    /// Whether the account has more clients than that, on all nodes, as far as is known.
    fn has_others(&self, account: &BareJid, here: Option<&Account>, count: usize) -> bool {
        let here = here.map_or(0, |account| account.resources.borrow().len());
        here + self.cache.borrow().get(account.as_str()).len() > count
    }

    /// Hands a copy to the clients that want copies, but those in `except`.
    fn copy(&self, account: &BareJid, here: Option<&Account>, copy: Stanza, except: Vec<FullJid>) {
        let copy = Arc::new(copy);
        if let Some(here) = here {
            self.copy_here(here, &copy, &except);
        }
        let Some(cluster) = &self.node().cluster else {
            return;
        };
        let mut nodes: SmallVec<[_; 2]> = SmallVec::new();
        for remote in self.cache.borrow().get(account.as_str()) {
            if !except.contains(&remote.jid) && !nodes.contains(&remote.epoch) {
                nodes.push(remote.epoch);
            }
        }
        if nodes.is_empty() {
            return;
        }
        let frame = Frame::Carbon {
            account: account.clone(),
            stanza: Stanza::clone(&copy),
            except,
        };
        for epoch in &nodes {
            self.trace_to_node(&copy, *epoch, |step| step.to(std::slice::from_ref(account)));
        }
        cluster.tell(nodes, &frame);
    }

    fn copy_here(&self, account: &Account, copy: &Arc<Stanza>, except: &[FullJid]) {
        for resource in account.all() {
            if resource.carbons.get() && !except.contains(&resource.jid) {
                let outgoing = Outgoing {
                    to: Some(resource.jid.clone().into()),
                    ..Outgoing::new(Arc::clone(copy))
                };
                self.push(&resource, outgoing);
            }
        }
    }

    /// A copy from another node.
    pub(crate) fn copy_from_bus(&self, account: &BareJid, copy: Stanza, except: &[FullJid]) {
        let account = self.accounts.borrow().get(account).cloned();
        if let Some(account) = account {
            self.copy_here(&account, &Arc::new(copy), except);
        }
    }
}

/// The copy of a message, which names its place in the archive if it has one.
fn copy_of(
    message: &Stanza,
    entry: Option<LogRef>,
    direction: Direction,
    account: &BareJid,
) -> Option<Stanza> {
    match entry {
        Some(entry) if entry.archived => {
            let id = stanza_ids::stanza_id(account, entry.id);
            let message = message.clone().with_child(id);
            carbons::copy(&message, direction, account)
        }
        _ => carbons::copy(message, direction, account),
    }
}

/// Whether others get copies of a message that one client has sent or gets.
fn is_copied(message: &Stanza, direction: Direction, client: Option<&Resource>) -> bool {
    match carbons::copies(message, direction) {
        // Occupants: there are no rooms yet.
        Copies::Nobody | Copies::Occupants => false,
        Copies::Everybody => {
            if let Some(client) = client {
                client.answerable.borrow_mut().note(message, direction);
            }
            true
        }
        Copies::IfAnswer => client.is_some_and(|client| {
            client
                .answerable
                .borrow()
                .is_answered_by(message, direction)
        }),
    }
}
