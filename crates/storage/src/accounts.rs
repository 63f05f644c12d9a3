//! Accounts and what proves that somebody owns one.

use async_trait::async_trait;
use rookery_proto::{credentials::Credentials, jid::BareJid};

use crate::Error;

/// What a login is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginKeys {
    /// The keys.
    pub credentials: Credentials,
    /// Whether the account is disabled: then nobody may log in, whatever they know.
    pub is_disabled: bool,
}

/// The accounts of the served domains.
///
/// Every read asks the database: an account that another process added, changed or deleted (the
/// command line, another node) is seen by the next call.
#[async_trait]
pub trait AccountStore {
    /// Creates an account with an empty roster.
    ///
    /// # Errors
    /// [`Error::Exists`]; the account that is there stays as it was.
    async fn create(&self, account: &BareJid, credentials: &Credentials) -> Result<(), Error>;

    /// What a login is checked against; `None` if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn login_keys(&self, account: &BareJid) -> Result<Option<LoginKeys>, Error>;

    /// The keys of an account, also of a disabled one; `None` if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn credentials(&self, account: &BareJid) -> Result<Option<Credentials>, Error> {
        let keys = self.login_keys(account).await?;
        Ok(keys.map(|keys| keys.credentials))
    }

    /// Those of the accounts that nobody may log in to: they do not exist, or are disabled.
    ///
    /// # Errors
    /// Failures only.
    async fn barred(&self, accounts: &[BareJid]) -> Result<Vec<BareJid>, Error>;

    /// Replaces the keys (a password change). False if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn set_credentials(
        &self,
        account: &BareJid,
        credentials: &Credentials,
    ) -> Result<bool, Error>;

    /// Disables an account, or enables it again; all that is stored for it stays. New accounts are
    /// enabled. False if there is no such account.
    ///
    /// # Errors
    /// Failures only.
    async fn set_disabled(&self, account: &BareJid, disabled: bool) -> Result<bool, Error>;

    /// Removes the account and everything that is stored for it, in one transaction. False if there
    /// was no such account.
    ///
    /// An account that is created later with the same name sees nothing of the old one, and its log
    /// ids and roster versions go on above the old ones, so that no client takes what it has cached
    /// for current.
    ///
    /// # Errors
    /// Failures only.
    async fn delete(&self, account: &BareJid) -> Result<bool, Error>;

    /// Whether the account exists.
    ///
    /// # Errors
    /// Failures only.
    async fn exists(&self, account: &BareJid) -> Result<bool, Error>;

    /// Up to `limit` accounts of a domain, sorted by the bytes of their JIDs, after the JID
    /// `after` (its text, exclusive; it need not exist).
    ///
    /// # Errors
    /// Failures only.
    async fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error>;

    /// The same for those that are disabled.
    ///
    /// # Errors
    /// Failures only.
    async fn disabled_accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BareJid>, Error>;
}
