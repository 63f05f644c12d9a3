//! The client's side of SCRAM (RFC 5802, RFC 7677) with channel binding, open to tampering.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2, rand};

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1
    Sha1,
    /// SCRAM-SHA-256
    Sha256,
}

/// One SCRAM exchange. The public fields may be changed before the message that uses them is made.
pub struct Scram {
    hash: Hash,
    password: String,
    /// `n,,`, `y,,` or `p=tls-exporter,,`; with an authorisation identity between the commas.
    pub gs2_header: String,
    /// What the channel binding covers, appended to the header in `c=`.
    pub channel_binding: Vec<u8>,
    /// The user's name, escaped.
    pub username: String,
    /// The client's nonce.
    pub nonce: String,
    auth_message: String,
    salted_password: Vec<u8>,
}

impl Scram {
    /// An exchange without channel binding.
    pub fn new(hash: Hash, username: &str, password: &str) -> Self {
        Self {
            hash,
            password: password.to_owned(),
            gs2_header: "n,,".to_owned(),
            channel_binding: Vec::new(),
            username: username.replace('=', "=3D").replace(',', "=2C"),
            nonce: random_nonce(),
            auth_message: String::new(),
            salted_password: Vec::new(),
        }
    }

    /// With channel binding of the type given, for the -PLUS mechanisms.
    #[must_use]
    pub fn bound_to(mut self, kind: &str, data: &[u8]) -> Self {
        self.gs2_header = format!("p={kind},,");
        self.channel_binding = data.to_vec();
        self
    }

    /// client-first-message.
    pub fn first(&self) -> String {
        format!("{}{}", self.gs2_header, self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n={},r={}", self.username, self.nonce)
    }

    /// client-final-message in answer to the server's first.
    pub fn last(&mut self, server_first: &str) -> String {
        let challenge = Challenge::parse(server_first);
        assert!(
            challenge.nonce.starts_with(&self.nonce) && challenge.nonce.len() > self.nonce.len(),
            "the server's nonce {} does not extend {}",
            challenge.nonce,
            self.nonce
        );
        let mut binding = self.gs2_header.clone().into_bytes();
        binding.extend_from_slice(&self.channel_binding);
        let without_proof = format!("c={},r={}", BASE64.encode(binding), challenge.nonce);
        self.auth_message = format!("{},{server_first},{without_proof}", self.first_bare());
        self.salted_password = self.salt_password(&challenge);

        let client_key = self.hmac(&self.salted_password, b"Client Key");
        let stored_key = digest::digest(self.digest_algorithm(), &client_key);
        let signature = self.hmac(stored_key.as_ref(), self.auth_message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(a, b)| a ^ b)
            .collect();
        format!("{without_proof},p={}", BASE64.encode(proof))
    }

    /// Panics unless the server's final message proves that it knows the password too.
    pub fn verify(&self, server_final: &str) {
        let server_key = self.hmac(&self.salted_password, b"Server Key");
        let signature = self.hmac(&server_key, self.auth_message.as_bytes());
        assert_eq!(
            server_final,
            format!("v={}", BASE64.encode(signature)),
            "the server's signature"
        );
    }

    fn salt_password(&self, challenge: &Challenge) -> Vec<u8> {
        let (algorithm, length) = match self.hash {
            Hash::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN),
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
        };
        let mut salted = vec![0; length];
        pbkdf2::derive(
            algorithm,
            challenge.iterations,
            &challenge.salt,
            self.password.as_bytes(),
            &mut salted,
        );
        salted
    }

    fn hmac(&self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = match self.hash {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data)
            .as_ref()
            .to_vec()
    }

    fn digest_algorithm(&self) -> &'static digest::Algorithm {
        match self.hash {
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &digest::SHA256,
        }
    }
}

/// The key that a client of SCRAM-SHA-1 proves to have, derived from its password.
pub fn client_key(password: &str, server_first: &str) -> Vec<u8> {
    let scram = Scram::new(Hash::Sha1, "", password);
    let salted = scram.salt_password(&Challenge::parse(server_first));
    scram.hmac(&salted, b"Client Key")
}

/// server-first-message: `r=nonce,s=salt,i=iterations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The client's nonce and the server's.
    pub nonce: String,
    /// The account's salt.
    pub salt: Vec<u8>,
    /// How often the password is hashed.
    pub iterations: NonZeroU32,
}

impl Challenge {
    /// Panics unless the message has exactly its three attributes.
    pub fn parse(server_first: &str) -> Self {
        let parts: Vec<&str> = server_first.split(',').collect();
        let [nonce, salt, iterations] = parts[..] else {
            panic!("not a server-first-message: {server_first}");
        };
        let value = |part: &str, name: &str| -> String {
            part.strip_prefix(name)
                .unwrap_or_else(|| panic!("no {name} in {server_first}"))
                .to_owned()
        };
        Self {
            nonce: value(nonce, "r="),
            salt: BASE64
                .decode(value(salt, "s="))
                .expect("the salt is base64"),
            iterations: value(iterations, "i=")
                .parse()
                .expect("iterations are a number"),
        }
    }
}

/// A nonce of 24 printable characters.
pub fn random_nonce() -> String {
    let bytes: [u8; 18] = rand::generate(&rand::SystemRandom::new())
        .expect("the system has random numbers")
        .expose();
    BASE64.encode(bytes)
}

/// Base64, as SASL payloads and the `PLAIN` message are sent.
pub fn base64(data: impl AsRef<[u8]>) -> String {
    BASE64.encode(data)
}

/// The text in a base64 payload.
pub fn from_base64(payload: &str) -> String {
    String::from_utf8(BASE64.decode(payload).expect("base64")).expect("UTF-8")
}
