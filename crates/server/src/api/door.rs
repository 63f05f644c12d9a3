//! The API over HTTP: who may come in, and the way to the thread that answers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use rookery_actors::audit::Operator;
use tokio::sync::{mpsc, oneshot};

use super::token::Entry;
use super::{Api, Call, MAX_BODY_BYTES, Problem, Reply, Said, Token};
use crate::web::{self, Answer, Origin};

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that wait for the thread that answers them.
const CALLS: usize = 16;

/// A call on its way to the thread that answers.
type Waiting = (Call, Operator, oneshot::Sender<Said>);

/// The way in.
#[derive(Debug)]
pub(crate) struct Door {
    token: Arc<Token>,
    calls: OnceLock<mpsc::Sender<Waiting>>,
}

impl Door {
    /// A door that this token opens, once the server takes connections.
    pub(crate) fn new(token: Arc<Token>) -> Self {
        Self {
            token,
            calls: OnceLock::new(),
        }
    }

    /// Opens it. The future answers the calls, on the thread that runs it.
    pub(crate) fn open(&self, api: Api) -> impl Future<Output = ()> + 'static {
        let (calls, mut waiting) = mpsc::channel::<Waiting>(CALLS);
        // A server starts once.
        let _ = self.calls.set(calls);
        async move {
            while let Some((call, by, reply)) = waiting.recv().await {
                let api = api.clone();
                tokio::task::spawn_local(async move {
                    // Who asked may be gone; what was asked for is done all the same.
                    let _ = reply.send(api.say(&call, &by).await);
                });
            }
        }
    }

    /// Answers a request whose path starts with `/api/`.
    pub(crate) async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Answer {
        let by = Operator {
            via: "api",
            who: origin.peer.to_string(),
        };
        let is_description = request.uri().path() == "/api/v1/openapi.json";
        if !is_description && let Err(refused) = self.check(request.headers(), &by) {
            let is_unauthorized = refused.status == StatusCode::UNAUTHORIZED;
            let mut answer = written(refused.into());
            if is_unauthorized {
                let scheme = HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            return answer;
        }
        match self.pass_on(request, by).await {
            Ok(Said::Once(reply)) => written(reply),
            Ok(Said::Lines(lines)) => web::lines("application/x-ndjson", lines),
            Err(problem) => written(problem.into()),
        }
    }

    /// RFC 6750 §2.1
    fn check(&self, headers: &HeaderMap, by: &Operator) -> Result<(), Problem> {
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match self.token.check(shown) {
            Entry::Allowed => Ok(()),
            Entry::Closed => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the API is closed: set admin.token or admin.token_file, and send it as \
                 `Authorization: Bearer TOKEN`",
            )),
            Entry::Refused => {
                if shown.is_some() {
                    by.did("api-token", "", Err(&"wrong token"));
                }
                Err(Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "send the token of admin.token or admin.token_file as `Authorization: Bearer TOKEN`",
                ))
            }
        }
    }

    async fn pass_on(&self, request: Request<Incoming>, by: Operator) -> Result<Said, Problem> {
        self.calls()?;
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query();
        let call = Call {
            path: path.map_or_else(String::new, ToString::to_string),
            body: if head.method == Method::GET {
                Vec::new()
            } else {
                read(body).await?
            },
            method: head.method,
        };
        self.pass(call, by).await
    }

    fn calls(&self) -> Result<&mpsc::Sender<Waiting>, Problem> {
        self.calls.get().ok_or_else(|| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is still starting",
            )
        })
    }

    /// Has a call answered on the thread that answers them; whoever asks may do so.
    ///
    /// # Errors
    /// If the server starts or stops.
    pub(super) async fn pass(&self, call: Call, by: Operator) -> Result<Said, Problem> {
        let (reply, answered) = oneshot::channel();
        let stopping = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
        self.calls()?
            .send((call, by, reply))
            .await
            .map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

async fn read(body: Incoming) -> Result<Vec<u8>, Problem> {
    let limited = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(_)) => {
            let detail = format!("a body has {MAX_BODY_BYTES} bytes at most");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time",
        )),
    }
}

fn written(reply: Reply) -> Answer {
    let is_problem = reply.status.is_client_error() || reply.status.is_server_error();
    let media_type = if is_problem {
        "application/problem+json"
    } else {
        "application/json"
    };
    match reply.body {
        Some(body) => web::typed(reply.status, media_type, format!("{body}\n")),
        None => web::empty(reply.status),
    }
}
