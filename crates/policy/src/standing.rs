//! What decisions look at beside the configuration: it changes while a configuration is in force, and outlives it.

use crate::sender_domains::SenderDomains;

/// Facts that come and go. One for the whole life of the daemon; every generation of the rules looks at the same one.
#[derive(Debug, Default)]
pub struct Standing {
    /// What is known of the domains that logins send from.
    pub sender_domains: SenderDomains,
}
