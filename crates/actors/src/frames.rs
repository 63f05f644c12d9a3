//! What other nodes say: frames of the bus, handed to the shards that they are for, in their order.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use rookery_bus::frame::{BatchError, Found, Place};
use rookery_bus::{Ack, Batch, Deliver, Frame, Frames, Inbound};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::{FullJid, Jid};

use crate::cluster::{make_up_for_lost_frames, run, tell_of_accounts_again};
use crate::node::{NodeShared, end_sessions};
use crate::operators;
use crate::presence_list::{BlockListChanged, RosterChanged};
use crate::router::FromBus;
use crate::shard::{Broadcast, Shard, ShardJob, Work};
use crate::trace::{self, Stage};

/// Takes what has come in, in its order. What gathered while the shards dealt with what came before is
/// handed to each of them at once.
pub(crate) async fn take_inbound(node: &Arc<NodeShared>, inbound: &mut Vec<Inbound>) {
    let mut arrivals = Arrivals::new(node);
    for inbound in inbound.drain(..) {
        match inbound {
            Inbound::Frames { from, frames, done } => arrivals.take(from, frames, done),
            Inbound::Gap { from } => {
                arrivals.hand_over().await;
                tracing::warn!(%from, "frames from a node were lost; storage is asked");
                make_up_for_lost_frames(node).await;
            }
            Inbound::Returned {
                to,
                frames,
                in_doubt,
            } => {
                arrivals.hand_over().await;
                tell_of_accounts_again(node, to, &frames);
                route_again(node, frames, in_doubt).await;
            }
        }
    }
    arrivals.hand_over().await;
}

/// What batches of frames bring, for each shard in the order of the frames: one message to each.
struct Arrivals<'n> {
    node: &'n Arc<NodeShared>,
    shards: Vec<Vec<Task>>,
    /// Dropped when all is handled.
    done: Vec<Ack>,
}

/// What a shard is to do.
enum Task {
    /// The deliveries that follow are in this batch, from this node.
    Open(Epoch, Batch),
    Deliver(Place),
    /// A delivery from a node that speaks an older version.
    DeliverRead(Box<FromBus>),
    Work(Box<Work>),
    Other(ShardJob),
}

impl<'n> Arrivals<'n> {
    fn new(node: &'n Arc<NodeShared>) -> Self {
        let shards = node.shards().iter().map(|_| Vec::new()).collect();
        Self {
            node,
            shards,
            done: Vec::new(),
        }
    }

    fn take(&mut self, from: Epoch, frames: Frames, done: Ack) {
        let Frames {
            read,
            batch,
            places,
        } = frames;
        for frame in read {
            take_frame(self, from, frame);
        }
        for tasks in &mut self.shards {
            tasks.push(Task::Open(from, batch.clone()));
        }
        for place in places {
            match batch.find(place) {
                Ok(Found::Delivery(delivery)) => {
                    let index = self.node.shard_of(delivery.account());
                    self.add(index, Task::Deliver(place));
                }
                Ok(Found::Other(frame)) => take_frame(self, from, frame),
                Err(error) => lost(&error),
            }
        }
        self.done.push(done);
    }

    fn add(&mut self, shard: usize, task: Task) {
        self.shards[shard].push(task);
    }

    fn run(&mut self, shard: usize, job: impl FnOnce(&Rc<Shard>) + Send + 'static) {
        self.add(shard, Task::Other(Box::new(job)));
    }

    /// Waits until the shards have handled it, also while a mailbox is full, which is the back-pressure on the
    /// bus.
    async fn hand_over(&mut self) {
        let handed = self.shards.iter_mut().enumerate().map(|(index, tasks)| {
            let is_empty = tasks.iter().all(|task| matches!(task, Task::Open(..)));
            let tasks = std::mem::take(tasks);
            (!is_empty).then(|| run(self.node, index, move |shard| shard.carry_out_all(tasks)))
        });
        join_all(handed.flatten().collect::<Vec<_>>()).await;
        self.done.clear();
    }
}

impl Shard {
    fn carry_out_all(self: &Rc<Self>, tasks: Vec<Task>) {
        let accepted = Instant::now();
        let mut open = None;
        for task in tasks {
            match task {
                Task::Open(from, batch) => open = Some((from, batch)),
                Task::Deliver(place) => {
                    if let Some((from, batch)) = &open {
                        self.deliver_packed(*from, batch, place, accepted);
                    }
                }
                Task::DeliverRead(delivery) => {
                    let bare = delivery.to.first().map(FullJid::bare_str);
                    let account = bare.and_then(|bare| self.accounts.borrow().get(bare).cloned());
                    self.deliver_from_bus(*delivery, account);
                }
                Task::Work(work) => self.accept(*work),
                Task::Other(job) => job(self),
            }
        }
    }

    /// A delivery is read where it is handled: what it holds is allocated and freed on one thread.
    fn deliver_packed(
        self: &Rc<Self>,
        from: Epoch,
        batch: &Batch,
        place: Place,
        accepted: Instant,
    ) {
        let Ok(Found::Delivery(delivery)) = batch.find(place) else {
            return;
        };
        let account = self.accounts.borrow().get(delivery.account()).cloned();
        let known = |session: &str| account.as_ref()?.session(session);
        let bare = account.as_ref().map(|account| &account.jid);
        let deliver = match delivery.read(known, bare) {
            Ok(deliver) => deliver,
            Err(error) => return lost(&error),
        };
        if trace::is_on() {
            trace_delivery(self.node(), from, &deliver);
        }
        self.deliver_from_bus(FromBus::of(self.node(), deliver, accepted), account);
    }
}

/// What another node wrote makes no sense.
fn lost(error: &BatchError) {
    tracing::error!(%error, "a frame from another node is lost");
    rookery_bus::metrics::unreadable();
}

fn take_frame(arrivals: &mut Arrivals<'_>, from: Epoch, frame: Frame) {
    let node = arrivals.node;
    if trace::is_on() {
        trace_frame(node, from, &frame);
    }
    match frame {
        Frame::Deliver(deliver) => {
            let Some(first) = deliver.to.first() else {
                return;
            };
            let index = node.shard_of(first.bare_str());
            arrivals.add(
                index,
                Task::DeliverRead(Box::new(FromBus::of(node, deliver, Instant::now()))),
            );
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
                let work = Work::Broadcast { presence, to };
                arrivals.add(index, Task::Work(Box::new(work)));
            }
        }
        Frame::RosterChanged {
            account,
            item,
            version,
        } => {
            let index = node.shard_of(account.as_str());
            arrivals.run(index, move |shard| {
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
            arrivals.run(index, move |shard| {
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
            arrivals.run(index, move |shard| shard.evict(&session, sequence));
        }
        Frame::AccountChanged { account, .. } => end_sessions(node, &account),
        Frame::LogChanged { account } => {
            let index = node.shard_of(account.as_str());
            arrivals.run(index, move |shard| shard.deliver_from_log(&account));
        }
        Frame::Carbon {
            account,
            stanza,
            except,
        } => {
            let index = node.shard_of(account.as_str());
            arrivals.run(index, move |shard| {
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
        | Frame::ResumeState { .. } => take_resumption(arrivals, from, frame),
    }
}

/// Somebody traces, and another node may have sent a stanza.
fn trace_frame(node: &NodeShared, from: Epoch, frame: &Frame) {
    let (stanza, accounts) = match frame {
        Frame::Deliver(deliver) => return trace_delivery(node, from, deliver),
        Frame::Broadcast { stanza, to } => (stanza, &to[..]),
        Frame::Carbon {
            account, stanza, ..
        } => (stanza, std::slice::from_ref(account)),
        _ => return,
    };
    let Some(cluster) = &node.cluster else { return };
    trace::stage(Stage::FromNode, stanza, |step| {
        step.to(accounts).detail(cluster.name_of(from))
    });
}

/// The same for a stanza for sessions.
fn trace_delivery(node: &NodeShared, from: Epoch, deliver: &Deliver) {
    let Some(cluster) = &node.cluster else { return };
    trace::stage(Stage::FromNode, &deliver.stanza, |step| {
        let step = step.entry(deliver.entry).detail(cluster.name_of(from));
        match deliver.to.first() {
            Some(client) => step.at(client),
            None => step,
        }
    });
}

/// What nodes say to move a session (`moving.rs`).
fn take_resumption(arrivals: &mut Arrivals<'_>, from: Epoch, frame: Frame) {
    let node = arrivals.node;
    match frame {
        Frame::ResumeAsk {
            request,
            account,
            id,
            h,
        } => {
            let index = node.shard_of(account.as_str());
            arrivals.run(index, move |shard| {
                shard.offer(from, request, &account, &id, h);
            });
        }
        Frame::ResumeTake {
            request,
            account,
            id,
        } => {
            let index = node.shard_of(account.as_str());
            arrivals.run(index, move |shard| {
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
            Frame::Deliver(mut deliver) if deliver.responsible => {
                let Some(first) = deliver.to.first().cloned() else {
                    continue;
                };
                if deliver.stanza.to.is_none() {
                    Arc::make_mut(&mut deliver.stanza).to = Some(Jid::from(&first));
                }
                trace::stage(Stage::Returned, &deliver.stanza, |step| {
                    let step = step.at(&first).entry(deliver.entry);
                    if in_doubt {
                        step.detail("its node is gone and may have handled it")
                    } else {
                        step
                    }
                });
                let mut parcel = FromBus::of(node, deliver, Instant::now()).parcel;
                parcel.hops += 1;
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
