//! `policy test`: do the rules answer as the operator expects?

use std::fmt::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use postern_admin::policy_test::{Expect, Expected, RowReport, Runner, Table, TableReport};
use serde::Serialize;

use super::{decision_text, words};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look, counted};

pub(super) const EXAMPLES: &str = "\
Examples:
  posternctl policy test relay-tests.toml
  posternctl policy test                            (the tables of `policy.tests`)
  posternctl --config new.toml policy test relay-tests.toml --json

A question:
  [[question]]
  name = \"strangers may not relay\"
  client = \"198.51.100.9\"
  from = \"someone@adatum.test\"
  to = \"someone@thephone-company.test\"
  expect = \"reject\"                  # accept, reject or defer
  reason = \"not-trusted-not-local\"   # may be left out, like code
  code = 550

The configuration file is asked, not the daemon. Ends with 0 if every answer is the one expected, with 1 if not, \
with 2 if a table cannot be read.";

/// Which tables.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// Tables of questions; by default those of `policy.tests`.
    #[arg(value_name = "FILE")]
    tables: Vec<PathBuf>,
    /// Show failing questions only.
    #[arg(long, short)]
    quiet: bool,
}

/// What came of all tables.
#[derive(Debug, Serialize)]
struct Tested {
    questions: usize,
    failed: usize,
    tables: Vec<TableReport>,
}

impl TestOptions {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a table that cannot be read, and where none is named.
    pub fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let config = crate::config::load(&session.global.config)?.config;
        let paths = if self.tables.is_empty() { &config.policy.tests } else { &self.tables };
        if paths.is_empty() {
            let text = "which table? Name a file, or list it in the configuration: [policy] tests = [\"relay-tests.toml\"]";
            return Err(Failure::Usage(text.to_owned()));
        }
        let tables = paths.iter().map(|path| Table::read(path)).collect::<Result<Vec<_>, _>>();
        let tables = tables.map_err(|error| Failure::Usage(error.to_string()))?;
        let words = words(&config);
        let mut runner = Runner::new(&config, &words, SystemTime::now());
        let tables: Vec<TableReport> = tables.iter().map(|table| runner.run(table)).collect();
        let tested = Tested {
            questions: tables.iter().map(|table| table.rows.len()).sum(),
            failed: tables.iter().map(|table| table.failed().count()).sum(),
            tables,
        };
        session.out.answer(&tested, |tested, look| text(tested, self.quiet, look))?;
        Ok(if tested.failed == 0 { Exit::Done } else { Exit::Finding })
    }
}

fn text(tested: &Tested, quiet: bool, look: Look) -> String {
    let mut text = String::new();
    for table in &tested.tables {
        let rows: Vec<_> = table.rows.iter().filter(|row| !quiet || !row.passed).map(cells).collect();
        if !rows.is_empty() {
            let _ = writeln!(text, "{}", table.file.display());
            text += &output::table(&["", "LINE", "QUESTION", "ANSWER", "EXPECTED"], rows, look);
            text.push('\n');
        }
        for row in table.rows.iter().filter(|row| row.passed) {
            if let Some(why) = &row.locked {
                let _ = writeln!(text, "{}:{}: {}", table.file.display(), row.line, output::clean(why));
            }
        }
        table.failed().for_each(|row| text += &failure(table, row, quiet, look));
    }
    let _ = match tested.failed {
        0 => writeln!(text, "{}, each answered as expected", counted(tested.questions, "question")),
        failed => {
            writeln!(text, "{}, {failed} not answered as expected", counted(tested.questions, "question"))
        }
    };
    text
}

fn cells(row: &RowReport) -> Vec<String> {
    let verdict = if row.passed { "ok" } else { "failed" };
    let answer = row.answer.as_ref().map_or_else(|| "(cannot be asked)".to_owned(), |answer| answer.words());
    vec![verdict.to_owned(), row.line.to_string(), row.name.clone(), answer, expected(&row.expected)]
}

/// `reject: not-trusted-not-local (550)`, without what is not asked for.
fn expected(expected: &Expected) -> String {
    let reason = expected.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let code = expected.code.map_or_else(String::new, |code| format!(" ({code})"));
    format!("{}{reason}{code}", expected.verdict.as_str())
}

/// Everything about a question that is not answered as expected.
fn failure(table: &TableReport, row: &RowReport, quiet: bool, look: Look) -> String {
    let mut text = format!("{}:{}: {}\n", table.file.display(), row.line, output::clean(&row.name));
    for problem in &row.problems {
        let _ = writeln!(text, "  {}", output::clean(problem));
    }
    if let Some(rule) = &row.decided_by {
        let _ = writeln!(text, "  decided by {}: {}", rule.rule, output::clean(&rule.fact));
    }
    let (Some(request), Some(explanation), false) = (&row.request, &row.explanation, quiet) else {
        text.push('\n');
        return text;
    };
    // Who expects a refusal does not ask what would prevent it.
    let asks_for_remedies = row.expected.verdict == Expect::Accept;
    for stage in &explanation.stages {
        let _ = writeln!(text, "  {}", output::clean(&super::command(request, stage)));
        let mut decision = stage.decision.clone();
        decision.remedies.retain(|_| asks_for_remedies);
        decision_text(&decision, look).lines().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
        if let Some(reply) = &stage.reply {
            let _ = writeln!(text, "    reply: {}", output::clean(reply));
        }
    }
    text.push('\n');
    text
}
