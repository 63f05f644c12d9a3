//! The TLS wire against rustls' own client, over sockets of the loopback interface.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use super::*;

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Accepts every certificate: what is tested is on the other side.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A server's configuration with a certificate of its own.
pub(crate) fn server() -> Arc<ServerConfig> {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let signing = rustls::crypto::ring::sign::any_supported_type(&der).unwrap();
    let certified = CertifiedKey::new(vec![key.cert.der().clone()], signing);
    Arc::new(server_config(Arc::new(OneCertificate(Arc::new(certified)))).unwrap())
}

/// A client that takes any certificate.
pub(crate) fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let provider = rustls::crypto::ring::default_provider();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth()
}

fn sockets() -> (TcpStream, TcpWire) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, TcpWire::new(listener.accept().unwrap().0).unwrap())
}

/// Runs a client on another thread: `act` gets its stream.
fn client<T: Send + 'static>(
    socket: TcpStream,
    config: ClientConfig,
    act: impl FnOnce(Client) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || act(tls_client(socket, config)))
}

/// A client that shakes hands when it first reads or writes.
pub(crate) fn tls_client(socket: TcpStream, config: ClientConfig) -> Client {
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(tls, socket)
}

async fn read(wire: &mut TlsWire, scratch: &mut Scratch) -> Result<Input, Error> {
    scratch.plain.clear();
    poll_fn(|cx| wire.poll_read(cx, scratch)).await
}

async fn send(wire: &mut TlsWire, plain: &[u8]) {
    poll_fn(|cx| Poll::Ready(wire.send(cx, plain)))
        .await
        .unwrap();
}

fn exported(client: &Client) -> [u8; BINDING_BYTES] {
    client
        .conn
        .export_keying_material([0; BINDING_BYTES], b"EXPORTER-Channel-Binding", Some(&[]))
        .unwrap()
}

/// RFC 9266
#[actix::test]
async fn our_channel_binding_is_the_tls_exporter_of_the_client_for_every_suite() {
    let server = server();
    for suite in rustls::crypto::ring::default_provider().cipher_suites {
        if suite.tls13().is_none() {
            continue;
        }
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![suite];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        let (socket, tcp) = sockets();
        let client = client(socket, config, |mut client| {
            client.write_all(b"x").unwrap();
            exported(&client)
        });
        let mut wire = TlsWire::new(tcp, server.clone(), Vec::new()).unwrap();
        let mut scratch = Scratch::borrow();
        assert_eq!(
            read(&mut wire, &mut scratch).await.unwrap(),
            Input::Handshaken
        );
        assert_eq!(
            wire.take_channel_binding(),
            Some(client.join().unwrap()),
            "{suite:?}"
        );
        assert_eq!(wire.take_channel_binding(), None);
    }
}

#[actix::test]
async fn a_tls_1_2_connection_works_and_has_no_channel_binding() {
    let (socket, tcp) = sockets();
    let client = client(
        socket,
        client_config(&rustls::version::TLS12),
        |mut client| {
            client.write_all(b"ping").unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).unwrap();
            answer
        },
    );
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    assert_eq!(
        read(&mut wire, &mut scratch).await.unwrap(),
        Input::Handshaken
    );
    assert_eq!(wire.take_channel_binding(), None);
    if scratch.plain.is_empty() {
        assert_eq!(read(&mut wire, &mut scratch).await.unwrap(), Input::Plain);
    }
    assert_eq!(scratch.plain, b"ping");
    send(&mut wire, b"pong").await;
    assert_eq!(&client.join().unwrap(), b"pong");
}

#[actix::test]
async fn bytes_that_a_proxy_header_left_over_start_the_handshake() {
    let (socket, mut tcp) = sockets();
    let client = client(
        socket,
        client_config(&rustls::version::TLS13),
        |mut client| {
            client.write_all(b"hello").unwrap();
        },
    );
    let mut first = [0; 100];
    let n = poll_fn(|cx| tcp.poll_read(cx, &mut first)).await.unwrap();
    let mut wire = TlsWire::new(tcp, server(), first[..n].to_vec()).unwrap();
    let mut scratch = Scratch::borrow();
    assert_eq!(
        read(&mut wire, &mut scratch).await.unwrap(),
        Input::Handshaken
    );
    client.join().unwrap();
}

#[actix::test]
async fn large_transfers_arrive_whole_in_both_directions() {
    const LEN: usize = 3_000_000;
    let (socket, tcp) = sockets();
    let data: Vec<u8> = (0..LEN).map(|n| n.to_le_bytes()[n % 3]).collect();
    let expected = data.clone();
    let client = client(
        socket,
        client_config(&rustls::version::TLS13),
        move |mut client| {
            client.write_all(&data).unwrap();
            client.flush().unwrap();
            let mut back = vec![0; LEN];
            client.read_exact(&mut back).unwrap();
            back == data
        },
    );
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    let mut received = Vec::new();
    while received.len() < LEN {
        assert_ne!(read(&mut wire, &mut scratch).await.unwrap(), Input::End);
        received.extend_from_slice(&scratch.plain);
    }
    assert!(received == expected);
    for chunk in received.chunks(64 * 1024) {
        send(&mut wire, chunk).await;
        assert!(wire.unsent() <= chunk.len());
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        assert_eq!(wire.unsent(), 0);
    }
    assert!(client.join().unwrap());
}

/// RFC 8446 §4.6.3
#[actix::test]
async fn a_key_update_goes_unnoticed() {
    let (socket, tcp) = sockets();
    let client = client(
        socket,
        client_config(&rustls::version::TLS13),
        |mut client| {
            client.write_all(b"before").unwrap();
            client.conn.refresh_traffic_keys().unwrap();
            client.write_all(b" after").unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).unwrap();
            answer
        },
    );
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    let mut received = Vec::new();
    while received.len() < 12 {
        assert_ne!(read(&mut wire, &mut scratch).await.unwrap(), Input::End);
        received.extend_from_slice(&scratch.plain);
    }
    assert_eq!(received, b"before after");
    send(&mut wire, b"done").await;
    assert_eq!(&client.join().unwrap(), b"done");
}

/// RFC 8446 §6.1
#[actix::test]
async fn close_notify_is_understood_and_sent() {
    let (socket, tcp) = sockets();
    let client = client(
        socket,
        client_config(&rustls::version::TLS13),
        |mut client| {
            client.write_all(b"bye").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            // An end without close_notify would be an error.
            client.read(&mut [0; 8]).unwrap()
        },
    );
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    let mut last = read(&mut wire, &mut scratch).await.unwrap();
    while last != Input::End {
        last = read(&mut wire, &mut scratch).await.unwrap();
    }
    poll_fn(|cx| wire.poll_shutdown(cx)).await.unwrap();
    assert_eq!(client.join().unwrap(), 0);
    assert!(
        poll_fn(|cx| Poll::Ready(wire.send(cx, b"late")))
            .await
            .is_err()
    );
}

#[actix::test]
async fn a_peer_that_speaks_no_tls_gets_an_alert() {
    let (mut socket, tcp) = sockets();
    socket
        .write_all(b"<?xml version='1.0'?><stream:stream to='localhost'>")
        .unwrap();
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    assert!(matches!(
        read(&mut wire, &mut scratch).await,
        Err(Error::Tls(_))
    ));
    drop(wire);
    let mut alert = Vec::new();
    let _ = socket.read_to_end(&mut alert);
    assert_eq!(alert.first(), Some(&21), "an alert record, got {alert:?}");
}

/// XEP-0368 §4
#[actix::test]
async fn a_client_that_offers_only_other_protocols_is_refused() {
    let (socket, tcp) = sockets();
    let mut config = client_config(&rustls::version::TLS13);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = client(socket, config, |mut client| client.write_all(b"x").is_err());
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    let error = read(&mut wire, &mut scratch).await.unwrap_err();
    assert!(
        matches!(error, Error::Tls(rustls::Error::NoApplicationProtocol)),
        "{error}"
    );
    drop(wire);
    assert!(client.join().unwrap());
}

#[actix::test]
async fn a_wire_goes_on_after_a_move_between_reactors() {
    let (socket, tcp) = sockets();
    let client = client(
        socket,
        client_config(&rustls::version::TLS13),
        |mut client| {
            client.write_all(b"one").unwrap();
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap();
            client.write_all(b"two").unwrap();
            answer
        },
    );
    let mut wire = TlsWire::new(tcp, server(), Vec::new()).unwrap();
    let mut scratch = Scratch::borrow();
    let mut received = Vec::new();
    while received.len() < 3 {
        read(&mut wire, &mut scratch).await.unwrap();
        received.extend_from_slice(&scratch.plain);
    }
    let parts = wire.into_parts().unwrap();
    std::thread::spawn(move || {
        actix::System::new().block_on(async {
            let mut wire = TlsWire::from_parts(parts).unwrap();
            let mut scratch = Scratch::borrow();
            send(&mut wire, b"eno").await;
            // The new reactor has not told yet that the socket is writable.
            poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
            assert_eq!(read(&mut wire, &mut scratch).await.unwrap(), Input::Plain);
            assert_eq!(scratch.plain, b"two");
        });
    })
    .join()
    .unwrap();
    assert_eq!(&client.join().unwrap(), b"eno");
}
