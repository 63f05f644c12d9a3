//! From a stanza to bytes.

use super::Stanza;
use crate::stream::Framing;
use crate::xml::push_attribute;

impl Stanza {
    /// Appends the stanza as a peer reads it. `to`, if given, stands in for the stanza's own `to`: one
    /// stanza is written for many recipients.
    pub fn write_to(&self, out: &mut Vec<u8>, to: Option<&str>, framing: Framing) {
        self.write_start(out, to, framing);
        let inner = self.content.inner();
        if inner.is_empty() {
            out.extend_from_slice(b"/>");
            return;
        }
        out.push(b'>');
        out.extend_from_slice(inner.as_bytes());
        self.write_end(out);
    }

    /// The same with more children behind the stanza's own: `more` appends their text, for a place
    /// where the default namespace is `jabber:client`.
    pub fn write_with(
        &self,
        out: &mut Vec<u8>,
        to: Option<&str>,
        framing: Framing,
        more: impl FnOnce(&mut Vec<u8>),
    ) {
        self.write_start(out, to, framing);
        out.push(b'>');
        out.extend_from_slice(self.content.inner().as_bytes());
        more(out);
        self.write_end(out);
    }

    /// The start tag without its end.
    fn write_start(&self, out: &mut Vec<u8>, to: Option<&str>, framing: Framing) {
        let name = self.kind.name().as_bytes();
        out.reserve(self.size());
        out.push(b'<');
        out.extend_from_slice(name);
        if framing == Framing::WebSocket {
            out.extend_from_slice(b" xmlns='jabber:client'");
        }
        if let Some(to) = to.or_else(|| self.to.as_ref().map(super::Jid::as_str)) {
            push_attribute(out, "to", to);
        }
        if let Some(from) = &self.from {
            push_attribute(out, "from", from.as_str());
        }
        if let Some(id) = &self.id {
            push_attribute(out, "id", id);
        }
        if let Some(kind) = self.kind.type_name() {
            out.extend_from_slice(b" type='");
            out.extend_from_slice(kind.as_bytes());
            out.push(b'\'');
        }
        if let Some(lang) = &self.lang {
            push_attribute(out, "xml:lang", lang);
        }
        out.extend_from_slice(self.content.extra().as_bytes());
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"</");
        out.extend_from_slice(self.kind.name().as_bytes());
        out.push(b'>');
    }

    /// The stanza as a document of its own, with its namespace declared.
    pub fn to_xml(&self) -> String {
        let mut out = Vec::new();
        self.write_to(&mut out, None, Framing::WebSocket);
        // Nothing but text was written; this does not happen.
        String::from_utf8(out).unwrap_or_default()
    }

    /// Octets on the wire; what has to be escaped in the header counts as if it had not.
    pub fn size(&self) -> usize {
        let length = |part: Option<&str>| part.map_or(0, |part| part.len() + 8);
        48 + self.content.inner().len()
            + self.content.extra().len()
            + length(self.to.as_ref().map(super::Jid::as_str))
            + length(self.from.as_ref().map(super::Jid::as_str))
            + length(self.id.as_deref())
            + length(self.lang.as_deref())
    }
}
