//! `[log]`: what is logged, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{Findings, Node};

/// The log goes to standard error; systemd takes it from there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `"info,postern_outbound=debug"`.
    pub level: String,
    /// `text` for people, `json` for programs: one object a line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Log {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for directive in self.level.split(',') {
            // `level` alone, or `part of the program=level`. A part alone is allowed too and looks like one: it has an
            // underscore or a colon, so a plain word is a slip that would silence everything.
            let word = directive.rsplit('=').next().unwrap_or_default().trim();
            let plain = word.chars().all(|c| c.is_ascii_alphabetic());
            if plain && !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
                let help = format!("the levels are {}", LEVELS.join(", "));
                findings.error(&node.key("level"), format!("{directive:?} does not name a level"), help);
            }
        }
    }
}
