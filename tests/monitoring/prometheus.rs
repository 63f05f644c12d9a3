//! A real Prometheus on a free port, with the rules of `deploy/`, that scrapes given nodes each second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rookery_tests::{eventually, http, services};
use serde_json::Value;
use tempfile::TempDir;

/// `deploy/prometheus` of the repository.
pub(crate) fn configuration() -> PathBuf {
    repository().join("deploy/prometheus")
}

/// The top of the repository.
pub(crate) fn repository() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the repository")
        .to_owned()
}

/// Runs Prometheus' tool; `input` is its standard input.
pub(crate) async fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(repository());
    rookery_tests::server::run(command, input).await
}

/// A running Prometheus.
pub(crate) struct Prometheus {
    process: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes the `admin` listeners of nodes.
    pub(crate) async fn start(nodes: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let targets: Vec<_> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [\"{}/rules/*.yml\"]\n\
             scrape_configs:\n\
             - job_name: rookery\n  \
             static_configs: [{{targets: [{}]}}]\n",
            configuration().display(),
            targets.join(", ")
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, configuration).expect("a file");
        let address = SocketAddr::from(([127, 0, 0, 1], services::free_port()));
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}/data", dir.path().display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Prometheus is installed; tests/run does that");
        let prometheus = Self {
            process,
            address,
            dir,
        };
        eventually("Prometheus to answer", || async {
            // Until it listens there is nobody to ask.
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        prometheus
    }

    /// The values that a query gives now, without those that are no number.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let request = format!(
            "GET /api/v1/query?query={} HTTP/1.0\r\nHost: localhost\r\n\r\n",
            encoded(query)
        );
        let response = http::send(self.address, &request).await;
        // Until its database is open it answers with an error and no JSON.
        let Ok(answer) = serde_json::from_str::<Value>(&response.body) else {
            return Ok(Vec::new());
        };
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let samples = answer["data"]["result"].as_array().into_iter().flatten();
        Ok(samples
            .filter_map(|sample| sample["value"][1].as_str()?.parse().ok())
            .filter(|value: &f64| !value.is_nan())
            .collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- Prometheus' log ---\n{log}\n---");
        }
    }
}

/// A text as part of a URL.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
