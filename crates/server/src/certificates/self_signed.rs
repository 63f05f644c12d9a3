//! The self-signed certificate that a server without a configured one uses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Error, ascii_name, load};
use crate::config::Domain;

/// How long a self-signed certificate is valid.
const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// The file in `tls.generated_dir`. Key and certificate share it, so that they always match.
pub(super) const FILE: &str = "self-signed.pem";

/// The file with the self-signed pair; makes it if there is none for these domains.
///
/// # Errors
/// If it can be neither read nor made.
pub(super) fn file(directory: &Path, domains: &[Domain]) -> Result<PathBuf, Error> {
    let path = directory.join(FILE);
    let fail = |reason| Error::File {
        path: path.clone(),
        reason,
    };
    // Nodes that share the directory may start at the same time: one of them makes the pair.
    let lock = File::create(directory.join("self-signed.lock")).map_err(fail)?;
    lock.lock().map_err(fail)?;
    if path.exists() {
        let pair = load(&path, &path)?;
        if !pair.ends_soon() && domains.iter().all(|domain| pair.covers(domain)) {
            return Ok(path);
        }
        tracing::info!(
            "replacing the self-signed certificate: it ends, or other domains are served"
        );
    }
    write_private(&path, generate(domains)?.as_bytes()).map_err(fail)?;
    Ok(path)
}

/// A new ECDSA key on P-256 and a certificate for the domains, in PEM.
pub(super) fn generate(domains: &[Domain]) -> Result<String, rcgen::Error> {
    let names: Vec<_> = domains.iter().map(ascii_name).collect();
    let mut parameters = rcgen::CertificateParams::new(names.clone())?;
    let mut name = rcgen::DistinguishedName::new();
    // A common name has 64 characters at most (RFC 5280, appendix A.1).
    let common_name = names.first().filter(|name| name.len() <= 64);
    name.push(
        rcgen::DnType::CommonName,
        common_name.map_or("rookery", String::as_str),
    );
    parameters.distinguished_name = name;
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    // A client's clock may be slow.
    parameters.not_before = (now - Duration::from_hours(24)).into();
    parameters.not_after = (now + LIFETIME).into();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = parameters.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Writes a file that only its owner can read; it appears whole or not at all.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
