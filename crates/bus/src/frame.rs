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
