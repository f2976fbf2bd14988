//! `[queue]`: the spool, the retry schedule and the lifetime of messages.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{at_least_one, not_zero};
use crate::history::History;
use crate::source::{Findings, Node};
use crate::units;

/// The spool and the schedule.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The spool directory; the default Maildirs are below it too.
    pub path: PathBuf,
    /// When a deferred recipient is tried again.
    pub retry: Retry,
    /// How long a recipient is tried. RFC 5321 §4.5.4.1 asks for 4 to 5 days. With `smtp.max_hold` 49 days at most.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub lifetime: Duration,
    /// The same for messages with a null sender (reports): nobody is told when they end, so waiting long helps nobody.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub bounce_lifetime: Duration,
    /// After this time the sender is told once that the message is delayed. `"0s"`: never.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub delay_notice: Duration,
    /// Messages in the queue at most; more get 452 4.3.1. A waiting message costs some 200 octets of memory, beside what
    /// `memory` allows.
    pub max_messages: usize,
    /// Memory for the envelopes and states of waiting messages. Beyond it those that were not used for longest are left to
    /// the spool and read again when their time comes: a long queue costs time, not memory.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub memory: u64,
    /// Free space that must remain on the spool's filesystem; below it new mail gets 452 4.3.1.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub min_free_space: u64,
    /// Free inodes that must remain, likewise.
    pub min_free_inodes: u64,
    /// Size of one file of the log. Larger files mean fewer of them and coarser steps of giving space back.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub segment_size: u64,
    /// Messages above this size get a file of their own, written while they arrive; up to it they are held in memory
    /// until they are committed with others.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub inline_limit: u64,
    /// How long a session waits for the disk before its client gets 451 4.3.0.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub commit_timeout: Duration,
    /// How often the index is brought up to date with the log.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub index_interval: Duration,
    /// A delivery attempt that takes no step (a connection, a reply, a block of content) for so long is ended, and counts as a
    /// fault of this server; after three the message is held. The default is well above all that RFC 5321 §4.5.3.2 allows for
    /// one command (10 minutes for the reply to the final dot); keep it above `outbound.timeouts`.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub stall_limit: Duration,
    /// The journal of what became of messages.
    pub history: History,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            path: "/var/spool/postern".into(),
            retry: Retry::default(),
            lifetime: Duration::from_secs(5 * 86_400),
            bounce_lifetime: Duration::from_secs(86_400),
            delay_notice: Duration::from_secs(4 * 3600),
            max_messages: 1_000_000,
            memory: 32 * 1024 * 1024,
            min_free_space: 256 * 1024 * 1024,
            min_free_inodes: 1000,
            segment_size: 64 * 1024 * 1024,
            inline_limit: 128 * 1024,
            commit_timeout: Duration::from_secs(30),
            index_interval: Duration::from_secs(1),
            stall_limit: Duration::from_secs(30 * 60),
            history: History::default(),
        }
    }
}

/// The schedule: the n-th wait is `first` times `growth` to the power of n, at most `cap`, varied by `jitter`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The first wait. Greylisting servers expect one of a few minutes.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub first: Duration,
    /// By which each wait is longer than the one before it.
    pub growth: f64,
    /// No wait is longer than this.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub cap: Duration,
    /// Each wait is varied by up to this share of itself, so that messages deferred together do not return together.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5 * 60),
            growth: 1.5,
            cap: Duration::from_secs(4 * 3600),
            jitter: 0.15,
        }
    }
}

impl Queue {
    /// Where the journal is.
    pub fn history_path(&self) -> PathBuf {
        self.history.path.clone().unwrap_or_else(|| self.path.join("history"))
    }

    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        self.retry.check(&node.key("retry"), findings);
        self.history.check(&node.key("history"), findings);
        at_least_one(node, "max_messages", self.max_messages as u64, findings);
        at_least_one(node, "segment_size", self.segment_size, findings);
        for (key, value) in [
            ("lifetime", self.lifetime),
            ("bounce_lifetime", self.bounce_lifetime),
            ("commit_timeout", self.commit_timeout),
            ("index_interval", self.index_interval),
            ("stall_limit", self.stall_limit),
        ] {
            not_zero(node, key, value, findings);
        }
        if self.inline_limit >= self.segment_size {
            let help = "a file of the log must hold many messages: 64MiB and 128KiB are the defaults";
            findings.error(&node.key("inline_limit"), "`inline_limit` is not below `segment_size`", help);
        }
    }
}

impl Retry {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        not_zero(node, "first", self.first, findings);
        if self.first > self.cap {
            let help = "the first wait is the shortest one";
            findings.error(&node.key("first"), "`first` is longer than `cap`", help);
        }
        if !(self.growth >= 1.0 && self.growth.is_finite()) {
            let help = "1 keeps all waits alike, 2 doubles each";
            findings.error(
                &node.key("growth"),
                format!("`growth` is {}: waits would shrink", self.growth),
                help,
            );
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let help = "0.15 varies each wait by up to 15 per cent";
            findings.error(
                &node.key("jitter"),
                format!("`jitter` is {}, not between 0 and 1", self.jitter),
                help,
            );
        }
    }
}
