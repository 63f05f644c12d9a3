//! The strict pass: reads a text from start to end once and refuses what is not allowed.
//!
//! It allocates nothing for ordinary stanzas: names, values and namespace names are slices of the text
//! unless references or white space in them have to be resolved.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::chars::{CLASS, TEXT_STOP, VALUE_STOP, is_space, ncname_end};
use super::{Error, MAX_ATTRIBUTES, MAX_BINDINGS, MAX_DEPTH, escape};
use crate::ns;

/// What [`Walker::next`] found.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A start tag, or the start of an empty element: see [`Walker::tag`] and [`Walker::attributes`].
    Start,
    /// The end of the innermost open element.
    End,
    /// Text in the innermost open element.
    Text(Text<'a>),
    /// The text ends.
    Done,
}

/// A run of text as it stands there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    raw: &'a str,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Means what it says.
    Plain,
    /// Holds references or carriage returns.
    Escaped,
    /// The inside of a CDATA section.
    Cdata,
}

impl<'a> Text<'a> {
    /// What the text means.
    pub(crate) fn value(self) -> Cow<'a, str> {
        match self.form {
            Form::Plain => Cow::Borrowed(self.raw),
            Form::Escaped => escape::text_value(self.raw),
            Form::Cdata => escape::cdata_value(self.raw),
        }
    }
}

/// The last start tag.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tag<'a> {
    /// Empty if there is none.
    pub(crate) prefix: &'a str,
    pub(crate) local: &'a str,
    /// Index of the binding of its prefix.
    binding: usize,
}

/// An attribute or namespace declaration as it stands there.
pub(crate) struct Attribute<'a> {
    /// `name='value'`.
    pub(crate) raw: &'a str,
    /// Empty if there is none.
    pub(crate) prefix: &'a str,
    pub(crate) local: &'a str,
    /// Between the quotes.
    value: &'a str,
    /// There is nothing to resolve in the value.
    plain: bool,
}

impl<'a> Attribute<'a> {
    /// `prefix:local`, or `local`.
    pub(crate) fn name(&self) -> &'a str {
        match self.prefix.len() {
            0 => self.local,
            length => &self.raw[..length + 1 + self.local.len()],
        }
    }

    pub(crate) fn value(&self) -> Cow<'a, str> {
        if self.plain {
            Cow::Borrowed(self.value)
        } else {
            escape::attribute_value(self.value)
        }
    }

    /// Whether this is `xmlns='…'` or `xmlns:prefix='…'`.
    pub(crate) fn is_declaration(&self) -> bool {
        self.prefix == "xmlns" || (self.prefix.is_empty() && self.local == "xmlns")
    }
}

/// A namespace declaration in scope.
pub(crate) struct Binding<'a> {
    /// Empty for the default namespace.
    pub(crate) prefix: &'a str,
    pub(crate) uri: Cow<'a, str>,
    /// Something below the root, or an attribute of the root, uses the prefix.
    pub(crate) used: bool,
}

/// An open element.
struct Open<'a> {
    /// With its prefix.
    name: &'a str,
    /// Bindings in scope around it.
    bindings: usize,
    /// Index of the default namespace around it.
    default: usize,
}

/// Binding that stands for the prefix `xml`, which needs no declaration.
const XML_BINDING: usize = usize::MAX;

/// Walks through a text. The names of open elements are kept to compare them with end tags.
pub(crate) struct Walker<'a> {
    text: &'a str,
    at: usize,
    open: SmallVec<[Open<'a>; 8]>,
    bindings: SmallVec<[Binding<'a>; 6]>,
    /// Index of the default namespace in scope.
    default: usize,
    attributes: SmallVec<[Attribute<'a>; 8]>,
    tag: Tag<'a>,
    /// The last tag was `<…/>`: its end is still to be told.
    empty: bool,
    /// Content is walked through: text and any number of elements at the top.
    fragment: bool,
    /// An element at the top was seen.
    rooted: bool,
}

impl<'a> Walker<'a> {
    /// Starts at a document of one element. `declared` are prefixes known from outside.
    pub(crate) fn document(
        text: &'a str,
        default: &'a str,
        declared: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let outer = Binding {
            prefix: "",
            uri: Cow::Borrowed(default),
            used: false,
        };
        let mut bindings = SmallVec::new();
        bindings.push(outer);
        bindings.extend(declared.map(|(prefix, uri)| Binding {
            prefix,
            uri: Cow::Borrowed(uri),
            used: false,
        }));
        Self {
            text,
            at: 0,
            open: SmallVec::new(),
            bindings,
            default: 0,
            attributes: SmallVec::new(),
            tag: Tag::default(),
            empty: false,
            fragment: false,
            rooted: false,
        }
    }

    /// Starts at the content of an element.
    pub(crate) fn fragment(text: &'a str, default: &'a str) -> Self {
        Self {
            fragment: true,
            ..Self::document(text, default, std::iter::empty())
        }
    }

    /// The last start tag.
    #[inline]
    pub(crate) fn tag(&self) -> &Tag<'a> {
        &self.tag
    }

    /// Attributes and declarations of the last start tag.
    #[inline]
    pub(crate) fn attributes(&self) -> &[Attribute<'a>] {
        &self.attributes
    }

    /// Namespace of the last start tag; to be asked before the next event.
    #[inline]
    pub(crate) fn namespace(&self) -> &str {
        self.bindings
            .get(self.tag.binding)
            .map_or(ns::XML, |binding| &binding.uri)
    }

    /// The same, if it is a slice of the text or was given from outside.
    pub(crate) fn borrowed_namespace(&self) -> Option<&'a str> {
        match self
            .bindings
            .get(self.tag.binding)
            .map(|binding| &binding.uri)
        {
            Some(Cow::Borrowed(uri)) => Some(uri),
            _ => None,
        }
    }

    /// The namespace that a name without prefix has here.
    pub(crate) fn default_namespace(&self) -> &str {
        &self.bindings[self.default].uri
    }

    /// Namespace of an attribute's prefix; to be asked before the next event.
    pub(crate) fn prefix_namespace(&self, prefix: &str) -> &str {
        self.bindings
            .iter()
            .rev()
            .find(|binding| binding.prefix == prefix)
            .map_or(ns::XML, |binding| &binding.uri)
    }

    /// The declarations that are in scope now: first the default namespace given, then those declared
    /// outside.
    pub(crate) fn bindings(&self) -> &[Binding<'a>] {
        &self.bindings
    }

    /// Number of open elements; an element counts from its start to its end.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Where the walk has come to.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Whether the last start tag was `<…/>`.
    pub(crate) fn is_empty_tag(&self) -> bool {
        self.empty
    }

    /// Goes on to the next event.
    ///
    /// # Errors
    /// Whatever is wrong with the text up to there. The walk ends with it.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Event<'a>, Error> {
        if self.empty {
            self.empty = false;
            self.close();
            return Ok(Event::End);
        }
        let bytes = self.text.as_bytes();
        if self.open.is_empty() && !self.fragment {
            while bytes.get(self.at).is_some_and(|&b| is_space(b)) {
                self.at += 1;
            }
            match bytes.get(self.at) {
                None if self.rooted => return Ok(Event::Done),
                Some(b'<') if !self.rooted => {}
                _ => return Err(Error::NotWellFormed("not exactly one element")),
            }
        }
        match bytes.get(self.at) {
            Some(b'<') => match bytes.get(self.at + 1) {
                Some(b'/') => self.end_tag(),
                Some(b'!') => self.cdata(),
                Some(b'?') => Err(Error::Restricted("processing instruction")),
                _ => self.start_tag(),
            },
            Some(_) => self.run_of_text(),
            None if self.open.is_empty() && self.fragment => Ok(Event::Done),
            None => Err(Error::NotWellFormed("element without an end")),
        }
    }

    fn run_of_text(&mut self) -> Result<Event<'a>, Error> {
        let (text, bytes) = (self.text, self.text.as_bytes());
        let start = self.at;
        let mut at = start;
        let mut form = Form::Plain;
        while let Some(&byte) = bytes.get(at) {
            if CLASS[usize::from(byte)] & TEXT_STOP == 0 {
                at += 1;
                continue;
            }
            match byte {
                b'<' => break,
                b'&' => {
                    form = Form::Escaped;
                    at = escape::reference(text, at)?.1;
                    continue;
                }
                b'\r' => form = Form::Escaped,
                b']' if bytes[at..].starts_with(b"]]>") => {
                    return Err(Error::NotWellFormed("`]]>` in text"));
                }
                b']' => {}
                _ => no_char(bytes, at)?,
            }
            at += 1;
        }
        self.at = at;
        Ok(Event::Text(Text {
            raw: &text[start..at],
            form,
        }))
    }

    fn cdata(&mut self) -> Result<Event<'a>, Error> {
        const OPENING: &str = "<![CDATA[";
        let rest = &self.text[self.at..];
        let inside = match rest.strip_prefix(OPENING) {
            Some(inside) if self.fragment || !self.open.is_empty() => inside,
            _ => return Err(Error::Restricted("comment or declaration")),
        };
        let length = memchr::memmem::find(inside.as_bytes(), b"]]>")
            .ok_or(Error::NotWellFormed("CDATA section without an end"))?;
        let raw = &inside[..length];
        for (at, &byte) in raw.as_bytes().iter().enumerate() {
            if (byte < 0x20 && !is_space(byte)) || byte == 0xEF {
                no_char(raw.as_bytes(), at)?;
            }
        }
        self.at += OPENING.len() + length + 3;
        Ok(Event::Text(Text {
            raw,
            form: Form::Cdata,
        }))
    }

    fn end_tag(&mut self) -> Result<Event<'a>, Error> {
        let open = self
            .open
            .last()
            .ok_or(Error::NotWellFormed("end tag without a start"))?;
        let bytes = self.text.as_bytes();
        let start = self.at + 2;
        let mut at = start + open.name.len();
        if bytes.get(start..at) != Some(open.name.as_bytes()) {
            return Err(Error::NotWellFormed("end tag of another element"));
        }
        while bytes.get(at).is_some_and(|&b| is_space(b)) {
            at += 1;
        }
        if bytes.get(at) != Some(&b'>') {
            return Err(Error::NotWellFormed("bad end tag"));
        }
        self.at = at + 1;
        self.close();
        Ok(Event::End)
    }

    /// Forgets the innermost element and what it declared.
    fn close(&mut self) {
        if let Some(open) = self.open.pop() {
            if open.bindings < self.bindings.len() {
                self.bindings.truncate(open.bindings);
            }
            self.default = open.default;
        }
    }

    fn start_tag(&mut self) -> Result<Event<'a>, Error> {
        let (text, bytes) = (self.text, self.text.as_bytes());
        let start = self.at;
        let outer = Open {
            name: "",
            bindings: self.bindings.len(),
            default: self.default,
        };
        let (prefix, local, mut at) = qname(text, start + 1)?;
        let name = &text[start + 1..at];
        let mut prefixed = 0;
        self.attributes.clear();
        let empty = loop {
            let before = at;
            while bytes.get(at).is_some_and(|&b| is_space(b)) {
                at += 1;
            }
            match bytes.get(at) {
                Some(b'>') => {
                    at += 1;
                    break false;
                }
                Some(b'/') if bytes.get(at + 1) == Some(&b'>') => {
                    at += 2;
                    break true;
                }
                Some(_) if at == before => {
                    return Err(Error::NotWellFormed("no space before an attribute"));
                }
                Some(_) => {}
                None => return Err(Error::NotWellFormed("tag without an end")),
            }
            let (attribute, end) = attribute(text, at)?;
            at = end;
            if self
                .attributes
                .iter()
                .any(|other| other.local == attribute.local && other.prefix == attribute.prefix)
            {
                return Err(Error::NotWellFormed("attribute twice"));
            }
            if self.attributes.len() == MAX_ATTRIBUTES {
                return Err(Error::TooComplex("attributes"));
            }
            if attribute.is_declaration() {
                self.declare(&attribute)?;
            } else if !attribute.prefix.is_empty() {
                prefixed += 1;
            }
            self.attributes.push(attribute);
        };
        if self.open.len() == MAX_DEPTH {
            return Err(Error::TooComplex("depth"));
        }
        if prefixed > 0 {
            self.check_prefixed_attributes(prefixed)?;
        }
        let binding = self.resolve(prefix)?;
        if let Some(binding) = self.bindings.get_mut(binding) {
            // The root is written anew without its prefix.
            binding.used |= self.fragment || !self.open.is_empty();
        }
        self.open.push(Open { name, ..outer });
        self.tag = Tag {
            prefix,
            local,
            binding,
        };
        self.at = at;
        self.empty = empty;
        self.rooted = true;
        Ok(Event::Start)
    }

    /// Takes a namespace declaration into scope.
    fn declare(&mut self, attribute: &Attribute<'a>) -> Result<(), Error> {
        let uri = attribute.value();
        let prefix = if attribute.prefix.is_empty() {
            ""
        } else {
            attribute.local
        };
        // Namespaces in XML 1.0 §3: `xml` means one namespace and nothing else means it; `xmlns` is
        // not to be declared; a prefix cannot be undeclared.
        let allowed = match (prefix, &*uri) {
            ("xml", uri) => uri == ns::XML,
            ("xmlns", _) | (_, ns::XMLNS | ns::XML) => false,
            (prefix, "") => prefix.is_empty(),
            _ => true,
        };
        if !allowed {
            return Err(Error::NotWellFormed("forbidden namespace declaration"));
        }
        if prefix == "xml" {
            return Ok(());
        }
        if self.bindings.len() >= MAX_BINDINGS {
            return Err(Error::TooComplex("namespace declarations"));
        }
        if prefix.is_empty() {
            self.default = self.bindings.len();
        }
        self.bindings.push(Binding {
            prefix,
            uri,
            used: false,
        });
        Ok(())
    }

    /// The binding of a prefix.
    #[inline]
    fn resolve(&self, prefix: &str) -> Result<usize, Error> {
        match prefix {
            "" => Ok(self.default),
            "xml" => Ok(XML_BINDING),
            _ => self
                .bindings
                .iter()
                .rposition(|binding| binding.prefix == prefix)
                .ok_or(Error::NotWellFormed("undeclared namespace prefix")),
        }
    }

    /// Looks their prefixes up; two attributes may not have the same expanded name.
    fn check_prefixed_attributes(&mut self, count: usize) -> Result<(), Error> {
        let mut seen: SmallVec<[(usize, &'a str); 4]> = SmallVec::with_capacity(count);
        for attribute in &self.attributes {
            if attribute.prefix.is_empty() || attribute.is_declaration() {
                continue;
            }
            let found = self.resolve(attribute.prefix)?;
            if let Some(binding) = self.bindings.get_mut(found) {
                binding.used = true;
                let uri = &self.bindings[found].uri;
                let same = |&(other, local): &(usize, &str)| {
                    local == attribute.local
                        && self
                            .bindings
                            .get(other)
                            .is_some_and(|other| other.uri == *uri)
                };
                if seen.iter().any(same) {
                    return Err(Error::NotWellFormed("attribute twice in one namespace"));
                }
            }
            seen.push((found, attribute.local));
        }
        Ok(())
    }
}

/// Reads a name with an optional prefix; returns both parts and where the text goes on.
#[inline]
fn qname(text: &str, start: usize) -> Result<(&str, &str, usize), Error> {
    let first = ncname_end(text, start);
    if first == start {
        return Err(Error::NotWellFormed("bad name"));
    }
    if text.as_bytes().get(first) != Some(&b':') {
        return Ok(("", &text[start..first], first));
    }
    let end = ncname_end(text, first + 1);
    if end == first + 1 || text.as_bytes().get(end) == Some(&b':') {
        return Err(Error::NotWellFormed("bad name"));
    }
    Ok((&text[start..first], &text[first + 1..end], end))
}

/// Reads `name='value'`; returns it and where the text goes on.
#[inline]
fn attribute(text: &str, start: usize) -> Result<(Attribute<'_>, usize), Error> {
    let bytes = text.as_bytes();
    let (prefix, local, mut at) = qname(text, start)?;
    while bytes.get(at).is_some_and(|&b| is_space(b)) {
        at += 1;
    }
    if bytes.get(at) != Some(&b'=') {
        return Err(Error::NotWellFormed("attribute without a value"));
    }
    at += 1;
    while bytes.get(at).is_some_and(|&b| is_space(b)) {
        at += 1;
    }
    let Some(&quote @ (b'"' | b'\'')) = bytes.get(at) else {
        return Err(Error::NotWellFormed("attribute value without quotes"));
    };
    let value_start = at + 1;
    let mut plain = true;
    at = value_start;
    loop {
        let byte = *bytes
            .get(at)
            .ok_or(Error::NotWellFormed("attribute value without an end"))?;
        if CLASS[usize::from(byte)] & VALUE_STOP == 0 {
            at += 1;
            continue;
        }
        match byte {
            b'"' | b'\'' if byte == quote => break,
            b'"' | b'\'' => {}
            b'<' => return Err(Error::NotWellFormed("`<` in an attribute value")),
            b'&' => {
                plain = false;
                at = escape::reference(text, at)?.1;
                continue;
            }
            b'\t' | b'\n' | b'\r' => plain = false,
            _ => no_char(bytes, at)?,
        }
        at += 1;
    }
    let attribute = Attribute {
        raw: &text[start..=at],
        prefix,
        local,
        value: &text[value_start..at],
        plain,
    };
    Ok((attribute, at + 1))
}

/// Refuses a control character, U+FFFE and U+FFFF at this place; anything else is fine.
fn no_char(bytes: &[u8], at: usize) -> Result<(), Error> {
    if bytes[at] < 0x20 || matches!(bytes.get(at..at + 3), Some([0xEF, 0xBF, 0xBE | 0xBF])) {
        return Err(Error::NotWellFormed("forbidden character"));
    }
    Ok(())
}
