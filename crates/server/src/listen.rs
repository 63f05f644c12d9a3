//! Listening sockets: opening all of them before anything is served, and accepting.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::metrics;

/// Connections that the kernel keeps until they are accepted: no more than Linux does by itself. Those that it
/// has to drop come again after one second, three and seven, each time all at once.
const BACKLOG: i32 = 4096;

/// The pause when the process has no file descriptor or memory left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A port cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {}", said(.reason))]
pub(crate) struct ListenError {
    key: &'static str,
    address: SocketAddr,
    reason: io::Error,
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another program uses this port (or another rookery)".into(),
        ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE".into()
        }
        ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
        _ => error.to_string(),
    }
}

/// A socket that has its address but takes no connections yet.
#[derive(Debug)]
pub(crate) struct Bound {
    key: &'static str,
    socket: Socket,
    address: SocketAddr,
}

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) struct Listener {
    key: &'static str,
    socket: TcpListener,
}

impl Bound {
    /// The address in use, with the port that was chosen for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The setting that asks for it.
    pub(crate) fn key(&self) -> &'static str {
        self.key
    }

    /// Begins to take connections. Needs a runtime.
    ///
    /// # Errors
    /// If another program took the port since.
    pub(crate) fn listen(self) -> Result<Listener, ListenError> {
        let Self {
            key,
            socket,
            address,
        } = self;
        let listening = socket
            .listen(BACKLOG)
            .and_then(|()| TcpListener::from_std(socket.into()));
        match listening {
            Ok(socket) => Ok(Listener { key, socket }),
            Err(reason) => Err(ListenError {
                key,
                address,
                reason,
            }),
        }
    }
}

/// Takes the addresses of one setting.
///
/// # Errors
/// Names the setting and the first address that cannot be had.
pub(crate) fn bind(key: &'static str, addresses: &[SocketAddr]) -> Result<Vec<Bound>, ListenError> {
    addresses
        .iter()
        .map(|&address| bind_one(key, address))
        .collect()
}

fn bind_one(key: &'static str, address: SocketAddr) -> Result<Bound, ListenError> {
    let socket = match open(address) {
        // A machine without IPv6: "all addresses" are then the IPv4 ones.
        Err(error) if is_any_v6(address) && lacks_ipv6(&error) => open(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            address.port(),
        )),
        other => other,
    };
    let bound = socket.and_then(|socket| {
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Bound {
            key,
            socket,
            address,
        })
    });
    bound.map_err(|reason| ListenError {
        key,
        address,
        reason,
    })
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit these. A stanza must not wait for the acknowledgement of the last,
    // and a client that vanished without a word is noticed after about ten minutes.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_mins(5))
            .with_interval(Duration::from_mins(1))
            .with_retries(5),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own.
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.raw_os_error() == Some(no_family) || error.kind() == ErrorKind::AddrNotAvailable
}

/// A listener takes so many connections in such a time at most: 8,000 a second.
const AT_ONCE: u32 = 16;
const WINDOW: Duration = Duration::from_millis(2);

impl Listener {
    /// The setting that asks for it.
    pub(crate) fn key(&self) -> &'static str {
        self.key
    }

    /// Hands every new connection to `take`, until it is dropped. The socket is non-blocking and has
    /// `TCP_NODELAY`.
    pub(crate) async fn run(self, mut take: impl FnMut(TcpStream, SocketAddr)) {
        let accepted = metrics::ACCEPTED.with_label_values(&[self.key]);
        let mut window = (Instant::now(), 0);
        loop {
            // Thousands that come at once would keep a core busy; they can as well wait in the backlog.
            if window.1 == AT_ONCE {
                tokio::time::sleep_until(window.0 + WINDOW).await;
            }
            // A timer that was late makes the next window shorter.
            if let Some(late) = window.0.elapsed().checked_sub(WINDOW) {
                window = (Instant::now() - late.min(WINDOW), 0);
            }
            window.1 += 1;
            // The socket leaves this thread's reactor: it is handed to whoever serves it.
            let taken = self.socket.accept().await;
            match taken.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                Ok((socket, peer)) => {
                    accepted.inc();
                    take(socket, canonical(peer));
                }
                Err(error) if is_exhausted(&error) => {
                    metrics::ACCEPT_FAILURES
                        .with_label_values(&[self.key])
                        .inc();
                    tracing::error!(
                        listener = self.key, %error,
                        "cannot accept connections; raise the limit on open files"
                    );
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The client went away before it was accepted.
                Err(error) => tracing::debug!(%error, "lost a new connection"),
            }
        }
    }
}

/// An IPv4 client of a dual-stack socket, as the IPv4 address it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`: trying again at once would only burn a core.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Lets the process have as many open files as the system allows it; returns how many.
pub(crate) fn raise_open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_becomes_a_real_port() {
        let bound = bind("c2s.listen", &["127.0.0.1:0".parse().unwrap()]).unwrap();
        assert_ne!(bound[0].address().port(), 0);
        assert_eq!(bound[0].address().ip(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("c2s.listen", &[address]).unwrap_err().to_string();
        assert!(
            error.contains("c2s.listen") && error.contains(&address.to_string()),
            "{error}"
        );
        assert!(error.contains("another program uses this port"), "{error}");
    }

    #[tokio::test]
    async fn a_dual_stack_socket_takes_ipv4_clients_under_their_own_address() {
        let bound = bind("c2s.listen", &["[::]:0".parse().unwrap()])
            .unwrap()
            .remove(0);
        let port = bound.address().port();
        let listener = bound.listen().unwrap();
        let (found, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let accepting = tokio::spawn(listener.run(move |socket, peer| {
            let _ = found.send((socket, peer));
        }));
        let client = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let (socket, peer) = accepted.recv().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(socket.nodelay().unwrap());
        accepting.abort();
    }
}
