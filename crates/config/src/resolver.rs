//! `[resolver]`: how DNS is asked.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{at_least_one, not_zero};
use crate::source::{Findings, Node};
use crate::units;

/// Answers are cached as long as they may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// Name servers with port, such as `"127.0.0.1:53"`. Empty: those of `/etc/resolv.conf`.
    #[schemars(with = "Vec<String>")]
    pub nameservers: Vec<SocketAddr>,
    /// How long one server may take to answer one question.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How often a question is asked.
    pub attempts: usize,
    /// Answers kept at most.
    pub cache_size: u64,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { nameservers: Vec::new(), timeout: Duration::from_secs(3), attempts: 2, cache_size: 8192 }
    }
}

impl Resolver {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "timeout", self.timeout, findings);
        at_least_one(node, "attempts", self.attempts as u64, findings);
        for (node, server) in node.each("nameservers", &self.nameservers) {
            if server.port() == 0 {
                findings.error(&node, format!("{server} has no port"), "53 is usual");
            }
        }
    }
}
