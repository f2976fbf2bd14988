//! `queue`: see and change the messages that wait.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use postern_admin::api::{
    AttemptView, CountRequest, Counts, GroupBy, MessageView, Part, RecipientView, ShowRequest, Shown,
};
use serde::Serialize;

use crate::Session;
use crate::change::{
    DropChange, FinalChange, HoldChange, PlainChange, RequeueChange, RerouteChange, RetryChange,
};
use crate::edit::EditOptions;
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::list::{self, ListOptions};
use crate::output::{self, Look};
use crate::shape::{self, ShapeOptions};
use crate::top::{self, TopOptions};
use crate::transfer::{self, ExportOptions, ImportOptions};
use crate::watch::{self, WatchOptions};

const FILTER_EXAMPLES: &str = "\
Examples:
  posternctl queue hold 0BZ3K7QW2M4XA
  posternctl queue retry --rcpt-domain adatum.test --code 4.7. --spread 10m
  posternctl queue hold --header 'Subject=(?i)invoice' --newer 1h --not --account bookkeeping
  posternctl queue fail --sender @proseware.test --older 2d --reason 'address list was wrong'
  posternctl queue list --dsn --jsonl | jq -r .id | posternctl queue drop --id - --reason backscatter --yes";

const EDIT_EXAMPLES: &str = "\
With an ID, --sender is the new sender; without one it is a condition, as for the other verbs.

Examples:
  posternctl queue edit 0BZ3K7QW2M4XA --add-rcpt carol@adatum.test --remove-rcpt carl@adatum.test
  posternctl queue edit 0BZ3K7QW2M4XA --sender alice@proseware.test --priority 5
  posternctl queue edit --sender news@proseware.test --rcpt-domain adatum.test --priority -9 --reason 'can wait'";

const REROUTE_EXAMPLES: &str = "\
Examples:
  posternctl queue reroute --destination adatum.test --via 'smarthost relay.proseware.test:587'
  posternctl queue reroute --destination 'smarthost relay.proseware.test:587' --via mx
  posternctl queue reroute --id 0BZ3K7QW2M4XA --via none";

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
    /// Watch what happens to messages, as it happens.
    Watch(WatchOptions),
    /// Show all that is known of a message.
    Show(Message),
    /// Print the content of a message.
    Cat(CatOptions),
    /// Keep messages back until they are released, or until a time. They still expire; a restart changes nothing.
    #[command(after_help = FILTER_EXAMPLES)]
    Hold(HoldChange),
    /// End a hold: the messages are due at once, or when their senders want them sent (FUTURERELEASE).
    Release(PlainChange),
    /// Try messages again before their time, or at another. What its sender wants sent later (FUTURERELEASE) goes before that
    /// time only if it is named by its id.
    Retry(RetryChange),
    /// End messages; the sender gets a report with the reason.
    #[command(after_help = FILTER_EXAMPLES)]
    Fail(FinalChange),
    /// Remove messages without telling anybody.
    #[command(after_help = FILTER_EXAMPLES)]
    Drop(DropChange),
    /// Change the envelope of a message: its sender, its recipients; or the priority of messages.
    #[command(after_help = EDIT_EXAMPLES)]
    Edit(EditOptions),
    /// Send messages another way: what waits for a smarthost that is down, for example.
    #[command(after_help = REROUTE_EXAMPLES)]
    Reroute(RerouteChange),
    /// Follow aliases again and forget routes chosen by hand, as the configuration in force says. What was delivered or given
    /// up stays so.
    Requeue(RequeueChange),
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
            Self::Watch(options) => watch::watch(session, &options).await,
            Self::Show(message) => show(session, &message).await,
            Self::Cat(options) => cat(session, &options).await,
            Self::Hold(hold) => hold.run(session).await,
            Self::Release(release) => release.run(session).await,
            Self::Retry(retry) => retry.run(session).await,
            Self::Fail(fail) => fail.fail(session).await,
            Self::Drop(drop) => drop.run(session).await,
            Self::Edit(edit) => edit.run(session).await,
            Self::Reroute(reroute) => reroute.run(session).await,
            Self::Requeue(requeue) => requeue.run(session).await,
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
            ("held until", message.held_until.map(|until| output::future(until, now))),
            ("accepted", Some(output::past(message.received, now))),
            ("expires", Some(expiry(message, now))),
            ("schedule", held_rule(message)),
            ("size", Some(output::size(message.size))),
            ("priority", (message.priority != 0).then(|| message.priority.to_string())),
            ("demands", (!message.terms.is_empty()).then(|| message.terms.join("; "))),
            ("sender", Some(format!("<{}>", message.sender))),
            ("right", Some(right(message))),
            ("client", message.client.clone()),
            ("forwarded", message.forwarded.as_ref().map(|from| format!("from {from}"))),
            ("message-id", message.message_id.clone()),
            ("attempt", message.attempt.as_ref().map(|attempt| attempt_text(attempt, now))),
        ],
    );
    for recipient in &message.recipients {
        text += &recipient_text(recipient, message, now, look);
    }
    text
}

/// The attempt under way: since when, and how far it is.
pub(crate) fn attempt_text(attempt: &AttemptView, now: SystemTime) -> String {
    let AttemptView { destination, began, step, step_at, .. } = attempt;
    let (age, idle) = (output::age(*began, now), output::age(*step_at, now));
    format!("{destination}, for {age}; {step} {idle} ago")
}

/// Held or not, a message expires: nothing stays for ever.
fn expiry(message: &MessageView, now: SystemTime) -> String {
    let rule = if message.state == "held" { ", also while it is held" } else { "" };
    format!("{}{rule}", output::future(message.expires, now))
}

/// A hold stops the attempts and not the clock.
fn held_rule(message: &MessageView) -> Option<String> {
    let end = match message.held_until {
        Some(_) => "; it is due when the hold ends, and at once by `queue release`",
        None => "; `queue release` makes it due at once",
    };
    (message.state == "held").then(|| format!("no attempt and no notice of delay while it is held{end}"))
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
            ("route", recipient.via.as_ref().map(|via| format!("{via} (chosen by hand)"))),
            (
                "then",
                recipient.ending.as_ref().map(|ending| format!("{ending}, unless this attempt delivers it")),
            ),
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

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, UNIX_EPOCH};

    use postern_admin::api::{Group, List};

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
            via: None,
            ending: None,
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
            held_until: None,
            received: ACCEPTED,
            expires: ACCEPTED + 432_000,
            size: 12_595,
            priority: 0,
            terms: Vec::new(),
            sender: "alice@proseware.test".to_owned(),
            origin: "login alice".to_owned(),
            client: Some("192.0.2.7".to_owned()),
            forwarded: None,
            message_id: Some("x@proseware.test".to_owned()),
            attempt: None,
            recipients,
        }
    }

    #[test]
    fn list_for_programs() {
        let messages = vec![message("ready", vec![recipient("bob@adatum.test")])];
        let list = List { messages, more: true, cursor: Some("1-2".to_owned()) };
        let expected = concat!(
            r#"{"version":1,"messages":[{"id":"01N2K3P4Q5R6S","state":"ready","held":null,"#,
            r#""received":1795284325,"expires":1795716325,"size":12595,"priority":0,"sender":"alice@proseware.test","#,
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
    fn show_tells_how_far_an_attempt_is() {
        let attempt = AttemptView {
            id: "01N2K3P4Q5R6S".to_owned(),
            destination: "mx adatum.test".to_owned(),
            recipients: 1,
            began: ACCEPTED + 7200,
            step: "content sent".to_owned(),
            step_at: ACCEPTED + 7440,
        };
        let active = MessageView { attempt: Some(attempt), ..message("active", Vec::new()) };
        let text = show_text(&active, now(), Look::PLAIN);
        assert!(text.ends_with("attempt     mx adatum.test, for 5m; content sent 1m ago\n"), "{text}");
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
}
