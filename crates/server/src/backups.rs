//! `rookery backup` and `rookery restore`: copies of the embedded database.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rookery_storage::backup::{back_up, restore};

use crate::config::Config;
use crate::data_dir::DataDir;

/// What `rookery backup` takes.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to make; it must not exist.
    file: PathBuf,
}

/// What `rookery restore` takes.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// What `rookery backup` has made.
    file: PathBuf,
}

/// Copies the database, whether a server runs or not.
///
/// # Errors
/// If there is no copy then.
pub(crate) fn run_backup(config: &Config, args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let database = database(
        config,
        "back it up with `pg_dump --format=custom --file=FILE DATABASE`, which works while the \
         cluster runs",
    )?;
    let checked = back_up(&database, &args.file, shown("copied"))?;
    eprintln!(
        "{} has {} accounts (schema version {})",
        args.file.display(),
        checked.accounts,
        checked.version
    );
    Ok(ExitCode::SUCCESS)
}

/// Puts a copy into the place of the database of a server that does not run.
///
/// # Errors
/// If the database is what it was before.
pub(crate) fn run_restore(config: &Config, args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let database = database(
        config,
        "stop all nodes and restore it with `pg_restore --clean --if-exists --dbname=DATABASE FILE`",
    )?;
    // Held until the database is in its place, so that no server starts meanwhile.
    let _held = DataDir::hold(&config.server.data_dir)
        .context("the server has to be stopped for a restore")?;
    let restored = restore(&args.file, &database, shown("copied"))?;
    eprintln!(
        "restored {} accounts (schema version {})",
        restored.backup.accounts, restored.backup.version
    );
    if let Some(kept) = restored.kept {
        eprintln!(
            "the database that was there before is {}; delete it when you do not need it any more",
            kept.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The file of the embedded database.
fn database(config: &Config, otherwise: &str) -> anyhow::Result<PathBuf> {
    let url = config.storage_url();
    match url.strip_prefix("sqlite:") {
        Some(path) => Ok(path.strip_prefix("//").unwrap_or(path).into()),
        None => bail!("the database is on a PostgreSQL server: {otherwise}"),
    }
}

/// Shows percents on a terminal.
fn shown(what: &'static str) -> impl FnMut(u64, u64) {
    let mut last = None;
    move |done, all| {
        let percent = (done * 100).checked_div(all).unwrap_or(100);
        if last != Some(percent) && io::stderr().is_terminal() {
            last = Some(percent);
            eprint!("\r{what} {percent} %");
            if percent == 100 {
                eprintln!();
            }
        }
    }
}
