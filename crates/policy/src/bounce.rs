//! What does this bounce mean, and who must do what about it?
//!
//! | part | what |
//! |---|---|
//! | [`explain`] | reads a bounce, a report, a log line or a reply of any system, and says what it means for each recipient |
//! | [`codes`] | what the numbers mean: reply codes and enhanced status codes |
//! | [`texts`] | what the words mean: replies of the mail systems in use, each with who must change what |
//!
//! A reply is explained by its words where they are known, else by its enhanced code, else by its reply code. Among known
//! texts the most specific one wins. All of this is a function of the octets: nothing is asked of the network, and nothing
//! of the input is put into a command unless it is a domain or an address.

use std::fmt;
use std::net::IpAddr;

use postern_smtp::{Domain, EnhancedStatus};
use serde::Serialize;

use crate::record::Reference;

pub mod codes;
mod html;
pub mod mime;
mod prose;
mod read;
mod reply;
pub mod texts;

use read::Recipient;
use texts::Known;

/// Input beyond this many octets is not looked at. A bounce says why at its beginning; what is larger is the message.
pub const MAX_INPUT: usize = 10 * 1024 * 1024;

/// A bounce for more recipients tells the same thing again and again; these are looked at.
pub const MAX_RECIPIENTS: usize = 1000;

/// The system whose words were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A report for programs (RFC 3464).
    Report,
    /// Ours, for people.
    Postern,
    /// "Hi. This is the qmail-send program".
    Qmail,
    /// "This message was created automatically by mail delivery software".
    Exim,
    /// "Transcript of session follows".
    Sendmail,
    /// "Diagnostic information for administrators": Exchange, Microsoft 365.
    Exchange,
    /// "This is the mail system at host".
    Postfix,
    /// "The response was".
    Gmail,
    /// "Sorry, we were unable to deliver your message to the following address".
    Yahoo,
    /// A message whose system is not known.
    #[default]
    Text,
    /// A reply or a line of a log, without a bounce around it.
    Reply,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Report => "a delivery report (RFC 3464)",
            Self::Postern => "a bounce of Postern",
            Self::Qmail => "a bounce of qmail's form",
            Self::Exim => "a bounce of Exim's form",
            Self::Sendmail => "a bounce of Sendmail's form",
            Self::Exchange => "a bounce of Exchange's form",
            Self::Postfix => "a bounce of Postfix's form",
            Self::Gmail => "a bounce of Gmail's form",
            Self::Yahoo => "a bounce of Yahoo's form",
            Self::Text => "a message in words",
            Self::Reply => "a reply or log line",
        })
    }
}

/// What became of a recipient (the Action field, RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is given up.
    Failed,
    /// It is late, and still being tried.
    Delayed,
    /// It is there.
    Delivered,
    /// It was handed to a server that does not report.
    Relayed,
    /// It went on to several addresses.
    Expanded,
}

impl Action {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "failed" => Self::Failed,
            "delayed" => Self::Delayed,
            "delivered" => Self::Delivered,
            "relayed" => Self::Relayed,
            "expanded" => Self::Expanded,
            _ => return None,
        })
    }

    /// Whether nothing is left to be done.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Delivered | Self::Relayed | Self::Expanded)
    }

    /// The word for it, as in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }
}

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The DNS records of the sender's domain or of its mail server's address.
    SenderDns,
    /// The mail server that sent: its settings, its address, its reputation.
    SenderServer,
    /// The person who sent: the address, the size, the content.
    SendingUser,
    /// The recipient's mail administrator, or the recipient.
    Recipient,
    /// Nobody: it passes by itself, or there is nothing to change.
    Nobody,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SenderDns => "the sender's DNS",
            Self::SenderServer => "the sender's mail server",
            Self::SendingUser => "the person who sent it",
            Self::Recipient => "the recipient's side",
            Self::Nobody => "nobody",
        })
    }
}

/// Whether sending it again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Again {
    /// Never: the message as it is will not get there.
    Never,
    /// Once what stands in the way has been changed.
    AfterChange,
    /// Later: nothing has to change, but the server has given up by now.
    Later,
    /// Nobody has to: the server that has it tries by itself.
    ByItself,
    /// It is there.
    NotNeeded,
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "does not help",
            Self::AfterChange => "helps once that has changed",
            Self::Later => "helps later; the server that had it has given up",
            Self::ByItself => "not needed: the server that has it tries by itself",
            Self::NotNeeded => "not needed",
        })
    }
}

/// What a finding rests on, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The words are known.
    Text,
    /// The enhanced status code is registered, or its subject is.
    Code,
    /// Only the class of the codes is known: for good or for now.
    Class,
}

/// What a reply means and who must do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its stable name: that of a known text such as `gmail-unauthenticated`, or `code-5.7.1`.
    pub id: String,
    /// What it rests on.
    pub basis: Basis,
    /// Whose words they are: `Gmail`, `Postfix`, `any server`.
    pub system: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Whose move it is.
    pub side: Side,
    /// What they must change.
    pub change: String,
    /// Commands that show whether it is so.
    pub checks: Vec<String>,
    /// Whether sending it again helps.
    pub again: Again,
}

/// One recipient of a bounce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The address, if the bounce names it.
    pub recipient: Option<String>,
    /// What became of it. A pasted reply does not say.
    pub action: Option<Action>,
    /// The server that said it, or that was not reached. `None`: the one that wrote the bounce, or it is not known.
    pub said_by: Option<String>,
    /// The reply code.
    pub code: Option<u16>,
    /// The enhanced status code.
    #[serde(serialize_with = "as_text")]
    pub status: Option<EnhancedStatus>,
    /// The words, on one line.
    pub text: String,
    /// The reference of a refusal by a Postern: on that server it leads to every fact.
    #[serde(serialize_with = "as_text")]
    pub reference: Option<Reference>,
    /// What it means. `None`: nothing in it was recognised.
    pub finding: Option<Finding>,
}

impl Told {
    /// Whether the message has reached the recipient, or gone on from there.
    pub fn is_success(&self) -> bool {
        self.action.is_some_and(Action::is_success)
    }
}

fn as_text<S: serde::Serializer>(
    value: &Option<impl fmt::Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// A bounce, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bounce {
    /// What it was read as.
    pub form: Form,
    /// The server that wrote it.
    pub reported_by: Option<String>,
    /// Its recipients, at most [`MAX_RECIPIENTS`].
    pub recipients: Vec<Told>,
    /// Whether the input was longer than [`MAX_INPUT`] and only its beginning was looked at.
    pub cut: bool,
}

impl Bounce {
    /// Whether the words or the enhanced code of at least one recipient are known. That others have it says nothing of whom
    /// the message did not reach.
    pub fn is_recognised(&self) -> bool {
        let mut missing = self.recipients.iter().filter(|told| !told.is_success()).peekable();
        match missing.peek() {
            // That it is there is all that such a report has to say.
            None => !self.recipients.is_empty(),
            Some(_) => {
                missing.any(|told| told.finding.as_ref().is_some_and(|finding| finding.basis != Basis::Class))
            }
        }
    }
}

/// Reads a bounce, a report, a line of a log or a pasted reply, and says for each recipient what it means.
///
/// Never fails: what is not understood is returned as far as it was read. At most [`MAX_INPUT`] octets are looked at.
pub fn explain(octets: &[u8]) -> Bounce {
    let reading = read::read(octets);
    let told = |recipient: Recipient| tell(recipient, reading.sender.as_ref());
    Bounce {
        form: reading.form,
        reported_by: reading.reporter,
        recipients: reading.recipients.into_iter().map(told).collect(),
        cut: octets.len() > MAX_INPUT,
    }
}

fn tell(recipient: Recipient, sender: Option<&Domain>) -> Told {
    let Recipient { address, action, host, reply, context } = recipient;
    let names = Names {
        sender: sender.cloned(),
        recipient: address.as_deref().and_then(|address| Domain::parse(address.rsplit_once('@')?.1).ok()),
        client: reply::client(&reply.text),
        host: host.clone(),
    };
    let known = if action.is_some_and(Action::is_success) { None } else { recognise(&reply, &context) };
    let finding = match known {
        Some(known) => Some(Finding::from_text(known, &names, reply.status)),
        None => codes::finding(reply.code, reply.status, action),
    };
    Told {
        recipient: address,
        action,
        said_by: host,
        code: reply.code,
        status: reply.status,
        reference: reply::reference(&reply.text),
        text: reply.text,
        finding: finding.map(|finding| finding.after(action)),
    }
}

/// The known text in a reply, or else in what stands around it.
fn recognise(reply: &reply::Reply, context: &str) -> Option<&'static Known> {
    texts::find(&reply.subject()).or_else(|| texts::find(&reply::folded(context).to_lowercase()))
}

impl Finding {
    fn from_text(known: &'static Known, names: &Names, status: Option<EnhancedStatus>) -> Self {
        // The words are those of a refusal; with a 4 in front they are one for now.
        let is_temporary = status.is_some_and(|status| status.class == 4);
        let again =
            if is_temporary && known.again == Again::Never { Again::AfterChange } else { known.again };
        Self {
            id: known.id.to_owned(),
            basis: Basis::Text,
            system: known.system,
            meaning: known.meaning,
            side: known.side,
            change: names.in_sentence(known.change),
            checks: known.all_checks().map(|check| names.in_command(check)).collect(),
            again,
        }
    }

    /// What is tried by itself is so only until the server gives up.
    fn after(mut self, action: Option<Action>) -> Self {
        self.again = match (action, self.again) {
            (Some(Action::Failed), Again::ByItself) => Again::Later,
            (Some(Action::Delayed), Again::Later) => Again::ByItself,
            (_, again) => again,
        };
        self
    }
}

/// What the bounce is about, for commands and sentences. Parsed values only: the input may be hostile, and people copy
/// commands into a shell.
#[derive(Debug, Default)]
struct Names {
    sender: Option<Domain>,
    recipient: Option<Domain>,
    /// The address that was refused.
    client: Option<IpAddr>,
    host: Option<String>,
}

impl Names {
    /// A command; a name that is not known is a word in capitals, to be replaced.
    fn in_command(&self, template: &str) -> String {
        self.fill(template, ["SENDER-DOMAIN", "RECIPIENT-DOMAIN", "IP", "REVERSED-IP", "HOST"])
    }

    /// A sentence; a name that is not known is described.
    fn in_sentence(&self, template: &str) -> String {
        const UNKNOWN: [&str; 5] = [
            "the sender's domain",
            "the recipient's domain",
            "the sending server's address",
            "the sending server's address backwards",
            "the mail server",
        ];
        self.fill(template, UNKNOWN)
    }

    fn fill(&self, template: &str, unknown: [&str; 5]) -> String {
        let [sender, recipient, client, backwards, host] = unknown;
        let text = |name: Option<String>, unknown: &str| name.unwrap_or_else(|| unknown.to_owned());
        template
            .replace("{sender}", &text(self.sender.as_ref().map(Domain::to_string), sender))
            .replace("{recipient}", &text(self.recipient.as_ref().map(Domain::to_string), recipient))
            .replace("{client}", &text(self.client.map(|client| client.to_string()), client))
            .replace("{reversed}", &text(self.client.map(reversed), backwards))
            .replace("{host}", &text(self.host.clone(), host))
    }
}

/// An address as DNS lists are asked for it (RFC 5782 §2).
fn reversed(client: IpAddr) -> String {
    match client {
        IpAddr::V4(client) => {
            let [a, b, c, d] = client.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(client) => {
            let nibbles = client.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// The only recipient of a bounce.
    fn only(bounce: &str) -> Told {
        let mut recipients = explain(bounce.as_bytes()).recipients;
        assert_eq!(recipients.len(), 1, "{recipients:?}");
        recipients.remove(0)
    }

    fn id(told: &Told) -> &str {
        told.finding.as_ref().map(|finding| finding.id.as_str()).unwrap_or_default()
    }

    /// The fields of a report about bob.
    fn report(fields: &str) -> String {
        format!(
            "Reporting-MTA: dns; mail.proseware.test\n\nFinal-Recipient: rfc822; bob@adatum.test\n{fields}\n"
        )
    }

    #[test]
    fn checks_name_the_domains_and_addresses_of_the_bounce() {
        let bounce = "From: MAILER-DAEMON@mail.proseware.test\nTo: <alice@proseware.test>\n\n\
            <bob@adatum.test>:\n550-5.7.26 The MAIL FROM domain [proseware.test] has an SPF record with a hard fail policy \
            (-all) but it fails to pass SPF checks with the ip: [203.0.113.25].\n";
        let finding = only(bounce).finding.unwrap();
        assert_eq!(finding.id, "gmail-spf-hard-fail");
        assert_eq!(
            finding.checks,
            ["dig +short TXT proseware.test", "posternctl domain verify proseware.test"]
        );
        assert!(finding.change.starts_with("Add 203.0.113.25 to the SPF record of proseware.test"));
    }

    #[test]
    fn what_is_not_known_stays_a_word_to_be_replaced() {
        let told = only("554 5.7.1 Service unavailable; Client host blocked using zen.spamhaus.org");
        assert_eq!(told.finding.unwrap().checks, ["dig +short REVERSED-IP.zen.spamhaus.org"]);
    }

    #[test]
    fn nothing_of_a_hostile_bounce_gets_into_a_command() {
        let bounce = report(
            "Action: failed\nStatus: 5.7.1\nRemote-MTA: dns; $(reboot).test\n\
             Diagnostic-Code: smtp; 550 5.7.1 TLSA of `id`",
        )
        .replace("adatum.test", "adatum.test;reboot");
        let told = only(&bounce);
        assert_eq!(told.said_by, None);
        let checks = told.finding.unwrap().checks.join(" ");
        assert!(checks.contains("_25._tcp.HOST") && !checks.contains("reboot"), "{checks}");
    }

    #[test]
    fn dns_lists_are_asked_backwards() {
        assert_eq!(reversed("203.0.113.25".parse().unwrap()), "25.113.0.203");
        let v6 = reversed("2001:db8::25".parse().unwrap());
        assert!(v6.starts_with("5.2.0.0.") && v6.ends_with(".8.b.d.0.1.0.0.2"), "{v6}");
    }

    #[test]
    fn a_report_of_success_needs_nothing() {
        let told = only(&report(
            "Action: relayed\nStatus: 2.0.0\nDiagnostic-Code: smtp; 250 access denied, says the joker",
        ));
        assert_eq!(told.action, Some(Action::Relayed));
        assert_eq!(told.finding.unwrap().again, Again::NotNeeded);
    }

    #[test]
    fn a_deferral_is_over_once_the_server_gave_up() {
        let again = |action: &str| {
            let fields =
                format!("Action: {action}\nStatus: 4.2.0\nDiagnostic-Code: smtp; 450 4.2.0 Greylisted");
            only(&report(&fields)).finding.unwrap().again
        };
        assert_eq!((again("delayed"), again("failed")), (Again::ByItself, Again::Later));
    }

    #[test]
    fn the_report_outranks_a_code_that_says_nothing() {
        let told = only(&report("Action: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 5.1.1 xyzzy"));
        assert_eq!(id(&told), "code-5.1.1");
        let told = only(&report("Action: failed\nStatus: 5.2.2 (full)\nDiagnostic-Code: smtp; 550 xyzzy"));
        assert_eq!(id(&told), "code-5.2.2");
    }

    #[test]
    fn words_without_meaning_are_not_recognised_and_still_told() {
        for text in ["", "\u{0}\u{1}", "hello", "550 xyzzy", "554 5.0.0 xyzzy"] {
            let bounce = explain(text.as_bytes());
            assert!(!bounce.is_recognised(), "{text:?}");
            assert_eq!(
                bounce.recipients.first().is_some_and(|told| told.text.contains("xyzzy")),
                text.contains("xyzzy")
            );
        }
    }

    #[test]
    fn more_than_the_limit_is_not_looked_at() {
        let mut octets = b"550 5.1.1 no such user\n".to_vec();
        assert!(!explain(&octets).cut);
        octets.resize(MAX_INPUT + 1, b' ');
        let bounce = explain(&octets);
        assert!(bounce.cut && bounce.is_recognised());
    }

    #[test]
    fn a_flood_of_anything_is_read_in_one_go() {
        // Each of these would take hours if some step looked at everything again for every piece.
        let header = "From: a@b.test\nTo: c@d.test\nContent-Type: ";
        for (head, piece) in [
            (String::new(), "a@b.test\n550 5.1.1 x\n"),
            (String::new(), "550 "),
            (String::new(), "host 1.2.3.4 by x "),
            (String::new(), "to=<a@b.test>, "),
            (format!("{header}text/html\n\n"), "<style>&\u{e4}"),
            (format!("{header}text/html\n\n"), "<!--<"),
            (format!("{header}multipart/mixed; boundary=b\n\n"), "--b\n\n"),
            (
                format!("{header}multipart/mixed; boundary=b\n\n"),
                "--b\nContent-Type: multipart/mixed; boundary=b\n\n",
            ),
            (String::new(), "Content-Type: multipart/mixed; boundary=b\nFrom: a@b.test\n\n--b\n"),
            (String::new(), "Final-Recipient: rfc822; a@b.test\nAction: failed\n\n"),
            (String::new(), "Diagnostic-Code: smtp; 550\n 550-5.1.1 x\n"),
        ] {
            let flood = head + &piece.repeat(MAX_INPUT / piece.len());
            assert!(explain(flood.as_bytes()).recipients.len() <= 1000);
        }
    }
}
