//! One delivery attempt: from a lease of the queue to an outcome for each recipient.
//!
//! | question | module |
//! |---|---|
//! | the steps of an attempt, and how many at once? | [`worker`] |
//! | where does a recipient's mail go next? | [`route`] |
//! | which routes can an operator write by hand? | [`by_hand`] |
//! | how much TLS, and what if it fails? | [`tls_policy`]; handshakes: [`tls`] |
//! | greeting, EHLO, STARTTLS, login? | [`client`] |
//! | MAIL, RCPT, DATA, and their replies? | `transaction`; the octets: `wire`, `content` |
//! | which connections are kept? | [`pool`] |
//! | does mail get out at all? | `reach` |
//! | who signs what? | [`sign`] |
//! | permanent or temporary? | [`outcome`] |
//! | what must a decision of the policy know first? | [`facts`] |
//! | a mailbox on this machine? | [`maildir`] |
//! | how does our own postmaster hear of something? | [`postmaster`] |
//! | what does the queue ask about destinations? | [`surroundings`] |
//! | what do decisions ask of DNS? | [`facts`] |
//! | what would become of a message? | [`forecast`] |
//! | which records do our domains need, and do they have them? | [`domains`] |
//! | what should an operator look at in DNS? | [`checkup`] |
//! | what is counted? | [`metrics`] |
//!
//! When a recipient is tried again, and what the sender is told, is decided in `postern-queue`; who is local, in
//! `postern-policy`.

pub mod by_hand;
pub mod checkup;
pub mod client;
mod content;
pub mod domains;
pub mod facts;
pub mod forecast;
pub mod maildir;
pub mod metrics;
pub mod outcome;
pub mod pool;
pub mod postmaster;
mod reach;
pub mod route;
pub mod settings;
pub mod sign;
pub mod surroundings;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod tls_policy;
mod transaction;
mod wire;
pub mod worker;

pub use domains::Keeper;
pub use facts::Facts;
pub use metrics::Metrics;
pub use settings::{Settings, SettingsError};
pub use surroundings::QueueSurroundings;
pub use worker::{Outbound, Shared};
