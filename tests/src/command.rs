//! A command of the binary that runs while the test goes on.

use std::process::{Command, ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::services::signal;
use crate::within;

/// A command under way; killed when it is dropped.
pub struct UnderWay {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl UnderWay {
    /// Starts a command. What it complains about goes to the test's own output.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("the program runs");
        let stdout = process.stdout.take().expect("piped");
        Self {
            process,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// Reads on until a line that holds this text.
    pub async fn says(&mut self, text: &str) {
        within(&format!("the command to say {text:?}"), async {
            while let Some(line) = self.lines.next_line().await.expect("UTF-8") {
                if line.contains(text) {
                    return;
                }
            }
            panic!("the command ended and did not say {text:?}");
        })
        .await;
    }

    /// The next line, without its end; `None` when there are no more.
    pub async fn next_line(&mut self) -> Option<String> {
        let line = within("a line of the command", self.lines.next_line()).await;
        line.expect("UTF-8")
    }

    /// Kills it.
    pub async fn kill(mut self) {
        self.process.kill().await.expect("it runs");
    }

    /// Interrupts it (SIGINT), as Ctrl+C does, and waits until it has ended.
    pub async fn interrupt(self) -> ExitStatus {
        signal(self.process.id().expect("it was not waited for"), "INT");
        self.ended().await
    }

    /// Waits until it has ended.
    pub async fn ended(mut self) -> ExitStatus {
        let ended = within("the command to end", self.process.wait()).await;
        ended.expect("it is our child")
    }
}
