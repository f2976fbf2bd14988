//! What decisions look at beside the configuration: it changes while a configuration is in force, and outlives it.

pub mod grants;
pub mod hosts;
pub mod rates;
pub mod recipients;

use crate::sender_domains::SenderDomains;

/// Facts that come and go. One for the whole life of the daemon; every generation of the rules looks at the same one.
#[derive(Debug, Default)]
pub struct Standing {
    /// Who may relay for a while.
    pub grants: grants::TemporaryGrants,
    /// Where host names that may relay are now.
    pub hosts: hosts::HostAddresses,
    /// What address grants have used of their rates.
    pub rates: rates::Rates,
    /// What is known of the domains that logins send from.
    pub sender_domains: SenderDomains,
    /// Which recipients of relay domains exist.
    pub recipients: recipients::CalledForward,
}
