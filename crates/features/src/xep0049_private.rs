//! XEP-0049 Private XML Storage, version 1.2.
//!
//! Supported: storing and reading elements, one or more of one namespace in a request (§2.3). The
//! reserved namespaces are refused, as §2.3 allows.

use rookery_proto::error::Condition;
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(49, "1.2", &[NS]);

/// Namespace of the requests.
pub const NS: &str = "jabber:iq:private";

/// The largest stored value, in bytes of XML.
pub const MAX_BYTES: usize = 128 * 1024;

/// The largest number of keys in a request.
pub const MAX_KEYS: usize = 32;

/// What an account's data is stored under: name and namespace of the elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Local name of the element, such as `storage`.
    pub name: String,
    /// Its namespace, such as `storage:bookmarks`.
    pub ns: String,
}

/// A key and what to store under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name and namespace of the elements.
    pub key: Key,
    /// The elements' XML, one after the other.
    pub xml: String,
}

/// Reads a request for stored data: the keys asked for, each once.
///
/// # Errors
/// `BadRequest` without a child element or with more than [`MAX_KEYS`]; `NotAcceptable` for a
/// reserved namespace, or for more than one namespace.
pub fn requested(iq: &Stanza) -> Result<Vec<Key>, Condition> {
    let elements = elements(iq)?;
    if elements.is_empty() {
        return Err(Condition::BadRequest);
    }
    let mut keys: Vec<Key> = Vec::new();
    for key in elements.into_iter().map(Key::of) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Reads a request to store data, which replaces what was stored under the same keys.
///
/// # Errors
/// `NotAcceptable` without a child element, for a reserved namespace, or for more than one
/// namespace; `BadRequest` with more than [`MAX_KEYS`] elements; `PolicyViolation` if a value is
/// larger than [`MAX_BYTES`].
pub fn replacement(iq: &Stanza) -> Result<Vec<Entry>, Condition> {
    let elements = elements(iq)?;
    if elements.is_empty() {
        return Err(Condition::NotAcceptable);
    }
    let entries = entries(elements.into_iter());
    if entries.iter().any(|entry| entry.xml.len() > MAX_BYTES) {
        return Err(Condition::PolicyViolation);
    }
    Ok(entries)
}

/// Elements as they are stored.
pub(crate) fn entries<'e>(elements: impl Iterator<Item = &'e Element>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for element in elements {
        let key = Key::of(element);
        // Elements of the same name are one value: otherwise the last would hide the others.
        let index = entries
            .iter()
            .position(|entry| entry.key == key)
            .unwrap_or_else(|| {
                entries.push(Entry {
                    key,
                    xml: String::new(),
                });
                entries.len() - 1
            });
        element.write_to(&mut entries[index].xml, "");
    }
    entries
}

/// The `<query/>` of a result: for each key what is stored, or else an empty element.
///
/// # Errors
/// `InternalServerError` if what was stored is no XML.
pub fn result<'a>(
    values: impl IntoIterator<Item = (&'a Key, Option<&'a str>)>,
) -> Result<Element, Condition> {
    let mut query = Element::new("query", NS);
    for (key, stored) in values {
        let Some(xml) = stored else {
            query.push(Element::new(&key.name, &key.ns));
            continue;
        };
        let wrapped = Element::parse(&format!("<v>{xml}</v>"), "")
            .map_err(|_| Condition::InternalServerError)?;
        for element in wrapped.children() {
            query.push(element.clone());
        }
    }
    Ok(query)
}

impl Key {
    /// The key of an element.
    fn of(element: &Element) -> Self {
        Self {
            name: element.name().to_owned(),
            ns: element.ns().to_owned(),
        }
    }
}

/// The elements of a request, after the checks that reading and writing share.
fn elements(iq: &Stanza) -> Result<Vec<&Element>, Condition> {
    let query = iq
        .payload()
        .filter(|payload| payload.is("query", NS))
        .ok_or(Condition::BadRequest)?;
    let elements: Vec<&Element> = query.children().collect();
    if elements.len() > MAX_KEYS {
        return Err(Condition::BadRequest);
    }
    let one_namespace = elements.windows(2).all(|pair| pair[0].ns() == pair[1].ns());
    if !one_namespace || elements.iter().any(|element| is_reserved(element.ns())) {
        return Err(Condition::NotAcceptable);
    }
    Ok(elements)
}

/// Whether a namespace is reserved (§2.3), or no namespace of the element's own.
fn is_reserved(ns: &str) -> bool {
    ns.is_empty()
        || ns.starts_with("jabber:")
        || ns.starts_with("http://jabber.org/")
        || ns == "vcard-temp"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    fn private(kind: &str, content: &str) -> Stanza {
        iq(
            kind,
            &format!("<query xmlns='jabber:iq:private'>{content}</query>"),
        )
    }

    const EXODUS: &str =
        "<exodus xmlns='exodus:prefs'><defaultnick>Hamlet &amp; co</defaultnick></exodus>";

    fn exodus() -> Key {
        Key {
            name: "exodus".to_owned(),
            ns: "exodus:prefs".to_owned(),
        }
    }

    /// §2.3
    #[test]
    fn what_was_stored_is_what_is_read() {
        let stored = replacement(&private("set", EXODUS)).unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].key, exodus());

        let keys = requested(&private("get", "<exodus xmlns='exodus:prefs'/>")).unwrap();
        assert_eq!(keys, [exodus()]);
        assert_eq!(
            result([(&keys[0], Some(stored[0].xml.as_str()))]),
            Ok(element(&format!(
                "<query xmlns='jabber:iq:private'>{EXODUS}</query>"
            )))
        );
    }

    #[test]
    fn what_was_never_stored_is_an_empty_element() {
        assert_eq!(
            result([(&exodus(), None)]),
            Ok(element(
                "<query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'/></query>"
            ))
        );
    }

    /// §2.3: "an IQ set or result MAY contain multiple elements qualified by the same namespace"
    #[test]
    fn several_elements_of_one_namespace_are_kept_in_order() {
        let content = "<a xmlns='x:y'>1</a><b xmlns='x:y'/><a xmlns='x:y'>2</a>";
        let stored = replacement(&private("set", content)).unwrap();
        let names: Vec<_> = stored.iter().map(|entry| entry.key.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);

        let keys = requested(&private(
            "get",
            "<b xmlns='x:y'/><a xmlns='x:y'/><b xmlns='x:y'/>",
        ));
        let keys: Vec<_> = keys.unwrap().into_iter().map(|key| key.name).collect();
        assert_eq!(keys, ["b", "a"]);

        let values = stored
            .iter()
            .map(|entry| (&entry.key, Some(entry.xml.as_str())));
        assert_eq!(
            result(values),
            Ok(element(
                "<query xmlns='jabber:iq:private'>\
                 <a xmlns='x:y'>1</a><a xmlns='x:y'>2</a><b xmlns='x:y'/></query>"
            ))
        );
    }

    /// §2.3, §3
    #[test]
    fn requests_that_name_nothing_or_too_much_are_refused() {
        assert_eq!(requested(&private("get", "")), Err(Condition::BadRequest));
        assert_eq!(
            replacement(&private("set", "")),
            Err(Condition::NotAcceptable)
        );
        let two = "<a xmlns='x:y'/><b xmlns='x:z'/>";
        assert_eq!(
            requested(&private("get", two)),
            Err(Condition::NotAcceptable)
        );
        assert_eq!(
            replacement(&private("set", two)),
            Err(Condition::NotAcceptable)
        );
        let many = "<a xmlns='x:y'/>".repeat(MAX_KEYS + 1);
        assert_eq!(
            requested(&private("get", &many)),
            Err(Condition::BadRequest)
        );
        let large = format!("<a xmlns='x:y'>{}</a>", "A".repeat(MAX_BYTES));
        assert_eq!(
            replacement(&private("set", &large)),
            Err(Condition::PolicyViolation)
        );
        assert_eq!(
            requested(&iq("get", "<query xmlns='x:y'/>")),
            Err(Condition::BadRequest)
        );
    }

    /// §2.3
    #[test]
    fn reserved_namespaces_are_refused() {
        for content in [
            "<a/>",
            "<a xmlns=''/>",
            "<x xmlns='jabber:x:data'/>",
            "<x xmlns='http://jabber.org/protocol/muc'/>",
            "<vCard xmlns='vcard-temp'/>",
        ] {
            let refused = Err(Condition::NotAcceptable);
            assert_eq!(requested(&private("get", content)), refused, "{content}");
            assert_eq!(
                replacement(&private("set", content)).map(|_| ()),
                Err(Condition::NotAcceptable),
                "{content}"
            );
        }
    }

    #[test]
    fn broken_data_is_an_error_of_the_server() {
        assert_eq!(
            result([(&exodus(), Some("<a>"))]),
            Err(Condition::InternalServerError)
        );
    }
}
