//! What a service manager that started the server is told about it: systemd's notification protocol
//! (`sd_notify(3)`), one datagram for each change. Without systemd nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A change that the service manager waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Connections are taken.
    Ready,
    /// Certificates are read again; [`Change::Ready`] follows.
    Reloading,
    /// Streams end.
    Stopping,
}

impl Change {
    /// As the protocol has it.
    fn message(self) -> String {
        match self {
            Self::Ready => "READY=1".into(),
            Self::Reloading => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Self::Stopping => "STOPPING=1".into(),
        }
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn tell(change: Change) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, &change.message()) {
        tracing::warn!(%error, ?change, "the service manager cannot be told");
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    // A name that begins with @ is one in Linux' abstract namespace.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the server.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_change_arrives_at_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &Change::Ready.message()).unwrap();
        assert_eq!(received(&manager), "READY=1");
        send(path.as_os_str(), &Change::Stopping.message()).unwrap();
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn a_change_arrives_at_an_abstract_name() {
        let name = format!("rookery-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(
            OsStr::new(&format!("@{name}")),
            &Change::Reloading.message(),
        )
        .unwrap();
        let message = received(&manager);
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(
            time.is_some_and(|time| time.parse::<u64>().is_ok()),
            "{message}"
        );
    }

    #[test]
    fn nobody_at_the_other_end_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nobody");
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }
}
