//! `rookery export`, `rookery import` and `rookery user export`: accounts in the portable format of
//! XEP-0227.
//!
//! What they do is in [`mod@export`] and [`mod@import`], which know neither the command line nor the terminal.

pub(crate) mod export;
pub(crate) mod import;

mod draft;
mod merged;
mod problems;
mod reading;
mod report;
mod spool;
mod walk;

use std::fs;
use std::io::{self, BufWriter, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use rookery_proto::jid::BareJid;
use rookery_storage::Storage;
use tempfile::{NamedTempFile, TempDir};

use self::export::{Which, export};
use self::import::{Event, Existing, Options, import, survey};
use crate::config::Config;
use crate::control::{self, AccountChanged, Reply, Request, Session};
use crate::{accounts, data_dir, wiring};

/// After how many accounts the progress is shown.
const STEP: u64 = 1000;

/// What `rookery export` takes.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file to make; it must not exist. "-" is the standard output.
    file: PathBuf,
    /// Only this domain, also one that is not served any more; can be repeated.
    #[arg(long, value_name = "DOMAIN", conflicts_with = "account")]
    domain: Vec<String>,
    /// Only this account; can be repeated.
    #[arg(long, value_name = "JID")]
    account: Vec<String>,
}

/// What `rookery import` takes.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct ImportArgs {
    /// A file, "-" for the standard input, or a directory whose files *.xml are all read.
    source: PathBuf,
    /// Accounts that exist are deleted, and those of the file take their places.
    #[arg(long, conflicts_with = "skip_existing")]
    replace: bool,
    /// Accounts that exist stay as they are.
    #[arg(long)]
    skip_existing: bool,
    /// Import the rest when something is wrong, instead of nothing.
    #[arg(long = "continue")]
    keep_going: bool,
    /// Only say what would be imported, and what is wrong.
    #[arg(long)]
    check: bool,
}

/// Runs `rookery export`.
///
/// # Errors
/// If nothing was written.
pub(crate) async fn run_export(config: &Config, args: ExportArgs) -> anyhow::Result<ExitCode> {
    let which = if args.account.is_empty() {
        Which::Domains(if args.domain.is_empty() {
            domains(config)
        } else {
            let prepared = |domain: &String| match BareJid::parse(domain) {
                Ok(jid) if jid.local().is_none() => Ok(jid.as_str().to_owned()),
                _ => bail!("{domain:?} is no domain"),
            };
            args.domain.iter().map(prepared).collect::<Result<_, _>>()?
        })
    } else {
        let accounts = args.account.iter().map(|address| account(address));
        Which::Accounts(accounts.collect::<Result<_, _>>()?)
    };
    let storage = open(config).await?;
    let result = write(&storage, &which, &[], &args.file).await;
    storage.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Writes all that is kept of one account, its sessions on this node included.
///
/// # Errors
/// If nothing was written.
pub(crate) async fn export_user(
    config: &Config,
    storage: &Arc<dyn Storage>,
    address: &str,
    file: &Path,
) -> anyhow::Result<()> {
    let account = account(address)?;
    let sessions = sessions(config).await;
    write(storage, &Which::Accounts(vec![account]), &sessions, file).await
}

/// Runs `rookery import`.
///
/// # Errors
/// If something is wrong and the rest is not wanted, or the import ended early.
pub(crate) async fn run_import(config: &Config, args: ImportArgs) -> anyhow::Result<ExitCode> {
    data_dir::create(&config.server.data_dir)?;
    let (source, _keep) = source(config, args.source.clone())?;
    let storage = open(config).await?;
    let result = read(config, &storage, &source, &args).await;
    storage.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn open(config: &Config) -> anyhow::Result<Arc<dyn Storage>> {
    data_dir::create(&config.server.data_dir)?;
    wiring::open_storage(config).await
}

fn domains(config: &Config) -> Vec<String> {
    let domains = config.server.domains.iter();
    domains.map(ToString::to_string).collect()
}

fn account(address: &str) -> anyhow::Result<BareJid> {
    let account = BareJid::parse(address).with_context(|| accounts::not_an_address(address))?;
    if account.local().is_none() {
        bail!("{}", accounts::not_an_address(address));
    }
    Ok(account)
}

/// The sessions of the server that runs here; none if none does.
async fn sessions(config: &Config) -> Vec<Session> {
    let mut sessions = Vec::new();
    let Ok(mut conversation) = control::ask(&config.server.data_dir, &Request::Sessions).await
    else {
        return sessions;
    };
    while let Ok(Reply::Session(session)) = conversation.next().await {
        sessions.push(session);
    }
    sessions
}

async fn write(
    storage: &Arc<dyn Storage>,
    which: &Which,
    sessions: &[Session],
    file: &Path,
) -> anyhow::Result<()> {
    let mut shown = Progress::new("exported");
    let mut progress = |accounts| shown.show(accounts);
    let counts = if file == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        export(&**storage, which, sessions, &mut out, &mut progress).await?
    } else {
        let target = NewFile::create(file)?;
        let mut out = BufWriter::new(target.temporary.as_file());
        let counts = export(&**storage, which, sessions, &mut out, &mut progress).await?;
        drop(out);
        target.finish()?;
        counts
    };
    shown.end();
    eprintln!("{counts}");
    Ok(())
}

/// A file that appears when it is complete, for its owner alone.
struct NewFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!("{} exists already, and is not overwritten", path.display());
        }
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let temporary = NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        Ok(Self {
            temporary,
            path: path.to_owned(),
        })
    }

    fn finish(self) -> anyhow::Result<()> {
        let Self { temporary, path } = self;
        let shown = path.display().to_string();
        temporary.as_file().sync_all().context(shown.clone())?;
        temporary.persist_noclobber(path).context(shown)?;
        Ok(())
    }
}

/// The file or directory to read; what comes from the standard input is read twice, so it is kept.
fn source(config: &Config, source: PathBuf) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if source != Path::new("-") {
        return Ok((source, None));
    }
    // A directory of its own: a file without a place of its own includes nothing.
    let directory = tempfile::Builder::new()
        .prefix("import-")
        .tempdir_in(&config.server.data_dir)
        .context("server.data_dir")?;
    let path = directory.path().join("standard-input");
    let mut file = fs::File::create(&path).context("server.data_dir")?;
    io::copy(&mut io::stdin().lock(), &mut file).context("the standard input")?;
    Ok((path, Some(directory)))
}

async fn read(
    config: &Config,
    storage: &Arc<dyn Storage>,
    source: &Path,
    args: &ImportArgs,
) -> anyhow::Result<()> {
    let options = Options {
        existing: match (args.replace, args.skip_existing) {
            (true, _) => Existing::Replace,
            (false, true) => Existing::Skip,
            (false, false) => Existing::Refuse,
        },
        keep_going: args.keep_going,
        domains: domains(config),
        iterations: wiring::scram_iterations(config)?,
        spool_dir: config.server.data_dir.clone(),
    };
    let mut checked = Progress::new("checked");
    let mut imported = Progress::new("imported");
    let mut replaced = Vec::new();
    let mut on = |event: Event<'_>| match event {
        Event::Read(accounts) => checked.show(accounts),
        Event::Written(accounts) => imported.show(accounts),
        Event::Replaced(account) => replaced.push(account.clone()),
    };
    let result = if args.check {
        survey(&**storage, source, &options, &mut on).await
    } else {
        import(&**storage, source, &options, &mut on).await
    };
    checked.end();
    imported.end();
    for account in replaced {
        accounts::tell(config, AccountChanged::removed(account)).await;
    }
    let (report, problems) = match result {
        Ok(done) => done,
        Err(error @ import::ImportError::Wrong(_)) => {
            eprintln!("{error}");
            bail!("nothing was imported; --continue imports the rest");
        }
        Err(error) => return Err(error.into()),
    };
    if !problems.is_empty() {
        eprintln!("{problems}");
    }
    println!("{report}");
    if args.check && !problems.is_empty() {
        bail!("something is wrong; nothing was imported");
    }
    Ok(())
}

/// Numbers on a terminal.
struct Progress {
    what: &'static str,
    shown: u64,
}

impl Progress {
    fn new(what: &'static str) -> Self {
        Self { what, shown: 0 }
    }

    fn show(&mut self, accounts: u64) {
        if accounts >= self.shown + STEP && io::stderr().is_terminal() {
            self.shown = accounts;
            eprint!("\r{} {accounts} accounts", self.what);
        }
    }

    fn end(&mut self) {
        if self.shown > 0 {
            eprintln!();
            self.shown = 0;
        }
    }
}
