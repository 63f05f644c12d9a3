//! A TCP proxy that can be told to be slow, to swallow what comes, or to break: the network between two
//! programs as it is on bad days.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What the proxy does with what it gets, and with new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Passes everything on after this time, in each direction.
    Slow(Duration),
    /// Takes connections and bytes, and passes nothing on: what it took is lost.
    Swallow,
    /// Ends connections as soon as they come.
    Refuse,
}

/// A proxy on a port of its own. It ends with this value.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts the cuts: connections of an earlier count end.
    cuts: Arc<watch::Sender<u32>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let mode = watch::Sender::new(Mode::Pass);
        let cuts = Arc::new(watch::Sender::new(0));
        let task = tokio::spawn(accept(listener, target, mode.subscribe(), cuts.clone()));
        Self {
            address,
            mode,
            cuts,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Ends all connections; what was under way in them is lost.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
    cuts: Arc<watch::Sender<u32>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Refuse {
            continue;
        }
        let mut cut = cuts.subscribe();
        cut.mark_unchanged();
        let mode = mode.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connect(client, target, mode) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn connect(client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    // A network that swallows packets swallows those that open a connection, too.
    if mode.wait_for(|mode| *mode != Mode::Swallow).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pass(from_client, to_server, mode.clone()),
        pass(from_server, to_client, mode)
    );
}

/// One direction. Bytes keep their order and their distance; a reader that is late holds nobody up but
/// its own sender.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
) {
    let (queue, mut queued) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let delay = match *mode.borrow() {
                Mode::Pass => Duration::ZERO,
                Mode::Slow(delay) => delay,
                Mode::Swallow => continue,
                Mode::Refuse => return,
            };
            let due = Instant::now() + delay;
            if queue.send((due, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::within;

    async fn pair() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await;
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = within("the proxy to connect", listener.accept())
            .await
            .unwrap();
        (proxy, client, server)
    }

    async fn next(socket: &mut TcpStream) -> Option<u8> {
        within("a byte or the end", socket.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions_late_if_it_is_slow() {
        let (proxy, mut client, mut server) = pair().await;
        client.write_u8(1).await.unwrap();
        assert_eq!(next(&mut server).await, Some(1));
        server.write_u8(2).await.unwrap();
        assert_eq!(next(&mut client).await, Some(2));
        proxy.set(Mode::Slow(Duration::from_millis(50)));
        let start = Instant::now();
        client.write_u8(3).await.unwrap();
        assert_eq!(next(&mut server).await, Some(3));
        assert!(start.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn swallowed_bytes_are_lost_and_a_cut_ends_connections() {
        let (proxy, mut client, mut server) = pair().await;
        proxy.set(Mode::Swallow);
        client.write_u8(1).await.unwrap();
        proxy.cut();
        assert_eq!(next(&mut server).await, None);
        assert_eq!(next(&mut client).await, None);
    }
}
