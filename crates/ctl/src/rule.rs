//! `rule`: standing rules, which say what becomes of messages that arrive and match. A file for each verb, and `filter.rs`
//! for the conditions.

mod add;
mod filter;
mod list;
mod remove;
mod test;

use clap::Subcommand;

use crate::Session;
use crate::failure::{Exit, Failure};

pub use add::{Action, Existing, FailOptions, HoldOptions, RejectOptions, Terms};
pub use filter::RuleFilter;
pub use list::ListOptions;
pub use remove::RemoveOptions;
pub use test::TestOptions;

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

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::List(options) => list::list(session, &options).await,
            Self::Add(action) => add::add(session, *action).await,
            Self::Remove(options) => remove::remove(session, &options).await,
            Self::Test(options) => test::test(session, options).await,
        }
    }
}
