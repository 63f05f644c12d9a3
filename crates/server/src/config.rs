//! The configuration: every setting with its type, its default and what it means.
//!
//! This file is the only list of settings. The struct that the server reads, the check for unknown
//! keys, `rookery config show`, `deploy/rookery.toml` and the table in `docs/configuration.md` all
//! come from it.

mod checks;
mod layers;
mod service_url;
mod show;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rookery_actors::settings::Network;
use rookery_proto::jid::BareJid;

pub(crate) use checks::{check_log_level, warnings};
pub(crate) use layers::{Origin, Problem, Problems, Sources};
pub(crate) use service_url::{RedisSchemes, ServiceUrl, StorageSchemes};
pub(crate) use value::{Account, Choice, Domain, Integer, Secret, SecretFile, Value};

/// One setting, as documentation.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The table of the file that it stands in.
    pub(crate) section: &'static str,
    /// What the section is about.
    pub(crate) section_doc: &'static [&'static str],
    /// Its name in the section.
    pub(crate) key: &'static str,
    /// What it means, line by line.
    pub(crate) doc: &'static [&'static str],
    /// What it is if nothing sets it.
    pub(crate) default: DefaultValue,
    /// What it may be.
    pub(crate) allowed: String,
}

/// The default of a setting.
#[derive(Debug, Clone)]
pub(crate) enum DefaultValue {
    /// A value in TOML.
    Fixed(&'static str),
    /// A value that depends on the machine, and how to call it in the documentation.
    Computed(&'static str, fn() -> String),
    /// None; if nothing sets it, this is what happens.
    Absent(&'static str),
}

/// What `rookery config reload` takes over. The certificate's files are read again as well.
const LIVE: &[&str] = &[
    "admin.token",
    "admin.token_file",
    "admin.jids",
    "audit.file",
    "log.level",
];

impl Setting {
    /// `section.key`.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The default in TOML.
    pub(crate) fn default_toml(&self) -> String {
        match self.default {
            DefaultValue::Fixed(toml) => toml.into(),
            DefaultValue::Computed(_, compute) => compute(),
            DefaultValue::Absent(_) => "\"\"".into(),
        }
    }
}

/// Makes the structs and the list of settings from one description, so that they cannot disagree.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $ty:ty = $default:expr, )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone)]
            pub(crate) struct $Section {
                $( $(#[doc = $doc])+ pub(crate) $key: $ty, )+
            }
        )+

        /// The whole configuration.
        #[derive(Debug, Clone)]
        pub(crate) struct Config {
            $( $(#[doc = $section_doc])+ pub(crate) $section: $Section, )+
        }

        impl Config {
            fn read(layers: &layers::Layers, problems: &mut Vec<Problem>) -> Option<Self> {
                $( let $section = {
                    // All are read before the first missing one ends it: each problem is reported.
                    $( let $key = layers.read::<$ty>(
                        concat!(stringify!($section), ".", stringify!($key)), problems); )+
                    (|| Some($Section { $( $key: $key?, )+ }))()
                }; )+
                Some(Self { $( $section: $section?, )+ })
            }

            /// The values in TOML in the order of [`settings()`], secrets masked.
            fn masked_values(&self) -> Vec<String> {
                vec![$( $( self.$section.$key.to_masked_toml(), )+ )+]
            }

            /// The values in TOML in the order of [`settings()`], secrets included.
            fn values(&self) -> Vec<String> {
                vec![$( $( self.$section.$key.to_toml(), )+ )+]
            }

            /// The passwords and tokens that are set, each with its key.
            fn secrets(&self) -> Vec<(&'static str, String)> {
                let mut all = Vec::new();
                $( $( for secret in self.$section.$key.secrets() {
                    all.push((concat!(stringify!($section), ".", stringify!($key)), secret));
                } )+ )+
                all
            }
        }

        /// All settings, in the order of the documentation.
        pub(crate) fn settings() -> Vec<Setting> {
            let mut all = Vec::new();
            $( {
                const SECTION_DOC: &[&str] = &[$($section_doc),+];
                $( all.push(Setting {
                    section: stringify!($section),
                    section_doc: SECTION_DOC,
                    key: stringify!($key),
                    doc: &[$($doc),+],
                    default: $default,
                    allowed: <$ty as Value>::allowed(),
                }); )+
            } )+
            all
        }
    };
}

use DefaultValue::{Absent, Computed, Fixed};

settings! {
    /// The node as a whole.
    server: Server {
        /// The domains that are served. The first answers for clients that name none.
        domains: Vec<Domain> = Fixed(r#"["localhost"]"#),
        /// Where the embedded database, generated certificates and the control socket are kept.
        data_dir: PathBuf = Fixed(r#""./data""#),
        /// Threads that run streams and sessions.
        workers: Integer<1, 1024> = Computed("number of cores", cores),
        /// How long a stop waits for streams to end.
        shutdown_timeout: Duration = Fixed(r#""10s""#),
        /// How long a node of a cluster that is drained or stopped goes on as before, except that `/readyz`
        /// says no: load balancers should send nobody here any more when its clients leave.
        drain_delay: Duration = Fixed(r#""2s""#),
        /// A file that gets the addresses in use as JSON after the start: for tests with port 0.
        ports_file: Option<PathBuf> = Absent("not written"),
    }
    /// Streams from clients over TCP.
    c2s: C2s {
        /// Ports where streams begin in plain text and STARTTLS follows. `[]` switches it off.
        listen: Vec<SocketAddr> = Fixed(r#"["[::]:5222"]"#),
        /// Ports where TLS comes first (XEP-0368). `[]` switches it off.
        direct_tls_listen: Vec<SocketAddr> = Fixed(r#"["[::]:5223"]"#),
        /// Whether clients must use TLS. `"optional"` and `"disabled"` are for tests on the loopback
        /// interface.
        tls: TlsPolicy = Fixed(r#""required""#),
        /// The largest stanza in bytes after login. Before it, it is 10000.
        max_stanza_bytes: Integer<10_000, 67_108_864> = Fixed("262144"),
        /// The time from accepting a connection to a bound resource.
        negotiation_timeout: Duration = Fixed(r#""30s""#),
        /// Whether load balancers tell the client's address: `"v2"` for the PROXY protocol, version 2.
        proxy_protocol: ProxyProtocol = Fixed(r#""off""#),
        /// Who may send PROXY protocol headers: the load balancers. Others cannot connect then.
        proxy_trusted: Vec<Network> = Fixed("[]"),
    }
    /// Stream management (XEP-0198): sessions that outlive their connection.
    sm: Sm {
        /// How long a session waits for its client to come back after its connection broke. `0s`:
        /// sessions cannot be resumed.
        resume_timeout: Duration = Fixed(r#""5m""#),
        /// Where clients are told to come back to, as `host` or `host:port`, if that is not where they
        /// were.
        location: Option<String> = Absent("where they were"),
    }
    /// The archive of messages (XEP-0313).
    archive: Archive {
        /// Whether messages are kept after they were delivered. Accounts may have preferences of their
        /// own (XEP-0441).
        enabled: bool = Fixed("true"),
        /// How long messages are kept; `0s`: for ever.
        max_age: Duration = Fixed(r#""0s""#),
        /// How many messages are kept for each account; 0: all.
        max_messages: Integer<0, 1_000_000_000> = Fixed("0"),
    }
    /// Certificates.
    tls: Tls {
        /// The certificate chain in PEM, the server's own first. Read again when it changes.
        certificate: Option<PathBuf> = Absent("a self-signed one is made at the first start"),
        /// The private key of the certificate in PEM, not encrypted. Read again when it changes.
        key: Option<PathBuf> = Absent("made with the certificate"),
        /// Where the self-signed certificate is kept. Nodes that share it show the same one.
        generated_dir: Option<PathBuf> = Absent("server.data_dir"),
    }
    /// Logging in.
    auth: Auth {
        /// The SASL mechanisms on offer. -PLUS needs TLS 1.3; PLAIN is offered only under TLS.
        mechanisms: Vec<Mechanism> = Fixed(
            r#"["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "PLAIN"]"#),
        /// Rounds of hashing for new passwords: more cost whoever guesses them, and each client.
        scram_iterations: Integer<4096, 10_000_000> = Fixed("10000"),
    }
    /// Making accounts.
    registration: Registration {
        /// Whether strangers may make accounts with their client (XEP-0077).
        enabled: bool = Fixed("false"),
    }
    /// Clients in browsers, and how clients find the server.
    http: Http {
        /// Ports for `/xmpp-websocket` and `/.well-known/host-meta(.json)` without TLS.
        listen: Vec<SocketAddr> = Fixed(r#"["[::]:5280"]"#),
        /// The same with TLS.
        tls_listen: Vec<SocketAddr> = Fixed(r#"["[::]:5281"]"#),
        /// Which web sites may open WebSockets: origins such as `"https://chat.example.org"`, or `"*"`
        /// for all. A client that is no browser sends none and is let in.
        allowed_origins: Vec<String> = Fixed(r#"["*"]"#),
        /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: the load balancers.
        trusted_proxies: Vec<Network> = Fixed("[]"),
        /// The WebSocket's URL that clients are told, if it is not on this host and port.
        websocket_url: Option<String> = Absent("made from the request"),
    }
    /// Monitoring and administration.
    admin: Admin {
        /// Ports for the status page, the API, `/metrics`, `/healthz` and `/readyz`. The last three ask for no
        /// login, and there is no TLS: keep the ports private.
        listen: Vec<SocketAddr> = Fixed(r#"["127.0.0.1:9090"]"#),
        /// What opens the API (`/api/v1/`), 16 characters at least.
        token: Option<Secret> = Absent("the API is closed"),
        /// A file whose first line is the token, to keep it out of files and environments that others read.
        token_file: Option<SecretFile> = Absent("the API is closed"),
        /// Who may administer the server with an XMPP client (XEP-0133).
        jids: Vec<Account> = Fixed("[]"),
    }
    /// Who logged in, and what administrators did, as JSON; see docs/administration.md.
    audit: Audit {
        /// The file that it is appended to. Opened again by `rookery config reload`, after a rotation.
        file: Option<PathBuf> = Absent("the log"),
    }
    /// Accounts, rosters, messages.
    storage: Storage {
        /// The database: `sqlite://PATH`, or `postgres://USER:PASSWORD@HOST/DATABASE`.
        url: Option<ServiceUrl<StorageSchemes>> = Absent("sqlite://<data_dir>/rookery.db"),
        /// A file whose first line is the password for `storage.url`, to keep it out of files and
        /// environments that others read.
        password_file: Option<SecretFile> = Absent("the password is in the URL, if there is one"),
    }
    /// Several nodes as one server.
    cluster: Cluster {
        /// The Redis that the nodes share: `redis://USER:PASSWORD@HOST`, `redis+unix:///PATH`,
        /// `redis-sentinel://HOST,HOST/MASTER` or `redis-cluster://HOST,HOST`. With TLS: `rediss://`,
        /// `rediss-sentinel://` and `rediss-cluster://`, where `?ca=FILE` names an authority that the system
        /// does not know, and `&cert=FILE&key=FILE` a certificate of this node's own.
        redis: Option<ServiceUrl<RedisSchemes>> = Absent("one node"),
        /// How people call this node.
        node: String = Computed("host name", host_name),
        /// How long the others keep a silent node before they take over from it.
        lease: Duration = Fixed(r#""9s""#),
    }
    /// What one client or account may use.
    limits: Limits {
        /// Connections from one address (IPv6: one /64) that have not logged in.
        connections_per_address: Integer<1, 1_000_000> = Fixed("1000"),
        /// Connections in all that have not logged in.
        unauthenticated_connections: Integer<1, 10_000_000> = Fixed("20000"),
        /// Connected clients of one account.
        resources_per_user: Integer<1, 1000> = Fixed("10"),
        /// Failed logins on one stream before it is closed.
        auth_attempts_per_stream: Integer<1, 100> = Fixed("3"),
        /// Failed logins of one account, from everywhere, within `auth_failure_window`.
        auth_failures_per_account: Integer<1, 1_000_000> = Fixed("20"),
        /// How long it takes until all failed logins of an account are forgotten.
        auth_failure_window: Duration = Fixed(r#""2m""#),
        /// Bytes that may wait for a client that does not read.
        outbox_bytes: Integer<65_536, 1_073_741_824> = Fixed("4194304"),
        /// How deep elements of a stanza may be nested.
        max_depth: Integer<8, 256> = Fixed("64"),
        /// Contacts of one account.
        roster_items: Integer<1, 1_000_000> = Fixed("1000"),
        /// Addresses that one account may block.
        blocked_addresses: Integer<1, 1_000_000> = Fixed("1000"),
        /// Messages kept for an account that is offline.
        offline_messages: Integer<0, 10_000_000> = Fixed("1000"),
        /// HTTP connections that are no WebSockets (yet).
        http_connections: Integer<1, 1_000_000> = Fixed("1024"),
    }
    /// What the server says about itself.
    log: Log {
        /// `"text"` for people, `"json"` for machines, `"auto"` for text on a terminal only.
        format: LogFormat = Fixed(r#""auto""#),
        /// `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`, also for single parts:
        /// `"info,rookery_actors=debug"`.
        level: String = Fixed(r#""info""#),
    }
}

/// Whether client streams have to be encrypted.
pub(crate) use rookery_actors::settings::TlsPolicy;

impl Choice for TlsPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("required", Self::Required),
        ("optional", Self::Optional),
        ("disabled", Self::Disabled),
    ];
}

/// Whether TCP connections start with a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyProtocol {
    /// They come from clients.
    Off,
    /// They come from load balancers that send a header of version 2.
    V2,
}

impl Choice for ProxyProtocol {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("v2", Self::V2)];
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// RFC 7677 with channel binding.
    ScramSha256Plus,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802 with channel binding.
    ScramSha1Plus,
    /// RFC 5802.
    ScramSha1,
    /// RFC 4616.
    Plain,
}

impl Choice for Mechanism {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("SCRAM-SHA-256-PLUS", Self::ScramSha256Plus),
        ("SCRAM-SHA-256", Self::ScramSha256),
        ("SCRAM-SHA-1-PLUS", Self::ScramSha1Plus),
        ("SCRAM-SHA-1", Self::ScramSha1),
        ("PLAIN", Self::Plain),
    ];
}

impl Mechanism {
    /// Its registered name.
    pub(crate) fn name(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .expect("a word for each")
            .0
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("json", Self::Json),
        ("text", Self::Text),
    ];
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    /// All that is wrong with the configuration, not only the first of it.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let layers = layers::Layers::merge(sources, &mut problems);
        let config = Self::read(&layers, &mut problems);
        if let Some(config) = &config {
            checks::check(config, &mut problems);
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems(problems)),
        }
    }

    /// The address of the database, without the password of `storage.password_file`.
    pub(crate) fn storage_url(&self) -> String {
        match &self.storage.url {
            Some(url) => url.as_str().into(),
            None => format!(
                "sqlite://{}",
                self.server.data_dir.join("rookery.db").display()
            ),
        }
    }

    /// The address of the database with its password.
    ///
    /// # Errors
    /// If `storage.password_file` cannot be read.
    pub(crate) fn storage_url_with_password(&self) -> std::io::Result<String> {
        let url = self.storage_url();
        match &self.storage.password_file {
            Some(file) => Ok(service_url::with_password(&url, &file.secret()?)),
            None => Ok(url),
        }
    }

    /// Whether a setting can be changed while the server runs.
    pub(crate) fn is_live(key: &str) -> bool {
        LIVE.contains(&key)
    }

    /// The keys whose values differ.
    pub(crate) fn changed(&self, new: &Self) -> Vec<String> {
        let values = self.values().into_iter().zip(new.values());
        let settings = settings().into_iter().zip(values);
        let changed = settings.filter(|(_, (before, after))| before != after);
        changed.map(|(setting, _)| setting.path()).collect()
    }

    /// Takes over what can be changed while the server runs.
    pub(crate) fn take_live(&mut self, new: &Self) {
        self.admin.token.clone_from(&new.admin.token);
        self.admin.token_file.clone_from(&new.admin.token_file);
        self.admin.jids.clone_from(&new.admin.jids);
        self.audit.file.clone_from(&new.audit.file);
        self.log.level.clone_from(&new.log.level);
    }

    /// `admin.jids` as addresses.
    pub(crate) fn admin_jids(&self) -> Vec<BareJid> {
        let jids = self.admin.jids.iter();
        jids.map(|account| account.jid().clone()).collect()
    }

    /// Where a self-signed certificate is kept.
    pub(crate) fn generated_dir(&self) -> &std::path::Path {
        self.tls
            .generated_dir
            .as_deref()
            .unwrap_or(&self.server.data_dir)
    }
}

/// The number of cores that this process may use, in TOML.
fn cores() -> String {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string()
}

/// The host name, in TOML.
fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    value::toml_string(if name.is_empty() { "rookery" } else { &name })
}

#[cfg(test)]
mod tests;
