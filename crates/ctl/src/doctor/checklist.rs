//! The steps one after the other, and what they found.

use std::fmt::Write as _;

use clap::Parser;
use postern_admin::api::doctor::{Check, Finding, Reports, TALLY_REACH, Tally, Weight};
use serde::Serialize;
use serde_json::Value as Json;

use super::sources::Sources;
use super::{Options, contact, relay, reports, reputation, settings};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look, Output};

/// A step of the checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Settings,
    Senders,
    Dns,
    Blocklists,
    Relay,
    Reputation,
    Contact,
}

impl Step {
    /// In their order: what is near and cheap to mend comes first.
    pub(super) const ALL: [Self; 7] = [
        Self::Settings,
        Self::Senders,
        Self::Dns,
        Self::Blocklists,
        Self::Relay,
        Self::Reputation,
        Self::Contact,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Senders => "senders",
            Self::Dns => "dns",
            Self::Blocklists => "blocklists",
            Self::Relay => "relay",
            Self::Reputation => "reputation",
            Self::Contact => "contact",
        }
    }

    async fn take(
        self,
        sources: &Sources,
        options: &Options,
        session: &Session,
    ) -> Result<(Vec<Finding>, Option<Json>), Failure> {
        let found = match self {
            Self::Settings => settings::look(sources, options.timeout, session).await?,
            Self::Senders => sources.check(Check::Senders).await?,
            Self::Dns => sources.check(Check::Dns).await?,
            Self::Blocklists => sources.check(Check::Blocklists).await?,
            Self::Relay => return relayed(options, session).await,
            Self::Reputation => {
                let tally = sources.tally(TALLY_REACH).await?;
                let reports = sources.reports(&options.reports).await?;
                let mut found = reputation::findings(&tally);
                found.extend(reports::findings(&reports));
                let details = serde_json::to_value(Reputation { tally, reports }).ok();
                return Ok((found, details));
            }
            Self::Contact => contact::notes(sources).await?,
        };
        Ok((found, None))
    }
}

/// What step 6 draws its findings from.
#[derive(Debug, Serialize)]
struct Reputation {
    #[serde(flatten)]
    tally: Tally,
    reports: Reports,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// Nothing has to be done.
    Well,
    /// Somebody has to do something.
    Findings,
    /// It could not be made: the finding says why.
    NotDone,
}

/// A step and what it found.
#[derive(Debug, Serialize)]
struct Taken {
    step: Step,
    outcome: Outcome,
    findings: Vec<Finding>,
    /// What the findings are drawn from, where there is more: the tricks of `relay`, the counts of `reputation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Json>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Checklist {
    outcome: Outcome,
    /// Why the daemon was not asked, where it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
    steps: Vec<Taken>,
}

impl Checklist {
    /// Takes the steps. One that fails keeps no other from being taken.
    ///
    /// # Errors
    /// Where it is not known which server is meant, or it does not answer this user.
    pub(super) async fn go_through(
        steps: &[Step],
        options: &Options,
        session: &Session,
    ) -> Result<Self, Failure> {
        let sources = Sources::find(session).await?;
        let mut taken = Vec::new();
        for step in steps {
            taken.push(Taken::new(*step, step.take(&sources, options, session).await));
        }
        let is_well = taken.iter().all(|taken| taken.outcome == Outcome::Well);
        let outcome = if is_well { Outcome::Well } else { Outcome::Findings };
        Ok(Self { outcome, unreachable: sources.status.err(), steps: taken })
    }

    /// Who cannot ask the daemon does not know whether all is well.
    pub(super) fn exit(&self) -> Exit {
        match (&self.unreachable, self.outcome) {
            (Some(_), _) => Exit::Unreachable,
            (None, Outcome::Well) => Exit::Done,
            (None, Outcome::Findings | Outcome::NotDone) => Exit::Finding,
        }
    }

    /// For people.
    pub(super) fn text(&self, look: Look, verbose: bool) -> String {
        let mut text = String::new();
        if let Some(problem) = &self.unreachable {
            let _ = writeln!(text, "{}", output::clean(problem));
            text +=
                "only what the configuration, the listeners and DNS tell without the daemon is looked at\n\n";
        }
        for taken in &self.steps {
            taken.tell(&mut text, look, verbose);
        }
        let concerns = self.steps.iter().flat_map(|taken| &taken.findings).filter(|f| f.is_concern()).count();
        match concerns {
            0 => text.push_str("\nnothing was found\n"),
            _ => drop(writeln!(text, "\n{}", output::counted(concerns, "finding"))),
        }
        text
    }
}

impl Taken {
    fn new(step: Step, result: Result<(Vec<Finding>, Option<Json>), Failure>) -> Self {
        match result {
            Ok((findings, details)) => {
                let is_well = !findings.iter().any(Finding::is_concern);
                let outcome = if is_well { Outcome::Well } else { Outcome::Findings };
                Self { step, outcome, findings, details }
            }
            Err(failure) => {
                let why = failure.text().unwrap_or_default();
                let finding = Finding::trouble(step.as_str(), format!("this step could not be taken: {why}"));
                Self { step, outcome: Outcome::NotDone, findings: vec![finding], details: None }
            }
        }
    }

    fn tell(&self, text: &mut String, look: Look, verbose: bool) {
        let number = Step::ALL.iter().position(|step| *step == self.step).unwrap_or_default() + 1;
        let concerns = self.findings.iter().filter(|finding| finding.is_concern()).count();
        let outcome = match self.outcome {
            Outcome::Well => look.paint("ok").into_owned(),
            Outcome::Findings => output::counted(concerns, "finding"),
            Outcome::NotDone => look.paint("not ok").into_owned(),
        };
        let _ = writeln!(text, "{number} {:10}  {outcome}", self.step.as_str());
        for finding in self.findings.iter().filter(|finding| verbose || finding.is_concern()) {
            let _ = writeln!(
                text,
                "  {:8} {}: {}",
                finding.weight.as_str(),
                output::clean(&finding.place),
                indented(&finding.text)
            );
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "           mend: {}", indented(remedy));
            }
        }
    }
}

/// What has several lines stays so, below the first.
fn indented(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(output::clean).collect();
    lines.join("\n           ")
}

/// The check for open relays makes its own report; here it is one step among others.
async fn relayed(options: &Options, session: &Session) -> Result<(Vec<Finding>, Option<Json>), Failure> {
    /// Its options have defaults that only the command line knows.
    #[derive(Debug, Parser)]
    struct Defaults {
        #[command(flatten)]
        options: relay::Options,
    }
    let source = options.source.map(|source| format!("--source={source}"));
    let arguments = std::iter::once("relay".to_owned()).chain(source);
    let defaults = Defaults::try_parse_from(arguments).map_err(|error| Failure::Usage(error.to_string()))?;
    let (out, kept) = Output::kept();
    let mut inner = Session { global: session.global.clone(), out, now: session.now };
    defaults.options.run(&mut inner).await?;
    let report = kept.json().unwrap_or_default();
    Ok((relay_findings(&report), Some(report)))
}

fn relay_findings(report: &Json) -> Vec<Finding> {
    let texts = |list: &Json| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
    };
    let mut found: Vec<Finding> =
        texts(&report["notes"]).into_iter().map(|note| Finding::note("relay", note)).collect();
    for server in report["servers"].as_array().into_iter().flatten() {
        let word = |key: &str| server[key].as_str().unwrap_or_default();
        let place = format!("{} {}", word("kind"), word("address")).trim().to_owned();
        let doubts = texts(&server["doubts"]);
        let came_through = server["tricks"].as_array().into_iter().flatten();
        let came_through: Vec<&str> = came_through
            .filter(|trick| {
                matches!(trick["verdict"].as_str(), Some("accepted" | "accepted-as-local" | "doubtful"))
            })
            .filter_map(|trick| trick["trick"].as_str())
            .collect();
        let why = if came_through.is_empty() { doubts.join("; ") } else { came_through.join(", ") };
        found.push(match word("outcome") {
            "closed" => Finding::note(place, "closed: every trick was refused"),
            "open" => Finding::error(place, format!("AN OPEN RELAY: {why}"))
                .mend("posternctl doctor relay --verbose; posternctl relay list"),
            "unreachable" => Finding::trouble(place, format!("not asked: {why}")),
            _ => Finding::warning(place, format!("not proved to be closed: {why}"))
                .mend("posternctl doctor relay --source IP, with an address that is not trusted, or from another machine"),
        });
    }
    if !found.iter().any(|finding| finding.weight != Weight::Note || finding.text.starts_with("closed")) {
        found.push(Finding::trouble("relay", "no listener was asked"));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checklist(findings: Vec<Finding>) -> Checklist {
        let taken = Taken::new(Step::Senders, Ok((findings, None)));
        Checklist { outcome: taken.outcome, unreachable: None, steps: vec![taken] }
    }

    #[test]
    fn findings_are_shown_with_what_mends_them() {
        let note = Finding::note("login alice", "may send as alice@proseware.test");
        let concern = Finding::warning("login bob", "it is suspended\u{7}:\nspam")
            .mend("posternctl account unlock bob");
        let list = checklist(vec![note, concern]);
        let expected = "\
2 senders     1 finding
  warning  login bob: it is suspended?:
           spam
           mend: posternctl account unlock bob

1 finding
";
        assert_eq!(list.text(Look::PLAIN, false), expected);
        assert!(list.text(Look::PLAIN, true).contains("  note     login alice: may send as"));
        assert_eq!(list.exit(), Exit::Finding);
    }

    #[test]
    fn notes_are_well_and_a_daemon_that_is_gone_is_never() {
        let mut list = checklist(vec![Finding::note("x", "y")]);
        assert_eq!(list.exit(), Exit::Done);
        assert_eq!(list.text(Look::PLAIN, false), "2 senders     ok\n\nnothing was found\n");
        list.unreachable = Some("no daemon answers".to_owned());
        assert_eq!(list.exit(), Exit::Unreachable);
    }

    #[test]
    fn a_step_that_fails_is_a_finding() {
        let taken = Taken::new(Step::Dns, Err(Failure::Finding("the configuration is wrong".to_owned())));
        assert_eq!(taken.outcome, Outcome::NotDone);
        assert!(taken.findings[0].is_concern() && taken.findings[0].text.contains("is wrong"));
    }

    #[test]
    fn what_the_relay_check_proves_becomes_a_finding() {
        let server = |outcome: &str, verdict: &str| {
            json!({"kind": "mx", "address": "192.0.2.25:25", "outcome": outcome, "doubts": ["you are trusted"],
                   "tricks": [{"trick": "percent", "verdict": verdict}]})
        };
        let weights = |outcome: &str, verdict: &str| {
            let found = relay_findings(&json!({"notes": [], "servers": [server(outcome, verdict)]}));
            (found[0].weight, found[0].text.clone())
        };
        assert_eq!(weights("closed", "refused").0, Weight::Note);
        let (weight, text) = weights("open", "accepted");
        assert!(weight == Weight::Error && text.contains("percent"), "{text}");
        let (weight, text) = weights("doubtful", "refused");
        assert!(weight == Weight::Warning && text.contains("you are trusted"), "{text}");
        assert_eq!(relay_findings(&json!({}))[0].weight, Weight::Trouble);
    }
}
