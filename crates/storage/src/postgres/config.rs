//! From a `postgres://` URL to how to connect.

use std::time::Duration;

use tokio_postgres::config::{Config, Host, SslMode};

use super::tls::Tls;

/// How to connect, and what to call it.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Hosts and database, for people; no user and no password.
    pub(super) place: String,
}

impl Target {
    /// Reads a URL. `timeout` bounds connecting and noticing that the other side is gone.
    ///
    /// # Errors
    /// In words.
    pub(super) fn parse(url: &str, timeout: Duration) -> Result<Self, String> {
        let (mut config, parameters) = read(url)?;
        let tls = Tls::new(parameters.verifies(), parameters.authorities.as_deref())?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(timeout);
        }
        if config.get_application_name().is_none() {
            config.application_name("rookery");
        }
        config.keepalives_idle(Duration::from_secs(30));
        let place = place(&config);
        Ok(Self { config, tls, place })
    }
}

/// Reads a URL; no file that it names is looked at.
///
/// # Errors
/// In words, without the password.
pub(super) fn read(url: &str) -> Result<(Config, Parameters), String> {
    let (url, parameters) = split(url);
    let mut config: Config = url.parse().map_err(|error| super::explain(&error))?;
    match parameters.mode.as_deref() {
        None | Some("prefer") => {}
        Some("disable") => {
            config.ssl_mode(SslMode::Disable);
        }
        Some("require" | "verify-ca" | "verify-full") => {
            config.ssl_mode(SslMode::Require);
        }
        Some(other) => {
            return Err(format!(
                "sslmode={other} is unknown: use disable, prefer, require or verify-full"
            ));
        }
    }
    if config.get_hosts().is_empty() {
        return Err("the URL names no host: postgres://USER@HOST/DATABASE".to_owned());
    }
    if config
        .get_hosts()
        .iter()
        .all(|host| matches!(host, Host::Unix(_)))
    {
        config.ssl_mode(SslMode::Disable);
    }
    if config.get_user().is_none_or(str::is_empty) {
        return Err("the URL names no user: postgres://USER@HOST/DATABASE".to_owned());
    }
    Ok((config, parameters))
}

/// The parameters of a URL that tokio-postgres does not know.
#[derive(Default)]
pub(super) struct Parameters {
    mode: Option<String>,
    authorities: Option<String>,
}

impl Parameters {
    /// Whether the server has to prove who it is.
    fn verifies(&self) -> bool {
        let mode = self.mode.as_deref();
        matches!(mode, Some("require" | "verify-ca" | "verify-full"))
    }
}

/// Takes `sslmode` and `sslrootcert` out of a URL.
fn split(url: &str) -> (String, Parameters) {
    let mut parameters = Parameters::default();
    let Some((base, query)) = url.split_once('?') else {
        return (url.to_owned(), parameters);
    };
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", mode)) => parameters.mode = Some(mode.to_owned()),
            Some(("sslrootcert", file)) => parameters.authorities = Some(file.to_owned()),
            _ => rest.push(pair),
        }
    }
    (format!("{base}?{}", rest.join("&")), parameters)
}

fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(directory) => format!("{}/.s.PGSQL.{port}", directory.display()),
            }
        })
        .collect();
    let database = config
        .get_dbname()
        .or(config.get_user())
        .unwrap_or_default();
    format!("postgres://{}/{database}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, String> {
        Target::parse(url, Duration::from_secs(10))
    }

    fn refused(url: &str) -> String {
        match parse(url) {
            Ok(_) => panic!("{url} was accepted"),
            Err(reason) => reason,
        }
    }

    #[test]
    fn the_place_has_no_password() {
        let target = parse("postgres://ann:secret@db1:5433,db2:5434/rookery").unwrap();
        assert_eq!(target.place, "postgres://db1:5433,db2:5434/rookery");
        let target = parse("postgresql://ann:secret@%2Frun%2Fpg/x?sslmode=disable").unwrap();
        assert_eq!(target.place, "postgres:///run/pg/.s.PGSQL.5432/x");
        assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn other_parameters_are_kept() {
        let url = "postgres://ann@db/x?connect_timeout=3&sslmode=verify-full&application_name=r";
        let target = parse(url).unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(
            target.config.get_connect_timeout(),
            Some(&Duration::from_secs(3))
        );
        assert_eq!(target.config.get_application_name(), Some("r"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused("postgres://ann@db/x?sslmode=allways").contains("sslmode=allways"));
        assert!(refused("postgres:///x").contains("no host"));
        assert!(refused("postgres://db/x").contains("no user"));
        assert!(refused("postgres://:secret@db/x").contains("no user"));
        assert!(refused("postgres://ann@db/x?colour=red").contains("colour"));
        let url = "postgres://ann@db/x?sslmode=require&sslrootcert=/no/such.pem";
        assert!(read(url).is_ok(), "files are not looked at");
        let missing = refused(url);
        assert!(missing.contains("/no/such.pem"), "{missing}");
    }
}
