//! Requests and answers about the DNS of our domains.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/domains` | | [`DomainList`] |
//! | `POST /v1/domains/verify` | [`VerifyDomains`] | [`DomainList`] of those |

use postern_config::RequireVerified;
pub use postern_policy::verification::{DnsRecord, DomainReport, Finding, Outcome, State, Weight};
use serde::{Deserialize, Serialize};

/// The answer to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainList {
    /// What follows for a domain that is not verified.
    pub require_verified: RequireVerified,
    /// In the order of the configuration.
    pub domains: Vec<DomainView>,
}

/// A `[[domain]]`, and what is known of its DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainView {
    /// Its name.
    pub name: String,
    /// What is wrong, in a few words; nothing where it is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// All that is known.
    #[serde(flatten)]
    pub report: DomainReport,
}

/// `POST /v1/domains/verify`: look these up now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyDomains {
    /// These.
    pub domains: Vec<String>,
    /// All of them.
    pub all: bool,
}
