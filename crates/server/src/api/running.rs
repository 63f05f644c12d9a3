//! The running server itself: its cluster, its drain, its log, its configuration, its certificate.

use std::sync::PoisonError;
use std::time::Duration;

use hyper::StatusCode;
use rookery_actors::inspect::SessionsOf;
use serde_json::{Value, json};

use super::sessions::unanswered;
use super::token;
use super::{Api, Asked, Problem, Reply};
use crate::config::Config;
use crate::control::cluster_status;
use crate::drain;
use crate::logging::Logging;
use crate::status::{NodeReport, NodeStatus};

/// How long clients have to go on elsewhere, if nothing else is said.
const DRAIN_TIME: Duration = Duration::from_mins(1);

impl Api {
    pub(super) async fn show_nodes(&self) -> Result<Reply, Problem> {
        let status = cluster_status(&self.parts.node, self.lease);
        let none = SessionsOf {
            of: None,
            after: None,
            limit: 0,
        };
        let all = self.node().sessions_everywhere(none).await;
        let mut body =
            serde_json::to_value(&status).map_err(|error| Problem::failed(error.to_string()))?;
        body["sessions_of_all_nodes"] = json!(all.answer.total);
        body["unanswered"] = json!(unanswered(&all.silent));
        Reply::ok(body)
    }

    /// How each node is, this one first.
    pub(super) async fn show_status(&self) -> Result<Reply, Problem> {
        let all = self.node().status_everywhere().await;
        let mut silent = unanswered(&all.silent);
        let mut nodes = Vec::new();
        for (name, report) in all.answer {
            match serde_json::from_value::<NodeStatus>(report) {
                Ok(status) => nodes.push(NodeReport { name, status }),
                Err(error) => silent.push(json!({
                    "node": name,
                    "reason": format!("said what this version does not understand: {error}"),
                })),
            }
        }
        Reply::ok(json!({ "nodes": nodes, "unanswered": silent }))
    }

    pub(super) fn drain(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let fields = asked.fields(&["timeout"])?;
        let timeout = fields.time("timeout")?.unwrap_or(DRAIN_TIME);
        let (node, readiness) = (self.parts.node.clone(), &self.parts.readiness);
        let sessions = node.session_count();
        // It goes on whether or not somebody looks.
        drop(drain::start(node, readiness, self.drain_delay, timeout));
        let cluster = self.parts.node.nodes();
        let started = json!({
            "node": self.node().name(),
            "epoch": cluster.map_or_else(String::new, |(own, _)| own.to_string()),
            "sessions": sessions,
            "delay_ms": u64::try_from(self.drain_delay.as_millis()).unwrap_or(u64::MAX),
        });
        Reply::with(StatusCode::ACCEPTED, started)
    }

    pub(super) fn show_log(&self) -> Result<Reply, Problem> {
        Reply::ok(json!({ "level": self.parts.log.level() }))
    }

    pub(super) fn set_log(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let fields = asked.fields(&["level"])?;
        let level = fields.text("level")?;
        let set = self.parts.log.set_level(level);
        set.map_err(|error| Problem::field("level", error))?;
        self.show_log()
    }

    /// Reads the configuration again and takes over what can be changed while the server runs. Nothing is
    /// changed if any of it cannot be used.
    pub(super) fn reload(&self) -> Result<Reply, Problem> {
        let unusable = |error: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error);
        let parts = &self.parts;
        let read = Config::load(&parts.origin.sources());
        let new = read.map_err(|problems| unusable(problems.to_string()))?;
        let admin_token = token::read(&new).map_err(|error| unusable(format!("{error:#}")))?;
        let audit = Logging::open_audit(&new.audit);
        let audit = audit.map_err(|error| unusable(format!("audit.file: {error}")))?;

        let mut running = parts.config.lock().unwrap_or_else(PoisonError::into_inner);
        // The level may have been set by a call meanwhile.
        running.log.level = parts.log.level();
        let changed = running.changed(&new);
        let (applied, restart): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|key| Config::is_live(key));
        parts.token.replace(admin_token.as_deref());
        parts.log.replace_audit(audit);
        let level = parts.log.set_level(&new.log.level);
        level.map_err(|error| unusable(format!("log.level: {error}")))?;
        self.node().set_admins(new.admin_jids());
        parts.certificates.reload_if_changed();
        running.take_live(&new);
        drop(running);
        tracing::info!(?applied, ?restart, "the configuration was read again");
        Reply::ok(json!({ "applied": applied, "needs_restart": restart }))
    }

    pub(super) fn show_certificate(&self) -> Result<Reply, Problem> {
        let about: Value = self.parts.certificates.about();
        Reply::ok(about)
    }
}
