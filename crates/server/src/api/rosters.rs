//! Rosters.

use rookery_features::roster::RosterSet;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::roster::RosterItem;
use serde_json::{Value, json};

use super::{Api, Asked, Problem, Reply};

impl Api {
    pub(super) async fn show_roster(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let contacts = self.node().contacts(&account).await;
        let contacts = contacts.map_err(|refused| Problem::refused("jid", &refused))?;
        let contacts: Vec<_> = contacts.iter().map(shown).collect();
        Reply::ok(json!({ "jid": account, "contacts": contacts }))
    }

    pub(super) async fn put_contact(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let fields = asked.fields(&["name", "groups"])?;
        let name = fields
            .optional_text("name")?
            .filter(|name| !name.is_empty());
        let set = RosterSet::Update {
            jid: contact(asked)?,
            name: name.map(str::to_owned),
            groups: fields.texts("groups")?,
        };
        let item = self.change_roster(&account, set).await?;
        let item = item.ok_or_else(|| Problem::failed("the contact is gone again"))?;
        Reply::ok(shown(&item))
    }

    pub(super) async fn delete_contact(&self, asked: &Asked<'_>) -> Result<Reply, Problem> {
        let account = self.account(asked)?;
        let jid = contact(asked)?;
        self.change_roster(&account, RosterSet::Remove { jid })
            .await?;
        Ok(Reply::no_content())
    }

    async fn change_roster(
        &self,
        account: &BareJid,
        set: RosterSet,
    ) -> Result<Option<RosterItem>, Problem> {
        let changed = self.node().change_roster(account, set).await;
        changed.map_err(|refused| Problem::refused("jid", &refused))
    }
}

/// The contact that stands in the path.
fn contact(asked: &Asked<'_>) -> Result<BareJid, Problem> {
    let contact = Jid::parse(asked.second()).ok().filter(Jid::is_bare);
    let contact = contact.map(|jid| jid.to_bare());
    contact.ok_or_else(|| Problem::field("contact", "this is no address without a resource"))
}

fn shown(item: &RosterItem) -> Value {
    json!({
        "jid": item.jid,
        "name": item.name.as_deref().filter(|name| !name.is_empty()),
        "groups": item.groups,
        "subscription": item.subscription.as_str(),
        "ask": item.ask,
        "approved": item.approved,
    })
}
