//! XEP-0198: acks that mean something, and sessions that outlive their connections.

use rookery_tests::prelude::*;
use rookery_tests::proxy::{Mode, Proxy};
use rookery_tests::stream_management as sm;

/// Namespace of the conditions in `<failed/>`.
const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

fn enable() -> Element {
    Element::new("enable", SM)
}

fn failed_with(element: &Element, condition: &str) -> bool {
    element.is("failed", SM) && element.child(condition, STANZA_ERRORS).is_some()
}

/// Whether this is what XEP-0198 §5 has for an `h` that is too high.
fn check_too_high(error: &Element, h: u32, sent: u32) {
    let too_high = error.child("handled-count-too-high", SM);
    let too_high = too_high.unwrap_or_else(|| panic!("no handled-count-too-high: {error:?}"));
    assert_eq!(too_high.attr("h"), Some(&*h.to_string()));
    assert_eq!(too_high.attr("send-count"), Some(&*sent.to_string()));
}

async fn send_numbers(from: &mut Client, to: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        from.send(chat_to(to, &number.to_string())).await;
    }
}

async fn expect_numbers(client: &mut Client, from: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        client.expect(chat_from(from, &number.to_string())).await;
    }
}

// §2, §3: offering and enabling

/// §2: once it is possible to send stanzas, not before.
#[tokio::test]
async fn it_is_offered_with_binding_and_not_before_the_login() {
    let server = TestServer::start().await;
    let login = server.login("alice").await;
    let (_, before) = login.connect(server.address("c2s")).await;
    assert!(before.child("sm", SM).is_none(), "{before:?}");
    let (_, after) = login.authenticate(server.address("c2s")).await;
    assert!(after.child("sm", SM).is_some(), "{after:?}");
}

/// §3, §5
#[tokio::test]
async fn enabling_gives_an_id_when_resumption_is_asked_for() {
    let server = TestServer::with(&["sm.resume_timeout=30s"]).await;
    for resume in ["true", "1"] {
        let mut client = server.bound("alice").await;
        let enabled = client.manage(enable().with_attr("resume", resume)).await;
        assert!(
            matches!(enabled.attr("resume"), Some("true" | "1")),
            "{enabled:?}"
        );
        let id = enabled.attr("id").expect("§5: an id");
        assert!(!id.is_empty() && id.len() <= 4000, "{id}");
        if let Some(max) = enabled.attr("max") {
            assert_eq!(max, "30");
        }
        client.close().await;
    }
    for plain in [enable(), enable().with_attr("resume", "false")] {
        let mut client = server.bound("alice").await;
        let enabled = client.manage(plain).await;
        assert!(
            matches!(enabled.attr("resume"), None | Some("false" | "0")),
            "{enabled:?}"
        );
        client.close().await;
    }
}

/// §3: `max` is what the client prefers; the server does not keep sessions for longer.
#[tokio::test]
async fn a_client_may_ask_for_less_time() {
    let server = TestServer::with(&["sm.resume_timeout=30s"]).await;
    for (asked, most) in [("5", 5), ("3600", 30)] {
        let mut client = server.bound("alice").await;
        let wish = enable().with_attr("resume", "true").with_attr("max", asked);
        let enabled = client.manage(wish).await;
        if let Some(max) = enabled.attr("max") {
            assert!(max.parse::<u32>().unwrap() <= most, "{enabled:?}");
        }
        client.close().await;
    }
}

/// §5: ids are not reused.
#[tokio::test]
async fn every_session_has_an_id_of_its_own() {
    let server = TestServer::start().await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..10 {
        let client = server.managed("alice/desk").await;
        assert!(ids.insert(client.session_id().to_owned()));
        client.close().await;
    }
}

/// §3: the server enforces the order, and §5: a refusal is no reason to start again.
#[tokio::test]
async fn enabling_before_binding_is_refused() {
    let server = TestServer::start().await;
    let login = server.login("alice").await.resource("desk");
    let (mut wire, _) = login.authenticate(server.address("c2s")).await;
    let answer = wire.ask(&enable().to_xml("")).await;
    assert!(failed_with(&answer, "unexpected-request"), "{answer:?}");
    let mut client = login.bind_on(wire).await;
    client.enable_management().await;
    client.close().await;
}

/// §3: not before authentication either.
#[tokio::test]
async fn enabling_before_the_login_is_refused() {
    let server = TestServer::start().await;
    let (mut wire, _) = server
        .login("alice")
        .await
        .connect(server.address("c2s"))
        .await;
    let answer = wire.ask(&enable().to_xml("")).await;
    let refused = answer.is("failed", SM)
        // RFC 6120 §6.3.3 and §4.9.3.12 know no exception for it.
        || answer.child("not-authorized", STREAM_ERRORS).is_some();
    assert!(refused, "{answer:?}");
}

/// §3: the text asks for a stream error, the example for `<failed/>`; the counters are not reset.
#[tokio::test]
async fn enabling_twice_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.managed_online("alice/desk").await;
    client.acknowledged().await;
    client.acknowledge().await;
    client
        .wire()
        .send(&enable().with_attr("resume", "true").to_xml(""))
        .await;
    let answer = loop {
        match client.wire().next().await {
            Event::Element(request) if request.is("r", SM) => {}
            other => break other,
        }
    };
    match answer {
        Event::Element(answer) if failed_with(&answer, "unexpected-request") => {
            match client.wire().ask(&sm::request()).await {
                ack if ack.is("a", SM) => assert_eq!(sm::h_of(&ack), Some(1)),
                error => assert!(error.is("error", STREAM), "{error:?}"),
            }
        }
        Event::Element(error) => assert!(error.is("error", STREAM), "{error:?}"),
        other => panic!("expected a refusal, received {other:?}"),
    }
    client.vanish();
}

// §4: acks

/// §4: messages, presence and IQs count, acks and requests do not, nor what was sent before.
#[tokio::test]
async fn stanzas_are_counted_from_enabling_on() {
    let server = TestServer::start().await;
    let mut client = server.bound("alice/desk").await;
    client.expect_nothing().await;
    client.enable_management().await;
    assert_eq!(client.request_ack().await, 0);
    client.become_available().await;
    client.acknowledged().await;
    assert_eq!(client.request_ack().await, 1);
    client.acknowledge().await;
    client.expect_nothing().await;
    client
        .send(chat_to("alice@localhost/desk", "to myself"))
        .await;
    client
        .expect(chat_from("alice@localhost/desk", "to myself"))
        .await;
    client.acknowledged().await;
    assert_eq!(client.request_ack().await, 3);
    assert_eq!(
        client.counts().handled(),
        3,
        "presence, an answer, a message"
    );
}

/// §4: a client does not need to wait for `<enabled/>` before it sends stanzas, which count.
#[tokio::test]
async fn stanzas_sent_together_with_enable_count() {
    let server = TestServer::start().await;
    let mut client = server.bound("alice/desk").await;
    let first = get(Element::new("ping", PING)).with_attr("id", "first");
    let all = [
        enable().to_xml(""),
        client.wire().write(&first),
        sm::request(),
    ]
    .concat();
    client.wire().send(&all).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let element = client.wire().expect_element().await;
        if element.is("r", SM) {
            continue;
        }
        if element.is("a", SM) {
            assert_eq!(sm::h_of(&element), Some(1));
        }
        seen.push(element.name().to_owned());
    }
    assert_eq!(seen[0], "enabled");
    assert!(
        seen.contains(&"iq".to_owned()) && seen.contains(&"a".to_owned()),
        "{seen:?}"
    );
    client.vanish();
}

/// §4: whoever sends asks for acks; a server that never did would keep everything.
#[tokio::test]
async fn the_server_asks_for_acks() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    send_numbers(&mut alice, "bob@localhost", 0..500).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..500).await;
    bob.expect_nothing().await;
    assert!(bob.ack_requests() > 0);
}

/// §4: handled means that the server is responsible, and design.md, that it is on disk.
#[tokio::test]
async fn acknowledged_messages_survive_a_crash() {
    let mut server = TestServer::start().await;
    server.add_user("carol").await;
    let mut alice = server.managed_online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    bob.withhold_acks();
    for number in 0..50 {
        for to in ["bob@localhost", "carol@localhost"] {
            alice.send(chat_to(to, &number.to_string())).await;
        }
    }
    alice.acknowledged().await;
    server.kill();
    alice.break_connection().forget();
    bob.break_connection().forget();
    server.come_back().await;
    for name in ["bob", "carol"] {
        let mut client = server.online(&format!("{name}/laptop")).await;
        expect_numbers(&mut client, "alice@localhost/desk", 0..50).await;
        client.expect_nothing().await;
    }
}

/// A message that was bounced is dealt with, too.
#[tokio::test]
async fn refused_messages_are_acknowledged() {
    let server = TestServer::start().await;
    let mut alice = server.managed_online("alice/desk").await;
    alice
        .send(chat_to("nobody@localhost", "hello?").with_attr("id", "m"))
        .await;
    alice
        .expect(Pattern::new("message").id("m").error("service-unavailable"))
        .await;
    alice.acknowledged().await;
    assert_eq!(alice.request_ack().await, 2);
}

/// §5
#[tokio::test]
async fn an_ack_for_more_than_was_sent_ends_the_stream() {
    let server = TestServer::start().await;
    let mut bob = server.online("bob/phone").await;
    let mut alice = server.managed_online("alice/desk").await;
    bob.send(chat_to("alice@localhost/desk", "hi")).await;
    alice.expect(chat_from("bob@localhost/phone", "hi")).await;
    let sent = alice.counts().handled();
    alice.wire().send(&sm::ack(sent + 1)).await;
    let error = alice.expect_stream_error("undefined-condition").await;
    check_too_high(&error, sent + 1, sent);
}

/// §4: an `<a/>` has an `h`, which is a number of 32 bits; RFC 6120 §4.9.3.1.
#[tokio::test]
async fn an_ack_without_a_number_ends_the_stream() {
    let server = TestServer::start().await;
    for (number, bad) in ["", " h='-1'", " h='x'", " h='4294967296'"]
        .iter()
        .enumerate()
    {
        let mut client = server.managed_online(&format!("user{number}/x")).await;
        client.wire().send(&format!("<a xmlns='{SM}'{bad}/>")).await;
        client.expect_stream_error("bad-format").await;
    }
}

// §5: resumption

#[tokio::test]
async fn a_resumed_session_lost_nothing_and_has_nothing_twice() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    send_numbers(&mut alice, "bob@localhost/phone", 0..20).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 20..30).await;
    send_numbers(&mut alice, "bob@localhost/phone", 30..40).await;
    alice.handled_for("bob@localhost").await;
    let mut bob = server.resume(broken).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 5..40).await;
    bob.expect_nothing_from(&mut alice).await;
    bob.send(chat_to("alice@localhost/desk", "got them")).await;
    alice
        .expect(chat_from("bob@localhost/phone", "got them"))
        .await;
}

/// What was acknowledged does not come again, what was not does, however often the network breaks.
#[tokio::test]
async fn a_session_can_be_resumed_again_and_again() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    for round in 0..10 {
        let first = round * 10;
        send_numbers(&mut alice, "bob@localhost", first..first + 5).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first..first + 3).await;
        if round % 2 == 0 {
            bob.acknowledge().await;
        }
        let broken = bob.break_connection();
        send_numbers(&mut alice, "bob@localhost", first + 5..first + 10).await;
        bob = server.resume(broken).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first + 3..first + 10).await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// §5: the client sends again what the server has not counted.
#[tokio::test]
async fn what_the_network_swallowed_is_sent_again_by_both() {
    let server = TestServer::start().await;
    let network = Proxy::start(server.address("c2s")).await;
    let mut alice = server.online("alice/desk").await;
    let login = server.login("bob").await.resource("phone");
    let mut bob = login.bind(network.address()).await;
    bob.enable_management().await;
    bob.become_available().await;
    send_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    bob.acknowledged().await;
    network.set(Mode::Swallow);
    send_numbers(&mut bob, "alice@localhost/desk", 5..10).await;
    send_numbers(&mut alice, "bob@localhost/phone", 0..10).await;
    expect_numbers(&mut alice, "bob@localhost/phone", 0..5).await;
    alice.expect_nothing().await;
    network.cut();
    network.set(Mode::Pass);
    let mut bob = bob
        .break_connection()
        .resume(&login, network.address())
        .await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..10).await;
    expect_numbers(&mut alice, "bob@localhost/phone", 5..10).await;
    bob.acknowledged().await;
    alice.expect_nothing_from(&mut bob).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// §5: presence and roster of the session go on; contacts see nothing of it.
#[tokio::test]
async fn contacts_do_not_notice_a_resumption() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    bob.roster().await;
    let broken = bob.break_connection();
    let away = presence().with_child(text("show", CLIENT, "away"));
    alice.send(away).await;
    alice.expect(available_from("alice@localhost/desk")).await;
    alice.expect_nothing().await;
    let mut laptop = server.bound("bob/laptop").await;
    laptop
        .query(set(roster_item("carol@localhost", None, &[])))
        .await;
    let mut bob = server.resume(broken).await;
    bob.expect(available_from("alice@localhost/desk").text("show", CLIENT, "away"))
        .await;
    bob.expect(roster_push("carol@localhost", "none")).await;
    bob.expect_nothing_from(&mut alice).await;
    // Nor does alice, to whom bob was there all the time.
    alice.expect_nothing_from(&mut bob).await;
}

/// Answers are stanzas like others.
#[tokio::test]
async fn an_answer_that_the_connection_did_not_live_to_see_comes_later() {
    let server = TestServer::start().await;
    let mut bob = server.managed_online("bob/phone").await;
    bob.send(get(Element::new("ping", PING)).with_attr("id", "p1"))
        .await;
    let mut bob = server.resume(bob.break_connection()).await;
    bob.expect(result_of("p1")).await;
    bob.expect_nothing().await;
}

/// §5: the new connection takes over, the old one ends with `conflict`.
#[tokio::test]
async fn resuming_while_the_old_connection_lives_ends_that_one() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    send_numbers(&mut alice, "bob@localhost", 0..5).await;
    let (broken, mut old) = bob.stall();
    let mut bob = server.resume(broken).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    loop {
        match old.next().await {
            Event::Element(e) if e.is("error", STREAM) => {
                assert!(e.child("conflict", STREAM_ERRORS).is_some(), "{e:?}");
                break;
            }
            Event::Element(_) => {}
            other => panic!("expected a conflict, received {other:?}"),
        }
    }
    old.expect_close().await;
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// A phone in a tunnel: its connection is open and nobody reads.
#[tokio::test]
async fn what_a_half_dead_connection_did_not_take_comes_after_resumption() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let bob = server.managed_online("bob/phone").await;
    let (broken, tunnel) = bob.stall();
    let long = "x".repeat(8000);
    for number in 0..200 {
        alice
            .send(chat_to("bob@localhost", &format!("{number} {long}")))
            .await;
    }
    alice.handled_for("bob@localhost").await;
    let mut bob = server.resume(broken).await;
    drop(tunnel);
    for number in 0..200 {
        bob.expect(chat_from(
            "alice@localhost/desk",
            &format!("{number} {long}"),
        ))
        .await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// §5: `<failed/>` with `item-not-found`, and then a resource may be bound on the same stream.
#[tokio::test]
async fn an_unknown_session_is_not_found() {
    let server = TestServer::start().await;
    let login = server.login("alice").await.resource("desk");
    let (mut wire, _) = login.authenticate(server.address("c2s")).await;
    for previd in ["", "nonsense", "a&b<c>'d", &"x".repeat(4000)] {
        let answer = wire.ask(&sm::resume(previd, 0)).await;
        assert!(failed_with(&answer, "item-not-found"), "{answer:?}");
    }
    let mut client = login.bind_on(wire).await;
    client.enable_management().await;
    client.close().await;
}

/// §8: who does not own a session learns nothing of it and changes nothing about it.
#[tokio::test]
async fn a_foreign_session_is_not_found() {
    let server = TestServer::start().await;
    let bob = server.managed_online("bob/phone").await;
    let mallory = server.login("mallory").await;
    let id = bob.session_id().to_owned();
    let (broken, tunnel) = bob.stall();
    for attempt in 0..2 {
        let (mut wire, _) = mallory.authenticate(server.address("c2s")).await;
        let answer = wire.ask(&sm::resume(&id, attempt)).await;
        assert!(failed_with(&answer, "item-not-found"), "{answer:?}");
    }
    drop(tunnel);
    let mut bob = server.resume(broken).await;
    bob.expect_nothing().await;
}

/// Nor is the user's own, by a login from before the account was disabled.
#[tokio::test]
async fn a_login_from_before_an_account_was_disabled_resumes_nothing() {
    let server = TestServer::start().await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    let login = server.login("bob").await;
    let (mut wire, _) = login.authenticate(server.address("c2s")).await;
    for verb in ["disable", "enable"] {
        let done = server.cli(&["user", verb, "bob@localhost"]).await;
        assert!(done.status.success(), "{done:?}");
        let answer = wire.ask(&sm::resume(broken.session_id(), 0)).await;
        assert!(failed_with(&answer, "item-not-found"), "{answer:?}");
    }
    broken.forget();
}

/// §8: nor is a session resumed before the login.
#[tokio::test]
async fn resuming_before_the_login_is_refused() {
    let server = TestServer::start().await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    let (mut wire, _) = server
        .login("bob")
        .await
        .connect(server.address("c2s"))
        .await;
    let answer = wire.ask(&sm::resume(broken.session_id(), 0)).await;
    let refused =
        answer.is("failed", SM) || answer.child("not-authorized", STREAM_ERRORS).is_some();
    assert!(refused, "{answer:?}");
    server.resume(broken).await.expect_nothing().await;
}

/// §3: resuming comes instead of binding.
#[tokio::test]
async fn resuming_after_binding_is_refused() {
    let server = TestServer::start().await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    let mut laptop = server.bound("bob/laptop").await;
    let answer = laptop.wire().ask(&sm::resume(broken.session_id(), 0)).await;
    assert!(failed_with(&answer, "unexpected-request"), "{answer:?}");
    laptop.vanish();
    server.resume(broken).await.expect_nothing().await;
}

/// §5: `previd` and `h` must be there.
#[tokio::test]
async fn an_incomplete_request_to_resume_is_refused() {
    let server = TestServer::start().await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    let (mut wire, _) = server
        .login("bob")
        .await
        .authenticate(server.address("c2s"))
        .await;
    let id = broken.session_id();
    for bad in [
        format!("<resume xmlns='{SM}' h='0'/>"),
        format!("<resume xmlns='{SM}' previd='{id}'/>"),
        format!("<resume xmlns='{SM}' previd='{id}' h='-1'/>"),
        format!("<resume xmlns='{SM}' previd='{id}' h='x'/>"),
    ] {
        let answer = wire.ask(&bad).await;
        assert!(answer.is("failed", SM), "{bad} got {answer:?}");
    }
    server.resume(broken).await.expect_nothing().await;
}

/// §5: as on an `<a/>`.
#[tokio::test]
async fn resuming_with_a_count_that_is_too_high_ends_the_stream() {
    let server = TestServer::start().await;
    let bob = server.managed_online("bob/phone").await;
    let sent = bob.counts().handled();
    let broken = bob.break_connection();
    let (mut wire, _) = server
        .login("bob")
        .await
        .authenticate(server.address("c2s"))
        .await;
    wire.send(&sm::resume(broken.session_id(), sent + 5)).await;
    let error = wire.expect_stream_error("undefined-condition").await;
    check_too_high(&error, sent + 5, sent);
    broken.forget();
}

/// §6: a stream that was closed is no session any more, and contacts see it at once.
#[tokio::test]
async fn a_closed_stream_cannot_be_resumed() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let id = bob.session_id().to_owned();
    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    let (mut wire, _) = server
        .login("bob")
        .await
        .authenticate(server.address("c2s"))
        .await;
    let answer = wire.ask(&sm::resume(&id, 0)).await;
    assert!(failed_with(&answer, "item-not-found"), "{answer:?}");
}

/// §3: who did not ask for resumption is gone with its connection, and nothing is lost.
#[tokio::test]
async fn without_resumption_a_session_ends_with_its_connection() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.bound("bob/phone").await;
    bob.manage(enable()).await;
    bob.become_available().await;
    befriend(&mut alice, &mut bob).await;
    bob.acknowledge().await;
    bob.withhold_acks();
    send_numbers(&mut alice, "bob@localhost", 0..5).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    bob.vanish();
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    let mut bob = server.online("bob/phone").await;
    // Before, between or after the messages.
    bob.allow(available_from("alice@localhost/desk"));
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    alice.expect(available_from("bob@localhost/phone")).await;
    bob.expect_nothing_from(&mut alice).await;
}

// §4, §5: when the resumption time is over

/// Contacts see the session end, and it cannot be resumed any more.
#[tokio::test]
async fn a_session_ends_when_the_resumption_time_is_over() {
    let server = TestServer::with(&["sm.resume_timeout=500ms"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let broken = bob.break_connection();
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    let refusal = server.try_resume(broken).await.err().expect("it is over");
    assert_eq!(refusal.condition(), "item-not-found");
    let mut bob = server.bind_instead(*refusal).await;
    bob.become_available().await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/phone")).await;
}

/// §4: as messages to an unavailable resource are: RFC 6121 §8.5.3.2.1.
#[tokio::test]
async fn unacknowledged_messages_go_to_another_resource() {
    let server = TestServer::with(&["sm.resume_timeout=500ms"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut laptop = server.online("bob/laptop").await;
    let mut phone = server.managed_online("bob/phone").await;
    send_numbers(&mut alice, "bob@localhost/phone", 0..2).await;
    expect_numbers(&mut phone, "alice@localhost/desk", 0..2).await;
    phone.acknowledge().await;
    phone.expect_nothing().await;
    phone.withhold_acks();
    send_numbers(&mut alice, "bob@localhost/phone", 2..4).await;
    expect_numbers(&mut phone, "alice@localhost/desk", 2..4).await;
    laptop.allow(unavailable_from("bob@localhost/phone"));
    phone.break_connection().forget();
    send_numbers(&mut alice, "bob@localhost/phone", 4..6).await;
    expect_numbers(&mut laptop, "alice@localhost/desk", 2..6).await;
    laptop.expect_nothing_from(&mut alice).await;
}

/// §4: a delivery to an alternate resource is no second copy: what the other resource has, it has.
#[tokio::test]
async fn what_another_resource_has_already_does_not_come_again() {
    let server = TestServer::with(&["sm.resume_timeout=500ms"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut laptop = server.online("bob/laptop").await;
    let phone = server.managed_online("bob/phone").await;
    befriend_account(&mut alice, &mut laptop, "bob@localhost/phone").await;
    let broken = phone.break_connection();
    send_numbers(&mut alice, "bob@localhost", 0..3).await;
    expect_numbers(&mut laptop, "alice@localhost/desk", 0..3).await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    drop(broken);
    laptop.expect(unavailable_from("bob@localhost/phone")).await;
    laptop.expect_nothing_from(&mut alice).await;
}

/// `one` subscribes to an account that `other` answers for; a second resource of it is online.
async fn befriend_account(one: &mut Client, other: &mut Client, second: &str) {
    one.send(presence_to("subscribe", other.bare())).await;
    other.expect(presence_from("subscribe", one.bare())).await;
    other.send(presence_to("subscribed", one.bare())).await;
    one.expect_all([
        presence_from("subscribed", other.bare()),
        available_from(other.jid()),
        available_from(second),
    ])
    .await;
}

/// §4: or they wait for the next login, with the time at which they were sent.
#[tokio::test]
async fn unacknowledged_messages_wait_for_the_next_login() {
    let server = TestServer::with(&["sm.resume_timeout=500ms"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    send_numbers(&mut alice, "bob@localhost", 0..3).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..3).await;
    bob.acknowledge().await;
    bob.expect_nothing().await;
    bob.withhold_acks();
    send_numbers(&mut alice, "bob@localhost", 3..6).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 3..6).await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 6..9).await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    broken.forget();
    let mut bob = server.online("bob/laptop").await;
    // Before, between or after the messages.
    bob.allow(available_from("alice@localhost/desk"));
    for number in 3..9 {
        let late = chat_from("alice@localhost/desk", &number.to_string());
        bob.expect(late.has("delay", DELAY)).await;
    }
    alice.expect(available_from("bob@localhost/laptop")).await;
    bob.expect_nothing_from(&mut alice).await;
    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/laptop")).await;
    // Once.
    let mut bob = server.online("bob/laptop").await;
    bob.expect(available_from("alice@localhost/desk")).await;
    alice.expect(available_from("bob@localhost/laptop")).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// §4, RFC 6121 §8.5.3.2.3: who asks gets an answer.
#[tokio::test]
async fn unacknowledged_requests_are_answered_with_an_error() {
    let server = TestServer::with(&["sm.resume_timeout=500ms"]).await;
    let mut alice = server.online("alice/desk").await;
    let bob = server.managed_online("bob/phone").await;
    bob.break_connection().forget();
    let ping = get(Element::new("ping", PING)).with_attr("to", "bob@localhost/phone");
    alice.refused(ping, "service-unavailable").await;
}

/// A login takes the resource from a session that waits (RFC 6120 §7.7.2.2), and what that one still had.
#[tokio::test]
async fn binding_the_resource_anew_ends_the_waiting_session_and_loses_nothing() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    bob.acknowledge().await;
    bob.expect_nothing().await;
    bob.withhold_acks();
    send_numbers(&mut alice, "bob@localhost/phone", 0..3).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..3).await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 3..6).await;
    alice.handled_for("bob@localhost").await;
    let mut newer = server.online("bob/phone").await;
    expect_numbers(&mut newer, "alice@localhost/desk", 0..6).await;
    let refusal = server
        .try_resume(broken)
        .await
        .err()
        .expect("another has the resource");
    assert_eq!(refusal.condition(), "item-not-found");
    newer.expect_nothing_from(&mut alice).await;
}

/// A waiting session is no reason to keep messages from a resource that is there.
#[tokio::test]
async fn a_resource_that_is_there_gets_messages_while_another_one_waits() {
    let server = TestServer::start().await;
    let mut alice = server.online("alice/desk").await;
    let phone = server.managed_online("bob/phone").await;
    let broken = phone.break_connection();
    let mut laptop = server.online("bob/laptop").await;
    send_numbers(&mut alice, "bob@localhost", 0..3).await;
    expect_numbers(&mut laptop, "alice@localhost/desk", 0..3).await;
    let mut phone = server.resume(broken).await;
    expect_numbers(&mut phone, "alice@localhost/desk", 0..3).await;
}

// Limits

/// The queue of unacknowledged stanzas has a bound. Past it messages stay in the log, and nothing is lost.
#[tokio::test]
async fn a_client_that_never_acknowledges_loses_nothing() {
    let settings = [
        "limits.outbox_bytes=65536",
        "c2s.max_stanza_bytes=65536",
        "sm.resume_timeout=500ms",
    ];
    let server = TestServer::with(&settings).await;
    let mut alice = server.managed_online("alice/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    bob.withhold_acks();
    let long = "x".repeat(1000);
    let total = 400;
    for number in 0..total {
        alice
            .send(chat_to("bob@localhost", &format!("{number} {long}")))
            .await;
    }
    alice.acknowledged().await;
    let ping = "<iq type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>";
    bob.wire().send(ping).await;
    let mut seen = Vec::new();
    while read_number(&mut bob, &mut seen).await {}
    assert!((1..total).contains(&seen.len()), "{} came", seen.len());
    bob.vanish();
    drop(alice);
    let mut bob = server.online("bob/laptop").await;
    while seen.len() < total && (0..total).any(|number| !seen.contains(&number)) {
        assert!(
            read_number(&mut bob, &mut seen).await,
            "{} of {total}",
            seen.len()
        );
    }
    bob.vanish();
}

/// Reads the number of the next message, whatever else comes; false at the answer to a request, or at
/// the end of the stream.
async fn read_number(client: &mut Client, seen: &mut Vec<usize>) -> bool {
    loop {
        match client.wire().next().await {
            Event::Element(e) if e.is("message", CLIENT) => {
                let body = e.child("body", CLIENT).expect("a body").text();
                let (number, _) = body.split_once(' ').expect("a number");
                seen.push(number.parse().expect("a number"));
                return true;
            }
            Event::Element(e) if e.is("error", STREAM) => {}
            Event::Element(e) if e.is("r", SM) || e.is("presence", CLIENT) => {}
            Event::Element(e) if e.is("iq", CLIENT) => return false,
            Event::Close | Event::Eof => return false,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// What waits for a broken session is bounded as well.
#[tokio::test]
async fn a_session_that_waits_for_too_much_loses_nothing() {
    let settings = ["limits.outbox_bytes=65536", "c2s.max_stanza_bytes=65536"];
    let server = TestServer::with(&settings).await;
    let mut alice = server.managed_online("alice/desk").await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    let long = "x".repeat(1000);
    for number in 0..400 {
        alice
            .send(chat_to("bob@localhost", &format!("{number} {long}")))
            .await;
    }
    alice.acknowledged().await;
    let mut bob = match server.try_resume(broken).await {
        Ok(bob) => bob,
        Err(refusal) => {
            assert_eq!(refusal.condition(), "item-not-found");
            let mut bob = server.bind_instead(*refusal).await;
            bob.become_available().await;
            bob
        }
    };
    for number in 0..400 {
        bob.expect(chat_from(
            "alice@localhost/desk",
            &format!("{number} {long}"),
        ))
        .await;
    }
    bob.expect_nothing().await;
}

// Other transports, restarts

/// RFC 7395 §3.6: a WebSocket that breaks is a connection that breaks.
#[tokio::test]
async fn a_session_moves_between_transports() {
    let server = TestServer::with(&["c2s.tls=optional"]).await;
    let mut alice = server.online("alice/desk").await;
    let mut bob = server.bound_by("bob/phone", Security::WebSocket).await;
    bob.enable_management().await;
    bob.become_available().await;
    let login = server.login("bob").await;
    let transports = [
        Security::WebSocket,
        Security::DirectTls,
        Security::SecureWebSocket,
    ];
    for (number, security) in (0..).zip(transports) {
        let broken = bob.break_connection();
        send_numbers(&mut alice, "bob@localhost", number..number + 1).await;
        let login = login.clone().security(security);
        bob = broken
            .resume(&login, server.address(security.listener()))
            .await;
        expect_numbers(&mut bob, "alice@localhost/desk", number..number + 1).await;
        bob.send(chat_to("alice@localhost/desk", "yes")).await;
        alice.expect(chat_from("bob@localhost/phone", "yes")).await;
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// A single node that is stopped takes its sessions along, but no messages.
#[tokio::test]
async fn messages_survive_a_restart() {
    let mut server = TestServer::start().await;
    let mut alice = server.managed_online("alice/desk").await;
    let broken = server.managed_online("bob/phone").await.break_connection();
    send_numbers(&mut alice, "bob@localhost", 0..20).await;
    alice.acknowledged().await;
    alice.close().await;
    assert_eq!(server.stop().await.code(), Some(0));
    server.come_back().await;
    let refusal = server
        .try_resume(broken)
        .await
        .err()
        .expect("a new process");
    assert_eq!(refusal.condition(), "item-not-found");
    let mut bob = server.bind_instead(*refusal).await;
    bob.become_available().await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..20).await;
    bob.expect_nothing().await;
}
