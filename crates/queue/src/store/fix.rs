//! What `store check --fix` does about findings: only what loses nothing. A file that belongs to nobody is moved into the
//! quarantine, octets that are no good record are copied there, the index is written anew. Whatever else is wrong stays as
//! it is, and its finding says what an operator can do.
//!
//! A finding carries its [`Fix`]. Between the check and the fix things may change: every fix looks again.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::{AtRest, Finding};
use super::files::{Access, Files};
use super::job::Listener;
use super::quarantine::set_aside;
use super::recovery::{Layout, Mark, segment_name};
use super::{Inner, Store, StoreError, large};
use crate::message::QueueId;

/// Fixes that are made at once; another run makes the rest. A request with so many is some hundred kilobytes.
pub const MAX_FIXES: usize = 1000;

/// Files of one name that are set aside beside each other.
const MAX_NAMESAKES: usize = 100;

/// What is done about a finding. Files are named as findings name them, below the spool directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Fix {
    /// A file that belongs to nobody is moved into the quarantine.
    SetAside {
        /// The file.
        file: String,
    },
    /// The file of a large message that no message mentions is removed, as the next start would. Only at rest, and only if
    /// nothing else is wrong: what mentions it might be what cannot be read.
    Remove {
        /// The file.
        file: String,
    },
    /// Octets of a segment that are no good record are copied into the quarantine, as a start does that reads them. Only
    /// at rest.
    Copy {
        /// The segment.
        file: String,
        /// Where they begin.
        from: u64,
        /// Where they end.
        to: u64,
        /// Whether the segment is marked, so that it is kept until an operator releases it.
        keeps: bool,
    },
    /// The index is written anew. The last one: it takes long.
    RebuildIndex,
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { file } => write!(f, "move {file} into the quarantine"),
            Self::Remove { file } => write!(f, "remove {file}, as the next start would"),
            Self::Copy { file, from, to, keeps } => {
                let kept = if *keeps { ", and keep the segment" } else { "" };
                write!(f, "copy octets {from} to {to} of {file} into the quarantine{kept}")
            }
            Self::RebuildIndex => write!(f, "write the index anew"),
        }
    }
}

/// What is to be done about the findings of a check.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    fixes: BTreeSet<Fix>,
    /// Those beyond [`MAX_FIXES`].
    pub more: u64,
}

impl Plan {
    /// Takes the fix of a finding, if there is one.
    pub fn take(&mut self, finding: &Finding) {
        match &finding.fix {
            Some(fix) if self.fixes.len() < MAX_FIXES || self.fixes.contains(fix) => {
                self.fixes.insert(fix.clone());
            }
            Some(_) => self.more += 1,
            None => {}
        }
    }

    /// Each once, in the order they are made.
    pub fn fixes(&self) -> Vec<Fix> {
        self.fixes.iter().cloned().collect()
    }
}

/// What came of fixes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Those that were made; they are durable.
    pub fixed: Vec<Fix>,
    /// Those that were not, with the reason.
    pub skipped: Vec<(Fix, String)>,
}

impl Fixed {
    /// Takes in what came of one.
    pub fn add(&mut self, fix: &Fix, result: Result<(), String>) {
        match result {
            Ok(()) => self.fixed.push(fix.clone()),
            Err(reason) => self.skipped.push((fix.clone(), reason)),
        }
    }
}

impl Store {
    /// Makes fixes while the spool is in use: files are set aside, the index is written anew. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`] when what was done cannot be made durable; [`StoreError::Interrupted`], [`StoreError::Closed`].
    pub fn fix(&self, fixes: &[Fix], listener: &mut Listener<'_>) -> Result<Fixed, StoreError> {
        let inner = &*self.inner;
        let mut fixed = Fixed::default();
        for fix in fixes {
            match fix {
                Fix::SetAside { file } => {
                    // Nothing is removed meanwhile.
                    let _still = inner.collector.hold();
                    let moved =
                        move_aside(&inner.layout, &*inner.files, file, |id| !inner.is_wanted_file(id));
                    fixed.add(fix, moved);
                }
                Fix::Remove { .. } | Fix::Copy { .. } => {
                    fixed.add(fix, Err("that is done with the daemon stopped".to_owned()));
                }
                Fix::RebuildIndex => {}
            }
        }
        if !fixed.fixed.is_empty() {
            sync(&inner.layout, &*inner.files)?;
        }
        if fixes.contains(&Fix::RebuildIndex) {
            let rebuilt = match self.rebuild_index(listener) {
                Err(error @ (StoreError::Interrupted | StoreError::Closed)) => return Err(error),
                rebuilt => rebuilt.map(drop).map_err(|error| error.to_string()),
            };
            fixed.add(&Fix::RebuildIndex, rebuilt);
        }
        Ok(fixed)
    }
}

impl Inner {
    /// Whether the file of a large message belongs to somebody: a message, one that arrives, or one that has just ended and
    /// whose file is about to be removed.
    pub(super) fn is_wanted_file(&self, id: u64) -> bool {
        let is_unfinished = self.unfinished.lock().contains(&id);
        let catalogue = self.catalogue.lock();
        is_unfinished || catalogue.location(id).is_some() || catalogue.ended_files.contains(&id)
    }
}

impl AtRest<'_> {
    /// Makes fixes that the check before has found, without the index: [`Store::rebuild_at_rest`] writes that anew, and
    /// needs the spool for itself. Blocking.
    ///
    /// # Errors
    /// [`StoreError::InUse`]; [`StoreError::Io`] when what was done cannot be made durable.
    pub fn fix(&mut self, fixes: &[Fix]) -> Result<Fixed, StoreError> {
        self.lock()?;
        let mut fixed = Fixed::default();
        for fix in fixes {
            let is_left_over = |id: u64| self.left_over.contains(&large::name(id));
            let done = match fix {
                Fix::SetAside { file } => move_aside(&self.layout, &**self.files, file, is_left_over),
                Fix::Remove { file } => self.remove(file),
                Fix::Copy { file, from, to, keeps } => self.copy(file, *from, *to, *keeps),
                Fix::RebuildIndex => continue,
            };
            fixed.add(fix, done);
        }
        if !fixed.fixed.is_empty() {
            sync(&self.layout, &**self.files)?;
        }
        Ok(fixed)
    }

    fn remove(&self, file: &str) -> Result<(), String> {
        let name = file.strip_prefix("big/").filter(|name| self.left_over.contains(*name));
        let name = name.ok_or("no check has found that it is left over")?;
        self.files.remove(&self.layout.big.join(name)).map_err(|error| error.to_string())
    }

    fn copy(&self, file: &str, from: u64, to: u64, keeps: bool) -> Result<(), String> {
        let segment = file.strip_prefix("log/").and_then(segment_name).ok_or("it is no segment")?;
        let path = self.layout.segment(segment);
        let opened = self.files.open(&path, Access::Read).map_err(|error| error.to_string())?;
        set_aside(&self.layout, &**self.files, segment, &*opened, from, to)
            .map_err(|error| error.to_string())?;
        let marked = if keeps { Mark::Damaged.make(&self.layout, &**self.files, segment) } else { Ok(()) };
        marked.map_err(|error| format!("marking the segment: {error}"))
    }
}

/// Moves a file below `log/` or `big/` into the quarantine. One of a large message must be left over; one with the name of
/// a segment is never moved.
fn move_aside(
    layout: &Layout,
    files: &dyn Files,
    file: &str,
    is_left_over: impl Fn(u64) -> bool,
) -> Result<(), String> {
    let (folder, name) = file.split_once('/').filter(|(_, name)| is_plain(name)).unwrap_or_default();
    let from = match folder {
        "log" => layout.log.join(name),
        "big" => layout.big.join(name),
        _ => return Err("it is no file below log/ or big/".to_owned()),
    };
    let there = entries(files, &from).map_err(|error| error.to_string())?;
    match there.iter().find(|entry| entry.name == name) {
        None => return Err("it is not there any more".to_owned()),
        Some(entry) if !entry.is_file => return Err("it is no ordinary file".to_owned()),
        Some(_) => {}
    }
    files.create_directory(&layout.damaged).map_err(|error| error.to_string())?;
    let kept = entries(files, &layout.damaged.join(name)).map_err(|error| error.to_string())?;
    let is_taken = |target: &String| kept.iter().any(|entry| entry.name == *target);
    let target = match (folder, large::id(name)) {
        ("big", Some(id)) if !is_left_over(id) => {
            return Err(format!("it belongs to message {}", QueueId(id)));
        }
        // What salvages messages looks for this name.
        ("big", Some(_)) => Some(format!("big-{name}")).filter(|target| !is_taken(target)),
        _ if folder == "log" && segment_name(name).is_some() => {
            return Err("it has the name of a segment: there may be mail in it".to_owned());
        }
        _ => foreign_names(folder, name).find(|target| !is_taken(target)),
    };
    let target = target.ok_or("a file of this name was set aside before: look at that first")?;
    files.rename(&from, &layout.damaged.join(target)).map_err(|error| error.to_string())
}

/// Whether it is the name of a file and no way to another directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// Under which names a file that is none of ours can be set aside: none that one of ours has.
fn foreign_names(folder: &str, name: &str) -> impl Iterator<Item = String> {
    let first = format!("{folder}.{name}");
    let next = first.clone();
    std::iter::once(first).chain((1..MAX_NAMESAKES).map(move |number| format!("{next}.{number}")))
}

/// What is in the directory of a file.
fn entries(files: &dyn Files, file: &std::path::Path) -> std::io::Result<Vec<super::files::Entry>> {
    files.list(file.parent().unwrap_or(file))
}

/// Makes durable what was moved.
fn sync(layout: &Layout, files: &dyn Files) -> Result<(), StoreError> {
    let directories: [&PathBuf; 4] = [&layout.damaged, &layout.root, &layout.log, &layout.big];
    for directory in directories {
        match files.sync_directory(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("syncing", directory, error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::check::Subject;
    use crate::store::files::SystemFiles;

    struct Spool {
        _folder: tempfile::TempDir,
        layout: Layout,
    }

    impl Spool {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let layout = Layout::new(folder.path());
            for directory in [&layout.log, &layout.big] {
                std::fs::create_dir(directory).unwrap();
            }
            Self { _folder: folder, layout }
        }

        fn write(&self, file: &str, text: &str) {
            std::fs::write(self.layout.root.join(file), text).unwrap();
        }

        fn move_aside(&self, file: &str, is_left_over: bool) -> Result<(), String> {
            move_aside(&self.layout, &SystemFiles, file, |_| is_left_over)
        }

        fn kept(&self, name: &str) -> String {
            std::fs::read_to_string(self.layout.damaged.join(name)).unwrap()
        }
    }

    #[test]
    fn a_file_that_belongs_to_nobody_is_moved_with_what_is_in_it() {
        let spool = Spool::new();
        for file in ["big/0000000000000007", "big/notes.txt", "log/notes.txt"] {
            spool.write(file, file);
            spool.move_aside(file, true).unwrap();
            assert!(!spool.layout.root.join(file).exists());
        }
        assert_eq!(spool.kept("big-0000000000000007"), "big/0000000000000007");
        assert_eq!(spool.kept("big.notes.txt"), "big/notes.txt");
        assert_eq!(spool.kept("log.notes.txt"), "log/notes.txt");
    }

    #[test]
    fn nothing_that_was_set_aside_before_is_written_over() {
        let spool = Spool::new();
        for text in ["first", "second", "third"] {
            spool.write("big/notes.txt", text);
            spool.move_aside("big/notes.txt", true).unwrap();
        }
        assert_eq!(spool.kept("big.notes.txt"), "first");
        assert_eq!(spool.kept("big.notes.txt.2"), "third");
        for text in ["first", "second"] {
            spool.write("big/0000000000000007", text);
            let moved = spool.move_aside("big/0000000000000007", true);
            assert_eq!(moved.is_ok(), text == "first", "{moved:?}");
        }
        assert_eq!(spool.kept("big-0000000000000007"), "first");
    }

    #[test]
    fn what_may_hold_mail_and_what_is_elsewhere_is_left_where_it_is() {
        let spool = Spool::new();
        let segment = "log/seg-00000001000000ab.log";
        for file in [segment, "big/0000000000000007", "FORMAT"] {
            spool.write(file, "x");
        }
        std::fs::create_dir(spool.layout.big.join("folder")).unwrap();
        for (file, says) in [
            (segment, "name of a segment"),
            ("big/0000000000000007", "belongs to message"),
            ("big/folder", "no ordinary file"),
            ("big/gone.txt", "not there"),
            ("big/../FORMAT", "no file below"),
            ("big/..", "no file below"),
            ("big/", "no file below"),
            ("index/db", "no file below"),
            ("FORMAT", "no file below"),
        ] {
            let error = spool.move_aside(file, false).unwrap_err();
            assert!(error.contains(says), "{file}: {error}");
        }
        assert!(spool.layout.root.join(segment).exists() && spool.layout.root.join("FORMAT").exists());
    }

    fn finding(fix: Option<Fix>) -> Finding {
        Finding {
            about: Subject::Orphan,
            is_note: true,
            place: String::new(),
            id: None,
            what: String::new(),
            advice: String::new(),
            fix,
        }
    }

    #[test]
    fn a_plan_has_each_fix_once_and_the_index_last_and_is_not_longer_than_a_request_may_be() {
        let set_aside = |number: usize| Fix::SetAside { file: format!("big/{number:016x}") };
        let mut plan = Plan::default();
        for fix in [Some(Fix::RebuildIndex), None, Some(set_aside(7)), Some(Fix::RebuildIndex)] {
            plan.take(&finding(fix));
        }
        assert_eq!(plan.fixes(), [set_aside(7), Fix::RebuildIndex]);
        for number in 0..MAX_FIXES + 10 {
            plan.take(&finding(Some(set_aside(number))));
        }
        assert_eq!((plan.fixes().len(), plan.more), (MAX_FIXES, 11));
        assert_eq!(plan.fixes().last(), Some(&Fix::RebuildIndex));
    }

    #[test]
    fn fixes_are_written_as_programs_read_them() {
        let copy = Fix::Copy { file: "log/x".to_owned(), from: 64, to: 128, keeps: true };
        let json = r#"{"do":"copy","file":"log/x","from":64,"to":128,"keeps":true}"#;
        assert_eq!(serde_json::to_string(&copy).unwrap(), json);
        assert_eq!(serde_json::from_str::<Fix>(json).unwrap(), copy);
        assert_eq!(
            copy.to_string(),
            "copy octets 64 to 128 of log/x into the quarantine, and keep the segment"
        );
    }
}
