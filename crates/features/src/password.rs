//! Passwords: how they are prepared, turned into keys, and checked.
//!
//! The server keeps the keys of SCRAM (RFC 5802 §3) for both hash functions and nothing else; a
//! password that arrives in clear (PLAIN, in-band registration) is checked against the same keys.
//!
//! **Preparation.** RFC 5802 §2.2 asks for `SASLprep` (RFC 4013), RFC 8265 §4 for the `OpaqueString`
//! profile. They agree on ASCII. What the client hashes itself must be what was hashed when the keys
//! were made, and SCRAM clients use `SASLprep`, so that comes first. `OpaqueString` takes what `SASLprep`
//! refuses: characters that Unicode 3.2 did not have, emoji among them.
//!
//! **Cost.** Deriving keys and checking a password each run PBKDF2: a millisecond or more per
//! thousand iterations. Callers move them off the threads that serve connections.

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::num::NonZeroU32;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use ring::{digest, hmac, pbkdf2};
use rookery_proto::credentials::{Credentials, ScramKeys};
use rookery_proto::jid::BareJid;

/// The iteration count for new keys, unless configured: RFC 7677 §4 asks for 4096 at least.
pub const DEFAULT_ITERATIONS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// Octets of salt for new keys.
pub const SALT_LEN: usize = 16;

/// The longest password that is taken, in octets before preparation.
pub const MAX_PASSWORD_LEN: usize = 1023;

/// A password as the client sent it. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password in clear.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password in clear.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A password that cannot be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PasswordError {
    /// Nothing, or nothing left after preparation.
    #[error("the password is empty")]
    Empty,
    /// More than [`MAX_PASSWORD_LEN`] octets.
    #[error("the password is longer than {MAX_PASSWORD_LEN} bytes")]
    TooLong,
    /// Control characters, for example.
    #[error("the password has characters that no password may have")]
    Forbidden,
}

/// The hash functions of SCRAM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hash {
    /// SHA-1 (RFC 5802).
    Sha1,
    /// SHA-256 (RFC 7677).
    Sha256,
}

impl Hash {
    /// The keys for this hash function.
    pub fn of(self, credentials: &Credentials) -> &ScramKeys {
        match self {
            Self::Sha1 => &credentials.scram_sha1,
            Self::Sha256 => &credentials.scram_sha256,
        }
    }

    /// `HMAC(key, data)` of RFC 5802 §2.2.
    pub(crate) fn hmac(self, key: &[u8], data: &[u8]) -> hmac::Tag {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data)
    }

    /// `H(data)` of RFC 5802 §2.2.
    pub(crate) fn digest(self, data: &[u8]) -> digest::Digest {
        digest::digest(self.digest_algorithm(), data)
    }

    /// Octets of a key.
    pub(crate) fn len(self) -> usize {
        self.digest_algorithm().output_len()
    }

    fn digest_algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        }
    }

    /// `Hi(password, salt, iterations)` of RFC 5802 §2.2, which is PBKDF2.
    fn salted_password(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        };
        let mut salted = vec![0; self.len()];
        pbkdf2::derive(
            algorithm,
            iterations,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        salted
    }
}

/// Prepares a password: `SASLprep`, or else `OpaqueString`. ASCII stays as it is.
///
/// # Errors
/// If it is empty, too long, or holds what neither allows.
pub fn prepare(password: &str) -> Result<Cow<'_, str>, PasswordError> {
    if password.len() > MAX_PASSWORD_LEN {
        return Err(PasswordError::TooLong);
    }
    let prepared = match stringprep::saslprep(password) {
        Ok(prepared) => prepared,
        Err(_) => OpaqueString::enforce(password).map_err(|_| match password {
            "" => PasswordError::Empty,
            _ => PasswordError::Forbidden,
        })?,
    };
    if prepared.is_empty() {
        Err(PasswordError::Empty)
    } else {
        Ok(prepared)
    }
}

/// Makes the keys to store for a new password. Runs PBKDF2 twice: see the head of this file.
///
/// The salts are fresh random octets, [`SALT_LEN`] or more of them, another for each hash function.
///
/// # Errors
/// If the password cannot be prepared.
pub fn derive_credentials(
    password: &Password,
    salts: [&[u8]; 2],
    iterations: NonZeroU32,
) -> Result<Credentials, PasswordError> {
    let prepared = prepare(password.as_str())?;
    Ok(Credentials {
        scram_sha1: derive_keys(Hash::Sha1, &prepared, salts[0], iterations),
        scram_sha256: derive_keys(Hash::Sha256, &prepared, salts[1], iterations),
    })
}

fn derive_keys(hash: Hash, prepared: &str, salt: &[u8], iterations: NonZeroU32) -> ScramKeys {
    let salted = hash.salted_password(prepared, salt, iterations);
    let client_key = hash.hmac(&salted, b"Client Key");
    ScramKeys {
        salt: salt.to_vec(),
        iterations: iterations.get(),
        stored_key: hash.digest(client_key.as_ref()).as_ref().to_vec(),
        server_key: hash.hmac(&salted, b"Server Key").as_ref().to_vec(),
    }
}

/// Whether the password is the account's. Runs PBKDF2: see the head of this file.
///
/// For an unknown user pass [`made_up`] keys, so that the answer takes as long.
pub fn verify_password(password: &Password, credentials: &Credentials) -> bool {
    // An account that came from another server may have keys for one hash function only.
    let hash = if credentials.scram_sha256.is_missing() {
        Hash::Sha1
    } else {
        Hash::Sha256
    };
    let keys = hash.of(credentials);
    let (Ok(prepared), Some(iterations)) =
        (prepare(password.as_str()), NonZeroU32::new(keys.iterations))
    else {
        return false;
    };
    let derived = derive_keys(hash, &prepared, &keys.salt, iterations);
    equal(&derived.stored_key, &keys.stored_key)
}

/// The same keys, with made-up ones in the place of those that are missing: see [`made_up`].
#[must_use]
pub fn complete(
    mut credentials: Credentials,
    secret: &[u8],
    user: &BareJid,
    iterations: NonZeroU32,
) -> Credentials {
    if credentials.is_complete() {
        return credentials;
    }
    let made = made_up(secret, user, iterations);
    if credentials.scram_sha1.is_missing() {
        credentials.scram_sha1 = made.scram_sha1;
    }
    if credentials.scram_sha256.is_missing() {
        credentials.scram_sha256 = made.scram_sha256;
    }
    credentials
}

/// Keys for a user who does not exist: no password fits, and a client cannot tell them from real
/// ones.
///
/// The salt follows from the server's `secret` and the address, so that it is the same for each
/// attempt and on each node (RFC 5802 §9 leaves this to servers). The iteration count must be the
/// one that real accounts have; those made under another setting can be told apart by theirs.
pub fn made_up(secret: &[u8], user: &BareJid, iterations: NonZeroU32) -> Credentials {
    let part = |label: &str, hash: Hash| {
        let input = format!("{label}\0{}", user.as_str());
        Hash::Sha256.hmac(secret, input.as_bytes()).as_ref()[..hash.len()].to_vec()
    };
    let keys = |hash: Hash, label: &str| {
        let mut salt = part(&format!("salt {label}"), hash);
        salt.truncate(SALT_LEN);
        ScramKeys {
            salt,
            iterations: iterations.get(),
            stored_key: part(&format!("stored {label}"), hash),
            server_key: part(&format!("server {label}"), hash),
        }
    };
    Credentials {
        scram_sha1: keys(Hash::Sha1, "sha-1"),
        scram_sha256: keys(Hash::Sha256, "sha-256"),
    }
}

/// Compares in a time that depends on the lengths only.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITERATIONS: NonZeroU32 = NonZeroU32::new(16).unwrap();

    fn credentials(password: &str) -> Credentials {
        derive_credentials(
            &Password::new(password),
            [b"salt-one", b"salt-two"],
            ITERATIONS,
        )
        .unwrap()
    }

    #[test]
    fn a_password_fits_its_own_keys_only() {
        let credentials = credentials("secret");
        assert!(verify_password(&Password::new("secret"), &credentials));
        assert!(!verify_password(&Password::new("Secret"), &credentials));
        assert!(!verify_password(&Password::new("secret "), &credentials));
        assert!(!verify_password(&Password::new(""), &credentials));
    }

    #[test]
    fn keys_differ_by_salt_and_hash() {
        let credentials = credentials("secret");
        assert_eq!(credentials.scram_sha1.stored_key.len(), 20);
        assert_eq!(credentials.scram_sha256.stored_key.len(), 32);
        let other =
            derive_credentials(&Password::new("secret"), [b"other", b"other"], ITERATIONS).unwrap();
        assert_ne!(
            other.scram_sha256.stored_key,
            credentials.scram_sha256.stored_key
        );
    }

    #[test]
    fn damaged_keys_fit_nothing() {
        let mut credentials = credentials("secret");
        credentials.scram_sha256.iterations = 0;
        assert!(!verify_password(&Password::new("secret"), &credentials));
        credentials.scram_sha256.iterations = ITERATIONS.get();
        credentials.scram_sha256.stored_key.clear();
        assert!(!verify_password(&Password::new("secret"), &credentials));
    }

    #[test]
    fn a_password_is_checked_against_the_keys_that_there_are() {
        let mut credentials = credentials("secret");
        credentials.scram_sha256 = ScramKeys::missing();
        assert!(verify_password(&Password::new("secret"), &credentials));
        assert!(!verify_password(&Password::new("other"), &credentials));
        let ann = BareJid::parse("ann@localhost").unwrap();
        let completed = complete(credentials.clone(), b"key", &ann, ITERATIONS);
        assert_eq!(completed.scram_sha1, credentials.scram_sha1);
        assert_eq!(
            completed.scram_sha256,
            made_up(b"key", &ann, ITERATIONS).scram_sha256
        );
        credentials.scram_sha1 = ScramKeys::missing();
        assert!(!verify_password(&Password::new("secret"), &credentials));
    }

    /// RFC 4013 §3 and RFC 8265 §4.3.
    #[test]
    fn passwords_are_prepared() {
        assert_eq!(prepare("correct horse").unwrap(), "correct horse");
        assert_eq!(prepare("I\u{ad}X").unwrap(), "IX");
        assert_eq!(prepare("\u{aa}").unwrap(), "a");
        assert_eq!(prepare("\u{2168}").unwrap(), "IX");
        assert_eq!(prepare("a\u{a0}b").unwrap(), "a b");
        assert_eq!(prepare("e\u{301}").unwrap(), "\u{e9}");
        assert_eq!(prepare("Jack of \u{2666}s").unwrap(), "Jack of \u{2666}s");
        assert_eq!(
            prepare("\u{1f511}").unwrap(),
            "\u{1f511}",
            "not in Unicode 3.2"
        );
        assert_eq!(prepare(""), Err(PasswordError::Empty));
        assert_eq!(prepare("\u{ad}"), Err(PasswordError::Empty));
        assert_eq!(prepare("a\u{7}b"), Err(PasswordError::Forbidden));
        assert_eq!(
            prepare(&"x".repeat(MAX_PASSWORD_LEN + 1)),
            Err(PasswordError::TooLong)
        );
    }

    #[test]
    fn made_up_keys_are_stable_and_look_real() {
        let ann = BareJid::parse("ann@localhost").unwrap();
        let bob = BareJid::parse("bob@localhost").unwrap();
        let made = made_up(b"secret", &ann, ITERATIONS);
        assert_eq!(made, made_up(b"secret", &ann, ITERATIONS));
        assert_ne!(
            made.scram_sha1.salt,
            made_up(b"secret", &bob, ITERATIONS).scram_sha1.salt
        );
        assert_ne!(
            made.scram_sha1.salt,
            made_up(b"other", &ann, ITERATIONS).scram_sha1.salt
        );
        assert_ne!(made.scram_sha1.salt, made.scram_sha256.salt);
        for (hash, keys) in [
            (Hash::Sha1, &made.scram_sha1),
            (Hash::Sha256, &made.scram_sha256),
        ] {
            assert_eq!(keys.salt.len(), SALT_LEN);
            assert_eq!(keys.stored_key.len(), hash.len());
            assert_eq!(keys.server_key.len(), hash.len());
        }
        assert!(!verify_password(&Password::new("secret"), &made));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Password::new("secret")), "Password");
    }
}
