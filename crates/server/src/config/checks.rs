//! What must hold between settings.

use std::time::Duration;

use rookery_directory::RedisAddress;
use tracing::level_filters::LevelFilter;

use super::{Config, Problem, ProxyProtocol, TlsPolicy};
use crate::api::Token;

/// Reports values that do not fit together.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut refuse = |keys: &'static str, reason: String| {
        problems.push(Problem::Together { keys, reason });
    };
    streams(config, &mut refuse);
    certificates(config, &mut refuse);
    storage_and_cluster(config, &mut refuse);
    secrets(config, &mut refuse);
    administration(config, &mut refuse);
    log_level(config, &mut refuse);
}

/// Takes the keys and why their values cannot be.
type Refuse<'a> = dyn FnMut(&'static str, String) + 'a;

fn streams(config: &Config, refuse: &mut Refuse<'_>) {
    if config.server.domains.is_empty() {
        refuse(
            "server.domains",
            "at least one domain has to be served".into(),
        );
    }
    if config.auth.mechanisms.is_empty() {
        refuse(
            "auth.mechanisms",
            "without a mechanism nobody can log in".into(),
        );
    }
    if config.c2s.proxy_protocol == ProxyProtocol::V2 && config.c2s.proxy_trusted.is_empty() {
        refuse(
            "c2s.proxy_protocol, c2s.proxy_trusted",
            "the PROXY protocol is on, but nobody is trusted to send it: name the load balancers in \
             c2s.proxy_trusted, e.g. [\"10.0.0.0/8\"]"
                .into(),
        );
    }
    for (keys, time) in [
        ("c2s.negotiation_timeout", config.c2s.negotiation_timeout),
        (
            "limits.auth_failure_window",
            config.limits.auth_failure_window,
        ),
    ] {
        if time.is_zero() {
            refuse(keys, "has to be longer than nothing".into());
        }
    }
    if config.limits.outbox_bytes.get() < config.c2s.max_stanza_bytes.get() {
        refuse(
            "limits.outbox_bytes, c2s.max_stanza_bytes",
            "the outbox has to hold at least one stanza of the largest size".into(),
        );
    }
    if let Some(url) = &config.http.websocket_url
        && !(url.starts_with("wss://") || url.starts_with("ws://"))
    {
        refuse(
            "http.websocket_url",
            format!("{url:?} does not start with wss:// or ws://"),
        );
    }
}

fn certificates(config: &Config, refuse: &mut Refuse<'_>) {
    let keys = "tls.certificate, tls.key";
    match (&config.tls.certificate, &config.tls.key) {
        (Some(_), None) => {
            refuse(
                keys,
                "the certificate needs its private key: set tls.key as well".into(),
            );
        }
        (None, Some(_)) => {
            refuse(
                keys,
                "the key needs its certificate: set tls.certificate as well".into(),
            );
        }
        _ => {}
    }
}

fn storage_and_cluster(config: &Config, refuse: &mut Refuse<'_>) {
    let storage_url = config.storage_url();
    if let Some(url) = &config.storage.url
        && let Err(reason) = rookery_storage::check_url(url.as_str())
    {
        refuse(
            "storage.url",
            format!(
                "{:?} cannot be used: {reason}; allowed: sqlite://PATH, \
                 postgres://USER:PASSWORD@HOST:PORT/DATABASE (password, port and database can be left out)",
                url.masked()
            ),
        );
    }
    if let Some(url) = &config.cluster.redis {
        if let Err(error) = RedisAddress::parse(url.as_str()) {
            refuse("cluster.redis", error.to_string());
        }
        if storage_url.starts_with("sqlite:") {
            refuse(
                "cluster.redis, storage.url",
                "SQLite is a file of one node, but the nodes of a cluster have to share accounts and \
                 messages: set storage.url to postgres://…, or leave out cluster.redis to run one node"
                    .into(),
            );
        }
    }
    if config.storage.password_file.is_some() && !super::service_url::lacks_password(&storage_url) {
        refuse(
            "storage.password_file, storage.url",
            "the password of the file needs a user, and no other password, in storage.url: \
             postgres://USER@HOST/DATABASE"
                .into(),
        );
    }
    if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&config.cluster.lease) {
        refuse(
            "cluster.lease",
            "a lease lasts from \"1s\" to \"10m\"".into(),
        );
    }
}

/// What examples have in the place of a password must not go into production.
fn secrets(config: &Config, refuse: &mut Refuse<'_>) {
    for (key, secret) in config.secrets() {
        let letters = secret.chars().filter(char::is_ascii_alphanumeric);
        if letters.collect::<String>().eq_ignore_ascii_case("changeme") {
            refuse(
                key,
                "the password or token is still the example's \"changeme\", which everybody knows: \
                 make up another one, e.g. with `openssl rand -hex 24`"
                    .into(),
            );
        }
    }
}

fn administration(config: &Config, refuse: &mut Refuse<'_>) {
    let token = config.admin.token.as_ref();
    if token.is_some() && config.admin.token_file.is_some() {
        refuse(
            "admin.token, admin.token_file",
            "there is one token: set one of them only".into(),
        );
    }
    if token.is_some_and(|token| token.reveal().len() < Token::MIN_BYTES) {
        refuse(
            "admin.token",
            format!(
                "a token has {} characters at least: make one up with `openssl rand -hex 24`",
                Token::MIN_BYTES
            ),
        );
    }
}

fn log_level(config: &Config, refuse: &mut Refuse<'_>) {
    if let Err(reason) = check_log_level(&config.log.level) {
        refuse("log.level", reason);
    }
}

/// Whether a text can be `log.level`.
///
/// # Errors
/// Says what is wrong, and what is allowed.
pub(crate) fn check_log_level(level: &str) -> Result<(), String> {
    for part in level.split(',') {
        let level = part
            .rsplit_once('=')
            .map_or(part, |(_, level)| level)
            .trim();
        if level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{level:?} is no level; allowed: \"off\", \"error\", \"warn\", \"info\", \"debug\", \
                 \"trace\", and PART=LEVEL, separated by commas"
            ));
        }
    }
    Ok(())
}

/// What is allowed, but worth a warning at each start.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_local = |address: &std::net::SocketAddr| address.ip().to_canonical().is_loopback();
    let word = match config.c2s.tls {
        TlsPolicy::Required => None,
        TlsPolicy::Optional => Some("optional"),
        TlsPolicy::Disabled => Some("disabled"),
    };
    if let Some(word) = word {
        let open = config
            .c2s
            .listen
            .iter()
            .chain(&config.http.listen)
            .any(|a| !is_local(a));
        let reach = if open { " also to other machines" } else { "" };
        warnings.push(format!(
            "c2s.tls is \"{word}\": messages can cross the network unencrypted{reach}; \
             this is for tests on the loopback interface"
        ));
    }
    if config.admin.listen.iter().any(|address| !is_local(address)) {
        warnings.push(
            "admin.listen is open to other machines: there is no TLS, and only the API asks for a token; \
             keep strangers away from it by other means"
                .into(),
        );
    }
    warnings
}
