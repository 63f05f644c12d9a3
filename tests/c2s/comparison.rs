//! The comparison with other servers can be repeated: its program and its load work, here without the others
//! and with next to no load.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

#[tokio::test]
async fn the_comparison_measures_this_server() {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test.parent().and_then(Path::parent);
    let mut command = Command::new("python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("comparison/run"))
        .args(["--quick", "--repetitions", "1", "--servers", "rookery"])
        .arg("--binaries")
        .arg(profile.expect("tests are in target/<profile>/deps"))
        .kill_on_drop(true);
    // It starts a server four times and ten loads, one after the other. Only so that it does not hang.
    let output = tokio::time::timeout(Duration::from_mins(10), command.output()).await;
    let output = output.expect("it ends").expect("Python is installed");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for row in [
        "| logins by SCRAM-SHA-1 a second | ",
        "| chat: messages a second | ",
        "| chat, archived: messages a second | ",
        "| presence: deliveries a second | ",
    ] {
        let figures = table.lines().find_map(|line| line.strip_prefix(row));
        let figures = figures.unwrap_or_else(|| panic!("no row {row} in {table}"));
        // Memory is not looked at: a session of these few may free more than it needs.
        assert!(
            figures.starts_with(|c: char| c.is_ascii_digit()),
            "{figures}"
        );
    }
}
