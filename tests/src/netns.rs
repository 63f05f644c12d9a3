//! A network of network namespaces: each node, Redis and PostgreSQL have an address of their own, and the
//! links between them can be cut for real.
//!
//! ```text
//! test (root namespace) ── .254 ┐
//! node 0 ── .10 ────────────────┤ bridge in a namespace of its own: Redis on .1, PostgreSQL on .2
//! node 1 ── .11 ────────────────┘
//! ```
//!
//! It needs root. Where that, or a tool, is missing, [`Network::create`] says so in one line on standard
//! error and gives nothing, so that a test can leave.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::place::Place;

/// What happens to packets between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Each is answered with a TCP reset: connections end, new ones are refused.
    Reset,
    /// Each is thrown away: connections hang.
    Swallow,
}

/// Both kinds of cuts.
pub const CUTS: [Cut; 2] = [Cut::Reset, Cut::Swallow];

/// A part that nodes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The directory and the bus.
    Redis,
    /// The database.
    Postgres,
}

/// The network. Everything in it must have ended before this is dropped, which removes it.
pub struct Network {
    name: String,
    /// The first three bytes of all addresses.
    prefix: [u8; 3],
    nodes: usize,
}

impl Network {
    /// Makes a network for so many nodes; `None`, and a line that says why, where that is not permitted.
    pub fn create(nodes: usize) -> Option<Self> {
        match Self::try_create(nodes) {
            Ok(network) => Some(network),
            Err(reason) => {
                let test = std::thread::current().name().unwrap_or("a test").to_owned();
                // Past the test harness, which hides what a test that passes prints.
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED {test}: no network namespaces here: {reason}"
                );
                None
            }
        }
    }

    /// The same, for those who can do without.
    ///
    /// # Errors
    /// Why there is none.
    pub fn try_create(nodes: usize) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let mut problem = String::new();
        for _ in 0..16 {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rk{}n{number}", std::process::id());
            // 198.18.0.0/15 is for tests of networks (RFC 2544).
            let place = (std::process::id().wrapping_mul(7) + number) % 512;
            let [_, _, high, low] = place.to_be_bytes();
            let network = Self {
                name,
                prefix: [198, 18 + high, low],
                nodes,
            };
            match network.build() {
                Ok(()) => return Ok(network),
                // Another test's address; or nothing of the kind is permitted, 16 times.
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn build(&self) -> Result<(), String> {
        let (hub, test) = (&self.name, format!("{}t", self.name));
        if run("ip -4 route show")?.contains(&format!("{}.", self.dotted())) {
            return Err(format!("{}.0/24 is taken", self.dotted()));
        }
        run("nft --version").or_else(|_| run("iptables --version"))?;
        run(&format!("ip netns add {hub}"))?;
        in_ns(hub, "ip link set lo up")?;
        in_ns(hub, "ip link add bridge type bridge forward_delay 0")?;
        in_ns(hub, "ip link set bridge up")?;
        for address in [self.redis(), self.postgres()] {
            in_ns(hub, &format!("ip addr add {address}/24 dev bridge"))?;
        }
        run(&format!(
            "ip link add {test} type veth peer name test netns {hub}"
        ))?;
        in_ns(hub, "ip link set test master bridge up")?;
        run(&format!("ip addr add {}.254/24 dev {test}", self.dotted()))?;
        run(&format!("ip link set {test} up"))?;
        for node in 0..self.nodes {
            let ns = self.node_ns(node);
            run(&format!("ip netns add {ns}"))?;
            in_ns(
                hub,
                &format!("ip link add node{node} type veth peer name eth0 netns {ns}"),
            )?;
            in_ns(hub, &format!("ip link set node{node} master bridge up"))?;
            in_ns(&ns, "ip link set lo up")?;
            in_ns(&ns, &format!("ip addr add {}/24 dev eth0", self.node(node)))?;
            in_ns(&ns, "ip link set eth0 up")?;
        }
        Ok(())
    }

    /// Where Redis runs.
    pub fn redis_place(&self) -> Place {
        Place::in_namespace(&self.name, self.redis())
    }

    /// Where PostgreSQL runs.
    pub fn postgres_place(&self) -> Place {
        Place::in_namespace(&self.name, self.postgres())
    }

    /// Where a node runs.
    pub fn node_place(&self, node: usize) -> Place {
        Place::in_namespace(&self.node_ns(node), self.node(node))
    }

    /// Cuts a node off from a part. Clients still reach it.
    pub fn cut(&self, node: usize, peer: Peer, cut: Cut) {
        let ns = self.node_ns(node);
        let address = match peer {
            Peer::Redis => self.redis(),
            Peer::Postgres => self.postgres(),
        };
        let outcome = if run("nft --version").is_ok() {
            let verdict = match cut {
                // But for the resets themselves.
                Cut::Reset => "tcp flags & rst == 0 reject with tcp reset",
                Cut::Swallow => "drop",
            };
            [
                "add table inet cut".to_owned(),
                "add chain inet cut out { type filter hook output priority 0; }".to_owned(),
                "add chain inet cut in { type filter hook input priority 0; }".to_owned(),
                format!("add rule inet cut out ip daddr {address} meta l4proto tcp {verdict}"),
                format!("add rule inet cut in ip saddr {address} meta l4proto tcp {verdict}"),
            ]
            .iter()
            .try_for_each(|rule| nft(&ns, rule))
        } else {
            let verdict = match cut {
                Cut::Reset => "--tcp-flags RST NONE -j REJECT --reject-with tcp-reset",
                Cut::Swallow => "-j DROP",
            };
            [("OUTPUT", "-d"), ("INPUT", "-s")]
                .iter()
                .try_for_each(|(chain, side)| {
                    in_ns(
                        &ns,
                        &format!("iptables -A {chain} -p tcp {side} {address} {verdict}"),
                    )
                    .map(drop)
                })
        };
        outcome.unwrap_or_else(|e| panic!("cutting: {e}"));
    }

    /// Mends everything that was cut at a node.
    pub fn heal(&self, node: usize) {
        let ns = self.node_ns(node);
        let outcome = if run("nft --version").is_ok() {
            nft(&ns, "delete table inet cut")
        } else {
            in_ns(&ns, "iptables -F").map(drop)
        };
        outcome.unwrap_or_else(|e| panic!("healing: {e}"));
    }

    /// Tries to connect from a node to the port that a part listens on: `connected`, `refused`, or
    /// `no answer` within a second.
    pub fn try_connect(&self, node: usize, peer: SocketAddr) -> &'static str {
        let script = format!("exec 3<>/dev/tcp/{}/{}", peer.ip(), peer.port());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.node_ns(node)]);
        command.args(["timeout", "1", "bash", "-c", &script]);
        let output = command.output().expect("ip is there");
        match output.status.code() {
            Some(0) => "connected",
            Some(124) => "no answer",
            _ => "refused",
        }
    }

    fn node_ns(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn dotted(&self) -> String {
        let [a, b, c] = self.prefix;
        format!("{a}.{b}.{c}")
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last)
    }

    fn redis(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn postgres(&self) -> Ipv4Addr {
        self.address(2)
    }

    fn node(&self, node: usize) -> Ipv4Addr {
        self.address(10 + u8::try_from(node).expect("few nodes"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = run(&format!("ip netns del {}", self.node_ns(node)));
        }
        // Its end of the link to the test goes with it.
        let _ = run(&format!("ip netns del {}", self.name));
        let _ = run(&format!("ip link del {}t", self.name));
    }
}

/// Removes networks of test programs that were killed.
fn remove_leftovers() {
    for line in run("ip netns list").unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let pid = name
            .strip_prefix("rk")
            .and_then(|rest| rest.split('n').next());
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

fn in_ns(ns: &str, command: &str) -> Result<String, String> {
    run(&format!("ip netns exec {ns} {command}"))
}

/// nft takes a rule as one word or many, but not braces that a shell would see; no shell is used here.
fn nft(ns: &str, rule: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", ns, "nft", rule]);
    output_of(command).map(drop)
}

fn run(words: &str) -> Result<String, String> {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    output_of(command)
}

fn output_of(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", complaint.trim()))
}
