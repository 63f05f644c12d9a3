//! XEP-0156 Discovering Alternative XMPP Connection Methods, version 1.4.0: `host-meta`.
//!
//! Supported: the WebSocket, in XML (RFC 6415) and JSON, with CORS (§3). DNS TXT records (§4, historic)
//! are not the server's to publish. BOSH is not announced, because it is not served.

use std::fmt::Write;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, HeaderValue,
};
use hyper::{Method, StatusCode};

use crate::web::{self, Answer};

/// Where the XML document is.
pub(crate) const XML_PATH: &str = "/.well-known/host-meta";

/// Where the JSON document is.
pub(crate) const JSON_PATH: &str = "/.well-known/host-meta.json";

/// The link relation of a WebSocket (RFC 7395 §4).
const WEBSOCKET: &str = "urn:xmpp:alt-connections:websocket";

/// The form of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// XRD.
    Xml,
    /// JRD.
    Json,
}

/// Answers a request for the document.
pub(crate) fn answer(method: &Method, format: Format, websocket: Option<&str>) -> Answer {
    let mut answer = match (method, format) {
        (&Method::OPTIONS, _) => web::text(StatusCode::NO_CONTENT, ""),
        (&Method::GET | &Method::HEAD, Format::Xml) => web::typed(
            StatusCode::OK,
            "application/xrd+xml; charset=utf-8",
            xml(websocket),
        ),
        (&Method::GET | &Method::HEAD, Format::Json) => {
            web::typed(StatusCode::OK, "application/json", json(websocket))
        }
        _ => {
            let mut refusal = web::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            refusal
        }
    };
    // Clients in browsers come from other sites (XEP-0156 §3.3).
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS"),
    );
    answer
}

fn xml(websocket: Option<&str>) -> String {
    let mut document = String::from(
        "<?xml version='1.0' encoding='utf-8'?>\n\
         <XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n",
    );
    if let Some(url) = websocket {
        let url = url
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('\'', "&apos;");
        let _ = writeln!(document, "  <Link rel='{WEBSOCKET}' href='{url}'/>");
    }
    document.push_str("</XRD>\n");
    document
}

fn json(websocket: Option<&str>) -> String {
    let links: Vec<_> = websocket
        .iter()
        .map(|url| serde_json::json!({ "rel": WEBSOCKET, "href": url }))
        .collect();
    serde_json::json!({ "links": links }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_websocket() {
        let url = "wss://example.org/ws?a=1&b='2'";
        assert!(xml(Some(url)).contains(
            "<Link rel='urn:xmpp:alt-connections:websocket' \
             href='wss://example.org/ws?a=1&amp;b=&apos;2&apos;'/>"
        ));
        let parsed: serde_json::Value = serde_json::from_str(&json(Some(url))).unwrap();
        assert_eq!(parsed["links"][0]["href"], url);
        assert_eq!(parsed["links"][0]["rel"], WEBSOCKET);
        assert!(!xml(None).contains("Link"));
    }

    #[test]
    fn pages_of_other_sites_may_read_it() {
        for method in [Method::GET, Method::OPTIONS, Method::POST] {
            let answer = answer(&method, Format::Json, None);
            assert_eq!(
                answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
                "*",
                "{method}"
            );
        }
        assert_eq!(
            answer(&Method::POST, Format::Xml, None).status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
