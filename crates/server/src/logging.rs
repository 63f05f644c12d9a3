//! The log: `tracing` events on the standard error output, the audit log beside it, and the last events in
//! memory (`events.rs`).

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use rookery_actors::audit;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Audit, Log, LogFormat};
use crate::events::{self, Events};

/// The running log, to be changed.
#[derive(Debug, Clone)]
pub(crate) struct Logging {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<String>>,
    audit: AuditFile,
    events: Events,
}

/// Where the audit log goes: a file, or the standard error output.
#[derive(Debug, Clone, Default)]
struct AuditFile(Arc<Mutex<Option<File>>>);

impl AuditFile {
    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &AuditFile {
    // Each event is one call, so that lines are not torn apart.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.lock() {
            Some(file) => file.write_all(line)?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for AuditFile {
    type Writer = &'w Self;

    fn make_writer(&'w self) -> &'w Self {
        self
    }
}

impl Logging {
    /// Sends all further events to the standard error output, and those of the audit log where they
    /// belong.
    ///
    /// # Errors
    /// If the level is no filter, the audit log's file cannot be written, or the log was started before.
    pub(crate) fn start(log: &Log, audit: &Audit) -> anyhow::Result<Self> {
        let filter: Targets = log.level.parse().context("log.level")?;
        let terminal = io::stderr().is_terminal();
        let json = match log.format {
            LogFormat::Auto => !terminal,
            LogFormat::Json => true,
            LogFormat::Text => false,
        };
        let (filter, handle) = reload::Layer::new(filter);
        let filter = filter.and(filter_fn(|event| event.target() != audit::TARGET));
        let output = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let output = if json {
            let output = output.json().flatten_event(true).with_current_span(false);
            output.with_filter(filter).boxed()
        } else {
            let output = output.with_ansi(terminal).with_target(false);
            output.with_filter(filter).boxed()
        };
        let file = AuditFile::default();
        let logging = Self {
            filter: handle,
            level: Arc::new(Mutex::new(log.level.clone())),
            audit: file.clone(),
            events: Events::default(),
        };
        let opened = Self::open_audit(audit).context("audit.file")?;
        logging.replace_audit(opened);
        let audit = tracing_subscriber::fmt::layer().with_writer(file).json();
        let audit = audit.flatten_event(true).with_current_span(false);
        let audit = audit.with_filter(filter_fn(|event| event.target() == audit::TARGET));
        let events = logging
            .events
            .clone()
            .with_filter(filter_fn(events::is_kept));
        let layers = vec![output, audit.boxed(), events.boxed()];
        let started = tracing_subscriber::registry().with(layers).try_init();
        started.context("cannot start the log")?;
        Ok(logging)
    }

    /// The last events, whatever the level.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What is logged now, as in `log.level`.
    pub(crate) fn level(&self) -> String {
        self.lock().clone()
    }

    /// Logs this from now on, until the configuration is read again.
    ///
    /// # Errors
    /// What is wrong with the level.
    pub(crate) fn set_level(&self, level: &str) -> Result<(), String> {
        crate::config::check_log_level(level)?;
        let filter: Targets = level.parse().map_err(|error| format!("{error}"))?;
        // Held meanwhile, so that what is told is what is so.
        let mut current = self.lock();
        let replaced = self.filter.reload(filter);
        replaced.map_err(|error| format!("the log cannot be changed: {error}"))?;
        level.clone_into(&mut current);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file that the audit log is to go to, if there is one. It is made for its owner only.
    ///
    /// # Errors
    /// If it cannot be written; the text names it.
    pub(crate) fn open_audit(audit: &Audit) -> io::Result<Option<File>> {
        let Some(path) = &audit.file else {
            return Ok(None);
        };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        file.map(Some).map_err(|error| {
            let path: &PathBuf = path;
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })
    }

    /// Sends the audit log there from now on.
    pub(crate) fn replace_audit(&self, file: Option<File>) {
        *self.audit.lock() = file;
    }
}
