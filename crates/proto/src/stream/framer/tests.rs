use proptest::prelude::*;

use super::*;

const HEADER: &str = "<stream:stream xmlns='jabber:client' to='a>b' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";

/// All frames of `input`, fed in chunks that end at `cuts`; what went wrong at the end, if anything.
fn frames(input: &[u8], cuts: &[usize], limits: Limits) -> (Vec<String>, Option<StreamCondition>) {
    let mut framer = Framer::new(limits);
    let mut found = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&input.len()]) {
        let mut chunk = &input[start..end];
        start = end;
        loop {
            match framer.next(&mut chunk) {
                Ok(Some(Frame::Open(raw))) => found.push(format!("open {}", lossy(raw))),
                Ok(Some(Frame::Stanza(raw))) => found.push(lossy(raw)),
                Ok(Some(Frame::Close)) => found.push("close".into()),
                Ok(None) => break,
                Err(error) => return (found, Some(error.condition)),
            }
        }
        assert!(chunk.is_empty());
    }
    (found, None)
}

fn lossy(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).into_owned()
}

fn whole(input: &str) -> (Vec<String>, Option<StreamCondition>) {
    frames(input.as_bytes(), &[], Limits::default())
}

fn byte_by_byte(input: &str) -> (Vec<String>, Option<StreamCondition>) {
    let cuts: Vec<_> = (0..input.len()).collect();
    frames(input.as_bytes(), &cuts, Limits::default())
}

fn fault(input: &str) -> Option<StreamCondition> {
    let result = whole(input);
    assert_eq!(result, byte_by_byte(input), "{input}");
    result.1
}

#[test]
fn a_stream_is_cut_into_its_frames() {
    let stanzas = [
        "<message to='a/>b'><body>x > y</body></message>",
        "<presence/>",
        "<presence />",
        "<iq type='get' id=\"'/>\"><a><b/></a ></iq\n>",
        "<message><body><![CDATA[</body></message> ]] > ]]]>]]></body></message>",
        "<a></a>",
    ];
    let input = format!(
        "\u{feff}<?xml version='1.0' encoding=\"utf-8\"?>\n{HEADER} \n{}</stream:stream >",
        stanzas.join(" \r\n\t")
    );
    let mut expected = vec![format!("open {HEADER}")];
    expected.extend(stanzas.map(str::to_owned));
    expected.push("close".into());
    assert_eq!(whole(&input), (expected.clone(), None));
    assert_eq!(byte_by_byte(&input), (expected, None));
}

#[test]
fn a_stream_that_ends_with_its_header_is_opened_and_closed() {
    let expected = (
        vec!["open <stream:stream/>".to_owned(), "close".to_owned()],
        None,
    );
    assert_eq!(whole("<stream:stream/> "), expected);
    assert_eq!(byte_by_byte("<stream:stream/> "), expected);
}

#[test]
fn what_is_restricted_or_out_of_place_is_refused_at_once() {
    use StreamCondition::{BadFormat, NotWellFormed, RestrictedXml, UnsupportedEncoding};
    for (input, condition) in [
        ("GET / HTTP/1.1", BadFormat),
        ("\u{feff}\u{feff}<a>", BadFormat),
        ("\u{16}\u{3}\u{1}", BadFormat),
        ("<!", RestrictedXml),
        ("<?y", RestrictedXml),
        ("<?xml-stylesheet ?>", RestrictedXml),
        (" <?xml version='1.0'?>", RestrictedXml),
        ("<?xml version='1.0'?><?xml version='1.0'?>", RestrictedXml),
        (
            "<?xml version='1.0' encoding='utf-16'?>",
            UnsupportedEncoding,
        ),
        (
            "<?xml version='1.0' encoding='iso-8859-1'?>",
            UnsupportedEncoding,
        ),
        ("<?xml version='1.1'?>", NotWellFormed),
        ("<?xml encoding='utf-8'?>", NotWellFormed),
        ("<?xml version='1.0'encoding='utf-8'?>", NotWellFormed),
        ("<?xml version='1.0' version='1.0'?>", NotWellFormed),
        ("<?xml version='1.0' standalone='maybe'?>", NotWellFormed),
        ("<?xml ?>", NotWellFormed),
        ("</stream:stream>", NotWellFormed),
        ("<>", NotWellFormed),
        ("<<", NotWellFormed),
    ] {
        assert_eq!(fault(input), Some(condition), "{input}");
    }
    for (input, condition) in [
        ("text", BadFormat),
        ("<a/>text", BadFormat),
        ("<!-- -->", RestrictedXml),
        ("<a><!-- --></a>", RestrictedXml),
        ("<!DOCTYPE a>", RestrictedXml),
        ("<![CDATA[x]]>", RestrictedXml),
        ("<a><![CDATX", RestrictedXml),
        ("<?xml version='1.0'?>", RestrictedXml),
        ("<a><?pi?></a>", RestrictedXml),
        ("</a>", NotWellFormed),
        ("</stream:streams>", NotWellFormed),
        ("</stream:stream x='1'>", NotWellFormed),
    ] {
        assert_eq!(
            fault(&format!("{HEADER}{input}")),
            Some(condition),
            "{input}"
        );
    }
    let allowed = "<?xml version = \"1.0\" encoding='UTF-8' standalone='yes' ?>";
    assert_eq!(fault(&format!("{allowed}{HEADER}")), None);
}

#[test]
fn limits_are_kept_while_an_element_arrives() {
    let limits = Limits {
        max_stanza_bytes: 200,
        max_depth: 3,
    };
    let run = |input: &str| {
        let input = format!("{HEADER}{input}");
        let cuts: Vec<_> = (0..input.len()).collect();
        let slow = frames(input.as_bytes(), &cuts, limits);
        assert_eq!(slow, frames(input.as_bytes(), &[], limits));
        slow.1
    };
    let element = |length: usize| format!("<a>{}</a>", "x".repeat(length - 7));
    assert_eq!(run(&element(200)), None);
    assert_eq!(run(&element(201)), Some(StreamCondition::PolicyViolation));
    // Without an end in sight.
    assert_eq!(
        run(&format!("<a b='{}", "x".repeat(300))),
        Some(StreamCondition::PolicyViolation)
    );
    assert_eq!(run("<a><b><c/></b></a>"), None);
    assert_eq!(run("<a><b><c><d/>"), Some(StreamCondition::PolicyViolation));
    // White space between elements is not part of any.
    assert_eq!(run(&" ".repeat(1000)), None);
    let endless = format!("<?xml version='1.0' {}", " ".repeat(1000));
    assert_eq!(fault(&endless), Some(StreamCondition::RestrictedXml));
}

#[test]
fn an_element_within_the_input_is_not_copied() {
    let input = format!("{HEADER}<a/><b/>");
    let mut framer = Framer::new(Limits::default());
    let mut rest = input.as_bytes();
    assert!(matches!(framer.next(&mut rest), Ok(Some(Frame::Open(_)))));
    let Ok(Some(Frame::Stanza(a))) = framer.next(&mut rest) else {
        panic!("no frame")
    };
    assert_eq!(a.as_ptr(), input[HEADER.len()..].as_ptr());
    assert_eq!(a, b"<a/>");
}

#[test]
fn no_memory_is_held_between_elements() {
    let mut framer = Framer::new(Limits::default());
    assert!(size_of::<Framer>() <= 96, "{}", size_of::<Framer>());
    for piece in [HEADER, "<a>", "x", "</a>"] {
        let mut input = piece.as_bytes();
        while framer.next(&mut input).unwrap().is_some() {}
        assert_eq!(framer.is_incomplete(), piece == "<a>" || piece == "x");
    }
    assert_eq!(framer.buffer.capacity(), 0);
}

#[test]
fn a_restart_expects_a_header_and_drops_what_was_incomplete() {
    let mut framer = Framer::new(Limits::default());
    let mut input = HEADER.as_bytes();
    assert!(matches!(framer.next(&mut input), Ok(Some(Frame::Open(_)))));
    let mut input = &b"<mess"[..];
    assert!(matches!(framer.next(&mut input), Ok(None)));
    framer.restart();
    assert!(!framer.is_incomplete());
    let text = format!("<?xml version='1.0'?>{HEADER}<a/>");
    let mut input = text.as_bytes();
    assert!(matches!(framer.next(&mut input), Ok(Some(Frame::Open(_)))));
    assert!(matches!(
        framer.next(&mut input),
        Ok(Some(Frame::Stanza(b"<a/>")))
    ));
}

#[test]
fn a_websocket_message_is_one_frame() {
    let frame = |message: &'static str| ws_frame(message.as_bytes(), &Limits::default());
    let open = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a'/>";
    assert_eq!(frame(open), Ok(Frame::Open(open.as_bytes())));
    assert_eq!(
        frame("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"),
        Ok(Frame::Close)
    );
    let prefixed = "<f:close xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'></f:close>";
    assert_eq!(frame(prefixed), Ok(Frame::Close));
    let stanza = "<message xmlns='jabber:client'><body>x</body></message>\n";
    assert_eq!(frame(stanza), Ok(Frame::Stanza(stanza.as_bytes())));
    for (message, condition) in [
        ("", StreamCondition::BadFormat),
        (" ", StreamCondition::BadFormat),
        (" <a/>", StreamCondition::BadFormat),
        ("<a>", StreamCondition::NotWellFormed),
        ("<a/><b/>", StreamCondition::NotWellFormed),
        ("</a>", StreamCondition::NotWellFormed),
        ("<?xml version='1.0'?><a/>", StreamCondition::RestrictedXml),
        (
            "<close xmlns='jabber:client'/>",
            StreamCondition::UnsupportedStanzaType,
        ),
    ] {
        assert_eq!(
            frame(message).unwrap_err().condition,
            condition,
            "{message}"
        );
    }
    let small = Limits {
        max_stanza_bytes: 3,
        max_depth: 1,
    };
    assert!(ws_frame(b"<a/>", &small).is_err());
}

fn stream() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        HEADER,
        "<a>",
        "</a>",
        "<a/>",
        "<a b='>'/>",
        "<a b=\"/>'\">",
        " ",
        "x",
        "]",
        "<![CDATA[",
        "]]>",
        "</stream:stream>",
        "<?xml version='1.0'?>",
        "<",
        ">",
        "/",
        "'",
        "\"",
        "<!",
        "é",
    ]);
    prop::collection::vec(piece, 0..14).prop_map(|pieces| format!("{HEADER}{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn however_the_input_is_cut_the_frames_are_the_same(
        input in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        let limits = Limits { max_stanza_bytes: 120, max_depth: 4 };
        prop_assert_eq!(
            frames(input.as_bytes(), &cuts, limits),
            frames(input.as_bytes(), &[], limits)
        );
    }

    #[test]
    fn any_octets_are_framed_or_refused(
        input in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        frames(&input, &[], Limits::default());
        let _ = ws_frame(&input, &Limits::default());
    }
}
