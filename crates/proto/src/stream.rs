//! XML streams (RFC 6120 §4): their headers, their framing and their errors, over TCP and over
//! WebSocket (RFC 7395).

mod error;
mod framer;
mod header;
mod scope;

pub(crate) use framer::check_declaration;

pub use error::{StreamCondition, StreamError};
pub use framer::{Frame, Framer, Limits, ws_frame};
pub use header::{StreamHeader, Version, ws_close};
pub use scope::StreamScope;

/// How elements are put on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Children of one stream element, which declares the namespaces (RFC 6120 §4).
    Tcp,
    /// Each a document of its own, which declares its namespace (RFC 7395 §3).
    WebSocket,
}
