//! The small things that an account keeps: vCard, private XML, last activity.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::BareJid;

use crate::Error;

/// vCards (XEP-0054), as the XML of the `<vCard/>` element.
#[async_trait]
pub trait VcardStore {
    /// The account's vCard.
    ///
    /// # Errors
    /// Failures only.
    async fn vcard(&self, account: &BareJid) -> Result<Option<String>, Error>;

    /// Replaces it.
    ///
    /// # Errors
    /// [`Error::NoAccount`].
    async fn set_vcard(&self, account: &BareJid, vcard: &str) -> Result<(), Error>;
}

/// What is stored under one name and namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateElement {
    /// The local name.
    pub name: String,
    /// The namespace.
    pub ns: String,
    /// The element as XML; more than one if they came at once.
    pub xml: String,
}

/// Private XML storage (XEP-0049): one element for each name and namespace.
#[async_trait]
pub trait PrivateStore {
    /// All that the account stores, sorted by namespace and name.
    ///
    /// # Errors
    /// Failures only.
    async fn all_private(&self, account: &BareJid) -> Result<Vec<PrivateElement>, Error>;

    /// The element with this name and namespace, as XML.
    ///
    /// # Errors
    /// Failures only.
    async fn private(
        &self,
        account: &BareJid,
        name: &str,
        ns: &str,
    ) -> Result<Option<String>, Error>;

    /// Replaces it.
    ///
    /// # Errors
    /// [`Error::NoAccount`]; [`Error::Full`] when this would be one element too many.
    async fn set_private(
        &self,
        account: &BareJid,
        name: &str,
        ns: &str,
        xml: &str,
    ) -> Result<(), Error>;
}

/// When an account was last online, and the status it left with (XEP-0012).
#[async_trait]
pub trait LastStore {
    /// Time and status of the last unavailable presence.
    ///
    /// # Errors
    /// Failures only.
    async fn last(&self, account: &BareJid) -> Result<Option<(SystemTime, String)>, Error>;

    /// Replaces them. An earlier time than the stored one changes nothing.
    ///
    /// # Errors
    /// [`Error::NoAccount`].
    async fn set_last(&self, account: &BareJid, at: SystemTime, status: &str) -> Result<(), Error>;
}
