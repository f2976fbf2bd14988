//! The configuration with what its operator expects of it: tables of questions with the answers that the rules must give.

use std::path::Path;
use std::time::SystemTime;

use postern_admin::explain::Words;
use postern_admin::policy_test;
use postern_config::{ConfigError, Loaded};
use postern_policy::relay::{Decision, Question};
use postern_smtp_inbound::replies::{self, Refused};

/// Loads a configuration, and asks it the tables of `policy.tests`.
///
/// # Errors
/// What is wrong with the files, or the questions that are answered otherwise than expected. The configuration must not come into
/// force then.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let loaded = postern_config::load(path)?;
    let words = Words {
        refused: |question: &Question<'_>, decision: &Decision| {
            replies::refused(&Refused { question, decision, name: None, config: &loaded.config }).0
        },
        session_check: replies::session_check,
    };
    let diagnostics = policy_test::problems(&loaded.config, &words, SystemTime::now());
    match diagnostics.is_empty() {
        true => Ok(loaded),
        false => Err(ConfigError { diagnostics }),
    }
}
