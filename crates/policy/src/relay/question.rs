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
    /// Before anything is said: may the client speak here at all?
    Connect,
    /// AUTH, after the right password: may the login be used from here?
    Login,
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
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Mail => "mail",
            Self::Rcpt(_) => "rcpt",
            Self::Message(_) => "message",
        }
    }
}

/// The senders that a message's header names. `Err` is a field that cannot be read as addresses; an empty list one that has
/// none.
#[derive(Debug, Clone, Default)]
pub struct HeaderSenders {
    /// Every From field (there should be one), each with all of its addresses.
    pub from: Vec<SenderField>,
    /// Every Sender field.
    pub sender: Vec<SenderField>,
    /// Every Resent-From field: whoever passed the message on by hand.
    pub resent_from: Vec<SenderField>,
    /// Every Resent-Sender field.
    pub resent_sender: Vec<SenderField>,
    /// Every Reply-To field.
    pub reply_to: Vec<SenderField>,
    /// There is a NUL in the header, or a line that is no field: what we do not see as a From field, another reader may.
    pub is_malformed: bool,
}

/// One field: its addresses, or why it cannot be read.
pub type SenderField = Result<Vec<Address>, String>;

impl HeaderSenders {
    /// The fields of this name, in any case; `None` for one that names no sender.
    pub(crate) fn list(&mut self, name: &[u8]) -> Option<&mut Vec<SenderField>> {
        let fields = [
            ("From", &mut self.from),
            ("Sender", &mut self.sender),
            ("Resent-From", &mut self.resent_from),
            ("Resent-Sender", &mut self.resent_sender),
            ("Reply-To", &mut self.reply_to),
        ];
        fields
            .into_iter()
            .find_map(|(known, list)| name.eq_ignore_ascii_case(known.as_bytes()).then_some(list))
    }

    /// What must be the login's beside From, by the name of the field.
    pub(crate) fn others(&self, with_reply_to: bool) -> impl Iterator<Item = (&'static str, &[SenderField])> {
        let fields = [
            ("Sender", &self.sender),
            ("Resent-From", &self.resent_from),
            ("Resent-Sender", &self.resent_sender),
            ("Reply-To", &self.reply_to),
        ];
        let asked = fields.into_iter().filter(move |(name, _)| with_reply_to || *name != "Reply-To");
        asked.map(|(name, list)| (name, list.as_slice()))
    }
}

/// What counts of a client's certificate. The client has proved that it has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 over it, in hexadecimal, lower case, without colons.
    pub sha256: String,
    /// Its DNS names in lower case, if an authority that counts has signed it; else none.
    pub names: Vec<String>,
}
