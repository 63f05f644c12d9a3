//! Messages and announcements of the server's operators.

use hyper::StatusCode;
use rookery_actors::administration::Text;
use rookery_proto::jid::Jid;
use serde_json::json;

use super::fields::Fields;
use super::sessions::unanswered;
use super::{Api, Asked, Problem, Reply};

impl Api {
    pub(super) async fn send_message(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let fields = asked.fields(&["to", "subject", "body"])?;
        let to = Jid::parse(fields.text("to")?);
        let to = to.map_err(|_| Problem::field("to", "no address; write it like ann@localhost"))?;
        let text = self.text(&fields)?;
        let sent = self.node().send_message(&to, &text).await;
        sent.map_err(|refused| Problem::refused("to", &refused))?;
        Reply::with(StatusCode::ACCEPTED, json!({ "to": to }))
    }

    pub(super) async fn announce(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let fields = asked.fields(&["audience", "domain", "subject", "body"])?;
        let domain = fields.optional_text("domain")?;
        let text = self.text(&fields)?;
        let refuse = |refused| Problem::refused("domain", &refused);
        let reached = match (fields.text("audience")?, domain) {
            ("online", domain) => {
                let shown = self
                    .node()
                    .announce_to_online(domain, &text)
                    .await
                    .map_err(refuse)?;
                json!({ "recipients": shown.answer, "unanswered": unanswered(&shown.silent) })
            }
            ("accounts", Some(domain)) => {
                let sent = self
                    .node()
                    .announce_to_accounts(domain, &text)
                    .await
                    .map_err(refuse)?;
                json!({ "recipients": sent, "unanswered": [] })
            }
            ("accounts", None) => {
                return Err(Problem::field(
                    "domain",
                    "name the domain whose accounts these are",
                ));
            }
            _ => return Err(Problem::field("audience", "allowed: online, accounts")),
        };
        Reply::with(StatusCode::ACCEPTED, reached)
    }

    /// What a message says.
    fn text(&self, fields: &Fields) -> Result<Text, Problem> {
        let body = fields.text("body")?;
        if body.is_empty() {
            return Err(Problem::field("body", "there is nothing to say"));
        }
        let text = Text {
            subject: fields.optional_text("subject")?.map(str::to_owned),
            body: body.to_owned(),
        };
        let max = self.node().settings.c2s.max_stanza_bytes;
        if text.body.len() + text.subject.as_ref().map_or(0, String::len) > max / 2 {
            return Err(Problem::field(
                "body",
                "too long for a message (c2s.max_stanza_bytes)",
            ));
        }
        Ok(text)
    }
}
