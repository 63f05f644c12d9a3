//! Block lists (XEP-0191).

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};

use crate::Error;

/// The block lists of all accounts.
#[async_trait]
pub trait BlockStore {
    /// Whom the account has blocked, sorted; empty if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn blocked(&self, account: &BareJid) -> Result<Vec<Jid>, Error>;

    /// Adds to the list. Gives those that were not on it before.
    ///
    /// # Errors
    /// [`Error::NoAccount`]; [`Error::Full`], and then none was added.
    async fn block(&self, account: &BareJid, jids: &[Jid]) -> Result<Vec<Jid>, Error>;

    /// Takes from the list; `None` takes all. Gives those that were on it.
    ///
    /// # Errors
    /// Failures only; nothing is on the list of an account that does not exist.
    async fn unblock(&self, account: &BareJid, jids: Option<&[Jid]>) -> Result<Vec<Jid>, Error>;
}
