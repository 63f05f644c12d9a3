//! What is written reads back, also by others, and nothing that is read does harm.

use proptest::prelude::*;
use rookery_proto::Element;
use rookery_proto::roster::Subscription;
use rookery_proto::stanza::{MessageType, PresenceType};

use super::*;
use crate::moved::MovedStanza;

fn bare(jid: &str) -> BareJid {
    BareJid::parse(jid).unwrap()
}

fn full(jid: &str) -> FullJid {
    FullJid::parse(jid).unwrap()
}

fn head() -> BatchHead {
    BatchHead {
        from: Epoch(0x0102_0304_0506_0708),
        sequence: 9,
        sent_at: 1_700_000_000_000_000,
    }
}

/// One of most kinds that version 1 has.
fn frames() -> Vec<Frame> {
    let message = Stanza::message(MessageType::Chat)
        .with_from(full("ann@example.com/desk"))
        .with_to(bare("bob@example.com"))
        .with_id("m1")
        .with_child(Element::new("body", "jabber:client").with_text("hi & bye"));
    let mut item = RosterItem::new(bare("bob@example.com"));
    item.name = Some("Bob".to_owned());
    item.subscription = Subscription::Both;
    item.groups = vec!["Friends".to_owned()];
    vec![
        Frame::Deliver(Deliver {
            stanza: Arc::new(message),
            to: [full("bob@example.com/phone")].into(),
            responsible: true,
            hops: 1,
            entry: None,
            counts: true,
        }),
        Frame::Broadcast {
            stanza: Stanza::presence(PresenceType::Unavailable)
                .with_from(full("ann@example.com/desk")),
            to: vec![bare("bob@example.com"), bare("eve@example.com")],
        },
        Frame::RosterChanged {
            account: bare("ann@example.com"),
            item,
            version: 300,
        },
        Frame::BlockListChanged {
            account: bare("ann@example.com"),
            added: vec![Jid::parse("example.org").unwrap()],
            removed: vec![Jid::parse("eve@example.com/x").unwrap()],
            all_removed: false,
        },
        Frame::Evict {
            session: full("ann@example.com/desk"),
            sequence: 1 << 50,
        },
        Frame::AccountChanged {
            account: bare("ann@example.com"),
            removed: true,
        },
    ]
}

/// What version 2 has besides.
fn newer_frames() -> Vec<Frame> {
    let entry = Some(LogRef {
        id: 1 << 40,
        archived: true,
    });
    let stanza = Stanza::message(MessageType::Chat).with_from(full("ann@example.com/desk"));
    let session = full("bob@example.com/phone");
    let account = bare("bob@example.com");
    let id = "0102".to_owned();
    let moved = MovedSession {
        jid: session.clone(),
        handled: 7,
        acked: u32::MAX,
        outbox: vec![MovedStanza {
            stanza: stanza.clone(),
            to: Some(Jid::from(session.clone())),
            entry,
            counts: false,
        }],
        unacked: 1,
        presence: Some(Stanza::presence(PresenceType::Available)),
        priority: -5,
        wants_roster: true,
        uses_roster_versions: false,
        wants_block_list: true,
        carbons: false,
        inactive: true,
        directed: vec![Jid::parse("eve@example.org/x").unwrap()],
        max_seconds: 300,
    };
    vec![
        Frame::Deliver(Deliver {
            stanza: Arc::new(stanza.clone()),
            to: [session.clone()].into(),
            responsible: true,
            hops: 0,
            entry,
            counts: true,
        }),
        Frame::LogChanged {
            account: account.clone(),
        },
        Frame::Carbon {
            account: account.clone(),
            stanza,
            except: vec![session.clone()],
        },
        Frame::ResumeAsk {
            request: 300,
            account: account.clone(),
            id: id.clone(),
            h: 70_000,
        },
        Frame::ResumeAnswer {
            request: 300,
            answer: Ok(ResumeReady { session }),
        },
        Frame::ResumeAnswer {
            request: 300,
            answer: Err(ResumeRefused {
                unknown: true,
                handled: Some(4),
                sent: 5,
            }),
        },
        Frame::ResumeTake {
            request: 301,
            account,
            id,
        },
        Frame::ResumeState {
            request: 301,
            state: Some(Box::new(moved)),
        },
        Frame::ResumeState {
            request: 302,
            state: None,
        },
    ]
}

/// What version 3 has besides.
fn newest_frames() -> Vec<Frame> {
    vec![
        Frame::OperatorAsk {
            request: 303,
            question: r#"{"ask":"sessions"}"#.to_owned(),
        },
        Frame::OperatorAnswer {
            request: 303,
            part: "[1]".to_owned(),
            last: false,
        },
        Frame::OperatorAnswer {
            request: 303,
            part: String::new(),
            last: true,
        },
    ]
}

/// What version 4 writes in another way, in all its forms.
fn deliveries() -> Vec<Frame> {
    let session = full("bob@example.com/phone");
    let other = full("bob@example.com/b\u{fc}ro");
    let plain = Stanza::message(MessageType::Headline);
    let rich = Stanza::message(MessageType::Chat)
        .with_from(full("ann@example.com/desk"))
        .with_to(session.clone())
        .with_id("m1")
        .with_lang("de")
        .with_child(Element::new("body", "jabber:client").with_text("hi & bye"))
        .with_child(Element::new("request", "urn:xmpp:receipts"));
    let raw = "<iq xmlns='jabber:client' id='1' type='get' to='bob@example.com' xmlns:x='urn:x' \
               x:hint='1'><x:query/></iq>";
    let prefixed = Stanza::from_xml(raw).unwrap();
    let deliver = |stanza: Stanza, to: &[&FullJid]| Deliver {
        stanza: Arc::new(stanza),
        to: to.iter().copied().cloned().collect(),
        responsible: false,
        hops: 0,
        entry: None,
        counts: false,
    };
    let entry = |archived| Some(LogRef { id: 300, archived });
    [
        deliver(plain.clone(), &[&session]),
        deliver(plain.clone(), &[]),
        Deliver {
            responsible: true,
            entry: entry(true),
            ..deliver(rich.clone(), &[&session, &other])
        },
        Deliver {
            hops: 3,
            counts: true,
            entry: entry(false),
            ..deliver(rich, &[&other])
        },
        deliver(prefixed, &[&session]),
    ]
    .map(Frame::Deliver)
    .into()
}

fn batch(version: u8, frames: &[Frame]) -> Vec<u8> {
    let mut body = Vec::new();
    for frame in frames {
        append_frame(frame, version, &mut body).unwrap();
    }
    write_batch(version, head(), frames.len(), &body)
}

fn read_all(batch: Vec<u8>) -> Result<(BatchHead, Vec<Frame>), BatchError> {
    let (head, frames) = read_batch(batch)?;
    Ok((head, frames.read()?))
}

fn unhex(hex: &str) -> Vec<u8> {
    let hex = hex.split_whitespace().collect::<String>();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn what_is_written_reads_back_equal() {
    let second = [frames(), newer_frames()].concat();
    let third = [second.clone(), newest_frames()].concat();
    let fourth = [third.clone(), deliveries()].concat();
    for (version, frames) in [(1, frames()), (2, second), (3, third), (4, fourth)] {
        assert_eq!(
            read_all(batch(version, &frames)).unwrap(),
            (head(), frames.clone())
        );
        assert_eq!(read_all(batch(version, &[])).unwrap(), (head(), Vec::new()));
        let mut body = Vec::new();
        for frame in &frames {
            let before = body.len();
            let length = append_frame(frame, version, &mut body);
            assert_eq!(length, Some(body.len() - before));
        }
        assert_eq!(read_body(version, frames.len(), &body).unwrap(), frames);
    }
}

/// Nodes of this version write these bytes, so those of the next one have to read them.
#[test]
fn version_1_is_frozen() {
    let written = batch(1, &frames());
    let frozen = unhex(FROZEN);

    assert_eq!(written, frozen, "{written:02x?}");
    assert_eq!(read_all(frozen).unwrap(), (head(), frames()));
}

/// Nodes of this version write these bytes, so those of the next one have to read them.
#[test]
fn version_2_is_frozen() {
    let frames = [frames(), newer_frames()].concat();
    let written = batch(2, &frames);
    let frozen = unhex(FROZEN_2);

    assert_eq!(written, frozen, "{}", hex(&written));
    assert_eq!(read_all(frozen).unwrap(), (head(), frames));
}

/// Nodes of this version write these bytes, so those of the next one have to read them. What version 2
/// has is written as there.
#[test]
fn version_3_is_frozen() {
    let older = [frames(), newer_frames()].concat();
    let mut as_of_2 = batch(2, &older);
    as_of_2[0] = 3;
    assert_eq!(batch(3, &older), as_of_2);

    let written = batch(3, &newest_frames());
    let frozen = unhex(FROZEN_3);
    assert_eq!(written, frozen, "{}", hex(&written));
    assert_eq!(read_all(frozen).unwrap(), (head(), newest_frames()));
}

/// Nodes of this version write these bytes, so those of the next one have to read them. What is no
/// delivery is written as in version 3, behind its length.
#[test]
fn version_4_is_frozen() {
    let frames = [deliveries(), newest_frames()].concat();
    let written = batch(4, &frames);
    let frozen = unhex(FROZEN_4);
    assert_eq!(written, frozen, "{}", hex(&written));
    assert_eq!(read_all(frozen).unwrap(), (head(), frames));
}

/// What is at hand where a delivery is read is not made again.
#[test]
fn addresses_that_are_known_are_shared() {
    let frames = deliveries();
    let (_, read) = read_batch(batch(4, &frames)).unwrap();
    let session = full("bob@example.com/phone");
    let account = bare("bob@example.com");
    for at in [0, 2, 4] {
        let Found::Delivery(delivery) = read.batch.find(read.places[at]).unwrap() else {
            panic!("no delivery")
        };
        assert_eq!(delivery.account(), "bob@example.com");
        let known = |text: &str| (text == session.as_str()).then(|| session.clone());
        let deliver = delivery.read(known, Some(&account)).unwrap();
        let is_same = |one: &str, other: &str| std::ptr::eq(one, other);
        assert!(is_same(deliver.to[0].as_str(), session.as_str()));
        match deliver.stanza.to.as_ref().map(Jid::as_str) {
            Some(to) if to == account.as_str() => assert!(is_same(to, account.as_str())),
            Some(to) => assert!(is_same(to, session.as_str())),
            None => assert_eq!(at, 0),
        }
        assert_eq!(Frame::Deliver(deliver), frames[at]);
    }
}

#[test]
fn a_damaged_delivery_is_refused_and_those_around_it_are_read() {
    let frames = deliveries();
    let (head, frames) = (head(), [&frames[..1], &frames[2..4]].concat());
    let mut body = Vec::new();
    let ends: Vec<usize> = frames
        .iter()
        .map(|frame| {
            append_frame(frame, 4, &mut body).unwrap();
            body.len()
        })
        .collect();
    for at in ends[0] + 4..ends[1] {
        for with in [0xff, 0x80, 0x01] {
            let mut damaged = body.clone();
            damaged[at] ^= with;
            let (_, read) = read_batch(write_batch(4, head, 3, &damaged)).unwrap();
            for around in [0, 2] {
                let found = read.batch.find(read.places[around]).unwrap();
                let Found::Delivery(delivery) = found else {
                    panic!("no delivery")
                };
                let deliver = delivery.read(|_| None, None).unwrap();
                assert_eq!(Frame::Deliver(deliver), frames[around]);
            }
            // It may be read as another one.
            if let Ok(Found::Delivery(delivery)) = read.batch.find(read.places[1]) {
                let _ = delivery.read(|_| None, None);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn what_version_1_cannot_say_is_left_out_or_refused() {
    let mut newer = newer_frames().into_iter();
    let mut deliver = newer.next().unwrap();
    let mut body = Vec::new();
    append_frame(&deliver, 1, &mut body).unwrap();
    let Frame::Deliver(inside) = &mut deliver else {
        unreachable!("the first is")
    };
    inside.entry = None;
    assert_eq!(read_body(1, 1, &body).unwrap(), [deliver]);

    let log_changed = newer.next().unwrap();
    body.clear();
    append_frame(&log_changed, 1, &mut body).unwrap();
    assert_eq!(read_body(1, 1, &body).unwrap(), [log_changed]);

    for frame in newer {
        body.clear();
        assert_eq!(append_frame(&frame, 1, &mut body), None, "{frame:?}");
        assert_eq!(body, []);
    }
}

#[test]
fn what_version_2_cannot_say_is_refused() {
    for frame in newest_frames() {
        for version in [1, 2] {
            let mut body = Vec::new();
            assert_eq!(append_frame(&frame, version, &mut body), None, "{frame:?}");
            assert_eq!(body, []);
        }
    }
}

const FROZEN: &str = "\
     01fd080706050403020109fd00401e18240a060006000000010f626f62406578616d706c652e636f\
     6d0114616e6e406578616d706c652e636f6d2f6465736b01026d310000193c626f64793e68692026\
     616d703b206279653c2f626f64793e010104000115626f62406578616d706c652e636f6d2f70686f\
     6e650101010101000114616e6e406578616d706c652e636f6d2f6465736b0000000000020f626f62\
     406578616d706c652e636f6d0f657665406578616d706c652e636f6d020f616e6e406578616d706c\
     652e636f6d0f626f62406578616d706c652e636f6d0103426f62030000000107467269656e6473fb\
     2c01030f616e6e406578616d706c652e636f6d010b6578616d706c652e6f72670111657665406578\
     616d706c652e636f6d2f78000414616e6e406578616d706c652e636f6d2f6465736bfd0000000000\
     000400050f616e6e406578616d706c652e636f6d01";

const FROZEN_4: &str = "\
     04fd080706050403020109fd00401e18240a0600081e00000000000015626f62406578616d706c65\
     2e636f6d2f70686f6e65000300000010000000010000030000000000000000000000009b00000000\
     0d002c0100000000000015626f62406578616d706c652e636f6d2f70686f6e650115626f62406578\
     616d706c652e636f6d2f62c3bc726f001d1402023d020104001a071329616e6e406578616d706c65\
     2e636f6d2f6465736b6d3164653c626f64793e68692026616d703b206279653c2f626f64793e3c72\
     65717565737420786d6c6e733d2775726e3a786d70703a7265636569707473272f3e9b0000000006\
     032c0100000000000015626f62406578616d706c652e636f6d2f62c3bc726f00001f15626f624065\
     78616d706c652e636f6d2f70686f6e651402023d020104001a071329616e6e406578616d706c652e\
     636f6d2f6465736b6d3164653c626f64793e68692026616d703b206279653c2f626f64793e3c7265\
     717565737420786d6c6e733d2775726e3a786d70703a7265636569707473272f3e49000000000000\
     15626f62406578616d706c652e636f6d2f70686f6e65000d2a011b0a010305013120786d6c6e733a\
     783d2775726e3a782720783a68696e743d2731273c783a71756572792f3e18000000010cfb2f0112\
     7b2261736b223a2273657373696f6e73227d0a000000010dfb2f01035b315d0007000000010dfb2f\
     010001";

const FROZEN_3: &str = "\
     03fd080706050403020109fd00401e18240a0600030cfb2f01127b2261736b223a2273657373696f\
     6e73227d0dfb2f01035b315d000dfb2f010001";

const FROZEN_2: &str = "\
     02fd080706050403020109fd00401e18240a06000f000000010f626f62406578616d706c652e636f\
     6d0114616e6e406578616d706c652e636f6d2f6465736b01026d310000193c626f64793e68692026\
     616d703b206279653c2f626f64793e010104000115626f62406578616d706c652e636f6d2f70686f\
     6e6501010001010101000114616e6e406578616d706c652e636f6d2f6465736b0000000000020f62\
     6f62406578616d706c652e636f6d0f657665406578616d706c652e636f6d020f616e6e406578616d\
     706c652e636f6d0f626f62406578616d706c652e636f6d0103426f62030000000107467269656e64\
     73fb2c01030f616e6e406578616d706c652e636f6d010b6578616d706c652e6f7267011165766540\
     6578616d706c652e636f6d2f78000414616e6e406578616d706c652e636f6d2f6465736bfd000000\
     0000000400050f616e6e406578616d706c652e636f6d01000000000114616e6e406578616d706c65\
     2e636f6d2f6465736b00000000000115626f62406578616d706c652e636f6d2f70686f6e65010001\
     fd00000000000100000101060f626f62406578616d706c652e636f6d070f626f62406578616d706c\
     652e636f6d0000000114616e6e406578616d706c652e636f6d2f6465736b00000000000115626f62\
     406578616d706c652e636f6d2f70686f6e6508fb2c010f626f62406578616d706c652e636f6d0430\
     313032fc7011010009fb2c010015626f62406578616d706c652e636f6d2f70686f6e6509fb2c0101\
     010104050afb2d010f626f62406578616d706c652e636f6d04303130320bfb2d010115626f624065\
     78616d706c652e636f6d2f70686f6e6507fcffffffff010000000114616e6e406578616d706c652e\
     636f6d2f6465736b00000000000115626f62406578616d706c652e636f6d2f70686f6e6501fd0000\
     00000001000001000101010000000000000000fb01000100010111657665406578616d706c652e6f\
     72672f78fb2c010bfb2e0100";

#[test]
fn other_versions_and_damage_are_refused() {
    for version in [0, VERSION + 1] {
        let mut other = batch(VERSION, &frames());
        other[0] = version;
        assert!(matches!(read_batch(other), Err(BatchError::Version(found)) if found == version));
    }
    assert!(matches!(read_batch(Vec::new()), Err(BatchError::Empty)));
    for version in OLDEST_VERSION..=VERSION {
        let whole = batch(version, &frames());
        for end in 1..whole.len() {
            assert!(
                matches!(
                    read_batch(whole[..end].to_vec()),
                    Err(BatchError::Damaged(_))
                ),
                "{end}"
            );
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(read_batch(longer), Err(BatchError::Damaged(_))));
    }
}

#[test]
fn a_batch_that_claims_to_be_huge_is_refused() {
    // A head, and a count of 2^63 frames with nothing behind it.
    for version in OLDEST_VERSION..=VERSION {
        let mut huge = write_batch(version, head(), 0, &[]);
        huge.pop();
        huge.push(253);
        huge.extend((1_u64 << 63).to_le_bytes());
        assert!(matches!(read_batch(huge), Err(BatchError::Damaged(_))));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        version in OLDEST_VERSION..=VERSION,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = read_all(bytes.clone());
        let _ = read_all([&[version][..], &bytes].concat());
        // Behind a head and a length that are right.
        if let Ok(length) = u32::try_from(bytes.len()) {
            let body = [&length.to_le_bytes()[..], &bytes].concat();
            let _ = read_all(write_batch(4, head(), 1, &body));
        }
    }

    #[test]
    fn a_flipped_byte_is_read_or_refused(
        version in OLDEST_VERSION..=VERSION,
        at in 1_usize..1000,
        with in any::<u8>(),
    ) {
        let mut frames = frames();
        if version > 1 {
            frames.extend(newer_frames());
        }
        if version > 2 {
            frames.extend(newest_frames());
        }
        if version > 3 {
            frames.extend(deliveries());
        }
        let mut bytes = batch(version, &frames);
        let at = at % bytes.len();
        bytes[at] ^= with;
        let _ = read_all(bytes);
    }
}
