//! `queue export` and `queue import`: messages as files, `ID.json` and `ID.eml` for each, to move a queue to another machine.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use postern_admin::api::{Filter, Imported, List, ListRequest, ProblemKind, Transfer};
use postern_admin::{Client, ClientError};
use serde::Serialize;

use crate::Session;
use crate::failure::{Exit, Failure};
use crate::filter::FilterOptions;
use crate::output;

/// Octets that are read of a file at once.
const BLOCK: usize = 64 * 1024;
/// Octets of a description at most.
const MAX_DESCRIPTION: u64 = 8 * 1024 * 1024;

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// Where the files go; it is made if need be.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    filter: FilterOptions,
}

/// Options of `import`.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// Only say how many messages there are.
    #[arg(long)]
    dry_run: bool,
    /// Where the files are.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// What was done, message by message.
#[derive(Debug, Default, Serialize)]
pub struct Moved {
    /// Messages that were copied.
    pub done: Vec<String>,
    /// Those that did not need to be, or could not at this moment, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Those that failed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Exports.
///
/// # Errors
/// [`Failure`].
pub async fn export(session: &mut Session, options: &ExportOptions) -> Result<Exit, Failure> {
    let filter = options.filter.filter()?;
    let moved = export_to(&session.client()?, filter, &options.directory).await?;
    session.out.answer(&moved, |moved, _| moved_text("exported", moved))?;
    Ok(match moved.skipped.is_empty() {
        _ if moved.done.is_empty() && moved.skipped.is_empty() => Exit::Finding,
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// Copies all messages that match into a directory.
///
/// # Errors
/// [`Failure`]: what was copied before it is whole.
pub async fn export_to(client: &Client, filter: Filter, directory: &Path) -> Result<Moved, Failure> {
    let failed = |what: &'static str| move || format!("{what} {}", directory.display());
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(failed("making"))?;
    let mut moved = Moved::default();
    let mut request = ListRequest { filter, ..ListRequest::default() };
    loop {
        let page: List = client.post("/v1/queue/list", &request).await?;
        for message in &page.messages {
            match export_one(client, &message.id, directory).await {
                Ok(()) => moved.done.push(message.id.clone()),
                Err(Failure::Client(ClientError::Refused(problem)))
                    if problem.kind == ProblemKind::NotFound =>
                {
                    moved.skipped.push((message.id.clone(), problem.error));
                }
                Err(failure) => return Err(failure),
            }
        }
        request.cursor = page.cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed("syncing"))?;
    Ok(moved)
}

/// The description is written last: where it is, the content is whole.
async fn export_one(client: &Client, id: &str, directory: &Path) -> Result<(), Failure> {
    let content = directory.join(format!("{id}.eml"));
    let unfinished = directory.join(format!("{id}.eml.part"));
    let mut file = create(&unfinished)?;
    let mut line = Vec::new();
    let mut in_content = false;
    let path = format!("/v1/queue/export?id={id}");
    let streamed = client.stream(&path, |piece| {
        if in_content {
            return file.write_all(piece);
        }
        let Some(end) = piece.iter().position(|byte| *byte == b'\n') else {
            line.extend_from_slice(piece);
            return Ok(());
        };
        in_content = true;
        line.extend_from_slice(&piece[..end]);
        file.write_all(&piece[end + 1..])
    });
    let written = match streamed.await {
        Ok(()) => finish(&mut file, &line, directory, id).map_err(Failure::from),
        Err(error) => Err(Failure::from(error)),
    };
    if written.is_err() {
        // Nothing of it is needed; if it cannot be removed it is only in the way.
        let _ = fs::remove_file(&unfinished);
        return written;
    }
    fs::rename(&unfinished, &content)?;
    Ok(fs::rename(directory.join(format!("{id}.json.part")), directory.join(format!("{id}.json")))?)
}

fn finish(content: &mut File, line: &[u8], directory: &Path, id: &str) -> io::Result<()> {
    content.sync_all()?;
    let transfer: Transfer = serde_json::from_slice(line)?;
    let mut description = create(&directory.join(format!("{id}.json.part")))?;
    description.write_all(&serde_json::to_vec_pretty(&transfer)?)?;
    description.write_all(b"\n")?;
    description.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Imports.
///
/// # Errors
/// [`Failure`]: messages before it are in the queue, and are skipped when the import is repeated.
pub async fn import(session: &mut Session, options: &ImportOptions) -> Result<Exit, Failure> {
    let descriptions = descriptions(&options.directory)?;
    if descriptions.is_empty() {
        let text = format!("no message in {}: files ID.json and ID.eml", options.directory.display());
        return Err(Failure::Finding(text));
    }
    if options.dry_run {
        let found = output::counted(descriptions.len(), "message");
        session.out.text(format_args!("import: {found} found, nothing was imported (dry run)\n"))?;
        return Ok(Exit::Done);
    }
    let client = session.client()?;
    let mut moved = Moved::default();
    for description in descriptions {
        let name = description.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match import_one(&client, &description).await {
            Ok(Imported { id, skipped: None }) => moved.done.push(id),
            Ok(Imported { id, skipped: Some(reason) }) => moved.skipped.push((id, reason)),
            Err(failure @ Failure::Client(ClientError::Unreachable { .. } | ClientError::Denied { .. })) => {
                return Err(failure);
            }
            Err(Failure::Client(ClientError::Refused(problem))) if problem.kind == ProblemKind::Loading => {
                return Err(ClientError::Refused(problem).into());
            }
            Err(failure) => moved.failed.push((name, failure.text().unwrap_or_default())),
        }
    }
    session.out.answer(&moved, |moved, _| moved_text("imported", moved))?;
    // A message that is there already is where it was to go.
    Ok(if moved.failed.is_empty() { Exit::Done } else { Exit::Partial })
}

/// The descriptions in a directory, oldest message first.
fn descriptions(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut found = read().with_context(|| format!("reading {}", directory.display()))?;
    found.retain(|path| path.extension() == Some(OsStr::new("json")));
    found.sort();
    Ok(found)
}

async fn import_one(client: &Client, description: &Path) -> Result<Imported, Failure> {
    let failed = |path: &Path| format!("reading {}", path.display());
    let mut text = Vec::new();
    let file = File::open(description).with_context(|| failed(description))?;
    file.take(MAX_DESCRIPTION).read_to_end(&mut text).with_context(|| failed(description))?;
    let transfer: Transfer = serde_json::from_slice(&text).with_context(|| failed(description))?;
    let mut line = serde_json::to_vec(&transfer).with_context(|| failed(description))?;
    line.push(b'\n');
    let path = description.with_extension("eml");
    let mut content = File::open(&path).with_context(|| failed(&path))?;
    let mut line = Some(line);
    let next = move || {
        if let Some(line) = line.take() {
            return Ok(Some(line.into()));
        }
        let mut block = vec![0; BLOCK];
        let read = content.read(&mut block)?;
        block.truncate(read);
        Ok((read > 0).then(|| block.into()))
    };
    Ok(client.upload("/v1/queue/import", next).await?)
}

fn moved_text(verb: &str, moved: &Moved) -> String {
    let done = output::counted(moved.done.len(), "message");
    let mut text = format!("{done} {verb}, {} skipped, {} failed\n", moved.skipped.len(), moved.failed.len());
    for (what, list) in [("skipped", &moved.skipped), ("failed", &moved.failed)] {
        for (id, reason) in list {
            let _ = writeln!(text, "  {what} {}: {}", output::clean(id), output::clean(reason));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_was_not_moved_is_named() {
        let moved = Moved {
            done: vec!["01N2K3P4Q5R6S".to_owned()],
            skipped: vec![("01N2K3P4Q5R6T".to_owned(), "already imported".to_owned())],
            failed: Vec::new(),
        };
        let expected = "1 message imported, 1 skipped, 0 failed\n  skipped 01N2K3P4Q5R6T: already imported\n";
        assert_eq!(moved_text("imported", &moved), expected);
    }

    #[test]
    fn only_whole_messages_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["2.json", "2.eml", "1.json", "3.json.part", "3.eml.part"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = descriptions(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["1.json", "2.json"]);
    }
}
