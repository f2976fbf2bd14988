//! `rule add`: a rule of each kind, and what it does to messages that are queued already.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use postern_admin::api::rules::{AddRule, RuleAction, RuleAdded};
use postern_admin::api::{Changed, Filter, MAX_WAIT};

use super::EXAMPLES;
use super::filter::RuleFilter;
use crate::Session;
use crate::change::{agreed, change_text};
use crate::failure::{Exit, Failure};
use crate::{filter, output};

/// What a rule does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Hold messages in the queue until they are released.
    #[command(after_help = EXAMPLES)]
    Hold(HoldOptions),
    /// Refuse recipients or messages in the SMTP session with 550 5.7.1.
    #[command(after_help = EXAMPLES)]
    Reject(RejectOptions),
    /// End messages of our own users with a report to the sender; refuse those of strangers.
    #[command(after_help = EXAMPLES)]
    Fail(FailOptions),
    /// Accept messages and throw them away, without telling anybody. Needs an end.
    #[command(after_help = EXAMPLES)]
    Drop(HoldOptions),
}

/// What every rule has.
#[derive(Debug, Args)]
pub struct Terms {
    /// Why, for operators: in the list, in the log, and at messages that are held.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, such as `2h`. Without an end the rule stays until it is removed.
    #[arg(long = "for", value_name = "DURATION", value_parser = filter::seconds, conflicts_with = "until")]
    duration: Option<u64>,
    /// Until when, such as `2026-11-21T18:05:25Z`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    /// Only say whether the rule could be added.
    #[arg(long)]
    dry_run: bool,
}

/// What is queued already.
#[derive(Debug, Args)]
pub struct Existing {
    /// Do it to messages too that are queued already.
    #[arg(long)]
    existing: bool,
    /// With --existing: do not ask; needed by scripts when more than one message matches.
    #[arg(long, short, requires = "existing")]
    yes: bool,
    /// With --existing: do nothing, and add no rule, if more messages than this match; 1000 unless --all is given.
    #[arg(long, value_name = "NUMBER", requires = "existing")]
    max: Option<usize>,
    /// With --existing: wait up to so many seconds, at most 100, for messages that are being delivered.
    #[arg(long, value_name = "SECONDS", requires = "existing", value_parser = clap::value_parser!(u64).range(..=MAX_WAIT))]
    wait: Option<u64>,
}

/// Options of `hold` and `drop`.
#[derive(Debug, Args)]
pub struct HoldOptions {
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    filter: RuleFilter,
}

/// Options of `reject`.
#[derive(Debug, Args)]
pub struct RejectOptions {
    /// What the client reads behind the code.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Answer 450 4.7.1: the client may come again later.
    #[arg(long)]
    temporary: bool,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    filter: RuleFilter,
}

/// Options of `fail`.
#[derive(Debug, Args)]
pub struct FailOptions {
    /// What the sender reads in the report, and a stranger's client behind the code.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    filter: RuleFilter,
}

impl Action {
    /// The request, and whether nobody is to be asked about queued messages.
    fn request(self) -> Result<(AddRule, bool), Failure> {
        let none = Existing { existing: false, yes: false, max: None, wait: None };
        let (action, terms, existing, filter, text, temporary) = match self {
            Self::Hold(HoldOptions { terms, existing, filter }) => {
                (RuleAction::Hold, terms, existing, filter, None, false)
            }
            Self::Drop(HoldOptions { terms, existing, filter }) => {
                (RuleAction::Drop, terms, existing, filter, None, false)
            }
            Self::Reject(RejectOptions { text, temporary, terms, filter }) => {
                (RuleAction::Reject, terms, none, filter, text, temporary)
            }
            Self::Fail(FailOptions { text, terms, existing, filter }) => {
                (RuleAction::Fail, terms, existing, filter, text, false)
            }
        };
        let all = filter.0.all;
        let filter = filter.0.filter()?;
        if filter == Filter::default() && !all {
            let action = action.as_str();
            return Err(Failure::Usage(format!(
                "rule add {action}: which messages? Give a filter, or --all (see `posternctl rule add {action} --help`)"
            )));
        }
        let request = AddRule {
            action,
            filter,
            all,
            reason: terms.reason,
            text,
            temporary,
            duration: terms.duration,
            until: terms.until,
            existing: existing.existing,
            max: existing.max,
            wait: existing.wait,
            dry_run: terms.dry_run,
        };
        Ok((request, existing.yes))
    }
}

pub(super) async fn add(session: &mut Session, action: Action) -> Result<Exit, Failure> {
    let (request, yes) = action.request()?;
    let client = session.client()?;
    if request.existing && !yes && !request.dry_run {
        let dry = AddRule { dry_run: true, ..request.clone() };
        let found: RuleAdded = client.post("/v1/rules/add", &dry).await?;
        let matched = found.existing.map_or(0, |change| change.matched);
        if !agreed(session, request.action.as_str(), matched, &request.filter).await? {
            return Err(Failure::Finding("nothing was changed".to_owned()));
        }
    }
    let added: RuleAdded = client.post("/v1/rules/add", &request).await?;
    let now = session.now;
    session.out.answer(&added, |added, _| added_text(&request, added, now))?;
    let is_partial = added.existing.is_some_and(|change| !change.skipped.is_empty());
    Ok(if is_partial { Exit::Partial } else { Exit::Done })
}

fn time(text: &str) -> Result<u64, String> {
    let usage = || format!("{text:?}: write a time such as 2026-11-21T18:05:25Z");
    let time = text.parse::<jiff::Timestamp>().map_err(|_| usage())?;
    u64::try_from(time.as_second()).map_err(|_| usage())
}

fn added_text(request: &AddRule, added: &RuleAdded, now: SystemTime) -> String {
    let action = request.action.as_str();
    let mut text = match &added.rule {
        Some(rule) => {
            let end = rule.until.map(|until| format!(", until {}", output::future(until, now)));
            format!("rule {} added: {action}{}\n", rule.id, end.unwrap_or_default())
        }
        None => "no rule was added (dry run): this one could be\n".to_owned(),
    };
    if let Some(change) = &added.existing {
        text += "in the queue already: ";
        text += &change_text(
            action,
            &Changed { dry_run: added.dry_run, change: change.clone(), warnings: Vec::new() },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser;
    use postern_admin::api::Change;

    use super::*;
    use crate::rule::Verb;
    use crate::rule::list::tests::{ADDED, now, rule};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn request(arguments: &[&str]) -> (AddRule, bool) {
        let line = Line::try_parse_from(["rule", "add"].iter().chain(arguments)).unwrap();
        let Verb::Add(action) = line.verb else { panic!("{line:?}") };
        action.request().unwrap()
    }

    #[test]
    fn options_become_a_request() {
        let (asked, yes) = request(&[
            "hold",
            "--reason",
            "why",
            "--for",
            "2h",
            "--existing",
            "--yes",
            "--max",
            "5",
            "--not",
            "--account",
            "alice",
        ]);
        let not = vec![Filter { account: Some("alice".to_owned()), ..Filter::default() }];
        assert_eq!(asked.filter, Filter { not, ..Filter::default() });
        assert_eq!(
            (asked.action, asked.duration, asked.max, yes),
            (RuleAction::Hold, Some(7200), Some(5), true)
        );
        let (asked, _) = request(&[
            "reject",
            "--all",
            "--temporary",
            "--text",
            "later",
            "--reason",
            "x",
            "--until",
            "2026-11-21T18:05:25Z",
        ]);
        assert_eq!(
            (asked.until, asked.all, asked.temporary, asked.existing),
            (Some(ADDED), true, true, false)
        );
        assert_eq!(asked.text.as_deref(), Some("later"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [
            &["add", "hold", "--all"][..],
            &["add", "hold", "--all", "--reason", "x", "--for", "1h", "--until", "2026-11-21T18:05:25Z"],
            &["add", "hold", "--all", "--reason", "x", "--until", "tomorrow"],
            &["add", "hold", "--all", "--reason", "x", "--text", "x"],
            &["add", "hold", "--all", "--reason", "x", "--yes"],
            &["add", "reject", "--all", "--reason", "x", "--existing"],
            &["add", "bounce", "--all", "--reason", "x"],
            &["remove"],
            &["remove", "7", "--all"],
            &["remove", "seven"],
            &["test", "--from", "a@client.test"],
        ] {
            assert!(Line::try_parse_from(["rule"].iter().chain(arguments)).is_err(), "{arguments:?}");
        }
        let line = Line::try_parse_from(["rule", "add", "hold", "--reason", "x"]).unwrap();
        let Verb::Add(action) = line.verb else { panic!("{line:?}") };
        assert!(matches!(action.request(), Err(Failure::Usage(_))));
    }

    #[test]
    fn only_what_an_arriving_message_has_is_offered() {
        let help = Line::try_parse_from(["rule", "add", "hold", "--help"]).unwrap_err().to_string();
        for shown in ["--sender", "--client-ip", "--header", "--not", "--existing"] {
            assert!(help.contains(shown), "{shown}: {help}");
        }
        for hidden in ["--attempts", "--older", "--held-by", "--has-priority", "--destination", "[ID]"] {
            assert!(!help.contains(hidden), "{hidden}: {help}");
        }
        // The daemon says why.
        assert_eq!(request(&["hold", "--reason", "x", "--attempts", ">3"]).0.filter.min_attempts, Some(3));
    }

    #[test]
    fn what_was_added_and_what_it_did_is_said() {
        let asked = request(&["hold", "--all", "--reason", "x", "--existing"]).0;
        let skipped = vec![("0BZ".to_owned(), "in-flight".to_owned())];
        let existing = Some(Change { matched: 3, changed: 2, skipped, ..Change::default() });
        let added = RuleAdded { dry_run: false, rule: Some(rule()), existing };
        let expected = "\
rule 7 added: hold, until 2026-11-21T20:05:25Z (in 1h)
in the queue already: hold: 3 messages matched, 2 changed, 1 skipped
  skipped 0BZ: in-flight
";
        assert_eq!(added_text(&asked, &added, now()), expected);
        let dry = RuleAdded { dry_run: true, rule: None, existing: None };
        assert!(added_text(&asked, &dry, now()).contains("dry run"));
    }
}
