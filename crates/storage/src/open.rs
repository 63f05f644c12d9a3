//! From a URL to a storage.

use std::{sync::Arc, time::Duration};

use crate::{Error, Storage, postgres, sqlite};

/// Bounds of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an operation may take, waiting in a queue included.
    pub timeout: Duration,
    /// How many operations may wait in one queue.
    pub queue: usize,
    /// How many threads read (`SQLite`).
    pub readers: usize,
    /// How many connections are open at most (`PostgreSQL`).
    pub connections: usize,
    /// How many contacts a roster holds at most.
    pub max_roster_items: usize,
    /// How many unanswered subscription requests of strangers an account keeps at most.
    pub max_pending_requests: usize,
    /// How many entries a block list has at most.
    pub max_blocked: usize,
    /// How many elements an account's private storage has at most.
    pub max_private: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            queue: 4096,
            readers: 2,
            connections: 8,
            max_roster_items: 2000,
            max_pending_requests: 500,
            max_blocked: 1000,
            max_private: 100,
        }
    }
}

/// Opens the storage that `url` names, creates or migrates its schema, and checks that it can be
/// written to.
///
/// `sqlite://PATH` (also `sqlite:PATH`) names a file, absolute or relative to the working directory;
/// it is created with mode 0600, its directory is not created. `postgres://USER@HOST/DATABASE` is
/// what libpq understands, see `postgres/tls.rs` for `sslmode`.
///
/// # Errors
/// [`Error::Open`], whose text tells an administrator what to do and holds no password.
pub async fn open(url: &str, options: Options) -> Result<Arc<dyn Storage>, Error> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok(Arc::new(
            sqlite::SqliteStorage::open(path.into(), options).await?,
        ));
    }
    if is_postgres(url) {
        return Ok(Arc::new(
            postgres::PostgresStorage::open(url, options).await?,
        ));
    }
    let scheme = url.split(':').next().unwrap_or_default();
    Err(Error::Open {
        place: format!("{scheme}:…"),
        reason: "the URL has to start with sqlite:// or postgres://".to_owned(),
    })
}

/// Whether a URL is one that [`open`] can use, as far as that shows without opening anything.
///
/// # Errors
/// Says what is wrong, without the password.
pub fn check_url(url: &str) -> Result<(), String> {
    if is_postgres(url) {
        return postgres::check_url(url);
    }
    Ok(())
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
