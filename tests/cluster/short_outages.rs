//! Redis is away for less than a lease, so that nobody is given up: it hangs, it is slow, or a node's way to it
//! swallows packets. What was stored meanwhile is delivered when it is back, in order and once, and a
//! request gets one answer.

use std::ops::Range;
use std::time::Duration;

use rookery_tests::eventually;
use rookery_tests::netns::{Cut, Peer};
use rookery_tests::prelude::*;
use rookery_tests::proxy::Mode;

use crate::administration::all_know_each_other;
use crate::conversations::{expect_numbers, is_connected, send_numbers, talk};

/// A lease that does not end within a test.
const LEASE: &str = "cluster.lease=5m";

/// Later than the half second after which Redis counts as away.
const TOO_LATE: Duration = Duration::from_millis(400);

const ALICE: &str = "alice@localhost/desk";

/// What keeps the nodes from Redis.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Hang,
    Slow,
    Swallow,
}

impl Outage {
    fn plan(self) -> Plan {
        let plan = Plan::new(&[LEASE]);
        match self {
            Self::Hang => plan,
            Self::Slow => plan.proxied(),
            Self::Swallow => plan.cuttable(),
        }
    }

    fn begins(self, cluster: &TestCluster) {
        match self {
            Self::Hang => cluster.redis.signal("STOP"),
            Self::Slow => cluster.redis_proxy().set(Mode::Slow(TOO_LATE)),
            Self::Swallow => cluster.cut(0, Peer::Redis, Cut::Swallow),
        }
    }

    fn ends(self, cluster: &TestCluster) {
        match self {
            Self::Hang => cluster.redis.signal("CONT"),
            Self::Slow => cluster.redis_proxy().set(Mode::Pass),
            Self::Swallow => cluster.heal(0),
        }
    }
}

/// Alice and Bob on two nodes, between which there is an outage to be.
struct Pair {
    cluster: TestCluster,
    alice: Client,
    bob: Client,
    outage: Outage,
}

impl Pair {
    async fn online(outage: Outage) -> Self {
        let cluster = TestCluster::planned(2, &outage.plan()).await;
        let alice = cluster.managed_online(0, "alice/desk").await;
        let bob = cluster.managed_online(1, "bob/phone").await;
        Self {
            cluster,
            alice,
            bob,
            outage,
        }
    }

    /// Alice writes, and what she has written is safe.
    async fn alice_sends(&mut self, numbers: Range<u32>) {
        send_numbers(&mut self.alice, "bob@localhost", numbers).await;
        self.alice.acknowledged().await;
    }

    /// It ends, and Bob gets the ten messages of the outage and ten more, in their order and once.
    async fn all_arrive(mut self) {
        self.outage.ends(&self.cluster);
        // Right behind them, whether the node has noticed or not.
        send_numbers(&mut self.alice, "bob@localhost", 10..20).await;
        expect_numbers(&mut self.bob, ALICE, 0..20).await;
        self.alice.expect_nothing_from(&mut self.bob).await;
        self.bob.expect_nothing_from(&mut self.alice).await;
    }
}

/// Alice's node cannot ask where Bob is: her messages are stored.
async fn to_somebody_who_is_not_known(outage: Outage) {
    let mut pair = Pair::online(outage).await;
    outage.begins(&pair.cluster);
    pair.alice_sends(0..10).await;
    pair.all_arrive().await;
}

#[tokio::test]
async fn what_is_stored_while_redis_hangs_comes_when_it_is_back() {
    to_somebody_who_is_not_known(Outage::Hang).await;
}

#[tokio::test]
async fn what_is_stored_while_redis_is_too_slow_comes_when_it_is_well() {
    to_somebody_who_is_not_known(Outage::Slow).await;
}

#[tokio::test]
async fn what_is_stored_while_the_way_to_redis_is_cut_comes_when_it_is_mended() {
    to_somebody_who_is_not_known(Outage::Swallow).await;
}

/// Alice's node knows where Bob is and cannot tell his node: for longer than the bus waits.
async fn to_somebody_who_is_known(outage: Outage) {
    let mut pair = Pair::online(outage).await;
    talk(&mut pair.alice, &mut pair.bob, "before").await;
    outage.begins(&pair.cluster);
    pair.alice_sends(0..1).await;
    the_bus_notices(&pair.cluster).await;
    // The first one may have arrived, and waits for certainty; these come back from the bus.
    pair.alice_sends(1..10).await;
    frames_come_back(&pair.cluster).await;
    pair.all_arrive().await;
}

async fn the_bus_notices(cluster: &TestCluster) {
    eventually("the bus to notice", async || {
        !is_connected(cluster.node(0), "bus").await
    })
    .await;
}

async fn frames_come_back(cluster: &TestCluster) {
    eventually("frames to come back", async || {
        let returned = "rookery_bus_returned_frames_total";
        cluster.node(0).metric(returned, "").await > 0.5
    })
    .await;
}

#[tokio::test]
async fn what_comes_back_from_the_bus_while_redis_hangs_is_delivered_once() {
    to_somebody_who_is_known(Outage::Hang).await;
}

#[tokio::test]
async fn what_comes_back_from_the_bus_during_a_cut_is_delivered_once() {
    to_somebody_who_is_known(Outage::Swallow).await;
}

/// Sessions of a disabled account end also on a node that could not be told for longer than the bus waits.
#[tokio::test]
async fn a_node_that_could_not_be_told_of_a_disabled_account_hears_of_it() {
    let mut pair = Pair::online(Outage::Hang).await;
    all_know_each_other(&pair.cluster).await;
    talk(&mut pair.alice, &mut pair.bob, "before").await;
    pair.outage.begins(&pair.cluster);
    // It may have arrived, and waits for certainty; what follows comes back from the bus.
    pair.alice_sends(0..1).await;
    the_bus_notices(&pair.cluster).await;
    let disable = ["user", "disable", "bob@localhost"];
    let done = pair.cluster.node(0).cli(&disable).await;
    assert!(done.status.success(), "{done:?}");
    frames_come_back(&pair.cluster).await;
    pair.outage.ends(&pair.cluster);
    let error = loop {
        match pair.bob.wire().next().await {
            Event::Element(e) if e.is("error", STREAM) => break e,
            Event::Element(_) => {}
            other => panic!("expected an error, received {other:?}"),
        }
    };
    assert!(
        error.child("not-authorized", STREAM_ERRORS).is_some(),
        "{error:?}"
    );
    pair.bob.vanish();
}

/// RFC 6120 §8.2.3: one answer, although nobody knew for a while whether the request had arrived.
#[tokio::test]
async fn a_request_that_may_have_arrived_is_answered_once() {
    let cluster = TestCluster::planned(2, &Outage::Hang.plan()).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    talk(&mut alice, &mut bob, "before").await;
    Outage::Hang.begins(&cluster);
    let question = get(Element::new("ping", PING)).with_attr("to", bob.jid());
    alice.send(question.with_attr("id", "q")).await;
    the_bus_notices(&cluster).await;
    // These are certain not to have arrived: when they come back, the first one would have, too.
    send_numbers(&mut alice, "bob@localhost", 0..3).await;
    frames_come_back(&cluster).await;
    Outage::Hang.ends(&cluster);
    bob.expect(Pattern::new("iq").kind("get").id("q")).await;
    expect_numbers(&mut bob, ALICE, 0..3).await;
    let answer = element("iq")
        .with_attr("type", "result")
        .with_attr("id", "q");
    bob.send(answer.with_attr("to", ALICE)).await;
    alice.expect(result_of("q")).await;
    alice.expect_nothing_from(&mut bob).await;
    bob.expect_nothing_from(&mut alice).await;
}

/// If there are two answers after all, the first one counts; an `id` may be used again.
#[tokio::test]
async fn a_second_answer_to_a_request_is_dropped() {
    let cluster = TestCluster::start(2).await;
    let mut alice = cluster.online(0, "alice/desk").await;
    let mut bob = cluster.online(1, "bob/phone").await;
    for _ in 0..2 {
        let question = get(Element::new("ping", PING)).with_attr("to", bob.jid());
        alice.send(question.with_attr("id", "q")).await;
        bob.expect(Pattern::new("iq").kind("get").id("q")).await;
        for _ in 0..2 {
            let answer = element("iq")
                .with_attr("type", "result")
                .with_attr("id", "q");
            bob.send(answer.with_attr("to", ALICE)).await;
        }
        alice.expect(result_of("q")).await;
        alice.expect_nothing_from(&mut bob).await;
    }
}
