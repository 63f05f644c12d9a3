//! `rookery trace` and its call of the API, on one node.

use rookery_tests::api::{self, Api};
use rookery_tests::eventually;
use rookery_tests::prelude::*;
use serde_json::{Value, json};

const NOTHING: &Value = &Value::Null;
/// The only node.
const HERE: &[&str] = &[""];
const REGISTER: &str = "jabber:iq:register";

async fn with_api() -> TestServer {
    TestServer::with(&[&api::setting()]).await
}

/// The stages of the first stanza with this `id`. Stanzas from before the trace may still be under way.
fn way<'s>(stages: &'s [Value], id: &str) -> Vec<&'s Value> {
    let first = stages.iter().find(|stage| stage["id"] == id);
    let number = &first.expect("a stanza")["stanza"];
    let of_it = stages.iter().filter(|stage| stage["stanza"] == *number);
    of_it.collect()
}

/// Their names. Whether a stanza has to wait at some depends on what else the server does.
fn names(stages: &[&Value]) -> Vec<String> {
    let names = stages.iter().map(|stage| stage["stage"].as_str());
    let names = names.map(|name| name.expect("text").to_owned());
    names.filter(|name| name != "held").collect()
}

/// Whether a stanza with this `id` has come to a client.
fn confirmed(id: &str) -> impl Fn(&Value) -> bool {
    move |line| line["stage"] == "confirmed" && line["id"] == id
}

/// A message before, so that nothing has to be looked up any more.
async fn have_met(one: &mut Client, other: &mut Client) {
    let (from, to) = (one.jid().to_owned(), other.jid().to_owned());
    one.send(chat_to(&to, "first")).await;
    other.expect(chat_from(&from, "first")).await;
}

#[tokio::test]
async fn a_message_is_followed_to_its_recipient() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut bob = server.managed_online("bob/phone").await;
    have_met(&mut ann, &mut bob).await;
    bob.acknowledge().await;
    for jid in ["ann@localhost", "ann@localhost%2Fdesk", "bob@localhost"] {
        let mut trace = api.trace(&format!("jid={jid}&for=1m"), HERE).await;
        ann.send(chat_to("bob@localhost/phone", "psst").with_attr("id", "m1"))
            .await;
        bob.expect(chat_from("ann@localhost/desk", "psst")).await;
        bob.acknowledge().await;
        let stages = trace.until(confirmed("m1")).await;
        let way = way(&stages, "m1");
        assert_eq!(
            names(&way),
            [
                "accepted",
                "decided",
                "logging",
                "committed",
                "decided",
                "queued",
                "written",
                "confirmed"
            ],
            "{stages:#?}"
        );
        let accepted = way[0];
        assert_eq!(accepted["kind"], "message");
        assert_eq!(accepted["type"], "chat");
        assert_eq!(accepted["id"], "m1");
        assert_eq!(accepted["from"], "ann@localhost/desk");
        assert_eq!(accepted["to"], "bob@localhost/phone");
        assert_eq!(
            accepted["children"],
            json!([{ "name": "body", "ns": "jabber:client" }])
        );
        let outcome = |stage: &str| {
            let found = way.iter().find(|line| line["stage"] == stage);
            found.expect("a stage")["outcome"].clone()
        };
        assert_eq!(outcome("committed"), "stored");
        assert_eq!(outcome("confirmed"), "delivered");
        for (number, line) in way.iter().enumerate() {
            assert_eq!(line["after_us"].is_u64(), number > 0, "{line}");
        }
        // Nobody asked for what it says.
        assert!(!json!(stages).to_string().contains("psst"), "{stages:#?}");
    }
}

#[tokio::test]
async fn what_stanzas_say_is_shown_on_request_but_never_passwords() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut bob = server.online("bob/phone").await;
    have_met(&mut ann, &mut bob).await;
    let mut trace = api.trace("jid=ann@localhost&bodies=true", HERE).await;
    ann.send(chat_to("bob@localhost/phone", "psst").with_attr("id", "m1"))
        .await;
    bob.expect(chat_from("ann@localhost/desk", "psst")).await;
    let stages = trace.until(confirmed("m1")).await;
    let shown: Vec<_> = stages
        .iter()
        .filter_map(|s| s["content"].as_str())
        .collect();
    assert_eq!(shown.len(), 1, "{stages:#?}");
    assert!(shown[0].contains("<body>psst</body>"), "{shown:?}");

    let password = |content: &str| {
        let query = Element::new("query", REGISTER)
            .with_child(text("username", REGISTER, "ann"))
            .with_child(text("password", REGISTER, content));
        set(query)
    };
    ann.request(password("a new secret")).await;
    let stages = trace
        .until(|line| line["type"] == "result" && line["stage"] == "confirmed")
        .await;
    let accepted = stages.iter().find(|line| line["stage"] == "accepted");
    let accepted = accepted.expect("the request");
    assert_eq!(accepted["children"][0]["ns"], REGISTER);
    assert!(accepted["content"].is_null() && accepted["withheld"].is_string());
    assert!(!json!(stages).to_string().contains("a new secret"));
}

/// A request that the server answers, and a message that comes back.
#[tokio::test]
async fn what_the_server_answers_is_shown() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut trace = api.trace("jid=ann@localhost", HERE).await;
    let ping = get(Element::new("ping", PING)).with_attr("to", "localhost");
    ann.send(ping.with_attr("id", "p1")).await;
    ann.expect(result_of("p1")).await;
    let stages = trace.until(confirmed("p1")).await;
    let request = way(&stages, "p1");
    assert_eq!(names(&request), ["accepted", "handled"], "{stages:#?}");
    assert_eq!(request[1]["outcome"], "delivered");
    // The answer is a stanza of its own.
    let answer = stages.last().expect("the end");
    assert_eq!(
        (&answer["type"], &answer["from"]),
        (&json!("result"), &json!("localhost"))
    );
    assert_ne!(answer["stanza"], request[0]["stanza"]);

    ann.send(chat_to("nobody@localhost", "psst").with_attr("id", "m2"))
        .await;
    let refused = message_from("nobody@localhost").id("m2");
    ann.expect(refused.kind("error").error("service-unavailable"))
        .await;
    let stages = trace.until(confirmed("m2")).await;
    let refused = way(&stages, "m2");
    assert_eq!(refused[0]["stage"], "accepted", "{stages:#?}");
    let bounced = refused.iter().find(|line| line["stage"] == "bounced");
    let bounced = bounced.expect("a stage");
    assert_eq!(bounced["outcome"], "bounced");
    assert_eq!(bounced["detail"], "service-unavailable");
    assert!(!json!(stages).to_string().contains("psst"));

    // What no client has sent is described where it is met.
    let words = ["message", "send", "ann@localhost", "psst"];
    assert!(server.cli(&words).await.status.success());
    ann.expect(message_from("localhost").body("psst")).await;
    let is_it = |line: &Value| line["kind"] == "message" && line["from"] == "localhost";
    let is_end = |line: &Value| is_it(line) && line["stage"] == "confirmed";
    let stages = trace.until(is_end).await;
    let met = stages.iter().find(|line| is_it(line)).expect("a stage");
    assert_eq!(met["children"][0]["name"], "body", "{stages:#?}");
    assert!(!json!(stages).to_string().contains("psst"));
}

#[tokio::test]
async fn a_message_for_somebody_who_is_away_is_followed_into_the_log_and_out_of_it() {
    let server = with_api().await;
    server.add_user("bob").await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut trace = api.trace("jid=bob@localhost", HERE).await;
    // Without an `id`: it is known again by its place in the log.
    ann.send(chat_to("bob@localhost", "for later")).await;
    let stages = trace.until(|line| line["stage"] == "left-in-log").await;
    let expected = [
        "accepted",
        "decided",
        "logging",
        "committed",
        "decided",
        "left-in-log",
    ];
    let all: Vec<_> = stages.iter().collect();
    assert_eq!(names(&all), expected, "{stages:#?}");
    let left = stages.last().expect("the end");
    assert_eq!(left["outcome"], "stored");
    let entry = &left["entry"];
    assert!(entry.is_string(), "{left}");

    let mut bob = server.managed("bob/phone").await;
    bob.withhold_acks();
    bob.become_available().await;
    bob.expect(chat_from("ann@localhost/desk", "for later"))
        .await;
    let is_it = |line: &Value| line["entry"] == *entry;
    let is_end = |line: &Value| is_it(line) && line["stage"] == "written";
    let stages = trace.until(is_end).await;
    let of_it: Vec<_> = stages.iter().filter(|line| is_it(line)).collect();
    assert_eq!(names(&of_it), ["queued", "written"]);
    assert!(
        of_it.iter().all(|line| line["stanza"] == left["stanza"]),
        "{of_it:#?}"
    );

    // It was not acknowledged.
    let kicked = server.cli(&["session", "kick", "bob@localhost"]).await;
    assert!(kicked.status.success(), "{kicked:?}");
    bob.expect_stream_error("policy-violation").await;
    bob.vanish();
    let is_back = |line: &Value| is_it(line) && line["stage"] == "given-back";
    let stages = trace.until(is_back).await;
    assert_eq!(stages.last().expect("it")["stanza"], left["stanza"]);
    let mut bob = server.online("bob/tv").await;
    bob.expect(chat_from("ann@localhost/desk", "for later"))
        .await;
    let is_end = |line: &Value| is_it(line) && line["stage"] == "confirmed";
    let stages = trace.until(is_end).await;
    let confirmed = stages.last().expect("it");
    assert_eq!(confirmed["outcome"], "delivered");
    assert_eq!(confirmed["stanza"], left["stanza"]);
}

#[tokio::test]
async fn a_trace_of_a_session_is_about_that_session() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut ann = server.online("ann/desk").await;
    let mut phone = server.online("bob/phone").await;
    let mut tv = server.online("bob/tv").await;
    have_met(&mut ann, &mut phone).await;
    let mut trace = api.trace("jid=bob@localhost%2Fphone", HERE).await;
    ann.send(chat_to("bob@localhost", "to both").with_attr("id", "m1"))
        .await;
    for client in [&mut phone, &mut tv] {
        client
            .expect(chat_from("ann@localhost/desk", "to both"))
            .await;
    }
    ann.send(chat_to("bob@localhost/tv", "to one")).await;
    tv.expect(chat_from("ann@localhost/desk", "to one")).await;
    ann.send(chat_to("bob@localhost/phone", "to the other").with_attr("id", "m3"))
        .await;
    phone
        .expect(chat_from("ann@localhost/desk", "to the other"))
        .await;
    let stages = trace.until(confirmed("m3")).await;
    let to_both = names(&way(&stages, "m1"));
    assert_eq!(to_both, ["queued", "written", "confirmed"], "{stages:#?}");
    assert!(stages.iter().all(|line| line["to"] != "bob@localhost/tv"));
    assert!(
        stages
            .iter()
            .all(|line| line["resource"] != "bob@localhost/tv")
    );
}

/// What the audit log has about traces.
fn audited(server: &TestServer) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("rookery::audit"));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| {
            line["act"]
                .as_str()
                .is_some_and(|act| act.starts_with("trace"))
        })
        .collect()
}

async fn traces_run(server: &TestServer, count: f64) {
    eventually("traces to begin or end", || async {
        (server.metric("rookery_traces", "").await - count).abs() < 0.1
    })
    .await;
}

#[tokio::test]
async fn traces_are_few_and_end_with_whoever_looks() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    assert!(server.metric("rookery_traces", "").await.abs() < 0.1);
    let mut traces = Vec::new();
    for _ in 0..3 {
        traces.push(api.trace("jid=ann@localhost", HERE).await);
    }
    let mut command = server.start_cli(&["trace", "ann@localhost/desk", "--bodies"]);
    command.says("tracing on this node").await;
    assert!((server.metric("rookery_traces", "").await - 4.0).abs() < 0.1);
    let path = "/api/v1/trace?jid=ann@localhost";
    let (status, problem) = api.call("GET", path, NOTHING).await;
    assert_eq!(status, 429, "{problem}");
    let refused = server.cli(&["trace", "ann@localhost"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("4 traces"));

    let ended = command.interrupt().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    traces_run(&server, 3.0).await;
    traces.pop();
    traces_run(&server, 2.0).await;
    traces.clear();
    traces_run(&server, 0.0).await;
    let audited = audited(&server);
    let of = |act: &str, outcome_is_ok: bool| {
        let those = audited
            .iter()
            .filter(|line| line["act"] == act && (line["outcome"] == "ok") == outcome_is_ok);
        those.collect::<Vec<_>>()
    };
    let (began, ended) = (of("trace-start", true), of("trace-end", true));
    assert_eq!((began.len(), ended.len()), (4, 4), "{audited:#?}");
    assert_eq!(of("trace-start", false).len(), 2, "{audited:#?}");
    for lines in [began, ended] {
        let by_command: Vec<_> = lines.iter().filter(|line| line["via"] == "cli").collect();
        assert_eq!(by_command.len(), 1, "{audited:#?}");
        assert_eq!(by_command[0]["on"], "ann@localhost/desk");
        assert_eq!(by_command[0]["bodies"], true);
        assert!(by_command[0]["seconds"].is_number());
        assert!(
            lines
                .iter()
                .filter(|line| line["via"] == "api")
                .all(|line| { line["on"] == "ann@localhost" && line["bodies"] == false })
        );
    }
}

#[tokio::test]
async fn a_trace_ends_when_its_time_is_up() {
    let server = with_api().await;
    let api = Api::of(&server).await;
    let mut trace = api.trace("jid=ann@localhost&for=10ms", HERE).await;
    let end = trace.next().await.expect("a line");
    assert_eq!(end, json!({ "line": "end" }));
    assert_eq!(trace.next().await, None);
    let said = server
        .cli(&["trace", "ann@localhost", "--for", "10ms"])
        .await;
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.ends_with("the time is up\n"), "{said}");
    traces_run(&server, 0.0).await;

    for (query, field) in [
        ("", "jid"),
        ("?jid=localhost", "jid"),
        ("?jid=@", "jid"),
        ("?jid=ann@localhost&for=2h", "for"),
        ("?jid=ann@localhost&for=soon", "for"),
        ("?jid=ann@localhost&bodies=1", "bodies"),
        ("?jid=ann@localhost&since=1", "since"),
    ] {
        let path = format!("/api/v1/trace{query}");
        let (status, problem) = api.call("GET", &path, NOTHING).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{query}");
    }
    let refused = api::raw(&server, "GET", "/api/v1/trace?jid=a@b", None, NOTHING).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    for words in [
        ["trace", "localhost", "--json"],
        ["trace", "a@b", "--for=2h"],
    ] {
        let refused = server.cli(&words).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
}

#[tokio::test]
async fn the_command_shows_the_same_to_people_and_to_programs() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    let mut bob = server.online("bob/phone").await;
    have_met(&mut ann, &mut bob).await;
    let mut people = server.start_cli(&["trace", "bob@localhost", "--bodies"]);
    people.says("tracing on this node").await;
    let mut programs = server.start_cli(&["trace", "bob@localhost", "--json"]);
    programs.says(r#""tracing":true"#).await;
    ann.send(chat_to("bob@localhost/phone", "psst\u{9b}1m").with_attr("id", "m1"))
        .await;
    bob.expect(chat_from("ann@localhost/desk", "psst\u{9b}1m"))
        .await;
    people
        .says("message chat from ann@localhost/desk to bob@localhost/phone, id m1")
        .await;
    // No sequence for the terminal.
    people.says(r"<body>psst\u{9b}1m</body>").await;
    people.says("=> delivered").await;
    loop {
        let line = programs.next_line().await.expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert!(!line.to_string().contains("psst"), "{line}");
        if line["outcome"] == "delivered" && line["id"] == "m1" {
            break;
        }
    }
}
