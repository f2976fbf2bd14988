//! `config check`, and finding the control socket.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Subcommand;
use postern_admin::policy_test;
use postern_config::diagnostic::{Place, Severity};
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
            complain(&session.out.advice.in_text(&render(&diagnostics)));
        }
        let ok = |summary: String| format!("{}: ok: {summary}\n", path.display());
        session.out.answer(&checked, |_, _| summary.map(ok).unwrap_or_default())?;
        Ok(if checked.ok { Exit::Done } else { Exit::Finding })
    }
}

/// Also the answers that the operator expects must be right, and certificates and keys belong together.
fn checked_answers(loaded: &Loaded) -> (Vec<Diagnostic>, Option<String>) {
    let now = SystemTime::now();
    let answers = policy_test::problems(&loaded.config, &words(&loaded.config), now);
    let certificates = postern_smtp_inbound::tls::problems(&loaded.config, now);
    let wrong = answers.errors();
    let diagnostics = [loaded.warnings.clone(), answers.locked, wrong, certificates].concat();
    let is_wrong = diagnostics.iter().any(|found| found.severity == Severity::Error);
    (diagnostics, (!is_wrong).then(|| summary(loaded)))
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
    find_socket(config)?.map_err(|NoToml { problem, .. }| {
        Failure::Finding(format!(
            "{problem}\n  As long as the file is no TOML, it does not say where the daemon is. --socket PATH says it; \
             `posternctl status` and `posternctl reload` look for it all the same; `posternctl config check` says all that is wrong."
        ))
    })
}

/// A file of the configuration that cannot be read as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoToml {
    /// What is wrong with it and where, as compilers write it: `file:line:column: error: message`.
    pub problem: Box<Diagnostic>,
    /// Where the daemon most likely listens: at the socket that a line of the files names, else at the usual one.
    pub likely: PathBuf,
    /// Whether a line names it.
    pub is_named: bool,
}

/// The control socket that a configuration names, or what keeps the files from naming it.
///
/// # Errors
/// A file that was named and cannot be read.
pub fn find_socket(config: &Path) -> Result<Result<PathBuf, NoToml>, Failure> {
    let folder = config.parent().unwrap_or(Path::new("."));
    let main = match std::fs::read_to_string(config) {
        Ok(text) => Some((config.to_owned(), text)),
        Err(_) if config == Path::new(DEFAULT_CONFIG) => None,
        Err(error) => {
            let path = config.display();
            return Err(Failure::Usage(format!(
                "{path}: {error}: name another file by --config, or the socket by --socket"
            )));
        }
    };
    // One of conf.d that cannot be read is the daemon's own business, as long as another names the socket.
    let parts = parts(folder).into_iter().filter_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        Some((file, text))
    });
    // An absolute path stays what it is.
    let place = |named: Option<PathBuf>| folder.join(named.unwrap_or_else(|| Admin::default().socket));
    let (mut broken, mut likely) = (None, None);
    for (file, text) in main.into_iter().chain(parts) {
        match named_socket(&file, &text) {
            Ok(Some(named)) if broken.is_none() => return Ok(Ok(place(Some(named)))),
            // A file before it may name another one.
            Ok(named) => likely = named,
            Err(problem) => {
                likely = socket_by_line(&text);
                broken.get_or_insert(problem);
            }
        }
        if likely.is_some() {
            break;
        }
    }
    Ok(match broken {
        None => Ok(place(None)),
        Some(problem) => Err(NoToml { problem, is_named: likely.is_some(), likely: place(likely) }),
    })
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

fn named_socket(file: &Path, text: &str) -> Result<Option<PathBuf>, Box<Diagnostic>> {
    let document: DocumentMut = text.parse().map_err(|error| no_toml(file, text, &error))?;
    Ok(socket_of(&document))
}

fn socket_of(document: &DocumentMut) -> Option<PathBuf> {
    let socket = document.get("admin")?.get("socket")?;
    socket.as_str().map(PathBuf::from)
}

fn no_toml(file: &Path, text: &str, error: &toml_edit::TomlError) -> Box<Diagnostic> {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map(|before| Place {
        line: before.matches('\n').count() + 1,
        column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
        width: 1,
        // It may hold a secret.
        source: None,
    });
    let message = format!("no TOML: {}", error.message().replace('\n', "; "));
    Box::new(Diagnostic { severity: Severity::Error, file: file.to_owned(), place, message, help: None })
}

/// The socket that the line for it names, in a file whose other lines cannot all be read.
fn socket_by_line(text: &str) -> Option<PathBuf> {
    let mut table = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            table = line.to_owned();
        }
        // A table before the line makes its keys those of the table.
        let alone = match table.starts_with("[admin]") {
            true => format!("[admin]\n{line}"),
            false if table.is_empty() => line.to_owned(),
            false => continue,
        };
        if let Some(socket) = alone.parse().ok().as_ref().and_then(socket_of) {
            return Some(socket);
        }
    }
    None
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
    fn a_file_that_is_no_toml_says_where_and_the_likely_socket_is_that_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        let likely = |text: &str| {
            std::fs::write(&config, text).unwrap();
            let NoToml { problem, likely, .. } = find_socket(&config).unwrap().unwrap_err();
            (problem.to_string(), likely)
        };
        let (problem, usual) = likely("hostname = \"mail.proseware.test\"\n[tls\nkey = 1\n");
        let place = format!("{}:2:5: error: no TOML: ", config.display());
        assert!(problem.starts_with(&place), "{problem}");
        assert_eq!(usual, Admin::default().socket);
        let run = folder.path().join("run.sock");
        assert_eq!(likely("hostname =\n[tls]\nkey = 1\n[admin] # ours\nsocket = \"run.sock\"\n").1, run);
        assert_eq!(likely("admin.socket = \"run.sock\"\nhostname =\n").1, run);
        // That of another table is none.
        assert_eq!(likely("[other]\nsocket = \"run.sock\"\n[tls\n").1, usual);
        assert_eq!(likely("[other]\nadmin.socket = \"run.sock\"\n[tls\n").1, usual);
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/10-admin.toml"), "admin.socket = \"run.sock\"\n").unwrap();
        assert_eq!(likely("hostname =\n").1, run);
    }

    #[test]
    fn a_part_that_is_no_toml_does_not_hide_the_socket_of_the_main_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, "admin.socket = \"run.sock\"\n").unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/10.toml"), "[tls\n").unwrap();
        assert_eq!(control_socket(&config).unwrap(), folder.path().join("run.sock"));
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
