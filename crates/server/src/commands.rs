//! Commands that are calls of the running server's API: rosters, messages, the log, the configuration, the
//! certificate, what is known of an account.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{encode, with_query};
use crate::cli::{CertificateCommand, LogCommand, MessageCommand, RosterCommand};
use crate::columns::{JsonLines, write_columns};
use crate::config::Config;
use crate::control;

/// A call of the API of the server that runs on the configured data directory.
pub(crate) async fn call(
    config: &Config,
    method: &str,
    path: String,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    control::call(&config.server.data_dir, method, path, body).await
}

/// Complains about nodes that did not answer. Returns whether there are any.
pub(crate) fn complain(answer: &Value) -> bool {
    let nodes = answer["unanswered"].as_array();
    for node in nodes.into_iter().flatten() {
        eprintln!(
            "rookery: node {} {}",
            text(&node["node"]),
            text(&node["reason"])
        );
    }
    nodes.is_some_and(|nodes| !nodes.is_empty())
}

/// The exit status of an answer that may lack what some nodes have.
pub(crate) fn code(answer: &Value) -> ExitCode {
    if complain(answer) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A text of an answer; empty if it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of an answer.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `rookery user show`
pub(crate) async fn show_user(
    config: &Config,
    address: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/users/{}", encode(address));
    let user = call(config, "GET", path, None).await?;
    if json {
        println!("{user}");
        return Ok(code(&user));
    }
    println!("{}", text(&user["jid"]));
    println!("sessions: {}", user["sessions"]);
    println!("contacts: {}", user["contacts"]);
    match (user["last"]["at"].as_str(), user["sessions"].as_u64()) {
        (Some(at), _) => println!("last here until: {at}"),
        (None, Some(0)) => println!("last here until: never"),
        (None, _) => {}
    }
    Ok(code(&user))
}

/// `rookery roster …`
pub(crate) async fn roster(config: &Config, command: RosterCommand) -> anyhow::Result<ExitCode> {
    let of = |address: &str| format!("/api/v1/users/{}/roster", encode(address));
    match command {
        RosterCommand::List { address, json } => {
            let roster = call(config, "GET", of(&address), None).await?;
            let mut out = io::stdout().lock();
            if json {
                let mut lines = JsonLines::new(true);
                for contact in items(&roster["contacts"]) {
                    lines.item(&mut out, contact)?;
                }
                lines.end(&mut out)?;
            } else {
                write_contacts(&mut out, &roster["contacts"])?;
            }
        }
        RosterCommand::Set {
            address,
            contact,
            name,
            group,
        } => {
            let path = format!("{}/{}", of(&address), encode(&contact));
            let body = json!({ "name": name, "groups": group });
            let item = call(config, "PUT", path, Some(body)).await?;
            println!("{} is in the roster of {address}", text(&item["jid"]));
        }
        RosterCommand::Remove { address, contact } => {
            let path = format!("{}/{}", of(&address), encode(&contact));
            call(config, "DELETE", path, None).await?;
            println!("removed {contact} from the roster of {address}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_contacts(out: &mut impl Write, contacts: &Value) -> io::Result<()> {
    let head = ["JID", "SUBSCRIPTION", "NAME", "GROUPS"].map(String::from);
    let rows = items(contacts).map(|contact| {
        let groups: Vec<_> = items(&contact["groups"]).map(text).collect();
        [
            text(&contact["jid"]).into(),
            text(&contact["subscription"]).into(),
            text(&contact["name"]).into(),
            groups.join(", "),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    write_columns(out, &rows)
}

/// `rookery message …`
pub(crate) async fn message(config: &Config, command: MessageCommand) -> anyhow::Result<ExitCode> {
    match command {
        MessageCommand::Send { to, body, subject } => {
            let what = json!({ "to": to, "subject": subject, "body": body });
            let path = "/api/v1/messages".into();
            call(config, "POST", path, Some(what)).await?;
            println!("sent to {to}");
            Ok(ExitCode::SUCCESS)
        }
        MessageCommand::Announce {
            body,
            subject,
            domain,
            accounts,
        } => {
            let audience = if accounts { "accounts" } else { "online" };
            let what = json!({
                "audience": audience, "domain": domain, "subject": subject, "body": body
            });
            let path = "/api/v1/announcements".into();
            let sent = call(config, "POST", path, Some(what)).await?;
            let whom = if accounts {
                "accounts"
            } else {
                "clients that are online"
            };
            println!("sent to {} {whom}", sent["recipients"]);
            Ok(code(&sent))
        }
    }
}

/// `rookery log …`
pub(crate) async fn log(config: &Config, command: LogCommand) -> anyhow::Result<ExitCode> {
    let LogCommand::Level { level } = command;
    let path = with_query("/api/v1/log", &[]);
    let log = match level {
        Some(level) => call(config, "PUT", path, Some(json!({ "level": level }))).await?,
        None => call(config, "GET", path, None).await?,
    };
    println!("{}", text(&log["level"]));
    Ok(ExitCode::SUCCESS)
}

/// `rookery config reload`
pub(crate) async fn reload(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let path = "/api/v1/config/reload".into();
    let reloaded = call(config, "POST", path, None).await?;
    if json {
        println!("{reloaded}");
        return Ok(ExitCode::SUCCESS);
    }
    let list = |keys: &Value| items(keys).map(text).collect::<Vec<_>>().join(", ");
    match list(&reloaded["applied"]) {
        keys if keys.is_empty() => println!("no live setting has changed"),
        keys => println!("taken over: {keys}"),
    }
    let restart = list(&reloaded["needs_restart"]);
    if !restart.is_empty() {
        println!("changed, and needs a restart: {restart}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `rookery certificate …`
pub(crate) async fn certificate(
    config: &Config,
    command: CertificateCommand,
) -> anyhow::Result<ExitCode> {
    let CertificateCommand::Show { json } = command;
    let path = "/api/v1/certificate".into();
    let shown = call(config, "GET", path, None).await?;
    if json {
        println!("{shown}");
    } else {
        println!("file: {}", text(&shown["file"]));
        println!("SHA-256: {}", text(&shown["sha256"]));
        println!(
            "good until: {} ({} days)",
            text(&shown["not_after"]),
            shown["days_left"]
        );
        for domain in items(&shown["domains"]) {
            let covered = if domain["covered"] == true {
                "covered"
            } else {
                "NOT covered"
            };
            println!("{}: {covered}", text(&domain["domain"]));
        }
    }
    Ok(if shown["expired"] == true {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
