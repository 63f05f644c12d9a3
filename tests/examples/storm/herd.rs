//! The clients of the node that dies, in processes of their own.
//!
//! A process prints a line `up` when its clients are on the first node, `back` when all of them are on
//! another one, and, once it is told to end by the end of its input, what became of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rookery_tests::chaos::random::Random;
use rookery_tests::figures::percentile;
use rookery_tests::light::{Light, Manner, Proof, Tls};
use rookery_tests::tls;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, Semaphore};

use crate::{Storm, accounts};

/// The first word on the command line of such a process.
pub(crate) const WORD: &str = "--herd";
/// Clients that come up at the same time, before the storm.
const AT_ONCE: usize = 32;
/// The first pause after a failure, and the longest; each is twice the one before, give or take half.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The processes.
pub(crate) struct Herds(Vec<Herd>);

struct Herd {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Herds {
    /// Starts them for a cluster whose first node will die.
    pub(crate) fn start(storm: &Storm, nodes: [SocketAddr; 3]) -> Self {
        let exe = std::env::current_exe().expect("this program is a file");
        let start = |number: usize| {
            let from = storm.sessions * number / storm.processes;
            let to = storm.sessions * (number + 1) / storm.processes;
            let mut child = Command::new("nice")
                .args(["-n", "10"])
                .arg(&exe)
                .arg(WORD)
                .args([from, to].map(|n| n.to_string()))
                .arg(storm.within.as_millis().to_string())
                .args([storm.tls, storm.plain, storm.resume].map(|b| b.to_string()))
                .args(nodes.map(|node| node.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("this program starts");
            let stdin = child.stdin.take().expect("piped");
            let stdout = child.stdout.take().expect("piped");
            Herd {
                child,
                stdin,
                lines: BufReader::new(stdout).lines(),
            }
        };
        Self((0..storm.processes).map(start).collect())
    }

    /// Waits until all of them have printed a word; `false` if they have not in time.
    pub(crate) async fn wait(&mut self, word: &str, patience: Duration) -> bool {
        let all = async {
            for herd in &mut self.0 {
                let line = herd.lines.next_line().await.expect("a readable pipe");
                assert_eq!(line.as_deref(), Some(word), "what the clients say");
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }

    /// Ends them, and prints what they have to tell.
    pub(crate) async fn report(self) {
        for mut herd in self.0 {
            drop(herd.stdin);
            while let Ok(Some(line)) = herd.lines.next_line().await {
                println!("{line}");
            }
            // Its output has ended, so it does.
            let _ = herd.child.wait().await;
        }
    }
}

/// What all clients of a process share.
struct Shared {
    manner: Manner,
    resume: bool,
    /// How many milliseconds a client waits at most before it comes back.
    within: u64,
    nodes: [SocketAddr; 3],
    tally: RefCell<Tally>,
    changed: Notify,
    starting: Semaphore,
}

#[derive(Default)]
struct Tally {
    up: usize,
    back: usize,
    /// How long each took from the end of its connection until it was available again.
    times: Vec<f64>,
    failures: BTreeMap<String, usize>,
    /// Attempts that the slowest needed.
    most_attempts: usize,
    /// Connections that ended after they were back.
    lost_again: usize,
}

/// The life of such a process.
pub(crate) async fn run(words: &[String]) {
    let [from, to, within, tls, plain, resume, nodes @ ..] = words else {
        panic!("started by hand?")
    };
    let nodes: Vec<SocketAddr> = nodes.iter().map(|n| n.parse().expect("address")).collect();
    let (from, to): (usize, usize) = (from.parse().expect("number"), to.parse().expect("number"));
    let tls = if tls == "true" {
        Tls::StartTls(tls::client_config(&[&rustls::version::TLS13], &[]))
    } else {
        Tls::Never
    };
    let proof = if plain == "true" {
        Proof::Plain(accounts::PASSWORD.into())
    } else {
        Proof::Key(accounts::client_key().into())
    };
    let shared = Rc::new(Shared {
        manner: Manner { tls, proof },
        resume: resume == "true",
        within: within.parse().expect("milliseconds"),
        nodes: nodes.try_into().expect("three nodes"),
        tally: RefCell::default(),
        changed: Notify::new(),
        starting: Semaphore::new(AT_ONCE),
    });
    for number in from..to {
        tokio::task::spawn_local(live(Rc::clone(&shared), number));
    }
    shared.wait_for(|tally| tally.up == to - from).await;
    say("up");
    let mut told = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let ended = tokio::select! {
        () = shared.wait_for(|tally| tally.back == to - from) => None,
        ended = &mut told => Some(ended),
    };
    if ended.is_none() {
        say("back");
        // An error is an end, too.
        let _ = told.await;
    }
    say(&shared.tally.borrow().report(to - from));
}

impl Shared {
    async fn wait_for(&self, holds: impl Fn(&Tally) -> bool) {
        while !holds(&self.tally.borrow()) {
            self.changed.notified().await;
        }
    }
}

impl Tally {
    fn report(&self, all: usize) -> String {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| percentile(&times, part);
        let mut lines = vec![format!(
            "{} of {all} came back; each took p50 {:.2} s, p99 {:.2} s, at most {:.2} s and {} attempts; \
             {} lost their connection again",
            self.back,
            at(0.5),
            at(0.99),
            at(1.0),
            self.most_attempts,
            self.lost_again
        )];
        let failures: usize = self.failures.values().sum();
        lines.push(format!("failed attempts: {failures}"));
        let by_reason = self.failures.iter();
        lines.extend(by_reason.map(|(reason, count)| format!("  {count:>7} {reason}")));
        lines.join("\n")
    }
}

/// One client, from its first login on.
async fn live(shared: Rc<Shared>, number: usize) {
    let name = format!("u{number}");
    let mut random = Random::new(number as u64);
    let from = address_of(number);
    let turn = shared.starting.acquire().await.expect("never closed");
    let first = come(&shared, shared.nodes[0], &name, from, None).await;
    let mut light = first.unwrap_or_else(|reason| {
        eprintln!("{name} cannot start: {reason}");
        std::process::exit(1)
    });
    drop(turn);
    shared.tally.borrow_mut().up += 1;
    shared.changed.notify_one();
    let mut is_back = false;
    loop {
        let _ = light.idle(|_| ()).await;
        let start = Instant::now();
        if is_back {
            let mut tally = shared.tally.borrow_mut();
            tally.lost_again += 1;
            tally.back -= 1;
        }
        let resume = light.resume_id.take().filter(|_| shared.resume);
        let attempts;
        (light, attempts) = come_back(&shared, &name, from, resume, &mut random).await;
        is_back = true;
        let mut tally = shared.tally.borrow_mut();
        tally.back += 1;
        tally.most_attempts = tally.most_attempts.max(attempts);
        tally.times.push(start.elapsed().as_secs_f64());
        shared.changed.notify_one();
    }
}

/// Logs in and becomes available.
async fn come(
    shared: &Shared,
    node: SocketAddr,
    name: &str,
    from: Ipv4Addr,
    resume: Option<&str>,
) -> Result<Light, String> {
    let mut light = Light::managed(node, name, from, &shared.manner, resume).await?;
    let available = light.become_available().await;
    available.map_err(|reason| format!("presence: {reason}"))?;
    Ok(light)
}

/// Tries the nodes that live until one takes it; at once, and then after growing pauses.
async fn come_back(
    shared: &Shared,
    name: &str,
    from: Ipv4Addr,
    resume: Option<String>,
    random: &mut Random,
) -> (Light, usize) {
    let mut pause = PAUSES.0;
    tokio::time::sleep(random.millis(0, shared.within.max(1))).await;
    for attempt in 1.. {
        let node = shared.nodes[1 + random.below(2)];
        match come(shared, node, name, from, resume.as_deref()).await {
            Ok(light) => return (light, attempt),
            Err(reason) => {
                *shared
                    .tally
                    .borrow_mut()
                    .failures
                    .entry(reason)
                    .or_default() += 1;
            }
        }
        let millis = u64::try_from(pause.as_millis()).expect("a short time");
        tokio::time::sleep(random.millis(millis / 2, millis * 3 / 2)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    unreachable!("there is always another attempt")
}

/// An address of the loopback network for each client.
fn address_of(number: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n % 250 + 1).expect("below 256");
    Ipv4Addr::new(
        127,
        octet(number / 62_500),
        octet(number / 250),
        octet(number),
    )
}

fn say(text: &str) {
    println!("{text}");
    // Whoever does not listen any more misses nothing.
    let _ = std::io::stdout().flush();
}
