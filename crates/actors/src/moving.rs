//! Sessions that go on on another node: XEP-0198 §5, across nodes.
//!
//! The node that the client came to asks the one that has the session whether it can have it
//! (`ResumeAsk`). That one lets go of the broken connection, waits until all that the client had sent
//! is dealt with, and answers. Then the new node takes the full JID in the directory, so that
//! everything for it comes here, and waits here; and takes the session (`ResumeTake`): from that
//! moment on the old node is silent. Messages that were committed meanwhile are found in the log, so
//! they come in their order. If a node dies in between, the client hears `item-not-found` and binds
//! anew; what it has not acknowledged is in the log.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use rookery_bus::{Frame, MovedSession, ResumeReady, ResumeRefused};
use rookery_directory::SessionRow;
use rookery_features::xep0198_stream_management as sm;
use rookery_proto::cluster::Epoch;
use rookery_proto::error::Condition;
use rookery_proto::jid::{BareJid, FullJid};
use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::node::NodeShared;
use crate::resumption::{NotResumed, ResumeRequest};
use crate::shard::{Bound, Shard};
use crate::user_session::{Give, Offer};

/// How long the node that has a session may take to answer; it waits for storage meanwhile. A node that
/// was killed a moment ago does not answer, and its clients wait that long.
const ASK_PATIENCE: Duration = Duration::from_secs(6);

/// How long it may take to hand the session over.
const TAKE_PATIENCE: Duration = Duration::from_secs(6);

/// How long a node that displaces a session waits for what the other one has confirmed.
const CONFIRM_PATIENCE: Duration = Duration::from_millis(300);

/// How long what comes for a session that was taken waits for its new node to be known.
const REGISTER_PATIENCE: Duration = Duration::from_secs(3);

/// Questions to other nodes that wait for their answers.
#[derive(Default)]
pub(crate) struct Questions {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Question>>,
}

/// Where an answer goes.
enum Question {
    Ask(oneshot::Sender<Result<ResumeReady, ResumeRefused>>),
    Take(oneshot::Sender<Option<Box<MovedSession>>>),
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Question>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, question: Question) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, question);
        number
    }

    /// An answer to `ResumeAsk`.
    pub(crate) fn answered(&self, number: u64, answer: Result<ResumeReady, ResumeRefused>) {
        if let Some(Question::Ask(sender)) = self.lock().remove(&number) {
            // Nobody waits any more.
            let _ = sender.send(answer);
        }
    }

    /// An answer to `ResumeTake`. Returns the session if nobody waits for it any more.
    pub(crate) fn taken(
        &self,
        number: u64,
        state: Option<Box<MovedSession>>,
    ) -> Option<Box<MovedSession>> {
        match self.lock().remove(&number) {
            Some(Question::Take(sender)) => sender.send(state).err().flatten(),
            _ => state,
        }
    }
}

/// Asks a node, and waits for its answer.
async fn ask<T>(
    cluster: &Cluster,
    to: Epoch,
    patience: Duration,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
    frame: impl FnOnce(u64) -> Frame,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let number = cluster.questions.open(question(sender));
    if cluster.send(to, frame(number)).is_err() {
        cluster.questions.lock().remove(&number);
        return None;
    }
    let answer = tokio::time::timeout(patience, answer).await;
    if answer.is_err() {
        cluster.questions.lock().remove(&number);
    }
    answer.ok()?.ok()
}

/// The node that made an identifier.
fn maker(previd: &str) -> Option<Epoch> {
    let (epoch, _) = previd.split_once('.')?;
    u64::from_str_radix(epoch, 16).ok().map(Epoch)
}

// The node that the client came to.

impl Shard {
    /// Brings a session of the account here from the node that has it: the one that made its
    /// identifier, or one that has sessions of the account.
    pub(crate) async fn fetch_session(
        self: &Rc<Self>,
        request: ResumeRequest,
    ) -> Result<Bound, NotResumed> {
        let node = Arc::clone(self.node());
        let Some(cluster) = &node.cluster else {
            return Err(NotResumed::unknown());
        };
        let mut refused = NotResumed::unknown();
        for owner in candidates(cluster, &request).await {
            let answer = ask(cluster, owner, ASK_PATIENCE, Question::Ask, |number| {
                Frame::ResumeAsk {
                    request: number,
                    account: request.account.clone(),
                    id: request.previd.clone(),
                    h: request.h,
                }
            });
            match answer.await {
                Some(Ok(ResumeReady { session })) => {
                    return self.take_in_turn(owner, session, request).await;
                }
                Some(Err(answer)) if !answer.unknown => {
                    return Err(not_resumed(&answer, request.h));
                }
                Some(Err(answer)) => refused = not_resumed(&answer, request.h),
                None => {}
            }
        }
        Err(refused)
    }

    /// Takes a session over; what comes for its account waits meanwhile.
    async fn take_in_turn(
        self: &Rc<Self>,
        owner: Epoch,
        session: FullJid,
        request: ResumeRequest,
    ) -> Result<Bound, NotResumed> {
        let (done, bound) = oneshot::channel();
        let shard = Rc::clone(self);
        let account = request.account.clone();
        let job = Box::pin(async move {
            let bound = shard.take_over(owner, session, request).await;
            // The connection waits for a binding, whatever happens to it.
            let _ = done.send(bound);
        });
        self.in_turn(account, job);
        bound.await.unwrap_or_else(|_| Err(NotResumed::unknown()))
    }

    async fn take_over(
        self: &Rc<Self>,
        owner: Epoch,
        jid: FullJid,
        request: ResumeRequest,
    ) -> Result<Bound, NotResumed> {
        let node = Arc::clone(self.node());
        let Some(cluster) = &node.cluster else {
            return Err(NotResumed::unknown());
        };
        let state = ask(cluster, owner, TAKE_PATIENCE, Question::Take, |number| {
            Frame::ResumeTake {
                request: number,
                account: request.account.clone(),
                id: request.previd.clone(),
            }
        });
        // One of several that ask gets it.
        let state = state.await.flatten().ok_or_else(NotResumed::unknown)?;
        self.end_local(&request.account, &jid).await;
        let registered = match cluster.directory.register(&jid).await {
            Ok(registered) => registered,
            Err(error) => {
                tracing::warn!(%jid, %error, "cannot register a session that has moved here");
                return Err(NotResumed::Failed(Condition::ResourceConstraint, None));
            }
        };
        if let Some(other) = registered.displaced.filter(|row| row.epoch != owner) {
            // Somebody has bound the resource since.
            cluster.evict(&other);
        }
        self.cache.borrow_mut().forget(request.account.as_str());
        // Nothing is awaited between this and the session's start: whatever happens to the account later finds
        // the session here.
        let bound = if self.is_login_void(&request.account, request.login_began) {
            self.end_moved(*state, registered.sequence).await;
            Err(NotResumed::unknown())
        } else {
            Ok(self.go_on_with(*state, request, registered.sequence).await)
        };
        // The old node lets go what waited there.
        let frame = Frame::Evict {
            session: jid,
            sequence: 0,
        };
        cluster.tell([owner], &frame);
        bound
    }

    /// Something happened to the account while its session was on the way, so that nobody gets it: it ends
    /// here as any session does, and what its client has not got is undelivered in the log again.
    async fn end_moved(self: &Rc<Self>, state: MovedSession, sequence: u64) {
        let account = self.account(&state.jid.to_bare());
        let (_, resource) = self.start_moved_session(&account, &state, None, sequence);
        resource.outbox.go_on(state.acked, state.outbox, None);
        self.end_local(&account.jid, &state.jid).await;
    }

    /// A session that came from another node runs here from now on.
    async fn go_on_with(
        self: &Rc<Self>,
        state: MovedSession,
        request: ResumeRequest,
        sequence: u64,
    ) -> Bound {
        let account = self.account(&request.account);
        let resumed = sm::resumed(&request.previd, state.handled);
        let connection = Some(request.connection);
        let (bound, resource) = self.start_moved_session(&account, &state, connection, sequence);
        *resource.resume_id.borrow_mut() = Some(request.previd.into());
        resource
            .outbox
            .go_on(state.acked, state.outbox, Some(resumed));
        if let Some(cluster) = &self.node().cluster {
            cluster.update(&resource).await;
        }
        if resource.is_available() && resource.priority.get() >= 0 {
            // What was committed while it moved comes before what waits here.
            self.join_in(&account, &resource).await;
        }
        bound
    }
}

/// The nodes that may have a session.
async fn candidates(cluster: &Cluster, request: &ResumeRequest) -> Vec<Epoch> {
    let own = cluster.epoch();
    let rows = cluster
        .directory
        .lookup(std::slice::from_ref(&request.account))
        .await;
    // Without the directory there is still the one that made it; it may be long gone, so it comes last.
    let rows = rows.unwrap_or_default();
    let known = rows.iter().flatten().map(|row| row.epoch);
    let mut candidates: Vec<Epoch> = Vec::new();
    for epoch in known.chain(maker(&request.previd)) {
        if !candidates.contains(&epoch) {
            candidates.push(epoch);
        }
    }
    // Also those that the look-up has just found.
    let living = cluster.directory.nodes();
    candidates.retain(|epoch| *epoch != own && living.iter().any(|node| node.epoch == *epoch));
    candidates
}

fn not_resumed(refused: &ResumeRefused, h: u32) -> NotResumed {
    if refused.unknown {
        NotResumed::Failed(Condition::ItemNotFound, refused.handled)
    } else if refused.handled.is_none() {
        NotResumed::Failed(Condition::ResourceConstraint, None)
    } else {
        sm::TooHigh {
            h,
            send_count: refused.sent,
        }
        .into()
    }
}

// The node that has the session.

impl Shard {
    /// Another node asks for a session.
    pub(crate) fn offer(
        self: &Rc<Self>,
        from: Epoch,
        request: u64,
        account: &BareJid,
        id: &str,
        h: u32,
    ) {
        let resource = self.resumable(account, id);
        let node = Arc::clone(self.node());
        actix_rt::spawn(async move {
            let answer = match resource {
                Some(resource) => {
                    let offered = resource.session.send(Offer { h }).await;
                    offered
                        .unwrap_or(Err(ResumeRefused::UNKNOWN))
                        .map(|()| ResumeReady {
                            session: resource.jid.clone(),
                        })
                }
                None => Err(ResumeRefused::UNKNOWN),
            };
            reply(&node, from, Frame::ResumeAnswer { request, answer });
        });
    }

    /// Another node takes a session.
    pub(crate) fn give(self: &Rc<Self>, from: Epoch, request: u64, account: &BareJid, id: &str) {
        let resource = self.resumable(account, id);
        let shard = Rc::clone(self);
        actix_rt::spawn(async move {
            let state = match resource {
                Some(resource) => resource.session.send(Give).await.ok().flatten(),
                None => None,
            };
            // The new node reads the log: it must not find what the client has.
            shard.write_confirmations().await;
            if let Some(state) = &state {
                shard.hold_for_move(state.jid.clone());
            }
            let frame = Frame::ResumeState { request, state };
            reply(shard.node(), from, frame);
        });
    }
}

impl Shard {
    /// What comes for a session that was taken waits until its new node has registered it.
    fn hold_for_move(self: &Rc<Self>, jid: FullJid) {
        let (registered, wait) = oneshot::channel();
        self.moved_out.borrow_mut().insert(jid.clone(), registered);
        let account = jid.to_bare();
        let shard = Rc::clone(self);
        let job = Box::pin(async move {
            if tokio::time::timeout(REGISTER_PATIENCE, wait).await.is_ok() {
                return;
            }
            shard.moved_out.borrow_mut().remove(&jid);
            shard.never_registered(jid).await;
        });
        self.in_turn(account, job);
    }

    /// A session was taken, and its new node has not registered it: it died with it.
    async fn never_registered(self: &Rc<Self>, jid: FullJid) {
        let Some(cluster) = &self.node().cluster else {
            return;
        };
        let account = jid.to_bare();
        let rows = cluster
            .directory
            .lookup(std::slice::from_ref(&account))
            .await;
        let own = cluster.epoch();
        let is_left = |row: &SessionRow| row.jid == jid && row.epoch == own;
        let rows = rows.unwrap_or_default();
        let Some(row) = rows.iter().flatten().find(|row| is_left(row)) else {
            return;
        };
        let (sequence, was_available) = (row.sequence, row.available);
        cluster.unregister(&jid, sequence);
        if was_available {
            let entry = self.account(&account);
            self.tell_of_displaced(&entry, jid).await;
        }
    }
}

impl NodeShared {
    /// A session that runs on another node was displaced: what its client has confirmed is to be written
    /// before its log is read here.
    pub(crate) async fn wait_for_confirmations(&self, old: &SessionRow) {
        let Some(cluster) = self.cluster.as_ref().filter(|c| c.epoch() != old.epoch) else {
            return;
        };
        let account = old.jid.to_bare();
        // There is no session of this name to take; the answer comes when all is written.
        let written = ask(
            cluster,
            old.epoch,
            CONFIRM_PATIENCE,
            Question::Take,
            |number| Frame::ResumeTake {
                request: number,
                account,
                id: String::new(),
            },
        );
        if written.await.is_none() {
            tracing::debug!(jid = %old.jid, "a displaced session's node did not answer");
        }
    }
}

fn reply(node: &Arc<NodeShared>, to: Epoch, frame: Frame) {
    if let Some(cluster) = &node.cluster
        && cluster.send(to, frame).is_err()
    {
        tracing::warn!(%to, "a session could not be handed over");
    }
}
