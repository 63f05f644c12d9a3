//! Which characters XML 1.0 (fifth edition) allows where.

/// Whether the character may appear in a document at all (production 2, `Char`).
pub(super) fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// White space (production 3, `S`).
#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The end of the name without colons (`NCName`) that starts at `start`; `start` if there is none.
#[inline]
pub(super) fn ncname_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASS[usize::from(byte)];
        if class & (NAME | NAME_START) != 0 {
            if at == start && class & NAME_START == 0 {
                return start;
            }
            at += 1;
        } else if byte < 0x80 {
            break;
        } else {
            match text[at..].chars().next() {
                Some(c) if is_name_start(c) || (at > start && is_name_extra(c)) => {
                    at += c.len_utf8();
                }
                _ => break,
            }
        }
    }
    at
}

/// Production 4, `NameStartChar`, beyond ASCII.
fn is_name_start(c: char) -> bool {
    matches!(c,
        '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
        | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}'
        | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
}

/// Production 4a, `NameChar`, beyond ASCII and beyond `NameStartChar`.
fn is_name_extra(c: char) -> bool {
    matches!(c, '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

pub(super) const NAME_START: u8 = 1;
pub(super) const NAME: u8 = 2;
/// Bytes at which a run of plain text must be looked at: markup, references, `]`, carriage returns,
/// control characters, and the first byte of U+FFFE and U+FFFF.
pub(super) const TEXT_STOP: u8 = 4;
/// The same for an attribute value, where quotes and white space count too.
pub(super) const VALUE_STOP: u8 = 8;

/// The classes of each byte.
pub(super) const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0_u8;
    loop {
        let mut class = 0;
        if b.is_ascii_alphabetic() || b == b'_' {
            class |= NAME_START;
        }
        if b.is_ascii_digit() || b == b'-' || b == b'.' {
            class |= NAME;
        }
        if matches!(b, b'<' | b'&' | b']' | 0xEF) || (b < 0x20 && b != b'\t' && b != b'\n') {
            class |= TEXT_STOP;
        }
        if matches!(b, b'<' | b'&' | b'"' | b'\'' | 0xEF) || b < 0x20 {
            class |= VALUE_STOP;
        }
        table[b as usize] = class;
        if b == u8::MAX {
            break table;
        }
        b += 1;
    }
};
