//! `store backup`: a copy of the spool of a running daemon, or a look whether such a copy is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use postern_admin::api::store::{BackedUp, BackupRequest};
use postern_queue::store::files::{Files, SystemFiles};
use postern_queue::store::job::RATE;
use postern_queue::store::{backup, check};

use super::Reason;
use super::check::{checked_text, exit_of};
use super::work::{Ended, ask, work};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) const BACKUP_EXAMPLES: &str = "\
Examples:
  posternctl store backup /var/spool/postern/backup/monday
  posternctl store backup --verify /srv/backup/monday

The daemon writes it, as its own user. To start from it: stop the daemon, put the directory in the place of the spool, \
with its owner, and start. Messages that were delivered since are sent again then.";

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct BackupOptions {
    /// Check a backup that was made before, instead of making one. Works without the daemon.
    #[arg(long, conflicts_with_all = ["copy", "reason"])]
    pub(super) verify: bool,
    /// Copy everything. Without this, files that never change share their content with the spool where they can.
    #[arg(long)]
    copy: bool,
    #[command(flatten)]
    reason: Reason,
    /// The directory; it must be empty, or not be there.
    #[arg(value_name = "DIR")]
    pub(super) directory: PathBuf,
}

pub(super) async fn backup(session: &mut Session, options: BackupOptions) -> Result<Exit, Failure> {
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

pub(super) fn verify(session: &mut Session, directory: &Path) -> Result<Exit, Failure> {
    let files: Arc<dyn Files> = Arc::new(SystemFiles);
    let how = check::Options { full: true, rate: RATE };
    let ended = work(session, |listener| backup::verify(directory, &files, how, listener))?;
    session.out.answer(&ended, |ended, _| checked_text("verified", &ended.answer))?;
    Ok(exit_of(&ended.answer))
}
