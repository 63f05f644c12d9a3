//! From XEP-0227 files into the database.
//!
//! Everything is read twice. The first time nothing is written: whatever is wrong is found then. The
//! second time accounts are written in groups, each group in one transaction. The messages of an account
//! are written before, to an account that nobody can log in to, and become its log in the transaction that
//! makes it: so nobody sees half an account, and a crash leaves whole ones only.
//!
//! In memory are one account without its messages, one group of accounts or messages, the ids of one
//! account's offline messages, and 8 octets for each account of the file.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::rand::{SecureRandom, SystemRandom};
use rookery_features::password::{Password, SALT_LEN, derive_credentials};
use rookery_features::xep0227_portable::Logged;
use rookery_proto::credentials::{Credentials, ScramKeys};
use rookery_proto::jid::BareJid;
use rookery_storage::{LogCopy, NewMessage, Pending, Storage, WholeAccount};

use super::draft::Draft;
use super::merged::Merged;
use super::problems::Problems;
use super::reading::{Found, Kind, Reading};
use super::report::{Counts, Report};
use super::spool::Spool;
use super::walk::Unreadable;

/// Accounts that are written in one transaction.
const GROUP: usize = 100;

/// Messages that are written in one transaction, and about how many octets they have.
const MESSAGES: usize = 250;
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// The domain of accounts that are being written. No client can ask for it (RFC 2606 §2).
const UNFINISHED: &str = "import.invalid";

/// What is to happen to accounts that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Nothing is imported.
    Refuse,
    /// They are deleted, and those of the file take their places.
    Replace,
    /// They stay as they are.
    Skip,
}

/// How to import.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// About accounts that are there.
    pub(crate) existing: Existing,
    /// What is wrong is left out, instead of everything.
    pub(crate) keep_going: bool,
    /// The domains that accounts may have.
    pub(crate) domains: Vec<String>,
    /// For keys that are made from passwords.
    pub(crate) iterations: NonZeroU32,
    /// Where there is room for the messages of one account.
    pub(crate) spool_dir: PathBuf,
}

/// What happens meanwhile.
#[derive(Debug)]
pub(crate) enum Event<'e> {
    /// So many accounts were read for the first time.
    Read(u64),
    /// So many accounts are written.
    Written(u64),
    /// An account that was there is replaced: its sessions are to be ended.
    Replaced(&'e BareJid),
}

/// Why an import did not happen, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// A file cannot be read on.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Data is wrong.
    #[error("{0}")]
    Wrong(Problems),
    /// The database failed.
    #[error("account {account}: {error}")]
    Storage {
        /// The account that was being read or written; the last of its group.
        account: BareJid,
        /// What happened.
        error: rookery_storage::Error,
    },
    /// The messages of an account cannot be kept for a moment.
    #[error("cannot write to a temporary file: {0}")]
    Spool(#[from] io::Error),
    /// The operating system refuses.
    #[error("{0}")]
    System(&'static str),
}

/// Reads everything and changes nothing: what an import would do, and what is wrong.
///
/// Files are read on the caller's thread.
///
/// # Errors
/// If a file cannot be read on, or the database fails. What is wrong otherwise is no error here.
pub(crate) async fn survey(
    storage: &dyn Storage,
    source: &Path,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<(Report, Problems), ImportError> {
    let mut reading = Reading::begin(source, options)?;
    let mut report = Report::default();
    loop {
        let mut messages = Counts::default();
        let found = reading.account(&mut |_, kind| {
            *match kind {
                Kind::Offline => &mut messages.offline,
                Kind::Archived => &mut messages.archived,
            } += 1;
            Ok(())
        })?;
        let Some(found) = found else {
            break;
        };
        let fate = fate(storage, &found, options, &mut reading.problems).await?;
        if count_fate(&mut report, fate) {
            let keys = found.draft.keys();
            count_keys(&mut report, found.draft.password.is_some(), &keys);
            let (account, left_out) = found.draft.finish(keys, None);
            report.written.add(&account);
            report.written.offline += messages.offline;
            report.written.archived += messages.archived;
            report.left_out.merge(left_out);
        }
        on(Event::Read(report.written.accounts));
    }
    report.refused += reading.nameless;
    report.left_out.merge(reading.left_out);
    Ok((report, reading.problems))
}

/// Imports, if nothing is wrong or [`Options::keep_going`] is set. One import runs at a time.
///
/// Files are read on the caller's thread.
///
/// # Errors
/// [`ImportError::Wrong`]; then nothing was changed. Otherwise whole groups of accounts may have been
/// imported before.
pub(crate) async fn import(
    storage: &dyn Storage,
    source: &Path,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<(Report, Problems), ImportError> {
    let (_, problems) = survey(storage, source, options, on).await?;
    if !problems.is_empty() && !options.keep_going {
        return Err(ImportError::Wrong(problems));
    }
    remove_unfinished(storage).await?;
    let mut writing = Writing {
        storage,
        options,
        report: Report::default(),
        group: Vec::new(),
        replaced: Vec::new(),
        offline: Spool::new(&options.spool_dir)?,
        archive: Spool::new(&options.spool_dir)?,
    };
    match writing.run(source, on).await {
        Ok(()) => Ok((writing.report, problems)),
        Err(error) => {
            // What matters is the error; the next import tries again.
            drop(remove_unfinished(storage).await);
            Err(error)
        }
    }
}

/// What happens to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    New,
    Replaces,
    Skipped,
    Refused,
}

async fn fate(
    storage: &dyn Storage,
    found: &Found,
    options: &Options,
    problems: &mut Problems,
) -> Result<Fate, ImportError> {
    if !found.usable {
        return Ok(Fate::Refused);
    }
    let account = &found.draft.jid;
    let exists = storage.exists(account).await;
    let exists = exists.map_err(|error| storage_error(account, error))?;
    Ok(match options.existing {
        _ if !exists => Fate::New,
        Existing::Replace => Fate::Replaces,
        Existing::Skip => Fate::Skipped,
        Existing::Refuse => {
            let reason = "the account exists already; --replace or --skip-existing says what to do";
            problems.add(found.place.clone(), Some(account), &reason);
            Fate::Refused
        }
    })
}

/// Counts an account's fate; gives whether it is written.
fn count_fate(report: &mut Report, fate: Fate) -> bool {
    match fate {
        Fate::New => return true,
        Fate::Replaces => {
            report.replaced += 1;
            return true;
        }
        Fate::Skipped => report.skipped += 1,
        Fate::Refused => report.refused += 1,
    }
    false
}

fn count_keys(report: &mut Report, has_password: bool, keys: &Credentials) {
    if has_password || keys.is_complete() {
        return;
    }
    if keys.scram_sha1.is_missing() && keys.scram_sha256.is_missing() {
        report.without_keys += 1;
    } else {
        report.incomplete += 1;
    }
}

fn storage_error(account: &BareJid, error: rookery_storage::Error) -> ImportError {
    ImportError::Storage {
        account: account.clone(),
        error,
    }
}

/// Removes what an import left that was interrupted.
async fn remove_unfinished(storage: &dyn Storage) -> Result<(), ImportError> {
    loop {
        let fail = |error| ImportError::Storage {
            account: BareJid::new(None, UNFINISHED).expect("it is a domain"),
            error,
        };
        let left = storage.accounts(UNFINISHED, None, GROUP).await;
        let left = left.map_err(fail)?;
        if left.is_empty() {
            return Ok(());
        }
        for account in left {
            storage.delete(&account).await.map_err(fail)?;
        }
    }
}

/// The second time that a file is read.
struct Writing<'w> {
    storage: &'w dyn Storage,
    options: &'w Options,
    report: Report,
    group: Vec<WholeAccount>,
    /// Those of the group that take the place of others.
    replaced: Vec<BareJid>,
    /// The messages of the account that is being read.
    offline: Spool,
    archive: Spool,
}

impl Writing<'_> {
    async fn run(
        &mut self,
        source: &Path,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ImportError> {
        let mut reading = Reading::begin(source, self.options)?;
        loop {
            self.offline.clear()?;
            self.archive.clear()?;
            let (offline, archive) = (&mut self.offline, &mut self.archive);
            let found = reading.account(&mut |message, kind| match kind {
                Kind::Offline => offline.push(message),
                Kind::Archived => archive.push(message),
            })?;
            let Some(found) = found else {
                break;
            };
            // What is wrong was told the first time.
            let mut told = Problems::default();
            let fate = fate(self.storage, &found, self.options, &mut told).await?;
            if count_fate(&mut self.report, fate) {
                if fate == Fate::Replaces {
                    self.replaced.push(found.draft.jid.clone());
                }
                self.account(found.draft).await?;
                if self.group.len() == GROUP {
                    self.write_group(on).await?;
                }
            }
        }
        self.write_group(on).await?;
        self.report.refused += reading.nameless;
        self.report.left_out.merge(reading.left_out);
        Ok(())
    }

    /// Adds an account to the group; its messages are written.
    async fn account(&mut self, draft: Draft) -> Result<(), ImportError> {
        let keys = draft.keys();
        count_keys(&mut self.report, draft.password.is_some(), &keys);
        let credentials = match draft.password.clone() {
            Some(password) => derive(password, self.options.iterations).await?,
            None => keys,
        };
        let log_of = if self.offline.count() + self.archive.count() > 0 {
            Some(self.write_log(&draft.jid).await?)
        } else {
            None
        };
        let (account, left_out) = draft.finish(credentials, log_of);
        self.report.left_out.merge(left_out);
        self.group.push(account);
        Ok(())
    }

    async fn write_group(&mut self, on: &mut dyn FnMut(Event<'_>)) -> Result<(), ImportError> {
        let group = std::mem::take(&mut self.group);
        let Some(last) = group.last().map(|account| account.jid.clone()) else {
            return Ok(());
        };
        let mut written = self.report.written.clone();
        for account in &group {
            written.add(account);
        }
        let replace = self.options.existing == Existing::Replace;
        let put = self.storage.put_accounts(group, replace).await;
        put.map_err(|error| storage_error(&last, error))?;
        self.report.written = written;
        for account in self.replaced.drain(..) {
            on(Event::Replaced(&account));
        }
        on(Event::Written(self.report.written.accounts));
        Ok(())
    }

    /// Writes the messages that were read, to an account that has no other name yet.
    async fn write_log(&mut self, account: &BareJid) -> Result<BareJid, ImportError> {
        let fail = |error| storage_error(account, error);
        let unfinished = unfinished()?;
        let no_keys = Credentials {
            scram_sha1: ScramKeys::missing(),
            scram_sha256: ScramKeys::missing(),
        };
        let created = self.storage.create(&unfinished, &no_keys).await;
        created.map_err(fail)?;
        let offline: HashSet<String> = ids(&mut self.offline)?.collect::<Result<_, _>>()?;
        let both: HashSet<String> = ids(&mut self.archive)?
            .filter(|id| id.as_ref().map_or(true, |id| offline.contains(id)))
            .collect::<Result<_, _>>()?;
        let mut merged = Merged {
            archive: self.archive.read()?.peekable(),
            offline: self.offline.read()?.peekable(),
            both,
        };
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < MESSAGES && bytes < MESSAGE_BYTES {
                let Some((message, kind)) = merged.next()? else {
                    break;
                };
                bytes += message.stanza.len();
                let is_pending = kind == Kind::Offline
                    || message
                        .id
                        .as_ref()
                        .is_some_and(|id| merged.both.contains(id));
                let is_archived = kind == Kind::Archived || message.id.is_some();
                self.report.written.archived += u64::from(is_archived);
                self.report.written.offline += u64::from(is_pending);
                batch.push(new_message(message, &unfinished, is_archived, is_pending));
            }
            if batch.is_empty() {
                return Ok(unfinished);
            }
            let appended = self.storage.append(batch, usize::MAX).await.map_err(fail)?;
            if appended.iter().any(Result::is_err) {
                return Err(ImportError::System(
                    "an account that was being written is gone; did another import run?",
                ));
            }
        }
    }
}

fn ids(spool: &mut Spool) -> io::Result<impl Iterator<Item = io::Result<String>> + use<>> {
    Ok(spool.read()?.filter_map(|message| match message {
        Ok(message) => message.id.map(Ok),
        Err(error) => Some(Err(error)),
    }))
}

fn new_message(message: Logged, account: &BareJid, archive: bool, is_pending: bool) -> NewMessage {
    let is_sent = message.sent && !is_pending;
    let copy = LogCopy {
        account: account.clone(),
        peer: message.peer,
        archive,
        pending: if is_pending {
            Pending::Offline
        } else {
            Pending::No
        },
    };
    let (recipient, sender) = if is_sent {
        (None, Some(copy))
    } else {
        (Some(copy), None)
    };
    NewMessage {
        at: message.at.unwrap_or_else(SystemTime::now),
        stanza: message.stanza.into(),
        recipient,
        sender,
    }
}

/// An address that nobody has.
fn unfinished() -> Result<BareJid, ImportError> {
    let name = format!("{:032x}", u128::from_be_bytes(random()?));
    BareJid::new(Some(&name), UNFINISHED)
        .map_err(|_| ImportError::System("an address cannot be made"))
}

/// Makes keys; PBKDF2 takes its time.
async fn derive(password: Password, iterations: NonZeroU32) -> Result<Credentials, ImportError> {
    let salts = [random::<SALT_LEN>()?, random::<SALT_LEN>()?];
    let derive = move || derive_credentials(&password, [&salts[0], &salts[1]], iterations).ok();
    let derived = tokio::task::spawn_blocking(derive).await;
    derived
        .ok()
        .flatten()
        .ok_or(ImportError::System("keys cannot be made of a password"))
}

fn random<const N: usize>() -> Result<[u8; N], ImportError> {
    let mut octets = [0; N];
    SystemRandom::new()
        .fill(&mut octets)
        .map_err(|_| ImportError::System("the operating system has no random numbers"))?;
    Ok(octets)
}
