//! One actor per transport stream.
//!
//! Negotiates TLS, login and resource binding (`connection/negotiation.rs`), moves to the arbiter
//! that owns the account, and from then on only moves bytes: parsed stanzas to its
//! [`UserSession`](crate::user_session::UserSession) in batches, and the session's
//! [`Outbox`](crate::outbox::Outbox) to the socket. Started for an accepted socket, stops when the
//! stream is closed.

use std::net::SocketAddr;

use actix::prelude::*;
use rookery_proto::stream::StreamError;

use crate::transport::{BoxIo, WebSocketStream};

/// Largest stanza before a stream has logged in; the least that RFC 6120 §13.12 allows.
pub const MAX_STANZA_BEFORE_LOGIN: usize = 10_000;

/// A transport stream that a listener has accepted.
pub enum Accepted {
    /// A TCP connection.
    Tcp {
        /// The socket; may still be in blocking mode.
        socket: std::net::TcpStream,
        /// The other side: the client, or the proxy in front of it.
        peer: SocketAddr,
        /// Whether TLS comes first (XEP-0368) rather than by STARTTLS.
        direct_tls: bool,
    },
    /// A WebSocket whose HTTP upgrade to the subprotocol `xmpp` is done (RFC 7395 §3.1).
    WebSocket {
        /// The messages.
        stream: Box<WebSocketStream<BoxIo>>,
        /// The client.
        peer: SocketAddr,
        /// Whether the bytes were encrypted on their way, by TLS here or at a trusted proxy.
        secure: bool,
    },
}

/// A connection that has logged in, taken apart so that another arbiter can go on with it.
pub struct Parts {
    _private: (),
}

/// Ends the stream: with this error, or without one just by `</stream:stream>`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Close(pub Option<StreamError>);

/// The actor of a transport stream.
pub struct Connection {
    _private: (),
}

impl Connection {
    /// Starts the actor for a new transport stream, on the arbiter that calls.
    pub fn accept(accepted: Accepted) {
        drop(accepted);
    }

    /// Starts the actor for a stream that authenticated on another arbiter, on the one that calls.
    pub fn adopt(parts: Box<Parts>) {
        drop(parts);
    }
}

impl Actor for Connection {
    type Context = Context<Self>;
}

impl Handler<Close> for Connection {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
