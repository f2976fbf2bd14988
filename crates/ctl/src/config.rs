//! `config check`, and finding the control socket.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Subcommand;
use postern_admin::policy_test;
use postern_config::diagnostic::Severity;
use postern_config::{Admin, Config, Diagnostic, Loaded, Resolver, render};
use postern_runtime::dns::{HickoryDns, NameServers};
use serde::Serialize;
use toml_edit::DocumentMut;

use crate::failure::{Exit, Failure};
use crate::policy::words;
use crate::{DEFAULT_CONFIG, Session};

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read the configuration as the daemon would, and say what is wrong with it. Ends with 0 or 1.
    Check {
        /// The file; by default that of --config.
        #[arg(value_name = "FILE")]
        path: Option<PathBuf>,
    },
}

/// The answer to `check`.
#[derive(Debug, Serialize)]
struct Checked {
    configuration: String,
    ok: bool,
    problems: Vec<Problem>,
}

/// A problem and its place.
#[derive(Debug, Serialize)]
struct Problem {
    /// `error` or `warning`.
    severity: &'static str,
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    help: Option<String>,
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            file: diagnostic.file.display().to_string(),
            line: diagnostic.place.as_ref().map(|place| place.line),
            column: diagnostic.place.as_ref().map(|place| place.column),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let Self::Check { path } = self;
        let path = path.unwrap_or_else(|| session.global.config.clone());
        let (diagnostics, summary) = match postern_config::load(&path) {
            Ok(loaded) => checked_answers(&loaded),
            Err(error) => (error.diagnostics, None),
        };
        let checked = Checked {
            configuration: path.display().to_string(),
            ok: summary.is_some(),
            problems: diagnostics.iter().map(Problem::from).collect(),
        };
        if !session.out.json {
            complain(&render(&diagnostics));
        }
        let ok = |summary: String| format!("{}: ok: {summary}\n", path.display());
        session.out.answer(&checked, |_, _| summary.map(ok).unwrap_or_default())?;
        Ok(if checked.ok { Exit::Done } else { Exit::Finding })
    }
}

/// Also the answers that the operator expects must be right, and certificates and keys belong together.
fn checked_answers(loaded: &Loaded) -> (Vec<Diagnostic>, Option<String>) {
    let problems = policy_test::problems(&loaded.config, &words(&loaded.config), SystemTime::now());
    let mut wrong = problems.errors();
    wrong.extend(postern_smtp_inbound::tls::problems(&loaded.config));
    let summary = wrong.is_empty().then(|| summary(loaded));
    ([loaded.warnings.clone(), problems.locked, wrong].concat(), summary)
}

fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let counted = crate::output::counted;
    [
        counted(config.listeners.len(), "listener"),
        counted(config.domains.len(), "domain"),
        counted(config.routes.len(), "route"),
        counted(config.accounts.len(), "account"),
    ]
    .join(", ")
}

/// Shows a text of several lines that explains itself.
fn complain(text: &str) {
    use std::io::Write;
    // If standard error is closed there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The whole configuration, for commands that work without the daemon.
///
/// # Errors
/// [`Failure::Finding`] with all that is wrong.
pub fn load(path: &Path) -> Result<Loaded, Failure> {
    postern_config::load(path).map_err(|error| {
        Failure::Finding(format!("the configuration is wrong\n{}", error.to_string().trim_end()))
    })
}

/// Asks the name servers that a configuration names.
///
/// # Errors
/// [`Failure::Finding`] where they cannot be asked at all.
pub fn resolver(config: &Config) -> Result<HickoryDns, Failure> {
    let Resolver { nameservers, timeout, attempts, cache_size } = config.resolver.clone();
    let servers = NameServers { addresses: nameservers, timeout, attempts, cache_size };
    HickoryDns::new(&servers).map_err(|error| Failure::Finding(error.to_string()))
}

/// The control socket that a configuration names. Reads nothing else of it: the daemon must be reachable while somebody
/// has half edited the file, and for users who may not read its secrets.
///
/// # Errors
/// A file that was named and cannot be read, or one that is no TOML: to guess could mean to change another server's queue.
pub fn control_socket(config: &Path) -> Result<PathBuf, Failure> {
    let folder = config.parent().unwrap_or(Path::new("."));
    let mut named = match std::fs::read_to_string(config) {
        Ok(text) => named_socket(config, &text)?,
        Err(_) if config == Path::new(DEFAULT_CONFIG) => None,
        Err(error) => {
            let path = config.display();
            return Err(Failure::Usage(format!(
                "{path}: {error}: name another file by --config, or the socket by --socket"
            )));
        }
    };
    for file in parts(folder) {
        // One that cannot be read is the daemon's own business, as long as another names the socket.
        if let (None, Ok(text)) = (&named, std::fs::read_to_string(&file)) {
            named = named_socket(&file, &text)?;
        }
    }
    // An absolute path stays what it is.
    Ok(folder.join(named.unwrap_or_else(|| Admin::default().socket)))
}

/// The main file and those of `conf.d`, in the order in which they count.
pub(crate) fn files(config: &Path) -> Vec<PathBuf> {
    let mut parts = parts(config.parent().unwrap_or(Path::new(".")));
    parts.sort();
    [vec![config.to_owned()], parts].concat()
}

/// The name of this server, where a configuration can be read that says it: for a remark beside an answer, never more.
pub fn hostname(config: &Path) -> Option<String> {
    let folder = config.parent().unwrap_or(Path::new("."));
    let files = std::iter::once(config.to_owned()).chain(parts(folder));
    files.into_iter().find_map(|file| {
        let document: DocumentMut = std::fs::read_to_string(file).ok()?.parse().ok()?;
        document.get("hostname")?.as_str().map(str::to_owned)
    })
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("conf.d")).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

fn named_socket(file: &Path, text: &str) -> Result<Option<PathBuf>, Failure> {
    let document: DocumentMut = text.parse().map_err(|error| {
        let file = file.display();
        Failure::Finding(format!(
            "{file} is no TOML, so it does not say where the daemon is (--socket does; `posternctl config check` says all that is \
             wrong):\n{error}"
        ))
    })?;
    let socket = document.get("admin").and_then(|admin| admin.get("socket"));
    Ok(socket.and_then(|socket| socket.as_str()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_socket_is_found_in_a_configuration_that_would_not_load() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, "no_such_key = 1\n[admin]\nsocket = \"run/control.sock\"\n").unwrap();
        assert_eq!(control_socket(&config).unwrap(), folder.path().join("run/control.sock"));
    }

    #[test]
    fn the_socket_is_never_guessed_from_a_file_that_was_named_and_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        assert!(matches!(control_socket(&config), Err(Failure::Usage(_))));
        std::fs::write(&config, "hostname = \n").unwrap();
        let Err(Failure::Finding(problem)) = control_socket(&config) else { panic!("it is no TOML") };
        assert!(problem.contains("--socket") && problem.contains("posternctl config check"), "{problem}");
    }

    #[test]
    fn the_hostname_is_a_remark_that_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        assert_eq!(hostname(&config), None);
        std::fs::write(&config, "hostname = \"mail.proseware.test\"\nno_such_key = 1\n").unwrap();
        assert_eq!(hostname(&config).as_deref(), Some("mail.proseware.test"));
    }

    #[test]
    fn problems_for_programs_have_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, "hostname = \"mail.proseware.test\"\nhostnam = 1\n").unwrap();
        let error = postern_config::load(&config).unwrap_err();
        let problem = Problem::from(&error.diagnostics[0]);
        assert_eq!((problem.severity, problem.line, problem.column), ("error", Some(2), Some(1)));
        assert!(problem.message.contains("hostnam"), "{}", problem.message);
    }

    #[test]
    fn the_socket_may_stand_in_conf_d() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, "hostname = \"mail.proseware.test\"\n").unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/10-admin.toml"), "admin.socket = \"/run/x.sock\"\n")
            .unwrap();
        std::fs::write(folder.path().join("conf.d/notes.txt"), "admin.socket = \"/run/y.sock\"\n").unwrap();
        assert_eq!(control_socket(&config).unwrap(), Path::new("/run/x.sock"));
    }
}
