//! `store`: the spool itself. Is it whole, how much room could it give back, a copy of it.

use std::fs;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use postern_admin::ClientError;
use postern_admin::api::store::{
    BackedUp, BackupRequest, CheckRequest, Checked, CompactRequest, Compacted, Event, Finding, Progress,
    RebuildRequest, Rebuilt, Status,
};
use postern_admin::api::{VERSION, Versioned};
use postern_config::units::parse_size;
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::format::{self, Format};
use postern_queue::store::job::{RATE, Tidings};
use postern_queue::store::{Store, StoreError, backup, check};
use postern_runtime::SystemClock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::{Session, config, quarantine};

const CHECK_EXAMPLES: &str = "\
Examples:
  posternctl store check
  posternctl store check --full --rate 200MiB
  posternctl store check --offline --spool /srv/old-spool";

const BACKUP_EXAMPLES: &str = "\
Examples:
  posternctl store backup /var/spool/postern/backup/monday
  posternctl store backup --verify /srv/backup/monday

The daemon writes it, as its own user. To start from it: stop the daemon, put the directory in the place of the spool,
with its owner, and start. Messages that were delivered since are sent again then.";

/// Findings that are kept for `--json`; more are counted.
const MAX_FINDINGS: usize = 10_000;

/// What can be done with the spool.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show what the spool holds, what it could give back, and how its index is.
    Status,
    /// Read everything that counts and say what is wrong, where, and what to do. Ends with 0 or 1.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckOptions),
    /// Write the index anew from the log while mail flows.
    Rebuild(RebuildOptions),
    /// Give room back now, whatever the thresholds say.
    Compact(Reason),
    /// Copy the spool of a running daemon into a new directory, or check such a copy.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupOptions),
    /// See and settle what was set aside because it could not be read.
    #[command(subcommand)]
    Quarantine(quarantine::Verb),
    /// Bring the spool to the format of this release.
    Migrate(MigrateOptions),
}

/// Why something is done.
#[derive(Debug, Args)]
pub struct Reason {
    /// Why: it stands in the audit log.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Where the spool is, for work without the daemon.
#[derive(Debug, Args)]
pub struct Place {
    /// Work on the directory itself, with the daemon stopped.
    #[arg(long)]
    offline: bool,
    /// The spool directory, if another than the configuration names; needs --offline.
    #[arg(long, value_name = "DIR", requires = "offline")]
    spool: Option<PathBuf>,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// Read the whole log, also what counts for nothing any more.
    #[arg(long)]
    full: bool,
    /// Read at most so much a second.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = rate)]
    rate: u64,
    #[command(flatten)]
    place: Place,
}

/// Options of `rebuild`.
#[derive(Debug, Args)]
pub struct RebuildOptions {
    /// Do not wait until the index is complete.
    #[arg(long, conflicts_with = "offline")]
    no_wait: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    place: Place,
}

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct BackupOptions {
    /// Check a backup that was made before, instead of making one. Works without the daemon.
    #[arg(long, conflicts_with_all = ["copy", "reason"])]
    verify: bool,
    /// Copy everything. Without this, files that never change share their content with the spool where they can.
    #[arg(long)]
    copy: bool,
    #[command(flatten)]
    reason: Reason,
    /// The directory; it must be empty, or not be there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// Only say what would be done.
    #[arg(long, alias = "dry-run")]
    check: bool,
    #[command(flatten)]
    place: Place,
}

fn rate(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|rate| match rate {
        0 => Err("nothing could be read at this rate".to_owned()),
        rate => Ok(rate),
    })
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::Status => status(session).await,
            Self::Check(options) => check(session, &options).await,
            Self::Rebuild(options) => rebuild(session, options).await,
            Self::Compact(options) => compact(session, options).await,
            Self::Backup(options) if options.verify => verify(session, &options.directory),
            Self::Backup(options) => backup(session, options).await,
            Self::Quarantine(verb) => verb.run(session).await,
            Self::Migrate(options) => migrate(session, &options).await,
        }
    }
}

impl Place {
    /// The spool to work on without the daemon, if that is wanted. As root this becomes the user it belongs to: what is
    /// written must be the daemon's.
    fn offline(&self, session: &Session) -> Result<Option<postern_config::Queue>, Failure> {
        if !self.offline {
            return Ok(None);
        }
        let queue = match &self.spool {
            None => config::load(&session.global.config)?.config.queue,
            Some(path) => {
                // The tuning of the server it belongs to, if that is this one.
                let configured =
                    postern_config::load(&session.global.config).map(|loaded| loaded.config.queue);
                postern_config::Queue { path: path.clone(), ..configured.unwrap_or_default() }
            }
        };
        become_owner(&queue.path)?;
        Ok(Some(queue))
    }
}

/// Becomes the owner of a directory, for the rest of this process.
fn become_owner(path: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(path).with_context(|| path.display().to_string())?;
    if !Uid::effective().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    let become_user = || {
        setgroups(&[])?;
        setgid(Gid::from_raw(owner.gid()))?;
        setuid(Uid::from_raw(owner.uid()))
    };
    Ok(become_user().with_context(|| format!("becoming the user of {}", path.display()))?)
}

/// An error of work without the daemon, with what to do about it.
fn offline_failure(error: StoreError) -> Failure {
    match error {
        StoreError::InUse(_) => Failure::Finding(format!(
            "{error}\n  Stop the daemon (`systemctl stop postern`), or ask it: the same command without --offline."
        )),
        error => Failure::Other(error.into()),
    }
}

/// Shows what long work tells.
struct Telling<'a> {
    out: &'a mut Output,
    is_terminal: bool,
    findings: Vec<Finding>,
    omitted: u64,
}

impl<'a> Telling<'a> {
    fn new(out: &'a mut Output) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !out.json;
        Self { out, is_terminal, findings: Vec::new(), omitted: 0 }
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
        if !self.out.json {
            if self.is_terminal {
                self.rewrite("");
            }
            self.out.text(finding_text(&finding))?;
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

fn finding_text(finding: &Finding) -> String {
    let what = if finding.is_note { "note" } else { "wrong" };
    let message = finding.id.as_ref().map(|id| format!("message {id}: ")).unwrap_or_default();
    format!(
        "{what}: {}{}\n  where  {}\n  to do  {}\n",
        output::clean(&message),
        output::clean(&finding.what),
        output::clean(&finding.place),
        output::clean(&finding.advice)
    )
}

/// What long work ended with.
#[derive(Debug, Serialize)]
struct Ended<A> {
    #[serde(flatten)]
    answer: A,
    findings: Vec<Finding>,
    /// Findings that are not listed.
    omitted: u64,
}

/// Asks the daemon for long work and shows what it tells.
async fn ask<A: DeserializeOwned>(
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
    Ok(Ended { answer: answer.ok_or_else(broken)?, findings: telling.findings, omitted: telling.omitted })
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
fn work<A>(
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
    Ok(Ended { answer, findings: telling.findings, omitted: telling.omitted })
}

async fn status(session: &mut Session) -> Result<Exit, Failure> {
    let status: Status = session.client()?.get("/v1/store/status").await?;
    session.out.answer(&status, |status, _| status_text(status))?;
    let is_well = status.index.in_use && status.damage.segments == 0;
    Ok(if is_well { Exit::Done } else { Exit::Finding })
}

fn counted(number: u64, noun: &str) -> String {
    output::counted(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

fn status_text(status: &Status) -> String {
    let Status { log, large, index, damage, written, .. } = status;
    let index_text = match &index.lost {
        Some(reason) => format!("not in use: {reason}; `posternctl store rebuild` writes it anew"),
        None if !index.complete => format!("being written: {} to go", counted(index.behind, "message")),
        None => format!(
            "{}, {}; behind by {}, {} of the log",
            counted(index.rows, "row"),
            output::size(index.octets),
            counted(index.behind, "message"),
            output::size(index.behind_octets)
        ),
    };
    let damage_text = format!(
        "{} kept, {} set aside ({})",
        counted(damage.segments, "segment"),
        counted(damage.set_aside, "piece"),
        output::size(damage.octets)
    );
    let written_text = format!(
        "{} in {} batches ({:.1} on average), {}; {} syncs, {:.1} ms on average",
        counted(written.records, "record"),
        written.batches,
        written.mean_batch,
        output::size(written.octets),
        written.syncs,
        written.mean_sync_ms
    );
    output::pairs(
        "",
        [
            ("spool", Some(format!("{} (format {})", status.path, status.format))),
            ("messages", Some(status.messages.to_string())),
            (
                "log",
                Some(format!(
                    "{}, {}: {} live, {} dead",
                    counted(log.segments, "segment"),
                    output::size(log.octets),
                    output::size(log.live_octets),
                    output::size(log.dead_octets)
                )),
            ),
            (
                "large messages",
                Some(format!("{}, {}", counted(large.files, "file"), output::size(large.octets))),
            ),
            ("index", Some(index_text)),
            (
                "reserve",
                Some(if status.reserve == 0 {
                    "none: the disk is full".to_owned()
                } else {
                    output::size(status.reserve)
                }),
            ),
            ("free", Some(output::size(status.free))),
            ("damage", (damage.segments + damage.set_aside > 0).then_some(damage_text)),
            ("written", Some(written_text)),
        ],
    )
}

async fn check(session: &mut Session, options: &CheckOptions) -> Result<Exit, Failure> {
    let ended: Ended<Checked> = match options.place.offline(session)? {
        Some(queue) => {
            let files: Arc<dyn Files> = Arc::new(SystemFiles);
            let how = check::Options { full: options.full, rate: options.rate };
            work(session, |listener| check::check_directory(&queue.path, &files, how, listener))?
        }
        None => {
            let request = CheckRequest { full: options.full, rate: Some(options.rate) };
            ask(session, "/v1/store/check", &request).await?
        }
    };
    session.out.answer(&ended, |ended, _| checked_text("checked", &ended.answer))?;
    Ok(exit_of(&ended.answer))
}

fn exit_of(checked: &Checked) -> Exit {
    if checked.wrong == 0 { Exit::Done } else { Exit::Finding }
}

fn checked_text(verb: &str, checked: &Checked) -> String {
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

async fn rebuild(session: &mut Session, options: RebuildOptions) -> Result<Exit, Failure> {
    let rebuilt = match options.place.offline(session)? {
        Some(queue) => {
            let ended =
                work(session, |listener| Store::rebuild_at_rest(&queue, Arc::new(SystemClock), listener))?;
            Rebuilt { rows: Some(ended.answer) }
        }
        None => {
            let request = RebuildRequest { no_wait: options.no_wait, reason: options.reason.reason };
            ask::<Rebuilt>(session, "/v1/store/rebuild", &request).await?.answer
        }
    };
    session.out.answer(&rebuilt, |rebuilt, _| match rebuilt.rows {
        Some(rows) => format!("rebuilt: the index is complete, with {rows} rows\n"),
        None => "begun: `posternctl store status` says how far the index is\n".to_owned(),
    })?;
    Ok(Exit::Done)
}

/// A compaction for people and programs.
#[derive(Debug, Serialize)]
struct GivenBack {
    #[serde(flatten)]
    compacted: Compacted,
    /// Octets that the spool takes less than before.
    given_back: u64,
}

async fn compact(session: &mut Session, options: Reason) -> Result<Exit, Failure> {
    let request = CompactRequest { reason: options.reason };
    let compacted = ask::<Compacted>(session, "/v1/store/compact", &request).await?.answer;
    let answer = GivenBack { compacted, given_back: compacted.given_back() };
    session.out.answer(&answer, |answer, _| compacted_text(answer))?;
    Ok(Exit::Done)
}

fn compacted_text(answer: &GivenBack) -> String {
    let Compacted { before, after } = answer.compacted;
    let change = |before: u64, after: u64| format!("{} -> {}", output::size(before), output::size(after));
    let text = output::pairs(
        "  ",
        [
            ("segments", Some(format!("{} -> {}", before.segments, after.segments))),
            ("log", Some(change(before.log, after.log))),
            ("large messages", Some(change(before.large, after.large))),
            ("free on the disk", Some(change(before.free, after.free))),
        ],
    );
    format!("given back: {}\n{text}", output::size(answer.given_back))
}

async fn backup(session: &mut Session, options: BackupOptions) -> Result<Exit, Failure> {
    let directory = std::path::absolute(&options.directory)?;
    let request = BackupRequest {
        directory: directory.to_str().context("the name of the directory is not UTF-8")?.to_owned(),
        copy: options.copy,
        reason: options.reason.reason,
    };
    let ended: Ended<BackedUp> = ask(session, "/v1/store/backup", &request).await?;
    session.out.answer(&ended, |ended, _| backup_text(&ended.answer))?;
    Ok(exit_of(&ended.answer.checked))
}

fn backup_text(backup: &BackedUp) -> String {
    format!(
        "backed up to {}: {} ({} files shared with the spool, {} copied)\n{}",
        output::clean(&backup.directory),
        output::size(backup.octets),
        backup.linked,
        backup.copied,
        checked_text("read back", &backup.checked)
    )
}

fn verify(session: &mut Session, directory: &Path) -> Result<Exit, Failure> {
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let how = check::Options { full: true, rate: RATE };
    let ended = work(session, |listener| backup::verify(directory, &files, how, listener))?;
    session.out.answer(&ended, |ended, _| checked_text("verified", &ended.answer))?;
    Ok(exit_of(&ended.answer))
}

/// The answer to `migrate`.
#[derive(Debug, Serialize)]
struct Migration {
    /// The format of the spool.
    format: u32,
    since: &'static str,
    about: &'static str,
    /// All that this release reads; the last one it writes.
    known: Vec<u32>,
    /// The formats that the spool has to go through.
    steps: Vec<u32>,
    dry_run: bool,
}

async fn migrate(session: &mut Session, options: &MigrateOptions) -> Result<Exit, Failure> {
    let found = match options.place.offline(session)? {
        Some(queue) => format_of(&queue.path)?,
        None => {
            let status: Status = session.client()?.get("/v1/store/status").await?;
            let found = format::FORMATS.iter().find(|format| format.number == status.format);
            found.ok_or_else(|| offline_failure(StoreError::UnknownFormat(status.format.to_string())))?
        }
    };
    let migration = Migration {
        format: found.number,
        since: found.since,
        about: found.about,
        known: format::FORMATS.iter().map(|format| format.number).collect(),
        steps: format::steps_from(format::FORMATS, found.number).map(|format| format.number).collect(),
        dry_run: options.check,
    };
    session.out.answer(&migration, |migration, _| migration_text(migration))?;
    Ok(if migration.steps.is_empty() { Exit::Done } else { Exit::Finding })
}

/// The format of the spool in a directory.
fn format_of(path: &Path) -> Result<&'static Format, Failure> {
    let none = || {
        let path = path.display();
        Failure::Finding(format!("{path} is no spool: there is no file FORMAT in it"))
    };
    format::read(&SystemFiles, path).map_err(offline_failure)?.ok_or_else(none)
}

fn migration_text(migration: &Migration) -> String {
    let Migration { format, since, about, .. } = migration;
    let numbers = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let to_do = match migration.steps.as_slice() {
        [] => "nothing has to be done".to_owned(),
        steps => format!("it has to become format {}", numbers(steps)),
    };
    output::pairs(
        "",
        [
            ("format", Some(format!("{format}, since release {since}: {about}"))),
            ("this release reads", Some(numbers(&migration.known))),
            ("to do", Some(to_do)),
        ],
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use postern_admin::api::store::{
        DamageStatus, IndexStatus, LargeStatus, LogStatus, Subject, Usage, WrittenStatus,
    };

    use super::*;

    fn status() -> Status {
        Status {
            format: 1,
            path: "/var/spool/postern".to_owned(),
            messages: 12,
            log: LogStatus { segments: 3, octets: 150 << 20, live_octets: 50 << 20, dead_octets: 100 << 20 },
            large: LargeStatus { files: 1, octets: 3 << 20 },
            index: IndexStatus {
                in_use: true,
                lost: None,
                complete: true,
                rows: 12,
                octets: 600 << 10,
                behind: 1,
                behind_octets: 4096,
            },
            reserve: 64 << 20,
            damage: DamageStatus { segments: 0, set_aside: 0, octets: 0 },
            written: WrittenStatus {
                batches: 100,
                records: 250,
                mean_batch: 2.5,
                octets: 1 << 20,
                syncs: 101,
                mean_sync_ms: 1.25,
                index_rounds: 7,
            },
            free: 10 << 30,
        }
    }

    #[test]
    fn status_for_people() {
        let expected = "\
spool           /var/spool/postern (format 1)
messages        12
log             3 segments, 150.0 MiB: 50.0 MiB live, 100.0 MiB dead
large messages  1 file, 3.0 MiB
index           12 rows, 600.0 KiB; behind by 1 message, 4.0 KiB of the log
reserve         64.0 MiB
free            10.0 GiB
written         250 records in 100 batches (2.5 on average), 1.0 MiB; 101 syncs, 1.2 ms on average
";
        assert_eq!(status_text(&status()), expected);
        let mut status = status();
        status.index.complete = false;
        status.index.behind = 5;
        status.damage.set_aside = 2;
        status.reserve = 0;
        let text = status_text(&status);
        assert!(
            text.contains("being written: 5 messages to go") && text.contains("2 pieces set aside"),
            "{text}"
        );
        assert!(text.contains("none: the disk is full"), "{text}");
        status.index.lost = Some("sled panicked".to_owned());
        assert!(status_text(&status).contains("not in use: sled panicked; `posternctl store rebuild`"));
    }

    #[test]
    fn status_for_programs() {
        let expected = concat!(
            r#"{"version":1,"format":1,"path":"/var/spool/postern","messages":12,"#,
            r#""log":{"segments":3,"octets":157286400,"live_octets":52428800,"dead_octets":104857600},"#,
            r#""large":{"files":1,"octets":3145728},"#,
            r#""index":{"in_use":true,"lost":null,"complete":true,"rows":12,"octets":614400,"behind":1,"#,
            r#""behind_octets":4096},"reserve":67108864,"damage":{"segments":0,"set_aside":0,"octets":0},"#,
            r#""written":{"batches":100,"records":250,"mean_batch":2.5,"octets":1048576,"syncs":101,"#,
            r#""mean_sync_ms":1.25,"index_rounds":7},"free":10737418240}"#
        );
        assert_eq!(output::json(&status()).unwrap(), expected);
    }

    fn finding() -> Finding {
        Finding {
            about: Subject::Content,
            is_note: false,
            place: "big/0000000000000007".to_owned(),
            id: Some("0000000000007".to_owned()),
            what: "the file with the content is missing".to_owned(),
            advice: "nothing".to_owned(),
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
        let ended = Ended { answer, findings: vec![finding()], omitted: 0 };
        let expected = concat!(
            r#"{"version":1,"segments":3,"messages":12,"octets":5000,"large_files":1,"rows":12,"wrong":1,"#,
            r#""findings":[{"about":"content","is_note":false,"place":"big/0000000000000007","#,
            r#""id":"0000000000007","what":"the file with the content is missing","advice":"nothing"}],"omitted":0}"#
        );
        assert_eq!(output::json(&ended).unwrap(), expected);
    }

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

    #[test]
    fn a_compaction_says_what_was_given_back() {
        let before = Usage { segments: 5, log: 5 << 20, large: 0, free: 1 << 30 };
        let after = Usage { segments: 2, log: 2 << 20, large: 0, free: (1 << 30) + (3 << 20) };
        let compacted = Compacted { before, after };
        let text = compacted_text(&GivenBack { compacted, given_back: compacted.given_back() });
        assert!(text.starts_with("given back: 3.0 MiB\n  segments          5 -> 2\n"), "{text}");
    }

    #[test]
    fn a_spool_of_an_unknown_format_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = |result: Result<&Format, Failure>| result.unwrap_err().text().unwrap();
        assert!(text(format_of(folder.path())).contains("no spool"));
        fs::write(folder.path().join("FORMAT"), "9\n").unwrap();
        let error = text(format_of(folder.path()));
        assert!(error.contains("\"9\"") && error.contains("later release"), "{error}");
        fs::write(folder.path().join("FORMAT"), "1\n").unwrap();
        assert_eq!(format_of(folder.path()).unwrap().number, 1);
    }

    #[test]
    fn a_spool_of_the_current_format_needs_nothing() {
        let migration =
            Migration { format: 1, since: "0.1.0", about: "x", known: vec![1], steps: vec![], dry_run: true };
        assert!(migration_text(&migration).contains("nothing has to be done"));
        assert!(migration_text(&Migration { steps: vec![2, 3], ..migration }).contains("become format 2, 3"));
    }
}
