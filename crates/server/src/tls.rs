//! TLS for client streams and for HTTP (RFC 7590, RFC 9325).

use std::sync::Arc;

use rustls::server::ResolvesServerCert;
use rustls::{KeyLog, ServerConfig};

/// TLS 1.2 and 1.3 for XMPP streams: STARTTLS and direct TLS.
///
/// `key_log` gets the exporter secrets: the connection derives its `tls-exporter` channel binding
/// (RFC 9266) from them, since rustls' unbuffered connections have no exporter of their own.
///
/// # Errors
/// If rustls has no ticketer here.
pub(crate) fn stream_config(
    certificates: Arc<dyn ResolvesServerCert>,
    key_log: Arc<dyn KeyLog>,
) -> Result<ServerConfig, rustls::Error> {
    // XEP-0368 §3: a client that offers ALPN asks for this; one that offers none is let in as well.
    let mut config = base(certificates, b"xmpp-client")?;
    config.key_log = key_log;
    // XMPP clients hold one long stream and hardly ever resume; making a ticket for each costs the
    // logins of a reconnect storm.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// TLS 1.2 and 1.3 for HTTP.
///
/// # Errors
/// If rustls has no ticketer here.
pub(crate) fn http_config(
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    base(certificates, b"http/1.1")
}

fn base(
    certificates: Arc<dyn ResolvesServerCert>,
    protocol: &[u8],
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![protocol.to_vec()];
    // Stateless resumption: the keys live in this process and change by themselves.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}
