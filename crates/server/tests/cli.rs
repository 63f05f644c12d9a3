//! The binary as people and scripts meet it: exit statuses, messages, start and stop.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The binary, working in a directory of its own and without the environment's settings.
fn rookery(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rookery"));
    command.current_dir(directory.path()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROOKERY_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(directory: &TempDir, arguments: &[&str]) -> Output {
    rookery(directory).args(arguments).output().unwrap()
}

fn with_input(directory: &TempDir, arguments: &[&str], input: &str) -> Output {
    let mut child = rookery(directory)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// How long a server may take to log something, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server. It is killed when it is dropped.
struct Running {
    child: Child,
    /// The lines of its log; it ends with the server.
    log: Receiver<String>,
}

impl Running {
    /// Starts a server on free ports and waits until it says that it is ready.
    fn start(directory: &TempDir) -> Self {
        let mut child = rookery(directory)
            .args(SERVE)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let mut running = Self { child, log };
        running.wait_for("ready");
        running
    }

    /// Reads the log up to the message that begins with this, and returns that line.
    fn wait_for(&mut self, message: &str) -> String {
        let wanted = format!("\"message\":\"{message}");
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(&wanted) => return line,
                Ok(line) => seen.push_str(&line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {message:?} in the log within {PATIENCE:?}:\n{seen}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the server ended without {message:?} in its log:\n{seen}")
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

/// Reads lines on a thread of its own, so that whoever waits for one can give up.
fn lines(log: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut log = BufReader::new(log);
        loop {
            let mut line = String::new();
            // Until the server ends, or the test, which reads no more.
            if log.read_line(&mut line).unwrap() == 0 || sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVE: [&str; 15] = [
    "serve",
    "--set",
    "c2s.listen=127.0.0.1:0",
    "--set",
    "c2s.direct_tls_listen=127.0.0.1:0",
    "--set",
    "http.listen=127.0.0.1:0",
    "--set",
    "http.tls_listen=127.0.0.1:0",
    "--set",
    "admin.listen=127.0.0.1:0",
    "--set",
    "server.ports_file=ports.json",
    "--set",
    "log.format=json",
];

fn address(directory: &TempDir, listener: &str) -> SocketAddr {
    let text = std::fs::read_to_string(directory.path().join("ports.json")).unwrap();
    let ports: serde_json::Value = serde_json::from_str(&text).unwrap();
    ports[listener].as_str().unwrap().parse().unwrap()
}

/// Status and body of a page.
fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: test:1\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn a_bad_configuration_ends_with_status_2_and_says_what_is_allowed() {
    let directory = TempDir::new().unwrap();
    for (set, expected) in [
        (
            "c2s.port=5222",
            "unknown key c2s.port (from --set); allowed: c2s.listen",
        ),
        (
            "c2s.tls=maybe",
            "allowed: \"required\", \"optional\", \"disabled\"",
        ),
        ("tls.key=key.pem", "set tls.certificate as well"),
        (
            "storage.url=postgres://db/rookery",
            "storage.url: \"postgres://db/rookery\" cannot be used: the URL names no user",
        ),
        (
            "storage.url=postgres://:hidden@db/rookery",
            "storage.url: \"postgres://:***@db/rookery\" cannot be used: the URL names no user",
        ),
        (
            "storage.url=postgres://ann:hidden@db/rookery?sslmode=perhaps",
            "allowed: sqlite://PATH, postgres://USER:PASSWORD@HOST:PORT/DATABASE",
        ),
    ] {
        for command in [
            vec!["serve"],
            vec!["config", "check"],
            vec!["user", "list"],
            vec![],
        ] {
            let mut arguments = vec!["--set", set];
            arguments.extend(&command);
            let output = run(&directory, &arguments);
            assert_eq!(status(&output), Some(2), "{command:?}");
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
            assert!(!stderr(&output).contains("hidden"), "{}", stderr(&output));
        }
    }
    assert!(
        !directory.path().join("data").exists(),
        "nothing is written"
    );
}

#[test]
fn a_bad_command_line_ends_with_status_2() {
    let directory = TempDir::new().unwrap();
    for arguments in [vec!["dance"], vec!["--set", "c2s.tls"], vec!["user", "add"]] {
        assert_eq!(
            status(&run(&directory, &arguments)),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_configuration_file_that_is_missing_or_no_toml_is_named() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("broken.toml"), "[c2s\n").unwrap();
    for file in ["missing.toml", "broken.toml"] {
        let output = run(&directory, &["config", "check", "--config", file]);
        assert_eq!(status(&output), Some(2));
        assert!(stderr(&output).contains(file), "{}", stderr(&output));
    }
}

#[test]
fn config_check_reads_the_certificate() {
    let directory = TempDir::new().unwrap();
    let output = run(&directory, &["config", "check"]);
    assert_eq!(status(&output), Some(0), "{}", stderr(&output));
    let set = ["--set", "tls.certificate=a.pem", "--set", "tls.key=a.pem"];
    let output = run(&directory, &[&["config", "check"], &set[..]].concat());
    assert_eq!(status(&output), Some(1));
    assert!(
        stderr(&output).contains("a.pem: No such file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn config_show_prints_a_configuration_file() {
    let directory = TempDir::new().unwrap();
    let output = run(
        &directory,
        &["config", "show", "--set", "limits.max_depth=32"],
    );
    assert_eq!(status(&output), Some(0));
    std::fs::write(directory.path().join("shown.toml"), &output.stdout).unwrap();
    let again = run(&directory, &["config", "show", "--config", "shown.toml"]);
    assert_eq!(stdout(&again), stdout(&output));
    assert!(stdout(&again).contains("max_depth = 32"));
}

#[test]
fn accounts_are_managed_without_a_server() {
    let directory = TempDir::new().unwrap();
    let add = ["user", "add", "Ann@localhost", "--password-stdin"];
    let output = with_input(&directory, &add, "secret\n");
    assert_eq!(status(&output), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "added ann@localhost\n");

    let output = run(&directory, &["user", "add", "bob@localhost", "--generate"]);
    assert_eq!(status(&output), Some(0));
    assert!(
        stdout(&output).contains("password: "),
        "{}",
        stdout(&output)
    );
    assert_eq!(
        stdout(&run(&directory, &["user", "list"])),
        "ann@localhost\nbob@localhost\n"
    );

    let output = with_input(&directory, &add, "secret\n");
    assert_eq!(status(&output), Some(1));
    assert!(
        stderr(&output).contains("ann@localhost exists already"),
        "{}",
        stderr(&output)
    );

    assert_eq!(
        status(&run(&directory, &["user", "exists", "ann@localhost"])),
        Some(0)
    );
    assert_eq!(
        status(&run(&directory, &["user", "exists", "eve@localhost"])),
        Some(1)
    );
    let passwd = ["user", "passwd", "ann@localhost", "--password-stdin"];
    assert_eq!(status(&with_input(&directory, &passwd, "other\n")), Some(0));
    assert_eq!(
        status(&run(&directory, &["user", "delete", "ann@localhost"])),
        Some(0)
    );
    assert_eq!(
        status(&run(&directory, &["user", "delete", "ann@localhost"])),
        Some(1)
    );
    assert_eq!(status(&with_input(&directory, &passwd, "other\n")), Some(1));
    assert_eq!(
        stdout(&run(&directory, &["user", "list"])),
        "bob@localhost\n"
    );
}

#[test]
fn accounts_that_cannot_be_are_refused_with_a_reason() {
    let directory = TempDir::new().unwrap();
    for (address, input, expected) in [
        ("ann", "secret\n", "is not an account's address"),
        (
            "ann@localhost/desk",
            "secret\n",
            "is not an account's address",
        ),
        (
            "ann@example.org",
            "secret\n",
            "example.org is not a served domain",
        ),
        ("ann@localhost", "\n", "the password is empty"),
    ] {
        let output = with_input(
            &directory,
            &["user", "add", address, "--password-stdin"],
            input,
        );
        assert_eq!(status(&output), Some(1), "{address}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let output = run(&directory, &["user", "add", "ann@localhost"]);
    assert!(
        stderr(&output).contains("use --password-stdin or --generate"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_server_says_how_to_begin_and_ends_cleanly() {
    let directory = TempDir::new().unwrap();
    let mut server = Running::start(&directory);
    for listener in ["c2s", "c2s_direct_tls", "http", "http_tls", "admin"] {
        TcpStream::connect(address(&directory, listener)).unwrap();
    }
    let admin = address(&directory, "admin");
    assert_eq!(get(admin, "/healthz", ""), (200, "ok\n".into()));
    let (status_code, body) = get(admin, "/readyz", "");
    assert_eq!(status_code, 200, "{body}");
    assert!(get(admin, "/metrics", "").1.contains("rookery_build_info"));
    assert!(
        get(admin, "/", "")
            .1
            .contains("<title>Rookery status</title>")
    );
    assert_eq!(get(admin, "/nothing", "").0, 404);

    let health = [
        "health",
        "--set",
        "admin.listen=127.0.0.1:0",
        "--set",
        "server.ports_file=ports.json",
    ];
    assert_eq!(status(&run(&directory, &health)), Some(0));

    server.signal(Signal::TERM);
    server.wait_for("stopped");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(status(&run(&directory, &health)), Some(1));
    let socket = directory.path().join("data/control.sock");
    assert!(!socket.exists(), "it is left behind");
}

#[test]
fn browsers_are_told_where_the_websocket_is() {
    let directory = TempDir::new().unwrap();
    let _server = Running::start(&directory);
    let http = address(&directory, "http");
    let tls_port = address(&directory, "http_tls").port();
    let url = format!("wss://test:{tls_port}/xmpp-websocket");
    let (status_code, body) = get(http, "/.well-known/host-meta.json", "");
    assert_eq!(status_code, 200);
    assert!(body.contains(&url), "{body}");
    assert!(get(http, "/.well-known/host-meta", "").1.contains(&url));
    assert_eq!(get(http, "/http-bind", "").0, 404);
    assert_eq!(get(http, "/xmpp-websocket", "").0, 426);
    let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (status_code, body) = get(http, "/xmpp-websocket", headers);
    assert_eq!(
        (status_code, body.as_str()),
        (400, "the subprotocol has to be xmpp\n")
    );
}

#[test]
fn a_taken_port_stops_the_start_before_anything_is_served() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let set = format!("http.listen={address}");
    let output = rookery(&directory)
        .args(SERVE)
        .args(["--set", &set])
        .output()
        .unwrap();
    assert_eq!(status(&output), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains(&format!("http.listen: cannot listen on {address}")),
        "{text}"
    );
    assert!(!text.contains("listening"), "{text}");
    assert!(!directory.path().join("ports.json").exists());
}

#[test]
fn a_database_that_cannot_be_used_stops_the_start() {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(
        directory.path().join("data/rookery.db"),
        "this is no database ".repeat(100),
    )
    .unwrap();
    let output = rookery(&directory).args(SERVE).output().unwrap();
    assert_eq!(status(&output), Some(1));
    assert!(
        stderr(&output).contains("storage.url: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn two_servers_do_not_share_a_data_directory() {
    let directory = TempDir::new().unwrap();
    let _first = Running::start(&directory);
    let output = rookery(&directory).args(SERVE).output().unwrap();
    assert_eq!(status(&output), Some(1));
    assert!(
        stderr(&output).contains("another server is using ./data"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_command_tells_the_running_server() {
    let directory = TempDir::new().unwrap();
    let mut server = Running::start(&directory);
    let add = ["user", "add", "ann@localhost", "--password-stdin"];
    assert_eq!(status(&with_input(&directory, &add, "secret\n")), Some(0));
    let output = run(&directory, &["user", "delete", "ann@localhost"]);
    assert_eq!((status(&output), stderr(&output).as_str()), (Some(0), ""));
    let line = server.wait_for("user-delete");
    assert!(line.contains("ann@localhost"), "{line}");
    assert!(Path::new(&directory.path().join("data/control.sock")).exists());
}
