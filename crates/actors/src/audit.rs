//! The audit log: who logged in or failed to, and what administrators did.
//!
//! `tracing` events of the target [`TARGET`], one for each act, all with the fields `act`, `who`, `via`
//! and `outcome` (`ok`, or why not). The server writes them as JSON, whatever `log.level` says; see
//! `docs/administration.md`. No passwords, no message bodies.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use rookery_proto::jid::BareJid;

use crate::trace::Wish;

/// The target of all events of the audit log.
pub const TARGET: &str = "rookery::audit";

/// Who does something to the server or to accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// How: `api`, `cli`, `xmpp`, or `self` for what users do to their own account.
    pub via: &'static str,
    /// Who, as far as that way tells: an address, a user of the system, a JID.
    pub who: String,
}

impl Operator {
    /// Notes an act, `on` whom or what, and what became of it.
    pub fn did(&self, act: &str, on: &str, outcome: Result<(), &dyn Display>) {
        let Self { via, who } = self;
        match outcome {
            Ok(()) => tracing::info!(target: TARGET, act, who, via, on, outcome = "ok", "{act}"),
            Err(error) => {
                tracing::warn!(target: TARGET, act, who, via, on, outcome = %error, "{act}");
            }
        }
    }
}

/// Somebody begins to look at the stanzas of others.
pub fn trace_started(by: &Operator, wish: &Wish) {
    let Operator { via, who } = by;
    let (on, bodies) = (wish.jid.as_str(), wish.bodies);
    let seconds = wish.time.as_secs_f64();
    tracing::info!(target: TARGET, act = "trace-start", who, via, on, bodies, seconds, outcome = "ok",
        "trace-start");
}

/// They do not any more, after this time and so many stages.
pub fn trace_ended(by: &Operator, wish: &Wish, lasted: Duration, stages: u64) {
    let Operator { via, who } = by;
    let (on, bodies) = (wish.jid.as_str(), wish.bodies);
    let seconds = lasted.as_secs_f64();
    tracing::info!(target: TARGET, act = "trace-end", who, via, on, bodies, seconds, stages,
        outcome = "ok", "trace-end");
}

/// A client has logged in.
pub(crate) fn logged_in(user: &BareJid, peer: SocketAddr, mechanism: &str) {
    tracing::info!(target: TARGET, act = "login", who = %user, via = "xmpp", %peer, mechanism,
        outcome = "ok", "logged in");
}

/// A client did not prove to be this user.
pub(crate) fn login_failed(user: &BareJid, peer: SocketAddr, mechanism: &str, why: &str) {
    tracing::warn!(target: TARGET, act = "login", who = %user, via = "xmpp", %peer, mechanism,
        outcome = why, "login failed");
}

/// A user has done something to their own account.
pub(crate) fn of_the_user(user: &BareJid, act: &str) {
    let user = user.to_string();
    let operator = Operator {
        via: "self",
        who: user.clone(),
    };
    operator.did(act, &user, Ok(()));
}
