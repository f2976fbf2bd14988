//! `[reputation]`: where the reports stand that others send about our mail.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::{Findings, Node};
use crate::units;

/// What `posternctl doctor reputation` reads beside the journal: DMARC aggregate reports (RFC 7489 section 7.2), which others send to
/// the `rua=` address of a domain, and complaints (RFC 5965), which providers send to whoever registered for them. They are only read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reputation {
    /// Maildirs, other folders, or files: messages, or reports as `.xml`, `.xml.gz` and `.zip`. The daemon's user must be allowed to
    /// read them. Folders below and links are not followed. A file may have 16 MiB, and a report as much when it is unpacked.
    pub reports: Vec<PathBuf>,
    /// Files that have not changed for longer, and reports about a time before, do not count. A week shows what is so now: most
    /// reporters write once a day.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_age: Duration,
    /// Files of all places together that are read; the newest count. A few thousand take some seconds.
    pub max_reports: usize,
}

impl Default for Reputation {
    fn default() -> Self {
        Self { reports: Vec::new(), max_age: Duration::from_secs(7 * 86_400), max_reports: 5000 }
    }
}

impl Reputation {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.max_age.is_zero() {
            let help = "write how far back reports count, such as \"7d\"";
            findings.error(&node.key("max_age"), "`max_age` is zero, so no report would count", help);
        }
        if self.max_reports == 0 {
            let help = "write 1 or more; to read none, leave `reports` out";
            findings.error(&node.key("max_reports"), "`max_reports` is 0, so none would be read", help);
        }
    }
}
