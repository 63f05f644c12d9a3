//! Accounts as a whole: rows in all tables at once.

use async_trait::async_trait;
use rookery_proto::jid::Jid;

use super::{PostgresStorage, accounts, archive, get, pool::Lease};
use crate::{
    Error, WholeAccount, WholeStore,
    log::to_micros,
    roster::{groups_to_json, is_only_request},
};

#[async_trait]
impl WholeStore for PostgresStorage {
    async fn put_accounts(
        &self,
        new_accounts: Vec<WholeAccount>,
        replace: bool,
    ) -> Result<u64, Error> {
        self.write("put_accounts", async move |mut lease: Lease| {
            lease.begin().await?;
            let mut replaced = 0;
            for account in &new_accounts {
                // The lease rolls back after an error.
                replaced += u64::from(put(&mut lease, account, replace).await?);
            }
            lease.commit().await?;
            Ok(replaced)
        })
        .await
    }
}

/// Writes one account; gives whether there was one before.
async fn put(lease: &mut Lease, account: &WholeAccount, replace: bool) -> Result<bool, Error> {
    let jid = &account.jid;
    let is_there = accounts::is_there(lease, jid).await?;
    if is_there {
        if !replace {
            return Err(Error::Exists);
        }
        accounts::delete(lease, jid).await?;
    }
    if let Some(log_of) = &account.log_of {
        let renamed = lease
            .execute(
                "UPDATE account SET jid = $2, domain = $3 WHERE jid = $1",
                &[&log_of.as_str(), &jid.as_str(), &jid.domain()],
            )
            .await?;
        if renamed == 0 {
            return Err(Error::NoAccount);
        }
        accounts::set_credentials(lease, jid, &account.credentials).await?;
    } else if !accounts::create(lease, jid, &account.credentials).await? {
        // Somebody was quicker.
        return Err(Error::Exists);
    }
    let rows = lease
        .query("SELECT id FROM account WHERE jid = $1", &[&jid.as_str()])
        .await?;
    let id: i64 = get(rows.first().ok_or(Error::NoAccount)?, 0)?;
    put_roster(lease, id, account).await?;
    put_rest(lease, id, account).await?;
    archive::put_preferences(lease, id, &account.preferences).await?;
    Ok(is_there)
}

async fn put_roster(lease: &mut Lease, id: i64, account: &WholeAccount) -> Result<(), Error> {
    let items = &account.roster;
    if items.is_empty() {
        return Ok(());
    }
    let contacts: Vec<&str> = items.iter().map(|item| item.jid.as_str()).collect();
    let hidden: Vec<bool> = items.iter().map(is_only_request).collect();
    let names: Vec<Option<&str>> = items.iter().map(|item| item.name.as_deref()).collect();
    let subscriptions: Vec<&str> = items
        .iter()
        .map(|item| item.subscription.as_str())
        .collect();
    let ask: Vec<bool> = items.iter().map(|item| item.ask).collect();
    let approved: Vec<bool> = items.iter().map(|item| item.approved).collect();
    let pending: Vec<Option<&str>> = items.iter().map(|i| i.pending_in.as_deref()).collect();
    let groups: Vec<String> = items
        .iter()
        .map(|item| groups_to_json(&item.groups))
        .collect();
    lease
        .execute(
            "WITH r AS (
                 UPDATE roster SET version = version + cardinality($2::text[])
                 WHERE account = $1 RETURNING version
             )
             INSERT INTO roster_item (account, contact, version, removed, hidden, name,
                 subscription, ask, approved, pending_in, groups)
             SELECT $1, n.contact, r.version - cardinality($2) + n.number, false, n.hidden, n.name,
                 n.subscription, n.ask, n.approved, n.pending_in, n.groups
             FROM r, unnest($2, $3::boolean[], $4::text[], $5::text[], $6::boolean[],
                 $7::boolean[], $8::text[], $9::text[]) WITH ORDINALITY
                 AS n (contact, hidden, name, subscription, ask, approved, pending_in, groups,
                     number)",
            &[
                &id,
                &contacts,
                &hidden,
                &names,
                &subscriptions,
                &ask,
                &approved,
                &pending,
                &groups,
            ],
        )
        .await?;
    Ok(())
}

async fn put_rest(lease: &mut Lease, id: i64, account: &WholeAccount) -> Result<(), Error> {
    if !account.blocked.is_empty() {
        let blocked: Vec<&str> = account.blocked.iter().map(Jid::as_str).collect();
        lease
            .execute(
                "INSERT INTO blocked (account, jid) SELECT $1, unnest($2::text[])
                 ON CONFLICT DO NOTHING",
                &[&id, &blocked],
            )
            .await?;
    }
    if let Some(vcard) = &account.vcard {
        lease
            .execute(
                "INSERT INTO vcard (account, xml) VALUES ($1, $2)",
                &[&id, vcard],
            )
            .await?;
    }
    for element in &account.private {
        lease
            .execute(
                "INSERT INTO private (account, name, ns, xml) VALUES ($1, $2, $3, $4)",
                &[&id, &element.name, &element.ns, &element.xml],
            )
            .await?;
    }
    if let Some((at, status)) = &account.last {
        lease
            .execute(
                "INSERT INTO last (account, at, status) VALUES ($1, $2, $3)",
                &[&id, &to_micros(*at), status],
            )
            .await?;
    }
    Ok(())
}
