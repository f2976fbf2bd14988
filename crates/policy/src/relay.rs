//! The decision about mail: may this client send from here to there?
//!
//! One function, [`decide`], for live sessions, `posternctl policy explain` and every other dry run.
//!
//! | question | module |
//! |---|---|
//! | what is known? | `question` |
//! | who is the client, and what does that allow? | `client` |
//! | may mail go there? | `recipient` |
//! | may this sender be used? | `senders` |
//! | why? | `reason` |
//! | what does the configuration say? | `rules` |

mod client;
mod question;
mod reason;
mod recipient;
mod rules;
#[cfg(test)]
mod sender_tests;
mod senders;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Policy;

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
    /// The refusal of a login at AUTH; what was looked at is `rule`, what it saw `fact`.
    pub fn at_auth(reason: Reason, rule: &str, fact: &str) -> Self {
        let mut trace = Trace::default();
        trace.rule(rule, true, fact);
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

    /// The same after a standing rule of an operator has refused what was accepted so far: with this verdict, for the
    /// reason `why`, and with `text` for the client.
    pub fn refused_by_rule(mut self, rule: u64, why: &str, text: &str, verdict: Verdict) -> Self {
        self.trace.rule(&format!("rule {rule}"), true, why);
        let (why, text) = (why.to_owned(), text.to_owned());
        Self { verdict, reason: Reason::StandingRule { rule: rule.to_string(), why, text }, ..self }
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
    /// Accept, and keep it in the queue until an operator has looked.
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
    /// The fact it looked at, such as `198.51.100.9 is in none of 2 trusted networks`.
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
        Stage::Mail => senders::mail(question, policy, &mut trace),
        Stage::Rcpt(path) => recipient::rcpt(question, path, policy, &mut trace),
        Stage::Message(senders) => senders::message(question, senders, policy, &mut trace),
    };
    let (Ok(reason) | Err(reason)) = answer;
    Decision { verdict: reason.verdict(), reason, trace }
}

/// The reason for accepting, or that for refusing.
type Answer = Result<Reason, Reason>;

/// `2 routes`, `1 route`.
fn counted(count: usize, noun: &str) -> String {
    let plural = match noun {
        "address" => "es",
        _ => "s",
    };
    format!("{count} {noun}{}", if count == 1 { "" } else { plural })
}
