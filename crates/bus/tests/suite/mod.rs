//! What every bus must do. Each implementation's test file runs all of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rookery_bus::{Bus, Deliver, Frame, Inbound, Limits, LogRef, Reason};
use rookery_proto::cluster::Epoch;
use rookery_proto::jid::BareJid;
use tokio::sync::mpsc::Receiver;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Something that nodes can join.
#[async_trait]
pub(crate) trait Hub {
    /// With inboxes of so many batches.
    async fn start(inbox_batches: usize) -> Self;
    /// A node that lives.
    async fn node(&self, epoch: Epoch, limits: Limits) -> Arc<dyn Bus>;
    /// A node that the others take for one of the version before. It reads the newest, too.
    async fn older_node(&self, epoch: Epoch) -> Arc<dyn Bus>;
    /// A node is dead for all others from now on. Its handle has been dropped.
    async fn bury(&self, epoch: Epoch);
    /// Nothing works, or all does again. What is in the inboxes stays.
    async fn set_reachable(&self, reachable: bool);
}

/// One test for each function of the suite; or, with `in turn`, all of them one after the other.
macro_rules! bus_suite {
    (@each [$hub:ty] $($test:ident,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                suite::$test::<$hub>().await;
            }
        )*
    };
    (@turn [$hub:ty] $($test:ident,)*) => {
        $( suite::$test::<$hub>().await; )*
    };
    (in turn: $hub:ty) => {
        suite::bus_suite! { @all turn [$hub] }
    };
    ($hub:ty) => {
        suite::bus_suite! { @all each [$hub] }
    };
    (@all $how:ident [$($with:tt)*]) => {
        suite::bus_suite! { @$how [$($with)*]
            frames_arrive_in_the_order_sent,
            frames_wait_for_a_slow_reader_within_bounds,
            frames_for_a_dead_node_come_back,
            what_a_dead_node_has_not_handled_is_claimed_once,
            nothing_is_claimed_from_a_node_that_lives,
            frames_wait_while_the_bus_is_away,
            frames_come_back_when_the_bus_stays_away,
            a_shutdown_sends_what_is_queued,
            a_shutdown_gives_back_what_it_cannot_send,
            a_frame_that_is_too_large_is_refused,
            an_older_node_gets_what_it_understands,
        }
    };
}
pub(crate) use bus_suite;

pub(crate) async fn frames_arrive_in_the_order_sent<H: Hub>() {
    const FRAMES: usize = 3000;
    let hub = H::start(64).await;
    let mut nodes = Vec::new();
    for epoch in 1..=3 {
        nodes.push(hub.node(Epoch(epoch), Limits::default()).await);
    }
    let senders = nodes.iter().zip(1..).map(|(node, from)| {
        let node = node.clone();
        tokio::spawn(async move {
            for number in 0..FRAMES {
                for to in 1..=3 {
                    send(&*node, Epoch(to), &frame(from, number)).await;
                }
                if number % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    for node in &nodes {
        let mut inbound = node.inbound().unwrap();
        assert!(node.inbound().is_none(), "taken");
        let mut next: HashMap<Epoch, usize> = HashMap::new();
        while next.values().sum::<usize>() < 3 * FRAMES {
            let (from, frames) = receive(&mut inbound).await;
            for received in frames {
                let number = next.entry(from).or_default();
                assert_eq!(received, frame(from.0, *number));
                *number += 1;
            }
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

pub(crate) async fn frames_wait_for_a_slow_reader_within_bounds<H: Hub>() {
    let hub = H::start(4).await;
    // One frame is a batch.
    let limits = Limits {
        batch_bytes: 1,
        queue_frames: 8,
        gather: Duration::ZERO,
        ..patient()
    };
    let from = hub.node(Epoch(1), limits.clone()).await;
    let to = hub.node(Epoch(2), limits).await;
    let mut sent = 0;
    let mut refused = 0;
    // The reader holds some more, so it takes a while until the sender feels it.
    while refused < 50 {
        match from.send(Epoch(2), frame(1, sent)) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error.frame, frame(1, sent));
                assert_eq!(error.reason, Reason::Full);
                refused += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    assert!(sent < 200, "{sent} frames are somewhere");
    let ready = from.ready(Epoch(2));
    let mut inbound = to.inbound().unwrap();
    for number in 0..sent {
        assert_eq!(
            receive(&mut inbound).await,
            (Epoch(1), vec![frame(1, number)])
        );
    }
    within(ready).await;
    send(&*from, Epoch(2), &frame(1, sent)).await;
    assert_eq!(
        receive(&mut inbound).await,
        (Epoch(1), vec![frame(1, sent)])
    );
    within(from.ready(Epoch(3))).await;
}

pub(crate) async fn frames_for_a_dead_node_come_back<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), Limits::default()).await;
    let mut inbound = from.inbound().unwrap();
    let mut returned = Vec::new();
    let sent: Vec<Frame> = (0..100).map(|number| frame(1, number)).collect();
    for frame in &sent {
        send(&*from, Epoch(2), frame).await;
    }
    while returned.len() < sent.len() {
        match within(inbound.recv()).await.unwrap() {
            Inbound::Returned {
                to: Epoch(2),
                frames,
                ..
            } => returned.extend(frames),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(returned, sent);
    // It was taken for dead but returns: the numbers go on.
    let to = hub.node(Epoch(2), Limits::default()).await;
    send(&*from, Epoch(2), &frame(1, 0)).await;
    assert_eq!(
        receive(&mut to.inbound().unwrap()).await,
        (Epoch(1), vec![frame(1, 0)])
    );
}

pub(crate) async fn what_a_dead_node_has_not_handled_is_claimed_once<H: Hub>() {
    let hub = H::start(64).await;
    let limits = Limits {
        batch_bytes: 1,
        gather: Duration::ZERO,
        ..Limits::default()
    };
    let from = hub.node(Epoch(1), limits.clone()).await;
    let dead = hub.node(Epoch(2), limits.clone()).await;
    let heir = hub.node(Epoch(3), limits).await;
    let mut inbound = dead.inbound().unwrap();
    for number in 0..30 {
        send(&*from, Epoch(2), &frame(1, number)).await;
    }
    for number in 0..10 {
        assert_eq!(
            receive(&mut inbound).await,
            (Epoch(1), vec![frame(1, number)])
        );
    }
    // Held when it dies, so not handled.
    let held = within(inbound.recv()).await.unwrap();
    send(&*from, Epoch(2), &frame(1, 30)).await;
    within(from.shutdown()).await;
    drop(dead);
    hub.bury(Epoch(2)).await;
    let claimed = heir.claim(Epoch(2)).await.unwrap();
    // What was handled just before may come again; what was not handled must.
    let again = claimed.len() - 21;
    assert!(again <= 10, "{}", claimed.len());
    let expected: Vec<Frame> = (10 - again..=30).map(|number| frame(1, number)).collect();
    assert_eq!(claimed, expected);
    assert_eq!(heir.claim(Epoch(2)).await.unwrap(), []);
    drop(held);
}

pub(crate) async fn nothing_is_claimed_from_a_node_that_lives<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), Limits::default()).await;
    let to = hub.node(Epoch(2), Limits::default()).await;
    let mut inbound = to.inbound().unwrap();
    send(&*from, Epoch(2), &frame(1, 0)).await;
    let held = within(inbound.recv()).await.unwrap();
    assert_eq!(from.claim(Epoch(2)).await.unwrap(), []);
    drop(held);
    send(&*from, Epoch(2), &frame(1, 1)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 1)]));
}

pub(crate) async fn frames_wait_while_the_bus_is_away<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), patient()).await;
    let to = hub.node(Epoch(2), patient()).await;
    let mut inbound = to.inbound().unwrap();
    send(&*from, Epoch(2), &frame(1, 0)).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![frame(1, 0)]));
    hub.set_reachable(false).await;
    for number in 1..50 {
        send(&*from, Epoch(2), &frame(1, number)).await;
    }
    assert!(inbound.try_recv().is_err());
    hub.set_reachable(true).await;
    let mut number = 1;
    while number < 50 {
        let (_, frames) = receive(&mut inbound).await;
        for received in frames {
            assert_eq!(received, frame(1, number));
            number += 1;
        }
    }
}

pub(crate) async fn frames_come_back_when_the_bus_stays_away<H: Hub>() {
    let hub = H::start(64).await;
    let limits = Limits {
        give_up: Duration::from_millis(300),
        ..Limits::default()
    };
    let from = hub.node(Epoch(1), limits.clone()).await;
    let to = hub.node(Epoch(2), limits).await;
    let mut inbound = to.inbound().unwrap();
    let mut own = from.inbound().unwrap();
    let mut seen: Vec<Frame> = Vec::new();
    hub.set_reachable(false).await;
    // What is on its way already may have arrived, and so does not come back; what follows does.
    let mut sent = 0;
    let mut returned = 0;
    while returned == 0 {
        send(&*from, Epoch(2), &frame(1, sent)).await;
        sent += 1;
        tokio::select! {
            back = own.recv() => match back.unwrap() {
                Inbound::Returned { to: Epoch(2), frames, in_doubt: false } => {
                    returned += frames.len();
                    seen.extend(frames);
                }
                other => panic!("{other:?}"),
            },
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    hub.set_reachable(true).await;
    // Each arrives, or comes back, and none does both.
    while seen.len() < sent {
        tokio::select! {
            next = inbound.recv() => match next.unwrap() {
                Inbound::Frames { frames, .. } => seen.extend(frames.read().unwrap()),
                other => panic!("{other:?}"),
            },
            back = own.recv() => match back.unwrap() {
                Inbound::Returned { frames, in_doubt: false, .. } => seen.extend(frames),
                other => panic!("{other:?}"),
            },
            () = tokio::time::sleep(PATIENCE) => panic!("{} of {sent}", seen.len()),
        }
    }
    let end = frame(1, sent);
    send(&*from, Epoch(2), &end).await;
    assert_eq!(receive(&mut inbound).await, (Epoch(1), vec![end]));
    let wanted = |number: &usize| {
        seen.iter()
            .filter(|seen| **seen == frame(1, *number))
            .count()
    };
    assert!((0..sent).all(|number| wanted(&number) == 1), "{seen:?}");
}

pub(crate) async fn a_shutdown_sends_what_is_queued<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), Limits::default()).await;
    let to = hub.node(Epoch(2), Limits::default()).await;
    let mut inbound = to.inbound().unwrap();
    let mut own = from.inbound().unwrap();
    for number in 0..1000 {
        from.send(Epoch(2), frame(1, number)).unwrap();
    }
    within(from.shutdown()).await;
    let refused = from.send(Epoch(2), frame(1, 0)).unwrap_err();
    assert_eq!(refused.reason, Reason::Closed);
    within(from.ready(Epoch(2))).await;
    assert!(
        within(own.recv()).await.is_none(),
        "nothing came back, and nothing will"
    );
    let mut number = 0;
    while number < 1000 {
        for received in receive(&mut inbound).await.1 {
            assert_eq!(received, frame(1, number));
            number += 1;
        }
    }
}

pub(crate) async fn a_shutdown_gives_back_what_it_cannot_send<H: Hub>() {
    let hub = H::start(64).await;
    let limits = Limits {
        flush_patience: Duration::from_millis(200),
        ..patient()
    };
    let from = hub.node(Epoch(1), limits.clone()).await;
    let _to = hub.node(Epoch(2), limits).await;
    let mut own = from.inbound().unwrap();
    hub.set_reachable(false).await;
    let sent: Vec<Frame> = (0..20).map(|number| frame(1, number)).collect();
    for frame in &sent {
        send(&*from, Epoch(2), frame).await;
    }
    within(from.shutdown()).await;
    let mut returned = Vec::new();
    while let Some(inbound) = within(own.recv()).await {
        match inbound {
            Inbound::Returned {
                to: Epoch(2),
                frames,
                ..
            } => returned.extend(frames),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(returned, sent);
}

pub(crate) async fn a_frame_that_is_too_large_is_refused<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), Limits::default()).await;
    let to = hub.node(Epoch(2), Limits::default()).await;
    let accounts = |count| {
        let account = BareJid::parse("ann@example.com").unwrap();
        let stanza = rookery_proto::Stanza::presence(rookery_proto::PresenceType::Available);
        Frame::Broadcast {
            stanza,
            to: vec![account; count],
        }
    };
    let refused = from.send(Epoch(2), accounts(2_000_000)).unwrap_err();
    assert!(
        matches!(refused.reason, Reason::TooLarge { bytes } if bytes > 32_000_000),
        "{refused}"
    );
    assert_eq!(refused.frame, accounts(2_000_000));
    from.send(Epoch(2), accounts(100_000)).unwrap();
    let (_, frames) = receive(&mut to.inbound().unwrap()).await;
    assert_eq!(frames, [accounts(100_000)]);
}

pub(crate) async fn an_older_node_gets_what_it_understands<H: Hub>() {
    let hub = H::start(64).await;
    let from = hub.node(Epoch(1), Limits::default()).await;
    let older = hub.older_node(Epoch(2)).await;
    let newer = hub.node(Epoch(3), Limits::default()).await;
    let account = BareJid::parse("ann@example.com").unwrap();
    let stanza = rookery_proto::Stanza::message(rookery_proto::MessageType::Chat);
    let deliver = |entry| {
        Frame::Deliver(Deliver {
            stanza: Arc::new(stanza.clone()),
            to: [account.with_resource("desk").unwrap()].into(),
            responsible: true,
            hops: 0,
            entry,
            counts: true,
        })
    };
    let entry = Some(LogRef {
        id: 7,
        archived: true,
    });
    let carbon = Frame::Carbon {
        account: account.clone(),
        stanza: stanza.clone(),
        except: Vec::new(),
    };
    for to in [Epoch(2), Epoch(3)] {
        from.send(to, deliver(entry)).unwrap();
    }
    let refused = from.send(Epoch(2), carbon.clone()).unwrap_err();
    assert_eq!(refused.reason, Reason::Unspoken);
    assert_eq!(refused.frame, carbon);
    from.send(Epoch(3), carbon.clone()).unwrap();
    let got = receive_all(&mut older.inbound().unwrap(), 1).await;
    assert_eq!(got, [deliver(None)]);
    let got = receive_all(&mut newer.inbound().unwrap(), 2).await;
    assert_eq!(got, [deliver(entry), carbon]);
}

// What the tests are written with.

/// A frame that says who sent it and which one it is.
pub(crate) fn frame(from: u64, number: usize) -> Frame {
    let account = BareJid::parse(&format!("user{number}@node{from}.example.com")).unwrap();
    Frame::AccountChanged {
        account,
        removed: false,
    }
}

/// Limits with which nothing comes back during a test.
pub(crate) fn patient() -> Limits {
    Limits {
        give_up: PATIENCE,
        ..Limits::default()
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

/// Sends, and waits for room where there is none.
pub(crate) async fn send(bus: &dyn Bus, to: Epoch, frame: &Frame) {
    while bus.send(to, frame.clone()).is_err() {
        within(bus.ready(to)).await;
    }
}

/// The next so many frames.
pub(crate) async fn receive_all(inbound: &mut Receiver<Inbound>, number: usize) -> Vec<Frame> {
    let mut all = Vec::new();
    while all.len() < number {
        all.extend(receive(inbound).await.1);
    }
    all
}

/// The next frames, which are handled thereby.
pub(crate) async fn receive(inbound: &mut Receiver<Inbound>) -> (Epoch, Vec<Frame>) {
    match within(inbound.recv()).await.expect("the bus ended") {
        Inbound::Frames { from, frames, done } => {
            drop(done);
            (from, frames.read().unwrap())
        }
        other => panic!("no frames: {other:?}"),
    }
}
