//! A private Redis and a private PostgreSQL on free ports: the system's own are never touched.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::eventually;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Sends a signal by its name (`TERM`, `QUIT`, `STOP`, …) to a process.
pub fn signal(child: &Child, name: &str) {
    let command = format!("kill -{name} {}", child.id());
    let status = Command::new("sh")
        .args(["-c", &command])
        .status()
        .expect("there is a shell");
    assert!(status.success(), "{command}");
}

/// A Redis without persistence: it comes back empty.
pub struct Redis {
    process: Option<Child>,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts one.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut redis = Self {
            process: None,
            port: free_port(),
            dir,
        };
        redis.come_back().await;
        redis
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it with all that it held.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it ran");
            process.wait().expect("it was our child");
        }
    }

    /// Starts it again on the same port, empty.
    pub async fn come_back(&mut self) {
        assert!(self.process.is_none(), "Redis still runs");
        let log = std::fs::File::create(self.dir.path().join("redis.log")).expect("a log");
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed; tests/run does that");
        self.process = Some(process);
        let port = self.port;
        eventually("Redis to answer", || async move {
            let ping = async {
                let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                tcp.write_all(b"PING\r\n").await?;
                let mut answer = [0; 5];
                tcp.read_exact(&mut answer).await?;
                Ok::<_, std::io::Error>(&answer == b"+PONG")
            };
            ping.await.unwrap_or(false)
        })
        .await;
    }

    /// Sends a command (without spaces in its words) and returns the first line of the answer.
    pub async fn command(&self, words: &str) -> String {
        let exchange = async {
            let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            tcp.write_all(format!("{words}\r\nQUIT\r\n").as_bytes())
                .await?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer.lines().next().unwrap_or_default().to_owned())
        };
        crate::within("Redis", exchange)
            .await
            .expect("Redis answers")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A PostgreSQL that the tests of one binary share while one of them uses it.
pub struct Postgres {
    process: Child,
    port: u16,
    /// Dropped after the process has ended.
    _dir: TempDir,
}

static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

impl Postgres {
    /// The one that runs, or a new one.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Starts one with a fresh data directory.
    pub async fn start() -> Self {
        let bin = binaries();
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory for the data");
        let account = account();
        if let Some((uid, gid)) = account {
            chown(dir.path(), Some(uid), Some(gid)).expect("root may give directories away");
            chown(&data, Some(uid), Some(gid)).expect("root may give directories away");
        }
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command.current_dir(dir.path()).stdin(Stdio::null());
            if let Some((uid, gid)) = account {
                command.uid(uid).gid(gid);
            }
            command
        };

        let initdb = command("initdb")
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=rookery",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--pgdata"])
            .arg(&data)
            .output()
            .expect("PostgreSQL is installed; tests/run does that");
        assert!(
            initdb.status.success(),
            "{}",
            String::from_utf8_lossy(&initdb.stderr)
        );

        let port = free_port();
        let log = std::fs::File::create(dir.path().join("postgres.log")).expect("a log");
        let process = command("postgres")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-F",
                "-N",
                "300",
                "-k",
                "",
                "-D",
            ])
            .arg(&data)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("initdb's neighbour");
        let postgres = Self {
            process,
            port,
            _dir: dir,
        };
        eventually("PostgreSQL to answer", || async {
            tokio_postgres::connect(&postgres.url("postgres"), tokio_postgres::NoTls)
                .await
                .is_ok()
        })
        .await;
        postgres
    }

    /// Where a database is.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://rookery@127.0.0.1:{}/{database}", self.port)
    }

    /// A new database; returns its URL.
    pub async fn database(&self) -> String {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!(
            "test_{}",
            NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        );
        let (client, connection) =
            tokio_postgres::connect(&self.url("postgres"), tokio_postgres::NoTls)
                .await
                .expect("it runs");
        let driver = tokio::spawn(connection);
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a new database");
        drop(client);
        driver.await.expect("no panic").expect("a clean end");
        self.url(&name)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT ends all of its processes at once.
        signal(&self.process, "QUIT");
        self.process.wait().expect("it was our child");
    }
}

/// The newest installed version's programs.
fn binaries() -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort();
    let (_, newest) = versions
        .pop()
        .expect("PostgreSQL is installed; tests/run does that");
    newest.join("bin")
}

/// The account `postgres`, if we are root: PostgreSQL refuses to run as root.
fn account() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().next() != Some("0") {
        return None;
    }
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).expect("readable by all");
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line
        .expect("the package makes an account postgres")
        .split(':')
        .collect();
    Some((
        fields[2].parse().expect("a uid"),
        fields[3].parse().expect("a gid"),
    ))
}
