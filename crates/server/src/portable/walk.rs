//! From files to accounts: XEP-0227 documents, with what they include, read piece by piece.
//!
//! Includes are those that the XEP demands (§5) and no others: relative, of a whole XML file that lies
//! below the directory of the main one, symbolic links followed.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

use rookery_features::xep0227_portable::{NS, NS_INCLUDE, NS_MAM, is_read};
use rookery_proto::jid::BareJid;
use rookery_proto::xml::Element;
use rookery_proto::xml::document::{DocumentError, DocumentReader, Piece};

/// Octets of a roster, a vCard or all private XML of an account.
const MAX_DATUM: usize = 32 * 1024 * 1024;

/// Octets of a message.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Namespaces of PEP nodes and their configuration (§4.10).
const NS_PUBSUB: &str = "http://jabber.org/protocol/pubsub";
const NS_PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// An account begins.
    Account(Head),
    /// A child of its `<user/>`.
    Datum(Element),
    /// A child of its `<offline-messages/>`.
    Offline(Element),
    /// A child of its `<archive/>`.
    Archived(Element),
    /// Something that is not looked into, and how often.
    LeftOut(String, u64),
    /// The account ends.
    End,
    /// All is read.
    Done,
}

/// The beginning of an account.
#[derive(Debug)]
pub(crate) struct Head {
    /// Its address, or why it has none.
    pub(crate) jid: Result<BareJid, String>,
    /// Its password.
    pub(crate) password: Option<String>,
}

/// A file that cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {reason}", place, account.as_ref().map(|jid| format!(" (account {jid})")).unwrap_or_default())]
pub(crate) struct Unreadable {
    /// File, line and column.
    place: String,
    /// In whose data.
    account: Option<BareJid>,
    reason: String,
}

/// Where in a document we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Before its outermost element.
    Outside,
    Data,
    Host,
    User,
    Offline,
    Archive,
    /// After its outermost element.
    After,
}

/// Accounts from one document or several.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Main files that are still to be read.
    mains: VecDeque<PathBuf>,
    /// Files whose outermost element is another one are passed over.
    is_directory: bool,
    /// The main file and those that are being included, the innermost last.
    open: Vec<Open>,
    /// What included files have to lie below.
    root: PathBuf,
    level: Level,
    host: Option<BareJid>,
    /// The account that is being read.
    account: Option<BareJid>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    reader: DocumentReader<BufReader<File>>,
}

impl Walk {
    /// Begins at a file, or at all files `*.xml` of a directory, by their names.
    ///
    /// # Errors
    /// If there is no such.
    pub(crate) fn begin(source: &Path) -> Result<Self, Unreadable> {
        let fail = |error: std::io::Error| Unreadable {
            place: source.display().to_string(),
            account: None,
            reason: error.to_string(),
        };
        let is_directory = fs::metadata(source).map_err(fail)?.is_dir();
        let mut mains = Vec::new();
        if is_directory {
            for entry in fs::read_dir(source).map_err(fail)? {
                let path = entry.map_err(fail)?.path();
                if path.extension().is_some_and(|extension| extension == "xml") {
                    mains.push(path);
                }
            }
            mains.sort();
            if mains.is_empty() {
                return Err(fail(std::io::Error::other("no file in it ends with .xml")));
            }
        } else {
            mains.push(source.to_owned());
        }
        Ok(Self {
            mains: mains.into(),
            is_directory,
            open: Vec::new(),
            root: PathBuf::new(),
            level: Level::After,
            host: None,
            account: None,
        })
    }

    /// Where the piece begins that was told last.
    pub(crate) fn place(&self) -> String {
        self.open.last().map_or_else(String::new, |open| {
            format!("{}, {}", open.path.display(), open.reader.place())
        })
    }

    /// Goes on.
    ///
    /// # Errors
    /// If a file cannot be read on: it is no XML, not of this format, or includes what it may not.
    pub(crate) fn next(&mut self) -> Result<Next, Unreadable> {
        loop {
            let next = match self.level {
                Level::Outside => self.outside()?,
                Level::Data => self.data()?,
                Level::Host => self.host()?,
                Level::User => self.user()?,
                Level::Offline => self.message("message")?,
                Level::Archive => self.message("result")?,
                Level::After => self.after()?,
            };
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    fn outside(&mut self) -> Result<Option<Next>, Unreadable> {
        let Piece::Start(root) = self.piece(false)? else {
            return Err(self.unreadable("there is no element"));
        };
        if root.is("server-data", NS) {
            self.level = Level::Data;
            return Ok(None);
        }
        // In a directory, files that others include lie beside them.
        if self.is_directory {
            self.open.clear();
            self.level = Level::After;
            return Ok(None);
        }
        Err(self.unreadable(format!(
            "the outermost element has to be <server-data xmlns='{NS}'/> (XEP-0227) and is \
             <{} xmlns='{}'/>",
            root.name(),
            root.ns()
        )))
    }

    fn data(&mut self) -> Result<Option<Next>, Unreadable> {
        match self.piece(true)? {
            Piece::Start(host) if host.is("host", NS) => {
                let jid = host.attr("jid").unwrap_or_default();
                let jid = BareJid::parse(jid).map_err(|error| {
                    self.unreadable(format!("the host {jid:?} is no domain: {error}"))
                })?;
                if jid.local().is_some() {
                    return Err(self.unreadable(format!("the host {jid} is no domain")));
                }
                self.host = Some(jid);
                self.level = Level::Host;
                Ok(None)
            }
            Piece::Start(other) => self.leave_out(&other).map(Some),
            Piece::End | Piece::Done => {
                self.level = Level::After;
                Ok(None)
            }
        }
    }

    fn host(&mut self) -> Result<Option<Next>, Unreadable> {
        match self.piece(true)? {
            Piece::Start(user) if user.is("user", NS) => {
                let domain = self.host.as_ref().map_or("", BareJid::as_str);
                let name = user.attr("name").unwrap_or_default();
                let jid = BareJid::new(Some(name), domain)
                    .map_err(|error| format!("{name:?} is no name of an account: {error}"));
                self.account = jid.as_ref().ok().cloned();
                self.level = Level::User;
                Ok(Some(Next::Account(Head {
                    jid,
                    password: user.attr("password").map(ToOwned::to_owned),
                })))
            }
            Piece::Start(other) => self.leave_out(&other).map(Some),
            Piece::End | Piece::Done => {
                self.level = Level::Data;
                Ok(None)
            }
        }
    }

    fn user(&mut self) -> Result<Option<Next>, Unreadable> {
        let element = match self.piece(true)? {
            Piece::Start(element) => element,
            Piece::End | Piece::Done => {
                self.level = Level::Host;
                return Ok(Some(Next::End));
            }
        };
        match (element.name(), element.ns()) {
            ("offline-messages", NS) => self.level = Level::Offline,
            ("archive", NS_MAM) => self.level = Level::Archive,
            (name, ns) if is_read(name, ns) => {
                return self.rest(MAX_DATUM).map(|datum| Some(Next::Datum(datum)));
            }
            _ => return self.leave_out(&element).map(Some),
        }
        Ok(None)
    }

    /// A child of `<offline-messages/>` or `<archive/>`.
    fn message(&mut self, name: &str) -> Result<Option<Next>, Unreadable> {
        match self.piece(false)? {
            Piece::Start(element) if element.name() == name => {
                let message = self.rest(MAX_MESSAGE)?;
                Ok(Some(if self.level == Level::Offline {
                    Next::Offline(message)
                } else {
                    Next::Archived(message)
                }))
            }
            Piece::Start(other) => self.leave_out(&other).map(Some),
            Piece::End | Piece::Done => {
                self.level = Level::User;
                Ok(None)
            }
        }
    }

    /// The end of a document: the next one begins.
    fn after(&mut self) -> Result<Option<Next>, Unreadable> {
        if !self.open.is_empty() {
            // What comes after the outermost element has to be nothing.
            self.piece(false)?;
            self.open.clear();
        }
        let Some(main) = self.mains.pop_front() else {
            return Ok(Some(Next::Done));
        };
        let directory = match main.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        self.root = directory
            .canonicalize()
            .map_err(|error| self.unreadable(format!("{}: {error}", directory.display())))?;
        self.open_file(main)?;
        self.level = Level::Outside;
        Ok(None)
    }

    /// The next tag, in the files that are included where they may be.
    fn piece(&mut self, may_include: bool) -> Result<Piece, Unreadable> {
        loop {
            let Some(open) = self.open.last_mut() else {
                return Ok(Piece::Done);
            };
            let piece = open.reader.next_piece();
            match piece.map_err(|error| self.broken(&error))? {
                Piece::Done if self.open.len() > 1 => {
                    self.open.pop();
                }
                Piece::Start(include) if may_include && include.is("include", NS_INCLUDE) => {
                    let path = self
                        .included(&include)
                        .map_err(|reason| self.unreadable(reason))?;
                    self.skip()?;
                    // That a file includes itself is not possible: its outermost element has to be of
                    // the next level.
                    if self.open.len() > 4 {
                        return Err(self.unreadable("files include each other too deeply"));
                    }
                    self.open_file(path)?;
                }
                piece => return Ok(piece),
            }
        }
    }

    /// The file that an `<include/>` names (§5).
    fn included(&self, include: &Element) -> Result<PathBuf, String> {
        let href = include.attr("href").unwrap_or_default();
        let refuse = |why: &str| Err(format!("the include of {href:?} is refused: {why}"));
        if include.attr("xpointer").is_some() || include.attr("parse").is_some_and(|p| p != "xml") {
            return refuse("only whole XML files can be included");
        }
        let Some(relative) = decoded(href) else {
            return refuse("it is no relative path");
        };
        let relative = Path::new(&relative);
        let is_below = relative
            .components()
            .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
        if href.is_empty() || href.contains([':', '#', '?', '\\']) || !is_below {
            return refuse("it is no relative path below the main file's directory");
        }
        let including = self.open.last().map_or(Path::new(""), |open| &open.path);
        let path = including.parent().unwrap_or(Path::new("")).join(relative);
        match path.canonicalize() {
            Ok(real) if !real.starts_with(&self.root) => {
                refuse("it lies outside of the main file's directory")
            }
            Ok(real) if !real.is_file() => refuse("it is no file"),
            Ok(_) => Ok(path),
            Err(error) => refuse(&error.to_string()),
        }
    }

    fn open_file(&mut self, path: PathBuf) -> Result<(), Unreadable> {
        let file = File::open(&path)
            .map_err(|error| self.unreadable(format!("{}: {error}", path.display())))?;
        let reader = DocumentReader::new(BufReader::with_capacity(65_536, file));
        self.open.push(Open { path, reader });
        Ok(())
    }

    fn rest(&mut self, max: usize) -> Result<Element, Unreadable> {
        let Some(open) = self.open.last_mut() else {
            return Err(self.unreadable("there is no element"));
        };
        let rest = open.reader.rest(max);
        rest.map_err(|error| self.broken(&error))
    }

    fn skip(&mut self) -> Result<(u64, u64), Unreadable> {
        let Some(open) = self.open.last_mut() else {
            return Ok((0, 0));
        };
        let skipped = open.reader.skip();
        let skipped = skipped.map_err(|error| self.broken(&error))?;
        Ok((skipped.children, skipped.grandchildren))
    }

    /// Passes over an element, and says what it was.
    fn leave_out(&mut self, element: &Element) -> Result<Next, Unreadable> {
        let (children, grandchildren) = self.skip()?;
        Ok(match (element.name(), element.ns()) {
            ("pubsub", NS_PUBSUB) => Next::LeftOut("PEP items".to_owned(), grandchildren),
            ("pubsub", NS_PUBSUB_OWNER) => {
                Next::LeftOut("PEP node configurations".to_owned(), children)
            }
            (name, ns) => Next::LeftOut(format!("<{name} xmlns='{ns}'/>"), 1),
        })
    }

    fn broken(&self, error: &DocumentError) -> Unreadable {
        let file = self.open.last().map(|open| open.path.display().to_string());
        Unreadable {
            place: format!("{}, {}", file.unwrap_or_default(), error.place),
            account: self.current(),
            reason: error.reason.to_string(),
        }
    }

    fn unreadable(&self, reason: impl Into<String>) -> Unreadable {
        Unreadable {
            place: self.place(),
            account: self.current(),
            reason: reason.into(),
        }
    }

    fn current(&self) -> Option<BareJid> {
        let is_inside = matches!(self.level, Level::User | Level::Offline | Level::Archive);
        self.account.clone().filter(|_| is_inside)
    }
}

/// A relative reference as a path (RFC 3986 §2.1).
fn decoded(href: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(href.len());
    let mut rest = href.as_bytes();
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        if *octet == b'%' {
            let digits = str::from_utf8(rest.get(..2)?).ok()?;
            octets.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            octets.push(*octet);
        }
    }
    String::from_utf8(octets)
        .ok()
        .filter(|path| !path.contains('\0'))
}
