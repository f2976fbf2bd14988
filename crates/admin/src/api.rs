//! The types of every request and answer. Answers only grow: within [`VERSION`] no field changes its meaning or goes.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `POST /v1/reload` | | [`Reloaded`] |
//! | `POST /v1/queue/list` | [`ListRequest`] | [`List`] |
//! | `POST /v1/queue/count` | [`CountRequest`] | [`Counts`] |
//! | `POST /v1/queue/shape` | [`ShapeRequest`] | [`Shape`] |
//! | `POST /v1/queue/show` | [`ShowRequest`] | [`Shown`] |
//! | `POST /v1/queue/{hold,release,retry,fail,drop,prioritise,reroute,requeue}` | [`ChangeRequest`] | [`Changed`] |
//! | `POST /v1/queue/edit` | [`edit::EditRequest`] | [`Changed`] |
//! | `GET /v1/queue/cat?id=ID&part=headers\|body\|raw` | | the content |
//! | `GET /v1/queue/export?id=ID` | | one line of [`Transfer`], then the content |
//! | `POST /v1/queue/import` | the same | [`Imported`] |
//! | `POST /v1/queue/watch` | [`history::WatchRequest`] | lines |
//! | `POST /v1/message/history` | [`history::HistoryRequest`] | [`history::History`] |
//! | `GET /v1/store/status` | | [`store::Status`] |
//! | `POST /v1/store/check` | [`store::CheckRequest`] | [`store::Event`]s, the last with [`store::Checked`] |
//! | `POST /v1/store/fix` | [`store::FixRequest`] | the same with [`store::Fixed`] |
//! | `POST /v1/store/rebuild` | [`store::RebuildRequest`] | the same with [`store::Rebuilt`] |
//! | `POST /v1/store/compact` | [`store::CompactRequest`] | the same with [`store::Compacted`] |
//! | `POST /v1/store/backup` | [`store::BackupRequest`] | the same with [`store::BackedUp`] |
//! | `GET /v1/store/quarantine` | | [`store::Quarantine`] |
//! | `POST /v1/store/quarantine/restore` | [`store::RestoreRequest`] | [`store::Restored`] |
//! | `POST /v1/store/quarantine/remove` | [`store::RemoveRequest`] | [`store::Removed`] |
//! | `POST /v1/audit` | [`AuditRequest`] | [`Audit`] |
//! | `/v1/rules`, `/v1/rules/{add,remove,test}` | [`rules`] | |
//! | `/v1/relay`, `/v1/relay/{grant,revoke}` | [`relay`] | |
//! | `GET /v1/doctor/CHECK` | | [`doctor`] |
//! | `POST /v1/policy/explain` | [`ExplainRequest`] | [`Explanation`] |
//! | `GET /v1/explain/REFERENCE` | | [`Refusal`] |
//! | `GET /metrics` | | Prometheus text |
//! | `GET /healthz` | | [`Health`], with 200 or 503 |
//!
//! Every JSON answer is a [`Versioned`] one; every failure is a [`Problem`] with a 4xx or 5xx.

pub mod accounts;
pub mod dns;
pub mod doctor;
pub mod domains;
pub mod edit;
pub mod history;
pub mod load;
pub mod refusals;
pub mod relay;
pub mod rules;
pub mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use postern_queue::operate::{
    Change, Filter, Group, GroupBy, HeaderPattern, InFlight, MessageView, PRIORITIES, RecipientView, Shape,
    ShapeBy, ShapeRow, Sort, Summary,
};
pub use postern_queue::{AttemptView, Transfer};

pub use refusals::Refusal;

/// The version of the answers.
pub const VERSION: u32 = 1;

/// Messages that a list has when nothing else is asked.
pub const DEFAULT_LIMIT: usize = 1000;
/// Messages that one page of a list can have at most.
pub const MAX_LIMIT: usize = 10_000;
/// Events of the audit log that one answer has at most, and has when nothing else is asked.
pub const MAX_EVENTS: usize = 10_000;
/// Seconds that a changing verb waits at most for messages that are being delivered.
pub const MAX_WAIT: u64 = 100;
/// Messages that a changing verb takes at most unless `all` or `max` say otherwise: a typing error should not empty a queue.
pub const DEFAULT_MAX: usize = 1000;

/// The envelope of every answer: its fields and the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<A> {
    /// [`VERSION`].
    pub version: u32,
    /// The answer, its fields beside `version`.
    #[serde(flatten)]
    pub answer: A,
}

impl<A> Versioned<A> {
    /// Puts the version beside an answer.
    pub fn new(answer: A) -> Self {
        Self { version: VERSION, answer }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of failure.
    pub kind: ProblemKind,
    /// In words, for the operator.
    pub error: String,
    /// How many messages the filter found, where there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request cannot be read or makes no sense (400).
    BadRequest,
    /// The peer may not use the socket, or may only read (403).
    Denied,
    /// No such message, reference or path (404).
    NotFound,
    /// A changing verb without a filter and without `all`, or one that found more messages than `max` (409).
    TooMany,
    /// The request is longer than the server reads (413).
    TooLarge,
    /// It does not go with how things are: another command is at work, a directory is not empty ... (409).
    Conflict,
    /// The configuration was not reloaded: the old one is in force (422).
    ReloadFailed,
    /// The spool could not be read or written (500).
    Store,
    /// Too many ask for this at once: come again later (503).
    Busy,
    /// The daemon has just started and still reads its queue: come again in a moment (503).
    Loading,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub release: String,
    /// Its process.
    pub pid: u32,
    /// The host name it greets with.
    pub hostname: String,
    /// The configuration file.
    pub configuration: String,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// Where mail is accepted.
    pub listeners: Vec<ListenerView>,
    /// While the queue is being loaded: how many messages were read so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<usize>,
    /// Totals of the queue; all 0 while it is being loaded.
    pub queue: Summary,
    /// Whether all is well.
    pub health: Health,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Standing rules in force; left out when there are none.
    #[serde(default, skip_serializing_if = "rules::RuleTotals::is_empty")]
    pub rules: rules::RuleTotals,
    /// Sessions of SMTP clients.
    #[serde(default, skip_serializing_if = "load::Load::is_unknown")]
    pub smtp: load::Load,
    /// DNS does not answer; left out when it does. Mail is accepted all the same, so this is no part of `health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<dns::DnsTrouble>,
}

/// An open listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// `mx`, `submission`, `submissions`.
    pub kind: String,
    /// Address and port.
    pub address: String,
}

/// Whether mail is accepted, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Nothing below.
    pub ok: bool,
    /// What is wrong.
    pub reasons: Vec<String>,
}

/// `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read.
    pub configuration: String,
    /// What the new configuration warns of.
    pub warnings: Vec<String>,
    /// Settings that changed and count only after a restart.
    pub needs_restart: Vec<String>,
}

/// `POST /v1/queue/list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListRequest {
    /// Which messages.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// How many; [`DEFAULT_LIMIT`] when left out, [`MAX_LIMIT`] at most.
    pub limit: Option<usize>,
    /// Where to go on: [`List::cursor`] of the page before, in the same order.
    pub cursor: Option<String>,
}

/// The answer to [`ListRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The messages.
    pub messages: Vec<MessageView>,
    /// Whether more match than `limit`.
    pub more: bool,
    /// Where they begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// `POST /v1/queue/count`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountRequest {
    /// Which messages.
    #[serde(default)]
    pub filter: Filter,
    /// What they are counted by.
    pub by: GroupBy,
}

/// The answer to [`CountRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The groups. A message whose recipients fall into several groups is counted in each.
    pub groups: Vec<Group>,
}

/// `POST /v1/queue/shape`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShapeRequest {
    /// Which messages.
    pub filter: Filter,
    /// Whose domains.
    pub by: ShapeBy,
    /// The upper ends of the columns in seconds, each above the one before.
    pub buckets: Vec<u64>,
    /// How many domains; [`DEFAULT_LIMIT`] when left out, [`MAX_LIMIT`] at most.
    pub limit: Option<usize>,
}

/// The answer to an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The queue id: the one it had.
    pub id: String,
    /// Why it was not taken, if so; nothing is wrong then.
    pub skipped: Option<String>,
}

/// `POST /v1/audit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditRequest {
    /// Events since then, in seconds since 1970.
    pub since: u64,
    /// How many, the newest; [`MAX_EVENTS`] at most.
    pub limit: Option<usize>,
}

/// The answer to [`AuditRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The events, oldest first.
    pub events: Vec<AuditEvent>,
    /// Whether older ones were left out.
    pub more: bool,
}

/// What an operator did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditEvent {
    /// When, in seconds since 1970.
    pub time: u64,
    /// Who, as a number.
    pub uid: u32,
    /// `hold`, `release`, `retry`, `fail`, `drop`, `edit`, `prioritise`, `reroute`, `requeue`, `import`, `cat`, `reload`,
    /// `rule-hold`, `rule-reject`, `rule-fail`, `rule-drop`, `rule-remove`, `relay-grant`, `relay-revoke`, `store backup`,
    /// `store fix` ...
    pub verb: String,
    /// The standing rule, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u64>,
    /// The message, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is about, where that is no message: a directory, a piece of the quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Which messages; of many ids only the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What exactly, where the verb leaves it open: a route, a time, the change of an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Messages that the filter found.
    pub matched: usize,
    /// Messages that were changed.
    pub changed: usize,
    /// Messages that were not.
    pub skipped: usize,
    /// Why nothing was done, or what of it is not durable yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `POST /v1/queue/show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowRequest {
    /// The queue id.
    pub id: String,
}

/// The answer to [`ShowRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The message.
    pub message: MessageView,
}

/// `POST /v1/queue/{hold,release,retry,fail,drop,prioritise,reroute,requeue}`. An option of another verb is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeRequest {
    /// Which messages. An empty filter needs `all`.
    pub filter: Filter,
    /// Every message that matches, however many.
    pub all: bool,
    /// Nothing is changed when more than so many match; [`DEFAULT_MAX`] when left out.
    pub max: Option<usize>,
    /// Only say what would be changed.
    pub dry_run: bool,
    /// Why: needed by `fail` (the sender reads it) and `drop`; it stands in the log.
    pub reason: Option<String>,
    /// `hold`, `fail`, `drop`, `prioritise`: waits up to so many seconds for messages that are being delivered; [`MAX_WAIT`] at most. They
    /// are changed at once all the same.
    pub wait: Option<u64>,
    /// `hold`: ends by itself then, in seconds since 1970.
    pub until: Option<u64>,
    /// `retry`: at this time, in seconds since 1970.
    pub at: Option<u64>,
    /// `retry`: in so many seconds.
    pub delay: Option<u64>,
    /// `retry`, `reroute`, `requeue`: the attempts are spread over so many seconds. Left out: one for 20 messages, at most
    /// ten minutes.
    pub spread: Option<u64>,
    /// `retry`, `requeue`: the back-off of the recipients begins anew, as if they had not been tried.
    pub reset_backoff: bool,
    /// `retry`: destinations that rest are tried at once.
    pub ignore_breaker: bool,
    /// `reroute`: the route, or `none` for what the configuration says.
    pub via: Option<String>,
    /// `prioritise`: how far the messages are brought forward, one of [`PRIORITIES`].
    pub priority: Option<i64>,
}

/// The answer to [`ChangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whether nothing was changed because `dry_run` was asked.
    pub dry_run: bool,
    /// What was done.
    #[serde(flatten)]
    pub change: Change,
    /// What the operator should know before or after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The part of a message for `GET /v1/queue/cat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The header with its empty line.
    Headers,
    /// What follows the empty line.
    Body,
    /// All of it.
    Raw,
}

impl Part {
    /// The word in the request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Raw => "raw",
        }
    }
}

/// `POST /v1/policy/explain`: a transaction that does not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The client's address.
    pub client: IpAddr,
    /// `mx` (also when left out), `submission` or `submissions`.
    #[serde(default)]
    pub listener: Option<String>,
    /// The argument of EHLO.
    #[serde(default)]
    pub helo: Option<String>,
    /// Whether the session is under TLS.
    #[serde(default)]
    pub tls: bool,
    /// Who logged in.
    #[serde(default)]
    pub user: Option<String>,
    /// MAIL FROM; empty or `<>` is the null sender.
    pub from: String,
    /// RCPT TO.
    pub to: String,
    /// Whether the client says SMTPUTF8 in MAIL (RFC 6531 §3.4); without it, addresses beyond ASCII are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smtputf8: bool,
    /// The header of the message, or the whole message.
    #[serde(default)]
    pub message: Option<String>,
    /// The address of ours that the client connects to: mail to `postmaster@[that address]` is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The certificate that the client shows: SHA-256 over it, in hexadecimal with or without colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The DNS names of that certificate, where an authority that counts has signed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_names: Vec<String>,
    /// When it is asked, in seconds since 1970; now, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

impl ExplainRequest {
    /// A client on the MX port, without TLS and login, now.
    pub fn new(client: IpAddr, from: &str, to: &str) -> Self {
        Self {
            client,
            listener: None,
            helo: None,
            tls: false,
            user: None,
            from: from.to_owned(),
            to: to.to_owned(),
            smtputf8: false,
            message: None,
            local: None,
            certificate: None,
            certificate_names: Vec::new(),
            at: None,
        }
    }
}

/// The answer to [`ExplainRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Each stage in order; the first that does not accept is the last.
    pub stages: Vec<StageView>,
    /// Where the message would go, if every stage accepts.
    pub deliveries: Vec<Delivery>,
    /// What a standing rule does to the message although it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<Fate>,
}

/// A standing rule that keeps an accepted message from its recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// `hold`, `fail` or `drop`.
    pub action: String,
    /// The number of the rule.
    pub rule: u64,
    /// Why it is there, for operators.
    pub reason: String,
    /// Whom it keeps it from.
    pub recipients: Vec<String>,
}

/// One stage and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// `connect` (only where the client is banned), `login`, `mail`, `rcpt`, `message`, or `rules` where a standing rule holds or refuses
    /// the whole message.
    pub stage: String,
    /// The decision.
    #[serde(flatten)]
    pub decision: DecisionView,
    /// The reply a client would get, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// A decision and all that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// `accept`, `reject`, `defer` or `hold`.
    pub verdict: String,
    /// Why.
    pub reason: ReasonView,
    /// Every rule looked at, in order.
    pub rules: Vec<Rule>,
    /// What would have allowed it, each way by itself.
    pub remedies: Vec<String>,
}

/// A reason with its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonView {
    /// `not-trusted-not-local`, `trusted-network` ...
    pub kind: String,
    /// What goes with it: the login, the label of the network ...
    #[serde(flatten)]
    pub facts: BTreeMap<String, String>,
}

/// A rule and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The rule, such as `trusted network`.
    pub rule: String,
    /// Whether it held.
    pub matched: bool,
    /// The fact it looked at.
    pub fact: String,
}

/// Where a final recipient's copy would go, and how. What only the running daemon knows is left out where it is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The final recipient, aliases followed.
    pub recipient: String,
    /// The route in words an operator knows from the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Which address of ours it would come from. Left out without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How much TLS the next hop is asked for. Left out without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// `signed d=proseware.test s=2026a`, or `none reason=...`. Left out where nothing leaves this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// When it would be tried again, in seconds after the first attempt; the first few, without jitter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<u64>,
    /// When it would be given up, in seconds after it was accepted. Left out where there is one attempt only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}
