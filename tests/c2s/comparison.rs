//! The comparison with other servers can be repeated: its program and its load work, here without the others
//! and with next to no load.

use std::path::Path;
use std::process::Command;

use rookery_tests::server::run;

#[tokio::test]
async fn the_comparison_measures_this_server() {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test.parent().and_then(Path::parent);
    let mut command = Command::new("python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("comparison/run"))
        .args(["--quick", "--repetitions", "2", "--servers", "rookery"])
        .arg("--binaries")
        .arg(profile.expect("tests are in target/<profile>/deps"));
    let output = run(command, "").await;
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
        // The median, and the lowest and the highest of two.
        // Memory is not looked at: a session of these few may free more than it needs.
        assert!(
            figures.starts_with(|c: char| c.is_ascii_digit()) && figures.contains('–'),
            "{figures}"
        );
    }
}
