//! Changes of an envelope.

use serde::{Deserialize, Serialize};

/// `POST /v1/queue/edit`: all of it is done, or nothing. The answer is [`super::Changed`]; what is wrong with the message
/// stands in its `skipped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EditRequest {
    /// The queue id.
    pub id: String,
    /// Another sender; empty or `<>` is the null sender.
    pub sender: Option<String>,
    /// Recipients to be added; local aliases are followed.
    pub add: Vec<String>,
    /// Recipients that end without a report.
    pub remove: Vec<String>,
    /// Recipients that have the message already.
    pub mark_delivered: Vec<String>,
    /// Another priority: one of [`super::PRIORITIES`].
    pub priority: Option<i64>,
    /// Only say whether the request can be read and the message is there.
    pub dry_run: bool,
    /// Why; it stands in the log.
    pub reason: Option<String>,
    /// Waits up to so many seconds for recipients that are being delivered; [`super::MAX_WAIT`] at most.
    pub wait: Option<u64>,
}
