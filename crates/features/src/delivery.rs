//! Where a stanza for a local account goes: the table of RFC 6121 §8.5.
//!
//! | stanza | bare JID (§8.5.2) | full JID, resource there (§8.5.3.1) | not there (§8.5.3.2) |
//! |---|---|---|---|
//! | message `chat` | all non-negative; none: store | deliver | as the bare JID |
//! | message `normal` | all non-negative; none: store | deliver | bounce |
//! | message `headline` | all non-negative; none: ignore | deliver | ignore |
//! | message `groupchat` | bounce | deliver | bounce |
//! | message `error` | ignore | deliver | ignore |
//! | presence, `unavailable` | all available; none: ignore | deliver | ignore |
//! | presence `error` | ignore | deliver | ignore |
//! | presence `subscribe`, `probe` | server | server | server |
//! | presence `subscribed`, `unsubscribe`, `unsubscribed` | server | server | ignore |
//! | IQ `get`, `set` | server | deliver | bounce |
//! | IQ `result`, `error` | server | deliver | ignore |
//!
//! *Non-negative* are the available resources whose priority is 0 or more; "the server MUST NOT
//! deliver the stanza to any available resource with a negative priority" (§8.5.2.1.1), while such a
//! resource still gets what is addressed to its full JID. Where the RFC leaves a choice:
//!
//! - `chat` and `normal` go to all of them, not to the "most available" ones: what a user reads on
//!   one device is there on the others. Every resource counts as opted in to chat messages.
//! - What may be ignored or bounced is bounced where the sender may wait for an outcome (`normal`,
//!   `groupchat`) and ignored for `headline`.
//!
//! Whether the account exists is found out by who acts: storing for, or asking, an account that is
//! not there ends in [`no_such_account`] (§8.5.1). A stanza of type `error` is never answered by an
//! error; that is checked where errors are made.

use rookery_proto::error::Condition;
use rookery_proto::stanza::{IqType, Kind, MessageType, PresenceType};
use smallvec::SmallVec;

/// A resource of the account that the stanza is for: connected, and available or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resource<'a> {
    /// The resourcepart.
    pub name: &'a str,
    /// It has sent initial presence (RFC 6121 §4.2) and no unavailable presence since.
    pub available: bool,
    /// The priority of its presence.
    pub priority: i8,
}

impl Resource<'_> {
    fn takes_messages(&self) -> bool {
        self.available && self.priority >= 0
    }
}

/// What happens to the stanza.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to these resources: indices into the slice, at least one. The `to` address stays as
    /// it is (§8.5.2.1.1).
    Deliver(SmallVec<[usize; 4]>),
    /// It is kept until the account has a resource for it, if [`crate::offline::is_stored`].
    Store,
    /// The sender gets an error.
    Bounce(Condition),
    /// Nothing happens.
    Ignore,
    /// The server acts on behalf of the account: subscriptions (§3), probes (§4.3), IQs.
    HandleByServer,
}

/// Decides about a stanza for an account.
///
/// `resource`: that of the address; `None` for a bare JID. `resources`: all of the account's, on all
/// nodes.
pub fn decide(kind: Kind, resource: Option<&str>, resources: &[Resource<'_>]) -> Decision {
    match resource {
        None => to_bare(kind, resources),
        Some(name) => match resources
            .iter()
            .position(|candidate| candidate.name == name)
        {
            Some(index) => to_present(kind, index),
            None => to_absent(kind, resources),
        },
    }
}

/// What becomes of a stanza for an account that does not exist (§8.5.1): the same as strangers see
/// of an account whose resources are all away. `Bounce` or `Ignore`.
///
/// The answer to a probe is [`crate::presence::answer_probe`]'s.
pub fn no_such_account(kind: Kind) -> Decision {
    match kind {
        Kind::Message(MessageType::Error | MessageType::Headline)
        | Kind::Presence(_)
        | Kind::Iq(IqType::Result | IqType::Error) => Decision::Ignore,
        Kind::Message(MessageType::Chat | MessageType::Groupchat | MessageType::Normal)
        | Kind::Iq(IqType::Get | IqType::Set) => Decision::Bounce(Condition::ServiceUnavailable),
    }
}

/// §8.5.2
fn to_bare(kind: Kind, resources: &[Resource<'_>]) -> Decision {
    match kind {
        Kind::Message(MessageType::Chat | MessageType::Normal) => {
            deliver(resources, Resource::takes_messages).unwrap_or(Decision::Store)
        }
        Kind::Message(MessageType::Headline) => {
            deliver(resources, Resource::takes_messages).unwrap_or(Decision::Ignore)
        }
        Kind::Message(MessageType::Groupchat) => Decision::Bounce(Condition::ServiceUnavailable),
        Kind::Message(MessageType::Error) | Kind::Presence(PresenceType::Error) => Decision::Ignore,
        Kind::Presence(PresenceType::Available | PresenceType::Unavailable) => {
            deliver(resources, |resource| resource.available).unwrap_or(Decision::Ignore)
        }
        Kind::Presence(
            PresenceType::Subscribe
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed
            | PresenceType::Probe,
        )
        | Kind::Iq(_) => Decision::HandleByServer,
    }
}

/// §8.5.3.1: the resource is connected, available or not.
fn to_present(kind: Kind, index: usize) -> Decision {
    match kind {
        Kind::Message(_)
        | Kind::Iq(_)
        | Kind::Presence(
            PresenceType::Available | PresenceType::Unavailable | PresenceType::Error,
        ) => Decision::Deliver(SmallVec::from_slice(&[index])),
        Kind::Presence(
            PresenceType::Subscribe
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed
            | PresenceType::Probe,
        ) => Decision::HandleByServer,
    }
}

/// §8.5.3.2
fn to_absent(kind: Kind, resources: &[Resource<'_>]) -> Decision {
    match kind {
        Kind::Message(MessageType::Chat) => to_bare(kind, resources),
        Kind::Message(MessageType::Normal | MessageType::Groupchat)
        | Kind::Iq(IqType::Get | IqType::Set) => Decision::Bounce(Condition::ServiceUnavailable),
        Kind::Message(MessageType::Headline | MessageType::Error)
        | Kind::Iq(IqType::Result | IqType::Error)
        | Kind::Presence(
            PresenceType::Available
            | PresenceType::Unavailable
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed
            | PresenceType::Error,
        ) => Decision::Ignore,
        Kind::Presence(PresenceType::Subscribe | PresenceType::Probe) => Decision::HandleByServer,
    }
}

fn deliver<'a>(
    resources: &[Resource<'a>],
    takes_it: impl Fn(&Resource<'a>) -> bool,
) -> Option<Decision> {
    let chosen: SmallVec<[usize; 4]> = resources
        .iter()
        .enumerate()
        .filter(|(_, resource)| takes_it(resource))
        .map(|(index, _)| index)
        .collect();
    (!chosen.is_empty()).then_some(Decision::Deliver(chosen))
}

#[cfg(test)]
mod tests {
    use IqType::{Get, Result as IqResult, Set};
    use MessageType::{Chat, Groupchat, Headline, Normal};
    use PresenceType::{
        Available, Probe, Subscribe, Subscribed, Unavailable, Unsubscribe, Unsubscribed,
    };
    use smallvec::smallvec;

    use super::*;

    const DESK: Resource<'_> = Resource {
        name: "desk",
        available: true,
        priority: 0,
    };
    const PHONE: Resource<'_> = Resource {
        name: "phone",
        available: true,
        priority: 5,
    };
    const SILENT: Resource<'_> = Resource {
        name: "silent",
        available: true,
        priority: -1,
    };
    const HIDDEN: Resource<'_> = Resource {
        name: "hidden",
        available: false,
        priority: 0,
    };

    fn to(indices: &[usize]) -> Decision {
        Decision::Deliver(indices.into())
    }

    const BOUNCE: Decision = Decision::Bounce(Condition::ServiceUnavailable);

    #[track_caller]
    fn assert_all(
        kinds: &[Kind],
        resource: Option<&str>,
        resources: &[Resource<'_>],
        expected: &Decision,
    ) {
        for kind in kinds {
            assert_eq!(decide(*kind, resource, resources), *expected, "{kind:?}");
        }
    }

    /// RFC 6121 §8.5.2.1.1
    #[test]
    fn messages_to_a_bare_jid_reach_every_non_negative_resource() {
        let all = [DESK, SILENT, HIDDEN, PHONE];
        let kinds = [Chat, Normal, Headline].map(Kind::Message);
        assert_all(&kinds, None, &all, &to(&[0, 3]));
        assert_all(&kinds, None, &[DESK], &to(&[0]));
        assert_all(&[Kind::Message(Groupchat)], None, &all, &BOUNCE);
        assert_all(
            &[Kind::Message(MessageType::Error)],
            None,
            &all,
            &Decision::Ignore,
        );
    }

    /// RFC 6121 §8.5.2.1.1, §8.5.2.2.1
    #[test]
    fn messages_to_a_bare_jid_that_no_resource_takes_are_stored_or_not() {
        for resources in [&[][..], &[SILENT], &[HIDDEN], &[SILENT, HIDDEN]] {
            let stored = [Chat, Normal].map(Kind::Message);
            assert_all(&stored, None, resources, &Decision::Store);
            let ignored = [Headline, MessageType::Error].map(Kind::Message);
            assert_all(&ignored, None, resources, &Decision::Ignore);
            assert_all(&[Kind::Message(Groupchat)], None, resources, &BOUNCE);
        }
    }

    /// RFC 6121 §8.5.2.1.2, §8.5.2.2.2
    #[test]
    fn presence_to_a_bare_jid_reaches_every_available_resource() {
        let kinds = [Available, Unavailable].map(Kind::Presence);
        assert_all(&kinds, None, &[DESK, HIDDEN, SILENT], &to(&[0, 2]));
        assert_all(&kinds, None, &[HIDDEN], &Decision::Ignore);
        assert_all(&kinds, None, &[], &Decision::Ignore);
        let error = [Kind::Presence(PresenceType::Error)];
        assert_all(&error, None, &[DESK], &Decision::Ignore);
    }

    /// RFC 6121 §8.5.2.1.2, §8.5.2.1.3, §8.5.2.2.2, §8.5.2.2.3
    #[test]
    fn the_server_answers_for_the_bare_jid() {
        let kinds = [
            Kind::Presence(Subscribe),
            Kind::Presence(Subscribed),
            Kind::Presence(Unsubscribe),
            Kind::Presence(Unsubscribed),
            Kind::Presence(Probe),
            Kind::Iq(Get),
            Kind::Iq(Set),
            Kind::Iq(IqResult),
            Kind::Iq(IqType::Error),
        ];
        assert_all(&kinds, None, &[DESK], &Decision::HandleByServer);
        assert_all(&kinds, None, &[], &Decision::HandleByServer);
    }

    /// RFC 6121 §8.5.3.1
    #[test]
    fn a_connected_resource_gets_what_is_addressed_to_it() {
        let kinds = [
            Kind::Message(Chat),
            Kind::Message(Normal),
            Kind::Message(Headline),
            Kind::Message(Groupchat),
            Kind::Message(MessageType::Error),
            Kind::Presence(Available),
            Kind::Presence(Unavailable),
            Kind::Presence(PresenceType::Error),
            Kind::Iq(Get),
            Kind::Iq(Set),
            Kind::Iq(IqResult),
            Kind::Iq(IqType::Error),
        ];
        for (index, name) in ["desk", "silent", "hidden"].into_iter().enumerate() {
            assert_all(&kinds, Some(name), &[DESK, SILENT, HIDDEN], &to(&[index]));
        }
        let handled = [Subscribe, Subscribed, Unsubscribe, Unsubscribed, Probe].map(Kind::Presence);
        assert_all(&handled, Some("desk"), &[DESK], &Decision::HandleByServer);
    }

    /// RFC 6121 §8.5.3.2.1
    #[test]
    fn only_chat_messages_go_to_other_resources_than_the_addressed_one() {
        let all = [DESK, SILENT, PHONE];
        assert_all(&[Kind::Message(Chat)], Some("gone"), &all, &to(&[0, 2]));
        assert_all(
            &[Kind::Message(Chat)],
            Some("gone"),
            &[SILENT],
            &Decision::Store,
        );
        assert_all(&[Kind::Message(Chat)], Some("gone"), &[], &Decision::Store);
        for resources in [&all[..], &[]] {
            let bounced = [Normal, Groupchat].map(Kind::Message);
            assert_all(&bounced, Some("gone"), resources, &BOUNCE);
            let ignored = [Headline, MessageType::Error].map(Kind::Message);
            assert_all(&ignored, Some("gone"), resources, &Decision::Ignore);
        }
    }

    /// RFC 6121 §8.5.3.2.2, §8.5.3.2.3
    #[test]
    fn presence_and_iqs_for_a_resource_that_is_gone_end() {
        let ignored = [
            Kind::Presence(Available),
            Kind::Presence(Unavailable),
            Kind::Presence(Subscribed),
            Kind::Presence(Unsubscribe),
            Kind::Presence(Unsubscribed),
            Kind::Presence(PresenceType::Error),
            Kind::Iq(IqResult),
            Kind::Iq(IqType::Error),
        ];
        assert_all(&ignored, Some("gone"), &[DESK], &Decision::Ignore);
        let handled = [Subscribe, Probe].map(Kind::Presence);
        assert_all(&handled, Some("gone"), &[DESK], &Decision::HandleByServer);
        assert_all(&[Get, Set].map(Kind::Iq), Some("gone"), &[DESK], &BOUNCE);
    }

    #[test]
    fn resources_are_compared_exactly() {
        assert_all(&[Kind::Iq(Get)], Some("Desk"), &[DESK], &BOUNCE);
    }

    /// RFC 6121 §8.5.1
    #[test]
    fn nothing_tells_an_absent_account_from_one_that_does_not_exist() {
        let bounced = [
            Kind::Message(Chat),
            Kind::Message(Normal),
            Kind::Message(Groupchat),
            Kind::Iq(Get),
            Kind::Iq(Set),
        ];
        for kind in bounced {
            assert_eq!(no_such_account(kind), BOUNCE, "{kind:?}");
        }
        let ignored = [
            Kind::Message(Headline),
            Kind::Message(MessageType::Error),
            Kind::Presence(Available),
            Kind::Presence(Subscribe),
            Kind::Presence(Unsubscribed),
            Kind::Iq(IqResult),
            Kind::Iq(IqType::Error),
        ];
        for kind in ignored {
            assert_eq!(no_such_account(kind), Decision::Ignore, "{kind:?}");
        }
        let empty: SmallVec<[usize; 4]> = smallvec![];
        assert_ne!(
            decide(Kind::Message(Chat), None, &[]),
            Decision::Deliver(empty)
        );
    }
}
