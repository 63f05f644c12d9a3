//! The data directory: made for its owner only, and held by one server.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The data directory, held by one server.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// It cannot be made or written to.
    #[error("server.data_dir: cannot use {}: {reason}", path.display())]
    Unusable {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// Another server runs on it.
    #[error(
        "server.data_dir: another server is using {}; give each its own, or stop the other",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// Makes the data directory if it is missing, for its owner only.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn create(path: &Path) -> Result<(), DataDirError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|reason| DataDirError::Unusable {
            path: path.into(),
            reason,
        })
}

impl DataDir {
    /// Makes the directory if needed and holds it until the process ends.
    ///
    /// # Errors
    /// If it cannot be used, or another server holds it.
    pub(crate) fn hold(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let file = path.join("rookery.lock");
        let fail = |reason| DataDirError::Unusable {
            path: file.clone(),
            reason,
        };
        let lock = File::create(&file).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.into(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.into() }),
            Err(fs::TryLockError::Error(source)) => Err(fail(source)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_holds_a_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = DataDir::hold(directory.path()).unwrap();
        assert!(matches!(
            DataDir::hold(directory.path()),
            Err(DataDirError::InUse { .. })
        ));
        drop(held);
        assert!(DataDir::hold(directory.path()).is_ok());
    }
}
