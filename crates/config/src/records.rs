//! `[policy.records]`: what is kept of refusals, so that their references can be explained.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::at_least_one;
use crate::source::{Findings, Node};
use crate::units;

/// What `posternctl explain REFERENCE` and the report page answer from: the facts of a refusal, the rules looked at, the commands
/// and replies of the transaction. Never passwords, never content of messages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Whether refusals are kept, in `policy/records` of the spool directory. If not, replies have no reference.
    pub enabled: bool,
    /// Records of all files together; the oldest file goes first. Each costs 8 octets of memory.
    pub max_records: u64,
    /// Octets of all files together; the oldest file goes first. A record has one or two KiB, so the default holds some
    /// 200,000. Nothing is written where less than `queue.min_free_space` is free.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_size: u64,
    /// Records that are older are not shown, and removed soon after. People ask within days; who wrote to whom is personal data
    /// that should not be kept without a reason.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_age: Duration,
    /// Records an hour of one client (IPv6: of its /64). Whoever knocks at every door must not push out the record of
    /// somebody who was refused once; what is beyond is refused without a reference, and counted.
    pub max_per_client: u32,
}

/// Below this the files would be too small to be of use.
const LEAST_SIZE: u64 = 1024 * 1024;

impl Default for Records {
    fn default() -> Self {
        Self {
            enabled: true,
            max_records: 1_000_000,
            max_size: 256 * 1024 * 1024,
            max_age: Duration::from_secs(30 * 86_400),
            max_per_client: 1000,
        }
    }
}

impl Records {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        let off = "or `enabled = false` to keep none";
        if self.max_size < LEAST_SIZE {
            let help = format!("write at least \"1MiB\", {off}");
            findings.error(&node.key("max_size"), "`max_size` is below 1 MiB", help);
        }
        if self.max_age.is_zero() {
            let help = format!("write how long records are kept, such as \"30d\", {off}");
            findings.error(&node.key("max_age"), "`max_age` is zero", help);
        }
        at_least_one(node, "max_records", self.max_records, findings);
        at_least_one(node, "max_per_client", u64::from(self.max_per_client), findings);
    }
}
