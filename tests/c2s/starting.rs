//! How a server starts, and what it says when it cannot: exit status 2 for a bad configuration, 1 for all
//! else, and a message that names what is wrong.

use std::process::Output;

use rookery_tests::prelude::*;
use rookery_tests::server::{refused_start, rookery, run};

#[track_caller]
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_bad_setting_is_named_with_its_value_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    for (setting, words) in [
        (
            "c2s.tls=maybe",
            &["c2s.tls", "maybe", "required", "optional", "disabled"][..],
        ),
        ("c2s.colour=blue", &["c2s.colour"]),
        ("sea.sick=1", &["sea"]),
        (
            "c2s.max_stanza_bytes=12",
            &["c2s.max_stanza_bytes", "12", "10000"],
        ),
        (
            "c2s.max_stanza_bytes=many",
            &["c2s.max_stanza_bytes", "many"],
        ),
        (
            "c2s.negotiation_timeout=soon",
            &["c2s.negotiation_timeout", "soon"],
        ),
        ("server.domains=[]", &["server.domains"]),
        (
            r#"server.domains=["not a domain"]"#,
            &["server.domains", "not a domain"],
        ),
        (
            r#"auth.mechanisms=["ROT13"]"#,
            &["auth.mechanisms", "ROT13"],
        ),
        (r#"c2s.listen=["nowhere"]"#, &["c2s.listen", "nowhere"]),
        ("storage.url=mysql://db", &["storage.url"]),
        ("cluster.redis=http://x", &["cluster.redis"]),
        ("server.workers=0", &["server.workers", "0"]),
    ] {
        assert_refused(&refused_start(dir.path(), &[setting]).await, 2, words);
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(
        left.is_empty(),
        "nothing is made before the configuration is good: {left:?}"
    );
}

#[tokio::test]
async fn a_bad_file_is_named_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rookery.toml");
    std::fs::write(&file, "[c2s]\ntls = \"optional\"\nlisten = [\n").unwrap();
    let mut command = rookery();
    command
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .current_dir(dir.path());
    assert_refused(&run(command, "").await, 2, &["rookery.toml"]);
    let mut command = rookery();
    command
        .args(["serve", "--config", "missing.toml"])
        .current_dir(dir.path());
    assert_refused(&run(command, "").await, 2, &["missing.toml"]);
}

/// The environment stands above the file, and `--set` above both.
#[tokio::test]
async fn settings_come_in_layers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rookery.toml");
    std::fs::write(
        &file,
        "[server]\nworkers = 3\n[limits]\nmax_depth = 33\nresources_per_user = 22\n",
    )
    .unwrap();
    let mut command = rookery();
    command.args(["config", "show", "--set", "limits.resources_per_user=44"]);
    command.arg("--config").arg(&file).current_dir(dir.path());
    command
        .env("ROOKERY__LIMITS__MAX_DEPTH", "55")
        .env("ROOKERY__LIMITS__RESOURCES_PER_USER", "66");
    let shown = run(command, "").await;
    assert!(shown.status.success(), "{shown:?}");
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in ["workers = 3", "max_depth = 55", "resources_per_user = 44"] {
        assert!(
            shown.lines().any(|l| l.trim() == line),
            "{line} is not in:\n{shown}"
        );
    }
}

#[tokio::test]
async fn config_check_says_whether_the_server_would_start() {
    let dir = tempfile::tempdir().unwrap();
    let check = |settings: &[&str]| {
        let mut command = rookery();
        command
            .args(["config", "check"])
            .args(settings)
            .current_dir(dir.path());
        run(command, "")
    };
    assert!(check(&[]).await.status.success());
    assert_refused(&check(&["--set", "c2s.tls=maybe"]).await, 2, &["c2s.tls"]);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    for key in [
        "c2s.listen",
        "c2s.direct_tls_listen",
        "http.listen",
        "admin.listen",
    ] {
        let setting = format!(r#"{key}=["{address}"]"#);
        assert_refused(
            &refused_start(dir.path(), &[&setting]).await,
            1,
            &[key, &address],
        );
    }
}

#[tokio::test]
async fn an_unreadable_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(
        data.join("rookery.db"),
        "This is no database. ".repeat(1000),
    )
    .unwrap();
    assert_refused(&refused_start(dir.path(), &[]).await, 1, &["rookery.db"]);
    let kept = std::fs::read_to_string(data.join("rookery.db")).unwrap();
    assert!(
        kept.starts_with("This is no database."),
        "the file is left as it was"
    );

    std::fs::remove_file(data.join("rookery.db")).unwrap();
    std::fs::create_dir(data.join("rookery.db")).unwrap();
    assert_refused(&refused_start(dir.path(), &[]).await, 1, &["rookery.db"]);

    let nobody = "storage.url=postgres://rookery@127.0.0.1:1/rookery";
    assert_refused(
        &refused_start(dir.path(), &[nobody]).await,
        1,
        &["127.0.0.1"],
    );
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let setting = "server.data_dir=./file/data";
    assert_refused(
        &refused_start(dir.path(), &[setting]).await,
        1,
        &["file/data"],
    );
}

#[tokio::test]
async fn a_bad_certificate_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.pem");
    std::fs::write(&bad, "no certificate").unwrap();
    let certificate = format!("tls.certificate={}", bad.display());
    let key = format!("tls.key={}", bad.display());
    let output = refused_start(dir.path(), &[&certificate, &key]).await;
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && said.contains("bad.pem"),
        "{said}"
    );
    let output = refused_start(dir.path(), &[&certificate]).await;
    assert_refused(&output, 2, &["tls.key"]);
}

/// Two servers on one directory would write over each other.
#[tokio::test]
async fn a_data_directory_serves_one_server() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let setting = format!("server.data_dir={}", server.data_dir().display());
    assert_refused(&refused_start(dir.path(), &[&setting]).await, 1, &["data"]);
    server.online("alice/desk").await.close().await;
}

#[tokio::test]
async fn the_first_start_makes_a_certificate_that_only_the_owner_reads_and_later_ones_keep_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = TestServer::start().await;
    let file = server.data_dir().join("self-signed.pem");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let before = std::fs::read(&file).unwrap();
    assert!(server.stop().await.success());
    server.come_back().await;
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

/// What a person reads who starts it for the first time.
#[tokio::test]
async fn the_start_says_what_listens_where_and_how_to_add_the_first_user() {
    let server = TestServer::start().await;
    rookery_tests::eventually("the start's message", || async {
        server.log().contains("user add")
    })
    .await;
    let log = server.log();
    for listener in ["c2s", "c2s_direct_tls", "http", "admin"] {
        let address = server.address(listener).to_string();
        assert!(
            log.contains(&address),
            "{listener} at {address} is not in:\n{log}"
        );
    }
}

/// With no configuration at all, the ports are the documented ones; they may be taken on a test machine, so
/// only what the binary believes is looked at.
#[tokio::test]
async fn the_defaults_are_the_documented_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = rookery();
    command.args(["config", "show"]).current_dir(dir.path());
    let shown = run(command, "").await;
    assert!(shown.status.success(), "{shown:?}");
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in [
        r#"domains = ["localhost"]"#,
        r#"data_dir = "./data""#,
        r#"tls = "required""#,
        "max_stanza_bytes = 262144",
        r#"negotiation_timeout = "30s""#,
        "enabled = false",
        r#"listen = ["[::]:5222"]"#,
        r#"direct_tls_listen = ["[::]:5223"]"#,
        r#"listen = ["[::]:5280"]"#,
        r#"listen = ["127.0.0.1:9090"]"#,
    ] {
        assert!(
            shown
                .lines()
                .any(|l| l.trim().trim_start_matches("# ") == line),
            "{line} is not in:\n{shown}"
        );
    }
}
