//! Preparation of the three parts (RFC 7622 §3.2 to §3.4).

use std::borrow::Cow;
use std::net::Ipv6Addr;

use idna::uts46::{AsciiDenyList, Hyphens, Uts46};
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use precis_profiles::{OpaqueString, UsernameCaseMapped};

use super::{Error, MAX_PART_BYTES};

/// Input beyond this is refused before any table is looked at; preparation can shorten a text (by
/// composing) but not by more.
const MAX_INPUT_BYTES: usize = 4 * MAX_PART_BYTES;

/// Whether the parts are ASCII in which preparation would change nothing, and no longer than they may be.
/// Where the labels of the domain begin and end is not looked at.
pub(super) fn is_plain(local: Option<&str>, domain: &str, resource: Option<&str>) -> bool {
    let fits = |part: &str| (1..=MAX_PART_BYTES).contains(&part.len());
    let is_local = |part: &str| {
        let classes = part.bytes().map(|byte| LOCAL_CLASS[usize::from(byte)]);
        fits(part) && classes.fold(0, |all, class| all | class) == PLAIN
    };
    let is_domain = |part: &str| {
        let is_of_names = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        fits(part) && part.bytes().all(is_of_names)
    };
    let is_resource = |part: &str| {
        let is_printable = |byte| matches!(byte, 0x20..=0x7e);
        fits(part)
            && part
                .bytes()
                .fold(true, |all, byte| all & is_printable(byte))
    };
    local.is_none_or(is_local) && is_domain(domain) && resource.is_none_or(is_resource)
}

/// Prepares a local part.
pub(super) fn local(part: &str) -> Result<Cow<'_, str>, Error> {
    let mut classes = 0;
    for byte in part.bytes() {
        classes |= LOCAL_CLASS[usize::from(byte)];
    }
    if part.is_empty() || classes & FORBIDDEN != 0 {
        return Err(Error::Local);
    }
    if classes & OTHER == 0 {
        return within_limit(match classes & UPPER {
            0 => Cow::Borrowed(part),
            _ => Cow::Owned(part.to_ascii_lowercase()),
        });
    }
    let prepared = stable(part, Error::Local, |text| {
        UsernameCaseMapped::enforce(text).map(Cow::into_owned).ok()
    })?;
    // Mapping may have produced what may not be there: U+FF20 is a wide `@`.
    if prepared
        .bytes()
        .any(|byte| LOCAL_CLASS[usize::from(byte)] & FORBIDDEN != 0)
    {
        return Err(Error::Local);
    }
    within_limit(prepared)
}

/// Prepares a resource part.
pub(super) fn resource(part: &str) -> Result<Cow<'_, str>, Error> {
    if part.is_empty() {
        return Err(Error::Resource);
    }
    let (mut all, mut low) = (0, false);
    for byte in part.bytes() {
        all |= byte;
        low |= byte < 0x20 || byte == 0x7f;
    }
    if low {
        return Err(Error::Resource);
    }
    if all < 0x80 {
        return within_limit(Cow::Borrowed(part));
    }
    within_limit(stable(part, Error::Resource, |text| {
        OpaqueString::enforce(text).map(Cow::into_owned).ok()
    })?)
}

/// Prepares a domain part.
pub(super) fn domain(part: &str) -> Result<Cow<'_, str>, Error> {
    if let Some(address) = part.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(Error::Domain)?;
        let address: Ipv6Addr = address.parse().map_err(|_| Error::Domain)?;
        let canonical = format!("[{address}]");
        return Ok(if canonical == part {
            Cow::Borrowed(part)
        } else {
            Cow::Owned(canonical)
        });
    }
    // A final dot denotes the root and is not part of the address (RFC 7622 §3.2).
    let part = part.strip_suffix('.').unwrap_or(part);
    match ascii_domain(part) {
        Ascii::Plain => within_limit(Cow::Borrowed(part)),
        Ascii::Upper => within_limit(Cow::Owned(part.to_ascii_lowercase())),
        Ascii::Invalid => Err(Error::Domain),
        Ascii::International => {
            let mapped = stable(part, Error::Domain, |text| {
                let (mapped, valid) =
                    Uts46::new().to_unicode(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
                let mapped = mapped.strip_suffix('.').unwrap_or(&mapped);
                (valid.is_ok()).then(|| mapped.to_owned())
            })?;
            if mapped.split('.').any(str::is_empty) {
                return Err(Error::Domain);
            }
            within_limit(mapped)
        }
    }
}

/// What the ASCII path finds in a domain.
enum Ascii {
    /// Nothing to map.
    Plain,
    /// Letters to lower.
    Upper,
    /// Not the ASCII path's: another script, or an A-label, which must become a U-label.
    International,
    /// No domain name.
    Invalid,
}

/// Looks at each label: letters, digits and hyphens, no hyphen at either end or in both the third and
/// the fourth place (RFC 5890 §2.3.1: only NR-LDH labels and U-labels), at most 63 octets.
fn ascii_domain(part: &str) -> Ascii {
    if !part.is_ascii() {
        return Ascii::International;
    }
    let mut result = Ascii::Plain;
    for label in part.as_bytes().split(|&b| b == b'.') {
        let (&[first, ..], &[.., last]) = (label, label) else {
            return Ascii::Invalid;
        };
        if label.get(2..4) == Some(b"--") {
            if label[..2].eq_ignore_ascii_case(b"xn") {
                return Ascii::International;
            }
            return Ascii::Invalid;
        }
        if first == b'-' || last == b'-' || label.len() > 63 {
            return Ascii::Invalid;
        }
        for byte in label {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' => {}
                b'A'..=b'Z' => result = Ascii::Upper,
                _ => return Ascii::Invalid,
            }
        }
    }
    result
}

/// Applies a profile until its result no longer changes, at most four times (RFC 8264 §7).
fn stable(
    part: &str,
    error: Error,
    enforce: impl Fn(&str) -> Option<String>,
) -> Result<Cow<'_, str>, Error> {
    if part.len() > MAX_INPUT_BYTES {
        return Err(Error::TooLong);
    }
    let mut text = enforce(part).ok_or(error)?;
    for _ in 0..3 {
        let next = enforce(&text).ok_or(error)?;
        if next == text {
            return Ok(Cow::Owned(text));
        }
        text = next;
    }
    Err(error)
}

fn within_limit(part: Cow<'_, str>) -> Result<Cow<'_, str>, Error> {
    if part.len() > MAX_PART_BYTES {
        Err(Error::TooLong)
    } else {
        Ok(part)
    }
}

const PLAIN: u8 = 1;
const UPPER: u8 = 2;
const FORBIDDEN: u8 = 4;
const OTHER: u8 = 8;

/// What each octet does to a local part. Forbidden are space, controls, and what RFC 7622 §3.3.1
/// excludes.
const LOCAL_CLASS: [u8; 256] = {
    let mut table = [OTHER; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        table[byte as usize] = match byte {
            b'A'..=b'Z' => UPPER,
            b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@' => FORBIDDEN,
            0x21..=0x7e => PLAIN,
            _ => FORBIDDEN,
        };
        byte += 1;
    }
    table
};
