//! Plain TCP: reads into a buffer of the thread, writes directly, keeps what the socket refuses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP socket and what it has not taken yet.
pub(crate) struct TcpWire {
    socket: TcpStream,
    unsent: Option<Box<Unsent>>,
}

/// A [`TcpWire`] on its way to another arbiter.
pub(crate) struct TcpParts {
    socket: std::net::TcpStream,
    unsent: Option<Box<Unsent>>,
}

/// Bytes that the socket has not taken.
struct Unsent {
    bytes: Vec<u8>,
    /// How many of `bytes` the socket has taken after all.
    taken: usize,
    /// Length of the whole output that these bytes are the end of.
    wire_len: usize,
    /// Length of that output before encryption.
    plain_len: usize,
}

impl TcpWire {
    /// Registers a socket with the reactor of this thread.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn new(socket: std::net::TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Stanzas are small and somebody waits for each.
        socket.set_nodelay(true)?;
        Ok(Self {
            socket: TcpStream::from_std(socket)?,
            unsent: None,
        })
    }

    /// Takes the socket from the reactor.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn into_parts(self) -> io::Result<TcpParts> {
        Ok(TcpParts {
            socket: self.socket.into_std()?,
            unsent: self.unsent,
        })
    }

    /// Registers the socket with the reactor of this thread.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn from_parts(parts: TcpParts) -> io::Result<Self> {
        Ok(Self {
            socket: TcpStream::from_std(parts.socket)?,
            unsent: parts.unsent,
        })
    }

    /// Reads into the buffer; 0 at the end of the stream. Nothing is kept while it waits.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // tokio clears the readiness after a partial read, so that an idle socket costs one call.
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Sends bytes that were `plain_len` bytes before encryption.
    ///
    /// # Errors
    /// The socket is broken.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        plain_len: usize,
    ) -> io::Result<()> {
        if let Some(unsent) = &mut self.unsent {
            unsent.bytes.extend_from_slice(bytes);
            unsent.wire_len += bytes.len();
            unsent.plain_len += plain_len;
            return Ok(());
        }
        let mut taken = 0;
        while taken < bytes.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &bytes[taken..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => taken += n,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.unsent = Some(Box::new(Unsent {
                        bytes: bytes[taken..].to_vec(),
                        taken: 0,
                        wire_len: bytes.len(),
                        plain_len,
                    }));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ready when the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent) = &mut self.unsent {
            let rest = &unsent.bytes[unsent.taken..];
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n if n == rest.len() => self.unsent = None,
                n => unsent.taken += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the socket has not taken everything.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.is_some()
    }

    /// How many bytes of the last output, counted before encryption into records of at most
    /// `record` bytes, are not completely with the socket. 0: there are no records.
    pub(crate) fn unsent(&self, record: usize) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| {
            let left = unsent.bytes.len() - unsent.taken;
            unsent_plain(unsent.plain_len, unsent.wire_len, left, record)
        })
    }

    /// Sends what is unsent and then closes this direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The part of `plain` bytes that is not complete at the socket when `left` of the `wire` bytes they
/// became are still here.
fn unsent_plain(plain: usize, wire: usize, left: usize, record: usize) -> usize {
    if record == 0 {
        return left.min(plain);
    }
    let records = plain.div_ceil(record).max(1);
    let overhead = wire.saturating_sub(plain).div_ceil(records);
    let complete = (wire - left) / (record + overhead);
    plain.saturating_sub(complete * record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_records_every_byte_counts_for_itself() {
        assert_eq!(unsent_plain(100, 100, 30, 0), 30);
    }

    #[test]
    fn a_record_counts_until_its_last_byte_is_taken() {
        // Two full records of 10 and one of 5, with 2 bytes of overhead each.
        let (plain, wire) = (25, 31);
        assert_eq!(unsent_plain(plain, wire, 31, 10), 25);
        assert_eq!(unsent_plain(plain, wire, 20, 10), 25);
        assert_eq!(unsent_plain(plain, wire, 19, 10), 15);
        assert_eq!(unsent_plain(plain, wire, 1, 10), 5);
    }

    #[actix::test]
    async fn what_a_full_socket_refuses_is_sent_later_in_order() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut wire = TcpWire::new(listener.accept().unwrap().0).unwrap();
        let sent: Vec<u8> = (0..16 * 1024 * 1024_u32)
            .map(|n| n.to_le_bytes()[n as usize % 3])
            .collect();
        std::future::poll_fn(|cx| Poll::Ready(wire.send(cx, &sent, sent.len())))
            .await
            .unwrap();
        assert!(wire.has_unsent() && wire.unsent(0) > 0);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut &client, &mut all).unwrap();
            all
        });
        std::future::poll_fn(|cx| wire.poll_shutdown(cx))
            .await
            .unwrap();
        assert!(!wire.has_unsent());
        assert!(reader.join().unwrap() == sent);
    }
}
