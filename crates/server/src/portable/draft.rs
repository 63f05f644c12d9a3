//! An account as it is put together from a file.

use rookery_features::password::{Hash, Password, prepare};
use rookery_features::xep0049_private::Entry;
use rookery_features::xep0227_portable::{self as portable, Datum, Invalid, LeftOut};
use rookery_features::xep0441_preferences::{ByDefault, Preferences};
use rookery_proto::credentials::{Credentials, ScramKeys};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::xml::Element;
use rookery_storage::{ArchiveDefault, ArchivePreferences, PrivateElement, WholeAccount};
use std::time::SystemTime;

/// What is known of an account so far.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Its address.
    pub(crate) jid: BareJid,
    /// Its password, which counts more than its keys.
    pub(crate) password: Option<Password>,
    sha1: Option<ScramKeys>,
    sha256: Option<ScramKeys>,
    contacts: Option<Vec<RosterItem>>,
    requests: Vec<(BareJid, String)>,
    vcard: Option<String>,
    private: Option<Vec<Entry>>,
    blocked: Vec<Jid>,
    preferences: Option<Preferences>,
    last: Option<(SystemTime, String)>,
    /// What is not kept of it.
    pub(crate) left_out: LeftOut,
}

impl Draft {
    /// Nothing but address and password; also what is wrong with the password, which is left out then.
    pub(crate) fn new(jid: BareJid, password: Option<String>) -> (Self, Result<(), Invalid>) {
        let fits = match &password {
            Some(password) => prepare(password)
                .map(drop)
                .map_err(|error| Invalid(error.to_string())),
            None => Ok(()),
        };
        let draft = Self {
            jid,
            password: password.filter(|_| fits.is_ok()).map(Password::new),
            sha1: None,
            sha256: None,
            contacts: None,
            requests: Vec::new(),
            vcard: None,
            private: None,
            blocked: Vec::new(),
            preferences: None,
            last: None,
            left_out: LeftOut::default(),
        };
        (draft, fits)
    }

    /// Adds a child of `<user/>`.
    ///
    /// # Errors
    /// If it is wrong, or of a kind that comes once and is there already. Then it is not added.
    pub(crate) fn add(&mut self, element: &Element) -> Result<(), Invalid> {
        match portable::read(&self.jid, element, &mut self.left_out)? {
            Datum::Keys(Hash::Sha1, keys) => once(&mut self.sha1, keys, element),
            Datum::Keys(Hash::Sha256, keys) => once(&mut self.sha256, keys, element),
            Datum::Roster(contacts) => once(&mut self.contacts, contacts, element),
            Datum::Vcard(vcard) => once(&mut self.vcard, vcard, element),
            Datum::Private(entries) => once(&mut self.private, entries, element),
            Datum::Preferences(wanted) => once(&mut self.preferences, wanted, element),
            Datum::Last(at, status) => once(&mut self.last, (at, status), element),
            Datum::Request(from, stanza) => {
                self.requests.push((from, stanza));
                Ok(())
            }
            Datum::Blocked(jids) => {
                self.blocked.extend(jids);
                Ok(())
            }
            Datum::Nothing => Ok(()),
        }
    }

    /// The keys that the file has; what it lacks is missing.
    pub(crate) fn keys(&self) -> Credentials {
        let keys = |keys: &Option<ScramKeys>| keys.clone().unwrap_or_else(ScramKeys::missing);
        Credentials {
            scram_sha1: keys(&self.sha1),
            scram_sha256: keys(&self.sha256),
        }
    }

    /// The account, and what was not kept.
    pub(crate) fn finish(
        mut self,
        credentials: Credentials,
        log_of: Option<BareJid>,
    ) -> (WholeAccount, LeftOut) {
        let contacts = self.contacts.unwrap_or_default();
        let roster = portable::roster_of(contacts, self.requests, &mut self.left_out);
        self.blocked.sort();
        self.blocked.dedup();
        let private = self.private.unwrap_or_default();
        let account = WholeAccount {
            jid: self.jid,
            log_of,
            credentials,
            roster,
            blocked: self.blocked,
            vcard: self.vcard,
            private: private
                .into_iter()
                .map(|entry| PrivateElement {
                    name: entry.key.name,
                    ns: entry.key.ns,
                    xml: entry.xml,
                })
                .collect(),
            last: self.last,
            preferences: to_storage(self.preferences.unwrap_or_default()),
        };
        (account, self.left_out)
    }
}

fn once<T>(place: &mut Option<T>, value: T, element: &Element) -> Result<(), Invalid> {
    if place.is_some() {
        let (name, ns) = (element.name(), element.ns());
        return Err(Invalid(format!("<{name} xmlns='{ns}'/> comes twice")));
    }
    *place = Some(value);
    Ok(())
}

fn to_storage(wanted: Preferences) -> ArchivePreferences {
    ArchivePreferences {
        default: match wanted.default {
            ByDefault::Always => ArchiveDefault::Always,
            ByDefault::Never => ArchiveDefault::Never,
            ByDefault::Roster => ArchiveDefault::Roster,
        },
        always: wanted.always,
        never: wanted.never,
    }
}
