//! Whom an IQ is for and which feature handles it (RFC 6120 §8.4, §10; RFC 6121 §8).
//!
//! The server answers IQs to its domains and, on behalf of the accounts, those to their bare JIDs.
//! All others are delivered or routed, and not looked into.

use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::ns;
use rookery_proto::stanza::{IqType, Kind, Stanza};

use crate::{
    xep0012_last, xep0030_disco, xep0049_private, xep0050_commands, xep0054_vcard,
    xep0077_register, xep0092_version, xep0191_blocking, xep0199_ping, xep0202_time,
    xep0280_carbons, xep0313_mam,
};

/// Whom a client's IQ is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// A served domain.
    Server,
    /// The sender's own account: its bare JID, or no address (RFC 6120 §10.3.3).
    Own,
    /// Another account at a served domain, which may not exist.
    Account(BareJid),
    /// A resource of an account at a served domain: to be delivered (RFC 6121 §8.5.3).
    Resource(FullJid),
    /// A resource of a served domain itself, of which there are none.
    Nobody,
    /// Somebody at another domain.
    Remote,
}

impl Addressee {
    /// Reads the address of an IQ that `sender` sent; `is_served` tells the served domains.
    pub fn of(to: Option<&Jid>, sender: &BareJid, is_served: impl Fn(&str) -> bool) -> Self {
        let Some(to) = to else {
            return Self::Own;
        };
        if !is_served(to.domain()) {
            return Self::Remote;
        }
        match (to.local(), to.to_full()) {
            (None, None) => Self::Server,
            (None, Some(_)) => Self::Nobody,
            (Some(_), Some(full)) => Self::Resource(full),
            (Some(_), None) if to.bare_str() == sender.as_str() => Self::Own,
            (Some(_), None) => Self::Account(to.to_bare()),
        }
    }
}

/// What the server has to do about an IQ that it answers itself.
///
/// A variant says which feature reads the IQ and answers it; what stands inside the payload is not
/// checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Roster get (RFC 6121 §2.1.3) from the account itself.
    RosterGet,
    /// Roster set (RFC 6121 §2.1.5) from the account itself.
    RosterSet,
    /// The block list (XEP-0191 §3.2).
    BlockList,
    /// Additions to the block list (XEP-0191 §3.3).
    Block,
    /// Removals from the block list (XEP-0191 §3.4).
    Unblock,
    /// The vCard of the account itself or of another.
    VcardGet,
    /// The account's own vCard.
    VcardSet,
    /// Stored private data of the account itself.
    PrivateGet,
    /// Private data to store for the account itself.
    PrivateSet,
    /// Carbons for the resource that asks (XEP-0280 §4).
    CarbonsEnable,
    /// No more carbons for it (XEP-0280 §5).
    CarbonsDisable,
    /// Messages of the account's own archive (XEP-0313 §4).
    ArchiveQuery,
    /// The form for such a query (XEP-0313 §4.1.5).
    ArchiveForm,
    /// Where the account's own archive begins and ends (XEP-0313 §5).
    ArchiveMetadata,
    /// What the account wants archived (XEP-0441 §2.1).
    PreferencesGet,
    /// The same, to be changed.
    PreferencesSet,
    /// disco#info of a domain, the account itself or another.
    DiscoInfo {
        /// The node asked about.
        node: Option<String>,
    },
    /// disco#items of a domain, the account itself or another.
    DiscoItems {
        /// The node asked about.
        node: Option<String>,
    },
    /// A ping to the server.
    Ping,
    /// The server's version.
    Version,
    /// The server's time.
    Time,
    /// The server's uptime, or the last activity of the account itself or of another.
    Last,
    /// The state of the account's registration.
    RegisterGet,
    /// Change of the password or removal of the account.
    RegisterSet,
    /// Session establishment of RFC 3921 §3: answered with an empty result, nothing else happens.
    Session,
    /// Another resource binding: refused with [`crate::bind::Refusal::AlreadyBound`].
    Bind,
    /// A result or error: no request, so nothing is answered (RFC 6120 §8.2.3).
    Reply,
    /// A command of the server (XEP-0050).
    Command,
    /// An attempt to read or change what only the account itself may: `forbidden`.
    Forbidden,
    /// Nothing that is understood here: `service-unavailable` (RFC 6120 §8.4).
    Unknown,
}

impl Request {
    /// Classifies an IQ that the server answers itself.
    ///
    /// For stanzas other than IQs, and for addressees that the server does not answer for, the
    /// result is `Unknown`, or `Reply` for results and errors.
    pub fn of(iq: &Stanza, addressee: &Addressee) -> Self {
        let set = match iq.kind {
            Kind::Iq(IqType::Get) => false,
            Kind::Iq(IqType::Set) => true,
            Kind::Iq(IqType::Result | IqType::Error) => return Self::Reply,
            Kind::Message(_) | Kind::Presence(_) => return Self::Unknown,
        };
        let Some(payload) = iq.payload() else {
            return Self::Unknown;
        };
        let name = (payload.name(), payload.ns(), set);
        match addressee {
            Addressee::Server => to_server(name, iq),
            Addressee::Own => to_own_account(name, iq),
            Addressee::Account(_) => to_other_account(name, iq),
            Addressee::Resource(_) | Addressee::Nobody | Addressee::Remote => Self::Unknown,
        }
    }
}

/// Local name and namespace of a payload, and whether the IQ is a set.
type Payload<'a> = (&'a str, &'a str, bool);

/// Requests to a served domain.
fn to_server(payload: Payload<'_>, iq: &Stanza) -> Request {
    match payload {
        ("query", xep0030_disco::NS_INFO, false) => Request::DiscoInfo { node: node(iq) },
        ("query", xep0030_disco::NS_ITEMS, false) => Request::DiscoItems { node: node(iq) },
        ("query", xep0092_version::NS, false) => Request::Version,
        ("time", xep0202_time::NS, false) => Request::Time,
        ("query", xep0012_last::NS, false) => Request::Last,
        ("command", xep0050_commands::NS, true) => Request::Command,
        ("vCard", xep0054_vcard::NS, true) | ("query", xep0049_private::NS, _) => {
            Request::Forbidden
        }
        _ => of_the_stream(payload),
    }
}

/// Requests to the sender's own account.
fn to_own_account(payload: Payload<'_>, iq: &Stanza) -> Request {
    match payload {
        ("query", ns::ROSTER, false) => Request::RosterGet,
        ("query", ns::ROSTER, true) => Request::RosterSet,
        ("blocklist", xep0191_blocking::NS, false) => Request::BlockList,
        ("block", xep0191_blocking::NS, true) => Request::Block,
        ("unblock", xep0191_blocking::NS, true) => Request::Unblock,
        ("vCard", xep0054_vcard::NS, false) => Request::VcardGet,
        ("vCard", xep0054_vcard::NS, true) => Request::VcardSet,
        ("query", xep0049_private::NS, false) => Request::PrivateGet,
        ("query", xep0049_private::NS, true) => Request::PrivateSet,
        ("enable", xep0280_carbons::NS, true) => Request::CarbonsEnable,
        ("disable", xep0280_carbons::NS, true) => Request::CarbonsDisable,
        ("query", xep0313_mam::NS, true) => Request::ArchiveQuery,
        ("query", xep0313_mam::NS, false) => Request::ArchiveForm,
        ("metadata", xep0313_mam::NS, false) => Request::ArchiveMetadata,
        ("prefs", xep0313_mam::NS, false) => Request::PreferencesGet,
        ("prefs", xep0313_mam::NS, true) => Request::PreferencesSet,
        ("query", xep0030_disco::NS_INFO, false) => Request::DiscoInfo { node: node(iq) },
        ("query", xep0030_disco::NS_ITEMS, false) => Request::DiscoItems { node: node(iq) },
        ("query", xep0012_last::NS, false) => Request::Last,
        _ => of_the_stream(payload),
    }
}

/// Requests to another account. The answer must not depend on whether it exists.
fn to_other_account(payload: Payload<'_>, iq: &Stanza) -> Request {
    match payload {
        ("vCard", xep0054_vcard::NS, false) => Request::VcardGet,
        ("query", xep0030_disco::NS_INFO, false) => Request::DiscoInfo { node: node(iq) },
        ("query", xep0030_disco::NS_ITEMS, false) => Request::DiscoItems { node: node(iq) },
        ("query", xep0012_last::NS, false) => Request::Last,
        // RFC 6121 §2.3.3, XEP-0049 §2.3, XEP-0054 §3.2, XEP-0313 §8.1
        ("query", ns::ROSTER | xep0049_private::NS, _)
        | ("vCard", xep0054_vcard::NS, true)
        | (_, xep0191_blocking::NS | xep0280_carbons::NS | xep0313_mam::NS, _) => {
            Request::Forbidden
        }
        _ => Request::Unknown,
    }
}

/// Requests about the client's stream or login, which some address to the domain and others to
/// nobody: both mean the same.
fn of_the_stream(payload: Payload<'_>) -> Request {
    match payload {
        ("ping", xep0199_ping::NS, false) => Request::Ping,
        ("query", xep0077_register::NS, false) => Request::RegisterGet,
        ("query", xep0077_register::NS, true) => Request::RegisterSet,
        ("session", ns::SESSION, true) => Request::Session,
        ("bind", ns::BIND, true) => Request::Bind,
        _ => Request::Unknown,
    }
}

/// The node of a disco request.
fn node(iq: &Stanza) -> Option<String> {
    xep0030_disco::node(iq).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addressee(to: Option<&str>) -> Addressee {
        let to = to.map(|to| Jid::parse(to).unwrap());
        let romeo = BareJid::parse("romeo@montague.lit").unwrap();
        Addressee::of(to.as_ref(), &romeo, |domain| domain == "montague.lit")
    }

    fn request(to: Option<&str>, kind: &str, payload: &str) -> Request {
        let iq = format!("<iq xmlns='jabber:client' id='1' type='{kind}'>{payload}</iq>");
        Request::of(&Stanza::from_xml(&iq).unwrap(), &addressee(to))
    }

    const SERVER: Option<&str> = Some("montague.lit");
    const OWN: Option<&str> = Some("romeo@montague.lit");
    const OTHER: Option<&str> = Some("benvolio@montague.lit");

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(addressee(None), Addressee::Own);
        assert_eq!(addressee(OWN), Addressee::Own);
        assert_eq!(addressee(SERVER), Addressee::Server);
        assert_eq!(addressee(Some("montague.lit/x")), Addressee::Nobody);
        assert_eq!(addressee(Some("capulet.lit")), Addressee::Remote);
        assert_eq!(addressee(Some("romeo@capulet.lit")), Addressee::Remote);
        let benvolio = BareJid::parse("benvolio@montague.lit").unwrap();
        assert_eq!(addressee(OTHER), Addressee::Account(benvolio));
        let orchard = FullJid::parse("romeo@montague.lit/orchard").unwrap();
        assert_eq!(
            addressee(Some("romeo@montague.lit/orchard")),
            Addressee::Resource(orchard)
        );
    }

    #[test]
    fn every_feature_gets_its_requests_from_the_account() {
        for (kind, payload, expected) in [
            (
                "get",
                "<query xmlns='jabber:iq:roster'/>",
                Request::RosterGet,
            ),
            (
                "set",
                "<query xmlns='jabber:iq:roster'/>",
                Request::RosterSet,
            ),
            (
                "get",
                "<blocklist xmlns='urn:xmpp:blocking'/>",
                Request::BlockList,
            ),
            ("set", "<block xmlns='urn:xmpp:blocking'/>", Request::Block),
            (
                "set",
                "<unblock xmlns='urn:xmpp:blocking'/>",
                Request::Unblock,
            ),
            ("get", "<vCard xmlns='vcard-temp'/>", Request::VcardGet),
            ("set", "<vCard xmlns='vcard-temp'/>", Request::VcardSet),
            (
                "get",
                "<query xmlns='jabber:iq:private'/>",
                Request::PrivateGet,
            ),
            (
                "set",
                "<query xmlns='jabber:iq:private'/>",
                Request::PrivateSet,
            ),
            ("get", "<query xmlns='jabber:iq:last'/>", Request::Last),
            ("get", "<ping xmlns='urn:xmpp:ping'/>", Request::Ping),
            (
                "get",
                "<query xmlns='jabber:iq:register'/>",
                Request::RegisterGet,
            ),
            (
                "set",
                "<query xmlns='jabber:iq:register'/>",
                Request::RegisterSet,
            ),
            (
                "set",
                "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>",
                Request::Session,
            ),
            (
                "set",
                "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>",
                Request::Bind,
            ),
            (
                "get",
                "<query xmlns='http://jabber.org/protocol/disco#info'/>",
                Request::DiscoInfo { node: None },
            ),
            (
                "get",
                "<query xmlns='http://jabber.org/protocol/disco#items' node='music'/>",
                Request::DiscoItems {
                    node: Some("music".to_owned()),
                },
            ),
        ] {
            assert_eq!(request(None, kind, payload), expected, "{kind} {payload}");
            assert_eq!(request(OWN, kind, payload), expected, "{kind} {payload}");
        }
    }

    #[test]
    fn carbons_and_archives_get_their_requests_from_the_account() {
        for (kind, payload, expected) in [
            (
                "set",
                "<enable xmlns='urn:xmpp:carbons:2'/>",
                Request::CarbonsEnable,
            ),
            (
                "set",
                "<disable xmlns='urn:xmpp:carbons:2'/>",
                Request::CarbonsDisable,
            ),
            (
                "set",
                "<query xmlns='urn:xmpp:mam:2'/>",
                Request::ArchiveQuery,
            ),
            (
                "get",
                "<query xmlns='urn:xmpp:mam:2'/>",
                Request::ArchiveForm,
            ),
            (
                "get",
                "<metadata xmlns='urn:xmpp:mam:2'/>",
                Request::ArchiveMetadata,
            ),
            (
                "get",
                "<prefs xmlns='urn:xmpp:mam:2'/>",
                Request::PreferencesGet,
            ),
            (
                "set",
                "<prefs xmlns='urn:xmpp:mam:2'/>",
                Request::PreferencesSet,
            ),
        ] {
            assert_eq!(request(None, kind, payload), expected, "{kind} {payload}");
            assert_eq!(request(OWN, kind, payload), expected, "{kind} {payload}");
        }
    }

    #[test]
    fn the_domain_answers_about_itself() {
        for (payload, expected) in [
            ("<query xmlns='jabber:iq:version'/>", Request::Version),
            ("<time xmlns='urn:xmpp:time'/>", Request::Time),
            ("<query xmlns='jabber:iq:last'/>", Request::Last),
            ("<ping xmlns='urn:xmpp:ping'/>", Request::Ping),
            ("<query xmlns='jabber:iq:register'/>", Request::RegisterGet),
            (
                "<query xmlns='http://jabber.org/protocol/disco#info' node='n'/>",
                Request::DiscoInfo {
                    node: Some("n".to_owned()),
                },
            ),
        ] {
            assert_eq!(request(SERVER, "get", payload), expected, "{payload}");
        }
        assert_eq!(
            request(SERVER, "get", "<vCard xmlns='vcard-temp'/>"),
            Request::Unknown
        );
        // A domain has no archive.
        assert_eq!(
            request(SERVER, "set", "<query xmlns='urn:xmpp:mam:2'/>"),
            Request::Unknown
        );
    }

    /// RFC 6121 §2.3.3, XEP-0049 §2.3, XEP-0054 §3.2, XEP-0313 §8.1
    #[test]
    fn what_belongs_to_another_account_is_forbidden() {
        for (kind, payload) in [
            ("get", "<query xmlns='jabber:iq:roster'/>"),
            ("set", "<query xmlns='jabber:iq:roster'/>"),
            ("get", "<query xmlns='jabber:iq:private'/>"),
            ("set", "<query xmlns='jabber:iq:private'/>"),
            ("set", "<vCard xmlns='vcard-temp'/>"),
            ("get", "<blocklist xmlns='urn:xmpp:blocking'/>"),
            ("set", "<block xmlns='urn:xmpp:blocking'/>"),
            ("set", "<query xmlns='urn:xmpp:mam:2'/>"),
            ("get", "<query xmlns='urn:xmpp:mam:2'/>"),
            ("get", "<metadata xmlns='urn:xmpp:mam:2'/>"),
            ("set", "<prefs xmlns='urn:xmpp:mam:2'/>"),
            ("set", "<enable xmlns='urn:xmpp:carbons:2'/>"),
        ] {
            assert_eq!(
                request(OTHER, kind, payload),
                Request::Forbidden,
                "{kind} {payload}"
            );
        }
        assert_eq!(
            request(OTHER, "get", "<vCard xmlns='vcard-temp'/>"),
            Request::VcardGet
        );
        assert_eq!(
            request(OTHER, "get", "<query xmlns='jabber:iq:last'/>"),
            Request::Last
        );
    }

    /// RFC 6120 §8.4
    #[test]
    fn what_nobody_understands_is_unknown() {
        for to in [
            None,
            OWN,
            SERVER,
            OTHER,
            Some("montague.lit/x"),
            Some("capulet.lit"),
        ] {
            for kind in ["get", "set"] {
                assert_eq!(
                    request(to, kind, "<x xmlns='urn:example:x'/>"),
                    Request::Unknown
                );
            }
        }
        // A type that the feature does not define; an account that the server does not speak for.
        assert_eq!(
            request(SERVER, "set", "<ping xmlns='urn:xmpp:ping'/>"),
            Request::Unknown
        );
        assert_eq!(
            request(OTHER, "get", "<ping xmlns='urn:xmpp:ping'/>"),
            Request::Unknown
        );
    }

    /// RFC 6120 §8.2.3
    #[test]
    fn results_and_errors_are_no_requests() {
        for to in [None, OWN, SERVER, OTHER] {
            assert_eq!(request(to, "result", ""), Request::Reply);
            assert_eq!(
                request(to, "result", "<ping xmlns='urn:xmpp:ping'/>"),
                Request::Reply
            );
            assert_eq!(
                request(to, "error", "<error type='cancel'/>"),
                Request::Reply
            );
        }
    }
}
