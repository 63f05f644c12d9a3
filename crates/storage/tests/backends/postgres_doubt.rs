//! PostgreSQL behind a connection that breaks while a commit is under way.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rookery_proto::jid::BareJid;
use rookery_storage::{EntryId, NewMessage, Options, Storage, open};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

use crate::{
    postgres_server::Server,
    suite::{add, bare, chat, mark, offline, stanzas, undelivered},
};

/// What is to happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The next request is dropped, and the connection ends.
    Request,
    /// The next answer is dropped, and the connection ends.
    Answer,
}

/// Stands between a storage and its server.
struct Proxy {
    port: u16,
    /// Done once, to the first connection that it fits.
    next: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    async fn to(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let next = Arc::<Mutex<Option<Cut>>>::default();
        let cuts = Arc::clone(&next);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, cuts) = (server.clone(), Arc::clone(&cuts));
                tokio::spawn(async move {
                    let server = UnixStream::connect(server).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    // The end of one direction is the end of the connection.
                    tokio::select! {
                        () = pass(from_client, to_server, Cut::Request, &cuts) => {}
                        () = pass(from_server, to_client, Cut::Answer, &cuts) => {}
                    }
                });
            }
        });
        Self { port, next }
    }

    /// From now on, once.
    fn cut(&self, cut: Cut) {
        *self.next.lock().unwrap() = Some(cut);
    }

    fn has_cut(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    cut: Cut,
    next: &Mutex<Option<Cut>>,
) {
    let mut buffer = vec![0; 65536];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let is_cut = {
            let mut next = next.lock().unwrap();
            let is_cut = *next == Some(cut);
            if is_cut {
                *next = None;
            }
            is_cut
        };
        if is_cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn behind_a_proxy() -> (Proxy, Arc<dyn Storage>) {
    let server = Server::shared();
    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap();
    let proxy = Proxy::to(server.socket()).await;
    let url = format!("postgres://rookery@127.0.0.1:{}/{database}", proxy.port);
    let storage = open(&url, Options::default()).await.unwrap();
    add(&storage, &["ann", "ben"]).await;
    (proxy, storage)
}

/// The last id of each log.
#[derive(Default)]
struct Logs(HashMap<BareJid, u64>);

impl Logs {
    /// Appends these, of which each copy gets the next id of its log: so none was appended twice before.
    async fn append(&mut self, storage: &Arc<dyn Storage>, batch: Vec<NewMessage>) {
        let copies = |message: &NewMessage| [message.recipient.clone(), message.sender.clone()];
        let copies: Vec<_> = batch.iter().flat_map(copies).collect();
        let stored = storage.append(batch, 10).await.unwrap();
        let stored = stored.iter().flat_map(|stored| {
            let stored = stored.unwrap();
            [stored.recipient, stored.sender]
        });
        let stored: Vec<_> = stored.collect();
        assert_eq!(stored.len(), copies.len());
        for (copy, stored) in copies.into_iter().zip(stored) {
            let id = stored.map(|stored| stored.id.0);
            assert_eq!(id.is_some(), copy.is_some());
            if let (Some(copy), Some(id)) = (copy, id)
                && let Some(last) = self.0.insert(copy.account, id)
            {
                assert_eq!(id, last + 1);
            }
        }
    }
}

/// Whatever the connection did, what is appended is appended once, and the ids are the right ones.
async fn all_is_appended_once(cut: Cut) {
    let (proxy, storage) = behind_a_proxy().await;
    let ann = bare("ann@localhost");
    let (a, b) = ("ann@localhost/desk", "ben@localhost/phone");
    let batches = [
        vec![offline("ann@localhost", "alone")],
        vec![chat(b, a, "in both logs")],
        vec![
            chat(b, a, "first"),
            chat(a, b, "second"),
            chat(b, a, "third"),
            offline("ann@localhost", "fourth"),
        ],
    ];
    let mut logs = Logs::default();
    let mut expected = Vec::new();
    for batch in batches {
        // The connection and what is prepared on it are there, and messages that look the same.
        logs.append(&storage, batch.clone()).await;
        proxy.cut(cut);
        logs.append(&storage, batch.clone()).await;
        assert!(proxy.has_cut());
        let for_ann = |message: &&NewMessage| message.recipient.as_ref().unwrap().account == ann;
        for message in [&batch, &batch].into_iter().flatten().filter(for_ann) {
            expected.push(message.stanza.to_string());
        }
    }
    logs.append(&storage, vec![chat(a, b, "the end")]).await;

    let entries = undelivered(&storage, &ann).await;
    assert_eq!(stanzas(&entries), expected);
    let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
    mark(&storage, &ann, &ids[..1]).await;
    proxy.cut(cut);
    mark(&storage, &ann, &ids).await;
    assert!(proxy.has_cut());
    assert_eq!(undelivered(&storage, &ann).await.len(), 0);
}

#[tokio::test]
async fn what_did_not_reach_the_server_is_written_again() {
    all_is_appended_once(Cut::Request).await;
}

#[tokio::test]
async fn what_was_committed_without_an_answer_is_found() {
    all_is_appended_once(Cut::Answer).await;
}
