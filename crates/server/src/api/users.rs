//! Accounts.

use hyper::StatusCode;
use rookery_actors::inspect::SessionsOf;
use rookery_proto::datetime;
use rookery_proto::jid::{BareJid, Jid};
use serde_json::json;

use super::sessions::unanswered;
use super::{Api, Asked, Problem, Reply};

/// Accounts in a page, if nothing else is wanted, and at most.
const PAGE: (usize, usize) = (100, 1000);

impl Api {
    /// The account that stands in the path.
    pub(super) fn account(&self, asked: &Asked<'_>) -> Result<BareJid, Problem> {
        let account = self.node().account_address(asked.first());
        account.map_err(|refused| Problem::refused("jid", &refused))
    }

    pub(super) async fn list_users(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let limit = asked.query.limit(PAGE.0, PAGE.1)?;
        let domains = &self.node().settings.domains;
        let domain = match (asked.query.get("domain"), &domains[..]) {
            (Some(domain), all) if all.iter().any(|served| **served == *domain) => domain,
            (None, [only]) => only,
            (_, all) => {
                let detail = format!("name one of the served domains: {}", all.join(", "));
                return Err(Problem::field("domain", detail));
            }
        };
        let only_disabled = match asked.query.get("disabled") {
            None => false,
            Some("true") => true,
            Some(_) => return Err(Problem::field("disabled", "allowed: true")),
        };
        let after = asked.query.get("after");
        let storage = &self.node().storage;
        let failed = |error: rookery_storage::Error| Problem::refused("domain", &error.into());
        let mut disabled = storage
            .disabled_accounts(domain, after, limit)
            .await
            .map_err(failed)?;
        let users = if only_disabled {
            disabled.clone()
        } else {
            let all = storage.accounts(domain, after, limit).await;
            all.map_err(failed)?
        };
        // Those of this page.
        disabled.retain(|account| {
            users
                .last()
                .is_some_and(|last| account.as_str() <= last.as_str())
        });
        let next = users.last().filter(|_| users.len() == limit);
        Reply::ok(json!({ "users": users, "disabled": disabled, "next": next }))
    }

    pub(super) async fn add_user(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let fields = asked.fields(&["jid", "password"])?;
        let refuse = |refused| Problem::refused("jid", &refused);
        let node = self.node();
        let account = node.account_address(fields.text("jid")?).map_err(refuse)?;
        let password = fields.text("password")?;
        node.add_account(&account, password).await.map_err(refuse)?;
        Reply::with(StatusCode::CREATED, json!({ "jid": account }))
    }

    pub(super) async fn show_user(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let info = self.node().account_info(&account).await;
        let info = info.map_err(|refused| Problem::refused("jid", &refused))?;
        let of = SessionsOf {
            of: Some(Jid::from(account.clone())),
            after: None,
            limit: 0,
        };
        let sessions = self.node().sessions_everywhere(of).await;
        let last = info
            .last
            .map(|(at, status)| json!({ "at": datetime::format(at), "status": status }));
        Reply::ok(json!({
            "jid": account,
            "sessions": sessions.answer.total,
            "contacts": info.contacts,
            "disabled": info.is_disabled,
            "last": last,
            "unanswered": unanswered(&sessions.silent),
        }))
    }

    pub(super) async fn delete_user(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let deleted = self.node().delete_account(&account).await;
        deleted.map_err(|refused| Problem::refused("jid", &refused))?;
        Ok(Reply::no_content())
    }

    pub(super) async fn set_disabled(
        &self,
        asked: &Asked<'_>,
        disabled: bool,
    ) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        asked.fields(&[])?;
        let changed = self.node().set_disabled(&account, disabled).await;
        changed.map_err(|refused| Problem::refused("jid", &refused))?;
        Ok(Reply::no_content())
    }

    pub(super) async fn set_password(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let fields = asked.fields(&["password"])?;
        let changed = self
            .node()
            .change_password(&account, fields.text("password")?)
            .await;
        changed.map_err(|refused| Problem::refused("jid", &refused))?;
        Ok(Reply::no_content())
    }
}
