//! Which messages: the options that all verbs of `queue` share.

use std::io::{BufRead, Read};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use postern_admin::api::Filter;
use postern_config::units::{parse_duration, parse_size};

use crate::failure::Failure;

/// What standard input may hold; the daemon reads no longer request.
const MAX_STDIN: u64 = 1024 * 1024;

/// Which messages. Conditions that are given must all hold. Flatten it last: its heading holds for what follows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filter")]
pub struct FilterOptions {
    /// Messages with these queue ids.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// The same as an option; `-` reads ids from standard input, one a line (the first word counts).
    #[arg(long = "id", value_name = "ID")]
    pub more_ids: Vec<String>,
    /// Envelope sender: an address, `@domain`, or `<>` for the null sender.
    #[arg(long, value_name = "ADDRESS")]
    pub sender: Option<String>,
    /// A recipient: an address or `@domain`.
    #[arg(long, value_name = "ADDRESS")]
    pub rcpt: Option<String>,
    /// The domain of a recipient.
    #[arg(long, value_name = "DOMAIN")]
    pub rcpt_domain: Option<String>,
    /// The login that a message came from.
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The address that a message came from.
    #[arg(long, value_name = "IP")]
    pub client_ip: Option<String>,
    /// The state of a message.
    #[arg(long, value_parser = PossibleValuesParser::new(["ready", "active", "deferred", "held"]))]
    pub state: Option<String>,
    /// How the last enhanced code or reply code of a recipient begins, such as `4.7.`.
    #[arg(long, value_name = "PREFIX")]
    pub code: Option<String>,
    /// In the queue for longer than this, such as `2h`.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub older: Option<u64>,
    /// In the queue for less than this.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub newer: Option<u64>,
    /// Larger or smaller than this: `>1M`, `<10K`. Give it twice for both.
    #[arg(long, value_name = "SIZE", value_parser = size_bound, allow_hyphen_values = true)]
    pub size: Vec<SizeBound>,
    /// A recipient was tried more often than this: `>3`.
    #[arg(long, value_name = "NUMBER", value_parser = attempts)]
    pub attempts: Option<u32>,
    /// Reports only: messages with a null sender.
    #[arg(long)]
    pub dsn: bool,
    /// The Message-ID field.
    #[arg(long, value_name = "ID")]
    pub message_id: Option<String>,
    /// Every message (that the other conditions leave), however many. `list` and `count` do so anyway.
    #[arg(long)]
    pub all: bool,
}

/// One side of a range of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeBound {
    /// Octets at least.
    AtLeast(u64),
    /// Octets at most.
    AtMost(u64),
}

impl FilterOptions {
    /// The filter that the daemon is asked with. Reads standard input if `-` is among the ids.
    ///
    /// # Errors
    /// [`Failure::Usage`] for ids that cannot be read from standard input.
    pub fn filter(&self) -> Result<Filter, Failure> {
        let mut ids = self.ids.clone();
        for id in &self.more_ids {
            match id.as_str() {
                "-" => ids.extend(read_ids(std::io::stdin().lock())?),
                id => ids.push(id.to_owned()),
            }
        }
        let mut filter = Filter {
            ids,
            sender: self.sender.clone(),
            rcpt: self.rcpt.clone(),
            rcpt_domain: self.rcpt_domain.clone(),
            account: self.account.clone(),
            client_ip: self.client_ip.clone(),
            state: self.state.clone(),
            code: self.code.clone(),
            older: self.older,
            newer: self.newer,
            min_attempts: self.attempts,
            dsn: self.dsn,
            message_id: self.message_id.as_deref().map(|id| id.trim_matches(['<', '>']).to_owned()),
            ..Filter::default()
        };
        for bound in &self.size {
            match *bound {
                SizeBound::AtLeast(octets) => filter.min_size = filter.min_size.max(Some(octets)),
                SizeBound::AtMost(octets) => {
                    filter.max_size = Some(filter.max_size.map_or(octets, |other| other.min(octets)));
                }
            }
        }
        Ok(filter)
    }
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

fn size_bound(text: &str) -> Result<SizeBound, String> {
    let usage = || format!("{text:?}: write > or < and a size, such as '>1M' or '<10K'");
    let (larger, size) = match (text.strip_prefix('>'), text.strip_prefix('<')) {
        (Some(size), _) => (true, size),
        (_, Some(size)) => (false, size),
        (None, None) => return Err(usage()),
    };
    let octets = octets(size).ok_or_else(usage)?;
    Ok(match larger {
        true => SizeBound::AtLeast(octets.saturating_add(1)),
        false => SizeBound::AtMost(octets.checked_sub(1).ok_or_else(usage)?),
    })
}

/// A plain number, `10K`, `1M`, `2G` (binary), or a size as the configuration writes it.
fn octets(text: &str) -> Option<u64> {
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

fn attempts(text: &str) -> Result<u32, String> {
    let usage = || format!("{text:?}: write > and a number, such as '>3'");
    text.strip_prefix('>').ok_or_else(usage)?.trim().parse().map_err(|_| usage())
}

/// What messages are counted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum GroupBy {
    /// Recipient domain.
    Domain,
    /// Envelope sender.
    Sender,
    /// Login.
    Account,
    /// Last enhanced code.
    Code,
    /// State.
    State,
}

impl From<GroupBy> for postern_admin::api::GroupBy {
    fn from(by: GroupBy) -> Self {
        match by {
            GroupBy::Domain => Self::Domain,
            GroupBy::Sender => Self::Sender,
            GroupBy::Account => Self::Account,
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
    fn what_cannot_be_read_is_refused() {
        for arguments in [
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
