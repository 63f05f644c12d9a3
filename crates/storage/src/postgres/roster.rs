//! `roster` and `roster_item`.

use async_trait::async_trait;
use rookery_proto::{
    jid::BareJid,
    roster::{RosterItem, Subscription},
};
use tokio_postgres::Row;

use super::{PostgresStorage, get, pool::Lease};
use crate::{
    Error, MAX_TOMBSTONES, Options, Roster, RosterChange, RosterCommit, RosterStore, RosterUpdate,
    log::{to_i64, to_u64},
    roster::{Plan, check_limit, groups_from_json, groups_to_json, is_only_request, plan},
};

/// The columns that [`read_item`] expects, from the first.
macro_rules! item_columns {
    () => {
        "i.contact, i.name, i.subscription, i.ask, i.approved, i.pending_in, i.groups"
    };
}

#[async_trait]
impl RosterStore for PostgresStorage {
    async fn roster(&self, account: &BareJid) -> Result<Roster, Error> {
        let account = account.clone();
        self.read("roster", |lease| roster(lease, account)).await
    }

    async fn roster_item(
        &self,
        account: &BareJid,
        contact: &BareJid,
    ) -> Result<Option<RosterItem>, Error> {
        let (account, contact) = (account.clone(), contact.clone());
        self.read("roster_item", async move |mut lease: Lease| {
            let rows = lease
                .query(
                    concat!(
                        "SELECT ",
                        item_columns!(),
                        " FROM account a JOIN roster_item i ON i.account = a.id
                         WHERE a.jid = $1 AND i.contact = $2 AND NOT i.removed"
                    ),
                    &[&account.as_str(), &contact.as_str()],
                )
                .await?;
            rows.first().map(read_item).transpose()
        })
        .await
    }

    async fn roster_changes_since(
        &self,
        account: &BareJid,
        version: u64,
    ) -> Result<Option<Vec<RosterChange>>, Error> {
        let account = account.clone();
        self.read("roster_changes_since", move |lease| {
            changes(lease, account, version)
        })
        .await
    }

    async fn update_roster(
        &self,
        account: &BareJid,
        contact: &BareJid,
        update: RosterUpdate,
    ) -> Result<RosterCommit, Error> {
        let (account, contact) = (account.clone(), contact.clone());
        let options = self.options.clone();
        self.write("update_roster", move |lease| {
            update_roster(lease, options, account, contact, update)
        })
        .await
    }
}

fn read_item(row: &Row) -> Result<RosterItem, Error> {
    let corrupt = |error: &dyn std::fmt::Display| Error::corrupt("roster item", error);
    Ok(RosterItem {
        jid: BareJid::parse(get(row, 0)?).map_err(|error| corrupt(&error))?,
        name: get(row, 1)?,
        subscription: Subscription::from_name(get(row, 2)?)
            .ok_or_else(|| corrupt(&"its subscription is unknown"))?,
        ask: get(row, 3)?,
        approved: get(row, 4)?,
        pending_in: get(row, 5)?,
        groups: groups_from_json(get(row, 6)?)?,
    })
}

async fn roster(mut lease: Lease, account: BareJid) -> Result<Roster, Error> {
    // One statement, so that version and items belong together.
    let rows = lease
        .query(
            concat!(
                "SELECT ",
                item_columns!(),
                ", r.version FROM account a JOIN roster r ON r.account = a.id
                 LEFT JOIN roster_item i ON i.account = a.id AND NOT i.removed
                 WHERE a.jid = $1 ORDER BY i.contact"
            ),
            &[&account.as_str()],
        )
        .await?;
    let mut roster = Roster::default();
    for row in &rows {
        roster.version = to_u64(get(row, 7)?);
        if get::<Option<&str>>(row, 0)?.is_some() {
            roster.items.push(read_item(row)?);
        }
    }
    Ok(roster)
}

async fn changes(
    mut lease: Lease,
    account: BareJid,
    since: u64,
) -> Result<Option<Vec<RosterChange>>, Error> {
    let rows = lease
        .query(
            concat!(
                "SELECT ",
                item_columns!(),
                ", r.version, r.forgotten, i.version, i.removed
                 FROM account a JOIN roster r ON r.account = a.id
                 LEFT JOIN roster_item i ON i.account = a.id AND i.version > $2
                 WHERE a.jid = $1 ORDER BY i.version"
            ),
            &[&account.as_str(), &to_i64(since)],
        )
        .await?;
    let mut changes = None;
    for row in &rows {
        if since < to_u64(get(row, 8)?) || since > to_u64(get(row, 7)?) {
            return Ok(None);
        }
        let changes = changes.get_or_insert_with(Vec::new);
        if let Some(version) = get::<Option<i64>>(row, 9)? {
            let item = read_item(row)?;
            changes.push(RosterChange {
                version: to_u64(version),
                contact: item.jid.clone(),
                item: (!get::<bool>(row, 10)?).then_some(item),
            });
        }
    }
    Ok(changes)
}

async fn update_roster(
    mut lease: Lease,
    options: Options,
    account: BareJid,
    contact: BareJid,
    update: RosterUpdate,
) -> Result<RosterCommit, Error> {
    // Other updates of this roster, on any node, wait here until this one is committed.
    let rows = lease
        .begin_with(
            "SELECT r.account, r.version FROM account a JOIN roster r ON r.account = a.id
             WHERE a.jid = $1 FOR UPDATE OF r",
            &[&account.as_str()],
        )
        .await?;
    let row = rows.first().ok_or(Error::NoAccount)?;
    let (account, version): (i64, i64) = (get(row, 0)?, get(row, 1)?);
    let rows = lease
        .query(
            concat!(
                "SELECT ",
                item_columns!(),
                " FROM roster_item i WHERE i.account = $1 AND i.contact = $2 AND NOT i.removed"
            ),
            &[&account, &contact.as_str()],
        )
        .await?;
    let before = rows.first().map(read_item).transpose()?;
    let after = match plan(before.as_ref(), &contact, update) {
        Plan::Unchanged => {
            let after = before.clone();
            return Ok(RosterCommit {
                version: to_u64(version),
                before,
                after,
            });
        }
        Plan::Put(item) => {
            make_room(&mut lease, &options, account, before.as_ref(), &item).await?;
            put(&mut lease, account, version + 1, &item).await?;
            Some(item)
        }
        Plan::Remove => {
            bury(&mut lease, account, version + 1, &contact).await?;
            None
        }
    };
    lease
        .execute(
            "UPDATE roster SET version = $2 WHERE account = $1",
            &[&account, &(version + 1)],
        )
        .await?;
    lease.commit().await?;
    Ok(RosterCommit {
        version: to_u64(version + 1),
        before,
        after,
    })
}

async fn make_room(
    lease: &mut Lease,
    options: &Options,
    account: i64,
    before: Option<&RosterItem>,
    item: &RosterItem,
) -> Result<(), Error> {
    let hidden = is_only_request(item);
    if before.is_some_and(|before| is_only_request(before) == hidden) {
        return Ok(());
    }
    let rows = lease
        .query(
            "SELECT count(*) FROM roster_item WHERE account = $1 AND NOT removed AND hidden = $2",
            &[&account, &hidden],
        )
        .await?;
    let count = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    check_limit(options, hidden, count)
}

async fn put(
    lease: &mut Lease,
    account: i64,
    version: i64,
    item: &RosterItem,
) -> Result<(), Error> {
    lease
        .execute(
            "INSERT INTO roster_item (account, contact, version, removed, hidden,
                 name, subscription, ask, approved, pending_in, groups)
             VALUES ($1, $2, $3, false, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (account, contact) DO UPDATE SET
                 version = excluded.version, removed = false, hidden = excluded.hidden,
                 name = excluded.name, subscription = excluded.subscription,
                 ask = excluded.ask, approved = excluded.approved,
                 pending_in = excluded.pending_in, groups = excluded.groups",
            &[
                &account,
                &item.jid.as_str(),
                &version,
                &is_only_request(item),
                &item.name,
                &item.subscription.as_str(),
                &item.ask,
                &item.approved,
                &item.pending_in,
                &groups_to_json(&item.groups),
            ],
        )
        .await
        .map(drop)
}

/// Turns an item into a tombstone, and forgets the oldest tombstone if there are too many.
async fn bury(
    lease: &mut Lease,
    account: i64,
    version: i64,
    contact: &BareJid,
) -> Result<(), Error> {
    lease
        .execute(
            "UPDATE roster_item SET version = $3, removed = true, hidden = false, name = NULL,
                 subscription = 'none', ask = false, approved = false, pending_in = NULL,
                 groups = '[]'
             WHERE account = $1 AND contact = $2",
            &[&account, &contact.as_str(), &version],
        )
        .await?;
    let rows = lease
        .query(
            "SELECT version FROM roster_item WHERE account = $1 AND removed
             ORDER BY version DESC LIMIT 1 OFFSET $2",
            &[&account, &i64::from(MAX_TOMBSTONES)],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let forgotten: i64 = get(row, 0)?;
    lease
        .execute(
            "DELETE FROM roster_item WHERE account = $1 AND removed AND version <= $2",
            &[&account, &forgotten],
        )
        .await?;
    lease
        .execute(
            "UPDATE roster SET forgotten = $2 WHERE account = $1",
            &[&account, &forgotten],
        )
        .await
        .map(drop)
}
