//! `rookery session …`: the sessions of the node that runs on this data directory.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use rookery_proto::jid::Jid;

use crate::cli::SessionCommand;
use crate::columns::write_columns;
use crate::config::Config;
use crate::control::{self, Reply, Request, Session, SessionState};

/// Runs the command.
///
/// # Errors
/// If no server runs here, or it has no such session.
pub(crate) async fn run(config: &Config, command: SessionCommand) -> anyhow::Result<ExitCode> {
    match command {
        SessionCommand::List { json } => list(config, json).await?,
        SessionCommand::Kick { jid } => kick(config, &jid).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
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
    let mut out = io::stdout().lock();
    if json {
        write_json(&mut out, &sessions)?;
    } else {
        write_table(&mut out, &sessions)?;
    }
    Ok(())
}

/// An array, one session a line.
fn write_json(out: &mut impl Write, sessions: &[Session]) -> io::Result<()> {
    write!(out, "[")?;
    for (number, session) in sessions.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}\n{}", serde_json::to_string(session)?)?;
    }
    writeln!(out, "{}]", if sessions.is_empty() { "" } else { "\n" })
}

fn write_table(out: &mut impl Write, sessions: &[Session]) -> io::Result<()> {
    let head = ["JID", "SINCE", "TRANSPORT", "ADDRESS", "STATE", "QUEUE"].map(String::from);
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
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    write_columns(out, &rows)
}

async fn kick(config: &Config, jid: &str) -> anyhow::Result<()> {
    let jid = Jid::parse(jid).with_context(|| {
        format!("{jid:?} is no address; write it like ann@localhost or ann@localhost/desk")
    })?;
    let request = Request::Kick { jid: jid.clone() };
    let mut conversation = control::ask(&config.server.data_dir, &request).await?;
    match conversation.next().await? {
        Reply::Kicked { sessions: 0 } => bail!("{jid} has no session on this node"),
        Reply::Kicked { sessions: 1 } => println!("ended 1 session of {jid}"),
        Reply::Kicked { sessions } => println!("ended {sessions} sessions of {jid}"),
        other => return Err(control::unexpected(&other)),
    }
    Ok(())
}
