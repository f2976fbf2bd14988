//! `doctor`: asks a server from outside whether it is as it should be.
//!
//! | check | module |
//! |---|---|
//! | `relay`: is it an open relay? | [`relay`] |
//!
//! A check looks at what anybody sees from the network, so it says something about other people's servers too; what only the
//! daemon knows, it asks over the control socket.

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};

mod client;
mod course;
mod own;
pub mod relay;
mod report;
mod smuggling;
mod tricks;

/// Which check; without one they are listed.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(subcommand)]
    check: Option<Check>,
}

/// The checks.
#[derive(Debug, Subcommand)]
enum Check {
    /// Try the known tricks to send mail through a server that should refuse them all.
    #[command(after_help = relay::EXAMPLES)]
    Relay(Box<relay::Options>),
}

/// For the list of the checks: clap knows their names and what they say of themselves.
#[derive(Debug, Parser)]
struct Checks {
    #[command(subcommand)]
    _check: Check,
}

impl Doctor {
    /// Makes the check.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self.check {
            Some(Check::Relay(options)) => options.run(session).await,
            None => {
                session.out.answer(&list(), |listed, _| listed.text())?;
                Ok(Exit::Done)
            }
        }
    }
}

/// The answer without a check.
#[derive(Debug, Serialize)]
struct Listed {
    checks: Vec<ListedCheck>,
}

#[derive(Debug, Serialize)]
struct ListedCheck {
    name: String,
    about: String,
}

impl Listed {
    fn text(&self) -> String {
        let line = |check: &ListedCheck| format!("posternctl doctor {}  {}\n", check.name, check.about);
        self.checks.iter().map(line).collect()
    }
}

/// What there is.
fn list() -> Listed {
    let checks = Checks::command();
    let listed = |check: &clap::Command| ListedCheck {
        name: check.get_name().to_owned(),
        about: check.get_about().map(ToString::to_string).unwrap_or_default(),
    };
    Listed { checks: checks.get_subcommands().map(listed).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_are_listed_with_what_they_do() {
        let text = list().text();
        assert!(text.starts_with("posternctl doctor relay  Try the known tricks"), "{text}");
    }
}
