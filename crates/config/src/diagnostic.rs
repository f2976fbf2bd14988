//! What is wrong with a configuration, and where.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration does not load.
    Error,
    /// It loads, but somebody should look.
    Warning,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Where in the file; `None` if the problem is the file itself.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// How many characters of the line it covers, at least 1.
    pub width: usize,
    /// The text of the line; `None` where it may hold a secret.
    pub source: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: error: message`, as compilers write it and editors read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, " {severity}: {}", self.message)
    }
}

/// A configuration that does not load, with all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(diagnostics))]
pub struct ConfigError {
    /// The errors, and warnings beside them; there is at least one error.
    pub diagnostics: Vec<Diagnostic>,
}

/// The problems as text for people: each with its line, a mark below it, and what to do.
///
/// ```text
/// /etc/postern/postern.toml:1:1: error: unknown key `hostnam`
///    1 | hostnam = "mail.proseware.test"
///      | ^^^^^^^
///      = help: did you mean `hostname`?
/// ```
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{diagnostic}");
        if let Some(Place { line, column, width, source: Some(source) }) = &diagnostic.place {
            let printable = source.chars().map(|c| if c.is_control() { ' ' } else { c });
            let _ = writeln!(text, "{line:>4} | {}", printable.collect::<String>());
            let _ = writeln!(text, "     | {}{}", " ".repeat(column - 1), "^".repeat(*width));
        }
        if let Some(help) = &diagnostic.help {
            let _ = writeln!(text, "     = help: {help}");
        }
    }
    text
}
