//! Certificates of an authority that nobody else knows.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority, and a certificate for 127.0.0.1 that serves servers and clients.
pub(crate) struct Certificates {
    dir: TempDir,
    /// Whether servers want to see a client's certificate.
    pub(crate) both_ways: bool,
}

impl Certificates {
    pub(crate) fn new(both_ways: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are right");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not that of the certificate, which would then look as if it had signed itself.
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let authority = params.self_signed(&key).expect("it can be signed");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &issuer).expect("it can be signed");
        for (name, pem) in [
            ("ca.pem", authority.pem()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(dir.path().join(name), pem).expect("a file can be written");
        }
        Self { dir, both_ways }
    }

    pub(crate) fn server_arguments(&self) -> Vec<String> {
        let auth = if self.both_ways { "yes" } else { "no" };
        let pairs = [
            ("--tls-ca-cert-file", self.shown("ca.pem")),
            ("--tls-cert-file", self.shown("cert.pem")),
            ("--tls-key-file", self.shown("key.pem")),
            ("--tls-auth-clients", auth.to_owned()),
            ("--tls-replication", "yes".to_owned()),
            ("--tls-cluster", "yes".to_owned()),
        ];
        let flat = pairs
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        flat.collect()
    }

    /// What an address needs for them.
    pub(crate) fn parameters(&self) -> String {
        let ca = self.shown("ca.pem");
        if self.both_ways {
            let (cert, key) = (self.shown("cert.pem"), self.shown("key.pem"));
            format!("ca={ca}&cert={cert}&key={key}")
        } else {
            format!("ca={ca}")
        }
    }

    /// The same for the library, to look behind the scenes.
    pub(crate) fn for_client(&self) -> redis::TlsCertificates {
        let read = |name| std::fs::read(self.file(name)).expect("it was written");
        let client_tls = self.both_ways.then(|| redis::ClientTlsConfig {
            client_cert: read("cert.pem"),
            client_key: read("key.pem"),
        });
        redis::TlsCertificates {
            client_tls,
            root_cert: Some(read("ca.pem")),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}
