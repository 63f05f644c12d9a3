//! `roster` and `roster_item`.

use async_trait::async_trait;
use rookery_proto::{
    jid::BareJid,
    roster::{RosterItem, Subscription},
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStorage;
use crate::{
    Error, MAX_TOMBSTONES, Options, Roster, RosterChange, RosterCommit, RosterStore, RosterUpdate,
    log::{to_i64, to_u64},
    roster::{Plan, groups_from_json, groups_to_json, is_only_request, plan},
};

#[async_trait]
impl RosterStore for SqliteStorage {
    async fn roster(&self, account: &BareJid) -> Result<Roster, Error> {
        let account = account.clone();
        self.read("roster", move |db| roster(db, &account)).await
    }

    async fn roster_item(
        &self,
        account: &BareJid,
        contact: &BareJid,
    ) -> Result<Option<RosterItem>, Error> {
        let (account, contact) = (account.clone(), contact.clone());
        self.read("roster_item", move |db| {
            let Some(account) = super::accounts::id(db, &account)? else {
                return Ok(None);
            };
            item(db, account, &contact)
        })
        .await
    }

    async fn roster_changes_since(
        &self,
        account: &BareJid,
        version: u64,
    ) -> Result<Option<Vec<RosterChange>>, Error> {
        let account = account.clone();
        self.read("roster_changes_since", move |db| {
            changes(db, &account, version)
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
        self.write("update_roster", move |db| {
            update_roster(db, &options, &account, &contact, update)
        })
        .await
    }
}

/// The columns that [`read_item`] expects, from the first.
macro_rules! item_columns {
    () => {
        "i.contact, i.name, i.subscription, i.ask, i.approved, i.pending_in, i.groups"
    };
}

fn read_item(row: &Row<'_>) -> Result<RosterItem, Error> {
    let corrupt = |error: &dyn std::fmt::Display| Error::corrupt("roster item", error);
    let text = |column| {
        row.get_ref(column)?
            .as_str()
            .map_err(|error| Error::corrupt("roster item", error))
    };
    Ok(RosterItem {
        jid: BareJid::parse(text(0)?).map_err(|error| corrupt(&error))?,
        name: row.get(1)?,
        subscription: Subscription::from_name(text(2)?)
            .ok_or_else(|| corrupt(&"its subscription is unknown"))?,
        ask: row.get(3)?,
        approved: row.get(4)?,
        pending_in: row.get(5)?,
        groups: groups_from_json(text(6)?)?,
    })
}

fn roster(db: &Connection, account: &BareJid) -> Result<Roster, Error> {
    // One statement, so that version and items belong together.
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        item_columns!(),
        ", r.version
         FROM account a JOIN roster r ON r.account = a.id
         LEFT JOIN roster_item i ON i.account = a.id AND NOT i.removed
         WHERE a.jid = ?1 ORDER BY i.contact"
    ))?;
    let mut rows = select.query([account.as_str()])?;
    let mut roster = Roster::default();
    while let Some(row) = rows.next()? {
        roster.version = to_u64(row.get(7)?);
        if row.get_ref(0)? != rusqlite::types::ValueRef::Null {
            roster.items.push(read_item(row)?);
        }
    }
    Ok(roster)
}

fn changes(
    db: &Connection,
    account: &BareJid,
    since: u64,
) -> Result<Option<Vec<RosterChange>>, Error> {
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        item_columns!(),
        ", r.version, r.forgotten, i.version, i.removed
         FROM account a JOIN roster r ON r.account = a.id
         LEFT JOIN roster_item i ON i.account = a.id AND i.version > ?2
         WHERE a.jid = ?1 ORDER BY i.version"
    ))?;
    let mut rows = select.query(params![account.as_str(), to_i64(since)])?;
    let mut changes = None;
    while let Some(row) = rows.next()? {
        if since < to_u64(row.get(8)?) || since > to_u64(row.get(7)?) {
            return Ok(None);
        }
        let changes = changes.get_or_insert_with(Vec::new);
        if let Some(version) = row.get::<_, Option<i64>>(9)? {
            let item = read_item(row)?;
            changes.push(RosterChange {
                version: to_u64(version),
                contact: item.jid.clone(),
                item: (!row.get::<_, bool>(10)?).then_some(item),
            });
        }
    }
    Ok(changes)
}

fn item(db: &Connection, account: i64, contact: &BareJid) -> Result<Option<RosterItem>, Error> {
    let mut select = db.prepare_cached(concat!(
        "SELECT ",
        item_columns!(),
        " FROM roster_item i WHERE i.account = ?1 AND i.contact = ?2 AND NOT i.removed"
    ))?;
    let mut rows = select.query(params![account, contact.as_str()])?;
    rows.next()?.map(read_item).transpose()
}

fn update_roster(
    db: &Connection,
    options: &Options,
    account: &BareJid,
    contact: &BareJid,
    update: RosterUpdate,
) -> Result<RosterCommit, Error> {
    let (account, version): (i64, i64) = db
        .prepare_cached(
            "SELECT a.id, r.version FROM account a JOIN roster r ON r.account = a.id
             WHERE a.jid = ?1",
        )?
        .query_row([account.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or(Error::NoAccount)?;
    let before = item(db, account, contact)?;
    let after = match plan(before.as_ref(), contact, update) {
        Plan::Unchanged => {
            let after = before.clone();
            return Ok(RosterCommit {
                version: to_u64(version),
                before,
                after,
            });
        }
        Plan::Put(item) => {
            check_limit(db, options, account, before.as_ref(), &item)?;
            put(db, account, version + 1, &item)?;
            Some(item)
        }
        Plan::Remove => {
            bury(db, account, version + 1, contact)?;
            None
        }
    };
    db.prepare_cached("UPDATE roster SET version = ?2 WHERE account = ?1")?
        .execute([account, version + 1])?;
    Ok(RosterCommit {
        version: to_u64(version + 1),
        before,
        after,
    })
}

fn check_limit(
    db: &Connection,
    options: &Options,
    account: i64,
    before: Option<&RosterItem>,
    item: &RosterItem,
) -> Result<(), Error> {
    let hidden = is_only_request(item);
    if before.is_some_and(|before| is_only_request(before) == hidden) {
        return Ok(());
    }
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM roster_item
             WHERE account = ?1 AND NOT removed AND hidden = ?2",
        )?
        .query_row(params![account, hidden], |row| row.get(0))?;
    crate::roster::check_limit(options, hidden, count)
}

/// Writes an item.
pub(super) fn put(
    db: &Connection,
    account: i64,
    version: i64,
    item: &RosterItem,
) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO roster_item (account, contact, version, removed, hidden,
             name, subscription, ask, approved, pending_in, groups)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        account,
        item.jid.as_str(),
        version,
        is_only_request(item),
        item.name,
        item.subscription.as_str(),
        item.ask,
        item.approved,
        item.pending_in,
        groups_to_json(&item.groups),
    ])?;
    Ok(())
}

/// Turns an item into a tombstone, and forgets the oldest tombstone if there are too many.
fn bury(db: &Connection, account: i64, version: i64, contact: &BareJid) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO roster_item (account, contact, version, removed, hidden,
             subscription, ask, approved, groups)
         VALUES (?1, ?2, ?3, 1, 0, 'none', 0, 0, '[]')",
    )?
    .execute(params![account, contact.as_str(), version])?;
    let forgotten: Option<i64> = db
        .prepare_cached(
            "SELECT version FROM roster_item WHERE account = ?1 AND removed
             ORDER BY version DESC LIMIT 1 OFFSET ?2",
        )?
        .query_row(params![account, i64::from(MAX_TOMBSTONES)], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(forgotten) = forgotten {
        db.prepare_cached(
            "DELETE FROM roster_item WHERE account = ?1 AND removed AND version <= ?2",
        )?
        .execute([account, forgotten])?;
        db.prepare_cached("UPDATE roster SET forgotten = ?2 WHERE account = ?1")?
            .execute([account, forgotten])?;
    }
    Ok(())
}
