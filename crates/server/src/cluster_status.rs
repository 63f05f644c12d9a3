//! `rookery cluster …`: the cluster as the node that runs on this data directory sees it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::ClusterCommand;
use crate::columns::write_columns;
use crate::config::{Config, Value};
use crate::control::{self, ClusterStatus, Lease, Reply, Request};

/// Runs the command.
///
/// # Errors
/// If no server runs here.
pub(crate) async fn run(config: &Config, command: ClusterCommand) -> anyhow::Result<ExitCode> {
    let ClusterCommand::Status { json } = command;
    let mut conversation = control::ask(&config.server.data_dir, &Request::ClusterStatus).await?;
    let status = match conversation.next().await? {
        Reply::Cluster(status) => status,
        other => return Err(control::unexpected(&other)),
    };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&status)?)?;
    } else {
        write_status(&mut out, &status)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_status(out: &mut impl Write, status: &ClusterStatus) -> io::Result<()> {
    if !status.in_cluster {
        writeln!(
            out,
            "This server is a single node: cluster.redis is not set."
        )?;
        return writeln!(out, "Sessions here: {}", status.sessions);
    }
    let head = ["NODE", "EPOCH", "FRAMES", "LEASE", ""].map(String::from);
    let rows = status.nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.epoch.clone(),
            node.frames.to_string(),
            match node.lease {
                Lease::Held => "held".into(),
                Lease::Lapsed => "lapsed".into(),
            },
            if node.this { "this node" } else { "" }.into(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    write_columns(out, &rows)?;
    let lease = Duration::from_millis(status.lease_ms).to_toml();
    writeln!(
        out,
        "A lease lasts {} without renewal.",
        lease.trim_matches('"')
    )?;
    if status.fenced {
        writeln!(
            out,
            "This node is fenced: it could not renew its lease in Redis, so that the others take it for dead; the \
             nodes above are those that it saw last."
        )?;
    }
    writeln!(out, "Sessions here: {}", status.sessions)
}
