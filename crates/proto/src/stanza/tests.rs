use proptest::prelude::*;

use super::*;
use crate::error::Condition;
use crate::jid::FullJid;
use crate::octets::Octets;
use crate::stream::{Framing, StreamCondition, StreamHeader, StreamScope};

fn read(xml: &str) -> Result<Stanza, Rejected> {
    Stanza::parse(xml.as_bytes(), &StreamScope::default())
}

/// The scope of a header with these declarations besides the usual ones.
fn scope(declarations: &str) -> StreamScope {
    let header = format!(
        "<stream:stream xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams' {declarations}>"
    );
    StreamHeader::parse(header.as_bytes()).unwrap().1
}

fn written(stanza: &Stanza) -> String {
    let mut out = Vec::new();
    stanza.write_to(&mut out, None, Framing::Tcp);
    String::from_utf8(out).unwrap()
}

fn stream_error(xml: &str) -> StreamCondition {
    match read(xml) {
        Err(Rejected::Stream(error)) => error.condition,
        other => panic!("{xml}: {other:?}"),
    }
}

fn refused(xml: &str) -> RejectedStanza {
    match read(xml) {
        Err(Rejected::Stanza(rejected)) => *rejected,
        other => panic!("{xml}: {other:?}"),
    }
}

#[test]
fn a_stanza_is_read_and_written() {
    let xml = "<message to='a@b/c&apos;' from='d@e/f' id='1&amp;' type='chat' xml:lang='en'>\
               <body>x &lt; y</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>";
    let stanza = read(xml).unwrap();
    assert_eq!(stanza.kind, Kind::Message(MessageType::Chat));
    assert_eq!(stanza.to.as_ref().unwrap(), &"a@b/c'");
    assert_eq!(stanza.from.as_ref().unwrap(), &"d@e/f");
    assert_eq!(stanza.id.as_deref(), Some("1&"));
    assert_eq!(stanza.lang.as_deref(), Some("en"));
    assert!(stanza.has("body", ns::CLIENT));
    assert!(stanza.has("active", "http://jabber.org/protocol/chatstates"));
    assert!(!stanza.has("active", ns::CLIENT));
    assert!(!stanza.has("body", ""));
    assert_eq!(stanza.child("body", ns::CLIENT).unwrap().text(), "x < y");
    assert_eq!(stanza.children().len(), 2);
    assert_eq!(written(&stanza), xml);
    assert_eq!(Stanza::from_xml(&stanza.to_xml()), Ok(stanza.clone()));
    assert_eq!(
        Stanza::from_element(&stanza.to_element().unwrap()),
        Ok(stanza.clone())
    );
    let mut out = Vec::new();
    stanza.write_to(&mut out, Some("g@h"), Framing::WebSocket);
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("<message xmlns='jabber:client' to='g@h' from='d@e/f' "),
        "{text}"
    );
}

#[test]
fn empty_stanzas_have_no_content() {
    for xml in ["<presence/>", "<presence></presence>", "<presence />"] {
        let stanza = read(xml).unwrap();
        assert_eq!(stanza, Stanza::presence(PresenceType::Available));
        assert_eq!(written(&stanza), "<presence/>");
        assert!(stanza.children().is_empty());
    }
}

#[test]
fn the_language_of_the_stream_is_inherited() {
    let scope = scope("xml:lang='de'");
    let stanza = |xml: &str| Stanza::parse(xml.as_bytes(), &scope).unwrap();
    assert_eq!(stanza("<message/>").lang.as_deref(), Some("de"));
    assert_eq!(
        stanza("<message xml:lang='en'/>").lang.as_deref(),
        Some("en")
    );
    // Which says that the language is unknown.
    assert_eq!(stanza("<message xml:lang=''/>").lang.as_deref(), Some(""));
    assert_eq!(read("<message/>").unwrap().lang, None);
}

#[test]
fn other_attributes_and_declarations_stay() {
    let xml = "<message xmlns:p='urn:p' p:x=\"1'\" y='&#65;'><p:z/></message>";
    let stanza = read(xml).unwrap();
    assert_eq!(written(&stanza), xml);
    assert!(stanza.has("z", "urn:p"));
    assert_eq!(stanza.children()[0].ns(), "urn:p");
}

#[test]
fn prefixes_of_the_header_are_brought_along_if_they_are_used() {
    let scope = scope("xmlns:p='urn:p&amp;' xmlns:q='urn:q' xmlns:c='jabber:client'");
    let forwarded = |xml: &str| {
        let stanza = Stanza::parse(xml.as_bytes(), &scope).unwrap();
        let text = written(&stanza);
        // Where nothing but the default namespace is declared it means the same.
        let again = Element::parse(&text, ns::CLIENT).unwrap();
        assert_eq!(
            again.children().collect::<Vec<_>>(),
            stanza.children().iter().collect::<Vec<_>>()
        );
        text
    };
    assert_eq!(
        forwarded("<message><p:a/></message>"),
        "<message xmlns:p='urn:p&amp;'><p:a/></message>"
    );
    assert_eq!(
        forwarded("<message><a p:b='1'/></message>"),
        "<message xmlns:p='urn:p&amp;'><a p:b='1'/></message>"
    );
    assert_eq!(
        forwarded("<message q:a='1'><body/></message>"),
        "<message q:a='1' xmlns:q='urn:q'><body/></message>"
    );
    assert_eq!(
        forwarded("<message xmlns:p='urn:own'><p:a/></message>"),
        "<message xmlns:p='urn:own'><p:a/></message>"
    );
    assert_eq!(
        forwarded("<message><a xmlns:p='urn:own'><p:a/></a></message>"),
        "<message><a xmlns:p='urn:own'><p:a/></a></message>"
    );
    assert_eq!(
        forwarded("<c:message><body/></c:message>"),
        "<message><body/></message>"
    );
    assert_eq!(
        forwarded("<c:message><c:body/></c:message>"),
        "<message xmlns:c='jabber:client'><c:body/></message>"
    );
    assert_eq!(
        forwarded("<message><body/></message>"),
        "<message><body/></message>"
    );
    let stanza = Stanza::parse(b"<message><c:body/><stream:x/></message>", &scope).unwrap();
    assert!(stanza.has("body", ns::CLIENT));
    assert!(stanza.has("x", ns::STREAMS));
}

#[test]
fn content_of_another_default_namespace_is_written_anew() {
    let xml = "<c:message xmlns:c='jabber:client' xmlns='urn:x' xmlns:p='urn:p' p:q='1'>\
               a&amp;<body p:x='2'><b/></body><c:body>hi</c:body></c:message>";
    let stanza = read(xml).unwrap();
    assert!(stanza.has("body", "urn:x"));
    assert!(stanza.has("body", ns::CLIENT));
    assert_eq!(
        stanza.inner(),
        "a&amp;<body xmlns='urn:x' xmlns:p='urn:p' p:x='2'><b/></body><body>hi</body>"
    );
    let again = Element::parse(&written(&stanza), ns::CLIENT).unwrap();
    assert_eq!(
        again.children().collect::<Vec<_>>(),
        Element::parse(xml, "")
            .unwrap()
            .children()
            .collect::<Vec<_>>()
    );
}

#[test]
fn what_is_no_stanza_ends_the_stream() {
    for (xml, condition) in [
        ("<foo/>", StreamCondition::UnsupportedStanzaType),
        (
            "<message xmlns='urn:x'/>",
            StreamCondition::UnsupportedStanzaType,
        ),
        (
            "<message xmlns=''/>",
            StreamCondition::UnsupportedStanzaType,
        ),
        (
            "<message xmlns='jabber:server'/>",
            StreamCondition::UnsupportedStanzaType,
        ),
        ("<stream:message/>", StreamCondition::UnsupportedStanzaType),
        ("<Message/>", StreamCondition::UnsupportedStanzaType),
        ("<message>", StreamCondition::NotWellFormed),
        ("<message></iq>", StreamCondition::NotWellFormed),
        ("<message/><message/>", StreamCondition::NotWellFormed),
        ("<message><a></message></a>", StreamCondition::NotWellFormed),
        ("<message><a:b/></message>", StreamCondition::NotWellFormed),
        ("<message to='a' to='b'/>", StreamCondition::NotWellFormed),
        (
            "<message><body>\u{1}</body></message>",
            StreamCondition::NotWellFormed,
        ),
        (
            "<message><body>&#1;</body></message>",
            StreamCondition::NotWellFormed,
        ),
        ("<message id='&#xFFFE;'/>", StreamCondition::NotWellFormed),
        (
            "<message><!-- --></message>",
            StreamCondition::RestrictedXml,
        ),
        ("<message><?a?></message>", StreamCondition::RestrictedXml),
        ("<message>&foo;</message>", StreamCondition::RestrictedXml),
    ] {
        assert_eq!(stream_error(xml), condition, "{xml}");
    }
    let scope = StreamScope::default();
    for raw in [
        &b"<message>\xff</message>"[..],
        b"<message id='\xc0\x80'/>",
        b"<message>\xed\xa0\x80</message>",
        b"<message>\xf4\x90\x80\x80</message>",
        b"<message>\xe2\x82</message>",
    ] {
        let Err(Rejected::Stream(error)) = Stanza::parse(raw, &scope) else {
            panic!("{raw:?}")
        };
        assert_eq!(error.condition, StreamCondition::UnsupportedEncoding);
    }
    let deep = format!(
        "<message>{}</message>",
        "<a>".repeat(300) + &"</a>".repeat(300)
    );
    assert_eq!(stream_error(&deep), StreamCondition::PolicyViolation);
}

/// RFC 6120 §8.2.3
#[test]
fn an_iq_keeps_to_its_rules() {
    for xml in [
        "<iq type='get' id='1'><a xmlns='urn:a'/></iq>",
        "<iq type='set' id=''> <a xmlns='urn:a'/> </iq>",
        "<iq type='result' id='1'/>",
        "<iq type='result' id='1'><a xmlns='urn:a'/></iq>",
        "<iq type='error' id='1'><error/></iq>",
        "<iq type='error' id='1'><a xmlns='urn:a'/><error/></iq>",
    ] {
        assert!(read(xml).is_ok(), "{xml}");
    }
    for (xml, answered) in [
        ("<iq type='get'><a xmlns='urn:a'/></iq>", true),
        ("<iq id='1'><a xmlns='urn:a'/></iq>", true),
        ("<iq id='1' type='foo'><a xmlns='urn:a'/></iq>", true),
        ("<iq id='1' type='get'/>", true),
        ("<iq id='1' type='set'>text</iq>", true),
        ("<iq id='1' type='get'><a/><b/></iq>", true),
        ("<iq id='1' type='result'><a/><b/></iq>", false),
        ("<iq id='1' type='error'/>", false),
        ("<iq id='1' type='error'><error xmlns='urn:a'/></iq>", false),
        ("<iq type='result'/>", false),
    ] {
        let rejected = refused(xml);
        assert_eq!(rejected.error.condition, Condition::BadRequest, "{xml}");
        assert_eq!(rejected.reply().is_some(), answered, "{xml}");
    }
}

#[test]
fn a_malformed_address_is_told_to_the_sender() {
    let rejected = refused("<message to='a b@c' id='7'><body/></message>");
    assert_eq!(rejected.error.condition, Condition::JidMalformed);
    assert_eq!(rejected.to.as_deref(), Some("a b@c"));
    let reply = rejected.reply().unwrap();
    assert_eq!(reply.kind, Kind::Message(MessageType::Error));
    assert_eq!(
        (reply.id.as_deref(), reply.from.as_ref()),
        (Some("7"), None)
    );
    assert!(
        reply
            .child("error", ns::CLIENT)
            .unwrap()
            .child("jid-malformed", ns::STANZA_ERRORS)
            .is_some()
    );

    let rejected = refused("<presence to='a@c' from='@' type='subscribe'/>");
    assert_eq!(rejected.error.condition, Condition::JidMalformed);
    assert_eq!(rejected.reply().unwrap().from.unwrap(), "a@c");
    assert_eq!(refused("<message to='@' type='error'/>").reply(), None);
    assert_eq!(
        refused("<message to=''/>").error.condition,
        Condition::JidMalformed
    );
}

#[test]
fn types_are_read() {
    let kind = |xml: &str| read(xml).unwrap().kind;
    assert_eq!(
        kind("<message type='foo'/>"),
        Kind::Message(MessageType::Normal)
    );
    assert_eq!(
        kind("<message type='normal'/>"),
        Kind::Message(MessageType::Normal)
    );
    assert_eq!(
        kind("<presence type='probe'/>"),
        Kind::Presence(PresenceType::Probe)
    );
    let rejected = refused("<presence type='available'/>");
    assert_eq!(rejected.error.condition, Condition::BadRequest);
    let kinds = [
        Kind::Message(MessageType::Chat),
        Kind::Message(MessageType::Groupchat),
        Kind::Message(MessageType::Headline),
        Kind::Message(MessageType::Error),
        Kind::Presence(PresenceType::Available),
        Kind::Presence(PresenceType::Unavailable),
        Kind::Presence(PresenceType::Subscribe),
        Kind::Presence(PresenceType::Subscribed),
        Kind::Presence(PresenceType::Unsubscribe),
        Kind::Presence(PresenceType::Unsubscribed),
        Kind::Presence(PresenceType::Error),
        Kind::Iq(IqType::Result),
    ];
    for expected in kinds {
        let stanza = Stanza {
            id: Some("1".into()),
            ..Stanza::new(expected)
        };
        assert_eq!(kind(&written(&stanza)), expected);
    }
}

#[test]
fn stanzas_are_built_and_answered() {
    let request = Stanza::iq(IqType::Get, "x")
        .with_to(Jid::parse("example.com").unwrap())
        .with_from(Jid::parse("a@example.com/b").unwrap())
        .with_child(Element::new("ping", "urn:xmpp:ping"));
    assert!(request.payload().unwrap().is("ping", "urn:xmpp:ping"));
    let result = request.reply_result();
    assert_eq!(
        written(&result),
        "<iq to='a@example.com/b' from='example.com' id='x' type='result'/>"
    );
    let result = request.reply_result_with(Element::new("a", "urn:a"));
    assert!(result.has("a", "urn:a"));
    let error = request
        .reply_error(&Condition::ServiceUnavailable.into())
        .unwrap();
    assert_eq!(error.kind, Kind::Iq(IqType::Error));
    assert!(error.payload().is_none());
    assert!(error.has("error", ns::CLIENT));
    assert_eq!(Stanza::from_xml(&error.to_xml()).as_ref(), Ok(&error));
    assert_eq!(
        error.reply_error(&Condition::ServiceUnavailable.into()),
        None
    );
    assert_eq!(
        result.reply_error(&Condition::ServiceUnavailable.into()),
        None
    );
}

#[test]
fn a_child_is_added_to_a_copy_only() {
    for look_first in [false, true] {
        let original = read("<message xmlns:p='urn:p'>x<p:a/></message>").unwrap();
        if look_first {
            assert_eq!(original.children().len(), 1);
        }
        let mut copy = original.clone();
        copy.push(Element::new("delay", "urn:xmpp:delay").with_attr("stamp", "now"));
        copy.push(Element::new("body", ns::CLIENT).with_text("&"));
        assert_eq!(
            copy.inner(),
            "x<p:a/><delay xmlns='urn:xmpp:delay' stamp='now'/><body>&amp;</body>"
        );
        assert!(copy.has("delay", "urn:xmpp:delay") && copy.has("body", ns::CLIENT));
        assert!(copy.has("a", "urn:p"));
        assert_eq!(copy.children().len(), 3);
        assert!(!original.has("delay", "urn:xmpp:delay"));
        assert_eq!(read(&written(&copy)).as_ref(), Ok(&copy));
        assert!(copy.without_content().children().is_empty());
        let other = copy.with_same_content(Kind::Message(MessageType::Headline));
        assert_eq!((other.inner(), &other.to), (copy.inner(), &None));
    }
}

#[test]
fn children_are_removed_from_a_copy_only() {
    let original = read(
        "<message xmlns:p='urn:p' p:a='1' to='b@x'><x xmlns='urn:x'/> <p:y>1</p:y><body>a&amp;b</body>\
         <x xmlns='urn:x'/></message>",
    )
    .unwrap();
    let mut copy = original.clone();
    assert!(!copy.retain_children(|child| !child.is("x", "urn:z")));
    assert_eq!(copy, original);
    assert!(copy.retain_children(|child| !child.is("x", "urn:x")));
    assert!(original.has("x", "urn:x") && !copy.has("x", "urn:x"));
    assert!(copy.has("y", "urn:p") && copy.has("body", ns::CLIENT));
    assert_eq!(copy.inner(), "<y xmlns='urn:p'>1</y><body>a&amp;b</body>");
    assert_eq!(Stanza::from_xml(&copy.to_xml()).unwrap(), copy);
    assert!(copy.to_xml().contains(" p:a='1'"), "{}", copy.to_xml());
    assert!(copy.retain_children(|_| false));
    assert!(copy.children().is_empty() && copy.inner().is_empty());
}

#[test]
fn a_stanza_crosses_the_bus() {
    let stanza = read(
        "<message to='a@b' id='1' xml:lang='en' x='y'><body>hi</body><a xmlns='urn:a'/></message>",
    )
    .unwrap();
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&stanza, config).unwrap();
    let (read, _): (Stanza, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
    assert_eq!(read, stanza);
    assert!(read.has("a", "urn:a") && read.has("body", ns::CLIENT) && !read.has("b", "urn:a"));
    assert_eq!(read.children(), stanza.children());
}

#[test]
fn a_stanza_is_shared_between_threads() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Stanza>();
    assert!(size_of::<Stanza>() <= 96, "{}", size_of::<Stanza>());
}

/// Content that is well-formed, with prefixes that are declared where the test says.
fn content() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[ -%'-;=-~\u{e9}\u{1f600}]{0,6}".prop_map(|text| text.replace("]]>", "")),
        prop::sample::select(vec![
            "&amp;",
            "&#10;",
            "<![CDATA[<]]>",
            "<a/>",
            "<body>x</body>",
            "<x xmlns='urn:x'/>",
            "<p:a/>",
            "<x xmlns='urn:&#120;' p:b='1'/>",
            "<y xmlns=''/>",
            "<stream:z/>",
            "<x xmlns:q='urn:q' q:r=\"'\"><q:s/></x>",
            "\r\n",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        (
            prop::sample::select(vec!["<n>|</n>", "<n xmlns='urn:n'>|</n>", "<p:n>|</p:n >"]),
            prop::collection::vec(inner, 0..4),
        )
            .prop_map(|(around, inside)| around.replace('|', &inside.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_written_reads_back_equal(
        opening in prop::sample::select(vec![
            ("message", "to='a@b/c'"),
            ("message", "xmlns='jabber:client' type='chat' y=\"&lt;'\""),
            ("presence", "xmlns:p='urn:other' p:y='1' id='&amp;&#10;'"),
            ("c:message", "xmlns:c='jabber:client' xmlns='urn:d' from='x@y'"),
            ("c:presence", "p:y='2' xmlns:c='jabber:client'"),
        ]),
        inside in prop::collection::vec(content(), 0..5).prop_map(|parts| parts.concat()),
    ) {
        let scope = scope("xmlns:p='urn:p'");
        let (name, attributes) = opening;
        let xml = format!("<{name} {attributes}>{inside}</{name}>");
        let stanza = Stanza::parse(xml.as_bytes(), &scope).unwrap();
        // No declaration of the sender's header is needed to read it.
        let again = read(&written(&stanza)).unwrap();
        prop_assert_eq!(&again, &stanza, "{}", xml);
        prop_assert_eq!(again.children(), stanza.children());
        let tree = Element::from_stream(xml.as_bytes(), &scope).unwrap();
        let children: Vec<_> = tree.children().cloned().collect();
        prop_assert_eq!(stanza.children(), &children[..]);
        let fresh = read(&written(&stanza)).unwrap();
        for child in &children {
            prop_assert!(fresh.has(child.name(), child.ns()));
        }
        prop_assert!(!fresh.has("nothing", "urn:x"));
        prop_assert_eq!(Stanza::from_xml(&stanza.to_xml()), Ok(stanza.clone()));
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(&stanza, config).unwrap();
        let (bused, _): (Stanza, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
        prop_assert_eq!(&bused, &stanza);
        for child in &children {
            prop_assert!(bused.has(child.name(), child.ns()));
        }
    }

    #[test]
    fn any_octets_are_a_stanza_or_refused(
        start in prop::sample::select(vec!["", "<message", "<iq ", "<presence>", "<message to='"]),
        raw in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend(raw);
        let _ = Stanza::parse(&bytes, &StreamScope::default());
    }

    #[test]
    fn a_damaged_frame_of_the_bus_does_no_harm(
        raw in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let config = bincode::config::standard().with_limit::<65536>();
        if let Ok((stanza, _)) = bincode::serde::decode_from_slice::<Stanza, _>(&raw, config) {
            stanza.has("a", "b");
            stanza.children();
        }
    }
}

fn session() -> FullJid {
    FullJid::parse("bob@example.com/phone").unwrap()
}

fn unpacked(packed: &[u8]) -> Option<Stanza> {
    Stanza::unpack(Octets::of(packed), &session(), None)
}

#[test]
fn a_stanza_of_each_kind_is_unpacked_as_it_was() {
    let kinds = [
        "message type='chat'",
        "message type='error'",
        "message type='groupchat'",
        "message type='headline'",
        "message",
        "presence",
        "presence type='unavailable'",
        "presence type='subscribe'",
        "presence type='subscribed'",
        "presence type='unsubscribe'",
        "presence type='unsubscribed'",
        "presence type='probe'",
        "presence type='error'",
        "iq id='1' type='get'",
        "iq id='1' type='set'",
        "iq id='1' type='result'",
        "iq id='1' type='error'",
    ];
    for start in kinds {
        let name = start.split(' ').next().unwrap();
        let error = if start.ends_with("'error'") {
            "<error type='cancel'/>"
        } else {
            ""
        };
        for to in [
            "",
            "bob@example.com/phone",
            "bob@example.com",
            "eve@b\u{fc}cher.example",
        ] {
            let to = if to.is_empty() {
                String::new()
            } else {
                format!(" to='{to}'")
            };
            let xml = format!(
                "<{start}{to} xmlns='jabber:client' xml:lang='de' xmlns:x='urn:x' x:hint='1' \
                 from='ann@example.com/b\u{fc}ro'><x:query xmlns='urn:y'>\u{e9}</x:query>{error}</{name}>"
            );
            let stanza = Stanza::from_xml(&xml).unwrap();
            let mut packed = Vec::new();
            stanza.pack(&session(), &mut packed);
            let read = unpacked(&packed).unwrap();
            assert_eq!(read, stanza);
            assert!(read.has("query", "urn:x"));
            for end in 0..packed.len() {
                assert_eq!(unpacked(&packed[..end]), None, "{end} of {packed:?}");
            }
            packed.push(0);
            assert_eq!(unpacked(&packed), None);
        }
    }
}

proptest! {
    #[test]
    fn any_octets_are_unpacked_or_refused(octets in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some(stanza) = unpacked(&octets) {
            // Places of children that lead nowhere are of no harm.
            let _ = stanza.has("query", "urn:x");
            let _ = stanza.children();
        }
    }
}
