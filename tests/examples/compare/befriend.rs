//! Makes all accounts subscribers of the first one's presence.

use rookery_tests::light::Reason;

use crate::crew::{Crew, name, online};
use crate::{DOMAIN, Load, Report};

pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    let befriended = crew.alone(befriend(load));
    Report {
        figures: serde_json::json!({ "subscribers": load.accounts - 1 }),
        faults: befriended.err().into_iter().collect(),
    }
}

/// One after the other: nothing is measured here.
async fn befriend(load: &Load) -> Result<(), Reason> {
    let mut publisher = online(load, 0).await;
    let contact = format!("{}@{DOMAIN}", name(0));
    for number in 1..load.accounts {
        let mut subscriber = online(load, number).await;
        let subscribe = format!("<presence type='subscribe' to='{contact}'/>");
        subscriber.send(&subscribe).await?;
        let own = format!("{}@{DOMAIN}", name(number));
        let wait = publisher.wait_for(|stanza| is_presence(stanza, "subscribe", &own));
        wait.await.map_err(|r| format!("{own}'s request: {r}"))?;
        let yes = format!("<presence type='subscribed' to='{own}'/>");
        publisher.send(&yes).await?;
        let wait = subscriber.wait_for(|stanza| is_presence(stanza, "subscribed", &contact));
        wait.await
            .map_err(|r| format!("the answer to {own}: {r}"))?;
        subscriber.send("</stream:stream>").await?;
    }
    Ok(())
}

fn is_presence(stanza: &str, kind: &str, from: &str) -> bool {
    let tag = stanza.split('>').next().unwrap_or_default();
    let has = |name: &str, value: &str| {
        ['\'', '"']
            .iter()
            .any(|quote| tag.contains(&format!(" {name}={quote}{value}{quote}")))
    };
    tag.starts_with("<presence") && has("type", kind) && has("from", from)
}
