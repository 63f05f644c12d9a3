//! What every directory must do. Each implementation's test file runs all of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rookery_directory::{Directory, Error, Event, Events, Registered, SessionRow};
use rookery_proto::jid::{BareJid, FullJid};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Something that nodes can join.
#[async_trait]
pub(crate) trait Cluster {
    async fn start() -> Self;
    /// A node, whose death is noticed soon when it is dropped.
    async fn node(&self, name: &str) -> Arc<dyn Directory>;
    /// All rows are lost.
    async fn lose_data(&self);
}

/// One test for each function of the suite; or, with `in turn`, all of them one after the other,
/// each with what the expression gives.
macro_rules! directory_suite {
    (@each [$cluster:ty] $($test:ident,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                use suite::Cluster as _;
                suite::$test(&<$cluster>::start().await).await;
            }
        )*
    };
    (@turn [$next:expr] $($test:ident,)*) => {
        $( suite::$test(&$next).await; )*
    };
    (in turn: $next:expr) => {
        suite::directory_suite! { @all turn [$next] }
    };
    ($cluster:ty) => {
        suite::directory_suite! { @all each [$cluster] }
    };
    (@all $how:ident [$($with:tt)*]) => {
        suite::directory_suite! { @$how [$($with)*]
            a_session_is_found_with_what_was_written_last,
            registering_again_displaces_the_older_session,
            a_displaced_session_cannot_write_or_remove,
            the_resources_of_an_account_are_apart,
            of_sessions_that_register_at_the_same_time_one_is_left,
            every_node_hears_of_a_change,
            a_dead_nodes_sessions_are_collected_by_one_survivor,
            what_a_survivor_did_not_finish_is_collected_by_another,
            a_node_that_leaves_is_lost_like_one_that_dies,
            a_node_that_starts_later_collects_what_nobody_did,
            sessions_taken_over_before_the_death_are_not_collected,
            many_sessions_are_collected_in_batches,
            sessions_are_published_again_after_a_loss,
            an_update_after_a_loss_writes_the_row_again,
        }
    };
}
pub(crate) use directory_suite;

pub(crate) async fn a_session_is_found_with_what_was_written_last(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let jid = full("ann@example.com/desk");
    let Registered {
        sequence,
        displaced,
    } = one.register(&jid).await.unwrap();
    assert_eq!(displaced, None);
    let mut row = bound(&*one, &jid, sequence);
    assert_eq!(
        rows(&*two, "ann@example.com").await,
        std::slice::from_ref(&row)
    );

    row.available = true;
    row.priority = -3;
    row.presence = Some("<presence><priority>-3</priority></presence>".into());
    assert!(one.update(&row).await.unwrap());
    assert_eq!(
        rows(&*two, "ann@example.com").await,
        std::slice::from_ref(&row)
    );

    row.available = false;
    row.presence = None;
    assert!(one.update(&row).await.unwrap());
    assert_eq!(
        rows(&*two, "ann@example.com").await,
        std::slice::from_ref(&row)
    );

    assert!(one.unregister(&jid, sequence).await.unwrap());
    assert_eq!(rows(&*two, "ann@example.com").await, []);
    assert!(!one.unregister(&jid, sequence).await.unwrap());
}

pub(crate) async fn registering_again_displaces_the_older_session(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let jid = full("ann@example.com/desk");
    let first = one.register(&jid).await.unwrap();
    let second = one.register(&jid).await.unwrap();
    assert_eq!(second.displaced, Some(bound(&*one, &jid, first.sequence)));
    let third = two.register(&jid).await.unwrap();
    assert_eq!(third.displaced, Some(bound(&*one, &jid, second.sequence)));
    assert!(first.sequence < second.sequence && second.sequence < third.sequence);
    assert_eq!(
        rows(&*one, "ann@example.com").await,
        [bound(&*two, &jid, third.sequence)]
    );
    assert!(two.unregister(&jid, third.sequence).await.unwrap());
    let fourth = one.register(&jid).await.unwrap();
    assert!(
        third.sequence < fourth.sequence,
        "also when nothing is left of the one before"
    );
}

pub(crate) async fn a_displaced_session_cannot_write_or_remove(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let jid = full("ann@example.com/desk");
    let old = one.register(&jid).await.unwrap();
    let new = two.register(&jid).await.unwrap();
    let row = SessionRow {
        available: true,
        ..bound(&*one, &jid, old.sequence)
    };
    assert!(!one.update(&row).await.unwrap());
    assert!(!one.unregister(&jid, old.sequence).await.unwrap());
    assert!(
        !one.unregister(&jid, new.sequence).await.unwrap(),
        "the epoch counts, too"
    );
    assert_eq!(
        rows(&*one, "ann@example.com").await,
        [bound(&*two, &jid, new.sequence)]
    );
}

pub(crate) async fn the_resources_of_an_account_are_apart(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let desk = full("ann@example.com/desk");
    let phone = full("ann@example.com/phone");
    let long = full(&format!("ann@example.com/{}", "é".repeat(500)));
    let mut expected = HashMap::new();
    for (node, jid) in [(&one, &desk), (&two, &phone), (&one, &long)] {
        let Registered { sequence, .. } = node.register(jid).await.unwrap();
        let mut row = bound(&**node, jid, sequence);
        row.presence = Some(format!("<presence id='{}'/>", jid.resource()).into());
        row.available = true;
        assert!(node.update(&row).await.unwrap());
        expected.insert(jid.clone(), row);
    }
    let found = rows(&*one, "ann@example.com").await;
    assert_eq!(by_jid(found), expected);

    let row = expected.remove(&phone).unwrap();
    assert!(two.unregister(&phone, row.sequence).await.unwrap());
    assert_eq!(by_jid(rows(&*one, "ann@example.com").await), expected);

    let accounts = ["nobody@example.com", "ann@example.com", "bob@example.com"].map(bare);
    let found = one.lookup(&accounts).await.unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0]);
    assert_eq!(
        one.lookup(&[]).await.unwrap(),
        Vec::<Vec<SessionRow>>::new()
    );
}

pub(crate) async fn of_sessions_that_register_at_the_same_time_one_is_left(cluster: &impl Cluster) {
    const TIMES: usize = 40;
    let nodes = [
        cluster.node("one").await,
        cluster.node("two").await,
        cluster.node("three").await,
    ];
    let jid = full("ann@example.com/desk");
    let attempts = (0..TIMES).map(|at| {
        let (node, jid) = (nodes[at % nodes.len()].clone(), jid.clone());
        tokio::spawn(async move {
            let registered = node.register(&jid).await.unwrap();
            // What the one who was displaced does sooner or later, in any order with the rest.
            if let Some(old) = &registered.displaced
                && old.epoch == node.this_node().epoch
            {
                assert!(!node.unregister(&jid, old.sequence).await.unwrap());
            }
            (
                bound(&*node, &jid, registered.sequence),
                registered.displaced,
            )
        })
    });
    let mut owners = HashSet::new();
    let mut displaced = HashSet::new();
    for attempt in attempts.collect::<Vec<_>>() {
        let (owner, old) = attempt.await.unwrap();
        assert!(owners.insert((owner.sequence, owner.epoch)));
        if let Some(old) = old {
            assert!(
                displaced.insert((old.sequence, old.epoch)),
                "displaced twice"
            );
        }
    }
    let left = rows(&*nodes[0], "ann@example.com").await;
    assert_eq!(left.len(), 1);
    let last = owners.iter().max().unwrap();
    assert_eq!((left[0].sequence, left[0].epoch), *last);
    assert_eq!(owners.difference(&displaced).collect::<Vec<_>>(), [last]);
}

pub(crate) async fn every_node_hears_of_a_change(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let mut heard = [one.events().unwrap(), two.events().unwrap()];
    assert!(one.events().is_none(), "taken");
    let jid = full("ann@example.com/desk");
    let sequence = one.register(&jid).await.unwrap().sequence;
    changed(&mut heard, "ann@example.com").await;
    assert!(one.update(&bound(&*one, &jid, sequence)).await.unwrap());
    changed(&mut heard, "ann@example.com").await;
    assert!(one.unregister(&jid, sequence).await.unwrap());
    changed(&mut heard, "ann@example.com").await;
}

pub(crate) async fn a_dead_nodes_sessions_are_collected_by_one_survivor(cluster: &impl Cluster) {
    let dead = cluster.node("dead").await;
    let survivors = [cluster.node("one").await, cluster.node("two").await];
    let mut events = survivors.each_ref().map(|node| node.events().unwrap());
    let node = dead.this_node().clone();
    let jid = full("ann@example.com/desk");
    let sequence = dead.register(&jid).await.unwrap().sequence;
    let mut row = bound(&*dead, &jid, sequence);
    row.available = true;
    row.presence = Some("<presence/>".into());
    assert!(dead.update(&row).await.unwrap());
    assert_eq!(survivors[1].nodes().len(), 3);
    drop(dead);

    for events in &mut events {
        expect(events, |event| {
            *event == Event::NodeLost { node: node.clone() }
        })
        .await;
    }
    let (heir, collected) =
        first(&mut events, |event| matches!(event, Event::Claimed { .. })).await;
    assert_eq!(collected, Event::Claimed { node: node.clone() });
    let collected = expect(&mut events[heir], |event| {
        matches!(event, Event::Collect { .. })
    })
    .await;
    assert_eq!(
        collected,
        Event::Collect {
            node: node.clone(),
            rows: vec![row.clone()]
        }
    );
    for survivor in &survivors {
        assert_eq!(
            rows(&**survivor, "ann@example.com").await,
            [],
            "invisible already"
        );
        assert_eq!(survivor.nodes().len(), 2);
    }
    survivors[heir]
        .collected(&node, std::slice::from_ref(&row))
        .await
        .unwrap();
    changed(&mut events, "ann@example.com").await;

    let next = survivors[0].register(&jid).await.unwrap();
    assert_eq!(next.displaced, None, "the row is gone");
    let other = survivors[1 - heir].collected(&node, &[row]).await;
    assert!(
        matches!(other, Err(Error::ClaimLost(epoch)) if epoch == node.epoch),
        "{other:?}"
    );
    assert!(
        events[1 - heir]
            .try_recv()
            .is_none_or(|event| matches!(event, Event::Changed(_)))
    );
}

pub(crate) async fn what_a_survivor_did_not_finish_is_collected_by_another(cluster: &impl Cluster) {
    let dead = cluster.node("dead").await;
    let mut survivors = vec![cluster.node("one").await, cluster.node("two").await];
    let mut events: Vec<Events> = survivors
        .iter()
        .map(|node| node.events().unwrap())
        .collect();
    let node = dead.this_node().clone();
    let jid = full("ann@example.com/desk");
    let sequence = dead.register(&jid).await.unwrap().sequence;
    let row = bound(&*dead, &jid, sequence);
    drop(dead);
    let is_collect = |event: &Event| matches!(event, Event::Collect { .. });
    let (heir, _) = first(&mut events, is_collect).await;
    drop(survivors.remove(heir));
    let mut events = events.remove(1 - heir);
    let is_the_same = |event: &Event| {
        *event
            == Event::Collect {
                node: node.clone(),
                rows: vec![row.clone()],
            }
    };
    expect(&mut events, is_the_same).await;
    survivors[0]
        .collected(&node, std::slice::from_ref(&row))
        .await
        .unwrap();
    assert_eq!(survivors[0].register(&jid).await.unwrap().displaced, None);
}

pub(crate) async fn a_node_that_leaves_is_lost_like_one_that_dies(cluster: &impl Cluster) {
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let mut events = two.events().unwrap();
    let mut own = one.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = one.register(&jid).await.unwrap().sequence;
    let row = bound(&*one, &jid, sequence);
    one.shutdown().await;
    let closed = async { while own.recv().await.is_some() {} };
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("its own events end");
    assert!(matches!(
        one.register(&jid).await,
        Err(Error::Unavailable(_))
    ));
    let node = one.this_node().clone();
    expect(&mut events, |event| {
        *event == Event::NodeLost { node: node.clone() }
    })
    .await;
    expect(&mut events, |event| {
        *event == Event::Claimed { node: node.clone() }
    })
    .await;
    let is_collect = |event: &Event| {
        *event
            == Event::Collect {
                node: node.clone(),
                rows: vec![row.clone()],
            }
    };
    expect(&mut events, is_collect).await;
}

pub(crate) async fn a_node_that_starts_later_collects_what_nobody_did(cluster: &impl Cluster) {
    let dead = cluster.node("dead").await;
    let node = dead.this_node().clone();
    let jid = full("ann@example.com/desk");
    let sequence = dead.register(&jid).await.unwrap().sequence;
    let row = bound(&*dead, &jid, sequence);
    drop(dead);
    let later = cluster.node("later").await;
    let mut events = later.events().unwrap();
    let is_collect = |event: &Event| {
        *event
            == Event::Collect {
                node: node.clone(),
                rows: vec![row.clone()],
            }
    };
    expect(&mut events, is_collect).await;
}

pub(crate) async fn sessions_taken_over_before_the_death_are_not_collected(cluster: &impl Cluster) {
    let (dead, survivor) = (cluster.node("dead").await, cluster.node("survivor").await);
    let mut events = survivor.events().unwrap();
    let node = dead.this_node().clone();
    let (desk, phone) = (full("ann@example.com/desk"), full("ann@example.com/phone"));
    dead.register(&desk).await.unwrap();
    let sequence = dead.register(&phone).await.unwrap().sequence;
    let left = bound(&*dead, &phone, sequence);
    let taken = survivor.register(&desk).await.unwrap();
    drop(dead);
    let is_collect = |event: &Event| {
        *event
            == Event::Collect {
                node: node.clone(),
                rows: vec![left.clone()],
            }
    };
    expect(&mut events, is_collect).await;
    survivor.collected(&node, &[left]).await.unwrap();
    let found = rows(&*survivor, "ann@example.com").await;
    assert_eq!(found, [bound(&*survivor, &desk, taken.sequence)]);
}

pub(crate) async fn many_sessions_are_collected_in_batches(cluster: &impl Cluster) {
    const SESSIONS: usize = 700;
    let (dead, survivor) = (cluster.node("dead").await, cluster.node("survivor").await);
    let mut events = survivor.events().unwrap();
    let node = dead.this_node().clone();
    let mut expected = HashSet::new();
    for at in 0..SESSIONS {
        let jid = full(&format!("user{at}@example.com/desk"));
        dead.register(&jid).await.unwrap();
        expected.insert(jid);
    }
    drop(dead);
    while !expected.is_empty() {
        let event = expect(&mut events, |event| matches!(event, Event::Collect { .. })).await;
        let Event::Collect { rows, .. } = event else {
            unreachable!()
        };
        assert!(rows.len() <= 256);
        for row in &rows {
            assert!(expected.remove(&row.jid), "{} comes twice", row.jid);
        }
        survivor.collected(&node, &rows).await.unwrap();
    }
}

pub(crate) async fn sessions_are_published_again_after_a_loss(cluster: &impl Cluster) {
    const SESSIONS: usize = 600;
    let (one, two) = (cluster.node("one").await, cluster.node("two").await);
    let mut events = one.events().unwrap();
    let mut known = Vec::new();
    for at in 0..SESSIONS {
        let jid = full(&format!("user{at}@example.com/desk"));
        let sequence = one.register(&jid).await.unwrap().sequence;
        let mut row = bound(&*one, &jid, sequence);
        row.available = true;
        row.presence = Some("<presence/>".into());
        known.push(row);
    }
    cluster.lose_data().await;
    expect(&mut events, |event| *event == Event::FlushCache).await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    // Meanwhile one resource binds elsewhere, and one session ends.
    let taken = eventually(|| two.register(&known[7].jid)).await;
    let ended = known[8].clone();
    assert!(
        !one.unregister(&ended.jid, ended.sequence).await.unwrap(),
        "its row is gone"
    );
    let published = known.iter().filter(|row| **row != ended).cloned().collect();
    let lost = one.republish(published).await.unwrap();
    assert_eq!(lost, [known[7].jid.clone()]);

    let accounts: Vec<BareJid> = known.iter().map(|row| row.jid.to_bare()).collect();
    let found = two.lookup(&accounts).await.unwrap();
    for (at, (found, row)) in found.into_iter().zip(known).enumerate() {
        match at {
            7 => assert_eq!(found, [bound(&*two, &row.jid, taken.sequence)]),
            8 => assert_eq!(found, []),
            _ => assert_eq!(found, [row]),
        }
    }
}

pub(crate) async fn an_update_after_a_loss_writes_the_row_again(cluster: &impl Cluster) {
    let one = cluster.node("one").await;
    let mut events = one.events().unwrap();
    let jid = full("ann@example.com/desk");
    let sequence = one.register(&jid).await.unwrap().sequence;
    cluster.lose_data().await;
    expect(&mut events, |event| *event == Event::DataLost).await;
    let row = SessionRow {
        available: true,
        ..bound(&*one, &jid, sequence)
    };
    assert!(eventually(|| one.update(&row)).await);
    assert_eq!(rows(&*one, "ann@example.com").await, [row]);
}

// What the tests are written with.

pub(crate) fn full(jid: &str) -> FullJid {
    FullJid::parse(jid).unwrap()
}

pub(crate) fn bare(jid: &str) -> BareJid {
    BareJid::parse(jid).unwrap()
}

/// The row of a session that was just bound.
pub(crate) fn bound(node: &dyn Directory, jid: &FullJid, sequence: u64) -> SessionRow {
    let epoch = node.this_node().epoch;
    SessionRow {
        jid: jid.clone(),
        epoch,
        sequence,
        priority: 0,
        available: false,
        presence: None,
    }
}

pub(crate) async fn rows(node: &dyn Directory, account: &str) -> Vec<SessionRow> {
    node.lookup(&[bare(account)]).await.unwrap().remove(0)
}

fn by_jid(rows: Vec<SessionRow>) -> HashMap<FullJid, SessionRow> {
    rows.into_iter().map(|row| (row.jid.clone(), row)).collect()
}

/// The next event that is wanted; others are skipped.
pub(crate) async fn expect(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    let found = async {
        loop {
            let event = events.recv().await.expect("events end");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .expect("the event does not come")
}

/// Who of several gets the wanted event first.
async fn first(events: &mut [Events], wanted: impl Fn(&Event) -> bool) -> (usize, Event) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        for (at, events) in events.iter_mut().enumerate() {
            while let Some(event) = events.try_recv() {
                if wanted(&event) {
                    return (at, event);
                }
            }
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nobody gets the event"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn changed(events: &mut [Events], account: &str) {
    let account = bare(account);
    for events in events {
        let names = |event: &Event| matches!(event, Event::Changed(all) if all.contains(&account));
        expect(events, names).await;
    }
}

/// Repeats an operation until it is available.
pub(crate) async fn eventually<T, F>(operation: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match operation().await {
            Ok(value) => return value,
            Err(Error::Unavailable(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
