//! `rookery session …`: the sessions of all nodes, or those of the node that runs on this data directory.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use rookery_proto::jid::Jid;

use crate::api::{encode, with_query};
use crate::cli::SessionCommand;
use crate::columns::{JsonLines, write_columns};
use crate::commands;
use crate::config::Config;
use crate::control::{self, Reply, Request, Session, SessionState};

/// Sessions that are asked for at a time.
const PAGE: &str = "1000";

/// Runs the command.
///
/// # Errors
/// If no server runs here, or there is no such session.
pub(crate) async fn run(config: &Config, command: SessionCommand) -> anyhow::Result<ExitCode> {
    match command {
        SessionCommand::List { this_node, json } => list(config, this_node, json).await,
        SessionCommand::Kick { jid, this_node } => kick(config, &jid, this_node).await,
    }
}

async fn list(config: &Config, this_node: bool, json: bool) -> anyhow::Result<ExitCode> {
    let (sessions, code) = if this_node {
        (of_this_node(config).await?, ExitCode::SUCCESS)
    } else {
        of_all_nodes(config).await?
    };
    let mut out = io::stdout().lock();
    if json {
        let mut lines = JsonLines::new(true);
        for session in &sessions {
            lines.item(&mut out, session)?;
        }
        lines.end(&mut out)?;
    } else {
        write_table(&mut out, &sessions)?;
    }
    Ok(code)
}

async fn of_this_node(config: &Config) -> anyhow::Result<Vec<Session>> {
    let mut conversation = control::ask(&config.server.data_dir, &Request::Sessions).await?;
    let mut sessions = Vec::new();
    loop {
        match conversation.next().await? {
            Reply::Session(session) => sessions.push(session),
            Reply::Done => break,
            other => return Err(control::unexpected(&other)),
        }
    }
    sessions.sort_by(|one, other| one.jid.cmp(&other.jid));
    Ok(sessions)
}

/// All sessions, page by page.
async fn of_all_nodes(config: &Config) -> anyhow::Result<(Vec<Session>, ExitCode)> {
    let mut sessions: Vec<Session> = Vec::new();
    loop {
        let after = sessions.last().map(|last| last.jid.as_str());
        let parameters = [("limit", Some(PAGE)), ("after", after)];
        let path = with_query("/api/v1/sessions", &parameters);
        let mut answer = commands::call(config, "GET", path, None).await?;
        let page: Vec<Session> = serde_json::from_value(answer["sessions"].take())
            .context("the server seems to be of another version than this command")?;
        sessions.extend(page);
        if answer["next"].is_null() {
            return Ok((sessions, commands::code(&answer)));
        }
    }
}

fn write_table(out: &mut impl Write, sessions: &[Session]) -> io::Result<()> {
    let in_cluster = sessions.iter().any(|session| !session.node.is_empty());
    let mut head = ["JID", "SINCE", "TRANSPORT", "ADDRESS", "STATE", "QUEUE", ""].map(String::from);
    if in_cluster {
        head[6] = "NODE".into();
    }
    let rows = sessions.iter().map(|session| {
        let state = match session.state {
            SessionState::Connected => "connected",
            SessionState::Waiting => "waiting",
        };
        let queue = match session.queued_stanzas {
            0 => "empty".into(),
            1 => format!("1 stanza, {} bytes", session.queued_bytes),
            many => format!("{many} stanzas, {} bytes", session.queued_bytes),
        };
        [
            session.jid.to_string(),
            session.since.clone(),
            session.transport.clone(),
            session.address.clone(),
            state.into(),
            queue,
            session.node.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    write_columns(out, &rows)
}

async fn kick(config: &Config, jid: &str, this_node: bool) -> anyhow::Result<ExitCode> {
    let jid = Jid::parse(jid).with_context(|| {
        format!("{jid:?} is no address; write it like ann@localhost or ann@localhost/desk")
    })?;
    let (sessions, code) = if this_node {
        let request = Request::Kick { jid: jid.clone() };
        let mut conversation = control::ask(&config.server.data_dir, &request).await?;
        match conversation.next().await? {
            Reply::Kicked { sessions: 0 } => bail!("{jid} has no session on this node"),
            Reply::Kicked { sessions } => (sessions as u64, ExitCode::SUCCESS),
            other => return Err(control::unexpected(&other)),
        }
    } else {
        let path = format!("/api/v1/sessions/{}", encode(jid.as_str()));
        let answer = commands::call(config, "DELETE", path, None).await?;
        (
            answer["ended"].as_u64().unwrap_or(0),
            commands::code(&answer),
        )
    };
    match sessions {
        1 => println!("ended 1 session of {jid}"),
        sessions => println!("ended {sessions} sessions of {jid}"),
    }
    Ok(code)
}
