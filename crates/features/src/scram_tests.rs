//! Known answers of RFC 5802 §5 and RFC 7677 §3, then a test for each refusal.

use std::num::NonZeroU32;

use rookery_proto::credentials::ScramKeys;

use super::*;
use crate::password::{Password, derive_credentials, made_up};

const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
const CLIENT_NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";
const SERVER_NONCE: &str = "3rfcNHYJY1ZVvWVs7j";
const SHA1_SALT: &str = "QSXCR+Q6sek8bf92";
const SHA256_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

fn pencil() -> Credentials {
    let [sha1, sha256] = [SHA1_SALT, SHA256_SALT].map(|salt| STANDARD.decode(salt).unwrap());
    derive_credentials(&Password::new("pencil"), [&sha1, &sha256], ITERATIONS).unwrap()
}

fn offer(bindings: &[ChannelBinding]) -> Offer<'_> {
    Offer {
        plus: !bindings.is_empty(),
        bindings,
    }
}

fn exporter() -> [ChannelBinding; 1] {
    [ChannelBinding {
        kind: BindingKind::TlsExporter,
        data: vec![7; 32],
    }]
}

fn start(mechanism: Mechanism, first: &str, offer: Offer<'_>) -> Result<Scram, Failure> {
    Scram::start_with(
        mechanism,
        first.as_bytes(),
        "localhost",
        offer,
        SERVER_NONCE,
    )
}

/// Why the first message is refused by SCRAM-SHA-1 on a stream without channel binding.
fn refused(first: &str) -> (Condition, Option<&'static str>) {
    let failure = start(Mechanism::ScramSha1, first, Offer::default()).unwrap_err();
    (failure.condition, failure.text)
}

/// What a client with `password` answers to the challenge.
fn client_final(
    hash: Hash,
    password: &str,
    scram: &Scram,
    challenge: &[u8],
    without_proof: &str,
) -> String {
    let challenge = std::str::from_utf8(challenge).unwrap();
    let mut attributes = challenge.split(',').skip(1);
    let salt = STANDARD.decode(&attributes.next().unwrap()[2..]).unwrap();
    let iterations = attributes.next().unwrap()[2..].parse().unwrap();
    let algorithm = match hash {
        Hash::Sha1 => ring::pbkdf2::PBKDF2_HMAC_SHA1,
        Hash::Sha256 => ring::pbkdf2::PBKDF2_HMAC_SHA256,
    };
    let mut salted = vec![0; hash.len()];
    ring::pbkdf2::derive(
        algorithm,
        iterations,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let client_key = hash.hmac(&salted, b"Client Key");
    let stored_key = hash.digest(client_key.as_ref());
    let auth_message = format!("{},{challenge},{without_proof}", scram.client_first_bare);
    let signature = hash.hmac(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key
        .as_ref()
        .iter()
        .zip(signature.as_ref())
        .map(|(a, b)| a ^ b)
        .collect();
    format!("{without_proof},p={}", STANDARD.encode(proof))
}

/// RFC 5802 §5
#[test]
fn the_example_of_rfc_5802_is_reproduced() {
    let mut scram = start(
        Mechanism::ScramSha1,
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        Offer::default(),
    )
    .unwrap();
    assert_eq!(scram.user().as_str(), "user@localhost");
    assert_eq!(
        scram.challenge(&pencil()),
        b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    );
    let success = scram
        .finish(
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        )
        .unwrap();
    assert_eq!(success.user.as_str(), "user@localhost");
    assert_eq!(success.server_final, b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=");
}

/// RFC 7677 §3
#[test]
fn the_example_of_rfc_7677_is_reproduced() {
    let mut scram = Scram::start_with(
        Mechanism::ScramSha256,
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "localhost",
        Offer::default(),
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    )
    .unwrap();
    assert_eq!(
        scram.challenge(&pencil()),
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let success = scram
        .finish(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(
        success.server_final,
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    );
}

#[test]
fn the_servers_nonce_follows_the_clients_and_is_printable() {
    let mut scram = Scram::start(
        Mechanism::ScramSha1,
        b"n,,n=user,r=abc",
        "localhost",
        Offer::default(),
        &[255; NONCE_LEN],
    )
    .unwrap();
    let challenge = scram.challenge(&pencil());
    assert!(challenge.starts_with(b"r=abc////////////////////////,s="));
}

fn attempt_plus(bindings: &[ChannelBinding], kind: &str, bound: &[u8]) -> Result<Success, Failure> {
    let first = format!("p={kind},,n=user,r={CLIENT_NONCE}");
    let mut scram = start(Mechanism::ScramSha256Plus, &first, offer(bindings))?;
    let challenge = scram.challenge(&pencil());
    let header = [format!("p={kind},,").as_bytes(), bound].concat();
    let without_proof = format!(
        "c={},r={CLIENT_NONCE}{SERVER_NONCE}",
        STANDARD.encode(header)
    );
    let last = client_final(Hash::Sha256, "pencil", &scram, &challenge, &without_proof);
    scram.finish(last.as_bytes())
}

#[test]
fn a_client_can_bind_to_the_channel() {
    let bindings = [
        ChannelBinding {
            kind: BindingKind::TlsServerEndPoint,
            data: vec![9; 32],
        },
        ChannelBinding {
            kind: BindingKind::TlsExporter,
            data: vec![7; 32],
        },
    ];
    assert!(attempt_plus(&bindings, "tls-exporter", &[7; 32]).is_ok());
    assert!(attempt_plus(&bindings, "tls-server-end-point", &[9; 32]).is_ok());
}

#[test]
fn other_binding_data_is_refused() {
    for bound in [&[8; 32][..], &[7; 31], &[7; 33], &[]] {
        assert_eq!(
            attempt_plus(&exporter(), "tls-exporter", bound),
            Err(Failure::with_text(
                Condition::NotAuthorized,
                "channel-bindings-dont-match"
            ))
        );
    }
}

#[test]
fn binding_types_that_the_channel_does_not_have_are_refused() {
    for kind in [
        "tls-unique",
        "tls-server-end-point",
        "tls-exporte",
        "TLS-EXPORTER",
    ] {
        assert_eq!(
            attempt_plus(&exporter(), kind, &[7; 32]),
            Err(Failure::with_text(
                Condition::MalformedRequest,
                "unsupported-channel-binding-type"
            )),
            "{kind}"
        );
    }
}

#[test]
fn a_plus_mechanism_has_to_bind() {
    for flag in ["n", "y"] {
        let first = format!("{flag},,n=user,r=abc");
        let failure = start(Mechanism::ScramSha1Plus, &first, offer(&exporter())).unwrap_err();
        assert_eq!(failure.condition, Condition::MalformedRequest);
    }
}

#[test]
fn only_a_plus_mechanism_may_bind() {
    let failure = start(
        Mechanism::ScramSha1,
        "p=tls-exporter,,n=user,r=abc",
        offer(&exporter()),
    )
    .unwrap_err();
    assert_eq!(
        failure,
        Failure::with_text(Condition::MalformedRequest, "channel-binding-not-supported")
    );
}

/// RFC 5802 §6
#[test]
fn a_client_that_was_shown_no_plus_mechanism_is_told_of_the_downgrade() {
    let first = "y,,n=user,r=abc";
    assert_eq!(
        start(Mechanism::ScramSha256, first, offer(&exporter())).unwrap_err(),
        Failure::with_text(
            Condition::NotAuthorized,
            "server-does-support-channel-binding"
        )
    );
    assert!(start(Mechanism::ScramSha256, first, Offer::default()).is_ok());
    assert!(
        start(
            Mechanism::ScramSha256,
            "n,,n=user,r=abc",
            offer(&exporter())
        )
        .is_ok()
    );
}

/// The GS2 header is repeated in `c=`, so that nobody can change it on its way.
#[test]
fn a_changed_header_is_refused() {
    let attempt = |header: &str| {
        let first = format!("n,,n=user,r={CLIENT_NONCE}");
        let mut scram = start(Mechanism::ScramSha1, &first, Offer::default()).unwrap();
        let challenge = scram.challenge(&pencil());
        let without_proof = format!(
            "c={},r={CLIENT_NONCE}{SERVER_NONCE}",
            STANDARD.encode(header)
        );
        let last = client_final(Hash::Sha1, "pencil", &scram, &challenge, &without_proof);
        scram
            .finish(last.as_bytes())
            .map_err(|failure| failure.condition)
    };
    assert!(attempt("n,,").is_ok());
    for header in ["y,,", "n,a=user@localhost,", "p=tls-exporter,,", ""] {
        assert_eq!(attempt(header), Err(Condition::NotAuthorized), "{header}");
    }
}

#[test]
fn mandatory_extensions_are_refused() {
    let refusal = (
        Condition::MalformedRequest,
        Some("extensions-not-supported"),
    );
    assert_eq!(refused("n,,m=x,n=user,r=abc"), refusal);
    assert_eq!(refused("n,,n=user,m=x,r=abc"), refusal);
    assert_eq!(refused("n,,n=user,r=abc,m=x"), refusal);
    for last in [
        "m=x,c=biws,r=abc,p=AAAA",
        "c=biws,m=x,r=abc,p=AAAA",
        "c=biws,r=abc,m=x,p=AAAA",
    ] {
        let scram = start(Mechanism::ScramSha1, "n,,n=user,r=abc", Offer::default()).unwrap();
        let failure = scram.finish(last.as_bytes()).unwrap_err();
        assert_eq!((failure.condition, failure.text), refusal, "{last}");
    }
}

#[test]
fn unknown_extensions_are_skipped_but_proved() {
    let first = format!("n,,n=user,r={CLIENT_NONCE},x=some=thing");
    let mut scram = start(Mechanism::ScramSha1, &first, Offer::default()).unwrap();
    let challenge = scram.challenge(&pencil());
    let without_proof = format!("c=biws,r={CLIENT_NONCE}{SERVER_NONCE},y=1");
    let last = client_final(Hash::Sha1, "pencil", &scram, &challenge, &without_proof);
    assert!(scram.finish(last.as_bytes()).is_ok());
}

#[test]
fn only_the_users_own_address_may_be_the_authzid() {
    let attempt = |authzid: &str| {
        start(
            Mechanism::ScramSha1,
            &format!("n,a={authzid},n=user,r=abc"),
            Offer::default(),
        )
        .map(|_| ())
        .map_err(|failure| failure.condition)
    };
    assert_eq!(attempt("user@localhost"), Ok(()));
    assert_eq!(attempt("USER@LocalHost"), Ok(()), "compared as addresses");
    for foreign in [
        "bob@localhost",
        "user@example.com",
        "user",
        "localhost",
        "user@localhost/x",
    ] {
        assert_eq!(
            attempt(foreign),
            Err(Condition::InvalidAuthzid),
            "{foreign}"
        );
    }
    assert_eq!(
        attempt("@"),
        Err(Condition::InvalidAuthzid),
        "no address at all"
    );
    assert_eq!(attempt(""), Err(Condition::MalformedRequest));
}

#[test]
fn user_names_are_decoded_and_prepared() {
    let user = |name: &str| {
        start(
            Mechanism::ScramSha1,
            &format!("n,,n={name},r=abc"),
            Offer::default(),
        )
        .map(|scram| scram.user().as_str().to_owned())
        .map_err(|failure| failure.condition)
    };
    assert_eq!(user("USER"), Ok("user@localhost".to_owned()));
    assert_eq!(user("a=2Cb=3Dc"), Ok("a,b=c@localhost".to_owned()));
    for bad in [
        "", "a=", "a=2", "a=2c", "a=3d", "a==", "a=41", "a=2C=", "a\0",
    ] {
        assert_eq!(user(bad), Err(Condition::MalformedRequest), "{bad:?}");
    }
    for bad in ["user@localhost", "a/b", "a b", "a\u{7}"] {
        assert_eq!(user(bad), Err(Condition::NotAuthorized), "{bad:?}");
    }
}

#[test]
fn malformed_first_messages_are_refused() {
    for bad in [
        "",
        "n",
        "n,",
        "n,,",
        "x,,n=user,r=abc",
        "n=,,n=user,r=abc",
        "y=a,,n=user,r=abc",
        "p,,n=user,r=abc",
        "p=,,n=user,r=abc",
        "p=tls exporter,,n=user,r=abc",
        "n,user,n=user,r=abc",
        "n,b=user,n=user,r=abc",
        "n,n=user,r=abc",
        "n,,r=abc,n=user",
        "n,,n=user",
        "n,,n=user,r=",
        "n,,n=user,r=a b",
        "n,,n=user,r=\u{e4}",
        "n,,n=user,r=abc,",
        "n,,n=user,r=abc,xyz",
        "n,,n=user,r=abc,x=",
        "n,,n=user,r=abc,1=x",
        "N,,n=user,r=abc",
        "n,,N=user,r=abc",
    ] {
        assert_eq!(refused(bad).0, Condition::MalformedRequest, "{bad:?}");
    }
    let long = format!("n,,n=user,r={}", "x".repeat(MAX_CLIENT_NONCE_LEN + 1));
    assert_eq!(refused(&long).0, Condition::MalformedRequest);
    let failure = Scram::start(
        Mechanism::ScramSha1,
        b"n,,n=\xff,r=abc",
        "localhost",
        Offer::default(),
        &[0],
    );
    assert_eq!(
        failure.unwrap_err(),
        Failure::with_text(Condition::MalformedRequest, "invalid-encoding")
    );
}

/// Runs an attempt up to the last message, which `last` makes.
fn finish(last: impl FnOnce(&Scram, &[u8]) -> String) -> Result<Success, Condition> {
    let first = format!("n,,n=user,r={CLIENT_NONCE}");
    let mut scram = start(Mechanism::ScramSha1, &first, Offer::default()).unwrap();
    let challenge = scram.challenge(&pencil());
    let last = last(&scram, &challenge);
    scram
        .finish(last.as_bytes())
        .map_err(|failure| failure.condition)
}

#[test]
fn malformed_last_messages_are_refused() {
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    for bad in [
        String::new(),
        "p=AAAA".to_owned(),
        format!("c=biws,r={nonce}"),
        format!("r={nonce},c=biws,p=AAAA"),
        format!("c=biws,p=AAAA,r={nonce}"),
        format!("c=bi ws,r={nonce},p=AAAA"),
        format!("c=biw,r={nonce},p=AAAA"),
        format!("c=biws,r={nonce},p=AAA"),
        format!("c=biws,r={nonce},p=*"),
        format!("c=biws,r={nonce},,p=AAAA"),
        format!("c=biws,r={nonce},p=AAAA,"),
    ] {
        assert_eq!(
            finish(|_, _| bad.clone()),
            Err(Condition::MalformedRequest),
            "{bad}"
        );
    }
}

#[test]
fn another_nonce_is_refused() {
    for nonce in [
        CLIENT_NONCE.to_owned(),
        String::new(),
        format!("{CLIENT_NONCE}{SERVER_NONCE}x"),
    ] {
        let result = finish(|scram, challenge| {
            client_final(
                Hash::Sha1,
                "pencil",
                scram,
                challenge,
                &format!("c=biws,r={nonce}"),
            )
        });
        assert_eq!(result, Err(Condition::NotAuthorized), "{nonce}");
    }
}

#[test]
fn a_wrong_password_is_refused() {
    let without_proof = format!("c=biws,r={CLIENT_NONCE}{SERVER_NONCE}");
    let attempt = |password: &str| {
        finish(|scram, challenge| {
            client_final(Hash::Sha1, password, scram, challenge, &without_proof)
        })
    };
    assert!(attempt("pencil").is_ok());
    assert_eq!(attempt("Pencil"), Err(Condition::NotAuthorized));
    for proof in [
        "",
        "AAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        &"AAAA".repeat(100),
    ] {
        let result = finish(|_, _| format!("{without_proof},p={proof}"));
        assert_eq!(result, Err(Condition::NotAuthorized), "{proof}");
    }
}

#[test]
fn a_last_message_before_the_challenge_is_refused() {
    let scram = start(Mechanism::ScramSha1, "n,,n=user,r=abc", Offer::default()).unwrap();
    let failure = scram
        .finish(b"c=biws,r=abc3rfcNHYJY1ZVvWVs7j,p=AAAA")
        .unwrap_err();
    assert_eq!(failure.condition, Condition::MalformedRequest);
}

/// What a stranger can see of an unknown user is what a wrong password for a known one looks like.
#[test]
fn an_unknown_user_fails_as_a_known_one_with_a_wrong_password() {
    let ghost = BareJid::parse("user@localhost").unwrap();
    let outcome = |credentials: &Credentials| {
        let first = format!("n,,n=user,r={CLIENT_NONCE}");
        let mut scram = start(Mechanism::ScramSha256, &first, Offer::default()).unwrap();
        let challenge = scram.challenge(credentials);
        let without_proof = format!("c=biws,r={CLIENT_NONCE}{SERVER_NONCE}");
        let last = client_final(Hash::Sha256, "wrong", &scram, &challenge, &without_proof);
        (challenge.len(), scram.finish(last.as_bytes()))
    };
    let ghost = made_up(b"server secret", &ghost, ITERATIONS);
    let known = {
        let salt = [1; crate::password::SALT_LEN];
        derive_credentials(&Password::new("pencil"), [&salt, &salt], ITERATIONS).unwrap()
    };
    assert_eq!(outcome(&ghost), outcome(&known));
    assert_eq!(outcome(&ghost).1, Err(Condition::NotAuthorized.into()));
}

#[test]
fn empty_stored_keys_let_nobody_in() {
    let keys = ScramKeys {
        salt: vec![],
        iterations: 0,
        stored_key: vec![],
        server_key: vec![],
    };
    let broken = Credentials {
        scram_sha1: keys.clone(),
        scram_sha256: keys,
    };
    let mut scram = start(
        Mechanism::ScramSha1,
        &format!("n,,n=user,r={CLIENT_NONCE}"),
        Offer::default(),
    )
    .unwrap();
    scram.challenge(&broken);
    let last = format!(
        "c=biws,r={CLIENT_NONCE}{SERVER_NONCE},p={}",
        STANDARD.encode([0; 20])
    );
    assert_eq!(
        scram.finish(last.as_bytes()),
        Err(Condition::NotAuthorized.into())
    );
}

proptest::proptest! {
    /// Whatever a stranger sends, it is answered; and a client that follows the rules gets in.
    #[test]
    fn any_message_is_taken_or_refused(first in ".{0,60}", last in ".{0,60}", bytes: Vec<u8>) {
        for mechanism in &Mechanism::ALL[..4] {
            let bindings = exporter();
            for message in [first.as_bytes(), &bytes[..]] {
                let _ = Scram::start(*mechanism, message, "localhost", offer(&bindings), &[0]);
            }
        }
        let mut scram = start(Mechanism::ScramSha1, "n,,n=user,r=abc", Offer::default()).unwrap();
        scram.challenge(&made_up(b"secret", &scram.user().clone(), NonZeroU32::MIN));
        proptest::prop_assert!(scram.finish(last.as_bytes()).is_err());
    }

    #[test]
    fn any_user_name_survives_its_encoding(name in "[^\\x00]{1,20}") {
        let encoded = name.replace('=', "=3D").replace(',', "=2C");
        proptest::prop_assert_eq!(saslname(&encoded), Ok(name));
    }
}
