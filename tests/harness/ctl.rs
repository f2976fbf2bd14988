//! `posternctl`, asked as an operator would.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use super::{Daemon, eventually};

/// What the command said and ended with.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The answer of a command that must have succeeded with `--json`.
    pub fn json(&self) -> Json {
        let answer: Json =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(answer["version"], 1, "{self:?}");
        answer
    }
}

impl Daemon {
    /// What `posternctl` printed, as it would be on a server whose configuration is at the usual place: commands that it advises
    /// name that of the test.
    pub fn as_usual(&self, text: &str) -> String {
        text.replace(&format!("posternctl --config {} ", self.config().display()), "posternctl ")
    }

    /// Runs `posternctl --config FILE` with these arguments.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_with_input(arguments, "")
    }

    /// The same with something on standard input.
    pub fn ctl_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posternctl"))
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed, with `--json`, and reads its answer.
    pub fn ask(&self, arguments: &[&str]) -> Json {
        let output = self.ctl(&[arguments, &["--json"]].concat());
        assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
        output.json()
    }

    /// The messages in the queue.
    pub fn queue(&self) -> Vec<Json> {
        let list = self.ask(&["queue", "list"]);
        list["messages"].as_array().expect("messages").clone()
    }

    /// Waits until a message in the queue is so, and gives it.
    pub fn wait_in_queue(&self, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        eventually(&format!("{what} in the queue"), || self.queue().into_iter().find(&is_so))
    }

    /// Waits until every message has left the queue.
    pub fn wait_for_empty_queue(&self) {
        let mut last = Vec::new();
        eventually("an empty queue", || {
            last = self.queue();
            last.is_empty().then_some(())
        });
    }

    /// A command that changes the queue: how many messages it changed. Exit code 3 is no failure: some were
    /// skipped, or are still being delivered.
    pub fn change_queue(&self, arguments: &[&str]) -> u64 {
        let output = self.ctl(&[&["queue"], arguments, &["--json"]].concat());
        assert!(matches!(output.code, 0 | 3), "{arguments:?}: {output:?}");
        output.json()["changed"].as_u64().unwrap_or_else(|| panic!("{arguments:?}: {output:?}"))
    }
}
