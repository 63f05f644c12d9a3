//! What a session does with the stanzas that its client sends: RFC 6120 §8, RFC 6121 §4 and §5.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::dev::{Request, ToEnvelope};
use actix::prelude::*;
use rookery_features::xep0198_stream_management as sm;
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::Jid;
use rookery_proto::stanza::{IqType, Kind, PresenceType, Rejected, RejectedStanza, Stanza};
use rookery_proto::stream::{StreamCondition, StreamError};

use super::{Inbound, PresenceRequest, Session};
use crate::metrics::Outcome;
use crate::outbox::Outgoing;
use crate::presence_list::{OutboundSubscription, PresenceList, Unavailable, UserPresence};
use crate::shard::{Broadcast, Parcel, Work};
use crate::trace::{self, Stage};
use crate::{dispatch, metrics, reply};

/// What became of one stanza.
pub(crate) enum Taken {
    Done,
    /// It needs something that takes time; those behind it wait.
    Waiting(Pin<Box<dyn Future<Output = Option<StreamError>>>>),
    Fatal(StreamError),
}

impl Session {
    /// Goes on with a batch after a stanza that had to wait.
    pub(super) async fn take_rest(
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
        fatal
    }

    pub(super) fn take(self: &Rc<Self>, inbound: Inbound, accepted: Instant) -> Taken {
        match inbound {
            Inbound::Rejected(Rejected::Stream(error)) => Taken::Fatal(error),
            Inbound::Rejected(Rejected::Stanza(rejected)) => {
                self.answer_rejected(&rejected);
                Taken::Done
            }
            Inbound::Stanza(mut stanza) => {
                if !self.stamp(&mut stanza) {
                    return Taken::Fatal(StreamError::from(StreamCondition::InvalidFrom));
                }
                metrics::stanza_in(stanza.kind);
                trace::stage(Stage::Accepted, &stanza, |step| step.at(&self.resource.jid));
                let share = self.resource.load.share(stanza.size());
                let mut parcel = Parcel::counted(Arc::new(stanza), accepted);
                parcel.share = Some(share);
                parcel.receipt = self.receipts().map(|receipts| receipts.receive());
                self.take_stanza(parcel)
            }
            Inbound::Nonza(nonza) => self.take_nonza(&nonza),
            Inbound::BadNonza(condition) => {
                self.resource.outbox.control(sm::failed(condition, None));
                Taken::Done
            }
        }
    }

    /// A stanza that breaks the rules of its kind (RFC 6120 §8.1, §8.2.3).
    fn answer_rejected(&self, rejected: &RejectedStanza) {
        // It counts as handled (XEP-0198 §4), at once.
        drop(self.receipts().map(|receipts| receipts.receive()));
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

    fn take_stanza(self: &Rc<Self>, parcel: Parcel) -> Taken {
        match parcel.stanza.kind {
            Kind::Message(_) => self.take_message(parcel),
            Kind::Presence(kind) => self.take_presence(kind, parcel),
            Kind::Iq(_) => dispatch::iq(self, parcel),
        }
    }

    /// RFC 6120 §10.3.1: without `to` it is for the sender's own account.
    fn take_message(self: &Rc<Self>, mut parcel: Parcel) -> Taken {
        if parcel.stanza.to.is_none() {
            parcel.stanza_mut().to = Some(Jid::from(self.account.jid.clone()));
        }
        self.route(parcel)
    }

    fn take_presence(self: &Rc<Self>, kind: PresenceType, mut parcel: Parcel) -> Taken {
        let list = self.shard.presence_list(&self.account);
        let resource = self.resource.jid.resource().to_owned();
        match (kind, &parcel.stanza.to) {
            (PresenceType::Available, None) => {
                let presence = Broadcast::of(&mut parcel);
                let request = list.send(UserPresence { resource, presence });
                self.ask(parcel, request)
            }
            (PresenceType::Unavailable, None) => {
                let directed = self.directed.take().into_recipients();
                let was_available = self.resource.is_available();
                let request = list.send(Unavailable {
                    resource,
                    presence: Broadcast::of(&mut parcel),
                    was_available,
                    directed,
                });
                self.ask(parcel, request)
            }
            (PresenceType::Available, Some(to)) => {
                if !self.directed.borrow_mut().sent_available(to) {
                    self.refuse(parcel, &Condition::PolicyViolation.into());
                    return Taken::Done;
                }
                self.route(parcel)
            }
            (PresenceType::Unavailable, Some(to)) => {
                self.directed.borrow_mut().sent_unavailable(to);
                self.route(parcel)
            }
            (
                PresenceType::Subscribe
                | PresenceType::Subscribed
                | PresenceType::Unsubscribe
                | PresenceType::Unsubscribed,
                Some(_),
            ) => {
                let stanza = Stanza::clone(&parcel.stanza);
                self.ask(parcel, list.send(OutboundSubscription { stanza }))
            }
            (PresenceType::Probe, Some(to)) => {
                // A client has no business probing (RFC 6121 §4.3); its server asks for it.
                let to = Jid::from(to.to_bare());
                parcel.stanza_mut().to = Some(to);
                self.route(parcel)
            }
            (PresenceType::Error, Some(_)) => self.route(parcel),
            (_, None) => {
                parcel.end(Outcome::Dropped);
                Taken::Done
            }
        }
    }

    /// Asks the account's presence list; what it answers goes to the client.
    pub(crate) fn ask<M>(
        self: &Rc<Self>,
        parcel: Parcel,
        request: Request<PresenceList, M>,
    ) -> Taken
    where
        M: PresenceRequest,
        PresenceList: Handler<M>,
    {
        let session = Rc::clone(self);
        Taken::Waiting(Box::pin(async move {
            let answers = session.answered(request).await.unwrap_or_default();
            let is_bounced = answers.iter().any(Stanza::is_error);
            if is_bounced {
                trace::stage(Stage::Bounced, &parcel.stanza, |step| step);
            }
            for answer in answers {
                session.answer(answer);
            }
            parcel.end(if is_bounced {
                Outcome::Bounced
            } else {
                Outcome::Delivered
            });
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
    pub(crate) fn route(self: &Rc<Self>, mut parcel: Parcel) -> Taken {
        let blocked = match (&*self.account.block_list.borrow(), &parcel.stanza.to) {
            (Some(list), Some(to)) => list.blocks(to) && to.bare_str() != self.jid.bare_str(),
            (None, _) => {
                trace::stage(Stage::Held, &parcel.stanza, |step| {
                    step.detail("the sender's block list is read")
                });
                let session = Rc::clone(self);
                return Taken::Waiting(Box::pin(async move {
                    match session.shard.load_block_list(&session.account).await {
                        Ok(()) => {
                            session.route(parcel);
                        }
                        Err(error) => session.refuse(parcel, &reply::storage_error(&error)),
                    }
                    None
                }));
            }
            (Some(_), None) => false,
        };
        if blocked {
            self.refuse(parcel, &reply::blocked_by_sender());
            return Taken::Done;
        }
        if let Kind::Iq(IqType::Get | IqType::Set) = parcel.stanza.kind {
            self.resource.answers.asks(&parcel.stanza);
        }
        if let Kind::Message(_) = parcel.stanza.kind {
            parcel.copies = self.shard.wants_copies(&self.account, &parcel.stanza);
        }
        self.shard.accept(Work::Route(parcel));
        Taken::Done
    }

    /// Answers a stanza with an error, if it is one that gets answers.
    pub(crate) fn refuse(&self, parcel: Parcel, error: &StanzaError) {
        if let Some(answer) = parcel.stanza.reply_error(error) {
            self.answer(answer);
        }
        trace::bounced(&parcel.stanza, error);
        parcel.end(Outcome::Bounced);
    }

    /// Sends the client a stanza of the server's own.
    pub(crate) fn answer(&self, mut stanza: Stanza) {
        stanza.to = Some(self.jid.clone());
        self.shard
            .push(&self.resource, Outgoing::new(Arc::new(stanza)));
    }
}
