//! TLS over TCP, by rustls' unbuffered interface: an idle connection keeps the keys and no buffers.
//!
//! What arrives is decrypted out of a buffer of the thread; only an incomplete record is kept. What
//! is sent is encrypted into another one and written at once.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustls::server::{NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus,
};
use rustls::{ProtocolVersion, ServerConfig};

use super::exporter::{self, BINDING_BYTES, ExporterLog};
use super::tcp::{TcpParts, TcpWire};
use super::{Error, Input, Scratch};
use crate::metrics;

/// ALPN protocol of client streams (XEP-0368 §4).
pub const ALPN: &[u8] = b"xmpp-client";

/// Most plaintext in one record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

/// The TLS configuration that connections rely on: TLS 1.3 and 1.2 with this certificate, the key
/// log that channel binding needs, and ALPN for clients that offer it (others are served as well).
///
/// Sessions are not resumed: tickets cost memory here and a round of signing is cheap, and a client
/// that is back resumes its XMPP session, not its TLS session.
///
/// # Errors
/// When the cryptography provider lacks something, which the one that is built in does not.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.key_log = Arc::new(ExporterLog);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS over a TCP socket, as the server.
pub(crate) struct TlsWire {
    tcp: TcpWire,
    session: Box<Session>,
}

/// A [`TlsWire`] on its way to another arbiter.
pub(crate) struct TlsParts {
    tcp: TcpParts,
    session: Box<Session>,
}

/// The state of the TLS connection.
struct Session {
    tls: UnbufferedServerConnection,
    /// An incomplete record (or handshake message) that has arrived.
    carry: Vec<u8>,
    /// Whether `carry` came from elsewhere and has not been looked at.
    is_fresh: bool,
    handshake: Handshake,
    peer_closed: bool,
    /// `close_notify` was sent, or the connection failed: rustls is not to be asked again.
    closed: bool,
}

enum Handshake {
    /// Under way since then.
    Running {
        since: Instant,
        secret: Option<Vec<u8>>,
    },
    /// Complete; with channel binding data until somebody takes it.
    Done(Option<Box<[u8; BINDING_BYTES]>>),
}

impl TlsWire {
    /// Starts a handshake on a connection on which `received` has arrived already.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(crate) fn new(
        tcp: TcpWire,
        config: Arc<ServerConfig>,
        received: Vec<u8>,
    ) -> Result<Self, Error> {
        let session = Box::new(Session {
            tls: UnbufferedServerConnection::new(config)?,
            is_fresh: !received.is_empty(),
            carry: received,
            handshake: Handshake::Running {
                since: Instant::now(),
                secret: None,
            },
            peer_closed: false,
            closed: false,
        });
        Ok(Self { tcp, session })
    }

    /// Takes the socket from the reactor.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn into_parts(self) -> io::Result<TlsParts> {
        Ok(TlsParts {
            tcp: self.tcp.into_parts()?,
            session: self.session,
        })
    }

    /// Registers the socket with the reactor of this thread.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn from_parts(parts: TlsParts) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpWire::from_parts(parts.tcp)?,
            session: parts.session,
        })
    }

    /// The `tls-exporter` channel binding data; once, after a TLS 1.3 handshake.
    pub(crate) fn take_channel_binding(&mut self) -> Option<[u8; BINDING_BYTES]> {
        match &mut self.session.handshake {
            Handshake::Done(binding) => binding.take().map(|binding| *binding),
            Handshake::Running { .. } => None,
        }
    }

    /// Reads until something comes of it: plaintext, a complete handshake, or the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<Input, Error>> {
        loop {
            let session = &mut self.session;
            if session.peer_closed {
                return Poll::Ready(Ok(Input::End));
            }
            let mut carried = Vec::new();
            let incoming = if std::mem::take(&mut session.is_fresh) {
                carried.append(&mut session.carry);
                &mut carried[..]
            } else {
                let kept = session.carry.len();
                let space = &mut scratch.raw[kept..];
                if space.is_empty() {
                    return Poll::Ready(Err(Error::TlsMessageTooLong));
                }
                let n = ready!(self.tcp.poll_read(cx, space))?;
                if n == 0 {
                    return Poll::Ready(Ok(Input::End));
                }
                scratch.raw[..kept].copy_from_slice(&session.carry);
                session.carry = Vec::new();
                &mut scratch.raw[..kept + n]
            };
            let mut records = Records::borrow();
            let result = session.process(incoming, &mut scratch.plain, &mut records);
            // Also after an error: the alert tells the peer why.
            self.tcp.send(cx, records.bytes(), 0)?;
            let is_complete = result?;
            if is_complete {
                return Poll::Ready(Ok(Input::Handshaken));
            }
            if !scratch.plain.is_empty() {
                return Poll::Ready(Ok(Input::Plain));
            }
        }
    }

    /// Encrypts and sends.
    ///
    /// # Errors
    /// The socket is broken, or the TLS connection closed.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, plain: &[u8]) -> Result<(), Error> {
        let mut records = Records::borrow();
        if self.session.closed {
            return Err(Error::TlsClosed);
        }
        self.session.encrypt(plain, &mut records)?;
        Ok(self.tcp.send(cx, records.bytes(), plain.len())?)
    }

    /// Ready when the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.tcp.poll_flush(cx).map_err(Error::from)
    }

    /// Whether the socket has not taken everything.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tcp.has_unsent()
    }

    /// How many bytes of plaintext are in records that are not completely with the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.tcp.unsent(RECORD)
    }

    /// Sends `close_notify` and closes this direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !std::mem::replace(&mut self.session.closed, true) {
            let mut records = Records::borrow();
            self.session.close_notify(&mut records);
            self.tcp.send(cx, records.bytes(), 0)?;
        }
        self.tcp.poll_shutdown(cx).map_err(Error::from)
    }
}

impl Session {
    /// Takes in what has arrived. True when this completed the handshake.
    fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        records: &mut Records,
    ) -> Result<bool, Error> {
        let mut consumed = 0;
        let mut failed = None;
        let mut is_ready = false;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut incoming[consumed..]);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    records.encode(&mut data);
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    true
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    is_ready = true;
                    false
                }
                Ok(_) => false,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            };
            consumed += discard;
            if !goes_on {
                break;
            }
        }
        if let Handshake::Running { secret, .. } = &mut self.handshake
            && let Some(exported) = exporter::take_secret()
        {
            *secret = Some(exported);
        }
        if let Some(error) = failed {
            self.closed = true;
            self.alert(records);
            if matches!(self.handshake, Handshake::Running { .. }) {
                metrics::TLS_HANDSHAKES.with_label_values(&["failed"]).inc();
            }
            return Err(error.into());
        }
        // An allocation of just the size that is needed, or none.
        self.carry = incoming[consumed..].to_vec();
        Ok(is_ready && self.complete_handshake())
    }

    /// Encodes the alert that an error has left.
    ///
    /// rustls must not look at any input again: it would find the same error, and panic because an
    /// alert was sent for it already.
    fn alert(&mut self, records: &mut Records) {
        while self.tls.wants_write() {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => records.encode(&mut data),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while traffic.next_record().is_some() {}
                }
                _ => return,
            }
        }
    }

    /// Notes that the handshake is complete; true the first time.
    fn complete_handshake(&mut self) -> bool {
        let Handshake::Running { since, secret } = &self.handshake else {
            return false;
        };
        metrics::TLS_HANDSHAKES.with_label_values(&["ok"]).inc();
        metrics::TLS_HANDSHAKE_SECONDS.observe(since.elapsed().as_secs_f64());
        let is_tls13 = self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let binding = match (secret, self.tls.negotiated_cipher_suite()) {
            (Some(secret), Some(suite)) if is_tls13 => exporter::channel_binding(secret, suite),
            _ => None,
        };
        self.handshake = Handshake::Done(binding.map(Box::new));
        true
    }

    fn encrypt(&mut self, plain: &[u8], records: &mut Records) -> Result<(), Error> {
        self.when_writable(records, |traffic, records| {
            // A header, a content type and an authentication tag for each record.
            let overhead = (plain.len() / RECORD + 1) * 64;
            let mut needed = plain.len() + overhead;
            loop {
                match traffic.encrypt(plain, records.space(needed)) {
                    Ok(n) => {
                        records.len += n;
                        return Ok(());
                    }
                    Err(EncryptError::InsufficientSize(InsufficientSizeError {
                        required_size,
                    })) if required_size > needed => {
                        needed = required_size;
                    }
                    Err(_) => return Err(Error::TlsClosed),
                }
            }
        })
    }

    /// Says goodbye, if the handshake has come far enough for that.
    fn close_notify(&mut self, records: &mut Records) {
        // If it cannot be said, then the connection has failed, and there is nobody to tell.
        let _ = self.when_writable(records, |traffic, records| {
            if let Ok(n) = traffic.queue_close_notify(records.space(1024)) {
                records.len += n;
            }
            Ok(())
        });
    }

    /// Calls `write` once rustls accepts application data; first encodes what it wants to send.
    fn when_writable(
        &mut self,
        records: &mut Records,
        mut write: impl FnMut(&mut Traffic<'_>, &mut Records) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.carry);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.closed = true;
                    return Err(error.into());
                }
            };
            let written = match state {
                ConnectionState::EncodeTlsData(mut data) => {
                    records.encode(&mut data);
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::PeerClosed => {
                    self.peer_closed = true;
                    None
                }
                ConnectionState::WriteTraffic(mut traffic) => Some(write(&mut traffic, records)),
                _ => Some(Err(Error::TlsClosed)),
            };
            self.carry.drain(..discard);
            if let Some(written) = written {
                return written;
            }
        }
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Encrypted records on their way to the socket, in a buffer that the thread's connections share.
struct Records {
    /// Zeroes after `len`, so that rustls can write there.
    buffer: Vec<u8>,
    len: usize,
}

thread_local! {
    static RECORDS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Records {
    /// The thread's buffer, or a new one if that is in use.
    fn borrow() -> Self {
        Self {
            buffer: RECORDS.take(),
            len: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// At least `needed` bytes to write into.
    fn space(&mut self, needed: usize) -> &mut [u8] {
        if self.buffer.len() < self.len + needed {
            self.buffer.resize(self.len + needed, 0);
        }
        &mut self.buffer[self.len..]
    }

    fn encode<Data>(&mut self, data: &mut EncodeTlsData<'_, Data>) {
        let mut needed = 1024;
        loop {
            match data.encode(self.space(needed)) {
                Ok(n) => {
                    self.len += n;
                    return;
                }
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                    if required_size > needed =>
                {
                    needed = required_size;
                }
                Err(_) => return,
            }
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() > super::KEPT_BYTES {
            buffer.truncate(super::KEPT_BYTES);
            buffer.shrink_to_fit();
        }
        RECORDS.set(buffer);
    }
}

#[cfg(test)]
pub(crate) mod tests;
