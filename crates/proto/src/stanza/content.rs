//! What a stanza contains: text that has been checked, shared by all clones.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::ns;
use crate::xml::Element;
use crate::xml::walker::{Event, Walker};

/// Content of a stanza and what else its start tag says.
#[derive(Clone, Default)]
pub(super) struct Content(Option<Arc<Shared>>);

#[derive(Default)]
struct Shared {
    /// Attributes that are not part of the header, and namespace declarations, as ` name='value'` each.
    extra: Box<str>,
    inner: Box<str>,
    index: Index,
    tree: OnceLock<Vec<Element>>,
}

/// Where in the text the names and namespaces of the children are.
pub(super) type Index = SmallVec<[ChildRef; 3]>;

/// One child.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct ChildRef {
    pub(super) name: (u32, u32),
    pub(super) ns: Namespace,
}

/// Where the name of a child's namespace is to be found.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Namespace {
    /// It is `jabber:client`.
    Client,
    /// Here in the text.
    Declared(u32, u32),
    /// Elsewhere, or not in its final form: the tree knows.
    Unclear,
}

impl ChildRef {
    /// Notes the child that `walker` has just come to. The content begins at `base` of its text.
    pub(super) fn new(walker: &Walker<'_>, text: &str, base: usize) -> Self {
        let place = |part: &str| {
            // Both are addresses within one text, so their distance is an offset.
            let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize + base)?;
            (start + part.len() <= text.len() - base)
                .then(|| Some((u32::try_from(start).ok()?, u32::try_from(part.len()).ok()?)))?
        };
        let ns = match walker.borrowed_namespace() {
            Some(ns::CLIENT) => Namespace::Client,
            Some(uri) => place(uri).map_or(Namespace::Unclear, |(start, length)| {
                Namespace::Declared(start, length)
            }),
            None => Namespace::Unclear,
        };
        match place(walker.tag().local) {
            Some(name) => Self { name, ns },
            // Beyond 4 GiB.
            None => Self {
                name: (0, 0),
                ns: Namespace::Unclear,
            },
        }
    }
}

fn slice(text: &str, (start, length): (u32, u32)) -> Option<&str> {
    let start = usize::try_from(start).ok()?;
    text.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

impl Content {
    pub(super) fn new(extra: Box<str>, inner: Box<str>, index: Index) -> Self {
        if extra.is_empty() && inner.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Shared {
            extra,
            inner,
            index,
            tree: OnceLock::new(),
        })))
    }

    /// Content whose children have yet to be found.
    pub(super) fn indexed(extra: Box<str>, inner: Box<str>) -> Self {
        let index = index_of(&inner);
        Self::new(extra, inner, index)
    }

    pub(super) fn extra(&self) -> &str {
        self.0.as_ref().map_or("", |shared| &shared.extra)
    }

    pub(super) fn inner(&self) -> &str {
        self.0.as_ref().map_or("", |shared| &shared.inner)
    }

    pub(super) fn index(&self) -> &[ChildRef] {
        self.0.as_ref().map_or(&[], |shared| &shared.index)
    }

    pub(super) fn children(&self) -> &[Element] {
        let Some(shared) = &self.0 else { return &[] };
        shared.tree.get_or_init(|| {
            // The text has been checked. From another node or from storage it may come damaged: then
            // nothing is found in it.
            if shared.extra.is_empty() {
                return Element::parse_children(&shared.inner, ns::CLIENT).unwrap_or_default();
            }
            let whole = format!("<message{}>{}</message>", shared.extra, shared.inner);
            Element::parse(&whole, ns::CLIENT)
                .map(|element| element.into_children().collect())
                .unwrap_or_default()
        })
    }

    pub(super) fn has(&self, name: &str, ns: &str) -> bool {
        let Some(shared) = &self.0 else { return false };
        if let Some(tree) = shared.tree.get() {
            return tree.iter().any(|child| child.is(name, ns));
        }
        for child in &shared.index {
            let found = match child.ns {
                Namespace::Client => ns == ns::CLIENT,
                Namespace::Declared(start, length) => {
                    slice(&shared.inner, (start, length)) == Some(ns)
                }
                Namespace::Unclear => {
                    return self.children().iter().any(|child| child.is(name, ns));
                }
            };
            if found && slice(&shared.inner, child.name) == Some(name) {
                return true;
            }
        }
        false
    }

    pub(super) fn push(&mut self, child: Element) {
        let mut inner = String::from(self.inner());
        let start = inner.len();
        child.write_to(&mut inner, ns::CLIENT);
        let mut index = Index::from_slice(self.index());
        // Looked at from the beginning of the whole text, so that the places are right.
        index.extend(index_of_from(&inner, start));
        let tree = match self.0.as_ref().map(|shared| shared.tree.get()) {
            None => OnceLock::from(vec![child]),
            Some(None) => OnceLock::new(),
            Some(Some(tree)) => {
                let mut tree = tree.clone();
                tree.push(child);
                OnceLock::from(tree)
            }
        };
        let extra = self.extra().into();
        self.0 = Some(Arc::new(Shared {
            extra,
            inner: inner.into(),
            index,
            tree,
        }));
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Element) -> bool) -> bool {
        let children = self.children();
        let kept: Vec<Element> = children
            .iter()
            .filter(|child| keep(child))
            .cloned()
            .collect();
        if kept.len() == children.len() {
            return false;
        }
        let mut inner = String::with_capacity(self.inner().len());
        for child in &kept {
            child.write_to(&mut inner, ns::CLIENT);
        }
        self.0 = Some(Arc::new(Shared {
            extra: self.extra().into(),
            index: index_of(&inner),
            inner: inner.into(),
            tree: OnceLock::from(kept),
        }));
        true
    }
}

/// Finds the children in a content.
fn index_of(inner: &str) -> Index {
    index_of_from(inner, 0)
}

/// The same for what begins at `start`.
fn index_of_from(inner: &str, start: usize) -> Index {
    let mut index = Index::new();
    let mut walker = Walker::fragment(&inner[start..], ns::CLIENT);
    while let Ok(event) = walker.next() {
        match event {
            Event::Start if walker.depth() == 1 => {
                let mut child = ChildRef::new(&walker, &inner[start..], 0);
                child.shift(start);
                index.push(child);
            }
            Event::Done => break,
            _ => {}
        }
    }
    index
}

impl ChildRef {
    fn shift(&mut self, by: usize) {
        let Ok(by) = u32::try_from(by) else { return };
        self.name.0 = self.name.0.saturating_add(by);
        if let Namespace::Declared(start, _) = &mut self.ns {
            *start = start.saturating_add(by);
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.extra() == other.extra() && self.inner() == other.inner()
    }
}

impl Eq for Content {}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}>{}", self.extra(), self.inner())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.extra(), self.inner(), self.index()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (extra, inner, index) = Deserialize::deserialize(deserializer)?;
        Ok(Self::new(extra, inner, index))
    }
}
