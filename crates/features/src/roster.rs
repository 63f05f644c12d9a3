//! Rosters (RFC 6121 §2): requests, results, pushes, versioning.
//!
//! Versions (§2.6) are the numbers that storage counts up, written in decimal. A client that asks
//! with a version that storage can start from gets an empty result and one push for each item that
//! changed since; any other gets the whole roster. A client that asks without `ver` does not use
//! versioning: neither its result nor its pushes carry one.

use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::ns;
use rookery_proto::roster::{RosterItem, Subscription};
use rookery_proto::stanza::{IqType, Kind, Stanza};
use rookery_proto::xml::Element;

use crate::subscription::{Change, Farewell, farewell, is_listed, list};

/// The longest `name` of an item, in bytes.
pub const MAX_NAME_BYTES: usize = 1023;

/// The longest group name, in bytes.
pub const MAX_GROUP_BYTES: usize = 1023;

/// The most groups that an item may be in.
pub const MAX_GROUPS: usize = 64;

/// A roster get (§2.1.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RosterGet {
    /// The version of the client's copy; empty if it has none; `None` if it does not use versioning.
    pub version: Option<String>,
}

impl RosterGet {
    /// Reads a roster get.
    ///
    /// # Errors
    /// `bad-request` for any other stanza.
    pub fn parse(iq: &Stanza) -> Result<Self, Condition> {
        let query = query(iq, IqType::Get)?;
        Ok(Self {
            version: query.attr("ver").map(str::to_owned),
        })
    }

    /// Whether results and pushes for this client carry a version.
    pub fn uses_versions(&self) -> bool {
        self.version.is_some()
    }

    /// The version from which the client could be brought up to date; `None`: it needs everything.
    pub fn known_version(&self) -> Option<u64> {
        let version = self.version.as_deref()?;
        // As written, not as `parse` also takes it ("+7").
        version
            .parse()
            .ok()
            .filter(|number: &u64| number.to_string() == version)
    }

    /// The result with the whole roster (§2.1.4).
    pub fn result<'a>(
        &self,
        iq: &Stanza,
        version: u64,
        items: impl IntoIterator<Item = &'a RosterItem>,
    ) -> Stanza {
        let mut query = Element::new("query", ns::ROSTER);
        if self.uses_versions() {
            query.set_attr("ver", version.to_string());
        }
        for item in items.into_iter().filter(|item| is_listed(item)) {
            query.push(item_element(item));
        }
        iq.reply_result_with(query)
    }

    /// The empty result: what changed since the client's version follows in pushes (§2.6.3).
    pub fn result_by_pushes(&self, iq: &Stanza) -> Stanza {
        iq.reply_result()
    }
}

/// A roster set (§2.1.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RosterSet {
    /// Add the item or replace what the user may write of it (§2.3, §2.4).
    Update {
        /// The contact.
        jid: BareJid,
        /// What the user calls it; never empty.
        name: Option<String>,
        /// The groups it is in.
        groups: Vec<String>,
    },
    /// Remove the item and end the subscriptions (§2.5).
    Remove {
        /// The contact.
        jid: BareJid,
    },
}

/// What follows from a roster set.
///
/// In this order: change the item and commit; answer and push; tell the contact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The item.
    pub change: Change,
    /// What the contact is told when its item is removed.
    pub farewell: Option<Farewell>,
}

impl RosterSet {
    /// Reads a roster set of the account `owner`. `subscription` values other than `remove`, `ask`
    /// and `approved` are ignored (§2.1.2).
    ///
    /// # Errors
    /// `bad-request` unless there is exactly one item, with a bare JID and no group twice;
    /// `jid-malformed`; `not-allowed` for the owner itself; `not-acceptable` for an empty group and
    /// for what is too long (§2.3.3).
    pub fn parse(iq: &Stanza, owner: &BareJid) -> Result<Self, Condition> {
        let mut items = query(iq, IqType::Set)?
            .children()
            .filter(|child| child.is("item", ns::ROSTER));
        let (Some(item), None) = (items.next(), items.next()) else {
            return Err(Condition::BadRequest);
        };
        let jid = item.attr("jid").ok_or(Condition::BadRequest)?;
        let jid = Jid::parse(jid).map_err(|_| Condition::JidMalformed)?;
        if !jid.is_bare() {
            return Err(Condition::BadRequest);
        }
        let jid = jid.to_bare();
        if jid == *owner {
            return Err(Condition::NotAllowed);
        }
        if item.attr("subscription") == Some(Subscription::Remove.as_str()) {
            return Ok(Self::Remove { jid });
        }
        let name = item.attr("name").filter(|name| !name.is_empty());
        if name.is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return Err(Condition::NotAcceptable);
        }
        Ok(Self::Update {
            jid,
            name: name.map(str::to_owned),
            groups: groups(item)?,
        })
    }

    /// The contact.
    pub fn jid(&self) -> &BareJid {
        match self {
            Self::Update { jid, .. } | Self::Remove { jid } => jid,
        }
    }

    /// Decides about the item that the user has of the contact.
    ///
    /// The push is made of the item as it is stored afterwards, also if nothing changed: the client
    /// shows what was pushed, not what it sent (§2.3.2).
    ///
    /// # Errors
    /// `item-not-found` if there is nothing to remove (§2.5.3).
    pub fn decide(&self, item: Option<&RosterItem>) -> Result<Outcome, Condition> {
        match self {
            Self::Update { jid, name, groups } => {
                let mut after = item
                    .cloned()
                    .unwrap_or_else(|| RosterItem::new(jid.clone()));
                after.name.clone_from(name);
                after.groups.clone_from(groups);
                list(&mut after);
                let change = if item == Some(&after) {
                    Change::Keep
                } else {
                    Change::Put(after)
                };
                Ok(Outcome {
                    change,
                    farewell: None,
                })
            }
            Self::Remove { .. } => {
                let item = item
                    .filter(|item| is_listed(item))
                    .ok_or(Condition::ItemNotFound)?;
                Ok(Outcome {
                    change: Change::Remove,
                    farewell: Some(farewell(item)),
                })
            }
        }
    }
}

/// A roster push (§2.1.6) to one interested resource. `item`: `None` if it was removed.
///
/// `version`: the one of this change, if the resource uses versioning.
pub fn push(
    id: &str,
    to: &FullJid,
    contact: &BareJid,
    item: Option<&RosterItem>,
    version: Option<u64>,
) -> Stanza {
    let item = match item.filter(|item| is_listed(item)) {
        Some(item) => item_element(item),
        None => Element::new("item", ns::ROSTER)
            .with_attr("jid", contact.as_str())
            .with_attr("subscription", Subscription::Remove.as_str()),
    };
    let mut query = Element::new("query", ns::ROSTER);
    if let Some(version) = version {
        query.set_attr("ver", version.to_string());
    }
    Stanza::iq(IqType::Set, id)
        .with_to(to.clone())
        .with_child(query.with_child(item))
}

/// `<item/>` as the user sees it (§2.1.2).
pub fn item_element(item: &RosterItem) -> Element {
    let mut element = Element::new("item", ns::ROSTER).with_attr("jid", item.jid.as_str());
    if let Some(name) = item.name.as_deref().filter(|name| !name.is_empty()) {
        element.set_attr("name", name);
    }
    element.set_attr("subscription", item.subscription.as_str());
    if item.ask {
        element.set_attr("ask", "subscribe");
    }
    if item.approved {
        element.set_attr("approved", "true");
    }
    for group in &item.groups {
        element.push(Element::new("group", ns::ROSTER).with_text(group));
    }
    element
}

fn query(iq: &Stanza, kind: IqType) -> Result<&Element, Condition> {
    if iq.kind != Kind::Iq(kind) {
        return Err(Condition::BadRequest);
    }
    iq.payload()
        .filter(|payload| payload.is("query", ns::ROSTER))
        .ok_or(Condition::BadRequest)
}

/// The groups of an item, in the client's order.
fn groups(item: &Element) -> Result<Vec<String>, Condition> {
    let mut groups: Vec<String> = Vec::new();
    for group in item
        .children()
        .filter(|child| child.is("group", ns::ROSTER))
    {
        let group = group.text();
        if group.is_empty() || group.len() > MAX_GROUP_BYTES || groups.len() == MAX_GROUPS {
            return Err(Condition::NotAcceptable);
        }
        if groups.contains(&group) {
            return Err(Condition::BadRequest);
        }
        groups.push(group);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "<query xmlns='jabber:iq:roster'>";

    fn iq(kind: &str, query: &str) -> Stanza {
        Stanza::from_xml(&format!(
            "<iq xmlns='jabber:client' from='ann@localhost/desk' type='{kind}' id='r1'>{query}</iq>"
        ))
        .unwrap()
    }

    fn bare(jid: &str) -> BareJid {
        BareJid::parse(jid).unwrap()
    }

    fn set(items: &str) -> Result<RosterSet, Condition> {
        RosterSet::parse(
            &iq("set", &format!("{QUERY}{items}</query>")),
            &bare("ann@localhost"),
        )
    }

    fn get(attributes: &str) -> RosterGet {
        RosterGet::parse(&iq(
            "get",
            &format!("<query xmlns='jabber:iq:roster'{attributes}/>"),
        ))
        .unwrap()
    }

    fn update(name: Option<&str>, groups: &[&str]) -> RosterSet {
        RosterSet::Update {
            jid: bare("bob@localhost"),
            name: name.map(str::to_owned),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    fn payload(stanza: &Stanza) -> String {
        stanza.payload().unwrap().to_xml(ns::CLIENT)
    }

    /// RFC 6121 §2.1.5, §2.3
    #[test]
    fn an_item_is_read() {
        let item = "<item jid='Bob@localhost' name='Bob'><group>a</group><group>b</group></item>";
        assert_eq!(set(item), Ok(update(Some("Bob"), &["a", "b"])));
        assert_eq!(
            set("<item jid='bob@localhost' name=''/>"),
            Ok(update(None, &[]))
        );
        let domain = set("<item jid='conference.localhost'/>").unwrap();
        assert_eq!(domain.jid(), &bare("conference.localhost"));
    }

    /// RFC 6121 §2.1.2.2, §2.1.2.5
    #[test]
    fn what_only_the_server_writes_is_ignored() {
        for value in ["none", "to", "from", "both", "Remove", "x"] {
            let item = format!(
                "<item jid='bob@localhost' subscription='{value}' ask='subscribe' approved='true'/>"
            );
            assert_eq!(set(&item), Ok(update(None, &[])), "{value}");
        }
        let outcome = update(None, &[]).decide(None).unwrap();
        assert_eq!(
            outcome.change,
            Change::Put(RosterItem::new(bare("bob@localhost")))
        );
    }

    #[test]
    fn a_removal_is_read() {
        let removal = set("<item jid='bob@localhost' subscription='remove' name='x'/>");
        assert_eq!(
            removal,
            Ok(RosterSet::Remove {
                jid: bare("bob@localhost")
            })
        );
    }

    /// RFC 6121 §2.3.3
    #[test]
    fn bad_sets_are_refused() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let many = (0..=MAX_GROUPS).map(|n| n.to_string()).collect::<Vec<_>>();
        let many = format!("<group>{}</group>", many.join("</group><group>"));
        for (items, condition) in [
            ("", Condition::BadRequest),
            (
                "<item jid='bob@localhost'/><item jid='eve@localhost'/>",
                Condition::BadRequest,
            ),
            ("<item name='Bob'/>", Condition::BadRequest),
            ("<item jid='bob@localhost/desk'/>", Condition::BadRequest),
            ("<item jid='@localhost'/>", Condition::JidMalformed),
            ("<item jid=''/>", Condition::JidMalformed),
            ("<item jid='ann@localhost'/>", Condition::NotAllowed),
            (
                "<item jid='ann@localhost' subscription='remove'/>",
                Condition::NotAllowed,
            ),
            (
                "<item jid='bob@localhost'><group>a</group><group>a</group></item>",
                Condition::BadRequest,
            ),
            (
                "<item jid='bob@localhost'><group/></item>",
                Condition::NotAcceptable,
            ),
            (
                &format!("<item jid='bob@localhost' name='{long}'/>"),
                Condition::NotAcceptable,
            ),
            (
                &format!("<item jid='bob@localhost'><group>{long}</group></item>"),
                Condition::NotAcceptable,
            ),
            (
                &format!("<item jid='bob@localhost'>{many}</item>"),
                Condition::NotAcceptable,
            ),
            (
                "<item xmlns='urn:x' jid='bob@localhost'/>",
                Condition::BadRequest,
            ),
        ] {
            assert_eq!(set(items), Err(condition), "{items}");
        }
    }

    #[test]
    fn other_stanzas_are_no_roster_requests() {
        let owner = bare("ann@localhost");
        let empty = "<query xmlns='jabber:iq:roster'/>";
        assert_eq!(
            RosterSet::parse(&iq("get", empty), &owner),
            Err(Condition::BadRequest)
        );
        assert_eq!(
            RosterGet::parse(&iq("set", empty)),
            Err(Condition::BadRequest)
        );
        let other = iq("get", "<query xmlns='urn:x'/>");
        assert_eq!(RosterGet::parse(&other), Err(Condition::BadRequest));
    }

    /// RFC 6121 §2.4.1: name and groups are replaced, the subscription is not touched.
    #[test]
    fn an_update_keeps_the_subscription() {
        let before = RosterItem {
            name: Some("Bobby".to_owned()),
            subscription: Subscription::From,
            ask: true,
            groups: vec!["old".to_owned()],
            ..RosterItem::new(bare("bob@localhost"))
        };
        let outcome = update(None, &["new"]).decide(Some(&before)).unwrap();
        let expected = RosterItem {
            name: None,
            groups: vec!["new".to_owned()],
            ..before.clone()
        };
        assert_eq!(
            outcome,
            Outcome {
                change: Change::Put(expected),
                farewell: None
            }
        );
        let same = update(Some("Bobby"), &["old"])
            .decide(Some(&before))
            .unwrap();
        assert_eq!(same.change, Change::Keep);
    }

    #[test]
    fn adding_a_contact_that_asks_lists_it() {
        let request = RosterItem {
            pending_in: Some("<presence/>".to_owned()),
            ..RosterItem::new(bare("bob@localhost"))
        };
        assert!(!is_listed(&request));
        let Change::Put(item) = update(None, &[]).decide(Some(&request)).unwrap().change else {
            panic!("not added")
        };
        assert!(is_listed(&item) && item.pending_in.is_some());
        assert_eq!(
            item_element(&item).to_xml(ns::ROSTER),
            "<item jid='bob@localhost' subscription='none'/>"
        );
    }

    /// RFC 6121 §2.5
    #[test]
    fn a_removal_ends_the_subscriptions() {
        let remove = RosterSet::Remove {
            jid: bare("bob@localhost"),
        };
        let both = RosterItem {
            subscription: Subscription::Both,
            ..RosterItem::new(bare("bob@localhost"))
        };
        let outcome = remove.decide(Some(&both)).unwrap();
        assert_eq!(outcome.change, Change::Remove);
        let farewell = outcome.farewell.unwrap();
        assert!(farewell.unsubscribe && farewell.unavailable && farewell.unsubscribed);
        assert_eq!(remove.decide(None), Err(Condition::ItemNotFound));
        let request = RosterItem {
            pending_in: Some("<presence/>".to_owned()),
            ..RosterItem::new(bare("bob@localhost"))
        };
        assert_eq!(remove.decide(Some(&request)), Err(Condition::ItemNotFound));
    }

    /// RFC 6121 §2.6.2
    #[test]
    fn versions_are_read() {
        assert_eq!(
            (get("").uses_versions(), get("").known_version()),
            (false, None)
        );
        let boot = get(" ver=''");
        assert_eq!((boot.uses_versions(), boot.known_version()), (true, None));
        assert_eq!(get(" ver='17'").known_version(), Some(17));
        for unknown in ["+17", "017", "-1", "x17", "99999999999999999999"] {
            assert_eq!(
                get(&format!(" ver='{unknown}'")).known_version(),
                None,
                "{unknown}"
            );
        }
    }

    /// RFC 6121 §2.1.4
    #[test]
    fn the_result_lists_the_items() {
        let request = iq("get", "<query xmlns='jabber:iq:roster'/>");
        let bob = RosterItem {
            name: Some("Bob & co".to_owned()),
            subscription: Subscription::To,
            approved: true,
            groups: vec!["a".to_owned(), "b".to_owned()],
            ..RosterItem::new(bare("bob@localhost"))
        };
        let eve = RosterItem {
            ask: true,
            ..RosterItem::new(bare("eve@localhost"))
        };
        let hidden = RosterItem {
            pending_in: Some("<presence/>".to_owned()),
            ..RosterItem::new(bare("mallory@localhost"))
        };
        let items = [bob, eve, hidden];
        let listed = "<item jid='bob@localhost' name='Bob &amp; co' subscription='to' \
                      approved='true'><group>a</group><group>b</group></item>\
                      <item jid='eve@localhost' subscription='none' ask='subscribe'/></query>";
        let result = get("").result(&request, 9, &items);
        assert_eq!(result.kind, Kind::Iq(IqType::Result));
        assert_eq!(result.id.as_deref(), Some("r1"));
        assert_eq!(
            payload(&result),
            format!("<query xmlns='jabber:iq:roster'>{listed}")
        );
        let result = get(" ver=''").result(&request, 9, &items);
        assert_eq!(
            payload(&result),
            format!("<query xmlns='jabber:iq:roster' ver='9'>{listed}")
        );
    }

    /// RFC 6121 §2.6.3
    #[test]
    fn a_client_that_is_brought_up_to_date_gets_an_empty_result() {
        let request = iq("get", "<query xmlns='jabber:iq:roster' ver='8'/>");
        let result = get(" ver='8'").result_by_pushes(&request);
        assert_eq!(
            (result.kind, result.payload()),
            (Kind::Iq(IqType::Result), None)
        );
    }

    /// RFC 6121 §2.1.6, §2.5.2
    #[test]
    fn pushes_are_built() {
        let desk = FullJid::parse("ann@localhost/desk").unwrap();
        let bob = bare("bob@localhost");
        let item = RosterItem::new(bob.clone());
        let added = push("p1", &desk, &bob, Some(&item), Some(3));
        assert_eq!(added.kind, Kind::Iq(IqType::Set));
        assert_eq!(added.to, Some(desk.clone().into()));
        assert_eq!(added.from, None);
        assert_eq!(
            payload(&added),
            "<query xmlns='jabber:iq:roster' ver='3'>\
             <item jid='bob@localhost' subscription='none'/></query>"
        );
        let removed = push("p2", &desk, &bob, None, None);
        assert_eq!(
            payload(&removed),
            "<query xmlns='jabber:iq:roster'>\
             <item jid='bob@localhost' subscription='remove'/></query>"
        );
    }
}
