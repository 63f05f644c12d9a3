//! Messages that came while nobody could take them (RFC 6121 §8.5.2.2.1, XEP-0160).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_features::offline;
use rookery_proto::jid::BareJid;
use rookery_proto::stanza::Stanza;
use rookery_storage::EntryId;

use crate::account::{Account, Resource};
use crate::outbox::Outgoing;
use crate::shard::Shard;

/// Entries that are read at a time.
const PAGE: usize = 100;

/// How long other deliveries to the account wait for one client to take its stored messages.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a resource that became able to take messages what is in the account's log.
///
/// Everything else for the account waits meanwhile, so that new messages come after old ones, and
/// so that a second resource does not get them as well. An entry leaves the log when it has been
/// written to the client's socket.
pub(super) fn deliver(shard: &Rc<Shard>, account: &Rc<Account>, resource: &Rc<Resource>) {
    let job = Box::pin(send_all(
        Rc::clone(shard),
        Rc::clone(account),
        Rc::clone(resource),
    ));
    shard.in_turn(account.jid.clone(), job);
}

impl Shard {
    /// Another node stored messages for an account after it had looked in vain for a resource, which
    /// came here meanwhile and may have read the log too early.
    pub(crate) fn read_log_again(self: &Rc<Self>, account: &BareJid) {
        let Some(account) = self.accounts.borrow().get(account).cloned() else {
            // Gone again: the next login reads them.
            return;
        };
        let all = account.all();
        // One whose turn is to come reads them then.
        let takes_messages = |resource: &&Rc<Resource>| resource.takes_messages.get();
        if let Some(resource) = all
            .iter()
            .filter(takes_messages)
            .max_by_key(|resource| resource.priority.get())
        {
            deliver(self, &account, resource);
        }
    }
}

async fn send_all(shard: Rc<Shard>, account: Rc<Account>, resource: Rc<Resource>) {
    let storage = &shard.node().storage;
    resource
        .takes_messages
        .set(resource.is_available() && resource.priority.get() >= 0);
    let mut after: Option<EntryId> = None;
    loop {
        let page = match storage.undelivered(&account.jid, after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(account = %account.jid, %error, "stored messages were not read");
                return;
            }
        };
        let Some(last) = page.last().map(|entry| entry.id) else {
            return;
        };
        let full = page.len() == PAGE;
        for entry in page {
            let Ok(mut stanza) = Stanza::from_xml(&entry.stanza) else {
                tracing::error!(account = %account.jid, id = %entry.id, "a stored message is unreadable");
                continue;
            };
            offline::add_delay(&mut stanza, account.jid.domain(), entry.at);
            let outgoing = Outgoing {
                stanza: Arc::new(stanza),
                to: None,
                accepted: Instant::now(),
                entry: Some(entry.id.0),
            };
            if !shard.push(&resource, outgoing) {
                return;
            }
        }
        // The next page when this one is written: a long log must not overflow the outbox.
        let written = tokio::time::timeout(PATIENCE, resource.outbox.entry_written(last.0)).await;
        match written {
            Ok(written) if written >= last.0 => {
                mark(&shard, &account, last).await;
                if !full {
                    return;
                }
                after = Some(last);
            }
            // The client is gone: what it did not get stays in the log.
            Ok(0) => return,
            Ok(written) => return mark(&shard, &account, EntryId(written)).await,
            Err(_) => {
                // A slow client: the account's other resources do not wait for it.
                let shard = Rc::clone(&shard);
                actix_rt::spawn(async move {
                    let written = resource.outbox.entry_written(last.0).await;
                    if written > 0 {
                        mark(&shard, &account, EntryId(written)).await;
                    }
                });
                return;
            }
        }
    }
}

async fn mark(shard: &Shard, account: &Account, up_to: EntryId) {
    if let Err(error) = shard
        .node()
        .storage
        .mark_delivered(&account.jid, up_to)
        .await
    {
        // They will be sent once more.
        tracing::warn!(account = %account.jid, %error, "delivered messages stayed in the log");
    }
}
