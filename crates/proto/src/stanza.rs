//! Messages, presences and IQs (RFC 6120 §8).
//!
//! A [`Stanza`] is a decoded header and a content that stays checked XML text. Clones share the text,
//! and the tree that is built from it when somebody looks inside; so one stanza serves every recipient
//! of a fan-out.

mod content;
mod kind;
mod packed;
mod parse;
mod write;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::content::Content;
pub use self::kind::{IqType, Kind, MessageType, PresenceType};
pub use self::parse::{Rejected, RejectedStanza};
use crate::error::StanzaError;
use crate::jid::Jid;
use crate::ns;
use crate::xml::{self, Element};

/// A message, presence or IQ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stanza {
    /// Which of the three it is, and its type.
    pub kind: Kind,
    /// Whom it is for.
    pub to: Option<Jid>,
    /// Who sends it.
    pub from: Option<Jid>,
    /// The sender's identifier.
    pub id: Option<Arc<str>>,
    /// The language of its texts (`xml:lang`): its own, or else that of the stream it came from (RFC
    /// 6120 §8.1.5).
    pub lang: Option<Arc<str>>,
    content: Content,
}

impl Stanza {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            to: None,
            from: None,
            id: None,
            lang: None,
            content: Content::default(),
        }
    }

    /// A message without content.
    pub fn message(kind: MessageType) -> Self {
        Self::new(Kind::Message(kind))
    }

    /// A presence without content.
    pub fn presence(kind: PresenceType) -> Self {
        Self::new(Kind::Presence(kind))
    }

    /// An IQ without content.
    pub fn iq(kind: IqType, id: &str) -> Self {
        Self::new(Kind::Iq(kind)).with_id(id)
    }

    /// For this recipient.
    #[must_use]
    pub fn with_to(self, to: impl Into<Jid>) -> Self {
        Self {
            to: Some(to.into()),
            ..self
        }
    }

    /// From this sender.
    #[must_use]
    pub fn with_from(self, from: impl Into<Jid>) -> Self {
        Self {
            from: Some(from.into()),
            ..self
        }
    }

    /// With this identifier.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        Self {
            id: Some(id.into()),
            ..self
        }
    }

    /// In this language.
    #[must_use]
    pub fn with_lang(self, lang: &str) -> Self {
        Self {
            lang: Some(lang.into()),
            ..self
        }
    }

    /// With this child after what is there.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    /// A stanza with this one's content and language, and another kind and header: a carbon's or a
    /// redirected message's beginning. The content is shared.
    #[must_use]
    pub fn with_same_content(&self, kind: Kind) -> Self {
        Self {
            lang: self.lang.clone(),
            content: self.content.clone(),
            ..Self::new(kind)
        }
    }

    /// The same header without the content.
    #[must_use]
    pub fn without_content(&self) -> Self {
        Self {
            content: Content::default(),
            ..self.clone()
        }
    }

    /// Adds a child after what is there.
    pub fn push(&mut self, child: Element) {
        self.content.push(child);
    }

    /// Removes the children that `keep` refuses; returns whether there were any. If so, text between the
    /// children is gone, too.
    pub fn retain_children(&mut self, keep: impl Fn(&Element) -> bool) -> bool {
        self.content.retain(keep)
    }

    /// The children that are elements. The first call builds the tree, for all clones.
    pub fn children(&self) -> &[Element] {
        self.content.children()
    }

    /// Whether there is a child with this name and namespace. Builds no tree.
    pub fn has(&self, name: &str, ns: &str) -> bool {
        self.content.has(name, ns)
    }

    /// The first child with this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        if !self.has(name, ns) {
            return None;
        }
        self.children().iter().find(|child| child.is(name, ns))
    }

    /// The first child that is not `<error/>`: what an IQ is about.
    pub fn payload(&self) -> Option<&Element> {
        self.children()
            .iter()
            .find(|child| !child.is("error", ns::CLIENT))
    }

    /// The content as XML text, for a place where the default namespace is `jabber:client` and the
    /// prefixes that the stanza's own start tag declares are declared.
    pub fn inner(&self) -> &str {
        self.content.inner()
    }

    /// Whether the type is `error`.
    pub fn is_error(&self) -> bool {
        self.kind.is_error()
    }

    /// The IQ result that answers this IQ: for its sender, with its identifier.
    #[must_use]
    pub fn reply_result(&self) -> Self {
        self.reply(Kind::Iq(IqType::Result))
    }

    /// The same with a payload.
    #[must_use]
    pub fn reply_result_with(&self, payload: Element) -> Self {
        self.reply_result().with_child(payload)
    }

    /// The error that answers this stanza; nothing of its content is sent back. `None` if it is an error
    /// itself or an IQ result: these are never answered (RFC 6120 §8.3.1).
    pub fn reply_error(&self, error: &StanzaError) -> Option<Self> {
        let kind = self.kind.error_reply()?;
        Some(self.reply(kind).with_child(error.to_element()))
    }

    /// An empty stanza from this one's recipient for its sender.
    fn reply(&self, kind: Kind) -> Self {
        Self {
            to: self.from.clone(),
            from: self.to.clone(),
            id: self.id.clone(),
            ..Self::new(kind)
        }
    }

    /// Reads what [`Stanza::to_xml`] wrote.
    ///
    /// # Errors
    /// The text is not one well-formed stanza of RFC 6120.
    pub fn from_xml(xml: &str) -> Result<Self, Rejected> {
        Self::parse(xml.as_bytes(), &crate::stream::StreamScope::default())
    }

    /// Takes a stanza that stands inside another, as forwarded ones do (XEP-0297), out of its tree.
    ///
    /// # Errors
    /// The element is not a well-formed stanza of RFC 6120.
    pub fn from_element(element: &Element) -> Result<Self, Rejected> {
        Self::from_xml(&element.to_xml(""))
    }

    /// The stanza as a tree, in the namespace `jabber:client`.
    ///
    /// # Errors
    /// None for a stanza that was parsed; one that was built may hold names that are none.
    pub fn to_element(&self) -> Result<Element, xml::Error> {
        Element::parse(&self.to_xml(), "")
    }
}

#[cfg(test)]
mod tests;
