//! `rookery health`: asks the running server for `/readyz`, so that a container needs no other tool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::ports_file;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Prints the answer. The exit status is 0 if the server is ready.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let address = address(config).context("admin.listen is empty: there is nobody to ask")?;
    let (ready, body) = tokio::time::timeout(TIMEOUT, ask(address))
        .await
        .context("no answer")
        .flatten()
        .with_context(|| format!("cannot ask the server at {address}"))?;
    print!("{body}");
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn address(config: &Config) -> Option<SocketAddr> {
    let configured = *config.admin.listen.first()?;
    let actual = match &config.server.ports_file {
        Some(path) if configured.port() == 0 => ports_file::read(path, "admin")?,
        _ => configured,
    };
    let ip = match actual.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(SocketAddr::new(ip, actual.port()))
}

async fn ask(address: SocketAddr) -> anyhow::Result<(bool, String)> {
    let mut socket = match TcpStream::connect(address).await {
        // A machine without IPv6, where [::] stands for the IPv4 addresses.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) => {
            TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await?
        }
        other => other?,
    };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("this is no HTTP")?;
    let status = head
        .split_ascii_whitespace()
        .nth(1)
        .context("this is no HTTP")?;
    Ok((status == "200", body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_the_loopback_one() {
        for (listen, asked) in [
            ("0.0.0.0:9090", Some("127.0.0.1:9090")),
            ("[::]:9090", Some("[::1]:9090")),
            ("192.0.2.1:9090", Some("192.0.2.1:9090")),
            ("", None),
        ] {
            let overrides = [("admin.listen".to_owned(), listen.to_owned())];
            let sources = Sources {
                environment: Some([].into()),
                overrides: &overrides,
                file: None,
            };
            let config = Config::load(&sources).unwrap();
            assert_eq!(
                address(&config).map(|a| a.to_string()).as_deref(),
                asked,
                "{listen}"
            );
        }
    }
}
