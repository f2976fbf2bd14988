//! `queue top`: the server and its largest destinations, again and again.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use clap::Args;
use postern_admin::api::{CountRequest, Counts, Filter, Group, GroupBy, Status};
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter;
use crate::output::{self, Look};
use crate::queue::attempt_text;

/// Moves to the upper left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Options of `top`.
#[derive(Debug, Args)]
pub struct TopOptions {
    /// Show it once and end; so it does where the output is no terminal.
    #[arg(long)]
    once: bool,
    /// Time between two looks. Each counts the whole queue.
    #[arg(long, value_name = "DURATION", value_parser = filter::seconds, default_value = "5s")]
    interval: u64,
    /// How many destinations.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Top {
    #[serde(flatten)]
    status: Status,
    /// Those with the most messages.
    destinations: Vec<Group>,
}

/// Shows the queue until it is interrupted.
///
/// # Errors
/// [`Failure`].
pub async fn top(session: &mut Session, options: &TopOptions) -> Result<Exit, Failure> {
    let client = session.client()?;
    let is_once = options.once || session.out.json || session.out.look.width.is_none();
    loop {
        let status: Status = client.get("/v1/status").await?;
        let request = CountRequest { filter: Filter::default(), by: GroupBy::Destination };
        let counts: Counts = client.post("/v1/queue/count", &request).await?;
        let mut destinations = counts.groups;
        destinations.truncate(options.limit);
        let is_well = status.health.ok;
        if !is_once {
            session.out.text(CLEAR)?;
        }
        let now = SystemTime::now();
        session.out.answer(&Top { status, destinations }, |top, look| top_text(top, now, look))?;
        session.out.flush()?;
        if is_once {
            return Ok(if is_well { Exit::Done } else { Exit::Finding });
        }
        tokio::time::sleep(Duration::from_secs(options.interval.max(1))).await;
    }
}

fn top_text(top: &Top, now: SystemTime, look: Look) -> String {
    let status = &top.status;
    let queue = &status.queue;
    let health = if status.health.ok { "ok".to_owned() } else { status.health.reasons.join("; ") };
    let oldest =
        queue.oldest.map_or_else(|| "-".to_owned(), |age| output::duration(Duration::from_secs(age)));
    let mut text = format!(
        "{}  up {}  {}\n{} messages: {} ready, {} active, {} deferred, {} held  {}  oldest {oldest}\n\n",
        output::clean(&status.hostname),
        output::age(status.started, now),
        output::clean(&health),
        queue.messages,
        queue.ready,
        queue.active,
        queue.deferred,
        queue.held,
        output::size(queue.octets),
    );
    if let Some(attempt) = &queue.oldest_attempt {
        let _ =
            writeln!(text, "oldest attempt: {} {}\n", attempt.id, output::clean(&attempt_text(attempt, now)));
    }
    let rows = top.destinations.iter().map(|group| {
        let rests = group.rests_until.map_or_else(|| "-".to_owned(), |until| output::until(until, now));
        let size = output::size(group.octets);
        vec![group.messages.to_string(), group.recipients.to_string(), size, rests, group.key.clone()]
    });
    text += &output::table(&["MESSAGES", "RECIPIENTS", "SIZE", "RESTS UNTIL", "DESTINATION"], rows, look);
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use postern_admin::api::{AttemptView, Health, Summary};

    use super::*;

    #[test]
    fn top_shows_the_queue_and_its_destinations() {
        let queue = Summary {
            messages: 12,
            ready: 1,
            active: 2,
            deferred: 9,
            held: 0,
            octets: 12_595,
            oldest: Some(7500),
            store_error: None,
            damaged: 0,
            oldest_attempt: Some(AttemptView {
                id: "01N2K3P4Q5R6S".to_owned(),
                destination: "mx adatum.test".to_owned(),
                recipients: 7,
                began: 1000,
                step: "EHLO sent".to_owned(),
                step_at: 1050,
            }),
        };
        let status = Status {
            release: "0.1.0".to_owned(),
            pid: 1,
            hostname: "mail.proseware.test".to_owned(),
            configuration: String::new(),
            started: 1000,
            listeners: Vec::new(),
            loading: None,
            queue,
            health: Health { ok: true, reasons: Vec::new() },
            warnings: Vec::new(),
            rules: Default::default(),
            smtp: Default::default(),
            dns: None,
        };
        let group = |key: &str, rests_until| Group {
            key: key.to_owned(),
            messages: 6,
            recipients: 7,
            octets: 2048,
            rests_until,
        };
        let destinations = vec![group("mx adatum.test", Some(1120)), group("local", None)];
        let now = UNIX_EPOCH + Duration::from_secs(1060);
        let expected = "\
mail.proseware.test  up 1m  ok
12 messages: 1 ready, 2 active, 9 deferred, 0 held  12.3 KiB  oldest 2h5m

oldest attempt: 01N2K3P4Q5R6S mx adatum.test, for 1m; EHLO sent 10s ago

MESSAGES  RECIPIENTS  SIZE     RESTS UNTIL  DESTINATION
6         7           2.0 KiB  in 1m        mx adatum.test
6         7           2.0 KiB  -            local
";
        assert_eq!(top_text(&Top { status, destinations }, now, Look::PLAIN), expected);
    }
}
