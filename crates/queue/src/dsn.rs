//! Delivery status notifications (RFC 3464, RFC 3461, RFC 6522; international addresses: RFC 6533).
//!
//! A report has three parts: a text for people, the same for programs, and the message or its header. It is composed
//! here from facts; [`crate::Queue`] decides when one is owed and makes it durable.

use std::fmt::Write as _;
use std::time::SystemTime;

use postern_smtp::header::body_offset;
use postern_smtp::{Address, Body, Domain, EnhancedStatus, OriginalRecipient, Ret, date};

use crate::envelope::{Envelope, Recipient};
use crate::message::{QueueId, Report};

/// A larger message is returned by its header only, whatever RET says: a report must not cost more than the message.
pub const FULL_RETURN_LIMIT: u64 = 50 * 1024;

/// RFC 5322 §2.1.1.
const MAX_LINE: usize = 998;

/// Where lines of our own are folded.
const FOLD: usize = 76;

/// What is told of a recipient (the Action field, RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is given up.
    Failed,
    /// It is late, and still being tried.
    Delayed,
    /// The mailbox has it.
    Delivered,
    /// The next hop took it, and does not report further.
    Relayed,
    /// It is an alias: the message goes to each of those behind it.
    Expanded,
}

impl Action {
    /// The value of the field.
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

/// One recipient of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who it is about.
    pub recipient: Recipient,
    /// What is told.
    pub action: Action,
    /// The evidence.
    pub report: Report,
    /// Whether it was given up because its time was over, not because somebody refused it.
    pub expired: bool,
    /// Whether it was tried at all; the report's time is that of the last attempt then.
    pub attempted: bool,
}

/// What is returned of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Original {
    /// The whole of it.
    Full(Vec<u8>),
    /// Its header, or the beginning of a very long one.
    Header(Vec<u8>),
    /// Nothing: it could not be read.
    Unreadable,
}

impl Original {
    /// Whether the whole message of this envelope may be returned. RET is about failures: who hears of nothing else still has
    /// the message, and gets its header (RFC 3461 §4.3). So does everybody whose message demands secrecy (RFC 8689 §5).
    pub fn is_full_wanted(envelope: &Envelope, told: &[Told]) -> bool {
        let fails = told.iter().any(|told| told.action == Action::Failed);
        fails
            && !envelope.terms.require_tls
            && envelope.ret != Some(Ret::Headers)
            && envelope.size <= FULL_RETURN_LIMIT
    }

    /// Takes what may be returned from the content, or from its beginning if `is_whole` is false.
    pub fn from_content(content: Vec<u8>, is_whole: bool) -> Self {
        if is_whole && is_fit_for_text(&content) {
            return Self::Full(content);
        }
        let header = &content[..body_offset(&content)];
        Self::Header(header.iter().copied().filter(|byte| *byte != 0).collect())
    }
}

/// Whether the content can stand in a part that is not encoded: lines within the limit, ended by CRLF, and no NUL.
fn is_fit_for_text(content: &[u8]) -> bool {
    content.split_inclusive(|byte| *byte == b'\n').all(|line| {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        text.len() <= MAX_LINE && !text.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
    })
}

/// The facts of a report.
#[derive(Debug)]
pub struct Facts<'a> {
    /// This host.
    pub hostname: &'a Domain,
    /// The id of the report as a message of the queue.
    pub id: QueueId,
    /// The id of the message it is about.
    pub about: QueueId,
    /// The envelope of that message.
    pub envelope: &'a Envelope,
    /// To whom it goes: the reverse-path of that message, or postmaster where nobody has that address.
    pub to: &'a Address,
    /// The recipients it is about; at least one.
    pub told: &'a [Told],
    /// What is returned.
    pub original: &'a Original,
    /// Until when recipients that are delayed are tried.
    pub retried_until: SystemTime,
    /// The time.
    pub now: SystemTime,
}

/// A composed report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Header and body, every line ended by CRLF.
    pub content: Vec<u8>,
    /// Whether it has octets beyond ASCII.
    pub body: Body,
    /// Whether its header has an international address.
    pub smtputf8: bool,
    /// Its Message-ID without angle brackets.
    pub message_id: String,
}

/// Composes a report.
pub fn compose(facts: &Facts<'_>) -> Composed {
    // RFC 6533 §3: the global media types carry UTF-8; they are used only where the plain ones cannot say it.
    let international =
        facts.envelope.smtputf8 || facts.told.iter().any(|told| told.recipient.address.needs_utf8());
    let boundary = format!("=_{}.{}", facts.id, facts.about);
    let human = human_part(facts, international);
    let machine = machine_part(facts, international);
    let (returned_type, returned) = returned_part(facts.original, international);
    let is_ascii = human.is_ascii() && machine.is_ascii() && returned.is_ascii();
    let encoding = if is_ascii { "7bit" } else { "8bit" };

    let message_id = format!("{}.report@{}", facts.id, facts.hostname);
    let mut content = header(facts, &message_id, &boundary, encoding);
    let status_type =
        if international { "message/global-delivery-status" } else { "message/delivery-status" };
    let mut part = |media_type: &str, description: &str, body: &[u8]| {
        let head = format!(
            "--{boundary}\r\nContent-Description: {description}\r\nContent-Type: {media_type}\r\n\
             Content-Transfer-Encoding: {}\r\n\r\n",
            if body.is_ascii() { "7bit" } else { "8bit" }
        );
        content.extend_from_slice(head.as_bytes());
        content.extend_from_slice(body);
        content.extend_from_slice(b"\r\n");
    };
    part("text/plain; charset=utf-8", "What happened", human.as_bytes());
    part(status_type, "The same for programs", machine.as_bytes());
    if let Some(returned_type) = returned_type {
        part(returned_type, "Your message", &returned);
    }
    content.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    // The header may have an international address where nothing else is beyond ASCII.
    let body = if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
    Composed { content, body, smtputf8: facts.to.needs_utf8(), message_id }
}

fn header(facts: &Facts<'_>, message_id: &str, boundary: &str, encoding: &str) -> Vec<u8> {
    let mut lines = vec![
        format!("From: Mail Delivery System <MAILER-DAEMON@{}>", facts.hostname),
        format!("To: <{}>", facts.to),
        format!("Subject: {}", subject(facts.told)),
        format!("Date: {}", date::rfc5322(facts.now)),
        format!("Message-ID: <{message_id}>"),
    ];
    if let Some(original) = facts.envelope.message_id.as_deref().filter(|id| is_plain_id(id)) {
        lines.push(format!("In-Reply-To: <{original}>"));
        lines.push(format!("References: <{original}>"));
    }
    // RFC 3834 §5: nobody answers a report automatically.
    lines.push("Auto-Submitted: auto-replied".to_owned());
    lines.push("MIME-Version: 1.0".to_owned());
    lines.push("Content-Type: multipart/report; report-type=delivery-status;".to_owned());
    lines.push(format!("\tboundary=\"{boundary}\""));
    lines.push(format!("Content-Transfer-Encoding: {encoding}"));
    let mut header = lines.join("\r\n").into_bytes();
    header.extend_from_slice(b"\r\n\r\nThis is a report in MIME format (RFC 3464).\r\n\r\n");
    header
}

/// Whether a Message-ID from outside can stand in a field of ours.
fn is_plain_id(id: &str) -> bool {
    id.len() < 900 && !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>')
}

fn subject(told: &[Told]) -> String {
    let what = if told.iter().any(|t| t.action == Action::Failed) {
        "Not delivered"
    } else if told.iter().any(|t| t.action == Action::Delayed) {
        "Delayed, still being tried"
    } else if told.iter().all(|t| t.action == Action::Relayed) {
        "Relayed"
    } else {
        "Delivered"
    };
    match told {
        [one] if !shown_address(&one.recipient).needs_utf8() => {
            format!("{what}: {}", shown_address(&one.recipient))
        }
        [_] => format!("{what}: your message to one recipient"),
        _ => format!("{what}: your message to {} recipients", told.len()),
    }
}

/// The address the sender knows: behind an alias he may never have heard of the final one.
fn shown_address(recipient: &Recipient) -> &Address {
    recipient.given.as_ref().unwrap_or(&recipient.address)
}

fn human_part(facts: &Facts<'_>, international: bool) -> String {
    let mut text = Text::default();
    text.line(&format!("This is the mail server {}.", facts.hostname));
    text.line("");
    if let Some(sender) = facts.envelope.reverse_path.address().filter(|sender| *sender != facts.to) {
        let sender = clean(&sender.to_string(), international);
        text.paragraph(
            "",
            &format!(
                "Nobody reads {sender}, the sender of this message, so the report goes to you, the postmaster. Make it a \
                 mailbox or an alias, so that its people hear of it. What follows was written for the sender."
            ),
        );
        text.line("");
    }
    for (action, introduction) in [
        (
            Action::Failed,
            "Your message could not be delivered to the following recipients. They have not received it, \
             and it will not be tried again. The reasons stand below each address.",
        ),
        (
            Action::Delayed,
            "Your message has not yet been delivered to the following recipients. You need not do \
             anything: it is tried again and again, and you are told if it fails for good.",
        ),
        (Action::Delivered, "Your message was delivered to the mailboxes of the following recipients."),
        (
            Action::Expanded,
            "The following addresses stand for several recipients. Your message goes to each of them; of those you \
             hear only if something fails.",
        ),
        (
            Action::Relayed,
            "Your message was handed to the next mail server for the following recipients. That server \
             sends no reports of its own, so this is the last you hear of it unless something fails.",
        ),
    ] {
        let told: Vec<&Told> = facts.told.iter().filter(|told| told.action == action).collect();
        if told.is_empty() {
            continue;
        }
        text.paragraph("", introduction);
        text.line("");
        for told in told {
            describe(&mut text, facts, told, international);
        }
    }
    text.paragraph(
        "",
        &format!(
            "Your message was accepted on {} as {}. The administrators of this server find it under that name.",
            date::rfc5322(facts.envelope.received),
            facts.about
        ),
    );
    text.0
}

fn describe(text: &mut Text, facts: &Facts<'_>, told: &Told, international: bool) {
    let shown = shown_address(&told.recipient);
    text.line(&format!("<{}>", clean(&shown.to_string(), international)));
    let when = date::rfc5322(told.report.at);
    let said = clean(&told.report.text, international);
    if told.expired {
        let since = facts.now.duration_since(facts.envelope.received).unwrap_or_default();
        text.paragraph("    ", &format!("It was tried for {} without success.", in_words(since.as_secs())));
    }
    match (&told.report.host, told.attempted) {
        (Some(host), true) if told.report.is_reply => {
            text.paragraph(
                "    ",
                &format!("The mail server {} said on {when}:", clean(host, international)),
            );
        }
        (Some(host), true) => {
            text.paragraph(
                "    ",
                &format!("On {when}, with the mail server {}:", clean(host, international)),
            );
        }
        (None, true) => text.paragraph("    ", &format!("On {when}:")),
        (_, false) if told.action == Action::Expanded => {}
        (_, false) => text.paragraph("    ", "Why:"),
    }
    text.paragraph("        ", &said);
    if matches!(told.action, Action::Failed | Action::Delayed) {
        text.paragraph("    ", &format!("What this means: {}", meaning(told)));
    }
    if told.action == Action::Delayed {
        text.paragraph("    ", &format!("It is tried until {}.", date::rfc5322(facts.retried_until)));
    }
    text.line("");
}

/// `5 days`, `3 hours`, `20 minutes`, `1 second`.
fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// What an enhanced status code means to somebody who never saw one (RFC 3463 §3).
fn meaning(told: &Told) -> &'static str {
    if told.expired && told.report.status.class == 5 {
        return "you wanted it delivered by a time that is over now. It will not be delivered any more.";
    }
    if told.expired {
        return "the other side could not be reached, or kept asking to be tried later, until this server's patience \
                ended. Send the message again later, or reach the recipient another way.";
    }
    let EnhancedStatus { class, subject, detail } = told.report.status;
    match (subject, detail) {
        (1, 0 | 1 | 3 | 6) => {
            "there is no such address there. Look for a typing error, or ask the recipient for the address."
        }
        (1, 2 | 10) => "the domain behind the @ takes no mail, or does not exist. Look for a typing error.",
        (1, 7 | 8) => "the other side does not accept your sender address.",
        (2, 1) => "the mailbox is switched off at the moment.",
        (2, 2) => "the mailbox is full. Only the recipient can change that.",
        (2, 3) | (3, 4) => "the message is too large for the recipient. Send a smaller one, or a link.",
        (2, _) => "something is wrong with the mailbox. Only the other side can change that.",
        (3, 3) => {
            "the other side's mail server cannot do what you asked for. Send the message again without that."
        }
        (3, _) => "the other side's mail server has a problem of its own.",
        (4, 4 | 6) => "the way to the recipient's mail server is set up wrongly.",
        (4, _) => "the recipient's mail server could not be reached.",
        (5, 3) => "the message has too many recipients. Send it in smaller groups.",
        (5, _) => "the two mail servers did not understand each other. Tell the administrators.",
        (6, _) => "the other side cannot handle the form of this message.",
        (7, 30) => {
            "you asked that nobody can read the message on its way, and the other side does not promise that. Send it again \
             without that demand, if you may."
        }
        (7, _) if class == 5 && !told.report.is_reply => {
            "an administrator of this server, or a rule of its own, has ended it. Ask there if you need it delivered."
        }
        (7, _) if class == 4 => "the other side's rules do not let the message in at the moment.",
        (7, _) => {
            "the other side's rules do not let this message in. Its words above say what would have to change."
        }
        _ if class == 4 => "the other side did not take the message, and did not say more about why.",
        _ => "the other side refused the message, and did not say more about why.",
    }
}

/// RFC 3464 §2: fields of the message, then of each recipient.
fn machine_part(facts: &Facts<'_>, international: bool) -> String {
    let mut text = Text::default();
    if let Some(id) = &facts.envelope.envelope_id {
        text.field("Original-Envelope-Id", &clean(&id.0, international));
    }
    text.field("Reporting-MTA", &format!("dns; {}", facts.hostname));
    text.field("X-Postern-Queue-Id", &facts.about.to_string());
    text.field("Arrival-Date", &date::rfc5322(facts.envelope.received));
    for told in facts.told {
        text.line("");
        let recipient = &told.recipient;
        let original = recipient.original.clone();
        if let Some(original) =
            original.or_else(|| recipient.given.as_ref().map(OriginalRecipient::from_address))
        {
            let kind = clean(&original.kind, false);
            text.field("Original-Recipient", &format!("{kind}; {}", clean(&original.address, international)));
        }
        let last = OriginalRecipient::from_address(&recipient.address);
        text.field("Final-Recipient", &format!("{}; {}", last.kind, last.address));
        text.field("Action", told.action.as_str());
        text.field("Status", &told.report.status.to_string());
        if let Some(host) = told.report.host.as_deref().filter(|_| told.attempted) {
            text.field("Remote-MTA", &format!("dns; {}", clean(host, international)));
        }
        let kind = if told.report.is_reply { "smtp" } else { "X-Postern" };
        text.field("Diagnostic-Code", &format!("{kind}; {}", clean(&told.report.text, international)));
        if told.attempted {
            text.field("Last-Attempt-Date", &date::rfc5322(told.report.at));
        }
        if told.action == Action::Delayed {
            text.field("Will-Retry-Until", &date::rfc5322(facts.retried_until));
        }
    }
    text.0
}

/// The media type of the third part, and its content; none if the message could not be read (RFC 6522 §3: it is optional).
fn returned_part(original: &Original, international: bool) -> (Option<&'static str>, Vec<u8>) {
    match original {
        Original::Full(content) if international => (Some("message/global"), content.clone()),
        Original::Full(content) => (Some("message/rfc822"), content.clone()),
        Original::Header(header) if international => (Some("message/global-headers"), within_limits(header)),
        Original::Header(header) => (Some("text/rfc822-headers"), within_limits(header)),
        Original::Unreadable => (None, Vec::new()),
    }
}

/// A header with its lines cut at the limit, each ended by CRLF.
fn within_limits(header: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len() + 2);
    for line in header.split(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if text.is_empty() {
            continue;
        }
        out.extend(
            text[..text.len().min(MAX_LINE)].iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }),
        );
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Text from outside without what could forge a line or a field, in ASCII unless the part carries UTF-8.
fn clean(text: &str, international: bool) -> String {
    let shown = |c: char| match c {
        '\r' | '\n' | '\t' => ' ',
        c if c.is_control() => '?',
        c if !international && !c.is_ascii() => '?',
        c => c,
    };
    text.chars()
        .map(shown)
        .collect::<String>()
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Lines of our own, folded.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push_str("\r\n");
    }

    /// Words, wrapped, each line behind `indent`.
    fn paragraph(&mut self, indent: &str, text: &str) {
        for piece in wrap(text, FOLD - indent.len()) {
            let _ = write!(self.0, "{indent}{piece}\r\n");
        }
    }

    /// A field, folded (RFC 5322 §2.2.3).
    fn field(&mut self, name: &str, value: &str) {
        let whole = format!("{name}: {value}");
        self.line(&wrap(&whole, FOLD).join("\r\n "));
    }
}

/// Cuts at spaces into pieces of about `width` octets; a longer word is cut only at the limit of a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in text.split(' ') {
        for part in parts_of(word) {
            let current = pieces.len() - 1;
            let room = pieces[current].len() + 1 + part.len() <= width;
            if pieces[current].is_empty() {
                pieces[current].push_str(part);
            } else if room {
                pieces[current].push(' ');
                pieces[current].push_str(part);
            } else {
                pieces.push(part.to_owned());
            }
        }
    }
    pieces
}

/// A word, cut where no line could hold it.
fn parts_of(word: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = word;
    while rest.len() > MAX_LINE - FOLD {
        let mut cut = MAX_LINE - FOLD;
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (part, tail) = rest.split_at(cut);
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::envelope::Origin;
    use crate::terms::Terms;
    use postern_smtp::header::fields;
    use postern_smtp::{EnvelopeId, ReversePath};
    use std::time::Duration;

    const MESSAGE: &str = "From: alice@proseware.test\r\nMessage-ID: <1@proseware.test>\r\n\r\nHello\r\n";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325 + seconds)
    }

    fn recipient(address: &str) -> Recipient {
        Recipient::new(Address::parse(address).unwrap())
    }

    fn told(address: &str, action: Action) -> Told {
        let report = Report {
            status: EnhancedStatus::new(5, 1, 1),
            text: "550 5.1.1 No such user".to_owned(),
            is_reply: true,
            host: Some("mx.adatum.test".to_owned()),
            tls: None,
            at: at(60),
        };
        Told { recipient: recipient(address), action, report, expired: false, attempted: true }
    }

    fn envelope() -> Envelope {
        Envelope {
            reverse_path: ReversePath::parse("alice@proseware.test").unwrap(),
            origin: Origin::Outsider,
            client: None,
            forwarded: None,
            helo: None,
            received: at(0),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: Some(EnvelopeId("QQ314159".to_owned())),
            message_id: Some("1@proseware.test".to_owned()),
            priority: 0,
            terms: Default::default(),
            size: MESSAGE.len() as u64,
            recipients: Vec::new(),
        }
    }

    fn report(envelope: &Envelope, told: &[Told], original: Original) -> Composed {
        compose(&Facts {
            hostname: &Domain::parse("mail.proseware.test").unwrap(),
            id: QueueId(2),
            about: QueueId(1),
            envelope,
            to: envelope.reverse_path.address().unwrap(),
            told,
            original: &original,
            retried_until: at(432_000),
            now: at(120),
        })
    }

    fn full() -> Original {
        Original::from_content(MESSAGE.as_bytes().to_vec(), true)
    }

    /// The value of a field, unfolded.
    fn field(header: &[u8], name: &str) -> Option<String> {
        let found = fields(header).find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(String::from_utf8_lossy(found.value).replace("\r\n", "").trim().to_owned())
    }

    /// The parts as (media type, body).
    fn parts(content: &[u8]) -> Vec<(String, Vec<u8>)> {
        let kind = field(content, "Content-Type").unwrap();
        let boundary = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"').to_owned();
        let text = String::from_utf8(content.to_vec()).unwrap();
        let delimiter = format!("--{boundary}");
        let mut pieces: Vec<&str> = text.split(&delimiter).skip(1).collect();
        assert_eq!(pieces.pop(), Some("--\r\n"));
        pieces
            .into_iter()
            .map(|piece| {
                let piece = piece.strip_prefix("\r\n").unwrap().strip_suffix("\r\n").unwrap().as_bytes();
                (field(piece, "Content-Type").unwrap(), piece[body_offset(piece)..].to_vec())
            })
            .collect()
    }

    #[test]
    fn a_failure_report_has_three_parts_and_the_fields_of_the_standard() {
        let composed = report(&envelope(), &[told("bob@adatum.test", Action::Failed)], full());
        let content = &composed.content;
        assert_eq!(
            field(content, "From").unwrap(),
            "Mail Delivery System <MAILER-DAEMON@mail.proseware.test>"
        );
        assert_eq!(field(content, "To").unwrap(), "<alice@proseware.test>");
        assert_eq!(field(content, "Subject").unwrap(), "Not delivered: bob@adatum.test");
        assert_eq!(field(content, "Auto-Submitted").unwrap(), "auto-replied");
        assert_eq!(field(content, "MIME-Version").unwrap(), "1.0");
        assert_eq!(field(content, "In-Reply-To").unwrap(), "<1@proseware.test>");
        assert_eq!(field(content, "References").unwrap(), "<1@proseware.test>");
        assert_eq!(field(content, "Date").unwrap(), "Sat, 21 Nov 2026 18:07:25 +0000");
        assert_eq!(field(content, "Message-ID").unwrap(), format!("<{}>", composed.message_id));
        let kind = field(content, "Content-Type").unwrap();
        assert!(kind.starts_with("multipart/report; report-type=delivery-status;"), "{kind}");

        let parts = parts(content);
        let types: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(types, ["text/plain; charset=utf-8", "message/delivery-status", "message/rfc822"]);
        assert_eq!(parts[2].1, MESSAGE.as_bytes());
        let per_recipient = &parts[1].1[body_offset(&parts[1].1)..];
        assert_eq!(field(&parts[1].1, "Reporting-MTA").unwrap(), "dns; mail.proseware.test");
        assert_eq!(field(&parts[1].1, "Original-Envelope-Id").unwrap(), "QQ314159");
        assert_eq!(field(&parts[1].1, "Arrival-Date").unwrap(), "Sat, 21 Nov 2026 18:05:25 +0000");
        for (name, value) in [
            ("Final-Recipient", "rfc822; bob@adatum.test"),
            ("Action", "failed"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; mx.adatum.test"),
            ("Diagnostic-Code", "smtp; 550 5.1.1 No such user"),
            ("Last-Attempt-Date", "Sat, 21 Nov 2026 18:06:25 +0000"),
        ] {
            assert_eq!(field(per_recipient, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(field(per_recipient, "Original-Recipient"), None);
        assert_eq!(field(per_recipient, "Will-Retry-Until"), None);
    }

    #[test]
    fn people_are_told_who_said_what_and_what_it_means() {
        let composed = report(&envelope(), &[told("bob@adatum.test", Action::Failed)], full());
        let text = String::from_utf8(parts(&composed.content)[0].1.clone()).unwrap();
        for words in [
            "<bob@adatum.test>",
            "mx.adatum.test",
            "550 5.1.1 No such user",
            "no such address",
            "18:06:25",
            "0000000000001",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
    }

    #[test]
    fn an_alias_is_named_as_the_sender_wrote_it() {
        let mut told = told("bob@adatum.test", Action::Failed);
        told.recipient.given = Some(Address::parse("sales@proseware.test").unwrap());
        let composed = report(&envelope(), &[told.clone()], full());
        assert_eq!(field(&composed.content, "Subject").unwrap(), "Not delivered: sales@proseware.test");
        let status = &parts(&composed.content)[1].1;
        let per_recipient = &status[body_offset(status)..];
        assert_eq!(field(per_recipient, "Original-Recipient").unwrap(), "rfc822; sales@proseware.test");

        told.recipient.original =
            Some(OriginalRecipient { kind: "rfc822".to_owned(), address: "Team@elsewhere.test".to_owned() });
        let composed = report(&envelope(), &[told], full());
        let status = &parts(&composed.content)[1].1;
        let per_recipient = &status[body_offset(status)..];
        assert_eq!(field(per_recipient, "Original-Recipient").unwrap(), "rfc822; Team@elsewhere.test");
    }

    #[test]
    fn success_is_told_without_advice() {
        for (action, subject) in
            [(Action::Delivered, "Delivered"), (Action::Relayed, "Relayed"), (Action::Expanded, "Delivered")]
        {
            let mut told = told("bob@adatum.test", action);
            told.report.status = EnhancedStatus::new(2, 0, 0);
            told.attempted = action != Action::Expanded;
            let composed = report(&envelope(), &[told], full());
            assert_eq!(field(&composed.content, "Subject").unwrap(), format!("{subject}: bob@adatum.test"));
            let parts = parts(&composed.content);
            let per_recipient = &parts[1].1[body_offset(&parts[1].1)..];
            assert_eq!(field(per_recipient, "Action").as_deref(), Some(action.as_str()));
            assert_eq!(field(per_recipient, "Status").as_deref(), Some("2.0.0"));
            let text = String::from_utf8(parts[0].1.clone()).unwrap();
            assert!(!text.contains("What this means") && !text.contains("Why:"), "{text}");
        }
    }

    #[test]
    fn a_delay_notice_says_until_when_it_is_tried() {
        let mut told = told("bob@adatum.test", Action::Delayed);
        told.report.is_reply = false;
        told.report.status = EnhancedStatus::new(4, 4, 1);
        "connection refused".clone_into(&mut told.report.text);
        let composed = report(&envelope(), &[told], full());
        let status = &parts(&composed.content)[1].1;
        let per_recipient = &status[body_offset(status)..];
        assert_eq!(field(per_recipient, "Action").unwrap(), "delayed");
        assert_eq!(field(per_recipient, "Diagnostic-Code").unwrap(), "X-Postern; connection refused");
        assert_eq!(field(per_recipient, "Will-Retry-Until").unwrap(), "Thu, 26 Nov 2026 18:05:25 +0000");
        assert!(field(&composed.content, "Subject").unwrap().starts_with("Delayed"));
    }

    #[test]
    fn hostile_replies_forge_nothing_and_keep_lines_short() {
        let mut told = told("bob@adatum.test", Action::Failed);
        told.report.text = format!("550 a\r\nAction: delivered\r\n\r\n\0\u{1b}[31mü {}", "x".repeat(5000));
        told.report.host = Some("mx\r\nStatus: 2.0.0".to_owned());
        let envelope = Envelope { message_id: Some("a>\r\nBcc: x".to_owned()), ..envelope() };
        let composed = report(&envelope, &[told], full());
        let status = &parts(&composed.content)[1].1;
        let per_recipient = &status[body_offset(status)..];
        assert_eq!(fields(per_recipient).filter(|field| field.name == b"Action").count(), 1);
        assert_eq!(fields(per_recipient).filter(|field| field.name == b"Status").count(), 1);
        assert!(field(per_recipient, "Last-Attempt-Date").is_some());
        assert!(composed.content.is_ascii());
        assert!(!composed.content.contains(&0) && !composed.content.contains(&0x1b));
        assert_eq!(field(&composed.content, "In-Reply-To"), None);
        assert!(is_fit_for_text(&composed.content));
    }

    #[test]
    fn only_the_header_returns_when_asked_or_when_the_body_cannot() {
        let failed = [told("bob@adatum.test", Action::Delivered), told("carol@adatum.test", Action::Failed)];
        assert!(Original::is_full_wanted(&envelope(), &failed));
        let full = Envelope { ret: Some(Ret::Full), ..envelope() };
        assert!(!Original::is_full_wanted(&full, &failed[..1]), "nothing has failed");
        assert!(!Original::is_full_wanted(&Envelope { ret: Some(Ret::Headers), ..envelope() }, &failed));
        let secret = Envelope { terms: Terms { require_tls: true, ..Terms::default() }, ..full.clone() };
        assert!(!Original::is_full_wanted(&secret, &failed), "it must not be read on the way");
        assert!(!Original::is_full_wanted(&Envelope { size: FULL_RETURN_LIMIT + 1, ..full }, &failed));
        let long = format!("A: b\r\n\r\n{}\r\n", "x".repeat(1000));
        assert_eq!(
            Original::from_content(long.into_bytes(), true),
            Original::Header(b"A: b\r\n\r\n".to_vec())
        );

        let header = format!("A: b\r\nLong: {}\r\n\r\nnot this", "x".repeat(3000)).into_bytes();
        let composed = report(
            &envelope(),
            &[told("bob@adatum.test", Action::Failed)],
            Original::from_content(header, false),
        );
        let (kind, body) = parts(&composed.content).pop().unwrap();
        assert_eq!(kind, "text/rfc822-headers");
        assert!(body.starts_with(b"A: b\r\nLong: xxx") && !body.ends_with(b"not this"));
        assert!(is_fit_for_text(&composed.content));
    }

    #[test]
    fn an_unreadable_message_does_not_stop_its_report() {
        let composed = report(&envelope(), &[told("bob@adatum.test", Action::Failed)], Original::Unreadable);
        assert_eq!(parts(&composed.content).len(), 2);
    }

    #[test]
    fn international_addresses_use_the_global_types() {
        let envelope = Envelope { smtputf8: true, ..envelope() };
        let composed = report(&envelope, &[told("žofie@adatum.test", Action::Failed)], full());
        assert_eq!(composed.body, Body::EightBitMime);
        assert!(!composed.smtputf8, "the address it goes to is ASCII");
        assert_eq!(field(&composed.content, "Content-Transfer-Encoding").unwrap(), "8bit");
        assert_eq!(
            field(&composed.content, "Subject").unwrap(),
            "Not delivered: your message to one recipient"
        );
        let parts = parts(&composed.content);
        assert_eq!(parts[1].0, "message/global-delivery-status");
        assert_eq!(parts[2].0, "message/global");
        let per_recipient = &parts[1].1[body_offset(&parts[1].1)..];
        assert_eq!(field(per_recipient, "Final-Recipient").unwrap(), "utf-8; žofie@adatum.test");
    }

    #[test]
    fn a_report_to_an_international_sender_is_8_bits_for_its_header_alone() {
        let reverse_path = ReversePath::parse("žofie@proseware.test").unwrap();
        let told = [told("bob@adatum.test", Action::Failed)];
        let composed = report(&Envelope { reverse_path, ..envelope() }, &told, full());
        assert_eq!((composed.body, composed.smtputf8), (Body::EightBitMime, true));
        assert_eq!(field(&composed.content, "Content-Transfer-Encoding").unwrap(), "7bit");
    }

    #[test]
    fn spans_are_said_in_words() {
        for (seconds, words) in [(1, "1 second"), (300, "5 minutes"), (7200, "2 hours"), (432_000, "5 days")]
        {
            assert_eq!(in_words(seconds), words);
        }
    }
}
