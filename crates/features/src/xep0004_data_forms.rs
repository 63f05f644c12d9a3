//! XEP-0004 Data Forms, version 2.13.2.
//!
//! Supported: forms within IQs that are offered (type `form`, §3.1) and filled in (type `submit`), each
//! named by its `FORM_TYPE` (XEP-0068).
//! Not supported: forms in messages, so that nothing is announced (§6), labels, options, and forms of
//! the types `result` and `cancel`; no feature of this server needs them.

use rookery_proto::error::Condition;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Listed in the README; announced only by those who take forms in messages (§6).
pub const FEATURE: Feature = Feature::partial(4, "2.13.2", &[]);

/// Namespace of forms.
pub const NS: &str = "jabber:x:data";

/// The field that says what a form is about (XEP-0068 §3.1).
const FORM_TYPE: &str = "FORM_TYPE";

/// A form that somebody has filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submission {
    fields: Vec<(String, Vec<String>)>,
}

impl Submission {
    /// Reads the form in a request; `None` if there is none.
    ///
    /// # Errors
    /// `BadRequest` unless it is of type `submit`, has this `FORM_TYPE`, and all its fields have names
    /// that differ.
    pub fn parse(parent: &Element, form_type: &str) -> Result<Option<Self>, Condition> {
        let Some(form) = parent.child("x", NS) else {
            return Ok(None);
        };
        if form.attr("type") != Some("submit") {
            return Err(Condition::BadRequest);
        }
        let mut fields: Vec<(String, Vec<String>)> = Vec::new();
        let mut about = None;
        for field in form.children().filter(|child| child.is("field", NS)) {
            // Text for people, which may have no name (§3.3).
            if field.attr("type") == Some("fixed") {
                continue;
            }
            let name = field.attr("var").ok_or(Condition::BadRequest)?;
            let values = values(field);
            if name == FORM_TYPE {
                about = values.into_iter().next();
            } else if fields.iter().any(|(known, _)| known == name) {
                return Err(Condition::BadRequest);
            } else {
                fields.push((name.to_owned(), values));
            }
        }
        if about.as_deref() == Some(form_type) {
            Ok(Some(Self { fields }))
        } else {
            Err(Condition::BadRequest)
        }
    }

    /// The fields in their order, without `FORM_TYPE` and those that hold nothing: an empty value and
    /// none are the same (§3.6).
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields
            .iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| Field { name, values })
    }
}

fn values(field: &Element) -> Vec<String> {
    field
        .children()
        .filter(|child| child.is("value", NS))
        .map(Element::text)
        .filter(|value| !value.is_empty())
        .collect()
}

/// A field that has been filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its `var`.
    pub name: &'a str,
    /// At least one value, and none of them empty.
    pub values: &'a [String],
}

impl<'a> Field<'a> {
    /// The value of a field that has only one.
    ///
    /// # Errors
    /// `NotAcceptable` (§4) if there are more (§3.2).
    pub fn single(self) -> Result<&'a str, Condition> {
        match self.values {
            [value] => Ok(value),
            _ => Err(Condition::NotAcceptable),
        }
    }

    /// The value of a field of type `boolean` (§3.3).
    ///
    /// # Errors
    /// `NotAcceptable` (§4) if it is none.
    pub fn boolean(self) -> Result<bool, Condition> {
        match self.single()? {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Condition::NotAcceptable),
        }
    }
}

/// An empty form to fill in: `fields` are names and types (§3.3).
pub fn form(form_type: &str, fields: impl IntoIterator<Item = Element>) -> Element {
    let about =
        field(FORM_TYPE, "hidden").with_child(Element::new("value", NS).with_text(form_type));
    Element::new("x", NS)
        .with_attr("type", "form")
        .with_child(about)
        .with_children(fields)
}

/// An empty field of a form.
pub fn field(name: &str, kind: &str) -> Element {
    Element::new("field", NS)
        .with_attr("type", kind)
        .with_attr("var", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::element;

    const SOME: &str = "<field var='FORM_TYPE' type='hidden'><value>urn:f</value></field>";

    fn parse(kind: &str, fields: &str) -> Result<Option<Submission>, Condition> {
        let xml = format!("<q xmlns='urn:q'><x xmlns='{NS}' type='{kind}'>{fields}</x></q>");
        Submission::parse(&element(&xml), "urn:f")
    }

    fn submitted(fields: &str) -> Submission {
        parse("submit", &format!("{SOME}{fields}"))
            .unwrap()
            .unwrap()
    }

    /// §3.2
    #[test]
    fn fields_are_read_in_their_order() {
        let form = submitted(
            "<field var='b'><value>1</value><value>2 &amp; 3</value></field>\
             <field var='a' type='boolean'><value>true</value></field>\
             <field type='fixed'><value>text</value></field>\
             <field var='empty'><value/></field><field var='none'/>",
        );
        let fields: Vec<_> = form.fields().collect();
        assert_eq!((fields[0].name, fields[1].name), ("b", "a"));
        assert_eq!(fields[0].values, ["1", "2 & 3"]);
        assert_eq!(fields[0].single(), Err(Condition::NotAcceptable));
        assert_eq!(
            (fields[1].single(), fields[1].boolean()),
            (Ok("true"), Ok(true))
        );
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn booleans_are_written_in_two_ways() {
        let boolean = |value| {
            let form = submitted(&format!("<field var='x'><value>{value}</value></field>"));
            form.fields().next().unwrap().boolean()
        };
        assert_eq!((boolean("1"), boolean("true")), (Ok(true), Ok(true)));
        assert_eq!((boolean("0"), boolean("false")), (Ok(false), Ok(false)));
        assert_eq!(boolean("yes"), Err(Condition::NotAcceptable));
    }

    #[test]
    fn other_forms_are_refused() {
        let twice = "<field var='x'/><field var='x'/>";
        for (kind, fields) in [
            ("form", SOME.to_owned()),
            ("", SOME.to_owned()),
            ("submit", String::new()),
            ("submit", SOME.replace("urn:f", "urn:g")),
            ("submit", SOME.replace("<value>urn:f</value>", "")),
            ("submit", format!("{SOME}<field><value>1</value></field>")),
            ("submit", format!("{SOME}{twice}")),
        ] {
            assert_eq!(
                parse(kind, &fields),
                Err(Condition::BadRequest),
                "{kind} {fields}"
            );
        }
        assert_eq!(
            Submission::parse(&element("<q xmlns='urn:q'/>"), "urn:f"),
            Ok(None)
        );
    }

    /// §3.1
    #[test]
    fn an_empty_form_names_its_fields() {
        assert_eq!(
            form("urn:f", [field("with", "jid-single")]).to_xml(""),
            "<x xmlns='jabber:x:data' type='form'><field type='hidden' var='FORM_TYPE'>\
             <value>urn:f</value></field><field type='jid-single' var='with'/></x>"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_form_is_read_or_refused(
            names in proptest::collection::vec("FORM_TYPE|[a-z]{1,3}", 0..5),
            values in proptest::collection::vec("urn:f|\\PC{0,8}", 0..5),
        ) {
            let mut form = Element::new("x", NS).with_attr("type", "submit");
            for (name, value) in names.iter().zip(&values) {
                let value = Element::new("value", NS).with_text(value);
                form.push(Element::new("field", NS).with_attr("var", name).with_child(value));
            }
            let parent = Element::new("q", "urn:q").with_child(form);
            if let Ok(form) = Submission::parse(&parent, "urn:f") {
                for field in form.unwrap().fields() {
                    let place = names.iter().position(|name| name == field.name).unwrap();
                    proptest::prop_assert_eq!(field.single(), Ok(values[place].as_str()));
                }
            }
        }
    }
}
