//! `deploy/grafana`: every panel shows something, and Grafana finds what the files name.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::load::Load;
use crate::prometheus::{Prometheus, repository};

/// How long it may take until every panel has data: a minute is the longest range of the rules.
const DEADLINE: Duration = Duration::from_mins(3);

/// The kinds of panels in use, all of them part of Grafana itself.
const PANELS: [&str; 3] = ["timeseries", "stat", "alertlist"];

/// The units in use, by the names that Grafana has for them; others it would print as they are.
const UNITS: [&str; 8] = [
    "short",
    "none",
    "s",
    "ops",
    "reqps",
    "Bps",
    "bytes",
    "percentunit",
];

/// A dashboard's file name and content.
fn dashboards() -> Vec<(String, Value)> {
    let dir = repository().join("deploy/grafana/dashboards");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&file).expect("readable");
            let dashboard = serde_json::from_str(&text);
            (
                name,
                dashboard.unwrap_or_else(|e| panic!("{}: {e}", file.display())),
            )
        })
        .collect()
}

/// A query, and where it stands.
struct Query {
    place: String,
    expression: String,
}

/// The queries of all panels, with Grafana's variables replaced.
fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().expect("panels") {
            let title = panel["title"].as_str().expect("a title");
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().expect("a query");
                let expression = expression
                    .replace("$__rate_interval", "1m")
                    .replace("$instance", ".+");
                assert!(!expression.contains('$'), "{name}: {expression}");
                queries.push(Query {
                    place: format!("{name}, {title:?}"),
                    expression,
                });
            }
        }
    }
    queries
}

/// A real Prometheus with the rules of `deploy/` scrapes a cluster that is at work.
#[tokio::test]
async fn every_panel_of_every_dashboard_has_data() {
    let mut load = Load::start().await;
    let nodes = [0, 1].map(|node| load.cluster.node(node).address("admin"));
    let prometheus = Prometheus::start(&nodes).await;
    let mut open = queries();
    assert!(open.len() > 50, "{}", open.len());
    let all_have_data = async {
        while !open.is_empty() {
            load.round().await;
            let mut empty = Vec::new();
            for query in open.drain(..) {
                match prometheus.query(&query.expression).await {
                    Ok(values) if values.is_empty() => empty.push(query),
                    Ok(_) => {}
                    Err(error) => panic!("{}: {}: {error}", query.place, query.expression),
                }
            }
            open = empty;
        }
    };
    if tokio::time::timeout(DEADLINE, all_have_data).await.is_err() {
        let empty: Vec<_> = open
            .iter()
            .map(|query| format!("  {}: {}", query.place, query.expression))
            .collect();
        panic!(
            "these panels are empty: correct the query in deploy/grafana/dashboards/, or let \
             tests/monitoring/load.rs do what it counts:\n{}",
            empty.join("\n")
        );
    }
}

/// Grafana is not run here; this is what its start would trip over.
#[test]
fn dashboards_are_what_grafana_provisions() {
    let dashboards = dashboards();
    let mut uids: Vec<_> = dashboards
        .iter()
        .map(|(name, dashboard)| {
            dashboard["uid"]
                .as_str()
                .unwrap_or_else(|| panic!("{name}"))
        })
        .collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), dashboards.len(), "each has its own uid");
    let sources = repository().join("deploy/grafana/provisioning/datasources/prometheus.yml");
    let sources = std::fs::read_to_string(sources).expect("readable");
    let uid = sources
        .lines()
        .find_map(|line| line.trim().strip_prefix("uid: "))
        .expect("a uid");
    for (name, dashboard) in &dashboards {
        assert!(dashboard["id"].is_null(), "{name}: Grafana gives the id");
        assert!(dashboard["schemaVersion"].as_u64() >= Some(36), "{name}");
        for variable in dashboard["templating"]["list"].as_array().expect("a list") {
            assert_eq!(variable["datasource"]["uid"], uid, "{name}: {variable}");
        }
        let mut ids = Vec::new();
        // Which panel has a cell of the grid, which is 24 wide.
        let mut cells = HashMap::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let title = panel["title"].as_str().expect("a title");
            ids.push(panel["id"].as_u64().expect("an id"));
            let [left, top, width, height] = ["x", "y", "w", "h"].map(|key| {
                let number = panel["gridPos"][key].as_u64();
                number.unwrap_or_else(|| panic!("{name}: {title} has no {key}"))
            });
            assert!(
                width > 0 && height > 0 && left + width <= 24,
                "{name}: {title}"
            );
            let columns = left..left + width;
            for cell in columns.flat_map(|x| (top..top + height).map(move |y| (x, y))) {
                if let Some(other) = cells.insert(cell, title) {
                    panic!("{name}: {title} lies on {other}");
                }
            }
            let kind = panel["type"].as_str().expect("a type");
            assert!(PANELS.contains(&kind), "{name}: {title}: {kind}");
            // Lists of alerts have none.
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            let known = unit.as_str().is_some_and(|unit| UNITS.contains(&unit));
            assert!(known || kind == "alertlist", "{name}: {title}: {unit}");
            let mut letters = HashSet::new();
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], uid, "{name}: {title}");
                let letter = target["refId"].as_str().expect("a refId");
                assert!(
                    letters.insert(letter),
                    "{name}: {title} has two queries {letter}"
                );
            }
        }
        let panels = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), panels, "{name}: each panel has its own id");
    }
}

/// The paths of Grafana's container in the provisioning files are those that the compose file mounts.
#[test]
fn grafana_finds_its_files() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).expect("readable");
    let compose = read("docker-compose.yml");
    let provider = read("deploy/grafana/provisioning/dashboards/rookery.yml");
    let path = provider
        .lines()
        .find_map(|line| line.trim().strip_prefix("path: "))
        .expect("a path");
    assert!(compose.contains(&format!("./deploy/grafana/dashboards:{path}:ro\n")));
    assert!(compose.contains("./deploy/grafana/provisioning:/etc/grafana/provisioning:ro\n"));
    let home = compose
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: ")
        })
        .and_then(|home| home.strip_prefix(path))
        .expect("a dashboard in that path");
    let file = repository().join(format!("deploy/grafana/dashboards{home}"));
    assert!(file.is_file(), "{}", file.display());
    let source = read("deploy/grafana/provisioning/datasources/prometheus.yml");
    assert!(source.contains("url: http://prometheus:9090\n"));
    assert!(compose.contains("\n  prometheus:\n"));
}
