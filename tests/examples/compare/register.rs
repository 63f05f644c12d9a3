//! Makes the accounts, by in-band registration (XEP-0077).

use std::net::Ipv4Addr;

use rookery_tests::light::{Light, Reason};

use crate::crew::{AT_ONCE, Crew, THREADS, is_iq, name, several};
use crate::{Load, PASSWORD, Report};

pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    let made = crew.work(crew.deal(0..load.accounts), async |numbers| {
        let register = |number| {
            let load = load.clone();
            async move { register(&load, number).await }
        };
        several(numbers, AT_ONCE / THREADS, register).await
    });
    let failures = made.into_iter().flatten().filter_map(Result::err);
    Report {
        figures: serde_json::json!({ "accounts": load.accounts }),
        faults: failures.collect(),
    }
}

async fn register(load: &Load, number: usize) -> Result<(), Reason> {
    let mut light = Light::connect(load.address, Ipv4Addr::LOCALHOST, &load.tls).await?;
    light
        .send(&format!(
            "<iq type='set' id='register'><query xmlns='jabber:iq:register'>\
             <username>{}</username><password>{PASSWORD}</password></query></iq>",
            name(number)
        ))
        .await?;
    let mut answer = String::new();
    let answered = light.wait_for(|stanza| {
        let is_answer = is_iq(stanza, "register");
        if is_answer {
            stanza.clone_into(&mut answer);
        }
        is_answer
    });
    answered.await?;
    let tag = answer.split('>').next().unwrap_or_default();
    if tag.contains("result") {
        Ok(())
    } else {
        Err(format!("{}: {answer}", name(number)))
    }
}
