//! Who is slow slows down those who send to him; nobody's memory grows with what was sent (design.md,
//! "Threads" and "Bus", Backpressure).
//!
//! Each test sends 100 MB past something that does not take it, and asks the processes for the most
//! memory that they had meanwhile. The bound is what the limits add up to, far below what was sent. Then
//! the way is cleared, and all that was acknowledged and not refused has to be there, and in the archive
//! once and in order. What loses nothing, whatever memory it takes, is tested with less.

use std::collections::BTreeSet;
use std::time::Duration;

use rookery_tests::prelude::*;
use rookery_tests::proxy::Mode;
use rookery_tests::stream_management::{self as sm, h_of};

use crate::conversations::becomes_ready;

/// What one test sends, in bytes of bodies.
const SENT: usize = 100_000_000;

/// Four times what an outbox holds, and twice what a bus queue does.
const LESS: usize = 16_000_000;

/// How much more memory than before a node may need meanwhile: an outbox and a bus queue are 4 and 8 MiB,
/// what one sender has under way is 2 MiB, what other nodes have waiting here 8 MiB.
const MAY_GROW_KIB: u64 = 40 << 10;

/// Bytes in a body: many stanzas, so that what each takes besides its text counts, or few.
const SMALL: usize = 2_000;
const LARGE: usize = 20_000;

/// Bytes on a page of the archive.
const PAGE: usize = 500_000;

/// How late what goes to and comes from a slow Redis is: each batch of 64 KiB takes twice that.
const SLOW: Duration = Duration::from_millis(10);

/// How long a flood may take: the bounds of storage and bus are seconds, and a loaded machine is slow.
const PATIENCE: Duration = Duration::from_mins(4);

/// Streams without TLS: what is measured is not the cipher.
fn plan(settings: &[&str]) -> Plan {
    let common = ["c2s.tls=optional", "limits.offline_messages=1000000"];
    Plan::new(&[&common, settings].concat())
}

/// A client that sends without end and counts, with stream management but none of the harness's
/// strictness: refusals are expected.
struct Flooder {
    client: Client,
    /// The number of the next message.
    numbered: u32,
    /// Stanzas that were sent, and what the last `h` said.
    sent: u32,
    handled: u32,
    /// Stanzas that came, and whether the server has asked how many.
    came: u32,
    owes_ack: bool,
    /// Whether the answer to its request has come.
    is_answered: bool,
    /// The numbers of the messages that came back as errors.
    refused: BTreeSet<u32>,
}

impl Flooder {
    async fn start(node: &TestServer, who: &str) -> Self {
        let mut client = node.bound_by(who, Security::Plain).await;
        let enable = format!("<enable xmlns='{}'/>", sm::SM);
        let enabled = client.wire().ask(&enable).await;
        assert!(enabled.is("enabled", sm::SM), "{enabled:?}");
        Self {
            client,
            numbered: 0,
            sent: 0,
            handled: 0,
            came: 0,
            owes_ack: false,
            is_answered: false,
            refused: BTreeSet::new(),
        }
    }

    /// Sends numbered messages with bodies of `size` bytes, each followed by `between`, a stanza or
    /// nothing. Reads what comes meanwhile, and acknowledges it.
    async fn flood(&mut self, to: &str, count: usize, size: usize, between: &str) {
        let count = u32::try_from(count).expect("it is small");
        let filling = "x".repeat(size);
        let each = 1 + u32::from(!between.is_empty());
        let sent = async {
            for number in self.numbered..self.numbered + count {
                let message = format!(
                    "<message to='{to}' type='chat' id='{number}'><body>{number} {filling}</body>\
                     </message>{between}"
                );
                self.send(&message).await;
                self.sent += each;
            }
            self.numbered += count;
        };
        let sent = tokio::time::timeout(PATIENCE, sent).await;
        assert!(sent.is_ok(), "only {} stanzas were sent", self.sent);
    }

    /// Waits until all that was sent is dealt with.
    async fn settle(&mut self) {
        let settled = async {
            self.client.wire().send(&sm::request()).await;
            while self.handled < self.sent {
                let event = self.client.wire().receive().await;
                self.take(event);
                self.send("").await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        assert!(
            settled.is_ok(),
            "{} of {} stanzas were dealt with",
            self.handled,
            self.sent
        );
    }

    /// Waits until all refusals have come, too: an answer comes behind them that had to take the same
    /// way, to the recipient's account and back.
    async fn hears_all(&mut self) {
        let question = "<iq type='get' id='last' to='bob@localhost/nobody'>\
                        <ping xmlns='urn:xmpp:ping'/></iq>";
        self.send(question).await;
        self.sent += 1;
        let heard = async {
            while !std::mem::take(&mut self.is_answered) {
                let event = self.client.wire().receive().await;
                self.take(event);
                self.send("").await;
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        assert!(heard.is_ok(), "no answer came from the recipient's account");
    }

    /// Sends a first message, so that its node knows where the recipient is.
    async fn finds(&mut self, recipient: &mut Reader, cluster: &TestCluster) {
        self.flood("bob@localhost", 1, 1, "").await;
        self.settle().await;
        recipient.reads(&[0], cluster).await;
    }

    /// Sends text, and an acknowledgement if one is due, and takes what comes meanwhile.
    async fn send(&mut self, text: &str) {
        let ack = std::mem::take(&mut self.owes_ack).then(|| sm::ack(self.came));
        let text = ack.unwrap_or_default() + text;
        for event in self.client.wire().send_reading(text.as_bytes()).await {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        let Event::Element(element) = event else {
            panic!("{}: {event:?}", self.client.jid());
        };
        if element.is("a", sm::SM) {
            self.handled = h_of(&element).expect("an ack has an h");
        } else if element.is("r", sm::SM) {
            self.owes_ack = true;
        } else if element.is("iq", CLIENT) && element.attr("id") == Some("last") {
            assert_eq!(element.attr("type"), Some("error"), "{element:?}");
            self.came += 1;
            self.is_answered = true;
        } else if element.is("message", CLIENT) && element.attr("type") == Some("error") {
            self.came += 1;
            let id = element.attr("id").and_then(|id| id.parse().ok());
            let is_new = self.refused.insert(id.expect("a number of ours"));
            assert!(is_new, "refused twice: {element:?}");
        } else {
            panic!("{}: {element:?}", self.client.jid());
        }
    }

    /// The numbers of the messages that must not be lost.
    fn accepted(&self) -> Vec<u32> {
        (0..self.numbered)
            .filter(|n| !self.refused.contains(n))
            .collect()
    }
}

/// The number of a message.
fn number(message: &Element) -> u32 {
    let body = message.child("body", CLIENT).expect("a body").text();
    let number = body.split(' ').next().and_then(|n| n.parse().ok());
    number.expect("a body of ours")
}

/// What the nodes of a cluster had before the flood, in KiB.
struct Before(Vec<u64>);

impl Before {
    fn the_flood(cluster: &TestCluster) -> Self {
        let resident = (0..cluster.size()).map(|number| {
            let node = cluster.node(number);
            node.forget_peak();
            node.resident_kib()
        });
        Self(resident.collect())
    }

    /// No node had much more since, if all was sent that shows it.
    fn is_not_far(&self, cluster: &TestCluster, sent: usize) {
        let grown: Vec<u64> = (0..cluster.size())
            .map(|number| {
                cluster
                    .node(number)
                    .peak_kib()
                    .saturating_sub(self.0[number])
            })
            .collect();
        println!("grown by {grown:?} KiB");
        assert!(
            sent < SENT || grown.iter().all(|kib| *kib <= MAY_GROW_KIB),
            "nodes grew by {grown:?} KiB while {} were sent",
            sent / 1024
        );
    }
}

/// Bob, who reads all that comes, and logs in again when his stream ends: a client that is slower than
/// the burst after a stall is dropped.
struct Reader {
    client: Client,
    /// The numbers of the messages that came, in their order.
    seen: Vec<u32>,
    logins: usize,
}

impl Reader {
    async fn start(cluster: &TestCluster, node: usize) -> Self {
        Self {
            client: Self::log_in(cluster, node).await,
            seen: Vec::new(),
            logins: 1,
        }
    }

    async fn log_in(cluster: &TestCluster, node: usize) -> Client {
        let node = cluster.node(node);
        let mut client = node.bound_by("bob/phone", Security::Plain).await;
        client.wire().send("<presence/>").await;
        client
    }

    /// Reads the next thing; returns the number of a message.
    async fn reads_one(&mut self, cluster: &TestCluster) -> Option<u32> {
        match self.client.wire().receive().await {
            Event::Element(e) if e.is("message", CLIENT) => {
                self.seen.push(number(&e));
                return self.seen.last().copied();
            }
            Event::Element(e) if e.is("presence", CLIENT) => {}
            Event::Element(e) if e.is("error", STREAM) => {
                let condition = e.child("resource-constraint", STREAM_ERRORS);
                assert!(condition.is_some(), "{e:?}");
            }
            Event::Close => {}
            Event::Eof => {
                let next = Self::log_in(cluster, 0).await;
                std::mem::replace(&mut self.client, next).vanish();
                self.logins += 1;
            }
            other => panic!("bob received {other:?}"),
        }
        None
    }

    /// Reads without end.
    async fn reads_on(&mut self, cluster: &TestCluster) {
        loop {
            self.reads_one(cluster).await;
        }
    }

    /// Reads until all of these were there. More may come.
    async fn reads(&mut self, wanted: &[u32], cluster: &TestCluster) {
        let mut missing: BTreeSet<u32> = wanted.iter().copied().collect();
        for number in &self.seen {
            missing.remove(number);
        }
        let read = async {
            while !missing.is_empty() {
                if let Some(number) = self.reads_one(cluster).await {
                    missing.remove(&number);
                }
            }
        };
        let done = tokio::time::timeout(PATIENCE, read).await;
        assert!(done.is_ok(), "{} are missing: {missing:?}", missing.len());
        println!(
            "bob: {} logins, {} messages, {} twice, in order: {}",
            self.logins,
            self.seen.len(),
            self.twice(),
            self.seen.is_sorted()
        );
    }

    /// How many messages came again. Without stream management that is allowed after a failure: what
    /// is not known to have arrived is sent once more.
    fn twice(&self) -> usize {
        let once: BTreeSet<u32> = self.seen.iter().copied().collect();
        self.seen.len() - once.len()
    }
}

/// The archive holds all of `wanted`, once and in order.
async fn is_archived(client: &mut Client, wanted: &[u32], size: usize) -> BTreeSet<u32> {
    let mut archived = client.whole_archive(&Query::new(), PAGE / size).await;
    let archived: Vec<u32> = archived.drain(..).map(|m| number(&m.message)).collect();
    assert!(archived.is_sorted_by(|a, b| a < b), "{archived:?}");
    let archived: BTreeSet<u32> = archived.into_iter().collect();
    let lost: Vec<u32> = wanted
        .iter()
        .copied()
        .filter(|n| !archived.contains(n))
        .collect();
    println!("archived {} of {} wanted", archived.len(), wanted.len());
    assert!(lost.is_empty(), "not archived: {lost:?}");
    archived
}

/// A client that stops reading, on another node than those who send to it.
async fn a_client_stops_reading(size: usize) {
    // As many presences.
    let count = SENT / size / 2;
    let cluster = TestCluster::planned(2, &plan(&[])).await;
    let mut bob = cluster.node(1).bound_by("bob/phone", Security::Plain).await;
    bob.enable_management().await;
    bob.become_available().await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    let status = "y".repeat(size);
    let presence =
        format!("<presence to='bob@localhost/phone'><status>{status}</status></presence>");
    let before = Before::the_flood(&cluster);
    alice.flood("bob@localhost", count, size, &presence).await;
    alice.settle().await;
    // Nobody refused anything; his stream has ended, and all of it is for the next one.
    let accepted = alice.accepted();
    assert_eq!(accepted.len(), count, "{:?}", alice.refused.len());
    bob.wire().expect_bytes_to_end().await;
    bob.vanish();
    let mut bob = Reader::start(&cluster, 0).await;
    bob.reads(&accepted, &cluster).await;
    assert!(bob.seen.is_sorted(), "RFC 6120 §10.1");
    assert_eq!(bob.twice(), 0);
    let archived = is_archived(&mut bob.client, &accepted, size).await;
    let both = archived.intersection(&alice.refused).count();
    assert_eq!(both, 0, "refused, and archived all the same");
    bob.client.vanish();
    alice.client.vanish();
    before.is_not_far(&cluster, SENT);
}

#[tokio::test]
async fn a_client_that_stops_reading_costs_a_bounded_amount_of_memory() {
    a_client_stops_reading(LARGE).await;
}

/// The database hangs while messages come.
async fn the_database_hangs(sent: usize, size: usize) {
    let mut cluster = TestCluster::planned(2, &plan(&[]).own_database()).await;
    let mut bob = Reader::start(&cluster, 1).await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    alice.finds(&mut bob, &cluster).await;
    cluster.postgres().freeze(true);
    let before = Before::the_flood(&cluster);
    alice.flood("bob@localhost", sent / size, size, "").await;
    alice.settle().await;
    alice.hears_all().await;
    assert!(!alice.refused.is_empty(), "nothing was committed meanwhile");
    cluster.postgres().freeze(false);
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    alice.flood("bob@localhost", 100, size, "").await;
    alice.settle().await;
    tokio::select! {
        () = alice.hears_all() => {}
        () = bob.reads_on(&cluster) => {}
    }
    let accepted = alice.accepted();
    println!("{} of {} accepted", accepted.len(), alice.numbered);
    bob.reads(&accepted, &cluster).await;
    assert!(bob.seen.is_sorted(), "RFC 6120 §10.1");
    assert_eq!(bob.twice(), 0);
    let archived = is_archived(&mut bob.client, &accepted, size).await;
    let both = archived.intersection(&alice.refused).count();
    assert_eq!(both, 0, "refused, and archived all the same");
    bob.client.vanish();
    alice.client.vanish();
    before.is_not_far(&cluster, sent);
}

#[tokio::test]
async fn a_database_that_hangs_costs_as_little_with_small_messages() {
    the_database_hangs(SENT, SMALL).await;
}

#[tokio::test]
async fn a_database_that_hangs_costs_a_bounded_amount_of_memory() {
    the_database_hangs(SENT, LARGE).await;
}

/// Redis hangs, or is slow, while messages to another node come.
async fn redis_does_not_take_it(sent: usize, size: usize, slow: Option<Duration>) {
    let cluster = TestCluster::planned(2, &plan(&[]).proxied()).await;
    let mut bob = Reader::start(&cluster, 1).await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    alice.finds(&mut bob, &cluster).await;
    match slow {
        Some(delay) => cluster.redis_proxy().set(Mode::Slow(delay)),
        None => cluster.redis.signal("STOP"),
    }
    let before = Before::the_flood(&cluster);
    let flood = async {
        alice.flood("bob@localhost", sent / size, size, "").await;
        alice.settle().await;
    };
    tokio::select! {
        () = flood => {}
        () = bob.reads_on(&cluster) => {}
    }
    match slow {
        Some(_) => cluster.redis_proxy().set(Mode::Pass),
        None => cluster.redis.signal("CONT"),
    }
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    nothing_is_lost(&cluster, alice, bob, size).await;
    before.is_not_far(&cluster, sent);
}

#[tokio::test]
async fn a_redis_that_hangs_loses_nothing() {
    redis_does_not_take_it(LESS, LARGE, None).await;
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_bounded_amount_of_memory() {
    redis_does_not_take_it(SENT, LARGE, None).await;
}

#[tokio::test]
async fn a_slow_redis_costs_a_bounded_amount_of_memory() {
    redis_does_not_take_it(SENT, LARGE, Some(SLOW)).await;
}

/// Nobody knows where the recipient is while Redis hangs: what is stored then comes when it is back.
#[tokio::test]
async fn messages_that_were_stored_while_redis_hung_come_when_it_is_back() {
    let cluster = TestCluster::planned(2, &plan(&[])).await;
    let mut bob = Reader::start(&cluster, 1).await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    cluster.redis.signal("STOP");
    alice.flood("bob@localhost", 10, SMALL, "").await;
    alice.settle().await;
    cluster.redis.signal("CONT");
    for node in 0..2 {
        becomes_ready(cluster.node(node)).await;
    }
    bob.reads(&alice.accepted(), &cluster).await;
    bob.client.vanish();
    alice.client.vanish();
}

/// The way is clear again: what was accepted comes and is archived, and what was refused is not.
async fn nothing_is_lost(cluster: &TestCluster, mut alice: Flooder, mut bob: Reader, size: usize) {
    tokio::select! {
        () = alice.hears_all() => {}
        () = bob.reads_on(cluster) => {}
    }
    let accepted = alice.accepted();
    println!("{} of {} accepted", accepted.len(), alice.numbered);
    bob.reads(&accepted, cluster).await;
    let archived = is_archived(&mut bob.client, &accepted, size).await;
    let both = archived.intersection(&alice.refused).count();
    assert_eq!(both, 0, "refused, and archived all the same");
    bob.client.vanish();
    alice.client.vanish();
}

/// One node of two is stopped while the other one floods it.
async fn a_node_is_stopped(sent: usize, size: usize, lease: &str, is_given_up: bool) {
    let cluster = TestCluster::planned(2, &plan(&[&format!("cluster.lease={lease}")])).await;
    let mut bob = Reader::start(&cluster, 1).await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    alice.finds(&mut bob, &cluster).await;
    let before = Before::the_flood(&cluster);
    cluster.node(1).signal("STOP");
    alice.flood("bob@localhost", sent / size, size, "").await;
    alice.settle().await;
    if is_given_up {
        rookery_tests::eventually("the node to be given up", async || {
            let lost = "rookery_directory_nodes_lost_total";
            cluster.node(0).metric(lost, "").await > 0.5
        })
        .await;
    }
    cluster.node(1).signal("CONT");
    nothing_is_lost(&cluster, alice, bob, size).await;
    before.is_not_far(&cluster, sent);
}

#[tokio::test]
async fn a_node_that_stands_still_loses_nothing() {
    a_node_is_stopped(LESS, LARGE, "4m", false).await;
}

#[tokio::test]
async fn a_node_that_is_given_up_loses_nothing() {
    a_node_is_stopped(LESS, LARGE, "3s", true).await;
}

#[tokio::test]
async fn a_node_that_stands_still_costs_a_bounded_amount_of_memory() {
    a_node_is_stopped(SENT, LARGE, "4m", false).await;
}

#[tokio::test]
async fn a_node_that_is_given_up_costs_a_bounded_amount_of_memory() {
    a_node_is_stopped(SENT, LARGE, "3s", true).await;
}

/// More comes at once than may wait for a client: what is in its log it reads from there, as fast as it
/// takes it.
async fn a_burst_comes(is_managed: bool) {
    let cluster = TestCluster::planned(1, &plan(&[])).await;
    let mut bob = cluster.node(0).bound_by("bob/phone", Security::Plain).await;
    if is_managed {
        bob.enable_management().await;
    }
    bob.become_available().await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    let before = Before::the_flood(&cluster);
    // He does not read meanwhile; sockets and his outbox do not take all of it.
    let count = SENT / LARGE;
    alice.flood("bob@localhost", count, LARGE, "").await;
    alice.settle().await;
    for wanted in 0..u32::try_from(count).expect("it is small") {
        let message = bob.expect(Pattern::new("message").kind("chat")).await;
        assert_eq!(number(&message), wanted);
    }
    bob.expect_nothing().await;
    alice.client.vanish();
    before.is_not_far(&cluster, SENT);
}

#[tokio::test]
async fn a_client_that_is_slower_than_a_burst_gets_it_from_the_log() {
    a_burst_comes(false).await;
}

#[tokio::test]
async fn a_managed_client_that_is_slower_than_a_burst_gets_it_from_the_log() {
    a_burst_comes(true).await;
}

/// What a client asks for is more than may wait for it: a page ends earlier then (XEP-0313 §4.3), and the
/// client asks for the next one.
#[tokio::test]
async fn an_archive_is_read_whose_pages_are_larger_than_the_outbox() {
    let cluster = TestCluster::planned(1, &plan(&["limits.outbox_bytes=1048576"])).await;
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    cluster.node(0).add_user("bob").await;
    alice.flood("bob@localhost", 100, LARGE, "").await;
    alice.settle().await;
    for is_managed in [false, true] {
        println!("under stream management: {is_managed}");
        let mut bob = cluster.node(0).bound_by("bob/phone", Security::Plain).await;
        if is_managed {
            bob.enable_management().await;
        }
        let page = bob.archive(&Query::new().max(100)).await;
        assert!(!page.complete && !page.messages.is_empty());
        let all = bob.whole_archive(&Query::new(), 100).await;
        assert_eq!(all.len(), 100);
        bob.close().await;
    }
    alice.client.vanish();
}

/// A session may have much that its client has not acknowledged, and takes it along.
#[tokio::test]
async fn a_session_moves_with_all_that_waits_for_its_client() {
    let cluster = TestCluster::planned(2, &plan(&[])).await;
    let mut bob = cluster.node(1).bound_by("bob/phone", Security::Plain).await;
    bob.enable_management().await;
    bob.become_available().await;
    let bob = bob.break_connection();
    let mut alice = Flooder::start(cluster.node(0), "alice/desk").await;
    // Half of what an outbox holds.
    alice.flood("bob@localhost", 100, LARGE, "").await;
    alice.settle().await;
    let mut bob = cluster.resume(0, bob).await;
    for wanted in alice.accepted() {
        let message = bob.expect(Pattern::new("message").kind("chat")).await;
        assert_eq!(number(&message), wanted);
    }
    bob.close().await;
    alice.client.vanish();
}
