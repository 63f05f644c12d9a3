//! Whole connections over real sockets: a node in this process, clients that block in threads.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use rookery_features::password::{self, Password};

use super::*;
use crate::Node;
use crate::settings::{Settings, TlsPolicy};
use crate::transport::tls::tests::{Client as TlsClient, client_config, server, tls_client};
use crate::transport::websocket;

const HEADER: &str = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' \
                      xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
const BIND: &str = "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                    <resource>desk</resource></bind></iq>";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// A node whose accounts ann and bob have the password `secret`.
struct Server {
    node: Node,
    _database: tempfile::TempDir,
}

impl Server {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let database = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", database.path().join("rookery.db").display());
        let storage = rookery_storage::open(&url, rookery_storage::Options::default())
            .await
            .unwrap();
        let iterations = NonZeroU32::new(16).unwrap();
        let secret = Password::new("secret");
        let keys = password::derive_credentials(&secret, [b"salt", b"pepper"], iterations).unwrap();
        for name in ["ann@localhost", "bob@localhost"] {
            storage
                .create(&BareJid::parse(name).unwrap(), &keys)
                .await
                .unwrap();
        }
        let mut settings = Settings {
            workers: 2,
            ..Settings::default()
        };
        settings.c2s.linger = Duration::from_millis(200);
        // Messages go from stream to stream in the turn in which they came.
        settings.archive.enabled = false;
        change(&mut settings);
        let node = Node::start(settings, storage, None, server())
            .await
            .unwrap();
        Self {
            node,
            _database: database,
        }
    }

    async fn plain() -> Self {
        Self::start(|s| s.c2s.tls = TlsPolicy::Disabled).await
    }

    /// The client's side of a new TCP connection.
    fn connect(&self, direct_tls: bool) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (socket, peer) = listener.accept().unwrap();
        self.node.accept(Accepted::Tcp {
            socket,
            peer,
            direct_tls,
        });
        client
    }
}

/// Runs a client that blocks.
async fn client<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

/// A client's stream.
struct Stream<S>(S);

impl<S: Read + Write> Stream<S> {
    fn send(&mut self, xml: &str) {
        self.0.write_all(xml.as_bytes()).unwrap();
        self.0.flush().unwrap();
    }

    /// Reads until the text comes; returns what came, with it.
    fn until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(text.as_bytes()) {
            let n = self.0.read(&mut byte).unwrap_or(0);
            assert_eq!(n, 1, "no {text} in {}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    /// Reads to the end of the connection.
    fn rest(&mut self) -> String {
        let mut read = Vec::new();
        let _ = self.0.read_to_end(&mut read);
        String::from_utf8(read).unwrap()
    }

    fn open(&mut self) -> String {
        self.send(HEADER);
        self.until("</stream:features>")
    }

    /// Logs in by SCRAM-SHA-1, or by SCRAM-SHA-1-PLUS with this channel binding.
    fn log_in(&mut self, user: &str, binding: Option<&[u8]>) {
        let (mechanism, flag) = match binding {
            None => ("SCRAM-SHA-1", "n,,"),
            Some(_) => ("SCRAM-SHA-1-PLUS", "p=tls-exporter,,"),
        };
        let bare = format!("n={user},r=nonce");
        let first = STANDARD.encode(format!("{flag}{bare}"));
        let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
        self.send(&format!(
            "<auth {sasl} mechanism='{mechanism}'>{first}</auth>"
        ));
        let challenge = self.until("</challenge>");
        let challenge = challenge
            .split('>')
            .nth(1)
            .unwrap()
            .split('<')
            .next()
            .unwrap();
        let challenge = String::from_utf8(STANDARD.decode(challenge).unwrap()).unwrap();
        let field = |name| {
            challenge
                .split(',')
                .find_map(|f| f.strip_prefix(name))
                .unwrap()
        };
        let bound = [flag.as_bytes(), binding.unwrap_or_default()].concat();
        let without_proof = format!("c={},r={}", STANDARD.encode(bound), field("r="));
        let signed = format!("{bare},{challenge},{without_proof}");
        let salt = STANDARD.decode(field("s=")).unwrap();
        let proof = proof(&salt, field("i=").parse().unwrap(), &signed);
        let last = STANDARD.encode(format!("{without_proof},p={proof}"));
        self.send(&format!("<response {sasl}>{last}</response>"));
        self.until("</success>");
    }

    fn bind(&mut self) {
        self.open();
        self.send(BIND);
        self.until("</iq>");
    }
}

fn proof(salt: &[u8], iterations: NonZeroU32, signed: &str) -> String {
    let sign = |key: &[u8], data: &[u8]| {
        hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key),
            data,
        )
    };
    let mut salted = [0; 20];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA1,
        iterations,
        salt,
        b"secret",
        &mut salted,
    );
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, client_key.as_ref());
    let signature = sign(stored.as_ref(), signed.as_bytes());
    let pairs = client_key.as_ref().iter().zip(signature.as_ref());
    STANDARD.encode(
        pairs
            .map(|(key, signature)| key ^ signature)
            .collect::<Vec<u8>>(),
    )
}

fn to_self(user: &str, body: &str) -> String {
    format!("<message to='{user}@localhost/desk' id='m'><body>{body}</body></message>")
}

#[actix::test]
async fn clients_log_in_bind_send_and_close() {
    let server = Server::plain().await;
    // One of the two is owned by the other arbiter, whichever accepts it.
    for user in ["ann", "bob", "ann", "bob"] {
        let socket = server.connect(false);
        client(move || {
            let mut stream = Stream(socket);
            assert!(stream.open().contains(">SCRAM-SHA-1<"));
            stream.log_in(user, None);
            stream.send(HEADER);
            assert!(stream.until("</stream:features>").contains("xmpp-bind"));
            stream.send(BIND);
            let bound = stream.until("</iq>");
            assert!(
                bound.contains(&format!("<jid>{user}@localhost/desk</jid>")),
                "{bound}"
            );
            stream.send(" \n");
            stream.send(&(to_self(user, "one") + &to_self(user, "two")));
            assert!(stream.until("</message>").contains("<body>one</body>"));
            assert!(stream.until("</message>").contains("<body>two</body>"));
            stream.send(&(to_self(user, "last") + "</stream:stream>"));
            let rest = stream.rest();
            assert!(rest.contains("<body>last</body>"), "{rest}");
            assert!(rest.ends_with("</stream:stream>"), "{rest}");
        })
        .await;
    }
}

#[actix::test]
async fn everything_may_come_at_once_and_byte_by_byte() {
    let server = Server::plain().await;
    let socket = server.connect(false);
    client(move || {
        let mut stream = Stream(socket);
        for byte in HEADER.bytes() {
            stream.0.write_all(&[byte]).unwrap();
        }
        stream.until("</stream:features>");
        stream.log_in("ann", None);
        // A client may know what comes and not wait for it.
        stream.send(&format!("{HEADER}{BIND}{}", to_self("ann", "early")));
        assert!(stream.until("</message>").contains("<body>early</body>"));
    })
    .await;
}

/// RFC 6120 §5.4.3.3, RFC 9266
#[actix::test]
async fn starttls_forgets_what_came_before_and_binds_the_channel() {
    let server = Server::start(|_| ()).await;
    for user in ["ann", "bob"] {
        let mut socket = server.connect(false);
        client(move || {
            let mut plain = Stream(&mut socket);
            assert!(plain.open().contains("<required/>"));
            // Injected by somebody in the middle: must not be answered after the handshake.
            plain.send(&format!("{STARTTLS}<iq type='get' id='evil'/>"));
            plain.until("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            let mut stream = Stream(tls_client(socket, client_config(&rustls::version::TLS13)));
            assert!(stream.open().contains("tls-exporter"));
            let binding = exported(&stream.0);
            stream.log_in(user, Some(&binding));
            stream.bind();
            stream.send(&to_self(user, "hello"));
            assert!(stream.until("</message>").contains("<body>hello</body>"));
            stream.send("</stream:stream>");
            assert_eq!(stream.rest(), "</stream:stream>");
        })
        .await;
    }
}

#[actix::test]
async fn direct_tls_serves_old_and_new_versions() {
    let server = Server::start(|_| ()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let socket = server.connect(true);
        client(move || {
            let mut stream = Stream(tls_client(socket, client_config(version)));
            let features = stream.open();
            assert_eq!(
                features.contains("-PLUS"),
                version.version == rustls::ProtocolVersion::TLSv1_3
            );
            stream.log_in("ann", None);
            stream.bind();
            stream.send(&to_self("ann", "hello"));
            stream.until("</message>");
        })
        .await;
    }
}

fn exported(client: &TlsClient) -> [u8; 32] {
    client
        .conn
        .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
        .unwrap()
}

/// RFC 6120 §4.9.3.4
#[actix::test]
async fn a_client_that_dawdles_is_sent_away() {
    let server = Server::start(|s| s.c2s.negotiation_timeout = Duration::from_millis(200)).await;
    let (silent, slow, in_tls) = (
        server.connect(false),
        server.connect(false),
        server.connect(true),
    );
    client(move || {
        let rest = Stream(silent).rest();
        assert!(
            rest.starts_with("<?xml version='1.0'?><stream:stream "),
            "{rest}"
        );
        assert!(rest.contains("<connection-timeout"), "{rest}");
        let mut slow = Stream(slow);
        slow.send(HEADER);
        assert!(slow.rest().contains("<connection-timeout"));
        assert_eq!(Stream(in_tls).rest(), "");
    })
    .await;
}

#[actix::test]
async fn stream_errors_come_inside_a_stream_and_end_it() {
    let server = Server::plain().await;
    let long = format!(
        "{HEADER}<message><body>{}</body></message>",
        "x".repeat(20_000)
    );
    for (xml, condition) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "bad-format"),
        (
            format!("{HEADER}<message to='bob@localhost'/>"),
            "not-authorized",
        ),
        (format!("{HEADER}<a></b>"), "not-well-formed"),
        (format!("{HEADER}<!-- no -->"), "restricted-xml"),
        (
            format!("{HEADER}<x xmlns='urn:x'/>"),
            "unsupported-stanza-type",
        ),
        (HEADER.replace("localhost", "example.org"), "host-unknown"),
        (long, "policy-violation"),
    ] {
        let socket = server.connect(false);
        client(move || {
            let mut stream = Stream(socket);
            stream.send(&xml);
            let rest = stream.rest();
            assert_eq!(rest.matches("<stream:stream ").count(), 1, "{rest}");
            assert!(
                rest.contains(&format!("<stream:error><{condition} ")),
                "{condition}: {rest}"
            );
            assert!(rest.ends_with("</stream:error></stream:stream>"), "{rest}");
        })
        .await;
    }
}

#[actix::test]
async fn stanzas_before_a_fault_are_handled() {
    let server = Server::plain().await;
    let socket = server.connect(false);
    client(move || {
        let mut stream = Stream(socket);
        stream.open();
        stream.log_in("ann", None);
        stream.bind();
        stream.send(&(to_self("ann", "sent") + "<message><a></"));
        stream.send("b></message>");
        let rest = stream.rest();
        assert!(rest.contains("<body>sent</body>"), "{rest}");
        assert!(rest.contains("<not-well-formed "), "{rest}");
    })
    .await;
}

#[actix::test]
async fn wrong_passwords_end_in_a_policy_violation() {
    let server = Server::start(|s| {
        s.c2s.tls = TlsPolicy::Optional;
        s.auth.attempts_per_stream = 2;
        s.auth.attempts_per_account = 3;
        s.auth.attempt_interval = Duration::from_mins(10);
    })
    .await;
    let attempt = |account: &str| {
        let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
        let plain = STANDARD.encode(format!("\0{account}\0wrong"));
        format!("<auth {sasl} mechanism='PLAIN'>{plain}</auth>")
    };
    for expected in ["not-authorized", "not-authorized", "temporary-auth-failure"] {
        let socket = server.connect(true);
        let attempt = attempt("ann");
        client(move || {
            let mut stream = Stream(tls_client(socket, client_config(&rustls::version::TLS13)));
            stream.open();
            stream.send(&attempt);
            let first = stream.until("</failure>");
            stream.send(&attempt);
            let last = stream.rest();
            assert!(
                format!("{first}{last}").contains(expected),
                "{first} {last}"
            );
            assert!(last.contains("<policy-violation "), "{last}");
        })
        .await;
    }
}

#[actix::test]
async fn a_proxy_tells_whom_it_speaks_for() {
    let server = Server::start(|s| {
        s.c2s.tls = TlsPolicy::Disabled;
        s.c2s.proxy_protocol = true;
        s.c2s.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        s.c2s.max_unauthenticated_per_address = 1;
    })
    .await;
    let header = |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([192, 0, 2, last, 127, 0, 0, 1, 0, 9, 0, 9]);
        header
    };
    let (first, second, third, direct) = (
        server.connect(false),
        server.connect(false),
        server.connect(false),
        server.connect(false),
    );
    client(move || {
        let mut first = Stream(first);
        // In two parts, the second with the start of the stream.
        first.0.write_all(&header(1)[..10]).unwrap();
        first
            .0
            .write_all(&[&header(1)[10..], HEADER.as_bytes()].concat())
            .unwrap();
        first.until("</stream:features>");
        // The same client again: one too many.
        let mut second = Stream(second);
        second.0.write_all(&header(1)).unwrap();
        assert_eq!(second.rest(), "");
        let mut third = Stream(third);
        third.0.write_all(&header(2)).unwrap();
        third.open();
        let mut direct = Stream(direct);
        direct.send(HEADER);
        assert_eq!(direct.rest(), "");
    })
    .await;
}

#[actix::test]
async fn others_than_proxies_are_not_listened_to() {
    let server = Server::start(|s| {
        s.c2s.proxy_protocol = true;
        s.c2s.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await;
    let socket = server.connect(false);
    client(move || assert_eq!(Stream(socket).rest(), "")).await;
}

#[actix::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::start(|s| s.c2s.max_unauthenticated = 1).await;
    let (first, second) = (server.connect(false), server.connect(false));
    client(move || {
        // Either may have been the first one for its arbiter.
        let mut refused = [first, second].map(|socket| {
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            Stream(socket).rest().contains("<resource-constraint ")
        });
        refused.sort_unstable();
        assert_eq!(refused, [false, true]);
    })
    .await;
}

#[actix::test]
async fn a_client_that_never_reads_is_dropped() {
    let server = Server::start(|s| {
        s.c2s.tls = TlsPolicy::Disabled;
        s.c2s.write_timeout = Duration::from_millis(300);
        s.sessions.outbox_bytes = 512 * 1024;
    })
    .await;
    let socket = server.connect(false);
    client(move || {
        let mut stream = Stream(socket);
        stream.open();
        stream.log_in("ann", None);
        stream.bind();
        let message = to_self("ann", &"x".repeat(60_000));
        stream
            .0
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // More than any socket buffer takes; the write fails once the server has given up.
        let gone = (0..5000).any(|_| stream.0.write_all(message.as_bytes()).is_err());
        assert!(gone);
    })
    .await;
}

#[actix::test]
async fn a_new_session_ends_the_old_one_of_the_same_resource() {
    let server = Server::plain().await;
    let (old, new) = (server.connect(false), server.connect(false));
    client(move || {
        let (mut old, mut new) = (Stream(old), Stream(new));
        for stream in [&mut old, &mut new] {
            stream.open();
            stream.log_in("ann", None);
            stream.bind();
        }
        let rest = old.rest();
        assert!(rest.contains("<stream:error><conflict "), "{rest}");
        assert!(rest.ends_with("</stream:stream>"), "{rest}");
        new.send(&to_self("ann", "still here"));
        new.until("</message>");
    })
    .await;
}

mod over_websocket {
    use futures_util::{SinkExt, StreamExt};
    use tungstenite::Message;
    use tungstenite::protocol::Role;

    use super::*;

    type Socket = WebSocketStream<BoxIo>;

    async fn connect(server: &Server) -> Socket {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let config = websocket::config(server.node.shared().settings.c2s.max_stanza_bytes);
        let theirs: BoxIo = Box::new(theirs);
        let stream = WebSocketStream::from_raw_socket(theirs, Role::Server, Some(config)).await;
        server.node.accept(Accepted::WebSocket {
            stream: Box::new(stream),
            peer: "192.0.2.1:1".parse().unwrap(),
            secure: true,
        });
        let ours: BoxIo = Box::new(ours);
        WebSocketStream::from_raw_socket(ours, Role::Client, None).await
    }

    async fn send(socket: &mut Socket, document: &str) {
        socket.send(Message::text(document)).await.unwrap();
    }

    async fn receive(socket: &mut Socket) -> String {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Pong(_))) => {}
                other => panic!("no document: {other:?}"),
            }
        }
    }

    const OPEN: &str =
        "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";
    const CLOSE: &str = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";

    async fn open(socket: &mut Socket) {
        send(socket, OPEN).await;
        assert!(receive(socket).await.starts_with("<open "));
        assert!(receive(socket).await.starts_with("<stream:features "));
    }

    /// RFC 7395 §3
    #[actix::test]
    async fn a_session_runs_over_a_websocket() {
        let server = Server::start(|_| ()).await;
        for user in ["ann", "bob"] {
            let mut socket = connect(&server).await;
            open(&mut socket).await;
            let plain = STANDARD.encode(format!("\0{user}\0secret"));
            let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
            send(
                &mut socket,
                &format!("<auth {sasl} mechanism='PLAIN'>{plain}</auth>"),
            )
            .await;
            assert!(receive(&mut socket).await.starts_with("<success "));
            open(&mut socket).await;
            send(
                &mut socket,
                &BIND.replace("<iq ", "<iq xmlns='jabber:client' "),
            )
            .await;
            assert!(receive(&mut socket).await.contains("/desk</jid>"));
            socket.send(Message::Ping(vec![1].into())).await.unwrap();
            let message =
                to_self(user, "hi").replace("<message ", "<message xmlns='jabber:client' ");
            send(&mut socket, &message).await;
            let echo = receive(&mut socket).await;
            assert!(echo.starts_with("<message xmlns='jabber:client'"), "{echo}");
            assert!(echo.contains("<body>hi</body>"), "{echo}");
            send(&mut socket, CLOSE).await;
            assert_eq!(receive(&mut socket).await, CLOSE);
            assert!(matches!(
                socket.next().await,
                Some(Ok(Message::Close(_))) | None
            ));
        }
    }

    #[actix::test]
    async fn binary_messages_are_refused() {
        let server = Server::start(|_| ()).await;
        let mut socket = connect(&server).await;
        open(&mut socket).await;
        socket
            .send(Message::binary(OPEN.as_bytes().to_vec()))
            .await
            .unwrap();
        let error = receive(&mut socket).await;
        assert!(
            error.starts_with("<stream:error ") && error.contains("<policy-violation "),
            "{error}"
        );
        assert_eq!(receive(&mut socket).await, CLOSE);
    }

    #[actix::test]
    async fn a_document_that_is_too_long_is_refused() {
        let server = Server::start(|_| ()).await;
        for len in [20_000, 300_000] {
            let mut socket = connect(&server).await;
            open(&mut socket).await;
            let body = "x".repeat(len);
            // The server may have had enough before it is all written.
            let _ = socket
                .send(Message::text(format!("<message>{body}</message>")))
                .await;
            let error = receive(&mut socket).await;
            assert!(error.contains("<policy-violation "), "{error}");
        }
    }
}
