//! What came of tables of questions.

use std::fmt::Write as _;
use std::path::PathBuf;

use postern_config::Diagnostic;
use postern_config::diagnostic::{Place, Severity};
use postern_policy::relay::{Verdict, deciding_rule};
use serde::Serialize;

use super::Expect;
use crate::api::{DecisionView, ExplainRequest, Explanation, Rule, StageView};
use crate::explain::goes_on;

/// What came of one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    /// The file.
    pub file: PathBuf,
    /// One for each question, in order.
    pub rows: Vec<RowReport>,
}

/// What came of one question.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// Where the question begins in the file.
    pub line: usize,
    /// Its name, or what it asks.
    pub name: String,
    /// Whether the answer is the one that was expected.
    pub passed: bool,
    /// What was expected.
    pub expected: Expected,
    /// What the rules say; left out where the question cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What of it is not as expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The answer is only as expected if the login could be used: why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<String>,
    /// The question as `posternctl policy explain` asks it, where the answer is not as expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<ExplainRequest>,
    /// The rule that gave this answer, where it is not as expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Rule>,
    /// And every rule that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// What was expected of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// `accept`, `reject` or `defer`.
    pub verdict: Expect,
    /// `not-trusted-not-local` ...; any, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The code of the reply; any, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// What the rules say: the answer of the last stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `connect`, `login`, `mail`, `rcpt` or `message`.
    pub stage: String,
    /// `accept`, `reject` or `defer`.
    pub verdict: String,
    /// Why: of a mail that is accepted, why its recipient is.
    pub reason: String,
    /// The code of the reply, where the words of replies are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The reply of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// The rule that made a decision.
fn decided_by(decision: &DecisionView) -> Option<Rule> {
    let rules: Vec<(&str, bool)> =
        decision.rules.iter().map(|rule| (rule.rule.as_str(), rule.matched)).collect();
    decision.rules.get(deciding_rule(&decision.reason.kind, &rules)?).cloned()
}

impl Answer {
    /// The rule that gave it, in the explanation that it is taken from.
    pub(super) fn decided_by(&self, explanation: &Explanation) -> Option<Rule> {
        let stage = explanation.stages.iter().find(|view| view.stage == self.stage)?;
        decided_by(&stage.decision)
    }

    pub(super) fn of(explanation: &Explanation) -> Self {
        let refused = explanation.stages.iter().find(|stage| !goes_on(stage));
        let Some(stage) = refused else { return Self::accepted(explanation) };
        let code = stage.reply.as_deref().and_then(|reply| reply.get(..3)?.parse().ok());
        Self { code, reply: stage.reply.clone(), ..Self::at(stage) }
    }

    /// Of a mail that is accepted it is the recipient that people ask about.
    fn accepted(explanation: &Explanation) -> Self {
        let rcpt = explanation.stages.iter().find(|stage| stage.stage == "rcpt");
        let at = rcpt.or(explanation.stages.last()).map(Self::at);
        let none = || Self {
            stage: "rcpt".to_owned(),
            verdict: Verdict::Accept.as_str().to_owned(),
            reason: String::new(),
            code: None,
            reply: None,
        };
        Self { code: Some(250), ..at.unwrap_or_else(none) }
    }

    fn at(stage: &StageView) -> Self {
        Self {
            stage: stage.stage.clone(),
            verdict: stage.decision.verdict.clone(),
            reason: stage.decision.reason.kind.clone(),
            code: None,
            reply: None,
        }
    }

    /// `reject: not-trusted-not-local (550)`.
    pub fn words(&self) -> String {
        let code = self.code.map_or_else(String::new, |code| format!(" ({code})"));
        format!("{}: {}{code}", self.verdict, self.reason)
    }
}

pub(super) fn differences(expected: &Expected, answer: &Answer) -> Vec<String> {
    let verdict = expected.verdict.as_str();
    let mut differences = Vec::new();
    if answer.verdict != verdict {
        differences.push(format!("it is answered with {}, not {verdict}", answer.verdict));
    }
    if let Some(reason) = expected.reason.as_ref().filter(|reason| **reason != answer.reason) {
        differences.push(format!("the reason is {}, not {reason}", answer.reason));
    }
    if let Some(code) = expected.code.filter(|code| Some(*code) != answer.code) {
        let given = answer.code.map_or_else(|| "not known here".to_owned(), |code| code.to_string());
        differences.push(format!("the code is {given}, not {code}"));
    }
    differences
}

impl TableReport {
    /// The questions with another answer than expected.
    pub fn failed(&self) -> impl Iterator<Item = &RowReport> {
        self.rows.iter().filter(|row| !row.passed)
    }

    /// What is wrong with the answers, as problems of a configuration.
    pub fn problems(&self) -> Problems {
        let help = format!(
            "`posternctl policy test {}` shows every rule that was looked at: change the rules, or what is expected",
            self.file.display()
        );
        let diagnostic = |row: &RowReport, severity, message| Diagnostic {
            severity,
            file: self.file.clone(),
            place: Some(Place { line: row.line, column: 1, width: 1, source: None }),
            message,
            help: (severity == Severity::Error).then(|| help.clone()),
        };
        let mut problems = Problems::default();
        for row in &self.rows {
            let list = match row.lets_in() {
                _ if row.passed => {
                    let locked = row.locked.iter().map(|why| format!("{:?}: {why}", row.name));
                    let locked = locked.map(|message| diagnostic(row, Severity::Warning, message));
                    problems.locked.extend(locked);
                    continue;
                }
                true => &mut problems.open,
                false => &mut problems.strict,
            };
            list.push(diagnostic(row, Severity::Error, row.problem()));
        }
        problems
    }
}

impl RowReport {
    /// Whether the rules take what the table says they do not.
    fn lets_in(&self) -> bool {
        let accepted = |answer: &Answer| answer.verdict == Expect::Accept.as_str();
        self.expected.verdict != Expect::Accept && self.answer.as_ref().is_some_and(accepted)
    }

    /// What is wrong, and the rule that decided, in one line.
    pub fn problem(&self) -> String {
        let mut text = format!("{:?}: {}", self.name, self.problems.join("; "));
        if let Some(rule) = &self.decided_by {
            // Writing to a string cannot fail.
            let _ = write!(text, " ({}: {})", rule.rule, rule.fact);
        }
        text
    }
}

/// What is wrong with the answers to the tables that a configuration names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// Errors: the rules take what a table says they do not, or there is no telling, as a table cannot be asked.
    pub open: Vec<Diagnostic>,
    /// Errors, too: any other answer than the one expected. Nobody gets in by them who should not.
    pub strict: Vec<Diagnostic>,
    /// Warnings: answers that are as expected but for a login that may not be used now.
    pub locked: Vec<Diagnostic>,
}

impl Problems {
    /// All errors.
    pub fn errors(&self) -> Vec<Diagnostic> {
        [self.open.clone(), self.strict.clone()].concat()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.open.extend(other.open);
        self.strict.extend(other.strict);
        self.locked.extend(other.locked);
    }
}
