//! `deploy/prometheus`: the configuration, the rules and their tests, by Prometheus' own tool.

use crate::prometheus::{configuration, promtool, repository};

async fn succeeds(arguments: &[&str]) {
    let output = promtool(arguments, "").await;
    assert!(
        output.status.success(),
        "promtool {}:\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn the_configuration_is_valid() {
    succeeds(&["check", "config", "deploy/prometheus/prometheus.yml"]).await;
}

#[tokio::test]
async fn alerts_fire_when_they_should() {
    succeeds(&["test", "rules", "deploy/prometheus/tests/alerts.yml"]).await;
}

/// An alert without a test may never fire, one without an explanation helps nobody.
#[test]
fn every_alert_is_tested_and_explained() {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("readable");
    let rules = read(&configuration().join("rules/alerts.yml"));
    let tests = read(&configuration().join("tests/alerts.yml"));
    let operations = read(&repository().join("docs/operations.md"));
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        for course in ["fires", "is silent"] {
            let name = format!("- name: {alert} {course}\n");
            assert!(tests.contains(&name), "tests/alerts.yml lacks {name:?}");
        }
        assert!(
            operations.contains(&format!("`{alert}`")),
            "docs/operations.md does not say what to do about {alert}"
        );
    }
}
