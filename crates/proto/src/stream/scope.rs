//! What a stream header declares for all that comes after it.

use std::sync::Arc;

use crate::ns;
use crate::xml::walker::Walker;

/// Namespace declarations and language of a stream's header.
///
/// The default value is that of a header which declares what every header declares (the default
/// namespace `jabber:client` and the prefix `stream`) and no language; it needs no heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamScope(Option<Arc<Declared>>);

#[derive(Debug, PartialEq, Eq)]
struct Declared {
    lang: Option<Arc<str>>,
    /// `""` unless names without a prefix are in a namespace.
    default_ns: Box<str>,
    /// Prefixes and what they are bound to.
    prefixes: Box<[(Box<str>, Box<str>)]>,
}

impl StreamScope {
    /// The scope of a WebSocket stream: no declaration outlives its frame (RFC 7395 §3.3.3), the
    /// language of `<open/>` does.
    pub fn websocket(lang: Option<&str>) -> Self {
        Self(Some(Arc::new(Declared {
            lang: lang.map(Arc::from),
            default_ns: "".into(),
            prefixes: Box::default(),
        })))
    }

    /// A scope with these prefixes besides the default namespace `jabber:client`.
    pub(super) fn declaring(
        lang: Option<&str>,
        prefixes: impl Iterator<Item = (Box<str>, Box<str>)>,
    ) -> Self {
        let prefixes: Box<[_]> = prefixes.collect();
        match (lang, &*prefixes) {
            (None, [(prefix, uri)]) if **prefix == *"stream" && **uri == *ns::STREAMS => {
                Self::default()
            }
            _ => Self(Some(Arc::new(Declared {
                lang: lang.map(Arc::from),
                default_ns: ns::CLIENT.into(),
                prefixes,
            }))),
        }
    }

    /// The stream's language, which its stanzas inherit.
    pub fn lang(&self) -> Option<&str> {
        self.0.as_ref()?.lang.as_deref()
    }

    pub(crate) fn shared_lang(&self) -> Option<Arc<str>> {
        self.0.as_ref()?.lang.clone()
    }

    /// A walker over an element of this stream.
    pub(crate) fn walker<'a>(&'a self, text: &'a str) -> Walker<'a> {
        match &self.0 {
            None => Walker::document(text, ns::CLIENT, std::iter::once(("stream", ns::STREAMS))),
            Some(declared) => Walker::document(
                text,
                &declared.default_ns,
                declared
                    .prefixes
                    .iter()
                    .map(|(prefix, uri)| (&**prefix, &**uri)),
            ),
        }
    }
}
