//! The control socket: how commands talk to the server that runs on their data directory.
//!
//! A Unix socket `control.sock` in `server.data_dir`, for the owner only. What is said there is in
//! `control/protocol.rs`; what the server does is in `control/desk.rs`.

mod desk;
mod protocol;

use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use rookery_actors::audit::Operator;
use rookery_proto::jid::BareJid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

pub(crate) use self::desk::{Desk, cluster_status};
pub(crate) use self::protocol::{
    AccountChanged, ClusterNode, ClusterStatus, Lease, Reply, Request, Session, SessionState,
};
use crate::data_dir::DataDir;

/// How long either side waits for the other's next line, or for its being read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call of the API may take: a message to all accounts takes its time.
const CALL_TIMEOUT: Duration = Duration::from_mins(10);

/// Commands that are answered at a time.
const CONNECTIONS: usize = 16;

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

/// Removes the control socket of a server that ends. It is this one's: the directory is held.
pub(crate) fn remove(data_dir: &DataDir) {
    let path = socket_path(data_dir.path());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the control socket stays behind");
        }
        _ => {}
    }
}

fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Where the replies to one request go.
#[derive(Debug)]
pub(crate) struct Replies {
    writer: OwnedWriteHalf,
    /// Whether the request was in the form of the first servers.
    old: bool,
    /// The user of the system that the command runs as.
    user: Option<u32>,
}

impl Replies {
    /// Who asks, for the audit log.
    pub(crate) fn operator(&self) -> Operator {
        let user = self.user.map(|user| format!("user {user}"));
        Operator {
            via: "cli",
            who: user.unwrap_or_else(|| "unknown".into()),
        }
    }

    /// Sends one more.
    ///
    /// # Errors
    /// If the command is gone or does not read.
    pub(crate) async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let line = match reply {
            Reply::Done if self.old => "ok\n".into(),
            reply => protocol::to_line(reply),
        };
        tokio::time::timeout(TIMEOUT, self.writer.write_all(line.as_bytes())).await?
    }
}

/// Answers requests until it is dropped, on the thread that calls. `answer` sends all replies to one.
pub(crate) async fn serve<A, F>(listener: UnixListener, answer: A)
where
    A: Fn(Request, Replies) -> F + 'static,
    F: Future<Output = io::Result<()>>,
{
    let answer = Rc::new(answer);
    let mut conversations = JoinSet::new();
    loop {
        // Others wait until one is done.
        while conversations.len() >= CONNECTIONS {
            conversations.join_next().await;
        }
        match listener.accept().await {
            Ok((socket, _)) => {
                let answer = Rc::clone(&answer);
                conversations.spawn_local(async move {
                    if let Err(error) = converse(socket, &*answer).await {
                        tracing::warn!(%error, "control socket");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        while conversations.try_join_next().is_some() {}
    }
}

async fn converse<F>(socket: UnixStream, answer: &impl Fn(Request, Replies) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
{
    let user = socket.peer_cred().ok().map(|peer| peer.uid());
    let (reader, writer) = socket.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(protocol::MAX_REQUEST));
    tokio::time::timeout(TIMEOUT, reader.read_line(&mut line)).await??;
    let old = protocol::from_old_line(&line);
    let mut replies = Replies {
        writer,
        old: old.is_some(),
        user,
    };
    let request = match old {
        Some(change) => Ok(Request::AccountChanged(change)),
        None => protocol::from_line(&line),
    };
    match request {
        Ok(request) => answer(request, replies).await,
        Err(unreadable) => {
            let reason = unreadable.to_string();
            replies.send(&Reply::Refused { reason }).await
        }
    }
}

/// A request under way, as the command sees it.
#[derive(Debug)]
pub(crate) struct Conversation(BufReader<UnixStream>);

impl Conversation {
    /// Asks the server that runs on a data directory; `None` if there is none.
    ///
    /// # Errors
    /// If there is one and it cannot be reached.
    async fn begin(data_dir: &Path, request: &Request) -> io::Result<Option<Self>> {
        let mut socket = match UnixStream::connect(socket_path(data_dir)).await {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let line = protocol::to_line(request);
        tokio::time::timeout(TIMEOUT, socket.write_all(line.as_bytes())).await??;
        Ok(Some(Self(BufReader::new(socket))))
    }

    /// The next reply.
    ///
    /// # Errors
    /// If the server refuses the request, or says nothing more.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Reply> {
        self.next_within(TIMEOUT).await
    }

    async fn next_within(&mut self, patience: Duration) -> anyhow::Result<Reply> {
        let mut line = String::new();
        tokio::time::timeout(patience, self.0.read_line(&mut line))
            .await
            .context("the server does not answer")?
            .context("cannot read the server's answer")?;
        if line.is_empty() {
            bail!("the server ended before it had answered");
        }
        match protocol::from_line(&line) {
            Ok(Reply::Refused { reason }) => bail!("the server refuses: {reason}"),
            Ok(reply) => Ok(reply),
            Err(error) => {
                Err(error).context("the server seems to be of another version than this command")
            }
        }
    }
}

/// Asks the server that runs on a data directory.
///
/// # Errors
/// If there is none, or it cannot be reached.
pub(crate) async fn ask(data_dir: &Path, request: &Request) -> anyhow::Result<Conversation> {
    let conversation = Conversation::begin(data_dir, request).await;
    let conversation = conversation.with_context(|| {
        let socket = socket_path(data_dir);
        format!("cannot reach the server by {}", socket.display())
    })?;
    conversation.with_context(|| {
        format!(
            "no server runs on {} (server.data_dir); start it, or give this command the --config and \
             --set options that the server has",
            data_dir.display()
        )
    })
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
pub(crate) async fn tell(data_dir: &Path, change: AccountChanged) -> anyhow::Result<Told> {
    let request = Request::AccountChanged(change);
    let Some(mut conversation) = Conversation::begin(data_dir, &request).await? else {
        return Ok(Told::Nobody);
    };
    match conversation.next().await? {
        Reply::Done => Ok(Told::Server),
        other => Err(unexpected(&other)),
    }
}

/// Has the server that runs on a data directory answer a call of its API.
///
/// # Errors
/// If there is none, or it refuses: the text names the field that is wrong.
pub(crate) async fn call(
    data_dir: &Path,
    method: &str,
    path: String,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    answer(ask(data_dir, &to_call(method, path, body)).await?).await
}

/// The same; `None` if no server runs there.
///
/// # Errors
/// If there is one that cannot be reached, or it refuses.
pub(crate) async fn call_if_running(
    data_dir: &Path,
    method: &str,
    path: String,
    body: Option<Value>,
) -> anyhow::Result<Option<Value>> {
    let request = to_call(method, path, body);
    match Conversation::begin(data_dir, &request).await? {
        Some(conversation) => answer(conversation).await.map(Some),
        None => Ok(None),
    }
}

fn to_call(method: &str, path: String, body: Option<Value>) -> Request {
    Request::Call {
        method: method.into(),
        path,
        body,
    }
}

/// What the API answers.
async fn answer(mut conversation: Conversation) -> anyhow::Result<Value> {
    match conversation.next_within(CALL_TIMEOUT).await? {
        Reply::Answer { status, body } if status < 400 => Ok(body.unwrap_or_default()),
        Reply::Answer { body, .. } => {
            let body = body.unwrap_or_default();
            let detail = body["detail"]
                .as_str()
                .unwrap_or("the server refuses")
                .to_owned();
            match body["field"].as_str() {
                Some(field) => bail!("{field}: {detail}"),
                None => bail!("{detail}"),
            }
        }
        other => Err(unexpected(&other)),
    }
}

/// Tells the server that runs on this data directory of a new account, for its audit log.
pub(crate) async fn tell_of_new_account(data_dir: &Path, account: BareJid) {
    // An older server does not know of audit logs, and the account is there in any case.
    if let Ok(Some(mut conversation)) =
        Conversation::begin(data_dir, &Request::AccountAdded { account }).await
    {
        let _ = conversation.next().await;
    }
}

/// A reply that does not belong to the request.
pub(crate) fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow::anyhow!("the server answered something else: {reply:?}")
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn address(address: &str) -> BareJid {
        BareJid::parse(address).unwrap()
    }

    /// Sends a line as it is; returns all that is answered.
    async fn say(data_dir: &Path, line: &str) -> String {
        let mut socket = UnixStream::connect(socket_path(data_dir)).await.unwrap();
        socket.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn conversations(directory: &Path) {
        let held = DataDir::hold(directory).unwrap();
        let removed = AccountChanged::removed(address("ann@localhost"));
        assert_eq!(
            tell(directory, removed.clone()).await.unwrap(),
            Told::Nobody
        );
        let nobody = ask(directory, &Request::Sessions).await.unwrap_err();
        assert!(nobody.to_string().starts_with("no server runs on "));

        let listener = listen(&held).unwrap();
        let metadata = fs::metadata(socket_path(directory)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let (heard, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::task::spawn_local(serve(listener, move |request, mut replies| {
            let heard = heard.clone();
            async move {
                let _ = heard.send(request.clone());
                // One that is never answered holds nobody else up.
                if request == Request::Sessions {
                    std::future::pending::<()>().await;
                }
                replies.send(&Reply::Done).await
            }
        }));
        let held_up = ask(directory, &Request::Sessions).await.unwrap();
        assert_eq!(requests.recv().await, Some(Request::Sessions));
        assert_eq!(
            tell(directory, removed.clone()).await.unwrap(),
            Told::Server
        );
        let changed = Some(Request::AccountChanged(removed));
        assert_eq!(requests.recv().await, changed);

        // The form of the first servers.
        let old = say(directory, "account-removed ann@localhost\n").await;
        assert_eq!(old, "ok\n");
        assert_eq!(requests.recv().await, changed);
        let unknown = say(directory, "reboot now\n").await;
        assert!(unknown.contains(r#""reply":"refused""#), "{unknown}");
        let newer = say(directory, "{\"version\":2,\"request\":\"sessions\"}\n").await;
        assert!(
            newer.contains("version 2 of the control protocol"),
            "{newer}"
        );
        drop(held_up);
        server.abort();
        let _ = server.await;

        // What a killed server leaves is no obstacle, for commands or for the next server.
        let other = AccountChanged::password(address("bob@localhost"));
        assert_eq!(tell(directory, other).await.unwrap(), Told::Nobody);
        assert!(listen(&held).is_ok());
        remove(&held);
        assert!(!socket_path(directory).exists());
        remove(&held);
    }

    #[tokio::test]
    async fn a_command_and_the_server_of_its_data_directory_talk() {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalSet::new();
        local.run_until(conversations(directory.path())).await;
    }
}
