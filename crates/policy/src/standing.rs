//! What decisions look at beside the configuration: it changes while a configuration is in force, and outlives it.

pub mod alarms;
pub mod bans;
pub mod blocklists;
mod by_login;
pub mod grants;
pub mod guesses;
pub mod hosts;
pub mod own;
pub mod rates;
pub mod recipients;
pub mod secret;
pub mod signs;
pub mod suspensions;
pub mod usage;
mod window;

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
    /// What logins have sent.
    pub usage: usage::Usage,
    /// What looks as if they were in the wrong hands.
    pub signs: signs::Signs,
    /// Those that were suspended for it.
    pub suspensions: suspensions::Suspensions,
    /// Who guesses passwords.
    pub guesses: guesses::Guesses,
    /// Who was banned for it, or by an operator.
    pub bans: bans::Bans,
    /// What lists in DNS said of clients.
    pub blocklists: blocklists::Blocklists,
    /// Where this machine can be reached.
    pub own: own::OwnAddresses,
    /// What answers to names that nobody has are made up with.
    pub secret: secret::Secret,
    /// What postmaster is to be told.
    pub alarms: alarms::Alarms,
}

/// FNV-1a, folded: the same in every release, as it stands in files.
fn stable_hash(octets: &[u8]) -> u32 {
    let hash = octets.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}
