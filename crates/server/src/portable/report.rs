//! What an export or import did, for people.

use std::fmt;

use rookery_features::subscription::is_listed;
use rookery_features::xep0227_portable::LeftOut;
use rookery_storage::{ArchivePreferences, WholeAccount};

/// How much of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Accounts.
    pub(crate) accounts: u64,
    /// Contacts in rosters.
    pub(crate) contacts: u64,
    /// Unanswered requests to see somebody's presence.
    pub(crate) requests: u64,
    /// Messages that were not delivered yet.
    pub(crate) offline: u64,
    /// Messages in archives.
    pub(crate) archived: u64,
    /// vCards.
    pub(crate) vcards: u64,
    /// Elements of private XML.
    pub(crate) private: u64,
    /// Blocked addresses.
    pub(crate) blocked: u64,
    /// Accounts that do not want everything archived.
    pub(crate) preferences: u64,
    /// Accounts of which it is known when they were last online.
    pub(crate) last: u64,
}

impl Counts {
    /// Counts an account, messages aside.
    pub(crate) fn add(&mut self, account: &WholeAccount) {
        let size = |size: usize| size as u64;
        let roster = &account.roster;
        self.accounts += 1;
        self.contacts += size(roster.iter().filter(|item| is_listed(item)).count());
        self.requests += size(roster.iter().filter(|i| i.pending_in.is_some()).count());
        self.vcards += u64::from(account.vcard.is_some());
        self.private += size(account.private.len());
        self.blocked += size(account.blocked.len());
        self.preferences += u64::from(account.preferences != ArchivePreferences::default());
        self.last += u64::from(account.last.is_some());
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = [
            ("contacts", self.contacts),
            ("subscription requests", self.requests),
            ("offline messages", self.offline),
            ("archived messages", self.archived),
            ("vCards", self.vcards),
            ("private elements", self.private),
            ("blocked addresses", self.blocked),
            ("archive preferences", self.preferences),
            ("times of last activity", self.last),
        ];
        write!(f, "accounts: {}", self.accounts)?;
        for (kind, count) in rest.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n{kind}: {count}")?;
        }
        Ok(())
    }
}

/// What an import did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    /// What was written.
    pub(crate) written: Counts,
    /// Accounts that were there, and were replaced.
    pub(crate) replaced: u64,
    /// Accounts that were there, and were left as they are.
    pub(crate) skipped: u64,
    /// Accounts that were not written because something is wrong with them.
    pub(crate) refused: u64,
    /// Accounts with keys for one hash function only.
    pub(crate) incomplete: u64,
    /// Accounts with neither password nor keys.
    pub(crate) without_keys: u64,
    /// What was read and is not kept.
    pub(crate) left_out: LeftOut,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.written)?;
        for (kind, count) in [
            ("accounts replaced", self.replaced),
            ("accounts skipped, as they exist", self.skipped),
            ("accounts refused", self.refused),
        ] {
            if count > 0 {
                write!(f, "\n{kind}: {count}")?;
            }
        }
        for (kind, count) in &self.left_out.0 {
            write!(f, "\nnot kept: {kind}: {count}")?;
        }
        if self.incomplete > 0 {
            write!(
                f,
                "\n{} accounts have keys for SCRAM-SHA-1 or SCRAM-SHA-256 only. Their clients \
                 cannot log in by the other one: until they have changed their passwords or logged \
                 in by PLAIN, set auth.mechanisms to what they have",
                self.incomplete
            )?;
        }
        if self.without_keys > 0 {
            write!(
                f,
                "\n{} accounts have no password. Nobody can log in to them until \
                 `rookery user passwd` gives them one",
                self.without_keys
            )?;
        }
        Ok(())
    }
}
