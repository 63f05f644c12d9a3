//! Calls that are about one node, for other nodes than the one that is asked: passed on over the bus and
//! answered there, as if they had been asked.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use rookery_actors::Callee;
use rookery_actors::audit::Operator;
use rookery_directory::NodeInfo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::door::Door;
use super::routes::{self, Operation, Route};
use super::sessions::unanswered;
use super::{Api, Asked, Call, Problem, Reply, Said};

/// What stands for all nodes in the place of a name.
pub(crate) const ALL: &str = "*";

/// A call on its way. Fields that come later need a default: nodes of different releases ask each other.
#[derive(Debug, Serialize, Deserialize)]
struct Passed {
    method: String,
    path: String,
    /// The body as it came: whoever answers says what is wrong with it.
    body: String,
    via: String,
    who: String,
}

/// What was answered there.
#[derive(Debug, Serialize, Deserialize)]
struct PassedReply {
    status: u16,
    body: Option<Value>,
}

impl Api {
    /// Answers a call that says for which nodes it is.
    pub(super) async fn at_nodes(
        &self,
        route: &Route,
        asked: &Asked<'_>,
        call: &Call,
        (name, by): (&str, &Operator),
    ) -> Result<Reply, Problem> {
        let (path, _) = call.parts();
        let passed = Passed {
            method: call.method.to_string(),
            path: path.to_owned(),
            body: String::from_utf8_lossy(&call.body).into_owned(),
            via: by.via.to_owned(),
            who: format!("{} at node {}", by.who, self.node().name()),
        };
        let passed =
            serde_json::to_value(passed).map_err(|error| Problem::failed(error.to_string()))?;
        if name == ALL {
            return self.at_all_nodes(route, asked, passed).await;
        }
        let (own, nodes) = match self.parts.node.nodes() {
            Some((own, nodes)) => (Some(own), nodes),
            None => (None, Vec::new()),
        };
        let is_meant = |node: &&NodeInfo| *node.name == *name || node.epoch.to_string() == name;
        let meant: Vec<&NodeInfo> = nodes.iter().filter(is_meant).collect();
        match meant.as_slice() {
            [] => {
                let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
                let there_are = match names.as_slice() {
                    [] => "this is a single node".to_owned(),
                    names => format!("there are {}", names.join(", ")),
                };
                let detail = format!("there is no node {name:?}; {there_are}");
                Err(Problem::new(StatusCode::NOT_FOUND, detail).at("node"))
            }
            [one] if Some(one.epoch) == own => self.answer(route, asked).await,
            [one] => {
                let node = NodeInfo::clone(one);
                let mut there = self.node().call_nodes(vec![node], passed).await;
                if let Some((_, said)) = there.answer.pop() {
                    return reply(said);
                }
                let why = there.silent.first().map(|silent| silent.why);
                let why = why.map_or_else(|| "did not answer".into(), |why| why.to_string());
                let detail = format!("node {} {why}", one.name);
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).at("node"))
            }
            several => {
                let epochs: Vec<_> = several.iter().map(|node| node.epoch.to_string()).collect();
                let detail = format!(
                    "{} nodes are called {name:?}: name one by its epoch, {}",
                    several.len(),
                    epochs.join(" or ")
                );
                Err(Problem::new(StatusCode::CONFLICT, detail).at("node"))
            }
        }
    }

    /// This node first: what it refuses, the others are not asked for.
    async fn at_all_nodes(
        &self,
        route: &Route,
        asked: &Asked<'_>,
        passed: Value,
    ) -> Result<Reply, Problem> {
        if route.operation == Operation::Drain {
            let detail = "nodes are drained one at a time, so that clients can go to the others";
            return Err(Problem::field("node", detail));
        }
        let here = self.answer(route, asked).await?;
        let others = self.node().other_nodes();
        let there = self.node().call_nodes(others, passed).await;
        let told = |node: &str, status: u16, body: Option<Value>| json!({ "node": node, "status": status, "answer": body });
        let mut silent = unanswered(&there.silent);
        let mut nodes = vec![told(&self.node().name(), here.status.as_u16(), here.body)];
        for (node, said) in there.answer {
            match serde_json::from_value::<PassedReply>(said) {
                Ok(reply) => nodes.push(told(&node, reply.status, reply.body)),
                Err(error) => silent.push(json!({
                    "node": node,
                    "reason": format!("said what this version does not understand: {error}"),
                })),
            }
        }
        Reply::ok(json!({ "nodes": nodes, "unanswered": silent }))
    }
}

/// What another node answered, as this one's answer.
fn reply(said: Value) -> Result<Reply, Problem> {
    let misunderstood = |error: &dyn std::fmt::Display| {
        Problem::failed(format!(
            "the node said what this version does not understand: {error}"
        ))
    };
    let PassedReply { status, body } =
        serde_json::from_value(said).map_err(|error| misunderstood(&error))?;
    let status = StatusCode::from_u16(status).map_err(|error| misunderstood(&error))?;
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(Reply { status, body });
    }
    let body = body.unwrap_or_default();
    let field = body["field"].as_str().map(str::to_owned);
    Err(Problem {
        field,
        ..Problem::new(status, body["detail"].as_str().unwrap_or("it refuses"))
    })
}

/// Answers the calls that other nodes pass on, by the door that those over HTTP come through.
pub(crate) fn callee(door: &Arc<Door>) -> Callee {
    let door = Arc::clone(door);
    Callee::new(move |passed| {
        let door = Arc::clone(&door);
        Box::pin(async move {
            let reply = match read(passed) {
                Ok((call, by)) => door
                    .pass(call, by)
                    .await
                    .map_or_else(Reply::from, Said::whole),
                Err(problem) => problem.into(),
            };
            let reply = PassedReply {
                status: reply.status.as_u16(),
                body: reply.body,
            };
            serde_json::to_value(reply).unwrap_or_default()
        })
    })
}

fn read(passed: Value) -> Result<(Call, Operator), Problem> {
    let passed: Passed =
        serde_json::from_value(passed).map_err(|error| Problem::failed(error.to_string()))?;
    let method = Method::from_bytes(passed.method.as_bytes())
        .map_err(|error| Problem::failed(error.to_string()))?;
    let (route, _) = routes::find(&method, &passed.path)?;
    if !route.query.contains(&"node") {
        return Err(Problem::failed("this call is not one for other nodes"));
    }
    let via = match passed.via.as_str() {
        "cli" => "cli",
        "xmpp" => "xmpp",
        _ => "api",
    };
    let call = Call {
        method,
        path: passed.path,
        body: passed.body.into_bytes(),
    };
    let who = passed.who;
    Ok((call, Operator { via, who }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(method: &str, path: &str) -> Value {
        json!({ "method": method, "path": path, "body": "", "via": "cli", "who": "user 0 at node a" })
    }

    #[test]
    fn only_calls_about_a_node_are_taken_from_others() {
        let (call, by) = read(passed("GET", "/api/v1/log")).unwrap();
        assert_eq!((call.method, by.via), (Method::GET, "cli"));
        assert_eq!(by.who, "user 0 at node a");
        for (method, path) in [
            ("DELETE", "/api/v1/users/ann@localhost"),
            ("GET", "/api/v1/nothing"),
            // No way back, or round.
            ("GET", "/api/v1/log?node=b"),
        ] {
            assert!(read(passed(method, path)).is_err(), "{method} {path}");
        }
        assert!(read(json!({ "method": "GET" })).is_err());
    }

    #[test]
    fn what_another_node_refuses_is_refused_here() {
        let done = reply(json!({ "status": 200, "body": { "level": "info" } })).unwrap();
        assert_eq!(done.body, Some(json!({ "level": "info" })));
        let body =
            json!({ "title": "Bad Request", "status": 400, "detail": "no", "field": "level" });
        let problem = reply(json!({ "status": 400, "body": body })).unwrap_err();
        assert_eq!(problem.status, StatusCode::BAD_REQUEST);
        assert_eq!(problem.field.as_deref(), Some("level"));
        assert!(reply(json!({ "status": 7 })).is_err());
        assert!(reply(json!({ "count": 7 })).is_err());
    }
}
