//! The log: `tracing` events on the standard error output.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Sends all further events to the standard error output.
///
/// # Errors
/// If the level is no filter, or the log was started before.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let filter: Targets = log.level.parse().context("log.level")?;
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        registry
            .with(output.json().flatten_event(true).with_current_span(false))
            .try_init()
    } else {
        registry
            .with(output.with_ansi(terminal).with_target(false))
            .try_init()
    }
    .context("cannot start the log")
}
