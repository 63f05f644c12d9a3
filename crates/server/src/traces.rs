//! `rookery trace`: the way of an account's stanzas through all nodes, as they go it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use rookery_proto::jid::Jid;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::text;
use crate::config::Config;
use crate::control::{self, Reply, Request};
use crate::printable::printable;

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
    // Before anything is said: from then on it may be interrupted.
    let mut interrupted = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let mut conversation = control::ask(&config.server.data_dir, &request).await?;
    let mut code = ExitCode::SUCCESS;
    loop {
        let reply = tokio::select! {
            reply = conversation.next() => reply?,
            // The server notices that nobody listens any more.
            _ = interrupted.recv() => return Ok(code),
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
    let node = match shown(&line["node"]) {
        name if name.is_empty() => "this node".into(),
        name => name,
    };
    match text(&line["line"]) {
        "node" if line["tracing"] == true => Some(format!("tracing on {node}")),
        "node" => Some(format!(
            "NOT tracing on {node}: it {}",
            shown(&line["reason"])
        )),
        "left-out" => Some(format!("{} events of {node} were left out", line["events"])),
        "end" => Some("the time is up".into()),
        "stage" => Some(stage(line)),
        _ => None,
    }
}

fn stage(line: &Value) -> String {
    let mut said = format!(
        "{} #{:<3} {:<10} {:<11} {:>10}",
        // The day is the same, or known.
        shown(&line["at"])
            .split_once('T')
            .map_or("", |(_, time)| time.trim_end_matches('Z')),
        line["stanza"].to_string(),
        shown(&line["node"]),
        shown(&line["stage"]),
        line["after_us"].as_u64().map_or_else(String::new, duration),
    );
    if !line["size"].is_null() {
        push_stanza(&mut said, line);
    }
    push_all(
        &mut said,
        line,
        [
            ("  at ", "resource"),
            ("  log entry ", "entry"),
            ("  ", "detail"),
            ("  => ", "outcome"),
            ("\n    ", "content"),
            (
                "\n    what it says is not shown, or not all of it: ",
                "withheld",
            ),
        ],
    );
    said
}

/// What a stanza is like.
fn push_stanza(said: &mut String, line: &Value) {
    push_all(
        said,
        line,
        [
            ("  ", "kind"),
            (" ", "type"),
            (" from ", "from"),
            (" to ", "to"),
            (", id ", "id"),
        ],
    );
    // Writing to a String does not fail.
    let _ = write!(said, ", {} bytes", line["size"]);
    for (number, child) in line["children"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        said.push_str(if number == 0 { ": " } else { ", " });
        said.push_str(&shown(&child["name"]));
        if child["ns"] != "jabber:client" {
            let _ = write!(said, " ({})", shown(&child["ns"]));
        }
    }
}

/// Adds those fields that there are, each after its words.
fn push_all<const N: usize>(said: &mut String, line: &Value, fields: [(&str, &str); N]) {
    for (before, field) in fields {
        let what = shown(&line[field]);
        if !what.is_empty() {
            said.push_str(before);
            said.push_str(&what);
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

/// A field as it is shown. Each is made harmless by itself: line breaks between them are ours.
fn shown(field: &Value) -> String {
    printable(text(field))
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

    /// No line of their own, no text that runs backwards, nothing that cannot be seen.
    #[test]
    fn what_users_write_stays_where_it_is_shown() {
        let forged =
            "x\n00:00:00 #1 forged\r\u{2028}\u{1b}[2J\u{202e}\u{2066}\u{200f}\u{feff}\u{e0041}y";
        let harmless =
            r"x\n00:00:00 #1 forged\r\u{2028}\u{1b}[2J\u{202e}\u{2066}\u{200f}\u{feff}\u{e0041}y";
        let everywhere = json!({
            "line": "stage", "stanza": 1, "node": forged, "at": format!("T{forged}"), "stage": forged,
            "kind": forged, "type": forged, "from": forged, "to": forged, "id": forged, "size": 20,
            "children": [{ "name": forged, "ns": forged }], "resource": forged, "entry": forged,
            "detail": forged, "outcome": forged, "content": forged, "withheld": forged,
        });
        let shown = said(&everywhere).unwrap();
        assert_eq!(shown.matches(harmless).count(), 16, "{shown}");
        // What it says and why that is not all stand below, as we put them there.
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert_eq!(lines[1], format!("    {harmless}"));
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
        for line in [
            json!({ "line": "node", "node": forged, "tracing": true }),
            json!({ "line": "node", "node": forged, "tracing": false, "reason": forged }),
            json!({ "line": "left-out", "node": forged, "events": 1 }),
        ] {
            let shown = said(&line).unwrap();
            assert!(
                shown.contains(harmless) && shown.lines().count() == 1,
                "{shown}"
            );
        }
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(duration(9999), "+9999 µs");
        assert_eq!(duration(10_000), "+10 ms");
        assert_eq!(duration(10_000_000), "+10 s");
    }
}
