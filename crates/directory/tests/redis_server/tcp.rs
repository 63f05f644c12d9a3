//! A Redis, or a Sentinel, that listens on a TCP port of 127.0.0.1.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;
use super::free_port::free_port;
use super::tls::Certificates;

pub(crate) struct TcpServer {
    pub(crate) port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl TcpServer {
    /// With further arguments for `redis-server`.
    pub(crate) async fn start(tls: Option<&Certificates>, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let mut all = listen(port, tls);
        all.extend(["--save", "", "--appendonly", "no", "--dir"].map(String::from));
        all.push(dir.path().display().to_string());
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Self::start_in(dir, port, all).await
    }

    /// With a configuration file, which Sentinels insist on.
    pub(crate) async fn start_sentinel(tls: Option<&Certificates>, config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, config).expect("a file can be written");
        let mut all = vec![file.display().to_string(), "--sentinel".to_owned()];
        all.extend(listen(port, tls));
        Self::start_in(dir, port, all).await
    }

    async fn start_in(dir: TempDir, port: u16, arguments: Vec<String>) -> Self {
        let mut server = Self {
            port,
            dir,
            arguments,
            process: None,
        };
        server.restart().await;
        server
    }

    /// Starts it again, empty, after [`TcpServer::kill`].
    pub(crate) async fn restart(&mut self) {
        assert!(self.process.is_none(), "kill it first");
        let process = Command::new("redis-server")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need `redis-server` (package redis-server) in the PATH");
        self.process = Some(process);
        let began = Instant::now();
        let address = ("127.0.0.1", self.port);
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "redis-server does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as `kill -9` does; all data is lost.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it is a child");
    }

    /// Stops it answering, with connections open, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        super::freeze(self.process.as_ref().expect("it runs"), frozen);
    }

    /// Its address without user, password and parameters.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn listen(port: u16, tls: Option<&Certificates>) -> Vec<String> {
    let port = port.to_string();
    let Some(tls) = tls else {
        return vec!["--port".to_owned(), port];
    };
    let mut arguments = ["--port", "0", "--tls-port", &port]
        .map(String::from)
        .to_vec();
    arguments.extend(tls.server_arguments());
    arguments
}
