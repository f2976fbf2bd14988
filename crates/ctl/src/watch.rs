//! `queue watch`: what happens, as it happens.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use postern_admin::api::VERSION;
use postern_admin::api::history::{EventFilter, EventKind, EventView, Missed, WatchRequest};
use postern_config::units::parse_duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Session;
use crate::event;
use crate::failure::{Exit, Failure};

/// Longer than anybody watches: no timer takes all durations.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Options of `watch`.
#[derive(Debug, Args)]
pub struct WatchOptions {
    /// Print one JSON object a line; --json does the same.
    #[arg(long)]
    jsonl: bool,
    /// End after so many events.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, with 1 if there was no event, or fewer than --count.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    filter: WatchFilter,
}

/// Which events. All conditions that are given must hold.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
struct WatchFilter {
    /// Messages with these queue ids, and the reports about them.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The same as an option.
    #[arg(long = "id", value_name = "ID")]
    more_ids: Vec<String>,
    /// What happened; several with commas between them.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = kinds())]
    kinds: Vec<EventKind>,
    /// Envelope sender: an address, `@domain`, or `<>` for the null sender.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// A recipient: an address or `@domain`.
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Option<String>,
    /// The domain of a recipient.
    #[arg(long, value_name = "DOMAIN")]
    rcpt_domain: Option<String>,
    /// The login that a message came from.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The address that a message came from.
    #[arg(long, visible_alias = "client", value_name = "IP")]
    client_ip: Option<String>,
    /// How the enhanced code or reply code begins, such as `4.7.`.
    #[arg(long, value_name = "PREFIX")]
    code: Option<String>,
}

fn kinds() -> impl TypedValueParser<Value = EventKind> {
    let words = PossibleValuesParser::new(EventKind::ALL.map(EventKind::as_str));
    words.map(|word| {
        let kind = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        // The parser has let nothing else through.
        kind.unwrap_or(EventKind::Accepted)
    })
}

impl WatchFilter {
    fn filter(&self) -> EventFilter {
        EventFilter {
            ids: self.ids.iter().chain(&self.more_ids).cloned().collect(),
            kinds: self.kinds.clone(),
            sender: self.sender.clone(),
            rcpt: self.rcpt.clone(),
            rcpt_domain: self.rcpt_domain.clone(),
            account: self.account.clone(),
            client_ip: self.client_ip.clone(),
            code: self.code.clone(),
        }
    }
}

/// Shows events until there were enough, the time is over, or Ctrl-C.
///
/// # Errors
/// [`Failure`].
pub async fn watch(session: &mut Session, options: &WatchOptions) -> Result<Exit, Failure> {
    let is_json = options.jsonl || session.out.json;
    let request = WatchRequest { filter: options.filter.filter() };
    // Before anybody is told that Ctrl-C ends it.
    let mut interrupts = signal(SignalKind::interrupt())?;
    // From here on nothing is missed.
    let mut lines = session.client()?.follow("/v1/queue/watch", &request).await?;
    if !is_json {
        session.note("watching; Ctrl-C ends it");
    }
    let end = sleep_until(Instant::now() + options.timeout.unwrap_or(FOR_EVER).min(FOR_EVER));
    let reader_gone = reader_gone();
    tokio::pin!(end, reader_gone);
    let mut seen = 0;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            () = &mut end => {
                let is_enough = options.count.is_none() && seen > 0;
                return Ok(if is_enough { Exit::Done } else { Exit::Finding });
            }
            () = &mut reader_gone => return Ok(Exit::Done),
            _ = interrupts.recv() => return Ok(Exit::Done),
        };
        let Some(line) = line else {
            session.note("the daemon has ended it: it stops");
            return Ok(Exit::Unreachable);
        };
        if line.is_empty() {
            continue;
        }
        seen += u64::from(show(session, &line, is_json)?);
        session.out.flush()?;
        if options.count.is_some_and(|count| seen >= count) {
            return Ok(Exit::Done);
        }
    }
}

/// How often it is looked whether somebody reads.
const GLANCE: Duration = Duration::from_millis(500);

/// Ends when nobody reads standard output any more: also if nothing happens that could be written to it.
async fn reader_gone() {
    let output = std::io::stdout();
    loop {
        let mut seen = [PollFd::new(&output, PollFlags::empty())];
        // An error is told whether it is asked for or not; one of the question itself is told by the next line.
        let has_gone = poll(&mut seen, Some(&Timespec::default()))
            .is_ok_and(|found| found > 0 && seen[0].revents().intersects(PollFlags::ERR | PollFlags::HUP));
        if has_gone {
            return;
        }
        sleep(GLANCE).await;
    }
}

/// Shows one line; answers whether it is an event.
fn show(session: &mut Session, line: &str, is_json: bool) -> Result<bool, Failure> {
    let unknown =
        |error: serde_json::Error| Failure::Finding(format!("unexpected line from the daemon: {error}"));
    let value: Value = serde_json::from_str(line).map_err(unknown)?;
    if value["version"] != VERSION {
        let text =
            format!("the daemon speaks version {} and this program version {VERSION}", value["version"]);
        return Err(Failure::Finding(text));
    }
    let is_event = value.get("event").is_some();
    if is_json {
        session.out.text(format_args!("{line}\n"))?;
        return Ok(is_event);
    }
    if is_event {
        let event: EventView = serde_json::from_value(value).map_err(unknown)?;
        session.out.text(event::line(&event, &format!("{}  ", event.id)))?;
    } else {
        let Missed { missed } = serde_json::from_value(value).map_err(unknown)?;
        session.note(&format!("too slow: {missed} events were missed"));
    }
    Ok(is_event)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        watch: WatchOptions,
    }

    #[test]
    fn options_become_the_filter_of_the_queue() {
        let arguments = [
            "x",
            "0AB",
            "--id",
            "0CD",
            "--kind",
            "failed,deferred",
            "--kind",
            "gone",
            "--sender",
            "<>",
            "--client",
            "192.0.2.7",
            "--timeout",
            "1m",
        ];
        let line = Line::try_parse_from(arguments).unwrap();
        let expected = EventFilter {
            ids: vec!["0AB".to_owned(), "0CD".to_owned()],
            kinds: vec![EventKind::Failed, EventKind::Deferred, EventKind::Gone],
            sender: Some("<>".to_owned()),
            client_ip: Some("192.0.2.7".to_owned()),
            ..EventFilter::default()
        };
        assert_eq!(line.watch.filter.filter(), expected);
        assert_eq!(line.watch.timeout, Some(Duration::from_secs(60)));
        for wrong in [["--kind", "lost"], ["--count", "0"], ["--timeout", "soon"]] {
            assert!(Line::try_parse_from(["x"].iter().chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
