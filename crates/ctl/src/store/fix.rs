//! `store check --fix`: check, ask, do what loses nothing, and check again.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;

use nix::unistd::Uid;
use postern_admin::api::store::{Checked, Finding, Fix, FixRequest, Fixed};
use postern_admin::{fix_event, note_at_rest};
use postern_queue::store::files::Files;
use postern_queue::store::{Store, StoreError};
use postern_runtime::SystemClock;
use serde::Serialize;

use super::check::{CheckOptions, Spool, checked_text};
use super::place::offline_failure;
use super::work::{Ended, ask, work};
use crate::failure::{Exit, Failure};
use crate::{Session, output};

/// What was found, what was done about it, and how the spool is now: as the answer to `check` has it.
#[derive(Debug, Serialize)]
struct Mended {
    /// Whether nothing was done because only that was asked.
    dry_run: bool,
    /// As it was.
    before: Checked,
    /// What is to be done, or was.
    fixes: Vec<Fix>,
    #[serde(flatten)]
    done: Fixed,
    #[serde(flatten)]
    now: Checked,
    /// What is left.
    findings: Vec<Finding>,
    /// Findings that are not listed.
    omitted: u64,
    /// Whether something is left that could be mended.
    #[serde(skip)]
    can_go_on: bool,
}

impl Mended {
    /// Nothing was done.
    fn as_found(found: Ended<Checked>, dry_run: bool) -> Self {
        let fixes = found.plan.fixes();
        Self::with(found.answer, fixes, Fixed::default(), found, dry_run)
    }

    fn with(before: Checked, fixes: Vec<Fix>, done: Fixed, now: Ended<Checked>, dry_run: bool) -> Self {
        let can_go_on = !now.plan.fixes().is_empty();
        let Ended { answer, findings, omitted, .. } = now;
        Self { dry_run, before, fixes, done, now: answer, findings, omitted, can_go_on }
    }

    fn exit(&self) -> Exit {
        if self.now.wrong == 0 && !self.can_go_on { Exit::Done } else { Exit::Finding }
    }
}

pub(super) async fn fix(
    session: &mut Session,
    options: &CheckOptions,
    files: &Arc<dyn Files>,
) -> Result<Exit, Failure> {
    // Before this process becomes the user of the spool.
    let uid = Uid::current().as_raw();
    let mut spool = Spool::new(session, options, files)?;
    let found = spool.check(session, options).await?;
    tell(session, &checked_text("checked", &found.answer))?;
    let fixes = found.plan.fixes();
    if fixes.is_empty() || options.dry_run {
        let mended = Mended::as_found(found, options.dry_run);
        session.out.answer(&mended, |mended, _| plan_text(mended))?;
        return Ok(mended.exit());
    }
    if !options.yes && !confirmed(session, &fixes, found.plan.more)? {
        return Err(Failure::Finding("nothing was changed".to_owned()));
    }
    let done = spool.fix(session, &fixes, options, uid).await?;
    tell(session, &done_text(&done))?;
    let left = spool.check(session, options).await?;
    let mended = Mended::with(found.answer, fixes, done, left, false);
    session.out.answer(&mended, |mended, _| left_text(mended))?;
    Ok(mended.exit())
}

impl Spool<'_> {
    /// Does it.
    async fn fix(
        &mut self,
        session: &mut Session,
        fixes: &[Fix],
        options: &CheckOptions,
        uid: u32,
    ) -> Result<Fixed, Failure> {
        let reason = options.reason.clone();
        let Self::AtRest { queue, claimed, .. } = self else {
            let request = FixRequest { fixes: fixes.to_vec(), reason };
            return Ok(ask::<Fixed>(session, "/v1/store/fix", &request).await?.answer);
        };
        let mut result = match claimed.as_mut() {
            Some(spool) => spool.fix(fixes),
            None => Err(StoreError::Closed),
        };
        // The start that writes the index claims the spool itself.
        *claimed = None;
        if let Ok(fixed) = &mut result
            && fixes.contains(&Fix::RebuildIndex)
        {
            let rebuilt =
                work(session, |listener| Store::rebuild_at_rest(queue, Arc::new(SystemClock), listener));
            let text = |failure: Failure| failure.text().unwrap_or_default();
            fixed.add(&Fix::RebuildIndex, rebuilt.map(drop).map_err(text));
        }
        if let Err(error) = note_at_rest(&queue.path, &fix_event(uid, reason, fixes, &result)) {
            session.note(&format!("warning: the audit log cannot be written: {error}"));
        }
        result.map_err(offline_failure)
    }
}

/// Tells people how far it is; programs get it all in the end.
fn tell(session: &mut Session, text: &str) -> Result<(), Failure> {
    if !session.out.json {
        session.out.words(text)?;
        session.out.flush()?;
    }
    Ok(())
}

/// Shows what would be done, and asks.
fn confirmed(session: &Session, fixes: &[Fix], more: u64) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::Usage("without a terminal to ask on, say --yes".to_owned()));
    }
    let later = match more {
        0 => String::new(),
        more => format!("  and {more} more when it is run again\n"),
    };
    session.note(&format!("nothing is lost by this:\n{}{later}", list("  ", fixes)));
    session.note(&format!("do {}? [y/N]", output::counted(fixes.len(), "thing")));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn list(before: &str, fixes: &[Fix]) -> String {
    fixes.iter().map(|fix| format!("{before}{}\n", output::clean(&fix.to_string()))).collect()
}

/// What would be done, behind the findings.
fn plan_text(mended: &Mended) -> String {
    match (mended.fixes.is_empty(), mended.now.wrong) {
        (true, 0) => String::new(),
        (true, _) => "nothing of it can be mended without losing something: see what is to do\n".to_owned(),
        (false, _) => format!("--fix would\n{}", list("  ", &mended.fixes)),
    }
}

fn done_text(done: &Fixed) -> String {
    let mut text = list("done: ", &done.fixed);
    for (fix, reason) in &done.skipped {
        let (fix, reason) = (fix.to_string(), output::clean(reason));
        let _ = writeln!(text, "not done: {}: {reason}", output::clean(&fix));
    }
    text
}

/// How it is now, behind what is left.
fn left_text(mended: &Mended) -> String {
    let again = if mended.can_go_on { "some of it can be mended: run it again\n" } else { "" };
    format!("{}{again}", checked_text("checked again", &mended.now))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use postern_queue::store::fix::Plan;

    use super::*;
    use crate::store::check::tests::finding;

    fn fixable(fix: Fix) -> Finding {
        Finding { fix: Some(fix), ..finding() }
    }

    fn ended(wrong: u64, findings: Vec<Finding>) -> Ended<Checked> {
        let mut plan = Plan::default();
        findings.iter().for_each(|finding| plan.take(finding));
        Ended { answer: Checked { wrong, ..Checked::default() }, findings, omitted: 0, plan }
    }

    fn move_aside() -> Fix {
        Fix::SetAside { file: "big/x\u{7}".to_owned() }
    }

    #[test]
    fn what_would_be_done_is_said_and_is_no_success() {
        let mended =
            Mended::as_found(ended(1, vec![fixable(Fix::RebuildIndex), fixable(move_aside())]), true);
        let expected = "--fix would\n  move big/x? into the quarantine\n  write the index anew\n";
        assert_eq!(plan_text(&mended), expected);
        assert_eq!(mended.exit(), Exit::Finding);
        let json = output::json(&mended).unwrap();
        assert!(json.contains(r#""dry_run":true"#) && json.contains(r#"{"do":"rebuild-index"}"#), "{json}");
        let hopeless = Mended::as_found(ended(1, vec![finding()]), false);
        assert!(plan_text(&hopeless).contains("without losing something"));
        assert_eq!(hopeless.exit(), Exit::Finding);
        let sound = Mended::as_found(ended(0, Vec::new()), false);
        assert_eq!((plan_text(&sound).as_str(), sound.exit()), ("", Exit::Done));
    }

    #[test]
    fn it_ends_well_only_when_nothing_is_left() {
        let after = |left| Mended::with(Checked::default(), Vec::new(), Fixed::default(), left, false);
        assert_eq!(after(ended(0, Vec::new())).exit(), Exit::Done);
        assert_eq!(after(ended(1, vec![finding()])).exit(), Exit::Finding);
        let note = Finding { is_note: true, ..fixable(move_aside()) };
        let left = after(ended(0, vec![note]));
        assert_eq!(left.exit(), Exit::Finding);
        assert!(left_text(&left).starts_with("checked again ") && left_text(&left).contains("run it again"));
    }

    #[test]
    fn what_was_done_and_what_was_not_is_said() {
        let mut done = Fixed::default();
        done.add(&Fix::RebuildIndex, Ok(()));
        done.add(&move_aside(), Err("it is not there any more".to_owned()));
        let expected = "done: write the index anew\n\
                        not done: move big/x? into the quarantine: it is not there any more\n";
        assert_eq!(done_text(&done), expected);
    }
}
