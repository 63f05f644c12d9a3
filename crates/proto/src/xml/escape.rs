//! References: reading and writing them.

use std::borrow::Cow;

use super::Error;
use super::chars::is_char;

/// Reads the reference that starts with the `&` at `start`; returns the character and where the text
/// goes on.
pub(super) fn reference(text: &str, start: usize) -> Result<(char, usize), Error> {
    // The longest that is allowed without leading zeros is `&#x10FFFF;`; zeros may precede.
    let body = &text.as_bytes()[start + 1..];
    let length = memchr::memchr3(b';', b'<', b'&', body)
        .filter(|&at| body[at] == b';')
        .ok_or(Error::NotWellFormed("unterminated reference"))?;
    let name = &text[start + 1..start + 1 + length];
    let end = start + length + 2;
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "apos" => '\'',
        "quot" => '"',
        _ => match name.strip_prefix('#') {
            Some(number) => {
                numbered(number).ok_or(Error::NotWellFormed("bad character reference"))?
            }
            None if super::chars::ncname_end(name, 0) == name.len() && !name.is_empty() => {
                return Err(Error::Restricted("entity reference"));
            }
            None => return Err(Error::NotWellFormed("bad reference")),
        },
    };
    Ok((c, end))
}

/// The character of `#…;`: decimal, or hexadecimal after `x`.
fn numbered(number: &str) -> Option<char> {
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let code = u32::from_str_radix(digits, radix).ok()?;
    char::from_u32(code).filter(|&c| is_char(c))
}

/// Resolves references and normalises line ends (XML 1.0 §2.11) in text that has been checked.
pub(super) fn text_value(raw: &str) -> Cow<'_, str> {
    resolve(raw, false)
}

/// Resolves references and normalises white space (XML 1.0 §3.3.3) in a value that has been checked.
pub(super) fn attribute_value(raw: &str) -> Cow<'_, str> {
    resolve(raw, true)
}

fn resolve(raw: &str, attribute: bool) -> Cow<'_, str> {
    let special = |b: u8| matches!(b, b'&' | b'\r') || (attribute && matches!(b, b'\n' | b'\t'));
    let bytes = raw.as_bytes();
    let Some(mut at) = bytes.iter().position(|&b| special(b)) else {
        return Cow::Borrowed(raw);
    };
    let mut value = String::with_capacity(raw.len());
    value.push_str(&raw[..at]);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'&' {
            // It has been checked, so there is a reference.
            let Ok((c, end)) = reference(raw, at) else {
                break;
            };
            value.push(c);
            at = end;
        } else if special(byte) {
            value.push(if attribute { ' ' } else { '\n' });
            at += if bytes[at..].starts_with(b"\r\n") {
                2
            } else {
                1
            };
        } else {
            let end = bytes[at..]
                .iter()
                .position(|&b| special(b))
                .map_or(raw.len(), |n| at + n);
            value.push_str(&raw[at..end]);
            at = end;
        }
    }
    Cow::Owned(value)
}

/// The text of a CDATA section, with line ends normalised.
pub(super) fn cdata_value(raw: &str) -> Cow<'_, str> {
    if raw.contains('\r') {
        Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(raw)
    }
}

/// What XML is written to: both the buffer of a connection and a text.
pub(crate) trait Sink {
    fn push_str(&mut self, text: &str);
}

impl Sink for String {
    #[inline]
    fn push_str(&mut self, text: &str) {
        String::push_str(self, text);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn push_str(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

/// Writes text so that it reads back equal, in content and between either kind of quotes.
///
/// Characters that XML cannot hold are left out: only code of ours could have put them there, as
/// nothing that is read contains any.
pub(crate) fn push_escaped(out: &mut impl Sink, text: &str) {
    push(out, text, false);
}

/// Writes ` name='value'`.
pub(crate) fn push_attribute(out: &mut impl Sink, name: &str, value: &str) {
    out.push_str(" ");
    out.push_str(name);
    out.push_str("='");
    push(out, value, true);
    out.push_str("'");
}

fn push(out: &mut impl Sink, text: &str, attribute: bool) {
    let bytes = text.as_bytes();
    let (mut start, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if !ESCAPED[usize::from(byte)] {
            at += 1;
            continue;
        }
        let mut length = 1;
        let replacement = match byte {
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'&' => "&amp;",
            b'\'' => "&apos;",
            b'"' => "&quot;",
            b'\r' => "&#xD;",
            b'\n' if attribute => "&#xA;",
            b'\t' if attribute => "&#x9;",
            // U+FFFE and U+FFFF.
            0xEF if matches!(bytes.get(at + 1..at + 3), Some([0xBF, 0xBE | 0xBF])) => {
                length = 3;
                ""
            }
            b'\n' | b'\t' | 0xEF => {
                at += 1;
                continue;
            }
            _ => "",
        };
        out.push_str(&text[start..at]);
        out.push_str(replacement);
        at += length;
        start = at;
    }
    out.push_str(&text[start..]);
}

/// Bytes that `push` looks at.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0_u8;
    loop {
        table[b as usize] = matches!(b, b'<' | b'>' | b'&' | b'\'' | b'"' | 0xEF) || b < 0x20;
        if b == u8::MAX {
            break table;
        }
        b += 1;
    }
};
