//! What can go wrong in the storage, in the terms its callers decide by.

use std::sync::Arc;

/// Cause of an error, shared by everyone who waited for the same commit.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// An operation of the storage did not happen, or nobody knows whether it did.
///
/// After [`Error::Timeout`] and [`Error::Unavailable`] a write may still have been committed, when
/// the answer was lost and not the request. Whoever repeats it must be prepared for that.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The account to create exists already.
    #[error("the account exists already")]
    Exists,

    /// The account does not exist, or it was deleted a moment ago.
    #[error("there is no such account")]
    NoAccount,

    /// The account has reached a limit; nothing was changed.
    #[error("the account's {what} hold at most {limit} entries")]
    Full {
        /// What is full: `roster`, `block list`, `private storage`.
        what: &'static str,
        /// The configured limit.
        limit: usize,
    },

    /// The database does not answer, refuses to work, or has too much to do.
    #[error("the storage is unavailable: {0}")]
    Unavailable(#[source] Cause),

    /// No answer came in time.
    #[error("the storage did not answer in time: {0}")]
    Timeout(&'static str),

    /// Something stored cannot be read back.
    #[error("stored {what} cannot be read: {reason}")]
    Corrupt {
        /// Which kind of data.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// The storage cannot be opened; the text names the place, the reason and a way out. It holds
    /// no password.
    #[error("cannot open the storage {place}: {reason}")]
    Open {
        /// The file, or host and database.
        place: String,
        /// What is wrong, for the person who starts the server.
        reason: String,
    },
}

impl Error {
    /// `Unavailable` for a reason that has no error of its own.
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(Arc::new(Reason(reason.into())))
    }

    /// `Unavailable` because of another error.
    pub(crate) fn unavailable_because(
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable(Arc::new(cause))
    }

    /// `Corrupt`, with the reason as text.
    pub(crate) fn corrupt(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            what,
            reason: reason.to_string(),
        }
    }

    /// Short name for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::NoAccount => "no_account",
            Self::Full { .. } => "full",
            Self::Unavailable(_) => "unavailable",
            Self::Timeout(_) => "timeout",
            Self::Corrupt { .. } => "corrupt",
            Self::Open { .. } => "open",
        }
    }

    /// Whether the storage failed, as opposed to having answered no.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Exists | Self::NoAccount | Self::Full { .. } => false,
            Self::Unavailable(_) | Self::Timeout(_) | Self::Corrupt { .. } | Self::Open { .. } => {
                true
            }
        }
    }
}

/// A reason in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);
