//! Sessions that move between nodes (XEP-0198 §5, design.md "Moving a session"), and nodes that end.

use std::time::Duration;

use rookery_tests::api::{self, Api};
use rookery_tests::prelude::*;
use rookery_tests::proxy::Mode;
use rookery_tests::stream_management as sm;
use serde_json::Value;

use crate::conversations::{expect_numbers, send_numbers};

#[tokio::test]
async fn a_session_is_resumed_on_another_node_without_loss_or_repetition() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    send_numbers(&mut alice, "bob@localhost", 0..20).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost/phone", 20..40).await;
    let mut bob = cluster.resume(2, broken).await;
    send_numbers(&mut alice, "bob@localhost", 40..50).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 5..50).await;
    // Presence and what was said of it moved along, and contacts saw nothing.
    bob.send(presence().with_child(text("show", CLIENT, "away")))
        .await;
    bob.expect(available_from("bob@localhost/phone")).await;
    alice
        .expect(available_from("bob@localhost/phone").text("show", CLIENT, "away"))
        .await;
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// Both directions, one node after the other, in the midst of a conversation.
#[tokio::test]
async fn a_session_wanders_between_nodes_under_traffic() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(0, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    for round in 0..12 {
        let first = round * 20;
        send_numbers(&mut alice, "bob@localhost", first..first + 10).await;
        send_numbers(&mut bob, "alice@localhost", first..first + 10).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first..first + 2).await;
        let broken = bob.break_connection();
        send_numbers(&mut alice, "bob@localhost/phone", first + 10..first + 20).await;
        bob = cluster.resume(round as usize % 3, broken).await;
        send_numbers(&mut bob, "alice@localhost", first + 10..first + 20).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first + 2..first + 20).await;
        expect_numbers(&mut alice, "bob@localhost/phone", first..first + 20).await;
    }
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// The old connection may be open still, on another node.
#[tokio::test]
async fn a_connection_that_is_half_dead_ends_when_the_session_moves() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let bob = cluster.managed_online(0, "bob/phone").await;
    let (broken, mut old) = bob.stall();
    send_numbers(&mut alice, "bob@localhost/phone", 0..5).await;
    let mut bob = cluster.resume(1, broken).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    let error = loop {
        match old.next().await {
            Event::Element(e) if e.is("error", STREAM) => break e,
            Event::Element(_) => {}
            other => panic!("expected a conflict, received {other:?}"),
        }
    };
    assert!(
        error.child("conflict", STREAM_ERRORS).is_some(),
        "{error:?}"
    );
    old.expect_close().await;
    bob.expect_nothing_from(&mut alice).await;
}

/// Of two attempts at once one wins; the other is refused or loses what it got.
#[tokio::test]
async fn two_resumptions_at_once_leave_one_session() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    for round in 0..10 {
        let bob = cluster.managed_online(round % 3, "bob/phone").await;
        let id = bob.session_id().to_owned();
        let h = bob.counts().handled();
        bob.break_connection().forget();
        send_numbers(&mut alice, "bob@localhost/phone", 0..3).await;
        let login = cluster.node(0).login("bob").await;
        let (one, two) = tokio::join!(
            login.authenticate(cluster.node(1).address("c2s")),
            login.authenticate(cluster.node(2).address("c2s")),
        );
        let mut wires = [one.0, two.0];
        let resume = sm::resume(&id, h);
        let [one, two] = &mut wires;
        let answers: [Element; 2] = tokio::join!(one.ask(&resume), two.ask(&resume)).into();
        let won = |answer: &Element| answer.is("resumed", SM);
        for answer in &answers {
            // The one that has it for a moment may lose it before it is told that it had it.
            let lost = answer.is("failed", SM) || answer.is("error", STREAM);
            assert!(won(answer) || lost, "{answer:?}");
        }
        assert!(answers.iter().any(won), "{answers:?}");
        // All three numbers, in order, on the stream that is left, which is one of the two.
        let mut holder = None;
        for (wire, answer) in wires.iter_mut().zip(&answers) {
            if won(answer) && holds(wire, "3").await {
                assert!(holder.is_none(), "{answers:?}");
                holder = Some(wire);
            }
        }
        let holder = holder.unwrap_or_else(|| panic!("{answers:?}"));
        // What is for the resource goes there.
        let phone = get(Element::new("ping", PING)).with_attr("to", "bob@localhost/phone");
        let id = format!("who-{round}");
        alice.send(phone.with_attr("id", &*id)).await;
        loop {
            match holder.next().await {
                Event::Element(e) if e.is("iq", CLIENT) => break,
                Event::Element(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let answer = format!("<iq type='result' id='{id}' to='alice@localhost/desk'/>");
        holder.send(&answer).await;
        alice
            .expect(Pattern::new("iq").kind("result").id(&id))
            .await;
        // Nothing was acknowledged on this stream, so that the request is refused when the session ends.
        alice.allow(Pattern::new("iq").kind("error").id(&id));
    }
}

/// Reads numbered messages from a stream that was resumed; true if it got `last` of them and lives, false
/// if another stream took the session.
async fn holds(wire: &mut Wire, last: &str) -> bool {
    let count: usize = last.parse().expect("a number");
    let mut seen = Vec::new();
    loop {
        match wire.next().await {
            Event::Element(e) if e.is("message", CLIENT) => {
                seen.push(e.child("body", CLIENT).expect("a body").text());
            }
            Event::Element(e) if e.is("error", STREAM) => {
                assert!(e.child("conflict", STREAM_ERRORS).is_some(), "{e:?}");
                return false;
            }
            Event::Element(_) => {}
            Event::Close | Event::Eof => return false,
            Event::Open(header) => panic!("{header:?}"),
        }
        if seen.len() == count {
            let wanted: Vec<_> = (0..count).map(|n| n.to_string()).collect();
            assert_eq!(seen, wanted);
            // Still the owner?
            wire.send(&sm::request()).await;
            loop {
                match wire.next().await {
                    Event::Element(e) if e.is("a", SM) => return true,
                    Event::Element(e) if !e.is("error", STREAM) => {}
                    _ => return false,
                }
            }
        }
    }
}

/// XEP-0198 §8: another node asks for the right user, too.
#[tokio::test]
async fn a_foreign_session_on_another_node_is_not_found() {
    let cluster = TestCluster::start(2).await;
    let bob = cluster.managed_online(0, "bob/phone").await;
    let id = bob.session_id().to_owned();
    let (broken, tunnel) = bob.stall();
    let mallory = cluster.node(1).login("mallory").await;
    let (mut wire, _) = mallory.authenticate(cluster.node(1).address("c2s")).await;
    let answer = wire.ask(&sm::resume(&id, 0)).await;
    let condition = answer.children().next().map(|e| e.name().to_owned());
    assert_eq!(condition.as_deref(), Some("item-not-found"), "{answer:?}");
    drop(tunnel);
    cluster.resume(1, broken).await.expect_nothing().await;
}

/// A login from before the account was disabled gets no session from another node.
#[tokio::test]
async fn a_login_from_before_an_account_was_disabled_resumes_nothing_from_elsewhere() {
    let cluster = TestCluster::start(2).await;
    let bob = cluster.managed_online(0, "bob/phone").await;
    let id = bob.session_id().to_owned();
    bob.break_connection().forget();
    let login = cluster.node(1).login("bob").await;
    let (mut wire, _) = login.authenticate(cluster.node(1).address("c2s")).await;
    for verb in ["disable", "enable"] {
        let done = cluster.node(1).cli(&["user", verb, "bob@localhost"]).await;
        assert!(done.status.success(), "{done:?}");
        let answer = wire.ask(&sm::resume(&id, 0)).await;
        assert!(answer.is("failed", SM), "{answer:?}");
        let condition = answer.children().next().map(|e| e.name().to_owned());
        assert_eq!(condition.as_deref(), Some("item-not-found"), "{answer:?}");
    }
}

/// Its old node has given it away and its new one has not begun it: nothing is left of it but what its client
/// has not got, which is in the log.
#[tokio::test]
async fn a_session_whose_account_is_disabled_while_it_moves_ends() {
    let plan = Plan::new(&[&api::setting(), "cluster.lease=1m"]).proxied();
    let cluster = TestCluster::planned(2, &plan).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(0, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    bob.acknowledge().await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 0..5).await;
    alice.handled_for("bob@localhost").await;
    let api = Api::of(cluster.node(1)).await;
    let operator = async {
        rookery_tests::eventually("the session to be given away", || async {
            let moved = "outcome=\"moved\"";
            let node = cluster.node(0);
            node.metric("rookery_resumptions_total", moved).await > 0.5
        })
        .await;
        let disable = "/api/v1/users/bob@localhost/disable";
        assert_eq!(api.call("POST", disable, &Value::Null).await.0, 204);
    };
    // The new node hears of the session, and registers it, so much later.
    let slow = Mode::Slow(Duration::from_millis(150));
    cluster.redis_proxy().set(slow);
    let (resumed, ()) = tokio::join!(cluster.node(1).try_resume(broken), operator);
    cluster.redis_proxy().set(Mode::Pass);
    match resumed {
        Err(refusal) => assert_eq!(refusal.condition(), "item-not-found"),
        // A machine that is very busy: the session had begun.
        Ok(mut bob) => {
            while !matches!(bob.wire().next().await, Event::Eof | Event::Close) {}
            bob.vanish();
        }
    }
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    let all = api.done("GET", "/api/v1/sessions", &Value::Null).await;
    assert_eq!(
        (&all["total"], &all["unanswered"]),
        (&1.into(), &Value::Array(vec![]))
    );
    let enable = "/api/v1/users/bob@localhost/enable";
    assert_eq!(api.call("POST", enable, &Value::Null).await.0, 204);
    let mut bob = cluster.online(1, "bob/laptop").await;
    // Before, between or after the messages.
    bob.allow(available_from("alice@localhost/desk"));
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    alice.expect(available_from("bob@localhost/laptop")).await;
}

/// The node that held the session is gone: what was acknowledged to senders is in the log.
#[tokio::test]
async fn the_session_of_a_killed_node_is_lost_but_no_message() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    send_numbers(&mut alice, "bob@localhost", 0..5).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..5).await;
    bob.acknowledge().await;
    bob.expect_nothing().await;
    bob.withhold_acks();
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 5..20).await;
    alice.acknowledged().await;
    cluster.node_mut(1).kill();
    let refusal = cluster
        .node(0)
        .try_resume(broken)
        .await
        .err()
        .expect("it died");
    assert_eq!(refusal.condition(), "item-not-found");
    let mut bob = cluster.node(0).bind_instead(*refusal).await;
    bob.enable_management().await;
    bob.become_available().await;
    // What bob's ack said he had may not have been on disk yet; what he did not have must come.
    let mut next = 5;
    while next < 20 {
        let message = bob
            .expect(message_from("alice@localhost/desk").kind("chat"))
            .await;
        let number: u32 = message
            .child("body", CLIENT)
            .unwrap()
            .text()
            .parse()
            .unwrap();
        assert!(number <= next, "{number} came before {next}");
        if number == next {
            next += 1;
        }
    }
    bob.expect_nothing_from(&mut alice).await;
}

/// A client that sent to a node that was killed sends again what was not acknowledged.
#[tokio::test]
async fn what_a_killed_node_did_not_acknowledge_is_the_senders() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.managed_online(1, "alice/desk").await;
    let mut bob = cluster.managed_online(0, "bob/phone").await;
    send_numbers(&mut alice, "bob@localhost", 0..200).await;
    alice.request_ack().await;
    cluster.node_mut(1).kill();
    let broken = alice.break_connection();
    let waiting: Vec<Element> = broken.counts().unacknowledged().cloned().collect();
    let refusal = cluster
        .node(0)
        .try_resume(broken)
        .await
        .err()
        .expect("it died");
    let mut alice = cluster.node(0).bind_instead(*refusal).await;
    alice.enable_management().await;
    alice.become_available().await;
    for stanza in waiting {
        alice.send(stanza).await;
    }
    alice.acknowledged().await;
    // Each at least once: a commit whose ack was lost is a commit.
    let mut missing: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let message = bob
            .expect(message_from("alice@localhost/desk").kind("chat"))
            .await;
        let body = message.child("body", CLIENT).unwrap().text();
        missing.retain(|number| *number != body);
    }
}

/// SIGTERM: connections under stream management end without a word, so that they are resumed elsewhere;
/// the others are told. Contacts see nothing of the former.
#[tokio::test]
async fn a_node_that_is_drained_hands_its_sessions_over() {
    let mut cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    let mut carol = cluster.online(1, "carol/tv").await;
    befriend(&mut alice, &mut bob).await;
    befriend(&mut alice, &mut carol).await;
    send_numbers(&mut alice, "bob@localhost", 0..10).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 0..10).await;
    cluster.node(1).signal("TERM");
    carol.expect_stream_error("system-shutdown").await;
    alice.expect(unavailable_from("carol@localhost/tv")).await;
    let broken = disconnected(bob).await;
    send_numbers(&mut alice, "bob@localhost", 10..20).await;
    let mut bob = cluster.resume(0, broken).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 10..20).await;
    assert_eq!(cluster.node_mut(1).ended().await.code(), Some(0));
    send_numbers(&mut alice, "bob@localhost/phone", 20..25).await;
    expect_numbers(&mut bob, "alice@localhost/desk", 20..25).await;
    bob.expect_nothing_from(&mut alice).await;
    alice.expect_nothing_from(&mut bob).await;
}

/// Expects the connection to end, and the stream not to: nothing but acks comes before.
async fn disconnected(mut client: Client) -> Broken {
    loop {
        match client.wire().next().await {
            Event::Element(e) if e.is("a", SM) || e.is("r", SM) => {}
            Event::Eof => return client.break_connection(),
            other => panic!("expected the connection's end, received {other:?}"),
        }
    }
}

/// All nodes, one after the other, in the midst of a conversation: nobody leaves, nothing is lost, doubled
/// or reordered.
#[tokio::test]
async fn a_rolling_restart_is_not_noticed() {
    let mut cluster = TestCluster::start(3).await;
    let mut alice = cluster.managed_online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let (mut alice_at, mut bob_at) = (0, 1);
    for node in 0..3 {
        let first = u32::try_from(node).expect("three nodes") * 20;
        send_numbers(&mut alice, "bob@localhost", first..first + 10).await;
        send_numbers(&mut bob, "alice@localhost", first..first + 10).await;
        expect_numbers(&mut alice, "bob@localhost/phone", first..first + 10).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first..first + 10).await;
        cluster.node(node).signal("TERM");
        let next = (node + 1) % 3;
        let late = first + 10..first + 20;
        match (alice_at == node, bob_at == node) {
            (true, true) => {
                let both = (disconnected(alice).await, disconnected(bob).await);
                alice = cluster.resume(next, both.0).await;
                bob = cluster.resume(next, both.1).await;
                send_numbers(&mut alice, "bob@localhost", late.clone()).await;
                send_numbers(&mut bob, "alice@localhost", late).await;
            }
            (true, false) => {
                let broken = disconnected(alice).await;
                send_numbers(&mut bob, "alice@localhost", late.clone()).await;
                alice = cluster.resume(next, broken).await;
                send_numbers(&mut alice, "bob@localhost", late).await;
            }
            (false, true) => {
                let broken = disconnected(bob).await;
                send_numbers(&mut alice, "bob@localhost", late.clone()).await;
                bob = cluster.resume(next, broken).await;
                send_numbers(&mut bob, "alice@localhost", late).await;
            }
            (false, false) => unreachable!("somebody is on every node that is stopped"),
        }
        for at in [&mut alice_at, &mut bob_at] {
            if *at == node {
                *at = next;
            }
        }
        expect_numbers(&mut alice, "bob@localhost/phone", first + 10..first + 20).await;
        expect_numbers(&mut bob, "alice@localhost/desk", first + 10..first + 20).await;
        assert_eq!(cluster.node_mut(node).ended().await.code(), Some(0));
        cluster.node_mut(node).come_back().await;
    }
    alice.expect_nothing_from(&mut bob).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// A session that moved has the same end as others.
#[tokio::test]
async fn a_session_that_moved_ends_when_the_resumption_time_is_over() {
    let cluster = TestCluster::with(2, &["sm.resume_timeout=500ms"]).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.managed_online(0, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    bob.acknowledge().await;
    // Made anew each time: half a second is short for a move on a machine that is busy.
    let mut bob = match cluster.node(1).try_resume(bob.break_connection()).await {
        Ok(bob) => bob,
        Err(refusal) => {
            alice.expect(unavailable_from("bob@localhost/phone")).await;
            let mut bob = cluster.node(1).bind_instead(*refusal).await;
            bob.enable_management().await;
            bob.become_available().await;
            bob.expect(available_from("alice@localhost/desk")).await;
            alice.expect(available_from("bob@localhost/phone")).await;
            bob
        }
    };
    bob.expect_nothing().await;
    let broken = bob.break_connection();
    send_numbers(&mut alice, "bob@localhost", 0..3).await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    broken.forget();
    let mut bob = cluster.online(0, "bob/laptop").await;
    // Before, between or after the messages.
    bob.allow(available_from("alice@localhost/desk"));
    expect_numbers(&mut bob, "alice@localhost/desk", 0..3).await;
    alice.expect(available_from("bob@localhost/laptop")).await;
}

/// XEP-0280 across nodes.
#[tokio::test]
async fn copies_reach_resources_on_other_nodes() {
    let cluster = TestCluster::start(3).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut phone = cluster.online(1, "bob/phone").await;
    let mut laptop = cluster.online(2, "bob/laptop").await;
    laptop.query(set(Element::new("enable", CARBONS))).await;
    for round in 0..5 {
        let body = round.to_string();
        alice.send(chat_to("bob@localhost/phone", &body)).await;
        let original = || chat_from("alice@localhost/desk", &body);
        phone.expect(original()).await;
        laptop
            .expect(carbon("bob@localhost", "received", original()))
            .await;
        phone.send(chat_to("alice@localhost/desk", &body)).await;
        let answer = || chat_from("bob@localhost/phone", &body);
        alice.expect(answer()).await;
        laptop
            .expect(carbon("bob@localhost", "sent", answer()))
            .await;
    }
    // A copy follows a session that moves, and the wish for copies does.
    laptop.close().await;
    let mut laptop = cluster.node(2).managed_online("bob/laptop").await;
    laptop.query(set(Element::new("enable", CARBONS))).await;
    let broken = laptop.break_connection();
    alice.send(chat_to("bob@localhost/phone", "moved")).await;
    phone
        .expect(chat_from("alice@localhost/desk", "moved"))
        .await;
    let mut laptop = cluster.resume(0, broken).await;
    for body in ["moved", "and again"] {
        if body != "moved" {
            alice.send(chat_to("bob@localhost/phone", body)).await;
            phone.expect(chat_from("alice@localhost/desk", body)).await;
        }
        let original = chat_from("alice@localhost/desk", body);
        laptop
            .expect(carbon("bob@localhost", "received", original))
            .await;
    }
    laptop.expect_nothing_from(&mut alice).await;
}

/// XEP-0313 §3.1: one archive, whoever writes to it; ids sort in the order in which they could be read.
#[tokio::test]
async fn the_archive_is_one_whichever_nodes_write_to_it() {
    let cluster = TestCluster::start(3).await;
    let mut senders = Vec::new();
    for node in 0..3 {
        senders.push(cluster.managed_online(node, &format!("user{node}/x")).await);
    }
    let mut bob = cluster.online(1, "bob/phone").await;
    let mut known: Vec<String> = Vec::new();
    for round in 0..20 {
        for (number, sender) in senders.iter_mut().enumerate() {
            sender
                .send(chat_to("bob@localhost", &format!("{number}.{round}")))
                .await;
        }
        for _ in 0..3 {
            bob.expect(Pattern::new("message").kind("chat")).await;
        }
        // A reader that pages after the last id it knows misses nothing.
        let query = known
            .last()
            .map_or_else(Query::new, |last| Query::new().after(last));
        let page = bob.archive(&query).await;
        assert_eq!(page.messages.len(), 3, "round {round}");
        known.extend(page.messages.into_iter().map(|entry| entry.id));
    }
    let archive = bob.whole_archive(&Query::new(), 7).await;
    let ids: Vec<String> = archive.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(ids, known);
    for number in 0..3 {
        let of_one: Vec<String> = archive
            .iter()
            .map(rookery_tests::archive::Archived::body)
            .filter(|body| body.starts_with(&format!("{number}.")))
            .collect();
        let wanted: Vec<String> = (0..20).map(|round| format!("{number}.{round}")).collect();
        assert_eq!(of_one, wanted);
    }
}
