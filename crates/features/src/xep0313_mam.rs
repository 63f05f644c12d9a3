//! XEP-0313 Message Archive Management, version 1.1.3.
//!
//! Supported: the archives of accounts (§3.3.1) with all filters of §4.1 and the form that lists them,
//! results (§4.2), paging and flipped pages (§4.3), metadata (§5) and the rules for what is stored
//! (§6.1.1). Messages of type `groupchat` are not, so `include-groupchat` makes no difference.
//!
//! A message's id is the decimal number of its place in the archive, as in its `<stanza-id/>`
//! ([`crate::xep0359_stanza_ids`]).
//!
//! Not supported: ids that cannot be predicted (§3). These are in order; only the account's owner, who
//! may read the whole archive, sees them.
//!
//! Which messages a user wants archived: [`crate::xep0441_preferences`].

use std::time::{SystemTime, UNIX_EPOCH};

use rookery_proto::datetime;
use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::ns;
use rookery_proto::stanza::{IqType, Kind, MessageType, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::xep0004_data_forms::{self as data_forms, Field, Submission};
use crate::xep0359_stanza_ids::parse_id;
use crate::{offline, xep0059_rsm, xep0297_forwarding, xep0334_hints};

/// Announced in service discovery of accounts and listed in the README.
pub const FEATURE: Feature =
    Feature::partial(313, "1.1.3", &[]).on_accounts(&[NS, NS_EXTENDED, NS_GROUPCHAT_FIELD]);

/// Namespace of every element in this file, and the `FORM_TYPE` of queries.
pub const NS: &str = "urn:xmpp:mam:2";

/// Announced for archives that can be searched by ids, flipped, and asked for metadata (§7).
pub const NS_EXTENDED: &str = "urn:xmpp:mam:2#extended";

/// Announced where the field `include-groupchat` is understood (§7).
pub const NS_GROUPCHAT_FIELD: &str = "urn:xmpp:mam:2#groupchat-field";

/// Ids that one query may name.
pub const MAX_IDS: usize = 1000;

/// Octets of a `queryid`, which comes back with every result.
pub const MAX_QUERY_ID: usize = 512;

/// What somebody looks for in an archive. A message is found if all filters match it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// The other end: with a resource exactly this one, without one any (§4.1.1). The account's own
    /// bare JID finds what the user sent to itself.
    pub with: Option<Jid>,
    /// At this time or later.
    pub start: Option<SystemTime>,
    /// At this time or earlier.
    pub end: Option<SystemTime>,
    /// Behind the message with this id. `ItemNotFound` if the archive has none (§4.1.3).
    pub after_id: Option<u64>,
    /// Ahead of the message with this id. `ItemNotFound` if the archive has none.
    pub before_id: Option<u64>,
    /// The messages with these ids; all if empty. `ItemNotFound` if the archive lacks one of them.
    /// In ascending order.
    pub ids: Vec<u64>,
    /// Which page of what is found.
    pub page: Page,
    /// The size that the page should have at most; 0 asks only for the count (XEP-0059 §2.7).
    pub max: Option<usize>,
    /// Send the page's last message first (§4.3.4). The page is the same.
    pub flip: bool,
    /// To be sent back with every result.
    pub query_id: Option<String>,
}

/// A page of what was found. In each, messages are in the order of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Page {
    /// The first one.
    #[default]
    First,
    /// The one after this message, which the archive must have: else `ItemNotFound` (§4.3.2).
    After(u64),
    /// The last one.
    Last,
    /// The one before this message, which the archive must have.
    Before(u64),
}

impl Query {
    /// Reads a query (§4).
    ///
    /// # Errors
    /// - `FeatureNotImplemented` for a field that is not known (§4.1.5), or a page by index.
    /// - `ItemNotFound` for a text that cannot be the id of a message, or a node: an account's archive
    ///   has none.
    /// - `NotAcceptable` for a field whose value is not of its type (XEP-0004 §4).
    /// - `PolicyViolation` for more than [`MAX_IDS`] ids or a `queryid` beyond [`MAX_QUERY_ID`].
    /// - `BadRequest` for any other payload, form or paging.
    pub fn parse(iq: &Stanza) -> Result<Self, Condition> {
        let query = iq
            .payload()
            .filter(|payload| iq.kind == Kind::Iq(IqType::Set) && payload.is("query", NS))
            .ok_or(Condition::BadRequest)?;
        if query.attr("node").is_some() {
            return Err(Condition::ItemNotFound);
        }
        let mut parsed = Self {
            flip: query.child("flip-page", NS).is_some(),
            query_id: query.attr("queryid").map(str::to_owned),
            ..Self::default()
        };
        if parsed
            .query_id
            .as_ref()
            .is_some_and(|id| id.len() > MAX_QUERY_ID)
        {
            return Err(Condition::PolicyViolation);
        }
        if let Some(form) = Submission::parse(query, NS)? {
            form.fields().try_for_each(|field| parsed.filter(field))?;
        }
        parsed.page(xep0059_rsm::Request::parse(query)?)?;
        Ok(parsed)
    }

    /// Reads a filter (§4.1).
    fn filter(&mut self, field: Field<'_>) -> Result<(), Condition> {
        match field.name {
            "with" => {
                let with = Jid::parse(field.single()?).map_err(|_| Condition::NotAcceptable)?;
                self.with = Some(with);
            }
            "start" => self.start = Some(time(field.single()?)?),
            "end" => self.end = Some(time(field.single()?)?),
            "after-id" => self.after_id = Some(id(field.single()?)?),
            "before-id" => self.before_id = Some(id(field.single()?)?),
            "ids" => {
                if field.values.len() > MAX_IDS {
                    return Err(Condition::PolicyViolation);
                }
                let ids = field.values.iter().map(|text| id(text));
                self.ids = ids.collect::<Result<_, _>>()?;
                self.ids.sort_unstable();
                self.ids.dedup();
            }
            "include-groupchat" => {
                field.boolean()?;
            }
            _ => return Err(Condition::FeatureNotImplemented),
        }
        Ok(())
    }

    /// Reads which page is asked for (§4.3).
    fn page(&mut self, request: xep0059_rsm::Request) -> Result<(), Condition> {
        if request.index.is_some() {
            return Err(Condition::FeatureNotImplemented);
        }
        self.max = request.max;
        let uid = |text: Option<String>| text.map(|text| id(&text)).transpose();
        self.page = match (request.after, request.before) {
            (None, None) => Page::First,
            (after, None) => uid(after)?.map_or(Page::First, Page::After),
            (None, Some(last)) if last.is_empty() => Page::Last,
            (None, before) => uid(before)?.map_or(Page::Last, Page::Before),
            // "RSM does not define the behaviour" (§4.3.2).
            (Some(_), Some(_)) => return Err(Condition::BadRequest),
        };
        Ok(())
    }
}

fn id(text: &str) -> Result<u64, Condition> {
    parse_id(text).ok_or(Condition::ItemNotFound)
}

/// Reads a time. One before 1970 is as good as 1970's beginning, as no archive is that old.
fn time(text: &str) -> Result<SystemTime, Condition> {
    let before_1970 = || {
        let year = text.get(..4).filter(|year| *year < "1970")?;
        let is_time = year.bytes().all(|digit| digit.is_ascii_digit())
            // A leap year, so that every day that may be there is.
            && datetime::parse(&text.replacen(year, "2000", 1)).is_some();
        is_time.then_some(UNIX_EPOCH)
    };
    datetime::parse(text)
        .or_else(before_1970)
        .ok_or(Condition::NotAcceptable)
}

/// The answer to `<iq type='get'><query/>`: the form with the fields of queries (§4.1.5).
pub fn form() -> Element {
    let any_values = Element::new("validate", NS_VALIDATE)
        .with_attr("datatype", "xs:string")
        .with_child(Element::new("open", NS_VALIDATE));
    let fields = [
        data_forms::field("with", "jid-single"),
        data_forms::field("start", "text-single"),
        data_forms::field("end", "text-single"),
        data_forms::field("before-id", "text-single"),
        data_forms::field("after-id", "text-single"),
        data_forms::field("ids", "list-multi").with_child(any_values),
        data_forms::field("include-groupchat", "boolean"),
    ];
    Element::new("query", NS).with_child(data_forms::form(NS, fields))
}

/// Namespace of what says that a list is open to any value (XEP-0122).
const NS_VALIDATE: &str = "http://jabber.org/protocol/xdata-validate";

/// A message in an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Archived<'a> {
    /// Its id.
    pub id: u64,
    /// When the server got it.
    pub at: SystemTime,
    /// The message as standalone XML, as [`Stanza::to_xml`] writes it.
    pub stanza: &'a str,
}

impl Archived<'_> {
    /// The message that brings this one to the resource that asked, whose full JID is to be put into
    /// `to` (§4.2). `query_id` is the query's.
    ///
    /// `None` if what is stored is no XML.
    pub fn result(&self, query_id: Option<&str>, account: &BareJid) -> Option<Stanza> {
        let mut result = Element::new("result", NS).with_attr("id", self.id.to_string());
        if let Some(query_id) = query_id {
            result.set_attr("queryid", query_id);
        }
        let mut xml = String::with_capacity(self.stanza.len() + 320);
        xml.push_str("<message xmlns='jabber:client'>");
        result.write_to(&mut xml, ns::CLIENT);
        // The element is empty, so that its text ends with `/>`.
        xml.truncate(xml.len() - 2);
        xml.push('>');
        xml.push_str(&xep0297_forwarding::forwarded(self.stanza, Some(self.at)));
        xml.push_str("</result></message>");
        Some(Stanza::from_xml(&xml).ok()?.with_from(account.clone()))
    }
}

/// The end of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fin {
    /// Ids of the first and the last message on the page, in the order of the archive also if the page
    /// was flipped; `None` if it is empty.
    pub ends: Option<(u64, u64)>,
    /// How many messages ahead of the page were found, if that is known.
    pub index: Option<u64>,
    /// How many were found on all pages, if that is known.
    pub count: Option<u64>,
    /// There are no more pages that way (§4.3.2).
    pub complete: bool,
    /// What is on the page will stay so (§4.3.2).
    pub stable: bool,
}

impl Fin {
    /// The `<fin/>` of the IQ result, which follows the last message (§4).
    pub fn to_element(&self) -> Element {
        let mut fin = Element::new("fin", NS);
        if self.complete {
            fin.set_attr("complete", "true");
        }
        if !self.stable {
            fin.set_attr("stable", "false");
        }
        let ends = self
            .ends
            .map(|(first, last)| (first.to_string(), last.to_string()));
        let set = xep0059_rsm::Answer {
            ends: ends
                .as_ref()
                .map(|(first, last)| (first.as_str(), last.as_str())),
            index: self.index,
            count: self.count,
        };
        fin.with_child(set.to_element())
    }
}

/// The `<metadata/>` of an archive (§5): id and time of its first and last messages, `None` if it is
/// empty.
pub fn metadata(ends: Option<[(u64, SystemTime); 2]>) -> Element {
    let mut metadata = Element::new("metadata", NS);
    for (name, (id, at)) in ["start", "end"].into_iter().zip(ends.into_iter().flatten()) {
        metadata.push(
            Element::new(name, NS)
                .with_attr("id", id.to_string())
                .with_attr("timestamp", datetime::format_millis(at)),
        );
    }
    metadata
}

/// Whether a message belongs in the archives of the two accounts, sender's and recipient's (§6.1.1):
/// `chat` and `normal`, unless it only serves the moment, or asks not to be kept (XEP-0334).
///
/// Everything in an archive is also worth being stored for a recipient who is away
/// ([`offline::is_stored`]), not the other way round.
pub fn is_archived(stanza: &Stanza) -> bool {
    match stanza.kind {
        Kind::Message(MessageType::Chat | MessageType::Normal) => {}
        Kind::Message(MessageType::Groupchat | MessageType::Headline | MessageType::Error)
        | Kind::Presence(_)
        | Kind::Iq(_) => return false,
    }
    if xep0334_hints::forbids_archiving(stanza) {
        return false;
    }
    stanza.has("body", ns::CLIENT)
        || xep0334_hints::asks_to_be_stored(stanza)
        // News of a node, which the node keeps (XEP-0060 §7.1.2).
        || (!stanza.has("event", NS_PUBSUB_EVENT) && offline::has_content(stanza))
}

/// Namespace of pubsub notifications (XEP-0060).
const NS_PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";

#[cfg(test)]
#[path = "xep0313_mam_tests.rs"]
mod tests;
