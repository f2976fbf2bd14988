//! May they? Facts in, verdict and reason out.
//!
//! | question | module |
//! |---|---|
//! | may this client send this message from here to there? | [`relay`] |
//! | may this login use this sender? | [`sender`] |
//! | who is behind a local address? | [`directory`] |
//! | is this the right password? | [`accounts`] |
//! | why was this refused? | [`record`] |
//! | what does this bounce mean? | [`bounce`] |
//!
//! Nothing here waits, logs or opens a socket: a decision is a function of values. The words of a refusal are
//! written by `postern-smtp-inbound`'s `replies.rs`; who is sent to is decided by `postern-outbound`'s `route.rs`.

pub mod accounts;
pub mod bounce;
pub mod directory;
pub mod metrics;
pub mod record;
pub mod relay;
pub mod sender;

use postern_config::Config;

/// The rules of one configuration, ready to be asked. Made anew at every reload and swapped whole.
#[derive(Debug)]
pub struct Policy {
    /// Trusted networks, relay domains, refusing routes.
    pub relay: relay::Rules,
    /// Local domains, mailboxes, aliases.
    pub directory: directory::Directory,
    /// Logins.
    pub accounts: accounts::Accounts,
}

impl Policy {
    /// Compiles the rules. The configuration was checked when it was loaded, so this cannot fail.
    pub fn new(config: &Config) -> Self {
        Self {
            relay: relay::Rules::new(config),
            directory: directory::Directory::new(config),
            accounts: accounts::Accounts::new(&config.accounts),
        }
    }
}
