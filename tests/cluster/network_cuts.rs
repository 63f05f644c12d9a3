//! Links between a node and Redis, or PostgreSQL, that are cut for real: the kind that resets connections
//! and the kind that swallows packets, for less and for more than the lease.

use std::time::{Duration, Instant};

use rookery_tests::eventually;
use rookery_tests::netns::{CUTS, Cut, Peer};
use rookery_tests::prelude::*;

use crate::conversations::{
    ask, becomes_ready, becomes_unready, login_failure, reach_each_other, ready, talk,
};

/// A short lease, so that it ends within a test.
const SHORT: &str = "cluster.lease=2s";
/// A lease that does not end within a cut.
const LONG: &str = "cluster.lease=60s";

/// How long the directory may take to be right again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the others have taken a node for dead and cleaned up after it: nobody is found there.
async fn is_given_up(witness: &mut Client, jid: &str) {
    witness.expect(unavailable_from(jid)).await;
}

// Redis

/// design.md, "Directory": it stops accepting streams, turns not ready, and keeps serving those it has
/// locally; afterwards it works as before.
#[tokio::test]
async fn a_node_cut_off_from_redis_fences_itself_and_serves_on() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    talk(&mut alice, &mut bob, "before").await;
    for (round, cut) in CUTS.into_iter().enumerate() {
        cluster.network().cut(0, Peer::Redis, cut);
        talk(&mut alice, &mut carol, "at once").await;
        becomes_unready(cluster.node(0)).await;
        assert!(ready(cluster.node(1)).await, "the other node is well");
        talk(&mut alice, &mut carol, "later").await;
        ask(&mut alice, &mut carol, "q").await;

        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        // Both see each other again, also who was there before.
        reach_each_other(&mut alice, &mut bob).await;
        let mut dave = cluster.online(0, &format!("dave{round}/x")).await;
        talk(&mut dave, &mut bob, "hi").await;
    }
}

/// design.md, "Directory": a fenced node stops accepting streams.
#[tokio::test]
async fn a_fenced_node_takes_no_new_streams() {
    let Some(cluster) = TestCluster::in_network(1, &[SHORT]).await else {
        return;
    };
    for cut in CUTS {
        cluster.network().cut(0, Peer::Redis, cut);
        becomes_unready(cluster.node(0)).await;
        assert!(refuses_streams(cluster.node(0)).await, "{cut:?}");
        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        cluster.online(0, "alice/desk").await.close().await;
    }
}

/// Whether a node takes no new stream: it closes, or refuses with a stream error.
async fn refuses_streams(node: &TestServer) -> bool {
    let mut wire = node.tcp().await;
    let header = wire.header_to("localhost");
    // The connection may be closed before.
    let _ = wire.try_send(header.as_bytes()).await;
    loop {
        match wire.next().await {
            Event::Open(_) => {}
            Event::Element(error) if error.is("error", STREAM) => return true,
            Event::Close | Event::Eof => return true,
            Event::Element(_) => return false,
        }
    }
}

/// A short cut is nothing that anybody sees; what was under way arrives.
#[tokio::test]
async fn a_cut_shorter_than_the_lease_is_not_noticed() {
    let Some(cluster) = TestCluster::in_network(2, &[LONG]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    talk(&mut alice, &mut bob, "before").await;
    for cut in CUTS {
        cluster.network().cut(0, Peer::Redis, cut);
        for number in 0..10 {
            alice.send(chat_to(bob.jid(), &number.to_string())).await;
            bob.send(chat_to(alice.jid(), &number.to_string())).await;
        }
        alice.expect_nothing().await;
        assert!(ready(cluster.node(0)).await, "{cut:?}");
        cluster.network().heal(0);
        for number in 0..10 {
            alice
                .expect(chat_from("bob@localhost/phone", &number.to_string()))
                .await;
            bob.expect(chat_from("alice@localhost/desk", &number.to_string()))
                .await;
        }
        alice.expect_nothing_from(&mut bob).await;
        bob.expect_nothing_from(&mut alice).await;
    }
}

/// The directory learns what it missed, though the node's lease never ended.
#[tokio::test]
async fn presence_that_changed_during_a_short_cut_is_right_afterwards() {
    let Some(cluster) = TestCluster::in_network(2, &[LONG]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    for (cut, show) in CUTS.into_iter().zip(["away", "xa"]) {
        cluster.network().cut(0, Peer::Redis, cut);
        let changed = || available_from("alice@localhost/desk").text("show", CLIENT, show);
        alice
            .send(presence().with_child(text("show", CLIENT, show)))
            .await;
        alice.expect(changed()).await;
        alice.expect_nothing().await;
        cluster.network().heal(0);
        bob.expect(changed()).await;
        // Somebody new asks the directory, which may learn of it a moment later than the contacts.
        let deadline = Instant::now() + PATIENCE;
        loop {
            bob.close().await;
            alice.expect(unavailable_from("bob@localhost/phone")).await;
            bob = cluster.online(1, "bob/phone").await;
            let seen = bob.expect(available_from("alice@localhost/desk")).await;
            alice.expect(available_from("bob@localhost/phone")).await;
            let seen = seen.child("show", CLIENT).map(rookery_proto::Element::text);
            if seen.as_deref() == Some(show) {
                break;
            }
            assert!(Instant::now() < deadline, "{seen:?} instead of {show}");
        }
    }
}

/// Who comes during a cut to a node that is not cut off sees what the directory holds, and what is true when
/// the directory has learned it. The cut node believed that there was nobody to tell.
#[tokio::test]
async fn who_came_during_a_short_cut_learns_what_changed_meanwhile() {
    let Some(cluster) = TestCluster::in_network(2, &[LONG]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    let alice_shows = |show| available_from("alice@localhost/desk").text("show", CLIENT, show);
    for cut in CUTS {
        bob.close().await;
        alice.expect(unavailable_from("bob@localhost/phone")).await;
        // So her node knows that he is not there.
        alice.send(presence_with_show("dnd")).await;
        alice.expect(alice_shows("dnd")).await;
        cluster.network().cut(0, Peer::Redis, cut);
        alice.send(presence_with_show("away")).await;
        alice.expect(alice_shows("away")).await;
        bob = cluster.online(1, "bob/phone").await;
        bob.expect(alice_shows("dnd")).await;
        cluster.network().heal(0);
        bob.expect(alice_shows("away")).await;
        alice.expect(available_from("bob@localhost/phone")).await;
    }
    // The same with a session that ends.
    cluster.network().cut(0, Peer::Redis, Cut::Reset);
    bob.close().await;
    alice.close().await;
    bob = cluster.online(1, "bob/phone").await;
    bob.expect(alice_shows("away")).await;
    cluster.network().heal(0);
    bob.expect(unavailable_from("alice@localhost/desk")).await;
}

fn presence_with_show(show: &str) -> Element {
    presence().with_child(text("show", CLIENT, show))
}

/// Nor does it keep sessions that ended meanwhile.
#[tokio::test]
async fn a_session_that_ended_during_a_short_cut_is_gone_afterwards() {
    let Some(cluster) = TestCluster::in_network(2, &[LONG]).await else {
        return;
    };
    let mut bob = cluster.online(1, "bob/phone").await;
    for (round, cut) in CUTS.into_iter().enumerate() {
        let mut alice = cluster.online(0, "alice/desk").await;
        if round == 0 {
            befriend(&mut alice, &mut bob).await;
        } else {
            alice.expect(available_from("bob@localhost/phone")).await;
            bob.expect(available_from("alice@localhost/desk")).await;
        }
        cluster.network().cut(0, Peer::Redis, cut);
        alice.close().await;
        eventually("the session to end", async || {
            cluster.node(0).metric("rookery_sessions", "").await < 0.5
        })
        .await;
        cluster.network().heal(0);
        bob.expect(unavailable_from("alice@localhost/desk")).await;
        // Somebody new asks the directory, and finds nobody.
        bob.close().await;
        bob = cluster.online(1, "bob/phone").await;
        let ping = get(Element::new("ping", PING)).with_attr("to", "alice@localhost/desk");
        bob.refused(ping, "service-unavailable").await;
    }
}

/// Others have given the node up; when it returns all agree on who is online.
#[tokio::test]
async fn after_a_long_cut_both_halves_agree_on_who_is_online() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    for cut in CUTS {
        cluster.network().cut(0, Peer::Redis, cut);
        is_given_up(&mut bob, "alice@localhost/desk").await;
        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        // She was there all the time; bob, who was told otherwise, sees her again.
        bob.expect(available_from("alice@localhost/desk")).await;
        alice.allow(available_from("bob@localhost/phone"));
        talk(&mut alice, &mut bob, "hello again").await;
    }
}

/// What somebody said of herself meanwhile is what the others see afterwards.
#[tokio::test]
async fn presence_that_changed_during_a_long_cut_is_right_afterwards() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    for (cut, show) in CUTS.into_iter().zip(["away", "xa"]) {
        cluster.network().cut(0, Peer::Redis, cut);
        is_given_up(&mut bob, "alice@localhost/desk").await;
        alice
            .send(presence().with_child(text("show", CLIENT, show)))
            .await;
        alice.expect(available_from("alice@localhost/desk")).await;
        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        bob.expect(available_from("alice@localhost/desk").text("show", CLIENT, show))
            .await;
        // More than once does no harm.
        bob.allow(available_from("alice@localhost/desk").text("show", CLIENT, show));
        alice.allow(available_from("bob@localhost/phone"));
        talk(&mut alice, &mut bob, "hello again").await;
    }
}

/// And so does who logs in afterwards.
#[tokio::test]
async fn after_a_long_cut_newcomers_see_everybody() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    bob.close().await;
    alice.expect(unavailable_from("bob@localhost/phone")).await;
    let mut witness = cluster.online(1, "witness/x").await;
    befriend(&mut witness, &mut alice).await;
    for cut in CUTS {
        cluster.network().cut(0, Peer::Redis, cut);
        is_given_up(&mut witness, "alice@localhost/desk").await;
        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        // What both may have missed is shown once more.
        witness.allow(available_from("alice@localhost/desk"));
        alice.allow(available_from("witness@localhost/x"));
        reach_each_other(&mut alice, &mut witness).await;
        let mut bob = cluster.online(1, "bob/phone").await;
        bob.expect(available_from("alice@localhost/desk")).await;
        alice.expect(available_from("bob@localhost/phone")).await;
        bob.close().await;
        alice.expect(unavailable_from("bob@localhost/phone")).await;
        witness.send(presence_to("probe", "alice@localhost")).await;
        witness.vanish();
        alice.expect(unavailable_from("witness@localhost/x")).await;
        witness = cluster.online(1, "witness/x").await;
        witness.expect(available_from("alice@localhost/desk")).await;
        alice.expect(available_from("witness@localhost/x")).await;
    }
}

/// One owner per full JID: the one that bound last.
#[tokio::test]
async fn a_resource_that_was_bound_on_both_sides_of_a_cut_has_one_owner() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut bob = cluster.online(1, "bob/phone").await;
    for cut in CUTS {
        let mut older = cluster.online(0, "alice/desk").await;
        cluster.network().cut(0, Peer::Redis, cut);
        becomes_unready(cluster.node(0)).await;
        let mut newer = cluster.bound(1, "alice/desk").await;
        newer.become_available().await;
        older.allow(available_from("alice@localhost/desk"));
        bob.send(chat_to("alice@localhost/desk", "which one?"))
            .await;
        newer
            .expect(chat_from("bob@localhost/phone", "which one?"))
            .await;
        cluster.network().heal(0);
        older.expect_stream_error("conflict").await;
        becomes_ready(cluster.node(0)).await;
        for to in ["alice@localhost/desk", "alice@localhost"] {
            bob.send(chat_to(to, "and now?")).await;
            newer
                .expect(chat_from("bob@localhost/phone", "and now?"))
                .await;
        }
        newer.expect_nothing_from(&mut bob).await;
        let mut carol = cluster.online(0, "carol/tv").await;
        carol
            .send(chat_to("alice@localhost/desk", "from the other side"))
            .await;
        newer
            .expect(chat_from("carol@localhost/tv", "from the other side"))
            .await;
        carol.close().await;
        newer.close().await;
    }
}

/// Each message of a long cut is delivered, stored or bounced, once.
#[tokio::test]
async fn messages_across_a_long_cut_are_accounted_for() {
    for cut in CUTS {
        let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
            return;
        };
        let mut alice = cluster.online(0, "alice/desk").await;
        let mut bob = cluster.online(1, "bob/phone").await;
        // Sees when the node is given up, and gets no messages.
        let mut witness = cluster.online(1, "witness/x").await;
        befriend(&mut alice, &mut witness).await;
        talk(&mut alice, &mut bob, "before").await;
        cluster.network().cut(0, Peer::Redis, cut);
        let mut sent = 0;
        for phase in 0..3 {
            for _ in 0..10 {
                for (from, to) in [
                    (&mut alice, "bob@localhost/phone"),
                    (&mut bob, "alice@localhost/desk"),
                ] {
                    from.send(chat_to(to, &sent.to_string()).with_attr("id", sent.to_string()))
                        .await;
                }
                sent += 1;
            }
            match phase {
                0 => is_given_up(&mut witness, "alice@localhost/desk").await,
                1 => {
                    cluster.network().heal(0);
                    becomes_ready(cluster.node(0)).await;
                }
                _ => {}
            }
        }
        witness.vanish();
        // What each got on its stream before it left; then what waits for its next login.
        let mut seen = Seen::default();
        seen.read_to_end(alice, sent).await;
        seen.read_to_end(bob, sent).await;
        for (node, who) in [(0, "alice/desk"), (1, "bob/phone")] {
            seen.read_to_end(cluster.online(node, who).await, sent)
                .await;
        }
        let wrong: Vec<String> = ["alice", "bob"]
            .into_iter()
            .flat_map(|to| (0..sent).map(move |number| (to.to_owned(), number)))
            .filter(|message| seen.0.get(message) != Some(&1))
            .map(|message| format!("{message:?}: {:?} times", seen.0.get(&message)))
            .collect();
        assert!(wrong.is_empty(), "{cut:?}: {wrong:?}");
    }
}

/// How often numbered messages ended, by recipient and number.
#[derive(Default)]
struct Seen(std::collections::HashMap<(String, u32), usize>);

impl Seen {
    /// Reads what comes on a client's stream until all `sent` messages to its user have ended, or nothing
    /// more comes; then ends the stream.
    async fn read_to_end(&mut self, mut client: Client, sent: u32) {
        let me = client.bare().split('@').next().expect("a name").to_owned();
        let quiet = Duration::from_secs(3);
        while (0..sent).any(|number| !self.0.contains_key(&(me.clone(), number)))
            && let Ok(event) = tokio::time::timeout(quiet, client.wire().receive()).await
        {
            self.count(&me, event);
        }
        client.wire().send("</stream:stream>").await;
        loop {
            match client.wire().next().await {
                Event::Close => break,
                event => self.count(&me, event),
            }
        }
        client.vanish();
    }

    fn count(&mut self, me: &str, event: Event) {
        match event {
            Event::Element(message) if message.is("message", CLIENT) => {
                let Some(number) = message.attr("id").and_then(|id| id.parse().ok()) else {
                    return;
                };
                let bounced = message.attr("type") == Some("error");
                let other = if me == "alice" { "bob" } else { "alice" };
                let to = if bounced { other } else { me };
                *self.0.entry((to.to_owned(), number)).or_default() += 1;
            }
            Event::Element(_) => {}
            other => panic!("{me}: {other:?}"),
        }
    }
}

// PostgreSQL

/// Live traffic that needs no commit flows; the node says that it is not well, and is well again without
/// a restart.
#[tokio::test]
async fn a_node_cut_off_from_its_database_serves_what_needs_none() {
    let Some(cluster) = TestCluster::in_network(2, &[]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    befriend(&mut alice, &mut bob).await;
    cluster.node(0).add_user("dave").await;
    for (round, cut) in CUTS.into_iter().enumerate() {
        cluster.network().cut(0, Peer::Postgres, cut);
        ask(&mut alice, &mut carol, "local").await;
        ask(&mut alice, &mut bob, "across").await;
        ask(&mut bob, &mut alice, "back").await;
        alice
            .send(presence().with_child(text("show", CLIENT, "away")))
            .await;
        alice.expect(available_from("alice@localhost/desk")).await;
        bob.expect(available_from("alice@localhost/desk").text("show", CLIENT, "away"))
            .await;
        becomes_unready(cluster.node(0)).await;
        assert!(ready(cluster.node(1)).await, "the other node is well");
        // What needs the database gets a clear answer within a bound.
        let change = set(roster_item("bob@localhost", Some("Bob"), &[]));
        let refusal = alice.refused(change, "resource-constraint").await;
        let kind = refusal.child("error", CLIENT).and_then(|e| e.attr("type"));
        assert_eq!(kind, Some("wait"), "{refusal:?}");
        assert_eq!(
            login_failure(cluster.node(0), "dave").await,
            "temporary-auth-failure"
        );

        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        alice
            .query(set(roster_item(&format!("x{round}@localhost"), None, &[])))
            .await;
        let mut dave = cluster.online(0, "dave/x").await;
        talk(&mut dave, &mut bob, "hi").await;
        dave.close().await;
    }
}

/// Both at once: it is fenced, says so, and is whole again.
#[tokio::test]
async fn a_node_cut_off_from_everything_comes_back() {
    let Some(cluster) = TestCluster::in_network(2, &[SHORT]).await else {
        return;
    };
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut carol = cluster.online(0, "carol/tv").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for cut in CUTS {
        for peer in [Peer::Redis, Peer::Postgres] {
            cluster.network().cut(0, peer, cut);
        }
        becomes_unready(cluster.node(0)).await;
        ask(&mut alice, &mut carol, "local").await;
        // Clients of the other node do not wait for anything.
        let mut erin = cluster.online(1, "erin/x").await;
        talk(&mut erin, &mut bob, "hi").await;
        erin.close().await;
        cluster.network().heal(0);
        becomes_ready(cluster.node(0)).await;
        reach_each_other(&mut alice, &mut bob).await;
        reach_each_other(&mut bob, &mut carol).await;
    }
}

/// The two kinds of cuts are what they are called: otherwise the tests above would test nothing.
#[tokio::test]
async fn a_cut_cuts() {
    let Some(mut cluster) = TestCluster::in_network(1, &[LONG]).await else {
        return;
    };
    let redis = (Peer::Redis, cluster.redis.address());
    let postgres = (Peer::Postgres, cluster.postgres().address());
    let network = cluster.network();
    for (cut, outcome) in [(Cut::Reset, "refused"), (Cut::Swallow, "no answer")] {
        for (peer, address) in [redis, postgres] {
            network.cut(0, peer, cut);
            assert_eq!(network.try_connect(0, address), outcome, "{cut:?} {peer:?}");
            network.heal(0);
            assert_eq!(network.try_connect(0, address), "connected");
        }
    }
}
