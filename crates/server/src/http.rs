//! The public web site: WebSockets for clients in browsers, and where to find them.

use std::net::{IpAddr, SocketAddr};

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use rookery_actors::settings::Network;

use crate::config::{Config, TlsPolicy};
use crate::host_meta::{self, Format};
use crate::metrics;
use crate::web::{self, Answer, Origin, Site};
use crate::websocket::{self, Origins};
use crate::wiring::NodeHandle;

/// Where the WebSocket is.
pub(crate) const WEBSOCKET_PATH: &str = "/xmpp-websocket";

/// What is served on `http.listen` and `http.tls_listen`.
#[derive(Debug)]
pub(crate) struct PublicSite {
    node: NodeHandle,
    origins: Origins,
    trusted_proxies: Vec<Network>,
    location: Location,
    max_stanza_bytes: usize,
}

/// How the WebSocket's URL is made.
#[derive(Debug)]
struct Location {
    /// As the operator says.
    fixed: Option<String>,
    /// The port with TLS, for those who ask without.
    tls_port: Option<u16>,
    /// Whether a WebSocket without TLS is of any use.
    plain_is_useful: bool,
}

/// The client, as far as trusted proxies let us see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// Its address; the port is 0 if only a proxy knows it.
    pub(crate) address: SocketAddr,
    /// Whether its bytes were encrypted on the way.
    pub(crate) secure: bool,
}

impl PublicSite {
    /// `tls_port`: where `http.tls_listen` really listens.
    pub(crate) fn new(config: &Config, tls_port: Option<u16>, node: NodeHandle) -> Self {
        Self {
            node,
            origins: Origins::new(&config.http.allowed_origins),
            trusted_proxies: config.http.trusted_proxies.clone(),
            location: Location {
                fixed: config.http.websocket_url.clone(),
                tls_port,
                plain_is_useful: config.c2s.tls != TlsPolicy::Required,
            },
            max_stanza_bytes: config.c2s.max_stanza_bytes.get(),
        }
    }

    fn route(&self, mut request: Request<Incoming>, origin: Origin) -> (&'static str, Answer) {
        let client = client(request.headers(), origin, &self.trusted_proxies);
        let meta = |format| {
            let url = self.location.url(request.headers(), client.secure);
            host_meta::answer(request.method(), format, url.as_deref())
        };
        match request.uri().path() {
            WEBSOCKET_PATH => (WEBSOCKET_PATH, self.websocket(&mut request, client)),
            host_meta::XML_PATH => (host_meta::XML_PATH, meta(Format::Xml)),
            host_meta::JSON_PATH => (host_meta::JSON_PATH, meta(Format::Json)),
            "/" if request.method() == Method::GET => {
                ("/", web::text(StatusCode::OK, "This is an XMPP server.\n"))
            }
            _ => ("other", web::not_found()),
        }
    }
}

impl PublicSite {
    fn websocket(&self, request: &mut Request<Incoming>, client: Client) -> Answer {
        let accept = match websocket::check(request, &self.origins) {
            Ok(accept) => accept,
            Err(refusal) => return *refusal,
        };
        if !self.node.admits(client.address) {
            return web::text(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n");
        }
        let taking = hyper::upgrade::on(request);
        let node = self.node.clone();
        tokio::spawn(websocket::hand_over(
            taking,
            node,
            client,
            self.max_stanza_bytes,
        ));
        websocket::switching(&accept)
    }
}

impl Site for PublicSite {
    async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Answer {
        let (path, answer) = self.route(request, origin);
        metrics::HTTP_REQUESTS
            .with_label_values(&[path, answer.status().as_str()])
            .inc();
        answer
    }
}

impl Location {
    /// The WebSocket's URL for someone who asked with these headers; `None` if there is none to tell.
    ///
    /// XEP-0156 §3.2 wants `wss`: whoever asks without TLS is sent to the port with TLS.
    fn url(&self, headers: &HeaderMap, secure: bool) -> Option<String> {
        if let Some(url) = &self.fixed {
            return Some(url.clone());
        }
        let host = headers
            .get(HOST)?
            .to_str()
            .ok()
            .filter(|host| is_authority(host))?;
        if secure {
            return Some(format!("wss://{host}{WEBSOCKET_PATH}"));
        }
        if let Some(port) = self.tls_port {
            return Some(format!(
                "wss://{}:{port}{WEBSOCKET_PATH}",
                without_port(host)
            ));
        }
        self.plain_is_useful
            .then(|| format!("ws://{host}{WEBSOCKET_PATH}"))
    }
}

/// Whether this can be the host (and port) of a URL without changing what the rest of it means.
fn is_authority(host: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    !host.is_empty() && host.chars().all(allowed)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons inside of [::1] are not before a port.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

/// Looks behind trusted proxies. A proxy appends the address it sees, so the last one counts: those
/// before it are what the client claims.
fn client(headers: &HeaderMap, origin: Origin, trusted: &[Network]) -> Client {
    let direct = Client {
        address: origin.peer,
        secure: origin.tls,
    };
    if !trusted
        .iter()
        .any(|network| network.contains(origin.peer.ip()))
    {
        return direct;
    }
    let last = |name: &str| {
        let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        value.rsplit(',').next().map(str::trim)
    };
    let forwarded: Option<IpAddr> = last("x-forwarded-for").and_then(|text| text.parse().ok());
    Client {
        address: forwarded.map_or(origin.peer, |ip| SocketAddr::new(ip.to_canonical(), 0)),
        secure: origin.tls || last("x-forwarded-proto") == Some("https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn location() -> Location {
        Location {
            fixed: None,
            tls_port: Some(5281),
            plain_is_useful: false,
        }
    }

    #[test]
    fn the_websocket_is_told_with_tls() {
        let asked = headers(&[("host", "chat.example.org:8443")]);
        let url = |location: &Location, secure| location.url(&asked, secure);
        assert_eq!(
            url(&location(), true).as_deref(),
            Some("wss://chat.example.org:8443/xmpp-websocket")
        );
        assert_eq!(
            url(&location(), false).as_deref(),
            Some("wss://chat.example.org:5281/xmpp-websocket")
        );
        let no_tls = Location {
            tls_port: None,
            ..location()
        };
        assert_eq!(url(&no_tls, false), None);
        let loopback = Location {
            plain_is_useful: true,
            ..no_tls
        };
        assert_eq!(
            url(&loopback, false).as_deref(),
            Some("ws://chat.example.org:8443/xmpp-websocket")
        );
        let fixed = Location {
            fixed: Some("wss://x/y".into()),
            ..location()
        };
        assert_eq!(url(&fixed, false).as_deref(), Some("wss://x/y"));
    }

    #[test]
    fn a_host_that_would_change_the_url_is_not_repeated() {
        for host in ["", "a/b", "a@b", "a?b", "a b", "<a>", "a\"b"] {
            assert_eq!(
                location().url(&headers(&[("host", host)]), true),
                None,
                "{host}"
            );
        }
        assert_eq!(location().url(&HeaderMap::new(), true), None);
        assert_eq!(without_port("[::1]:5280"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
        let forwarded = headers(&[
            ("x-forwarded-for", "198.51.100.1, 203.0.113.9"),
            ("x-forwarded-proto", "https"),
        ]);
        let from = |peer: &str| {
            client(
                &forwarded,
                Origin {
                    peer: peer.parse().unwrap(),
                    tls: false,
                },
                &trusted,
            )
        };
        let seen = from("10.1.2.3:4000");
        assert_eq!(seen.address.ip().to_string(), "203.0.113.9");
        assert!(seen.secure);
        let stranger = from("192.0.2.1:4000");
        assert_eq!(stranger.address.to_string(), "192.0.2.1:4000");
        assert!(!stranger.secure);
    }
}
