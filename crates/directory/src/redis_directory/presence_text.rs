//! Presence stanzas take fewer bytes in Redis than on the wire.
//!
//! Most of a presence is the same in all of them, or is the session's own JID. Each such piece becomes
//! one control character, which XML cannot hold (XML 1.0 §2.2). A text that holds one nevertheless is
//! kept as it is. Entries of the table never change; a new one has to be read by all nodes of a cluster
//! before any writes it, so it is written one release later.

/// The session's full JID.
const JID: u8 = 0x01;

/// A piece never starts with another one that stands before it.
const PIECES: &[(u8, &str)] = &[
    (0x02, "<presence xmlns='jabber:client' from='"),
    (0x03, "</presence>"),
    (0x04, "<c xmlns='http://jabber.org/protocol/caps'"),
    (0x05, "<c xmlns=\"http://jabber.org/protocol/caps\""),
    (0x06, " hash='sha-1'"),
    (0x07, " hash=\"sha-1\""),
    (0x08, "<x xmlns='vcard-temp:x:update'>"),
    (0x0e, "<x xmlns=\"vcard-temp:x:update\">"),
    (0x0f, "<photo>"),
    (0x10, "</photo></x>"),
    (0x11, "<priority>"),
    (0x12, "</priority>"),
    (0x13, "<show>"),
    (0x14, "</show>"),
    (0x15, "<status>"),
    (0x16, "</status>"),
    (0x17, "<idle xmlns='urn:xmpp:idle:1' since='"),
    (0x18, " xml:lang='en'"),
    (0x19, " node='http://"),
    (0x1a, " node='https://"),
    (0x1b, " ver='"),
];

/// Appends the short form; `false` if there is none and nothing was appended.
pub(super) fn shorten(text: &str, jid: &str, out: &mut Vec<u8>) -> bool {
    if text.bytes().any(is_code) {
        return false;
    }
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let piece = match first {
            b'<' | b' ' => PIECES.iter().find(|(_, piece)| rest.starts_with(piece)),
            _ => None,
        };
        if let Some((code, piece)) = piece {
            out.push(*code);
            rest = &rest[piece.len()..];
        } else if rest.starts_with(jid) {
            out.push(JID);
            rest = &rest[jid.len()..];
        } else {
            let end = rest.chars().next().map_or(rest.len(), char::len_utf8);
            out.extend_from_slice(&rest.as_bytes()[..end]);
            rest = &rest[end..];
        }
    }
    true
}

/// The text that was shortened; `None` if it is none.
pub(super) fn lengthen(short: &[u8], jid: &str) -> Option<String> {
    let mut out = String::with_capacity(short.len() * 2);
    let mut rest = std::str::from_utf8(short).ok()?;
    while let Some(at) = rest.bytes().position(is_code) {
        out.push_str(&rest[..at]);
        let code = rest.as_bytes()[at];
        out.push_str(match PIECES.iter().find(|(known, _)| *known == code) {
            Some((_, piece)) => piece,
            None if code == JID => jid,
            None => return None,
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    Some(out)
}

fn is_code(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "ann@example.com/desk";

    #[test]
    fn what_is_shortened_reads_back_equal() {
        let usual = format!(
            "<presence xmlns='jabber:client' from='{OWN}' id='x'><show>away</show><priority>5\
             </priority><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' \
             node='https://example.com/' ver='q07IKJEyjvHSyhy//CH0CxmKi8w='/>\
             <x xmlns='vcard-temp:x:update'><photo>sha1</photo></x></presence>"
        );
        for text in [
            &usual,
            "",
            "<presence/>",
            "é<ü",
            OWN,
            "ann@example.com",
            " ",
            "\t\n <",
        ] {
            let mut short = Vec::new();
            assert!(shorten(text, OWN, &mut short));
            assert!(short.len() <= text.len());
            assert_eq!(lengthen(&short, OWN).as_deref(), Some(text));
        }
        let mut short = Vec::new();
        assert!(shorten(&usual, OWN, &mut short));
        assert!(
            short.len() * 2 < usual.len(),
            "{} of {}",
            short.len(),
            usual.len()
        );
    }

    #[test]
    fn what_cannot_be_shortened_or_lengthened_is_refused() {
        let mut short = Vec::new();
        assert!(!shorten("a\u{1}b", OWN, &mut short));
        assert!(short.is_empty());
        assert_eq!(lengthen(b"a\x1fb", OWN), None);
        assert_eq!(lengthen(b"\xff", OWN), None);
    }

    #[test]
    fn the_table_is_frozen_and_its_pieces_can_all_be_used() {
        for (at, (code, piece)) in PIECES.iter().enumerate() {
            assert!(is_code(*code) && *code != JID);
            let shadowed = PIECES[..at]
                .iter()
                .any(|(_, before)| piece.starts_with(before));
            assert!(!shadowed, "{piece}");
            let same = PIECES[..at].iter().any(|(before, _)| before == code);
            assert!(!same, "{piece}");
        }
        let total: usize = PIECES.iter().map(|(_, piece)| piece.len()).sum();
        assert_eq!(
            (PIECES.len(), total),
            (21, 377),
            "entries are only ever added"
        );
    }
}
