//! The configuration: one typed, documented table per file.
//!
//! `postern.toml` and `conf.d/*.toml` describe the whole server ([`load`]); logins stand in `accounts.toml`
//! ([`account`]), which `posternctl account` edits. Every key has a type, a doc comment and a default, here and
//! nowhere else; `docs/config.md` is generated from them ([`manual`]). A key that is unknown is an error with file,
//! line and column. A crate takes its own table, never the whole [`Config`].
//!
//! | table | module |
//! |---|---|
//! | `hostname`, `user` and the tables below | this one |
//! | `[[listener]]` | [`listener`] |
//! | `[smtp]`: limits and timeouts of sessions | [`smtp`], against floods [`protection`], for other mail systems `peers` |
//! | `[tls]` | [`tls`] |
//! | `[relay]` | [`relay`] |
//! | `[[domain]]` | [`domain`] |
//! | `[auth]`, `[[account]]` | [`account`], the SCRAM verifiers in [`scram`], password hashes in [`password_hash`] |
//! | `[auth.backend]`, `[auth.oauth]`: other systems that know logins | [`backend`], [`oauth`] |
//! | `[policy]`: senders and their domains, lists of clients in DNS | [`policy`], what is kept of refusals in [`records`] |
//! | `[replies]`: how refusals are worded | [`replies`] |
//! | `[report]`: the page of refusals | [`report`] |
//! | `[reputation]`: what others report of our mail | [`reputation`] |
//! | `[queue]` | [`queue`], the journal in [`history`] |
//! | `[[route]]` | [`route`] |
//! | `[outbound]` | [`outbound`] |
//! | `[resolver]` | [`resolver`] |
//! | `[log]` | [`log`] |
//! | `[metrics]`, `[admin]` | [`admin`] |
//!
//! Reading and checking: `source` (texts, places, merging), `shape` (tree against schema), `check` and the `check` of each
//! table (sense), `aliases` (does every alias lead to somebody), [`diagnostic`] (how it is told). Where lines can be added
//! afterwards: [`paste`].

use std::path::PathBuf;

use postern_smtp::Domain;
use schemars::JsonSchema;
use serde::Deserialize;

pub mod account;
pub mod admin;
mod aliases;
pub mod auth;
pub mod backend;
mod check;
pub mod diagnostic;
pub mod domain;
pub mod history;
mod listen_address;
pub mod listener;
mod load;
pub mod log;
pub mod manual;
pub mod oauth;
pub mod outbound;
pub mod password_hash;
pub mod paste;
mod peers;
pub mod policy;
pub mod protection;
pub mod queue;
pub mod records;
pub mod relay;
pub mod replies;
pub mod report;
pub mod reputation;
pub mod resolver;
pub mod route;
pub mod scram;
mod senders;
mod shape;
pub mod smtp;
mod source;
pub mod surroundings;
pub mod tls;
pub mod units;

pub use account::{Account, Auth, Permission};
pub use admin::{Admin, Metrics};
pub use auth::{Limits, LoginState};
pub use diagnostic::{ConfigError, Diagnostic, render};
pub use history::History;
pub use listen_address::ListenAddress;
pub use listener::{Listener, ListenerKind, LoginPorts};
pub use load::{Loaded, load, load_logins, load_with_accounts};
pub use log::Log;
pub use outbound::Outbound;
pub use policy::RequireVerified;
pub use queue::Queue;
pub use relay::Relay;
pub use replies::Replies;
pub use report::Report;
pub use reputation::Reputation;
pub use resolver::Resolver;
pub use route::{Route, Via};
pub use scram::Mechanism;
pub use smtp::Smtp;
pub use tls::Tls;

/// The whole configuration, checked: what could not run does not come out of [`load`].
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this host in greetings, EHLO, Received fields and reports. Needs a PTR record to be believed by others.
    #[serde(with = "units::domain")]
    #[schemars(with = "String")]
    pub hostname: Domain,
    /// The user the daemon becomes when it is started as root. Default: `postern` if that user exists, else it stays root.
    #[serde(default)]
    pub user: Option<String>,
    /// Where mail is accepted. Default: port 25 and, where `[tls]` is configured, 587 and 465, on all addresses.
    #[serde(default, rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Limits and timeouts of SMTP sessions.
    #[serde(default)]
    pub smtp: Smtp,
    /// Certificate and key for STARTTLS and port 465.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Who may relay without a login, and for which domains.
    #[serde(default)]
    pub relay: Relay,
    /// The domains whose mailboxes are here.
    #[serde(default, rename = "domain")]
    pub domains: Vec<domain::Domain>,
    /// Where logins are kept.
    #[serde(default)]
    pub auth: Auth,
    /// What is asked of senders and their domains.
    #[serde(default)]
    pub policy: policy::Policy,
    /// How refusals are worded.
    #[serde(default)]
    pub replies: Replies,
    /// The public page of refusals.
    #[serde(default)]
    pub report: Report,
    /// Where the reports stand that others send about our mail.
    #[serde(default)]
    pub reputation: Reputation,
    /// The spool, the retry schedule and the lifetime of messages.
    #[serde(default)]
    pub queue: Queue,
    /// Where mail goes that is not delivered by MX: smarthosts, LMTP, refusals. The first entry that matches decides.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    /// How mail is sent.
    #[serde(default)]
    pub outbound: Outbound,
    /// How DNS is asked.
    #[serde(default)]
    pub resolver: Resolver,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// The Prometheus endpoint.
    #[serde(default)]
    pub metrics: Metrics,
    /// The control socket.
    #[serde(default)]
    pub admin: Admin,
    /// The logins of `auth.accounts`; filled by loading, not by this file.
    #[serde(skip)]
    pub accounts: Vec<Account>,
    /// The file the configuration came from; relative paths in it count from that file's directory.
    #[serde(skip)]
    pub path: PathBuf,
    /// Where lines can be added to it; filled by loading, not by this file.
    #[serde(skip)]
    pub places: paste::Places,
    /// The machine as it was when it was loaded; nothing is known of it where it came from no file.
    #[serde(skip)]
    pub surroundings: surroundings::Surroundings,
}

impl Config {
    /// Whether clients of such a listener are asked for a certificate: a right to relay hangs on it on every listener, a login
    /// where logins are taken. Nobody is asked in vain: mail programs and browsers bother their users with the question.
    pub fn asks_for_certificates(&self, listener: ListenerKind) -> bool {
        let is_listed = || self.accounts.iter().any(|account| !account.certificates.is_empty());
        !self.relay.certificates.is_empty() || (listener.is_submission() && is_listed())
    }
}
