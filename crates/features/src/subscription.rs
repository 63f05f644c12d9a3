//! Presence subscriptions: the state machine of RFC 6121 §3 and Appendix A, seen from one user.
//!
//! A user's server decides twice: what its user sends to a contact ([`outbound`]), and what a contact
//! sends to its user ([`inbound`]). When both live here, one stanza is decided about once on each
//! side. The nine states of Appendix A.1 are three facts of a roster item: `subscription`, `ask`
//! (pending out) and `pending_in`; pre-approval (§3.4) is a fourth, `approved`.
//!
//! Whatever address a subscription stanza carries, it is handled as one between bare JIDs
//! (§3.1.2 and so on): the caller stamps `from` and `to` accordingly.
//!
//! An item may exist only to hold a request that the user has not answered. Such an item is not
//! *listed*: the user does not see it in the roster (A.1, "None + Pending In"). An item that the user
//! did put into the roster stays listed, if need be by an empty name; see [`is_listed`].

use rookery_proto::jid::BareJid;
use rookery_proto::roster::{RosterItem, Subscription};
use rookery_proto::stanza::{PresenceType, Stanza};

/// The longest request that is kept with its content, in bytes; of a longer one only the fact is kept
/// (§3.1.3 warns of what strangers could store otherwise).
pub const MAX_STORED_REQUEST_BYTES: usize = 4096;

/// The four kinds of subscription stanza.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// The sender wants the receiver's presence (§3.1).
    Subscribe,
    /// The sender lets the receiver have its presence (§3.1.4), or will if asked (§3.4).
    Subscribed,
    /// The sender no longer wants the receiver's presence (§3.3).
    Unsubscribe,
    /// The receiver does not get the sender's presence, or not any more (§3.2).
    Unsubscribed,
}

impl Request {
    /// The subscription stanza of this type, if it is one.
    pub fn of(kind: PresenceType) -> Option<Self> {
        match kind {
            PresenceType::Subscribe => Some(Self::Subscribe),
            PresenceType::Subscribed => Some(Self::Subscribed),
            PresenceType::Unsubscribe => Some(Self::Unsubscribe),
            PresenceType::Unsubscribed => Some(Self::Unsubscribed),
            PresenceType::Available
            | PresenceType::Unavailable
            | PresenceType::Probe
            | PresenceType::Error => None,
        }
    }
}

/// What becomes of the roster item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It stays as it is, or stays away.
    Keep,
    /// It is this now.
    Put(RosterItem),
    /// It goes.
    Remove,
}

/// What becomes of the user's presence at the contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing is sent.
    Keep,
    /// The last presence of each of the user's available resources goes to the contact, after the
    /// approval (§3.1.5).
    SendAvailable,
    /// `unavailable` from each of the user's available resources goes to the contact, before any
    /// `unsubscribed` (§3.2.2, §3.3.3).
    SendUnavailable,
}

/// What follows from a subscription stanza that the user sent.
///
/// In this order: change the item and commit; push it; send unavailable presence; route the stanza;
/// send available presence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbound {
    /// The user's item for the contact.
    pub change: Change,
    /// What the user sees of the item changed: push it to the interested resources.
    pub push: bool,
    /// The stanza goes to the contact, from the user's bare JID.
    pub route: bool,
    /// What the contact gets of the user's presence.
    pub presence: Presence,
}

/// What follows from a subscription stanza that the contact sent.
///
/// In this order: change the item and commit; deliver the stanza; push the item (§3.1.6: a client
/// that gets the stanza first understands the push); reply; send presence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    /// The user's item for the contact.
    pub change: Change,
    /// The user gets the stanza: `subscribe` at its available resources (§3.1.3), the others at its
    /// interested resources (§3.1.6, §3.2.3, §3.3.3).
    pub deliver: bool,
    /// What the user sees of the item changed: push it to the interested resources.
    pub push: bool,
    /// Answer with `subscribed` from the user's bare JID (§3.1.3): the contact was approved before.
    pub auto_reply: bool,
    /// What the contact gets of the user's presence.
    pub presence: Presence,
}

/// Decides about a stanza from the user to `contact` (Appendix A.2, §3.4.2), who is somebody else:
/// nobody needs a subscription to their own presence.
///
/// `item`: the user's item for the contact.
pub fn outbound(request: Request, contact: &BareJid, item: Option<&RosterItem>) -> Outbound {
    let mut after = item
        .cloned()
        .unwrap_or_else(|| RosterItem::new(contact.clone()));
    let was_seen = after.subscription.seen_by_contact();
    let mut presence = Presence::Keep;
    let route = match request {
        // A.2.1
        Request::Subscribe => {
            after.ask = !after.subscription.sees_contact();
            true
        }
        // A.2.2
        Request::Unsubscribe => {
            after.ask = false;
            after.subscription = not_seeing(after.subscription);
            true
        }
        // A.2.3
        Request::Subscribed if after.pending_in.take().is_some() => {
            after.approved = false;
            after.subscription = seen(after.subscription);
            presence = Presence::SendAvailable;
            true
        }
        Request::Subscribed => {
            after.approved = !was_seen;
            false
        }
        // A.2.4
        Request::Unsubscribed => {
            let was_pending = after.pending_in.take().is_some();
            after.approved = false;
            after.subscription = unseen(after.subscription);
            if was_seen {
                presence = Presence::SendUnavailable;
            }
            was_pending || was_seen
        }
    };
    let (change, push) = conclude(item, after);
    Outbound {
        change,
        push,
        route,
        presence,
    }
}

/// Decides about `stanza`, which `contact` sent to the user (Appendix A.3).
///
/// `item`: the user's item for the contact.
pub fn inbound(
    request: Request,
    contact: &BareJid,
    item: Option<&RosterItem>,
    stanza: &Stanza,
) -> Inbound {
    let mut after = item
        .cloned()
        .unwrap_or_else(|| RosterItem::new(contact.clone()));
    let was_seen = after.subscription.seen_by_contact();
    let mut auto_reply = false;
    let mut presence = Presence::Keep;
    let deliver = match request {
        // A.3.1: the contact has it already, or was approved before (§3.1.3, rule 2).
        Request::Subscribe if was_seen || after.approved => {
            after.approved = false;
            after.subscription = seen(after.subscription);
            auto_reply = true;
            presence = Presence::SendAvailable;
            false
        }
        Request::Subscribe if after.pending_in.is_some() => false,
        Request::Subscribe => {
            after.pending_in = Some(stored(stanza));
            true
        }
        // A.3.2
        Request::Unsubscribe => {
            let was_pending = after.pending_in.take().is_some();
            after.subscription = unseen(after.subscription);
            if was_seen {
                presence = Presence::SendUnavailable;
            }
            was_pending || was_seen
        }
        // A.3.3
        Request::Subscribed => {
            let asked = std::mem::take(&mut after.ask);
            if asked {
                after.subscription = seeing(after.subscription);
            }
            asked
        }
        // A.3.4
        Request::Unsubscribed => {
            let asked = std::mem::take(&mut after.ask);
            let saw = after.subscription.sees_contact();
            after.subscription = not_seeing(after.subscription);
            asked || saw
        }
    };
    let (change, push) = conclude(item, after);
    Inbound {
        change,
        deliver,
        push,
        auto_reply,
        presence,
    }
}

/// What a contact is told when the user removes it from the roster (§2.5.2). Sent in the order of
/// the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Farewell {
    /// `unsubscribe`: the user saw, or asked to see, the contact's presence.
    pub unsubscribe: bool,
    /// `unavailable` from each of the user's available resources: the contact saw its presence.
    pub unavailable: bool,
    /// `unsubscribed`: the contact saw, or asked to see, the user's presence.
    pub unsubscribed: bool,
}

/// Decides what the contact of a removed item is told.
pub fn farewell(item: &RosterItem) -> Farewell {
    let seen = item.subscription.seen_by_contact();
    Farewell {
        unsubscribe: item.subscription.sees_contact() || item.ask,
        unavailable: seen,
        unsubscribed: seen || item.pending_in.is_some(),
    }
}

/// Whether the user sees the item in the roster: unless it is there only to hold a request.
pub fn is_listed(item: &RosterItem) -> bool {
    item.pending_in.is_none() || has_marks(item)
}

/// Whether anything but a request speaks for the item.
fn has_marks(item: &RosterItem) -> bool {
    item.subscription != Subscription::None
        || item.ask
        || item.approved
        || item.name.is_some()
        || !item.groups.is_empty()
}

/// Makes an item listed, whatever else it holds.
pub(crate) fn list(item: &mut RosterItem) {
    if !is_listed(item) {
        item.name = Some(String::new());
    }
}

/// Turns the item as it should be into a change of the one that is, and says whether the user sees a
/// difference.
fn conclude(before: Option<&RosterItem>, mut after: RosterItem) -> (Change, bool) {
    let was_listed = before.is_some_and(is_listed);
    if was_listed {
        list(&mut after);
    }
    if before == Some(&after) {
        return (Change::Keep, false);
    }
    // What held a request only, or was never there, leaves nothing behind.
    if !was_listed && after.pending_in.is_none() && !has_marks(&after) {
        let change = if before.is_some() {
            Change::Remove
        } else {
            Change::Keep
        };
        return (change, false);
    }
    let push = is_listed(&after)
        && before.is_none_or(|before| !was_listed || visible(before) != visible(&after));
    (Change::Put(after), push)
}

/// What of an item these rules change and a push shows.
fn visible(item: &RosterItem) -> (Subscription, bool, bool) {
    (item.subscription, item.ask, item.approved)
}

/// The request as it is kept until the user answers it (§3.1.3, rule 4).
fn stored(stanza: &Stanza) -> String {
    let xml = stanza.to_xml();
    if xml.len() <= MAX_STORED_REQUEST_BYTES {
        xml
    } else {
        stanza.without_content().to_xml()
    }
}

fn seeing(subscription: Subscription) -> Subscription {
    if subscription.seen_by_contact() {
        Subscription::Both
    } else {
        Subscription::To
    }
}

fn not_seeing(subscription: Subscription) -> Subscription {
    if subscription.seen_by_contact() {
        Subscription::From
    } else {
        Subscription::None
    }
}

fn seen(subscription: Subscription) -> Subscription {
    if subscription.sees_contact() {
        Subscription::Both
    } else {
        Subscription::From
    }
}

fn unseen(subscription: Subscription) -> Subscription {
    if subscription.sees_contact() {
        Subscription::To
    } else {
        Subscription::None
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
