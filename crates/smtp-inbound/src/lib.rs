//! The server side of SMTP: listeners, connections, sessions, receiving a message.
//!
//! | question | module |
//! |---|---|
//! | who is let in? | [`listener`] |
//! | how much may one client do? | `clients` |
//! | whose connection does a proxy hand on? | `proxied` |
//! | how full is the server? | `pressure` |
//! | TCP or a UNIX socket? | `stream` |
//! | bytes, timeouts, TLS, the order of replies? | `connection` |
//! | whose password is checked next? | `password_checks` |
//! | who is asked about a password? | `login_check`, other systems: `login_source` |
//! | is this token good? | `tokens` |
//! | the order of commands? | [`session`], one `match` |
//! | what does a command do? | `commands/*` |
//! | a reply text? | [`replies`], nowhere else |
//! | the content of a message, trace headers? | [`receive`] |
//! | certificate and key? | [`tls`] |
//! | what is counted? | [`metrics`] |
//!
//! Who may do what is decided in `postern-policy`; what became of an accepted message is the business of
//! `postern-queue`. A session has no I/O: it is given lines and answers with an [`session::Action`].

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use postern_config::Config;
use postern_policy::Policy;
use postern_policy::facts::Finder;
use postern_policy::record::Records;
use postern_queue::Door;
use postern_runtime::Clock;

pub mod banned;
mod clients;
mod commands;
mod connection;
mod farewell;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod listener;
mod login_check;
mod login_source;
pub mod metrics;
mod password_checks;
mod pressure;
mod proxied;
pub mod receive;
pub mod replies;
pub mod session;
mod stream;
pub mod tls;
pub mod tokens;

pub use listener::{BoundListener, Inbound, Load, bind};
pub use metrics::Metrics;

/// What all sessions share. A reload swaps `config`, `policy` and `tls`; sessions take the new ones with their next
/// transaction, and the certificate with the next handshake.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Its rules, compiled.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Whom to ask for facts that decisions need.
    pub facts: Arc<dyn Finder>,
    /// Where refusals are kept for whoever asks about them.
    pub records: Arc<Records>,
    /// Where accepted messages go. Clients are served before it is open, up to MAIL.
    pub door: Door,
    /// Certificate and key; without them there is no STARTTLS and no login.
    pub tls: Arc<ArcSwapOption<tls::ServerTls>>,
    /// Counters of sessions.
    pub metrics: Metrics,
    /// Counters of decisions.
    pub decisions: postern_policy::metrics::Metrics,
    /// The time in Received fields and records.
    pub clock: Arc<dyn Clock>,
}
