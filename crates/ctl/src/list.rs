//! `queue list`: page by page, so that a queue of any length is listed in the same memory.

use std::io;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use postern_admin::api::{DEFAULT_LIMIT, List, ListRequest, MessageView, RecipientView, VERSION};
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::output::{self, Look, Output};
use crate::template::{self, Template};

/// Messages that are asked for at once.
const PAGE: usize = 1000;

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// The order.
    #[arg(long, value_enum, default_value_t)]
    sort: filter::Sort,
    /// How many messages at most: 1000, or all with --all or --jsonl.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// Go on where a list ended that gave this cursor, in the same order.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// A line for each message, or for each recipient of the messages that match.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Print one JSON object a line, each as soon as it is known.
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    /// Print each line like this: `{id} {sender}`, with the fields of --json in braces, and \t, \n, \\, {{ and }}.
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["json", "jsonl"])]
    format: Option<String>,
    #[command(flatten)]
    filter: FilterOptions,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// A message.
    #[default]
    Message,
    /// A recipient.
    Recipient,
}

/// A recipient with what its message says about it.
#[derive(Debug, Serialize)]
struct RecipientRow<'a> {
    id: &'a str,
    received: u64,
    size: u64,
    sender: &'a str,
    #[serde(flatten)]
    recipient: &'a RecipientView,
}

/// Lists.
///
/// # Errors
/// [`Failure`].
pub async fn list(session: &mut Session, options: &ListOptions) -> Result<Exit, Failure> {
    let is_unlimited = options.filter.all || options.jsonl;
    let mut left = options.limit.unwrap_or(if is_unlimited { usize::MAX } else { DEFAULT_LIMIT });
    let mut request = ListRequest {
        filter: options.filter.filter()?,
        sort: options.sort.into(),
        limit: None,
        cursor: options.cursor.clone(),
    };
    let form = form(options, session.out.json)?;
    let is_text = matches!(form, Form::Text | Form::Template(_));
    let mut writer = Writer { form, by: options.by, now: session.now, lines: 0 };
    let client = session.client()?;
    loop {
        request.limit = Some(left.min(PAGE));
        let page: List = client.post("/v1/queue/list", &request).await?;
        left = left.saturating_sub(page.messages.len());
        writer.page(&page.messages, &mut session.out)?;
        request.cursor = page.cursor;
        if request.cursor.is_none() || left == 0 {
            break;
        }
        session.out.flush()?;
    }
    writer.end(request.cursor.as_deref(), &mut session.out)?;
    if let Some(cursor) = request.cursor.filter(|_| is_text) {
        session.note(&format!("more messages match: see --limit and --all, or go on with --cursor {cursor}"));
    }
    Ok(Exit::Done)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Text,
    Template(Template),
    Json,
    JsonLines,
}

fn form(options: &ListOptions, is_json: bool) -> Result<Form, Failure> {
    let fields = match options.by {
        By::Message => &template::OF_MESSAGE[..],
        By::Recipient => &template::OF_RECIPIENT,
    };
    Ok(match (&options.format, options.jsonl) {
        (Some(text), _) => Form::Template(Template::new(text, fields).map_err(Failure::Usage)?),
        (None, true) => Form::JsonLines,
        (None, false) if is_json => Form::Json,
        (None, false) => Form::Text,
    })
}

/// Writes pages as they come.
struct Writer {
    form: Form,
    by: By,
    now: SystemTime,
    lines: usize,
}

impl Writer {
    fn page(&mut self, messages: &[MessageView], out: &mut Output) -> io::Result<()> {
        match self.form {
            Form::Text => out.text(self.text(messages, out.look)),
            Form::Template(_) | Form::Json | Form::JsonLines => self.objects(messages, out),
        }
    }

    /// A table; those of later pages have no header. The columns are as wide as each page needs.
    fn text(&mut self, messages: &[MessageView], look: Look) -> String {
        let table = match self.by {
            By::Message => list_text(messages, self.now, look),
            By::Recipient => recipients_text(messages, self.now, look),
        };
        let is_first = self.lines == 0;
        self.lines += table.lines().count();
        match table.split_once('\n') {
            Some((_, rows)) if !is_first => rows.to_owned(),
            _ => table,
        }
    }

    fn objects(&mut self, messages: &[MessageView], out: &mut Output) -> io::Result<()> {
        for message in messages {
            match self.by {
                By::Message => self.object(message, out)?,
                By::Recipient => {
                    for recipient in &message.recipients {
                        self.object(&row(message, recipient), out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, object: &impl Serialize, out: &mut Output) -> io::Result<()> {
        let is_first = self.lines == 0;
        self.lines += 1;
        match &self.form {
            Form::Template(template) => out.text(template.line(object)?),
            Form::JsonLines => out.text(format_args!("{}\n", output::json(object)?)),
            _ => {
                let before = if is_first { self.head() } else { ",".to_owned() };
                out.text(format_args!("{before}{}", serde_json::to_string(object)?))
            }
        }
    }

    fn head(&self) -> String {
        let name = if self.by == By::Recipient { "recipients" } else { "messages" };
        format!("{{\"version\":{VERSION},\"{name}\":[")
    }

    fn end(&self, cursor: Option<&str>, out: &mut Output) -> io::Result<()> {
        if self.form != Form::Json {
            return Ok(());
        }
        let head = if self.lines == 0 { self.head() } else { String::new() };
        // A cursor is of letters, digits and a hyphen: nothing to escape.
        let cursor = cursor.map(|cursor| format!(",\"cursor\":\"{cursor}\"")).unwrap_or_default();
        out.text(format_args!("{head}],\"more\":{}{cursor}}}\n", !cursor.is_empty()))
    }
}

fn row<'a>(message: &'a MessageView, recipient: &'a RecipientView) -> RecipientRow<'a> {
    let MessageView { id, received, size, sender, .. } = message;
    RecipientRow { id, received: *received, size: *size, sender, recipient }
}

/// Messages as a table; nothing if there are none.
pub fn list_text(messages: &[MessageView], now: SystemTime, look: Look) -> String {
    if messages.is_empty() {
        return String::new();
    }
    let header = ["ID", "AGE", "SIZE", "STATE", "TRIES", "NEXT", "SENDER", "RECIPIENTS", "LAST REPLY"];
    output::table(&header, messages.iter().map(|message| list_row(message, now)), look)
}

fn list_row(message: &MessageView, now: SystemTime) -> Vec<String> {
    let recipients = &message.recipients;
    let is_open = |r: &&RecipientView| !matches!(r.state.as_str(), "delivered" | "failed");
    let open = || recipients.iter().filter(is_open);
    let next = open().filter_map(|recipient| recipient.next_attempt).min();
    let first = open().next().or(recipients.first());
    let shown = first.map_or_else(|| "-".to_owned(), |recipient| recipient.address.clone());
    let others = open().count().saturating_sub(1);
    let more = if others > 0 { format!(" (+{others})") } else { String::new() };
    // What those say that still wait is what somebody looks for.
    let last = recipients.iter().filter(|r| r.text.is_some()).max_by_key(|r| (is_open(r), r.last_attempt));
    let next = match message.state.as_str() {
        "held" => "-".to_owned(),
        _ => next.map_or_else(|| "-".to_owned(), |time| output::until(time, now)),
    };
    vec![
        message.id.clone(),
        output::age(message.received, now),
        output::size(message.size),
        message.state.clone(),
        recipients.iter().map(|recipient| recipient.attempts).max().unwrap_or(0).to_string(),
        next,
        format!("<{}>", message.sender),
        format!("{shown}{more}"),
        last.map_or_else(|| "-".to_owned(), last_reply),
    ]
}

fn recipients_text(messages: &[MessageView], now: SystemTime, look: Look) -> String {
    if messages.is_empty() {
        return String::new();
    }
    let header = ["ID", "AGE", "STATE", "TRIES", "NEXT", "SENDER", "RECIPIENT", "DESTINATION", "LAST REPLY"];
    let rows = messages.iter().flat_map(|message| {
        message.recipients.iter().map(move |recipient| {
            vec![
                message.id.clone(),
                output::age(message.received, now),
                recipient.state.clone(),
                recipient.attempts.to_string(),
                recipient.next_attempt.map_or_else(|| "-".to_owned(), |time| output::until(time, now)),
                format!("<{}>", message.sender),
                recipient.address.clone(),
                recipient.destination.clone(),
                recipient.text.as_ref().map_or_else(|| "-".to_owned(), |_| last_reply(recipient)),
            ]
        })
    });
    output::table(&header, rows, look)
}

fn last_reply(recipient: &RecipientView) -> String {
    [recipient.status.as_deref(), recipient.text.as_deref()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeSet;

    use super::*;
    use crate::queue::tests::{deferred, message, now, recipient};

    fn writer(form: Form, by: By) -> Writer {
        Writer { form, by, now: now(), lines: 0 }
    }

    #[test]
    fn list_for_people() {
        let done = RecipientView { state: "delivered".to_owned(), ..recipient("carol@adatum.test") };
        let bounce = MessageView {
            id: "01N2K3P4Q5R7T".to_owned(),
            sender: String::new(),
            size: 812,
            ..message("held", vec![recipient("dave@adatum.test")])
        };
        let messages = [message("deferred", vec![done, deferred()]), bounce];
        let expected = "\
ID             AGE   SIZE      STATE     TRIES  NEXT    SENDER                  RECIPIENTS        LAST REPLY
01N2K3P4Q5R6S  2h5m  12.3 KiB  deferred  3      in 10m  <alice@proseware.test>  bob@adatum.test   4.7.1 451-4.7.1 slow??451 4.7.1 down?
01N2K3P4Q5R7T  2h5m  812 B     held      0      -       <>                      dave@adatum.test  -
";
        assert_eq!(list_text(&messages, now(), Look::PLAIN), expected);
        assert_eq!(list_text(&[], now(), Look::PLAIN), "");
    }

    #[test]
    fn a_template_can_name_every_field() {
        let all =
            RecipientView { via: Some("mx".to_owned()), ending: Some("failed".to_owned()), ..deferred() };
        let message = MessageView {
            held_until: Some(1),
            terms: vec!["by noon".to_owned()],
            ..message("held", vec![all.clone()])
        };
        let as_json = [serde_json::to_value(&message), serde_json::to_value(row(&message, &all))];
        for (object, fields) in as_json.into_iter().zip([&template::OF_MESSAGE[..], &template::OF_RECIPIENT])
        {
            let object = object.unwrap();
            let names: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(names, fields.iter().copied().collect());
        }
    }

    #[test]
    fn only_the_first_page_has_a_header() {
        let page = [message("ready", vec![recipient("bob@adatum.test")])];
        let mut writer = writer(Form::Text, By::Message);
        let first = writer.text(&page, Look::PLAIN);
        let second = writer.text(&page, Look::PLAIN);
        assert_eq!(first.lines().count(), 2);
        assert_eq!(second.lines().collect::<Vec<_>>(), [first.lines().nth(1).unwrap()]);
    }

    #[test]
    fn recipients_for_people() {
        let messages = [message("deferred", vec![recipient("carol@adatum.test"), deferred()])];
        let expected = "\
ID             AGE   STATE     TRIES  NEXT    SENDER                  RECIPIENT          DESTINATION     LAST REPLY
01N2K3P4Q5R6S  2h5m  ready     0      -       <alice@proseware.test>  carol@adatum.test  mx adatum.test  -
01N2K3P4Q5R6S  2h5m  deferred  3      in 10m  <alice@proseware.test>  bob@adatum.test    mx adatum.test  4.7.1 451-4.7.1 slow??451 4.7.1 down?
";
        assert_eq!(writer(Form::Text, By::Recipient).text(&messages, Look::PLAIN), expected);
    }
}
