//! The TLS exporter for channel binding (RFC 9266), which rustls offers on buffered connections only.
//!
//! [`ExporterLog`] sits in the server's TLS configuration as its key log, takes the exporter secret
//! of a TLS 1.3 handshake and nothing else, and leaves it in a slot of the thread, from where the
//! connection that called rustls picks it up. Nothing is written anywhere.

use std::cell::RefCell;

use ring::{digest, hkdf};
use rustls::{SupportedCipherSuite, crypto::hash::HashAlgorithm};

/// Length of `tls-exporter` channel binding data (RFC 9266 §2).
pub const BINDING_BYTES: usize = 32;

/// The exporter's label for channel binding (RFC 9266 §2).
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// rustls' name of the exporter secret.
const SECRET: &str = "EXPORTER_SECRET";

thread_local! {
    static SLOT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Takes the exporter secret of each handshake; see the module's description.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExporterLog;

impl rustls::KeyLog for ExporterLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == SECRET {
            SLOT.set(Some(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }
}

/// Takes the secret that a handshake on this thread has left.
pub(crate) fn take_secret() -> Option<Vec<u8>> {
    SLOT.take()
}

/// The channel binding data of a connection, from its exporter secret: the exporter of RFC 8446 §7.5
/// with an empty context. `None` for a suite that is not of TLS 1.3.
pub(crate) fn channel_binding(
    secret: &[u8],
    suite: SupportedCipherSuite,
) -> Option<[u8; BINDING_BYTES]> {
    let (hkdf, digest) = match suite.tls13()?.common.hash_provider.algorithm() {
        HashAlgorithm::SHA256 => (hkdf::HKDF_SHA256, &digest::SHA256),
        HashAlgorithm::SHA384 => (hkdf::HKDF_SHA384, &digest::SHA384),
        _ => return None,
    };
    let empty = digest::digest(digest, b"");
    let mut derived = vec![0; digest.output_len()];
    expand_label(hkdf, secret, LABEL, empty.as_ref(), &mut derived)?;
    let mut binding = [0; BINDING_BYTES];
    expand_label(hkdf, &derived, b"exporter", empty.as_ref(), &mut binding)?;
    Some(binding)
}

/// HKDF-Expand-Label of RFC 8446 §7.1.
fn expand_label(
    algorithm: hkdf::Algorithm,
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let context_length = [u8::try_from(context.len()).ok()?];
    let info = [
        &length[..],
        &label_length,
        PREFIX,
        label,
        &context_length,
        context,
    ];
    let prk = hkdf::Prk::new_less_safe(algorithm, secret);
    prk.expand(&info, Length(out.len())).ok()?.fill(out).ok()
}

/// How many bytes HKDF is to make.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
