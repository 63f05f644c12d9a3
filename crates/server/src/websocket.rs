//! The HTTP half of XMPP over WebSocket (RFC 7395 §3.1, RFC 6455 §4.2).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use rookery_actors::transport::{BoxIo, WebSocketStream, websocket};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::http::Client;
use crate::web::{self, Answer};
use crate::wiring::NodeHandle;

/// Appended to the client's key (RFC 6455 §1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Which web sites may open WebSockets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    /// All: a stream has to log in, and no cookie does that for it.
    Any,
    /// These, and clients that are no browsers.
    These(Vec<String>),
}

impl Origins {
    /// Reads `http.allowed_origins`.
    pub(crate) fn new(configured: &[String]) -> Self {
        if configured.iter().any(|origin| origin == "*") {
            return Self::Any;
        }
        Self::These(
            configured
                .iter()
                .map(|origin| origin.trim_end_matches('/').into())
                .collect(),
        )
    }

    fn allow(&self, headers: &HeaderMap) -> bool {
        match (self, headers.get(ORIGIN)) {
            (Self::Any, _) | (_, None) => true,
            (Self::These(allowed), Some(origin)) => allowed
                .iter()
                .any(|one| one.as_bytes().eq_ignore_ascii_case(origin.as_bytes())),
        }
    }
}

/// Checks an opening handshake. Returns the value of `Sec-WebSocket-Accept`.
///
/// # Errors
/// The answer that refuses it.
pub(crate) fn check<B>(request: &Request<B>, origins: &Origins) -> Result<String, Box<Answer>> {
    let headers = request.headers();
    if request.method() != Method::GET || request.version() < Version::HTTP_11 {
        return Err(Box::new(web::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET with HTTP/1.1\n",
        )));
    }
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        let mut answer = web::text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n");
        answer
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(answer));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut answer = web::text(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13\n");
        answer
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(answer));
    }
    if !origins.allow(headers) {
        let text = "this web site may not connect; see http.allowed_origins\n";
        return Err(Box::new(web::text(StatusCode::FORBIDDEN, text)));
    }
    // Subprotocols are case-sensitive (RFC 6455 §11.5).
    if !tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|protocol| protocol == websocket::SUBPROTOCOL)
    {
        return Err(Box::new(web::text(
            StatusCode::BAD_REQUEST,
            "the subprotocol has to be xmpp\n",
        )));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .map(str::trim);
    match key {
        Some(key)
            if BASE64_STANDARD
                .decode(key)
                .is_ok_and(|nonce| nonce.len() == 16) =>
        {
            Ok(accept_value(key))
        }
        _ => Err(Box::new(web::text(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing or wrong\n",
        ))),
    }
}

/// The answer that ends HTTP on the connection.
pub(crate) fn switching(accept: &str) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(websocket::SUBPROTOCOL),
    );
    let accept = HeaderValue::from_str(accept).expect("base64 is a header value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

/// Waits until the answer is sent and gives the WebSocket to the node.
pub(crate) async fn hand_over(
    taking: OnUpgrade,
    node: NodeHandle,
    client: Client,
    max_stanza_bytes: usize,
) {
    match taking.await {
        Ok(upgraded) => {
            let (io, read) = unwrap(upgraded);
            let config = Some(websocket::config(max_stanza_bytes));
            let stream = WebSocketStream::from_partially_read(io, read, Role::Server, config).await;
            node.accept_websocket(stream, client.address, client.secure);
        }
        Err(error) => tracing::debug!(%error, "a client left before its WebSocket was open"),
    }
}

/// The transport below HTTP and what HTTP has read of the WebSocket: an idle connection needs no
/// buffers of HTTP any more.
fn unwrap(upgraded: Upgraded) -> (BoxIo, Vec<u8>) {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return (Box::new(parts.io.into_inner()), parts.read_buf.to_vec()),
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
        Ok(parts) => (Box::new(parts.io.into_inner()), parts.read_buf.to_vec()),
        Err(upgraded) => (Box::new(TokioIo::new(upgraded)), Vec::new()),
    }
}

fn accept_value(key: &str) -> String {
    let text = format!("{key}{KEY_SUFFIX}");
    let algorithm = &ring::digest::SHA1_FOR_LEGACY_USE_ONLY;
    BASE64_STANDARD.encode(ring::digest::digest(algorithm, text.as_bytes()))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: [(&str, &str); 5] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "xmpp"),
    ];

    fn handshake(change: &str, value: Option<&str>) -> Request<()> {
        let mut request = Request::get("/xmpp-websocket");
        for (name, usual) in HANDSHAKE {
            match value {
                _ if name != change => request = request.header(name, usual),
                Some(value) => request = request.header(name, value),
                None => {}
            }
        }
        if let (false, Some(value)) = (HANDSHAKE.iter().any(|(name, _)| *name == change), value) {
            request = request.header(change, value);
        }
        request.body(()).unwrap()
    }

    /// RFC 6455 §1.3
    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        let accept = check(&handshake("", None), &Origins::Any).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let answer = switching(&accept);
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "xmpp");
    }

    #[test]
    fn each_part_of_the_handshake_is_needed() {
        for (name, value, status) in [
            (
                "connection",
                Some("keep-alive"),
                StatusCode::UPGRADE_REQUIRED,
            ),
            ("upgrade", None, StatusCode::UPGRADE_REQUIRED),
            (
                "sec-websocket-version",
                Some("8"),
                StatusCode::UPGRADE_REQUIRED,
            ),
            ("sec-websocket-key", None, StatusCode::BAD_REQUEST),
            (
                "sec-websocket-key",
                Some("c2hvcnQ="),
                StatusCode::BAD_REQUEST,
            ),
            ("sec-websocket-protocol", None, StatusCode::BAD_REQUEST),
            (
                "sec-websocket-protocol",
                Some("chat, XMPP"),
                StatusCode::BAD_REQUEST,
            ),
        ] {
            let refusal = check(&handshake(name, value), &Origins::Any).unwrap_err();
            assert_eq!(refusal.status(), status, "{name}: {value:?}");
        }
        assert!(
            check(
                &handshake("sec-websocket-protocol", Some("chat, xmpp")),
                &Origins::Any
            )
            .is_ok()
        );
    }

    #[test]
    fn web_sites_can_be_restricted() {
        let origins = Origins::new(&["https://chat.example.org/".into()]);
        let from = |origin| check(&handshake("origin", Some(origin)), &origins);
        assert!(from("https://chat.example.org").is_ok());
        assert_eq!(
            from("https://evil.example").unwrap_err().status(),
            StatusCode::FORBIDDEN
        );
        assert!(check(&handshake("", None), &origins).is_ok(), "no browser");
        assert_eq!(Origins::new(&["*".into()]), Origins::Any);
    }
}
