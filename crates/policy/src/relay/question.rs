//! The facts of a question.

use std::net::IpAddr;
use std::time::SystemTime;

use postern_config::ListenerKind;
use postern_smtp::{Address, ForwardPath, ReversePath};

use crate::accounts::Login;

/// Every fact that a decision may look at.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Where the client came in.
    pub listener: ListenerKind,
    /// The client's address.
    pub client: IpAddr,
    /// The address of ours that it connected to: mail to `postmaster@[that address]` is ours.
    pub local: Option<IpAddr>,
    /// Whether the session is under TLS.
    pub tls: bool,
    /// The client's certificate, if it showed one.
    pub certificate: Option<&'a Certificate>,
    /// Who logged in.
    pub login: Option<&'a Login>,
    /// The argument of EHLO or HELO.
    pub helo: Option<&'a str>,
    /// The time of the question: grants, passwords and limits run by it.
    pub now: SystemTime,
    /// Recipients that the transaction has so far.
    pub recipients: usize,
    /// The sender.
    pub reverse_path: &'a ReversePath,
    /// What is asked.
    pub stage: Stage<'a>,
}

/// How far the transaction has come, with what is known only then.
#[derive(Debug, Clone)]
pub enum Stage<'a> {
    /// MAIL FROM: may this sender be used here?
    Mail,
    /// RCPT TO: may mail go there?
    Rcpt(&'a ForwardPath),
    /// The end of data: do the header's senders fit the login?
    Message(&'a HeaderSenders),
}

impl Stage<'_> {
    /// The word in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Rcpt(_) => "rcpt",
            Self::Message(_) => "message",
        }
    }
}

/// The senders that a message's header names. `Err` is a field that cannot be read as addresses.
#[derive(Debug, Clone, Default)]
pub struct HeaderSenders {
    /// Every From field (there should be one), each with all of its addresses.
    pub from: Vec<Result<Vec<Address>, String>>,
    /// Every Sender field.
    pub sender: Vec<Result<Vec<Address>, String>>,
}

/// What counts of a client's certificate. The client has proved that it has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 over it, in hexadecimal, lower case, without colons.
    pub sha256: String,
    /// Its DNS names in lower case, if an authority that counts has signed it; else none.
    pub names: Vec<String>,
}
