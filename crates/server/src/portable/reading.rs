//! Accounts out of files, checked as far as files alone can be.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;

use rookery_features::xep0227_portable::{self as portable, LeftOut, Logged};
use rookery_proto::jid::BareJid;

use super::draft::Draft;
use super::import::{ImportError, Options};
use super::problems::Problems;
use super::walk::{Next, Unreadable, Walk};

/// Which messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not delivered yet.
    Offline,
    /// In the archive.
    Archived,
}

/// Where messages go that were read.
pub(super) type Messages<'m> = dyn FnMut(Logged, Kind) -> io::Result<()> + 'm;

/// An account that was read.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it begins.
    pub(super) place: String,
    /// All but its messages.
    pub(super) draft: Draft,
    /// Whether it may be written.
    pub(super) usable: bool,
}

/// Reading a file from its beginning to its end.
pub(super) struct Reading<'o> {
    walk: Walk,
    options: &'o Options,
    /// What is wrong so far.
    pub(super) problems: Problems,
    /// What belongs to no account and is not kept.
    pub(super) left_out: LeftOut,
    hasher: RandomState,
    /// Hashes of the accounts that were there. That two of a million have the same one, so that one of
    /// them is refused, happens once in 37 million imports.
    seen: HashSet<u64>,
    /// Accounts that have no usable address.
    pub(super) nameless: u64,
}

impl<'o> Reading<'o> {
    /// Begins.
    ///
    /// # Errors
    /// If there is no such file or directory.
    pub(super) fn begin(source: &Path, options: &'o Options) -> Result<Self, Unreadable> {
        Ok(Self {
            walk: Walk::begin(source)?,
            options,
            problems: Problems::default(),
            left_out: LeftOut::default(),
            hasher: RandomState::new(),
            seen: HashSet::new(),
            nameless: 0,
        })
    }

    /// Reads the next account; `None` after the last one.
    ///
    /// # Errors
    /// If a file cannot be read on, or `messages` fails.
    pub(super) fn account(
        &mut self,
        messages: &mut Messages<'_>,
    ) -> Result<Option<Found>, ImportError> {
        loop {
            match self.walk.next()? {
                Next::Account(head) => {
                    let place = self.walk.place();
                    match head.jid {
                        Ok(jid) => {
                            let found = self.content(place, &jid, head.password, messages)?;
                            return Ok(Some(found));
                        }
                        Err(reason) => {
                            self.problems.add(place, None, &reason);
                            self.nameless += 1;
                            while !matches!(self.walk.next()?, Next::End | Next::Done) {}
                        }
                    }
                }
                Next::LeftOut(kind, count) => self.left_out.add(kind, count),
                Next::Done => return Ok(None),
                Next::Datum(_) | Next::Offline(_) | Next::Archived(_) | Next::End => {}
            }
        }
    }

    /// Reads what is in a `<user/>`.
    fn content(
        &mut self,
        place: String,
        jid: &BareJid,
        password: Option<String>,
        messages: &mut Messages<'_>,
    ) -> Result<Found, ImportError> {
        let usable = self.check_address(&place, jid);
        let (mut draft, password) = Draft::new(jid.clone(), password);
        if let Err(invalid) = password {
            let reason = format!("the password is refused: {invalid}");
            self.problems.add(place.clone(), Some(jid), &reason);
        }
        loop {
            let (message, kind) = match self.walk.next()? {
                Next::Datum(element) => {
                    if let Err(invalid) = draft.add(&element) {
                        self.problems.add(self.walk.place(), Some(jid), &invalid);
                    }
                    continue;
                }
                Next::LeftOut(kind, count) => {
                    draft.left_out.add(kind, count);
                    continue;
                }
                Next::Offline(message) => (portable::read_offline(jid, &message), Kind::Offline),
                Next::Archived(result) => (portable::read_archived(jid, &result), Kind::Archived),
                Next::Account(_) | Next::End | Next::Done => break,
            };
            match message {
                Ok(message) if usable => messages(message, kind)?,
                Ok(_) => {}
                Err(invalid) => self.problems.add(self.walk.place(), Some(jid), &invalid),
            }
        }
        Ok(Found {
            place,
            draft,
            usable,
        })
    }

    /// Whether an account of this address may be imported.
    fn check_address(&mut self, place: &str, jid: &BareJid) -> bool {
        let reason = if !self.options.domains.iter().any(|d| d == jid.domain()) {
            let served = self.options.domains.join(", ");
            format!(
                "{} is not a served domain; server.domains has {served}",
                jid.domain()
            )
        } else if !self.seen.insert(self.hasher.hash_one(jid.as_str())) {
            "the account comes twice".to_owned()
        } else {
            return true;
        };
        self.problems.add(place.to_owned(), Some(jid), &reason);
        false
    }
}
