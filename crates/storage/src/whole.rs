//! Accounts as a whole, for those who bring them from elsewhere.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::{
    credentials::Credentials,
    jid::{BareJid, Jid},
    roster::RosterItem,
};

use crate::{ArchivePreferences, Error, PrivateElement};

/// An account with all that is its own. Limits do not hold for what is in it.
#[derive(Clone, Debug)]
pub struct WholeAccount {
    /// Its address.
    pub jid: BareJid,
    /// The account whose log becomes this one's, and which is no more then: appending to it before, a
    /// log of any length is written without anybody seeing a part of it. Nothing but its log is kept.
    /// Its address must not be used again: who appended to it may still take it for this account.
    pub log_of: Option<BareJid>,
    /// The keys that a login is checked against.
    pub credentials: Credentials,
    /// The roster, each contact once; also items that only hold an inbound request.
    pub roster: Vec<RosterItem>,
    /// Whom it blocks.
    pub blocked: Vec<Jid>,
    /// The vCard, as XML.
    pub vcard: Option<String>,
    /// Private XML, each name and namespace once.
    pub private: Vec<PrivateElement>,
    /// When it was last online, and the status it left with.
    pub last: Option<(SystemTime, String)>,
    /// What it wants archived from now on.
    pub preferences: ArchivePreferences,
}

/// Writing accounts as a whole.
#[async_trait]
pub trait WholeStore {
    /// Makes accounts, all of them in one transaction. With `replace`, one that is there is deleted
    /// with everything before; gives how many were.
    ///
    /// # Errors
    /// [`Error::Exists`] without `replace`, [`Error::NoAccount`] for a `log_of` that does not exist;
    /// then nothing was changed.
    async fn put_accounts(&self, accounts: Vec<WholeAccount>, replace: bool) -> Result<u64, Error>;
}
