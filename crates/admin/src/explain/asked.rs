//! The question, read.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_config::ListenerKind;
use postern_policy::Policy;
use postern_policy::accounts::Login;
use postern_policy::directory::Resolution;
use postern_policy::relay::{Certificate, HeaderSenders, Question, Stage};
use postern_policy::sender::header_senders;
use postern_queue::Envelope;
use postern_queue::rules::Forecast;
use postern_smtp::{Address, Body, ForwardPath, ReversePath};

use super::unlisted::Unlisted;
use super::{BadQuestion, Beyond, Mail, crlf, without_brackets};
use crate::api::{Delivery, ExplainRequest};
use crate::rules::{final_recipients, message_id, origin};

/// How a certificate is called of which only a name is known.
const NO_FINGERPRINT: &str = "unknown";

/// A question, read.
pub(super) struct Asked {
    pub listener: ListenerKind,
    pub tls: bool,
    pub login: Option<Login>,
    /// Where the login is none of `accounts.toml`.
    pub unlisted: Option<Unlisted>,
    /// The header of the message, with CRLF line ends, and who it says the message is from.
    pub header: Option<(Vec<u8>, HeaderSenders)>,
    /// Recipients that the transaction has so far, where that is known.
    pub recipients: Option<usize>,
    client: IpAddr,
    local: Option<IpAddr>,
    certificate: Option<Certificate>,
    helo: Option<String>,
    now: SystemTime,
    smtputf8: bool,
    reverse_path: ReversePath,
    /// Whether it was written with characters beyond ASCII.
    is_utf8_sender: bool,
    forward_path: ForwardPath,
    /// The same of the recipient.
    is_utf8_recipient: bool,
}

impl Asked {
    pub fn read(request: &ExplainRequest, policy: &Policy) -> Result<Self, BadQuestion> {
        let (login, unlisted) = match request.user.as_deref() {
            Some(name) => login(name, policy)?,
            None => (None, None),
        };
        let listener = listener(request.listener.as_deref())?;
        // Implicit TLS comes before the first command (RFC 8314 §3.3).
        let tls = request.tls || listener == ListenerKind::Submissions;
        let from = without_brackets(&request.from);
        let to = without_brackets(&request.to);
        let header = request.message.as_deref().map(|message| {
            let header = crlf(message).into_bytes();
            let senders = header_senders(&header);
            (header, senders)
        });
        Ok(Self {
            listener,
            tls,
            login,
            unlisted,
            header,
            recipients: None,
            client: request.client,
            local: request.local,
            certificate: certificate(request, tls)?,
            helo: request.helo.clone(),
            now: request.at.map_or_else(SystemTime::now, |at| UNIX_EPOCH + Duration::from_secs(at)),
            smtputf8: request.smtputf8,
            is_utf8_sender: !from.is_ascii(),
            is_utf8_recipient: !to.is_ascii(),
            reverse_path: ReversePath::parse(from)
                .map_err(|e| BadQuestion(format!("the sender {from:?} is not an address: {e}")))?,
            forward_path: ForwardPath::parse(to)
                .map_err(|e| BadQuestion(format!("the recipient {to:?} is not an address: {e}")))?,
        })
    }

    pub fn stages(&self) -> impl Iterator<Item = (&'static str, Stage<'_>)> {
        let message = self.header.as_ref().map(|(_, senders)| ("message", Stage::Message(senders)));
        let login = (self.login.is_some() || self.unlisted.is_some()).then_some(("login", Stage::Login));
        let connect = std::iter::once(("connect", Stage::Connect));
        let transaction = [("mail", Stage::Mail), ("rcpt", Stage::Rcpt(&self.forward_path))];
        connect.chain(login).chain(transaction).chain(message)
    }

    /// Whether a session refuses the address of this stage before it asks the rules: it is not ASCII, and SMTPUTF8 was not said.
    pub fn needs_smtputf8(&self, stage: &Stage<'_>) -> bool {
        let is_utf8 = match stage {
            Stage::Mail => self.is_utf8_sender,
            Stage::Rcpt(_) => self.is_utf8_recipient,
            _ => false,
        };
        is_utf8 && !self.smtputf8
    }

    pub fn question<'a>(&'a self, stage: Stage<'a>, policy: &Policy) -> Question<'a> {
        let recipients = self.recipients.unwrap_or_else(|| match stage {
            Stage::Message(_) => final_recipients(&self.forward_path, self.local, policy).len(),
            _ => 0,
        });
        Question {
            listener: self.listener,
            client: self.client,
            local: self.local,
            tls: self.tls,
            certificate: self.certificate.as_ref(),
            login: self.login.as_ref(),
            helo: self.helo.as_deref(),
            now: self.now,
            recipients,
            reverse_path: &self.reverse_path,
            stage,
        }
    }

    pub fn deliveries(&self, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Vec<Delivery> {
        let recipients = match (policy.directory.resolve(&self.forward_path, self.local), &self.forward_path)
        {
            (Resolution::Recipients(list), _) => list,
            (_, ForwardPath::Address(address)) => vec![address.clone()],
            (_, ForwardPath::Postmaster) => Vec::new(),
        };
        let origin = origin(&self.question(Stage::Mail, policy), policy);
        let header = self.header.as_ref().map(|(header, _)| header.as_slice());
        let mail = Mail { sender: &self.reverse_path, origin: &origin, header };
        let unknown =
            |recipient: &Address| Delivery { recipient: recipient.to_string(), ..Delivery::default() };
        let delivery =
            |recipient: Address| beyond.delivery(&mail, &recipient).unwrap_or_else(|| unknown(&recipient));
        recipients.into_iter().map(delivery).collect()
    }
}

impl Asked {
    /// What the standing rules do to the whole message. Its size is that of its header: a body is not asked about.
    pub fn forecast(&self, policy: &Policy, beyond: &(impl Beyond + ?Sized)) -> Option<Forecast> {
        let header = self.header.as_ref().map(|(header, _)| header.as_slice());
        let envelope = Envelope {
            reverse_path: self.reverse_path.clone(),
            origin: origin(&self.question(Stage::Mail, policy), policy),
            client: Some(self.client.to_canonical()),
            forwarded: None,
            helo: self.helo.clone(),
            received: self.now,
            body: Body::SevenBit,
            smtputf8: self.smtputf8,
            ret: None,
            envelope_id: None,
            message_id: header.and_then(message_id),
            priority: 0,
            terms: Default::default(),
            size: header.map_or(0, |header| header.len() as u64),
            recipients: final_recipients(&self.forward_path, self.local, policy),
        };
        beyond.forecast(&envelope, header)
    }
}

/// The login of this name, in `accounts.toml` or as another system would vouch for it.
fn login(name: &str, policy: &Policy) -> Result<(Option<Login>, Option<Unlisted>), BadQuestion> {
    if let Some(login) = policy.accounts.login(name) {
        return Ok((Some(login), None));
    }
    let unknown = || BadQuestion(format!("there is no account {name:?}: see `posternctl account list`"));
    let (unlisted, login) = Unlisted::of(name, policy).ok_or_else(unknown)?;
    Ok((login, Some(unlisted)))
}

fn listener(name: Option<&str>) -> Result<ListenerKind, BadQuestion> {
    match name.unwrap_or("mx") {
        "mx" => Ok(ListenerKind::Mx),
        "submission" => Ok(ListenerKind::Submission),
        "submissions" => Ok(ListenerKind::Submissions),
        "lmtp" => Ok(ListenerKind::Lmtp),
        other => {
            Err(BadQuestion(format!("there is no listener {other:?}: mx, submission, submissions or lmtp")))
        }
    }
}

fn certificate(request: &ExplainRequest, tls: bool) -> Result<Option<Certificate>, BadQuestion> {
    let ExplainRequest { certificate: shown, certificate_names: names, .. } = request;
    if shown.is_none() && names.is_empty() {
        return Ok(None);
    }
    if !tls {
        let text =
            "a client shows its certificate during the TLS handshake: ask with TLS, or without a certificate";
        return Err(BadQuestion(text.to_owned()));
    }
    let sha256 = match shown {
        Some(text) => fingerprint(text).ok_or_else(|| {
            BadQuestion(format!(
                "{text:?} is not a SHA-256 fingerprint: `openssl x509 -noout -fingerprint -sha256 -in FILE` prints it"
            ))
        })?,
        None => NO_FINGERPRINT.to_owned(),
    };
    let names = names.iter().map(|name| name.to_lowercase()).collect();
    Ok(Some(Certificate { sha256, names }))
}

/// As it is compared: lower case, without colons.
fn fingerprint(text: &str) -> Option<String> {
    let folded: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    (folded.len() == 64 && folded.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(folded)
}
