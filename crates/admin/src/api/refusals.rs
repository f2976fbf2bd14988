//! Answers about refusals that happened.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/explain/REFERENCE` | | [`Refusal`] |

use serde::{Deserialize, Serialize};

use super::DecisionView;

/// What the rules of now say of the facts of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// They would let the client go on.
    Accepted,
    /// They would refuse it as they did.
    SameRule,
    /// They would refuse it, by another rule or for another reason.
    OtherReason,
    /// They cannot be asked: not all of what decided is on record.
    Unknown,
}

/// A refusal that happened, asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// What came out.
    pub outcome: Outcome,
    /// The same in one line for people, with what decided.
    pub words: String,
    /// The stage whose answer it is: that of the record, or one before it that refuses now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The decision of now. Its ways out are those of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
}

/// `GET /v1/explain/REFERENCE`: a refusal that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reference in the reply.
    pub reference: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// `auth`, `mail`, `rcpt` or `message`.
    pub stage: String,
    /// `mx`, `submission`, `submissions`.
    pub listener: String,
    /// The client's address.
    pub client: String,
    /// Our address that it connected to.
    pub local: Option<String>,
    /// Whether it was under TLS.
    pub tls: bool,
    /// SHA-256 of the certificate that the client showed.
    pub certificate: Option<String>,
    /// The login.
    pub login: Option<String>,
    /// EHLO or HELO.
    pub helo: Option<String>,
    /// MAIL FROM; empty is the null sender.
    pub reverse_path: String,
    /// RCPT TO, if it was about a recipient.
    pub recipient: Option<String>,
    /// Recipients that the transaction had so far.
    pub recipients: usize,
    /// The senders that the header names, if it was about the message.
    pub header: Vec<String>,
    /// The key in `[replies]` that words it.
    pub class: String,
    /// The cause in words, for the sender.
    pub cause: String,
    /// What the sender can do, in words; empty where there is nothing.
    pub advice: String,
    /// The reply as it was sent.
    pub reply: String,
    /// What was said before it, oldest first; without passwords.
    pub transcript: Vec<String>,
    /// What is known now of the login whose password was wrong: whether there is one, and in which state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about_login: Option<String>,
    /// What the rules say of it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Again>,
    /// The decision of then, with what would allow it by the rules of now.
    #[serde(flatten)]
    pub decision: DecisionView,
}
