//! One actor per bound resource: a full JID on this node.
//!
//! Applies the rules of RFC 6120 §8 and RFC 6121 to what the client sends, one stanza at a time and
//! in order: a stanza that needs storage holds back those behind it. What is delivered *to* the
//! client does not pass through here; the router pushes it into the resource's
//! [`Outbox`](crate::outbox::Outbox). Started by [`Shard::bind`]; stops when its connection ends,
//! when another session takes its resource, or when the account goes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::*;
use rookery_features::presence::DirectedPresence;
use rookery_proto::error::Condition;
use rookery_proto::jid::Jid;
use rookery_proto::stanza::{Kind, PresenceType, Rejected, RejectedStanza, Stanza};
use rookery_proto::stream::{StreamCondition, StreamError};
use tokio::sync::oneshot;

use crate::account::{Account, Resource};
use crate::connection::{Close, Connection};
use crate::outbox::Outgoing;
use crate::presence_list::{OutboundSubscription, PresenceList, Unavailable, UserPresence};
use crate::shard::{BindRequest, Parcel, Shard, Work};
use crate::{dispatch, metrics, reply};

/// Messages that a session's mailbox holds: its connection has one batch under way at a time, the
/// rest are rare.
const MAILBOX: usize = 8;

/// What the stream reader made of one child of the stream.
#[derive(Debug)]
pub enum Inbound {
    /// A stanza.
    Stanza(Stanza),
    /// Something to be answered with an error.
    Rejected(Rejected),
}

/// A batch of stanzas from the client. Answered when all of them are done; until then the connection
/// reads no further, which is the back-pressure on the client.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Incoming(pub Vec<Inbound>);

/// The connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Detached {
    /// What was taken from the outbox and not written completely, oldest first.
    pub unsent: Vec<Outgoing>,
    /// Whether the client closed the stream itself.
    pub clean: bool,
}

/// The session has to end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct End {
    /// What the client is told; `None` just closes the stream.
    pub error: Option<StreamError>,
}

/// A resource's session.
pub struct UserSession {
    session: Rc<Session>,
    connection: Addr<Connection>,
    ended: bool,
}

/// What the handlers of a session share with the futures that they start.
pub(crate) struct Session {
    pub(crate) shard: Rc<Shard>,
    pub(crate) account: Rc<Account>,
    pub(crate) resource: Rc<Resource>,
    pub(crate) jid: Jid,
    directed: RefCell<DirectedPresence>,
}

impl UserSession {
    pub(crate) fn new(
        shard: &Rc<Shard>,
        account: &Rc<Account>,
        resource: Rc<Resource>,
        request: &BindRequest,
    ) -> Self {
        let jid = Jid::from(resource.jid.clone());
        let session = Session {
            shard: Rc::clone(shard),
            account: Rc::clone(account),
            resource,
            jid,
            directed: RefCell::default(),
        };
        Self {
            session: Rc::new(session),
            connection: request.connection.clone(),
            ended: false,
        }
    }
}

impl Actor for UserSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Incoming> for UserSession {
    type Result = Answer;

    fn handle(&mut self, Incoming(batch): Incoming, _: &mut Self::Context) -> Answer {
        if self.ended {
            return Answer::Now;
        }
        let accepted = Instant::now();
        let mut batch = VecDeque::from(batch);
        while let Some(inbound) = batch.pop_front() {
            match self.session.take(inbound, accepted) {
                Taken::Done => {}
                Taken::Fatal(error) => {
                    self.close(Some(error));
                    break;
                }
                Taken::Waiting(first) => {
                    let session = Rc::clone(&self.session);
                    return Answer::Later(Box::pin(session.take_rest(first, batch, accepted)));
                }
            }
        }
        self.session.shard.flush();
        if self.session.shard.is_behind() {
            let shard = Rc::clone(&self.session.shard);
            return Answer::Later(Box::pin(async move {
                shard.room().await;
                None
            }));
        }
        Answer::Now
    }
}

impl Handler<Detached> for UserSession {
    type Result = ();

    fn handle(&mut self, Detached { unsent, .. }: Detached, ctx: &mut Self::Context) {
        self.end(unsent);
        ctx.stop();
    }
}

impl Handler<End> for UserSession {
    type Result = ();

    fn handle(&mut self, End { error }: End, _: &mut Self::Context) {
        // What is queued is routed again at once: whoever took the resource gets it. The actor stops
        // when its connection says that it is gone.
        self.end(Vec::new());
        self.close(error);
    }
}

impl UserSession {
    fn close(&self, error: Option<StreamError>) {
        // Refused only by a connection that is gone, which tells us by `Detached`.
        let _ = self.connection.try_send(Close(error));
    }

    /// Takes the resource out of the tables, tells its contacts and routes again what it never got.
    fn end(&mut self, unsent: Vec<Outgoing>) {
        let session = &self.session;
        if !self.ended {
            self.ended = true;
            session.shard.unbind(&session.resource);
            session.say_goodbye();
        }
        let queued = session.resource.outbox.close();
        for outgoing in unsent.into_iter().chain(queued) {
            session.return_unsent(outgoing);
        }
        session.shard.flush();
    }
}

/// What became of one stanza.
pub(crate) enum Taken {
    Done,
    /// It needs something that takes time; those behind it wait.
    Waiting(Pin<Box<dyn Future<Output = Option<StreamError>>>>),
    Fatal(StreamError),
}

impl Session {
    /// Goes on with a batch after a stanza that had to wait.
    async fn take_rest(
        self: Rc<Self>,
        first: Pin<Box<dyn Future<Output = Option<StreamError>>>>,
        mut batch: VecDeque<Inbound>,
        accepted: Instant,
    ) -> Option<StreamError> {
        let mut fatal = first.await;
        while let (None, Some(inbound)) = (&fatal, batch.pop_front()) {
            fatal = match self.take(inbound, accepted) {
                Taken::Done => None,
                Taken::Waiting(job) => job.await,
                Taken::Fatal(error) => Some(error),
            };
        }
        self.shard.flush();
        self.shard.room().await;
        fatal
    }

    fn take(self: &Rc<Self>, inbound: Inbound, accepted: Instant) -> Taken {
        match inbound {
            Inbound::Rejected(Rejected::Stream(error)) => Taken::Fatal(error),
            Inbound::Rejected(Rejected::Stanza(rejected)) => {
                self.answer_rejected(&rejected);
                Taken::Done
            }
            Inbound::Stanza(mut stanza) => {
                metrics::stanza_in(stanza.kind);
                if !self.stamp(&mut stanza) {
                    return Taken::Fatal(StreamError::from(StreamCondition::InvalidFrom));
                }
                self.take_stanza(stanza, accepted)
            }
        }
    }

    /// A stanza that breaks the rules of its kind (RFC 6120 §8.1, §8.2.3).
    fn answer_rejected(&self, rejected: &RejectedStanza) {
        if let Some(answer) = rejected.reply() {
            metrics::stanza_in(answer.kind);
            metrics::outcome(answer.kind, metrics::Outcome::Bounced);
            self.answer(answer);
        }
    }

    /// RFC 6120 §8.1.2.1. The user's own address with another resource is overwritten: a widely used
    /// web client sends that after a page reload.
    fn stamp(&self, stanza: &mut Stanza) -> bool {
        if stanza
            .from
            .as_ref()
            .is_some_and(|from| from.bare_str() != self.jid.bare_str())
        {
            return false;
        }
        stanza.from = Some(self.jid.clone());
        true
    }

    fn take_stanza(self: &Rc<Self>, stanza: Stanza, accepted: Instant) -> Taken {
        match stanza.kind {
            Kind::Message(_) => self.take_message(stanza, accepted),
            Kind::Presence(kind) => self.take_presence(kind, stanza, accepted),
            Kind::Iq(_) => dispatch::iq(self, stanza, accepted),
        }
    }

    /// RFC 6120 §10.3.1: without `to` it is for the sender's own account.
    fn take_message(self: &Rc<Self>, mut stanza: Stanza, accepted: Instant) -> Taken {
        if stanza.to.is_none() {
            stanza.to = Some(Jid::from(self.account.jid.clone()));
        }
        self.route(stanza, accepted)
    }

    fn take_presence(
        self: &Rc<Self>,
        kind: PresenceType,
        mut stanza: Stanza,
        accepted: Instant,
    ) -> Taken {
        let list = self.shard.presence_list(&self.account);
        let resource = self.resource.jid.resource().to_owned();
        match (kind, &stanza.to) {
            (PresenceType::Available, None) => {
                let stanza = Arc::new(stanza);
                self.ask(list.send(UserPresence {
                    resource,
                    stanza,
                    accepted,
                }))
            }
            (PresenceType::Unavailable, None) => {
                let directed = self.directed.take().into_recipients();
                let stanza = Arc::new(stanza);
                let was_available = self.resource.is_available();
                self.ask(list.send(Unavailable {
                    resource,
                    stanza,
                    was_available,
                    directed,
                }))
            }
            (PresenceType::Available, Some(to)) => {
                if !self.directed.borrow_mut().sent_available(to) {
                    self.refuse(&stanza, &Condition::PolicyViolation.into());
                    return Taken::Done;
                }
                self.route(stanza, accepted)
            }
            (PresenceType::Unavailable, Some(to)) => {
                self.directed.borrow_mut().sent_unavailable(to);
                self.route(stanza, accepted)
            }
            (
                PresenceType::Subscribe
                | PresenceType::Subscribed
                | PresenceType::Unsubscribe
                | PresenceType::Unsubscribed,
                Some(_),
            ) => self.ask(list.send(OutboundSubscription { stanza })),
            (PresenceType::Probe, Some(to)) => {
                // A client has no business probing (RFC 6121 §4.3); its server asks for it.
                stanza.to = Some(Jid::from(to.to_bare()));
                self.route(stanza, accepted)
            }
            (PresenceType::Error, Some(_)) => self.route(stanza, accepted),
            (_, None) => Taken::Done,
        }
    }

    /// Asks the account's presence list; what it answers goes to the client.
    pub(crate) fn ask<M>(self: &Rc<Self>, request: Request<PresenceList, M>) -> Taken
    where
        M: PresenceRequest,
        PresenceList: Handler<M>,
    {
        let session = Rc::clone(self);
        Taken::Waiting(Box::pin(async move {
            for answer in session.answered(request).await.unwrap_or_default() {
                session.answer(answer);
            }
            None
        }))
    }

    /// The answer of an actor on this arbiter, or `None` if it failed or took too long.
    pub(crate) async fn answered<A, M>(&self, request: Request<A, M>) -> Option<M::Result>
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Unpin + Send + 'static,
        M::Result: Send,
    {
        match tokio::time::timeout(self.shard.node().settings.sessions.actor_timeout, request).await
        {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::error!(jid = %self.jid, %error, "an actor did not answer");
                None
            }
            Err(_) => {
                tracing::error!(jid = %self.jid, "an actor took too long to answer");
                None
            }
        }
    }

    /// Sends a stanza on, unless the user blocks the recipient (XEP-0191 §3.5).
    pub(crate) fn route(self: &Rc<Self>, stanza: Stanza, accepted: Instant) -> Taken {
        let blocked = match (&*self.account.block_list.borrow(), &stanza.to) {
            (Some(list), Some(to)) => list.blocks(to) && to.bare_str() != self.jid.bare_str(),
            (None, _) => {
                let session = Rc::clone(self);
                return Taken::Waiting(Box::pin(async move {
                    match session.shard.load_block_list(&session.account).await {
                        Ok(()) => {
                            session.route(stanza, accepted);
                        }
                        Err(error) => session.refuse(&stanza, &reply::storage_error(&error)),
                    }
                    None
                }));
            }
            (Some(_), None) => false,
        };
        if blocked {
            self.refuse(&stanza, &reply::blocked_by_sender());
        } else {
            let stanza = Arc::new(stanza);
            self.shard.accept(Work::Route(Parcel {
                stanza,
                hops: 0,
                accepted,
            }));
        }
        Taken::Done
    }

    /// Answers a stanza with an error, if it is one that gets answers.
    pub(crate) fn refuse(&self, stanza: &Stanza, error: &rookery_proto::error::StanzaError) {
        metrics::outcome(stanza.kind, metrics::Outcome::Bounced);
        if let Some(answer) = stanza.reply_error(error) {
            self.answer(answer);
        }
    }

    /// Sends the client a stanza of the server's own.
    pub(crate) fn answer(&self, mut stanza: Stanza) {
        stanza.to = Some(self.jid.clone());
        self.shard
            .push(&self.resource, Outgoing::new(Arc::new(stanza)));
    }

    /// Ends what others know of the session.
    fn say_goodbye(self: &Rc<Self>) {
        let session = Rc::clone(self);
        if self.shard.node().cluster.is_none() {
            // Asked now: the next session of this full JID comes behind it.
            let left = self.leave(true);
            actix_rt::spawn(left);
            return metrics::SESSIONS.dec();
        }
        actix_rt::spawn(async move {
            if let Some(cluster) = &session.shard.node().cluster {
                let sequence = session.resource.sequence.get();
                let tell_contacts = cluster.release(&session.resource.jid, sequence).await;
                session.leave(tell_contacts).await;
            }
            // A node that stops waits for this.
            metrics::SESSIONS.dec();
        });
    }

    /// Tells those who saw the resource online that it is not any more (RFC 6121 §4.5, §4.6.3):
    /// `tell_contacts`, and whoever got directed presence. Asks at once; the future is the answer.
    fn leave(&self, tell_contacts: bool) -> impl Future<Output = ()> + use<> {
        let directed = self.directed.take().into_recipients();
        let was_available = self.resource.is_available() && tell_contacts;
        let stanza = Stanza::presence(PresenceType::Unavailable).with_from(self.jid.clone());
        self.resource.presence.take();
        let request = (was_available || !directed.is_empty()).then(|| {
            self.shard.presence_list(&self.account).send(Unavailable {
                resource: self.resource.jid.resource().to_owned(),
                stanza: Arc::new(stanza),
                was_available,
                directed,
            })
        });
        let timeout = self.shard.node().settings.sessions.actor_timeout;
        let jid = self.jid.clone();
        async move {
            if let Some(request) = request
                && !matches!(tokio::time::timeout(timeout, request).await, Ok(Ok(_)))
            {
                tracing::error!(%jid, "contacts were not told that a session ended");
            }
        }
    }

    /// A stanza that the client never got: messages look for another resource or for the log,
    /// requests are answered with an error (RFC 6121 §8.5.3.2).
    fn return_unsent(&self, outgoing: Outgoing) {
        if outgoing.entry.is_some() {
            // Still in the log, and undelivered there.
            return;
        }
        if outgoing.stanza.from.is_none() {
            return;
        }
        let mut stanza = outgoing.stanza;
        if let Some(to) = outgoing.to {
            Arc::make_mut(&mut stanza).to = Some(to);
        }
        match stanza.kind {
            Kind::Message(_) | Kind::Iq(_) => {
                self.shard.accept(Work::Route(Parcel {
                    stanza,
                    hops: 1,
                    accepted: outgoing.accepted,
                }));
            }
            Kind::Presence(_) => metrics::outcome(stanza.kind, metrics::Outcome::Dropped),
        }
    }
}

/// The requests to a presence list whose answer is what the client is to be told.
pub(crate) trait PresenceRequest:
    Message<Result = Vec<Stanza>> + Unpin + Send + 'static
{
}

/// The answer to a batch: at once where nothing had to wait.
pub enum Answer {
    /// All is done.
    Now,
    /// Done when the future is; the session handles nothing else meanwhile, which keeps the order of
    /// the client's stanzas. Yields what the stream ends with, if it has to.
    Later(Pin<Box<dyn Future<Output = Option<StreamError>>>>),
}

impl MessageResponse<UserSession, Incoming> for Answer {
    fn handle(self, ctx: &mut Context<UserSession>, tx: Option<oneshot::Sender<()>>) {
        let done = move || {
            if let Some(tx) = tx {
                // The connection may be gone already.
                let _ = tx.send(());
            }
        };
        match self {
            Self::Now => done(),
            Self::Later(job) => {
                ctx.wait(actix::fut::wrap_future::<_, UserSession>(job).map(
                    |fatal, session, _| {
                        if fatal.is_some() {
                            session.close(fatal);
                        }
                        done();
                    },
                ));
            }
        }
    }
}
