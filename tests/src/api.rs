//! The administration API: calls over HTTP, and each answer compared with the description that the server
//! gives of itself (`OpenAPI` 3.1, whose schemas are JSON Schema).

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;

use crate::http::{self, Response};
use crate::server::TestServer;
use crate::within;

/// The token of the servers that [`setting`] is for.
pub const TOKEN: &str = "token of the tests";

/// The setting of a server whose API is open.
pub fn setting() -> String {
    format!("admin.token={TOKEN}")
}

/// Who asks a server.
pub struct Api<'s> {
    server: &'s TestServer,
    description: Value,
}

impl<'s> Api<'s> {
    /// Reads the description of a server's API.
    pub async fn of(server: &'s TestServer) -> Self {
        let described = server.admin("/api/v1/openapi.json").await;
        assert_eq!(described.status, 200, "{described:?}");
        let description = serde_json::from_str(&described.body).expect("JSON");
        Self {
            server,
            description,
        }
    }

    /// Makes a call; returns the status and what is answered, null for nothing.
    ///
    /// Panics if the answer is not one that the description has.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let response = raw(self.server, method, path, Some(TOKEN), body).await;
        let answer = if response.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&response.body).expect("JSON")
        };
        self.compare(method, path, &response, &answer);
        (response.status, answer)
    }

    /// Makes a call that must succeed.
    pub async fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    /// Makes a call whose answer goes on, one JSON object a line. The call ends when it is dropped.
    pub async fn follow(&self, path: &str) -> Following<'_> {
        let address = self.server.address("admin");
        let exchange = async {
            let mut tcp = TcpStream::connect(address).await?;
            // Without chunks, so that the lines are those of the answer.
            let request = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
            tcp.write_all(request.as_bytes()).await?;
            let mut lines = BufReader::new(tcp).lines();
            let mut head = Vec::new();
            while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
                head.push(line);
            }
            Ok::<_, std::io::Error>((head.join("\r\n"), lines))
        };
        let begun = within("an answer", exchange).await;
        let (head, lines) = begun.unwrap_or_else(|e| panic!("HTTP to {address}: {e}"));
        assert!(head.contains(" 200 "), "{head}");
        Following {
            api: self,
            path: path.to_owned(),
            head,
            lines,
        }
    }

    /// Starts a trace with this query, and waits until it runs on these nodes; a single node has no name.
    pub async fn trace(&self, query: &str, nodes: &[&str]) -> Following<'_> {
        let mut trace = self.follow(&format!("/api/v1/trace?{query}")).await;
        let mut awaited = nodes.to_vec();
        while !awaited.is_empty() {
            let line = trace.next().await.expect("a line");
            // Stanzas from before may be under way.
            if line["line"] == "node" {
                assert_eq!(line["tracing"], true, "{line}");
                let it = awaited.iter().position(|node| line["node"] == *node);
                awaited.remove(it.unwrap_or_else(|| panic!("{line}")));
            }
        }
        trace
    }

    fn compare(&self, method: &str, path: &str, response: &Response, answer: &Value) {
        let path = path.split('?').next().unwrap_or_default();
        let paths = self.description["paths"].as_object().expect("paths");
        // What is not described has no answer but these.
        let call = paths
            .iter()
            .find(|(described, _)| is_like(described, path))
            .and_then(|(_, methods)| methods.get(method.to_lowercase()));
        let Some(call) = call else {
            assert!([404, 405].contains(&response.status), "{response:?}");
            return;
        };
        let mut described = &call["responses"][response.status.to_string()];
        assert!(!described.is_null(), "not described: {response:?}");
        if let Some(reference) = described["$ref"].as_str() {
            described = self.at(reference);
        }
        let Some(content) = described["content"].as_object() else {
            assert!(answer.is_null(), "{response:?}");
            return;
        };
        let (media_type, content) = content.iter().next().expect("one");
        let head = format!("content-type: {media_type}\r\n");
        let all = format!("{}\r\n", response.head);
        assert!(all.contains(&head), "no {head} in {all}");
        let wrong = self.wrong(&content["schema"], answer, "");
        assert_eq!(wrong, Vec::<String>::new(), "{method} {path}: {answer}");
    }

    /// What `#/…` names.
    fn at(&self, reference: &str) -> &Value {
        let pointer = reference.strip_prefix('#').expect("of this document");
        self.description.pointer(pointer).expect("it is there")
    }

    /// Where a value is not as its schema says. Knows as much of JSON Schema as the description uses.
    fn wrong(&self, schema: &Value, value: &Value, place: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (keyword, rule) in schema.as_object().expect("a schema") {
            match keyword.as_str() {
                "$ref" => {
                    let named = self.at(rule.as_str().expect("text"));
                    wrong.extend(self.wrong(named, value, place));
                }
                "type" => {
                    let kinds = rule
                        .as_array()
                        .cloned()
                        .unwrap_or_else(|| vec![rule.clone()]);
                    if !kinds.iter().any(|kind| is_of_kind(value, kind)) {
                        wrong.push(format!("{place}: {value} is no {rule}"));
                    }
                }
                "enum" => {
                    if !rule.as_array().expect("a list").contains(value) {
                        wrong.push(format!("{place}: {value} is not in {rule}"));
                    }
                }
                "minimum" => {
                    if value
                        .as_i64()
                        .is_some_and(|n| n < rule.as_i64().expect("a number"))
                    {
                        wrong.push(format!("{place}: {value} is too small"));
                    }
                }
                "oneOf" => {
                    let fitting = rule.as_array().expect("a list").iter();
                    let fitting = fitting.filter(|s| self.wrong(s, value, place).is_empty());
                    if fitting.count() != 1 {
                        wrong.push(format!("{place}: {value} is not one of {rule}"));
                    }
                }
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        wrong.extend(self.wrong(rule, item, &format!("{place}/{number}")));
                    }
                }
                "required" => {
                    let names = rule.as_array().expect("a list").iter();
                    let names = names.map(|name| name.as_str().expect("text"));
                    let missing = names.filter(|name| value.get(name).is_none());
                    wrong.extend(missing.map(|name| format!("{place}: no {name}")));
                }
                "properties" => {
                    let only = schema["additionalProperties"] == false;
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        let place = format!("{place}/{name}");
                        match rule.get(name) {
                            Some(rule) => wrong.extend(self.wrong(rule, inner, &place)),
                            None if only => wrong.push(format!("{place} is not described")),
                            None => {}
                        }
                    }
                }
                "additionalProperties" | "description" | "format" | "pattern" => {}
                other => panic!("the tests do not know {other}"),
            }
        }
        wrong
    }
}

/// An answer that goes on.
pub struct Following<'a> {
    api: &'a Api<'a>,
    path: String,
    head: String,
    lines: Lines<BufReader<TcpStream>>,
}

impl Following<'_> {
    /// The next object; `None` at the end.
    ///
    /// Panics if it is not one that the description has.
    pub async fn next(&mut self) -> Option<Value> {
        let line = within("a line of the answer", self.lines.next_line()).await;
        let line = line.expect("UTF-8")?;
        let value = serde_json::from_str(&line).expect("JSON");
        let response = Response {
            status: 200,
            head: self.head.clone(),
            body: line,
        };
        self.api.compare("GET", &self.path, &response, &value);
        Some(value)
    }

    /// The stages of a trace until one `is_last`, with that.
    ///
    /// Panics if something is missing.
    pub async fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut stages = Vec::new();
        loop {
            let line = self.next().await.expect("a line");
            match line["line"].as_str() {
                Some("stage") => stages.push(line),
                Some("alive") => continue,
                _ => panic!("{line}"),
            }
            if stages.last().is_some_and(&is_last) {
                return stages;
            }
        }
    }
}

/// Whether a path is one that is described by another, with parameters in braces.
fn is_like(described: &str, path: &str) -> bool {
    let (described, path) = (described.split('/'), path.split('/'));
    described.clone().count() == path.clone().count()
        && described
            .zip(path)
            .all(|(one, other)| one.starts_with('{') || one == other)
}

fn is_of_kind(value: &Value, kind: &Value) -> bool {
    match kind.as_str().expect("a type's name") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the tests do not know the type {other}"),
    }
}

/// Makes a call with or without a token and does not look at what is answered.
pub async fn raw(
    server: &TestServer,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Response {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let body = match body {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        json => json.to_string(),
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    http::send(server.address("admin"), &request).await
}
