//! A private PostgreSQL server: made in a temporary directory, gone with the test.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio_postgres::{Client, NoTls};

use crate::free_port::free_port;

/// A connection to look behind the scenes, driven by a task of its own.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Whether commits wait for the disk.
#[derive(Clone, Copy)]
pub(crate) enum Durability {
    Full,
    /// Quicker, for tests that do not pull any plug.
    None,
}

/// A running server. A shell watches over it: when this process ends, however it does, the shell
/// stops the server and removes its directory.
pub(crate) struct Server {
    shell: Mutex<(Option<ChildStdin>, BufReader<std::process::ChildStdout>)>,
    child: Child,
    directory: String,
    port: u16,
    databases: AtomicU32,
}

/// What the shell does. It reads commands, one a line, and answers each with a line.
const SHELL: &str = r#"
set -u
bin=$1 parent=$2 port=$3 settings=$4
directory=$(mktemp -d "$parent/rookery-postgres.XXXXXX") || exit 1
log=$directory/log
end() {
    "$bin/pg_ctl" -D "$directory/data" -m immediate -w stop >>"$log" 2>&1
    rm -rf "$directory"
}
trap end EXIT
trap 'exit 1' INT TERM HUP
start() {
    "$bin/pg_ctl" -D "$directory/data" -l "$log" -w -t 60 start >>"$log" 2>&1
}
LC_ALL=C "$bin/initdb" -D "$directory/data" -U rookery -E UTF8 --locale=C --no-sync \
    --auth-local=trust --auth-host=scram-sha-256 >>"$log" 2>&1 || { cat "$log"; exit 1; }
{
    echo "listen_addresses = '127.0.0.1'"
    echo "port = $port"
    echo "unix_socket_directories = '$directory'"
    echo "max_connections = 300"
    printf '%b' "$settings"
} >>"$directory/data/postgresql.conf"
start || { cat "$log"; exit 1; }
echo "ready $directory"
while read -r command argument; do
    case $command in
        stop) "$bin/pg_ctl" -D "$directory/data" -m "$argument" -w stop >>"$log" 2>&1 ;;
        start) start ;;
        signal)
            server=$(head -n 1 "$directory/data/postmaster.pid")
            kill "-$argument" "$server" $(ps -o pid= --ppid "$server") ;;
        sql) "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$directory" -p "$port" -U rookery -d postgres \
            -c "$argument" >>"$log" 2>&1 ;;
    esac
    echo "done $?"
done
"#;

impl Server {
    /// The server that all tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(Durability::None))
    }

    /// A server for one test.
    pub(crate) fn start(durability: Durability) -> Self {
        Self::start_in(std::env::temp_dir(), durability)
    }

    /// A server below `parent`, or elsewhere if an unprivileged user cannot write there.
    pub(crate) fn start_in(parent: impl AsRef<Path>, durability: Durability) -> Self {
        let bin = programs();
        let port = free_port();
        let mut settings = String::new();
        if let Durability::None = durability {
            settings.push_str("fsync = off\\nfull_page_writes = off\\n");
        }
        let _ = writeln!(settings, "shared_buffers = 128MB\\n");
        let parent = parent_for_server(parent.as_ref());
        let mut child = as_unprivileged_user()
            .args(["sh", "-c", SHELL, "sh"])
            .arg(&bin)
            .arg(&parent)
            .arg(port.to_string())
            .arg(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .expect("a shell");
        let stdin = child.stdin.take().expect("a pipe");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut said = String::new();
        let directory = loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).expect("text");
            assert!(read > 0, "PostgreSQL did not start:\n{said}");
            if let Some(directory) = line.strip_prefix("ready ") {
                break directory.trim_end().to_owned();
            }
            said.push_str(&line);
        };
        Self {
            shell: Mutex::new((Some(stdin), stdout)),
            child,
            directory,
            port,
            databases: AtomicU32::new(0),
        }
    }

    /// Makes an empty database; gives its URL, by way of the Unix socket.
    pub(crate) fn create_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.command(&format!("sql CREATE DATABASE {name} STRATEGY file_copy"));
        let host = self.directory.replace('/', "%2F");
        format!("postgres://rookery@{host}:{}/{name}", self.port)
    }

    /// Host and port to reach it over TCP.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        Path::new(&self.directory).join(format!(".s.PGSQL.{}", self.port))
    }

    /// Runs one statement.
    pub(crate) fn sql(&self, statement: &str) {
        self.command(&format!("sql {statement}"));
    }

    /// Stops it: `fast` tells its clients, `immediate` is as a crash.
    pub(crate) fn stop(&self, how: &str) {
        self.command(&format!("stop {how}"));
    }

    /// Starts it again.
    pub(crate) fn start_again(&self) {
        self.command("start");
    }

    /// Stops all its processes where they are: nobody answers any more.
    pub(crate) fn freeze(&self) {
        self.command("signal STOP");
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        self.command("signal CONT");
    }

    fn command(&self, command: &str) {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = shell.0.as_mut().expect("it runs");
        writeln!(stdin, "{command}").expect("the shell reads");
        let mut answer = String::new();
        shell.1.read_line(&mut answer).expect("text");
        assert_eq!(answer, "done 0\n", "{command}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is what the shell waits for.
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        shell.0 = None;
        // It ends by itself; there is nobody to tell about an error.
        let _ = self.child.wait();
    }
}

/// Where the newest server's programs are.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| {
            let path = version.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb")
                .exists()
                .then(|| (number, path.join("bin")))
        })
        .collect();
    found.sort();
    match found.pop() {
        Some((_, bin)) => bin,
        None => panic!(
            "no PostgreSQL server below /usr/lib/postgresql: install the Debian package \
             `postgresql` (tests/run does)"
        ),
    }
}

/// PostgreSQL refuses to run as root.
fn as_unprivileged_user() -> Command {
    let mut command = Command::new("env");
    if is_root() {
        command = Command::new("setpriv");
        let user = if has_user("postgres") {
            "postgres"
        } else {
            "nobody"
        };
        command
            .args(["--reuid", user, "--regid"])
            .arg(group_of(user))
            .args(["--clear-groups", "--"]);
    }
    command
}

/// A directory in which that user may write: `parent` is often one that only root can enter.
fn parent_for_server(parent: &Path) -> PathBuf {
    let candidates = [
        parent.to_owned(),
        PathBuf::from("/var/tmp"),
        std::env::temp_dir(),
    ];
    let may_write = |path: &PathBuf| {
        let mut test = as_unprivileged_user();
        test.args(["test", "-w"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success())
    };
    candidates
        .into_iter()
        .find(may_write)
        .expect("a directory to write to")
}

fn is_root() -> bool {
    id(&["-u"]) == "0"
}

fn has_user(name: &str) -> bool {
    Command::new("id")
        .arg(name)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn group_of(user: &str) -> String {
    id(&["-g", user])
}

fn id(arguments: &[&str]) -> String {
    let output = Command::new("id")
        .args(arguments)
        .output()
        .expect("the program id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
