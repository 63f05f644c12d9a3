//! Addresses of services, and the passwords in them.

use std::fmt::{self, Write};
use std::marker::PhantomData;

use config::ValueKind;

use super::value::{Value, toml_string};

/// The address of a service, which may hold a password.
///
/// `SCHEMES` is one of the lists below; a const generic cannot be a list of words.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServiceUrl<S: Schemes> {
    url: String,
    schemes: PhantomData<S>,
}

/// Which services a [`ServiceUrl`] can name.
pub(crate) trait Schemes: Clone {
    /// What such a URL starts with, up to and including `://`.
    const ALLOWED: &'static [&'static str];
}

/// Databases.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StorageSchemes;

impl Schemes for StorageSchemes {
    const ALLOWED: &'static [&'static str] = &["sqlite://", "postgres://", "postgresql://"];
}

/// Redis: one server, also on a Unix socket, the one that Sentinels name, or a Redis Cluster.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RedisSchemes;

impl Schemes for RedisSchemes {
    const ALLOWED: &'static [&'static str] = &[
        "redis://",
        "redis+unix://",
        "redis-sentinel://",
        "redis-cluster://",
        "rediss://",
        "rediss-sentinel://",
        "rediss-cluster://",
    ];
}

impl<S: Schemes> ServiceUrl<S> {
    /// The whole address.
    pub(crate) fn as_str(&self) -> &str {
        &self.url
    }

    /// The address with its password replaced by `***`.
    pub(crate) fn masked(&self) -> String {
        mask_password(&self.url)
    }
}

impl<S: Schemes> fmt::Debug for ServiceUrl<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl<S: Schemes> Value for ServiceUrl<S> {
    fn allowed() -> String {
        format!("a URL that starts with {}", S::ALLOWED.join(", "))
    }

    fn read(raw: &ValueKind) -> Option<Self> {
        let ValueKind::String(text) = raw else {
            return None;
        };
        let text = text.trim();
        let rest = S::ALLOWED
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))?;
        (!rest.is_empty()).then(|| Self {
            url: text.into(),
            schemes: PhantomData,
        })
    }

    fn to_toml(&self) -> String {
        toml_string(&self.url)
    }

    fn to_masked_toml(&self) -> String {
        toml_string(&self.masked())
    }

    fn secrets(&self) -> Vec<String> {
        passwords(&self.url)
    }
}

/// Puts a password behind the user of a URL, if it has a user.
pub(super) fn with_password(url: &str, password: &str) -> String {
    let Some((user, rest)) = url.split_once('@') else {
        return url.into();
    };
    let mut encoded = String::with_capacity(password.len());
    for byte in password.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("{user}:{encoded}@{rest}")
}

/// Whether a URL names a user and no password.
pub(super) fn lacks_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    authority
        .split_once('@')
        .is_some_and(|(user, _)| !user.is_empty() && !user.contains(':'))
}

/// Replaces the passwords of a URL by `***`: the one of the authority and one given as a parameter.
pub(super) fn mask_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.into();
    };
    let rest = match split_user(rest) {
        Some((user, Some(_), host)) => format!("{user}:***@{host}"),
        _ => rest.to_owned(),
    };
    let Some((address, query)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let query: Vec<_> = query
        .split('&')
        .map(|parameter| match password_parameter(parameter) {
            Some((name, _)) => format!("{name}=***"),
            None => parameter.to_owned(),
        })
        .collect();
    format!("{scheme}://{address}?{}", query.join("&"))
}

/// The passwords of a URL, as they are written there.
fn passwords(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let of_user = split_user(rest).and_then(|(_, password, _)| password);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let parameters = query
        .split('&')
        .filter_map(|parameter| Some(password_parameter(parameter)?.1));
    of_user
        .into_iter()
        .chain(parameters)
        .map(str::to_owned)
        .collect()
}

/// Splits `USER:PASSWORD@HOST…` and `USER@HOST…`.
fn split_user(rest: &str) -> Option<(&str, Option<&str>, &str)> {
    // The last @ ends the user information: passwords are often not percent-encoded as they should be.
    let (user, host) = rest.rsplit_once('@')?;
    Some(match user.split_once(':') {
        Some((user, password)) => (user, Some(password), host),
        None => (user, None, host),
    })
}

/// Splits a parameter that is a password.
fn password_parameter(parameter: &str) -> Option<(&str, &str)> {
    parameter
        .split_once('=')
        // Redis by a Unix socket has `pass`.
        .filter(|(name, _)| name.to_ascii_lowercase().contains("pass"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> ValueKind {
        ValueKind::String(value.into())
    }

    #[test]
    fn passwords_of_services_are_not_shown() {
        for (url, shown) in [
            (
                "postgres://rook:s3@cret@db:5432/rookery",
                "postgres://rook:***@db:5432/rookery",
            ),
            (
                "postgres://db/rookery?user=a&password=s3cret",
                "postgres://db/rookery?user=a&password=***",
            ),
            ("redis://:s3cret@redis/0", "redis://:***@redis/0"),
            ("redis://redis", "redis://redis"),
            (
                "redis-sentinel://:s3cret@a,b/m?sentinel_password=s3cret",
                "redis-sentinel://:***@a,b/m?sentinel_password=***",
            ),
            (
                "redis+unix:///run/redis.sock?db=1&pass=s3cret",
                "redis+unix:///run/redis.sock?db=1&pass=***",
            ),
            ("sqlite://./data/rookery.db", "sqlite://./data/rookery.db"),
        ] {
            assert_eq!(mask_password(url), shown);
        }
        let url = ServiceUrl::<RedisSchemes>::read(&text("redis://:s3cret@redis")).unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
        assert!(!url.to_masked_toml().contains("s3cret"));
        assert!(url.to_toml().contains("s3cret"));
    }

    #[test]
    fn passwords_of_services_are_found() {
        for (url, found) in [
            ("postgres://rook:s3cret@db/rookery", vec!["s3cret"]),
            ("postgres://db/rookery?user=a&password=b", vec!["b"]),
            ("postgres://a:b@db/rookery?sslpassword=c", vec!["b", "c"]),
            ("redis://:s3cret@redis/0", vec!["s3cret"]),
            ("postgres://rook@db/rookery", vec![]),
            ("redis://redis", vec![]),
        ] {
            assert_eq!(passwords(url), found, "{url}");
        }
    }

    #[test]
    fn a_password_is_put_behind_the_user() {
        let url = "postgres://rook@db/rookery";
        assert!(lacks_password(url));
        assert_eq!(
            with_password(url, "a@b:c/d"),
            "postgres://rook:a%40b%3Ac%2Fd@db/rookery"
        );
        assert!(!lacks_password("postgres://rook:x@db/rookery"));
        assert!(!lacks_password("postgres://db/rookery"));
    }

    #[test]
    fn a_service_url_needs_a_known_scheme_and_an_address() {
        type Storage = ServiceUrl<StorageSchemes>;
        assert!(Storage::read(&text("sqlite://x")).is_some());
        for input in ["mysql://x", "sqlite://", "/var/lib/rookery.db", ""] {
            assert!(Storage::read(&text(input)).is_none(), "{input}");
        }
    }
}
