//! What XMPP says on the wire, as plain values: no I/O and no clock.
//!
//! Owns addresses, XML, stanzas, streams and the errors of the protocol. It leaves to others what to
//! do with them: rules of RFC 6121 and the XEPs are in `rookery-features`, sockets in
//! `rookery-actors`.
//!
//! The types to know:
//!
//! - [`Jid`], [`BareJid`] and [`FullJid`]: addresses, prepared by RFC 7622 when they are made.
//! - [`stream::Framer`]: bytes of a TCP stream in, one [`stream::Frame`] after the other out.
//! - [`Stanza`]: the decoded header of a message, presence or IQ, and its content as checked XML text
//!   that many recipients share.
//! - [`Element`]: an XML tree, for those who look inside.
//! - [`StanzaError`] and [`stream::StreamError`]: what the other side is told.

pub mod cluster;
pub mod credentials;
pub mod datetime;
pub mod error;
pub mod jid;
pub mod ns;
pub mod octets;
pub mod roster;
pub mod stanza;
pub mod stream;
pub mod xml;

pub use error::{Condition, ErrorType, StanzaError};
pub use jid::{BareJid, FullJid, Jid};
pub use stanza::{IqType, Kind, MessageType, PresenceType, Rejected, Stanza};
pub use xml::Element;
