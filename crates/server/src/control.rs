//! The control socket: how commands tell a running server what they changed in its database.
//!
//! A Unix socket `control.sock` in `server.data_dir`, for the owner only. One request a connection:
//! a line `account-changed ADDRESS` or `account-removed ADDRESS`, answered by the line `ok`: the node
//! ends the account's sessions and tells the other nodes. The database is the truth: a server that is
//! not told notices at the next login.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rookery_proto::jid::BareJid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::data_dir::DataDir;

/// How long either side waits for the other.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest request: a verb and an address (RFC 7622: 1023 octets a part).
const MAX_REQUEST: u64 = 4096;

/// What a command did to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountChanged {
    /// The account.
    pub(crate) account: BareJid,
    /// Whether it is gone, rather than has another password.
    pub(crate) removed: bool,
}

impl AccountChanged {
    fn to_line(&self) -> String {
        let verb = if self.removed {
            "account-removed"
        } else {
            "account-changed"
        };
        format!("{verb} {}\n", self.account.as_str())
    }

    fn parse(line: &str) -> Option<Self> {
        let (verb, address) = line.trim_end_matches('\n').split_once(' ')?;
        let removed = match verb {
            "account-removed" => true,
            "account-changed" => false,
            _ => return None,
        };
        Some(Self {
            account: BareJid::parse(address).ok()?,
            removed,
        })
    }
}

/// Opens the control socket. One that a killed server left is replaced: the directory is ours.
///
/// # Errors
/// If the socket cannot be made, for example because its path is longer than 107 bytes.
pub(crate) fn listen(data_dir: &DataDir) -> io::Result<UnixListener> {
    let path = socket_path(data_dir.path());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Answers requests, one at a time, until it is dropped.
pub(crate) async fn serve(listener: UnixListener, changed: impl Fn(AccountChanged)) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                match tokio::time::timeout(TIMEOUT, answer(socket, &changed)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "control socket"),
                    Err(_) => tracing::warn!("control socket: a command fell silent"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut socket: UnixStream, changed: impl Fn(AccountChanged)) -> io::Result<()> {
    let (reader, mut writer) = socket.split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST))
        .read_line(&mut line)
        .await?;
    let reply: &[u8] = match AccountChanged::parse(&line) {
        Some(change) => {
            changed(change);
            b"ok\n"
        }
        None => b"not understood\n",
    };
    writer.write_all(reply).await
}

/// What became of telling a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It knows.
    Server,
    /// None runs on this data directory.
    Nobody,
}

/// Tells the server that runs on this data directory, if there is one.
///
/// # Errors
/// If there is one and it did not answer.
pub(crate) async fn tell(data_dir: &Path, change: &AccountChanged) -> io::Result<Told> {
    let mut socket = match UnixStream::connect(socket_path(data_dir)).await {
        Ok(socket) => socket,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(Told::Nobody);
        }
        Err(error) => return Err(error),
    };
    let talk = async {
        socket.write_all(change.to_line().as_bytes()).await?;
        let mut reply = String::new();
        socket.take(64).read_to_string(&mut reply).await?;
        Ok::<_, io::Error>(reply)
    };
    let reply = tokio::time::timeout(TIMEOUT, talk).await??;
    if reply == "ok\n" {
        Ok(Told::Server)
    } else {
        Err(io::Error::other(format!("the server answered {reply:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(address: &str, removed: bool) -> AccountChanged {
        AccountChanged {
            account: BareJid::parse(address).unwrap(),
            removed,
        }
    }

    #[tokio::test]
    async fn a_command_tells_the_server_what_it_changed() {
        let directory = tempfile::tempdir().unwrap();
        let held = DataDir::hold(directory.path()).unwrap();
        let removed = change("ann@localhost", true);
        assert_eq!(
            tell(directory.path(), &removed).await.unwrap(),
            Told::Nobody
        );

        let listener = listen(&held).unwrap();
        let mode = fs::metadata(socket_path(directory.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let (heard, mut changes) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(serve(listener, move |change| {
            let _ = heard.send(change);
        }));
        assert_eq!(
            tell(directory.path(), &removed).await.unwrap(),
            Told::Server
        );
        assert_eq!(changes.recv().await, Some(removed));
        server.abort();
        let _ = server.await;

        // What a killed server leaves is no obstacle, for commands or for the next server.
        let other = change("bob@localhost", false);
        assert_eq!(tell(directory.path(), &other).await.unwrap(), Told::Nobody);
        assert!(listen(&held).is_ok());
    }

    #[test]
    fn requests_are_read_strictly() {
        let request = change("ann@localhost", false);
        assert_eq!(AccountChanged::parse(&request.to_line()), Some(request));
        for line in [
            "",
            "account-removed",
            "account-removed \n",
            "reboot now\n",
            "account-removed a@@b\n",
        ] {
            assert_eq!(AccountChanged::parse(line), None, "{line:?}");
        }
    }
}
