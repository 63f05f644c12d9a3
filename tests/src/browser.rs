//! A headless Chromium, spoken to over its debugging pipe (Chrome `DevTools` Protocol: JSON, each message
//! ended by a NUL byte).

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{DEADLINE, within};

/// The pipe's ends are the file descriptors 3 and 4. A browser that a test runs as root has no sandbox.
const START: &str = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
                     --no-first-run --disable-background-networking --user-data-dir=\"$0\" \
                     --remote-debugging-pipe about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";

/// A browser with one page. It ends when it is dropped.
pub struct Browser {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.arg("-c").arg(START).arg(profile.path());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().expect("a shell");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut browser = Self {
            _process: process,
            input,
            output,
            session: None,
            last_id: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let made = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = made.await["targetId"].clone();
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Gives the page a size in CSS pixels, like that of a phone or of a desk.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Lets the page see `prefers-color-scheme`: `light` or `dark`.
    pub async fn prefer(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let media = json!({ "features": [feature] });
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Goes to an address.
    pub async fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// The value of an expression in the page; null if it fails.
    pub async fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", ask).await;
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    ///
    /// Panics with what the page shows when the deadline passes.
    pub async fn until(&mut self, expression: &str) {
        let end = tokio::time::Instant::now() + DEADLINE;
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while self.value(expression).await != json!(true) {
            if tokio::time::Instant::now() > end {
                let shown = self.value("document.body.innerText").await;
                let complaints = &self.complaints;
                panic!("not so: {expression}\n{shown}\n{complaints:?}");
            }
            pace.tick().await;
        }
    }

    /// The whole page as PNG.
    pub async fn screenshot(&mut self) -> Vec<u8> {
        let how = json!({ "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", how).await;
        let data = shot["data"].as_str().expect("an image");
        BASE64_STANDARD.decode(data).expect("base64")
    }

    /// The errors and warnings that the page has caused since they were taken last: exceptions, violations of
    /// its security policy, resources that could not be loaded, what it wrote to the console.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let message = format!("{message}\0");
        let sent = self.input.write_all(message.as_bytes()).await;
        sent.expect("chromium runs; tests/run installs it");
        loop {
            let said = self.next(method).await;
            if said["id"] == json!(self.last_id) {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            self.hear(&said);
        }
    }

    async fn next(&mut self, awaited: &str) -> Value {
        let mut message = Vec::new();
        let read = self.output.read_until(0, &mut message);
        within(awaited, read).await.expect("chromium speaks");
        assert_eq!(
            message.pop(),
            Some(0),
            "chromium ended; tests/run installs it"
        );
        serde_json::from_slice(&message).expect("JSON")
    }

    fn hear(&mut self, event: &Value) {
        let params = &event["params"];
        let (level, text) = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => ("error", &params["exceptionDetails"]),
            Some("Runtime.consoleAPICalled") => {
                (params["type"].as_str().unwrap_or_default(), &params["args"])
            }
            Some("Log.entryAdded") => (
                params["entry"]["level"].as_str().unwrap_or_default(),
                &params["entry"],
            ),
            _ => return,
        };
        if ["error", "warning", "assert"].contains(&level) {
            self.complaints.push(text.to_string());
        }
    }
}
