//! What operators ask of nodes, and what these answer: JSON.
//!
//! A question is `{"ask":"sessions",…}`; each part of its answer is an object as well, named at the kind of
//! question. A node that does not know a question answers `{"refused":"…"}`. New fields have defaults,
//! so that nodes of different releases understand each other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rookery_directory::NodeInfo;
use rookery_proto::jid::Jid;
use rookery_proto::stanza::Stanza;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answering, Silence, traces};
use crate::inspect::{SessionInfo, SessionPage, SessionsOf};
use crate::node::NodeShared;
use crate::trace::Wish;

/// How long a node may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for its status, which somebody looks at and asks for again and again.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Sessions in one part of an answer: JIDs have 3 KB at most, nearly all far less than 200 bytes.
const SESSIONS_A_PART: usize = 50;

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Question {
    /// The sessions there. Answered by [`SessionPage`]s, whose `total`s are those of the first.
    Sessions(SessionsOf),
    /// End sessions there. Answered by a [`Count`].
    Kick {
        /// A session, or the account whose sessions these are.
        who: Jid,
    },
    /// Show a message to all available resources there. Answered by a [`Count`].
    Announce {
        /// The message without a recipient, as XML.
        message: String,
        /// Only to accounts of this domain.
        domain: Option<String>,
    },
    /// How the node is. Answered by a [`Report`].
    Status,
    /// Follow stanzas. Answered, until the time is up or who asked wants no more, by what
    /// [`traces`](super::traces) reads.
    Trace {
        /// A session, or the account whose sessions these are.
        jid: Jid,
        /// Whether to tell what stanzas say.
        bodies: bool,
        /// How long, in milliseconds.
        time_ms: u64,
    },
    /// Do what an operator has asked another node for. Answered by a [`Called`].
    Call {
        /// What, in the words of the server; this crate does not look into it.
        call: Value,
    },
}

impl Question {
    fn patience(&self) -> Duration {
        match self {
            Self::Status => STATUS_PATIENCE,
            Self::Sessions(_)
            | Self::Kick { .. }
            | Self::Announce { .. }
            | Self::Trace { .. }
            | Self::Call { .. } => PATIENCE,
        }
    }
}

/// How a node is, as its server tells; this crate does not look into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Report {
    report: Value,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Called {
    called: Value,
}

/// How many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) count: usize,
}

/// A question that is not answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) refused: String,
}

/// A node from which no answer came, or not all of it.
#[derive(Debug, Clone)]
pub struct Silent {
    /// The node.
    pub node: NodeInfo,
    /// Why.
    pub why: Silence,
}

/// What all nodes together answered.
#[derive(Debug, Clone)]
pub struct Everywhere<T> {
    /// What those that answered said.
    pub answer: T,
    /// The others, on which there may be more.
    pub silent: Vec<Silent>,
}

/// A session and the node that runs it.
#[derive(Debug, Clone)]
pub struct SessionThere {
    /// How people call the node; empty on a single node.
    pub node: String,
    /// The session.
    pub session: SessionInfo,
}

/// Sessions of all nodes.
#[derive(Debug, Clone, Default)]
pub struct AllSessions {
    /// In the order of their JIDs.
    pub sessions: Vec<SessionThere>,
    /// How many there are in all.
    pub total: usize,
}

/// Answers a question of another node.
pub(super) async fn answer(node: &Arc<NodeShared>, question: &str, mut answering: Answering) {
    let question = match serde_json::from_str(question) {
        Ok(question) => question,
        Err(error) => {
            tracing::warn!(%error, "an operator's question from another node was not understood");
            let refused = error.to_string();
            // Nobody may wait any more; here and below.
            let _ = answering.send(to_text(&Refusal { refused })).await;
            return;
        }
    };
    match question {
        Question::Sessions(of) => {
            let page = node.sessions(of).await;
            let mut rest = page.sessions.as_slice();
            // One part at least, for the total.
            loop {
                let (part, others) = rest.split_at(rest.len().min(SESSIONS_A_PART));
                let part = SessionPage {
                    sessions: part.to_vec(),
                    total: page.total,
                };
                if answering.send(to_text(&part)).await.is_err() || others.is_empty() {
                    return;
                }
                rest = others;
            }
        }
        Question::Kick { who } => {
            let count = node.kick(&who).await;
            let _ = answering.send(to_text(&Count { count })).await;
        }
        Question::Announce { message, domain } => {
            let said = match Stanza::from_xml(&message) {
                Ok(message) => {
                    let count = node.announce_here(message, domain).await;
                    to_text(&Count { count })
                }
                Err(_) => to_text(&Refusal {
                    refused: "no message".into(),
                }),
            };
            let _ = answering.send(said).await;
        }
        Question::Status => {
            let said = match node.report().await {
                Some(report) => to_text(&Report { report }),
                None => still_starting(),
            };
            let _ = answering.send(said).await;
        }
        Question::Call { call } => {
            let said = match node.called(call).await {
                Some(called) => to_text(&Called { called }),
                None => still_starting(),
            };
            let _ = answering.send(said).await;
        }
        Question::Trace {
            jid,
            bodies,
            time_ms,
        } => {
            let time = Duration::from_millis(time_ms);
            traces::answer(Wish { jid, bodies, time }, answering).await;
        }
    }
}

fn still_starting() -> String {
    to_text(&Refusal {
        refused: "the server is still starting".into(),
    })
}

pub(super) fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names, numbers and text are always JSON")
}

impl NodeShared {
    /// Asks all other nodes, at the same time, and reads all parts of their answers.
    async fn ask_others<T: DeserializeOwned>(
        &self,
        question: &Question,
    ) -> (Vec<(NodeInfo, Vec<T>)>, Vec<Silent>) {
        self.ask(self.other_nodes(), question).await
    }

    /// All nodes but this one, as they were seen last.
    pub fn other_nodes(&self) -> Vec<NodeInfo> {
        let Some(cluster) = &self.cluster else {
            return Vec::new();
        };
        let mut nodes = cluster.directory.nodes();
        nodes.retain(|node| node.epoch != cluster.epoch());
        nodes
    }

    /// Asks nodes, at the same time, and reads all parts of their answers.
    async fn ask<T: DeserializeOwned>(
        &self,
        nodes: Vec<NodeInfo>,
        question: &Question,
    ) -> (Vec<(NodeInfo, Vec<T>)>, Vec<Silent>) {
        let Some(cluster) = &self.cluster else {
            return (Vec::new(), Vec::new());
        };
        let patience = question.patience();
        let is_asked_often = matches!(question, Question::Status);
        let question = to_text(question);
        let answers = nodes.into_iter().map(|node| {
            let question = question.clone();
            async move {
                let ask = async {
                    let mut answer = cluster.ask_operator(node.epoch, question)?;
                    let mut parts = Vec::new();
                    while let Some(part) = answer.next(patience).await? {
                        let part = serde_json::from_str(&part);
                        parts.push(part.map_err(|_| Silence::Misunderstood)?);
                    }
                    if parts.is_empty() {
                        return Err(Silence::Congested);
                    }
                    Ok(parts)
                };
                match ask.await {
                    Ok(parts) => Ok((node, parts)),
                    Err(why) => {
                        // Whoever looks at the nodes sees it, every two seconds.
                        if !is_asked_often {
                            tracing::warn!(node = %node.name, %why, "an operator's question to another node");
                        }
                        Err(Silent { node, why })
                    }
                }
            }
        });
        let mut told = Vec::new();
        let mut silent = Vec::new();
        for answer in join_all(answers).await {
            match answer {
                Ok(answer) => told.push(answer),
                Err(node) => silent.push(node),
            }
        }
        (told, silent)
    }

    /// Passes a call of an operator on to other nodes, which [do it] there. A node that does not
    /// answer in time may do it all the same.
    ///
    /// [do it]: crate::Callee
    pub async fn call_nodes(
        &self,
        nodes: Vec<NodeInfo>,
        call: Value,
    ) -> Everywhere<Vec<(String, Value)>> {
        let (there, silent) = self.ask(nodes, &Question::Call { call }).await;
        let mut answer = Vec::new();
        for (node, called) in there {
            let called = called.into_iter();
            answer.extend(called.map(|one: Called| (node.name.to_string(), one.called)));
        }
        Everywhere { answer, silent }
    }

    /// How people call this node; empty on a single node.
    pub fn name(&self) -> String {
        let cluster = self.cluster.as_ref();
        cluster.map_or_else(String::new, |cluster| {
            cluster.directory.this_node().name.to_string()
        })
    }

    /// The sessions of all nodes.
    pub async fn sessions_everywhere(&self, of: SessionsOf) -> Everywhere<AllSessions> {
        let limit = of.limit;
        let question = Question::Sessions(of.clone());
        let (here, (there, silent)) = futures_util::future::join(
            self.sessions(of),
            self.ask_others::<SessionPage>(&question),
        )
        .await;
        let mut all = AllSessions::default();
        let mut add = |name: &str, page: SessionPage| {
            all.sessions
                .extend(page.sessions.into_iter().map(|session| SessionThere {
                    node: name.to_owned(),
                    session,
                }));
        };
        let mut total = here.total;
        add(&self.name(), here);
        for (node, pages) in there {
            total += pages.first().map_or(0, |page| page.total);
            for page in pages {
                add(&node.name, page);
            }
        }
        all.total = total;
        all.sessions
            .sort_by(|one, other| one.session.jid.as_str().cmp(other.session.jid.as_str()));
        all.sessions.truncate(limit);
        Everywhere {
            answer: all,
            silent,
        }
    }

    /// How all nodes are, each as its server tells ([`NodeShared::report_by`]); this one first.
    pub async fn status_everywhere(&self) -> Everywhere<Vec<(String, Value)>> {
        let (here, (there, silent)) =
            futures_util::future::join(self.report(), self.ask_others::<Report>(&Question::Status))
                .await;
        let mut answer: Vec<_> = here
            .map(|report| (self.name(), report))
            .into_iter()
            .collect();
        for (node, reports) in there {
            let reports = reports.into_iter();
            answer.extend(reports.map(|one| (node.name.to_string(), one.report)));
        }
        Everywhere { answer, silent }
    }

    /// Ends a session, or all of an account, on all nodes. Returns how many there were.
    pub async fn kick_everywhere(&self, who: &Jid) -> Everywhere<usize> {
        let question = Question::Kick { who: who.clone() };
        let (here, (there, silent)) =
            futures_util::future::join(self.kick(who), self.ask_others(&question)).await;
        Everywhere {
            answer: here + sum(&there),
            silent,
        }
    }

    /// Shows a message to all available resources of all nodes, or to those of a domain's accounts.
    /// Returns how many there were.
    pub async fn announce(&self, message: Stanza, domain: Option<String>) -> Everywhere<usize> {
        let question = Question::Announce {
            message: message.to_xml(),
            domain: domain.clone(),
        };
        let (here, (there, silent)) = futures_util::future::join(
            self.announce_here(message, domain),
            self.ask_others(&question),
        )
        .await;
        Everywhere {
            answer: here + sum(&there),
            silent,
        }
    }
}

fn sum(told: &[(NodeInfo, Vec<Count>)]) -> usize {
    let counts = told.iter().flat_map(|(_, counts)| counts);
    counts.map(|count| count.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_were_written() {
        for text in [
            r#"{"ask":"sessions","of":null,"after":"ann@localhost/x","limit":10}"#,
            r#"{"ask":"kick","who":"ann@localhost/desk"}"#,
            r#"{"ask":"announce","message":"<message/>","domain":null}"#,
            r#"{"ask":"status"}"#,
            r#"{"ask":"trace","jid":"ann@localhost","bodies":false,"time_ms":1000}"#,
            r#"{"ask":"call","call":{"method":"GET"}}"#,
        ] {
            let question: Question = serde_json::from_str(text).unwrap();
            assert_eq!(to_text(&question), text);
        }
        assert!(serde_json::from_str::<Question>(r#"{"ask":"reboot"}"#).is_err());
        // A refusal is no count, no page and no report.
        let refusal = to_text(&Refusal {
            refused: "no".into(),
        });
        assert!(serde_json::from_str::<Count>(&refusal).is_err());
        assert!(serde_json::from_str::<SessionPage>(&refusal).is_err());
        assert!(serde_json::from_str::<Report>(&refusal).is_err());
        assert!(serde_json::from_str::<Called>(&refusal).is_err());
    }

    /// The longest JIDs that there are, in the form that JSON makes longest.
    #[test]
    fn a_part_of_sessions_is_not_too_large() {
        let jid = format!(
            "{}@{}/{}",
            "a".repeat(1023),
            "b".repeat(63),
            "\"".repeat(1023)
        );
        let session = SessionInfo {
            jid: rookery_proto::jid::FullJid::parse(&jid).unwrap(),
            since: std::time::SystemTime::UNIX_EPOCH,
            transport: "websocket".into(),
            address: "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535"
                .parse()
                .unwrap(),
            connected: false,
            queued_stanzas: usize::MAX,
            queued_bytes: usize::MAX,
        };
        let part = SessionPage {
            sessions: vec![session; SESSIONS_A_PART],
            total: usize::MAX,
        };
        assert!(to_text(&part).len() < super::super::MAX_PART_BYTES);
    }
}
