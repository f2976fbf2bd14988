//! `message history`: what became of a message.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use postern_admin::api::MessageView;
use postern_admin::api::history::{DEFAULT_STORIES, EventView, History, HistoryRequest, MAX_STORIES, Story};

use crate::Session;
use crate::audit::{self, Since};
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};
use crate::{config, event};

const EXAMPLES: &str = "\
Examples:
  posternctl message history 01N2K3P4Q5R6S
  posternctl message history bob@adatum.test --since 2d
  posternctl message history @adatum.test --since 2026-11-21T00:00:00Z --until 2026-11-22T00:00:00Z --limit 1000
  posternctl message history '<20261121180525.0A1B2C3D@proseware.test>' --json";

/// What can be asked about a message, whether it is still in the queue or not.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Tell what happened to messages: from the journal, and from the queue where they still are. Ends with 1 if nothing is
    /// known.
    #[command(after_help = EXAMPLES)]
    History(HistoryOptions),
}

/// Options of `history`.
#[derive(Debug, Args)]
pub struct HistoryOptions {
    /// A queue id (of a message, or of a report about it), a Message-ID, an address (of a sender or recipient) or a domain.
    #[arg(value_name = "KEY")]
    key: String,
    /// Messages to which something happened since then: an age such as `2d`, or a time such as `2026-11-21T18:05:25Z`.
    /// All that is known of them is shown.
    #[arg(long, value_name = "TIME", value_parser = audit::since)]
    since: Option<Since>,
    /// Messages to which something happened before.
    #[arg(long, value_name = "TIME", value_parser = audit::since)]
    until: Option<Since>,
    /// How many messages at most, the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_STORIES, value_parser = limit)]
    limit: usize,
    /// Print one JSON object a line, one for each message.
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    /// Read the files of the journal without the daemon; the queue is not looked at.
    #[arg(long)]
    offline: bool,
    /// The directory of these files, if another than the configuration names.
    #[arg(long, value_name = "DIR", requires = "offline")]
    directory: Option<PathBuf>,
}

fn limit(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_STORIES).contains(number));
    number.ok_or_else(|| format!("{text:?}: a number from 1 to {MAX_STORIES}"))
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let Self::History(options) = self;
        let history = options.ask(session).await?;
        if options.jsonl {
            for story in &history.messages {
                session.out.text(format_args!("{}\n", output::json(story)?))?;
            }
        } else {
            let (now, is_offline) = (session.now, options.offline);
            session.out.answer(&history, |history, look| history_text(history, is_offline, now, look))?;
        }
        if history.messages.is_empty() {
            session.note(&nothing(&options, &history, session.now));
            return Ok(Exit::Finding);
        }
        if history.more && !session.out.json {
            session.note("there are more messages: see --limit, --since and --until");
        }
        Ok(Exit::Done)
    }
}

impl HistoryOptions {
    async fn ask(&self, session: &Session) -> Result<History, Failure> {
        let seconds = |time: &Option<Since>| time.map(|time| time.seconds(session.now));
        let request = HistoryRequest {
            key: self.key.clone(),
            since: seconds(&self.since),
            until: seconds(&self.until),
            limit: Some(self.limit),
        };
        if !self.offline {
            return Ok(session.client()?.post("/v1/message/history", &request).await?);
        }
        let folder = match &self.directory {
            Some(folder) => folder.clone(),
            None => config::load(&session.global.config)?.config.queue.history_path(),
        };
        // A folder that is not there is an empty journal to the daemon, and a typing error here.
        std::fs::read_dir(&folder).map_err(|error| {
            Failure::Other(anyhow::Error::from(error).context(folder.display().to_string()))
        })?;
        postern_admin::history::offline(&folder, request).map_err(|error| match error {
            postern_admin::history::HistoryError::Key(_) => Failure::Usage(error.to_string()),
            postern_admin::history::HistoryError::Io(error) => Failure::Io(error),
        })
    }
}

/// Why nothing was found, as far as that is known.
fn nothing(options: &HistoryOptions, history: &History, now: SystemTime) -> String {
    let reach = match (history.enabled, history.reaches) {
        (Some(false), None) => "no journal is kept (queue.history.enabled)".to_owned(),
        (_, None) => "the journal is empty".to_owned(),
        (enabled, Some(first)) => {
            let off = if enabled == Some(false) {
                "no new journal is kept, and the old one"
            } else {
                "the journal"
            };
            format!("{off} reaches back to {}", output::past(first / 1000, now))
        }
    };
    let queue = if options.offline { "the queue was not looked at" } else { "it is not in the queue" };
    let lost = match history.dropped {
        0 => String::new(),
        dropped => format!("; {dropped} events could not be kept since the daemon started, the log says why"),
    };
    format!("nothing is known of {}: {queue}, {reach}{lost}", output::clean(&options.key))
}

fn history_text(history: &History, is_offline: bool, now: SystemTime, look: Look) -> String {
    let stories = history.messages.iter().map(|story| story_text(story, is_offline, now, look));
    stories.collect::<Vec<_>>().join("\n")
}

fn story_text(story: &Story, is_offline: bool, now: SystemTime, look: Look) -> String {
    let origin = [story.origin.as_deref(), story.client.as_deref()];
    let origin: Vec<&str> = origin.into_iter().flatten().collect();
    let origin = if origin.is_empty() { String::new() } else { format!(" ({})", origin.join(", ")) };
    let state = match &story.queued {
        Some(message) => Some(queued(message)),
        None if is_offline => None,
        None => Some("has left the queue".to_owned()),
    };
    let mut text = output::pairs(
        "",
        [
            ("message", Some(story.id.clone())),
            ("report", story.about.as_ref().map(|id| format!("about {id}"))),
            ("accepted", story.accepted.map(|time| output::past(time / 1000, now))),
            ("sender", Some(format!("<{}>{origin}", story.sender))),
            ("forwarded", story.forwarded.as_ref().map(|from| format!("from {from}"))),
            ("message-id", story.message_id.clone()),
            ("size", story.size.map(output::size)),
            ("state", state),
        ],
    );
    if story.omitted > 0 {
        text += &format!("  {} earlier events are not shown\n", story.omitted);
    }
    story.events.iter().for_each(|event| text += &event_text(event, look));
    for recipient in story.queued.iter().flat_map(|message| &message.recipients) {
        if let Some(next) = recipient.next_attempt {
            let next = output::future(next, now);
            text += &format!("  {} is tried next {next}\n", output::clean(&recipient.address));
        }
    }
    text
}

fn queued(message: &MessageView) -> String {
    match &message.held {
        Some(reason) if !reason.is_empty() => format!("in the queue, {} ({reason})", message.state),
        _ => format!("in the queue, {}", message.state),
    }
}

fn event_text(event: &EventView, look: Look) -> String {
    let line = event::line(event, "");
    let kind = event.event.as_str();
    // The word stands behind the time, and nothing before it is like it.
    format!("  {}", line.replacen(kind, &look.paint(kind), 1))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use postern_admin::api::history::EventKind;

    use super::*;
    use crate::event::tests::{delivered, event};
    use crate::queue::tests::{deferred, message};

    const ACCEPTED: u64 = 1_795_284_325;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(ACCEPTED + 7500)
    }

    fn story() -> Story {
        Story {
            id: "01N2K3P4Q5R6S".to_owned(),
            accepted: Some(ACCEPTED * 1000),
            sender: "alice@proseware.test".to_owned(),
            message_id: Some("1@proseware.test".to_owned()),
            size: Some(4096),
            client: Some("192.0.2.7".to_owned()),
            forwarded: None,
            origin: Some("login alice".to_owned()),
            about: None,
            events: vec![
                EventView { reply: Some("451 4.3.0 later".to_owned()), ..event(EventKind::Deferred) },
                EventView { attempts: Some(2), delay: 600_000, time: (ACCEPTED + 600) * 1000, ..delivered() },
            ],
            omitted: 0,
            queued: None,
        }
    }

    #[test]
    fn a_story_says_what_happened_and_when() {
        let report = Story {
            id: "01N2K3P4Q5R7T".to_owned(),
            about: Some("01N2K3P4Q5R6S".to_owned()),
            sender: String::new(),
            accepted: None,
            message_id: None,
            size: None,
            client: None,
            forwarded: None,
            origin: None,
            events: Vec::new(),
            omitted: 7,
            queued: Some(message("deferred", vec![deferred()])),
        };
        let expected = "\
message     01N2K3P4Q5R6S
accepted    2026-11-21T18:05:25Z (2h5m ago)
sender      <alice@proseware.test> (login alice, 192.0.2.7)
message-id  1@proseware.test
size        4.0 KiB
state       has left the queue
  2026-11-21T18:05:25Z  deferred   bob@adatum.test: 451 4.3.0 later
  2026-11-21T18:15:25Z  delivered  bob@adatum.test to mx1.adatum.test [192.0.2.25]:25 (TLSv1.3 verified), attempt 2 after 10m: 250 2.0.0 Ok: queued as 12345

message  01N2K3P4Q5R7T
report   about 01N2K3P4Q5R6S
sender   <>
state    in the queue, deferred
  7 earlier events are not shown
  bob@adatum.test is tried next 2026-11-21T20:20:25Z (in 10m)
";
        let history = History { messages: vec![story(), report], ..History::default() };
        assert_eq!(history_text(&history, false, now(), Look::PLAIN), expected);
    }

    #[test]
    fn what_is_not_known_is_not_known_since_when() {
        let options = |offline| HistoryOptions {
            key: "bob@adatum.test".to_owned(),
            since: None,
            until: None,
            limit: 1,
            jsonl: false,
            offline,
            directory: None,
        };
        let history = History { enabled: Some(true), reaches: Some(ACCEPTED * 1000), ..History::default() };
        assert_eq!(
            nothing(&options(false), &history, now()),
            "nothing is known of bob@adatum.test: it is not in the queue, the journal reaches back to \
             2026-11-21T18:05:25Z (2h5m ago)"
        );
        let lost = History { dropped: 3, ..history };
        assert!(nothing(&options(false), &lost, now()).contains("3 events could not be kept"));
        let off = History { enabled: Some(false), ..History::default() };
        assert!(
            nothing(&options(false), &off, now()).ends_with("no journal is kept (queue.history.enabled)")
        );
        let empty = nothing(&options(true), &History::default(), now());
        assert!(empty.ends_with("the queue was not looked at, the journal is empty"), "{empty}");
    }

    #[test]
    fn a_history_for_programs() -> Result<(), std::io::Error> {
        let history = History { messages: vec![story()], enabled: Some(true), ..History::default() };
        let text = output::json(&history)?;
        let begins = concat!(
            r#"{"version":1,"messages":[{"id":"01N2K3P4Q5R6S","accepted":1795284325000,"#,
            r#""sender":"alice@proseware.test","message_id":"1@proseware.test","size":4096,"client":"192.0.2.7","#,
            r#""origin":"login alice","events":[{"time":1795284325123,"id":"01N2K3P4Q5R6S","event":"deferred","#,
            r#""sender":"alice@proseware.test","recipients":[{"address":"bob@adatum.test"}]"#,
        );
        assert!(text.starts_with(begins), "{text}");
        assert!(text.ends_with(r#""omitted":0}],"more":false,"enabled":true,"dropped":0}"#), "{text}");
        Ok(())
    }
}
