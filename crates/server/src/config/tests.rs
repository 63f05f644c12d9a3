//! Layers, errors and what is shown.

use std::collections::HashMap;
use std::path::Path;

use super::*;

/// Loads a configuration from a file's text, environment variables and `--set` options.
fn load(
    file: &str,
    environment: &[(&str, &str)],
    set: &[(&str, &str)],
) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rookery.toml");
    std::fs::write(&path, file).unwrap();
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let environment: HashMap<String, String> = pairs(environment).into_iter().collect();
    let overrides = pairs(set);
    let sources = Sources {
        file: Some(&path),
        environment: Some(environment),
        overrides: &overrides,
    };
    Config::load(&sources)
}

fn defaults() -> Config {
    load("", &[], &[]).unwrap()
}

/// The problems as text, without the name of the temporary file.
fn problems(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> String {
    load(file, environment, set).unwrap_err().to_string()
}

#[test]
fn every_default_is_allowed() {
    let config = defaults();
    assert_eq!(config.server.domains[0].as_str(), "localhost");
    assert_eq!(config.c2s.listen, ["[::]:5222".parse().unwrap()]);
    assert_eq!(config.c2s.max_stanza_bytes.get(), 262_144);
    assert_eq!(config.auth.mechanisms.len(), 5);
    assert_eq!(config.cluster.lease, Duration::from_secs(9));
    assert!(config.cluster.redis.is_none());
    assert_eq!(config.storage_url(), "sqlite://./data/rookery.db");
    assert!(checks::warnings(&config).is_empty());
}

#[test]
fn later_layers_override_earlier_ones() {
    let file =
        "[c2s]\ntls = \"optional\"\nmax_stanza_bytes = 20000\nnegotiation_timeout = \"7s\"\n";
    let environment = [
        ("ROOKERY__C2S__MAX_STANZA_BYTES", "30000"),
        ("ROOKERY__C2S__TLS", "disabled"),
    ];
    let config = load(file, &environment, &[("c2s.tls", "required")]).unwrap();
    assert_eq!(
        config.c2s.negotiation_timeout,
        Duration::from_secs(7),
        "file"
    );
    assert_eq!(config.c2s.max_stanza_bytes.get(), 30_000, "environment");
    assert_eq!(config.c2s.tls, TlsPolicy::Required, "--set");
    assert_eq!(config.c2s.direct_tls_listen.len(), 1, "default");
}

#[test]
fn the_last_of_two_set_options_counts() {
    let config = load(
        "",
        &[],
        &[
            ("auth.scram_iterations", "5000"),
            ("auth.scram_iterations", "6000"),
        ],
    );
    assert_eq!(config.unwrap().auth.scram_iterations.get(), 6000);
}

#[test]
fn lists_can_be_set_from_text() {
    let set = [
        ("c2s.listen", "127.0.0.1:0,[::1]:0"),
        ("c2s.direct_tls_listen", "[]"),
    ];
    let environment = [("ROOKERY__SERVER__DOMAINS", "[\"a.example\", \"b.example\"]")];
    let config = load("", &environment, &set).unwrap();
    assert_eq!(config.c2s.listen.len(), 2);
    assert!(config.c2s.direct_tls_listen.is_empty());
    assert_eq!(config.server.domains.len(), 2);
}

#[test]
fn other_variables_of_the_environment_do_not_matter() {
    let environment = [
        ("ROOKERY_CONFIG", "x"),
        ("ROOKERY_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "/"),
    ];
    assert!(load("", &environment, &[]).is_ok());
}

#[test]
fn unknown_keys_are_named_with_their_source_and_the_known_ones() {
    let text = problems("[c2s]\nlissten = []\n", &[], &[]);
    assert!(text.contains("unknown key c2s.lissten (from "), "{text}");
    assert!(
        text.contains("rookery.toml); allowed: c2s.listen, "),
        "{text}"
    );

    let text = problems("", &[("ROOKERY__C2S__PORT", "5222")], &[]);
    assert!(
        text.contains("unknown key c2s.port (from ROOKERY__C2S__PORT)"),
        "{text}"
    );

    let text = problems("", &[], &[("s2s.listen", "[]")]);
    assert!(
        text.contains("unknown key s2s.listen (from --set); allowed: keys in the sections"),
        "{text}"
    );

    let text = problems("[c2s]\nlisten = {}\n", &[], &[]);
    assert!(text.contains("c2s.listen = a table"), "{text}");

    for (key, value) in [
        ("c2s", "5222"),
        ("", "x"),
        ("a..b", "x"),
        ("c2s.listen.port", "1"),
    ] {
        let text = problems("", &[], &[(key, value)]);
        assert!(text.contains("unknown key"), "{key}: {text}");
    }
}

#[test]
fn values_that_are_not_allowed_are_named_with_what_is() {
    let text = problems("[c2s]\ntls = \"maybe\"\n", &[], &[]);
    assert!(text.contains("c2s.tls = \"maybe\" (from "), "{text}");
    assert!(
        text.contains("allowed: \"required\", \"optional\", \"disabled\""),
        "{text}"
    );

    let text = problems("", &[("ROOKERY__AUTH__SCRAM_ITERATIONS", "100")], &[]);
    assert!(
        text.contains(
            "auth.scram_iterations = \"100\" (from ROOKERY__AUTH__SCRAM_ITERATIONS) is not allowed; \
             allowed: an integer from 4096 to 10000000"
        ),
        "{text}"
    );

    let text = problems("[c2s]\nlisten = 5222\n", &[], &[]);
    assert!(text.contains("c2s.listen = 5222"), "{text}");
}

#[test]
fn all_problems_are_told_at_once() {
    let text = problems(
        "[c2s]\ntls = 3\nx = 1\n",
        &[("ROOKERY__LOG__FORMAT", "xml")],
        &[("server.domains", "a@b")],
    );
    for key in ["c2s.tls", "c2s.x", "log.format", "server.domains"] {
        assert!(text.contains(key), "{key} in {text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn a_password_in_a_bad_value_is_not_shown() {
    let text = problems(
        "",
        &[],
        &[("storage.url", "mysql://rook:s3cret@db/rookery")],
    );
    assert!(
        text.contains("storage.url") && !text.contains("s3cret"),
        "{text}"
    );
}

#[test]
fn the_password_of_the_database_can_be_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "s3cret\n").unwrap();
    let set = [
        ("storage.url", "postgres://rook@db/rookery"),
        ("storage.password_file", path.to_str().unwrap()),
    ];
    let config = load("", &[], &set).unwrap();
    assert_eq!(
        config.storage_url_with_password().unwrap(),
        "postgres://rook:s3cret@db/rookery"
    );
    assert!(!config.to_toml().contains("s3cret"));
}

#[test]
fn a_password_that_everybody_knows_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "Change-Me\n").unwrap();
    for (set, key) in [
        (
            vec![("storage.url", "postgres://rook:changeme@db/rookery")],
            "storage.url",
        ),
        (
            vec![("storage.url", "postgres://db/x?user=a&password=CHANGEME")],
            "storage.url",
        ),
        (
            vec![
                ("storage.url", "postgres://rook@db/rookery"),
                ("storage.password_file", path.to_str().unwrap()),
            ],
            "storage.password_file",
        ),
        (
            vec![
                ("storage.url", "postgres://rook@db/rookery"),
                ("cluster.redis", "redis://:changeme@redis"),
            ],
            "cluster.redis",
        ),
    ] {
        let text = problems("", &[], &set);
        assert!(text.contains(&format!("\n  {key}: ")), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
    // A file that is missing is the business of who reads it.
    let set = [
        ("storage.url", "postgres://changeme@changeme/changeme"),
        ("storage.password_file", "/nonexistent"),
    ];
    assert!(load("", &[], &set).is_ok());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let sources = Sources {
        file: Some(Path::new("/nonexistent/rookery.toml")),
        environment: Some(HashMap::new()),
        overrides: &[],
    };
    let text = Config::load(&sources).unwrap_err().to_string();
    assert!(
        text.contains("/nonexistent/rookery.toml: No such file"),
        "{text}"
    );

    let text = problems("[c2s\nlisten = []", &[], &[]);
    assert!(
        text.contains("rookery.toml") && text.contains("line 1"),
        "{text}"
    );
}

#[test]
fn values_have_to_fit_together() {
    for (set, keys) in [
        (
            vec![("tls.certificate", "a.pem")],
            "tls.certificate, tls.key",
        ),
        (vec![("tls.key", "a.pem")], "tls.certificate, tls.key"),
        (vec![("server.domains", "[]")], "server.domains"),
        (vec![("auth.mechanisms", "[]")], "auth.mechanisms"),
        (
            vec![("c2s.proxy_protocol", "v2")],
            "c2s.proxy_protocol, c2s.proxy_trusted",
        ),
        (
            vec![("cluster.redis", "redis://localhost")],
            "cluster.redis, storage.url",
        ),
        (
            vec![("storage.password_file", "x")],
            "storage.password_file, storage.url",
        ),
        (vec![("cluster.lease", "10ms")], "cluster.lease"),
        (
            vec![("c2s.negotiation_timeout", "0s")],
            "c2s.negotiation_timeout",
        ),
        (
            vec![("limits.outbox_bytes", "65536")],
            "limits.outbox_bytes, c2s.max_stanza_bytes",
        ),
        (
            vec![("http.websocket_url", "https://x")],
            "http.websocket_url",
        ),
        (vec![("log.level", "info,rookery_actors=loud")], "log.level"),
    ] {
        let problems = load("", &[], &set).unwrap_err().0;
        match problems.as_slice() {
            [Problem::Together { keys: named, .. }] => assert_eq!(*named, keys),
            other => panic!("{set:?}: {other:?}"),
        }
    }
    let cluster = [
        ("cluster.redis", "redis://localhost"),
        ("storage.url", "postgres://rook@db/rookery"),
    ];
    assert!(load("", &[], &cluster).is_ok());
    let proxy = [
        ("c2s.proxy_protocol", "v2"),
        ("c2s.proxy_trusted", "10.0.0.0/8"),
    ];
    assert!(load("", &[], &proxy).is_ok());
}

#[test]
fn unencrypted_streams_and_an_open_admin_port_are_warned_about() {
    let config = load("", &[], &[("c2s.tls", "optional")]).unwrap();
    assert!(checks::warnings(&config)[0].contains("also to other machines"));
    let set = [
        ("c2s.tls", "disabled"),
        ("c2s.listen", "127.0.0.1:0"),
        ("http.listen", "[]"),
    ];
    let config = load("", &[], &set).unwrap();
    let warnings = checks::warnings(&config);
    assert_eq!(warnings.len(), 1);
    assert!(!warnings[0].contains("other machines"), "{warnings:?}");
    let config = load("", &[], &[("admin.listen", "[::]:9090")]).unwrap();
    assert!(checks::warnings(&config)[0].contains("admin.listen"));
}

#[test]
fn what_is_shown_can_be_read_again_and_means_the_same() {
    let set = [
        ("server.domains", "example.org,example.net"),
        ("storage.url", "postgres://rook@db/rookery"),
        ("limits.max_depth", "32"),
        ("http.trusted_proxies", "10.0.0.0/8,192.0.2.1"),
    ];
    let shown = load("", &[], &set).unwrap().to_toml();
    let again = load(&shown, &[], &[]).unwrap();
    assert_eq!(again.to_toml(), shown);
    assert_eq!(again.limits.max_depth.get(), 32);
    assert_eq!(again.http.trusted_proxies.len(), 2);
}

#[test]
fn shown_configurations_hold_no_passwords() {
    let set = [
        ("storage.url", "postgres://rook:s3cret@db/rookery"),
        ("cluster.redis", "redis://:s3cret@redis"),
    ];
    let config = load("", &[], &set).unwrap();
    let shown = config.to_toml();
    assert!(shown.contains("postgres://rook:***@db/rookery"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn the_sample_file_holds_the_defaults() {
    let sample = show::sample();
    assert_eq!(
        load(&sample, &[], &[]).unwrap().to_toml(),
        defaults().to_toml()
    );
    up_to_date("deploy/rookery.toml", |_| sample);
}

#[test]
fn the_documentation_lists_every_setting() {
    up_to_date("docs/configuration.md", |text| {
        let begin = "<!-- settings:begin -->\n";
        let end = "<!-- settings:end -->";
        let (head, rest) = text.split_once(begin).expect("the marker");
        let (_, tail) = rest.split_once(end).expect("the marker");
        format!("{head}{begin}{}{end}{tail}", show::markdown())
    });
}

/// Fails if a file of the repository is not what it is made to be; writes it if
/// `ROOKERY_UPDATE_DOCS` is set.
fn up_to_date(path: &str, make: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let wanted = make(&found);
    if std::env::var_os("ROOKERY_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert_eq!(
            found,
            wanted,
            "{}: run the tests with ROOKERY_UPDATE_DOCS=1",
            path.display()
        );
    }
}
