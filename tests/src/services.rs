//! A private Redis and a private PostgreSQL on free ports: the system's own are never touched.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::eventually;
use crate::free_port;
use crate::place::Place;

/// A port that nobody listens on, for now: for a server that is told of it and cannot take any free one.
pub fn free_port() -> u16 {
    free_port::free_port()
}

/// Sends a signal by its name (`TERM`, `QUIT`, `STOP`, …) to a process.
pub fn signal(process: u32, name: &str) {
    let command = format!("kill -{name} {process}");
    let status = Command::new("sh")
        .args(["-c", &command])
        .status()
        .expect("there is a shell");
    assert!(status.success(), "{command}");
}

/// A Redis without persistence: it comes back empty.
pub struct Redis {
    process: Option<Child>,
    place: Place,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_at(Place::loopback()).await
    }

    /// Starts one at a place.
    pub async fn start_at(place: Place) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut redis = Self {
            process: None,
            place,
            port: free_port(),
            dir,
        };
        redis.come_back().await;
        redis
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        (self.place.address(), self.port).into()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(self.process.as_ref().expect("Redis runs").id(), name);
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
        let process = self
            .place
            .command("redis-server", None)
            .args(["--port", &self.port.to_string()])
            .args(["--bind", &self.place.address().to_string()])
            .args(["--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed; tests/run does that");
        self.process = Some(process);
        let address = self.address();
        eventually("Redis to answer", || async move {
            let ping = async {
                let mut tcp = TcpStream::connect(address).await?;
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
            let mut tcp = TcpStream::connect(self.address()).await?;
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

/// A PostgreSQL. The tests of one binary share one while some of them use it.
pub struct Postgres {
    process: Option<Child>,
    place: Place,
    port: u16,
    dir: TempDir,
}

/// How PostgreSQL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Transactions are rolled back, and everything is written.
    Fast,
    /// At once; the next start recovers from the log.
    Immediate,
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
        Self::start_at(Place::loopback()).await
    }

    /// As [`Self::start`], at a place.
    pub async fn start_at(place: Place) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory for the data");
        if let Some((uid, gid)) = account() {
            chown(dir.path(), Some(uid), Some(gid)).expect("root may give directories away");
            chown(&data, Some(uid), Some(gid)).expect("root may give directories away");
        }
        let initdb = Place::loopback()
            .command(binaries().join("initdb"), account())
            .current_dir(dir.path())
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=rookery",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--pgdata"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .expect("PostgreSQL is installed; tests/run does that");
        assert!(
            initdb.status.success(),
            "{}",
            String::from_utf8_lossy(&initdb.stderr)
        );
        let rules = data.join("pg_hba.conf");
        std::fs::write(rules, "host all all all trust\n").expect("the directory is ours");
        let mut postgres = Self {
            process: None,
            place,
            port: free_port(),
            dir,
        };
        postgres.come_back().await;
        postgres
    }

    /// Starts it again with the data that it had.
    pub async fn come_back(&mut self) {
        assert!(self.process.is_none(), "PostgreSQL still runs");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("postgres.log"));
        let log = log.expect("a log");
        let mut command = self.place.command(binaries().join("postgres"), account());
        let process = command
            .current_dir(self.dir.path())
            .args(["-h", &self.place.address().to_string()])
            .args(["-p", &self.port.to_string()])
            .args(["-F", "-N", "300", "-k", "", "-D"])
            .arg(self.dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("initdb's neighbour");
        self.process = Some(process);
        eventually("PostgreSQL to answer", || async {
            tokio_postgres::connect(&self.url("postgres"), tokio_postgres::NoTls)
                .await
                .is_ok()
        })
        .await;
    }

    /// Ends it and waits until it has.
    pub fn stop(&mut self, how: Shutdown) {
        let mut process = self.process.take().expect("PostgreSQL runs");
        let name = match how {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        signal(process.id(), name);
        process.wait().expect("it was our child");
    }

    /// Stops all of its processes where they are, or lets them go on: connections hang meanwhile.
    pub fn freeze(&self, frozen: bool) {
        let parent = self.process.as_ref().expect("PostgreSQL runs").id();
        let name = if frozen { "STOP" } else { "CONT" };
        // First the one that starts others.
        let mut pids = vec![parent];
        pids.extend(children(parent));
        for pid in pids {
            // One that ended meanwhile is no failure.
            let _ = Command::new("kill")
                .args([&format!("-{name}"), &pid.to_string()])
                .output();
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        (self.place.address(), self.port).into()
    }

    /// Where a database is.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://rookery@{}/{database}", self.address())
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
        if self.process.is_some() {
            self.freeze(false);
            // Ends all of its processes at once.
            self.stop(Shutdown::Immediate);
        }
    }
}

/// The processes that a process started and that run.
fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|pids| {
            let pids: Vec<u32> = pids.split(' ').filter_map(|pid| pid.parse().ok()).collect();
            pids
        })
        .collect()
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
