//! The PROXY protocol, version 2: which client a proxy speaks for.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, §2.2. Version 1 (text) is not
//! spoken. Additional fields (TLVs) are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The twelve bytes that every header starts with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED: usize = 16;
/// Longest header that is accepted; addresses need 36 bytes at most, the rest is for TLVs.
pub(crate) const MAX_HEADER: usize = 2048;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The client; `None` if the proxy speaks for itself (`LOCAL`, a health check) or the client
    /// has no internet address.
    pub(crate) client: Option<SocketAddr>,
    /// Length of the header in bytes; what follows belongs to the stream.
    pub(crate) len: usize,
}

/// The bytes are no PROXY protocol header of version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// It does not start with the signature.
    #[error("no PROXY protocol header of version 2")]
    Signature,
    /// Version or command are unknown.
    #[error("unknown version or command in a PROXY protocol header")]
    Command,
    /// It claims to be longer than [`MAX_HEADER`].
    #[error("a PROXY protocol header is too long")]
    TooLong,
    /// Too short for the addresses that it announces.
    #[error("a PROXY protocol header lacks its addresses")]
    Addresses,
}

/// Reads a header at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// As soon as the bytes cannot become an acceptable header.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Error> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Error::Signature);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let len = FIXED + length;
    if len > MAX_HEADER {
        return Err(Error::TooLong);
    }
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Error::Command),
    };
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let client = if local {
        None
    } else {
        client(fixed[13] >> 4, body)?
    };
    Ok(Some(Header { client, len }))
}

/// The source address, by address family.
fn client(family: u8, body: &[u8]) -> Result<Option<SocketAddr>, Error> {
    match family {
        0x1 => {
            let ip: [u8; 4] = array(body, 0)?;
            Ok(Some(SocketAddr::new(
                Ipv4Addr::from(ip).into(),
                port(body, 8, 12)?,
            )))
        }
        0x2 => {
            let ip: [u8; 16] = array(body, 0)?;
            let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
            Ok(Some(SocketAddr::new(ip, port(body, 32, 36)?)))
        }
        // AF_UNSPEC and AF_UNIX: the proxy does not know, or there is no internet address.
        _ => Ok(None),
    }
}

/// The port at `at`, if the addresses with both ports, `len` bytes, are there.
fn port(body: &[u8], at: usize, len: usize) -> Result<u16, Error> {
    if body.len() < len {
        Err(Error::Addresses)
    } else {
        Ok(u16::from_be_bytes(array(body, at)?))
    }
}

fn array<const N: usize>(body: &[u8], at: usize) -> Result<[u8; N], Error> {
    body.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(Error::Addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn the_client_of_a_proxied_connection_is_its_source_address() {
        let v4 = header(
            0x21,
            0x11,
            &[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x14, 0x66],
        );
        let expected = Header {
            client: Some("192.0.2.7:12345".parse().unwrap()),
            len: 28,
        };
        assert_eq!(parse(&v4), Ok(Some(expected)));

        let mut body = Vec::new();
        body.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        body.extend([0; 16]);
        body.extend([0, 80, 0x14, 0x66]);
        body.extend([0x04, 0, 1, 0xff]);
        let v6 = header(0x21, 0x21, &body);
        let expected = Header {
            client: Some("[2001:db8::1]:80".parse().unwrap()),
            len: 56,
        };
        assert_eq!(parse(&v6), Ok(Some(expected)));
    }

    #[test]
    fn bytes_after_the_header_are_not_its() {
        let mut bytes = header(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]);
        let len = bytes.len();
        bytes.extend(b"<?xml version='1.0'?>");
        assert_eq!(parse(&bytes).unwrap().unwrap().len, len);
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        assert_eq!(
            parse(&header(0x20, 0x00, &[])),
            Ok(Some(Header {
                client: None,
                len: 16
            }))
        );
        let unix = header(0x21, 0x31, &[0; 216]);
        assert_eq!(
            parse(&unix),
            Ok(Some(Header {
                client: None,
                len: 232
            }))
        );
    }

    #[test]
    fn every_part_of_a_header_is_waited_for() {
        let whole = header(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), Ok(None), "{len}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        assert_eq!(parse(b"<"), Err(Error::Signature));
        assert_eq!(parse(b"PROXY TCP4 1.2.3.4"), Err(Error::Signature));
        assert_eq!(parse(&header(0x11, 0x11, &[0; 12])), Err(Error::Command));
        assert_eq!(parse(&header(0x22, 0x11, &[0; 12])), Err(Error::Command));
        assert_eq!(parse(&header(0x21, 0x11, &[0; 11])), Err(Error::Addresses));
        assert_eq!(parse(&header(0x21, 0x21, &[0; 35])), Err(Error::Addresses));
        let mut long = SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse(&long), Err(Error::TooLong));
    }
}
