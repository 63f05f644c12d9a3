//! A stream without a login: RFC 6120 over TCP or TLS, or RFC 7395 over WebSocket.
//!
//! Sends what it is told, also what no client should, and reads what the server answers.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rookery_proto::xml::Element;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::stanza::CLIENT;
use crate::within;

/// Namespace of `<stream/>`, `<stream:features/>` and `<stream:error/>`.
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// Namespace of the conditions in `<stream:error/>`.
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Namespace of `<starttls/>`.
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// Namespace of SASL.
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Namespace of `<open/>` and `<close/>` on a WebSocket.
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";

/// What arrived.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server's stream header, as an element without children.
    Open(Element),
    /// A child of the stream.
    Element(Element),
    /// The server ended its stream.
    Close,
    /// The server ended the connection.
    Eof,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocketStream<Box<dyn Socket>>>),
    /// There is no connection any more.
    Gone,
}

/// One stream and what was read of it.
pub struct Wire {
    transport: Transport,
    /// Bytes that are no whole element yet.
    buffer: Vec<u8>,
    /// The server's header as it was sent: it declares the prefixes that follow.
    header: Option<String>,
    eof: bool,
}

impl Wire {
    /// Connects over TCP.
    pub async fn tcp(address: SocketAddr) -> Self {
        let tcp = within("a TCP connection", Self::try_tcp(address)).await;
        tcp.unwrap_or_else(|e| panic!("connecting to {address}: {e}"))
    }

    /// As [`Self::tcp`], where nobody may listen.
    ///
    /// # Errors
    /// The connection's.
    pub async fn try_tcp(address: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Self::over(Transport::Tcp(tcp)))
    }

    /// Connects with direct TLS (XEP-0368).
    pub async fn direct_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::tcp(address).await.start_tls(config).await
    }

    /// Connects to `ws://address/xmpp-websocket`.
    pub async fn websocket(address: SocketAddr) -> Self {
        let tcp = within("a TCP connection", TcpStream::connect(address)).await;
        let tcp = tcp.unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
        let url = format!("ws://{address}/xmpp-websocket");
        Self::upgrade(Box::new(tcp), &url).await
    }

    /// Connects to `wss://address/xmpp-websocket`.
    pub async fn secure_websocket(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let Transport::Tls(tls) = Self::direct_tls(address, config).await.transport else {
            unreachable!("direct_tls makes a TLS transport")
        };
        let url = format!("wss://{address}/xmpp-websocket");
        Self::upgrade(tls, &url).await
    }

    async fn upgrade(socket: Box<dyn Socket>, url: &str) -> Self {
        let mut request = url.into_client_request().expect("a valid URL");
        let protocol = "xmpp".parse().expect("a header value");
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        let (websocket, response) = within(
            "a WebSocket",
            tokio_tungstenite::client_async(request, socket),
        )
        .await
        .unwrap_or_else(|e| panic!("opening {url}: {e}"));
        let protocol = response.headers().get("Sec-WebSocket-Protocol");
        assert_eq!(
            protocol.map(tokio_tungstenite::tungstenite::http::HeaderValue::as_bytes),
            Some(&b"xmpp"[..]),
            "the subprotocol (RFC 7395 §3.1)"
        );
        Self::over(Transport::WebSocket(Box::new(websocket)))
    }

    /// A stream whose connection is gone.
    pub(crate) fn gone() -> Self {
        Self {
            eof: true,
            ..Self::over(Transport::Gone)
        }
    }

    fn over(transport: Transport) -> Self {
        Self {
            transport,
            buffer: Vec::new(),
            header: None,
            eof: false,
        }
    }

    /// Performs the TLS handshake, on a TCP stream that is ready for it.
    pub async fn start_tls(self, config: Arc<ClientConfig>) -> Self {
        self.try_start_tls(config)
            .await
            .unwrap_or_else(|e| panic!("TLS handshake: {e}"))
    }

    /// As [`Self::start_tls`], for servers that should refuse.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn try_start_tls(self, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        assert!(
            self.buffer.is_empty(),
            "the server sent more after <proceed/>: {}",
            self.unread()
        );
        let Transport::Tcp(tcp) = self.transport else {
            panic!("TLS on top of no TCP stream")
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = within(
            "a TLS handshake",
            TlsConnector::from(config).connect(name, tcp),
        )
        .await?;
        Ok(Self::over(Transport::Tls(Box::new(tls))))
    }

    /// The TLS connection, for what was negotiated; absent without TLS and on a WebSocket.
    pub fn tls(&self) -> Option<&rustls::ClientConnection> {
        match &self.transport {
            Transport::Tls(tls) => Some(tls.get_ref().1),
            _ => None,
        }
    }

    /// The `tls-exporter` channel binding (RFC 9266), where there is TLS 1.3.
    pub fn tls_exporter(&self) -> Option<Vec<u8>> {
        let tls = self.tls()?;
        if tls.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return None;
        }
        let label = b"EXPORTER-Channel-Binding";
        let exported = tls.export_keying_material([0; 32], label, Some(b""));
        Some(exported.expect("a finished handshake exports").to_vec())
    }

    /// Whether this is a WebSocket.
    pub fn is_websocket(&self) -> bool {
        matches!(self.transport, Transport::WebSocket(_))
    }

    /// Sends text as it is; on a WebSocket as one message.
    pub async fn send(&mut self, text: &str) {
        self.try_send(text.as_bytes())
            .await
            .unwrap_or_else(|e| panic!("sending: {e}"));
    }

    /// A child of the stream as text that can be sent on it.
    pub fn write(&self, element: &Element) -> String {
        // On a WebSocket each message declares its namespace (RFC 7395 §3.3.3).
        let parent = if self.is_websocket() { "" } else { CLIENT };
        element.to_xml(parent)
    }

    /// Sends bytes as they are; on a WebSocket as one text message, which must be UTF-8.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let sent = async {
            match &mut self.transport {
                Transport::Tcp(tcp) => tcp.write_all(bytes).await,
                Transport::Tls(tls) => {
                    tls.write_all(bytes).await?;
                    tls.flush().await
                }
                Transport::WebSocket(websocket) => {
                    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8 for a WebSocket");
                    websocket
                        .send(Message::text(text))
                        .await
                        .map_err(std::io::Error::other)
                }
                Transport::Gone => Err(std::io::ErrorKind::NotConnected.into()),
            }
        };
        within("room to send", sent).await
    }

    /// Sends bytes over TCP and reads what comes meanwhile, so that neither side waits for the other;
    /// returns what came. Waits without a deadline. Ends early if the server ends the connection.
    pub async fn send_reading(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let Transport::Tcp(tcp) = &mut self.transport else {
            panic!("only over TCP")
        };
        let (mut from, mut to) = tcp.split();
        while !bytes.is_empty() && !self.eof {
            tokio::select! {
                written = to.write(bytes) => match written {
                    Ok(length) => bytes = &bytes[length..],
                    Err(_) => self.eof = true,
                },
                eof = read(&mut from, &mut self.buffer) => self.eof = eof,
            }
        }
        std::iter::from_fn(|| self.take_event()).collect()
    }

    /// Sends a WebSocket message of any kind.
    pub async fn send_message(&mut self, message: Message) {
        let Transport::WebSocket(websocket) = &mut self.transport else {
            panic!("no WebSocket to send {message:?} on")
        };
        within("room to send", websocket.send(message))
            .await
            .expect("an open WebSocket");
    }

    /// Ends the sending direction of the connection, without a word.
    pub async fn shut(&mut self) {
        let ended = match &mut self.transport {
            Transport::Tcp(tcp) => tcp.shutdown().await,
            Transport::Tls(tls) => tls.shutdown().await,
            Transport::WebSocket(websocket) => websocket.get_mut().shutdown().await,
            Transport::Gone => Ok(()),
        };
        ended.unwrap_or_else(|e| panic!("closing: {e}"));
    }

    /// The header that a client opens a stream to `domain` with.
    pub fn header_to(&self, domain: &str) -> String {
        if self.is_websocket() {
            format!("<open xmlns='{FRAMING}' to='{domain}' version='1.0' xml:lang='en'/>")
        } else {
            format!(
                "<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' xml:lang='en' \
                 xmlns='jabber:client' xmlns:stream='{STREAM}'>"
            )
        }
    }

    /// Opens a stream, also anew after TLS or SASL, and returns the server's features.
    pub async fn open(&mut self, domain: &str) -> Element {
        self.restart();
        let header = self.header_to(domain);
        self.send(&header).await;
        self.expect_header().await;
        self.expect_features().await
    }

    /// Forgets the stream so far: a new header follows.
    pub fn restart(&mut self) {
        self.header = None;
    }

    /// The server's stream header, which must come next.
    pub async fn expect_header(&mut self) -> Element {
        match self.next().await {
            Event::Open(header) => header,
            other => panic!("expected a stream header, received {other:?}"),
        }
    }

    /// The server's `<stream:features/>`, which must come next.
    pub async fn expect_features(&mut self) -> Element {
        let features = self.expect_element().await;
        assert!(
            features.is("features", STREAM),
            "expected features, received {features:?}"
        );
        features
    }

    /// The next element, which must be there.
    pub async fn expect_element(&mut self) -> Element {
        match self.next().await {
            Event::Element(element) => element,
            other => panic!("expected an element, received {other:?}"),
        }
    }

    /// Sends `request` and returns the element that answers it.
    pub async fn ask(&mut self, request: &str) -> Element {
        self.send(request).await;
        self.expect_element().await
    }

    /// Expects a stream error with `condition` and the end of stream and connection. A header before
    /// it is accepted, since an error may answer the client's header (RFC 6120 §4.9.1.2).
    pub async fn expect_stream_error(&mut self, condition: &str) -> Element {
        let mut event = self.next().await;
        if matches!(event, Event::Open(_)) {
            event = self.next().await;
        }
        let error = match event {
            Event::Element(element) if element.is("error", STREAM) => element,
            other => panic!("expected the stream error {condition}, received {other:?}"),
        };
        assert!(
            error.child(condition, STREAM_ERRORS).is_some(),
            "expected the stream error {condition}, received {error:?}"
        );
        self.expect_close().await;
        error
    }

    /// Expects the server to end the stream, and then the connection.
    pub async fn expect_close(&mut self) {
        let event = self.next().await;
        assert!(
            matches!(event, Event::Close),
            "expected the stream's end, received {event:?}"
        );
        self.expect_eof().await;
    }

    /// Expects the server to end the connection.
    pub async fn expect_eof(&mut self) {
        let event = self.next().await;
        assert!(
            matches!(event, Event::Eof),
            "expected the connection's end, received {event:?}"
        );
    }

    /// Reads whatever comes, XML or not, until the server ends the connection; returns how much it was.
    pub async fn expect_bytes_to_end(&mut self) -> usize {
        let mut length = self.buffer.len();
        let rest = async {
            loop {
                self.buffer.clear();
                let ended = match &mut self.transport {
                    Transport::Tcp(tcp) => read(tcp, &mut self.buffer).await,
                    Transport::Tls(tls) => read(tls, &mut self.buffer).await,
                    Transport::WebSocket(websocket) => {
                        read(websocket.get_mut(), &mut self.buffer).await
                    }
                    Transport::Gone => true,
                };
                length += self.buffer.len();
                if ended {
                    return length;
                }
            }
        };
        within("the server to end the connection", rest).await
    }

    /// Ends the stream and waits for the server's end.
    pub async fn close(&mut self) {
        let end = if self.is_websocket() {
            format!("<close xmlns='{FRAMING}'/>")
        } else {
            "</stream:stream>".to_owned()
        };
        self.send(&end).await;
        self.expect_close().await;
    }

    /// What comes next.
    pub async fn next(&mut self) -> Event {
        within("the server to send something", self.receive()).await
    }

    /// As [`Self::next`], but waits without a deadline. Nothing is lost when it is dropped.
    pub async fn receive(&mut self) -> Event {
        loop {
            if let Some(event) = self.take_event() {
                return event;
            }
            if self.eof {
                return Event::Eof;
            }
            match &mut self.transport {
                Transport::WebSocket(websocket) => match websocket.next().await {
                    Some(Ok(Message::Text(text))) => return Self::websocket_event(text.as_str()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed))
                    | None => self.eof = true,
                    Some(Ok(other)) => panic!("unexpected WebSocket message {other:?}"),
                    Some(Err(tungstenite::Error::Io(_) | tungstenite::Error::Protocol(_))) => {
                        self.eof = true;
                    }
                    Some(Err(error)) => panic!("reading the WebSocket: {error}"),
                },
                Transport::Tcp(tcp) => self.eof = read(tcp, &mut self.buffer).await,
                Transport::Tls(tls) => self.eof = read(tls, &mut self.buffer).await,
                Transport::Gone => self.eof = true,
            }
        }
    }

    fn websocket_event(text: &str) -> Event {
        // No default namespace: each message must declare its own (RFC 7395 §3.3.3).
        let element = Element::parse(text, "")
            .unwrap_or_else(|e| panic!("the server sent a bad WebSocket message: {e}: {text}"));
        if element.is("open", FRAMING) {
            Event::Open(element)
        } else if element.is("close", FRAMING) {
            Event::Close
        } else {
            assert!(
                !element.ns().is_empty(),
                "no namespace (RFC 7395 §3.3.3): {text}"
            );
            Event::Element(element)
        }
    }

    /// Cuts the next event from the buffer.
    fn take_event(&mut self) -> Option<Event> {
        let blank = self
            .buffer
            .iter()
            .take_while(|b| b.is_ascii_whitespace())
            .count();
        self.buffer.drain(..blank);
        if self.header.is_none() {
            if self.buffer.starts_with(b"<?xml") {
                let end = self.buffer.windows(2).position(|w| w == b"?>")?;
                self.buffer.drain(..end + 2);
                return self.take_event();
            }
            let length = tag_end(&self.buffer)?;
            let header = self.cut(length);
            assert!(
                header.starts_with("<stream:stream"),
                "no stream header: {header}"
            );
            let element = parse(&format!("{header}</stream:stream>"));
            self.header = Some(header);
            return Some(Event::Open(element));
        }
        if self.buffer.starts_with(b"</") {
            let length = tag_end(&self.buffer)?;
            let end = self.cut(length);
            assert_eq!(end, "</stream:stream>");
            return Some(Event::Close);
        }
        let length = element_end(&self.buffer)?;
        let raw = self.cut(length);
        let header = self.header.as_deref().expect("checked above");
        let stream = parse(&format!("{header}{raw}</stream:stream>"));
        let element = stream
            .children()
            .next()
            .expect("one element was cut")
            .clone();
        Some(Event::Element(element))
    }

    fn cut(&mut self, length: usize) -> String {
        let bytes = self.buffer.drain(..length).collect();
        String::from_utf8(bytes).expect("the server sends UTF-8")
    }

    fn unread(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn parse(document: &str) -> Element {
    Element::parse(document, "")
        .unwrap_or_else(|e| panic!("the server sent bad XML: {e}: {document}"))
}

/// Reads some bytes; true at the end of the connection, however it came.
async fn read(socket: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> bool {
    matches!(socket.read_buf(buffer).await, Ok(0) | Err(_))
}

/// Length of the tag that the bytes start with.
fn tag_end(bytes: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (i, &byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(i + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// Length of the element that the bytes start with; none if it has not come as a whole.
pub fn element_end(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|&b| b == b'<')?;
        if bytes[at..].starts_with(b"<![CDATA[") {
            at += bytes[at..].windows(3).position(|w| w == b"]]>")? + 3;
            continue;
        }
        let length = tag_end(&bytes[at..])?;
        let tag = &bytes[at..at + length];
        // An unfinished "<![CDATA[" has no end either.
        if tag[1] == b'!' && b"<![CDATA[".starts_with(&bytes[at..bytes.len().min(at + 9)]) {
            return None;
        }
        at += length;
        assert!(
            !matches!(tag[1], b'!' | b'?'),
            "restricted XML from the server (RFC 6120 §11.1)"
        );
        if tag[1] == b'/' {
            depth -= 1;
        } else if tag[length - 2] != b'/' {
            depth += 1;
        }
        if depth == 0 {
            return Some(at);
        }
    }
}
