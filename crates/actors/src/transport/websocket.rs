//! XMPP over WebSocket, the transport part of RFC 7395: one document per text message.
//!
//! The HTTP upgrade is done elsewhere; what comes here speaks WebSocket already.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use tokio_tungstenite::WebSocketStream;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::{BoxIo, Error, Input};

/// The subprotocol that the HTTP upgrade has to agree on (RFC 7395 §3.1).
pub const SUBPROTOCOL: &str = "xmpp";

/// How WebSockets for [`Accepted`](crate::connection::Accepted) are to be set up: small buffers, and
/// no message longer than the longest stanza.
pub fn config(max_stanza_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(64 * 1024)
        .max_message_size(Some(max_stanza_bytes))
        .max_frame_size(Some(max_stanza_bytes))
}

/// A WebSocket that carries a stream.
pub(crate) struct WebSocketWire {
    stream: WebSocketStream<BoxIo>,
    /// Bytes of documents that the WebSocket has taken and not flushed.
    unsent: usize,
}

impl WebSocketWire {
    /// A stream over this WebSocket.
    pub(crate) fn new(stream: WebSocketStream<BoxIo>) -> Self {
        Self { stream, unsent: 0 }
    }

    /// Reads one document. Pings are answered, and not seen.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut Vec<u8>,
    ) -> Poll<Result<Input, Error>> {
        loop {
            match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => {
                    plain.extend_from_slice(text.as_bytes());
                    return Poll::Ready(Ok(Input::Plain));
                }
                Some(Ok(Message::Binary(_))) => return Poll::Ready(Err(Error::NotText)),
                // After a close message the stream ends by itself, with the answer sent.
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
                )) => {}
                None
                | Some(Err(
                    WsError::ConnectionClosed
                    | WsError::AlreadyClosed
                    | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )) => return Poll::Ready(Ok(Input::End)),
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Sends documents, each as a message.
    ///
    /// # Errors
    /// The WebSocket is broken or closed.
    pub(crate) fn send<'a>(
        &mut self,
        cx: &mut Context<'_>,
        documents: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Error> {
        for document in documents {
            let text = Utf8Bytes::try_from(document.to_vec()).map_err(|_| Error::NotText)?;
            Pin::new(&mut self.stream).start_send(Message::Text(text))?;
            self.unsent += document.len();
        }
        match self.poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Ready when everything is with the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unsent > 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unsent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the socket has not taken everything.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Bytes of documents that may not be with the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Sends the close message (RFC 7395 §3.6).
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream)
            .poll_close(cx)
            .map_err(Error::from)
    }
}
