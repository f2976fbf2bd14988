//! The decision about mail: may this client send from here to there?
//!
//! One function, [`decide`], for live sessions, `posternctl policy explain` and every other dry run.
//!
//! | question | module |
//! |---|---|
//! | what is known? | `question` |
//! | who is the client, and what does that allow? | `client` |
//! | may this login be used, and for so much? | `login` |
//! | may mail go there? | `recipient` |
//! | is a stranger on lists in DNS? | `blocklists` |
//! | may this sender be used? | `senders` |
//! | why? | `reason` |
//! | which rule decided? | `deciding` |
//! | what does the configuration say? | `rules` |

mod blocklists;
mod client;
mod deciding;
mod login;
mod question;
mod reason;
mod recipient;
mod rules;
#[cfg(test)]
mod sender_tests;
mod senders;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use postern_smtp::ForwardPath;
use serde::{Deserialize, Serialize};

use crate::Policy;
use crate::directory::Resolution;
use crate::facts::Wanted;

pub use blocklists::{Lists, warnings as blocklist_warnings};
pub use deciding::deciding_rule;
pub use login::{login_offered, over_limit};
pub use question::{Certificate, HeaderSenders, Question, SenderField, Stage};
pub use reason::Reason;
pub use rules::Rules;

/// The answer, with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Yes, no, later, or aside.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Every rule looked at, in order.
    pub trace: Trace,
}

impl Decision {
    /// The refusal of whoever does not know the password of a login, or names one that is not there.
    /// `why`: it is an app password, and what keeps it from being used; the client hears nothing of that.
    pub fn wrong_password(login: &str, why: Option<&str>) -> Self {
        let reason = Reason::WrongPassword { login: login.to_owned(), why: why.map(str::to_owned) };
        let mut trace = Trace::default();
        trace.rule("password", false, why.unwrap_or("no login has this name and this password"));
        Self { verdict: reason.verdict(), reason, trace }
    }

    /// An address beyond ASCII, and a client that has not said SMTPUTF8.
    pub fn needs_smtputf8() -> Self {
        Self::by_session(
            Reason::NeedsSmtputf8,
            "SMTPUTF8",
            "the address is not ASCII, and MAIL came without SMTPUTF8",
        )
    }

    /// A transaction has as many recipients as it may have.
    pub fn too_many_recipients(limit: usize) -> Self {
        let fact =
            format!("the transaction has {limit} recipients already, as many as smtp.max_recipients allows");
        Self::by_session(Reason::TooManyRecipients { limit }, "recipients of a transaction", fact)
    }

    /// What only the session knows enough for.
    fn by_session(reason: Reason, rule: &str, fact: impl Into<String>) -> Self {
        let mut trace = Trace::default();
        trace.rule(rule, false, fact);
        Self { verdict: reason.verdict(), reason, trace }
    }

    /// The same where the rule looks at the senders that the header names.
    pub fn as_header_blocked_sender(self) -> Self {
        match self.reason {
            Reason::StandingRule { rule, why, text } => {
                Self { reason: Reason::HeaderBlockedSender { rule, why, text }, ..self }
            }
            _ => self,
        }
    }

    /// The same after a standing rule of an operator has decided about what was accepted so far: with this verdict, for the
    /// reason `why`, and with `text` for the client.
    pub fn refused_by_rule(mut self, rule: u64, why: &str, text: &str, verdict: Verdict) -> Self {
        self.trace.rule(&format!("rule {rule}"), true, why);
        let (why, text) = (why.to_owned(), text.to_owned());
        Self { verdict, reason: Reason::StandingRule { rule: rule.to_string(), why, text }, ..self }
    }

    /// The same after a standing rule of an operator holds what was accepted so far, for the reason `why`.
    pub fn held_by_rule(self, rule: u64, why: &str) -> Self {
        self.refused_by_rule(rule, why, "", Verdict::Hold)
    }

    /// The rule that decided: see [`deciding_rule`].
    pub fn rule(&self) -> Option<&str> {
        let rules: Vec<(&str, bool)> =
            self.trace.0.iter().map(|step| (step.rule.as_str(), step.matched)).collect();
        let at = deciding_rule(self.reason.as_str(), &rules)?;
        rules.get(at).map(|(rule, _)| *rule)
    }

    /// What an operator should hear of although it stopped nothing: domains that should be verified and are not.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let unverified = self.trace.0.iter().filter(|step| step.rule == senders::VERIFIED && !step.matched);
        unverified.map(|step| step.fact.as_str())
    }
}

/// What a decision says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Go on.
    Accept,
    /// A 5yz.
    Reject,
    /// A 4yz.
    Defer,
    /// Accept, and keep it in the queue until an operator has looked: what a standing rule says of a whole message, in the end.
    Hold,
}

impl Verdict {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Defer => "defer",
            Self::Hold => "hold",
        }
    }
}

/// The rules looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace(pub Vec<Step>);

/// One rule and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The rule, such as `trusted network`.
    pub rule: String,
    /// Whether it held.
    pub matched: bool,
    /// The fact it looked at, such as `198.51.100.9 is in none of the 2 trusted networks`.
    pub fact: String,
}

impl Trace {
    /// Notes a rule and hands its answer on.
    fn rule(&mut self, rule: &str, matched: bool, fact: impl Into<String>) -> bool {
        self.0.push(Step { rule: rule.to_owned(), matched, fact: fact.into() });
        matched
    }
}

/// Decides. Pure: the same question and policy always give the same answer.
pub fn decide(question: &Question<'_>, policy: &Policy) -> Decision {
    let mut trace = Trace::default();
    let answer = match question.stage {
        Stage::Connect => client::connect(question, policy, &mut trace),
        Stage::Login => login::login(question, policy, &mut trace),
        Stage::Mail => mail(question, policy, &mut trace),
        Stage::Rcpt(path) => rcpt(question, path, policy, &mut trace),
        Stage::Message(senders) => message(question, senders, policy, &mut trace),
    };
    let (Ok(reason) | Err(reason)) = answer;
    Decision { verdict: reason.verdict(), reason, trace }
}

/// What must be known before relaying can be decided about.
pub(crate) fn wanted(question: &Question<'_>, policy: &Policy) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = recipient::wanted(question, policy).into_iter().collect();
    wanted.extend(client::wanted(question, policy));
    wanted.extend(blocklists::wanted(question, policy));
    wanted
}

/// See [`Policy::recipient_class`].
pub(crate) fn recipient_class(path: &ForwardPath, local: Option<IpAddr>, policy: &Policy) -> &'static str {
    if !matches!(policy.directory.resolve(path, local), Resolution::NotLocal) {
        return "local";
    }
    let domain = match path {
        ForwardPath::Address(address) => address.domain(),
        ForwardPath::Postmaster => None,
    };
    match domain.is_some_and(|domain| policy.relay.is_relay_domain(domain)) {
        true => "relay",
        false => "foreign",
    }
}

/// See [`Policy::binds_header`].
pub(crate) fn binds_header(question: &Question<'_>, policy: &Policy) -> bool {
    question.login.is_some() || !client::binding_grants(question, policy).is_empty()
}

/// See [`Policy::granted`].
pub(crate) fn granted(question: &Question<'_>, policy: &Policy) -> Option<String> {
    client::granted(question, policy)
}

fn mail(question: &Question<'_>, policy: &Policy, trace: &mut Trace) -> Answer {
    login::still_usable(question, policy, trace)?;
    senders::mail(question, policy, trace)
}

fn rcpt(question: &Question<'_>, path: &ForwardPath, policy: &Policy, trace: &mut Trace) -> Answer {
    login::still_usable(question, policy, trace)?;
    let reason = recipient::rcpt(question, path, policy, trace)?;
    if matches!(reason, Reason::LocalRecipient | Reason::RelayDomain) {
        blocklists::check(question, path, policy, trace)?;
    }
    login::room_for(question, path, policy, trace)?;
    Ok(reason)
}

fn message(question: &Question<'_>, senders: &HeaderSenders, policy: &Policy, trace: &mut Trace) -> Answer {
    client::require_client(question, policy, trace)?;
    login::still_usable(question, policy, trace)?;
    let reason = senders::message(question, senders, policy, trace)?;
    senders::well_formed(question, senders, policy, trace)?;
    login::room_for_message(question, policy, trace)?;
    Ok(reason)
}

/// The reason for accepting, or that for refusing.
type Answer = Result<Reason, Reason>;

/// `x is in none of the 2 trusted networks`, `x is not in the one trusted network`. The relation is `in ` here.
fn not_among(subject: &str, relation: &str, count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun} is configured"),
        1 => format!("{subject} is not {relation}the one {noun}"),
        _ => format!("{subject} is {relation}none of the {}", counted(count, noun)),
    }
}

/// `2 routes`, `1 route`.
fn counted(count: usize, noun: &str) -> String {
    let plural = match noun {
        "address" => "es",
        _ => "s",
    };
    format!("{count} {noun}{}", if count == 1 { "" } else { plural })
}
