//! The certificate and its private key: read, made up at the first start, read again when they change.

mod self_signed;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rookery_proto::datetime;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{Config, Domain};
use crate::metrics;

/// How often the files are looked at.
pub(crate) const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// How long before its end a certificate is warned about, and a self-signed one replaced.
const RENEWAL_TIME: Duration = Duration::from_hours(14 * 24);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// A file without a usable certificate.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file without a usable key.
    #[error("{}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key of different pairs.
    #[error(
        "the key in {} is not the key of the certificate in {}; \
         the certificate file has to begin with the server's own certificate",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No certificate could be made.
    #[error("cannot make a self-signed certificate")]
    Generate(#[from] rcgen::Error),
}

/// A certificate with its key, checked to belong together.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

/// The pair in use; follows its files.
#[derive(Debug)]
pub(crate) struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    domains: Vec<Domain>,
    current: RwLock<Pair>,
    seen: Mutex<[Stamp; 2]>,
}

/// What changes when a file is written or replaced.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Certificates {
    /// Reads the configured pair, or the self-signed one, which is made if it is missing.
    ///
    /// # Errors
    /// Names the file and says what is wrong with it.
    pub(crate) fn open(config: &Config) -> Result<Arc<Self>, Error> {
        let domains = config.server.domains.clone();
        let configured = (&config.tls.certificate, &config.tls.key);
        let (certificate, key) = if let (Some(certificate), Some(key)) = configured {
            (certificate.clone(), key.clone())
        } else {
            let path = self_signed::file(config.generated_dir(), &domains)?;
            (path.clone(), path)
        };
        let seen = Mutex::new([stamp(&certificate), stamp(&key)]);
        let pair = load(&certificate, &key)?;
        pair.announce(&certificate, &domains);
        let current = RwLock::new(pair);
        Ok(Arc::new(Self {
            certificate,
            key,
            domains,
            current,
            seen,
        }))
    }

    /// Reads the files again if they changed; what cannot be used leaves the old pair in place.
    pub(crate) fn reload_if_changed(&self) {
        let now = [stamp(&self.certificate), stamp(&self.key)];
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return;
            }
            *seen = now;
        }
        match load(&self.certificate, &self.key) {
            Ok(pair) => {
                pair.announce(&self.certificate, &self.domains);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair;
            }
            // Often only one of two files has been replaced yet; the other's change brings us back.
            Err(error) => {
                tracing::error!(%error, "the changed certificate cannot be used; the old one stays");
            }
        }
    }
}

impl Certificates {
    /// The certificate in use, for operators: where it is from, how long it is good, for which domains.
    pub(crate) fn about(&self) -> serde_json::Value {
        let pair = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let left = pair.not_after.duration_since(SystemTime::now());
        let days = left.map_or(0, |left| left.as_secs() / (24 * 60 * 60));
        let domains = self.domains.iter().map(|domain| {
            serde_json::json!({ "domain": domain.as_str(), "covered": pair.covers(domain) })
        });
        serde_json::json!({
            "file": self.certificate.display().to_string(),
            "sha256": pair.fingerprint(),
            "not_after": datetime::format(pair.not_after),
            "days_left": days,
            "expired": pair.not_after < SystemTime::now(),
            "domains": domains.collect::<Vec<_>>(),
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .key
                .clone(),
        )
    }
}

impl Pair {
    /// The SHA-256 fingerprint as `openssl x509 -fingerprint -sha256` prints it.
    fn fingerprint(&self) -> String {
        let Some(certificate) = self.key.cert.first() else {
            return String::new();
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let bytes: Vec<_> = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        bytes.join(":")
    }

    /// Whether the certificate is good for a domain (RFC 6125).
    fn covers(&self, domain: &Domain) -> bool {
        let Some(certificate) = self.key.cert.first() else {
            return false;
        };
        let Ok(certificate) = ParsedCertificate::try_from(certificate) else {
            return false;
        };
        let Ok(name) = ServerName::try_from(ascii_name(domain)) else {
            return false;
        };
        rustls::client::verify_server_name(&certificate, &name).is_ok()
    }

    fn ends_soon(&self) -> bool {
        self.not_after < SystemTime::now() + RENEWAL_TIME
    }

    /// Logs which certificate is used from now on, and what clients may dislike about it.
    fn announce(&self, path: &Path, domains: &[Domain]) {
        let file = path.display();
        let until = date(self.not_after);
        let seconds = self
            .not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        metrics::CERTIFICATE_NOT_AFTER.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        tracing::info!(%file, fingerprint = self.fingerprint(), %until, "certificate");
        if self.not_after < SystemTime::now() {
            tracing::warn!(%file, %until, "the certificate has expired; clients will refuse it");
        } else if self.ends_soon() {
            tracing::warn!(%file, %until, "the certificate expires soon");
        }
        for domain in domains.iter().filter(|domain| !self.covers(domain)) {
            tracing::warn!(%file, %domain, "the certificate does not name this domain");
        }
    }
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// Names the file and says what is wrong with it.
pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Pair, Error> {
    let chain = load_chain(certificate)?;
    let not_after = not_after(&chain[0]).map_err(|reason| Error::Certificate {
        path: certificate.into(),
        reason,
    })?;
    let private = load_key(key)?;
    let signing = any_supported_type(&private).map_err(|error| Error::Key {
        path: key.into(),
        reason: format!("the private key cannot be used ({error}); ECDSA, RSA and Ed25519 can"),
    })?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        // `Unknown`: a key type that cannot tell its public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Pair {
                key: Arc::new(pair),
                not_after,
            })
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(Error::Mismatch {
            certificate: certificate.into(),
            key: key.into(),
        }),
        Err(error) => Err(Error::Certificate {
            path: certificate.into(),
            reason: error.to_string(),
        }),
    }
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let refuse = |reason: String| Error::Certificate {
        path: path.into(),
        reason,
    };
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(refuse(
            "there is no certificate in this file (PEM is expected)".into(),
        )),
        Err(error) => Err(refuse(format!("this is no valid PEM: {error}"))),
    }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(path)?;
    let refuse = |reason: String| Error::Key {
        path: path.into(),
        reason,
    };
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) | Err(_) if is_encrypted(&text) => Err(refuse(
            "the private key is encrypted, and nobody is there to type its password; \
             decrypt it with `openssl pkey -in KEY -out NEW`"
                .into(),
        )),
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(refuse(
            "there is no private key in this file (PEM is expected)".into(),
        )),
        Err(error) => Err(refuse(format!("this is no valid PEM: {error}"))),
    }
}

/// PKCS#8 and the older form of OpenSSL.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("the certificate is not valid: {error}"))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|reason| Error::File {
        path: path.into(),
        reason,
    })
}

fn stamp(path: &Path) -> Stamp {
    let data = fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

/// The name as certificates spell it: internationalised domains in their ASCII form.
fn ascii_name(domain: &Domain) -> String {
    let name = domain
        .as_str()
        .trim_start_matches('[')
        .trim_end_matches(']');
    idna::domain_to_ascii(name).unwrap_or_else(|_| name.to_owned())
}

/// A day of the calendar in UTC, e.g. `2026-11-22`.
fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    x509_parser::time::ASN1Time::from_timestamp(seconds).map_or_else(
        |_| "unknown".into(),
        |time| time.to_datetime().date().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::self_signed::{FILE, generate, write_private};
    use super::*;
    use crate::config::Sources;

    fn config(directory: &Path, more: &[(&str, &str)]) -> Config {
        let mut overrides = vec![(
            "server.data_dir".to_owned(),
            directory.display().to_string(),
        )];
        overrides.extend(
            more.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let sources = Sources {
            environment: Some([].into()),
            overrides: &overrides,
            ..Sources::default()
        };
        Config::load(&sources).unwrap()
    }

    fn fingerprint(certificates: &Certificates) -> String {
        certificates.current.read().unwrap().fingerprint()
    }

    #[test]
    fn a_self_signed_certificate_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(
            directory.path(),
            &[("server.domains", "localhost,müller.example")],
        );
        let first = Certificates::open(&config).unwrap();
        let again = Certificates::open(&config).unwrap();
        assert_eq!(fingerprint(&first), fingerprint(&again));
        assert_eq!(fingerprint(&first).len(), 95);
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let pair = first.current.read().unwrap();
        assert!(
            config
                .server
                .domains
                .iter()
                .all(|domain| pair.covers(domain))
        );
        assert!(!pair.ends_soon());
    }

    #[test]
    fn a_self_signed_certificate_is_replaced_when_the_domains_change() {
        let directory = tempfile::tempdir().unwrap();
        let before = Certificates::open(&config(directory.path(), &[])).unwrap();
        let after = Certificates::open(&config(
            directory.path(),
            &[("server.domains", "example.org")],
        ))
        .unwrap();
        assert_ne!(fingerprint(&before), fingerprint(&after));
    }

    #[test]
    fn changed_files_are_read_again_and_unusable_ones_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), &[]);
        let certificates = Certificates::open(&config).unwrap();
        let old = fingerprint(&certificates);
        let path = directory.path().join(FILE);

        fs::write(&path, "nonsense").unwrap();
        certificates.reload_if_changed();
        assert_eq!(fingerprint(&certificates), old);

        write_private(&path, generate(&config.server.domains).unwrap().as_bytes()).unwrap();
        certificates.reload_if_changed();
        assert_ne!(fingerprint(&certificates), old);
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let domains = config(directory.path(), &[]).server.domains;
        let one = file("one.pem", &generate(&domains).unwrap());
        let other = file("other.pem", &generate(&domains).unwrap());
        let empty = file("empty.pem", "");
        let missing = directory.path().join("missing.pem");
        let encrypted = file(
            "encrypted.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let error =
            |certificate: &Path, key: &Path| load(certificate, key).unwrap_err().to_string();
        assert!(error(&missing, &one).contains("missing.pem: No such file"));
        assert!(error(&empty, &one).contains("no certificate in this file"));
        assert!(error(&one, &empty).contains("no private key in this file"));
        assert!(error(&one, &encrypted).contains("is encrypted"));
        assert!(error(&one, &other).contains("is not the key of the certificate"));
        assert!(load(&one, &one).is_ok());
    }

    #[test]
    fn dates_are_calendar_days() {
        assert_eq!(date(UNIX_EPOCH + Duration::from_hours(24)), "1970-01-02");
    }
}
