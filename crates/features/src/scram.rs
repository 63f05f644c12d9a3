//! SCRAM, the server's side (RFC 5802, RFC 7677), with channel binding (RFC 5929, RFC 9266).
//!
//! One attempt is [`Scram::start`] with the client's first message, then [`Scram::challenge`] with
//! the user's keys, then [`Scram::finish`] with the client's last. An unknown user gets made-up keys
//! ([`crate::password::made_up`]) and fails where a wrong password fails.
//!
//! Stricter than needed: base64 and attribute order to the letter, `m=` refused wherever it stands,
//! an `authzid` must be the user's own bare JID. Unknown extensions are skipped (RFC 5802 §5.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_proto::credentials::Credentials;
use rookery_proto::jid::{BareJid, Jid};

use crate::password::{Hash, equal};
use crate::sasl::{Condition, Failure, Mechanism};

/// Octets of randomness for the server's part of the nonce.
pub const NONCE_LEN: usize = 18;

/// The most that a client's nonce may have; RFC 5802 sets no bound.
const MAX_CLIENT_NONCE_LEN: usize = 256;

/// What a TLS channel can be bound by: one type with its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelBinding {
    /// Which binding data this is.
    pub kind: BindingKind,
    /// The data, from the TLS library.
    pub data: Vec<u8>,
}

/// A channel-binding type, by its registered name ("channel-binding unique prefix").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BindingKind {
    /// `tls-exporter` (RFC 9266): TLS 1.3, or 1.2 with the extended master secret.
    TlsExporter,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of the server's certificate.
    TlsServerEndPoint,
}

impl BindingKind {
    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsExporter => "tls-exporter",
            Self::TlsServerEndPoint => "tls-server-end-point",
        }
    }
}

/// What the stream offered, against which the client's claims are checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer<'a> {
    /// A `-PLUS` mechanism was in the list of mechanisms.
    pub plus: bool,
    /// The bindings that the stream's channel has.
    pub bindings: &'a [ChannelBinding],
}

/// One attempt to authenticate.
#[derive(Debug)]
pub struct Scram {
    hash: Hash,
    user: BareJid,
    /// What `c=` has to be once decoded: the GS2 header and the binding data.
    expected_binding: Vec<u8>,
    binds: bool,
    client_first_bare: String,
    /// The client's part and the server's.
    nonce: String,
    keys: Option<Keys>,
}

/// The keys that were told by the challenge, and the challenge.
struct Keys {
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    server_first: String,
}

// Not derived: the keys are secret.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// The client proved that it knows the password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Success {
    /// Whom it authenticated as.
    pub user: BareJid,
    /// `server-final-message`, to be sent with `<success/>`: the server's own proof.
    pub server_final: Vec<u8>,
}

impl Scram {
    /// Reads `client-first-message` (RFC 5802 §7).
    ///
    /// `domain` is the one the stream is addressed to; `nonce` are [`NONCE_LEN`] fresh random octets.
    ///
    /// # Errors
    /// `malformed-request` for bad syntax, mandatory extensions and bindings that the stream does
    /// not have; `invalid-authzid` for somebody else's; `not-authorized` for a downgrade and for a
    /// name that is no localpart.
    ///
    /// # Panics
    /// If the mechanism is none of SCRAM.
    pub fn start(
        mechanism: Mechanism,
        client_first: &[u8],
        domain: &str,
        offer: Offer<'_>,
        nonce: &[u8],
    ) -> Result<Self, Failure> {
        Self::start_with(
            mechanism,
            client_first,
            domain,
            offer,
            &STANDARD.encode(nonce),
        )
    }

    fn start_with(
        mechanism: Mechanism,
        client_first: &[u8],
        domain: &str,
        offer: Offer<'_>,
        nonce: &str,
    ) -> Result<Self, Failure> {
        let hash = match mechanism {
            Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => Hash::Sha256,
            Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => Hash::Sha1,
            Mechanism::Plain => unreachable!("PLAIN is not SCRAM"),
        };
        let first = ClientFirst::parse(text(client_first)?)?;
        let mut expected_binding = first.gs2_header.as_bytes().to_vec();
        if let Some(data) = check_flag(mechanism, first.flag, offer)? {
            expected_binding.extend_from_slice(data);
        }
        let user = BareJid::new(Some(&first.username), domain)
            .map_err(|_| Failure::from(Condition::NotAuthorized))?;
        check_authzid(first.authzid.as_deref(), &user)?;
        Ok(Self {
            hash,
            user,
            expected_binding,
            binds: mechanism.is_plus(),
            client_first_bare: first.bare.to_owned(),
            nonce: format!("{}{nonce}", first.nonce),
            keys: None,
        })
    }

    /// Whose keys [`Scram::challenge`] needs.
    pub fn user(&self) -> &BareJid {
        &self.user
    }

    /// Makes `server-first-message` with the user's keys, real or made up.
    pub fn challenge(&mut self, credentials: &Credentials) -> Vec<u8> {
        let keys = self.hash.of(credentials);
        let server_first = format!(
            "r={},s={},i={}",
            self.nonce,
            STANDARD.encode(&keys.salt),
            keys.iterations
        );
        let challenge = server_first.clone().into_bytes();
        self.keys = Some(Keys {
            stored_key: keys.stored_key.clone(),
            server_key: keys.server_key.clone(),
            server_first,
        });
        challenge
    }

    /// Checks `client-final-message`.
    ///
    /// # Errors
    /// `malformed-request` for bad syntax; `not-authorized` for another nonce, other binding data or
    /// a proof that does not fit.
    pub fn finish(self, client_final: &[u8]) -> Result<Success, Failure> {
        let last = ClientFinal::parse(text(client_final)?)?;
        let keys = self.keys.ok_or(Condition::MalformedRequest)?;
        if !equal(last.nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(Failure::with_text(Condition::NotAuthorized, "other-error"));
        }
        if !equal(&last.binding, &self.expected_binding) {
            let text = if self.binds {
                "channel-bindings-dont-match"
            } else {
                "other-error"
            };
            return Err(Failure::with_text(Condition::NotAuthorized, text));
        }
        let auth_message = format!(
            "{},{},{}",
            self.client_first_bare, keys.server_first, last.without_proof
        );
        let signature = self.hash.hmac(&keys.stored_key, auth_message.as_bytes());
        if last.proof.len() != self.hash.len() {
            return Err(Condition::NotAuthorized.into());
        }
        let client_key: Vec<u8> = last
            .proof
            .iter()
            .zip(signature.as_ref())
            .map(|(proof, sign)| proof ^ sign)
            .collect();
        if !equal(self.hash.digest(&client_key).as_ref(), &keys.stored_key) {
            return Err(Condition::NotAuthorized.into());
        }
        let verifier = self.hash.hmac(&keys.server_key, auth_message.as_bytes());
        Ok(Success {
            user: self.user,
            server_final: format!("v={}", STANDARD.encode(verifier.as_ref())).into_bytes(),
        })
    }
}

/// Checks the client's claim about channel binding (RFC 5802 §6) and finds the data it has to prove.
fn check_flag<'a>(
    mechanism: Mechanism,
    flag: Flag<'_>,
    offer: Offer<'a>,
) -> Result<Option<&'a [u8]>, Failure> {
    let malformed = |text| Err(Failure::with_text(Condition::MalformedRequest, text));
    match flag {
        Flag::Binds(name) if mechanism.is_plus() => {
            match offer
                .bindings
                .iter()
                .find(|binding| binding.kind.name() == name)
            {
                Some(binding) => Ok(Some(&binding.data)),
                None => malformed("unsupported-channel-binding-type"),
            }
        }
        Flag::Binds(_) => malformed("channel-binding-not-supported"),
        Flag::CannotBind | Flag::WouldBind if mechanism.is_plus() => malformed("other-error"),
        // The client saw no -PLUS mechanism where one was offered: somebody took it out of the list.
        Flag::WouldBind if offer.plus => Err(Failure::with_text(
            Condition::NotAuthorized,
            "server-does-support-channel-binding",
        )),
        Flag::CannotBind | Flag::WouldBind => Ok(None),
    }
}

/// Nobody acts for another here: an `authzid`, if any, has to be the user's own bare JID
/// (RFC 6120 §6.3.8).
///
/// # Errors
/// `invalid-authzid`
pub(crate) fn check_authzid(authzid: Option<&str>, user: &BareJid) -> Result<(), Failure> {
    match authzid.map(Jid::parse) {
        None => Ok(()),
        Some(Ok(jid)) if jid.resource().is_none() && jid.bare_str() == user.as_str() => Ok(()),
        Some(_) => Err(Condition::InvalidAuthzid.into()),
    }
}

/// `gs2-cbind-flag`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flag<'a> {
    /// `n`: the client cannot bind.
    CannotBind,
    /// `y`: the client can, and believes that the server cannot.
    WouldBind,
    /// `p=` and the type.
    Binds(&'a str),
}

struct ClientFirst<'a> {
    flag: Flag<'a>,
    authzid: Option<String>,
    /// `gs2-header`, with its commas.
    gs2_header: &'a str,
    /// `client-first-message-bare`
    bare: &'a str,
    username: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Result<Self, Failure> {
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let flag = match flag.split_once('=') {
            None if flag == "n" => Flag::CannotBind,
            None if flag == "y" => Flag::WouldBind,
            Some(("p", name)) if is_binding_name(name) => Flag::Binds(name),
            _ => return Err(malformed()),
        };
        let authzid = match authzid.split_once('=') {
            None if authzid.is_empty() => None,
            Some(("a", name)) => Some(saslname(name)?),
            _ => return Err(malformed()),
        };
        let mut attributes = bare.split(',');
        let username = saslname(attribute(attributes.next(), 'n')?)?;
        let nonce = attribute(attributes.next(), 'r')?;
        if !is_nonce(nonce) || nonce.len() > MAX_CLIENT_NONCE_LEN {
            return Err(malformed());
        }
        attributes.try_for_each(check_extension)?;
        let gs2_header = &message[..message.len() - bare.len()];
        Ok(Self {
            flag,
            authzid,
            gs2_header,
            bare,
            username,
            nonce,
        })
    }
}

struct ClientFinal<'a> {
    /// The value of `c=`, decoded.
    binding: Vec<u8>,
    nonce: &'a str,
    /// `client-final-message-without-proof`
    without_proof: &'a str,
    proof: Vec<u8>,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a str) -> Result<Self, Failure> {
        let (without_proof, proof) = message.rsplit_once(',').ok_or_else(malformed)?;
        let proof = attribute(Some(proof), 'p')?;
        let mut attributes = without_proof.split(',');
        let binding = attribute(attributes.next(), 'c')?;
        let nonce = attribute(attributes.next(), 'r')?;
        attributes.try_for_each(check_extension)?;
        Ok(Self {
            binding: base64(binding)?,
            nonce,
            without_proof,
            proof: base64(proof)?,
        })
    }
}

fn malformed() -> Failure {
    Condition::MalformedRequest.into()
}

fn text(message: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(message)
        .map_err(|_| Failure::with_text(Condition::MalformedRequest, "invalid-encoding"))
}

fn base64(value: &str) -> Result<Vec<u8>, Failure> {
    STANDARD
        .decode(value)
        .map_err(|_| Failure::with_text(Condition::MalformedRequest, "invalid-encoding"))
}

/// The value of the attribute that has to stand here. `m=`, a mandatory extension, may stand before
/// any; none is known, so it ends the attempt (RFC 5802 §5.1).
fn attribute(part: Option<&str>, name: char) -> Result<&str, Failure> {
    let part = part.ok_or_else(malformed)?;
    refuse_mandatory(part)?;
    part.strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
        .ok_or_else(malformed)
}

fn refuse_mandatory(part: &str) -> Result<(), Failure> {
    if part.starts_with("m=") {
        return Err(Failure::with_text(
            Condition::MalformedRequest,
            "extensions-not-supported",
        ));
    }
    Ok(())
}

/// An optional extension: a letter, `=`, a value of at least one character (RFC 5802 §7).
fn check_extension(part: &str) -> Result<(), Failure> {
    refuse_mandatory(part)?;
    let bytes = part.as_bytes();
    let is_well_formed = bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b'='
        && !bytes.contains(&0);
    if is_well_formed {
        Ok(())
    } else {
        Err(malformed())
    }
}

/// `saslname`: `=2C` is a comma, `=3D` an equals sign, and no other `=` may appear.
fn saslname(value: &str) -> Result<String, Failure> {
    let invalid = || Failure::with_text(Condition::MalformedRequest, "invalid-username-encoding");
    let mut pieces = value.split('=');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(invalid()),
        };
        name.push(character);
        name.push_str(rest);
    }
    if name.is_empty() || name.contains('\0') {
        Err(invalid())
    } else {
        Ok(name)
    }
}

/// `printable`: visible ASCII but the comma.
fn is_nonce(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// `cb-name`
fn is_binding_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
