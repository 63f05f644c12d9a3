//! What a peer is told when something of ours fails.
//!
//! One place decides; the matches have no `_`, so that a new error does not compile until someone
//! has decided.

use rookery_features::xep0191_blocking;
use rookery_proto::error::{Condition, ErrorType, StanzaError};

/// The answer to a request that storage could not serve.
pub(crate) fn storage_error(error: &rookery_storage::Error) -> StanzaError {
    use rookery_storage::Error;
    match error {
        Error::Unavailable(_) | Error::Timeout(_) | Error::Open { .. } => {
            tracing::warn!(%error, "storage did not answer");
            StanzaError::new(Condition::ResourceConstraint).with_kind(ErrorType::Wait)
        }
        Error::Full { .. } => Condition::ResourceConstraint.into(),
        Error::Exists => Condition::Conflict.into(),
        // Gone since it logged in. Not item-not-found: it would tell strangers which accounts exist.
        Error::NoAccount => Condition::ServiceUnavailable.into(),
        Error::Corrupt { .. } => {
            tracing::error!(%error, "storage holds something unreadable");
            Condition::InternalServerError.into()
        }
    }
}

/// The answer to a binding that the directory could not register.
pub(crate) fn directory_error(error: &rookery_directory::Error) -> StanzaError {
    let _ = error;
    Condition::ResourceConstraint.into()
}

/// The answer to a stanza for somebody whom the sender blocks (XEP-0191 §3.5).
pub(crate) fn blocked_by_sender() -> StanzaError {
    xep0191_blocking::outgoing_error()
}

/// The answer when an actor of this node did not do its part.
pub(crate) fn internal() -> StanzaError {
    Condition::InternalServerError.into()
}
