//! The administration API: what operators may ask of a running server, as calls with JSON.
//!
//! [`door`] lets them in over HTTP with a token, the control socket as the commands of the same machine.
//! Both come to [`Api::call`], so that a verb means the same from either side. `openapi.json` describes
//! the calls, and a test compares it with [`routes::ROUTES`].

pub(crate) mod door;
mod fields;
mod messages;
pub(crate) mod nodes;
mod problem;
mod rosters;
mod routes;
mod running;
mod sessions;
mod token;
mod traces;
mod users;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use rookery_actors::NodeShared;
use rookery_actors::audit::Operator;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::fields::{Fields, Query};
pub(crate) use self::problem::Problem;
use self::routes::{Operation, Route};
pub(crate) use self::routes::{encode, with_query};
pub(crate) use self::token::Token;
pub(crate) use self::traces::{Lines, wish};
use crate::admin::Readiness;
use crate::certificates::Certificates;
use crate::config::{Config, Origin};
use crate::logging::Logging;
use crate::wiring::NodeHandle;

/// The largest body of a call.
pub(crate) const MAX_BODY_BYTES: usize = 128 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What to do.
    pub(crate) method: Method,
    /// With what: the path and the query, percent-encoded.
    pub(crate) path: String,
    /// JSON, or nothing.
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// The path and the query, which may be empty.
    fn parts(&self) -> (&str, &str) {
        self.path.split_once('?').unwrap_or((&self.path, ""))
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// As in HTTP.
    pub(crate) status: StatusCode,
    /// JSON; nothing for `204 No Content`.
    pub(crate) body: Option<Value>,
}

/// What is answered to those who can read an answer that goes on.
#[derive(Debug)]
pub(crate) enum Said {
    /// All of it.
    Once(Reply),
    /// JSON objects, one a line.
    Lines(mpsc::Receiver<Bytes>),
}

impl Said {
    /// For those who cannot read an answer that goes on.
    fn whole(self) -> Reply {
        match self {
            Self::Once(reply) => reply,
            Self::Lines(_) => goes_on().into(),
        }
    }
}

fn goes_on() -> Problem {
    Problem::new(
        StatusCode::NOT_ACCEPTABLE,
        "a trace is answered line by line: use `rookery trace`",
    )
}

impl Reply {
    fn ok(body: impl Serialize) -> Result<Self, Problem> {
        Self::with(StatusCode::OK, body)
    }

    fn with(status: StatusCode, body: impl Serialize) -> Result<Self, Problem> {
        let body =
            serde_json::to_value(body).map_err(|error| Problem::failed(error.to_string()))?;
        let body = Some(body);
        Ok(Self { status, body })
    }

    fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: None,
        }
    }
}

/// The parts of a running server that calls look at and change.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The node.
    pub(crate) node: NodeHandle,
    /// Whether load balancers should send clients here.
    pub(crate) readiness: Arc<Readiness>,
    /// The certificate in use.
    pub(crate) certificates: Arc<Certificates>,
    /// The log.
    pub(crate) log: Logging,
    /// The token that lets in.
    pub(crate) token: Arc<Token>,
    /// Where the configuration comes from.
    pub(crate) origin: Origin,
    /// The configuration that the server was started with, and what has been taken over since.
    pub(crate) config: Mutex<Config>,
}

/// Answers calls.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    parts: Arc<Parts>,
    drain_delay: Duration,
    lease: Duration,
}

/// A call that has found its route.
struct Asked<'c> {
    /// The variable parts of the path, decoded.
    path: Vec<String>,
    query: Query,
    body: &'c [u8],
}

impl Asked<'_> {
    /// The first variable part of the path.
    fn first(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// The second one.
    fn second(&self) -> &str {
        self.path.get(1).map_or("", String::as_str)
    }

    /// The fields of the body.
    fn fields(&self, allowed: &'static [&'static str]) -> Result<Fields, Problem> {
        Fields::parse(self.body, allowed)
    }
}

impl Api {
    /// The API of a running server.
    pub(crate) fn new(config: &Config, parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            drain_delay: config.server.drain_delay,
            lease: config.cluster.lease,
        }
    }

    fn node(&self) -> &Arc<NodeShared> {
        self.parts.node.shared()
    }

    /// Answers a call. Has to be called on the thread that started the node. What changes something is
    /// noted in the audit log.
    pub(crate) async fn call(&self, call: &Call, by: &Operator) -> Reply {
        let (path, query) = call.parts();
        let (route, variables) = match routes::find(&call.method, path) {
            Ok(found) => found,
            Err(problem) => return problem.into(),
        };
        let asked = Asked {
            path: variables,
            query: Query::parse(query),
            body: &call.body,
        };
        let answer = match asked.query.get("node") {
            Some(node) if route.query.contains(&"node") => {
                let at = (node, by);
                match asked.query.only(route.query) {
                    Ok(()) => self.at_nodes(route, &asked, call, at).await,
                    Err(problem) => Err(problem),
                }
            }
            _ => self.answer(route, &asked).await,
        };
        if route.method != Method::GET {
            let on = on_what(&asked);
            match &answer {
                Ok(_) => by.did(route.id, &on, Ok(())),
                Err(problem) => by.did(route.id, &on, Err(&problem.detail)),
            }
        }
        answer.unwrap_or_else(Reply::from)
    }

    /// The same for those who can read an answer that goes on.
    pub(crate) async fn say(&self, call: &Call, by: &Operator) -> Said {
        let (path, query) = call.parts();
        match routes::find(&call.method, path) {
            Ok((route, _)) if route.operation == Operation::Trace => {
                let query = Query::parse(query);
                let begun = query.only(route.query);
                match begun.and_then(|()| self.trace_stream(&query, by)) {
                    Ok(lines) => Said::Lines(lines),
                    Err(problem) => Said::Once(problem.into()),
                }
            }
            _ => Said::Once(self.call(call, by).await),
        }
    }

    async fn answer(&self, route: &Route, asked: &Asked<'_>) -> Result<Reply, Problem> {
        asked.query.only(route.query)?;
        match route.operation {
            Operation::Describe => description(),
            Operation::ListUsers => self.list_users(asked).await,
            Operation::AddUser => self.add_user(asked).await,
            Operation::ShowUser => self.show_user(asked).await,
            Operation::DeleteUser => self.delete_user(asked).await,
            Operation::SetPassword => self.set_password(asked).await,
            Operation::DisableUser => self.set_disabled(asked, true).await,
            Operation::EnableUser => self.set_disabled(asked, false).await,
            Operation::ShowRoster => self.show_roster(asked).await,
            Operation::PutContact => self.put_contact(asked).await,
            Operation::DeleteContact => self.delete_contact(asked).await,
            Operation::ListSessions => self.list_sessions(asked).await,
            Operation::EndSessions => self.end_sessions(asked).await,
            Operation::SendMessage => self.send_message(asked).await,
            Operation::Announce => self.announce(asked).await,
            Operation::ShowNodes => self.show_nodes().await,
            Operation::ShowStatus => self.show_status().await,
            Operation::Drain => self.drain(asked),
            Operation::ShowLog => self.show_log(),
            Operation::SetLog => self.set_log(asked),
            Operation::Reload => self.reload(),
            Operation::ShowCertificate => self.show_certificate(),
            // Not over HTTP, which comes to `Api::say`.
            Operation::Trace => Err(goes_on()),
        }
    }
}

/// What a call is about, for the audit log, and at which nodes.
fn on_what(asked: &Asked<'_>) -> String {
    let what = named(asked);
    let what = match asked.query.get("node") {
        None => return what,
        Some(nodes::ALL) => format!("{what} at all nodes"),
        Some(node) => format!("{what} at node {node}"),
    };
    what.trim_start().to_owned()
}

/// The variable parts of a call's path, or the names in its body.
fn named(asked: &Asked<'_>) -> String {
    if !asked.path.is_empty() {
        return asked.path.join(" ");
    }
    let body: Value = serde_json::from_slice(asked.body).unwrap_or_default();
    let named = ["jid", "to", "audience", "domain", "level", "timeout"];
    let named = named.iter().filter_map(|name| body.get(name)?.as_str());
    named.collect::<Vec<_>>().join(" ")
}

/// The description of the API, an `OpenAPI` document.
pub(crate) const DESCRIPTION: &str = include_str!("api/openapi.json");

fn description() -> Result<Reply, Problem> {
    let mut description: Value = serde_json::from_str(DESCRIPTION)
        .map_err(|error| Problem::failed(format!("the description: {error}")))?;
    description["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    Reply::ok(description)
}
