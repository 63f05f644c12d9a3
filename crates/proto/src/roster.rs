//! Roster items (RFC 6121 §2.1.2), as storage keeps them and nodes tell each other about them.
//!
//! The rules that change them are in `rookery-features`.

use serde::{Deserialize, Serialize};

use crate::jid::BareJid;

/// Who sees whose presence (RFC 6121 §2.1.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Subscription {
    /// Neither sees the other.
    #[default]
    None,
    /// The user sees the contact's presence.
    To,
    /// The contact sees the user's presence.
    From,
    /// Both see each other.
    Both,
    /// In a roster set: remove the item. In a roster push: it is removed. Never stored.
    Remove,
}

impl Subscription {
    /// The value of the attribute `subscription`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::To => "to",
            Self::From => "from",
            Self::Both => "both",
            Self::Remove => "remove",
        }
    }

    /// Reads the value of the attribute `subscription`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "to" => Self::To,
            "from" => Self::From,
            "both" => Self::Both,
            "remove" => Self::Remove,
            _ => return None,
        })
    }

    /// Whether the user gets the contact's presence: `to` or `both`.
    pub fn sees_contact(self) -> bool {
        matches!(self, Self::To | Self::Both)
    }

    /// Whether the contact gets the user's presence: `from` or `both`.
    pub fn seen_by_contact(self) -> bool {
        matches!(self, Self::From | Self::Both)
    }
}

/// What a user's roster holds about one contact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RosterItem {
    /// The contact.
    pub jid: BareJid,
    /// What the user calls the contact.
    pub name: Option<String>,
    /// The state of the subscription, both ways.
    pub subscription: Subscription,
    /// The user asked for the contact's presence and has no answer yet (`ask='subscribe'`).
    pub ask: bool,
    /// The user approved the contact's subscription before it was asked for (RFC 6121 §3.4).
    pub approved: bool,
    /// The contact asked for the user's presence and has no answer yet: the `subscribe` stanza as
    /// standalone XML. An item that holds nothing but this is not shown to the user.
    pub pending_in: Option<String>,
    /// The groups that the user put the contact into.
    pub groups: Vec<String>,
}

impl RosterItem {
    /// An item without name, groups or subscription.
    pub fn new(jid: BareJid) -> Self {
        Self {
            jid,
            name: None,
            subscription: Subscription::None,
            ask: false,
            approved: false,
            pending_in: None,
            groups: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_read_as_they_are_written() {
        use Subscription::{Both, From, None, Remove, To};
        for subscription in [None, To, From, Both, Remove] {
            assert_eq!(
                Subscription::from_name(subscription.as_str()),
                Some(subscription)
            );
        }
        assert_eq!(Subscription::from_name("None"), Option::None);
        assert!(To.sees_contact() && Both.sees_contact() && !From.sees_contact());
        assert!(From.seen_by_contact() && Both.seen_by_contact() && !To.seen_by_contact());
    }
}
