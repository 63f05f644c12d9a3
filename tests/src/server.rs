//! One `rookery` process on free ports, in a directory of its own.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::client::managed::{Broken, Refusal};
use crate::client::{Client, Login, Registry, Security};
use crate::command::UnderWay;
use crate::http::{self, Response};
use crate::place::Place;
use crate::services::signal;
use crate::wire::Wire;
use crate::{eventually, within};

/// Listeners on free ports of a place, told in the file of ports.
fn listeners(place: &Place) -> Vec<String> {
    [
        "c2s.listen",
        "c2s.direct_tls_listen",
        "http.listen",
        "http.tls_listen",
        "admin.listen",
    ]
    .map(|key| format!(r#"{key}=["{}:0"]"#, place.address()))
    .to_vec()
}

/// The accounts that exist, on whichever node they were made.
#[derive(Clone, Default)]
pub(crate) struct Accounts(Arc<Mutex<HashSet<String>>>);

/// A running server. It is killed when it is dropped, and its log is shown if the test failed.
pub struct TestServer {
    process: Option<Child>,
    place: Place,
    settings: Vec<String>,
    ports: HashMap<String, SocketAddr>,
    accounts: Accounts,
    registry: Registry,
    dir: TempDir,
}

impl TestServer {
    /// Starts a server with the defaults.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with settings, each `section.key=value`.
    pub async fn with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&s| s.to_owned()).collect();
        let place = Place::loopback();
        Self::node(place, settings, Accounts::default(), Registry::default()).await
    }

    /// Starts a server that shares accounts and clients with others.
    pub(crate) async fn node(
        place: Place,
        settings: Vec<String>,
        accounts: Accounts,
        registry: Registry,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rookery-test-")
            .tempdir()
            .expect("a directory");
        let ports = HashMap::new();
        let mut server = Self {
            process: None,
            place,
            settings,
            ports,
            accounts,
            registry,
            dir,
        };
        server.come_back().await;
        server
    }

    /// Starts it again in the same directory, after [`Self::kill`] or [`Self::stop`].
    pub async fn come_back(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let ports_file = self.dir.path().join("ports.json");
        let _ = std::fs::remove_file(&ports_file);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file());
        let log = log.expect("a log file");
        let mut command = rookery_at(&self.place);
        command
            .arg("serve")
            .current_dir(self.dir.path())
            .arg("--set")
            .arg(format!("server.ports_file={}", ports_file.display()));
        for listener in listeners(&self.place) {
            command.args(["--set", &listener]);
        }
        command.args(self.settings());
        let mut process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(5));
        self.ports = within("the server to start", async {
            loop {
                pace.tick().await;
                if let Some(ports) = read_ports(&ports_file) {
                    return ports;
                }
                if let Some(status) = process.try_wait().expect("it is our child") {
                    panic!("the server ended with {status}:\n{}", self.log());
                }
            }
        })
        .await;
        self.process = Some(process);
    }

    /// The address of a listener: `c2s`, `c2s_direct_tls`, `http`, `http_tls` or `admin`.
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self
            .ports
            .get(listener)
            .unwrap_or_else(|| panic!("no {listener} in {:?}", self.ports))
    }

    /// The directory that holds its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A stream over TCP on which nothing was said yet.
    pub async fn tcp(&self) -> Wire {
        Wire::tcp(self.address("c2s")).await
    }

    /// Adds an account `NAME@localhost` unless it is there, with [`password`]'s password.
    pub async fn add_user(&self, name: &str) {
        if !self
            .accounts
            .0
            .lock()
            .expect("not poisoned")
            .insert(name.to_owned())
        {
            return;
        }
        let jid = format!("{name}@localhost");
        let output = self
            .cli_with_input(&["user", "add", &jid, "--password-stdin"], &password(name))
            .await;
        assert!(output.status.success(), "user add {jid}: {output:?}");
    }

    /// Takes an account that a client registered as made.
    pub fn knows_user(&self, name: &str) {
        self.accounts
            .0
            .lock()
            .expect("not poisoned")
            .insert(name.to_owned());
    }

    /// How an account logs in. The account is added if it is not there.
    pub async fn login(&self, name: &str) -> Login {
        self.add_user(name).await;
        Login::new(name, &password(name))
    }

    /// A resource (`name/resource`, or `name` for one that the server chooses) that is bound and has
    /// not sent presence.
    pub async fn bound(&self, who: &str) -> Client {
        self.bound_by(who, Security::StartTls).await
    }

    /// As [`Self::bound`], over another transport.
    pub async fn bound_by(&self, who: &str, security: Security) -> Client {
        let (name, resource) = who
            .split_once('/')
            .map_or((who, None), |(n, r)| (n, Some(r)));
        let mut login = self.login(name).await.security(security);
        if let Some(resource) = resource {
            login = login.resource(resource);
        }
        let client = login.bind(self.address(security.listener())).await;
        if let Some(resource) = resource {
            assert_eq!(client.jid(), format!("{name}@localhost/{resource}"));
        }
        client.registered(&self.registry)
    }

    /// A resource that has sent its initial presence.
    pub async fn online(&self, who: &str) -> Client {
        self.online_by(who, Security::StartTls).await
    }

    /// As [`Self::online`], over another transport.
    pub async fn online_by(&self, who: &str, security: Security) -> Client {
        let mut client = self.bound_by(who, security).await;
        client.become_available().await;
        client
    }

    /// A resource under stream management, with resumption, that has not sent presence.
    pub async fn managed(&self, who: &str) -> Client {
        let mut client = self.bound(who).await;
        client.enable_management().await;
        client
    }

    /// As [`Self::managed`], with initial presence.
    pub async fn managed_online(&self, who: &str) -> Client {
        let mut client = self.managed(who).await;
        client.become_available().await;
        client
    }

    /// Resumes a session here, which must work.
    pub async fn resume(&self, broken: Broken) -> Client {
        match self.try_resume(broken).await {
            Ok(client) => client,
            Err(refusal) => panic!("resumption was refused: {refusal:?}"),
        }
    }

    /// Tries to resume a session here.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn try_resume(&self, broken: Broken) -> Result<Client, Box<Refusal>> {
        let login = self.login_of(broken.jid()).await;
        broken.try_resume(&login, self.address("c2s")).await
    }

    /// Binds the resource anew on the stream of a refused resumption, without presence.
    pub async fn bind_instead(&self, refusal: Refusal) -> Client {
        let jid = refusal.broken.jid().to_owned();
        refusal.broken.forget();
        let client = self.login_of(&jid).await.bind_on(refusal.wire).await;
        client.registered(&self.registry)
    }

    /// How the user of a full JID logs in with its resource.
    pub async fn login_of(&self, jid: &str) -> Login {
        let (name, rest) = jid.split_once('@').expect("a user's JID");
        let (_, resource) = rest.split_once('/').expect("a full JID");
        self.login(name).await.resource(resource)
    }

    /// Runs a subcommand of the binary on this server's data.
    pub async fn cli(&self, words: &[&str]) -> Output {
        self.cli_with_input(words, "").await
    }

    /// As [`Self::cli`], with a line on standard input.
    pub async fn cli_with_input(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.command(words[0]);
        command.args(&words[1..]).args(self.settings());
        run(command, input).await
    }

    /// Starts a subcommand of the binary on this server's data, and does not wait for it.
    pub fn start_cli(&self, words: &[&str]) -> UnderWay {
        let mut command = self.command(words[0]);
        command.args(&words[1..]).args(self.settings());
        UnderWay::start(command)
    }

    /// Fetches a path of the admin listener.
    pub async fn admin(&self, path: &str) -> Response {
        http::get(self.address("admin"), path).await
    }

    /// The sum of a metric's values over those of its labels that contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let exposition = self.admin("/metrics").await.body;
        http::metric(&exposition, name, labels)
            .unwrap_or_else(|| panic!("no metric {name} with {labels} in:\n{exposition}"))
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("it runs");
        process.wait().expect("it is our child");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Its number for the system, while it runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let process = Mutex::new(self.process.take().expect("the server runs"));
        let status = Mutex::new(None);
        eventually("the server to end", || async {
            let ended = process
                .lock()
                .expect("not poisoned")
                .try_wait()
                .expect("our child");
            *status.lock().expect("not poisoned") = ended;
            ended.is_some()
        })
        .await;
        let status = status.lock().expect("not poisoned").take();
        status.expect("it ended")
    }

    /// Its memory in KiB: what is resident.
    pub fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory in KiB that was resident since its start, or since [`Self::forget_peak`].
    pub fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// What is resident now counts as the most that there was.
    pub fn forget_peak(&self) {
        let pid = self.pid();
        // proc_pid_clear_refs(5): 5 resets the peak.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it is our child");
    }

    /// A line of `/proc/PID/status` that holds a number.
    fn status(&self, name: &str) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line
            .expect("a process has memory")
            .split_whitespace()
            .next();
        words.and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("rookery.log")
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = rookery();
        command.arg(subcommand).current_dir(self.dir.path());
        command
    }

    fn settings(&self) -> Vec<String> {
        let data_dir = format!("server.data_dir={}", self.data_dir().display());
        let mine = self.settings.iter().cloned();
        std::iter::once(data_dir)
            .chain(mine)
            .flat_map(|s| ["--set".to_owned(), s])
            .collect()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(100);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            eprintln!("--- the server's log ---\n{}\n---", tail.join("\n"));
        }
    }
}

/// Runs `rookery serve` with settings that should stop it, and returns what it said.
pub async fn refused_start(dir: &Path, settings: &[&str]) -> Output {
    let place = Place::loopback();
    let mut command = rookery();
    command.arg("serve").current_dir(dir);
    let settings = settings.iter().map(|&setting| setting.to_owned());
    for setting in listeners(&place).into_iter().chain(settings) {
        command.args(["--set", &setting]);
    }
    run(command, "").await
}

/// The binary, ready for arguments.
pub fn rookery() -> Command {
    rookery_at(&Place::loopback())
}

/// The binary at a place.
fn rookery_at(place: &Place) -> Command {
    let binary = std::env::var_os("ROOKERY_BINARY").map_or_else(beside, PathBuf::from);
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build --workspace --all-targets` first, as tests/run does",
        binary.display()
    );
    let mut command = place.command(binary, None);
    // The environment is a source of configuration, and the tests' own is none.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROOKERY__") {
            command.env_remove(name);
        }
    }
    command
}

/// The binary of the build that the test belongs to. `ROOKERY_BINARY` names another one, so that a
/// measurement can compare two.
fn beside() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test.parent().and_then(Path::parent);
    profile
        .expect("tests are in target/<profile>/deps")
        .join("rookery")
}

/// The password of an account that the harness makes.
pub fn password(name: &str) -> String {
    format!("secret of {name}")
}

/// Runs a command to its end, which must come within the deadline.
pub async fn run(mut command: Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("piped");
    let line = format!("{input}\n");
    // A program that does not read its input is no failure.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, line.as_bytes()).await;
    drop(stdin);
    let what = format!("{command:?} to end");
    let output = within(&what, child.wait_with_output()).await;
    output.expect("its output is read")
}

/// The file of ports: `{"c2s": "127.0.0.1:41234", …}`. None while it is not whole.
fn read_ports(file: &Path) -> Option<HashMap<String, SocketAddr>> {
    let text = std::fs::read_to_string(file).ok()?;
    let ports: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).ok()?;
    let address = |value: serde_json::Value| value.as_str()?.parse().ok();
    Some(
        ports
            .into_iter()
            .filter_map(|(key, value)| Some((key, address(value)?)))
            .collect(),
    )
}
