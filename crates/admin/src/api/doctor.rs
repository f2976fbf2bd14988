//! Requests and answers of the checks of `posternctl doctor`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/doctor/{names,senders,dns,blocklists}` | [`Findings`] |
//! | `GET /v1/doctor/reputation` | [`Tally`] of the last day |
//!
//! They change nothing: the operator right is enough.

pub use postern_policy::checkup::{Check, Finding, Weight};
pub use postern_queue::history::{DomainTally, Tally};
use serde::{Deserialize, Serialize};

/// Seconds that a [`Tally`] reaches back.
pub const TALLY_REACH: u64 = 86_400;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Concerns and notes, in the order of the configuration.
    pub findings: Vec<Finding>,
}
