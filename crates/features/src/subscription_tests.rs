//! The tables of RFC 6121 Appendix A, row by row, then what they do not show.

use Request::{Subscribe, Subscribed, Unsubscribe, Unsubscribed};
use State::{
    Both, From, FromPendingOut, None_, NonePendingIn, NonePendingOut, NonePendingOutIn, To,
    ToPendingIn,
};

use super::*;

/// Appendix A.1
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    None_,
    NonePendingOut,
    NonePendingIn,
    NonePendingOutIn,
    To,
    ToPendingIn,
    From,
    FromPendingOut,
    Both,
}

const STATES: [State; 9] = [
    None_,
    NonePendingOut,
    NonePendingIn,
    NonePendingOutIn,
    To,
    ToPendingIn,
    From,
    FromPendingOut,
    Both,
];

fn contact() -> BareJid {
    BareJid::parse("contact@example.net").unwrap()
}

fn stanza(kind: PresenceType) -> Stanza {
    Stanza::presence(kind)
        .with_from(contact())
        .with_to(BareJid::parse("user@example.com").unwrap())
}

/// An item that the user put into the roster, in the given state.
fn item(state: State) -> RosterItem {
    let (subscription, ask, pending_in) = match state {
        None_ => (Subscription::None, false, false),
        NonePendingOut => (Subscription::None, true, false),
        NonePendingIn => (Subscription::None, false, true),
        NonePendingOutIn => (Subscription::None, true, true),
        To => (Subscription::To, false, false),
        ToPendingIn => (Subscription::To, false, true),
        From => (Subscription::From, false, false),
        FromPendingOut => (Subscription::From, true, false),
        Both => (Subscription::Both, false, false),
    };
    RosterItem {
        name: Some("Contact".to_owned()),
        subscription,
        ask,
        pending_in: pending_in.then(|| "<presence/>".to_owned()),
        groups: vec!["Friends".to_owned()],
        ..RosterItem::new(contact())
    }
}

fn state(item: &RosterItem) -> State {
    match (item.subscription, item.ask, item.pending_in.is_some()) {
        (Subscription::None, false, false) => None_,
        (Subscription::None, true, false) => NonePendingOut,
        (Subscription::None, false, true) => NonePendingIn,
        (Subscription::None, true, true) => NonePendingOutIn,
        (Subscription::To, false, false) => To,
        (Subscription::To, false, true) => ToPendingIn,
        (Subscription::From, false, false) => From,
        (Subscription::From, true, false) => FromPendingOut,
        (Subscription::Both, false, false) => Both,
        other => panic!("no state of Appendix A: {other:?}"),
    }
}

/// The item after the change, and that name and groups stayed.
#[track_caller]
fn after(before: &RosterItem, change: &Change) -> RosterItem {
    let after = match change {
        Change::Keep => before.clone(),
        Change::Put(item) => item.clone(),
        Change::Remove => panic!("an item of the user went"),
    };
    assert_eq!(
        (&after.jid, &after.name, &after.groups),
        (&before.jid, &before.name, &before.groups)
    );
    after
}

/// Rows: existing state, whether the stanza is routed, new state.
fn check_outbound(request: Request, table: [(State, bool, State); 9]) {
    assert_eq!(table.map(|row| row.0), STATES, "every state once");
    for (existing, routed, new) in table {
        let before = item(existing);
        let decision = outbound(request, &contact(), Some(&before));
        let after = after(&before, &decision.change);
        assert_eq!(state(&after), new, "{request:?} in {existing:?}");
        assert_eq!(decision.route, routed, "{request:?} in {existing:?}");
        assert_eq!(
            decision.change == Change::Keep,
            before == after,
            "{request:?} in {existing:?}"
        );
        assert_eq!(
            decision.push,
            visible(&before) != visible(&after),
            "{request:?} in {existing:?}: push"
        );
    }
}

/// Rows: existing state, whether the stanza is delivered, new state.
fn check_inbound(request: Request, kind: PresenceType, table: [(State, bool, State); 9]) {
    assert_eq!(table.map(|row| row.0), STATES, "every state once");
    for (existing, delivered, new) in table {
        let before = item(existing);
        let decision = inbound(request, &contact(), Some(&before), &stanza(kind));
        let after = after(&before, &decision.change);
        assert_eq!(state(&after), new, "{request:?} in {existing:?}");
        assert_eq!(decision.deliver, delivered, "{request:?} in {existing:?}");
        assert_eq!(
            decision.change == Change::Keep,
            before == after,
            "{request:?} in {existing:?}"
        );
        assert_eq!(
            decision.push,
            visible(&before) != visible(&after),
            "{request:?} in {existing:?}: push"
        );
    }
}

#[test]
fn appendix_a_2_1_outbound_subscribe() {
    check_outbound(
        Subscribe,
        [
            (None_, true, NonePendingOut),
            (NonePendingOut, true, NonePendingOut),
            (NonePendingIn, true, NonePendingOutIn),
            (NonePendingOutIn, true, NonePendingOutIn),
            (To, true, To),
            (ToPendingIn, true, ToPendingIn),
            (From, true, FromPendingOut),
            (FromPendingOut, true, FromPendingOut),
            (Both, true, Both),
        ],
    );
}

#[test]
fn appendix_a_2_2_outbound_unsubscribe() {
    check_outbound(
        Unsubscribe,
        [
            (None_, true, None_),
            (NonePendingOut, true, None_),
            (NonePendingIn, true, NonePendingIn),
            (NonePendingOutIn, true, NonePendingIn),
            (To, true, None_),
            (ToPendingIn, true, NonePendingIn),
            (From, true, From),
            (FromPendingOut, true, From),
            (Both, true, From),
        ],
    );
}

#[test]
fn appendix_a_2_3_outbound_subscribed() {
    check_outbound(
        Subscribed,
        [
            (None_, false, None_),
            (NonePendingOut, false, NonePendingOut),
            (NonePendingIn, true, From),
            (NonePendingOutIn, true, FromPendingOut),
            (To, false, To),
            (ToPendingIn, true, Both),
            (From, false, From),
            (FromPendingOut, false, FromPendingOut),
            (Both, false, Both),
        ],
    );
}

#[test]
fn appendix_a_2_4_outbound_unsubscribed() {
    check_outbound(
        Unsubscribed,
        [
            (None_, false, None_),
            (NonePendingOut, false, NonePendingOut),
            (NonePendingIn, true, None_),
            (NonePendingOutIn, true, NonePendingOut),
            (To, false, To),
            (ToPendingIn, true, To),
            (From, true, None_),
            (FromPendingOut, true, NonePendingOut),
            (Both, true, To),
        ],
    );
}

#[test]
fn appendix_a_3_1_inbound_subscribe() {
    check_inbound(
        Subscribe,
        PresenceType::Subscribe,
        [
            (None_, true, NonePendingIn),
            (NonePendingOut, true, NonePendingOutIn),
            (NonePendingIn, false, NonePendingIn),
            (NonePendingOutIn, false, NonePendingOutIn),
            (To, true, ToPendingIn),
            (ToPendingIn, false, ToPendingIn),
            (From, false, From),
            (FromPendingOut, false, FromPendingOut),
            (Both, false, Both),
        ],
    );
}

#[test]
fn appendix_a_3_2_inbound_unsubscribe() {
    check_inbound(
        Unsubscribe,
        PresenceType::Unsubscribe,
        [
            (None_, false, None_),
            (NonePendingOut, false, NonePendingOut),
            (NonePendingIn, true, None_),
            (NonePendingOutIn, true, NonePendingOut),
            (To, false, To),
            (ToPendingIn, true, To),
            (From, true, None_),
            (FromPendingOut, true, NonePendingOut),
            (Both, true, To),
        ],
    );
}

#[test]
fn appendix_a_3_3_inbound_subscribed() {
    check_inbound(
        Subscribed,
        PresenceType::Subscribed,
        [
            (None_, false, None_),
            (NonePendingOut, true, To),
            (NonePendingIn, false, NonePendingIn),
            (NonePendingOutIn, true, ToPendingIn),
            (To, false, To),
            (ToPendingIn, false, ToPendingIn),
            (From, false, From),
            (FromPendingOut, true, Both),
            (Both, false, Both),
        ],
    );
}

#[test]
fn appendix_a_3_4_inbound_unsubscribed() {
    check_inbound(
        Unsubscribed,
        PresenceType::Unsubscribed,
        [
            (None_, false, None_),
            (NonePendingOut, true, None_),
            (NonePendingIn, false, NonePendingIn),
            (NonePendingOutIn, true, NonePendingIn),
            (To, true, None_),
            (ToPendingIn, true, NonePendingIn),
            (From, false, From),
            (FromPendingOut, true, From),
            (Both, true, From),
        ],
    );
}

/// RFC 6121 §3.1.5, §3.2.2
#[test]
fn an_approval_shows_presence_and_a_cancellation_ends_it() {
    for existing in STATES {
        let approval = outbound(Subscribed, &contact(), Some(&item(existing)));
        let expected = if approval.route {
            Presence::SendAvailable
        } else {
            Presence::Keep
        };
        assert_eq!(approval.presence, expected, "{existing:?}");

        let seen = matches!(existing, From | FromPendingOut | Both);
        let expected = if seen {
            Presence::SendUnavailable
        } else {
            Presence::Keep
        };
        let cancellation = outbound(Unsubscribed, &contact(), Some(&item(existing)));
        assert_eq!(cancellation.presence, expected, "{existing:?}");
        for request in [Subscribe, Unsubscribe] {
            let decision = outbound(request, &contact(), Some(&item(existing)));
            assert_eq!(
                decision.presence,
                Presence::Keep,
                "{request:?} in {existing:?}"
            );
        }
    }
}

/// RFC 6121 §3.1.3, §3.3.3
#[test]
fn the_contact_sees_and_loses_presence_by_its_own_stanzas() {
    for existing in STATES {
        let seen = matches!(existing, From | FromPendingOut | Both);
        let decide =
            |request, kind| inbound(request, &contact(), Some(&item(existing)), &stanza(kind));
        let subscribe = decide(Subscribe, PresenceType::Subscribe);
        assert_eq!(subscribe.auto_reply, seen, "{existing:?}");
        let expected = if seen {
            Presence::SendAvailable
        } else {
            Presence::Keep
        };
        assert_eq!(subscribe.presence, expected, "{existing:?}");

        let unsubscribe = decide(Unsubscribe, PresenceType::Unsubscribe);
        let expected = if seen {
            Presence::SendUnavailable
        } else {
            Presence::Keep
        };
        assert_eq!(
            (unsubscribe.presence, unsubscribe.auto_reply),
            (expected, false),
            "{existing:?}"
        );

        let subscribed = decide(Subscribed, PresenceType::Subscribed);
        assert_eq!(
            (subscribed.presence, subscribed.auto_reply),
            (Presence::Keep, false)
        );
        let unsubscribed = decide(Unsubscribed, PresenceType::Unsubscribed);
        assert_eq!(
            (unsubscribed.presence, unsubscribed.auto_reply),
            (Presence::Keep, false)
        );
    }
}

/// RFC 6121 §3.1.2: the item is made by asking.
#[test]
fn a_subscription_request_creates_the_item() {
    let decision = outbound(Subscribe, &contact(), None);
    let expected = RosterItem {
        ask: true,
        ..RosterItem::new(contact())
    };
    assert_eq!(decision.change, Change::Put(expected));
    assert!(decision.push && decision.route);
}

#[test]
fn other_stanzas_about_strangers_create_nothing() {
    for request in [Unsubscribe, Unsubscribed] {
        let decision = outbound(request, &contact(), None);
        assert_eq!(
            (decision.change, decision.push),
            (Change::Keep, false),
            "{request:?}"
        );
        assert_eq!(decision.route, request == Unsubscribe);
    }
    for (request, kind) in [
        (Subscribed, PresenceType::Subscribed),
        (Unsubscribe, PresenceType::Unsubscribe),
        (Unsubscribed, PresenceType::Unsubscribed),
    ] {
        let decision = inbound(request, &contact(), None, &stanza(kind));
        assert_eq!(
            (decision.change, decision.deliver),
            (Change::Keep, false),
            "{request:?}"
        );
    }
}

/// RFC 6121 §3.1.3 and A.1: kept for the user, not shown in the roster.
#[test]
fn a_strangers_request_is_kept_and_not_listed() {
    let request = stanza(PresenceType::Subscribe);
    let decision = inbound(Subscribe, &contact(), None, &request);
    assert!(decision.deliver && !decision.push);
    let Change::Put(kept) = decision.change else {
        panic!("nothing kept")
    };
    assert!(!is_listed(&kept));
    assert_eq!(
        Stanza::from_xml(&kept.pending_in.clone().unwrap())
            .unwrap()
            .from,
        request.from
    );

    // Refused: it goes without a trace; the contact is told.
    let refusal = outbound(Unsubscribed, &contact(), Some(&kept));
    assert_eq!(
        (refusal.change, refusal.push, refusal.route),
        (Change::Remove, false, true)
    );
    // Withdrawn by the contact: likewise; the user is told.
    let withdrawal = inbound(
        Unsubscribe,
        &contact(),
        Some(&kept),
        &stanza(PresenceType::Unsubscribe),
    );
    assert_eq!(
        (withdrawal.change, withdrawal.push),
        (Change::Remove, false)
    );
    assert!(withdrawal.deliver);
    // Approved: now it is listed.
    let approval = outbound(Subscribed, &contact(), Some(&kept));
    let Change::Put(item) = approval.change else {
        panic!("not approved")
    };
    assert!(approval.push && approval.route && is_listed(&item));
    assert_eq!(item.subscription, Subscription::From);
    // Asked back first: listed, and the request stays.
    let ask = outbound(Subscribe, &contact(), Some(&kept));
    let Change::Put(item) = ask.change else {
        panic!("not asked")
    };
    assert!(ask.push && is_listed(&item) && item.pending_in.is_some());
}

/// An item that the user made stays in the roster when its contact asks and is refused.
#[test]
fn a_request_does_not_hide_an_item_of_the_user() {
    let bare = RosterItem::new(contact());
    let asked = inbound(
        Subscribe,
        &contact(),
        Some(&bare),
        &stanza(PresenceType::Subscribe),
    );
    let Change::Put(pending) = asked.change else {
        panic!("nothing kept")
    };
    assert!(is_listed(&pending) && !asked.push);
    let refusal = outbound(Unsubscribed, &contact(), Some(&pending));
    let Change::Put(refused) = refusal.change else {
        panic!("the item went")
    };
    assert!(is_listed(&refused) && !refusal.push);

    // Also when what marked it as the user's ends meanwhile.
    let asking = RosterItem {
        ask: true,
        ..pending
    };
    let refused = inbound(
        Unsubscribed,
        &contact(),
        Some(&asking),
        &stanza(PresenceType::Unsubscribed),
    );
    let Change::Put(item) = refused.change else {
        panic!("the item went")
    };
    assert!(is_listed(&item) && refused.push && refused.deliver);
}

#[test]
fn a_long_request_is_kept_without_its_content() {
    let text = "x".repeat(MAX_STORED_REQUEST_BYTES);
    let status = rookery_proto::Element::new("status", rookery_proto::ns::CLIENT).with_text(&text);
    let request = stanza(PresenceType::Subscribe).with_child(status);
    let Change::Put(kept) = inbound(Subscribe, &contact(), None, &request).change else {
        panic!("nothing kept")
    };
    let kept = kept.pending_in.unwrap();
    assert!(kept.len() < 200);
    let kept = Stanza::from_xml(&kept).unwrap();
    assert_eq!(
        (&kept.from, &kept.to, kept.kind),
        (&request.from, &request.to, request.kind)
    );
}

/// RFC 6121 §3.4.2
#[test]
fn a_contact_can_be_approved_before_it_asks() {
    for existing in [Option::None, Some(None_), Some(NonePendingOut), Some(To)] {
        let before = existing.map(item);
        let approval = outbound(Subscribed, &contact(), before.as_ref());
        assert!(approval.push && !approval.route, "{existing:?}");
        assert_eq!(approval.presence, Presence::Keep);
        let Change::Put(approved) = approval.change else {
            panic!("not approved: {existing:?}")
        };
        assert!(approved.approved && is_listed(&approved));

        let again = outbound(Subscribed, &contact(), Some(&approved));
        assert_eq!(
            (again.change, again.push, again.route),
            (Change::Keep, false, false)
        );

        let asked = inbound(
            Subscribe,
            &contact(),
            Some(&approved),
            &stanza(PresenceType::Subscribe),
        );
        assert!(
            asked.auto_reply && asked.push && !asked.deliver,
            "{existing:?}"
        );
        assert_eq!(asked.presence, Presence::SendAvailable);
        let Change::Put(item) = asked.change else {
            panic!("not subscribed: {existing:?}")
        };
        assert!(item.subscription.seen_by_contact() && item.pending_in.is_none());
        assert!(!item.approved, "an approval is used up");
    }
}

/// RFC 6121 §3.2.2
#[test]
fn a_pre_approval_can_be_taken_back() {
    for existing in [None_, NonePendingOut, To] {
        let before = RosterItem {
            approved: true,
            ..item(existing)
        };
        let decision = outbound(Unsubscribed, &contact(), Some(&before));
        assert!(decision.push && !decision.route, "{existing:?}");
        assert_eq!(decision.change, Change::Put(item(existing)));
    }
}

#[test]
fn a_contact_that_sees_presence_needs_no_pre_approval() {
    for existing in [From, FromPendingOut, Both] {
        let decision = outbound(Subscribed, &contact(), Some(&item(existing)));
        assert_eq!(
            (decision.change, decision.push),
            (Change::Keep, false),
            "{existing:?}"
        );
    }
}

/// RFC 6121 §2.5.2
#[test]
fn a_removed_contact_is_told_what_ends() {
    let told = |state| {
        let farewell = farewell(&item(state));
        (
            farewell.unsubscribe,
            farewell.unavailable,
            farewell.unsubscribed,
        )
    };
    assert_eq!(told(None_), (false, false, false));
    assert_eq!(told(NonePendingOut), (true, false, false));
    assert_eq!(told(NonePendingIn), (false, false, true));
    assert_eq!(told(NonePendingOutIn), (true, false, true));
    assert_eq!(told(To), (true, false, false));
    assert_eq!(told(ToPendingIn), (true, false, true));
    assert_eq!(told(From), (false, true, true));
    assert_eq!(told(FromPendingOut), (true, true, true));
    assert_eq!(told(Both), (true, true, true));
}

#[test]
fn only_subscription_stanzas_are_requests() {
    use PresenceType::{Available, Error, Probe, Unavailable};
    assert_eq!(Request::of(PresenceType::Subscribe), Some(Subscribe));
    assert_eq!(Request::of(PresenceType::Subscribed), Some(Subscribed));
    assert_eq!(Request::of(PresenceType::Unsubscribe), Some(Unsubscribe));
    assert_eq!(Request::of(PresenceType::Unsubscribed), Some(Unsubscribed));
    for other in [Available, Unavailable, Probe, Error] {
        assert_eq!(Request::of(other), Option::None);
    }
}

/// Two users of one server and all that they can do to each other, one thing after the other:
/// whatever state they reach, both sides agree on it.
#[test]
fn both_sides_always_agree() {
    type Side = Option<RosterItem>;

    fn apply(side: &mut Side, change: Change) {
        match change {
            Change::Keep => {}
            Change::Put(item) => *side = Some(item),
            Change::Remove => *side = Option::None,
        }
    }

    /// The stanza arrives at `to`; an automatic reply goes back.
    fn arrive(request: Request, from: &mut Side, to: &mut Side) {
        let decision = inbound(
            request,
            &contact(),
            to.as_ref(),
            &stanza(PresenceType::Subscribe),
        );
        apply(to, decision.change);
        if decision.auto_reply {
            arrive(Subscribed, to, from);
        }
    }

    fn remove(from: &mut Side, to: &mut Side) {
        let Some(item) = from.take_if(|item| is_listed(item)) else {
            return;
        };
        let told = farewell(&item);
        if told.unsubscribe {
            arrive(Unsubscribe, from, to);
        }
        if told.unsubscribed {
            arrive(Unsubscribed, from, to);
        }
    }

    fn facts(side: &Side) -> (bool, bool, bool, bool) {
        side.as_ref().map_or((false, false, false, false), |item| {
            let subscription = item.subscription;
            (
                subscription.sees_contact(),
                item.ask,
                subscription.seen_by_contact(),
                item.pending_in.is_some(),
            )
        })
    }

    let mut known: Vec<(Side, Side)> = vec![(Option::None, Option::None)];
    let mut next = 0;
    while let Some((ann, bob)) = known.get(next).cloned() {
        next += 1;
        let (sees, asks, is_seen, is_asked) = facts(&ann);
        assert_eq!(
            (is_seen, is_asked, sees, asks),
            facts(&bob),
            "{ann:?} and {bob:?}"
        );
        assert!(!(sees && asks), "{ann:?}");
        assert!(!(is_seen && is_asked), "{ann:?}");
        for swapped in [false, true] {
            let sides = || {
                if swapped {
                    (bob.clone(), ann.clone())
                } else {
                    (ann.clone(), bob.clone())
                }
            };
            let mut outcomes = Vec::new();
            for request in [Subscribe, Subscribed, Unsubscribe, Unsubscribed] {
                let (mut from, mut to) = sides();
                let decision = outbound(request, &contact(), from.as_ref());
                apply(&mut from, decision.change);
                if decision.route {
                    arrive(request, &mut from, &mut to);
                }
                outcomes.push((from, to));
            }
            let (mut from, mut to) = sides();
            remove(&mut from, &mut to);
            outcomes.push((from, to));
            for (from, to) in outcomes {
                let pair = if swapped { (to, from) } else { (from, to) };
                if !known.contains(&pair) {
                    known.push(pair);
                }
            }
        }
    }
    assert!(known.len() > 50, "only {} pairs of states", known.len());
}
