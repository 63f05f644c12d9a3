//! One actor per bound resource: a full JID on this node.
//!
//! Applies the rules of RFC 6120 §8 and RFC 6121 to what the client sends, one stanza at a time and
//! in order: a stanza that needs storage holds back those behind it (`stanzas.rs`). What is delivered
//! *to* the client does not pass through here; the router pushes it into the resource's
//! [`Outbox`](crate::outbox::Outbox). Started by [`Shard::bind`]; stops when its connection ends,
//! when another session takes its resource, or when the account goes. With stream management
//! (XEP-0198, `managed.rs`) it outlives its connection for the resumption time.

mod managed;
mod stanzas;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::dev::MessageResponse;
use actix::prelude::*;
use rookery_features::presence::DirectedPresence;
use rookery_features::xep0198_stream_management::Nonza;
use rookery_proto::error::Condition;
use rookery_proto::jid::Jid;
use rookery_proto::stanza::{Kind, PresenceType, Rejected, Stanza};
use rookery_proto::stream::{StreamCondition, StreamError};
use tokio::sync::oneshot;

pub(crate) use self::managed::{Attach, Give, Managed, Offer};
pub(crate) use self::stanzas::Taken;
use crate::account::{Account, Resource};
use crate::connection::{Close, Connection, Cut};
use crate::metrics::{self, Outcome};
use crate::outbox::Outgoing;
use crate::presence_list::Unavailable;
use crate::shard::{Broadcast, Parcel, Shard, Work};
use crate::trace::Stage;

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
    /// An element of stream management (XEP-0198).
    Nonza(Nonza),
    /// An element of stream management that fails with this condition.
    BadNonza(Condition),
}

/// A batch of stanzas from the client. Answered when all of them are done or on their way; until then
/// the connection reads no further.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Incoming {
    /// Which of the session's connections it comes from.
    pub generation: u32,
    /// In their order.
    pub batch: Vec<Inbound>,
}

/// The connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Detached {
    /// Which of the session's connections it was.
    pub generation: u32,
    /// What was taken from the outbox and not written completely, oldest first.
    pub unsent: Vec<Outgoing>,
    /// Whether the stream was closed in form, by whichever side.
    pub clean: bool,
}

/// The session has to end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct End {
    /// What the client is told; `None` just closes the stream.
    pub error: Option<StreamError>,
}

/// The node wants the client to go on elsewhere: its connection breaks off, and the session waits to
/// be resumed. A session that cannot be ends with `<system-shutdown/>`.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

/// A resource's session.
pub struct UserSession {
    session: Rc<Session>,
    /// `None` while it waits to be resumed.
    connection: Option<Addr<Connection>>,
    /// Counts the connections that it has had.
    generation: u32,
    ended: bool,
    /// Ends the session when nobody has resumed it.
    expiry: Option<SpawnHandle>,
}

/// What the handlers of a session share with the futures that they start.
pub(crate) struct Session {
    pub(crate) shard: Rc<Shard>,
    pub(crate) account: Rc<Account>,
    pub(crate) resource: Rc<Resource>,
    pub(crate) jid: Jid,
    pub(crate) directed: RefCell<DirectedPresence>,
    /// Stream management, once the client has enabled it.
    pub(crate) managed: RefCell<Option<Managed>>,
}

impl UserSession {
    pub(crate) fn new(
        shard: &Rc<Shard>,
        account: &Rc<Account>,
        resource: Rc<Resource>,
        connection: Option<Addr<Connection>>,
    ) -> Self {
        let jid = Jid::from(resource.jid.clone());
        let session = Session {
            shard: Rc::clone(shard),
            account: Rc::clone(account),
            resource,
            jid,
            directed: RefCell::default(),
            managed: RefCell::default(),
        };
        Self {
            session: Rc::new(session),
            connection,
            generation: 0,
            ended: false,
            expiry: None,
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

    fn handle(&mut self, incoming: Incoming, _: &mut Self::Context) -> Answer {
        let Incoming { generation, batch } = incoming;
        // What a connection brings after another one has taken over was not counted: the client sends
        // it again.
        if self.ended || generation != self.generation {
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
        Answer::Now
    }
}

impl Handler<Detached> for UserSession {
    type Result = ();

    fn handle(&mut self, detached: Detached, ctx: &mut Self::Context) {
        let Detached {
            generation,
            mut unsent,
            clean,
        } = detached;
        if generation != self.generation {
            return;
        }
        self.connection = None;
        if self.session.resource.outbox.is_managed() {
            // The outbox has them as well: they were not acknowledged.
            unsent = Vec::new();
            if !clean && !self.ended && self.wait_for_resumption(ctx) {
                return;
            }
        }
        self.end(unsent);
        ctx.stop();
    }
}

impl Handler<End> for UserSession {
    type Result = ();

    fn handle(&mut self, End { error }: End, ctx: &mut Self::Context) {
        // What is queued is routed again at once: whoever took the resource gets it. The actor stops
        // when its connection says that it is gone.
        self.end(Vec::new());
        if self.connection.is_none() {
            return ctx.stop();
        }
        self.close(error);
    }
}

impl Handler<Leave> for UserSession {
    type Result = ();

    fn handle(&mut self, _: Leave, _: &mut Self::Context) {
        if self.ended {
            return;
        }
        match (&self.connection, self.session.may_be_resumed()) {
            // Refused only by a connection that is gone, which tells us by `Detached`.
            (Some(connection), true) => drop(connection.try_send(Cut)),
            (Some(_), false) => {
                self.end(Vec::new());
                self.close(Some(StreamCondition::SystemShutdown.into()));
            }
            // It waits already.
            (None, _) => {}
        }
    }
}

impl UserSession {
    fn close(&self, error: Option<StreamError>) {
        if let Some(connection) = &self.connection {
            // Refused only by a connection that is gone, which tells us by `Detached`.
            let _ = connection.try_send(Close(error));
        }
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
        session.return_unsent(unsent.into_iter().chain(queued));
        session.shard.flush();
    }
}

impl Session {
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
                // Whoever binds the resource on another node waits for this: it reads the log then.
                session.shard.write_confirmations().await;
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
                presence: Broadcast::new(Arc::new(stanza)),
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

    /// Stanzas that the client never got, or did not acknowledge: messages look for another resource
    /// or wait in the log, requests are answered with an error (RFC 6121 §8.5.3.2).
    fn return_unsent(&self, unsent: impl Iterator<Item = Outgoing>) {
        // One that was reading the log may have left the rest of it.
        let mut is_undelivered_again = self.resource.reads_log.get();
        for outgoing in unsent {
            let detail = match outgoing.entry {
                Some(_) => "undelivered in the log again, unless another client has it",
                None if outgoing.counts => "looks for another client, or is bounced",
                None => "a copy, or the server's own: it ends with the session",
            };
            self.resource
                .outbox
                .trace(Stage::GivenBack, &outgoing, detail);
            if let Some(entry) = outgoing.entry {
                is_undelivered_again |= self.account.log.given_up(entry.id);
            } else {
                self.route_again(outgoing);
            }
        }
        if is_undelivered_again {
            self.shard.deliver_from_log(&self.account.jid);
        }
    }

    fn route_again(&self, outgoing: Outgoing) {
        // Copies, and what the server made, have served their purpose with this session.
        if !outgoing.counts {
            return;
        }
        let mut stanza = outgoing.stanza;
        if let Some(to) = outgoing.to {
            Arc::make_mut(&mut stanza).to = Some(to);
        }
        let mut parcel = Parcel::counted(stanza, outgoing.accepted);
        match parcel.stanza.kind {
            Kind::Message(_) | Kind::Iq(_) => {
                parcel.hops = 1;
                self.shard.accept(Work::Route(parcel));
            }
            Kind::Presence(_) => parcel.end(Outcome::Dropped),
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
