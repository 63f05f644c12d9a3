//! The transports that carry a stream: TCP, TLS over TCP, WebSocket.
//!
//! A connection owns one `Wire` and polls it. Nothing is buffered for an idle connection: what is
//! read goes into a `Scratch` of the thread, and only an incomplete TLS record or bytes that the
//! peer does not accept yet are kept, in vectors that go when they are empty.

use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_tungstenite::WebSocketStream;

pub mod exporter;
pub mod proxy_protocol;
pub mod tcp;
pub mod tls;
pub mod websocket;

use tcp::TcpWire;
use tls::TlsWire;
use websocket::WebSocketWire;

/// What a WebSocket runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a WebSocket runs over, whatever it is.
pub type BoxIo = Box<dyn Io>;

/// A stream's transport.
pub(crate) enum Wire {
    /// Plain TCP.
    Tcp(TcpWire),
    /// TLS over TCP.
    Tls(TlsWire),
    /// A WebSocket.
    WebSocket(Box<WebSocketWire>),
}

/// A [`Wire`] on its way to another arbiter.
pub(crate) enum WireParts {
    /// Plain TCP.
    Tcp(tcp::TcpParts),
    /// TLS over TCP.
    Tls(tls::TlsParts),
    /// A WebSocket; it stays registered with the reactor of the arbiter that accepted it.
    WebSocket(Box<WebSocketWire>),
}

/// What reading brought; the bytes are in the [`Scratch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// So many bytes of the stream, in [`Scratch::raw`].
    Raw(usize),
    /// Bytes of the stream, or one document of a WebSocket, in [`Scratch::plain`].
    Plain,
    /// The TLS handshake is complete; there may be bytes in [`Scratch::plain`] already.
    Handshaken,
    /// The peer will send nothing more.
    End,
}

/// Why a transport cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer broke the TLS protocol, or we share no parameters with it.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// A TLS message is larger than any that a client has reason to send.
    #[error("a TLS message is too long")]
    TlsMessageTooLong,
    /// Nothing can be encrypted in this state of the TLS connection.
    #[error("the TLS connection is closed")]
    TlsClosed,
    /// The peer broke the WebSocket protocol.
    #[error(transparent)]
    WebSocket(#[from] tungstenite::Error),
    /// The peer sent a binary message (RFC 7395 §3.2 asks for text).
    #[error("a WebSocket message is not text")]
    NotText,
}

impl Wire {
    /// Waits for input and puts it into the scratch buffers.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<Input, Error>> {
        match self {
            Self::Tcp(wire) => wire
                .poll_read(cx, &mut scratch.raw)
                .map(|read| match read? {
                    0 => Ok(Input::End),
                    n => Ok(Input::Raw(n)),
                }),
            Self::Tls(wire) => wire.poll_read(cx, scratch),
            Self::WebSocket(wire) => wire.poll_read(cx, &mut scratch.plain),
        }
    }

    /// Hands the output to the socket and keeps what the socket does not take.
    ///
    /// Call it only when nothing is unsent, except for the last words of a stream.
    ///
    /// # Errors
    /// The stream is over.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, output: &Output) -> Result<(), Error> {
        if output.bytes.is_empty() {
            return Ok(());
        }
        match self {
            Self::Tcp(wire) => Ok(wire.send(cx, &output.bytes, output.bytes.len())?),
            Self::Tls(wire) => wire.send(cx, &output.bytes),
            Self::WebSocket(wire) => wire.send(cx, output.documents()),
        }
    }

    /// Ready when the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Tcp(wire) => wire.poll_flush(cx).map_err(Error::from),
            Self::Tls(wire) => wire.poll_flush(cx),
            Self::WebSocket(wire) => wire.poll_flush(cx),
        }
    }

    /// How many bytes of the last output the socket has not taken, at most. A TLS record counts
    /// until its last byte is taken, because the peer cannot read a part of it.
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Self::Tcp(wire) => wire.unsent(0),
            Self::Tls(wire) => wire.unsent(),
            Self::WebSocket(wire) => wire.unsent(),
        }
    }

    /// Whether the socket has not taken everything.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Tcp(wire) => wire.has_unsent(),
            Self::Tls(wire) => wire.has_unsent(),
            Self::WebSocket(wire) => wire.has_unsent(),
        }
    }

    /// Says that nothing more will be sent, in the way of the transport, after what is unsent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Tcp(wire) => wire.poll_shutdown(cx).map_err(Error::from),
            Self::Tls(wire) => wire.poll_shutdown(cx),
            Self::WebSocket(wire) => wire.poll_shutdown(cx),
        }
    }

    /// Name of the transport in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Tls(_) => "tls",
            Self::WebSocket(_) => "websocket",
        }
    }

    /// Takes the wire off this thread.
    ///
    /// # Errors
    /// When the socket cannot be taken from the reactor.
    pub(crate) fn into_parts(self) -> io::Result<WireParts> {
        Ok(match self {
            Self::Tcp(wire) => WireParts::Tcp(wire.into_parts()?),
            Self::Tls(wire) => WireParts::Tls(wire.into_parts()?),
            Self::WebSocket(wire) => WireParts::WebSocket(wire),
        })
    }
}

impl WireParts {
    /// Puts the wire to use on this thread.
    ///
    /// # Errors
    /// When the socket cannot be registered with the reactor.
    pub(crate) fn into_wire(self) -> io::Result<Wire> {
        Ok(match self {
            Self::Tcp(parts) => Wire::Tcp(TcpWire::from_parts(parts)?),
            Self::Tls(parts) => Wire::Tls(TlsWire::from_parts(parts)?),
            Self::WebSocket(wire) => Wire::WebSocket(wire),
        })
    }
}

/// What one turn of a connection writes: documents (a stream header, a stanza, …) one after the
/// other. TCP sends them as they are, a WebSocket makes a message of each.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Output {
    /// Appends a document; `write` must only append.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        if self.ends.last().copied().unwrap_or(0) < self.bytes.len() {
            self.ends.push(self.bytes.len());
        }
    }

    /// Appends a document.
    pub(crate) fn push_bytes(&mut self, document: &[u8]) {
        self.push(|out| out.extend_from_slice(document));
    }

    /// Length of all documents together.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The documents.
    pub(crate) fn documents(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(self.ends.iter().copied())
            .map(|(start, end)| &self.bytes[start..end])
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Bytes that one read may bring, and with it the largest TLS message.
const READ_BYTES: usize = 32 * 1024;
/// Scratch vectors that have grown beyond this (by large stanzas) are not kept.
const KEPT_BYTES: usize = 512 * 1024;

/// Buffers that all connections of a thread share, each for the length of a turn.
pub(crate) struct Scratch {
    /// What the socket delivered.
    pub(crate) raw: Box<[u8]>,
    /// What came out of TLS or a WebSocket.
    pub(crate) plain: Vec<u8>,
    /// What is to be sent.
    pub(crate) output: Output,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The thread's [`Scratch`], given back when dropped.
pub(crate) struct Borrowed(Option<Box<Scratch>>);

impl Scratch {
    /// Takes the thread's buffers; makes new ones if they are taken.
    pub(crate) fn borrow() -> Borrowed {
        let scratch = SCRATCH.take().unwrap_or_else(|| {
            Box::new(Self {
                raw: vec![0; READ_BYTES].into_boxed_slice(),
                plain: Vec::new(),
                output: Output::default(),
            })
        });
        Borrowed(Some(scratch))
    }
}

impl Deref for Borrowed {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mut scratch) = self.0.take() {
            scratch.plain.clear();
            scratch.plain.shrink_to(KEPT_BYTES);
            scratch.output.clear();
            scratch.output.bytes.shrink_to(KEPT_BYTES);
            SCRATCH.set(Some(scratch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_remembers_where_documents_end() {
        let mut output = Output::default();
        output.push_bytes(b"<a/>");
        output.push_bytes(b"");
        output.push(|out| out.extend_from_slice(b"<bb/>"));
        assert_eq!(
            output.documents().collect::<Vec<_>>(),
            [&b"<a/>"[..], b"<bb/>"]
        );
        assert_eq!(output.len(), 9);
        output.clear();
        assert!(output.is_empty());
        assert_eq!(output.documents().count(), 0);
    }

    #[test]
    fn scratch_buffers_are_reused_and_come_back_empty() {
        let mut first = Scratch::borrow();
        first.output.push_bytes(b"x");
        first.plain.extend_from_slice(b"y");
        let address = first.raw.as_ptr();
        let other = Scratch::borrow();
        assert_ne!(other.raw.as_ptr(), address);
        drop(other);
        drop(first);
        let again = Scratch::borrow();
        assert_eq!(again.raw.as_ptr(), address);
        assert!(again.plain.is_empty() && again.output.is_empty());
    }
}
