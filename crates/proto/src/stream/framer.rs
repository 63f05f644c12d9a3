//! Cuts a stream of bytes into the stream's start tag, its first-level elements and its end tag.
//!
//! Every byte is looked at once, however the bytes are cut into chunks. The framer finds where an
//! element ends and refuses at once what no element may hold (RFC 6120 §11.1); whether the element is
//! well-formed is found out by those who read it ([`crate::Stanza::parse`]).

use super::{StreamCondition, StreamError};
use crate::xml::{ElementParser, Parser};

/// What a peer may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a first-level element, or of the stream header.
    pub max_stanza_bytes: usize,
    /// Elements within each other, the first-level element included; at most [`crate::xml::MAX_DEPTH`].
    pub max_depth: u16,
}

impl Default for Limits {
    /// 256 KiB and 64 levels.
    fn default() -> Self {
        Self {
            max_stanza_bytes: 262_144,
            max_depth: 64,
        }
    }
}

/// A piece of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// The start tag of the stream, for [`super::StreamHeader::parse`]; or `<open/>`.
    Open(&'a [u8]),
    /// A first-level element: a stanza, or a part of a negotiation.
    Stanza(&'a [u8]),
    /// The end tag of the stream; or `<close/>`.
    Close,
}

/// Frames a TCP stream (RFC 6120 §4).
///
/// It holds the beginning of an element that has not arrived in full, and no memory otherwise.
#[derive(Debug)]
pub struct Framer {
    /// The incomplete element's octets so far, or the element that was handed out last.
    buffer: Vec<u8>,
    limits: Limits,
    scan: Scan,
    phase: Phase,
    /// The buffer's content was handed out and can go.
    handed_out: bool,
}

/// Where in a stream we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing came yet; this many octets of a byte order mark did.
    Start(u8),
    /// Before the stream's start tag.
    Prolog,
    /// Between start tag and end tag.
    Inside,
    /// The start tag was `<stream:stream …/>`: the end is still to be told.
    Ending,
}

impl Framer {
    /// A framer that expects a stream header.
    pub fn new(limits: Limits) -> Self {
        Self {
            buffer: Vec::new(),
            limits,
            scan: Scan::default(),
            phase: Phase::Start(0),
            handed_out: false,
        }
    }

    /// Changes what the peer may send from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Expects a new stream header: after TLS and after SASL negotiation (RFC 6120 §4.3.3). Drops what
    /// was incomplete.
    pub fn restart(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Whether an element has arrived in part.
    pub fn is_incomplete(&self) -> bool {
        !self.handed_out && !self.buffer.is_empty()
    }

    /// Goes on to the end of the next frame and takes what it used away from `input`.
    ///
    /// `None` means that all input was used; the beginning of an incomplete frame is kept. A frame that
    /// lies in `input` as a whole is not copied. White space between first-level elements is skipped.
    ///
    /// # Errors
    /// The stream error that the input causes. The stream cannot be read any further then.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'a>>, StreamError> {
        if self.handed_out {
            self.handed_out = false;
            self.buffer = Vec::new();
        }
        if self.phase == Phase::Ending {
            self.phase = Phase::Start(0);
            return Ok(Some(Frame::Close));
        }
        loop {
            if self.buffer.is_empty() && self.scan == Scan::default() {
                self.skip_space(input)?;
            }
            if input.is_empty() {
                return Ok(None);
            }
            let inside = self.phase == Phase::Inside;
            // One octet more than may come, so that it is noticed.
            let room = self
                .limits
                .max_stanza_bytes
                .saturating_sub(self.buffer.len());
            let view = &input[..input.len().min(room.saturating_add(1))];
            let progress = self.scan.feed(view, self.limits.max_depth, !inside)?;
            let used = match progress {
                Progress::Done { used, .. } => used,
                Progress::More => view.len(),
            };
            if used > room {
                return Err(too_big());
            }
            let (piece, rest) = input.split_at(used);
            *input = rest;
            let Progress::Done { item, .. } = progress else {
                self.buffer.extend_from_slice(piece);
                return Ok(None);
            };
            self.scan = Scan::default();
            if self.buffer.is_empty() {
                if let Some(frame) = finish(&mut self.phase, item, piece)? {
                    return Ok(Some(frame));
                }
            } else {
                self.buffer.extend_from_slice(piece);
                // The borrow checker does not let a conditional return keep the buffer borrowed.
                if item == Item::Declaration {
                    finish(&mut self.phase, item, &self.buffer)?;
                    self.buffer = Vec::new();
                    continue;
                }
                self.handed_out = true;
                return finish(&mut self.phase, item, &self.buffer);
            }
        }
    }

    /// Skips what may stand between first-level elements and before the header.
    fn skip_space(&mut self, input: &mut &[u8]) -> Result<(), StreamError> {
        const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];
        while let Some((&byte, rest)) = input.split_first() {
            match (self.phase, byte) {
                (Phase::Start(seen), _)
                    if seen < 3 && byte == BYTE_ORDER_MARK[usize::from(seen)] =>
                {
                    self.phase = Phase::Start(seen + 1);
                }
                (Phase::Start(1 | 2), _) => return Err(StreamCondition::BadFormat.into()),
                (_, b'<') => return Ok(()),
                (_, b' ' | b'\t' | b'\r' | b'\n') => {
                    // An XML declaration may only stand at the very start (XML 1.0 §2.8).
                    if self.phase != Phase::Inside {
                        self.phase = Phase::Prolog;
                    }
                }
                _ => {
                    return Err(StreamError::with_text(
                        StreamCondition::BadFormat,
                        "text outside of an element",
                    ));
                }
            }
            *input = rest;
        }
        Ok(())
    }
}

/// What a complete piece means for the stream.
fn finish<'a>(
    phase: &mut Phase,
    item: Item,
    piece: &'a [u8],
) -> Result<Option<Frame<'a>>, StreamError> {
    match (item, *phase) {
        (Item::Declaration, Phase::Start(_)) => {
            check_declaration(piece)?;
            *phase = Phase::Prolog;
            Ok(None)
        }
        (Item::Declaration, _) => Err(StreamCondition::RestrictedXml.into()),
        (Item::Element, Phase::Inside) => Ok(Some(Frame::Stanza(piece))),
        (Item::Element, _) => {
            *phase = Phase::Ending;
            Ok(Some(Frame::Open(piece)))
        }
        (Item::StartTag, _) => {
            *phase = Phase::Inside;
            Ok(Some(Frame::Open(piece)))
        }
        (Item::EndTag, Phase::Inside) => {
            let name = piece
                .strip_prefix(b"</stream:stream")
                .and_then(|p| p.strip_suffix(b">"));
            if !name.is_some_and(|rest| rest.trim_ascii().is_empty()) {
                return Err(StreamCondition::NotWellFormed.into());
            }
            *phase = Phase::Start(0);
            Ok(Some(Frame::Close))
        }
        (Item::EndTag, _) => Err(StreamCondition::NotWellFormed.into()),
    }
}

/// Frames one message of a WebSocket stream, which is one element and nothing around it (RFC 7395
/// §3.3.3).
///
/// # Errors
/// The stream error that the message causes. Whether the element is well-formed is found out by those
/// who read it.
pub fn ws_frame<'a>(message: &'a [u8], limits: &Limits) -> Result<Frame<'a>, StreamError> {
    if message.len() > limits.max_stanza_bytes {
        return Err(too_big());
    }
    if message.first() != Some(&b'<') {
        return Err(StreamCondition::BadFormat.into());
    }
    let (end, item) = match Scan::default().feed(message, limits.max_depth, false)? {
        Progress::Done { used, item } => (used, item),
        Progress::More => return Err(StreamCondition::NotWellFormed.into()),
    };
    if item != Item::Element || !message[end..].trim_ascii().is_empty() {
        return Err(StreamCondition::NotWellFormed.into());
    }
    let name_end = message
        .iter()
        .position(|b| b" \t\r\n/>".contains(b))
        .unwrap_or(message.len());
    // A prefix is allowed like anywhere else.
    let name = message[1..name_end]
        .rsplit(|&b| b == b':')
        .next()
        .unwrap_or_default();
    match name {
        b"open" => Ok(Frame::Open(message)),
        b"close" => {
            let element =
                crate::Element::from_stream(message, &super::StreamScope::websocket(None))?;
            if element.is("close", crate::ns::FRAMING) {
                Ok(Frame::Close)
            } else {
                Err(StreamCondition::UnsupportedStanzaType.into())
            }
        }
        _ => Ok(Frame::Stanza(message)),
    }
}

fn too_big() -> StreamError {
    StreamError::with_text(StreamCondition::PolicyViolation, "stanza too big")
}

/// `<?xml version='1.0' encoding='UTF-8'?>`, of which RFC 6120 §11.6 allows no other encoding.
pub(crate) fn check_declaration(piece: &[u8]) -> Result<(), StreamError> {
    let bad = || StreamError::from(StreamCondition::NotWellFormed);
    let text = str::from_utf8(piece).map_err(|_| bad())?;
    let mut rest = text
        .strip_prefix("<?xml")
        .and_then(|text| text.strip_suffix("?>"))
        .ok_or_else(bad)?;
    let mut expected = ["version", "encoding", "standalone"].as_slice();
    let mut first = true;
    loop {
        let trimmed = rest.trim_ascii_start();
        if trimmed.is_empty() {
            return if first { Err(bad()) } else { Ok(()) };
        }
        if trimmed.len() == rest.len() {
            return Err(bad());
        }
        let (name, after) = trimmed.split_once('=').ok_or_else(bad)?;
        let name = name.trim_ascii_end();
        let position = expected.iter().position(|&e| e == name).ok_or_else(bad)?;
        if first && position != 0 {
            return Err(bad());
        }
        first = false;
        expected = &expected[position + 1..];
        let after = after.trim_ascii_start();
        let quote = after
            .chars()
            .next()
            .filter(|q| matches!(q, '\'' | '"'))
            .ok_or_else(bad)?;
        let (value, after) = after[1..].split_once(quote).ok_or_else(bad)?;
        match name {
            "version" if value == "1.0" => {}
            "encoding" if value.eq_ignore_ascii_case("utf-8") => {}
            "encoding" => return Err(StreamCondition::UnsupportedEncoding.into()),
            "standalone" if matches!(value, "yes" | "no") => {}
            _ => return Err(bad()),
        }
        rest = after;
    }
}

/// Finds the end of one item, in as many pieces as it arrives in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scan {
    state: State,
    /// Open elements.
    depth: u16,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            state: State::Text,
            depth: 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Text,
    /// After `<`.
    Opened,
    /// In a start tag; the octet before.
    StartTag(ElementParser, u8),
    EndTag,
    /// After this many octets of `<![CDATA[`.
    CdataStart(u8),
    /// In a CDATA section, after this many octets of `]]>`.
    Cdata(u8),
    /// In `<?…`; the octet before and the number so far.
    Declaration(u8, u16),
}

/// What a scan has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Item {
    /// An element with all that is in it.
    Element,
    /// The start tag of the stream.
    StartTag,
    /// An end tag whose start came before.
    EndTag,
    /// `<?…?>` before the stream.
    Declaration,
}

enum Progress {
    /// The item ends after `used` octets of the input.
    Done { used: usize, item: Item },
    /// All input was used.
    More,
}

/// Longest XML declaration that is read.
const MAX_DECLARATION_BYTES: u16 = 256;

impl Scan {
    /// Goes on with `input`. `header` says that a start tag is an item of its own and that an XML
    /// declaration may come.
    fn feed(
        &mut self,
        input: &[u8],
        max_depth: u16,
        header: bool,
    ) -> Result<Progress, StreamError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match &mut self.state {
                State::Text => match memchr::memchr(b'<', &input[at..]) {
                    Some(skipped) => {
                        at += skipped + 1;
                        self.state = State::Opened;
                    }
                    None => return Ok(Progress::More),
                },
                State::Opened => {
                    self.state = self.after_opening(byte, header)?;
                    if !matches!(self.state, State::StartTag(..)) {
                        at += 1;
                    }
                }
                State::StartTag(parser, last) => {
                    let Some(length) = parser.feed(&input[at..]) else {
                        *last = input[input.len() - 1];
                        return Ok(Progress::More);
                    };
                    let before = if length > 0 {
                        input[at + length - 1]
                    } else {
                        *last
                    };
                    at += length + 1;
                    let empty = before == b'/';
                    if self.depth >= max_depth {
                        return Err(StreamError::with_text(
                            StreamCondition::PolicyViolation,
                            "elements nested too deeply",
                        ));
                    }
                    self.state = State::Text;
                    if header {
                        let item = if empty { Item::Element } else { Item::StartTag };
                        return Ok(Progress::Done { used: at, item });
                    }
                    if !empty {
                        self.depth += 1;
                    } else if self.depth == 0 {
                        return Ok(Progress::Done {
                            used: at,
                            item: Item::Element,
                        });
                    }
                }
                State::EndTag => match memchr::memchr(b'>', &input[at..]) {
                    Some(skipped) => {
                        at += skipped + 1;
                        self.state = State::Text;
                        if self.depth <= 1 {
                            let item = if self.depth == 0 {
                                Item::EndTag
                            } else {
                                Item::Element
                            };
                            return Ok(Progress::Done { used: at, item });
                        }
                        self.depth -= 1;
                    }
                    None => return Ok(Progress::More),
                },
                State::CdataStart(_) | State::Cdata(_) => {
                    at += self.cdata(&input[at..])?;
                }
                State::Declaration(last, length) => {
                    if *last == b'?' && byte == b'>' {
                        let used = at + 1;
                        return Ok(Progress::Done {
                            used,
                            item: Item::Declaration,
                        });
                    }
                    // Anything but `<?xml` is a processing instruction.
                    let name = match *length {
                        2 => byte == b'x',
                        3 => byte == b'm',
                        4 => byte == b'l',
                        5 => byte.is_ascii_whitespace(),
                        _ => true,
                    };
                    if !name || *length == MAX_DECLARATION_BYTES {
                        return Err(StreamCondition::RestrictedXml.into());
                    }
                    *last = byte;
                    *length += 1;
                    at += 1;
                }
            }
        }
        Ok(Progress::More)
    }

    /// What the octet after `<` begins.
    fn after_opening(self, byte: u8, header: bool) -> Result<State, StreamError> {
        Ok(match byte {
            b'/' => State::EndTag,
            b'!' if self.depth > 0 => State::CdataStart(2),
            b'?' if header => State::Declaration(0, 2),
            b'?' | b'!' => return Err(StreamCondition::RestrictedXml.into()),
            b'>' | b'<' | b'"' | b'\'' => return Err(StreamCondition::NotWellFormed.into()),
            _ => State::StartTag(ElementParser::Outside, 0),
        })
    }

    /// Goes on within `<![CDATA[…]]>`; returns how far it came, at least one octet.
    fn cdata(&mut self, input: &[u8]) -> Result<usize, StreamError> {
        const OPENING: &[u8] = b"<![CDATA[";
        let byte = input[0];
        match &mut self.state {
            State::CdataStart(seen) => {
                if byte != OPENING[usize::from(*seen)] {
                    return Err(StreamCondition::RestrictedXml.into());
                }
                *seen += 1;
                if usize::from(*seen) == OPENING.len() {
                    self.state = State::Cdata(0);
                }
            }
            State::Cdata(0) => {
                let Some(skipped) = memchr::memchr(b']', input) else {
                    return Ok(input.len());
                };
                self.state = State::Cdata(1);
                return Ok(skipped + 1);
            }
            State::Cdata(seen) => match (*seen, byte) {
                (1, b']') => *seen = 2,
                (2, b'>') => self.state = State::Text,
                (2, b']') => {}
                _ => *seen = 0,
            },
            _ => {}
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests;
