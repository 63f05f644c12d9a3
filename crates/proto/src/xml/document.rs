//! A document of any size, read piece by piece: for files.
//!
//! Tags of outer elements are told one after the other, and an element is handed out with all that is
//! in it where somebody asks for it, so that no more than that is in memory. What is handed out has gone
//! through the same strict pass as a stanza. Comments may stand between the outer elements, as people
//! write them; document type declarations, and with them entities, are refused.

use std::fmt;
use std::io::{self, BufRead};

use super::element::{build, start};
use super::walker::{Event, Walker};
use super::{Element, ElementParser, Error, MAX_DEPTH, Parser};
use crate::stream::check_declaration;

/// Octets of a tag that is told by itself.
const MAX_TAG: usize = 65_536;

/// A place in a document, to be shown to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a document cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct DocumentError {
    /// Where the piece that is at fault begins.
    pub place: Place,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It is no XML, or XML that is refused.
    #[error(transparent)]
    Xml(#[from] Error),
    /// It ends too early.
    #[error("the document ends in the middle of an element")]
    Truncated,
    /// An element that was asked for as a whole, or a tag, is larger than this number of octets.
    #[error("an element of more than {0} bytes")]
    TooLarge(usize),
    /// Text stands between outer elements.
    #[error("text where only elements may stand")]
    Text,
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// An element begins: this one, with its attributes and without content. Its content comes next,
    /// unless [`DocumentReader::rest`] or [`DocumentReader::skip`] is called.
    Start(Element),
    /// The innermost open element ends.
    End,
    /// The document ends.
    Done,
}

/// What an element held that was skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Elements right in it.
    pub children: u64,
    /// Elements right in those.
    pub grandchildren: u64,
}

/// Reads a document.
#[derive(Debug)]
pub struct DocumentReader<R> {
    source: R,
    /// Of the next octet.
    here: Place,
    /// The piece that was read last, and where it begins.
    token: Vec<u8>,
    place: Place,
    open: Vec<Open>,
    /// Prefixes in scope, the default namespace's is empty; of two that are equal the later counts.
    bindings: Vec<(Box<str>, Box<str>)>,
    /// The last start tag was `<…/>`: its end is still to be told.
    empty: bool,
    /// Something came.
    begun: bool,
    /// The outermost element has begun.
    rooted: bool,
}

/// An open element.
#[derive(Debug)]
struct Open {
    /// With its prefix.
    name: Box<[u8]>,
    /// Number of bindings around it.
    bindings: usize,
}

/// A piece of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Text,
    StartTag {
        empty: bool,
    },
    EndTag,
    Cdata,
    Comment,
    Declaration,
    /// The document ends.
    Nothing,
}

/// What becomes of the octets of a token.
#[derive(Clone, Copy)]
enum Keep {
    /// Added to [`DocumentReader::token`], which may have so many.
    UpTo(usize),
    /// Only tags are.
    Tags,
}

impl<R: BufRead> DocumentReader<R> {
    /// Starts at the beginning of a document in UTF-8.
    pub fn new(source: R) -> Self {
        let start = Place { line: 1, column: 1 };
        Self {
            source,
            here: start,
            token: Vec::new(),
            place: start,
            open: Vec::new(),
            bindings: Vec::new(),
            empty: false,
            begun: false,
            rooted: false,
        }
    }

    /// Where the piece begins that was told last.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Goes on to the next tag.
    ///
    /// # Errors
    /// What is wrong with the document up to there.
    pub fn next_piece(&mut self) -> Result<Piece, DocumentError> {
        if self.empty {
            self.empty = false;
            self.close();
            return Ok(Piece::End);
        }
        loop {
            let is_first = !self.begun;
            self.token.clear();
            match self.read_token(Keep::UpTo(MAX_TAG))? {
                Token::Text => {
                    if !self.token.iter().all(u8::is_ascii_whitespace) {
                        return Err(self.error(Reason::Text));
                    }
                }
                Token::Comment => {}
                Token::Declaration => {
                    if !is_first {
                        return Err(self.error(Error::Restricted("processing instruction")));
                    }
                    check_declaration(&self.token)
                        .map_err(|_| self.error(Error::NotWellFormed("bad XML declaration")))?;
                }
                Token::StartTag { empty } => return self.start(empty).map(Piece::Start),
                Token::EndTag => {
                    let name = self.token[2..self.token.len() - 1].trim_ascii_end();
                    if self.open.last().is_none_or(|open| *open.name != *name) {
                        let error = Error::NotWellFormed("end tag of another element");
                        return Err(self.error(error));
                    }
                    self.close();
                    return Ok(Piece::End);
                }
                Token::Cdata => return Err(self.error(Reason::Text)),
                Token::Nothing if self.rooted && self.open.is_empty() => return Ok(Piece::Done),
                Token::Nothing if self.rooted => return Err(self.error(Reason::Truncated)),
                Token::Nothing => return Err(self.error(Error::NotWellFormed("no element"))),
            }
        }
    }

    /// The element that [`Self::next_piece`] has told the start of, with all that is in it. It has ended
    /// then.
    ///
    /// # Errors
    /// What is wrong with it; also if it has more than `max` octets. The place is that of its start.
    pub fn rest(&mut self, max: usize) -> Result<Element, DocumentError> {
        let place = self.place;
        let at_start = |error: DocumentError| match error.reason {
            Reason::Io(_) | Reason::Truncated => error,
            reason => DocumentError { place, reason },
        };
        if self.empty {
            self.empty = false;
        } else {
            let mut depth = 1;
            while depth > 0 {
                match self.read_token(Keep::UpTo(max)).map_err(at_start)? {
                    Token::StartTag { empty: false } => depth += 1,
                    Token::EndTag => depth -= 1,
                    Token::Nothing => return Err(self.error(Reason::Truncated)),
                    Token::Comment => {
                        let error = Error::Restricted("comment or declaration");
                        return Err(at_start(self.error(error)));
                    }
                    Token::StartTag { empty: true }
                    | Token::Text
                    | Token::Cdata
                    | Token::Declaration => {}
                }
            }
        }
        self.place = place;
        if let Some(open) = self.open.pop() {
            self.bindings.truncate(open.bindings);
        }
        let text = str::from_utf8(&self.token).map_err(|_| self.error(Error::Encoding))?;
        let element = build(self.walker(text)).map_err(|error| self.error(error))?;
        self.token = Vec::new();
        Ok(element)
    }

    /// Passes over the element that [`Self::next_piece`] has told the start of. What is in it is not
    /// checked.
    ///
    /// # Errors
    /// If the document cannot be read on.
    pub fn skip(&mut self) -> Result<Skipped, DocumentError> {
        let mut skipped = Skipped::default();
        if self.empty {
            self.empty = false;
            self.close();
            return Ok(skipped);
        }
        let mut depth = 1;
        while depth > 0 {
            self.token.clear();
            match self.read_token(Keep::Tags)? {
                Token::StartTag { empty } => {
                    match depth {
                        1 => skipped.children += 1,
                        2 => skipped.grandchildren += 1,
                        _ => {}
                    }
                    depth += u64::from(!empty);
                }
                Token::EndTag => depth -= 1,
                Token::Nothing => return Err(self.error(Reason::Truncated)),
                Token::Text | Token::Cdata | Token::Comment | Token::Declaration => {}
            }
        }
        self.close();
        Ok(skipped)
    }

    /// Opens the element whose start tag is the token.
    fn start(&mut self, empty: bool) -> Result<Element, DocumentError> {
        if self.rooted && self.open.is_empty() {
            return Err(self.error(Error::NotWellFormed("not exactly one element")));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(self.error(Error::TooComplex("depth")));
        }
        let text = str::from_utf8(&self.token).map_err(|_| self.error(Error::Encoding))?;
        let mut whole = String::with_capacity(text.len() + 1);
        whole.push_str(text);
        if !empty {
            whole.pop();
            whole.push_str("/>");
        }
        let told = self.tell(&whole).map_err(|error| self.error(error))?;
        let (element, name, declared) = told;
        self.open.push(Open {
            name,
            bindings: self.bindings.len(),
        });
        self.bindings.extend(declared);
        self.rooted = true;
        self.empty = empty;
        Ok(element)
    }

    /// Reads an empty element: what it is, its name with the prefix, what it declares.
    #[expect(
        clippy::type_complexity,
        reason = "three things that are taken apart at once"
    )]
    fn tell(&self, tag: &str) -> Result<(Element, Box<[u8]>, Vec<(Box<str>, Box<str>)>), Error> {
        let mut walker = self.walker(tag);
        walker.next()?;
        let element = start(&walker, &Element::new("", ""));
        let name = match walker.tag().prefix {
            "" => walker.tag().local.to_owned(),
            prefix => format!("{prefix}:{}", walker.tag().local),
        };
        let declared = walker
            .attributes()
            .iter()
            .filter(|attribute| attribute.is_declaration())
            .map(|attribute| {
                let prefix = match attribute.prefix {
                    "" => "",
                    _ => attribute.local,
                };
                (prefix.into(), attribute.value().into())
            })
            .collect();
        while !matches!(walker.next()?, Event::Done) {}
        Ok((element, name.into_bytes().into(), declared))
    }

    fn walker<'a>(&'a self, text: &'a str) -> Walker<'a> {
        let default = self.bindings.iter().rfind(|(prefix, _)| prefix.is_empty());
        let prefixes = self
            .bindings
            .iter()
            .filter(|(prefix, _)| !prefix.is_empty());
        Walker::document(
            text,
            default.map_or("", |(_, uri)| uri),
            prefixes.map(|(prefix, uri)| (&**prefix, &**uri)),
        )
    }

    fn close(&mut self) {
        if let Some(open) = self.open.pop() {
            self.bindings.truncate(open.bindings);
        }
    }

    fn error(&self, reason: impl Into<Reason>) -> DocumentError {
        DocumentError {
            place: self.place,
            reason: reason.into(),
        }
    }
}

/// Cutting the text into tokens.
impl<R: BufRead> DocumentReader<R> {
    fn read_token(&mut self, keep: Keep) -> Result<Token, DocumentError> {
        if !self.begun {
            self.skip_byte_order_mark()?;
        }
        self.place = self.here;
        match self.peek()? {
            None => return Ok(Token::Nothing),
            Some(b'<') => {}
            Some(_) => {
                self.begun = true;
                self.take_text(keep)?;
                return Ok(Token::Text);
            }
        }
        self.begun = true;
        let tags = match keep {
            Keep::Tags => Keep::UpTo(MAX_TAG),
            up_to @ Keep::UpTo(_) => up_to,
        };
        self.take_one(tags)?;
        match self.peek()? {
            Some(b'/') => {
                self.take_until(b">", tags)?;
                Ok(Token::EndTag)
            }
            Some(b'?') => {
                self.take_until(b"?>", Keep::UpTo(MAX_TAG))?;
                if self.rooted {
                    return Err(self.error(Error::Restricted("processing instruction")));
                }
                Ok(Token::Declaration)
            }
            Some(b'!') => {
                self.take_one(tags)?;
                self.take_markup(keep)
            }
            Some(_) => self.take_start_tag(tags),
            None => Err(self.error(Reason::Truncated)),
        }
    }

    /// After `<!`.
    fn take_markup(&mut self, keep: Keep) -> Result<Token, DocumentError> {
        let (opening, end, token): (&[u8], &[u8], _) = match self.peek()? {
            Some(b'-') => (b"--", b"-->", Token::Comment),
            Some(b'[') => (b"[CDATA[", b"]]>", Token::Cdata),
            _ => {
                let error = Error::Restricted("document type declaration");
                return Err(self.error(error));
            }
        };
        for expected in opening {
            if self.peek()? != Some(*expected) {
                return Err(self.error(Error::NotWellFormed("bad markup")));
            }
            self.take_one(keep)?;
        }
        let keep = match token {
            Token::Comment => Keep::Tags,
            _ => keep,
        };
        self.take_until(end, keep)?;
        Ok(token)
    }

    fn take_start_tag(&mut self, keep: Keep) -> Result<Token, DocumentError> {
        let mut parser = ElementParser::Outside;
        let mut last = b'<';
        loop {
            let place = self.here;
            let chunk = self.source.fill_buf().map_err(|e| unreadable(place, e))?;
            let Some(end) = chunk.last() else {
                return Err(self.error(Reason::Truncated));
            };
            if let Some(length) = parser.feed(chunk) {
                if length > 0 {
                    last = chunk[length - 1];
                }
                self.take(length + 1, keep)?;
                return Ok(Token::StartTag {
                    empty: last == b'/',
                });
            }
            last = *end;
            let length = chunk.len();
            self.take(length, keep)?;
        }
    }

    fn take_text(&mut self, keep: Keep) -> Result<(), DocumentError> {
        loop {
            let place = self.here;
            let chunk = self.source.fill_buf().map_err(|e| unreadable(place, e))?;
            let (length, is_end) = match memchr::memchr(b'<', chunk) {
                Some(length) => (length, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            self.take(length, keep)?;
            if is_end {
                return Ok(());
            }
        }
    }

    /// Takes octets up to and including `end`.
    fn take_until(&mut self, end: &[u8], keep: Keep) -> Result<(), DocumentError> {
        // The last octets that were taken, as many as `end` has.
        let mut last = Vec::with_capacity(end.len() + 1);
        while last != end {
            let Some(byte) = self.peek()? else {
                return Err(self.error(Reason::Truncated));
            };
            if last.len() == end.len() {
                last.remove(0);
            }
            last.push(byte);
            self.take_one(keep)?;
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<u8>, DocumentError> {
        let place = self.here;
        let chunk = self.source.fill_buf().map_err(|e| unreadable(place, e))?;
        Ok(chunk.first().copied())
    }

    fn take_one(&mut self, keep: Keep) -> Result<(), DocumentError> {
        self.take(1, keep)
    }

    /// Takes octets that the source's buffer holds.
    fn take(&mut self, length: usize, keep: Keep) -> Result<(), DocumentError> {
        let place = self.here;
        let chunk = self.source.fill_buf().map_err(|e| unreadable(place, e))?;
        for byte in &chunk[..length] {
            if *byte == b'\n' {
                self.here.line += 1;
                self.here.column = 1;
            } else if byte & 0xC0 != 0x80 {
                self.here.column += 1;
            }
        }
        if let Keep::UpTo(max) = keep {
            if self.token.len() + length > max {
                return Err(DocumentError {
                    place: self.place,
                    reason: Reason::TooLarge(max),
                });
            }
            self.token.extend_from_slice(&chunk[..length]);
        }
        self.source.consume(length);
        Ok(())
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), DocumentError> {
        if self.peek()? == Some(0xEF) {
            for expected in [0xEF, 0xBB, 0xBF] {
                if self.peek()? != Some(expected) {
                    return Err(self.error(Error::Encoding));
                }
                self.source.consume(1);
            }
        }
        Ok(())
    }
}

fn unreadable(place: Place, error: io::Error) -> DocumentError {
    DocumentError {
        place,
        reason: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::*;

    use super::*;

    fn reader(text: &str) -> DocumentReader<&[u8]> {
        DocumentReader::new(text.as_bytes())
    }

    fn start_of(piece: Piece) -> Element {
        match piece {
            Piece::Start(element) => element,
            other => panic!("{other:?}"),
        }
    }

    fn wrong(text: &str) -> String {
        let mut reader = reader(text);
        loop {
            match reader.next_piece() {
                Ok(Piece::Done) => panic!("{text} was read"),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    const SAMPLE: &str = "<?xml version='1.0' encoding='UTF-8'?>\n<!-- people write -->\n\
        <a xmlns='x' xmlns:p='y'>\n  <p:b c='1 &amp; 2'/>\n\
        <d><e>t<![CDATA[<]]></e></d><f><g/><g><h/></g></f>\n</a>\n";

    #[test]
    fn a_document_is_told_tag_by_tag() {
        let mut reader = reader(SAMPLE);
        let a = start_of(reader.next_piece().unwrap());
        assert!(a.is("a", "x"));
        assert_eq!(reader.place(), Place { line: 3, column: 1 });
        let b = start_of(reader.next_piece().unwrap());
        assert!(b.is("b", "y"));
        assert_eq!(b.attr("c"), Some("1 & 2"));
        assert_eq!(reader.place(), Place { line: 4, column: 3 });
        assert_eq!(reader.next_piece().unwrap(), Piece::End);
        start_of(reader.next_piece().unwrap());
        let d = reader.rest(1000).unwrap();
        assert_eq!(d.to_xml("x"), "<d><e>t&lt;</e></d>");
        start_of(reader.next_piece().unwrap());
        let skipped = reader.skip().unwrap();
        assert_eq!((skipped.children, skipped.grandchildren), (2, 1));
        assert_eq!(reader.next_piece().unwrap(), Piece::End);
        assert_eq!(reader.next_piece().unwrap(), Piece::Done);
        assert_eq!(reader.next_piece().unwrap(), Piece::Done);
    }

    #[test]
    fn prefixes_from_outside_hold_inside() {
        let mut reader = reader("<p:a xmlns:p='x' xmlns='z'><b><p:c/></b></p:a>");
        start_of(reader.next_piece().unwrap());
        start_of(reader.next_piece().unwrap());
        let b = reader.rest(1000).unwrap();
        assert!(b.is("b", "z"));
        assert!(b.child("c", "x").is_some());
        assert_eq!(reader.next_piece().unwrap(), Piece::End);
        assert_eq!(reader.next_piece().unwrap(), Piece::Done);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("", "line 1, column 1: not well-formed: no element"),
            (
                "<a>\n <b></a>",
                "line 2, column 5: not well-formed: end tag of another",
            ),
            ("<a>\n <b>", "line 2, column 5: the document ends"),
            ("<a", "line 1, column 1: the document ends"),
            ("<a>x</a>", "line 1, column 4: text where"),
            (
                "<a/><b/>",
                "line 1, column 5: not well-formed: not exactly one",
            ),
            (
                "<a b='1' b='2'/>",
                "line 1, column 1: not well-formed: attribute twice",
            ),
            ("<p:a/>", "line 1, column 1: not well-formed: undeclared"),
            (
                "<a><?php ?></a>",
                "line 1, column 4: restricted XML: processing",
            ),
            (
                "<?xml version='1.0' encoding='latin1'?><a/>",
                "line 1, column 1: not well-f",
            ),
            ("<a>&x;</a>", "line 1, column 4: text where"),
        ] {
            let error = wrong(text);
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn document_type_declarations_and_entities_are_refused() {
        let laughs = "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY l 'ha'>]><a>&l;</a>";
        assert_eq!(
            wrong(laughs),
            "line 1, column 22: restricted XML: document type declaration"
        );
        let mut inside = reader("<a>\n<b>&l;</b></a>");
        inside.next_piece().unwrap();
        inside.next_piece().unwrap();
        assert_eq!(
            inside.rest(1000).unwrap_err().to_string(),
            "line 2, column 1: restricted XML: entity reference"
        );
    }

    #[test]
    fn an_element_has_a_largest_size() {
        let mut reader = reader("<a><b>0123456789</b></a>");
        reader.next_piece().unwrap();
        reader.next_piece().unwrap();
        let error = reader.rest(10).unwrap_err();
        assert!(matches!(error.reason, Reason::TooLarge(10)), "{error}");
    }

    /// A source that is larger than memory should become.
    #[test]
    fn what_is_skipped_is_not_kept() {
        let begin = "<a><b>".as_bytes();
        let middle = std::io::repeat(b'x').take(50_000_000);
        let end = "</b></a>".as_bytes();
        let source = BufReader::new(begin.chain(middle).chain(end));
        let mut reader = DocumentReader::new(source);
        reader.next_piece().unwrap();
        reader.next_piece().unwrap();
        reader.skip().unwrap();
        assert!(reader.token.capacity() < 1000);
        assert_eq!(reader.next_piece().unwrap(), Piece::End);
    }

    proptest! {
        /// However the source is cut into chunks.
        #[test]
        fn chunks_make_no_difference(size in 1usize..40) {
            let mut whole = reader(SAMPLE);
            let mut cut = DocumentReader::new(BufReader::with_capacity(size, SAMPLE.as_bytes()));
            loop {
                let piece = whole.next_piece().unwrap();
                prop_assert_eq!(&cut.next_piece().unwrap(), &piece);
                prop_assert_eq!(cut.place(), whole.place());
                match piece {
                    Piece::Start(element) if element.name() == "d" => {
                        prop_assert_eq!(cut.rest(99).unwrap(), whole.rest(99).unwrap());
                    }
                    Piece::Done => break,
                    _ => {}
                }
            }
        }

        #[test]
        fn any_input_is_read_or_refused(text in "[<>/a-c='\"! &;\\[\\]-]{0,60}") {
            let mut reader = reader(&text);
            while let Ok(piece) = reader.next_piece() {
                if piece == Piece::Done {
                    break;
                }
            }
        }
    }
}
