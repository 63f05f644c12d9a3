//! `deploy/grafana`: every panel shows something, and Grafana finds what the files name.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::load::Load;
use crate::prometheus::{Prometheus, repository};

/// How long it may take until every panel has data: a minute is the longest range of the rules.
const DEADLINE: Duration = Duration::from_mins(3);

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
        let mut ids = Vec::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let title = &panel["title"];
            ids.push(panel["id"].as_u64().expect("an id"));
            let place = &panel["gridPos"];
            let edge = place["x"].as_u64().zip(place["w"].as_u64());
            assert!(edge.is_some_and(|(x, w)| x + w <= 24), "{name}: {title}");
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], uid, "{name}: {title}");
            }
        }
        let panels = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), panels, "{name}: each panel has its own id");
    }
}
