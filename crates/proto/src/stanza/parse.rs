//! From the bytes of a first-level element to a stanza, in one strict pass.

use std::sync::Arc;

use super::content::{ChildRef, Content, Index};
use super::{IqType, Kind, MessageType, PresenceType, Stanza};
use crate::error::{Condition, StanzaError};
use crate::jid::{self, Jid};
use crate::ns;
use crate::stream::{StreamCondition, StreamError, StreamScope};
use crate::xml::walker::{Event, Walker};
use crate::xml::{self, Element, push_attribute};

/// Why a first-level element is no stanza that can be handled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejected {
    /// The stream ends.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream goes on; the sender is told, unless [`RejectedStanza::reply`] says otherwise.
    #[error("stanza refused: {}", .0.error.condition.as_str())]
    Stanza(Box<RejectedStanza>),
}

/// What is known of a stanza that breaks a rule of stanzas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejectedStanza {
    /// The kind of the error that answers it; `None` if it must not be answered.
    pub reply_kind: Option<Kind>,
    /// Its identifier.
    pub id: Option<Arc<str>>,
    /// Its recipient as it was written, which may be no address.
    pub to: Option<Box<str>>,
    /// What is wrong.
    pub error: StanzaError,
}

impl RejectedStanza {
    /// The answer. Its `from` is the recipient, if that is an address, and its `to` is for the caller
    /// to set.
    pub fn reply(&self) -> Option<Stanza> {
        let from = self.to.as_deref().and_then(|to| Jid::parse(to).ok());
        let reply = Stanza {
            from,
            id: self.id.clone(),
            ..Stanza::new(self.reply_kind?)
        };
        Some(reply.with_child(self.error.to_element()))
    }
}

impl From<xml::Error> for Rejected {
    fn from(error: xml::Error) -> Self {
        Self::Stream(error.into())
    }
}

/// The header as far as it has been read.
#[derive(Default)]
struct Header<'a> {
    to: Option<std::borrow::Cow<'a, str>>,
    from: Option<std::borrow::Cow<'a, str>>,
    id: Option<Arc<str>>,
    kind: Option<std::borrow::Cow<'a, str>>,
    lang: Option<Arc<str>>,
    extra: String,
}

impl Stanza {
    /// Reads a first-level element of a stream, as it comes out of the framer. `scope` is what the
    /// stream's header declared.
    ///
    /// # Errors
    /// [`Rejected::Stream`] if it is not well-formed or uses what is restricted
    /// (RFC 6120 §11), or is none of the three stanzas in the namespace `jabber:client`;
    /// [`Rejected::Stanza`] if an address is malformed, or the rules of its kind are broken.
    pub fn parse(raw: &[u8], scope: &StreamScope) -> Result<Self, Rejected> {
        let text = simdutf8::basic::from_utf8(raw).map_err(|_| xml::Error::Encoding)?;
        let mut walker = scope.walker(text);
        walker.next()?;
        let name = match walker.tag().local {
            name @ ("message" | "presence" | "iq") if walker.namespace() == ns::CLIENT => name,
            _ => return Err(StreamError::from(StreamCondition::UnsupportedStanzaType).into()),
        };
        let mut header = read_header(&walker);
        // Written anew, the content stands where `jabber:client` is the default.
        let same_default = walker.default_namespace() == ns::CLIENT;
        let (inner, index) = read_content(&mut walker, text)?;
        for binding in walker.bindings() {
            // Declared on the stream's header and used here: the stanza has to bring it along.
            if binding.used && !binding.prefix.is_empty() {
                push_declaration(&mut header.extra, binding.prefix, &binding.uri);
            }
        }
        let lang = header.lang.take().or_else(|| scope.shared_lang());
        let extra = std::mem::take(&mut header.extra).into_boxed_str();
        let children = index.len();
        let content = if same_default {
            Content::new(extra, inner.into(), index)
        } else {
            Content::indexed(extra, rewritten(text, scope)?)
        };
        let (to, from, kind) = match check(name, &header, &content, children) {
            Ok(checked) => checked,
            Err(condition) => return Err(reject(name, header, condition)),
        };
        Ok(Self {
            kind,
            to,
            from,
            id: header.id,
            lang,
            content,
        })
    }
}

/// Takes the header out of the attributes of the start tag.
fn read_header<'a>(walker: &Walker<'a>) -> Header<'a> {
    let mut header = Header::default();
    for attribute in walker.attributes() {
        match (attribute.prefix, attribute.local) {
            ("", "to") => header.to = Some(attribute.value()),
            ("", "from") => header.from = Some(attribute.value()),
            ("", "id") => header.id = Some(attribute.value().into()),
            ("", "type") => header.kind = Some(attribute.value()),
            ("xml", "lang") => header.lang = Some(attribute.value().into()),
            ("", "xmlns") => {}
            _ => {
                header.extra.push(' ');
                header.extra.push_str(attribute.raw);
            }
        }
    }
    header
}

/// Walks to the end of the stanza; returns its content and where its children are.
fn read_content<'a>(
    walker: &mut Walker<'a>,
    text: &'a str,
) -> Result<(&'a str, Index), xml::Error> {
    let mut index = Index::new();
    let start = walker.position();
    let mut end = start;
    let empty = walker.is_empty_tag();
    while walker.depth() > 0 {
        // What is before the event that closes the stanza is its content.
        end = walker.position();
        if let Event::Start = walker.next()?
            && walker.depth() == 2
        {
            index.push(ChildRef::new(walker, text, start));
        }
    }
    walker.next()?;
    Ok((if empty { "" } else { &text[start..end] }, index))
}

/// The content written for a place where `jabber:client` is the default namespace.
fn rewritten(text: &str, scope: &StreamScope) -> Result<Box<str>, Rejected> {
    let root = Element::from_stream(text.as_bytes(), scope)?;
    let mut inner = String::new();
    xml::push_nodes(root.nodes(), &mut inner, ns::CLIENT);
    Ok(inner.into())
}

/// ` xmlns:prefix='uri'`
fn push_declaration(out: &mut String, prefix: &str, uri: &str) {
    let mut name = String::with_capacity(6 + prefix.len());
    name.push_str("xmlns:");
    name.push_str(prefix);
    push_attribute(out, &name, uri);
}

type Checked = (Option<Jid>, Option<Jid>, Kind);

/// Checks what RFC 6120 §8 demands of a stanza's header and of the number of its children.
fn check(
    name: &str,
    header: &Header<'_>,
    content: &Content,
    children: usize,
) -> Result<Checked, StanzaError> {
    let malformed =
        |error: jid::Error| StanzaError::new(Condition::JidMalformed).with_text(error.to_string());
    let bad = |text: &str| StanzaError::new(Condition::BadRequest).with_text(text);
    let kind_name = header.kind.as_deref();
    let kind = match name {
        "message" => Kind::Message(MessageType::from_name(kind_name)),
        "presence" => Kind::Presence(
            PresenceType::from_name(kind_name).ok_or_else(|| bad("unknown type of presence"))?,
        ),
        _ => {
            let kind = kind_name.and_then(IqType::from_name);
            let kind = kind.ok_or_else(|| bad("an IQ is a get, set, result or error"))?;
            if header.id.is_none() {
                return Err(bad("an IQ needs an id"));
            }
            // RFC 6120 §8.2.3, rules 4 to 7.
            match kind {
                IqType::Get | IqType::Set if children != 1 => {
                    return Err(bad("a request has exactly one child"));
                }
                IqType::Result if children > 1 => {
                    return Err(bad("a result has at most one child"));
                }
                IqType::Error if !content.has("error", ns::CLIENT) => {
                    return Err(bad("an error has a child that says so"));
                }
                _ => {}
            }
            Kind::Iq(kind)
        }
    };
    let to = header
        .to
        .as_deref()
        .map(Jid::parse)
        .transpose()
        .map_err(malformed)?;
    let from = header
        .from
        .as_deref()
        .map(Jid::parse)
        .transpose()
        .map_err(malformed)?;
    Ok((to, from, kind))
}

fn reject(name: &str, header: Header<'_>, error: StanzaError) -> Rejected {
    let kind_name = header.kind.as_deref();
    let reply_kind = match (name, kind_name) {
        (_, Some("error")) | ("iq", Some("result")) => None,
        ("message", _) => Some(Kind::Message(MessageType::Error)),
        ("presence", _) => Some(Kind::Presence(PresenceType::Error)),
        _ => Some(Kind::Iq(IqType::Error)),
    };
    Rejected::Stanza(Box::new(RejectedStanza {
        reply_kind,
        id: header.id,
        to: header.to.map(|to| to.into_owned().into()),
        error,
    }))
}
