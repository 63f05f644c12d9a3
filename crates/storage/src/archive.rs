//! The archive of an account: the entries of its log that it may query (XEP-0313), the preferences
//! that decide what gets there (XEP-0441), and retention.

use std::time::SystemTime;

use async_trait::async_trait;
use rookery_proto::jid::{BareJid, Jid};

use crate::{Entry, EntryId, Error};

/// A question to an archive. All conditions have to hold for an entry.
#[derive(Clone, Debug)]
pub struct ArchiveQuery {
    /// Who the entry came from or went to. Bare: any resource of it, or itself; full: exactly it.
    pub with: Option<Jid>,
    /// Accepted then or later.
    pub start: Option<SystemTime>,
    /// Accepted then or earlier.
    pub end: Option<SystemTime>,
    /// Past this entry, which must exist.
    pub after_id: Option<EntryId>,
    /// Before this entry, which must exist.
    pub before_id: Option<EntryId>,
    /// One of these, which must all exist; empty: any.
    pub ids: Vec<EntryId>,
    /// Which part of what meets the conditions.
    pub page: Page,
    /// The most entries that are wanted.
    pub max: usize,
}

/// Which part of a result is wanted (XEP-0059).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Its beginning.
    First,
    /// What follows this entry, which must exist in the archive but need not meet the conditions.
    After(EntryId),
    /// Its end.
    Last,
    /// What precedes this entry, which must exist in the archive but need not meet the conditions.
    Before(EntryId),
}

impl Page {
    /// Whether it is counted from the newest entry.
    pub(crate) fn is_backwards(self) -> bool {
        matches!(self, Self::Last | Self::Before(_))
    }
}

impl ArchiveQuery {
    /// Ids between which all entries of the page lie, both exclusive.
    pub(crate) fn between(&self) -> (i64, i64) {
        let number = |id: EntryId| crate::log::to_i64(id.0);
        let mut low = self.after_id.map_or(-1, number);
        let mut high = self.before_id.map_or(i64::MAX, number);
        match self.page {
            Page::First | Page::Last => {}
            Page::After(id) => low = low.max(number(id)),
            Page::Before(id) => high = high.min(number(id)),
        }
        (low, high)
    }

    /// The ids that must exist, sorted and each once.
    pub(crate) fn named(&self) -> Vec<i64> {
        let page = match self.page {
            Page::After(id) | Page::Before(id) => Some(id),
            Page::First | Page::Last => None,
        };
        let limits = [self.after_id, self.before_id, page].into_iter().flatten();
        sorted(limits.chain(self.ids.iter().copied()))
    }

    /// Whether an entry from or to `peer` is wanted.
    pub(crate) fn matches(&self, peer: &Jid) -> bool {
        match &self.with {
            None => true,
            Some(with) if with.is_bare() => with.same_bare(peer),
            Some(with) => with == peer,
        }
    }

    /// [`Self::ids`], sorted and each once.
    pub(crate) fn sorted_ids(&self) -> Vec<i64> {
        sorted(self.ids.iter().copied())
    }

    /// Makes a page of up to `max + 1` entries that were found in the direction of the page.
    pub(crate) fn page_of(&self, mut found: Vec<Entry>) -> ArchivePage {
        let complete = found.len() <= self.max;
        found.truncate(self.max);
        if self.page.is_backwards() {
            found.reverse();
        }
        // Where the page is all there is, its size and place are known.
        let whole = complete && matches!(self.page, Page::First | Page::Last);
        ArchivePage {
            count: whole.then_some(found.len() as u64),
            index: (whole && !found.is_empty()).then_some(0),
            complete,
            entries: found,
        }
    }
}

fn sorted(ids: impl Iterator<Item = EntryId>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.map(|id| crate::log::to_i64(id.0)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What an archive answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveAnswer {
    /// Entries.
    Page(ArchivePage),
    /// An id that the query names is not in the archive.
    NotFound,
}

/// A part of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivePage {
    /// The entries in the order of their ids.
    pub entries: Vec<Entry>,
    /// Whether there are no more in the direction of the page.
    pub complete: bool,
    /// How many entries meet the conditions, if that is known without looking at them all.
    pub count: Option<u64>,
    /// How many of those precede the page, if that is known without looking at them all.
    pub index: Option<u64>,
}

/// The oldest and the newest entry of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveBounds {
    /// The oldest, and when the server accepted it.
    pub first: (EntryId, SystemTime),
    /// The newest, and when the server accepted it.
    pub last: (EntryId, SystemTime),
}

/// Whether messages are archived with those whom no exception names (XEP-0441 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveDefault {
    /// All.
    #[default]
    Always,
    /// None.
    Never,
    /// Those with the account's contacts.
    Roster,
}

impl ArchiveDefault {
    /// As databases keep it.
    pub(crate) fn to_number(self) -> i64 {
        match self {
            Self::Always => 0,
            Self::Never => 1,
            Self::Roster => 2,
        }
    }

    /// What [`Self::to_number`] gave.
    pub(crate) fn from_number(number: i64) -> Result<Self, Error> {
        match number {
            0 => Ok(Self::Always),
            1 => Ok(Self::Never),
            2 => Ok(Self::Roster),
            _ => Err(Error::corrupt("archive preferences", "unknown default")),
        }
    }
}

/// What an account wants archived (XEP-0441).
///
/// A bare JID in a list is about all of its resources. Where lists disagree, the full JID counts more
/// than the bare one, and then `never` more than `always`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchivePreferences {
    /// What holds for those whom no list names.
    pub default: ArchiveDefault,
    /// With whom messages are archived.
    pub always: Vec<Jid>,
    /// With whom messages are not archived.
    pub never: Vec<Jid>,
}

impl ArchivePreferences {
    /// The lists as rows: an address that is in both is in `never`.
    pub(crate) fn exceptions(&self) -> Vec<(&Jid, bool)> {
        let always = self.always.iter().map(|jid| (jid, true));
        let never = self.never.iter().map(|jid| (jid, false));
        let mut rows: Vec<(&Jid, bool)> = never.chain(always).collect();
        // Stable: of two that are equal, the one from `never` comes first and stays.
        rows.sort_by(|one, other| one.0.cmp(other.0));
        rows.dedup_by(|later, earlier| later.0 == earlier.0);
        rows
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, jid: Jid, archive: bool) {
        if archive {
            self.always.push(jid);
        } else {
            self.never.push(jid);
        }
    }

    /// What the lists say about messages with `peer`, if anything.
    pub(crate) fn exception(&self, peer: &Jid) -> Option<bool> {
        let is_in = |list: &[Jid], name: &str| list.iter().any(|jid| jid.as_str() == name);
        for name in [peer.as_str(), peer.bare_str()] {
            if is_in(&self.never, name) {
                return Some(false);
            }
            if is_in(&self.always, name) {
                return Some(true);
            }
        }
        None
    }
}

/// The archives of all accounts.
#[async_trait]
pub trait ArchiveStore {
    /// Looks into an account's archive. That of an account that does not exist is empty.
    ///
    /// # Errors
    /// Failures only.
    async fn archive(
        &self,
        account: &BareJid,
        query: &ArchiveQuery,
    ) -> Result<ArchiveAnswer, Error>;

    /// The oldest and the newest entry of an account's archive; `None` if it is empty.
    ///
    /// # Errors
    /// Failures only.
    async fn archive_bounds(&self, account: &BareJid) -> Result<Option<ArchiveBounds>, Error>;

    /// What an account wants archived; the lists are sorted. Everything, if it never said.
    ///
    /// # Errors
    /// Failures only.
    async fn archive_preferences(&self, account: &BareJid) -> Result<ArchivePreferences, Error>;

    /// Replaces what an account wants archived, for messages that come later. False if there is no
    /// such account.
    ///
    /// # Errors
    /// Failures only.
    async fn set_archive_preferences(
        &self,
        account: &BareJid,
        preferences: &ArchivePreferences,
    ) -> Result<bool, Error>;

    /// Removes archived entries that were accepted before `older_than`, and those of each account
    /// beyond its newest `max_per_account`. Undelivered entries stay.
    ///
    /// One call is one transaction and removes at most `batch` entries; it gives their number. 0:
    /// there is nothing left to remove.
    ///
    /// # Errors
    /// Failures only.
    async fn expire(
        &self,
        older_than: Option<SystemTime>,
        max_per_account: Option<u64>,
        batch: usize,
    ) -> Result<u64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    /// XEP-0441 §4.1
    #[test]
    fn a_listed_bare_jid_is_about_all_its_resources_and_a_full_one_about_itself() {
        let preferences = ArchivePreferences {
            default: ArchiveDefault::Always,
            always: vec![jid("a@x"), jid("b@x/r"), jid("c@x/r"), jid("d@x")],
            never: vec![jid("c@x"), jid("d@x")],
        };
        let exception = |peer: &str| preferences.exception(&jid(peer));
        assert_eq!(exception("a@x"), Some(true));
        assert_eq!(exception("a@x/any"), Some(true));
        assert_eq!(exception("b@x/r"), Some(true));
        assert_eq!(exception("b@x/other"), None);
        assert_eq!(exception("b@x"), None);
        assert_eq!(exception("c@x/r"), Some(true));
        assert_eq!(exception("c@x/other"), Some(false));
        assert_eq!(exception("d@x"), Some(false));
        assert_eq!(exception("e@x"), None);
    }
}
