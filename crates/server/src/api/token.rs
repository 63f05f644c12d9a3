//! The token that lets into the API over HTTP.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use ring::hmac;
use ring::rand::SystemRandom;

use crate::config::Config;

/// What may come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// No token is configured: nobody.
    Closed,
    /// This is not the token.
    Refused,
    /// It is.
    Allowed,
}

/// The configured token. It is kept as a code under a key of this process and compared in constant time.
pub(crate) struct Token {
    key: hmac::Key,
    tag: RwLock<Option<hmac::Tag>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The shortest token in bytes.
    pub(crate) const MIN_BYTES: usize = 16;

    /// The token of a configuration.
    ///
    /// # Errors
    /// If `admin.token_file` cannot be read or holds none.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()) else {
            anyhow::bail!("the operating system has no random numbers");
        };
        let tag = RwLock::new(None);
        let token = Self { key, tag };
        token.replace(read(config)?.as_deref());
        Ok(token)
    }

    /// Takes another one, or none.
    pub(super) fn replace(&self, token: Option<&str>) {
        let tag = token.map(|token| hmac::sign(&self.key, token.as_bytes()));
        *self.tag.write().unwrap_or_else(PoisonError::into_inner) = tag;
    }

    /// Whether who shows this may come in.
    pub(super) fn check(&self, shown: Option<&str>) -> Entry {
        let tag = *self.tag.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tag) = tag else {
            return Entry::Closed;
        };
        // Compares in constant time.
        let is_right = shown
            .is_some_and(|shown| hmac::verify(&self.key, shown.as_bytes(), tag.as_ref()).is_ok());
        if is_right {
            Entry::Allowed
        } else {
            Entry::Refused
        }
    }
}

/// The token that a configuration has.
///
/// # Errors
/// If `admin.token_file` cannot be read, or what it holds is too short.
pub(super) fn read(config: &Config) -> anyhow::Result<Option<String>> {
    use anyhow::Context as _;
    let Some(file) = &config.admin.token_file else {
        let token = config.admin.token.as_ref();
        return Ok(token.map(|token| token.reveal().to_owned()));
    };
    let token = file.secret().context("admin.token_file")?;
    if token.len() < Token::MIN_BYTES {
        anyhow::bail!(
            "admin.token_file: a token has {} characters at least",
            Token::MIN_BYTES
        );
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn only_the_token_lets_in() {
        let sources = Sources {
            environment: Some([].into()),
            ..Sources::default()
        };
        let config = Config::load(&sources).unwrap();
        let token = Token::of(&config).unwrap();
        assert_eq!(token.check(Some("")), Entry::Closed);
        assert_eq!(token.check(None), Entry::Closed);
        token.replace(Some("0123456789abcdef"));
        assert_eq!(token.check(Some("0123456789abcdef")), Entry::Allowed);
        for wrong in [
            None,
            Some(""),
            Some("0123456789abcdeF"),
            Some("0123456789abcdef0"),
        ] {
            assert_eq!(token.check(wrong), Entry::Refused, "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
