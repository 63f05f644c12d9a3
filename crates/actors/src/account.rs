//! What one arbiter knows of an account and its resources.
//!
//! Owned by the [`Shard`](crate::shard::Shard) that the account's address hashes to, shared with the
//! account's actors on the same arbiter. Plain data: the rules are in `router.rs` and
//! `presence_list.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use actix::Addr;
use rookery_features::xep0191_blocking::BlockList;
use rookery_features::xep0280_carbons::Answerable;
use rookery_proto::jid::{BareJid, FullJid};
use rookery_proto::stanza::Stanza;
use rookery_proto::stream::{StreamCondition, StreamError};

use crate::answers::Answers;
use crate::budget::Load;
use crate::log_tracker::LogTracker;
use crate::outbox::Outbox;
use crate::presence_list::PresenceList;
use crate::user_session::{End, UserSession};

/// An account with sessions, or with work under way, on this node.
pub struct Account {
    /// The account's address.
    pub jid: BareJid,
    /// Its resources on this node, in the order in which they were bound.
    pub resources: RefCell<Vec<Rc<Resource>>>,
    /// Its roster and presence, once something asked for them.
    pub presence_list: RefCell<Option<Addr<PresenceList>>>,
    /// Whom the account blocks (XEP-0191); `None` until it is read from storage.
    pub block_list: RefCell<Option<Rc<BlockList>>>,
    /// The entries of its log that are on their way to its resources here.
    pub log: Rc<LogTracker>,
}

impl Account {
    /// An account without resources.
    pub fn new(jid: BareJid) -> Self {
        let log = Rc::new(LogTracker::new(jid.clone()));
        Self {
            jid,
            resources: RefCell::default(),
            presence_list: RefCell::default(),
            block_list: RefCell::default(),
            log,
        }
    }

    /// The resource of this name, if it is bound on this node.
    pub fn resource(&self, name: &str) -> Option<Rc<Resource>> {
        self.resources
            .borrow()
            .iter()
            .find(|r| r.jid.resource() == name)
            .cloned()
    }

    /// The address of the resource that is bound under it, so that it need not be made again.
    pub fn session(&self, address: &str) -> Option<FullJid> {
        let resources = self.resources.borrow();
        let found = resources.iter().find(|r| r.jid.as_str() == address)?;
        Some(found.jid.clone())
    }

    /// Whether the resource is still one of the account's.
    pub fn holds(&self, resource: &Rc<Resource>) -> bool {
        self.resources
            .borrow()
            .iter()
            .any(|other| Rc::ptr_eq(other, resource))
    }

    /// All resources; a copy, so that the list may change while one walks it.
    pub fn all(&self) -> Vec<Rc<Resource>> {
        self.resources.borrow().clone()
    }
}

/// A bound resource: what the router needs to know of a session.
pub struct Resource {
    /// The full JID.
    pub jid: FullJid,
    /// What waits to be written to the client.
    pub outbox: Rc<Outbox>,
    /// What the client has sent and is not dealt with.
    pub load: Arc<Load>,
    /// The session's actor.
    pub session: Addr<UserSession>,
    /// The last available presence that the client broadcast; `None` while it is unavailable.
    pub presence: RefCell<Option<Arc<Stanza>>>,
    /// Priority of that presence.
    pub priority: Cell<i8>,
    /// Whether messages for the account go to it: it has a presence whose priority is not negative, and
    /// what was stored before has had its turn. Until then messages are stored, so that none overtakes
    /// an older one.
    pub takes_messages: Cell<bool>,
    /// Whether it reads what was stored. When it is done, it takes messages.
    pub reads_log: Cell<bool>,
    /// Entries of the log up to this one are not for it: it has read that far.
    pub read_up_to: Cell<u64>,
    /// Whether the client wants copies of its other resources' messages (XEP-0280).
    pub carbons: Cell<bool>,
    /// Messages whose copies went to the others, so that errors that answer them do as well.
    pub answerable: RefCell<Answerable>,
    /// The answers to its requests to others.
    pub answers: Answers,
    /// What the client resumes the session by (XEP-0198), if it can.
    pub resume_id: RefCell<Option<Box<str>>>,
    /// Whether the client asked for the roster, and so gets roster pushes (RFC 6121 §2.1.6).
    pub wants_roster: Cell<bool>,
    /// Whether roster pushes for it carry a version (§2.6).
    pub uses_roster_versions: Cell<bool>,
    /// Whether the client asked for the block list, and so gets its pushes (XEP-0191 §3.3).
    pub wants_block_list: Cell<bool>,
    /// The session's number in the directory; 0 on a single node.
    pub sequence: Cell<u64>,
}

impl Resource {
    /// Ends the session with a stream error, in the background.
    pub fn end(&self, condition: StreamCondition) {
        let error = Some(StreamError::from(condition));
        let request = self.session.send(End { error });
        actix_rt::spawn(async move {
            // A session that has stopped needs no end.
            let _ = request.await;
        });
    }

    /// Whether the client has sent initial presence.
    pub fn is_available(&self) -> bool {
        self.presence.borrow().is_some()
    }
}
