//! Commands that are calls of the running server's API: rosters, messages, the log, the configuration, the
//! certificate, what is known of an account.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::nodes::ALL;
use crate::api::{encode, with_query};
use crate::cli::{CertificateCommand, LogCommand, MessageCommand, NodeArgs, RosterCommand};
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

/// What the nodes that a command is for answered.
struct Answers {
    /// All of it, for `--json`.
    raw: Value,
    /// What those that did it answered; each with its name, if all were asked.
    done: Vec<(Option<String>, Value)>,
    /// Whether all did it.
    is_complete: bool,
}

impl Answers {
    fn code(&self) -> ExitCode {
        if self.is_complete {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Makes a call on the nodes that are named.
async fn call_nodes(
    config: &Config,
    method: &str,
    path: &str,
    body: Option<Value>,
    nodes: &NodeArgs,
) -> anyhow::Result<Answers> {
    let node = if nodes.all_nodes {
        Some(ALL)
    } else {
        nodes.node.as_deref()
    };
    let raw = call(config, method, with_query(path, &[("node", node)]), body).await?;
    if !nodes.all_nodes {
        let done = vec![(None, raw.clone())];
        return Ok(Answers {
            raw,
            done,
            is_complete: true,
        });
    }
    let mut is_complete = !complain(&raw);
    let mut done = Vec::new();
    for node in items(&raw["nodes"]) {
        let (name, answer) = (text(&node["node"]), &node["answer"]);
        if node["status"].as_u64() < Some(400) {
            done.push((Some(name.to_owned()), answer.clone()));
        } else {
            is_complete = false;
            eprintln!("rookery: node {name} refuses: {}", text(&answer["detail"]));
        }
    }
    Ok(Answers {
        raw,
        done,
        is_complete,
    })
}

/// What stands before a line about a node.
fn prefix(name: Option<&String>) -> String {
    name.map_or_else(String::new, |name| format!("{name}: "))
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
    if user["disabled"] == true {
        println!("disabled: nobody can log in");
    }
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
    let LogCommand::Level { level, nodes } = command;
    let (method, body) = match level {
        Some(level) => ("PUT", Some(json!({ "level": level }))),
        None => ("GET", None),
    };
    let answers = call_nodes(config, method, "/api/v1/log", body, &nodes).await?;
    for (node, log) in &answers.done {
        println!("{}{}", prefix(node.as_ref()), text(&log["level"]));
    }
    Ok(answers.code())
}

/// `rookery config reload`
pub(crate) async fn reload(
    config: &Config,
    json: bool,
    nodes: &NodeArgs,
) -> anyhow::Result<ExitCode> {
    let answers = call_nodes(config, "POST", "/api/v1/config/reload", None, nodes).await?;
    if json {
        println!("{}", answers.raw);
        return Ok(answers.code());
    }
    let list = |keys: &Value| items(keys).map(text).collect::<Vec<_>>().join(", ");
    for (node, reloaded) in &answers.done {
        let node = prefix(node.as_ref());
        match list(&reloaded["applied"]) {
            keys if keys.is_empty() => println!("{node}no live setting has changed"),
            keys => println!("{node}taken over: {keys}"),
        }
        let restart = list(&reloaded["needs_restart"]);
        if !restart.is_empty() {
            println!("{node}changed, and needs a restart: {restart}");
        }
    }
    Ok(answers.code())
}

/// `rookery certificate …`
pub(crate) async fn certificate(
    config: &Config,
    command: CertificateCommand,
) -> anyhow::Result<ExitCode> {
    let CertificateCommand::Show { json, nodes } = command;
    let answers = call_nodes(config, "GET", "/api/v1/certificate", None, &nodes).await?;
    if json {
        println!("{}", answers.raw);
    } else {
        for (node, shown) in &answers.done {
            print_certificate(&prefix(node.as_ref()), shown);
        }
    }
    if answers
        .done
        .iter()
        .any(|(_, shown)| shown["expired"] == true)
    {
        return Ok(ExitCode::FAILURE);
    }
    Ok(answers.code())
}

fn print_certificate(node: &str, shown: &Value) {
    println!("{node}file: {}", text(&shown["file"]));
    println!("{node}SHA-256: {}", text(&shown["sha256"]));
    println!(
        "{node}good until: {} ({} days)",
        text(&shown["not_after"]),
        shown["days_left"]
    );
    for domain in items(&shown["domains"]) {
        let covered = if domain["covered"] == true {
            "covered"
        } else {
            "NOT covered"
        };
        println!("{node}{}: {covered}", text(&domain["domain"]));
    }
}
