//! What operators ask of a running daemon: HTTP over the control socket, health and metrics.
//!
//! The daemon calls [`server::serve`] and, where `[metrics]` names an address, [`metrics::serve`]; `posternctl` speaks
//! through [`client::Client`]. The socket takes plain HTTP/1.1 with JSON bodies, so that a shell can ask too:
//!
//! ```sh
//! curl --unix-socket /run/postern/control.sock http://postern/v1/status
//! curl --unix-socket /run/postern/control.sock http://postern/v1/queue/list --data '{"filter": {"state": "held"}}'
//! ```
//!
//! | question | module |
//! |---|---|
//! | what can be asked, and what comes back? | [`api`] |
//! | who answers? | [`server`] |
//! | who changes messages? | `verbs` |
//! | who may ask, and who may change? | `rights` |
//! | who changed what? | `audit` |
//! | what if whoever asked hangs up? | `changes` |
//! | what happens, and what became of it? | [`history`] |
//! | what becomes of new mail that matches? | `rules` |
//! | is the DNS of our domains in order? | `domains` |
//! | what should an operator look at? | `doctor` |
//! | who may relay, for now? | [`relay`] |
//! | how does a message move to another machine? | `import` |
//! | is the spool whole? a backup, what was set aside | `store` |
//! | how does `posternctl` ask? | [`client`] |
//! | why would this mail be refused? | [`explain`] |
//! | do the rules answer as the operator expects? | [`policy_test`] |
//! | why was that mail refused? | [`refusals`] for operators, [`report`] for the sender |
//! | is the server well? | [`health`] |
//! | what does Prometheus read? | [`metrics`], of lists in DNS [`blocklists`] |
//!
//! Nothing is decided here: the verbs are those of `postern-queue`, the decisions those of `postern-policy`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use postern_config::{Config, ListenAddress};
use postern_policy::Policy;
use postern_policy::checkup::reports::Reports;
use postern_policy::checkup::{Check, Finding};
use postern_policy::facts::Finder;
use postern_policy::record::Records;
use postern_policy::relay::{Decision, Question};
use postern_queue::{Door, Queue};
use postern_runtime::clock::Pending;
use postern_runtime::dns::Trouble;
use postern_smtp::{Address, Domain};

mod accounts;
pub mod api;
mod audit;
pub mod blocklists;
mod changes;
pub mod client;
mod doctor;
mod domains;
pub mod explain;
pub mod health;
pub mod history;
mod import;
pub mod metrics;
pub mod policy_test;
pub mod refusals;
pub mod relay;
pub mod report;
mod rights;
mod rules;
pub mod server;
mod store;
mod verbs;

pub use audit::note_at_rest;
pub use client::{Client, ClientError};
pub use store::fix_event;

/// What the answers are made from. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// The queue, which may still be loaded: then requests that need it are answered with [`api::ProblemKind::Loading`].
    pub door: Door,
    /// Refusals by their reference.
    pub records: Arc<Records>,
    /// Whom to ask for facts that decisions need.
    pub facts: Arc<dyn Finder>,
    /// The rules in force.
    pub policy: Arc<ArcSwap<Policy>>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// All metrics of the process.
    pub registry: prometheus::Registry,
    /// What only the daemon itself knows or can do.
    pub daemon: Arc<dyn Daemon>,
    /// When the daemon started.
    pub started: SystemTime,
    /// The version of the program.
    pub release: &'static str,
}

impl Shared {
    /// The queue, or the answer that it is still being loaded.
    pub(crate) fn queue(&self) -> Result<Queue, server::Failure> {
        self.door.now().ok_or_else(|| server::failure(api::ProblemKind::Loading, health::loading(&self.door)))
    }
}

/// What is asked of the daemon around the control socket; it knows the services that this one may not use.
pub trait Daemon: Send + Sync {
    /// Reads the configuration again. When it fails, the old one stays in force; the text says why.
    fn reload(&self) -> Pending<'_, Result<ReloadReport, String>>;

    /// Where the mail to this final recipient would go, in words an operator knows from the configuration (`mx adatum.test`,
    /// `smarthost relay.test:587 tls verify`), and how. Asks neither DNS nor any server.
    fn delivery(&self, mail: &explain::Mail<'_>, recipient: &Address) -> api::Delivery;

    /// The reply that a client would get for this decision, without a reference; `None` where it goes on unanswered.
    fn reply(&self, question: &Question<'_>, decision: &Decision) -> Option<String>;

    /// Where mail is accepted at this moment.
    fn listening(&self) -> Vec<Listening>;

    /// How busy the service for SMTP clients is.
    fn load(&self) -> api::load::Load;

    /// What the operator should know: warnings of the configuration in force, certificates about to expire ...
    fn warnings(&self) -> Vec<String>;

    /// Looks up the DNS of these `[[domain]]`s now, and notes what it finds beside the policy.
    fn verify(&self, domains: Vec<Domain>) -> Pending<'_, ()>;

    /// Makes a check with the rules and the name servers in force. Changes nothing; bounded in time.
    fn check(&self, check: Check) -> Pending<'_, Vec<Finding>>;

    /// Whether DNS is dead, as far as lookups of the last time and one more say. Bounded in time.
    fn dns_trouble(&self) -> Pending<'_, Option<Trouble>>;

    /// Reads the reports of others, where the configuration in force says that they stand. Changes nothing; bounded in time.
    fn reports(&self) -> Pending<'_, Reports>;
}

/// A listener that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// `mx`, `submission`, `submissions`, `lmtp`.
    pub kind: String,
    /// The socket, or the address with the port it really has, also where port 0 was configured.
    pub address: ListenAddress,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The file that was read.
    pub path: PathBuf,
    /// What the new configuration warns of.
    pub warnings: Vec<String>,
    /// Settings that changed and count only after a restart.
    pub needs_restart: Vec<String>,
}
