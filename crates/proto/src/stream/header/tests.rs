use proptest::prelude::*;

use super::*;
use crate::Stanza;

const NAMESPACES: &str = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";

fn condition(raw: &str) -> StreamCondition {
    StreamHeader::parse(raw.as_bytes()).unwrap_err().condition
}

#[test]
fn a_header_is_read() {
    let raw = format!(
        "<stream:stream from='Juliet@im.example.com' to='im.example.com' version='1.0' \
         xml:lang='en' {NAMESPACES}>"
    );
    let (header, scope) = StreamHeader::parse(raw.as_bytes()).unwrap();
    assert_eq!(header.from.unwrap(), "juliet@im.example.com");
    assert_eq!(header.to.unwrap(), "im.example.com");
    assert_eq!(header.version, Version::V1_0);
    assert_eq!(header.lang.as_deref(), Some("en"));
    assert_eq!(header.id, None);
    assert_eq!(scope.lang(), Some("en"));
}

#[test]
fn a_header_without_a_version_is_of_version_0_9() {
    let (header, scope) =
        StreamHeader::parse(format!("<stream:stream {NAMESPACES}>").as_bytes()).unwrap();
    assert_eq!(header.version, Version::V0_9);
    assert_eq!(header.to, None);
    assert_eq!(scope, StreamScope::default());
}

#[test]
fn versions_are_compared_as_numbers() {
    for (text, version) in [
        ("1.0", Version(1, 0)),
        ("01.00", Version(1, 0)),
        ("2.10", Version(2, 10)),
    ] {
        let raw = format!("<stream:stream version='{text}' {NAMESPACES}>");
        assert_eq!(
            StreamHeader::parse(raw.as_bytes()).unwrap().0.version,
            version
        );
    }
    assert!(Version(2, 10) > Version(2, 9));
    for text in [
        "", "1", "1.", ".0", "1.0.0", "+1.0", "1.-0", "one.zero", "1.99999",
    ] {
        let raw = format!("<stream:stream version='{text}' {NAMESPACES}>");
        assert_eq!(
            condition(&raw),
            StreamCondition::UnsupportedVersion,
            "{text}"
        );
    }
}

#[test]
fn each_fault_of_a_header_has_its_condition() {
    use StreamCondition::{
        BadFormat, BadNamespacePrefix, ImproperAddressing, InvalidNamespace, NotWellFormed,
    };
    let streams = "xmlns:stream='http://etherx.jabber.org/streams'";
    for (raw, expected) in [
        (format!("<stream:stream {streams}>"), InvalidNamespace),
        (
            format!("<stream:stream xmlns='jabber:server' {streams}>"),
            InvalidNamespace,
        ),
        (
            "<stream:stream xmlns='jabber:client' xmlns:stream='urn:x'>".into(),
            InvalidNamespace,
        ),
        (
            "<stream:stream xmlns='jabber:client'>".into(),
            NotWellFormed,
        ),
        (
            "<stream xmlns='http://etherx.jabber.org/streams'>".into(),
            BadNamespacePrefix,
        ),
        ("<stream xmlns='jabber:client'>".into(), BadNamespacePrefix),
        (
            "<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>".into(),
            BadNamespacePrefix,
        ),
        (format!("<stream:features {NAMESPACES}>"), BadFormat),
        (
            format!("<stream:stream to='a b' {NAMESPACES}>"),
            ImproperAddressing,
        ),
        (
            format!("<stream:stream from='@' {NAMESPACES}>"),
            ImproperAddressing,
        ),
        (
            format!("<stream:stream to='a' to='a' {NAMESPACES}>"),
            NotWellFormed,
        ),
        (format!("<stream:stream to='a'{NAMESPACES}>"), NotWellFormed),
    ] {
        assert_eq!(condition(&raw), expected, "{raw}");
    }
    let raw = b"<stream:stream to='\xff'>";
    let error = StreamHeader::parse(raw).unwrap_err();
    assert_eq!(error.condition, StreamCondition::UnsupportedEncoding);
}

#[test]
fn what_the_server_writes_is_read_back() {
    let header = StreamHeader {
        to: Some(Jid::parse("juliet@im.example.com").unwrap()),
        ..StreamHeader::response(Jid::parse("im.example.com").unwrap(), "a<'b")
    };
    let xml = header.to_xml();
    let start = xml.strip_prefix("<?xml version='1.0'?>").unwrap();
    assert_eq!(StreamHeader::parse(start.as_bytes()).unwrap().0, header);
    let xml = header.to_xml_ws();
    assert_eq!(StreamHeader::parse_ws(xml.as_bytes()).unwrap().0, header);
}

#[test]
fn open_of_a_websocket_stream_is_read() {
    let raw = b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>";
    let (header, scope) = StreamHeader::parse_ws(raw).unwrap();
    assert_eq!(header.to.unwrap(), "example.com");
    // No namespace outlives its frame.
    let stanza = |xml: &str| Stanza::parse(xml.as_bytes(), &scope);
    assert!(stanza("<message/>").is_err());
    assert!(stanza("<message xmlns='jabber:client'/>").is_ok());
    assert!(stanza("<message xmlns='jabber:client'><stream:x/></message>").is_err());

    for (raw, expected) in [
        (
            "<open to='example.com'/>",
            StreamCondition::InvalidNamespace,
        ),
        (
            "<open xmlns='jabber:client'/>",
            StreamCondition::InvalidNamespace,
        ),
        (
            "<opem xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
            StreamCondition::BadFormat,
        ),
        (
            "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'>",
            StreamCondition::NotWellFormed,
        ),
    ] {
        let error = StreamHeader::parse_ws(raw.as_bytes()).unwrap_err();
        assert_eq!(error.condition, expected, "{raw}");
    }
}

#[test]
fn close_may_send_the_client_elsewhere() {
    assert_eq!(
        ws_close(None),
        "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
    );
    assert!(ws_close(Some("wss://a/?b&c")).ends_with(" see-other-uri='wss://a/?b&amp;c'/>"));
}

proptest! {
    #[test]
    fn any_octets_are_a_header_or_refused(raw in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = StreamHeader::parse(&raw);
        let _ = StreamHeader::parse_ws(&raw);
    }
}
