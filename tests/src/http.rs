//! As much of HTTP as the suites need: one GET, one answer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::within;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Fetches a path with HTTP/1.1 and without keeping the connection.
pub async fn get(address: SocketAddr, path: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    send(address, &request).await
}

/// Sends a request as it is and reads the answer until the connection's end.
pub async fn send(address: SocketAddr, request: &str) -> Response {
    let mut answer = Vec::new();
    let exchange = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(request.as_bytes()).await?;
        tcp.read_to_end(&mut answer).await
    };
    within("an HTTP answer", exchange)
        .await
        .unwrap_or_else(|e| panic!("HTTP to {address}: {e}"));
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Response {
        status: status.unwrap_or_else(|| panic!("no status in {head}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// The value of a metric without labels, or the sum over its labels that contain `labels`.
pub fn metric(exposition: &str, name: &str, labels: &str) -> Option<f64> {
    let values: Vec<f64> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']) && rest.contains(labels))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
