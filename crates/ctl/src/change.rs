//! The verbs of `queue` that change messages: which ones, are you sure, and what came of it.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use postern_admin::api::{
    Change, ChangeRequest, Changed, Filter, InFlight, List, ListRequest, MAX_WAIT, Sort,
};

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::list::list_text;
use crate::output::{self, Look};
use crate::transfer;
use crate::when::{When, time, when};

/// Options of every verb that changes messages.
#[derive(Debug, Args)]
pub struct ChangeOptions {
    /// Do not ask; needed by scripts when more than one message matches.
    #[arg(long, short)]
    yes: bool,
    /// Only say how many messages match.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Change nothing if more messages than this match; 1000 unless --all is given.
    #[arg(long, value_name = "NUMBER")]
    max: Option<usize>,
    #[command(flatten)]
    pub(crate) filter: FilterOptions,
}

/// For how long an answer waits.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitOption {
    /// Wait up to so many seconds, at most 100, for the ends of attempts under way, to say what became of them.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=MAX_WAIT))]
    pub wait: Option<u64>,
}

impl ChangeOptions {
    /// The request, without what is particular to a verb.
    ///
    /// # Errors
    /// [`Failure::Usage`] when no message is named.
    pub(crate) fn request(&self, verb: &str) -> Result<ChangeRequest, Failure> {
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
pub struct HoldChange {
    /// Why; `queue show` says it.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// End the hold then by itself: a duration such as `2h`, or a time such as `2026-11-21T18:05:25Z`.
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<When>,
    #[command(flatten)]
    wait: WaitOption,
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
    wait: WaitOption,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `retry`.
#[derive(Debug, Args)]
pub struct RetryChange {
    /// Try at this time, such as `2026-11-21T18:05:25Z`, also if the schedule has an earlier one.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["delay", "ignore_breaker"])]
    at: Option<u64>,
    /// The same, in so long: `30m`.
    #[arg(long = "in", value_name = "DURATION", value_parser = filter::seconds, conflicts_with = "ignore_breaker")]
    delay: Option<u64>,
    /// Begin the back-off anew, as if the recipients had not been tried.
    #[arg(long)]
    reset_backoff: bool,
    /// Try destinations that rest as well, at once.
    #[arg(long)]
    ignore_breaker: bool,
    #[command(flatten)]
    spread: SpreadOption,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Over how long messages become due.
#[derive(Debug, Args)]
pub struct SpreadOption {
    /// Spread the attempts over this time, such as `10m`. By default one second for 20 messages, at most ten minutes.
    #[arg(long, value_name = "DURATION", value_parser = filter::seconds)]
    spread: Option<u64>,
}

/// Options of `reroute`.
#[derive(Debug, Args)]
pub struct RerouteChange {
    /// The way: `mx`, `mx DOMAIN`, `smarthost HOST[:PORT] [tls may|encrypt|verify|implicit]`, `lmtp HOST:PORT`, `lmtp /PATH`, a
    /// smarthost or LMTP server of the configuration as `queue show` names it, or `none` for what the configuration says.
    #[arg(long, value_name = "ROUTE")]
    via: String,
    /// Why; it stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    spread: SpreadOption,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `requeue`.
#[derive(Debug, Args)]
pub struct RequeueChange {
    /// Begin the back-off anew, as if the recipients had not been tried.
    #[arg(long)]
    reset_backoff: bool,
    /// Why; it stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    spread: SpreadOption,
    #[command(flatten)]
    change: ChangeOptions,
}

impl HoldChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let until = self.until.map(|until| until.seconds(session.now));
        let wait = self.wait.wait;
        let request = ChangeRequest { reason: self.reason, until, wait, ..self.change.request("hold")? };
        change(session, "hold", &self.change, request).await
    }
}

impl PlainChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let request = self.change.request("release")?;
        change(session, "release", &self.change, request).await
    }
}

impl RetryChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let request = ChangeRequest {
            at: self.at,
            delay: self.delay,
            spread: self.spread.spread,
            reset_backoff: self.reset_backoff,
            ignore_breaker: self.ignore_breaker,
            ..self.change.request("retry")?
        };
        change(session, "retry", &self.change, request).await
    }
}

impl FinalChange {
    /// Fails.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn fail(self, session: &mut Session) -> Result<Exit, Failure> {
        let wait = self.wait.wait;
        let request = ChangeRequest { reason: Some(self.reason), wait, ..self.change.request("fail")? };
        change(session, "fail", &self.change, request).await
    }
}

impl DropChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let FinalChange { reason, wait, change: options } = self.change;
        let request = ChangeRequest { reason: Some(reason), wait: wait.wait, ..options.request("drop")? };
        match self.export {
            None => change(session, "drop", &options, request).await,
            Some(directory) => drop_exported(session, &options, request, &directory).await,
        }
    }
}

impl RerouteChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let request = ChangeRequest {
            via: Some(self.via),
            reason: self.reason,
            spread: self.spread.spread,
            ..self.change.request("reroute")?
        };
        change(session, "reroute", &self.change, request).await
    }
}

impl RequeueChange {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let request = ChangeRequest {
            reason: self.reason,
            spread: self.spread.spread,
            reset_backoff: self.reset_backoff,
            ..self.change.request("requeue")?
        };
        change(session, "requeue", &self.change, request).await
    }
}

/// How many messages a question shows.
const SAMPLES: usize = 5;

/// Asks about more than one message, changes, and says what was done.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn change(
    session: &mut Session,
    verb: &str,
    options: &ChangeOptions,
    mut request: ChangeRequest,
) -> Result<Exit, Failure> {
    if !options.yes && !options.dry_run && !confirmed(session, verb, &mut request).await? {
        return Err(Failure::Finding("nothing was changed".to_owned()));
    }
    let changed: Changed = session.client()?.post(&format!("/v1/queue/{verb}"), &request).await?;
    told(session, verb, &changed)
}

/// Says what was done.
///
/// # Errors
/// When standard output is closed or full.
pub fn told(session: &mut Session, verb: &str, changed: &Changed) -> Result<Exit, Failure> {
    session.out.answer(changed, |changed, _| change_text(verb, changed))?;
    if !session.out.json {
        changed.warnings.iter().for_each(|warning| session.note(&format!("warning: {warning}")));
    }
    Ok(change_exit(changed))
}

/// Copies the messages first, and removes only what was copied: what arrives meanwhile is not meant.
async fn drop_exported(
    session: &mut Session,
    options: &ChangeOptions,
    mut request: ChangeRequest,
    directory: &Path,
) -> Result<Exit, Failure> {
    if !options.yes && !options.dry_run && !confirmed(session, "drop", &mut request).await? {
        return Err(Failure::Finding("nothing was changed".to_owned()));
    }
    let client = session.client()?;
    // Also for its fuse: nothing is copied that could not be removed.
    let dry = ChangeRequest { dry_run: true, ..request.clone() };
    let found: Changed = client.post("/v1/queue/drop", &dry).await?;
    let change = Change { matched: found.change.matched, ..Change::default() };
    let mut total = Changed { dry_run: options.dry_run, change, warnings: Vec::new() };
    if !options.dry_run {
        let moved = transfer::export_to(&client, request.filter.clone(), directory).await?;
        total.change.skipped = moved.skipped;
        for ids in moved.done.chunks(DROPPED_AT_ONCE) {
            let filter = Filter { ids: ids.to_vec(), ..recipients_of(&request.filter) };
            let request = ChangeRequest { filter, ..request.clone() };
            let dropped: Changed = client.post("/v1/queue/drop", &request).await?;
            total.change.changed += dropped.change.changed;
            total.change.skipped.extend(dropped.change.skipped);
            total.change.in_flight.extend(dropped.change.in_flight);
        }
    }
    told(session, "drop", &total)
}

/// The conditions that name recipients: only these of a message are dropped.
fn recipients_of(filter: &Filter) -> Filter {
    let named = |filter: &Filter| Filter {
        rcpt: filter.rcpt.clone(),
        rcpt_domain: filter.rcpt_domain.clone(),
        destination: filter.destination.clone(),
        ..Filter::default()
    };
    let also = filter.also.iter().map(named).filter(|filter| *filter != Filter::default());
    Filter { also: also.collect(), ..named(filter) }
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
    found.warnings.iter().for_each(|warning| session.note(&format!("warning: {warning}")));
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
    change.in_flight.iter().for_each(|message| text += &in_flight_text(verb, message));
    text
}

/// What is known of recipients that were being delivered.
fn in_flight_text(verb: &str, message: &InFlight) -> String {
    let InFlight { id, recipients, open, delivered } = message;
    let recipients = output::counted(*recipients, "recipient");
    let mut facts = Vec::new();
    if *open > 0 {
        facts.push(format!(
            "{open} still being delivered: {verb} counts when the attempt ends without delivery"
        ));
    }
    if *delivered > 0 {
        facts.push(format!("{delivered} delivered meanwhile"));
    }
    if facts.is_empty() {
        facts.push("the attempt ended without delivery".to_owned());
    }
    format!("  in-flight {id}: {recipients}, {}\n", facts.join(", "))
}

fn change_exit(changed: &Changed) -> Exit {
    let change = &changed.change;
    if change.matched == 0 {
        return Exit::Finding;
    }
    let is_open = change.in_flight.iter().any(|message| message.open > 0);
    let is_whole = change.changed == change.matched && change.skipped.is_empty() && !is_open;
    if changed.dry_run || is_whole { Exit::Done } else { Exit::Partial }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn changed(dry_run: bool, matched: usize, changed: usize, skipped: usize) -> Changed {
        let skipped = vec![("01N2K3P4Q5R6S".to_owned(), "in-flight".to_owned()); skipped];
        let change = Change { matched, changed, skipped, ..Change::default() };
        Changed { dry_run, change, warnings: Vec::new() }
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

    #[test]
    fn what_is_in_flight_is_said_and_no_whole_success() {
        let mut some = changed(false, 2, 2, 0);
        let in_flight =
            |open, delivered| InFlight { id: "01N2K3P4Q5R6S".to_owned(), recipients: 2, open, delivered };
        some.change.in_flight = vec![in_flight(1, 1), in_flight(0, 0)];
        let expected = "\
drop: 2 messages matched, 2 changed, 0 skipped
  in-flight 01N2K3P4Q5R6S: 2 recipients, 1 still being delivered: drop counts when the attempt ends without delivery, 1 delivered meanwhile
  in-flight 01N2K3P4Q5R6S: 2 recipients, the attempt ended without delivery
";
        assert_eq!(change_text("drop", &some), expected);
        assert_eq!(change_exit(&some), Exit::Partial);
        some.change.in_flight = vec![in_flight(0, 1)];
        assert_eq!(change_exit(&some), Exit::Done);
    }

    #[test]
    fn a_drop_after_an_export_names_the_same_recipients() {
        let rcpt = |text: &str| Filter { rcpt: Some(text.to_owned()), ..Filter::default() };
        let filter = Filter {
            state: Some("deferred".to_owned()),
            also: vec![rcpt("bob@adatum.test"), Filter { dsn: true, ..Filter::default() }],
            ..rcpt("carol@adatum.test")
        };
        let expected = Filter { also: vec![rcpt("bob@adatum.test")], ..rcpt("carol@adatum.test") };
        assert_eq!(recipients_of(&filter), expected);
    }
}
