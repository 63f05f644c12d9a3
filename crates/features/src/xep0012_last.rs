//! XEP-0012 Last Activity, version 2.0.
//!
//! Supported: queries to an account's bare JID (§3) and to a served domain (§5). A query to a full
//! JID (§4) is delivered to the client, which answers; [`is_query`] is for finding those whose
//! sender may not see the client's presence, which get `forbidden` instead.

use std::time::Duration;

use rookery_proto::error::Condition;
use rookery_proto::stanza::{IqType, Kind, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(12, "2.0", &[NS]).on_accounts(&[NS]);

/// Namespace of the requests.
pub const NS: &str = "jabber:iq:last";

/// What is known of an account's last activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity<'a> {
    /// At least one resource is connected.
    Online,
    /// All resources have gone.
    Offline {
        /// Time since the last one did.
        since: Duration,
        /// The `<status/>` of its unavailable presence; empty if it had none.
        status: &'a str,
    },
    /// The account exists but was never online.
    Never,
}

/// Whether an IQ asks for the last activity of whoever it is addressed to (§2).
pub fn is_query(iq: &Stanza) -> bool {
    iq.kind == Kind::Iq(IqType::Get) && iq.has("query", NS)
}

/// Answers for a served domain with the time since its start (§5).
pub fn uptime(since_start: Duration) -> Element {
    last(since_start)
}

/// Answers for an account's bare JID (§3).
///
/// `visible` says whether the account exists *and* who asks may see its presence.
///
/// # Errors
/// `Forbidden` unless visible, so that neither presence nor the account's existence leaks;
/// `ItemNotFound` for an account that was never online.
pub fn account(visible: bool, activity: Activity<'_>) -> Result<Element, Condition> {
    if !visible {
        return Err(Condition::Forbidden);
    }
    match activity {
        Activity::Online => Ok(last(Duration::ZERO)),
        Activity::Offline { since, status: "" } => Ok(last(since)),
        Activity::Offline { since, status } => Ok(last(since).with_text(status)),
        Activity::Never => Err(Condition::ItemNotFound),
    }
}

/// The `<query/>` of a result, in whole seconds.
fn last(duration: Duration) -> Element {
    Element::new("query", NS).with_attr("seconds", duration.as_secs().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    const LEFT: Activity<'_> = Activity::Offline {
        since: Duration::from_millis(903_999),
        status: "Heading Home",
    };

    /// §3
    #[test]
    fn contacts_learn_when_a_user_left_and_with_which_words() {
        assert_eq!(
            account(true, LEFT),
            Ok(element(
                "<query xmlns='jabber:iq:last' seconds='903'>Heading Home</query>"
            ))
        );
        let silent = Activity::Offline {
            since: Duration::from_secs(903),
            status: "",
        };
        assert_eq!(
            account(true, silent),
            Ok(element("<query xmlns='jabber:iq:last' seconds='903'/>"))
        );
    }

    /// §3
    #[test]
    fn a_user_who_is_online_was_active_just_now() {
        assert_eq!(
            account(true, Activity::Online),
            Ok(element("<query xmlns='jabber:iq:last' seconds='0'/>"))
        );
    }

    /// §3, §8
    #[test]
    fn strangers_learn_nothing() {
        for activity in [LEFT, Activity::Online, Activity::Never] {
            assert_eq!(account(false, activity), Err(Condition::Forbidden));
        }
    }

    #[test]
    fn a_user_who_never_came_has_no_last_activity() {
        assert_eq!(account(true, Activity::Never), Err(Condition::ItemNotFound));
    }

    /// §2, §4
    #[test]
    fn a_query_is_recognized() {
        assert!(is_query(&iq("get", "<query xmlns='jabber:iq:last'/>")));
        assert!(!is_query(&iq(
            "result",
            "<query xmlns='jabber:iq:last' seconds='1'/>"
        )));
        assert!(!is_query(&iq("get", "<query xmlns='jabber:iq:version'/>")));
    }

    /// §5
    #[test]
    fn the_server_tells_its_uptime() {
        assert_eq!(
            uptime(Duration::from_secs(123_456)),
            element("<query xmlns='jabber:iq:last' seconds='123456'/>")
        );
    }
}
