//! `rule`: standing rules, which say what becomes of messages that arrive and match.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use postern_admin::api::rules::{
    AddRule, RemoveRules, RemovedRule, Rule, RuleAction, RuleAdded, RuleList, RuleTest, RulesRemoved,
    TestRules,
};
use postern_admin::api::{Changed, DEFAULT_MAX, Filter, MAX_WAIT};

use crate::Session;
use crate::change::{agreed, change_text};
use crate::failure::{Exit, Failure};
use crate::filter::{self, FilterOptions};
use crate::output::{self, Look};
use crate::policy::read_header;

const EXAMPLES: &str = "\
Examples:
  posternctl rule add hold --account alice@proseware.test --existing --yes --reason 'stolen password?'
  posternctl rule add reject --sender @client.test --reason 'mail bomb, ticket 4711' --for 1d
  posternctl rule add reject --client-ip 198.51.100.0/24 --temporary --reason 'too fast' --for 30m
  posternctl rule add fail --rcpt bob@adatum.test --reason 'has left' --text 'Bob has left; write to info@adatum.test'
  posternctl rule add drop --dsn --rcpt-domain thephone-company.test --reason backscatter --for 12h
  posternctl rule add hold --header 'Subject=(?i)invoice' --not --account bookkeeping --reason 'look first'
  posternctl rule list
  posternctl rule remove 7";

/// What can be done with rules.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the rules: what they do, to which messages, until when, how often they did.
    List(ListOptions),
    /// Add a rule. It counts at once, and over restarts, until it is removed or its time is over.
    #[command(subcommand, after_help = EXAMPLES)]
    Add(Box<Action>),
    /// Remove rules. Messages that they hold stay held.
    Remove(RemoveOptions),
    /// Ask which rules would take a message, without sending one.
    Test(TestOptions),
}

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

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Print one JSON object a line.
    #[arg(long)]
    jsonl: bool,
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

/// Options of `remove`.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// The numbers of the rules.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All rules.
    #[arg(long)]
    all: bool,
    /// With --all: do not ask; needed by scripts when there is more than one.
    #[arg(long, short)]
    yes: bool,
    /// Only say which.
    #[arg(long)]
    dry_run: bool,
}

/// A message that does not exist.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// MAIL FROM; '' or '<>' is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// RCPT TO; can be given several times.
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
    /// The client's address.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The login that it comes from.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Its size, such as `10M`.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// A file with the message, or its header.
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
}

/// The filter of a rule: the options of `queue` that mean something when a message arrives. The others are known, so that
/// the daemon can say why they are refused, and not shown.
#[derive(Debug, Clone)]
pub struct RuleFilter(FilterOptions);

/// What only a queued message has.
const NOT_AT_ARRIVAL: [&str; 12] = [
    "ids",
    "more_ids",
    "destination",
    "state",
    "held_by",
    "code",
    "error",
    "older",
    "newer",
    "next",
    "attempts",
    "has_priority",
];

impl Args for RuleFilter {
    fn augment_args(command: Command) -> Command {
        let command = FilterOptions::augment_args(command);
        NOT_AT_ARRIVAL.into_iter().fold(command, |command, name| command.mut_arg(name, |arg| arg.hide(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleFilter {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        FilterOptions::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::List(options) => list(session, &options).await,
            Self::Add(action) => add(session, *action).await,
            Self::Remove(options) => remove(session, &options).await,
            Self::Test(options) => test(session, options).await,
        }
    }
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

async fn list(session: &mut Session, options: &ListOptions) -> Result<Exit, Failure> {
    let list: RuleList = session.client()?.get("/v1/rules").await?;
    let now = session.now;
    if options.jsonl {
        for rule in &list.rules {
            session.out.text(format_args!("{}\n", output::json(rule)?))?;
        }
    } else {
        session.out.answer(&list, |list, look| list_text(&list.rules, now, look))?;
    }
    let Some(problem) = &list.problem else { return Ok(Exit::Done) };
    session.note(&output::clean(problem));
    Ok(Exit::Finding)
}

async fn add(session: &mut Session, action: Action) -> Result<Exit, Failure> {
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

async fn remove(session: &mut Session, options: &RemoveOptions) -> Result<Exit, Failure> {
    let client = session.client()?;
    let request = RemoveRules { ids: options.ids.clone(), all: options.all, dry_run: options.dry_run };
    if options.all && !options.yes && !options.dry_run {
        let dry = RemoveRules { dry_run: true, ..request.clone() };
        let found: RulesRemoved = client.post("/v1/rules/remove", &dry).await?;
        if !all_agreed(session, found.rules.len())? {
            return Err(Failure::Finding("nothing was changed".to_owned()));
        }
    }
    let removed: RulesRemoved = client.post("/v1/rules/remove", &request).await?;
    session.out.answer(&removed, |removed, _| removed_text(removed))?;
    Ok(if removed.rules.is_empty() { Exit::Finding } else { Exit::Done })
}

/// Asks about more than one rule.
fn all_agreed(session: &Session, rules: usize) -> Result<bool, Failure> {
    if rules <= 1 {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "there are {rules} rules: without a terminal to ask on, say --yes"
        )));
    }
    session.note(&format!("remove all {rules}? [y/N]"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

async fn test(session: &mut Session, options: TestOptions) -> Result<Exit, Failure> {
    let request = TestRules {
        from: options.from,
        to: options.to,
        client: options.client,
        account: options.user,
        size: options.size.unwrap_or(0),
        message: options.message.as_deref().map(|path: &Path| read_header(path)).transpose()?,
    };
    let test: RuleTest = session.client()?.post("/v1/rules/test", &request).await?;
    let now = session.now;
    session.out.answer(&test, |test, look| test_text(test, now, look))?;
    Ok(if test.decides.is_some() { Exit::Finding } else { Exit::Done })
}

fn time(text: &str) -> Result<u64, String> {
    let usage = || format!("{text:?}: write a time such as 2026-11-21T18:05:25Z");
    let time = text.parse::<jiff::Timestamp>().map_err(|_| usage())?;
    u64::try_from(time.as_second()).map_err(|_| usage())
}

fn size(text: &str) -> Result<u64, String> {
    filter::octets(text).ok_or_else(|| format!("{text:?}: write a size, such as 10M"))
}

fn list_text(rules: &[Rule], now: SystemTime, look: Look) -> String {
    if rules.is_empty() {
        return String::new();
    }
    let header = ["ID", "ACTION", "ENDS", "HITS", "LAST HIT", "AGE", "UID", "WHICH", "REASON", "TEXT"];
    output::table(&header, rules.iter().map(|rule| row(rule, now)), look)
}

fn row(rule: &Rule, now: SystemTime) -> Vec<String> {
    let none = || "-".to_owned();
    let action = if rule.temporary { "reject (450)" } else { rule.action.as_str() };
    vec![
        rule.id.to_string(),
        action.to_owned(),
        rule.until.map_or_else(|| "never".to_owned(), |until| ends(until, now)),
        rule.hits.to_string(),
        rule.last_hit.map_or_else(none, |time| format!("{} ago", output::age(time, now))),
        output::age(rule.added, now),
        rule.by.to_string(),
        filter::words(&rule.filter),
        rule.reason.clone(),
        rule.text.clone().unwrap_or_else(none),
    ]
}

fn ends(until: u64, now: SystemTime) -> String {
    match output::until(until, now) {
        text if text == "now" => "expired".to_owned(),
        text => text,
    }
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

fn removed_text(removed: &RulesRemoved) -> String {
    let done = if removed.dry_run { "would be removed" } else { "removed" };
    let mut text = String::new();
    for RemovedRule { rule, still_held } in &removed.rules {
        let hits = output::counted(usize::try_from(rule.hits).unwrap_or(usize::MAX), "hit");
        let reason = output::clean(&rule.reason);
        let _ = writeln!(text, "rule {} {done}: {}, {hits}: {reason}", rule.id, rule.action.as_str());
        if *still_held > 0 {
            let stay = if *still_held == 1 { "stays" } else { "stay" };
            let held = output::counted(*still_held, "message");
            let all = if *still_held > DEFAULT_MAX { " --all" } else { "" };
            let _ = writeln!(
                text,
                "  {held} {stay} held; `posternctl queue release --held-by {}{all}` releases them",
                rule.id
            );
        }
    }
    text
}

fn test_text(test: &RuleTest, now: SystemTime, look: Look) -> String {
    let Some(id) = test.decides else {
        return match test.matching.is_empty() {
            true => "no rule takes this message\n".to_owned(),
            false => format!(
                "{}none of them means anything for this message\n",
                list_text(&test.matching, now, look)
            ),
        };
    };
    let place = if test.at_rcpt { "at RCPT" } else { "at the end of the message" };
    format!("{}rule {id} decides, {place}\n", list_text(&test.matching, now, look))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::{Duration, UNIX_EPOCH};

    use clap::Parser;
    use postern_admin::api::Change;

    use super::*;

    const ADDED: u64 = 1_795_284_325;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(ADDED + 3600)
    }

    fn request(arguments: &[&str]) -> (AddRule, bool) {
        let line = Line::try_parse_from(["rule", "add"].iter().chain(arguments)).unwrap();
        let Verb::Add(action) = line.verb else { panic!("{line:?}") };
        action.request().unwrap()
    }

    fn rule() -> Rule {
        Rule {
            id: 7,
            action: RuleAction::Reject,
            filter: Filter {
                sender: Some("@client.test".to_owned()),
                not: vec![Filter { dsn: true, ..Filter::default() }],
                ..Filter::default()
            },
            reason: "mail bomb\u{7}".to_owned(),
            text: Some("Write to us".to_owned()),
            temporary: true,
            until: Some(ADDED + 7200),
            added: ADDED,
            by: 1000,
            hits: 12,
            last_hit: Some(ADDED + 3540),
        }
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
    fn list_for_people() {
        let endless = Rule {
            id: 8,
            action: RuleAction::Hold,
            filter: Filter::default(),
            reason: "all".to_owned(),
            text: None,
            temporary: false,
            until: None,
            hits: 0,
            last_hit: None,
            ..rule()
        };
        let over = Rule { id: 9, until: Some(ADDED), ..endless.clone() };
        let expected = "\
ID  ACTION        ENDS     HITS  LAST HIT  AGE  UID   WHICH                           REASON      TEXT
7   reject (450)  in 1h    12    1m ago    1h   1000  not (dsn), sender=@client.test  mail bomb?  Write to us
8   hold          never    0     -         1h   1000  all                             all         -
9   hold          expired  0     -         1h   1000  all                             all         -
";
        assert_eq!(list_text(&[rule(), endless, over], now(), Look::PLAIN), expected);
        assert_eq!(list_text(&[], now(), Look::PLAIN), "");
    }

    #[test]
    fn list_for_programs() {
        let expected = concat!(
            r#"{"version":1,"rules":[{"id":7,"action":"reject","filter":{"sender":"@client.test","#,
            r#""not":[{"dsn":true}]},"reason":"mail bomb\u0007","text":"Write to us","temporary":true,"#,
            r#""until":1795291525,"added":1795284325,"by":1000,"hits":12,"last_hit":1795287865}]}"#
        );
        assert_eq!(output::json(&RuleList { rules: vec![rule()], problem: None }).unwrap(), expected);
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

    #[test]
    fn a_removed_rule_names_what_stays_held() {
        let removed = |still_held| RulesRemoved {
            dry_run: false,
            rules: vec![RemovedRule { rule: rule(), still_held }],
        };
        assert_eq!(removed_text(&removed(0)), "rule 7 removed: reject, 12 hits: mail bomb?\n");
        let text = removed_text(&removed(2));
        assert!(
            text.contains("2 messages stay held; `posternctl queue release --held-by 7` releases"),
            "{text}"
        );
        assert!(removed_text(&removed(1001)).contains("--held-by 7 --all`"));
    }

    #[test]
    fn a_test_names_the_rule_that_decides() {
        let test = |decides, at_rcpt| RuleTest { matching: vec![rule()], decides, at_rcpt };
        assert!(test_text(&test(Some(7), true), now(), Look::PLAIN).ends_with("rule 7 decides, at RCPT\n"));
        assert!(test_text(&test(Some(7), false), now(), Look::PLAIN).ends_with("end of the message\n"));
        assert!(test_text(&test(None, false), now(), Look::PLAIN).contains("none of them"));
        let none = RuleTest { matching: Vec::new(), decides: None, at_rcpt: false };
        assert_eq!(test_text(&none, now(), Look::PLAIN), "no rule takes this message\n");
    }
}
