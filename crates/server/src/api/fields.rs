//! Reading what a call brings: fields of a JSON body and parameters of a query, each named if it is wrong.

use std::time::Duration;

use config::ValueKind;
use serde_json::{Map, Value};

use super::routes::decode;
use super::{MAX_BODY_BYTES, Problem};
use crate::config::Value as _;

/// The fields of a body.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a JSON object that has only these fields. No body is an object without any.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(body: &[u8], allowed: &[&str]) -> Result<Self, Problem> {
        debug_assert!(body.len() <= MAX_BODY_BYTES, "checked where it was read");
        let empty = body.iter().all(u8::is_ascii_whitespace);
        let value = if empty {
            Ok(Value::Object(Map::new()))
        } else {
            serde_json::from_slice(body)
        };
        let object = match value {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(Problem::field("body", "the body has to be a JSON object")),
            Err(error) => return Err(Problem::field("body", format!("no JSON: {error}"))),
        };
        if let Some(unknown) = object.keys().find(|key| !allowed.contains(&key.as_str())) {
            let allowed = match allowed {
                [] => "there are none here".into(),
                allowed => format!("allowed: {}", allowed.join(", ")),
            };
            return Err(Problem::field(unknown, format!("unknown field; {allowed}")));
        }
        Ok(Self(object))
    }

    /// A text that has to be there.
    pub(super) fn text(&self, name: &str) -> Result<&str, Problem> {
        self.optional_text(name)?
            .ok_or_else(|| Problem::field(name, "this field is missing"))
    }

    /// A text, or nothing.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::field(name, "this has to be text")),
        }
    }

    /// A list of texts; empty if it is not there.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, Problem> {
        let list = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter(),
            Some(_) => return Err(Problem::field(name, "this has to be a list of texts")),
        };
        let texts = list.map(|item| item.as_str().map(str::to_owned));
        texts
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Problem::field(name, "this has to be a list of texts"))
    }

    /// A time such as `"30s"`, or nothing.
    pub(super) fn time(&self, name: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.optional_text(name)? else {
            return Ok(None);
        };
        time(name, text).map(Some)
    }
}

fn time(name: &str, text: &str) -> Result<Duration, Problem> {
    let time = Duration::read(&ValueKind::String(text.into()));
    time.ok_or_else(|| Problem::field(name, format!("allowed: {}", Duration::allowed())))
}

/// The parameters of a query, in their order; not decoded ones are kept to be refused.
pub(super) struct Query(Vec<(String, Option<String>)>);

impl Query {
    /// Reads `name=value&…`.
    pub(super) fn parse(query: &str) -> Self {
        let parts = query.split('&').filter(|part| !part.is_empty());
        let pairs = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.to_owned(), decode(value))
        });
        Self(pairs.collect())
    }

    /// # Errors
    /// Names a parameter that there is not, comes twice or cannot be read.
    pub(super) fn only(&self, allowed: &[&str]) -> Result<(), Problem> {
        for (number, (name, value)) in self.0.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                let allowed = match allowed {
                    [] => "there are none here".into(),
                    allowed => format!("allowed: {}", allowed.join(", ")),
                };
                return Err(Problem::field(
                    name,
                    format!("unknown parameter; {allowed}"),
                ));
            }
            if value.is_none() {
                return Err(Problem::field(name, "not encoded as it has to be"));
            }
            if self.0[..number].iter().any(|(other, _)| other == name) {
                return Err(Problem::field(name, "this parameter comes twice"));
            }
        }
        Ok(())
    }

    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.and_then(|(_, value)| value.as_deref())
    }

    /// A time such as `30s`, or nothing.
    pub(super) fn time(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.get(name).map(|text| time(name, text)).transpose()
    }

    /// How many entries are wanted: 1 to `most`; `usual` if nothing is said.
    pub(super) fn limit(&self, usual: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else {
            return Ok(usual);
        };
        let number = text.parse().ok().filter(|n| (1..=most).contains(n));
        number.ok_or_else(|| Problem::field("limit", format!("allowed: 1 to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of<T>(result: Result<T, Problem>) -> Option<String> {
        result.err().and_then(|problem| problem.field)
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |body: &str| Fields::parse(body.as_bytes(), &["a", "b"]);
        assert_eq!(field_of(parse("{")).as_deref(), Some("body"));
        assert_eq!(field_of(parse("[]")).as_deref(), Some("body"));
        assert_eq!(field_of(parse(r#"{"c":1}"#)).as_deref(), Some("c"));
        let fields = parse(r#"{"a":1,"b":["x",2]}"#).unwrap();
        assert_eq!(field_of(fields.text("a")).as_deref(), Some("a"));
        assert_eq!(field_of(fields.texts("b")).as_deref(), Some("b"));
        let nothing = parse(" ").unwrap();
        assert_eq!(field_of(nothing.text("a")).as_deref(), Some("a"));
        assert_eq!(nothing.optional_text("a"), Ok(None));
        let time = parse(r#"{"a":"30s","b":"soon"}"#).unwrap();
        assert_eq!(time.time("a"), Ok(Some(Duration::from_secs(30))));
        assert_eq!(field_of(time.time("b")).as_deref(), Some("b"));
    }

    #[test]
    fn queries_are_read_strictly() {
        let query = Query::parse("limit=5&after=a%40b");
        assert_eq!(query.get("after"), Some("a@b"));
        assert_eq!(query.limit(1, 10), Ok(5));
        assert_eq!(query.only(&["limit", "after"]), Ok(()));
        assert_eq!(field_of(query.only(&["limit"])).as_deref(), Some("after"));
        assert_eq!(field_of(query.limit(1, 4)).as_deref(), Some("limit"));
        for bad in ["limit=1&limit=2", "limit=%f"] {
            let refused = Query::parse(bad).only(&["limit"]);
            assert_eq!(field_of(refused).as_deref(), Some("limit"), "{bad}");
        }
        assert_eq!(Query::parse("").limit(7, 9), Ok(7));
    }
}
