//! Sessions of all nodes.

use hyper::StatusCode;
use rookery_actors::inspect::SessionsOf;
use rookery_actors::operators::Silent;
use rookery_proto::jid::Jid;
use serde_json::{Value, json};

use super::{Api, Asked, Problem, Reply};
use crate::control::Session;

/// Sessions in a page, if nothing else is wanted, and at most.
const PAGE: (usize, usize) = (100, 1000);

impl Api {
    pub(super) async fn list_sessions(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let limit = asked.query.limit(PAGE.0, PAGE.1)?;
        let of = asked.query.get("jid").map(jid).transpose()?;
        let after = asked.query.get("after").map(str::to_owned);
        let of = SessionsOf { of, after, limit };
        let all = self.node().sessions_everywhere(of).await;
        let sessions = all.answer.sessions.into_iter();
        let sessions: Vec<_> = sessions
            .map(|there| Session::new(there.session, there.node))
            .collect();
        let next = sessions.last().filter(|_| sessions.len() == limit);
        let next = next.map(|last| last.jid.clone());
        Reply::ok(json!({
            "total": all.answer.total,
            "sessions": sessions,
            "next": next,
            "unanswered": unanswered(&all.silent),
        }))
    }

    pub(super) async fn end_sessions(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let who = jid(asked.first())?;
        let ended = self.node().kick_everywhere(&who).await;
        if ended.answer == 0 && ended.silent.is_empty() {
            let problem = Problem::new(StatusCode::NOT_FOUND, format!("{who} has no session"));
            return Err(problem.at("jid"));
        }
        Reply::ok(json!({ "ended": ended.answer, "unanswered": unanswered(&ended.silent) }))
    }
}

fn jid(text: &str) -> Result<Jid, Problem> {
    let jid = Jid::parse(text);
    jid.map_err(|_| Problem::field("jid", "no address; write it like ann@localhost/desk"))
}

/// The nodes that did not answer, and why.
pub(super) fn unanswered(silent: &[Silent]) -> Vec<Value> {
    let nodes = silent.iter();
    nodes
        .map(|silent| json!({ "node": silent.node.name, "reason": silent.why.to_string() }))
        .collect()
}
