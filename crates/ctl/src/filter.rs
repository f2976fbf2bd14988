//! Which messages: the options that all verbs of `queue` share.

use std::io::{BufRead, Read};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use postern_admin::api::{Filter, HeaderPattern, PRIORITIES};
use postern_config::units::{parse_duration, parse_size};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// What standard input may hold; the daemon reads no longer request.
const MAX_STDIN: u64 = 1024 * 1024;

/// Which messages. Conditions that are given must all hold. Flatten it last: its heading holds for what follows.
#[derive(Debug, Clone, Default)]
pub struct FilterOptions {
    /// Queue ids; `-` reads them from standard input.
    ids: Vec<String>,
    /// Every message was asked for.
    pub all: bool,
    /// The other conditions in the order they were given.
    conditions: Vec<Condition>,
}

/// A condition as it was given: a filter that has nothing else.
#[derive(Debug, Clone)]
struct Condition {
    filter: Filter,
    is_negated: bool,
}

/// The options as clap sees them: each value is the [`Filter`] it means.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
struct Options {
    /// Messages with these queue ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The same as an option; `-` reads ids from standard input, one a line (the first word counts).
    #[arg(long = "id", value_name = "ID")]
    more_ids: Vec<String>,
    /// The condition that follows must not hold. Every condition can be given several times: all must hold, each `--not`
    /// counts for the one behind it.
    #[arg(long, action = ArgAction::Append, num_args = 0, default_missing_value = "true")]
    not: Vec<bool>,
    /// Envelope sender: an address, `@domain`, or `<>` for the null sender.
    #[arg(long, value_name = "ADDRESS", value_parser = text(|text| Filter { sender: Some(text), ..Filter::default() }))]
    sender: Vec<Filter>,
    /// A recipient: an address or `@domain`.
    #[arg(long, value_name = "ADDRESS", value_parser = text(|text| Filter { rcpt: Some(text), ..Filter::default() }))]
    rcpt: Vec<Filter>,
    /// The domain of a recipient.
    #[arg(long, value_name = "DOMAIN", value_parser = text(|text| Filter { rcpt_domain: Some(text), ..Filter::default() }))]
    rcpt_domain: Vec<Filter>,
    /// The destination that a recipient waits for, as `queue show` names it (`mx adatum.test`), or without its first word
    /// (`adatum.test`).
    #[arg(long, visible_alias = "mx", value_name = "NAME",
        value_parser = text(|text| Filter { destination: Some(text), ..Filter::default() }))]
    destination: Vec<Filter>,
    /// The login that a message came from.
    #[arg(long, value_name = "NAME", value_parser = text(|text| Filter { account: Some(text), ..Filter::default() }))]
    account: Vec<Filter>,
    /// The address that a message came from, or a network that it is in: `192.0.2.0/24`.
    #[arg(long, value_name = "IP", value_parser = text(|text| Filter { client_ip: Some(text), ..Filter::default() }))]
    client_ip: Vec<Filter>,
    /// The state of a message.
    #[arg(long, value_parser = PossibleValuesParser::new(["ready", "active", "deferred", "held"])
        .map(|text| Filter { state: Some(text), ..Filter::default() }))]
    state: Vec<Filter>,
    /// Held by the standing rule with this number.
    #[arg(long, value_name = "RULE", value_parser = held_by)]
    held_by: Vec<Filter>,
    /// How the last enhanced code or reply code of a recipient begins, such as `4.7.`.
    #[arg(long, value_name = "PREFIX", value_parser = text(|text| Filter { code: Some(text), ..Filter::default() }))]
    code: Vec<Filter>,
    /// A regular expression that is found in the last reply to a recipient, such as `(?i)greylist`.
    #[arg(long, value_name = "REGEX", value_parser = text(|text| Filter { error: Some(text), ..Filter::default() }))]
    error: Vec<Filter>,
    /// A header field and a regular expression that is found in its value: `Subject=(?i)invoice`. The header is read from
    /// disk for messages that pass all other conditions: give others as well.
    #[arg(long, value_name = "NAME=REGEX", value_parser = header)]
    header: Vec<Filter>,
    /// In the queue for longer than this, such as `2h`.
    #[arg(long, value_name = "DURATION", value_parser = older)]
    older: Vec<Filter>,
    /// In the queue for less than this.
    #[arg(long, value_name = "DURATION", value_parser = newer)]
    newer: Vec<Filter>,
    /// The next attempt is within this, or later: `<5m`, `>1h`.
    #[arg(long, value_name = "DURATION", value_parser = next)]
    next: Vec<Filter>,
    /// Larger or smaller than this: `>1M`, `<10K`.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    size: Vec<Filter>,
    /// A recipient was tried more often than this, or all of them less often: `>3`, `<1`.
    #[arg(long, value_name = "NUMBER", value_parser = attempts)]
    attempts: Vec<Filter>,
    /// The priority: `5`, `>0`, `<0`.
    #[arg(long, value_name = "NUMBER", value_parser = has_priority, allow_hyphen_values = true)]
    has_priority: Vec<Filter>,
    /// Reports only: messages with a null sender.
    #[arg(long, action = ArgAction::Append, num_args = 0, default_missing_value = "",
        value_parser = text(|_| Filter { dsn: true, ..Filter::default() }))]
    dsn: Vec<Filter>,
    /// The Message-ID field.
    #[arg(long, value_name = "ID", value_parser = message_id)]
    message_id: Vec<Filter>,
    /// Every message (that the other conditions leave), however many.
    #[arg(long)]
    all: bool,
}

/// The options that are conditions.
const CONDITIONS: [&str; 19] = [
    "sender",
    "rcpt",
    "rcpt_domain",
    "destination",
    "account",
    "client_ip",
    "state",
    "held_by",
    "code",
    "error",
    "header",
    "older",
    "newer",
    "next",
    "size",
    "attempts",
    "has_priority",
    "dsn",
    "message_id",
];

impl Args for FilterOptions {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for FilterOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let options = Options::from_arg_matches(matches)?;
        let mut ids = options.ids;
        ids.extend(options.more_ids);
        Ok(Self { ids, all: options.all, conditions: conditions(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The conditions in the order they were given, each with the `--not` before it.
fn conditions(matches: &ArgMatches) -> Result<Vec<Condition>, clap::Error> {
    let mut given: Vec<(usize, Filter)> = Vec::new();
    for name in CONDITIONS {
        let places = matches.indices_of(name).into_iter().flatten();
        let filters = matches.get_many::<Filter>(name).into_iter().flatten().cloned();
        given.extend(places.zip(filters));
    }
    given.sort_by_key(|(place, _)| *place);
    let mut nots: Vec<usize> = matches.indices_of("not").into_iter().flatten().collect();
    let mut conditions = Vec::new();
    let mut behind = 0;
    for (place, filter) in given {
        let here = nots.iter().filter(|not| (behind..place).contains(*not)).count();
        nots.retain(|not| *not > place);
        if here > 1 {
            return Err(usage("--not --not: say it once, or not at all"));
        }
        conditions.push(Condition { filter, is_negated: here == 1 });
        behind = place;
    }
    if nots.is_empty() { Ok(conditions) } else { Err(usage("--not: no condition follows it")) }
}

fn usage(text: &str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{text}\n"))
}

impl FilterOptions {
    /// The filter that the daemon is asked with. Reads standard input if `-` is among the ids.
    ///
    /// # Errors
    /// [`Failure::Usage`] for ids that cannot be read from standard input.
    pub fn filter(&self) -> Result<Filter, Failure> {
        let mut ids = Vec::new();
        for id in &self.ids {
            match id.as_str() {
                "-" => ids.extend(read_ids(std::io::stdin().lock())?),
                id => ids.push(id.to_owned()),
            }
        }
        let mut filter = Filter { ids, ..Filter::default() };
        for condition in &self.conditions {
            if condition.is_negated {
                filter.not.push(condition.filter.clone());
            } else if let Some(both) = merged(&filter, &condition.filter) {
                filter = both;
            } else {
                filter.also.push(condition.filter.clone());
            }
        }
        Ok(filter)
    }
}

/// Both in one filter, unless the condition is given already.
fn merged(filter: &Filter, condition: &Filter) -> Option<Filter> {
    let fields = |filter| match serde_json::to_value(filter) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    };
    let (mut both, condition): (Map<String, Value>, Map<String, Value>) =
        (fields(filter)?, fields(condition)?);
    if condition.keys().any(|key| both.contains_key(key)) {
        return None;
    }
    both.extend(condition);
    serde_json::from_value(Value::Object(both)).ok()
}

/// A condition whose value the daemon reads.
fn text(filter: fn(String) -> Filter) -> impl Fn(&str) -> Result<Filter, String> + Clone + Send + Sync {
    move |text| Ok(filter(text.to_owned()))
}

fn header(text: &str) -> Result<Filter, String> {
    let usage = || format!("{text:?}: write the name of a field, = and a regular expression");
    let (name, pattern) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(usage)?;
    let header = HeaderPattern { name: name.to_owned(), pattern: pattern.to_owned() };
    Ok(Filter { header: Some(header), ..Filter::default() })
}

fn older(text: &str) -> Result<Filter, String> {
    Ok(Filter { older: Some(seconds(text)?), ..Filter::default() })
}

fn newer(text: &str) -> Result<Filter, String> {
    Ok(Filter { newer: Some(seconds(text)?), ..Filter::default() })
}

fn next(text: &str) -> Result<Filter, String> {
    let usage = || format!("{text:?}: write < or > and a duration, such as '<5m' or '>1h'");
    let (is_beyond, duration) = bound(text).ok_or_else(usage)?;
    let seconds = Some(seconds(duration)?);
    Ok(match is_beyond {
        true => Filter { next_beyond: seconds, ..Filter::default() },
        false => Filter { next_within: seconds, ..Filter::default() },
    })
}

fn message_id(text: &str) -> Result<Filter, String> {
    Ok(Filter { message_id: Some(text.trim_matches(['<', '>']).to_owned()), ..Filter::default() })
}

fn held_by(text: &str) -> Result<Filter, String> {
    let rule = text.parse().map_err(|_| format!("{text:?}: write the number of a rule"))?;
    Ok(Filter { held_by: Some(rule), ..Filter::default() })
}

/// A filter in words: the conditions with their values, `all` if there is none.
pub fn words(filter: &Filter) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(filter) else { return String::new() };
    let mut words: Vec<String> = Vec::new();
    for (name, value) in &fields {
        match (name.as_str(), value) {
            ("also", _) => words.extend(filter.also.iter().map(self::words)),
            ("not", _) => words.extend(filter.not.iter().map(|not| format!("not ({})", self::words(not)))),
            ("header", _) => {
                words.extend(filter.header.as_ref().map(|h| format!("header {}={}", h.name, h.pattern)));
            }
            (name, Value::Bool(_)) => words.push(name.to_owned()),
            (name, Value::String(text)) => words.push(format!("{name}={text}")),
            (name, value) => words.push(format!("{name}={value}")),
        }
    }
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

/// Whether it is `>`, and what follows.
fn bound(text: &str) -> Option<(bool, &str)> {
    let above = text.strip_prefix('>').map(|rest| (true, rest.trim()));
    above.or_else(|| text.strip_prefix('<').map(|rest| (false, rest.trim())))
}

/// The first word of each line.
fn read_ids(input: impl BufRead) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    input.take(MAX_STDIN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_STDIN {
        return Err(Failure::Usage(
            "more ids on standard input than one request can hold (1 MiB)".to_owned(),
        ));
    }
    let ids: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if ids.is_empty() {
        // An empty list must not become "every message".
        return Err(Failure::Usage("no id on standard input".to_owned()));
    }
    Ok(ids)
}

/// A duration in whole seconds.
///
/// # Errors
/// The text says what is accepted.
pub fn seconds(text: &str) -> Result<u64, String> {
    parse_duration(text).map(|duration| duration.as_secs())
}

fn size(text: &str) -> Result<Filter, String> {
    let usage = || format!("{text:?}: write > or < and a size, such as '>1M' or '<10K'");
    let (is_above, size) = bound(text).ok_or_else(usage)?;
    let octets = octets(size).ok_or_else(usage)?;
    Ok(match is_above {
        true => Filter { min_size: Some(octets.saturating_add(1)), ..Filter::default() },
        false => Filter { max_size: Some(octets.checked_sub(1).ok_or_else(usage)?), ..Filter::default() },
    })
}

/// A plain number, `10K`, `1M`, `2G` (binary), or a size as the configuration writes it.
pub(crate) fn octets(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(octets) = text.parse() {
        return Some(octets);
    }
    let unit = match text.chars().last()? {
        'K' | 'k' => "KiB",
        'M' | 'm' => "MiB",
        'G' | 'g' => "GiB",
        _ => return parse_size(text).ok(),
    };
    parse_size(&format!("{}{unit}", &text[..text.len() - 1])).ok()
}

fn attempts(text: &str) -> Result<Filter, String> {
    let usage = || format!("{text:?}: write > or < and a number, such as '>3'");
    let (is_above, number) = bound(text).ok_or_else(usage)?;
    let number = Some(number.parse().map_err(|_| usage())?);
    Ok(match is_above {
        true => Filter { min_attempts: number, ..Filter::default() },
        false => Filter { max_attempts: number, ..Filter::default() },
    })
}

/// A priority.
///
/// # Errors
/// The text says which there are.
pub(crate) fn priority(text: &str) -> Result<i8, String> {
    let priority = text.trim().parse().ok().filter(|priority| PRIORITIES.contains(priority));
    let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
    priority.ok_or_else(|| format!("{text:?}: a priority is a number from {least} to {most}"))
}

fn has_priority(text: &str) -> Result<Filter, String> {
    let (least, most) = match bound(text) {
        Some((true, number)) => (Some(priority(number)?), None),
        Some((false, number)) => (None, Some(priority(number)?)),
        None => {
            let priority = priority(text)?;
            (Some(priority - 1), Some(priority + 1))
        }
    };
    Ok(Filter { min_priority: least, max_priority: most, ..Filter::default() })
}

/// What messages are counted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum GroupBy {
    /// Recipient domain.
    Domain,
    /// The destination that recipients wait for, with the end of its rest.
    #[value(alias = "mx")]
    Destination,
    /// Envelope sender.
    Sender,
    /// Domain of the envelope sender.
    SenderDomain,
    /// Login.
    Account,
    /// The client's address.
    Client,
    /// Last enhanced code.
    Code,
    /// State.
    State,
}

impl From<GroupBy> for postern_admin::api::GroupBy {
    fn from(by: GroupBy) -> Self {
        match by {
            GroupBy::Domain => Self::Domain,
            GroupBy::Destination => Self::Destination,
            GroupBy::Sender => Self::Sender,
            GroupBy::SenderDomain => Self::SenderDomain,
            GroupBy::Account => Self::Account,
            GroupBy::Client => Self::Client,
            GroupBy::Code => Self::Code,
            GroupBy::State => Self::State,
        }
    }
}

/// How a list is ordered.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Sort {
    /// Oldest first.
    #[default]
    Age,
    /// Next attempt first.
    Next,
    /// Largest first.
    Size,
    /// Most attempts first.
    Attempts,
}

impl From<Sort> for postern_admin::api::Sort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Age => Self::Age,
            Sort::Next => Self::Next,
            Sort::Size => Self::Size,
            Sort::Attempts => Self::Attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filter: FilterOptions,
    }

    fn filter(arguments: &[&str]) -> Filter {
        let line = Line::try_parse_from(["x"].iter().chain(arguments)).unwrap();
        line.filter.filter().unwrap()
    }

    #[test]
    fn options_become_the_filter_of_the_queue() {
        let given = filter(&[
            "0AB",
            "--id",
            "0CD",
            "--sender",
            "<>",
            "--older",
            "2h",
            "--size",
            ">1M",
            "--size",
            "<10M",
            "--attempts",
            ">3",
            "--message-id",
            "<x@y.test>",
            "--state",
            "held",
        ]);
        let expected = Filter {
            ids: vec!["0AB".to_owned(), "0CD".to_owned()],
            sender: Some("<>".to_owned()),
            older: Some(7200),
            min_size: Some(1024 * 1024 + 1),
            max_size: Some(10 * 1024 * 1024 - 1),
            min_attempts: Some(3),
            message_id: Some("x@y.test".to_owned()),
            state: Some("held".to_owned()),
            ..Filter::default()
        };
        assert_eq!(given, expected);
        assert_eq!(filter(&[]), Filter::default());
    }

    #[test]
    fn a_priority_is_a_number_or_a_bound() {
        let between = |least, most| Filter { min_priority: least, max_priority: most, ..Filter::default() };
        for (text, expected) in [
            ("-9", between(Some(-10), Some(-8))),
            (">0", between(Some(0), None)),
            ("<-1", between(None, Some(-1))),
        ] {
            assert_eq!(filter(&["--has-priority", text]), expected);
        }
        for text in ["10", "-10", ">300", "<", "", "high"] {
            let refused = Line::try_parse_from(["x", "--has-priority", text]).unwrap_err().to_string();
            assert!(refused.contains("from -9 to 9"), "{refused}");
        }
    }

    #[test]
    fn conditions_are_repeated_and_negated() {
        let state = |state: &str| Filter { state: Some(state.to_owned()), ..Filter::default() };
        let given = filter(&[
            "--state", "held", "--not", "--dsn", "--state", "ready", "--dsn", "--not", "--size", ">1K",
        ]);
        let expected = Filter {
            state: Some("held".to_owned()),
            dsn: true,
            also: vec![state("ready")],
            not: vec![
                Filter { dsn: true, ..Filter::default() },
                Filter { min_size: Some(1025), ..Filter::default() },
            ],
            ..Filter::default()
        };
        assert_eq!(given, expected);
        let both = filter(&["--not", "--state", "held", "--not", "--state", "active"]);
        assert_eq!(both.not, [state("held"), state("active")]);
        for arguments in [&["--not"][..], &["--state", "held", "--not"], &["--not", "--not", "--dsn"]] {
            assert!(Line::try_parse_from(["x"].iter().chain(arguments)).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn patterns_and_bounds_become_conditions() {
        let given = filter(&[
            "--error",
            "(?i)grey",
            "--header",
            "Subject=a=b",
            "--next",
            "<5m",
            "--next",
            ">1s",
            "--mx",
            "adatum.test",
            "--attempts",
            "<1",
        ]);
        let expected = Filter {
            error: Some("(?i)grey".to_owned()),
            header: Some(HeaderPattern { name: "Subject".to_owned(), pattern: "a=b".to_owned() }),
            next_within: Some(300),
            next_beyond: Some(1),
            destination: Some("adatum.test".to_owned()),
            max_attempts: Some(1),
            ..Filter::default()
        };
        assert_eq!(given, expected);
    }

    #[test]
    fn every_condition_is_among_those_that_are_read() {
        let command = Options::augment_args(Command::new("x"));
        let names = command.get_arguments().map(|argument| argument.get_id().as_str().to_owned());
        let others = ["ids", "more_ids", "not", "all"];
        let conditions: Vec<String> = names.filter(|name| !others.contains(&name.as_str())).collect();
        assert_eq!(conditions, CONDITIONS);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for arguments in [
            ["--next", "5m"],
            ["--header", "=x"],
            ["--header", "Subject"],
            ["--older", "soon"],
            ["--size", "1M"],
            ["--size", "<0"],
            ["--size", ">x"],
            ["--attempts", "3"],
            ["--attempts", ">-1"],
            ["--state", "lost"],
            ["--size", ">\u{e4}"],
        ] {
            assert!(Line::try_parse_from(["x"].iter().chain(&arguments)).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn ids_are_the_first_words_of_lines() {
        assert_eq!(read_ids(&b"0AB 2h 1.0 KiB\n\n  0CD\n"[..]).unwrap(), ["0AB", "0CD"]);
        assert!(read_ids(&b"\n"[..]).is_err());
    }
}
