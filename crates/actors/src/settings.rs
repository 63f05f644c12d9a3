//! What an operator can change about streams and sessions.
//!
//! Plain values, filled from the configuration file by the server crate, which also checks ranges.
//! [`Settings::default`] holds the documented defaults; tests change single fields.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use rookery_proto::jid::BareJid;

/// Everything the actors need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The served domains, normalised; the first one answers for clients that name none.
    pub domains: Vec<Box<str>>,
    /// What streams from clients may and must do.
    pub c2s: C2s,
    /// Logging in and registering.
    pub auth: Auth,
    /// Bound resources and what is kept for accounts.
    pub sessions: Sessions,
    /// The archive of messages (XEP-0313).
    pub archive: Archive,
    /// Arbiters: threads that run the actors.
    pub workers: usize,
    /// Who may administer the server with a client (XEP-0133), at first.
    pub admins: Vec<BareJid>,
}

/// Limits and policy of client streams.
#[derive(Debug, Clone)]
pub struct C2s {
    /// Whether a stream has to be encrypted before it may log in.
    pub tls: TlsPolicy,
    /// Largest stanza in bytes once a stream is logged in. Before that it is
    /// [`MAX_STANZA_BEFORE_LOGIN`](crate::connection::MAX_STANZA_BEFORE_LOGIN).
    pub max_stanza_bytes: usize,
    /// How deep elements may be nested inside a stanza.
    pub max_depth: usize,
    /// From accepting the connection to a bound resource.
    pub negotiation_timeout: Duration,
    /// How long a peer may accept no bytes while some wait for it.
    pub write_timeout: Duration,
    /// How long a session may take to handle what one read brought, before the stream ends with
    /// `resource-constraint`.
    pub answer_timeout: Duration,
    /// How long a closed stream waits for the peer to close its side as well.
    pub linger: Duration,
    /// Connections that have not logged in yet, in all.
    pub max_unauthenticated: usize,
    /// Connections that have not logged in yet, from one IPv4 address or one IPv6 /64.
    pub max_unauthenticated_per_address: usize,
    /// Whether every TCP connection starts with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// Who may send PROXY protocol headers; connections from others are closed.
    pub trusted_proxies: Vec<Network>,
}

/// Logging in and registering.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Names of the offered SASL mechanisms, best first, e.g. `SCRAM-SHA-256-PLUS`. A mechanism is
    /// offered only where it makes sense: `-PLUS` with channel binding, `PLAIN` under TLS.
    pub mechanisms: Vec<Box<str>>,
    /// Failed attempts on one stream before it is closed.
    pub attempts_per_stream: u32,
    /// Failed attempts that an account gets at once; beyond them one every
    /// [`attempt_interval`](Self::attempt_interval).
    pub attempts_per_account: u32,
    /// How long it takes until an account regains one attempt.
    pub attempt_interval: Duration,
    /// How many passwords are checked by PBKDF2 at the same time (`PLAIN`, registration).
    pub password_checks_at_once: usize,
    /// PBKDF2 iterations of new passwords.
    pub scram_iterations: NonZeroU32,
    /// Whether strangers may register accounts (XEP-0077).
    pub registration: bool,
}

/// The archive of messages.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Whether messages are kept after they were delivered, as the accounts' preferences say.
    pub enabled: bool,
    /// Messages in one answer to a query, at most.
    pub max_page: usize,
    /// How long messages are kept; for ever if `None`.
    pub max_age: Option<Duration>,
    /// How many messages are kept for each account; all if `None`.
    pub max_messages: Option<u64>,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            enabled: true,
            max_page: 250,
            max_age: None,
            max_messages: None,
        }
    }
}

/// Bound resources and what is kept for accounts.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// How long a session waits for its client to come back (XEP-0198); zero: sessions cannot be
    /// resumed.
    pub resume_timeout: Duration,
    /// Where clients are told to come back to, as `host[:port]`.
    pub resume_location: Option<Box<str>>,
    /// Resources that one account may have bound on one node.
    pub resources_per_user: usize,
    /// Bytes of stanzas that may wait for one client before it is dropped.
    pub outbox_bytes: usize,
    /// How long one actor waits for another one of the same arbiter.
    pub actor_timeout: Duration,
    /// Messages that are stored for one account while it is offline.
    pub offline_messages: usize,
    /// Stanzas of the server's own that may wait for one account while something is looked up for it.
    /// What clients send is bounded in bytes (`budget.rs`).
    pub waiting_stanzas: usize,
    /// Accounts whose places on other nodes are remembered, on all arbiters together.
    pub directory_cache: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            resume_timeout: Duration::from_mins(5),
            resume_location: None,
            resources_per_user: 10,
            outbox_bytes: 4 << 20,
            actor_timeout: Duration::from_secs(30),
            offline_messages: 1000,
            waiting_stanzas: 10_000,
            directory_cache: 100_000,
        }
    }
}

/// Whether client streams have to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPolicy {
    /// STARTTLS is mandatory to negotiate (RFC 6120 §5.3.1).
    Required,
    /// STARTTLS is offered. For tests on the loopback interface.
    Optional,
    /// TLS is not offered. For tests on the loopback interface.
    Disabled,
}

/// An address range, e.g. `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Any address of the range.
    pub address: IpAddr,
    /// How many leading bits are the same in the whole range; 0 to 32 or 128.
    pub prefix: u8,
}

impl Network {
    /// Whether the address lies in this range. An IPv4 address that is mapped into IPv6 counts as
    /// the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => same_prefix(
                u128::from(ours.to_bits()),
                u128::from(theirs.to_bits()),
                32,
                self.prefix,
            ),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                same_prefix(ours.to_bits(), theirs.to_bits(), 128, self.prefix)
            }
            _ => false,
        }
    }
}

fn same_prefix(ours: u128, theirs: u128, width: u32, prefix: u8) -> bool {
    let host_bits = width.saturating_sub(u32::from(prefix));
    (ours ^ theirs).checked_shr(host_bits).unwrap_or(0) == 0
}

impl std::str::FromStr for Network {
    type Err = NetworkError;

    /// Reads `address` or `address/prefix`.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| NetworkError)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.trim().parse().map_err(|_| NetworkError)?,
            None => width,
        };
        if prefix > width {
            Err(NetworkError)
        } else {
            Ok(Self { address, prefix })
        }
    }
}

/// The text is no address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or an address range such as 10.0.0.0/8")]
pub struct NetworkError;

impl Default for Settings {
    fn default() -> Self {
        Self {
            domains: vec!["localhost".into()],
            c2s: C2s::default(),
            auth: Auth::default(),
            sessions: Sessions::default(),
            archive: Archive::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            admins: Vec::new(),
        }
    }
}

impl Default for C2s {
    fn default() -> Self {
        Self {
            tls: TlsPolicy::Required,
            max_stanza_bytes: 262_144,
            max_depth: 64,
            negotiation_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_mins(1),
            linger: Duration::from_secs(2),
            max_unauthenticated: 20_000,
            max_unauthenticated_per_address: 1_000,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mechanisms: [
                "SCRAM-SHA-256-PLUS",
                "SCRAM-SHA-256",
                "SCRAM-SHA-1-PLUS",
                "SCRAM-SHA-1",
                "PLAIN",
            ]
            .map(Into::into)
            .to_vec(),
            attempts_per_stream: 5,
            attempts_per_account: 20,
            attempt_interval: Duration::from_secs(6),
            password_checks_at_once: 4,
            scram_iterations: rookery_features::password::DEFAULT_ITERATIONS,
            registration: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_that_share_its_prefix() {
        let net: Network = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.3".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        let six: Network = "2001:db8::/32".parse().unwrap();
        assert!(six.contains("2001:db8:1::1".parse().unwrap()));
        assert!(!six.contains("2001:db9::1".parse().unwrap()));
    }

    #[test]
    fn a_single_address_is_a_network_of_one() {
        let net: Network = "192.0.2.7".parse().unwrap();
        assert!(net.contains("192.0.2.7".parse().unwrap()));
        assert!(!net.contains("192.0.2.6".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_no_network() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }
}
