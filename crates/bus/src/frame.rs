//! What nodes say to each other, and how it is written. The only file that names the serializer.
//!
//! A batch is one bincode value (standard configuration: little-endian, variable-length integers):
//!
//! ```text
//! format version (u8) · sender's epoch · sequence · time of the oldest frame (µs since 1970) · frames
//! ```
//!
//! The version is the first byte as it stands; a node refuses a version that it does not speak. A new
//! kind of frame, or a change to one, is a new version: versions N and N-1 are both read, N is sent
//! once all nodes speak it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::Stanza;
use serde::{Deserialize, Serialize};

/// The format that this node writes, and the only one so far.
pub const VERSION: u8 = 1;

/// A frame of more bytes is refused as [`Busy`](crate::Busy).
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// What a batch may make its reader allocate.
const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;

/// What one node says to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// A stanza for sessions on that node.
    Deliver {
        /// The stanza.
        stanza: Stanza,
        /// The sessions.
        to: Vec<FullJid>,
        /// Whether the receiver answers for it: if none of the sessions is there, it looks them up
        /// again, stores the stanza, or sends an error back.
        responsible: bool,
        /// How many nodes have passed it on.
        hops: u8,
    },
    /// A presence for all available resources that these accounts have on that node.
    Broadcast {
        /// The presence.
        stanza: Stanza,
        /// The accounts.
        to: Vec<BareJid>,
    },
    /// A roster item changed: push it to the account's interested resources there.
    RosterChanged {
        /// Whose roster.
        account: BareJid,
        /// The item as it is now.
        item: RosterItem,
        /// The roster's version with this change.
        version: u64,
    },
    /// A block list changed (XEP-0191 §3.3 to §3.5): push it to the account's resources there.
    BlockListChanged {
        /// Whose list.
        account: BareJid,
        /// Blocked now.
        added: Vec<Jid>,
        /// Not blocked any more.
        removed: Vec<Jid>,
        /// Nobody is blocked any more.
        all_removed: bool,
    },
    /// A newer session took the resource: end the old one with `conflict` (RFC 6120 §4.9.3.3).
    Evict {
        /// The full JID that both have.
        session: FullJid,
        /// The sequence of the old one.
        sequence: u64,
    },
    /// An account was removed or its password changed: end its sessions, drop what is cached.
    AccountChanged {
        /// The account.
        account: BareJid,
        /// Whether it is gone.
        removed: bool,
    },
    /// Messages were stored for an account that has a resource on that node which takes messages, and
    /// which may have read the account's log before: read it again.
    LogChanged {
        /// Whose log.
        account: BareJid,
    },
}

/// What stands before the frames of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BatchHead {
    /// The node that sends it.
    pub from: Epoch,
    /// Counts the batches from that node to this one, from 1, without gaps.
    pub sequence: u64,
    /// When its oldest frame was queued, in microseconds since 1970, by the sender's clock.
    pub sent_at: u64,
}

/// A batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It has no bytes.
    #[error("an empty batch")]
    Empty,
    /// The sender speaks another version.
    #[error("batch format version {0} is not spoken here, only {VERSION} is")]
    Version(u8),
    /// The bytes make no sense.
    #[error("a damaged batch: {0}")]
    Damaged(String),
}

/// Appends a frame to the body of a batch; its length in bytes is returned.
///
/// # Panics
/// Never: memory takes every byte, and frames are made of plain values.
pub fn append_frame(frame: &Frame, body: &mut Vec<u8>) -> usize {
    bincode::serde::encode_into_std_write(frame, body, config())
        .expect("a Vec takes every byte and frames are plain values")
}

/// Writes a whole batch around a body of `frames` frames.
///
/// # Panics
/// Never, for the same reasons as [`append_frame`].
pub fn write_batch(head: BatchHead, frames: usize, body: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(40 + body.len());
    batch.push(VERSION);
    bincode::serde::encode_into_std_write((head, frames as u64), &mut batch, config())
        .expect("a Vec takes every byte and heads are plain values");
    batch.extend_from_slice(body);
    batch
}

/// Reads a batch.
///
/// # Errors
/// [`BatchError`]; never panics, and allocates no more than a constant times the batch's length.
pub fn read_batch(batch: &[u8]) -> Result<(BatchHead, Vec<Frame>), BatchError> {
    let (&version, rest) = batch.split_first().ok_or(BatchError::Empty)?;
    if version != VERSION {
        return Err(BatchError::Version(version));
    }
    let (value, used) = bincode::serde::decode_from_slice(rest, config())
        .map_err(|error| BatchError::Damaged(error.to_string()))?;
    if used != rest.len() {
        return Err(BatchError::Damaged("bytes are left over".to_owned()));
    }
    Ok(value)
}

/// Reads the frames of a body that [`append_frame`] made.
///
/// # Errors
/// [`BatchError::Damaged`] if it is none.
pub fn read_body(frames: usize, mut body: &[u8]) -> Result<Vec<Frame>, BatchError> {
    let mut read = Vec::with_capacity(frames.min(body.len()));
    for _ in 0..frames {
        let (frame, used) = bincode::serde::decode_from_slice(body, config())
            .map_err(|error| BatchError::Damaged(error.to_string()))?;
        read.push(frame);
        body = &body[used..];
    }
    Ok(read)
}

fn config() -> Configuration<LittleEndian, Varint, Limit<MAX_DECODED_BYTES>> {
    bincode::config::standard().with_limit()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rookery_proto::Element;
    use rookery_proto::roster::Subscription;
    use rookery_proto::stanza::{MessageType, PresenceType};

    use super::*;

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

    /// One of each kind.
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
            Frame::Deliver {
                stanza: message,
                to: vec![full("bob@example.com/phone")],
                responsible: true,
                hops: 1,
            },
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

    fn batch(frames: &[Frame]) -> Vec<u8> {
        let mut body = Vec::new();
        for frame in frames {
            append_frame(frame, &mut body);
        }
        write_batch(head(), frames.len(), &body)
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let (read, all) = read_batch(&batch(&frames())).unwrap();
        assert_eq!(read, head());
        assert_eq!(all, frames());
        assert_eq!(read_batch(&batch(&[])).unwrap(), (head(), Vec::new()));
        let mut body = Vec::new();
        for frame in &frames() {
            let before = body.len();
            assert_eq!(append_frame(frame, &mut body), body.len() - before);
        }
        assert_eq!(read_body(frames().len(), &body).unwrap(), frames());
    }

    /// Nodes of this version write these bytes, so every later one has to read them.
    #[test]
    fn version_1_is_frozen() {
        let written = batch(&frames());
        let hex = FROZEN.split_whitespace().collect::<String>();
        let frozen: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();

        assert_eq!(written, frozen, "{written:02x?}");
        assert_eq!(read_batch(&frozen).unwrap(), (head(), frames()));
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

    #[test]
    fn other_versions_and_damage_are_refused() {
        let mut other = batch(&frames());
        other[0] = 2;
        assert!(matches!(read_batch(&other), Err(BatchError::Version(2))));
        assert!(matches!(read_batch(&[]), Err(BatchError::Empty)));
        let whole = batch(&frames());
        for end in 1..whole.len() {
            assert!(
                matches!(read_batch(&whole[..end]), Err(BatchError::Damaged(_))),
                "{end}"
            );
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(read_batch(&longer), Err(BatchError::Damaged(_))));
    }

    #[test]
    fn a_batch_that_claims_to_be_huge_is_refused() {
        // Version 1, a head, and a count of 2^63 frames with nothing behind it.
        let mut huge = write_batch(head(), 0, &[]);
        huge.pop();
        huge.push(253);
        huge.extend((1_u64 << 63).to_le_bytes());
        assert!(matches!(read_batch(&huge), Err(BatchError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_batch(&bytes);
            let _ = read_batch(&[&[VERSION][..], &bytes].concat());
        }

        #[test]
        fn a_flipped_byte_is_read_or_refused(at in 1_usize..400, with in any::<u8>()) {
            let mut bytes = batch(&frames());
            let at = at % bytes.len();
            bytes[at] ^= with;
            let _ = read_batch(&bytes);
        }
    }
}
