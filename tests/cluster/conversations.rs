//! What several suites have their clients do.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rookery_tests::prelude::*;
use rookery_tests::{eventually, within};

/// Sends numbered messages.
pub(crate) async fn send_numbers(from: &mut Client, to: &str, numbers: Range<u32>) {
    for number in numbers {
        from.send(chat_to(to, &number.to_string())).await;
    }
}

/// Expects numbered messages, in order, and nothing between them.
pub(crate) async fn expect_numbers(client: &mut Client, from: &str, numbers: Range<u32>) {
    for number in numbers {
        client.expect(chat_from(from, &number.to_string())).await;
    }
}

/// Whether a node has a connection to Redis for a purpose.
pub(crate) async fn is_connected(node: &TestServer, purpose: &str) -> bool {
    let labels = format!(r#"purpose="{purpose}""#);
    node.metric("rookery_redis_connected", &labels).await > 0.5
}

/// Whether load balancers should send clients to a node.
pub(crate) async fn ready(node: &TestServer) -> bool {
    node.admin("/readyz").await.status == 200
}

/// Waits until they should.
pub(crate) async fn becomes_ready(node: &TestServer) {
    eventually("the node to be ready", || ready(node)).await;
}

/// Waits until they should not.
pub(crate) async fn becomes_unready(node: &TestServer) {
    eventually("the node to be not ready", async || !ready(node).await).await;
}

/// A message each way.
pub(crate) async fn talk(one: &mut Client, other: &mut Client, body: &str) {
    one.send(chat_to(other.jid(), body)).await;
    other.expect(chat_from(one.jid(), body)).await;
    other.send(chat_to(one.jid(), body)).await;
    one.expect(chat_from(other.jid(), body)).await;
}

/// Asks a resource, and has it answer.
pub(crate) async fn ask(one: &mut Client, other: &mut Client, id: &str) {
    let question = get(Element::new("ping", PING)).with_attr("to", other.jid());
    one.send(question.with_attr("id", id)).await;
    other.expect(Pattern::new("iq").kind("get").id(id)).await;
    let answer = element("iq")
        .with_attr("type", "result")
        .with_attr("id", id);
    other.send(answer.with_attr("to", one.jid())).await;
    one.expect(result_of(id)).await;
}

/// Asks until an answer comes: right after a cut requests may still be refused or lost.
pub(crate) async fn reach_each_other(one: &mut Client, other: &mut Client) {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let what = format!("{} to reach {}", one.jid(), other.jid());
    within(&what, async {
        loop {
            pace.tick().await;
            // Of its own, so that a late answer is not taken for another one.
            let id = format!("attempt-{}", ATTEMPTS.fetch_add(1, Ordering::Relaxed));
            let asked = tokio::time::timeout(Duration::from_secs(2), ask_once(one, other, &id));
            if matches!(asked.await, Ok(true)) {
                return;
            }
            other.allow(Pattern::new("iq").kind("get").id(&id));
            one.allow(Pattern::new("iq").id(&id));
        }
    })
    .await;
}

/// One request and its answer; false if it was refused.
pub(crate) async fn ask_once(one: &mut Client, other: &mut Client, id: &str) -> bool {
    let question = get(Element::new("ping", PING)).with_attr("to", other.jid());
    one.send(question.with_attr("id", id)).await;
    tokio::select! {
        asked = other.expect(Pattern::new("iq").kind("get").id(id)) => {
            let answer = element("iq").with_attr("type", "result").with_attr("id", id);
            other.send(answer.with_attr("to", asked.attr("from").expect("stamped"))).await;
        }
        _ = one.expect(Pattern::new("iq").kind("error").id(id)) => return false,
    }
    one.expect(result_of(id)).await;
    true
}

/// The condition of the `<failure/>` that a login gets.
pub(crate) async fn login_failure(node: &TestServer, name: &str) -> String {
    let login = node.login(name).await;
    let (mut wire, features) = login.connect(node.address("c2s")).await;
    let failure = login.try_authenticate(&mut wire, &features).await;
    assert!(failure.is("failure", SASL), "{failure:?}");
    let condition = failure.children().next().expect("a condition");
    condition.name().to_owned()
}
