//! `store check`: is everything there and whole?

use std::sync::Arc;

use clap::Args;
use postern_admin::api::store::{CheckRequest, Checked, Finding};
use postern_config::units::parse_size;
use postern_queue::store::check::{self, AtRest};
use postern_queue::store::files::{Files, SystemFiles};

use super::place::{Place, offline_failure};
use super::work::{Ended, ask, work};
use super::{counted, fix};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  posternctl store check
  posternctl store check --full --rate 200MiB
  posternctl store check --offline --spool /srv/old-spool
  posternctl store check --fix --dry-run
  posternctl store check --fix --yes --reason 'after the power cut'";

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// Read the whole log, also what counts for nothing any more.
    #[arg(long)]
    pub(super) full: bool,
    /// Read at most so much a second.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = rate)]
    pub(super) rate: u64,
    /// Do what loses nothing: write a bad index anew, move files that belong to nobody into the quarantine, with --offline
    /// also copies of damaged records. Asks first, and checks again afterwards: ends with 0 when nothing is left.
    #[arg(long)]
    pub(super) fix: bool,
    /// With --fix: do not ask; needed by scripts.
    #[arg(long, short, requires = "fix")]
    pub(super) yes: bool,
    /// With --fix: only say what would be done.
    #[arg(long, requires = "fix")]
    pub(super) dry_run: bool,
    /// With --fix: why; it stands in the audit log.
    #[arg(long, value_name = "TEXT", requires = "fix")]
    pub(super) reason: Option<String>,
    #[command(flatten)]
    pub(super) place: Place,
}

fn rate(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|rate| match rate {
        0 => Err("nothing could be read at this rate".to_owned()),
        rate => Ok(rate),
    })
}

pub(super) async fn check(session: &mut Session, options: &CheckOptions) -> Result<Exit, Failure> {
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    if options.fix {
        return fix::fix(session, options, &files).await;
    }
    let ended = Spool::new(session, options, &files)?.check(session, options).await?;
    session.out.answer(&ended, |ended, _| checked_text("checked", &ended.answer))?;
    Ok(exit_of(&ended.answer))
}

/// The spool that is checked.
pub(super) enum Spool<'f> {
    /// That of the daemon.
    Live,
    /// One that no daemon uses. It is claimed by the first check.
    AtRest { queue: Box<postern_config::Queue>, files: &'f Arc<dyn Files>, claimed: Option<AtRest<'f>> },
}

impl<'f> Spool<'f> {
    pub(super) fn new(
        session: &Session,
        options: &CheckOptions,
        files: &'f Arc<dyn Files>,
    ) -> Result<Self, Failure> {
        let queue = options.place.offline(session)?.map(Box::new);
        Ok(queue.map_or(Self::Live, |queue| Self::AtRest { queue, files, claimed: None }))
    }

    /// Checks it and shows what is found.
    pub(super) async fn check(
        &mut self,
        session: &mut Session,
        options: &CheckOptions,
    ) -> Result<Ended<Checked>, Failure> {
        let CheckOptions { full, rate, .. } = *options;
        match self {
            Self::Live => ask(session, "/v1/store/check", &CheckRequest { full, rate: Some(rate) }).await,
            Self::AtRest { queue, files, claimed } => {
                let mut spool = match claimed.take() {
                    Some(spool) => spool,
                    None => AtRest::claim(&queue.path, files).map_err(offline_failure)?,
                };
                let how = check::Options { full, rate };
                let ended = work(session, |listener| spool.check(how, listener));
                *claimed = Some(spool);
                ended
            }
        }
    }
}

pub(super) fn exit_of(checked: &Checked) -> Exit {
    if checked.wrong == 0 { Exit::Done } else { Exit::Finding }
}

pub(super) fn checked_text(verb: &str, checked: &Checked) -> String {
    let rows =
        checked.rows.map(|rows| format!(", {} of the index", counted(rows, "row"))).unwrap_or_default();
    let verdict = match checked.wrong {
        0 => "nothing is wrong".to_owned(),
        wrong => format!("{} wrong", counted(wrong, "thing")),
    };
    format!(
        "{verb} {}, {} ({}), {} in files of their own{rows}: {verdict}\n",
        counted(checked.segments, "segment"),
        counted(checked.messages, "message"),
        output::size(checked.octets),
        checked.large_files,
    )
}

pub(super) fn finding_text(finding: &Finding) -> String {
    let what = if finding.is_note { "note" } else { "wrong" };
    let message = finding.id.as_ref().map(|id| format!("message {id}: ")).unwrap_or_default();
    let fix = finding.fix.as_ref().map(|fix| format!("  --fix  {}\n", output::clean(&fix.to_string())));
    format!(
        "{what}: {}{}\n  where  {}\n  to do  {}\n{}",
        output::clean(&message),
        output::clean(&finding.what),
        output::clean(&finding.place),
        output::clean(&finding.advice),
        fix.unwrap_or_default()
    )
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::store::{Fix, Subject};
    use postern_queue::store::fix::Plan;

    use super::*;

    pub(in super::super) fn finding() -> Finding {
        Finding {
            about: Subject::Content,
            is_note: false,
            place: "big/0000000000000007".to_owned(),
            id: Some("0000000000007".to_owned()),
            what: "the file with the content is missing".to_owned(),
            advice: "nothing".to_owned(),
            fix: None,
        }
    }

    #[test]
    fn a_finding_says_what_where_and_what_to_do() {
        let expected = "\
wrong: message 0000000000007: the file with the content is missing
  where  big/0000000000000007
  to do  nothing
";
        assert_eq!(finding_text(&finding()), expected);
        assert!(finding_text(&Finding { is_note: true, ..finding() }).starts_with("note: "));
        let fixable = Finding { fix: Some(Fix::RebuildIndex), ..finding() };
        assert!(finding_text(&fixable).ends_with("  to do  nothing\n  --fix  write the index anew\n"));
    }

    #[test]
    fn a_check_for_people_and_programs() {
        let answer =
            Checked { segments: 3, messages: 12, octets: 5000, large_files: 1, rows: Some(12), wrong: 1 };
        assert_eq!(
            checked_text("checked", &answer),
            "checked 3 segments, 12 messages (4.9 KiB), 1 in files of their own, 12 rows of the index: 1 thing wrong\n"
        );
        let sound = Checked { wrong: 0, rows: None, ..answer };
        assert!(checked_text("checked", &sound).ends_with("files of their own: nothing is wrong\n"));
        assert_eq!((exit_of(&answer), exit_of(&sound)), (Exit::Finding, Exit::Done));
        let ended = Ended { answer, findings: vec![finding()], omitted: 0, plan: Plan::default() };
        let expected = concat!(
            r#"{"version":1,"segments":3,"messages":12,"octets":5000,"large_files":1,"rows":12,"wrong":1,"#,
            r#""findings":[{"about":"content","is_note":false,"place":"big/0000000000000007","#,
            r#""id":"0000000000007","what":"the file with the content is missing","advice":"nothing"}],"omitted":0}"#
        );
        assert_eq!(output::json(&ended).unwrap(), expected);
    }
}
