//! Long work: asked of the daemon or done in this process, and told line by line while it goes on.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;

use postern_admin::ClientError;
use postern_admin::api::store::{Event, Finding, Progress};
use postern_admin::api::{VERSION, Versioned};
use postern_queue::store::StoreError;
use postern_queue::store::fix::Plan;
use postern_queue::store::job::Tidings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check::finding_text;
use super::place::offline_failure;
use crate::Session;
use crate::failure::Failure;
use crate::output::{self, Output};

/// Findings that are kept for `--json`; more are counted.
const MAX_FINDINGS: usize = 10_000;

/// What long work ended with.
#[derive(Debug, Serialize)]
pub(super) struct Ended<A> {
    #[serde(flatten)]
    pub(super) answer: A,
    pub(super) findings: Vec<Finding>,
    /// Findings that are not listed.
    pub(super) omitted: u64,
    /// What can be done about all of them.
    #[serde(skip)]
    pub(super) plan: Plan,
}

/// Asks the daemon for long work and shows what it tells.
pub(super) async fn ask<A: DeserializeOwned>(
    session: &mut Session,
    path: &str,
    request: &impl Serialize,
) -> Result<Ended<A>, Failure> {
    let client = session.client()?;
    let mut telling = Telling::new(&mut session.out);
    let mut answer = None;
    let result = client
        .lines(path, request, |line| {
            match event(line)? {
                Event::Progress(Progress { stage, done, of }) => telling.progress(&stage, done, of),
                Event::Finding(finding) => telling.finding(finding).map_err(ClientError::Output)?,
                Event::Done(done) => answer = Some(done),
                Event::Failed(problem) => return Err(ClientError::Refused(problem)),
            }
            Ok(())
        })
        .await;
    telling.end();
    result?;
    let broken =
        || ClientError::Protocol("the answer ended before the work did: see the daemon's log".to_owned());
    Ok(Ended {
        answer: answer.ok_or_else(broken)?,
        findings: telling.findings,
        omitted: telling.omitted,
        plan: telling.plan,
    })
}

fn event<A: DeserializeOwned>(line: &[u8]) -> Result<Event<A>, ClientError> {
    let unknown = |error: serde_json::Error| ClientError::Protocol(error.to_string());
    let versioned: Versioned<Event<A>> = serde_json::from_slice(line).map_err(unknown)?;
    match versioned.version {
        VERSION => Ok(versioned.answer),
        version => Err(ClientError::Protocol(format!(
            "it speaks version {version} and this program version {VERSION}"
        ))),
    }
}

/// Does long work in this process and shows what it tells.
pub(super) fn work<A>(
    session: &mut Session,
    work: impl FnOnce(&mut dyn FnMut(Tidings) -> ControlFlow<()>) -> Result<A, StoreError>,
) -> Result<Ended<A>, Failure> {
    let mut telling = Telling::new(&mut session.out);
    let mut printed = Ok(());
    let result = work(&mut |news| {
        match news {
            Tidings::Progress(progress) => telling.progress(progress.stage, progress.done, progress.of),
            Tidings::Finding(finding) => printed = telling.finding(finding),
        }
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    telling.end();
    printed?;
    let answer = result.map_err(offline_failure)?;
    Ok(Ended { answer, findings: telling.findings, omitted: telling.omitted, plan: telling.plan })
}

/// Shows what long work tells.
struct Telling<'a> {
    out: &'a mut Output,
    is_terminal: bool,
    findings: Vec<Finding>,
    omitted: u64,
    plan: Plan,
}

impl<'a> Telling<'a> {
    fn new(out: &'a mut Output) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !out.json;
        Self { out, is_terminal, findings: Vec::new(), omitted: 0, plan: Plan::default() }
    }

    /// On a terminal, one line that is written over and over.
    fn progress(&mut self, stage: &str, done: u64, of: u64) {
        if !self.is_terminal {
            return;
        }
        let text = match of {
            0 => stage.to_owned(),
            of => format!("{stage}: {} %", done.saturating_mul(100) / of),
        };
        self.rewrite(&output::clean(&text));
    }

    /// If standard error is closed there is nobody left to tell.
    fn rewrite(&self, text: &str) {
        let _ = std::io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
    }

    /// Findings for people are shown as they come.
    fn finding(&mut self, finding: Finding) -> std::io::Result<()> {
        self.plan.take(&finding);
        if !self.out.json {
            if self.is_terminal {
                self.rewrite("");
            }
            self.out.words(&finding_text(&finding))?;
            return self.out.flush();
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.omitted += 1;
        }
        Ok(())
    }

    fn end(&self) {
        if self.is_terminal {
            self.rewrite("");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::store::Rebuilt;

    use super::*;
    use crate::store::check::tests::finding;

    #[test]
    fn events_are_read_as_they_are_written() {
        for written in [
            Event::Progress(Progress { stage: "log".to_owned(), done: 1, of: 2 }),
            Event::Finding(finding()),
            Event::Done(Rebuilt { rows: Some(7) }),
            Event::Done(Rebuilt { rows: None }),
        ] {
            let line = serde_json::to_vec(&Versioned::new(&written)).unwrap();
            assert_eq!(event::<Rebuilt>(&line).unwrap(), written);
        }
        assert!(event::<Rebuilt>(br#"{"version":2,"event":"done","rows":1}"#).is_err());
        assert!(event::<Rebuilt>(b"half").is_err());
    }
}
