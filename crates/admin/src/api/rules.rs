//! Requests and answers about standing rules.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/rules` | | [`RuleList`] |
//! | `POST /v1/rules/add` | [`AddRule`] | [`RuleAdded`] |
//! | `POST /v1/rules/remove` | [`RemoveRules`] | [`RulesRemoved`] |
//! | `POST /v1/rules/test` | [`TestRules`] | [`RuleTest`] |

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use postern_queue::rules::{Rule, RuleAction, RuleTotals};

use super::{Change, Filter};

/// The answer to `GET /v1/rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// All rules by id; those whose time is over are listed for a week.
    pub rules: Vec<Rule>,
    /// What keeps rules from being in force, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `POST /v1/rules/add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRule {
    /// What the rule does.
    pub action: RuleAction,
    /// Which messages. An empty filter needs `all`.
    #[serde(default)]
    pub filter: Filter,
    /// Every message that the filter leaves, however many; an empty filter leaves all.
    #[serde(default)]
    pub all: bool,
    /// Why, for operators.
    pub reason: String,
    /// What the client or the sender reads: `reject` and `fail`.
    #[serde(default)]
    pub text: Option<String>,
    /// `reject`: 450 instead of 550.
    #[serde(default)]
    pub temporary: bool,
    /// For how many seconds.
    #[serde(default, rename = "for")]
    pub duration: Option<u64>,
    /// Until when, in seconds since 1970; not with `for`.
    #[serde(default)]
    pub until: Option<u64>,
    /// Do it also to what is queued already; not `reject`.
    #[serde(default)]
    pub existing: bool,
    /// With `existing`: nothing is done, and no rule added, when more messages than so many match;
    /// [`super::DEFAULT_MAX`] when left out.
    #[serde(default)]
    pub max: Option<usize>,
    /// With `existing`: waits up to so many seconds for messages that are being delivered; [`super::MAX_WAIT`] at most.
    #[serde(default)]
    pub wait: Option<u64>,
    /// Only say whether the rule could be added, and what it would find.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to [`AddRule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAdded {
    /// Whether nothing was changed because `dry_run` was asked.
    pub dry_run: bool,
    /// The rule, unless nothing was changed.
    pub rule: Option<Rule>,
    /// What became of queued messages, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Change>,
}

/// `POST /v1/rules/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveRules {
    /// These.
    pub ids: Vec<u64>,
    /// All of them.
    pub all: bool,
    /// Only say which.
    pub dry_run: bool,
}

/// The answer to [`RemoveRules`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesRemoved {
    /// Whether nothing was changed because `dry_run` was asked.
    pub dry_run: bool,
    /// The rules.
    pub rules: Vec<RemovedRule>,
}

/// A rule that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRule {
    /// The rule as it was.
    #[serde(flatten)]
    pub rule: Rule,
    /// Messages that it holds. They stay held: the filter `held_by` takes them.
    pub still_held: usize,
}

/// `POST /v1/rules/test`: a message that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRules {
    /// MAIL FROM; empty or `<>` is the null sender.
    pub from: String,
    /// RCPT TO.
    pub to: Vec<String>,
    /// The client's address.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// Who logged in.
    #[serde(default)]
    pub account: Option<String>,
    /// Octets.
    #[serde(default)]
    pub size: u64,
    /// The header, or the whole message.
    #[serde(default)]
    pub message: Option<String>,
}

/// The answer to [`TestRules`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTest {
    /// Rules in force that match, by id.
    pub matching: Vec<Rule>,
    /// The one that decides.
    pub decides: Option<u64>,
    /// Whether that is at RCPT already, and not at the end of the message.
    pub at_rcpt: bool,
}
