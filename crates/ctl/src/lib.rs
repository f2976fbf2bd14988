//! posternctl: what an operator asks of the server and tells it to do.
//!
//! | noun | module |
//! |---|---|
//! | `status`, `reload` | [`status`] |
//! | `queue` | [`queue`] and [`list`], [`shape`], [`top`], [`change`], [`edit`], [`transfer`], [`watch`]; its filters in [`filter`] |
//! | `message history` | [`message`]; the words for an event in [`event`] |
//! | `rule` | [`rule`] |
//! | `relay` | [`relay`] |
//! | `store` | [`store`], a file for each verb below it |
//! | `audit` | [`audit`] |
//! | `policy explain`, `policy test` | [`policy`] |
//! | `explain` | [`explain`], with [`explain::refusal`], [`explain::code`], [`explain::bounce`] |
//! | `doctor` | [`doctor`] |
//! | `account` | [`account`], passwords in [`password`] |
//! | `ban` | [`ban`] |
//! | `domain` | [`domain`] |
//! | `dkim` | [`dkim`] |
//! | `metrics` | [`metrics`] |
//! | `config check` | [`config`] |
//!
//! Commands that any of them advises are completed in [`advice`].
//!
//! Most commands speak to the running daemon over its control socket; those that make keys or edit files work without
//! it. What is printed with `--json` is versioned and only grows; text for people may change with any release. Exit codes
//! are those of [`failure`].

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, CommandFactory, Parser, Subcommand};
use postern_admin::Client;

pub mod account;
pub mod advice;
pub mod audit;
pub mod ban;
pub mod change;
pub mod config;
pub mod dkim;
pub mod doctor;
pub mod domain;
pub mod edit;
pub mod event;
pub mod explain;
pub mod failure;
pub mod filter;
pub mod list;
pub mod message;
pub mod metrics;
pub mod output;
pub mod password;
pub mod policy;
pub mod queue;
pub mod relay;
pub mod rule;
pub mod shape;
pub mod status;
pub mod store;
pub mod template;
pub mod top;
pub mod transfer;
pub mod watch;
pub mod when;

use failure::{Exit, Failure};
use output::Output;

const EXAMPLES: &str = "\
Examples:
  posternctl status
  posternctl queue list --state deferred --rcpt-domain adatum.test
  posternctl queue drop --sender spammer@proseware.test --reason 'stolen password'
  posternctl message history bob@adatum.test
  posternctl policy explain --client 198.51.100.9 --from a@client.test --to b@adatum.test
  posternctl explain 4QX7-93KD
  posternctl explain --bounce returned.eml
  posternctl doctor
  posternctl account add alice@proseware.test

Exit codes:
  0  done
  1  a finding: refused, nothing matched, not well, the configuration is wrong
  2  usage
  3  partly done: some messages were skipped
  4  the daemon does not answer, or still loads its queue
  5  not allowed";

/// Ask a Postern mail server what it does, and tell it what to do.
#[derive(Debug, Parser)]
#[command(name = "posternctl", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

/// The configuration of an installed server.
pub const DEFAULT_CONFIG: &str = "/etc/postern/postern.toml";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The main configuration file: it names the control socket and the file of accounts.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The control socket, if another than the configuration names.
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON for programs: one object with its version. Human output may change with any release.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print without colours; NO_COLOR does the same.
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Show how the server is: listeners, queue, health, warnings.
    Status,
    /// Have the daemon read its configuration again. If that fails, the old one stays in force.
    Reload,
    /// See and change the messages that wait.
    #[command(subcommand)]
    Queue(queue::Verb),
    /// Ask what became of messages.
    #[command(subcommand)]
    Message(message::Verb),
    /// Make standing rules: what becomes of messages that arrive and match.
    #[command(subcommand)]
    Rule(rule::Verb),
    /// See who may relay, and let an address relay for a while.
    #[command(subcommand)]
    Relay(relay::Verb),
    /// See whether the spool is whole, give room back, make a backup.
    #[command(subcommand)]
    Store(store::Verb),
    /// Show who changed what.
    Audit(audit::Options),
    /// Ask what the rules say.
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Explain a refusal by its reference, a code, or a bounce of any mail system.
    Explain(explain::Explain),
    /// Go through the checklist before asking somebody else: settings, senders, DNS, blocklists, relaying, reputation.
    Doctor(doctor::Doctor),
    /// Edit the logins.
    #[command(subcommand)]
    Account(account::Verb),
    /// See and change who is banned.
    #[command(subcommand)]
    Ban(ban::Verb),
    /// See whether the DNS of the domains is in order, and what it needs.
    #[command(subcommand)]
    Domain(domain::Verb),
    /// Make keys that sign mail.
    #[command(subcommand)]
    Dkim(dkim::Verb),
    /// Print the metrics of the daemon, or serve them.
    Metrics(metrics::Metrics),
    /// Check the configuration.
    #[command(subcommand)]
    Config(config::Verb),
}

/// One run of the program.
pub struct Session {
    /// The options of every command.
    pub global: Global,
    /// Where results go.
    pub out: Output,
    /// When the program was started; ages are counted to here.
    pub now: SystemTime,
}

impl Session {
    /// A client of the daemon.
    ///
    /// # Errors
    /// When it is not known which daemon is meant.
    pub fn client(&self) -> Result<Client, Failure> {
        let named = self.global.socket.clone();
        Ok(Client::new(named.map_or_else(|| config::control_socket(&self.global.config), Ok)?))
    }

    /// A client of the daemon for those who look what is wrong with the configuration: also where a file of it is no TOML and
    /// does not say where the daemon is. Then the likely place is taken, and said; whether it is a mere guess comes with it.
    ///
    /// # Errors
    /// When a configuration was named that cannot be read.
    pub fn client_despite_errors(&self) -> Result<(Client, bool), Failure> {
        if let Some(named) = &self.global.socket {
            return Ok((Client::new(named), false));
        }
        let config::NoToml { problem, likely, is_named } = match config::find_socket(&self.global.config)? {
            Ok(socket) => return Ok((Client::new(socket), false)),
            Err(broken) => broken,
        };
        self.note(&format!(
            "warning: {problem}\n  Looking for the daemon at {} (another place is named with --socket PATH).",
            likely.display()
        ));
        Ok((Client::new(likely), !is_named))
    }

    /// Says something to the person beside the result: on standard error, so that a pipe does not get it.
    pub fn note(&self, text: &str) {
        // If standard error is closed there is nobody left to tell.
        let _ = std::io::stderr()
            .write_all(format!("posternctl: {}\n", self.out.advice.in_text(text)).as_bytes());
    }
}

/// Runs the program with the arguments of a process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version come this way too; a closed terminal is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let out = Output::stdout(&arguments.global);
    let mut session = Session { global: arguments.global, out, now: SystemTime::now() };
    let result = execute(arguments.noun, &mut session).and_then(|exit| {
        session.out.flush()?;
        Ok(exit)
    });
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(text) = failure.text() {
                session.note(&text);
            }
            failure.exit().into()
        }
    }
}

/// The command line, for the manual page.
pub fn command() -> clap::Command {
    Arguments::command()
}

fn execute(noun: Noun, session: &mut Session) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match noun {
            Noun::Status => status::status(session).await,
            Noun::Reload => status::reload(session).await,
            Noun::Queue(verb) => verb.run(session).await,
            Noun::Message(verb) => verb.run(session).await,
            Noun::Rule(verb) => verb.run(session).await,
            Noun::Relay(verb) => verb.run(session).await,
            Noun::Store(verb) => verb.run(session).await,
            Noun::Audit(options) => options.run(session).await,
            Noun::Policy(verb) => verb.run(session).await,
            Noun::Explain(explain) => explain.run(session).await,
            Noun::Doctor(doctor) => doctor.run(session).await,
            // The one with the most to keep: boxed, so that the others need not have its room.
            Noun::Account(verb) => Box::pin(verb.run(session)).await,
            Noun::Ban(verb) => verb.run(session).await,
            Noun::Domain(verb) => verb.run(session).await,
            Noun::Dkim(verb) => verb.run(session),
            Noun::Metrics(metrics) => metrics.run(session).await,
            Noun::Config(verb) => verb.run(session),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_and_option_is_documented() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} says nothing",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&command());
    }

    #[test]
    fn usage_errors_end_with_two() {
        let run = |arguments: &[&str]| run(arguments.iter().map(OsString::from));
        assert_eq!(run(&["posternctl", "queue", "list", "--state", "lost"]), ExitCode::from(2));
        assert_eq!(run(&["posternctl", "queue", "hold"]), ExitCode::from(2));
    }

    #[test]
    fn a_daemon_that_is_not_there_ends_with_four() {
        let arguments = ["posternctl", "--socket", "/nonexistent/control.sock", "status"];
        assert_eq!(run(arguments.iter().map(OsString::from)), ExitCode::from(4));
    }

    /// A paragraph is one line: clap wraps it for the terminal, and what was wrapped before would be wrapped twice.
    #[test]
    fn paragraphs_of_help_are_wrapped_once() {
        fn look(command: &clap::Command, found: &mut Vec<String>) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_prose = |line: &str| line.chars().next().is_some_and(|first| !first.is_whitespace());
            let lines: Vec<&str> = text.lines().collect();
            let twice = lines.windows(2).filter(|pair| is_prose(pair[0]) && is_prose(pair[1]));
            found.extend(twice.map(|pair| format!("{}: {:?}", command.get_name(), pair[0])));
            command.get_subcommands().for_each(|inner| look(inner, found));
        }
        let mut found = Vec::new();
        look(&command(), &mut found);
        assert_eq!(found, [] as [String; 0]);
    }
}
