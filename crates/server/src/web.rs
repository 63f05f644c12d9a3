//! Serving HTTP/1.1 on a listener: TLS, timeouts and limits, whatever the answers are.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::listen::Listener;
use crate::metrics;

/// The time for a TLS handshake, and for the head of a request, also of the next on a connection.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// An answer. No part of what is served here is large.
pub(crate) type Answer = Response<Body>;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it.
    Whole(Full<Bytes>),
    /// Parts, as they come.
    Parts(mpsc::Receiver<Bytes>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Parts(parts) => parts
                .poll_recv(cx)
                .map(|part| part.map(|part| Ok(Frame::data(part)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Parts(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Parts(_) => SizeHint::default(),
        }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The other end of the TCP connection.
    pub(crate) peer: SocketAddr,
    /// Whether it is encrypted.
    pub(crate) tls: bool,
}

/// Something that answers requests.
pub(crate) trait Site: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        &self,
        request: Request<Incoming>,
        origin: Origin,
    ) -> impl Future<Output = Answer> + Send;
}

/// Serves a site on a listener until it is dropped. `slots` bounds the connections; whoever comes
/// when there are no more is sent away.
pub(crate) async fn serve<S: Site>(
    listener: Listener,
    site: Arc<S>,
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
) {
    let key = listener.key();
    listener
        .run(move |socket, peer| {
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                metrics::HTTP_REFUSED.with_label_values(&[key]).inc();
                return;
            };
            let site = site.clone();
            let tls = tls.clone();
            tokio::spawn(async move {
                if let Err(error) = connection(socket, peer, site, tls).await {
                    tracing::debug!(%peer, %error, "HTTP connection");
                }
                drop(slot);
            });
        })
        .await;
}

async fn connection<S: Site>(
    socket: TcpStream,
    peer: SocketAddr,
    site: Arc<S>,
    tls: Option<TlsAcceptor>,
) -> anyhow::Result<()> {
    let socket = tokio::net::TcpStream::from_std(socket)?;
    match tls {
        Some(acceptor) => {
            let socket = tokio::time::timeout(READ_TIMEOUT, acceptor.accept(socket)).await??;
            requests(socket, Origin { peer, tls: true }, site).await
        }
        None => requests(socket, Origin { peer, tls: false }, site).await,
    }
}

async fn requests<S: Site>(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    origin: Origin,
    site: Arc<S>,
) -> anyhow::Result<()> {
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request, origin).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(2 * MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await?;
    Ok(())
}

/// A short text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

/// A body with its media type.
pub(crate) fn typed(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Body::Whole(Full::new(body.into())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// A body that goes on.
pub(crate) fn lines(media_type: &'static str, lines: mpsc::Receiver<Bytes>) -> Answer {
    let mut answer = Response::new(Body::Parts(lines));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

/// What is answered for anything that does not exist.
pub(crate) fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "not found\n")
}
