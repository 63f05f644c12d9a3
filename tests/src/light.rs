//! A client that costs next to nothing: it looks for the few words that it waits for and parses no XML.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ring::{digest, hmac};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::scram::{base64, client_key, from_base64, random_nonce};
use crate::wire::{SASL, STREAM, element_end};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_mins(1);
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const MANAGEMENT: &str = "urn:xmpp:sm:3";

/// How clients connect and log in.
#[derive(Clone)]
pub struct Manner {
    /// Whether there is TLS, and when it starts.
    pub tls: Tls,
    /// What they prove the password by.
    pub proof: Proof,
}

/// When TLS starts.
#[derive(Clone)]
pub enum Tls {
    /// Never.
    Never,
    /// When the client asks for it (RFC 6120 §5).
    StartTls(Arc<ClientConfig>),
    /// With the connection (XEP-0368).
    Direct(Arc<ClientConfig>),
}

/// What a client proves to know its password by.
#[derive(Clone)]
pub enum Proof {
    /// PLAIN, with the password.
    Plain(Arc<str>),
    /// SCRAM-SHA-1, with the password. The key is derived from it, which takes some time.
    Password(Arc<str>),
    /// SCRAM-SHA-1, with the key that was derived before, as clients keep it.
    Key(Arc<[u8]>),
}

/// Why a client is not in.
pub type Reason = String;

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One stream.
pub struct Light {
    stream: Stream,
    /// What has arrived and was not looked at.
    unread: Vec<u8>,
    /// How much room is made before a read.
    room: usize,
    /// Stanzas that have arrived since stream management was enabled.
    received: u32,
    /// What a session can be resumed by.
    pub resume_id: Option<String>,
    /// What [`Proof::Key`] takes, after a login by SCRAM-SHA-1.
    pub client_key: Option<Arc<[u8]>>,
}

impl Light {
    /// Logs in, binds the resource `phone` and enables stream management. With `resume`, a session is tried
    /// to be resumed first, as clients do, and a refusal is no failure.
    ///
    /// # Errors
    /// The step that failed, and how.
    pub async fn managed(
        address: SocketAddr,
        name: &str,
        from: Ipv4Addr,
        manner: &Manner,
        resume: Option<&str>,
    ) -> Result<Self, Reason> {
        let mut light = Self::log_in(address, name, from, manner).await?;
        let binding = async {
            if let Some(id) = resume {
                light.try_to_resume(id).await?;
            }
            light.bind("phone").await?;
            light.enable_management().await
        };
        binding.await.map_err(|r| format!("binding: {r}"))?;
        Ok(light)
    }

    /// Logs in. No resource is bound yet.
    ///
    /// # Errors
    /// The step that failed, and how.
    pub async fn log_in(
        address: SocketAddr,
        name: &str,
        from: Ipv4Addr,
        manner: &Manner,
    ) -> Result<Self, Reason> {
        let mut light = Self::connect(address, from, &manner.tls).await?;
        light
            .authenticate(name, &manner.proof)
            .await
            .map_err(|r| format!("login: {r}"))?;
        Ok(light)
    }

    /// Connects, secures the stream and waits for the server's features.
    ///
    /// # Errors
    /// The step that failed, and how.
    pub async fn connect(address: SocketAddr, from: Ipv4Addr, tls: &Tls) -> Result<Self, Reason> {
        let connecting = async {
            let socket = TcpSocket::new_v4()?;
            // Not the one address of all, which would be limited as that of one client is.
            socket.bind((from, 0).into())?;
            let tcp = socket.connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, io::Error>(tcp)
        };
        let tcp = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(tcp) => tcp.map_err(|e| format!("connecting: {}", e.kind()))?,
            Err(_) => return Err("connecting: timed out".to_owned()),
        };
        let mut light = Self {
            stream: Stream::Tcp(tcp),
            unread: Vec::new(),
            room: 0,
            received: 0,
            resume_id: None,
            client_key: None,
        };
        if let Tls::Direct(config) = tls {
            light = light
                .shake_hands(Arc::clone(config))
                .await
                .map_err(|r| format!("TLS: {r}"))?;
        }
        light.open().await.map_err(|r| format!("opening: {r}"))?;
        if let Tls::StartTls(config) = tls {
            light = light
                .start_tls(Arc::clone(config))
                .await
                .map_err(|r| format!("TLS: {r}"))?;
        }
        Ok(light)
    }

    /// Makes room for this many bytes before each read: fewer reads if much comes, for more memory.
    #[must_use]
    pub fn with_room(mut self, room: usize) -> Self {
        self.room = room;
        self
    }

    async fn open(&mut self) -> Result<(), Reason> {
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' \
             xmlns='jabber:client' xmlns:stream='{STREAM}'>"
        ))
        .await?;
        self.until("</stream:features>").await.map(drop)
    }

    async fn start_tls(mut self, config: Arc<ClientConfig>) -> Result<Self, Reason> {
        self.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            .await?;
        self.until("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            .await?;
        let mut light = self.shake_hands(config).await?;
        light.open().await?;
        Ok(light)
    }

    async fn shake_hands(mut self, config: Arc<ClientConfig>) -> Result<Self, Reason> {
        let Stream::Tcp(tcp) = self.stream else {
            unreachable!("TLS starts on TCP")
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = tokio::time::timeout(PATIENCE, handshake).await;
        let tls = tls
            .map_err(|_| "timed out".to_owned())?
            .map_err(|e| e.kind().to_string())?;
        self.stream = Stream::Tls(Box::new(tls));
        Ok(self)
    }

    /// The TLS version and the cipher suite, if there is TLS.
    pub fn cipher(&self) -> Option<String> {
        let Stream::Tls(tls) = &self.stream else {
            return None;
        };
        let connection = tls.get_ref().1;
        let version = connection.protocol_version()?;
        let suite = connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version:?} {suite:?}"))
    }

    async fn authenticate(&mut self, name: &str, proof: &Proof) -> Result<(), Reason> {
        if let Proof::Plain(password) = proof {
            let message = base64(format!("\0{name}\0{password}"));
            self.send(&format!(
                "<auth xmlns='{SASL}' mechanism='PLAIN'>{message}</auth>"
            ))
            .await?;
            self.until("<success").await?;
            self.until(">").await?;
        } else {
            self.scram(name, proof).await?;
        }
        self.open().await
    }

    /// RFC 5802 §3
    async fn scram(&mut self, name: &str, proof: &Proof) -> Result<(), Reason> {
        let bare = format!("n={name},r={}", random_nonce());
        let first = base64(format!("n,,{bare}"));
        self.send(&format!(
            "<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{first}</auth>"
        ))
        .await?;
        let challenge = self.until("</challenge>").await?;
        let payload = challenge
            .trim_end_matches("</challenge>")
            .rsplit('>')
            .next();
        let server_first = from_base64(payload.unwrap_or_default());
        let client_key = match proof {
            Proof::Key(key) => Arc::clone(key),
            Proof::Plain(password) | Proof::Password(password) => {
                Arc::from(client_key(password, &server_first))
            }
        };
        let nonce = server_first.split(',').next().unwrap_or_default();
        let without_proof = format!("c={},{nonce}", base64("n,,"));
        let message = format!("{bare},{server_first},{without_proof}");
        let stored = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &client_key);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, stored.as_ref());
        let signature = hmac::sign(&key, message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        let last = base64(format!("{without_proof},p={}", base64(proof)));
        self.send(&format!("<response xmlns='{SASL}'>{last}</response>"))
            .await?;
        self.until("</success>").await?;
        self.client_key = Some(client_key);
        Ok(())
    }

    async fn try_to_resume(&mut self, id: &str) -> Result<(), Reason> {
        self.send(&format!(
            "<resume xmlns='{MANAGEMENT}' previd='{id}' h='0'/>"
        ))
        .await?;
        self.until("</failed>").await.map(drop)
    }

    /// Binds a resource.
    ///
    /// # Errors
    /// The server refuses, or the stream has ended.
    pub async fn bind(&mut self, resource: &str) -> Result<(), Reason> {
        self.send(&format!(
            "<iq type='set' id='b'><bind xmlns='{BIND}'><resource>{resource}</resource></bind></iq>"
        ))
        .await?;
        let bound = self.until("</iq>").await?;
        if bound.contains("type='result'") {
            Ok(())
        } else {
            Err(format!("refused: {bound}"))
        }
    }

    async fn enable_management(&mut self) -> Result<(), Reason> {
        self.send(&format!("<enable xmlns='{MANAGEMENT}' resume='true'/>"))
            .await?;
        self.until("<enabled").await?;
        let enabled = self.until(">").await?;
        self.resume_id = enabled
            .split_once(" id='")
            .and_then(|(_, rest)| rest.split_once('\''))
            .map(|(id, _)| id.to_owned());
        Ok(())
    }

    /// Asks for the roster and sends initial presence, and waits for both to come back.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn become_available(&mut self) -> Result<(), Reason> {
        self.send(
            "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>\
             <presence id='now-here'/>",
        )
        .await?;
        let before = self.until("now-here").await?;
        self.received += count_stanzas(before.as_bytes());
        Ok(())
    }

    /// Sends text as it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, text: &str) -> Result<(), Reason> {
        let sent = match &mut self.stream {
            Stream::Tcp(tcp) => tcp.write_all(text.as_bytes()).await,
            Stream::Tls(tls) => match tls.write_all(text.as_bytes()).await {
                Ok(()) => tls.flush().await,
                failed => failed,
            },
        };
        sent.map_err(|e| e.kind().to_string())
    }

    /// Waits for more to arrive. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn read(&mut self) -> Result<(), Reason> {
        self.unread.reserve(self.room);
        let read = match &mut self.stream {
            Stream::Tcp(tcp) => tcp.read_buf(&mut self.unread).await,
            Stream::Tls(tls) => tls.read_buf(&mut self.unread).await,
        };
        match read {
            Ok(0) => Err("closed".to_owned()),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err("closed".to_owned()),
            Err(e) => Err(e.kind().to_string()),
        }
    }

    /// Reads until this text has come, and returns what came up to its end. Fails if there is an error of
    /// the stream or of SASL before it.
    async fn until(&mut self, text: &str) -> Result<String, Reason> {
        let wait = async {
            loop {
                if let Some(at) = find(&self.unread, text.as_bytes()) {
                    let rest = self.unread.split_off(at + text.len());
                    let found = std::mem::replace(&mut self.unread, rest);
                    return Ok(String::from_utf8_lossy(&found).into_owned());
                }
                if let Some(reason) = refusal(&self.unread) {
                    return Err(reason);
                }
                self.read().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => Err("timed out".to_owned()),
        }
    }

    /// Hands over each stanza that has arrived as a whole.
    pub fn take(&mut self, mut look: impl FnMut(&[u8])) {
        let mut at = 0;
        loop {
            let rest = &self.unread[at..];
            let blank = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let Some(length) = element_end(&rest[blank..]) else {
                break;
            };
            look(&rest[blank..blank + length]);
            at += blank + length;
        }
        self.unread.drain(..at);
    }

    /// Reads until a stanza has come that is wanted, and passes over others. The ones that came with it are
    /// passed over as well.
    ///
    /// # Errors
    /// It does not come, or the connection has ended.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Result<(), Reason> {
        let wait = async {
            loop {
                let mut has_come = false;
                self.take(|stanza| has_come |= wanted(&String::from_utf8_lossy(stanza)));
                if has_come {
                    return Ok(());
                }
                self.read().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(came) => came,
            Err(_) => Err("timed out".to_owned()),
        }
    }

    /// Reads and answers requests for acks until the stream ends. Hands what has come to `look`, in
    /// pieces that end at the end of a tag.
    pub async fn idle(&mut self, mut look: impl FnMut(&str)) -> Reason {
        loop {
            if let Some(at) = self.unread.iter().rposition(|&byte| byte == b'>') {
                let rest = self.unread.split_off(at + 1);
                let whole = std::mem::replace(&mut self.unread, rest);
                self.received += count_stanzas(&whole);
                look(&String::from_utf8_lossy(&whole));
                if find(&whole, b"<r ").is_some() {
                    let ack = format!("<a xmlns='{MANAGEMENT}' h='{}'/>", self.received);
                    if let Err(reason) = self.send(&ack).await {
                        return reason;
                    }
                }
                if let Some(reason) = refusal(&whole) {
                    return reason;
                }
            }
            if self.unread.is_empty() {
                self.unread = Vec::new();
            }
            if let Err(reason) = self.read().await {
                return reason;
            }
        }
    }
}

/// What a stream error or a failed login is called.
fn refusal(text: &[u8]) -> Option<Reason> {
    for start in [
        &b"<stream:error>"[..],
        b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>",
    ] {
        let Some(at) = find(text, start) else {
            continue;
        };
        let rest = text[at + start.len()..].strip_prefix(b"<")?;
        let end = rest.iter().position(|b| b" />".contains(b))?;
        return Some(String::from_utf8_lossy(&rest[..end]).into_owned());
    }
    None
}

fn count_stanzas(text: &[u8]) -> u32 {
    let mut count = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'<') {
        let is_stanza = [&b"<message "[..], b"<presence ", b"<iq "]
            .iter()
            .any(|start| text[at..].starts_with(start));
        count += u32::from(is_stanza);
    }
    count
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|w| w == wanted)
}
