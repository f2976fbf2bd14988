//! posternd: arguments, assembly, start, stop, reload, and the demonstration.
//!
//! | question | module |
//! |---|---|
//! | how do the parts come together, and how do they end? | [`server`] |
//! | how is the queue loaded beside them? | [`loading`] |
//! | what does a reload change, and what not? | [`reload`] |
//! | do the rules answer as their operator expects? | [`expectations`] |
//! | who takes renewed certificates into use? | [`certificates`] |
//! | who looks after logins that are guessed or stolen? | [`guard`]; over a restart: [`state_file`] |
//! | at which addresses is this machine? | [`interfaces`] |
//! | who are we after start as root? | [`privileges`] |
//! | where does the log go? | [`logging`] |
//! | what does `posternd demo` do? | [`demo`] |

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use expectations::Checked;
use postern_config::ConfigError;
use postern_config::diagnostic::Severity;

pub mod certificates;
pub mod demo;
pub mod expectations;
mod failure;
pub mod guard;
pub mod interfaces;
pub mod loading;
pub mod logging;
pub mod privileges;
pub mod reload;
pub mod server;
mod sockets;
pub mod state_file;

/// Gives back to the system what a deep queue has let go of: the allocator of the C library keeps much of it, and takes more
/// processor time to load the queue (docs/benchmarks.md has the figures).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The configuration is wrong: systemd does not restart on it (sysexits EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

/// A mail server: takes mail in, says why when it does not, keeps it safe, delivers it.
#[derive(Debug, Parser)]
#[command(name = "posternd", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The main configuration file; `conf.d/*.toml` beside it is read too.
    #[arg(long, short, global = true, default_value = "/etc/postern/postern.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground until SIGTERM; SIGHUP reloads the configuration. This is the default.
    Run,
    /// Read the configuration, say what is wrong with it, and end with 0 or 78.
    Check,
    /// Show the whole way of a message on loopback: two servers, real mail, nothing else needed.
    Demo(demo::DemoArguments),
}

/// Runs the program with the arguments of a process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also --help and --version come this way; a closed terminal is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => serve(&arguments.run.config),
        Command::Check => check(&arguments.run.config),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}

/// The command line, for the manual page.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

fn serve(path: &Path) -> ExitCode {
    let checked = match shown(expectations::load_to_start(path)) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    let loaded = &checked.loaded;
    let log = match logging::start(&loaded.config.log) {
        Ok(log) => Arc::new(log),
        Err(error) => {
            complain(&format!("posternd: log.level: {error}\n"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(event = "configuration", "{warning}");
    }
    for wrong in &checked.wrong {
        tracing::error!(event = "policy-test-failed", "the server runs all the same: {wrong}");
    }
    // The log outlives the server: otherwise the reason of a failed start would be written by nobody.
    match server::run(checked, Arc::clone(&log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(event = "failed", "{}", failure::of_start(&error));
            ExitCode::FAILURE
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match shown(expectations::load(path).and_then(with_certificates)) {
        Ok(checked) => {
            let config = &checked.loaded.config;
            let counts = [
                counted(config.listeners.len(), "listener"),
                counted(config.domains.len(), "domain"),
                counted(config.routes.len(), "route"),
                counted(config.accounts.len(), "account"),
            ];
            let text = format!("{}: ok: {}\n", path.display(), counts.join(", "));
            // A closed standard output changes nothing about the answer, which is the exit code.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// Certificates and keys are tried too: whoever asks wants to know whether it would start, and whether clients will be content.
fn with_certificates(mut checked: Checked) -> Result<Checked, ConfigError> {
    let diagnostics = postern_smtp_inbound::tls::problems(&checked.loaded.config, SystemTime::now());
    if diagnostics.iter().any(|found| found.severity == Severity::Error) {
        return Err(ConfigError { diagnostics });
    }
    checked.loaded.warnings.extend(diagnostics);
    Ok(checked)
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Shows the problems of a configuration; warnings are shown too.
fn shown(checked: Result<Checked, ConfigError>) -> Result<Checked, ExitCode> {
    match checked {
        Ok(checked) => {
            if !checked.loaded.warnings.is_empty() {
                complain(&postern_config::render(&checked.loaded.warnings));
            }
            Ok(checked)
        }
        Err(error) => {
            complain(&error.to_string());
            Err(ExitCode::from(EXIT_CONFIG))
        }
    }
}

/// Writes to standard error; if even that is closed there is nobody left to tell.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
