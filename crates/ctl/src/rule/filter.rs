//! The conditions that a rule can have.

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::filter::FilterOptions;

/// The filter of a rule: the options of `queue` that mean something when a message arrives. The others are known, so that
/// the daemon can say why they are refused, and not shown.
#[derive(Debug, Clone)]
pub struct RuleFilter(pub(super) FilterOptions);

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
