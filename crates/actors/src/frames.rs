//! What other nodes say: frames of the bus, handed to the shards that they are for, in their order.

use std::sync::Arc;

use rookery_bus::{Frame, Inbound};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::Jid;

use crate::cluster::{read_all_logs, run};
use crate::node::{NodeShared, end_sessions};
use crate::presence_list::{BlockListChanged, RosterChanged};
use crate::router::FromBus;
use crate::shard::{Parcel, Work};

pub(crate) async fn take_inbound(node: &Arc<NodeShared>, inbound: Inbound) {
    match inbound {
        Inbound::Frames { from, frames, done } => {
            for frame in frames {
                take_frame(node, from, frame).await;
            }
            drop(done);
        }
        Inbound::Gap { from } => {
            tracing::warn!(%from, "frames from a node were lost; the log is read");
            read_all_logs(node).await;
        }
        Inbound::Returned { frames, .. } => route_again(node, frames).await,
    }
}

async fn take_frame(node: &Arc<NodeShared>, from: Epoch, frame: Frame) {
    match frame {
        Frame::Deliver {
            stanza,
            to,
            responsible,
            hops,
            entry,
            counts,
        } => {
            let Some(first) = to.first() else { return };
            let index = node.shard_of(first.bare_str());
            let delivery = FromBus {
                parcel: Parcel::from_frame(stanza, hops, entry, counts),
                to,
                responsible,
            };
            run(node, index, move |shard| shard.deliver_from_bus(delivery)).await;
        }
        Frame::Broadcast { stanza, to } => {
            let stanza = Arc::new(stanza);
            for (index, to) in node.by_shard(to) {
                let work = Work::Broadcast {
                    stanza: Arc::clone(&stanza),
                    to,
                    accepted: std::time::Instant::now(),
                    from_bus: true,
                };
                run(node, index, move |shard| shard.accept(work)).await;
            }
        }
        Frame::RosterChanged {
            account,
            item,
            version,
        } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| {
                shard.tell_presence_list(&account, RosterChanged { item, version });
            })
            .await;
        }
        Frame::BlockListChanged {
            account,
            added,
            removed,
            all_removed,
        } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| {
                shard.tell_presence_list(
                    &account,
                    BlockListChanged {
                        added,
                        removed,
                        all_removed,
                    },
                );
            })
            .await;
        }
        Frame::Evict { session, sequence } => {
            let index = node.shard_of(session.bare_str());
            run(node, index, move |shard| shard.evict(&session, sequence)).await;
        }
        Frame::AccountChanged { account, .. } => end_sessions(node, &account),
        Frame::LogChanged { account } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| shard.read_log_again(&account)).await;
        }
        Frame::Carbon {
            account,
            stanza,
            except,
        } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| {
                shard.copy_from_bus(&account, stanza, &except);
            })
            .await;
        }
        Frame::ResumeAsk { .. }
        | Frame::ResumeTake { .. }
        | Frame::ResumeAnswer { .. }
        | Frame::ResumeState { .. } => take_resumption(node, from, frame).await,
    }
}

/// What nodes say to move a session (`moving.rs`).
async fn take_resumption(node: &Arc<NodeShared>, from: Epoch, frame: Frame) {
    match frame {
        Frame::ResumeAsk {
            request,
            account,
            id,
            h,
        } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| {
                shard.offer(from, request, &account, &id, h);
            })
            .await;
        }
        Frame::ResumeTake {
            request,
            account,
            id,
        } => {
            let index = node.shard_of(account.as_str());
            run(node, index, move |shard| {
                shard.give(from, request, &account, &id);
            })
            .await;
        }
        Frame::ResumeAnswer { request, answer } => {
            if let Some(cluster) = &node.cluster {
                cluster.questions.answered(request, answer);
            }
        }
        Frame::ResumeState { request, state } => {
            if let Some(cluster) = &node.cluster
                && let Some(state) = cluster.questions.taken(request, state)
            {
                // The client has been told that it has no session, and what it did not acknowledge is in
                // the log.
                tracing::warn!(jid = %state.jid, "a session came too late");
            }
        }
        _ => {}
    }
}

/// Frames that their node never handled: look for the recipients again.
pub(crate) async fn route_again(node: &Arc<NodeShared>, frames: Vec<Frame>) {
    for frame in frames {
        if let Frame::Deliver {
            mut stanza,
            to,
            responsible: true,
            hops,
            entry,
            counts,
        } = frame
        {
            let Some(first) = to.first() else { continue };
            if stanza.to.is_none() {
                stanza.to = Some(Jid::from(first.clone()));
            }
            let parcel = Parcel::from_frame(stanza, hops + 1, entry, counts);
            run(node, node.shard_of(first.bare_str()), move |shard| {
                shard.again(parcel);
            })
            .await;
        }
    }
}
