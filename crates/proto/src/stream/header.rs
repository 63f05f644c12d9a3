//! Stream headers (RFC 6120 §4.7), and `<open/>` and `<close/>` of WebSocket streams (RFC 7395 §3.4).

use super::{StreamCondition, StreamError, StreamScope};
use crate::jid::Jid;
use crate::xml::push_attribute;
use crate::xml::walker::{Attribute, Event, Walker};
use crate::{ns, xml};

/// The version of XMPP that a side speaks, major before minor (RFC 6120 §4.7.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u16, pub u16);

impl Version {
    /// XMPP as in RFC 6120.
    pub const V1_0: Self = Self(1, 0);
    /// What the absence of a version means.
    pub const V0_9: Self = Self(0, 9);
}

/// A stream header, of either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamHeader {
    /// Whom it is for: from a client, the domain that it wants to log in to.
    pub to: Option<Jid>,
    /// Who sends it.
    pub from: Option<Jid>,
    /// The highest version that the sender speaks.
    pub version: Version,
    /// The language that stanzas have by default.
    pub lang: Option<Box<str>>,
    /// The stream's identifier; only the receiving side sets it.
    pub id: Option<Box<str>>,
}

impl StreamHeader {
    /// A server's answer. `domain` is told as `from`.
    pub fn response(domain: Jid, id: &str) -> Self {
        Self {
            to: None,
            from: Some(domain),
            version: Version::V1_0,
            lang: Some("en".into()),
            id: Some(id.into()),
        }
    }

    /// Reads `<stream:stream …>`, as it comes out of the framer.
    ///
    /// # Errors
    /// The stream error that the header causes: `bad-namespace-prefix` unless the prefix is `stream`,
    /// `invalid-namespace` unless it means streams and the default namespace is `jabber:client`,
    /// `improper-addressing`, `unsupported-version` if the version is no version. Whether the version is
    /// high enough and the domain is served is the caller's to decide.
    pub fn parse(raw: &[u8]) -> Result<(Self, StreamScope), StreamError> {
        let text = simdutf8::basic::from_utf8(raw).map_err(|_| xml::Error::Encoding)?;
        let mut walker = Walker::document(text, "", std::iter::empty());
        walker.next()?;
        if walker.position() != text.len() {
            return Err(StreamCondition::BadFormat.into());
        }
        if walker.tag().prefix != "stream" {
            return Err(StreamCondition::BadNamespacePrefix.into());
        }
        if walker.namespace() != ns::STREAMS || walker.default_namespace() != ns::CLIENT {
            return Err(StreamCondition::InvalidNamespace.into());
        }
        if walker.tag().local != "stream" {
            return Err(StreamCondition::BadFormat.into());
        }
        let header = Self::from_attributes(walker.attributes())?;
        let prefixes = walker
            .bindings()
            .iter()
            .filter(|binding| !binding.prefix.is_empty())
            .map(|binding| (binding.prefix.into(), (*binding.uri).into()));
        let scope = StreamScope::declaring(header.lang.as_deref(), prefixes);
        Ok((header, scope))
    }

    /// Reads `<open/>` of a WebSocket stream.
    ///
    /// # Errors
    /// As for [`StreamHeader::parse`]; `invalid-namespace` unless the namespace is that of framing
    /// (RFC 7395 §3.3.2).
    pub fn parse_ws(raw: &[u8]) -> Result<(Self, StreamScope), StreamError> {
        let text = simdutf8::basic::from_utf8(raw).map_err(|_| xml::Error::Encoding)?;
        let mut walker = Walker::document(text, "", std::iter::empty());
        walker.next()?;
        if walker.namespace() != ns::FRAMING {
            return Err(StreamCondition::InvalidNamespace.into());
        }
        if walker.tag().local != "open" {
            return Err(StreamCondition::BadFormat.into());
        }
        let header = Self::from_attributes(walker.attributes())?;
        while !matches!(walker.next()?, Event::Done) {}
        let scope = StreamScope::websocket(header.lang.as_deref());
        Ok((header, scope))
    }

    fn from_attributes(attributes: &[Attribute<'_>]) -> Result<Self, StreamError> {
        let mut header = Self {
            to: None,
            from: None,
            version: Version::V0_9,
            lang: None,
            id: None,
        };
        for attribute in attributes {
            let value = attribute.value();
            match (attribute.prefix, attribute.local) {
                ("", "to") => header.to = Some(address(&value)?),
                ("", "from") => header.from = Some(address(&value)?),
                ("", "id") => header.id = Some(value.into()),
                ("", "version") => header.version = version(&value)?,
                ("xml", "lang") if !value.is_empty() => header.lang = Some(value.into()),
                _ => {}
            }
        }
        Ok(header)
    }

    /// The header for a TCP stream, with the XML declaration before it.
    pub fn to_xml(&self) -> String {
        let mut out = String::from(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'",
        );
        self.push_attributes(&mut out);
        out.push('>');
        out
    }

    /// `<open/>` for a WebSocket stream.
    pub fn to_xml_ws(&self) -> String {
        let mut out = String::from("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'");
        self.push_attributes(&mut out);
        out.push_str("/>");
        out
    }

    fn push_attributes(&self, out: &mut String) {
        if let Some(from) = &self.from {
            push_attribute(out, "from", from.as_str());
        }
        if let Some(to) = &self.to {
            push_attribute(out, "to", to.as_str());
        }
        if let Some(id) = &self.id {
            push_attribute(out, "id", id);
        }
        if let Some(lang) = &self.lang {
            push_attribute(out, "xml:lang", lang);
        }
        // RFC 6120 §4.7.5: a side of version 0.9 sends none.
        if self.version != Version::V0_9 {
            let Version(major, minor) = self.version;
            push_attribute(out, "version", &format!("{major}.{minor}"));
        }
    }
}

/// `<close/>` for a WebSocket stream (RFC 7395 §3.6), with the address to go to instead, if any.
pub fn ws_close(see_other_uri: Option<&str>) -> String {
    let mut out = String::from("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'");
    if let Some(uri) = see_other_uri {
        push_attribute(&mut out, "see-other-uri", uri);
    }
    out.push_str("/>");
    out
}

fn address(value: &str) -> Result<Jid, StreamError> {
    Jid::parse(value).map_err(|error| {
        StreamError::with_text(StreamCondition::ImproperAddressing, error.to_string())
    })
}

/// `major.minor`, each a number that may have leading zeros (RFC 6120 §4.7.5).
fn version(value: &str) -> Result<Version, StreamError> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    value
        .split_once('.')
        .and_then(|(major, minor)| Some(Version(number(major)?, number(minor)?)))
        .ok_or_else(|| StreamCondition::UnsupportedVersion.into())
}

#[cfg(test)]
mod tests;
