//! Going on with a session whose connection broke: XEP-0198 §5.

use std::rc::Rc;
use std::sync::Arc;

use actix::Addr;
use rookery_proto::error::Condition;
use rookery_proto::jid::BareJid;
use rookery_proto::stream::StreamError;
use tokio::time::Instant;

use crate::account::Resource;
use crate::connection::Connection;
use crate::metrics;
use crate::shard::{Bound, Shard};
use crate::user_session::Attach;

/// What a connection that has logged in asks for to go on with a session.
pub struct ResumeRequest {
    /// Who has logged in.
    pub account: BareJid,
    /// The session's identifier.
    pub previd: String,
    /// How many stanzas the client has got in it.
    pub h: u32,
    /// The stream.
    pub connection: Addr<Connection>,
    /// When its login began.
    pub login_began: Instant,
}

/// Why a session does not go on.
#[derive(Debug, Clone)]
pub enum NotResumed {
    /// The client may bind a resource instead. With how many of its stanzas were handled, where that is
    /// known.
    Failed(Condition, Option<u32>),
    /// The stream ends.
    Fatal(StreamError),
}

impl Shard {
    /// Hands a session to a connection of its user.
    ///
    /// # Errors
    /// `item-not-found` unless the account has such a session, and nothing happened to the account since
    /// the client logged in; a stream error if the client claims to
    /// have got more than was sent.
    pub(crate) async fn resume(
        self: Rc<Self>,
        request: ResumeRequest,
    ) -> Result<Bound, NotResumed> {
        let outcome = match self.resumable(&request.account, &request.previd) {
            _ if self.is_login_void(&request.account, request.login_began) => {
                Err(NotResumed::unknown())
            }
            Some(resource) => self.resume_here(&resource, request).await,
            None => self.fetch_session(request).await,
        };
        let label = match &outcome {
            Ok(_) => "ok",
            Err(NotResumed::Failed(Condition::ItemNotFound, _)) => "unknown",
            Err(_) => "failed",
        };
        metrics::RESUMPTIONS.with_label_values(&[label]).inc();
        outcome
    }

    /// The account's session of this identifier, if it is on this node.
    pub(crate) fn resumable(&self, account: &BareJid, previd: &str) -> Option<Rc<Resource>> {
        let accounts = self.accounts.borrow();
        let resources = accounts.get(account)?.resources.borrow();
        let named =
            |resource: &&Rc<Resource>| resource.resume_id.borrow().as_deref() == Some(previd);
        resources.iter().find(named).cloned()
    }

    async fn resume_here(
        &self,
        resource: &Rc<Resource>,
        request: ResumeRequest,
    ) -> Result<Bound, NotResumed> {
        let attach = Attach {
            connection: request.connection,
            h: request.h,
            previd: request.previd,
        };
        // It has a bound of its own.
        match resource.session.send(attach).await {
            Ok(attached) => Ok(Bound {
                jid: resource.jid.clone(),
                session: resource.session.clone(),
                outbox: Rc::clone(&resource.outbox),
                load: Arc::clone(&resource.load),
                generation: attached?.generation,
            }),
            // It ended meanwhile.
            Err(_) => Err(NotResumed::unknown()),
        }
    }
}
