//! Random keys that all nodes share.

use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};

use crate::Error;

/// Keys of the installation, made when they are first asked for.
#[async_trait]
pub trait SecretStore {
    /// The key of this name. Whoever asks first makes it, from the system's random numbers; all
    /// others, on every node and after every restart, get the same.
    ///
    /// # Errors
    /// Failures only.
    async fn secret(&self, name: &str) -> Result<[u8; 32], Error>;
}

/// A new key.
pub(crate) fn random() -> Result<[u8; 32], Error> {
    let mut key = [0; 32];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| Error::unavailable("the system gives no random numbers"))?;
    Ok(key)
}
