//! An XML tree with resolved namespaces.

use std::sync::Arc;

use super::walker::{Event, Walker};
use super::{Error, escape};
use crate::ns;
use crate::stream::{StreamError, StreamScope};

/// An element: its name, its namespace, its attributes and what it contains.
///
/// A namespace belongs to each element. Prefixes of elements are not kept; those of attributes are, and
/// are declared anew when the element is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element {
    name: Box<str>,
    ns: Arc<str>,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

/// An attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribute {
    /// With its prefix, as `xml:lang`.
    name: Box<str>,
    /// What the prefix means; `None` without a prefix and for `xml`.
    ns: Option<Arc<str>>,
    value: Box<str>,
}

/// What an element contains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A child.
    Element(Element),
    /// Text, without references. Two texts never follow each other.
    Text(String),
}

impl Attribute {
    /// The name, with its prefix if it has one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl Element {
    /// An element without attributes and content. `name` must be an XML name without a prefix.
    pub fn new(name: &str, ns: &str) -> Self {
        Self {
            name: name.into(),
            ns: ns.into(),
            attributes: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// The name, without a prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn ns(&self) -> &str {
        &self.ns
    }

    /// Whether the element has this name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        *self.name == *name && *self.ns == *ns
    }

    /// The value of an attribute: `id`, or `xml:lang`.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|a| *a.name == *name)
            .map(|a| &*a.value)
    }

    /// Sets an attribute. A prefix in the name may only be `xml`.
    pub fn set_attr(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref().into();
        match self.attributes.iter_mut().find(|a| *a.name == *name) {
            Some(attribute) => attribute.value = value,
            None => self.attributes.push(Attribute {
                name: name.into(),
                ns: None,
                value,
            }),
        }
    }

    /// Removes an attribute; returns whether it was there.
    pub fn remove_attr(&mut self, name: &str) -> bool {
        let before = self.attributes.len();
        self.attributes.retain(|a| *a.name != *name);
        self.attributes.len() != before
    }

    /// The attributes, in their order.
    pub fn attrs(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter()
    }

    /// With this attribute; see [`Element::set_attr`].
    #[must_use]
    pub fn with_attr(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.set_attr(name, value);
        self
    }

    /// With this child after what is there.
    #[must_use]
    pub fn with_child(mut self, child: Self) -> Self {
        self.push(child);
        self
    }

    /// With these children after what is there.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    /// With this text after what is there.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Self {
        self.push_text(text);
        self
    }

    /// Adds a child after what is there.
    pub fn push(&mut self, child: Self) {
        self.nodes.push(Node::Element(child));
    }

    /// Adds text after what is there.
    pub fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(Node::Text(last)) = self.nodes.last_mut() {
            last.push_str(text);
        } else {
            self.nodes.push(Node::Text(text.into()));
        }
    }

    /// The first child with this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Self> {
        self.children().find(|child| child.is(name, ns))
    }

    /// The children that are elements.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// Everything the element contains.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Takes the children that are elements out.
    pub fn into_children(self) -> impl Iterator<Item = Self> {
        self.nodes.into_iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The element's own text; that of its children is not part of it.
    pub fn text(&self) -> String {
        self.nodes
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect()
    }

    /// Reads one element. Names without a prefix are in `default_ns` unless the text says otherwise.
    ///
    /// # Errors
    /// The text is not exactly one element, or is refused by the rules of [`crate::xml`].
    pub fn parse(xml: &str, default_ns: &str) -> Result<Self, Error> {
        build(Walker::document(xml, default_ns, std::iter::empty()))
    }

    /// Reads a first-level element of a stream that is no stanza, such as `<auth/>`.
    ///
    /// # Errors
    /// The stream error that the element causes.
    pub fn from_stream(raw: &[u8], scope: &StreamScope) -> Result<Self, StreamError> {
        let text = simdutf8::basic::from_utf8(raw).map_err(|_| Error::Encoding)?;
        Ok(build(scope.walker(text))?)
    }

    /// Reads the content of an element whose default namespace is `default_ns`: what is there besides
    /// elements is left out.
    pub(crate) fn parse_children(content: &str, default_ns: &str) -> Result<Vec<Self>, Error> {
        let root = build_into(
            Self::new("", default_ns),
            Walker::fragment(content, default_ns),
        )?;
        Ok(root.into_children().collect())
    }

    /// Writes the element into a place where `parent_ns` is the default namespace.
    pub fn write_to(&self, out: &mut String, parent_ns: &str) {
        self.push_to(out, parent_ns);
    }

    /// The element as text for a place where `parent_ns` is the default namespace.
    pub fn to_xml(&self, parent_ns: &str) -> String {
        let mut out = String::new();
        self.push_to(&mut out, parent_ns);
        out
    }

    pub(crate) fn push_to(&self, out: &mut impl escape::Sink, parent_ns: &str) {
        // The namespace of `xml` cannot be a default namespace.
        let reserved = &*self.ns == ns::XML;
        let default_ns = if reserved { parent_ns } else { &*self.ns };
        let prefix = if reserved { "xml:" } else { "" };
        out.push_str("<");
        out.push_str(prefix);
        out.push_str(&self.name);
        if default_ns != parent_ns {
            escape::push_attribute(out, "xmlns", default_ns);
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            if let (Some(uri), Some((prefix, _))) = (&attribute.ns, attribute.name.split_once(':'))
            {
                let declared = self.attributes[..index].iter().any(|other| {
                    other
                        .name
                        .split_once(':')
                        .is_some_and(|(other, _)| other == prefix)
                });
                if !declared {
                    out.push_str(" xmlns:");
                    out.push_str(prefix);
                    out.push_str("='");
                    escape::push_escaped(out, uri);
                    out.push_str("'");
                }
            }
            escape::push_attribute(out, &attribute.name, &attribute.value);
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push_str(">");
        push_nodes(&self.nodes, out, default_ns);
        out.push_str("</");
        out.push_str(prefix);
        out.push_str(&self.name);
        out.push_str(">");
    }
}

/// Writes content into a place where `parent_ns` is the default namespace.
pub(crate) fn push_nodes(nodes: &[Node], out: &mut impl escape::Sink, parent_ns: &str) {
    for node in nodes {
        match node {
            Node::Element(element) => element.push_to(out, parent_ns),
            Node::Text(text) => escape::push_escaped(out, text),
        }
    }
}

/// Builds the tree of a document.
pub(super) fn build(walker: Walker<'_>) -> Result<Element, Error> {
    let holder = build_into(Element::new("", ""), walker)?;
    holder
        .into_children()
        .next()
        .ok_or(Error::NotWellFormed("no element"))
}

/// Adds what the walker finds to an element.
fn build_into(root: Element, mut walker: Walker<'_>) -> Result<Element, Error> {
    let mut current = root;
    let mut parents = Vec::new();
    loop {
        match walker.next()? {
            Event::Start => {
                let started = start(&walker, &current);
                parents.push(std::mem::replace(&mut current, started));
            }
            Event::End => {
                if let Some(parent) = parents.pop() {
                    let ended = std::mem::replace(&mut current, parent);
                    current.push(ended);
                }
            }
            Event::Text(text) => current.push_text(&text.value()),
            Event::Done => return Ok(current),
        }
    }
}

/// The element of the walker's last start tag.
pub(super) fn start(walker: &Walker<'_>, parent: &Element) -> Element {
    // Most elements are in the namespace of their parent.
    let ns = walker.namespace();
    let ns = if *parent.ns == *ns {
        parent.ns.clone()
    } else {
        ns.into()
    };
    let attributes = walker
        .attributes()
        .iter()
        .filter(|attribute| !attribute.is_declaration())
        .map(|attribute| Attribute {
            name: attribute.name().into(),
            ns: match attribute.prefix {
                "" | "xml" => None,
                prefix => Some(walker.prefix_namespace(prefix).into()),
            },
            value: attribute.value().into(),
        })
        .collect();
    Element {
        name: walker.tag().local.into(),
        ns,
        attributes,
        nodes: Vec::new(),
    }
}
