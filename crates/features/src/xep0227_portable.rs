//! XEP-0227 Portable Import/Export Format for XMPP-IM Servers, version 1.1.
//!
//! Supported: users with password or SCRAM keys (§4.2, §4.3), rosters with requests in both directions
//! (§4.4, §4.9), offline messages (§4.5), private XML (§4.6), vCards (§4.7), archives (§4.11), and of
//! privacy lists (§4.8) what amounts to blocking (XEP-0191). Besides the XEP's own: archive preferences
//! (XEP-0441), block lists (XEP-0191) as such when reading, and elements in [`NS_OWN`].
//! Not supported: PEP nodes (§4.10) and privacy rules other than blocking; they are counted, so that the
//! operator is told.
//!
//! Here an element is read or written; files, includes (§5) and the database are the business of the
//! server's commands.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_proto::credentials::{Credentials, ScramKeys};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::roster::{RosterItem, Subscription};
use rookery_proto::stanza::{Kind, PresenceType, Stanza};
use rookery_proto::xml::Element;
use rookery_proto::{datetime, ns};

use crate::feature::Feature;
use crate::offline::NS_DELAY;
use crate::password::Hash;
use crate::xep0049_private::{self, Entry};
use crate::xep0441_preferences::Preferences;
use crate::{
    roster, subscription, xep0054_vcard, xep0191_blocking, xep0297_forwarding, xep0313_mam,
    xep0359_stanza_ids,
};

/// Listed in the README; nothing asks servers about it.
pub const FEATURE: Feature = Feature::partial(227, "1.1", &[]);

/// Namespace of hosts, users and offline messages.
pub const NS: &str = "urn:xmpp:pie:0";

/// Namespace of `<scram-credentials/>`.
pub const NS_SCRAM: &str = "urn:xmpp:pie:0#scram";

/// Namespace of `<archive/>`.
pub const NS_MAM: &str = "urn:xmpp:pie:0#mam";

/// Namespace of `<include/>` (§5).
pub const NS_INCLUDE: &str = "http://www.w3.org/2001/XInclude";

/// Namespace of what no specification has a place for: `<last at='…'>status</last>`, the time of the last
/// unavailable presence, and `<session/>`, a session at the time of the export.
pub const NS_OWN: &str = "urn:x-rookery:account:0";

/// Namespace of privacy lists (XEP-0016).
pub const NS_PRIVACY: &str = "jabber:iq:privacy";

/// Namespace that ejabberd notes in stored messages that they are in the archive.
const NS_ARCHIVED: &str = "urn:xmpp:mam:tmp";

/// The name of the privacy list that is written.
const LIST: &str = "blocked";

/// What is wrong with an element, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What was read and is not kept: its kind, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut(pub BTreeMap<String, u64>);

impl LeftOut {
    /// Counts something.
    pub fn add(&mut self, kind: impl Into<String>, count: u64) {
        if count > 0 {
            *self.0.entry(kind.into()).or_default() += count;
        }
    }

    /// Counts all that `other` counts.
    pub fn merge(&mut self, other: Self) {
        for (kind, count) in other.0 {
            self.add(kind, count);
        }
    }
}

/// What a child of `<user/>` says of the account, messages aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// Keys for one hash function (§4.3).
    Keys(Hash, ScramKeys),
    /// Contacts, each once (§4.4).
    Roster(Vec<RosterItem>),
    /// Somebody asks for the account's presence: who, and the stanza (§4.9).
    Request(BareJid, String),
    /// The vCard as XML (§4.7).
    Vcard(String),
    /// Private XML (§4.6).
    Private(Vec<Entry>),
    /// Whom the account blocks (§4.8).
    Blocked(Vec<Jid>),
    /// What it wants archived.
    Preferences(Preferences),
    /// When it was last online, and the status it left with.
    Last(SystemTime, String),
    /// Nothing that is kept.
    Nothing,
}

/// Whether [`read`] looks into an element of this name: otherwise it need not be read as a whole.
pub fn is_read(name: &str, ns: &str) -> bool {
    matches!(
        (name, ns),
        ("scram-credentials", NS_SCRAM)
            | ("presence", ns::CLIENT | NS)
            | ("query", ns::ROSTER | xep0049_private::NS | NS_PRIVACY)
            | ("vCard", xep0054_vcard::NS)
            | ("blocklist", xep0191_blocking::NS)
            | ("prefs", xep0313_mam::NS)
            | ("last" | "session", NS_OWN)
    )
}

/// Reads a child of `<user/>`.
///
/// # Errors
/// What is wrong with it.
pub fn read(
    account: &BareJid,
    element: &Element,
    left_out: &mut LeftOut,
) -> Result<Datum, Invalid> {
    match (element.name(), element.ns()) {
        ("scram-credentials", NS_SCRAM) => keys(element, left_out),
        ("query", ns::ROSTER) => contacts(account, element, left_out).map(Datum::Roster),
        // COMPAT: Prosody 0.12 forgets the namespace `jabber:client`.
        ("presence", ns::CLIENT | NS) => request(account, element, left_out),
        ("query", xep0049_private::NS) => {
            Ok(Datum::Private(xep0049_private::entries(element.children())))
        }
        ("vCard", xep0054_vcard::NS) => Ok(Datum::Vcard(element.to_xml(""))),
        ("query", NS_PRIVACY) => privacy(element, left_out).map(Datum::Blocked),
        ("blocklist", xep0191_blocking::NS) => element
            .children()
            .filter(|child| child.is("item", xep0191_blocking::NS))
            .map(|item| address(item, "jid"))
            .collect::<Result<_, _>>()
            .map(Datum::Blocked),
        ("prefs", xep0313_mam::NS) => Preferences::from_element(element)
            .map(Datum::Preferences)
            .map_err(|_| Invalid("the archive preferences are no such".to_owned())),
        ("last", NS_OWN) => {
            let at = element.attr("at").and_then(datetime::parse);
            let at = at.ok_or_else(|| Invalid("the last activity has no time".to_owned()))?;
            Ok(Datum::Last(at, element.text()))
        }
        ("session", NS_OWN) => {
            left_out.add("sessions", 1);
            Ok(Datum::Nothing)
        }
        (name, ns) => {
            left_out.add(format!("<{name} xmlns='{ns}'/>"), 1);
            Ok(Datum::Nothing)
        }
    }
}

fn address(element: &Element, attribute: &str) -> Result<Jid, Invalid> {
    let name = element.name();
    let text = element
        .attr(attribute)
        .ok_or_else(|| Invalid(format!("<{name}/> has no {attribute}")))?;
    Jid::parse(text).map_err(|error| Invalid(format!("{text:?} in <{name}/>: {error}")))
}

/// §4.3
fn keys(element: &Element, left_out: &mut LeftOut) -> Result<Datum, Invalid> {
    let mechanism = element.attr("mechanism").unwrap_or_default();
    let hash = match mechanism {
        "SCRAM-SHA-1" => Hash::Sha1,
        "SCRAM-SHA-256" => Hash::Sha256,
        _ => {
            left_out.add(format!("keys for {mechanism}"), 1);
            return Ok(Datum::Nothing);
        }
    };
    let text = |name: &str| {
        let child = element.child(name, NS_SCRAM);
        child
            .map(Element::text)
            .ok_or_else(|| Invalid(format!("keys for {mechanism} without <{name}/>")))
    };
    let octets = |name: &str| {
        STANDARD
            .decode(text(name)?.trim())
            .map_err(|_| Invalid(format!("<{name}/> is not base64")))
    };
    let iterations = text("iter-count")?.trim().parse().unwrap_or(0);
    let mut keys = ScramKeys {
        salt: octets("salt")?,
        iterations,
        stored_key: octets("stored-key")?,
        server_key: octets("server-key")?,
    };
    // COMPAT: ejabberd 23.01 encodes what is base64 already.
    if keys.stored_key.len() != hash.len() {
        let again = |octets: &[u8]| STANDARD.decode(octets).ok();
        if let (Some(salt), Some(stored_key), Some(server_key)) = (
            again(&keys.salt),
            again(&keys.stored_key),
            again(&keys.server_key),
        ) {
            keys = ScramKeys {
                salt,
                iterations,
                stored_key,
                server_key,
            };
        }
    }
    let sizes = [keys.stored_key.len(), keys.server_key.len()];
    if iterations == 0 || keys.salt.is_empty() || sizes != [hash.len(); 2] {
        return Err(Invalid(format!("keys for {mechanism} that cannot be such")));
    }
    Ok(Datum::Keys(hash, keys))
}

/// §4.4
fn contacts(
    account: &BareJid,
    query: &Element,
    left_out: &mut LeftOut,
) -> Result<Vec<RosterItem>, Invalid> {
    let mut items: BTreeMap<String, RosterItem> = BTreeMap::new();
    for element in query
        .children()
        .filter(|child| child.is("item", ns::ROSTER))
    {
        let jid = address(element, "jid")?.to_bare();
        let subscription = match element.attr("subscription") {
            None => Subscription::None,
            Some(name) => Subscription::from_name(name)
                .ok_or_else(|| Invalid(format!("{jid} has the subscription {name:?}")))?,
        };
        if jid == *account {
            left_out.add("contacts that are the account itself", 1);
            continue;
        }
        if subscription == Subscription::Remove {
            left_out.add("contacts that are removed", 1);
            continue;
        }
        let mut groups: Vec<String> = Vec::new();
        for group in element.children().filter(|c| c.is("group", ns::ROSTER)) {
            let group = group.text();
            if !group.is_empty() && !groups.contains(&group) {
                groups.push(group);
            }
        }
        let item = RosterItem {
            name: element.attr("name").map(ToOwned::to_owned),
            subscription,
            ask: element.attr("ask") == Some("subscribe") && !subscription.sees_contact(),
            approved: matches!(element.attr("approved"), Some("true" | "1")),
            groups,
            ..RosterItem::new(jid.clone())
        };
        if items.insert(jid.as_str().to_owned(), item).is_some() {
            left_out.add("contacts that come twice", 1);
        }
    }
    Ok(items.into_values().collect())
}

/// §4.9
fn request(account: &BareJid, element: &Element, left_out: &mut LeftOut) -> Result<Datum, Invalid> {
    if element.attr("type") != Some("subscribe") {
        left_out.add("presence other than requests", 1);
        return Ok(Datum::Nothing);
    }
    let from = address(element, "from")?.to_bare();
    let mut stanza = Element::new("presence", ns::CLIENT);
    for attribute in element.attrs() {
        stanza.set_attr(attribute.name(), attribute.value());
    }
    stanza.set_attr("from", from.as_str());
    stanza.set_attr("to", account.as_str());
    for child in element.children() {
        // Those that inherited the wrong namespace from their parent.
        if child.ns() == NS {
            stanza.push(Element::new(child.name(), ns::CLIENT).with_text(&child.text()));
        } else {
            stanza.push(child.clone());
        }
    }
    let stanza = Stanza::from_element(&stanza)
        .map_err(|_| Invalid(format!("the request of {from} is no stanza")))?;
    debug_assert_eq!(stanza.kind, Kind::Presence(PresenceType::Subscribe));
    Ok(Datum::Request(from, stanza.to_xml()))
}

/// §4.8: the addresses from which nothing is accepted by the list that is in force. Where a rule lets
/// something through before, that is left out, so that too much is blocked and not too little.
fn privacy(query: &Element, left_out: &mut LeftOut) -> Result<Vec<Jid>, Invalid> {
    let default = query
        .child("default", NS_PRIVACY)
        .and_then(|default| default.attr("name"));
    let mut blocked = Vec::new();
    for list in query
        .children()
        .filter(|child| child.is("list", NS_PRIVACY))
    {
        let rules: Vec<&Element> = list
            .children()
            .filter(|child| child.is("item", NS_PRIVACY))
            .collect();
        if default.is_none() || list.attr("name") != default {
            left_out.add("privacy rules that are not in force", rules.len() as u64);
            continue;
        }
        for rule in rules {
            let whole = rule.children().next().is_none();
            match (rule.attr("type"), rule.attr("action")) {
                (Some("jid"), Some("deny")) if whole => blocked.push(address(rule, "value")?),
                // What holds anyway.
                (None, Some("allow")) => {}
                _ => left_out.add("privacy rules other than blocking", 1),
            }
        }
    }
    Ok(blocked)
}

/// A message of an account's log, as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its id in the archive that it came from, if it is or was in it.
    pub id: Option<String>,
    /// When the server accepted it, if that is known.
    pub at: Option<SystemTime>,
    /// Whom it came from or went to.
    pub peer: Jid,
    /// Whether the account sent it.
    pub sent: bool,
    /// The stanza as standalone XML.
    pub stanza: String,
}

/// Reads a child of `<offline-messages/>` (§4.5).
///
/// # Errors
/// If it is no message.
pub fn read_offline(account: &BareJid, message: &Element) -> Result<Logged, Invalid> {
    logged(account, message, None, None)
}

/// Reads a child of `<archive/>` (§4.11).
///
/// # Errors
/// If it is no `<result/>` with a message and a time.
pub fn read_archived(account: &BareJid, result: &Element) -> Result<Logged, Invalid> {
    let forwarded = result.child("forwarded", xep0297_forwarding::NS);
    let at = forwarded
        .and_then(|forwarded| forwarded.child("delay", NS_DELAY))
        .and_then(|delay| delay.attr("stamp"))
        .and_then(datetime::parse);
    let message = forwarded.and_then(|forwarded| forwarded.child("message", ns::CLIENT));
    match (message, at) {
        (Some(message), Some(at)) if result.is("result", xep0313_mam::NS) => {
            logged(account, message, Some(at), result.attr("id"))
        }
        _ => Err(Invalid(
            "an archived message without message or time".to_owned(),
        )),
    }
}

fn logged(
    account: &BareJid,
    message: &Element,
    mut at: Option<SystemTime>,
    id: Option<&str>,
) -> Result<Logged, Invalid> {
    let mut stanza = Stanza::from_element(message)
        .map_err(|_| Invalid("a stored message is no stanza".to_owned()))?;
    if !matches!(stanza.kind, Kind::Message(_)) {
        return Err(Invalid("a stored message is no message".to_owned()));
    }
    let is_own_id = |child: &Element| {
        child.is("stanza-id", xep0359_stanza_ids::NS) && names(child, "by", account.as_str())
    };
    let is_own_delay =
        |child: &Element| child.is("delay", NS_DELAY) && names(child, "from", account.domain());
    let mut id = id.map(ToOwned::to_owned);
    for child in stanza.children() {
        if is_own_id(child) {
            id = id.or_else(|| child.attr("id").map(ToOwned::to_owned));
        } else if is_own_delay(child) {
            let stamp = child.attr("stamp").and_then(datetime::parse);
            at = at.or(stamp);
        }
    }
    // The server that keeps the message adds its own when it delivers it.
    let is_added = |child: &Element| {
        is_own_id(child) || is_own_delay(child) || child.is("archived", NS_ARCHIVED)
    };
    if stanza.children().iter().any(is_added) {
        stanza.retain_children(|child| !is_added(child));
    }
    let from = stanza.from.clone();
    let sent = from
        .as_ref()
        .is_some_and(|from| from.bare_str() == account.as_str())
        && stanza
            .to
            .as_ref()
            .is_some_and(|to| to.bare_str() != account.as_str());
    let peer = if sent { stanza.to.clone() } else { from };
    Ok(Logged {
        id,
        at,
        peer: peer.unwrap_or_else(|| account.clone().into()),
        sent,
        stanza: stanza.to_xml(),
    })
}

/// Whether an attribute is this address, however it is written.
fn names(element: &Element, attribute: &str, address: &str) -> bool {
    element
        .attr(attribute)
        .and_then(|text| Jid::parse(text).ok())
        .is_some_and(|jid| jid.as_str() == address)
}

/// Puts contacts and requests together: what a roster stores. Requests of those who are seen already are
/// answered, and left out.
pub fn roster_of(
    contacts: Vec<RosterItem>,
    requests: Vec<(BareJid, String)>,
    left_out: &mut LeftOut,
) -> Vec<RosterItem> {
    let mut items: BTreeMap<String, RosterItem> = contacts
        .into_iter()
        .map(|item| (item.jid.as_str().to_owned(), item))
        .collect();
    for (from, stanza) in requests {
        match items.get_mut(from.as_str()) {
            Some(item) if item.subscription.seen_by_contact() || item.approved => {
                left_out.add("requests that are granted already", 1);
            }
            Some(item) => {
                let was_listed = subscription::is_listed(item);
                item.pending_in = Some(stanza);
                if was_listed {
                    subscription::list(item);
                }
            }
            None => {
                let mut item = RosterItem::new(from.clone());
                item.pending_in = Some(stanza);
                items.insert(from.as_str().to_owned(), item);
            }
        }
    }
    items.into_values().collect()
}

/// The `<scram-credentials/>` of an account; none for keys that it lacks.
pub fn write_keys(credentials: &Credentials) -> Vec<Element> {
    [("SCRAM-SHA-1", Hash::Sha1), ("SCRAM-SHA-256", Hash::Sha256)]
        .into_iter()
        .map(|(mechanism, hash)| (mechanism, hash.of(credentials)))
        .filter(|(_, keys)| !keys.is_missing())
        .map(|(mechanism, keys)| {
            let child = |name, text: &str| Element::new(name, NS_SCRAM).with_text(text);
            Element::new("scram-credentials", NS_SCRAM)
                .with_attr("mechanism", mechanism)
                .with_child(child("iter-count", &keys.iterations.to_string()))
                .with_child(child("salt", &STANDARD.encode(&keys.salt)))
                .with_child(child("server-key", &STANDARD.encode(&keys.server_key)))
                .with_child(child("stored-key", &STANDARD.encode(&keys.stored_key)))
        })
        .collect()
}

/// The contacts that the user sees; `None` if there are none.
pub fn write_contacts(items: &[RosterItem]) -> Option<Element> {
    let mut listed = items
        .iter()
        .filter(|item| subscription::is_listed(item))
        .map(roster::item_element)
        .peekable();
    listed.peek()?;
    Some(Element::new("query", ns::ROSTER).with_children(listed))
}

/// The privacy list that blocks these; `None` if nobody is blocked.
pub fn write_blocked(blocked: &[Jid]) -> Option<Element> {
    if blocked.is_empty() {
        return None;
    }
    let mut list = Element::new("list", NS_PRIVACY).with_attr("name", LIST);
    for (order, jid) in (1..).zip(blocked) {
        let order: u32 = order;
        list.push(
            Element::new("item", NS_PRIVACY)
                .with_attr("type", "jid")
                .with_attr("value", jid.as_str())
                .with_attr("action", "deny")
                .with_attr("order", order.to_string()),
        );
    }
    let default = Element::new("default", NS_PRIVACY).with_attr("name", LIST);
    Some(
        Element::new("query", NS_PRIVACY)
            .with_child(default)
            .with_child(list),
    )
}

/// When the account was last online.
pub fn write_last(at: SystemTime, status: &str) -> Element {
    Element::new("last", NS_OWN)
        .with_attr("at", datetime::format_micros(at))
        .with_text(status)
}

/// A child of `<offline-messages/>` as text. `id`: its place in the archive, if it is there as well.
///
/// # Errors
/// If what is stored is no stanza.
pub fn write_offline(
    account: &BareJid,
    stanza: &str,
    at: SystemTime,
    id: Option<u64>,
) -> Result<String, Invalid> {
    let mut stanza = Stanza::from_xml(stanza)
        .map_err(|_| Invalid("a stored message is no stanza".to_owned()))?;
    stanza.push(
        Element::new("delay", NS_DELAY)
            .with_attr("from", account.domain())
            .with_attr("stamp", datetime::format_micros(at)),
    );
    if let Some(id) = id {
        stanza.push(xep0359_stanza_ids::stanza_id(account, id));
    }
    Ok(stanza.to_xml())
}

/// A child of `<archive/>` as text.
pub fn write_archived(stanza: &str, at: SystemTime, id: u64) -> String {
    let delay = Element::new("delay", NS_DELAY).with_attr("stamp", datetime::format_micros(at));
    format!(
        "<result xmlns='{}' id='{id}'><forwarded xmlns='{}'>{}{stanza}</forwarded></result>",
        xep0313_mam::NS,
        xep0297_forwarding::NS,
        delay.to_xml(xep0297_forwarding::NS),
    )
}

#[cfg(test)]
#[path = "xep0227_portable_tests.rs"]
mod tests;
