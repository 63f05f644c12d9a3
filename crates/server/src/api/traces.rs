//! Traces of stanzas: answered line by line, for as long as whoever asked reads them.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use rookery_actors::audit::{self, Operator};
use rookery_actors::operators::{Line, Tracing};
use rookery_actors::trace::{LONGEST, USUAL, Wish};
use rookery_proto::jid::Jid;
use tokio::sync::mpsc;

use super::fields::Query;
use super::{Api, Problem};
use crate::config::Value as _;

/// Lines that wait for an HTTP client to read them.
const WAITING: usize = 64;

/// How long it may take to read one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A trace under way, whose beginning and end stand in the audit log.
pub(crate) struct Lines {
    tracing: Tracing,
    by: Operator,
    wish: Wish,
    began: Instant,
    stages: u64,
}

impl Lines {
    /// The next line, as soon as there is one and once a second at least; `None` at the end. Nothing is lost
    /// if the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        let line = self.tracing.next().await;
        if let Some(Line::Stage(_)) = line {
            self.stages += 1;
        }
        line
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        audit::trace_ended(&self.by, &self.wish, self.began.elapsed(), self.stages);
    }
}

/// What a trace is to be about.
///
/// # Errors
/// Names what is wrong.
pub(crate) fn wish(jid: Jid, bodies: bool, time: Duration) -> Result<Wish, Problem> {
    if jid.local().is_none() {
        let detail = "name an account or a session, like ann@localhost or ann@localhost/desk";
        return Err(Problem::field("jid", detail));
    }
    if time.is_zero() || time > LONGEST {
        let longest = LONGEST.to_toml();
        let detail = format!("allowed: above 0, up to {}", longest.trim_matches('"'));
        return Err(Problem::field("for", detail));
    }
    Ok(Wish { jid, bodies, time })
}

fn wish_of(query: &Query) -> Result<Wish, Problem> {
    let missing = || Problem::field("jid", "this parameter is missing");
    let jid = Jid::parse(query.get("jid").ok_or_else(missing)?);
    let jid =
        jid.map_err(|_| Problem::field("jid", "no address; write it like ann@localhost/desk"))?;
    let bodies = match query.get("bodies") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::field("bodies", "allowed: true, false")),
    };
    wish(jid, bodies, query.time("for")?.unwrap_or(USUAL))
}

impl Api {
    /// Starts a trace. Has to be called on the thread that started the node.
    ///
    /// # Errors
    /// If the node runs as many as it may.
    pub(crate) fn trace(&self, wish: Wish, by: Operator) -> Result<Lines, Problem> {
        match self.node().trace(wish.clone()) {
            Ok(tracing) => {
                audit::trace_started(&by, &wish);
                Ok(Lines {
                    tracing,
                    by,
                    wish,
                    began: Instant::now(),
                    stages: 0,
                })
            }
            Err(too_many) => {
                by.did("trace-start", wish.jid.as_str(), Err(&too_many));
                let detail = format!("this node {too_many}");
                Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail))
            }
        }
    }

    /// The same for an HTTP client, which gets one JSON object a line.
    pub(super) fn trace_stream(
        &self,
        query: &Query,
        by: &Operator,
    ) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let lines = self.trace(wish_of(query)?, by.clone())?;
        let (to, body) = mpsc::channel(WAITING);
        tokio::task::spawn_local(pass_on(lines, to));
        Ok(body)
    }
}

/// Hands lines to a client until it is gone or does not read.
async fn pass_on(mut lines: Lines, to: mpsc::Sender<Bytes>) {
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = to.closed() => None,
        };
        let Some(line) = line else { return };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        if !matches!(
            tokio::time::timeout(PATIENCE, to.send(text.into())).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_strictly() {
        let read = |query: &str| wish_of(&Query::parse(query));
        let usual = read("jid=ann@x").unwrap();
        assert_eq!((usual.bodies, usual.time), (false, USUAL));
        let other = read("jid=ann@x%2Fdesk&for=1h&bodies=true").unwrap();
        assert_eq!(other.jid.as_str(), "ann@x/desk");
        assert_eq!((other.bodies, other.time), (true, LONGEST));
        for (query, field) in [
            ("", "jid"),
            ("jid=x", "jid"),
            ("jid=@", "jid"),
            ("jid=ann@x&for=61m", "for"),
            ("jid=ann@x&for=0s", "for"),
            ("jid=ann@x&for=soon", "for"),
            ("jid=ann@x&bodies=yes", "bodies"),
        ] {
            let field_of = read(query).err().and_then(|problem| problem.field);
            assert_eq!(field_of.as_deref(), Some(field), "{query}");
        }
    }
}
