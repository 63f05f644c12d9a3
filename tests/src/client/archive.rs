//! Queries of a message archive (XEP-0313), paged by XEP-0059.

use std::collections::VecDeque;

use rookery_proto::xml::Element;

use super::Client;
use crate::stanza::{self, CLIENT, DELAY, text};

/// Namespace of XEP-0313.
pub const MAM: &str = "urn:xmpp:mam:2";
/// Namespace of XEP-0059.
pub const RSM: &str = "http://jabber.org/protocol/rsm";
/// Namespace of XEP-0297.
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Namespace of XEP-0004.
pub const DATA_FORMS: &str = "jabber:x:data";

/// A query. Without anything else it asks for all of the archive.
#[derive(Clone, Debug, Default)]
pub struct Query {
    fields: Vec<(String, Vec<String>)>,
    set: Vec<Element>,
    flipped: bool,
}

impl Query {
    /// Asks for everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for messages to and from an address.
    #[must_use]
    pub fn with(self, jid: &str) -> Self {
        self.field("with", &[jid])
    }

    /// With a field of the form (XEP-0313 §4.1).
    #[must_use]
    pub fn field(mut self, name: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        self.fields.push((name.to_owned(), values));
        self
    }

    /// At most so many messages.
    #[must_use]
    pub fn max(self, max: usize) -> Self {
        self.paging("max", &max.to_string())
    }

    /// The page after a message.
    #[must_use]
    pub fn after(self, id: &str) -> Self {
        self.paging("after", id)
    }

    /// The page before a message; the last one before nothing.
    #[must_use]
    pub fn before(self, id: &str) -> Self {
        self.paging("before", id)
    }

    /// Newest first within the page (XEP-0313 §4.3.4).
    #[must_use]
    pub fn flipped(mut self) -> Self {
        self.flipped = true;
        self
    }

    fn paging(mut self, name: &str, content: &str) -> Self {
        self.set.push(text(name, RSM, content));
        self
    }

    /// `<query/>`, the payload of the request.
    pub fn to_element(&self, queryid: &str) -> Element {
        let mut query = Element::new("query", MAM).with_attr("queryid", queryid);
        if !self.fields.is_empty() {
            let form_type = [("FORM_TYPE".to_owned(), vec![MAM.to_owned()])];
            let fields = form_type.iter().chain(&self.fields).map(|(name, values)| {
                let values = values.iter().map(|value| text("value", DATA_FORMS, value));
                let mut field = Element::new("field", DATA_FORMS)
                    .with_attr("var", name)
                    .with_children(values);
                if name == "FORM_TYPE" {
                    field.set_attr("type", "hidden");
                }
                field
            });
            let form = Element::new("x", DATA_FORMS).with_attr("type", "submit");
            query.push(form.with_children(fields));
        }
        if !self.set.is_empty() {
            query.push(Element::new("set", RSM).with_children(self.set.iter().cloned()));
        }
        if self.flipped {
            query.push(Element::new("flip-page", MAM));
        }
        query
    }
}

/// An archived message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Its place in the archive.
    pub id: String,
    /// When the server received it (XEP-0082).
    pub stamp: String,
    /// The message as it was.
    pub message: Element,
}

impl Archived {
    /// The text of its body.
    pub fn body(&self) -> String {
        let body = self.message.child("body", CLIENT);
        body.map(Element::text).unwrap_or_default()
    }
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the order in which they came.
    pub messages: Vec<Archived>,
    /// Whether nothing follows.
    pub complete: bool,
    /// The id of the page's oldest message.
    pub first: Option<String>,
    /// The id of the page's newest message.
    pub last: Option<String>,
    /// How many messages match in all, if the server says so.
    pub count: Option<usize>,
}

impl Page {
    /// The bodies, in the order in which they came.
    pub fn bodies(&self) -> Vec<String> {
        self.messages.iter().map(Archived::body).collect()
    }
}

impl Client {
    /// Queries the own archive. What else comes before the answer is kept for the test.
    pub async fn archive(&mut self, query: &Query) -> Page {
        let queryid = self.next_id();
        let request = stanza::set(query.to_element(&queryid)).with_attr("id", &queryid);
        self.send(request).await;
        let mut messages = Vec::new();
        let mut passed = VecDeque::new();
        let fin = loop {
            let stanza = self.next(&"a result of the archive").await;
            if stanza.is("iq", CLIENT) && stanza.attr("id") == Some(&queryid) {
                break stanza;
            } else if stanza.child("result", MAM).is_some() {
                assert!(
                    stanza.attr("from").is_none_or(|from| from == self.bare()),
                    "results come from the archive: {}",
                    stanza.to_xml(CLIENT)
                );
                messages.push(archived(&stanza, &queryid));
            } else {
                passed.push_back(stanza);
            }
        };
        passed.append(&mut self.queue);
        self.queue = passed;
        page(&fin, messages)
    }

    /// Reads the own archive from its beginning, `size` messages at a time.
    pub async fn whole_archive(&mut self, query: &Query, size: usize) -> Vec<Archived> {
        let mut all: Vec<Archived> = Vec::new();
        loop {
            let mut query = query.clone().max(size);
            if let Some(last) = all.last() {
                query = query.after(&last.id);
            }
            let page = self.archive(&query).await;
            assert!(
                page.complete || !page.messages.is_empty(),
                "an empty page that is not the last"
            );
            all.extend(page.messages);
            if page.complete {
                return all;
            }
        }
    }
}

/// Reads `<message><result/></message>`.
///
/// Panics if it is not as XEP-0313 §4.2 has it.
pub fn archived(stanza: &Element, queryid: &str) -> Archived {
    let result = part(stanza, stanza.child("result", MAM));
    assert_eq!(result.attr("queryid"), Some(queryid), "XEP-0313 §4.2");
    let forwarded = part(stanza, result.child("forwarded", FORWARD));
    let delay = part(stanza, forwarded.child("delay", DELAY));
    Archived {
        id: part(stanza, result.attr("id")).to_owned(),
        stamp: part(stanza, delay.attr("stamp")).to_owned(),
        message: part(stanza, forwarded.child("message", CLIENT)).clone(),
    }
}

/// Reads the result of a query, whose messages came before it.
///
/// Panics if it is an error, or does not fit the messages.
pub fn page(iq: &Element, messages: Vec<Archived>) -> Page {
    assert_eq!(iq.attr("type"), Some("result"), "{}", iq.to_xml(CLIENT));
    let fin = part(iq, iq.child("fin", MAM));
    let set = part(iq, fin.child("set", RSM));
    let content = |name| set.child(name, RSM).map(Element::text);
    let page = Page {
        complete: fin.attr("complete") == Some("true"),
        first: content("first"),
        last: content("last"),
        count: content("count").map(|count| count.parse().expect("a number")),
        messages,
    };
    let ends = [&page.first, &page.last].map(|id| id.as_deref().unwrap_or_default());
    let ids = [page.messages.first(), page.messages.last()].map(|m| m.map_or("", |m| &m.id));
    // A flipped page is only sent in another order (XEP-0313 §4.3.4).
    assert!(
        ends == ids || ends == [ids[1], ids[0]],
        "the page from {} to {} was announced as {ends:?}",
        ids[0],
        ids[1]
    );
    page
}

/// A part that must be there.
fn part<T>(stanza: &Element, part: Option<T>) -> T {
    part.unwrap_or_else(|| {
        panic!(
            "something is missing (XEP-0313 §4): {}",
            stanza.to_xml(CLIENT)
        )
    })
}
