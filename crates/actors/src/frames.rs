//! What other nodes say: frames of the bus, handed to the shards that they are for, in their order.

use std::rc::Rc;
use std::sync::Arc;

use rookery_bus::{Frame, Inbound};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::Jid;

use crate::cluster::{make_up_for_lost_frames, run, tell_of_accounts_again};
use crate::node::{NodeShared, end_sessions};
use crate::operators;
use crate::presence_list::{BlockListChanged, RosterChanged};
use crate::router::FromBus;
use crate::shard::{Broadcast, Parcel, Shard, ShardJob, Work};
use crate::trace::{self, Stage};

pub(crate) async fn take_inbound(node: &Arc<NodeShared>, inbound: Inbound) {
    match inbound {
        Inbound::Frames { from, frames, done } => {
            let mut batch = Batch::new(node);
            for frame in frames {
                if trace::is_on() {
                    trace_frame(node, from, &frame);
                }
                take_frame(&mut batch, from, frame);
            }
            batch.hand_over().await;
            drop(done);
        }
        Inbound::Gap { from } => {
            tracing::warn!(%from, "frames from a node were lost; storage is asked");
            make_up_for_lost_frames(node).await;
        }
        Inbound::Returned {
            to,
            frames,
            in_doubt,
        } => {
            tell_of_accounts_again(node, to, &frames);
            route_again(node, frames, in_doubt).await;
        }
    }
}

/// What a batch of frames brings, for each shard in the order of the frames: one message to each.
struct Batch<'n> {
    node: &'n Arc<NodeShared>,
    tasks: Vec<Vec<Task>>,
}

/// What a frame is to the shard that it is for.
enum Task {
    Deliver(FromBus),
    Work(Work),
    Other(ShardJob),
}

impl<'n> Batch<'n> {
    fn new(node: &'n Arc<NodeShared>) -> Self {
        let tasks = node.shards().iter().map(|_| Vec::new()).collect();
        Self { node, tasks }
    }

    fn add(&mut self, shard: usize, task: Task) {
        self.tasks[shard].push(task);
    }

    fn run(&mut self, shard: usize, job: impl FnOnce(&Rc<Shard>) + Send + 'static) {
        self.add(shard, Task::Other(Box::new(job)));
    }

    /// Waits while a shard's mailbox is full, which is the back-pressure on the bus.
    async fn hand_over(self) {
        for (index, tasks) in self.tasks.into_iter().enumerate() {
            if tasks.is_empty() {
                continue;
            }
            run(self.node, index, move |shard| {
                for task in tasks {
                    match task {
                        Task::Deliver(delivery) => shard.deliver_from_bus(delivery),
                        Task::Work(work) => shard.accept(work),
                        Task::Other(job) => job(shard),
                    }
                }
            })
            .await;
        }
    }
}

fn take_frame(batch: &mut Batch<'_>, from: Epoch, frame: Frame) {
    let node = batch.node;
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
                parcel: Parcel::from_frame(node, stanza, hops, entry, counts),
                to,
                responsible,
            };
            batch.add(index, Task::Deliver(delivery));
        }
        Frame::Broadcast { stanza, to } => {
            let share = node.from_nodes.share(stanza.size());
            let presence = Broadcast {
                from_bus: true,
                share: Some(Arc::new(share)),
                ..Broadcast::new(Arc::new(stanza))
            };
            for (index, to) in node.by_shard(to) {
                let presence = presence.clone();
                batch.add(index, Task::Work(Work::Broadcast { presence, to }));
            }
        }
        Frame::RosterChanged {
            account,
            item,
            version,
        } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| {
                shard.tell_presence_list(&account, RosterChanged { item, version });
            });
        }
        Frame::BlockListChanged {
            account,
            added,
            removed,
            all_removed,
        } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| {
                shard.tell_presence_list(
                    &account,
                    BlockListChanged {
                        added,
                        removed,
                        all_removed,
                    },
                );
            });
        }
        Frame::Evict { session, sequence } => {
            let index = node.shard_of(session.bare_str());
            batch.run(index, move |shard| shard.evict(&session, sequence));
        }
        Frame::AccountChanged { account, .. } => end_sessions(node, &account),
        Frame::LogChanged { account } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| shard.deliver_from_log(&account));
        }
        Frame::Carbon {
            account,
            stanza,
            except,
        } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| {
                shard.copy_from_bus(&account, stanza, &except);
            });
        }
        Frame::OperatorAsk { request, question } => {
            operators::asked(node, from, request, question);
        }
        Frame::OperatorAnswer {
            request,
            part,
            last,
        } => {
            if let Some(cluster) = &node.cluster {
                cluster.operator_answered(from, request, part, last);
            }
        }
        Frame::ResumeAsk { .. }
        | Frame::ResumeTake { .. }
        | Frame::ResumeAnswer { .. }
        | Frame::ResumeState { .. } => take_resumption(batch, from, frame),
    }
}

/// Somebody traces, and another node may have sent a stanza.
fn trace_frame(node: &NodeShared, from: Epoch, frame: &Frame) {
    let Some(cluster) = &node.cluster else { return };
    let (stanza, client, accounts, entry) = match frame {
        Frame::Deliver {
            stanza, to, entry, ..
        } => (stanza, to.first(), &[][..], *entry),
        Frame::Broadcast { stanza, to } => (stanza, None, &to[..], None),
        Frame::Carbon {
            account, stanza, ..
        } => (stanza, None, std::slice::from_ref(account), None),
        _ => return,
    };
    trace::stage(Stage::FromNode, stanza, |step| {
        let step = step.to(accounts).entry(entry).detail(cluster.name_of(from));
        match client {
            Some(client) => step.at(client),
            None => step,
        }
    });
}

/// What nodes say to move a session (`moving.rs`).
fn take_resumption(batch: &mut Batch<'_>, from: Epoch, frame: Frame) {
    let node = batch.node;
    match frame {
        Frame::ResumeAsk {
            request,
            account,
            id,
            h,
        } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| {
                shard.offer(from, request, &account, &id, h);
            });
        }
        Frame::ResumeTake {
            request,
            account,
            id,
        } => {
            let index = node.shard_of(account.as_str());
            batch.run(index, move |shard| {
                shard.give(from, request, &account, &id);
            });
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

/// Frames that their node never handled: look for the recipients again. `in_doubt`: it may have handled
/// them, before it died.
pub(crate) async fn route_again(node: &Arc<NodeShared>, frames: Vec<Frame>, in_doubt: bool) {
    for frame in frames {
        match frame {
            Frame::Deliver {
                mut stanza,
                to,
                responsible: true,
                hops,
                entry,
                counts,
            } => {
                let Some(first) = to.first() else { continue };
                if stanza.to.is_none() {
                    stanza.to = Some(Jid::from(first.clone()));
                }
                trace::stage(Stage::Returned, &stanza, |step| {
                    let step = step.at(first).entry(entry);
                    if in_doubt {
                        step.detail("its node is gone and may have handled it")
                    } else {
                        step
                    }
                });
                let parcel = Parcel::from_frame(node, stanza, hops + 1, entry, counts);
                run(node, node.shard_of(first.bare_str()), move |shard| {
                    if in_doubt {
                        shard.give_up_in_doubt(parcel);
                    } else {
                        shard.again(parcel);
                    }
                })
                .await;
            }
            Frame::LogChanged { account } => {
                let index = node.shard_of(account.as_str());
                run(node, index, move |shard| shard.deliver_from_log(&account)).await;
            }
            _ => {}
        }
    }
}
