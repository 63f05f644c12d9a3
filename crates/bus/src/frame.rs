//! What nodes say to each other, and how it is written. The only file that names the serializer.
//!
//! A batch is one bincode value (standard configuration: little-endian, variable-length integers), or
//! rather, since version 4, its head is and the frames follow:
//!
//! ```text
//! format version (u8) · sender's epoch · sequence · time of the oldest frame (µs since 1970)
//! · number of frames · frames
//! ```
//!
//! The version is the first byte as it stands; a node refuses a version that it does not speak. A new
//! kind of frame, or a change to one, is a new version. Older versions are read and written as well, N-1
//! at least: a node says in the directory which one it speaks, and is sent no higher one. What only the
//! newer can express is translated or refused ([`append_frame`]).
//!
//! | version | what it added |
//! |---|---|
//! | 1 | the start (`frame/v1.rs`) |
//! | 2 | the log's entry of a delivered message, carbons, sessions that move between nodes |
//! | 3 | what operators ask of other nodes |
//! | 4 | no kinds: frames can be told apart without reading them, and deliveries are packed by hand (`frame/v4.rs`) |

mod v1;
mod v4;

use std::sync::Arc;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::Stanza;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub(crate) use self::v4::find;
pub use self::v4::{Delivery, Found, Place};
use crate::Frames;
use crate::moved::{LogRef, MovedSession, ResumeReady, ResumeRefused};

/// The newest format, which this node speaks.
pub const VERSION: u8 = 4;

/// The oldest format that this node speaks.
pub const OLDEST_VERSION: u8 = 1;

/// What a node is taken to speak of which nothing is known yet: a cluster holds two successive versions
/// (design.md, "Bus").
pub const ASSUMED_VERSION: u8 = VERSION - 1;

/// A frame of more bytes is refused as [`TooLarge`](crate::Reason::TooLarge).
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// What a batch may make its reader allocate.
const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;

/// What one node says to another.
///
/// The order of the kinds is that of their numbers on the wire.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// A stanza for sessions on that node.
    Deliver(Deliver),
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
    /// An account was removed or disabled, or its password changed: end its sessions, drop what is cached.
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
    /// A carbon copy (XEP-0280) for all resources that enabled carbons and that the account has on
    /// that node, but these. Not in version 1.
    Carbon {
        /// Whose resources.
        account: BareJid,
        /// The message with its `<sent/>` or `<received/>`, without a recipient.
        stanza: Stanza,
        /// Who gets none: those that have the message itself.
        except: Vec<FullJid>,
    },
    /// A client that has proved to be `account` wants to resume a session that is there (XEP-0198
    /// §5): may it? The answer is [`Frame::ResumeAnswer`]. Not in version 1, like all that follow.
    ResumeAsk {
        /// Chosen by who asks; the answer carries the same.
        request: u64,
        /// Who the client is.
        account: BareJid,
        /// The `previd` of its `<resume/>`.
        id: String,
        /// The `h` of its `<resume/>`.
        h: u32,
    },
    /// The answer to a [`Frame::ResumeAsk`].
    ResumeAnswer {
        /// That of the question.
        request: u64,
        /// Whether the session can be taken.
        answer: Result<ResumeReady, ResumeRefused>,
    },
    /// Hand the session over, and be silent from then on. The answer is [`Frame::ResumeState`].
    ResumeTake {
        /// Chosen by who asks; the answer carries the same.
        request: u64,
        /// Whose session.
        account: BareJid,
        /// The session's id for resumption.
        id: String,
    },
    /// The answer to a [`Frame::ResumeTake`].
    ResumeState {
        /// That of the question.
        request: u64,
        /// The session, or nothing if it is not there any more.
        state: Option<Box<MovedSession>>,
    },
    /// An operator wants something of that node. The answers are [`Frame::OperatorAnswer`]s. Not in
    /// versions 1 and 2, like all that follow.
    OperatorAsk {
        /// Chosen by who asks; the answers carry the same.
        request: u64,
        /// What: text that only those who ask and answer understand. Nothing: the answers to a
        /// question of this number are not wanted any more.
        question: String,
    },
    /// A part of the answer to a [`Frame::OperatorAsk`].
    OperatorAnswer {
        /// That of the question.
        request: u64,
        /// The part: text like the question.
        part: String,
        /// Whether no other follows.
        last: bool,
    },
}

/// A stanza for sessions on another node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Deliver {
    /// The stanza.
    pub stanza: Arc<Stanza>,
    /// The sessions, all of one account.
    pub to: Sessions,
    /// Whether the receiver answers for it: if none of the sessions is there, it looks them up
    /// again, stores the stanza, or sends an error back.
    pub responsible: bool,
    /// How many nodes have passed it on.
    pub hops: u8,
    /// Where it stands in its recipient's log, if it does. Version 1 leaves this out.
    pub entry: Option<LogRef>,
    /// Whether the receiver counts what becomes of it: a client sent it, and nothing has yet.
    /// Version 1 leaves this out.
    pub counts: bool,
}

/// Sessions that a stanza is for: one, nearly always.
pub type Sessions = SmallVec<[FullJid; 1]>;

impl Frame {
    /// The first version that has a frame like this.
    fn since(&self) -> u8 {
        match self {
            Self::OperatorAsk { .. } | Self::OperatorAnswer { .. } => 3,
            Self::Carbon { .. }
            | Self::ResumeAsk { .. }
            | Self::ResumeAnswer { .. }
            | Self::ResumeTake { .. }
            | Self::ResumeState { .. } => 2,
            Self::Deliver(_)
            | Self::Broadcast { .. }
            | Self::RosterChanged { .. }
            | Self::BlockListChanged { .. }
            | Self::Evict { .. }
            | Self::AccountChanged { .. }
            | Self::LogChanged { .. } => 1,
        }
    }
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
    #[error("batch format version {0} is not spoken here, only {OLDEST_VERSION} to {VERSION} are")]
    Version(u8),
    /// The bytes make no sense.
    #[error("a damaged batch: {0}")]
    Damaged(String),
}

/// Appends a frame to the body of a batch of this version; its length in bytes is returned. `None`,
/// and nothing appended, if the version has no such frame.
///
/// # Panics
/// Never: memory takes every byte, and frames are made of plain values.
pub fn append_frame(frame: &Frame, version: u8, body: &mut Vec<u8>) -> Option<usize> {
    if version < frame.since() {
        return None;
    }
    match version {
        1 => v1::Frame::translate(frame).map(|frame| append(&frame, body)),
        // Version 3 has more frames, and writes those of version 2 as that does.
        2 | 3 => Some(append(frame, body)),
        _ => Some(v4::append(frame, body)),
    }
}

fn append(frame: &impl Serialize, body: &mut Vec<u8>) -> usize {
    bincode::serde::encode_into_std_write(frame, body, config())
        .expect("a Vec takes every byte and frames are plain values")
}

/// Writes a whole batch of a version around a body of `frames` frames of that version.
///
/// # Panics
/// Never, for the same reasons as [`append_frame`].
pub fn write_batch(version: u8, head: BatchHead, frames: usize, body: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(40 + body.len());
    batch.push(version);
    bincode::serde::encode_into_std_write((head, frames as u64), &mut batch, config())
        .expect("a Vec takes every byte and heads are plain values");
    batch.extend_from_slice(body);
    batch
}

/// Reads a batch of any version that is spoken here. The frames of version 4 are only told apart.
///
/// # Errors
/// [`BatchError`]; never panics, and allocates no more than a constant times the batch's length.
pub fn read_batch(batch: Vec<u8>) -> Result<(BatchHead, Frames), BatchError> {
    let (&version, rest) = batch.split_first().ok_or(BatchError::Empty)?;
    match version {
        1 => {
            let (head, frames): (_, Vec<v1::Frame>) = read_whole(rest)?;
            let frames: Vec<Frame> = frames.into_iter().map(Frame::from).collect();
            Ok((head, frames.into()))
        }
        2 | 3 => {
            let (head, frames): (_, Vec<Frame>) = read_whole(rest)?;
            Ok((head, frames.into()))
        }
        4 => {
            let ((head, frames), used): ((BatchHead, u64), usize) = read(rest)?;
            Ok((head, v4::read(batch, 1 + used, frames)?))
        }
        _ => Err(BatchError::Version(version)),
    }
}

fn read_whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BatchError> {
    let (value, used) = read(bytes)?;
    if used != bytes.len() {
        return Err(BatchError::Damaged("bytes are left over".to_owned()));
    }
    Ok(value)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), BatchError> {
    bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| BatchError::Damaged(error.to_string()))
}

/// Reads the frames of a body that [`append_frame`] made for this version.
///
/// # Errors
/// [`BatchError::Damaged`] if it is none.
pub fn read_body(version: u8, frames: usize, body: &[u8]) -> Result<Vec<Frame>, BatchError> {
    match version {
        1 => {
            let frames: Vec<v1::Frame> = read_some(frames, body)?;
            Ok(frames.into_iter().map(Frame::from).collect())
        }
        2 | 3 => read_some(frames, body),
        _ => v4::read(body.to_vec(), 0, frames as u64)?.read(),
    }
}

fn read_some<T: DeserializeOwned>(number: usize, mut body: &[u8]) -> Result<Vec<T>, BatchError> {
    let mut all = Vec::with_capacity(number.min(body.len()));
    for _ in 0..number {
        let (frame, used) = read(body)?;
        all.push(frame);
        body = &body[used..];
    }
    Ok(all)
}

fn config() -> Configuration<LittleEndian, Varint, Limit<MAX_DECODED_BYTES>> {
    bincode::config::standard().with_limit()
}

#[cfg(test)]
mod tests;
