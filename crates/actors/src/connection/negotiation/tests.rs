//! Negotiations without sockets. Each test feeds elements and looks at the actions and the output.

use std::num::NonZeroU32;

use base64::engine::general_purpose::STANDARD;
use rookery_features::password;
use rookery_proto::stream::Framer;

use super::*;
use crate::settings::{Settings, TlsPolicy};

const AFTER_LOGIN: &str = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>";

/// A negotiation and what it has said since one last looked.
struct Stream {
    negotiation: Negotiation,
    framer: Framer,
    output: Output,
}

impl Stream {
    fn with(secure: bool, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let rules = Rc::new(Rules::new(&settings));
        Self {
            framer: Framer::new(rules.limits_before_login()),
            negotiation: Negotiation::new(rules, Framing::Tcp, secure),
            output: Output::default(),
        }
    }

    /// An open stream over TLS.
    fn secured() -> Self {
        let mut stream = Self::with(true, |_| ());
        stream.open("to='localhost'");
        stream.said();
        stream
    }

    fn open(&mut self, attributes: &str) -> Action {
        self.framer.restart();
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream {attributes} version='1.0' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
        ))
    }

    /// Sends one element.
    fn send(&mut self, xml: &str) -> Action {
        let mut bytes = xml.as_bytes();
        let frame = self.framer.next(&mut bytes).unwrap().unwrap();
        let action = self.negotiation.frame(frame, &mut self.output);
        assert!(bytes.is_empty());
        action
    }

    fn auth(&mut self, mechanism: &str, initial: &str) -> Action {
        let initial = STANDARD.encode(initial);
        self.send(&format!(
            "<auth xmlns='{}' mechanism='{mechanism}'>{initial}</auth>",
            ns::SASL
        ))
    }

    /// Logs ann in.
    fn log_in(&mut self) {
        assert!(matches!(
            self.auth("PLAIN", "\0ann\0secret"),
            Action::Verify(..)
        ));
        let action = self.negotiation.verified(Verdict::Right, &mut self.output);
        assert!(matches!(action, Action::LoggedIn(_)));
        self.said();
    }

    /// What was said since the last call.
    fn said(&mut self) -> String {
        let said = self
            .output
            .documents()
            .map(|d| str::from_utf8(d).unwrap())
            .collect();
        self.output.clear();
        said
    }
}

fn stream_error(action: Action) -> StreamCondition {
    match action {
        Action::Fail(error) => error.condition,
        other => panic!("no stream error: {other:?}"),
    }
}

fn failure(action: Action) -> Condition {
    match action {
        Action::LoginFailed(failed) => failed.condition,
        other => panic!("no failed login: {other:?}"),
    }
}

/// RFC 6120 §4.7
#[test]
fn the_response_header_names_us_the_client_and_the_stream() {
    let mut stream = Stream::with(false, |_| ());
    stream.open("to='localhost' from='ann@localhost/x'");
    let said = stream.said();
    assert!(
        said.starts_with("<?xml version='1.0'?><stream:stream xmlns='jabber:client'"),
        "{said}"
    );
    for part in [
        " from='localhost'",
        " to='ann@localhost'",
        " version='1.0'",
        " xml:lang='en'",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let id = said
        .split(" id='")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap()
        .to_owned();
    assert!(id.len() >= 16);
    stream.negotiation.secured(None);
    stream.open("to='localhost'");
    assert!(
        !stream.said().contains(&id),
        "another stream has another id"
    );
}

/// RFC 6120 §5.3.1
#[test]
fn nothing_but_tls_is_offered_where_tls_is_required() {
    let mut stream = Stream::with(false, |s| s.auth.registration = true);
    stream.open("to='localhost'");
    let said = stream.said();
    assert!(said.ends_with(
        "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>\
         </stream:features>"
    ));
}

#[test]
fn what_is_offered_depends_on_what_protects_the_stream() {
    let mut stream = Stream::with(false, |s| s.c2s.tls = TlsPolicy::Optional);
    stream.open("to='localhost'");
    let said = stream.said();
    assert!(
        said.contains("<starttls") && said.contains(">SCRAM-SHA-1<"),
        "{said}"
    );
    assert!(!said.contains("PLAIN") && !said.contains("-PLUS"), "{said}");

    stream.negotiation.secured(None);
    stream.open("to='localhost'");
    let said = stream.said();
    assert!(said.contains(">PLAIN<"), "{said}");
    assert!(
        !said.contains("starttls") && !said.contains("-PLUS"),
        "{said}"
    );

    stream.negotiation.secured(Some([7; BINDING_BYTES]));
    stream.open("to='localhost'");
    let said = stream.said();
    assert!(
        said.contains(">SCRAM-SHA-256-PLUS<") && said.contains("tls-exporter"),
        "{said}"
    );

    let mut stream = Stream::with(false, |s| s.c2s.tls = TlsPolicy::Disabled);
    stream.open("to='localhost'");
    let said = stream.said();
    assert!(
        said.contains(">SCRAM-SHA-1<") && !said.contains("starttls"),
        "{said}"
    );
}

/// RFC 6120 §4.9.3.6, §4.9.1.2
#[test]
fn an_unknown_host_is_refused_in_an_open_stream() {
    for to in ["to='example.org'", "to='ann@localhost'", "to='localhost/x'"] {
        let mut stream = Stream::with(false, |_| ());
        assert_eq!(
            stream_error(stream.open(to)),
            StreamCondition::HostUnknown,
            "{to}"
        );
        stream.negotiation.end(
            Some(&StreamCondition::HostUnknown.into()),
            &mut stream.output,
        );
        let said = stream.said();
        assert_eq!(said.matches("<stream:stream ").count(), 1, "{said}");
        assert!(said.contains(" from='localhost'"));
        assert!(said.ends_with(
            "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             </stream:error></stream:stream>"
        ));
    }
}

#[test]
fn bad_headers_are_refused_with_the_error_that_fits() {
    let mut stream = Stream::with(false, |_| ());
    assert_eq!(
        stream_error(stream.open("")),
        StreamCondition::ImproperAddressing
    );

    for (header, condition) in [
        (
            "<stream:stream to='localhost' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>",
            StreamCondition::UnsupportedVersion,
        ),
        (
            "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='urn:x'>",
            StreamCondition::InvalidNamespace,
        ),
        (
            "<s:stream to='localhost' version='1.0' xmlns='jabber:client' \
             xmlns:s='http://etherx.jabber.org/streams'>",
            StreamCondition::BadNamespacePrefix,
        ),
    ] {
        let mut stream = Stream::with(false, |_| ());
        assert_eq!(stream_error(stream.send(header)), condition, "{header}");
        stream
            .negotiation
            .end(Some(&condition.into()), &mut stream.output);
        let said = stream.said();
        assert_eq!(said.matches("<stream:stream ").count(), 1, "{said}");
    }
}

/// RFC 6120 §4.7.5
#[test]
fn a_newer_client_is_answered_in_our_version() {
    let mut stream = Stream::with(false, |_| ());
    let action = stream.send(
        "<stream:stream to='localhost' version='11.2' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>",
    );
    assert!(matches!(action, Action::Continue));
    assert!(stream.said().contains(" version='1.0'"));
}

/// RFC 6120 §5.4.2
#[test]
fn starttls_is_granted_once_and_only_where_it_is_possible() {
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let mut stream = Stream::with(false, |_| ());
    stream.open("to='localhost'");
    stream.said();
    assert!(matches!(stream.send(starttls), Action::StartTls));
    assert_eq!(
        stream.said(),
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    );

    let mut disabled = Stream::with(false, |s| s.c2s.tls = TlsPolicy::Disabled);
    disabled.open("to='localhost'");
    for mut stream in [Stream::secured(), disabled] {
        stream.said();
        assert!(matches!(stream.send(starttls), Action::Close));
        assert_eq!(
            stream.said(),
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        );
    }
}

/// RFC 6120 §6.5.4
#[test]
fn nobody_logs_in_before_tls_where_that_is_required() {
    let mut stream = Stream::with(false, |_| ());
    stream.open("to='localhost'");
    for mechanism in ["PLAIN", "SCRAM-SHA-1", "X-UNKNOWN"] {
        let action = stream.auth(mechanism, "x");
        assert_eq!(
            failure(action),
            Condition::EncryptionRequired,
            "{mechanism}"
        );
    }
}

#[test]
fn plain_is_verified_and_leads_to_a_new_stream() {
    let mut stream = Stream::secured();
    let Action::Verify(user, password) = stream.auth("PLAIN", "\0Ann\0secret") else {
        panic!("the password has to be checked");
    };
    assert_eq!(
        (user.as_str(), password.as_str()),
        ("ann@localhost", "secret")
    );
    let action = stream
        .negotiation
        .verified(Verdict::Right, &mut stream.output);
    let Action::LoggedIn(success) = action else {
        panic!("no success: {action:?}")
    };
    assert_eq!((success.user, success.mechanism), (user, Mechanism::Plain));
    assert_eq!(
        stream.said(),
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
    );

    assert!(matches!(
        stream.open("to='localhost' from='ann@localhost'"),
        Action::Continue
    ));
    let said = stream.said();
    assert!(
        said.contains("<stream:stream ") && said.contains(AFTER_LOGIN),
        "{said}"
    );
    assert!(!said.contains("<mechanisms"), "{said}");
}

#[test]
fn a_wrong_password_can_be_corrected() {
    let mut stream = Stream::secured();
    stream.auth("PLAIN", "\0ann\0wrong");
    let verified = stream
        .negotiation
        .verified(Verdict::Wrong, &mut stream.output);
    let Action::LoginFailed(failed) = verified else {
        panic!("no failure");
    };
    assert_eq!(failed.user.unwrap().as_str(), "ann@localhost");
    assert_eq!(
        (failed.mechanism, failed.is_last),
        (Some(Mechanism::Plain), false)
    );
    assert_eq!(
        stream.said(),
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
    );
    stream.log_in();
}

/// RFC 6120 §6.5.2
#[test]
fn a_disabled_account_is_named_as_such_to_who_has_its_password() {
    let mut stream = Stream::secured();
    for (verdict, condition) in [
        (Verdict::Disabled, Condition::AccountDisabled),
        (Verdict::Wrong, Condition::NotAuthorized),
    ] {
        stream.auth("PLAIN", "\0ann\0secret");
        let verified = stream.negotiation.verified(verdict, &mut stream.output);
        let Action::LoginFailed(failed) = verified else {
            panic!("no failure");
        };
        assert_eq!(failed.condition, condition);
    }
    stream.said();
    stream.log_in();
}

/// RFC 6120 §6.4.5
#[test]
fn the_last_failure_ends_the_stream() {
    let mut stream = Stream::with(true, |s| s.auth.attempts_per_stream = 3);
    stream.open("to='localhost'");
    for attempt in 1..=3 {
        let Action::LoginFailed(failed) = stream.auth("X-NONE", "x") else {
            panic!("no failure")
        };
        assert_eq!(failed.condition, Condition::InvalidMechanism);
        assert_eq!(failed.is_last, attempt == 3);
    }
}

#[test]
fn scram_asks_for_the_users_keys_and_challenges() {
    let mut stream = Stream::secured();
    let Action::LookUp(user) = stream.auth("SCRAM-SHA-1", "n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL")
    else {
        panic!("the keys have to be read");
    };
    let keys = LoginKeys {
        credentials: password::made_up(b"secret", &user, NonZeroU32::new(4096).unwrap()),
        is_disabled: false,
    };
    let action = stream.negotiation.credentials(&keys, &mut stream.output);
    assert!(matches!(action, Action::Continue));
    let said = stream.said();
    let challenge = said.split('>').nth(1).unwrap().split('<').next().unwrap();
    let challenge = String::from_utf8(STANDARD.decode(challenge).unwrap()).unwrap();
    assert!(
        challenge.starts_with("r=fyko+d2lbbFgONRv9qkxdawL"),
        "{challenge}"
    );
    assert!(challenge.ends_with(",i=4096"), "{challenge}");
    let response = STANDARD.encode(format!(
        "c=biws,{},p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        challenge.split(',').next().unwrap()
    ));
    let action = stream.send(&format!(
        "<response xmlns='{}'>{response}</response>",
        ns::SASL
    ));
    assert_eq!(failure(action), Condition::NotAuthorized);
}

/// RFC 5802 §6
#[test]
fn a_client_that_was_kept_from_seeing_plus_is_refused() {
    let mut stream = Stream::with(true, |_| ());
    stream.negotiation.secured(Some([7; BINDING_BYTES]));
    stream.open("to='localhost'");
    let action = stream.auth("SCRAM-SHA-1", "y,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL");
    assert!(matches!(action, Action::LoginFailed(_)), "{action:?}");
}

#[test]
fn sasl_elements_in_the_wrong_place_are_failures() {
    let response = format!("<response xmlns='{}'>eA==</response>", ns::SASL);
    let abort = format!("<abort xmlns='{}'/>", ns::SASL);
    let mut stream = Stream::secured();
    assert_eq!(failure(stream.send(&response)), Condition::MalformedRequest);
    stream.auth("SCRAM-SHA-1", "n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL");
    assert_eq!(failure(stream.send(&abort)), Condition::Aborted);
    let bad = format!("<auth xmlns='{}' mechanism='PLAIN'>*</auth>", ns::SASL);
    assert_eq!(failure(stream.send(&bad)), Condition::IncorrectEncoding);
    stream.auth("SCRAM-SHA-1", "n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL");
    assert_eq!(
        failure(stream.auth("PLAIN", "\0ann\0secret")),
        Condition::MalformedRequest
    );
}

#[test]
fn nobody_logs_in_twice() {
    let mut stream = Stream::secured();
    stream.log_in();
    stream.open("to='localhost'");
    let action = stream.auth("PLAIN", "\0eve\0secret");
    assert_eq!(stream_error(action), StreamCondition::UnsupportedStanzaType);
}

/// RFC 6120 §4.9.3.9
#[test]
fn after_login_the_header_is_the_users() {
    for (header, condition) in [
        (
            "to='localhost' from='eve@localhost'",
            StreamCondition::InvalidFrom,
        ),
        ("to='other.example'", StreamCondition::HostUnknown),
        ("to='example.org'", StreamCondition::HostUnknown),
    ] {
        let mut stream = Stream::with(true, |s| s.domains.push("other.example".into()));
        stream.open("to='localhost'");
        stream.log_in();
        assert_eq!(stream_error(stream.open(header)), condition, "{header}");
    }
}

#[test]
fn a_resource_is_bound() {
    let mut stream = Stream::secured();
    stream.log_in();
    stream.open("to='localhost'");
    stream.said();
    let action = stream.send(
        "<iq id='b1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
         <resource>desk</resource></bind></iq>",
    );
    let Action::Bind {
        account,
        resource,
        iq,
    } = action
    else {
        panic!("no binding: {action:?}")
    };
    assert_eq!(
        (account.as_str(), resource.as_deref()),
        ("ann@localhost", Some("desk"))
    );
    let jid = account.with_resource("desk").unwrap();
    stream.negotiation.bound(&iq, &jid, &mut stream.output);
    let said = stream.said();
    assert!(
        said.contains("type='result'") && said.contains("id='b1'"),
        "{said}"
    );
    assert!(said.contains("<jid>ann@localhost/desk</jid>"), "{said}");
}

#[test]
fn a_refused_resource_can_be_asked_for_again() {
    let mut stream = Stream::secured();
    stream.log_in();
    stream.open("to='localhost'");
    stream.said();
    let bind = "<iq id='b1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    let Action::Bind {
        iq, resource: None, ..
    } = stream.send(bind)
    else {
        panic!("no binding")
    };
    let error = StanzaError::from(rookery_proto::error::Condition::ResourceConstraint);
    stream
        .negotiation
        .not_bound(&iq, &error, &mut stream.output);
    let said = stream.said();
    assert!(
        said.contains("type='error'") && said.contains("<resource-constraint"),
        "{said}"
    );
    assert!(matches!(stream.send(bind), Action::Bind { .. }));
}

/// RFC 6120 §7.1
#[test]
fn stanzas_without_a_resource_end_the_stream() {
    let stanzas = [
        "<message to='bob@localhost'><body>hi</body></message>",
        "<presence/>",
        "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq type='result' id='1'/>",
        "<iq type='frob' id='1'/>",
    ];
    for stanza in stanzas {
        let mut stream = Stream::secured();
        assert_eq!(
            stream_error(stream.send(stanza)),
            StreamCondition::NotAuthorized,
            "{stanza}"
        );
        let mut stream = Stream::secured();
        stream.log_in();
        stream.open("to='localhost'");
        assert_eq!(
            stream_error(stream.send(stanza)),
            StreamCondition::NotAuthorized,
            "{stanza}"
        );
    }
}

/// RFC 6120 §4.9.3.24
#[test]
fn unknown_elements_end_the_stream() {
    for element in [
        "<x xmlns='urn:x'/>",
        "<iq xmlns='urn:x' type='get' id='1'><x/></iq>",
    ] {
        let mut stream = Stream::secured();
        let condition = stream_error(stream.send(element));
        assert_eq!(
            condition,
            StreamCondition::UnsupportedStanzaType,
            "{element}"
        );
    }
}

#[test]
fn accounts_are_registered_only_if_that_is_enabled() {
    let query = "jabber:iq:register";
    let get = format!("<iq type='get' id='r1'><query xmlns='{query}'/></iq>");
    let set = format!(
        "<iq type='set' id='r2'><query xmlns='{query}'><username>Ann</username>\
         <password>secret</password></query></iq>"
    );
    let mut stream = Stream::secured();
    assert!(matches!(stream.send(&get), Action::Continue));
    assert!(stream.said().contains("<service-unavailable"));

    let mut stream = Stream::with(true, |s| s.auth.registration = true);
    stream.open("to='localhost'");
    assert!(
        stream
            .said()
            .contains("http://jabber.org/features/iq-register")
    );
    assert!(matches!(stream.send(&get), Action::Continue));
    assert!(stream.said().contains("<username/>"));
    let Action::Register {
        account,
        password,
        iq,
    } = stream.send(&set)
    else {
        panic!("no registration");
    };
    assert_eq!(
        (account.as_str(), password.as_str()),
        ("ann@localhost", "secret")
    );
    let conflict = Err(rookery_proto::error::Condition::Conflict.into());
    stream
        .negotiation
        .registered(&iq, conflict, &mut stream.output);
    assert!(stream.said().contains("<conflict"));
    for _ in 1..5 {
        assert!(matches!(stream.send(&set), Action::Register { .. }));
    }
    assert_eq!(
        stream_error(stream.send(&set)),
        StreamCondition::PolicyViolation
    );
}

#[test]
fn the_closing_tag_is_noticed() {
    let mut stream = Stream::secured();
    assert!(matches!(stream.send("</stream:stream>"), Action::Closed));
    stream.negotiation.end(None, &mut stream.output);
    assert_eq!(stream.said(), "</stream:stream>");
}

mod websocket {
    use rookery_proto::stream::ws_frame;

    use super::*;

    fn negotiation(secure: bool, change: impl FnOnce(&mut Settings)) -> Negotiation {
        let mut settings = Settings::default();
        change(&mut settings);
        Negotiation::new(Rc::new(Rules::new(&settings)), Framing::WebSocket, secure)
    }

    fn send(negotiation: &mut Negotiation, document: &str, output: &mut Output) -> Action {
        let limits = negotiation.rules().limits_before_login();
        let frame = ws_frame(document.as_bytes(), &limits).unwrap();
        negotiation.frame(frame, output)
    }

    fn documents(output: &mut Output) -> Vec<String> {
        let said = output
            .documents()
            .map(|d| String::from_utf8(d.to_vec()).unwrap())
            .collect();
        output.clear();
        said
    }

    const OPEN: &str =
        "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>";

    /// RFC 7395 §3.4, §3.9
    #[test]
    fn a_stream_is_a_series_of_documents() {
        let (mut stream, mut output) = (negotiation(true, |_| ()), Output::default());
        assert!(matches!(
            send(&mut stream, OPEN, &mut output),
            Action::Continue
        ));
        let said = documents(&mut output);
        assert_eq!(said.len(), 2);
        assert!(
            said[0].starts_with("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("<stream:features xmlns:stream='"),
            "{said:?}"
        );
        assert!(
            !said[1].contains("starttls") && !said[1].contains("-PLUS"),
            "{said:?}"
        );
        let auth = format!(
            "<auth xmlns='{}' mechanism='PLAIN'>AGFubgBzZWNyZXQ=</auth>",
            ns::SASL
        );
        assert!(matches!(
            send(&mut stream, &auth, &mut output),
            Action::Verify(..)
        ));
        assert!(matches!(
            stream.verified(Verdict::Right, &mut output),
            Action::LoggedIn(_)
        ));
        documents(&mut output);
        send(&mut stream, OPEN, &mut output);
        assert!(documents(&mut output)[1].contains(AFTER_LOGIN));
        let bind = "<iq xmlns='jabber:client' id='b' type='set'>\
                    <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        assert!(matches!(
            send(&mut stream, bind, &mut output),
            Action::Bind { .. }
        ));
        let close = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";
        assert!(matches!(
            send(&mut stream, close, &mut output),
            Action::Closed
        ));
        stream.end(None, &mut output);
        assert_eq!(documents(&mut output), [close]);
    }

    #[test]
    fn an_unencrypted_websocket_is_refused_where_tls_is_required() {
        let (mut stream, mut output) = (negotiation(false, |_| ()), Output::default());
        let action = send(&mut stream, OPEN, &mut output);
        assert_eq!(stream_error(action), StreamCondition::PolicyViolation);
        let mut stream = negotiation(false, |s| s.c2s.tls = TlsPolicy::Disabled);
        assert!(matches!(
            send(&mut stream, OPEN, &mut output),
            Action::Continue
        ));
    }

    #[test]
    fn documents_out_of_order_end_the_stream() {
        let (mut stream, mut output) = (negotiation(true, |_| ()), Output::default());
        let presence = "<presence xmlns='jabber:client'/>";
        let condition = stream_error(send(&mut stream, presence, &mut output));
        assert_eq!(condition, StreamCondition::BadFormat);
        stream.end(Some(&condition.into()), &mut output);
        let said = documents(&mut output);
        assert!(
            said[0].starts_with("<open ") && said[1].starts_with("<stream:error "),
            "{said:?}"
        );

        let mut stream = negotiation(true, |_| ());
        send(&mut stream, OPEN, &mut output);
        let condition = stream_error(send(&mut stream, OPEN, &mut output));
        assert_eq!(condition, StreamCondition::BadFormat);
    }
}
