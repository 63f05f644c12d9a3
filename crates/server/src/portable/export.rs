//! From the database into a XEP-0227 document.
//!
//! Accounts are read one after the other, their messages page by page. What changes meanwhile may be in
//! the document or not; an account's own data belongs together as far as one read of the database does.

use std::io::{self, Write};
use std::time::SystemTime;

use rookery_features::xep0227_portable::{self as portable, Invalid, NS, NS_MAM, NS_OWN};
use rookery_features::xep0441_preferences::{ByDefault, Preferences};
use rookery_features::{xep0049_private, xep0054_vcard};
use rookery_proto::jid::BareJid;
use rookery_proto::xml::Element;
use rookery_storage::{
    ArchiveAnswer, ArchiveDefault, ArchivePreferences, ArchiveQuery, Entry, Page, Storage,
    WholeAccount,
};

use super::report::Counts;
use crate::control::Session;

/// Accounts, and messages, that are read at a time.
const PAGE: usize = 200;

/// Which accounts.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// All of these domains.
    Domains(Vec<String>),
    /// These, which have to exist.
    Accounts(Vec<BareJid>),
}

/// Why an export did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// An account does not exist.
    #[error("there is no account {0}")]
    NoAccount(BareJid),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] rookery_storage::Error),
    /// What is stored cannot be written.
    #[error("account {0}: {1}")]
    Invalid(BareJid, Invalid),
    /// The archive lost entries while it was read.
    #[error("account {0}: its archive was shortened meanwhile; try again")]
    Shortened(BareJid),
    /// The document cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a document. `sessions` are those that are known of the accounts; `progress` is told how many
/// accounts are written.
///
/// # Errors
/// Whatever goes wrong; then the document has no end.
pub(crate) async fn export(
    storage: &dyn Storage,
    which: &Which,
    sessions: &[Session],
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Counts, ExportError> {
    let mut document = Document {
        storage,
        sessions,
        out,
        counts: Counts::default(),
    };
    if let Which::Accounts(accounts) = which {
        for account in accounts {
            if !storage.exists(account).await? {
                return Err(ExportError::NoAccount(account.clone()));
            }
        }
    }
    writeln!(document.out, "<?xml version='1.0' encoding='UTF-8'?>")?;
    writeln!(document.out, "<server-data xmlns='{NS}'>")?;
    match which {
        Which::Domains(domains) => {
            for domain in domains {
                document.domain(domain, progress).await?;
            }
        }
        Which::Accounts(accounts) => {
            let mut accounts = accounts.clone();
            accounts.sort_by(|one, other| {
                (one.domain(), one.as_str()).cmp(&(other.domain(), other.as_str()))
            });
            accounts.dedup();
            for host in accounts.chunk_by(|one, other| one.domain() == other.domain()) {
                document.begin_host(host[0].domain())?;
                for account in host {
                    document.account(account).await?;
                    progress(document.counts.accounts);
                }
                writeln!(document.out, "</host>")?;
            }
        }
    }
    writeln!(document.out, "</server-data>")?;
    document.out.flush()?;
    Ok(document.counts)
}

struct Document<'d> {
    storage: &'d dyn Storage,
    sessions: &'d [Session],
    out: &'d mut dyn Write,
    counts: Counts,
}

impl Document<'_> {
    /// All accounts of a domain.
    async fn domain(
        &mut self,
        domain: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        self.begin_host(domain)?;
        let mut after: Option<BareJid> = None;
        loop {
            let last = after.as_ref().map(BareJid::as_str);
            let page = self.storage.accounts(domain, last, PAGE).await?;
            for account in &page {
                self.account(account).await?;
            }
            progress(self.counts.accounts);
            match page.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        writeln!(self.out, "</host>")?;
        Ok(())
    }

    fn begin_host(&mut self, domain: &str) -> io::Result<()> {
        self.begin(&Element::new("host", NS).with_attr("jid", domain))
    }

    /// One account; nothing if it is gone.
    async fn account(&mut self, jid: &BareJid) -> Result<(), ExportError> {
        let storage = self.storage;
        let Some(credentials) = storage.credentials(jid).await? else {
            return Ok(());
        };
        let account = WholeAccount {
            jid: jid.clone(),
            log_of: None,
            credentials,
            roster: storage.roster(jid).await?.items,
            blocked: storage.blocked(jid).await?,
            vcard: storage.vcard(jid).await?,
            private: storage.all_private(jid).await?,
            last: storage.last(jid).await?,
            preferences: storage.archive_preferences(jid).await?,
        };
        self.counts.add(&account);
        let name = jid.local().unwrap_or_default();
        self.begin(&Element::new("user", NS).with_attr("name", name))?;
        // First, as the schema has it (XEP-0227 §9).
        self.offline(jid).await?;
        self.data(&account)?;
        self.archive(jid).await?;
        writeln!(self.out, "</user>")?;
        Ok(())
    }

    /// All but messages.
    fn data(&mut self, account: &WholeAccount) -> Result<(), ExportError> {
        for keys in portable::write_keys(&account.credentials) {
            self.element(&keys)?;
        }
        if let Some(contacts) = portable::write_contacts(&account.roster) {
            self.element(&contacts)?;
        }
        for item in &account.roster {
            if let Some(request) = &item.pending_in {
                // Stored with its namespace.
                writeln!(self.out, "{request}")?;
            }
        }
        if let Some(vcard) = &account.vcard {
            let vcard = Element::parse(vcard, "").map_err(|_| stored(account, "vCard"))?;
            debug_assert!(vcard.is("vCard", xep0054_vcard::NS));
            self.element(&vcard)?;
        }
        if !account.private.is_empty() {
            let ns = xep0049_private::NS;
            let mut query = Element::new("query", ns);
            for stored_element in &account.private {
                let xml = &stored_element.xml;
                let wrapped = Element::parse(&format!("<v>{xml}</v>"), "")
                    .map_err(|_| stored(account, "private XML"))?;
                query = query.with_children(wrapped.into_children());
            }
            self.element(&query)?;
        }
        if let Some(list) = portable::write_blocked(&account.blocked) {
            self.element(&list)?;
        }
        if account.preferences != ArchivePreferences::default() {
            self.element(&preferences(&account.preferences).to_element())?;
        }
        if let Some((at, status)) = &account.last {
            self.element(&portable::write_last(*at, status))?;
        }
        let is_of = |session: &&Session| session.jid.bare_str() == account.jid.as_str();
        for session in self.sessions.iter().filter(is_of) {
            let element = Element::new("session", NS_OWN)
                .with_attr("jid", session.jid.as_str())
                .with_attr("since", &session.since)
                .with_attr("transport", &session.transport)
                .with_attr("address", &session.address);
            self.element(&element)?;
        }
        Ok(())
    }

    async fn offline(&mut self, jid: &BareJid) -> Result<(), ExportError> {
        let mut after = None;
        loop {
            let page = self.storage.undelivered(jid, after, PAGE).await?;
            let Some(last) = page.last().map(|entry| entry.id) else {
                break;
            };
            if after.is_none() {
                self.begin(&Element::new("offline-messages", NS))?;
            }
            after = Some(last);
            for entry in page {
                let id = entry.archived.then_some(entry.id.0);
                let message = portable::write_offline(jid, &entry.stanza, entry.at, id)
                    .map_err(|invalid| ExportError::Invalid(jid.clone(), invalid))?;
                writeln!(self.out, "{message}")?;
                self.counts.offline += 1;
            }
        }
        if after.is_some() {
            writeln!(self.out, "</offline-messages>")?;
        }
        Ok(())
    }

    async fn archive(&mut self, jid: &BareJid) -> Result<(), ExportError> {
        let mut page = Page::First;
        loop {
            let query = ArchiveQuery {
                with: None,
                start: None::<SystemTime>,
                end: None,
                after_id: None,
                before_id: None,
                ids: Vec::new(),
                page,
                max: PAGE,
            };
            let found = match self.storage.archive(jid, &query).await? {
                ArchiveAnswer::Page(found) => found,
                ArchiveAnswer::NotFound => return Err(ExportError::Shortened(jid.clone())),
            };
            let Some(last) = found.entries.last().map(|entry| entry.id) else {
                break;
            };
            if page == Page::First {
                self.begin(&Element::new("archive", NS_MAM))?;
            }
            page = Page::After(last);
            for Entry { id, at, stanza, .. } in &found.entries {
                writeln!(self.out, "{}", portable::write_archived(stanza, *at, id.0))?;
                self.counts.archived += 1;
            }
            if found.complete {
                break;
            }
        }
        if page != Page::First {
            writeln!(self.out, "</archive>")?;
        }
        Ok(())
    }

    /// The start tag of an element.
    fn begin(&mut self, element: &Element) -> io::Result<()> {
        let tag = element.to_xml(NS);
        writeln!(self.out, "{}>", tag.trim_end_matches("/>"))
    }

    fn element(&mut self, element: &Element) -> io::Result<()> {
        writeln!(self.out, "{}", element.to_xml(NS))
    }
}

fn stored(account: &WholeAccount, what: &str) -> ExportError {
    let invalid = Invalid(format!("the stored {what} cannot be read"));
    ExportError::Invalid(account.jid.clone(), invalid)
}

fn preferences(stored: &ArchivePreferences) -> Preferences {
    Preferences {
        default: match stored.default {
            ArchiveDefault::Always => ByDefault::Always,
            ArchiveDefault::Never => ByDefault::Never,
            ArchiveDefault::Roster => ByDefault::Roster,
        },
        always: stored.always.clone(),
        never: stored.never.clone(),
    }
}
