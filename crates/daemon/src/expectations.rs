//! The configuration with what its operator expects of it: tables of questions with the answers that the rules must give.

use std::path::Path;
use std::time::SystemTime;

use postern_admin::explain::Words;
use postern_admin::policy_test::{self, Problems};
use postern_config::diagnostic::Severity;
use postern_config::{ConfigError, Diagnostic, Loaded};
use postern_policy::relay::{Decision, Question};
use postern_smtp_inbound::replies::{self, Refused};

/// A configuration, and how it stands to its tables.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub loaded: Loaded,
    /// Questions of `policy.tests` that are answered otherwise than expected, and that it runs with all the same.
    pub wrong: Vec<Diagnostic>,
}

/// Loads a configuration, and asks it the tables of `policy.tests`: for a check, and for a reload.
///
/// # Errors
/// What is wrong with the files, or the questions that are answered otherwise than expected. The configuration must not come into
/// force then.
pub fn load(path: &Path) -> Result<Checked, ConfigError> {
    let loaded = postern_config::load(path)?;
    let problems = problems(&loaded);
    match problems.errors() {
        errors if errors.is_empty() => Ok(checked(loaded, problems)),
        diagnostics => Err(ConfigError { diagnostics }),
    }
}

/// The same for a start. There is no old configuration that could stay in force, and a server that is down takes no mail at all:
/// so only what is more open than a table says keeps it from starting. What is more closed, or refused for another reason, is
/// an error in the log, a warning of `posternctl status`, and counted in the metrics.
///
/// # Errors
/// What is wrong with the files; a question that is answered with yes and must not be; a table that cannot be asked.
pub fn load_to_start(path: &Path) -> Result<Checked, ConfigError> {
    let loaded = postern_config::load(path)?;
    let problems = problems(&loaded);
    match problems.open.is_empty() {
        true => Ok(checked(loaded, problems)),
        false => Err(ConfigError { diagnostics: problems.errors() }),
    }
}

fn checked(mut loaded: Loaded, problems: Problems) -> Checked {
    loaded.warnings.extend(problems.locked);
    let as_warning = |wrong: &Diagnostic| Diagnostic {
        severity: Severity::Warning,
        message: format!("a question of policy.tests is answered otherwise than expected: {}", wrong.message),
        ..wrong.clone()
    };
    loaded.warnings.extend(problems.strict.iter().map(as_warning));
    Checked { loaded, wrong: problems.strict }
}

fn problems(loaded: &Loaded) -> Problems {
    let words = Words {
        refused: |question: &Question<'_>, decision: &Decision| {
            replies::refused(&Refused { question, decision, name: None, config: &loaded.config }).0
        },
    };
    policy_test::problems(&loaded.config, &words, SystemTime::now())
}
