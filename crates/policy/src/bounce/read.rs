//! From octets to recipients and replies, whatever system wrote the bounce.

use postern_smtp::header::addresses;
use postern_smtp::{Address, Domain, EnhancedStatus};

use super::mime::{self, Part};
use super::prose::{self, MAX_BLOCK, Prose};
use super::reply::{self, Reply};
use super::{Action, Form, MAX_INPUT, MAX_RECIPIENTS, html};

/// An address field is read as far as one author may need.
const MAX_FIELD: usize = 4096;

/// What was read, without its meaning.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) form: Form,
    pub(super) reporter: Option<String>,
    /// The domain of the message's author, or at least of who got the bounce.
    pub(super) sender: Option<Domain>,
    pub(super) recipients: Vec<Recipient>,
}

/// One recipient.
#[derive(Debug, Default)]
pub(super) struct Recipient {
    pub(super) address: Option<String>,
    pub(super) action: Option<Action>,
    pub(super) host: Option<String>,
    pub(super) reply: Reply,
    /// What stands around the reply: where it says nothing known, this may.
    pub(super) context: String,
}

/// Reads a bounce, a report, a reply.
pub(super) fn read(octets: &[u8]) -> Reading {
    let octets = octets[..octets.len().min(MAX_INPUT)].trim_ascii_start();
    // The line that separates messages in an mbox.
    let octets = match octets.strip_prefix(b"From ") {
        Some(rest) => rest.splitn(2, |octet| *octet == b'\n').nth(1).unwrap_or_default(),
        None => octets,
    };
    if mime::has_header(octets) { message(octets) } else { pasted(octets) }
}

/// Something without a header: a reply, a line of a log, the text of a bounce, the fields of a report.
fn pasted(octets: &[u8]) -> Reading {
    const MAX_PASTED: usize = 1024 * 1024;
    let text = mime::decoded(&octets[..octets.len().min(MAX_PASTED)]);
    let is_html = text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("<!doctype"))
        || text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("<html"));
    let text = if is_html { html::text(&text) } else { text.into_owned() };
    let report = status_fields(&text);
    if !report.recipients.is_empty() {
        return report;
    }
    from_prose(&prose::read(&text), form(&text).unwrap_or(Form::Reply))
}

fn message(octets: &[u8]) -> Reading {
    let parts = mime::parts(octets);
    let is_status =
        |part: &Part| matches!(&*part.kind, "message/delivery-status" | "message/global-delivery-status");
    let mut reading = match parts.iter().position(is_status) {
        Some(at) => report(&parts, at),
        None => plain(&parts),
    };
    let failed = mime::field(octets, "x-failed-recipients");
    if let ([only], Some(failed)) = (&mut *reading.recipients, failed)
        && only.address.is_none()
        && !failed.contains(',')
    {
        only.address = Some(failed);
    }
    reading.sender = reading.sender.or_else(|| author(octets, "to"));
    if reading.form != Form::Text {
        reading.reporter =
            reading.reporter.or_else(|| author(octets, "from").map(|domain| domain.to_string()));
    }
    reading
}

/// RFC 3464: the fields say who, the text for people may say more about why.
fn report(parts: &[Part], at: usize) -> Reading {
    let mut reading = status_fields(&parts[at].text);
    let human = parts[..at].iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("\n");
    let told = prose::read(&human);
    let is_only = reading.recipients.len() == 1;
    for recipient in &mut reading.recipients {
        let mut blocks = told.blocks.iter();
        let block = blocks
            .find(|block| block.address.as_deref().is_some_and(|a| Some(a) == recipient.address.as_deref()));
        recipient.context = match block {
            // Microsoft's explanations are long, and the words of the server stand below them.
            _ if is_only => reply::cut(&human, 8 * MAX_BLOCK).to_owned(),
            Some(block) => block.text.clone(),
            None => String::new(),
        };
        if recipient.reply.text.is_empty() {
            let found = Reply::find(&recipient.context);
            recipient.reply.code = recipient.reply.code.or(found.code);
            recipient.reply.text = found.text;
        }
        if recipient.host.is_none() {
            recipient.host = reply::host(&recipient.context);
        }
    }
    reading.sender =
        parts[at + 1..].iter().find(|part| is_returned(part)).and_then(|part| author_of(&part.text));
    reading.sender = reading.sender.or_else(|| author_of(told.returned.trim_start()));
    reading.form = Form::Report;
    reading
}

fn is_returned(part: &Part) -> bool {
    matches!(
        &*part.kind,
        "message/rfc822"
            | "message/global"
            | "text/rfc822-headers"
            | "message/rfc822-headers"
            | "message/global-headers"
    )
}

/// A bounce for people only: the first part that names a recipient or a reply, else the first at all.
fn plain(parts: &[Part]) -> Reading {
    let texts = || parts.iter().filter(|part| matches!(&*part.kind, "text/plain" | "text/html"));
    let read = |part: &Part| from_prose(&prose::read(&part.text), form(&part.text).unwrap_or(Form::Text));
    let is_telling = |reading: &Reading| {
        let mut recipients = reading.recipients.iter();
        recipients.any(|told| {
            told.reply.code.is_some() || told.reply.status.is_some() || reading.form != Form::Text
        })
    };
    let mut reading =
        texts().map(read).find(is_telling).or_else(|| texts().next().map(read)).unwrap_or_default();
    if reading.sender.is_none() {
        reading.sender = parts.iter().find(|part| is_returned(part)).and_then(|part| author_of(&part.text));
    }
    reading
}

fn from_prose(prose: &Prose, form: Form) -> Reading {
    let mut recipients: Vec<Recipient> = Vec::new();
    let is_only = prose.blocks.len() == 1;
    for block in &prose.blocks {
        let mut reply = Reply::find(&block.text);
        let mut context = block.text.clone();
        if is_only {
            context.push_str(&prose.around);
            if reply.code.is_none() && reply.status.is_none() {
                let around = Reply::find(&prose.around);
                // Words without codes are the bounce's own.
                if around.code.is_some() || around.status.is_some() {
                    reply = around;
                }
            }
        }
        let host = reply::host(&block.text).or_else(|| reply::host(&prose.around));
        let address = block.address.clone();
        let action = action_in_log(&block.text).or_else(|| action(prose, form));
        recipients.push(Recipient { address, action, host, reply, context });
    }
    if recipients.is_empty() && !prose.around.trim().is_empty() {
        let address = if form == Form::Reply { None } else { prose::address_in_sentence(&prose.around) };
        let reply = Reply::find(&prose.around);
        let host = reply::host(&prose.around);
        let context = prose.around.clone();
        recipients.push(Recipient { address, action: action(prose, form), host, reply, context });
    }
    let sender = author_of(prose.returned.trim_start());
    Reading { form, reporter: prose.reporter.clone(), sender, recipients }
}

/// A bounce says that it failed, unless it says that it is late; a pasted reply says neither.
fn action(prose: &Prose, form: Form) -> Option<Action> {
    const LATE: [&str; 5] = [
        "delayed",
        "has not yet been delivered",
        "will be retried",
        "warning message only",
        "will keep trying",
    ];
    if form == Form::Reply {
        return None;
    }
    let around = prose.around.to_lowercase();
    Some(if LATE.iter().any(|words| around.contains(words)) { Action::Delayed } else { Action::Failed })
}

/// The word of Postfix's log.
fn action_in_log(line: &str) -> Option<Action> {
    let (_, rest) = line.split_once(", status=")?;
    match rest.split([' ', ',']).next()? {
        "bounced" | "expired" => Some(Action::Failed),
        "deferred" => Some(Action::Delayed),
        "sent" => Some(Action::Delivered),
        _ => None,
    }
}

/// The form of a text by the words that its system always writes.
fn form(text: &str) -> Option<Form> {
    const SIGNATURES: [(&str, Form); 10] = [
        ("this is the qmail-send program", Form::Qmail),
        ("created automatically by mail delivery software", Form::Exim),
        ("transcript of session follows", Form::Sendmail),
        ("diagnostic information for administrators", Form::Exchange),
        ("this is the mail system at host", Form::Postfix),
        ("this is the mail server ", Form::Postern),
        ("the response from the remote server was", Form::Gmail),
        ("the response was:", Form::Gmail),
        ("unable to deliver your message to the following address", Form::Yahoo),
        ("remote host said:", Form::Qmail),
    ];
    let text = text.to_lowercase();
    SIGNATURES.iter().find(|(words, _)| text.contains(words)).map(|(_, form)| *form)
}

/// The fields of message/delivery-status (RFC 3464 §2): groups between empty lines.
fn status_fields(text: &str) -> Reading {
    let mut reading = Reading { form: Form::Report, ..Reading::default() };
    let mut group: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            reading.take(&group);
            group.clear();
        } else if let (true, Some((_, value))) = (line.starts_with([' ', '\t']), group.last_mut()) {
            value.push('\n');
            value.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            group.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    reading
}

impl Reading {
    fn take(&mut self, group: &[(String, String)]) {
        let field =
            |name: &str| group.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        // "dns; mx.adatum.test (192.0.2.1, the server for the domain adatum.test.)"
        let behind_type =
            |value: &str| value.split_once(';').map_or(value, |(_, value)| value).trim().to_owned();
        let host = |name: &str| {
            field(name).map(behind_type).and_then(|value| reply::host_name(value.split([' ', '(']).next()?))
        };
        if let Some(reporter) = host("reporting-mta") {
            self.reporter = Some(reporter);
        }
        // What the sender wrote comes first: behind an alias he may never have heard of the final address.
        let address = field("original-recipient").or_else(|| field("final-recipient")).map(behind_type);
        let is_recipient = address.is_some() && (field("action").is_some() || field("status").is_some());
        if !is_recipient || self.recipients.len() >= MAX_RECIPIENTS {
            return;
        }
        let diagnostic = field("diagnostic-code").map(|value| match value.split_once(';') {
            // The type is one word; a semicolon further on belongs to the text.
            Some((kind, text)) if !kind.trim().contains([' ', '\n']) => text.to_owned(),
            _ => value.to_owned(),
        });
        let mut reply = diagnostic.as_deref().map(Reply::find).unwrap_or_default();
        let declared =
            field("status").and_then(|value| value.split([' ', '(']).next()?.parse::<EnhancedStatus>().ok());
        // 5.0.0 says nothing that the text does not say better.
        if reply.status.is_none() || declared.is_some_and(|status| (status.subject, status.detail) != (0, 0))
        {
            reply.status = declared.or(reply.status);
        }
        self.recipients.push(Recipient {
            address: address.map(|address| address.trim_matches(['<', '>']).to_owned()),
            action: field("action")
                .and_then(|value| Action::parse(value.split([' ', '(']).next().unwrap_or(value))),
            host: host("remote-mta"),
            reply,
            context: String::new(),
        });
    }
}

/// The domain of the author in a returned header.
fn author_of(header: &str) -> Option<Domain> {
    author(header.as_bytes(), "from").or_else(|| author(header.as_bytes(), "return-path"))
}

fn author(header: &[u8], field: &str) -> Option<Domain> {
    let value = mime::field(header, field)?;
    let list = addresses(reply::cut(&value, MAX_FIELD).as_bytes()).ok()?;
    list.first().and_then(Address::domain).cloned()
}
