//! `admin.listen`: monitoring (`/metrics`, `/healthz`, `/readyz`), the status page, and the way to the
//! API (`api.rs`).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use rookery_storage::Storage;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::api::door::Door;
use crate::metrics;
use crate::status_page;
use crate::web::{self, Answer, Origin, Site};
use crate::wiring::NodeHandle;

/// How long the database may take to say that it is well.
const STORAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections to `admin.listen` at a time.
pub(crate) const CONNECTIONS: usize = 64;

/// How far the server is, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// Opening the database, joining the cluster.
    #[default]
    Starting,
    /// Taking connections.
    Serving,
    /// Sending clients elsewhere.
    Draining,
    /// Ending streams.
    Stopping,
}

/// Whether load balancers should send clients here.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    stage: Mutex<Stage>,
    /// When clients should come here no more.
    left: OnceLock<Instant>,
    parts: OnceLock<(Arc<dyn Storage>, NodeHandle)>,
}

impl Readiness {
    /// The database and the node exist from now on, and connections are taken.
    pub(crate) fn serving(&self, storage: Arc<dyn Storage>, node: NodeHandle) {
        // A server starts once.
        let _ = self.parts.set((storage, node));
        *self.stage() = Stage::Serving;
    }

    /// Goes on to a later stage in which no client should come here any more. Returns since when that is
    /// so.
    pub(crate) fn leave(&self, stage: Stage) -> Instant {
        let mut now = self.stage();
        // A server that stops does not drain any more.
        *now = (*now).max(stage);
        *self.left.get_or_init(Instant::now)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the server is now.
    pub(crate) fn current_stage(&self) -> Stage {
        *self.stage()
    }

    /// The database and the node, once they exist.
    pub(crate) fn parts(&self) -> Option<&(Arc<dyn Storage>, NodeHandle)> {
        self.parts.get()
    }

    /// Why no client should come here; empty if they may.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let stage = *self.stage();
        match stage {
            Stage::Starting => problems.push("starting".into()),
            Stage::Serving => {}
            Stage::Draining => problems.push("draining".into()),
            Stage::Stopping => problems.push("stopping".into()),
        }
        if let Some((storage, node)) = self.parts.get() {
            match tokio::time::timeout(STORAGE_TIMEOUT, storage.health()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => problems.push(format!("storage: {error}")),
                Err(_) => problems.push("storage: no answer".into()),
            }
            if node.is_fenced() {
                problems.push("cluster: cut off from the directory".into());
            }
        }
        problems
    }

    async fn answer(&self) -> Answer {
        let problems = self.problems().await;
        let ready = problems.is_empty();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = serde_json::json!({ "ready": ready, "problems": problems });
        web::typed(status, "application/json", format!("{body}\n"))
    }
}

/// What is served on `admin.listen`.
#[derive(Debug)]
pub(crate) struct AdminSite {
    readiness: Arc<Readiness>,
    api: Arc<Door>,
}

impl AdminSite {
    /// A site that reports this readiness and leads to this API.
    pub(crate) fn new(readiness: Arc<Readiness>, api: Arc<Door>) -> Self {
        Self { readiness, api }
    }
}

impl Site for AdminSite {
    async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Answer {
        let path = request.uri().path();
        if path.starts_with("/api/") {
            let answer = self.api.answer(request, origin).await;
            count("/api", &answer);
            return answer;
        }
        let (path, answer) = match (request.method(), path) {
            (&Method::GET, "/metrics") => ("/metrics", all_metrics()),
            (&Method::GET | &Method::HEAD, "/healthz") => {
                ("/healthz", web::text(StatusCode::OK, "ok\n"))
            }
            (&Method::GET | &Method::HEAD, "/readyz") => ("/readyz", self.readiness.answer().await),
            (&Method::GET | &Method::HEAD, path) => match status_page::file(path) {
                Some(answer) => ("/", answer),
                None => ("other", web::not_found()),
            },
            _ => ("other", web::not_found()),
        };
        count(path, &answer);
        answer
    }
}

fn count(path: &str, answer: &Answer) {
    metrics::HTTP_REQUESTS
        .with_label_values(&[path, answer.status().as_str()])
        .inc();
}

fn all_metrics() -> Answer {
    match prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()) {
        Ok(text) => web::typed(StatusCode::OK, "text/plain; version=0.0.4", text),
        Err(error) => {
            tracing::error!(%error, "metrics");
            web::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot write the metrics\n",
            )
        }
    }
}
