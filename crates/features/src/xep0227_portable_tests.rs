//! Tests of the portable format: what is written is read.

use super::*;

fn ann() -> BareJid {
    BareJid::parse("ann@example.org").unwrap()
}

fn read_one(xml: &str) -> (Result<Datum, Invalid>, LeftOut) {
    let element = Element::parse(xml, NS).unwrap();
    let mut left_out = LeftOut::default();
    (read(&ann(), &element, &mut left_out), left_out)
}

fn datum(xml: &str) -> Datum {
    let (datum, left_out) = read_one(xml);
    assert_eq!(left_out, LeftOut::default());
    datum.unwrap()
}

fn scram(salt: &str, server: &str, stored: &str) -> String {
    format!(
        "<scram-credentials xmlns='{NS_SCRAM}' mechanism='SCRAM-SHA-1'>\
         <iter-count>4096</iter-count><salt>{salt}</salt><server-key>{server}</server-key>\
         <stored-key>{stored}</stored-key></scram-credentials>"
    )
}

/// §4.3, and the same keys as ejabberd 23.01 writes them.
#[test]
fn keys_are_read_also_if_they_are_encoded_twice() {
    let [salt, server, stored] = [vec![1; 16], vec![2; 20], vec![3; 20]];
    let once = |octets: &[u8]| STANDARD.encode(octets);
    let twice = |octets: &[u8]| STANDARD.encode(STANDARD.encode(octets));
    let expected = Datum::Keys(
        Hash::Sha1,
        ScramKeys {
            salt: salt.clone(),
            iterations: 4096,
            stored_key: stored.clone(),
            server_key: server.clone(),
        },
    );
    assert_eq!(
        datum(&scram(&once(&salt), &once(&server), &once(&stored))),
        expected
    );
    assert_eq!(
        datum(&scram(&twice(&salt), &twice(&server), &twice(&stored))),
        expected
    );
    for wrong in [
        scram("", &once(&server), &once(&stored)),
        scram(&once(&salt), &once(&[1]), &once(&stored)),
        scram(&once(&salt), "?", &once(&stored)),
    ] {
        assert!(read_one(&wrong).0.is_err(), "{wrong}");
    }
}

#[test]
fn keys_that_are_missing_are_not_written() {
    let keys = |size| ScramKeys {
        salt: vec![1],
        iterations: 1,
        stored_key: vec![2; size],
        server_key: vec![3; size],
    };
    let credentials = Credentials {
        scram_sha1: keys(20),
        scram_sha256: ScramKeys::missing(),
    };
    let written = write_keys(&credentials);
    assert_eq!(written.len(), 1);
    let read = read(&ann(), &written[0], &mut LeftOut::default()).unwrap();
    assert_eq!(read, Datum::Keys(Hash::Sha1, keys(20)));
}

/// §4.4, §4.9
#[test]
fn a_roster_is_read_as_it_was_written() {
    let contact = |jid: &str| RosterItem::new(BareJid::parse(jid).unwrap());
    let asks = |jid: &str| {
        format!(
            "<presence xmlns='jabber:client' to='ann@example.org' from='{jid}' type='subscribe'/>"
        )
    };
    let items = vec![
        RosterItem {
            name: Some("Bob & Co".into()),
            subscription: Subscription::Both,
            groups: vec!["a".into(), "b".into()],
            ..contact("bob@x")
        },
        RosterItem {
            ask: true,
            approved: true,
            ..contact("cat@x")
        },
        RosterItem {
            pending_in: Some(asks("dan@x")),
            ..contact("dan@x")
        },
        RosterItem {
            name: Some(String::new()),
            pending_in: Some(asks("eve@x")),
            ..contact("eve@x")
        },
        contact("fay@x"),
    ];
    let Datum::Roster(contacts) = datum(&write_contacts(&items).unwrap().to_xml("")) else {
        panic!("no roster");
    };
    assert_eq!(contacts.len(), 4);
    let requests = items.iter().filter_map(|item| item.pending_in.as_deref());
    let requests = requests
        .map(|stanza| match datum(stanza) {
            Datum::Request(from, stanza) => (from, stanza),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut left_out = LeftOut::default();
    assert_eq!(roster_of(contacts, requests, &mut left_out), items);
    assert_eq!(left_out, LeftOut::default());
}

#[test]
fn a_request_in_the_wrong_namespace_is_one() {
    let Datum::Request(from, stanza) =
        datum("<presence type='subscribe' from='carol@example.org'/>")
    else {
        panic!("no request");
    };
    assert_eq!(from.as_str(), "carol@example.org");
    assert!(Stanza::from_xml(&stanza).is_ok(), "{stanza}");
}

/// §4.8
#[test]
fn a_privacy_list_that_blocks_is_a_block_list() {
    let jids = ["a@x", "x", "b@x/r"].map(|jid| Jid::parse(jid).unwrap());
    let written = write_blocked(&jids).unwrap().to_xml("");
    assert_eq!(datum(&written), Datum::Blocked(jids.to_vec()));
    let (read, left_out) = read_one(
        "<query xmlns='jabber:iq:privacy'><default name='d'/><list name='d'>\
         <item type='jid' value='a@x' action='deny' order='1'/>\
         <item type='jid' value='b@x' action='deny' order='2'><iq/></item>\
         <item type='group' value='g' action='deny' order='3'/><item action='allow' order='4'/>\
         </list><list name='e'><item action='deny' order='1'/></list></query>",
    );
    assert_eq!(read, Ok(Datum::Blocked(vec![Jid::parse("a@x").unwrap()])));
    let counted: Vec<_> = left_out.0.into_iter().collect();
    assert_eq!(
        counted,
        [
            ("privacy rules other than blocking".to_owned(), 2),
            ("privacy rules that are not in force".to_owned(), 1)
        ]
    );
}

/// §4.5, §4.11
#[test]
fn a_message_is_read_as_it_was_written() {
    let at = datetime::parse("2026-01-02T03:04:05.678901Z").unwrap();
    let stanza = "<message xmlns='jabber:client' from='bob@x/r' to='ann@example.org' \
        type='chat'><body>a &lt; b</body></message>";
    let expected = Logged {
        id: Some("7".into()),
        at: Some(at),
        peer: Jid::parse("bob@x/r").unwrap(),
        sent: false,
        stanza: Stanza::from_xml(stanza).unwrap().to_xml(),
    };
    let offline = write_offline(&ann(), stanza, at, Some(7)).unwrap();
    let offline = Element::parse(&offline, "").unwrap();
    assert_eq!(read_offline(&ann(), &offline), Ok(expected.clone()));
    let archived = Element::parse(&write_archived(stanza, at, 7), "").unwrap();
    assert_eq!(read_archived(&ann(), &archived), Ok(expected));
}

#[test]
fn whose_message_it_is_follows_from_its_addresses() {
    let read = |from: &str, to: &str| {
        let message = format!("<message xmlns='jabber:client' from='{from}' to='{to}'/>");
        read_offline(&ann(), &Element::parse(&message, "").unwrap()).unwrap()
    };
    let sent = read("ann@example.org/d", "bob@x");
    assert!(sent.sent && sent.peer.as_str() == "bob@x");
    let received = read("bob@x/r", "ann@example.org/d");
    assert!(!received.sent && received.peer.as_str() == "bob@x/r");
    let note = read("ann@example.org/d", "ann@example.org");
    assert!(!note.sent && note.peer.as_str() == "ann@example.org/d");
}

#[test]
fn what_is_wrong_is_said() {
    for xml in [
        "<query xmlns='jabber:iq:roster'><item/></query>",
        "<query xmlns='jabber:iq:roster'><item jid='a@@b'/></query>",
        "<query xmlns='jabber:iq:roster'><item jid='a@b' subscription='x'/></query>",
        "<presence xmlns='jabber:client' type='subscribe'/>",
        "<blocklist xmlns='urn:xmpp:blocking'><item jid=' '/></blocklist>",
        "<prefs xmlns='urn:xmpp:mam:2' default='perhaps'/>",
        "<last xmlns='urn:x-rookery:account:0' at='yesterday'/>",
    ] {
        assert!(read_one(xml).0.is_err(), "{xml}");
    }
    let (unknown, left_out) = read_one("<x xmlns='y'/>");
    assert_eq!(unknown, Ok(Datum::Nothing));
    assert_eq!(left_out.0.get("<x xmlns='y'/>"), Some(&1));
}
