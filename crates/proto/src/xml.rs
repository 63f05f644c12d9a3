//! XML 1.0 with namespaces, restricted as RFC 6120 §11 demands.
//!
//! The walker is the one strict pass over a stanza's text: whatever gets through it is well-formed,
//! with well-formed namespaces, and may be forwarded byte for byte. [`Element`] is a tree built from
//! it. Both refuse comments, processing instructions, document type declarations and references to
//! anything but characters and the five predefined entities. [`document`] reads files of any size with it.
//!
//! `quick-xml` finds the ends of tags for the stream framer, incrementally. Its own reader is not used:
//! it accepts control characters, doubled attributes of one namespace and more that must not be
//! forwarded (the table in the tests of this module), and checking its events afterwards took longer
//! than checking while reading.

mod chars;
pub mod document;
mod element;
mod escape;
pub(crate) mod walker;

pub(crate) use element::push_nodes;
pub use element::{Attribute, Element, Node};
pub(crate) use escape::{push_attribute, push_escaped};
/// Finds the `>` that ends a tag, in as many pieces as the tag arrives in.
pub(crate) use quick_xml::parser::{ElementParser, Parser};

/// Attributes, namespace declarations among them, that one start tag may have.
pub const MAX_ATTRIBUTES: usize = 64;

/// Namespace declarations that may be in scope at once.
pub const MAX_BINDINGS: usize = 64;

/// Depth of nesting at which any text is refused; a stream's own limit is lower.
pub const MAX_DEPTH: usize = 256;

/// Why a text was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Not well-formed, or not namespace-well-formed.
    #[error("not well-formed: {0}")]
    NotWellFormed(&'static str),
    /// A feature of XML that RFC 6120 §11.1 forbids.
    #[error("restricted XML: {0}")]
    Restricted(&'static str),
    /// More than [`MAX_ATTRIBUTES`], [`MAX_BINDINGS`] or [`MAX_DEPTH`].
    #[error("limit exceeded: {0}")]
    TooComplex(&'static str),
    /// Not UTF-8.
    #[error("not UTF-8")]
    Encoding,
}

#[cfg(test)]
mod tests;
