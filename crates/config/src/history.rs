//! `[queue.history]`: the journal of what became of messages after they left.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::{Findings, Node};
use crate::units;

/// What `posternctl message history` answers from. Never content or subjects; senders, recipients, clients and replies.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Whether the journal is kept. Some 350 octets are written for a delivery, without waiting for the disk.
    pub enabled: bool,
    /// Its directory; by default `history` in the spool directory, where it does not grow below `queue.min_free_space`. The
    /// daemon's user must be allowed to write there.
    pub path: Option<PathBuf>,
    /// Octets of all its files together; the oldest file goes first. The default holds some 750,000 deliveries: weeks of a
    /// small server, and a fraction of the space that mail is refused for.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_size: u64,
    /// Files whose day is longer ago are removed, whole. Questions about a message come within days or with the monthly
    /// invoice; who wrote to whom is personal data that should not be kept without a reason.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_age: Duration,
}

/// Below this the files would be too small to be of use.
const LEAST_SIZE: u64 = 1024 * 1024;

impl Default for History {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            max_size: 256 * 1024 * 1024,
            max_age: Duration::from_secs(30 * 86_400),
        }
    }
}

impl History {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.max_size < LEAST_SIZE {
            let help = "write at least \"1MiB\", or `enabled = false` for no journal";
            findings.error(&node.key("max_size"), "`max_size` is below 1 MiB", help);
        }
        if self.max_age.is_zero() {
            let help = "write how long the journal reaches back, such as \"30d\", or `enabled = false` for no journal";
            findings.error(&node.key("max_age"), "`max_age` is zero", help);
        }
    }
}
