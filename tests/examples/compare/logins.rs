//! Logins: from the connection to the bound resource.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_tests::light::{Light, Manner, Proof, Reason};

use crate::crew::{AT_ONCE, Crew, THREADS, log_in, several};
use crate::usage::{Meter, add_latencies};
use crate::{Load, PASSWORD, Report};

/// What one of the logins took and when it was done.
type Login = Result<(Duration, Instant), Reason>;

pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    // Clients keep the key that they have derived from their password.
    let keys = crew.work(crew.deal(0..load.accounts), async |numbers| {
        let learn = |number| {
            let load = load.clone();
            async move { (number, learn_key(&load, number).await) }
        };
        several(numbers, AT_ONCE / THREADS, learn).await
    });
    let mut cipher = None;
    let mut proofs = Vec::new();
    for hand in keys {
        let mut with_proofs = Vec::new();
        for (number, (key, with)) in hand {
            cipher = with;
            let proof = if load.plain {
                Proof::Plain(PASSWORD.into())
            } else {
                Proof::Key(key)
            };
            with_proofs.push((number, proof));
        }
        proofs.push(with_proofs);
    }

    let meter = Meter::start(load.process);
    let logins = crew.work(proofs, async |proofs| logins(load, proofs).await);
    let logins: Vec<Login> = logins.into_iter().flatten().collect();
    let (mut latencies, mut faults, mut end) = (Vec::new(), Vec::new(), meter.start);
    for login in logins {
        match login {
            Ok((latency, at)) => {
                latencies.push(latency);
                end = end.max(at);
            }
            Err(reason) => faults.push(reason),
        }
    }
    let mut figures = meter.figures(latencies.len(), end);
    add_latencies(&mut figures, latencies);
    figures["cipher"] = cipher.into();
    Report { figures, faults }
}

async fn learn_key(load: &Load, number: usize) -> (Arc<[u8]>, Option<String>) {
    let manner = Manner {
        tls: load.tls.clone(),
        proof: Proof::Password(PASSWORD.into()),
    };
    let learning = async {
        let mut light = log_in(load, number, &manner).await?;
        light.bind("first").await?;
        let known = (light.client_key.clone().expect("SCRAM"), light.cipher());
        close(light).await;
        Ok::<_, Reason>(known)
    };
    let known = learning.await;
    known.unwrap_or_else(|reason| panic!("account {number} cannot log in: {reason}"))
}

/// A thread's part of them, over its accounts in turn.
async fn logins(load: &Load, proofs: Vec<(usize, Proof)>) -> Vec<Login> {
    let proofs: Rc<[(usize, Proof)]> = proofs.into();
    let next = Rc::new(Cell::new(0));
    let count = load.count / THREADS;
    let one_after_the_other = |_| {
        let (load, proofs, next) = (load.clone(), Rc::clone(&proofs), Rc::clone(&next));
        async move {
            let mut done = Vec::new();
            while next.get() < count {
                let turn = next.replace(next.get() + 1);
                let (number, proof) = &proofs[turn % proofs.len()];
                done.push(login(&load, *number, proof.clone(), turn).await);
            }
            done
        }
    };
    let clients = (0..AT_ONCE / THREADS).collect();
    let done = several(clients, AT_ONCE / THREADS, one_after_the_other).await;
    done.into_iter().flatten().collect()
}

async fn login(load: &Load, number: usize, proof: Proof, turn: usize) -> Login {
    let manner = Manner {
        tls: load.tls.clone(),
        proof,
    };
    let start = Instant::now();
    let mut light = log_in(load, number, &manner).await?;
    light.bind(&format!("turn{turn}")).await?;
    let end = Instant::now();
    // The next login does not wait for the end of this stream.
    tokio::task::spawn_local(close(light));
    Ok((end - start, end))
}

/// Ends the stream and waits for the server to do so, too.
async fn close(mut light: Light) {
    if light.send("</stream:stream>").await.is_ok() {
        while light.read().await.is_ok() {}
    }
}
