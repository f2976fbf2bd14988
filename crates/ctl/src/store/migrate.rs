//! `store migrate`: the format of the spool.

use std::path::Path;

use clap::Args;
use postern_admin::api::store::Status;
use postern_queue::store::StoreError;
use postern_queue::store::files::SystemFiles;
use postern_queue::store::format::{self, Format};
use serde::Serialize;

use super::place::{Place, offline_failure};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// Only say what would be done.
    #[arg(long, alias = "dry-run")]
    check: bool,
    #[command(flatten)]
    place: Place,
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

pub(super) async fn migrate(session: &mut Session, options: &MigrateOptions) -> Result<Exit, Failure> {
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
    use std::fs;

    use super::*;

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
