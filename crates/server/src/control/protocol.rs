//! What commands and a running server say to each other.
//!
//! One request a connection: a line of JSON such as `{"version":1,"request":"sessions"}`, answered by
//! lines such as `{"version":1,"reply":"session",…}`; which ones, [`Request`] says. Any request may be
//! answered by [`Reply::Refused`]. A peer of another version is told so and not guessed at.
//!
//! COMPAT: the first servers took the line `account-changed ADDRESS` or `account-removed ADDRESS` and
//! answered `ok`; that is still understood.

use rookery_actors::inspect::SessionInfo;
use rookery_proto::cluster::Epoch;
use rookery_proto::datetime;
use rookery_proto::jid::{BareJid, FullJid, Jid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version that this program speaks.
const VERSION: u32 = 1;

/// The longest request: a call of the API, whose body has 128 KiB at most, and little else.
pub(super) const MAX_REQUEST: u64 = 256 * 1024;

/// What a command did to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountChanged {
    /// The account.
    pub(crate) account: BareJid,
    /// Whether it is gone.
    pub(crate) removed: bool,
    /// Whether it was disabled or enabled; if it was neither and is not gone, it has another password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disabled: Option<bool>,
}

impl AccountChanged {
    /// It is gone.
    pub(crate) fn removed(account: BareJid) -> Self {
        Self {
            account,
            removed: true,
            disabled: None,
        }
    }

    /// It has another password.
    pub(crate) fn password(account: BareJid) -> Self {
        Self {
            removed: false,
            ..Self::removed(account)
        }
    }

    /// It was disabled, or enabled.
    pub(crate) fn disabled(account: BareJid, disabled: bool) -> Self {
        Self {
            disabled: Some(disabled),
            ..Self::password(account)
        }
    }
}

/// What a command wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Look at an account anew. Answered by [`Reply::Done`].
    AccountChanged(AccountChanged),
    /// Send all clients elsewhere. Answered by [`Reply::Draining`], [`Reply::Left`]… and
    /// [`Reply::Drained`].
    Drain {
        /// How long clients may take, in milliseconds.
        timeout_ms: u64,
    },
    /// List the sessions. Answered by [`Reply::Session`]… and [`Reply::Done`].
    Sessions,
    /// End sessions. Answered by [`Reply::Kicked`].
    Kick {
        /// A session, or the account whose sessions these are.
        jid: Jid,
    },
    /// Tell about the cluster. Answered by [`Reply::Cluster`].
    ClusterStatus,
    /// An account was made, for the audit log. Answered by [`Reply::Done`].
    AccountAdded {
        /// The account.
        account: BareJid,
    },
    /// Follow stanzas. Answered by [`Reply::Line`]…, once a second at least, and [`Reply::Done`].
    Trace {
        /// A session, or an account with all of its sessions.
        jid: Jid,
        /// Whether to show what stanzas say.
        bodies: bool,
        /// How long, in milliseconds.
        time_ms: u64,
    },
    /// A call of the API. Answered by [`Reply::Answer`].
    Call {
        /// The method of HTTP.
        method: String,
        /// The path and the query.
        path: String,
        /// What the call brings.
        body: Option<Value>,
    },
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// All is said and done.
    Done,
    /// It was not done.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// The node is not ready any more, and its clients will be sent elsewhere.
    Draining {
        /// In how many milliseconds.
        delay_ms: u64,
        /// Whether there may be other nodes for them.
        in_cluster: bool,
    },
    /// So many sessions are left. Comes about once a second, also if nothing has changed.
    Left {
        /// How many.
        sessions: usize,
    },
    /// No session is left, or the time is up.
    Drained {
        /// How many are left.
        sessions: usize,
    },
    /// A session of the node.
    Session(Session),
    /// Sessions were ended.
    Kicked {
        /// How many.
        sessions: usize,
    },
    /// What the node knows of its cluster.
    Cluster(ClusterStatus),
    /// A line of a trace, as the API has it.
    Line {
        /// What it says.
        line: Value,
    },
    /// What the API answers.
    Answer {
        /// As in HTTP.
        status: u16,
        /// What it says.
        body: Option<Value>,
    },
}

/// A session of the node; also a line of `rookery session list --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The bound resource.
    pub(crate) jid: FullJid,
    /// Since when it is on this node (XEP-0082).
    pub(crate) since: String,
    /// `tcp`, `tls` or `websocket`.
    pub(crate) transport: String,
    /// The client's address and port; the last ones while it waits.
    pub(crate) address: String,
    /// Whether it has a connection.
    pub(crate) state: SessionState,
    /// Stanzas that the client does not have, as far as the server knows.
    pub(crate) queued_stanzas: usize,
    /// Their size.
    pub(crate) queued_bytes: usize,
    /// The node that has it; empty on a single node, and where only one node is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
}

impl Session {
    /// A session on the node of this name.
    pub(crate) fn new(session: SessionInfo, node: String) -> Self {
        let state = if session.connected {
            SessionState::Connected
        } else {
            SessionState::Waiting
        };
        Self {
            jid: session.jid,
            since: datetime::format(session.since),
            transport: session.transport,
            address: session.address.to_string(),
            state,
            queued_stanzas: session.queued_stanzas,
            queued_bytes: session.queued_bytes,
            node,
        }
    }
}

/// Whether a session has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SessionState {
    /// It has.
    Connected,
    /// It waits to be resumed (XEP-0198).
    Waiting,
}

/// What a node knows of its cluster; also what `rookery cluster status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterStatus {
    /// Whether there is one.
    pub(crate) in_cluster: bool,
    /// Whether this node has cut itself off.
    pub(crate) fenced: bool,
    /// Sessions on this node.
    pub(crate) sessions: usize,
    /// How long a lease lasts, in milliseconds.
    pub(crate) lease_ms: u64,
    /// The nodes with a lease, as this one saw them last; none on a single node.
    pub(crate) nodes: Vec<ClusterNode>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterNode {
    /// `cluster.node`
    pub(crate) name: String,
    /// Its incarnation: 16 hexadecimal digits.
    pub(crate) epoch: String,
    /// The newest version of frames that it speaks.
    pub(crate) frames: u8,
    /// Whether it is the one that was asked.
    pub(crate) this: bool,
    /// Whether its lease is good.
    pub(crate) lease: Lease,
}

/// Whether a node has proved that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Lease {
    /// It has, when it was last seen.
    Held,
    /// It could not for as long as a lease lasts.
    Lapsed,
}

/// A request that is not answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Another version of the protocol.
    #[error(
        "version {0} of the control protocol is not spoken here, only {VERSION} is: \
         use the command of the version that the server has"
    )]
    Version(u32),
    /// No message, or one that this version does not have.
    #[error("not understood: {0}")]
    Message(String),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    message: T,
}

/// A message as a line.
pub(super) fn to_line(message: impl Serialize) -> String {
    let version = VERSION;
    let line = serde_json::to_string(&Versioned { version, message });
    let mut line = line.expect("names and numbers are always JSON");
    line.push('\n');
    line
}

/// A message from a line.
///
/// # Errors
/// If it is none of this version.
pub(super) fn from_line<T: DeserializeOwned>(line: &str) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |error: serde_json::Error| Unreadable::Message(error.to_string());
    let Version { version } = serde_json::from_str(line).map_err(damaged)?;
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let Versioned { message, .. } = serde_json::from_str(line).map_err(damaged)?;
    Ok(message)
}

/// A request in the form of the first servers.
pub(super) fn from_old_line(line: &str) -> Option<AccountChanged> {
    let (verb, address) = line.trim_end_matches('\n').split_once(' ')?;
    let change = match verb {
        "account-removed" => AccountChanged::removed,
        "account-changed" => AccountChanged::password,
        _ => return None,
    };
    Some(change(BareJid::parse(address).ok()?))
}

impl ClusterNode {
    /// A node of which one knows this.
    pub(crate) fn new(name: &str, epoch: Epoch, frames: u8, this: bool, lease: Lease) -> Self {
        Self {
            name: name.into(),
            epoch: epoch.to_string(),
            frames,
            this,
            lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> BareJid {
        BareJid::parse("ann@localhost").unwrap()
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let removed = AccountChanged::removed(ann());
        let disabled = AccountChanged::disabled(ann(), true);
        for (request, line) in [
            (
                Request::AccountChanged(removed),
                r#"{"version":1,"request":"account-changed","account":"ann@localhost","removed":true}"#,
            ),
            (
                Request::AccountChanged(disabled),
                r#"{"version":1,"request":"account-changed","account":"ann@localhost","removed":false,"disabled":true}"#,
            ),
            (
                Request::Drain { timeout_ms: 60_000 },
                r#"{"version":1,"request":"drain","timeout_ms":60000}"#,
            ),
            (Request::Sessions, r#"{"version":1,"request":"sessions"}"#),
            (
                Request::Kick { jid: ann().into() },
                r#"{"version":1,"request":"kick","jid":"ann@localhost"}"#,
            ),
            (
                Request::AccountAdded { account: ann() },
                r#"{"version":1,"request":"account-added","account":"ann@localhost"}"#,
            ),
            (
                Request::Call {
                    method: "PUT".into(),
                    path: "/api/v1/log".into(),
                    body: Some(serde_json::json!({ "level": "debug" })),
                },
                r#"{"version":1,"request":"call","method":"PUT","path":"/api/v1/log","body":{"level":"debug"}}"#,
            ),
            (
                Request::Trace {
                    jid: ann().into(),
                    bodies: true,
                    time_ms: 1000,
                },
                r#"{"version":1,"request":"trace","jid":"ann@localhost","bodies":true,"time_ms":1000}"#,
            ),
            (
                Request::ClusterStatus,
                r#"{"version":1,"request":"cluster-status"}"#,
            ),
        ] {
            assert_eq!(to_line(&request), format!("{line}\n"));
            assert_eq!(from_line(line), Ok(request));
        }
    }

    #[test]
    fn replies_are_read_as_they_were_written() {
        let node = ClusterNode::new("one", Epoch(7), 2, true, Lease::Lapsed);
        for reply in [
            Reply::Done,
            Reply::Refused {
                reason: "no".into(),
            },
            Reply::Draining {
                delay_ms: 2000,
                in_cluster: true,
            },
            Reply::Left { sessions: 3 },
            Reply::Drained { sessions: 0 },
            Reply::Kicked { sessions: 1 },
            Reply::Session(Session {
                jid: FullJid::parse("ann@localhost/\"\\").unwrap(),
                since: "2026-01-01T00:00:00Z".into(),
                transport: "tls".into(),
                address: "[::1]:7".into(),
                state: SessionState::Waiting,
                queued_stanzas: 2,
                queued_bytes: 345,
                node: "one".into(),
            }),
            Reply::Line {
                line: serde_json::json!({ "line": "alive" }),
            },
            Reply::Answer {
                status: 204,
                body: None,
            },
            Reply::Cluster(ClusterStatus {
                in_cluster: true,
                fenced: true,
                sessions: 4,
                lease_ms: 9000,
                nodes: vec![node],
            }),
        ] {
            assert_eq!(from_line(&to_line(&reply)), Ok(reply));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in [
            "",
            "reboot now",
            "{}",
            r#"{"version":1}"#,
            r#"{"version":1,"request":"reboot"}"#,
            r#"{"version":1,"request":"kick"}"#,
            r#"{"version":1,"request":"kick","jid":"a@@b"}"#,
            r#"{"version":1,"request":"drain","timeout_ms":-1}"#,
            r#"{"request":"sessions"}"#,
        ] {
            let read = from_line::<Request>(line);
            assert!(
                matches!(read, Err(Unreadable::Message(_))),
                "{line:?} is {read:?}"
            );
        }
        let newer = r#"{"version":2,"request":"sessions"}"#;
        assert_eq!(from_line::<Request>(newer), Err(Unreadable::Version(2)));
    }

    #[test]
    fn old_requests_are_read_strictly() {
        for (line, expected) in [
            (
                "account-changed ann@localhost\n",
                AccountChanged::password(ann()),
            ),
            (
                "account-removed ann@localhost\n",
                AccountChanged::removed(ann()),
            ),
        ] {
            assert_eq!(from_old_line(line), Some(expected));
        }
        for line in [
            "",
            "account-removed",
            "account-removed \n",
            "reboot now\n",
            "account-removed a@@b\n",
        ] {
            assert_eq!(from_old_line(line), None, "{line:?}");
        }
    }

    /// The longest JID that there is, with the characters that JSON makes longest.
    #[test]
    fn every_address_fits_into_a_request() {
        let local = "a".repeat(1023);
        let domain = ["a"; 512].join(".");
        let resource = "\"".repeat(1023);
        let jid = Jid::parse(&format!("{local}@{}/{resource}", &domain[..253])).unwrap();
        let line = to_line(Request::Kick { jid });
        assert!((line.len() as u64) < MAX_REQUEST - 1023);
    }
}
