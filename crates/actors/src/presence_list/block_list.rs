//! The account's block list (XEP-0191): requests of its clients, pushes, and the presence that a
//! change brings.

use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use rookery_bus::Frame;
use rookery_features::xep0191_blocking::{self, BlockList, Request as Command};
use rookery_proto::error::StanzaError;
use rookery_proto::jid::Jid;
use rookery_proto::stanza::Stanza;

use super::{List, PresenceList};
use crate::metrics::{self, Outcome};
use crate::outbox::Outgoing;
use crate::reply;
use crate::user_session::PresenceRequest;

/// A client asks for the block list or changes it.
#[derive(Message)]
#[rtype(result = "Vec<Stanza>")]
pub(crate) struct BlockListRequest {
    pub(crate) resource: String,
    pub(crate) stanza: Stanza,
}

impl PresenceRequest for BlockListRequest {}

impl Handler<BlockListRequest> for PresenceList {
    type Result = AtomicResponse<Self, Vec<Stanza>>;

    fn handle(&mut self, request: BlockListRequest, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            let kind = request.stanza.kind;
            let answer = match list.block_list_request(&request).await {
                Ok(answer) => {
                    metrics::outcome(kind, Outcome::Delivered);
                    Some(answer)
                }
                Err(error) => {
                    metrics::outcome(kind, Outcome::Bounced);
                    request.stanza.reply_error(&error)
                }
            };
            list.shard.flush();
            answer.into_iter().collect()
        })
    }
}

/// The block list changed on another node.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct BlockListChanged {
    pub(crate) added: Vec<Jid>,
    pub(crate) removed: Vec<Jid>,
    pub(crate) all_removed: bool,
}

impl Handler<BlockListChanged> for PresenceList {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, change: BlockListChanged, _: &mut Self::Context) -> Self::Result {
        self.run(|list| async move {
            list.account.block_list.take();
            if let Err(error) = list.shard.load_block_list(&list.account).await {
                // Read again when something is next delivered.
                tracing::warn!(%error, "the block list was not read again");
            }
            let BlockListChanged {
                added,
                removed,
                all_removed,
            } = change;
            list.push_block_list(&if all_removed {
                Command::UnblockAll
            } else if added.is_empty() {
                Command::Unblock(removed)
            } else {
                Command::Block(added)
            });
        })
    }
}

impl List {
    async fn block_list_request(
        self: &Rc<Self>,
        request: &BlockListRequest,
    ) -> Result<Stanza, StanzaError> {
        let command = Command::parse(&request.stanza)?;
        let storage = &self.node().storage;
        let account = &self.account.jid;
        self.load().await?;
        let before = self.block_list();
        let change = match &command {
            Command::List => {
                if let Some(resource) = self.account.resource(&request.resource) {
                    resource.wants_block_list.set(true);
                }
                return Ok(before.result(&request.stanza));
            }
            Command::Block(jids) => {
                let added = storage.block(account, jids).await;
                let added = added.map_err(|e| reply::storage_error(&e))?;
                BlockListChanged {
                    added,
                    removed: Vec::new(),
                    all_removed: false,
                }
            }
            Command::Unblock(_) | Command::UnblockAll => {
                let jids = if let Command::Unblock(jids) = &command {
                    Some(&jids[..])
                } else {
                    None
                };
                let removed = storage.unblock(account, jids).await;
                let removed = removed.map_err(|e| reply::storage_error(&e))?;
                BlockListChanged {
                    added: Vec::new(),
                    removed,
                    all_removed: jids.is_none(),
                }
            }
        };
        let after = Rc::new(before.after(&command));
        self.show_presence_changes(&before, &after).await;
        *self.account.block_list.borrow_mut() = Some(Rc::clone(&after));
        self.see_again(&before, &after);
        self.push_block_list(&command);
        let BlockListChanged {
            added,
            removed,
            all_removed,
        } = change;
        let account = account.clone();
        self.tell_other_nodes(Frame::BlockListChanged {
            account,
            added,
            removed,
            all_removed,
        })
        .await;
        Ok(request.stanza.reply_result())
    }

    fn block_list(&self) -> Rc<BlockList> {
        self.account.block_list.borrow().clone().unwrap_or_default()
    }

    /// §3.3, §3.4: to contacts who are blocked now the user goes offline; those who are not blocked
    /// any more see the user again.
    async fn show_presence_changes(&self, before: &BlockList, after: &BlockList) {
        let changed = {
            let roster = self.roster.borrow();
            let items = roster.iter().flat_map(|roster| roster.items.values());
            xep0191_blocking::presence_changes(items, before, after)
        };
        for contact in changed {
            if after.blocks(&contact) {
                self.send_unavailable_to(&contact).await;
            } else {
                self.send_presence_to(&contact.to_bare()).await;
            }
        }
    }

    /// What contacts sent while they were blocked never came: the available resources get the
    /// presence of those who are not blocked any more.
    fn see_again(&self, before: &BlockList, after: &BlockList) {
        let contacts = self.contacts(|item| {
            let jid = Jid::from(&item.jid);
            item.subscription.sees_contact() && before.blocks(&jid) && !after.blocks(&jid)
        });
        if contacts.is_empty() {
            return;
        }
        for resource in self.account.all() {
            if resource.is_available() {
                self.shard.probe(&resource.jid, contacts.clone());
            }
        }
    }

    /// Tells the resources that asked for the list (§3.3, §3.4).
    fn push_block_list(&self, command: &Command) {
        for resource in self.account.all() {
            if resource.wants_block_list.get()
                && let Some(push) = command.push(&self.shard.stanza_id(), &resource.jid)
            {
                self.shard.push(&resource, Outgoing::new(Arc::new(push)));
            }
        }
    }
}
