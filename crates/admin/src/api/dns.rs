//! DNS that does not answer: part of [`Status`](super::Status).

use serde::{Deserialize, Serialize};

/// Lookups fail, and so mail to other domains waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsTrouble {
    /// The name servers that are asked, with port.
    pub servers: Vec<String>,
    /// How many lookups have failed, 1 or more.
    pub failed: usize,
    /// When the first of them failed, in seconds since 1970.
    pub since: u64,
    /// What came of the last one.
    pub problem: String,
}
