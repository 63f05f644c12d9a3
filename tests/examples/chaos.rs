//! Chaos by one command: a cluster whose parts die and come back under hundreds of clients, and what became
//! of their messages.
//!
//! ```sh
//! cargo build --workspace && cargo run -p rookery-tests --example chaos -- --seed 7 --duration 600 --clients 300
//! ```
//!
//! The same seed gives the same events in the same order; how they meet the traffic is up to the machine.
//! Ends with status 1 if a message was lost or doubled, a request was answered twice, a contact saw a client flap
//! while nodes were drained or upgraded, or the nodes' counters do not balance. As root, links are cut in a
//! network of their own; otherwise through proxies.

use std::process::ExitCode;
use std::time::Duration;

use rookery_tests::chaos::events::Deck;
use rookery_tests::chaos::{Scenario, run};

const USAGE: &str = "\
usage: chaos [--seed NUMBER] [--duration SECONDS] [--clients NUMBER] [--nodes NUMBER]
             [--rate MESSAGES_A_SECOND] [--only EVENT,EVENT] [--logs DIRECTORY]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let scenario = match scenario(std::env::args().skip(1)) {
        Ok(scenario) => scenario,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let report = run(&scenario).await;
    println!("\n{report}");
    let failures = report.failures();
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    if failures.is_empty() {
        println!("nothing was lost");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn scenario(mut words: impl Iterator<Item = String>) -> Result<Scenario, String> {
    let mut scenario = Scenario {
        duration: Duration::from_mins(10),
        clients: 300,
        rate: 200.0,
        told: true,
        ..Scenario::default()
    };
    while let Some(option) = words.next() {
        let value = words.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--seed" => scenario.seed = number(&option, &value)?,
            "--duration" => scenario.duration = Duration::from_secs(number(&option, &value)?),
            "--clients" => scenario.clients = number(&option, &value)?,
            "--nodes" => scenario.nodes = number(&option, &value)?,
            "--rate" => scenario.rate = number(&option, &value)?,
            "--only" => {
                scenario.only = value.split(',').map(str::to_owned).collect();
                Deck::of(&scenario.only)?;
            }
            "--logs" => scenario.logs = Some(value.into()),
            _ => return Err(format!("{option} is unknown")),
        }
    }
    if scenario.clients < 2 || scenario.nodes == 0 || scenario.rate <= 0.0 {
        return Err("there must be two clients, a node, and messages".to_owned());
    }
    Ok(scenario)
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{option}: {value} is no number"))
}
