//! What a connection waits for: answers of its session, of storage, of the shard. Reading from the
//! socket is paused meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::dev::Request;
use rookery_features::password::{self, Password};
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::BareJid;
use rookery_proto::stanza::Stanza;
use rookery_storage::LoginKeys;
use tokio::time::Instant;

use crate::audit;
use crate::node::NodeShared;
use crate::resumption::{NotResumed, ResumeRequest};
use crate::shard::{self, BindRequest, Shard};
use crate::user_session::{Incoming, UserSession};

/// Work under way.
pub(super) struct Job {
    work: Work,
    since: Instant,
}

enum Work {
    /// The session deals with a batch.
    Session(Pin<Box<Request<UserSession, Incoming>>>),
    /// Something that the negotiation asked for.
    Negotiation {
        future: Pin<Box<dyn Future<Output = Found>>>,
        is_binding: bool,
    },
}

/// What came of it.
pub(super) enum Done {
    /// The session has dealt with the batch.
    Answered,
    /// The session is gone.
    NoSession,
    /// What the negotiation asked for.
    Found(Found),
}

/// What the negotiation asked for.
pub(super) enum Found {
    /// Keys of a user, real or made up; `None` if storage cannot tell.
    Credentials(Option<LoginKeys>),
    /// What the user may do; `None` if storage cannot tell.
    Verified(Option<Verdict>),
    /// Whether an account was made.
    Registered(Box<Stanza>, Result<(), StanzaError>),
    /// A bound resource, or why there is none.
    Bound(Box<Stanza>, Result<Box<shard::Bound>, StanzaError>),
    /// A resumed session, or why it is none.
    Resumed(Result<Box<shard::Bound>, NotResumed>),
}

/// What a user may do who has shown a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Log in.
    Right,
    /// Nothing: the password is right and the account disabled.
    Disabled,
    /// Nothing.
    Wrong,
}

impl Job {
    fn new(work: Work) -> Self {
        Self {
            work,
            since: Instant::now(),
        }
    }

    fn negotiation(future: impl Future<Output = Found> + 'static) -> Self {
        Self::new(Work::Negotiation {
            future: Box::pin(future),
            is_binding: false,
        })
    }

    /// Waits for the session.
    pub(super) fn session(request: Request<UserSession, Incoming>) -> Self {
        Self::new(Work::Session(Box::pin(request)))
    }

    /// Reads the keys of a user, or makes some up.
    pub(super) fn look_up(node: Arc<NodeShared>, user: BareJid) -> Self {
        Self::negotiation(async move { Found::Credentials(keys(&node, &user).await) })
    }

    /// Checks a password, away from the arbiter.
    pub(super) fn verify(node: Arc<NodeShared>, user: BareJid, password: Password) -> Self {
        Self::negotiation(async move {
            let Some(keys) = stored_keys(&node, &user).await else {
                return Found::Verified(None);
            };
            let LoginKeys {
                credentials,
                is_disabled,
            } = keys;
            let permit = node.admission.password_checks().acquire_owned().await;
            let completes = !credentials.is_complete();
            let check = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let fits = password::verify_password(&password, &credentials);
                (fits, (fits && completes).then_some(password))
            });
            let Ok((fits, password)) = check.await else {
                return Found::Verified(None);
            };
            if let Some(password) = password {
                complete_keys(&node, &user, password).await;
            }
            Found::Verified(Some(match (fits, is_disabled) {
                (true, false) => Verdict::Right,
                (true, true) => Verdict::Disabled,
                (false, _) => Verdict::Wrong,
            }))
        })
    }

    /// Makes an account.
    pub(super) fn register(
        node: Arc<NodeShared>,
        account: BareJid,
        password: Password,
        iq: Box<Stanza>,
    ) -> Self {
        Self::negotiation(async move {
            let result = register(&node, &account, password).await;
            Found::Registered(iq, result)
        })
    }

    /// Binds a resource.
    pub(super) fn bind(shard: Rc<Shard>, request: BindRequest, iq: Box<Stanza>) -> Self {
        let future =
            Box::pin(async move { Found::Bound(iq, shard.bind(request).await.map(Box::new)) });
        Self::new(Work::Negotiation {
            future,
            is_binding: true,
        })
    }

    /// Goes on with a session whose connection broke.
    pub(super) fn resume(shard: Rc<Shard>, request: ResumeRequest) -> Self {
        let future =
            Box::pin(async move { Found::Resumed(shard.resume(request).await.map(Box::new)) });
        Self::new(Work::Negotiation {
            future,
            is_binding: true,
        })
    }

    /// Since when it is under way.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether a resource is being bound, or a session resumed.
    pub(super) fn is_binding(&self) -> bool {
        matches!(
            self.work,
            Work::Negotiation {
                is_binding: true,
                ..
            }
        )
    }

    /// Waits for the outcome.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        match &mut self.work {
            Work::Session(request) => request.as_mut().poll(cx).map(|answer| match answer {
                Ok(()) => Done::Answered,
                Err(_) => Done::NoSession,
            }),
            Work::Negotiation { future, .. } => future.as_mut().poll(cx).map(Done::Found),
        }
    }
}

/// The keys of a user. An unknown user has made-up ones that nobody can tell from real ones; `None`
/// if storage cannot tell.
async fn keys(node: &NodeShared, user: &BareJid) -> Option<LoginKeys> {
    let stored = stored_keys(node, user).await?;
    let iterations = node.settings.auth.scram_iterations;
    Some(LoginKeys {
        credentials: password::complete(stored.credentials, &node.salt_key, user, iterations),
        ..stored
    })
}

/// Makes the keys that an account from another server lacks, now that its password is known.
async fn complete_keys(node: &NodeShared, user: &BareJid, password: Password) {
    let Ok(credentials) = node.derive_credentials(password).await else {
        return;
    };
    match node.storage.set_credentials(user, &credentials).await {
        Ok(_) => tracing::info!(jid = %user, "keys made for all mechanisms"),
        Err(error) => tracing::warn!(jid = %user, %error, "cannot store an account's keys"),
    }
}

/// As [`keys`], but that an account from another server may lack some of them.
async fn stored_keys(node: &NodeShared, user: &BareJid) -> Option<LoginKeys> {
    match node.storage.login_keys(user).await {
        Ok(Some(keys)) => Some(keys),
        Ok(None) => {
            let iterations = node.settings.auth.scram_iterations;
            Some(LoginKeys {
                credentials: password::made_up(&node.salt_key, user, iterations),
                is_disabled: false,
            })
        }
        Err(error) => {
            tracing::warn!(jid = %user, %error, "cannot read an account's keys");
            None
        }
    }
}

async fn register(
    node: &NodeShared,
    account: &BareJid,
    password: Password,
) -> Result<(), StanzaError> {
    let credentials = node.derive_credentials(password).await?;
    match node.storage.create(account, &credentials).await {
        Ok(()) => {
            audit::of_the_user(account, "user-register");
            Ok(())
        }
        Err(rookery_storage::Error::Exists) => Err(Condition::Conflict.into()),
        Err(error) => {
            tracing::warn!(jid = %account, %error, "cannot register an account");
            Err(Condition::ResourceConstraint.into())
        }
    }
}
