//! Presence (RFC 6121 §4): what its content means and who gets it.

use std::collections::BTreeSet;

use rookery_proto::error::Condition;
use rookery_proto::jid::Jid;
use rookery_proto::ns;
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::Stanza;

/// How many addresses a session may have sent directed presence to; each costs memory until it
/// leaves. A client in more rooms than this is not known.
pub const MAX_DIRECTED: usize = 1000;

/// The priority of available presence (RFC 6121 §4.7.2.3): 0 unless it says otherwise.
///
/// # Errors
/// `bad-request` if there are several, or one that is no integer from -128 to 127.
pub fn priority(presence: &Stanza) -> Result<i8, Condition> {
    let mut priorities = presence
        .children()
        .iter()
        .filter(|child| child.is("priority", ns::CLIENT));
    let Some(priority) = priorities.next() else {
        return Ok(0);
    };
    if priorities.next().is_some() || priority.children().next().is_some() {
        return Err(Condition::BadRequest);
    }
    // xs:byte: white space around it and a sign are allowed.
    priority
        .text()
        .trim_matches([' ', '\t', '\r', '\n'])
        .parse()
        .map_err(|_| Condition::BadRequest)
}

/// What a resource is available for (RFC 6121 §4.7.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Show {
    /// Temporarily away.
    Away,
    /// Interested in chatting.
    Chat,
    /// Busy: do not disturb.
    Dnd,
    /// Away for longer: "eXtended Away".
    Xa,
}

/// The value of `<show/>`; `None` if there is none or it says nothing that is known.
pub fn show(presence: &Stanza) -> Option<Show> {
    match presence.child("show", ns::CLIENT)?.text().as_str() {
        "away" => Some(Show::Away),
        "chat" => Some(Show::Chat),
        "dnd" => Some(Show::Dnd),
        "xa" => Some(Show::Xa),
        _ => None,
    }
}

/// Those who get the user's presence when it is broadcast (RFC 6121 §4.2.2, §4.4.2, §4.5.2): the
/// contacts with `from` or `both`. The user's own available resources get it as well.
pub fn broadcast_recipients<'a>(
    roster: impl IntoIterator<Item = &'a RosterItem>,
) -> impl Iterator<Item = &'a RosterItem> {
    roster
        .into_iter()
        .filter(|item| item.subscription.seen_by_contact())
}

/// Those whose presence a resource learns when it becomes available (RFC 6121 §4.2.2, §4.3.1): the
/// contacts with `to` or `both`.
pub fn probe_targets<'a>(
    roster: impl IntoIterator<Item = &'a RosterItem>,
) -> impl Iterator<Item = &'a RosterItem> {
    roster
        .into_iter()
        .filter(|item| item.subscription.sees_contact())
}

/// The subscription requests that wait for the user's answer, as standalone XML: delivered to each
/// resource that becomes available until there is one (RFC 6121 §3.1.3).
pub fn pending_requests<'a>(
    roster: impl IntoIterator<Item = &'a RosterItem>,
) -> impl Iterator<Item = &'a str> {
    roster
        .into_iter()
        .filter_map(|item| item.pending_in.as_deref())
}

/// The answer to a presence probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeAnswer {
    /// The last presence of each available resource; if there is none, `unavailable` from the bare
    /// JID (RFC 6121 §4.3.2, rules 3 and 4).
    Presence,
    /// `unsubscribed` from the bare JID (rule 1), also for an account that does not exist, so that
    /// both look the same.
    Unsubscribed,
}

/// Answers a probe (RFC 6121 §4.3.2) for the roster item that the account has of who asks. An
/// account's own resources always learn its presence; a blocked contact gets no answer at all.
pub fn answer_probe(item: Option<&RosterItem>) -> ProbeAnswer {
    match item {
        Some(item) if item.subscription.seen_by_contact() => ProbeAnswer::Presence,
        _ => ProbeAnswer::Unsubscribed,
    }
}

/// Who got directed available presence of a session and has to be told when it becomes unavailable
/// (RFC 6121 §4.6.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectedPresence(BTreeSet<Jid>);

impl DirectedPresence {
    /// Available presence is to be sent to `to`. `false`: there are [`MAX_DIRECTED`] already, so the
    /// stanza must be refused (`policy-violation`).
    pub fn sent_available(&mut self, to: &Jid) -> bool {
        if self.0.contains(to) {
            return true;
        }
        if self.0.len() >= MAX_DIRECTED {
            return false;
        }
        self.0.insert(to.clone())
    }

    /// Unavailable presence was sent to `to`, which knows now.
    pub fn sent_unavailable(&mut self, to: &Jid) {
        self.0.remove(to);
    }

    /// Whether `jid` got the session's presence this way: itself, or by its bare JID. It may ask the
    /// resource what a subscriber may ask (RFC 6121 §8.5.3.1).
    pub fn knows(&self, jid: &Jid) -> bool {
        self.0.contains(jid.as_str()) || self.0.contains(jid.bare_str())
    }

    /// Takes out those whom the user blocks now; they get unavailable presence (XEP-0191 §3.3).
    pub fn take_blocked(&mut self, is_blocked: impl Fn(&Jid) -> bool) -> Vec<Jid> {
        let (blocked, kept) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|jid| is_blocked(jid));
        self.0 = kept;
        let blocked: BTreeSet<Jid> = blocked;
        blocked.into_iter().collect()
    }

    /// Those who have to be told, when the session becomes unavailable. Contacts who get its
    /// broadcast presence may be among them.
    pub fn into_recipients(self) -> Vec<Jid> {
        self.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use rookery_proto::jid::BareJid;
    use rookery_proto::roster::Subscription;
    use rookery_proto::stanza::PresenceType;
    use rookery_proto::xml::Element;

    use super::*;

    fn presence(children: &[(&str, &str)]) -> Stanza {
        children.iter().fold(
            Stanza::presence(PresenceType::Available),
            |presence, (name, text)| {
                presence.with_child(Element::new(name, ns::CLIENT).with_text(text))
            },
        )
    }

    /// RFC 6121 §4.7.2.3
    #[test]
    fn priorities_are_small_integers() {
        let read = |text| priority(&presence(&[("priority", text)]));
        assert_eq!(priority(&presence(&[])), Ok(0));
        assert_eq!(priority(&presence(&[("show", "away")])), Ok(0));
        for (text, value) in [
            ("0", 0),
            ("127", 127),
            ("-128", -128),
            ("+5", 5),
            (" 7\n", 7),
            ("007", 7),
        ] {
            assert_eq!(read(text), Ok(value), "{text}");
        }
        for bad in ["", " ", "128", "-129", "1.5", "x", "1 2", "--1", "\u{a0}1"] {
            assert_eq!(read(bad), Err(Condition::BadRequest), "{bad:?}");
        }
        let twice = presence(&[("priority", "1"), ("priority", "1")]);
        assert_eq!(priority(&twice), Err(Condition::BadRequest));
    }

    #[test]
    fn a_priority_of_another_namespace_is_none() {
        let presence = Stanza::presence(PresenceType::Available)
            .with_child(Element::new("priority", "urn:x").with_text("9"));
        assert_eq!(priority(&presence), Ok(0));
    }

    #[test]
    fn show_has_four_values() {
        let read = |text| show(&presence(&[("show", text)]));
        assert_eq!(read("away"), Some(Show::Away));
        assert_eq!(read("chat"), Some(Show::Chat));
        assert_eq!(read("dnd"), Some(Show::Dnd));
        assert_eq!(read("xa"), Some(Show::Xa));
        assert_eq!(read("online"), None);
        assert_eq!(show(&presence(&[])), None);
    }

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn item(jid: &str, subscription: Subscription) -> RosterItem {
        RosterItem {
            subscription,
            ..RosterItem::new(BareJid::parse(jid).unwrap())
        }
    }

    #[test]
    fn presence_goes_by_subscription() {
        let mut asking = item("d@x", Subscription::None);
        asking.pending_in = Some("<presence/>".to_owned());
        let roster = [
            item("a@x", Subscription::From),
            item("b@x", Subscription::To),
            item("c@x", Subscription::Both),
            asking,
        ];
        let names = |items: Vec<&RosterItem>| -> Vec<String> {
            items.iter().map(|item| item.jid.to_string()).collect()
        };
        assert_eq!(
            names(broadcast_recipients(&roster).collect()),
            ["a@x", "c@x"]
        );
        assert_eq!(names(probe_targets(&roster).collect()), ["b@x", "c@x"]);
        assert_eq!(
            pending_requests(&roster).collect::<Vec<_>>(),
            ["<presence/>"]
        );
    }

    /// RFC 6121 §4.3.2
    #[test]
    fn only_subscribers_learn_presence_by_probing() {
        for (subscription, answer) in [
            (Subscription::None, ProbeAnswer::Unsubscribed),
            (Subscription::To, ProbeAnswer::Unsubscribed),
            (Subscription::From, ProbeAnswer::Presence),
            (Subscription::Both, ProbeAnswer::Presence),
        ] {
            assert_eq!(answer_probe(Some(&item("a@x", subscription))), answer);
        }
        assert_eq!(answer_probe(None), ProbeAnswer::Unsubscribed);
    }

    /// RFC 6121 §4.6.3
    #[test]
    fn those_who_got_directed_presence_are_remembered_until_told() {
        let mut directed = DirectedPresence::default();
        assert!(directed.sent_available(&jid("room@muc/ann")));
        assert!(directed.sent_available(&jid("bob@x")));
        assert!(directed.sent_available(&jid("bob@x")), "again");
        directed.sent_unavailable(&jid("nobody@x"));
        assert!(directed.knows(&jid("bob@x/desk")));
        assert!(directed.knows(&jid("room@muc/ann")));
        assert!(!directed.knows(&jid("room@muc")) && !directed.knows(&jid("room@muc/eve")));
        assert_eq!(
            directed.clone().into_recipients(),
            [jid("bob@x"), jid("room@muc/ann")]
        );
        directed.sent_unavailable(&jid("bob@x"));
        assert_eq!(directed.into_recipients(), [jid("room@muc/ann")]);
    }

    #[test]
    fn those_who_are_blocked_are_told_once() {
        let mut directed = DirectedPresence::default();
        directed.sent_available(&jid("bob@x/desk"));
        directed.sent_available(&jid("eve@x"));
        assert_eq!(
            directed.take_blocked(|jid| jid.bare_str() == "bob@x"),
            [jid("bob@x/desk")]
        );
        assert_eq!(directed.into_recipients(), [jid("eve@x")]);
    }

    #[test]
    fn directed_presence_is_bounded() {
        let mut directed = DirectedPresence::default();
        for index in 0..MAX_DIRECTED {
            assert!(directed.sent_available(&jid(&format!("user{index}@x"))));
        }
        assert!(!directed.sent_available(&jid("one-more@x")));
        assert!(directed.sent_available(&jid("user0@x")), "known already");
        directed.sent_unavailable(&jid("user0@x"));
        assert!(directed.sent_available(&jid("one-more@x")));
    }
}
