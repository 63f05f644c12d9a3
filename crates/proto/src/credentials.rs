//! What the server keeps of a password: the keys of SCRAM (RFC 5802 §3), never the password.
//!
//! Plain data for storage and the bus; how the keys are made and checked is in `rookery-features`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The keys of one account, for each hash function that the server speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credentials {
    /// For SCRAM-SHA-1 and SCRAM-SHA-1-PLUS (RFC 5802).
    pub scram_sha1: ScramKeys,
    /// For SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 7677), and to check a password sent by PLAIN.
    pub scram_sha256: ScramKeys,
}

/// What RFC 5802 §3 has the server store for one hash function.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramKeys {
    /// Random octets, told to the client.
    pub salt: Vec<u8>,
    /// How often PBKDF2 hashed the password; told to the client. 0 only in keys that are missing.
    pub iterations: u32,
    /// `StoredKey`: checks the client's proof.
    pub stored_key: Vec<u8>,
    /// `ServerKey`: makes the server's own proof.
    pub server_key: Vec<u8>,
}

impl ScramKeys {
    /// What stands for keys that nobody could make: another server had none for this hash function,
    /// and the password is not known.
    pub fn missing() -> Self {
        Self {
            salt: Vec::new(),
            iterations: 0,
            stored_key: Vec::new(),
            server_key: Vec::new(),
        }
    }

    /// Whether these stand for keys that there are not.
    pub fn is_missing(&self) -> bool {
        *self == Self::missing()
    }
}

impl Credentials {
    /// Whether there are keys for each hash function.
    pub fn is_complete(&self) -> bool {
        !self.scram_sha1.is_missing() && !self.scram_sha256.is_missing()
    }
}

// Keys are as good as passwords to whoever reads a log, so they are not shown.
impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown() {
        let keys = ScramKeys {
            salt: vec![1],
            iterations: 4096,
            stored_key: vec![222],
            server_key: vec![223],
        };
        let shown = format!(
            "{:?}",
            Credentials {
                scram_sha1: keys.clone(),
                scram_sha256: keys
            }
        );
        assert!(shown.contains("4096") && !shown.contains("222") && !shown.contains("223"));
    }
}
