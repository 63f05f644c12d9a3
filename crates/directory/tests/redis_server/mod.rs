//! A real Redis for a test: on a Unix socket, without persistence, gone when dropped. Beside it on
//! TCP: single servers with or without TLS, Sentinels, a Redis Cluster.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod cluster;
#[path = "../../../../tests/src/free_port.rs"]
pub(crate) mod free_port;
pub(crate) mod proxy;
pub(crate) mod sentinel;
pub(crate) mod tcp;
pub(crate) mod tls;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rookery_directory::RedisAddress;
use tempfile::TempDir;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct RedisServer {
    dir: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further arguments for `redis-server`.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self {
            dir,
            arguments,
            process: None,
        };
        server.restart().await;
        server
    }

    /// Starts it again, empty, after [`RedisServer::kill`].
    pub(crate) async fn restart(&mut self) {
        assert!(self.process.is_none(), "kill it first");
        let process = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need `redis-server` (package redis-server) in the PATH");
        self.process = Some(process);
        let began = Instant::now();
        while tokio::net::UnixStream::connect(self.socket())
            .await
            .is_err()
        {
            assert!(began.elapsed() < PATIENCE, "redis-server does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as `kill -9` does; all data is lost.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it is a child");
        let _ = std::fs::remove_file(self.socket());
    }

    /// Stops it answering, with connections open, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        freeze(self.process.as_ref().expect("it runs"), frozen);
    }

    pub(crate) fn address(&self) -> RedisAddress {
        RedisAddress::parse(&self.url()).expect("the address is right")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A connection to look behind the scenes.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("the address is right");
        client
            .get_multiplexed_async_connection()
            .await
            .expect("redis runs")
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.sock")
    }
}

/// Stops a process, or lets it go on.
fn freeze(process: &Child, frozen: bool) {
    let signal = if frozen { "-STOP" } else { "-CONT" };
    let status = Command::new("kill")
        .args([signal, &process.id().to_string()])
        .status();
    assert!(status.expect("kill exists").success());
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}
