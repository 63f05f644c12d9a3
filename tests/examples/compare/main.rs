//! The load of the comparison with other servers (docs/comparison.md): `tests/comparison/run` starts the
//! servers and calls it.
//!
//! It speaks plain XMPP, so that it measures any server in the same way, and costs little, so that what it
//! measures is the server: two threads, no XML parser. One run is one kind of load. What it found is printed
//! as one line of JSON. Ends with status 1 if something was lost, doubled, out of order or refused.

mod befriend;
mod chat;
mod crew;
mod idle;
mod logins;
mod presence;
mod register;
mod usage;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rookery_tests::light::Tls;
use rookery_tests::tls;
use rustls::client::Resumption;

use crew::Crew;

const USAGE: &str = "\
usage: compare register|befriend|logins|chat|presence|idle --address ADDRESS [--tls yes|no]
               [--login scram|plain] [--process NUMBER] [--accounts NUMBER] [--count NUMBER]
               [--window NUMBER] [--seconds SECONDS]";

/// The domain of the accounts.
const DOMAIN: &str = "localhost";
/// Everybody's password.
const PASSWORD: &str = "secret of all";

/// What a run is made of.
#[derive(Clone)]
struct Load {
    address: SocketAddr,
    tls: Tls,
    /// Logins by PLAIN instead of SCRAM-SHA-1.
    plain: bool,
    /// The server's process, whose children count as well.
    process: Option<u32>,
    /// Accounts that take part: `user0`, `user1`…
    accounts: usize,
    /// How often something is done.
    count: usize,
    /// How many may be under way.
    window: usize,
    time: Duration,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let kind = words.next().unwrap_or_default();
    let load = match load(words) {
        Ok(load) => load,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let crew = Crew::new();
    let report = match kind.as_str() {
        "register" => register::run(&load, &crew),
        "befriend" => befriend::run(&load, &crew),
        "logins" => logins::run(&load, &crew),
        "chat" => chat::run(&load, &crew),
        "presence" => presence::run(&load, &crew),
        "idle" => idle::run(&load, &crew),
        _ => {
            eprintln!("{kind} is unknown\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{}", report.figures);
    for fault in &report.faults {
        eprintln!("{kind}: {fault}");
    }
    if report.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a run has found.
struct Report {
    figures: serde_json::Value,
    /// What should not have happened.
    faults: Vec<String>,
}

fn load(mut words: impl Iterator<Item = String>) -> Result<Load, String> {
    let (mut address, mut process, mut tls, mut plain) = (None, None, true, false);
    let (mut accounts, mut count, mut window) = (200, 1000, 50);
    let mut time = Duration::from_secs(5);
    while let Some(option) = words.next() {
        let value = words.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--address" => address = Some(number(&option, &value)?),
            "--tls" => tls = value == "yes",
            "--login" => plain = value == "plain",
            "--process" => process = Some(number(&option, &value)?),
            "--accounts" => accounts = number(&option, &value)?,
            "--count" => count = number(&option, &value)?,
            "--window" => window = number(&option, &value)?,
            "--seconds" => time = Duration::from_secs_f64(number(&option, &value)?),
            _ => return Err(format!("{option} is unknown")),
        }
    }
    if accounts < 2 || count == 0 || window == 0 {
        return Err("there must be two accounts and something to do".to_owned());
    }
    let tls = if tls {
        let mut config = (*tls::client_config(&[&rustls::version::TLS13], &[])).clone();
        // Each connection pays for a whole handshake, also with servers that hand out tickets.
        config.resumption = Resumption::disabled();
        Tls::Direct(Arc::new(config))
    } else {
        Tls::Never
    };
    Ok(Load {
        address: address.ok_or("--address is missing")?,
        tls,
        plain,
        process,
        accounts,
        count,
        window,
        time,
    })
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{option}: {value} is not what it takes"))
}
