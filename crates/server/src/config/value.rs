//! The types of settings: how each is read from text or TOML, what it allows, how it is shown.
//!
//! A value comes from a TOML file with its type, or as text from the environment and `--set`; both
//! give the same result. A type here cannot hold a value that its setting does not allow.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;
use rookery_actors::settings::Network;
use rookery_proto::jid::{BareJid, Jid};

/// The type of a setting.
pub(crate) trait Value: Sized {
    /// What is allowed, as the end of the sentence "allowed: …".
    fn allowed() -> String;

    /// Reads the value, or `None` if it is not allowed.
    fn read(raw: &ValueKind) -> Option<Self>;

    /// The value in TOML, secrets included.
    fn to_toml(&self) -> String;

    /// The value in TOML as it may be shown to people.
    fn to_masked_toml(&self) -> String {
        self.to_toml()
    }

    /// The passwords and tokens that the value holds or, as the name of a file, points to.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A setting with a fixed list of words.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Each word with its meaning.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Choice> Value for T {
    fn allowed() -> String {
        let words: Vec<_> = T::WORDS
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        words.join(", ")
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let ValueKind::String(text) = raw else {
            return None;
        };
        T::WORDS
            .iter()
            .find(|(word, _)| word == text)
            .map(|&(_, value)| value)
    }

    fn to_toml(&self) -> String {
        let (word, _) = T::WORDS
            .iter()
            .find(|(_, value)| value == self)
            .expect("a word for each");
        toml_string(word)
    }
}

impl Value for bool {
    fn allowed() -> String {
        "true, false".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        match raw {
            ValueKind::Boolean(value) => Some(*value),
            ValueKind::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Integer<MIN, MAX> {
    /// The number, for what is counted in memory. `MAX` is far below the limit of `usize`.
    pub(crate) fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number as `u32`; larger numbers, which no setting allows, become the largest `u32`.
    pub(crate) fn get_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Integer<MIN, MAX> {
    fn allowed() -> String {
        format!("an integer from {MIN} to {MAX}")
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let value = match raw {
            ValueKind::I64(value) => u64::try_from(*value).ok()?,
            ValueKind::U64(value) => *value,
            ValueKind::String(text) => text.trim().replace('_', "").parse().ok()?,
            _ => return None,
        };
        (MIN..=MAX).contains(&value).then_some(Self(value))
    }

    fn to_toml(&self) -> String {
        self.0.to_string()
    }
}

impl Value for Duration {
    fn allowed() -> String {
        "a time such as \"500ms\", \"30s\", \"5m\" or \"1h\"".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let ValueKind::String(text) = raw else {
            return None;
        };
        let text = text.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().ok()?;
        let millis = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).map(Duration::from_millis)
    }

    fn to_toml(&self) -> String {
        let millis = self.as_millis();
        let (number, unit) = match millis {
            0 => (0, "s"),
            _ if millis.is_multiple_of(3_600_000) => (millis / 3_600_000, "h"),
            _ if millis.is_multiple_of(60_000) => (millis / 60_000, "m"),
            _ if millis.is_multiple_of(1_000) => (millis / 1_000, "s"),
            _ => (millis, "ms"),
        };
        toml_string(&format!("{number}{unit}"))
    }
}

impl Value for String {
    fn allowed() -> String {
        "text".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        match raw {
            ValueKind::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        toml_string(self)
    }
}

impl Value for PathBuf {
    fn allowed() -> String {
        "a path".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        match raw {
            ValueKind::String(text) if !text.is_empty() => Some(text.into()),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        toml_string(&self.to_string_lossy())
    }
}

/// A password or a token. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The secret in clear.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Value for Secret {
    fn allowed() -> String {
        "text".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        String::read(raw).map(Self)
    }

    fn to_toml(&self) -> String {
        toml_string(&self.0)
    }

    fn to_masked_toml(&self) -> String {
        toml_string("***")
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
}

/// The address of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account(BareJid);

impl Account {
    /// The address.
    pub(crate) fn jid(&self) -> &BareJid {
        &self.0
    }
}

impl Value for Account {
    fn allowed() -> String {
        "accounts' addresses such as \"ann@example.org\"".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let ValueKind::String(text) = raw else {
            return None;
        };
        let jid = BareJid::parse(text.trim()).ok()?;
        jid.local().is_some().then_some(Self(jid))
    }

    fn to_toml(&self) -> String {
        toml_string(self.0.as_str())
    }
}

/// A file whose first line is a password or a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretFile(PathBuf);

impl SecretFile {
    /// The secret, without the end of its line.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn secret(&self) -> std::io::Result<String> {
        let text = std::fs::read_to_string(&self.0)?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

impl Value for SecretFile {
    fn allowed() -> String {
        PathBuf::allowed()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        PathBuf::read(raw).map(Self)
    }

    fn to_toml(&self) -> String {
        self.0.to_toml()
    }

    // A file that cannot be read is reported by who needs it.
    fn secrets(&self) -> Vec<String> {
        self.secret().into_iter().collect()
    }
}

impl Value for SocketAddr {
    fn allowed() -> String {
        "addresses with ports such as \"[::]:5222\" (all addresses) or \"127.0.0.1:5222\"".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        parse_text(raw)
    }

    fn to_toml(&self) -> String {
        toml_string(&self.to_string())
    }
}

impl Value for Network {
    fn allowed() -> String {
        "addresses or networks such as \"192.0.2.7\" or \"10.0.0.0/8\"".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        parse_text(raw)
    }

    fn to_toml(&self) -> String {
        toml_string(&format!("{}/{}", self.address, self.prefix))
    }
}

/// A domain that the server serves, in the form in which addresses are compared (RFC 7622 §3.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Domain(String);

impl Domain {
    /// The domain's name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Domain {
    fn allowed() -> String {
        "domain names such as \"example.org\"".into()
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let ValueKind::String(text) = raw else {
            return None;
        };
        let jid = Jid::parse(text.trim()).ok()?;
        let is_domain = jid.local().is_none() && jid.resource().is_none();
        is_domain.then(|| Self(jid.domain().to_owned()))
    }

    fn to_toml(&self) -> String {
        toml_string(&self.0)
    }
}

/// A setting that may be absent; empty text means absent.
impl<T: Value> Value for Option<T> {
    fn allowed() -> String {
        format!("{}, or nothing", T::allowed())
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        match raw {
            ValueKind::Nil => Some(None),
            ValueKind::String(text) if text.is_empty() => Some(None),
            raw => T::read(raw).map(Some),
        }
    }

    fn to_toml(&self) -> String {
        self.as_ref()
            .map_or_else(|| toml_string(""), Value::to_toml)
    }

    fn to_masked_toml(&self) -> String {
        self.as_ref()
            .map_or_else(|| toml_string(""), Value::to_masked_toml)
    }

    fn secrets(&self) -> Vec<String> {
        self.as_ref().map(Value::secrets).unwrap_or_default()
    }
}

/// A list: a TOML array, or as text a TOML array or values separated by commas.
impl<T: Value> Value for Vec<T> {
    fn allowed() -> String {
        format!("a list of {}", T::allowed())
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        match raw {
            ValueKind::Array(items) => items.iter().map(|item| T::read(&item.kind)).collect(),
            ValueKind::String(text) => match toml_array(text) {
                Some(items) => Self::read(&items),
                None if text.trim().is_empty() => Some(Vec::new()),
                None => text
                    .split(',')
                    .map(|item| T::read(&ValueKind::String(item.trim().into())))
                    .collect(),
            },
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        let items: Vec<_> = self.iter().map(Value::to_toml).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Text that is a TOML array. `[::]:5222` starts like one and is none.
fn toml_array(text: &str) -> Option<ValueKind> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    super::layers::parse_toml(&format!("list = {text}"))
        .ok()
        .and_then(|mut table| table.remove("list"))
        .map(|value| value.kind)
}

fn parse_text<T: std::str::FromStr>(raw: &ValueKind) -> Option<T> {
    match raw {
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's; only DEL has to be added.
pub(super) fn toml_string(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> ValueKind {
        ValueKind::String(value.into())
    }

    #[test]
    fn times_have_a_unit() {
        for (input, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            let value = Duration::read(&text(input)).unwrap();
            assert_eq!(value, Duration::from_millis(millis));
            assert_eq!(value.to_toml(), format!("{input:?}"));
        }
        for input in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "1 fortnight",
        ] {
            assert_eq!(Duration::read(&text(input)), None, "{input:?}");
        }
        assert_eq!(Duration::read(&ValueKind::I64(30)), None);
    }

    #[test]
    fn integers_keep_their_bounds() {
        type Port = Integer<1, 65_535>;
        assert_eq!(Port::read(&ValueKind::I64(1)).map(Integer::get), Some(1));
        assert_eq!(Port::read(&text("10_000")).map(Integer::get), Some(10_000));
        for raw in [
            ValueKind::I64(0),
            ValueKind::I64(-3),
            text("65536"),
            text("x"),
            ValueKind::Boolean(true),
        ] {
            assert_eq!(Port::read(&raw), None, "{raw:?}");
        }
    }

    #[test]
    fn lists_are_arrays_or_separated_by_commas() {
        let both: Vec<SocketAddr> =
            vec!["[::]:5222".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
        for input in [
            "[::]:5222,127.0.0.1:0",
            "[\"[::]:5222\", \"127.0.0.1:0\"]",
            "[::]:5222, 127.0.0.1:0",
        ] {
            assert_eq!(
                Vec::<SocketAddr>::read(&text(input)).as_ref(),
                Some(&both),
                "{input}"
            );
        }
        assert_eq!(Vec::<SocketAddr>::read(&text("[]")), Some(vec![]));
        assert_eq!(Vec::<SocketAddr>::read(&text("")), Some(vec![]));
        assert_eq!(Vec::<SocketAddr>::read(&text("5222")), None);
        assert_eq!(both.to_toml(), "[\"[::]:5222\", \"127.0.0.1:0\"]");
    }

    #[test]
    fn domains_are_normalised_and_have_no_user() {
        let read = |input: &str| Domain::read(&text(input)).map(|domain| domain.to_string());
        assert_eq!(read("Example.ORG").as_deref(), Some("example.org"));
        for input in ["", "ann@example.org", "example.org/desk", "a b", "@"] {
            assert_eq!(read(input), None, "{input:?}");
        }
    }

    #[test]
    fn strings_survive_toml() {
        for input in ["", "a\"b\\c", "line\nbreak", "\u{7f}\u{1}é🐦"] {
            let table =
                super::super::layers::parse_toml(&format!("x = {}", toml_string(input))).unwrap();
            assert_eq!(table["x"].kind, text(input));
        }
    }
}
