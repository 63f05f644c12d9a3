//! Addresses: `[local@]domain[/resource]`, RFC 7622.
//!
//! Making an address prepares it, so two that name the same entity are equal byte for byte: the
//! local part by PRECIS `UsernameCaseMapped`, the resource by `OpaqueString`, the domain by the
//! mapping of UTS 46 without transitional processing, which yields IDNA2008's U-labels. ASCII
//! addresses take a path of their own that allocates once.
//!
//! An address is one shared text and two offsets. Cloning it, and cutting a full JID down to its bare
//! JID, count a reference and copy nothing.

mod prepare;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Octets that each part may have (RFC 7622 §3.2 to §3.4).
pub const MAX_PART_BYTES: usize = 1023;

/// Why a text is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The local part is empty or holds what `UsernameCaseMapped` or RFC 7622 §3.3.1 forbid.
    #[error("invalid local part")]
    Local,
    /// The domain part is empty or is neither a domain name nor an IP address.
    #[error("invalid domain part")]
    Domain,
    /// The resource part is empty or holds what `OpaqueString` forbids.
    #[error("invalid resource part")]
    Resource,
    /// A part is longer than [`MAX_PART_BYTES`].
    #[error("a part of the address is longer than {MAX_PART_BYTES} octets")]
    TooLong,
    /// A bare JID was asked for, and there is a resource.
    #[error("a bare address has no resource")]
    NotBare,
    /// A full JID was asked for, and there is no resource.
    #[error("a full address needs a resource")]
    NotFull,
}

/// Any address: a domain, a bare JID or a full JID.
#[derive(Clone)]
pub struct Jid {
    text: Arc<str>,
    /// Octets of the local part; 0 if there is none.
    local: u16,
    /// Octets of `[local@]domain`.
    bare: u16,
}

/// `[local@]domain`: an account, or a server.
///
/// May share its text with the full JID that it was cut from.
#[derive(Clone)]
pub struct BareJid(Jid);

/// `[local@]domain/resource`: one client.
#[derive(Clone)]
pub struct FullJid(Jid);

impl Jid {
    /// Splits and prepares an address.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotBare`] and [`Error::NotFull`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (bare, resource) = match memchr::memchr(b'/', text.as_bytes()) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let (local, domain) = match memchr::memchr(b'@', bare.as_bytes()) {
            Some(at) => (Some(&bare[..at]), &bare[at + 1..]),
            None => (None, bare),
        };
        Self::assemble(local, domain, resource, Some(text))
    }

    /// An address that has been prepared before, by this node or another. Where it is plain ASCII the labels
    /// of its domain are not looked at again.
    ///
    /// # Errors
    /// As [`Jid::parse`].
    pub fn prepared(text: &str) -> Result<Self, Error> {
        let bare = memchr::memchr(b'/', text.as_bytes()).unwrap_or(text.len());
        let at = memchr::memchr(b'@', &text.as_bytes()[..bare]);
        let (local, domain) = match at {
            Some(at) => (Some(&text[..at]), &text[at + 1..bare]),
            None => (None, &text[..bare]),
        };
        if !prepare::is_plain(local, domain, text.get(bare + 1..)) {
            return Self::parse(text);
        }
        // Each is at most `MAX_PART_BYTES`.
        let (Ok(local), Ok(bare)) = (u16::try_from(at.unwrap_or(0)), u16::try_from(bare)) else {
            return Err(Error::TooLong);
        };
        Ok(Self {
            text: text.into(),
            local,
            bare,
        })
    }

    /// The whole address.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before `@`.
    #[inline]
    pub fn local(&self) -> Option<&str> {
        (self.local > 0).then(|| &self.text[..usize::from(self.local)])
    }

    /// The domain.
    #[inline]
    pub fn domain(&self) -> &str {
        let start = if self.local == 0 {
            0
        } else {
            usize::from(self.local) + 1
        };
        &self.text[start..usize::from(self.bare)]
    }

    /// The part after `/`.
    #[inline]
    pub fn resource(&self) -> Option<&str> {
        self.text.get(usize::from(self.bare) + 1..)
    }

    /// The bare JID; shares this text.
    pub fn to_bare(&self) -> BareJid {
        BareJid(self.clone())
    }

    /// `[local@]domain`.
    #[inline]
    pub fn bare_str(&self) -> &str {
        &self.text[..usize::from(self.bare)]
    }

    /// Whether there is no resource.
    #[inline]
    pub fn is_bare(&self) -> bool {
        usize::from(self.bare) == self.text.len()
    }

    /// Whether both have the same `[local@]domain`.
    #[inline]
    pub fn same_bare(&self, other: &Self) -> bool {
        self.bare_str() == other.bare_str()
    }

    /// The full JID, if there is a resource.
    pub fn to_full(&self) -> Option<FullJid> {
        (!self.is_bare()).then(|| FullJid(self.clone()))
    }

    /// Prepares the parts and puts them together. `whole` is the text they were split from, which is
    /// taken as it is if nothing had to change.
    fn assemble(
        local: Option<&str>,
        domain: &str,
        resource: Option<&str>,
        whole: Option<&str>,
    ) -> Result<Self, Error> {
        let local = local.map(prepare::local).transpose()?;
        let domain = prepare::domain(domain)?;
        let resource = resource.map(prepare::resource).transpose()?;
        // Each is at most `MAX_PART_BYTES`.
        let local_len = local.as_ref().map_or(0, |l| l.len());
        let bare_len = local_len + usize::from(local_len > 0) + domain.len();
        let (Ok(local_len), Ok(bare_len)) = (u16::try_from(local_len), u16::try_from(bare_len))
        else {
            return Err(Error::TooLong);
        };
        let unchanged = matches!(local, None | Some(Cow::Borrowed(_)))
            && matches!(domain, Cow::Borrowed(_))
            && matches!(resource, None | Some(Cow::Borrowed(_)));
        let full_len =
            usize::from(bare_len) + resource.as_ref().map_or(0, |resource| resource.len() + 1);
        let text = match whole {
            // A trailing dot of the domain may have been cut without copying: compare lengths.
            Some(whole) if unchanged && whole.len() == full_len => Arc::from(whole),
            _ => {
                let mut text = String::with_capacity(full_len);
                if let Some(local) = &local {
                    text.push_str(local);
                    text.push('@');
                }
                text.push_str(&domain);
                if let Some(resource) = &resource {
                    text.push('/');
                    text.push_str(resource);
                }
                Arc::from(text)
            }
        };
        Ok(Self {
            text,
            local: local_len,
            bare: bare_len,
        })
    }
}

impl BareJid {
    /// Splits and prepares an address that must not have a resource.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotFull`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let jid = Jid::parse(text)?;
        if jid.is_bare() {
            Ok(Self(jid))
        } else {
            Err(Error::NotBare)
        }
    }

    /// Prepares the parts and puts them together.
    ///
    /// # Errors
    /// [`Error::Local`], [`Error::Domain`] or [`Error::TooLong`].
    pub fn new(local: Option<&str>, domain: &str) -> Result<Self, Error> {
        Jid::assemble(local, domain, None, None).map(Self)
    }

    /// The whole address.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.bare_str()
    }

    /// The part before `@`.
    #[inline]
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domain.
    #[inline]
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// Adds a resource, which is prepared.
    ///
    /// # Errors
    /// [`Error::Resource`] or [`Error::TooLong`].
    pub fn with_resource(&self, resource: &str) -> Result<FullJid, Error> {
        let resource = prepare::resource(resource)?;
        let bare = self.as_str();
        let mut text = String::with_capacity(bare.len() + 1 + resource.len());
        text.push_str(bare);
        text.push('/');
        text.push_str(&resource);
        Ok(FullJid(Jid {
            text: text.into(),
            local: self.0.local,
            bare: self.0.bare,
        }))
    }

    /// Copies the text if it is shared with a full JID, so that a value that is kept for long does not
    /// keep the resource's text alive.
    #[must_use]
    pub fn compact(self) -> Self {
        if self.0.is_bare() {
            self
        } else {
            Self(Jid {
                text: self.as_str().into(),
                ..self.0
            })
        }
    }
}

impl FullJid {
    /// Splits and prepares an address that must have a resource.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotBare`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let jid = Jid::parse(text)?;
        if jid.is_bare() {
            Err(Error::NotFull)
        } else {
            Ok(Self(jid))
        }
    }

    /// As [`Jid::prepared`], for an address that must have a resource.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotBare`].
    pub fn prepared(text: &str) -> Result<Self, Error> {
        let jid = Jid::prepared(text)?;
        if jid.is_bare() {
            Err(Error::NotFull)
        } else {
            Ok(Self(jid))
        }
    }

    /// The whole address.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// `[local@]domain`.
    #[inline]
    pub fn bare_str(&self) -> &str {
        self.0.bare_str()
    }

    /// The bare JID; shares this text.
    pub fn to_bare(&self) -> BareJid {
        self.0.to_bare()
    }

    /// The part after `/`.
    #[inline]
    pub fn resource(&self) -> &str {
        self.0.resource().unwrap_or_default()
    }

    /// The part before `@`.
    #[inline]
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domain.
    #[inline]
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// This address as one of any kind, without cloning.
    #[inline]
    pub fn as_jid(&self) -> &Jid {
        &self.0
    }
}

impl From<BareJid> for Jid {
    fn from(jid: BareJid) -> Self {
        jid.compact().0
    }
}

impl From<FullJid> for Jid {
    fn from(jid: FullJid) -> Self {
        jid.0
    }
}

impl From<&BareJid> for Jid {
    fn from(jid: &BareJid) -> Self {
        jid.clone().into()
    }
}

impl From<&FullJid> for Jid {
    fn from(jid: &FullJid) -> Self {
        jid.0.clone()
    }
}

/// What an address is to others: its text.
macro_rules! behaves_like_its_text {
    ($jid:ty) => {
        impl fmt::Display for $jid {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $jid {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $jid {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl PartialEq for $jid {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $jid {}

        impl PartialEq<str> for $jid {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $jid {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        // The same as the hash of the text: `Borrow<str>` demands it.
        impl Hash for $jid {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl PartialOrd for $jid {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $jid {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl Borrow<str> for $jid {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $jid {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl Serialize for $jid {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $jid {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl de::Visitor<'_> for Text {
                    type Value = $jid;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an XMPP address")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$jid, E> {
                        <$jid>::parse(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

behaves_like_its_text!(Jid);
behaves_like_its_text!(BareJid);
behaves_like_its_text!(FullJid);

#[cfg(test)]
mod tests;
