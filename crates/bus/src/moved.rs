//! What moves with a session from one node to another (XEP-0198 §5 across nodes).
//!
//! The node that the client came to asks the one that has the session
//! ([`ResumeAsk`](crate::Frame::ResumeAsk)), makes ready, and then takes it
//! ([`ResumeTake`](crate::Frame::ResumeTake)): only from that moment on is the old owner silent.

use rookery_proto::jid::{FullJid, Jid};
use rookery_proto::stanza::Stanza;
use serde::{Deserialize, Serialize};

/// Where a message stands in its recipient's log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LogRef {
    /// Its id there.
    pub id: u64,
    /// Whether it is in the archive (XEP-0313), not only kept until it is delivered.
    pub archived: bool,
}

/// The session can be taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResumeReady {
    /// Its full JID.
    pub session: FullJid,
}

/// The session cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResumeRefused {
    /// Nothing is known of such a session, or it is another account's (`item-not-found`).
    pub unknown: bool,
    /// How many stanzas of the client were handled, if that is still known (`h` of `<failed/>`).
    pub handled: Option<u32>,
    /// How many stanzas the client was sent; an `h` above it is an error.
    pub sent: u32,
}

impl ResumeRefused {
    /// Nothing is known of the session.
    pub const UNKNOWN: Self = Self {
        unknown: true,
        handled: None,
        sent: 0,
    };
}

/// All that a session is, at the moment when its node gave it up.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each set by its own request of the client"
)]
pub struct MovedSession {
    /// The bound resource.
    pub jid: FullJid,
    /// How many stanzas of the client are handled.
    pub handled: u32,
    /// How many stanzas the client has acknowledged.
    pub acked: u32,
    /// What the client has not acknowledged, and what it was not sent yet, in order.
    pub outbox: Vec<MovedStanza>,
    /// How many of `outbox`, from the front, were written to the client already.
    pub unacked: u32,
    /// Its last available presence.
    pub presence: Option<Stanza>,
    /// The priority of that.
    pub priority: i8,
    /// Whether it asked for the roster, so gets its changes (RFC 6121 §2.1.6).
    pub wants_roster: bool,
    /// Whether it knows roster versions (RFC 6121 §2.6).
    pub uses_roster_versions: bool,
    /// Whether it asked for the block list, so gets its changes (XEP-0191 §3.2).
    pub wants_block_list: bool,
    /// Whether it enabled carbons (XEP-0280 §4).
    pub carbons: bool,
    /// Whether its client is inactive (XEP-0352).
    pub inactive: bool,
    /// Whom it sent directed presence (RFC 6121 §4.6).
    pub directed: Vec<Jid>,
    /// The resumption time that its client was promised, in seconds.
    pub max_seconds: u32,
}

/// A stanza that waits for its client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MovedStanza {
    /// The stanza.
    pub stanza: Stanza,
    /// The `to` that the client sees, if it is not the stanza's own.
    pub to: Option<Jid>,
    /// Where it stands in the recipient's log, if it does.
    pub entry: Option<LogRef>,
    /// Whether what becomes of it is to be counted: a client sent it, and nothing has yet.
    pub counts: bool,
}
