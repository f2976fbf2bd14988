//! `config check`, and finding the control socket.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use postern_config::diagnostic::Severity;
use postern_config::{Admin, Diagnostic, Loaded, render};
use serde::Serialize;
use toml_edit::DocumentMut;

use crate::Session;
use crate::failure::{Exit, Failure};

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
            Ok(loaded) => (loaded.warnings.clone(), Some(summary(&loaded))),
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

/// The control socket that a configuration names. Reads nothing else of it: the daemon must be reachable while somebody
/// has half edited the file, and for users who may not read its secrets.
pub fn control_socket(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new("."));
    let mut files = vec![config.to_owned()];
    let parts =
        std::fs::read_dir(folder.join("conf.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    files.extend(parts.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
    let named = files.iter().find_map(|file| named_socket(file));
    let path = named.unwrap_or_else(|| Admin::default().socket);
    // An absolute path stays what it is.
    folder.join(path)
}

fn named_socket(file: &Path) -> Option<PathBuf> {
    let document: DocumentMut = std::fs::read_to_string(file).ok()?.parse().ok()?;
    document.get("admin")?.get("socket")?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_socket_is_found_in_a_configuration_that_would_not_load() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postern.toml");
        assert_eq!(control_socket(&config), Admin::default().socket);
        std::fs::write(&config, "no_such_key = 1\n[admin]\nsocket = \"run/control.sock\"\n").unwrap();
        assert_eq!(control_socket(&config), folder.path().join("run/control.sock"));
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
        assert_eq!(control_socket(&config), Path::new("/run/x.sock"));
    }
}
