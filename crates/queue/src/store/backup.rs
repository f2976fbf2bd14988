//! A copy of a spool in use that a daemon can start from.
//!
//! The log is append only, so a copy of it up to a place that is durable is what a crash at that moment would have left.
//! Complete segments never change: they get a second name where the file system allows it. The newest one is copied, so
//! that nothing that happens to the copy reaches the original. While names are made nothing is removed from the spool.
//! The index is left out; a start writes it.

use std::io::{ErrorKind, IoSlice};
use std::ops::ControlFlow;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::check::{self, Checked, Offline};
use super::files::{Access, Files, StoredFile, read_exact, write_all};
use super::job::{Job, Listener, RATE};
use super::recovery::Layout;
use super::{Inner, Store, StoreError, format, large};

/// Copied at once.
const PIECE: u64 = 256 * 1024;
/// Written last: a directory without it is no complete backup.
const MARKER: &str = "BACKUP";
/// Small files of the spool directory that belong to the process and not to the mail.
const LEFT_OUT: [&str; 5] = ["LOCK", "FORMAT", "FORMAT.new", "reserve", MARKER];
/// What of the spool directory a backup must not be in: these are read, or removed, by the next start.
const TAKEN: [&str; 5] = ["log", "big", "damaged", "mail", HISTORY];
/// The journal, where it is below the spool directory.
const HISTORY: &str = "history";

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// Where it is.
    pub directory: String,
    /// Files that share their content with the spool.
    pub linked: u64,
    /// Files that were copied.
    pub copied: u64,
    /// Octets of both.
    pub octets: u64,
    /// What was read back of it.
    pub checked: Checked,
}

/// How a backup is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether everything is copied, also where it could share its content with the spool.
    pub copies_all: bool,
}

impl Store {
    /// Copies the spool into an empty directory, makes the copy durable, and reads it back. All that was acknowledged before
    /// this was called is in it. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: not into this directory; [`StoreError::Io`]; [`StoreError::Interrupted`]. What was written is
    /// removed again then. What is wrong with the copy, and so with the spool, is told as findings.
    pub fn backup(
        &self,
        directory: &Path,
        options: Options,
        listener: &mut Listener<'_>,
    ) -> Result<BackedUp, StoreError> {
        let inner = &*self.inner;
        let mut listener = |news| match inner.collector.is_closed() {
            true => ControlFlow::Break(()),
            false => listener(news),
        };
        prepare(inner, directory)?;
        let made = Backup {
            inner,
            target: Layout::new(directory),
            options,
            job: Job::new(RATE, &mut listener),
            linked: 0,
            copied: 0,
            octets: 0,
        }
        .make();
        if made.is_err()
            && let Err(error) = inner.files.remove_tree(directory)
        {
            tracing::warn!(path = %directory.display(), %error, "cannot remove an unfinished backup");
        }
        made
    }
}

/// Checks a backup: that it is complete, and that everything in it is whole. Blocking.
///
/// # Errors
/// As [`check::check_directory`]; [`StoreError::Refused`]: it was never completed.
pub fn verify(
    directory: &Path,
    files: &Arc<dyn Files>,
    options: check::Options,
    listener: &mut Listener<'_>,
) -> Result<Checked, StoreError> {
    let _lock = check::claim(directory, &**files)?;
    if files.open(&directory.join(MARKER), Access::Read).is_err() {
        let text = format!(
            "{} is no complete backup: there is no file {MARKER} in it. Either it was broken off, or it is a spool: check \
             that with `posternctl store check --offline`",
            directory.display()
        );
        return Err(StoreError::Refused(text));
    }
    let mut check = Offline::new(directory, files, Job::new(options.rate, listener));
    check.run(false)?;
    Ok(check.finished())
}

/// Makes the directory, unless there is something in it already.
fn prepare(inner: &Inner, directory: &Path) -> Result<(), StoreError> {
    let refused = |why: &str| Err(StoreError::Refused(format!("{}: {why}", directory.display())));
    if !directory.is_absolute() || directory.components().any(|part| part == Component::ParentDir) {
        return refused("give the whole path of the directory, without `..`");
    }
    if let Ok(below) = directory.strip_prefix(&inner.layout.root) {
        let first = below.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned());
        let is_taken = |name: &str| TAKEN.contains(&name) || name.starts_with("index");
        if first.as_deref().is_none_or(is_taken) {
            return refused(
                "the spool itself uses this directory; take another one, such as `backup/NAME` in it",
            );
        }
    }
    let writing = |e: std::io::Error| match e.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Refused(format!(
            "{}: {e}. The daemon writes the backup, as its own user and where its unit lets it write: take a directory \
             below {}, or allow another one with ReadWritePaths= in a drop-in",
            directory.display(),
            inner.layout.root.display()
        )),
        _ => StoreError::io("making", directory, e),
    };
    inner.files.create_directory(directory).map_err(writing)?;
    let entries = inner.files.list(directory).map_err(|e| StoreError::io("reading", directory, e))?;
    if !entries.is_empty() {
        return refused("the directory is not empty; a backup is made into a new one");
    }
    // Whether it may be written, before anything is begun.
    let probe = directory.join("FORMAT.new");
    inner.files.open(&probe, Access::CreateNew).map(drop).map_err(writing)?;
    inner.files.remove(&probe).map_err(|e| StoreError::io("removing", &probe, e))
}

/// A backup at work.
struct Backup<'a, 'j> {
    inner: &'a Inner,
    target: Layout,
    options: Options,
    job: Job<'j>,
    linked: u64,
    copied: u64,
    octets: u64,
}

impl Backup<'_, '_> {
    fn make(mut self) -> Result<BackedUp, StoreError> {
        let Layout { log, big, damaged, .. } = self.target.clone();
        for directory in [&log, &big, &damaged] {
            let made = self.inner.files.create_directory(directory);
            made.map_err(|e| StoreError::io("making", directory, e))?;
        }
        {
            let _nothing_is_removed = self.inner.collector.hold();
            self.copy_log()?;
            self.copy_large_files()?;
        }
        self.copy_state()?;
        let root = self.target.root.clone();
        let files = Arc::clone(&self.inner.files);
        format::write(&*files, &root).map_err(|e| StoreError::io("writing", &root.join("FORMAT"), e))?;
        for directory in [&log, &big, &damaged, &root] {
            files.sync_directory(directory).map_err(|e| StoreError::io("syncing", directory, e))?;
        }
        let Self { linked, copied, octets, job, .. } = self;
        let checked = read_back(&root, &files, job)?;
        let directory = root.display().to_string();
        let backup = BackedUp { directory, linked, copied, octets, checked };
        write_marker(&*files, &root, &backup)
            .map_err(|e| StoreError::io("writing", &root.join(MARKER), e))?;
        Ok(backup)
    }

    /// All segments as far as they are durable at this moment.
    fn copy_log(&mut self) -> Result<(), StoreError> {
        let segments: Vec<(u64, u64)> = {
            let catalogue = self.inner.catalogue.lock();
            let durable = catalogue.segments.values().filter(|segment| segment.length > 0);
            durable.map(|segment| (segment.name, segment.length)).collect()
        };
        self.job.stage("log", segments.len() as u64)?;
        let newest = segments.last().map(|(name, _)| *name);
        for (name, length) in segments {
            let (from, to) = (self.inner.segment_path(name), self.target.segment(name));
            // A start may cut the newest one back; one with something behind its end holds what was refused.
            let is_complete = || self.length(&from).is_ok_and(|found| found == length);
            if Some(name) == newest || !is_complete() {
                self.copy(&from, &to, length)?;
            } else {
                self.link(&from, &to, length)?;
            }
            self.job.advance(1)?;
        }
        Ok(())
    }

    /// The files of all messages: what came or ended since the log was copied is sorted out when it is read back.
    fn copy_large_files(&mut self) -> Result<(), StoreError> {
        let inner = self.inner;
        let big = &inner.layout.big;
        let entries = inner.files.list(big).map_err(|e| StoreError::io("reading", big, e))?;
        self.job.stage("large files", entries.len() as u64)?;
        for entry in entries {
            let is_wanted = large::id(&entry.name).is_some_and(|id| {
                let is_arriving = inner.unfinished.lock().contains(&id);
                !is_arriving || inner.catalogue.lock().location(id).is_some()
            });
            if is_wanted {
                let (from, to) = (big.join(&entry.name), self.target.big.join(&entry.name));
                match self.link(&from, &to, entry.length) {
                    // It was never a message: whoever sent it has gone.
                    Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                    linked => linked?,
                }
            }
            self.job.advance(1)?;
        }
        Ok(())
    }

    /// The small files beside the log (standing rules, the audit log ...), what was set aside, and the journal.
    fn copy_state(&mut self) -> Result<(), StoreError> {
        let (layout, target) = (&self.inner.layout, self.target.clone());
        let history = layout.root.join(HISTORY);
        self.copy_files(&layout.root, &target.root)?;
        self.copy_files(&layout.damaged, &target.damaged)?;
        self.copy_files(&history, &target.root.join(HISTORY))
    }

    /// The files of a directory, without those below it. One that goes meanwhile, as old files of the journal do, is left
    /// out; one that grows is copied as it was.
    fn copy_files(&mut self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let files = &self.inner.files;
        let entries = match files.list(from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|e| StoreError::io("reading", from, e))?,
        };
        files.create_directory(to).map_err(|e| StoreError::io("making", to, e))?;
        let is_state = |name: &str| !LEFT_OUT.contains(&name) && !name.ends_with(".new");
        for entry in entries.into_iter().filter(|entry| entry.is_file && is_state(&entry.name)) {
            let (from, to) = (from.join(&entry.name), to.join(&entry.name));
            let reading = |e| StoreError::io("reading", &from, e);
            let source = match self.inner.files.open(&from, Access::Read) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                source => source.map_err(reading)?,
            };
            // Of the file that was opened: it may have been replaced since it was listed.
            let length = source.length().map_err(reading)?;
            self.copy_opened(&*source, &from, &to, length)?;
        }
        files.sync_directory(to).map_err(|e| StoreError::io("syncing", to, e))
    }

    fn length(&self, path: &Path) -> std::io::Result<u64> {
        self.inner.files.open(path, Access::Read)?.length()
    }

    /// Gives a file that never changes a second name, or copies it where that is not possible.
    fn link(&mut self, from: &Path, to: &Path, length: u64) -> Result<(), StoreError> {
        if !self.options.copies_all {
            match self.inner.files.link(from, to) {
                Ok(()) => {
                    self.linked += 1;
                    self.octets += length;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(StoreError::io("linking", from, error));
                }
                // Another file system, or one without links.
                Err(_) => {}
            }
        }
        self.copy(from, to, length)
    }

    fn copy(&mut self, from: &Path, to: &Path, length: u64) -> Result<(), StoreError> {
        let source = self.inner.files.open(from, Access::Read);
        let source = source.map_err(|e| StoreError::io("reading", from, e))?;
        self.copy_opened(&*source, from, to, length)
    }

    fn copy_opened(
        &mut self,
        source: &dyn StoredFile,
        from: &Path,
        to: &Path,
        length: u64,
    ) -> Result<(), StoreError> {
        let files = &self.inner.files;
        let reading = |e| StoreError::io("reading", from, e);
        let writing = |e| StoreError::io("writing", to, e);
        let target = files.open(to, Access::CreateNew).map_err(writing)?;
        let mut at = 0;
        while at < length {
            if self.inner.pressure.load(Ordering::Relaxed) {
                return Err(StoreError::Refused(
                    "the disk of the spool is full: the backup would keep room from being given back".into(),
                ));
            }
            let mut piece = vec![0; (length - at).min(PIECE) as usize];
            read_exact(source, &mut piece, at).map_err(reading)?;
            write_all(&*target, &mut [IoSlice::new(&piece)], at).map_err(writing)?;
            at += piece.len() as u64;
            self.job.moved(piece.len() as u64)?;
        }
        target.sync().map_err(writing)?;
        self.copied += 1;
        self.octets += length;
        Ok(())
    }
}

/// Reads everything back, and removes the files of messages that are not in the log that was copied.
fn read_back(root: &Path, files: &Arc<dyn Files>, job: Job<'_>) -> Result<Checked, StoreError> {
    let mut check = Offline::new(root, files, job);
    check.run(false)?;
    let big = Layout::new(root).big;
    for name in std::mem::take(&mut check.orphans) {
        let path = big.join(name);
        files.remove(&path).map_err(|e| StoreError::io("removing", &path, e))?;
    }
    files.sync_directory(&big).map_err(|e| StoreError::io("syncing", &big, e))?;
    Ok(check.finished())
}

fn write_marker(files: &dyn Files, root: &Path, backup: &BackedUp) -> std::io::Result<()> {
    let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = format!(
        "A backup of a Postern spool, made {made} seconds after 1970: {} messages, {} findings.\n",
        backup.checked.messages, backup.checked.wrong
    );
    let file = files.open(&root.join(MARKER), Access::CreateNew)?;
    write_all(&*file, &mut [IoSlice::new(text.as_bytes())], 0)?;
    file.sync()?;
    files.sync_directory(root)
}
