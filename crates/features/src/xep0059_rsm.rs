//! XEP-0059 Result Set Management, version 1.0.
//!
//! Supported: limits (§2.1), paging both ways (§2.2, §2.3), the last page (§2.5), pages by index (§2.6)
//! where a feature offers them, counts (§2.7). A feature that uses this says what its UIDs are.

use rookery_proto::error::Condition;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Listed in the README; the features that use it say so themselves.
pub const FEATURE: Feature = Feature::full(59, "1.0", &[]);

/// Namespace of `<set/>`.
pub const NS: &str = "http://jabber.org/protocol/rsm";

/// Which part of a result set is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// The most items to return; 0 asks for their count (§2.7).
    pub max: Option<usize>,
    /// The page after the item with this UID.
    pub after: Option<String>,
    /// The page before it; the last page if empty (§2.5).
    pub before: Option<String>,
    /// The page that starts with the item at this place, the first one's being 0 (§2.6).
    pub index: Option<usize>,
}

impl Request {
    /// Reads the `<set/>` in a request; without one, everything is asked for.
    ///
    /// # Errors
    /// `BadRequest` if `<max/>` or `<index/>` is no number.
    pub fn parse(parent: &Element) -> Result<Self, Condition> {
        let Some(set) = parent.child("set", NS) else {
            return Ok(Self::default());
        };
        let text = |name| set.child(name, NS).map(Element::text);
        let number = |name| text(name).map(|text| number(&text)).transpose();
        Ok(Self {
            max: number("max")?,
            after: text("after"),
            before: text("before"),
            index: number("index")?,
        })
    }
}

/// What is too big for the type is as big as can be.
fn number(text: &str) -> Result<usize, Condition> {
    let digits = text.trim();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Condition::BadRequest);
    }
    Ok(digits.parse().unwrap_or(usize::MAX))
}

/// Which part of a result set is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer<'a> {
    /// UIDs of the page's first and last items; `None` for an empty page.
    pub ends: Option<(&'a str, &'a str)>,
    /// The place of the first item in the whole set, from 0, if it is known.
    pub index: Option<u64>,
    /// How many items there are in the whole set, if that is known.
    pub count: Option<u64>,
}

impl Answer<'_> {
    /// The `<set/>` of the answer (§2.2).
    pub fn to_element(&self) -> Element {
        let mut set = Element::new("set", NS);
        let child = |name, text: &str| Element::new(name, NS).with_text(text);
        if let Some((first, last)) = self.ends {
            let mut first = child("first", first);
            if let Some(index) = self.index {
                first.set_attr("index", index.to_string());
            }
            set.push(first);
            set.push(child("last", last));
        }
        if let Some(count) = self.count {
            set.push(child("count", &count.to_string()));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::element;

    fn parse(children: &str) -> Result<Request, Condition> {
        let xml = format!("<query xmlns='urn:q'><set xmlns='{NS}'>{children}</set></query>");
        Request::parse(&element(&xml))
    }

    /// §2.1 to §2.7
    #[test]
    fn requests_are_read() {
        let nothing = Request::default();
        assert_eq!(
            Request::parse(&element("<query xmlns='urn:q'/>")),
            Ok(nothing.clone())
        );
        assert_eq!(parse(""), Ok(nothing.clone()));
        assert_eq!(
            parse("<max>10</max><after>a b</after>"),
            Ok(Request {
                max: Some(10),
                after: Some("a b".to_owned()),
                ..nothing.clone()
            })
        );
        assert_eq!(
            parse("<before/><max> 0 </max>"),
            Ok(Request {
                max: Some(0),
                before: Some(String::new()),
                ..nothing.clone()
            })
        );
        assert_eq!(
            parse("<max>99999999999999999999999</max><index>371</index>"),
            Ok(Request {
                max: Some(usize::MAX),
                index: Some(371),
                ..nothing
            })
        );
        for bad in [
            "<max/>",
            "<max>-1</max>",
            "<max>+1</max>",
            "<max>1x</max>",
            "<index>a</index>",
        ] {
            assert_eq!(parse(bad), Err(Condition::BadRequest), "{bad}");
        }
    }

    /// §2.2, §2.7
    #[test]
    fn answers_are_written() {
        let page = Answer {
            ends: Some(("a", "b&c")),
            index: Some(10),
            count: Some(800),
        };
        assert_eq!(
            page.to_element().to_xml(""),
            "<set xmlns='http://jabber.org/protocol/rsm'><first index='10'>a</first>\
             <last>b&amp;c</last><count>800</count></set>"
        );
        let unknown = Answer {
            index: None,
            count: None,
            ..page
        };
        assert_eq!(
            unknown.to_element().to_xml(NS),
            "<set><first>a</first><last>b&amp;c</last></set>"
        );
        let empty = Answer {
            ends: None,
            count: Some(0),
            ..page
        };
        assert_eq!(empty.to_element().to_xml(NS), "<set><count>0</count></set>");
    }

    proptest::proptest! {
        #[test]
        fn any_request_is_read_or_refused(max in "[0-9]{0,25}|\\PC{0,6}", after in "\\PC{0,20}") {
            let mut set = Element::new("set", NS);
            for (name, text) in [("max", &max), ("after", &after)] {
                set.push(Element::new(name, NS).with_text(text));
            }
            let parent = Element::new("query", "urn:q").with_child(set);
            if let Ok(request) = Request::parse(&parent) {
                proptest::prop_assert_eq!(request.after, Some(after));
                proptest::prop_assert_eq!(
                    request.max,
                    Some(max.trim().parse().unwrap_or(usize::MAX))
                );
            }
        }
    }
}
