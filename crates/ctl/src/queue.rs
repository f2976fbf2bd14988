//! `queue`: see and change the messages that wait.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand};
use postern_admin::api::{
    Change, ChangeRequest, Changed, CountRequest, Counts, Filter, GroupBy, List, ListRequest, MAX_WAIT,
    MessageView, Part, RecipientView, ShowRequest, Shown, Sort,
};
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::list::{self, ListOptions, list_text};
use crate::output::{self, Look};
use crate::shape::{self, ShapeOptions};
use crate::top::{self, TopOptions};
use crate::transfer::{self, ExportOptions, ImportOptions};

const FILTER_EXAMPLES: &str = "\
Examples:
  posternctl queue hold 0BZ3K7QW2M4XA
  posternctl queue retry --rcpt-domain adatum.test --code 4.7. --spread 10m
  posternctl queue hold --header 'Subject=(?i)invoice' --newer 1h --not --account bookkeeping
  posternctl queue fail --sender @proseware.test --older 2d --reason 'address list was wrong'
  posternctl queue list --dsn --jsonl | jq -r .id | posternctl queue drop --id - --reason backscatter --yes";

/// What can be done with the queue.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List messages, oldest first.
    #[command(after_help = FILTER_EXAMPLES)]
    List(ListOptions),
    /// Count messages: one number, or one for each group.
    Count(CountOptions),
    /// Count messages by domain and age.
    Shape(ShapeOptions),
    /// Watch the server and its largest destinations.
    Top(TopOptions),
    /// Show all that is known of a message.
    Show(Message),
    /// Print the content of a message.
    Cat(CatOptions),
    /// Keep messages back until they are released. They still expire; a restart changes nothing.
    #[command(after_help = FILTER_EXAMPLES)]
    Hold(ReasonedChange),
    /// End a hold: the messages are due at once.
    Release(PlainChange),
    /// Try messages again before their time.
    Retry(RetryChange),
    /// End messages; the sender gets a report with the reason.
    #[command(after_help = FILTER_EXAMPLES)]
    Fail(FinalChange),
    /// Remove messages without telling anybody.
    #[command(after_help = FILTER_EXAMPLES)]
    Drop(DropChange),
    /// Copy messages into files, to move them to another machine. Those that are being delivered are skipped.
    Export(ExportOptions),
    /// Take messages that were exported into the queue, with the ids they had. What is there already is skipped.
    Import(ImportOptions),
}

/// Options of `count`.
#[derive(Debug, Args)]
pub struct CountOptions {
    /// Count by this instead of all together. A message with recipients in several groups counts in each.
    #[arg(long, value_enum)]
    group_by: Option<filter::GroupBy>,
    #[command(flatten)]
    filter: FilterOptions,
}

/// One message.
#[derive(Debug, Args)]
pub struct Message {
    /// Its queue id.
    #[arg(value_name = "ID")]
    id: String,
}

/// Options of `cat`.
#[derive(Debug, Args)]
pub struct CatOptions {
    #[command(flatten)]
    message: Message,
    /// The header only.
    #[arg(long, group = "part")]
    headers: bool,
    /// The body only.
    #[arg(long, group = "part")]
    body: bool,
    /// All of it; this is the default.
    #[arg(long, group = "part")]
    raw: bool,
}

/// Options of every verb that changes messages.
#[derive(Debug, Args)]
pub struct ChangeOptions {
    /// Do not ask; needed by scripts when more than one message matches.
    #[arg(long, short)]
    yes: bool,
    /// Only say how many messages match.
    #[arg(long)]
    dry_run: bool,
    /// Wait up to so many seconds, at most 100, for messages that are being delivered (`hold`, `fail`, `drop`).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=MAX_WAIT))]
    wait: Option<u64>,
    /// Change nothing if more messages than this match; 1000 unless --all is given.
    #[arg(long, value_name = "NUMBER")]
    max: Option<usize>,
    #[command(flatten)]
    filter: FilterOptions,
}

impl ChangeOptions {
    /// The request, without what is particular to a verb.
    fn request(&self, verb: &str) -> Result<ChangeRequest, Failure> {
        let filter = self.filter.filter()?;
        if filter == Filter::default() && !self.filter.all {
            return Err(Failure::Usage(format!(
                "queue {verb}: which messages? Give an id or a filter, or --all (see `posternctl queue {verb} --help`)"
            )));
        }
        Ok(ChangeRequest {
            filter,
            all: self.filter.all,
            max: self.max,
            dry_run: self.dry_run,
            wait: self.wait,
            ..ChangeRequest::default()
        })
    }
}

/// Options of `release`.
#[derive(Debug, Args)]
pub struct PlainChange {
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `hold`.
#[derive(Debug, Args)]
pub struct ReasonedChange {
    /// Why; `queue show` says it.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `drop`.
#[derive(Debug, Args)]
pub struct DropChange {
    /// Copy the messages into this directory first, as `export` does; only those that were copied are removed.
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    #[command(flatten)]
    change: FinalChange,
}

/// Options of `fail` and `drop`.
#[derive(Debug, Args)]
pub struct FinalChange {
    /// Why: it stands in the log, and for `fail` in the report to the sender.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `retry`.
#[derive(Debug, Args)]
pub struct RetryChange {
    /// Spread the attempts over this time, such as `10m`. By default one second for 20 messages, at most ten minutes.
    #[arg(long, value_name = "DURATION", value_parser = filter::seconds)]
    spread: Option<u64>,
    #[command(flatten)]
    change: ChangeOptions,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::List(options) => list::list(session, &options).await,
            Self::Count(options) => count(session, &options).await,
            Self::Shape(options) => shape::shape(session, &options).await,
            Self::Top(options) => top::top(session, &options).await,
            Self::Show(message) => show(session, &message).await,
            Self::Cat(options) => cat(session, &options).await,
            Self::Hold(hold) => change(session, "hold", &hold.change, hold.reason, None).await,
            Self::Release(release) => change(session, "release", &release.change, None, None).await,
            Self::Retry(retry) => change(session, "retry", &retry.change, None, retry.spread).await,
            Self::Fail(fail) => change(session, "fail", &fail.change, Some(fail.reason), None).await,
            Self::Drop(DropChange { export: None, change: drop }) => {
                change(session, "drop", &drop.change, Some(drop.reason), None).await
            }
            Self::Drop(DropChange { export: Some(directory), change: drop }) => {
                drop_exported(session, drop, &directory).await
            }
            Self::Export(options) => transfer::export(session, &options).await,
            Self::Import(options) => transfer::import(session, &options).await,
        }
    }
}

/// The answer to `count` without groups.
#[derive(Debug, Default, Serialize)]
struct Total {
    messages: usize,
    recipients: usize,
    octets: u64,
}

async fn count(session: &mut Session, options: &CountOptions) -> Result<Exit, Failure> {
    let filter = options.filter.filter()?;
    // Every message has one account or none: these groups add up to the whole.
    let by = options.group_by.map_or(GroupBy::Account, Into::into);
    let counts: Counts = session.client()?.post("/v1/queue/count", &CountRequest { filter, by }).await?;
    match options.group_by {
        Some(_) => session.out.answer(&counts, count_text)?,
        None => session.out.answer(&total(&counts), |total, _| format!("{}\n", total.messages))?,
    }
    Ok(Exit::Done)
}

fn total(counts: &Counts) -> Total {
    counts.groups.iter().fold(Total::default(), |sum, group| Total {
        messages: sum.messages + group.messages,
        recipients: sum.recipients + group.recipients,
        octets: sum.octets + group.octets,
    })
}

fn count_text(counts: &Counts, look: Look) -> String {
    let mut groups: Vec<_> = counts.groups.iter().collect();
    groups.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.key.cmp(&b.key)));
    let rows = groups.into_iter().map(|group| {
        let key = if group.key.is_empty() { "-".to_owned() } else { group.key.clone() };
        vec![group.messages.to_string(), group.recipients.to_string(), output::size(group.octets), key]
    });
    output::table(&["MESSAGES", "RECIPIENTS", "SIZE", "GROUP"], rows, look)
}

async fn show(session: &mut Session, message: &Message) -> Result<Exit, Failure> {
    let request = ShowRequest { id: message.id.clone() };
    let shown: Shown = session.client()?.post("/v1/queue/show", &request).await?;
    let now = session.now;
    session.out.answer(&shown, |shown, look| show_text(&shown.message, now, look))?;
    Ok(Exit::Done)
}

fn show_text(message: &MessageView, now: SystemTime, look: Look) -> String {
    let state = match &message.held {
        Some(reason) if !reason.is_empty() => format!("{} ({reason})", message.state),
        _ => message.state.clone(),
    };
    let mut text = output::pairs(
        "",
        [
            ("message", Some(message.id.clone())),
            ("state", Some(state)),
            ("accepted", Some(output::past(message.received, now))),
            ("expires", Some(expiry(message, now))),
            ("schedule", held_rule(message)),
            ("size", Some(output::size(message.size))),
            ("sender", Some(format!("<{}>", message.sender))),
            ("right", Some(right(message))),
            ("client", message.client.clone()),
            ("message-id", message.message_id.clone()),
        ],
    );
    for recipient in &message.recipients {
        text += &recipient_text(recipient, message, now, look);
    }
    text
}

/// Held or not, a message expires: nothing stays for ever.
fn expiry(message: &MessageView, now: SystemTime) -> String {
    let rule = if message.state == "held" { ", also while it is held" } else { "" };
    format!("{}{rule}", output::future(message.expires, now))
}

/// A hold stops the attempts and not the clock.
fn held_rule(message: &MessageView) -> Option<String> {
    let rule = "no attempt and no notice of delay while it is held; `queue release` makes it due at once";
    (message.state == "held").then(|| rule.to_owned())
}

/// By which right it was taken.
fn right(message: &MessageView) -> String {
    let why = match message.origin.as_str() {
        "outsider" => "anybody may send to our own recipients and relay domains",
        "own" => "written by this server: a report",
        origin if origin.starts_with("login ") => "logged in",
        _ => "relay.trusted_networks",
    };
    format!("{} ({why})", message.origin)
}

fn recipient_text(recipient: &RecipientView, message: &MessageView, now: SystemTime, look: Look) -> String {
    let given = recipient.given.as_ref().map(|given| format!(" (given as {given})")).unwrap_or_default();
    let ended = matches!(recipient.state.as_str(), "delivered" | "failed");
    let next = recipient.next_attempt.filter(|_| !ended).map(|time| output::future(time, now));
    let state = look.paint(&recipient.state);
    let mut text = format!("\n{}{}: {state}\n", output::clean(&recipient.address), output::clean(&given));
    text += &output::pairs(
        "  ",
        [
            ("destination", Some(recipient.destination.clone())),
            ("attempts", Some(recipient.attempts.to_string())),
            ("last attempt", recipient.last_attempt.map(|time| output::past(time, now))),
            ("next attempt", next),
            ("expires", (!ended).then(|| output::future(message.expires, now))),
            ("last host", recipient.host.clone()),
            ("code", recipient.status.clone()),
            ("text", recipient.text.as_ref().map(|text| text.replace("\r\n", "\n").replace('\n', " / "))),
            ("tls", recipient.tls.clone()),
        ],
    );
    text
}

async fn cat(session: &mut Session, options: &CatOptions) -> Result<Exit, Failure> {
    let part = match (options.headers, options.body) {
        (true, _) => Part::Headers,
        (_, true) => Part::Body,
        (false, false) => Part::Raw,
    };
    let id = &options.message.id;
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::Usage(format!("{id:?} is not a queue id")));
    }
    let path = format!("/v1/queue/cat?id={id}&part={}", part.as_str());
    let client = session.client()?;
    client.stream(&path, |piece| session.out.octets(piece)).await?;
    Ok(Exit::Done)
}

/// How many messages a question shows.
const SAMPLES: usize = 5;

async fn change(
    session: &mut Session,
    verb: &str,
    options: &ChangeOptions,
    reason: Option<String>,
    spread: Option<u64>,
) -> Result<Exit, Failure> {
    let mut request = ChangeRequest { reason, spread, ..options.request(verb)? };
    if !options.yes && !options.dry_run && !confirmed(session, verb, &mut request).await? {
        return Err(Failure::Finding("nothing was changed".to_owned()));
    }
    let changed: Changed = session.client()?.post(&format!("/v1/queue/{verb}"), &request).await?;
    session.out.answer(&changed, |changed, _| change_text(verb, changed))?;
    Ok(change_exit(&changed))
}

/// Copies the messages first, and removes only what was copied: what arrives meanwhile is not meant.
async fn drop_exported(session: &mut Session, drop: FinalChange, directory: &Path) -> Result<Exit, Failure> {
    let options = &drop.change;
    let mut request = ChangeRequest { reason: Some(drop.reason), ..options.request("drop")? };
    if !options.yes && !options.dry_run && !confirmed(session, "drop", &mut request).await? {
        return Err(Failure::Finding("nothing was changed".to_owned()));
    }
    let client = session.client()?;
    // Also for its fuse: nothing is copied that could not be removed.
    let dry = ChangeRequest { dry_run: true, ..request.clone() };
    let found: Changed = client.post("/v1/queue/drop", &dry).await?;
    let mut total = Changed { dry_run: options.dry_run, change: Change::default() };
    total.change.matched = found.change.matched;
    if !options.dry_run {
        let moved = transfer::export_to(&client, request.filter.clone(), directory).await?;
        total.change.skipped = moved.skipped;
        for ids in moved.done.chunks(DROPPED_AT_ONCE) {
            let filter = Filter { ids: ids.to_vec(), ..Filter::default() };
            let request = ChangeRequest { filter, ..request.clone() };
            let dropped: Changed = client.post("/v1/queue/drop", &request).await?;
            total.change.changed += dropped.change.changed;
            total.change.skipped.extend(dropped.change.skipped);
        }
    }
    session.out.answer(&total, |total, _| change_text("drop", total))?;
    Ok(change_exit(&total))
}

/// Messages that one request names.
const DROPPED_AT_ONCE: usize = 500;

/// Asks about more than one message. The request is narrowed to messages that were there when they were counted: what
/// arrives while somebody thinks is not meant.
async fn confirmed(session: &Session, verb: &str, request: &mut ChangeRequest) -> Result<bool, Failure> {
    let counted_at = Instant::now();
    let dry = ChangeRequest { dry_run: true, ..request.clone() };
    let found: Changed = session.client()?.post(&format!("/v1/queue/{verb}"), &dry).await?;
    let matched = found.change.matched;
    let is_agreed = agreed(session, verb, matched, &request.filter).await?;
    if matched > 1 {
        let passed = (counted_at.elapsed() + Duration::from_secs(1)).as_secs();
        request.filter.older = request.filter.older.max(Some(passed));
    }
    Ok(is_agreed)
}

/// Asks about more than one message, with a few of them shown.
///
/// # Errors
/// [`Failure`]; also when there is no terminal to ask on.
pub(crate) async fn agreed(
    session: &Session,
    verb: &str,
    matched: usize,
    filter: &Filter,
) -> Result<bool, Failure> {
    if matched <= 1 {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "{matched} messages match: without a terminal to ask on, say --yes"
        )));
    }
    let filter = filter.clone();
    let sample = ListRequest { filter, sort: Sort::Age, limit: Some(SAMPLES), cursor: None };
    let sample: List = session.client()?.post("/v1/queue/list", &sample).await?;
    session.note(&format!(
        "{matched} messages match, such as\n{}",
        list_text(&sample.messages, session.now, Look::PLAIN)
    ));
    session.note(&format!("{verb} all {matched}? [y/N]"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// What was changed, and what was not and why.
pub(crate) fn change_text(verb: &str, changed: &Changed) -> String {
    let change = &changed.change;
    let matched = output::counted(change.matched, "message");
    if changed.dry_run {
        return format!("{verb}: {matched} matched, nothing was changed (dry run)\n");
    }
    let mut text =
        format!("{verb}: {matched} matched, {} changed, {} skipped\n", change.changed, change.skipped.len());
    for (id, reason) in &change.skipped {
        let _ = writeln!(text, "  skipped {id}: {}", output::clean(reason));
    }
    text
}

fn change_exit(changed: &Changed) -> Exit {
    let change = &changed.change;
    if change.matched == 0 {
        return Exit::Finding;
    }
    if changed.dry_run || change.changed == change.matched && change.skipped.is_empty() {
        return Exit::Done;
    }
    Exit::Partial
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::UNIX_EPOCH;

    use postern_admin::api::Group;

    use super::*;

    const ACCEPTED: u64 = 1_795_284_325;

    pub(crate) fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(ACCEPTED + 7500)
    }

    pub(crate) fn recipient(address: &str) -> RecipientView {
        RecipientView {
            address: address.to_owned(),
            given: None,
            state: "ready".to_owned(),
            destination: "mx adatum.test".to_owned(),
            attempts: 0,
            last_attempt: None,
            next_attempt: None,
            status: None,
            text: None,
            host: None,
            tls: None,
        }
    }

    pub(crate) fn deferred() -> RecipientView {
        RecipientView {
            given: Some("info@proseware.test".to_owned()),
            state: "deferred".to_owned(),
            attempts: 3,
            last_attempt: Some(ACCEPTED + 7200),
            next_attempt: Some(ACCEPTED + 8100),
            status: Some("4.7.1".to_owned()),
            text: Some("451-4.7.1 slow\r\n451 4.7.1 down\u{1b}".to_owned()),
            host: Some("mx1.adatum.test [192.0.2.25]:25".to_owned()),
            tls: Some("TLSv1.3 unverified".to_owned()),
            ..recipient("bob@adatum.test")
        }
    }

    pub(crate) fn message(state: &str, recipients: Vec<RecipientView>) -> MessageView {
        MessageView {
            id: "01N2K3P4Q5R6S".to_owned(),
            state: state.to_owned(),
            held: None,
            received: ACCEPTED,
            expires: ACCEPTED + 432_000,
            size: 12_595,
            sender: "alice@proseware.test".to_owned(),
            origin: "login alice".to_owned(),
            client: Some("192.0.2.7".to_owned()),
            message_id: Some("x@proseware.test".to_owned()),
            recipients,
        }
    }

    #[test]
    fn list_for_programs() {
        let messages = vec![message("ready", vec![recipient("bob@adatum.test")])];
        let list = List { messages, more: true, cursor: Some("1-2".to_owned()) };
        let expected = concat!(
            r#"{"version":1,"messages":[{"id":"01N2K3P4Q5R6S","state":"ready","held":null,"#,
            r#""received":1795284325,"expires":1795716325,"size":12595,"sender":"alice@proseware.test","#,
            r#""origin":"login alice","client":"192.0.2.7","message_id":"x@proseware.test","#,
            r#""recipients":[{"address":"bob@adatum.test","given":null,"state":"ready","#,
            r#""destination":"mx adatum.test","attempts":0,"last_attempt":null,"next_attempt":null,"#,
            r#""status":null,"text":null,"host":null,"tls":null}]}],"more":true,"cursor":"1-2"}"#
        );
        assert_eq!(output::json(&list).unwrap(), expected);
    }

    #[test]
    fn show_tells_the_whole_story_of_each_recipient() {
        let held =
            MessageView { held: Some("waits for alice".to_owned()), ..message("held", vec![deferred()]) };
        let expected = "\
message     01N2K3P4Q5R6S
state       held (waits for alice)
accepted    2026-11-21T18:05:25Z (2h5m ago)
expires     2026-11-26T18:05:25Z (in 4d21h), also while it is held
schedule    no attempt and no notice of delay while it is held; `queue release` makes it due at once
size        12.3 KiB
sender      <alice@proseware.test>
right       login alice (logged in)
client      192.0.2.7
message-id  x@proseware.test

bob@adatum.test (given as info@proseware.test): deferred
  destination   mx adatum.test
  attempts      3
  last attempt  2026-11-21T20:05:25Z (5m ago)
  next attempt  2026-11-21T20:20:25Z (in 10m)
  expires       2026-11-26T18:05:25Z (in 4d21h)
  last host     mx1.adatum.test [192.0.2.25]:25
  code          4.7.1
  text          451-4.7.1 slow / 451 4.7.1 down?
  tls           TLSv1.3 unverified
";
        assert_eq!(show_text(&held, now(), Look::PLAIN), expected);
    }

    #[test]
    fn counts_are_ordered_by_size_and_add_up() {
        let group = |key: &str, messages| Group {
            key: key.to_owned(),
            messages,
            recipients: 2 * messages,
            octets: 1024,
            rests_until: None,
        };
        let counts = Counts { groups: vec![group("a.test", 1), group("b.test", 12), group("", 1)] };
        let expected = "\
MESSAGES  RECIPIENTS  SIZE     GROUP
12        24          1.0 KiB  b.test
1         2           1.0 KiB  -
1         2           1.0 KiB  a.test
";
        assert_eq!(count_text(&counts, Look::PLAIN), expected);
        assert_eq!(
            output::json(&total(&counts)).unwrap(),
            r#"{"version":1,"messages":14,"recipients":28,"octets":3072}"#
        );
    }

    fn changed(dry_run: bool, matched: usize, changed: usize, skipped: usize) -> Changed {
        let skipped = vec![("01N2K3P4Q5R6S".to_owned(), "in-flight".to_owned()); skipped];
        Changed { dry_run, change: Change { matched, changed, skipped } }
    }

    #[test]
    fn a_change_says_what_was_skipped_and_ends_with_three() {
        assert_eq!(
            change_text("drop", &changed(false, 2, 1, 1)),
            "drop: 2 messages matched, 1 changed, 1 skipped\n  skipped 01N2K3P4Q5R6S: in-flight\n"
        );
        assert_eq!(change_exit(&changed(false, 2, 1, 1)), Exit::Partial);
        assert_eq!(change_exit(&changed(false, 1, 0, 1)), Exit::Partial);
        assert_eq!(change_exit(&changed(false, 2, 2, 0)), Exit::Done);
        assert_eq!(change_exit(&changed(false, 0, 0, 0)), Exit::Finding);
    }

    #[test]
    fn a_dry_run_says_so() {
        let dry = changed(true, 7, 0, 0);
        assert_eq!(change_text("fail", &dry), "fail: 7 messages matched, nothing was changed (dry run)\n");
        assert_eq!(change_exit(&dry), Exit::Done);
        let json = r#"{"version":1,"dry_run":true,"matched":7,"changed":0,"skipped":[]}"#;
        assert_eq!(output::json(&dry).unwrap(), json);
    }
}
