//! `rookery trace`: the way of an account's stanzas through all nodes, as they go it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use rookery_proto::jid::Jid;
use serde_json::Value;

use crate::commands::text;
use crate::config::Config;
use crate::control::{self, Reply, Request};

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) jid: String,
    pub(crate) time: Duration,
    pub(crate) bodies: bool,
    pub(crate) json: bool,
}

/// Runs the command, until the time is up or it is interrupted.
///
/// # Errors
/// If no server runs here, or it refuses.
pub(crate) async fn run(config: &Config, wanted: Wanted) -> anyhow::Result<ExitCode> {
    let Wanted { jid, json, .. } = &wanted;
    let jid = Jid::parse(jid).with_context(|| {
        format!("{jid:?} is no address; write it like ann@localhost or ann@localhost/desk")
    })?;
    let request = Request::Trace {
        jid,
        bodies: wanted.bodies,
        time_ms: u64::try_from(wanted.time.as_millis()).unwrap_or(u64::MAX),
    };
    let mut conversation = control::ask(&config.server.data_dir, &request).await?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut code = ExitCode::SUCCESS;
    loop {
        let reply = tokio::select! {
            reply = conversation.next() => reply?,
            // The server notices that nobody listens any more.
            _ = interrupted.as_mut() => return Ok(code),
        };
        let line = match reply {
            Reply::Line { line } => line,
            Reply::Done => return Ok(code),
            other => return Err(control::unexpected(&other)),
        };
        if line["line"] == "node" && line["tracing"] == false {
            code = ExitCode::FAILURE;
        }
        let shown = if *json {
            (line["line"] != "alive").then(|| line.to_string())
        } else {
            said(&line)
        };
        if let Some(shown) = shown {
            writeln!(io::stdout().lock(), "{shown}")?;
        }
    }
}

/// A line for people; `None` if there is nothing to say.
fn said(line: &Value) -> Option<String> {
    let node = match text(&line["node"]) {
        "" => "this node",
        name => name,
    };
    let said = match text(&line["line"]) {
        "node" if line["tracing"] == true => format!("tracing on {node}"),
        "node" => format!("NOT tracing on {node}: it {}", text(&line["reason"])),
        "left-out" => format!("{} events of {node} were left out", line["events"]),
        "end" => "the time is up".into(),
        "stage" => stage(line),
        _ => return None,
    };
    Some(printable(&said))
}

fn stage(line: &Value) -> String {
    let mut said = format!(
        "{} #{:<3} {:<10} {:<11} {:>10}",
        // The day is the same, or known.
        text(&line["at"])
            .split_once('T')
            .map_or("", |(_, time)| time.trim_end_matches('Z')),
        line["stanza"].to_string(),
        text(&line["node"]),
        text(&line["stage"]),
        line["after_us"].as_u64().map_or_else(String::new, duration),
    );
    if !line["size"].is_null() {
        push_stanza(&mut said, line);
    }
    for (before, what) in [
        ("  at ", text(&line["resource"])),
        ("  log entry ", text(&line["entry"])),
        ("  ", text(&line["detail"])),
        ("  => ", text(&line["outcome"])),
    ] {
        if !what.is_empty() {
            said.push_str(before);
            said.push_str(what);
        }
    }
    if let Some(content) = line["content"].as_str() {
        said.push_str("\n    ");
        said.push_str(content);
    }
    if let Some(why) = line["withheld"].as_str() {
        said.push_str("\n    what it says is not shown, or not all of it: ");
        said.push_str(why);
    }
    said
}

/// What a stanza is like.
fn push_stanza(said: &mut String, line: &Value) {
    said.push_str("  ");
    said.push_str(text(&line["kind"]));
    for (before, what) in [
        (" ", text(&line["type"])),
        (" from ", text(&line["from"])),
        (" to ", text(&line["to"])),
        (", id ", text(&line["id"])),
    ] {
        if !what.is_empty() {
            said.push_str(before);
            said.push_str(what);
        }
    }
    // Writing to a String does not fail.
    let _ = write!(said, ", {} bytes", line["size"]);
    for (number, child) in line["children"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        said.push_str(if number == 0 { ": " } else { ", " });
        said.push_str(text(&child["name"]));
        if child["ns"] != "jabber:client" {
            let _ = write!(said, " ({})", text(&child["ns"]));
        }
    }
}

/// A time in the unit that it is read best in.
fn duration(micros: u64) -> String {
    match micros {
        0..10_000 => format!("+{micros} µs"),
        10_000..10_000_000 => format!("+{} ms", micros / 1000),
        _ => format!("+{} s", micros / 1_000_000),
    }
}

/// What users wrote has no power over a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stanza_is_described_where_it_is_met() {
        let met = json!({
            "line": "stage", "stanza": 1, "node": "one", "at": "2026-01-02T03:04:05.000006Z",
            "stage": "accepted", "kind": "message", "type": "chat", "from": "ann@x/desk", "to": "bob@x",
            "id": "m\u{1b}1", "size": 20, "children": [
                { "name": "body", "ns": "jabber:client" }, { "name": "x", "ns": "urn:x" },
            ],
        });
        assert_eq!(
            said(&met).unwrap(),
            "03:04:05.000006 #1   one        accepted                message chat from ann@x/desk to bob@x, \
             id m\\u{1b}1, 20 bytes: body, x (urn:x)"
        );
        let later = json!({
            "line": "stage", "stanza": 1, "node": "two", "at": "2026-01-02T03:04:05.000406Z",
            "after_us": 400, "stage": "confirmed", "kind": "message", "resource": "bob@x/phone",
            "entry": "7", "outcome": "delivered",
        });
        assert_eq!(
            said(&later).unwrap(),
            "03:04:05.000406 #1   two        confirmed      +400 µs  at bob@x/phone  log entry 7  => delivered"
        );
        assert_eq!(said(&json!({ "line": "alive" })), None);
        let away =
            json!({ "line": "node", "node": "two", "tracing": false, "reason": "did not answer" });
        assert_eq!(
            said(&away).unwrap(),
            "NOT tracing on two: it did not answer"
        );
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(duration(9999), "+9999 µs");
        assert_eq!(duration(10_000), "+10 ms");
        assert_eq!(duration(10_000_000), "+10 s");
    }
}
