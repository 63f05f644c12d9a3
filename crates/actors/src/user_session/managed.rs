//! Stream management of a session: XEP-0198.
//!
//! Acknowledgements tell the client what is delivered, stored or bounced for good
//! ([`crate::receipts`]); what the client acknowledges leaves the outbox. A session whose connection
//! broke waits to be resumed, here or on another node ([`crate::resumption`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rookery_bus::{MovedSession, ResumeRefused};
use rookery_features::xep0198_stream_management::{self as sm, Nonza};
use rookery_proto::error::Condition;
use rookery_proto::stream::{StreamCondition, StreamError};

use super::{Session, Taken, UserSession};
use crate::connection::{Close, Connection};
use crate::metrics;
use crate::receipts::Receipts;
use crate::resumption::NotResumed;

/// Random bytes in the identifier of a session that can be resumed.
const ID_BYTES: usize = 18;

/// How long a client that asks for an acknowledgement waits until all it has sent is dealt with.
/// Then it gets what there is, and the rest later.
const ACK_PATIENCE: Duration = Duration::from_secs(5);

/// How long a client that resumes waits until what it had sent before is dealt with. Storage gives up
/// earlier.
const RESUME_PATIENCE: Duration = Duration::from_secs(20);

/// The same for a client that has come to another node, which waits as well.
const OFFER_PATIENCE: Duration = Duration::from_secs(5);

/// What stream management needs to know of a session.
#[derive(Debug)]
pub(crate) struct Managed {
    /// The client's stanzas.
    pub(crate) receipts: Arc<Receipts>,
    /// How long the session waits to be resumed; `None` if it cannot be.
    pub(crate) max: Option<Duration>,
}

/// A connection that has logged in goes on with the session.
#[derive(Message)]
#[rtype(result = "Result<Attached, NotResumed>")]
pub(crate) struct Attach {
    /// The new connection.
    pub(crate) connection: Addr<Connection>,
    /// How many stanzas its client has got.
    pub(crate) h: u32,
    /// The session's identifier, as the client gave it.
    pub(crate) previd: String,
}

/// The session belongs to the new connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached {
    /// Which of its connections the new one is.
    pub(crate) generation: u32,
}

impl Session {
    /// Whether the session outlives its connection.
    pub(crate) fn may_be_resumed(&self) -> bool {
        let managed = self.managed.borrow();
        managed
            .as_ref()
            .is_some_and(|managed| managed.max.is_some())
    }

    /// The client's stanzas, if they are counted.
    pub(super) fn receipts(&self) -> Option<Arc<Receipts>> {
        let managed = self.managed.borrow();
        managed
            .as_ref()
            .map(|managed| Arc::clone(&managed.receipts))
    }

    /// An element of stream management from the client.
    pub(super) fn take_nonza(self: &Rc<Self>, nonza: &Nonza) -> Taken {
        match *nonza {
            Nonza::Enable { resume, max } if self.managed.borrow().is_none() => {
                self.enable(resume, max);
            }
            // §3: once; a client that does it twice may have lost count.
            Nonza::Enable { .. } => {
                let failed = sm::failed(Condition::UnexpectedRequest, None);
                self.resource.outbox.control(failed);
                return Taken::Fatal(StreamError::with_text(
                    StreamCondition::PolicyViolation,
                    "stream management is enabled already",
                ));
            }
            // §5: not when a resource is bound.
            Nonza::Resume { .. } => {
                let failed = sm::failed(Condition::UnexpectedRequest, None);
                self.resource.outbox.control(failed);
            }
            Nonza::Ack { h } => {
                if let Err(too_high) = self.resource.outbox.acknowledge(h) {
                    return Taken::Fatal(too_high.into());
                }
            }
            Nonza::Request => self.acknowledge(),
        }
        Taken::Done
    }

    /// §3
    fn enable(&self, resume: bool, wanted: Option<u32>) {
        let settings = &self.shard.node().settings.sessions;
        let longest = settings.resume_timeout;
        let max = wanted.map_or(longest, |s| longest.min(Duration::from_secs(s.into())));
        let max = (resume && !max.is_zero()).then_some(max);
        let id = max.map(|_| self.new_id());
        let resumption = id.as_deref().zip(max).map(|(id, max)| sm::Resumption {
            id,
            max_seconds: seconds(max),
            location: settings.resume_location.as_deref(),
        });
        let enabled = sm::enabled(resumption);
        *self.resource.resume_id.borrow_mut() = id.map(Into::into);
        *self.managed.borrow_mut() = Some(Managed {
            receipts: Arc::default(),
            max,
        });
        self.resource.outbox.manage(enabled);
    }

    /// An identifier that cannot be guessed; in a cluster it names the node.
    fn new_id(&self) -> String {
        let mut random = [0; ID_BYTES];
        let node = self.shard.node();
        node.random(&mut random);
        let random = URL_SAFE_NO_PAD.encode(random);
        match &node.cluster {
            Some(cluster) => format!("{:x}.{random}", cluster.epoch().0),
            None => random,
        }
    }

    /// Tells the client what has been dealt with, when that is all it has sent so far (§4).
    fn acknowledge(self: &Rc<Self>) {
        let Some(receipts) = self.receipts() else {
            return;
        };
        if receipts.is_settled() {
            return self.resource.outbox.control(sm::ack(receipts.h()));
        }
        let session = Rc::clone(self);
        actix_rt::spawn(async move {
            let mut settled = std::pin::pin!(receipts.settled());
            if tokio::time::timeout(ACK_PATIENCE, settled.as_mut())
                .await
                .is_err()
            {
                session.resource.outbox.control(sm::ack(receipts.h()));
                settled.await;
            }
            session.resource.outbox.control(sm::ack(receipts.h()));
        });
    }
}

impl UserSession {
    /// Takes over what a session on another node was.
    pub(crate) fn go_on_with(&self, state: &MovedSession) {
        let max = Duration::from_secs(state.max_seconds.into());
        *self.session.managed.borrow_mut() = Some(Managed {
            receipts: Arc::new(Receipts::resumed_at(state.handled)),
            max: (!max.is_zero()).then_some(max),
        });
        let mut directed = self.session.directed.borrow_mut();
        for to in &state.directed {
            directed.sent_available(to);
        }
    }

    /// The connection broke. Returns whether the session goes on without one.
    pub(super) fn wait_for_resumption(&mut self, ctx: &mut Context<Self>) -> bool {
        let managed = self.session.managed.borrow();
        let Some(max) = managed.as_ref().and_then(|managed| managed.max) else {
            return false;
        };
        metrics::SESSIONS_WAITING.inc();
        self.expiry = Some(ctx.run_later(max, |session, ctx| {
            session.expiry = None;
            metrics::SESSIONS_WAITING.dec();
            metrics::RESUMPTIONS.with_label_values(&["expired"]).inc();
            session.end(Vec::new());
            ctx.stop();
        }));
        true
    }

    /// The session does not wait any more.
    pub(super) fn stop_waiting(&mut self, ctx: &mut Context<Self>) {
        if let Some(expiry) = self.expiry.take() {
            metrics::SESSIONS_WAITING.dec();
            ctx.cancel_future(expiry);
        }
    }

    /// A client has come back for the session: it leaves the connection that it has, and what was sent over
    /// that is to be dealt with first; what is not would be sent again by the client, and doubled.
    ///
    /// Returns which of its connections the next one is, and what says how much the client has sent, or
    /// nothing if that takes longer than `patience`. `None` if this cannot be resumed.
    fn settle(
        &mut self,
        patience: Duration,
        ctx: &mut Context<Self>,
    ) -> Option<(u32, impl Future<Output = Option<u32>> + use<>)> {
        let receipts = self.session.receipts().filter(|_| !self.ended)?;
        self.stop_waiting(ctx);
        self.let_go();
        let settled = async move {
            let settled = tokio::time::timeout(patience, receipts.settled()).await;
            settled.ok().map(|()| receipts.h())
        };
        Some((self.generation, settled))
    }

    /// Takes the session from its connection, if it has one: nothing more is written to it.
    pub(super) fn let_go(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.session.resource.outbox.belongs_to(self.generation);
        // §5: "the server SHOULD close" the former stream.
        if let Some(former) = self.connection.take() {
            // Refused only if it closes already.
            let _ = former.try_send(Close(Some(StreamCondition::Conflict.into())));
        }
    }
}

impl Handler<Attach> for UserSession {
    type Result = ResponseActFuture<Self, Result<Attached, NotResumed>>;

    fn handle(&mut self, attach: Attach, ctx: &mut Self::Context) -> Self::Result {
        let Some((generation, settled)) = self.settle(RESUME_PATIENCE, ctx) else {
            return Box::pin(actix::fut::ready(Err(NotResumed::unknown())));
        };
        Box::pin(settled.into_actor(self).map(move |handled, actor, ctx| {
            if actor.ended {
                return Err(NotResumed::unknown());
            }
            if actor.generation != generation {
                return Err(NotResumed::Failed(Condition::Conflict, None));
            }
            let outbox = &actor.session.resource.outbox;
            let result = match handled {
                None => Err(NotResumed::Failed(Condition::ResourceConstraint, None)),
                Some(handled) => match outbox.acknowledge(attach.h) {
                    Ok(()) => Ok(handled),
                    Err(too_high) => Err(NotResumed::Fatal(too_high.into())),
                },
            };
            match result {
                Ok(handled) => {
                    outbox.resume(sm::resumed(&attach.previd, handled));
                    actor.connection = Some(attach.connection);
                    Ok(Attached { generation })
                }
                Err(refused) => {
                    actor.wait_for_resumption(ctx);
                    Err(refused)
                }
            }
        }))
    }
}

/// Whole seconds, as the protocol has them.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl NotResumed {
    /// There is no such session (any more).
    pub(crate) fn unknown() -> Self {
        Self::Failed(Condition::ItemNotFound, None)
    }
}

impl From<sm::TooHigh> for NotResumed {
    fn from(error: sm::TooHigh) -> Self {
        Self::Fatal(StreamError::from(error))
    }
}

/// Another node wants the session: lets go of the connection and answers when all that the client has
/// sent is dealt with.
#[derive(Message)]
#[rtype(result = "Result<(), ResumeRefused>")]
pub(crate) struct Offer {
    /// How many stanzas the client has got.
    pub(crate) h: u32,
}

/// Another node takes the session, which ends here without a word; `None` if it is not to be had.
#[derive(Message)]
#[rtype(result = "Option<Box<MovedSession>>")]
pub(crate) struct Give;

impl Handler<Offer> for UserSession {
    type Result = ResponseActFuture<Self, Result<(), ResumeRefused>>;

    fn handle(&mut self, Offer { h }: Offer, ctx: &mut Self::Context) -> Self::Result {
        let Some((generation, settled)) = self.settle(OFFER_PATIENCE, ctx) else {
            return Box::pin(actix::fut::ready(Err(ResumeRefused::UNKNOWN)));
        };
        Box::pin(settled.into_actor(self).map(move |handled, actor, ctx| {
            if actor.ended || actor.generation != generation {
                return Err(ResumeRefused::UNKNOWN);
            }
            // Until it is taken, or comes back here.
            actor.wait_for_resumption(ctx);
            let outbox = &actor.session.resource.outbox;
            let refused = |handled| ResumeRefused {
                unknown: false,
                handled,
                sent: outbox.sent(),
            };
            let handled = handled.ok_or_else(|| refused(None))?;
            outbox.acknowledge(h).map_err(|_| refused(Some(handled)))
        }))
    }
}

impl Handler<Give> for UserSession {
    type Result = Option<Box<MovedSession>>;

    fn handle(&mut self, _: Give, ctx: &mut Self::Context) -> Self::Result {
        // Somebody may have resumed it here meanwhile.
        if self.ended || self.connection.is_some() {
            return None;
        }
        let max = self
            .session
            .managed
            .borrow()
            .as_ref()
            .and_then(|managed| managed.max)?;
        let handled = self.session.receipts()?.h();
        self.stop_waiting(ctx);
        self.ended = true;
        let session = &self.session;
        let resource = &session.resource;
        session.shard.unbind(resource);
        metrics::SESSIONS.dec();
        metrics::RESUMPTIONS.with_label_values(&["moved"]).inc();
        ctx.stop();
        let (acked, unacked, outbox) = resource.outbox.take_all();
        Some(Box::new(MovedSession {
            jid: resource.jid.clone(),
            handled,
            acked,
            outbox,
            unacked,
            presence: resource.presence.borrow().as_deref().cloned(),
            priority: resource.priority.get(),
            wants_roster: resource.wants_roster.get(),
            uses_roster_versions: resource.uses_roster_versions.get(),
            wants_block_list: resource.wants_block_list.get(),
            carbons: resource.carbons.get(),
            inactive: false,
            directed: session.directed.take().into_recipients(),
            max_seconds: seconds(max),
        }))
    }
}
