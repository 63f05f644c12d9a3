//! `docs/metrics.md`: made from what live nodes show, and complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use rookery_tests::prelude::*;

use crate::load::Load;
use crate::prometheus::{promtool, repository};

const BEGIN: &str = "<!-- metrics:begin -->\n";
const END: &str = "<!-- metrics:end -->";

/// What the exposition says about one metric.
#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Reads the text format. Histograms' own series and their label `le` are left out.
fn metrics(exposition: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some((name, help)) = described(line, "# HELP ") {
            metrics.entry(name).or_default().help = help;
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            metrics.entry(name).or_default().kind = kind;
        } else if let Some((series, labels)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| series.strip_suffix(suffix))
                .filter(|name| metrics.contains_key(*name))
                .unwrap_or(series);
            let metric = metrics.get_mut(name).unwrap_or_else(|| panic!("{line}"));
            let (labels, _) = labels.rsplit_once('}').expect("closed");
            // No value of a label holds a quotation mark or a comma and an equals sign.
            let names = labels
                .split("\",")
                .filter_map(|label| label.split_once('='));
            metric.labels.extend(
                names
                    .map(|(name, _)| name.to_owned())
                    .filter(|name| name != "le"),
            );
        }
    }
    metrics
}

fn described(line: &str, start: &str) -> Option<(String, String)> {
    let (name, text) = line.strip_prefix(start)?.split_once(' ')?;
    Some((name.into(), text.into()))
}

fn table(metrics: &BTreeMap<String, Metric>) -> String {
    let mut table = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, metric) in metrics {
        let labels: Vec<_> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let help = metric.help.trim_end_matches('.').replace('|', "\\|");
        let _ = writeln!(
            table,
            "| `{name}` | {} | {} | {help} |",
            metric.kind,
            labels.join(", ")
        );
    }
    table
}

/// The names in each crate's `metrics.rs`.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join("crates")).expect("crates") {
        collect(&entry.expect("a crate").path().join("src"), &mut names);
    }
    names
}

fn collect(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.file_name().is_some_and(|name| name == "metrics.rs")
            || path
                .parent()
                .is_some_and(|parent| parent.ends_with("metrics"))
        {
            let text = std::fs::read_to_string(&path).expect("readable");
            let literals = text.split('"').skip(1).step_by(2);
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            names.extend(
                literals
                    .filter(|text| text.starts_with("rookery_") && text.chars().all(is_name))
                    .map(str::to_owned),
            );
        }
    }
}

/// With `ROOKERY_UPDATE_DOCS` set the table is written instead.
#[tokio::test]
async fn the_documentation_lists_every_metric() {
    let mut load = Load::start().await;
    load.round().await;
    let mut live = BTreeMap::new();
    let mut expositions = String::new();
    for node in [0, 1] {
        let exposition = load.cluster.node(node).admin("/metrics").await.body;
        for (name, metric) in metrics(&exposition) {
            live.entry(name)
                .and_modify(|known: &mut Metric| known.labels.extend(metric.labels.clone()))
                .or_insert(metric);
        }
        expositions = exposition;
    }
    let hidden: Vec<_> = declared()
        .into_iter()
        .filter(|name| !live.contains_key(name))
        .collect();
    assert!(
        hidden.is_empty(),
        "declared in a metrics.rs, but no node shows them: let its init() make them appear, or let \
         tests/monitoring/load.rs do what they count: {hidden:?}"
    );

    let file = repository().join("docs/metrics.md");
    let text = std::fs::read_to_string(&file).expect("docs/metrics.md");
    let (head, rest) = text.split_once(BEGIN).expect("a beginning");
    let (documented, tail) = rest.split_once(END).expect("an end");
    let made = format!("\n{}\n", table(&live));
    if std::env::var_os("ROOKERY_UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{head}{BEGIN}{made}{END}{tail}")).expect("writable");
    } else {
        let difference: Vec<_> = made
            .lines()
            .filter(|line| !documented.lines().any(|other| other == *line))
            .chain(
                documented
                    .lines()
                    .filter(|line| !made.lines().any(|other| other == *line)),
            )
            .collect();
        assert!(
            documented == made,
            "docs/metrics.md is not what the nodes show: run this test with ROOKERY_UPDATE_DOCS=1 \
             (cargo test -p rookery-tests --test monitoring metrics). Lines that differ:\n{}",
            difference.join("\n")
        );
    }

    // Names, units and types by Prometheus' conventions.
    let lint = promtool(&["check", "metrics"], &expositions).await;
    assert!(
        lint.status.success(),
        "{}{}",
        String::from_utf8_lossy(&lint.stdout),
        String::from_utf8_lossy(&lint.stderr)
    );
}

/// How many series a node shows does not depend on how many people there are: if only one label had a value
/// for each of them, there would be as many new series as new people.
#[tokio::test]
async fn series_do_not_grow_with_users() {
    const PEOPLE: usize = 20;
    let mut load = Load::start().await;
    load.round().await;
    let before = series(&load).await;
    for number in 0..PEOPLE {
        let name = format!("person{number}/desk{number}");
        let client = load.cluster.online(0, &name).await;
        client.close().await;
        let stranger = Login::new(&format!("stranger{number}"), "wrong");
        let address = load.cluster.node(1).address("c2s");
        let (mut wire, features) = stranger.connect(address).await;
        let outcome = stranger.try_authenticate(&mut wire, &features).await;
        assert!(outcome.is("failure", SASL), "{outcome:?}");
    }
    load.round().await;
    let after = series(&load).await;
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.len() < PEOPLE, "{new:#?}");
}

/// The series of both nodes, without their values.
async fn series(load: &Load) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for node in [0, 1] {
        let exposition = load.cluster.node(node).admin("/metrics").await.body;
        let samples = exposition.lines().filter(|line| !line.starts_with('#'));
        all.extend(samples.map(|line| {
            let (series, _) = line.rsplit_once(' ').expect("a value");
            series.to_owned()
        }));
    }
    all
}
