//! How the server of a relay domain is asked whether a recipient exists.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{at_least_one, not_zero};
use crate::source::{Findings, Node};
use crate::units;

/// How the servers of relay domains with `recipients = "call-forward"` are asked: EHLO, MAIL FROM:<>, RCPT TO, and no message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallForward {
    /// How long the client waits at RCPT for all of it. After that the recipient is taken, as if the server were down.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How long a recipient that exists is believed to exist.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub positive_ttl: Duration,
    /// How long a recipient that does not exist is refused without asking again: a new mailbox waits for so long.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub negative_ttl: Duration,
    /// How long a server that did not answer is left alone; recipients are taken meanwhile.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub down_ttl: Duration,
    /// Answers kept at most, some 300 octets each. Beyond that the oldest go.
    pub cache_size: usize,
}

impl Default for CallForward {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            positive_ttl: Duration::from_secs(86_400),
            negative_ttl: Duration::from_secs(1800),
            down_ttl: Duration::from_secs(60),
            cache_size: 50_000,
        }
    }
}

impl CallForward {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "timeout", self.timeout, findings);
        at_least_one(node, "cache_size", self.cache_size as u64, findings);
    }
}
