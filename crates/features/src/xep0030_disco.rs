//! XEP-0030 Service Discovery, version 2.5.0.
//!
//! Supported: disco#info (§3) and disco#items (§4) for the served domains and, on behalf of its
//! owner, for an account's bare JID, with the access rules of §8.

use std::sync::LazyLock;

use rookery_proto::error::Condition;
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::feature::{Feature, announced, announced_on_accounts};
use crate::{xep0115_caps, xep0313_mam, xep0359_stanza_ids};

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature =
    Feature::full(30, "2.5.0", &[NS_INFO, NS_ITEMS]).on_accounts(&[NS_INFO, NS_ITEMS]);

/// Namespace of the requests about an entity itself.
pub const NS_INFO: &str = "http://jabber.org/protocol/disco#info";

/// Namespace of the requests about what belongs to an entity.
pub const NS_ITEMS: &str = "http://jabber.org/protocol/disco#items";

/// What an entity is (§3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Category of the registry, such as `server`.
    pub category: &'static str,
    /// Type within the category, such as `im`.
    pub kind: &'static str,
    /// A name for people; left out if empty.
    pub name: &'static str,
}

/// What an entity is and what it can do: the content of a disco#info result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// At least one identity.
    pub identities: Vec<Identity>,
    /// Namespaces, sorted and without repetitions.
    pub features: Vec<&'static str>,
}

impl Info {
    /// What a served domain is.
    pub fn of_server() -> &'static Self {
        static SERVER: LazyLock<Info> = LazyLock::new(|| Info {
            identities: vec![Identity {
                category: "server",
                kind: "im",
                name: "Rookery",
            }],
            features: announced(crate::ALL),
        });
        &SERVER
    }

    /// What an account's bare JID is: that which the server answers on its behalf.
    pub fn of_account() -> &'static Self {
        static ACCOUNT: LazyLock<Info> = LazyLock::new(|| Info {
            identities: vec![Identity {
                category: "account",
                kind: "registered",
                name: "",
            }],
            features: announced_on_accounts(crate::ALL),
        });
        &ACCOUNT
    }

    /// The disco#info `<query/>` of a result; `node` is the request's, which the answer mirrors
    /// (§3.2).
    pub fn to_element(&self, node: Option<&str>) -> Element {
        let mut query = query(NS_INFO, node);
        for identity in &self.identities {
            let mut element = Element::new("identity", NS_INFO)
                .with_attr("category", identity.category)
                .with_attr("type", identity.kind);
            if !identity.name.is_empty() {
                element.set_attr("name", identity.name);
            }
            query.push(element);
        }
        for feature in &self.features {
            query.push(Element::new("feature", NS_INFO).with_attr("var", feature));
        }
        query
    }
}

/// The `node` that a disco request asks about; `None` for the entity itself.
///
/// An empty node is treated like none: the value "MUST NOT be null" (§4.2).
pub fn node(iq: &Stanza) -> Option<&str> {
    iq.payload()?.attr("node").filter(|node| !node.is_empty())
}

/// Answers disco#info for a served domain.
///
/// # Errors
/// `ItemNotFound` for a node other than the one of the server's capabilities (XEP-0115 §6.2).
pub fn server_info(node: Option<&str>) -> Result<Element, Condition> {
    match node {
        None => Ok(Info::of_server().to_element(None)),
        Some(node) if xep0115_caps::is_server_node(node) => {
            Ok(Info::of_server().to_element(Some(node)))
        }
        Some(_) => Err(Condition::ItemNotFound),
    }
}

/// Answers disco#items for a served domain, which has no items yet.
///
/// # Errors
/// `ItemNotFound` for any node.
pub fn server_items(node: Option<&str>) -> Result<Element, Condition> {
    match node {
        None => Ok(query(NS_ITEMS, None)),
        Some(_) => Err(Condition::ItemNotFound),
    }
}

/// Answers disco#info for an account's bare JID.
///
/// `sees_presence` says whether the account exists *and* who asks may see its presence: the
/// account itself, or a contact with a subscription `from` or `both` in its roster. `has_archive`:
/// whether the server archives messages.
///
/// # Errors
/// `ServiceUnavailable` to those who may not see whether the account exists (§8, rule 1), whatever
/// they ask; `ItemNotFound` to the others for any node.
pub fn account_info(
    node: Option<&str>,
    sees_presence: bool,
    has_archive: bool,
) -> Result<Element, Condition> {
    match node {
        _ if !sees_presence => Err(Condition::ServiceUnavailable),
        None if !has_archive => {
            let mut info = Info::of_account().clone();
            let of_archive =
                |name: &str| name.starts_with(xep0313_mam::NS) || name == xep0359_stanza_ids::NS;
            info.features.retain(|name| !of_archive(name));
            Ok(info.to_element(None))
        }
        None => Ok(Info::of_account().to_element(None)),
        Some(_) => Err(Condition::ItemNotFound),
    }
}

/// Answers disco#items for an account's bare JID, of which no items are shown; `sees_presence` as
/// in [`account_info`].
///
/// # Errors
/// `ItemNotFound` for a node, to those who may see the account's presence. All others get an empty
/// list, as they do for an account that does not exist (§8, rule 2).
pub fn account_items(node: Option<&str>, sees_presence: bool) -> Result<Element, Condition> {
    match node {
        Some(_) if sees_presence => Err(Condition::ItemNotFound),
        node => Ok(query(NS_ITEMS, node)),
    }
}

/// An empty `<query/>` that mirrors the request's node.
fn query(ns: &str, node: Option<&str>) -> Element {
    let query = Element::new("query", ns);
    match node {
        Some(node) => query.with_attr("node", node),
        None => query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    /// §3.1
    #[test]
    fn the_server_says_what_it_is_and_can_do() {
        let info = server_info(None).unwrap();
        let identity = info.child("identity", NS_INFO).unwrap();
        assert_eq!(identity.attr("category"), Some("server"));
        assert_eq!(identity.attr("type"), Some("im"));
        assert_eq!(identity.attr("name"), Some("Rookery"));
        let features: Vec<_> = info
            .children()
            .filter(|child| child.is("feature", NS_INFO))
            .filter_map(|feature| feature.attr("var"))
            .collect();
        assert_eq!(features, announced(crate::ALL));
        for expected in [
            NS_INFO,
            NS_ITEMS,
            "urn:xmpp:ping",
            "jabber:iq:last",
            "vcard-temp",
            "urn:xmpp:carbons:2",
        ] {
            assert!(features.contains(&expected), "{expected}");
        }
    }

    /// §3.1, §8
    #[test]
    fn an_account_is_shown_to_those_who_see_its_presence() {
        assert_eq!(
            account_info(None, true, true).unwrap(),
            element(
                "<query xmlns='http://jabber.org/protocol/disco#info'>\
                 <identity category='account' type='registered'/>\
                 <feature var='http://jabber.org/protocol/disco#info'/>\
                 <feature var='http://jabber.org/protocol/disco#items'/>\
                 <feature var='jabber:iq:last'/>\
                 <feature var='urn:xmpp:mam:2'/>\
                 <feature var='urn:xmpp:mam:2#extended'/>\
                 <feature var='urn:xmpp:mam:2#groupchat-field'/>\
                 <feature var='urn:xmpp:sid:0'/>\
                 <feature var='vcard-temp'/></query>"
            )
        );
        assert_eq!(
            account_info(None, false, true),
            Err(Condition::ServiceUnavailable)
        );
        assert_eq!(
            account_info(Some("n"), false, true),
            Err(Condition::ServiceUnavailable)
        );
        assert_eq!(
            account_info(Some("n"), true, true),
            Err(Condition::ItemNotFound)
        );
    }

    /// §4.1, §8
    #[test]
    fn lists_of_items_are_empty() {
        let empty = element("<query xmlns='http://jabber.org/protocol/disco#items'/>");
        assert_eq!(server_items(None), Ok(empty.clone()));
        assert_eq!(account_items(None, true), Ok(empty.clone()));
        assert_eq!(account_items(None, false), Ok(empty));
    }

    /// §3.2, §4.2, §7, §8
    #[test]
    fn unknown_nodes_are_not_found_unless_that_would_tell_of_an_account() {
        assert_eq!(server_info(Some("music")), Err(Condition::ItemNotFound));
        assert_eq!(server_items(Some("music")), Err(Condition::ItemNotFound));
        assert_eq!(
            account_items(Some("music"), true),
            Err(Condition::ItemNotFound)
        );
        assert_eq!(
            account_items(Some("music"), false),
            Ok(element(
                "<query xmlns='http://jabber.org/protocol/disco#items' node='music'/>"
            ))
        );
    }

    #[test]
    fn the_node_is_read_from_the_request() {
        let with = |node| iq("get", &format!("<query xmlns='{NS_INFO}'{node}/>"));
        assert_eq!(node(&with(" node='music'")), Some("music"));
        assert_eq!(node(&with(" node=''")), None);
        assert_eq!(node(&with("")), None);
    }
}
