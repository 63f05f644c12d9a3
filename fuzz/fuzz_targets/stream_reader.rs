//! What a client's bytes go through: framer, stream header, stanza.
//!
//! The first byte says how the rest is cut into chunks. Besides not panicking, this checks that the
//! frames do not depend on the cuts, and that an accepted stanza, written for another stream, reads
//! back equal with an equal tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rookery_proto::stream::{Frame, Framer, Limits, StreamCondition, StreamHeader, StreamScope, ws_frame};
use rookery_proto::{Element, Stanza};

/// What the framer found, and the error it ended with.
type Found = (Vec<Vec<u8>>, Option<StreamCondition>);

fn frames(input: &[u8], chunk: usize, limits: Limits, check: bool) -> Found {
    let mut framer = Framer::new(limits);
    let mut scope = StreamScope::default();
    let mut found = Vec::new();
    for mut chunk in input.chunks(chunk.max(1)) {
        loop {
            let frame = match framer.next(&mut chunk) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (found, Some(error.condition)),
            };
            match frame {
                Frame::Open(raw) => {
                    found.push(raw.to_vec());
                    if let Ok((header, declared)) = StreamHeader::parse(raw) {
                        let text = header.to_xml();
                        let start = text.strip_prefix("<?xml version='1.0'?>").expect("it begins so");
                        assert_eq!(StreamHeader::parse(start.as_bytes()).expect("ours").0, header);
                        scope = declared;
                    }
                }
                Frame::Stanza(raw) => {
                    found.push(raw.to_vec());
                    if check {
                        check_stanza(raw, &scope);
                    }
                }
                Frame::Close => found.push(b"close".to_vec()),
            }
        }
    }
    (found, None)
}

fn check_stanza(raw: &[u8], scope: &StreamScope) {
    let element = Element::from_stream(raw, scope);
    let Ok(stanza) = Stanza::parse(raw, scope) else { return };
    let element = element.expect("a stanza is an element");
    let again = Stanza::from_xml(&stanza.to_xml()).expect("what is written is read");
    assert_eq!(again, stanza);
    let children: Vec<_> = element.children().cloned().collect();
    assert_eq!(again.children(), children);
    assert_eq!(stanza.children(), children);
    let fresh = Stanza::from_xml(&stanza.to_xml()).expect("what is written is read");
    for child in &children {
        assert!(fresh.has(child.name(), child.ns()));
    }
    let written = element.to_xml("");
    assert_eq!(Element::parse(&written, "").expect("what is written is read"), element);
}

fuzz_target!(|data: &[u8]| {
    let Some((&chunk, input)) = data.split_first() else { return };
    let limits = Limits { max_stanza_bytes: 4096, max_depth: 16 };
    let whole = frames(input, input.len(), limits, true);
    assert_eq!(whole, frames(input, usize::from(chunk), limits, false));
    if let Ok(Frame::Stanza(raw)) = ws_frame(input, &limits) {
        check_stanza(raw, &StreamScope::websocket(None));
        check_stanza(raw, &StreamScope::default());
    }
    let _ = StreamHeader::parse_ws(input);
});
