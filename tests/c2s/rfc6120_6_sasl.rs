//! RFC 6120 §6: SASL, with SCRAM by RFC 5802 and RFC 7677, channel binding by RFC 9266 and XEP-0440.

use std::collections::BTreeSet;

use rookery_tests::client::{auth, mechanisms, response};
use rookery_tests::prelude::*;
use rookery_tests::scram::{Challenge, Hash, Scram, base64, from_base64};
use rookery_tests::tls::client_config;

const ALL: [&str; 5] = [
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "PLAIN",
];

/// A stream under TLS, before SASL.
async fn secured(server: &TestServer) -> Wire {
    server
        .login("alice")
        .await
        .connect(server.address("c2s"))
        .await
        .0
}

/// Expects a failure with a condition (RFC 6120 §6.5).
#[track_caller]
fn assert_failure(answer: &Element, condition: &str) {
    assert!(
        answer.is("failure", SASL) && answer.child(condition, SASL).is_some(),
        "expected the failure {condition}: {answer:?}"
    );
}

#[tokio::test]
async fn all_mechanisms_are_offered_over_tls_1_3_and_no_plus_over_1_2() {
    let server = TestServer::start().await;
    let login = server.login("alice").await;
    let (_, features) = login.connect(server.address("c2s")).await;
    let offered: BTreeSet<String> = mechanisms(&features).into_iter().collect();
    assert_eq!(offered, ALL.iter().map(|&name| name.to_owned()).collect());

    let login = login.tls(client_config(&[&rustls::version::TLS12], &[]));
    let (_, features) = login.connect(server.address("c2s")).await;
    let offered: BTreeSet<String> = mechanisms(&features).into_iter().collect();
    let unbound = ALL.iter().filter(|name| !name.ends_with("-PLUS"));
    assert_eq!(offered, unbound.map(|&name| name.to_owned()).collect());
}

/// XEP-0440
#[tokio::test]
async fn the_channel_binding_is_advertised() {
    let server = TestServer::start().await;
    let (_, features) = server
        .login("alice")
        .await
        .connect(server.address("c2s"))
        .await;
    let ns = "urn:xmpp:sasl-cb:0";
    let bindings = features
        .child("sasl-channel-binding", ns)
        .expect("XEP-0440");
    let kinds: Vec<_> = bindings.children().map(|e| e.attr("type")).collect();
    assert_eq!(kinds, [Some("tls-exporter")]);
}

#[tokio::test]
async fn every_mechanism_logs_in() {
    let server = TestServer::start().await;
    for mechanism in ALL {
        for security in [Security::StartTls, Security::DirectTls] {
            let login = server
                .login("alice")
                .await
                .mechanism(mechanism)
                .security(security);
            let mut alice = login.bind(server.address(security.listener())).await;
            alice.become_available().await;
            alice.close().await;
        }
    }
}

/// RFC 6120 §6.5.10: the right name with the wrong password and a name that nobody has get the same
/// answer, and the latter's salt does not give it away by changing.
#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let server = TestServer::start().await;
    server.add_user("alice").await;
    for mechanism in ALL {
        for name in ["alice", "nobody"] {
            let login = Login::new(name, "wrong").mechanism(mechanism);
            let (mut wire, features) = login.connect(server.address("c2s")).await;
            let answer = login.try_authenticate(&mut wire, &features).await;
            assert_failure(&answer, "not-authorized");
            assert_eq!(
                answer.children().count(),
                1,
                "nothing tells them apart: {answer:?}"
            );
        }
    }
}

/// RFC 6120 §6.5.2: only who has the password learns that the account is disabled.
#[tokio::test]
async fn a_disabled_account_cannot_log_in() {
    let server = TestServer::start().await;
    let alice = server.login("alice").await;
    let disable = ["user", "disable", "alice@localhost"];
    assert!(server.cli(&disable).await.status.success());
    for mechanism in ALL {
        let wrong = Login::new("alice", "wrong");
        for (login, condition) in [
            (alice.clone(), "account-disabled"),
            (wrong, "not-authorized"),
        ] {
            let login = login.mechanism(mechanism);
            let (mut wire, features) = login.connect(server.address("c2s")).await;
            let answer = login.try_authenticate(&mut wire, &features).await;
            assert_failure(&answer, condition);
        }
    }
    let enable = ["user", "enable", "alice@localhost"];
    assert!(server.cli(&enable).await.status.success());
    alice.bind(server.address("c2s")).await.close().await;
}

/// server-first-message for a name.
async fn challenge(server: &TestServer, name: &str, hash: Hash) -> Challenge {
    let mut wire = secured(server).await;
    let exchange = Scram::new(hash, name, "whatever");
    let mechanism = if hash == Hash::Sha1 {
        "SCRAM-SHA-1"
    } else {
        "SCRAM-SHA-256"
    };
    let answer = wire.ask(&auth(mechanism, &base64(exchange.first()))).await;
    assert!(answer.is("challenge", SASL), "{answer:?}");
    Challenge::parse(&from_base64(&answer.text()))
}

/// RFC 5802 §9
#[tokio::test]
async fn a_made_up_salt_is_as_stable_as_a_real_one() {
    let mut server = TestServer::start().await;
    for hash in [Hash::Sha1, Hash::Sha256] {
        let real = challenge(&server, "alice", hash).await;
        assert_eq!(challenge(&server, "alice", hash).await.salt, real.salt);
        let first = challenge(&server, "nobody", hash).await;
        let again = challenge(&server, "nobody", hash).await;
        assert_eq!(first.salt, again.salt);
        assert_ne!(first.nonce, again.nonce);
        assert_eq!(first.iterations, real.iterations);
        assert_eq!(first.salt.len(), real.salt.len());
        assert_ne!(first.salt, challenge(&server, "nobody2", hash).await.salt);
    }
    let before = challenge(&server, "nobody", Hash::Sha1).await;
    assert!(server.stop().await.success());
    server.come_back().await;
    assert_eq!(
        challenge(&server, "nobody", Hash::Sha1).await.salt,
        before.salt
    );
}

/// RFC 6120 §6.3.8
#[tokio::test]
async fn only_the_own_address_is_accepted_as_authorization_identity() {
    let server = TestServer::start().await;
    server.add_user("bob").await;
    let password = rookery_tests::server::password("alice");
    for (authzid, accepted) in [
        ("alice@localhost", true),
        ("bob@localhost", false),
        ("alice@elsewhere.example", false),
        ("nobody@localhost", false),
    ] {
        let mut wire = secured(&server).await;
        let plain = base64(format!("{authzid}\0alice\0{password}"));
        let answer = wire.ask(&auth("PLAIN", &plain)).await;
        if accepted {
            assert!(answer.is("success", SASL), "{authzid}: {answer:?}");
        } else {
            assert_failure(&answer, "invalid-authzid");
        }

        let mut wire = secured(&server).await;
        let mut exchange = Scram::new(Hash::Sha1, "alice", &password);
        exchange.gs2_header = format!("n,a={authzid},");
        let mut answer = wire
            .ask(&auth("SCRAM-SHA-1", &base64(exchange.first())))
            .await;
        if answer.is("challenge", SASL) {
            let last = exchange.last(&from_base64(&answer.text()));
            answer = wire.ask(&response(&base64(last))).await;
        }
        if accepted {
            assert!(answer.is("success", SASL), "{authzid}: {answer:?}");
        } else {
            assert_failure(&answer, "invalid-authzid");
        }
    }
}

/// RFC 6120 §6.4.4, §6.5.1
#[tokio::test]
async fn an_aborted_exchange_can_be_followed_by_a_login() {
    let server = TestServer::start().await;
    let login = server.login("alice").await;
    let (mut wire, features) = login.connect(server.address("c2s")).await;
    let exchange = Scram::new(Hash::Sha1, "alice", "whatever");
    let answer = wire
        .ask(&auth("SCRAM-SHA-1", &base64(exchange.first())))
        .await;
    assert!(answer.is("challenge", SASL));
    assert_failure(
        &wire.ask(&format!("<abort xmlns='{SASL}'/>")).await,
        "aborted",
    );
    let answer = login.try_authenticate(&mut wire, &features).await;
    assert!(answer.is("success", SASL), "{answer:?}");
}

/// RFC 6120 §6.5.5
#[tokio::test]
async fn what_is_not_base64_is_refused_as_incorrect_encoding() {
    let server = TestServer::start().await;
    let mut wire = secured(&server).await;
    for payload in [
        "=",
        "%%%%",
        "YWxpY2U",
        "AGFsaWNlAHNlY3JldA= =",
        "bm9u\tc2Vuc2U=",
    ] {
        let answer = wire.ask(&auth("SCRAM-SHA-1", payload)).await;
        // "=" stands for an empty initial response (§6.4.2), which is well encoded.
        let condition = if payload == "=" {
            "malformed-request"
        } else {
            "incorrect-encoding"
        };
        assert_failure(&answer, condition);
        wire = secured(&server).await;
    }
}

/// RFC 6120 §6.5.7
#[tokio::test]
async fn a_mechanism_that_is_not_offered_is_refused() {
    let server = TestServer::with(&[r#"auth.mechanisms=["SCRAM-SHA-256"]"#]).await;
    for mechanism in [
        "DIGEST-MD5",
        "SCRAM-SHA-1",
        "PLAIN",
        "EXTERNAL",
        "scram-sha-256",
        "",
    ] {
        let mut wire = secured(&server).await;
        let answer = wire
            .ask(&auth(mechanism, &base64("\0alice\0secret of alice")))
            .await;
        assert_failure(&answer, "invalid-mechanism");
    }
}

/// RFC 6120 §6.5.8
#[tokio::test]
async fn a_malformed_message_is_refused_as_such() {
    let server = TestServer::start().await;
    for (mechanism, message) in [
        ("PLAIN", "no separators"),
        ("PLAIN", "\0alice"),
        ("PLAIN", "\0\0secret of alice"),
        ("PLAIN", "\0alice\0"),
        ("PLAIN", "\0alice\0secret\0more"),
        ("SCRAM-SHA-1", "n,,"),
        ("SCRAM-SHA-1", "n,,n=alice"),
        ("SCRAM-SHA-1", "n,,r=abc,n=alice"),
        ("SCRAM-SHA-1", "n,,n=al=ice,r=abc"),
        ("SCRAM-SHA-1", "n,,n=,r=abc"),
        ("SCRAM-SHA-1", "n,,n=alice,r="),
        ("SCRAM-SHA-1", "x,,n=alice,r=abc"),
    ] {
        let mut wire = secured(&server).await;
        let answer = wire.ask(&auth(mechanism, &base64(message))).await;
        assert_failure(&answer, "malformed-request");
    }
}

/// RFC 5802 §5.1: an extension that must be understood, and is not, ends the exchange.
#[tokio::test]
async fn a_mandatory_extension_is_refused() {
    let server = TestServer::start().await;
    let mut wire = secured(&server).await;
    let message = "n,,m=future,n=alice,r=fyko+d2lbbFgONRv9qkxdawL";
    let answer = wire.ask(&auth("SCRAM-SHA-1", &base64(message))).await;
    assert!(answer.is("failure", SASL), "{answer:?}");
}

/// Runs SCRAM with an exchange that was tampered with; returns the outcome.
async fn tampered(
    wire: &mut Wire,
    mechanism: &str,
    exchange: &mut Scram,
    tamper: impl FnOnce(String) -> String,
) -> Element {
    let answer = wire.ask(&auth(mechanism, &base64(exchange.first()))).await;
    if !answer.is("challenge", SASL) {
        return answer;
    }
    let last = exchange.last(&from_base64(&answer.text()));
    wire.ask(&response(&base64(tamper(last)))).await
}

/// A new exchange with the right password.
fn right() -> Scram {
    Scram::new(
        Hash::Sha256,
        "alice",
        &rookery_tests::server::password("alice"),
    )
}

/// RFC 5802 §6: a client that could bind the channel and was told by somebody that the server
/// cannot, says `y`.
#[tokio::test]
async fn a_downgrade_is_noticed() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut wire = secured(&server).await;
    let mut exchange = right();
    exchange.gs2_header = "y,,".to_owned();
    let answer = tampered(&mut wire, "SCRAM-SHA-256", &mut exchange, |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");

    // Where there is nothing to bind, `y` is the truth.
    let login = server.login("alice").await.security(Security::Plain);
    let (mut wire, _) = login.connect(server.address("c2s")).await;
    let mut exchange = right();
    exchange.gs2_header = "y,,".to_owned();
    let answer = tampered(&mut wire, "SCRAM-SHA-256", &mut exchange, |last| last).await;
    assert!(answer.is("success", SASL), "{answer:?}");
}

/// RFC 5802 §6, RFC 9266
#[tokio::test]
async fn channel_binding_data_is_checked() {
    let server = TestServer::start().await;
    // Of another channel.
    let mut wire = secured(&server).await;
    let other = secured(&server).await.tls_exporter().expect("TLS 1.3");
    let mut exchange = right().bound_to("tls-exporter", &other);
    let answer = tampered(&mut wire, "SCRAM-SHA-256-PLUS", &mut exchange, |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");

    // None at all, as if the server had not asked for it.
    let mut wire = secured(&server).await;
    let mut exchange = right().bound_to("tls-exporter", &[]);
    let answer = tampered(&mut wire, "SCRAM-SHA-256-PLUS", &mut exchange, |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");

    // Of a kind that is not offered.
    let mut wire = secured(&server).await;
    let data = wire.tls_exporter().expect("TLS 1.3");
    let mut exchange = right().bound_to("tls-unique", &data);
    let answer = tampered(&mut wire, "SCRAM-SHA-256-PLUS", &mut exchange, |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");

    // A -PLUS mechanism without binding, and binding without -PLUS.
    let mut wire = secured(&server).await;
    let answer = tampered(&mut wire, "SCRAM-SHA-256-PLUS", &mut right(), |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");
    let mut wire = secured(&server).await;
    let data = wire.tls_exporter().expect("TLS 1.3");
    let mut exchange = right().bound_to("tls-exporter", &data);
    let answer = tampered(&mut wire, "SCRAM-SHA-256", &mut exchange, |last| last).await;
    assert!(answer.is("failure", SASL), "{answer:?}");

    // The header in c= is not the one sent before.
    let mut wire = secured(&server).await;
    let answer = tampered(&mut wire, "SCRAM-SHA-256", &mut right(), |last| {
        last.replacen("c=biws", "c=eSws", 1)
    })
    .await;
    assert!(answer.is("failure", SASL), "{answer:?}");
}

/// RFC 5802 §5.1
#[tokio::test]
async fn a_last_message_that_does_not_fit_is_refused() {
    type Tamper = fn(String) -> String;
    let server = TestServer::start().await;
    let tampers: [Tamper; 6] = [
        |last| last.replacen(",p=", ",p=AAAA", 1),
        |last| last.replacen("r=", "r=x", 1),
        |last| last.split(",p=").next().unwrap().to_owned(),
        |last| format!("{last},x=y"),
        |_| String::new(),
        |last| last.replacen(",r=", ",m=1,r=", 1),
    ];
    for (number, tamper) in tampers.into_iter().enumerate() {
        let mut wire = secured(&server).await;
        let answer = tampered(&mut wire, "SCRAM-SHA-256", &mut right(), tamper).await;
        assert!(answer.is("failure", SASL), "tamper {number}: {answer:?}");
    }
}

/// RFC 6120 §6.4.5: a failed login may be retried, but not for ever.
#[tokio::test]
async fn too_many_attempts_end_the_stream() {
    let server = TestServer::start().await;
    let mut wire = secured(&server).await;
    for attempt in 1.. {
        assert!(attempt <= 10, "ten attempts on one stream are too many");
        wire.send(&auth("PLAIN", &base64("\0alice\0wrong"))).await;
        let answer = wire.expect_element().await;
        if answer.is("error", STREAM) {
            assert!(
                answer.child("policy-violation", STREAM_ERRORS).is_some(),
                "{answer:?}"
            );
            break;
        }
        assert!(answer.is("failure", SASL), "{answer:?}");
        if attempt >= 2 && wire_ended(&mut wire).await {
            break;
        }
    }
}

/// Whether the server says goodbye of its own accord, before it answers anything else.
async fn wire_ended(wire: &mut Wire) -> bool {
    let probe = tokio::time::timeout(std::time::Duration::from_millis(50), wire.receive()).await;
    match probe {
        Ok(Event::Element(error)) => {
            assert!(
                error.child("policy-violation", STREAM_ERRORS).is_some(),
                "{error:?}"
            );
            true
        }
        Ok(Event::Close | Event::Eof) => true,
        Ok(other) => panic!("unexpected {other:?}"),
        Err(_) => false,
    }
}

/// RFC 6120 §6.2: the server does not offer to send passwords in the clear, nor take them.
#[tokio::test]
async fn plain_is_refused_without_tls() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let login = server.login("alice").await.security(Security::Plain);
    let (mut wire, _) = login.connect(server.address("c2s")).await;
    let message = base64(format!(
        "\0alice\0{}",
        rookery_tests::server::password("alice")
    ));
    let answer = wire.ask(&auth("PLAIN", &message)).await;
    assert!(answer.is("failure", SASL), "{answer:?}");
    assert!(
        answer.child("encryption-required", SASL).is_some()
            || answer.child("invalid-mechanism", SASL).is_some(),
        "{answer:?}"
    );
}

/// RFC 7622 §3.3: user names have no case.
#[tokio::test]
async fn the_users_name_is_prepared() {
    let server = TestServer::start().await;
    server.add_user("alice").await;
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let password = rookery_tests::server::password("alice");
        let login = Login::new("ALICE", &password)
            .mechanism(mechanism)
            .resource("desk");
        let alice = login.bind(server.address("c2s")).await;
        assert_eq!(alice.jid(), "alice@localhost/desk");
    }
}

/// RFC 6120 §6.3.3: after success there is a new stream, with a header of its own.
#[tokio::test]
async fn a_second_login_on_one_stream_is_refused() {
    let server = TestServer::start().await;
    let (mut wire, features) = server
        .login("alice")
        .await
        .authenticate(server.address("c2s"))
        .await;
    assert!(mechanisms(&features).is_empty(), "{features:?}");
    wire.send(&auth("PLAIN", &base64("\0alice\0secret of alice")))
        .await;
    let answer = wire.expect_element().await;
    assert!(!answer.is("success", SASL), "{answer:?}");
}

/// Guessing at one account is slowed down wherever the guesses come from; others log in as ever.
#[tokio::test]
async fn an_account_has_a_limited_number_of_failures() {
    let server = TestServer::with(&[
        "limits.auth_failures_per_account=4",
        "limits.auth_failure_window=1h",
    ])
    .await;
    server.add_user("bob").await;
    for attempt in 1.. {
        assert!(attempt <= 10, "ten failures of one account are too many");
        let login = Login::new("bob", "wrong").mechanism("SCRAM-SHA-256");
        let (mut wire, features) = login.connect(server.address("c2s")).await;
        let answer = login.try_authenticate(&mut wire, &features).await;
        if answer.child("temporary-auth-failure", SASL).is_some() {
            assert!(attempt > 4, "refused after {attempt} failures");
            break;
        }
        assert_failure(&answer, "not-authorized");
    }
    server.online("alice/desk").await.close().await;
}
