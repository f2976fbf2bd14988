//! Is everything there and whole? Reads what counts, compares log, catalogue, index and files with each other, and says
//! what is wrong, where, and what to do; see [`super::fix`] for what can be done without losing anything. Changes nothing
//! in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalogue::{Location, Place, Position, RowFault, number, units};
use super::files::{Access, Files, StoredFile, read_exact};
use super::fix::Fix;
use super::index::{Comparison, Contents, Errand, Opening, Unusable};
use super::job::{Job, Listener, RATE};
use super::large::Mention;
use super::missing::Wrong;
use super::quarantine::copy_name;
use super::record::{ALIGNMENT, Header, Kind};
use super::recovery::{Layout, Mark, Segments, segment_name};
use super::scan::Bodies;
use super::survey::{Part, Survey};
use super::{FoundRecord, Inner, Store, StoreError, format, index_gone, large};
use crate::message::QueueId;

/// Messages that are looked up at once.
const CHUNK: usize = 500;
/// Octets that are read of a file at once.
const PIECE: u64 = 256 * 1024;

const LOOK_INTO_QUARANTINE: &str = "`posternctl store quarantine list` shows what was set aside; the segment is kept \
     until it is released there";
const END_IT: &str = "`posternctl queue show` says whom it is for; `posternctl queue fail` tells the sender";
const PUT_IT_BACK: &str = "stop the daemon and put the file back from a copy, if there is one; the next start holds what it still \
     knows of the messages in it";
const LOST: &str = "the content is lost: only the envelope is left";
const WRITTEN_ANEW: &str = "nothing: the next start writes it anew from the log";
const KNOWS_MORE: &str =
    "see to the damaged messages first: the index may be all that still knows whom they are for";
const REBUILD: &str = "`posternctl store rebuild` writes the index anew; no mail depends on it";

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A file that is none of ours, or one of ours that is missing or too short.
    File,
    /// A part of a segment.
    Segment,
    /// The record of a message.
    Message,
    /// The content of a message.
    Content,
    /// The newest state of a message.
    State,
    /// A file that no message mentions.
    Orphan,
    /// The index.
    Index,
}

/// Something that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub about: Subject,
    /// Whether nothing is wrong, and it only explains something.
    pub is_note: bool,
    /// The file below the spool directory, and the offset in it.
    pub place: String,
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is wrong, in words.
    pub what: String,
    /// What to do about it.
    pub advice: String,
    /// What `store check --fix` does about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

impl Finding {
    fn new(about: Subject, place: String, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { about, is_note: false, place, id: None, what: what.into(), advice: advice.into(), fix: None }
    }

    fn of_message(self, id: u64) -> Self {
        Self { id: Some(QueueId(id).to_string()), ..self }
    }

    fn into_note(self) -> Self {
        Self { is_note: true, ..self }
    }

    fn fixed_by(self, fix: Option<Fix>) -> Self {
        Self { fix, ..self }
    }

    /// About the index. Where records cannot be read it is left as it is.
    fn of_index(what: impl Into<String>, is_log_damaged: bool) -> Self {
        let (advice, fix) = match is_log_damaged {
            true => (KNOWS_MORE, None),
            false => (REBUILD, Some(Fix::RebuildIndex)),
        };
        Self::new(Subject::Index, "index".into(), what, advice).fixed_by(fix)
    }
}

/// How a check is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether the whole log is read, with all that counts for nothing any more.
    pub full: bool,
    /// Octets a second that are read at most.
    pub rate: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { full: false, rate: RATE }
    }
}

/// What was looked at, and how much of it is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Segments of the log.
    pub segments: u64,
    /// Messages.
    pub messages: u64,
    /// Octets of their contents.
    pub octets: u64,
    /// Those of them with a file of their own.
    pub large_files: u64,
    /// Rows of the index; none if there is no index to compare.
    pub rows: Option<u64>,
    /// How much is wrong. Notes do not count.
    pub wrong: u64,
}

impl Store {
    /// Checks the spool while it is in use: every message that counts with its state and its content, the files of large
    /// messages, the index; with `full` the whole log. Blocking, for as long as reading it all takes.
    ///
    /// # Errors
    /// Only when it cannot go on; what is wrong with the spool is told as [`Finding`]s.
    pub fn check(&self, options: Options, listener: &mut Listener<'_>) -> Result<Checked, StoreError> {
        let inner = &*self.inner;
        let mut listener = |news| match inner.collector.is_closed() {
            true => ControlFlow::Break(()),
            false => listener(news),
        };
        let job = Job::new(options.rate, &mut listener);
        let mut check = Online { inner, job, checked: Checked::default(), is_damaged: false };
        let unknown = check.segments()?;
        check.missing()?;
        check.messages()?;
        check.orphans()?;
        check.index()?;
        if options.full {
            check.log()?;
        }
        check.unknown_segments(unknown)?;
        check.checked.wrong = check.job.findings;
        Ok(check.checked)
    }
}

/// Checks a spool that no daemon uses, or a backup. Blocking.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::UnknownFormat`]; [`StoreError::Refused`]: it is no spool; and when it cannot go on.
pub fn check_directory(
    root: &Path,
    files: &Arc<dyn Files>,
    options: Options,
    listener: &mut Listener<'_>,
) -> Result<Checked, StoreError> {
    AtRest::claim(root, files)?.check(options, listener)
}

/// A spool that no daemon uses, or a backup. As long as this is there none begins to.
#[derive(Debug)]
pub struct AtRest<'f> {
    pub(super) layout: Layout,
    pub(super) files: &'f Arc<dyn Files>,
    /// None of a spool that nobody has used yet.
    lock: Option<File>,
    /// Names of files that no message mentions, as the last check has found.
    pub(super) left_over: BTreeSet<String>,
}

impl<'f> AtRest<'f> {
    /// Makes sure that nobody uses a spool.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::UnknownFormat`]; [`StoreError::Refused`]: it is no spool.
    pub fn claim(root: &Path, files: &'f Arc<dyn Files>) -> Result<Self, StoreError> {
        let lock = claim(root, &**files)?;
        Ok(Self { layout: Layout::new(root), files, lock, left_over: BTreeSet::new() })
    }

    /// Checks it. Blocking.
    ///
    /// # Errors
    /// When it cannot go on.
    pub fn check(&mut self, options: Options, listener: &mut Listener<'_>) -> Result<Checked, StoreError> {
        let mut check = Offline::new(&self.layout.root, self.files, Job::new(options.rate, listener));
        check.run(true)?;
        self.left_over = std::mem::take(&mut check.orphans).into_iter().collect();
        let is_sound = check.job.findings == 0;
        for name in &self.left_over {
            let file = format!("big/{name}");
            let fix = if is_sound { Fix::Remove { file } } else { Fix::SetAside { file } };
            check.job.found(unmentioned(name).into_note().fixed_by(Some(fix)))?;
        }
        Ok(check.finished())
    }

    /// Holds the lock also of a spool that nobody has used yet.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Io`].
    pub(super) fn lock(&mut self) -> Result<(), StoreError> {
        if self.lock.is_none() {
            let path = self.layout.root.join("LOCK");
            let lock = self.files.lock(&path).map_err(|e| StoreError::io("locking", &path, e))?;
            let in_use = || StoreError::InUse(self.layout.holder(&**self.files, &path));
            self.lock = Some(lock.ok_or_else(in_use)?);
        }
        Ok(())
    }
}

/// Makes sure that nobody uses a spool. Makes nothing that is not there: this may be a backup, or no spool at all.
pub(super) fn claim(root: &Path, files: &dyn Files) -> Result<Option<File>, StoreError> {
    if format::read(files, root)?.is_none() {
        let text = format!("{} is no spool: there is no file FORMAT in it", root.display());
        return Err(StoreError::Refused(text));
    }
    let path = root.join("LOCK");
    match files.open(&path, Access::Read) {
        // Nobody has used it yet.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => drop(opened.map_err(|e| StoreError::io("opening", &path, e))?),
    }
    let lock = files.lock(&path).map_err(|e| StoreError::io("locking", &path, e))?;
    lock.map(Some).ok_or_else(|| StoreError::InUse(Layout::new(root).holder(files, &path)))
}

/// A place in a segment.
fn at(segment: u64, offset: u64) -> String {
    format!("log/seg-{segment:016x}.log at {offset}")
}

fn unmentioned(file: &str) -> Finding {
    let what = "no message mentions this file";
    let advice =
        "nothing: it is removed at the next start, or set aside if something in the log cannot be read";
    Finding::new(Subject::Orphan, format!("big/{file}"), what, advice)
}

/// A file that is none of ours. One with the name of a segment may hold mail, and a directory anything; a name that cannot be
/// shown is none to agree to.
fn foreign(file: String, is_file: bool) -> Finding {
    let name = file.rsplit('/').next().unwrap_or_default();
    let is_movable = is_file && segment_name(name).is_none() && !name.chars().any(char::is_control);
    let advice = match is_movable {
        true => {
            "look what it is, and move it out of the spool, or into the quarantine with `posternctl store check --fix`"
        }
        false => "look what it is, and move it out of the spool; it is never touched",
    };
    let fix = is_movable.then(|| Fix::SetAside { file: file.clone() });
    Finding::new(Subject::File, file, "this file is none of the spool's", advice).fixed_by(fix)
}

/// A segment that should be there, or have more octets. `length` is what there is of it.
fn wrong_segment(segment: u64, wrong: Wrong) -> Finding {
    let (length, what) = match wrong {
        Wrong::Missing => (0, "the segment is missing".to_owned()),
        Wrong::Short { length, actual } => (actual, format!("the segment should have {length} octets")),
    };
    Finding::new(Subject::File, at(segment, length), what, PUT_IT_BACK)
}

/// A mark that an earlier start has made.
fn marked(segment: u64, mark: Mark) -> Finding {
    let file = mark.file_name(segment);
    let place = format!("damaged/{file}");
    match mark {
        Mark::Missing => {
            let what = "an earlier start missed a segment: what it knew of the messages in it is held";
            let advice = format!(
                "stop the daemon and put the file back from a copy, if there is one; else `posternctl store quarantine \
                 remove {file}`"
            );
            Finding::new(Subject::File, place, what, advice)
        }
        Mark::Damaged | Mark::Unreadable => {
            let what = "an earlier start found a part of a segment that it could not read";
            // What is still wrong was found too.
            Finding::new(Subject::Segment, place, what, LOOK_INTO_QUARANTINE).into_note()
        }
    }
}

/// The marks below `damaged/`.
fn marks(layout: &Layout, files: &dyn Files) -> Result<Vec<(u64, Mark)>, StoreError> {
    let entries = match files.list(&layout.damaged) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| StoreError::io("reading", &layout.damaged, e))?,
    };
    Ok(entries.iter().filter_map(|entry| Mark::segment(&entry.name)).collect())
}

fn part_finding(segment: u64, part: Part) -> Finding {
    let (offset, what) = match part {
        Part::Damaged { from, to } => (from, format!("{} octets are no good record", to - from)),
        Part::Unreadable => (0, "the disk cannot read a part of it".to_owned()),
        Part::Unfinished { from, to } => {
            let what = format!(
                "{} octets that a crash left unfinished; nobody was told that they are safe",
                to - from
            );
            let advice = "nothing: the next start cuts them off and keeps a copy";
            return Finding::new(Subject::Segment, at(segment, from), what, advice).into_note();
        }
    };
    Finding::new(Subject::Segment, at(segment, offset), what, LOOK_INTO_QUARANTINE)
}

/// A spool in use.
struct Online<'a, 'j> {
    inner: &'a Inner,
    job: Job<'j>,
    checked: Checked,
    /// Whether records cannot be read.
    is_damaged: bool,
}

impl Online<'_, '_> {
    /// Compares the names and lengths of the segments. Gives those that are not known: one may just be begun.
    fn segments(&mut self) -> Result<Vec<u64>, StoreError> {
        let layout = &self.inner.layout;
        let entries =
            self.inner.files.list(&layout.log).map_err(|e| StoreError::io("reading", &layout.log, e))?;
        let mut there = BTreeMap::new();
        for entry in entries {
            match segment_name(&entry.name).filter(|_| entry.is_file) {
                Some(name) => drop(there.insert(name, entry.length)),
                None => self.job.found(foreign(format!("log/{}", entry.name), entry.is_file))?,
            }
        }
        let known = self.inner.catalogue.lock().segments.clone();
        self.checked.segments = known.len() as u64;
        for (number, segment) in &known {
            let place = || at(segment.name, segment.length);
            let is_short = there.remove(&segment.name).is_none_or(|length| length < segment.length);
            if is_short && self.is_short(*number) {
                let what = format!("the segment is missing or shorter than its {} octets", segment.length);
                let advice =
                    "restore it from a backup with the daemon stopped; messages in it are named below";
                self.job.found(Finding::new(Subject::File, place(), what, advice))?;
            }
            if segment.damaged {
                let what = "the segment has a part that cannot be read: it is kept";
                let finding = Finding::new(Subject::Segment, at(segment.name, 0), what, LOOK_INTO_QUARANTINE);
                self.job.found(finding)?;
            }
        }
        Ok(there.into_keys().collect())
    }

    /// Tells which segments the start, or one before it, has missed.
    fn missing(&mut self) -> Result<(), StoreError> {
        for (segment, mark) in marks(&self.inner.layout, &*self.inner.files)? {
            if mark == Mark::Missing {
                self.job.found(marked(segment, mark))?;
            }
        }
        Ok(())
    }

    /// Whether a segment is missing or too short at a moment when none is removed.
    fn is_short(&self, number: u32) -> bool {
        let _still = self.inner.collector.hold();
        let segment = self.inner.catalogue.lock().segments.get(&number).cloned();
        segment.is_some_and(|segment| {
            let file = self.inner.files.open(&self.inner.segment_path(segment.name), Access::Read);
            !file.and_then(|file| file.length()).is_ok_and(|length| length >= segment.length)
        })
    }

    /// Looks once more for segments that were not known: by now they should be, or be gone, or still be begun.
    fn unknown_segments(&mut self, names: Vec<u64>) -> Result<(), StoreError> {
        for name in names {
            let path = self.inner.segment_path(name);
            let is_known = {
                let catalogue = self.inner.catalogue.lock();
                let known = catalogue.segments.get(&number(name)).map(|segment| segment.name);
                known == Some(name) || catalogue.beginning == Some(name)
            };
            if !is_known && self.inner.files.open(&path, Access::Read).is_ok() {
                self.job.found(foreign(format!("log/seg-{name:016x}.log"), true))?;
            }
        }
        Ok(())
    }

    /// Reads every message that counts.
    fn messages(&mut self) -> Result<(), StoreError> {
        let all = self.inner.catalogue.lock().len() as u64;
        self.job.stage("messages", all)?;
        let mut from = 0;
        loop {
            let chunk = self.inner.catalogue.lock().messages_from(from, CHUNK);
            let next = chunk.last().and_then(|(last, _)| last.checked_add(1));
            for (id, _) in chunk {
                self.message(id)?;
                self.checked.messages += 1;
                self.job.advance(1)?;
            }
            let Some(next) = next else { return Ok(()) };
            from = next;
        }
    }

    fn message(&mut self, id: u64) -> Result<(), StoreError> {
        let is_good = |found: &FoundRecord| {
            let (header, location) = (&found.header, &found.location);
            matches!(header.kind, Some(Kind::Enqueue | Kind::Move))
                && header.in_file == location.in_file
                && units(header.record_length()) == location.length
        };
        let header = match self.inner.read_record(id, |location| Some(location.place)) {
            Ok(None) => return Ok(()),
            Ok(Some(found)) if is_good(&found) => found.header,
            Ok(Some(_)) => return self.wrong_record(id, Subject::Message, "it is another record"),
            Err(error) => return self.wrong_record(id, Subject::Message, &error.to_string()),
        };
        match self.inner.read_record(id, Location::state) {
            Ok(Some(found)) if found.header.kind != Some(Kind::State) => {
                self.wrong_record(id, Subject::State, "it is another record")?;
            }
            Ok(_) => {}
            Err(error) => self.wrong_record(id, Subject::State, &error.to_string())?,
        }
        match self.content(id) {
            Ok(()) => self.checked.large_files += u64::from(header.in_file),
            Err(StoreError::NoMessage(_)) => {}
            Err(error @ (StoreError::Interrupted | StoreError::Closed)) => return Err(error),
            Err(error) => self.wrong_content(id, &header, &error)?,
        }
        Ok(())
    }

    fn content(&mut self, id: u64) -> Result<(), StoreError> {
        let mut body = self.inner.open_body(QueueId(id))?;
        while let Some(piece) = body.next()? {
            self.checked.octets += piece.len() as u64;
            self.job.moved(piece.len() as u64)?;
        }
        Ok(())
    }

    /// The place of a record, unless the message has ended meanwhile.
    fn place(&self, id: u64, of: impl Fn(&Location) -> Option<Place>) -> Option<String> {
        let catalogue = self.inner.catalogue.lock();
        let place = of(catalogue.location(id)?)?;
        let name = catalogue.segments.get(&place.segment).map(|segment| segment.name);
        Some(at(name.unwrap_or(u64::from(place.segment) << 32), place.offset()))
    }

    fn wrong_record(&mut self, id: u64, about: Subject, error: &str) -> Result<(), StoreError> {
        let (place, what, advice) = match about {
            Subject::State => (
                self.place(id, Location::state),
                "the newest state cannot be read: after a restart recipients that have the message may get it again",
                "while the daemon runs, `posternctl queue hold` and `posternctl queue release` write it anew",
            ),
            _ => (self.place(id, |location| Some(location.place)), "the record cannot be read", END_IT),
        };
        // Without a place it has ended meanwhile.
        let Some(place) = place else { return Ok(()) };
        self.is_damaged = true;
        self.job.found(Finding::new(about, place, format!("{what} ({error})"), advice).of_message(id))
    }

    fn wrong_content(&mut self, id: u64, header: &Header, error: &StoreError) -> Result<(), StoreError> {
        let Some(place) = self.place(id, |location| Some(location.place)) else { return Ok(()) };
        let name = large::name(id);
        let has_file = header.in_file && !header.is_lost;
        let file = has_file.then(|| self.inner.files.open(&self.inner.layout.big.join(&name), Access::Read));
        let (place, what) = match file {
            Some(Err(e)) if e.kind() == ErrorKind::NotFound => {
                (format!("big/{name}"), "the file with the content is missing".to_owned())
            }
            Some(_) => (format!("big/{name}"), format!("the content is not as it was written ({error})")),
            None if header.is_lost => (place, LOST.to_owned()),
            None => (place, format!("the content is not as it was written ({error})")),
        };
        self.job.found(Finding::new(Subject::Content, place, what, END_IT).of_message(id))
    }

    /// Looks for files that no message mentions.
    fn orphans(&mut self) -> Result<(), StoreError> {
        let big = &self.inner.layout.big;
        let entries = self.inner.files.list(big).map_err(|e| StoreError::io("reading", big, e))?;
        self.job.stage("large files", entries.len() as u64)?;
        for entry in entries {
            match large::id(&entry.name) {
                None => self.job.found(foreign(format!("big/{}", entry.name), entry.is_file))?,
                Some(id) if self.is_orphan(id) => {
                    let fix = Fix::SetAside { file: format!("big/{}", entry.name) };
                    self.job.found(unmentioned(&entry.name).fixed_by(Some(fix)))?;
                }
                Some(_) => {}
            }
            self.job.advance(1)?;
        }
        Ok(())
    }

    fn is_orphan(&self, id: u64) -> bool {
        let inner = self.inner;
        if inner.is_wanted_file(id) {
            return false;
        }
        // The collector may just be removing it: once more when it is not at work.
        let _still = inner.collector.hold();
        !inner.is_wanted_file(id)
            && inner.files.open(&inner.layout.big.join(large::name(id)), Access::Read).is_ok()
    }

    fn index(&mut self) -> Result<(), StoreError> {
        self.job.stage("index", 0)?;
        let control = &self.inner.index;
        let compared = self.job.wait_for(&control.ask(Errand::Compare))?;
        let Some(compared) = compared else {
            return match index_gone(control) {
                StoreError::Refused(reason) => self.index_finding(reason),
                error => Err(error),
            };
        };
        self.checked.rows = Some(compared.rows);
        self.index_faults(&compared)
    }

    fn index_faults(&mut self, compared: &Comparison) -> Result<(), StoreError> {
        for (id, fault) in &compared.faults {
            let finding = Finding::of_index(fault_text(*fault), self.is_damaged);
            self.job.found(finding.of_message(*id))?;
        }
        if compared.more > 0 {
            self.index_finding(format!("{} more rows are wrong", compared.more))?;
        }
        if !compared.is_summed_up {
            self.index_finding("the summary does not fit the rows".to_owned())?;
        }
        Ok(())
    }

    fn index_finding(&mut self, what: String) -> Result<(), StoreError> {
        self.job.found(Finding::of_index(what, self.is_damaged))
    }

    /// Reads the whole log and looks for messages that it holds and the queue does not: they would come back.
    fn log(&mut self) -> Result<(), StoreError> {
        let mut survey = Survey::default();
        let (end, segments) = {
            let catalogue = self.inner.catalogue.lock();
            let segments: Vec<_> = catalogue.segments.values().map(|s| (s.name, 0, s.length)).collect();
            (catalogue.position, segments)
        };
        self.job.stage("log", segments.iter().map(|(.., length)| length).sum())?;
        self.survey(&mut survey, &segments, true)?;
        let missing: Vec<u64> = {
            let is_missing = |id: &&u64| self.inner.catalogue.lock().location(**id).is_none();
            survey.messages.keys().filter(is_missing).copied().collect()
        };
        // They may have ended while the log was read: that is said behind what was read.
        let newer = {
            let catalogue = self.inner.catalogue.lock();
            let newer = catalogue.segments.range(number(end.segment)..);
            newer
                .map(|(_, s)| (s.name, if s.name == end.segment { end.offset } else { 0 }, s.length))
                .collect::<Vec<_>>()
        };
        self.survey(&mut survey, &newer, false)?;
        for id in missing {
            let Some(logged) = survey.messages.get(&id) else { continue };
            let location = logged.location;
            let held_by = logged.first..=location.place.segment.max(logged.first);
            let is_there = self.inner.catalogue.lock().segments.range(held_by).next().is_some();
            if is_there {
                let place = format!("log, segment {} at {}", location.place.segment, location.place.offset());
                let what =
                    "the log holds this message and nothing that ends it, but the queue does not have it";
                let advice =
                    "it comes back at the next start; hold it then, and find out whether it was delivered";
                self.job.found(Finding::new(Subject::Message, place, what, advice).of_message(id))?;
            }
        }
        Ok(())
    }

    /// Reads segments; those that are removed meanwhile are passed over.
    fn survey(
        &mut self,
        survey: &mut Survey,
        segments: &[(u64, u64, u64)],
        tells: bool,
    ) -> Result<(), StoreError> {
        for (name, from, length) in segments {
            // One that is missing was named before.
            let Ok(file) = self.inner.open_segment(*name) else { continue };
            let parts = survey.read(*name, &*file, *from, *length, Bodies::Skip);
            for part in parts.into_iter().filter(|_| tells) {
                self.job.found(part_finding(*name, part))?;
            }
            self.job.advance(length - from)?;
            self.job.moved(length - from)?;
        }
        Ok(())
    }
}

fn fault_text(fault: RowFault) -> &'static str {
    match fault {
        RowFault::Damaged => "the row is damaged",
        RowFault::Missing => "there is no row",
        RowFault::Ended => "there is a row, but no such message",
        RowFault::Misplaced => "the row names another place",
    }
}

/// What an index that nobody uses says.
struct Rows {
    locations: BTreeMap<u64, Location>,
    /// Up to where in the log they are complete.
    complete_to: Option<Position>,
    /// The names of the segments that there were.
    segments: Vec<u64>,
}

/// A spool that nobody uses.
pub(super) struct Offline<'a, 'j> {
    layout: Layout,
    files: &'a Arc<dyn Files>,
    pub job: Job<'j>,
    checked: Checked,
    /// The segments there are: name and length by number.
    segments: Segments,
    /// Whether parts of the log cannot be read, or are missing.
    is_damaged: bool,
    /// Why the index cannot be used, if so.
    unusable: Option<String>,
    /// Names of files that no message mentions.
    pub orphans: Vec<String>,
}

impl<'a, 'j> Offline<'a, 'j> {
    pub fn new(root: &Path, files: &'a Arc<dyn Files>, job: Job<'j>) -> Self {
        Self {
            layout: Layout::new(root),
            files,
            job,
            checked: Checked::default(),
            segments: BTreeMap::new(),
            is_damaged: false,
            unusable: None,
            orphans: Vec::new(),
        }
    }

    /// Reads everything. The index is opened only if it is wanted: sled writes to it.
    pub fn run(&mut self, with_index: bool) -> Result<(), StoreError> {
        let rows = if with_index { self.rows()? } else { None };
        let mut survey = Survey::default();
        survey.behind = rows.as_ref().and_then(|rows| rows.complete_to);
        self.log(&mut survey)?;
        self.missing(&survey, rows.as_ref().map_or(&[], |rows| &rows.segments))?;
        self.contents(&survey)?;
        self.large_files(&survey)?;
        match rows {
            Some(Rows { locations, complete_to: Some(complete_to), .. })
                if self.is_of_this_log(complete_to) =>
            {
                self.compare(&locations, &survey)
            }
            Some(_) => {
                let what = "it was never completed, or it is not of this log";
                let finding = Finding::new(Subject::Index, "index".into(), what, WRITTEN_ANEW);
                self.job.found(finding.into_note())
            }
            None => self.unusable_index(),
        }
    }

    /// Also without a fix the next start writes it anew, and looks before what it knows of damaged messages.
    fn unusable_index(&mut self) -> Result<(), StoreError> {
        let Some(reason) = self.unusable.take() else { return Ok(()) };
        let what = format!("it cannot be used: {reason}");
        let fix = (!self.is_damaged).then_some(Fix::RebuildIndex);
        self.job.found(Finding::new(Subject::Index, "index".into(), what, WRITTEN_ANEW).fixed_by(fix))
    }

    /// What makes a start use an index.
    fn is_of_this_log(&self, position: Position) -> bool {
        let segment = self.segments.get(&number(position.segment));
        segment.is_some_and(|(name, length)| *name == position.segment && position.offset <= *length)
    }

    /// What was looked at.
    pub fn finished(self) -> Checked {
        Checked { wrong: self.job.findings, ..self.checked }
    }

    fn rows(&mut self) -> Result<Option<Rows>, StoreError> {
        let root = &self.layout.root;
        if !self.files.list(&root.join("index")).is_ok_and(|entries| !entries.is_empty()) {
            return Ok(None);
        }
        self.job.stage("index", 0)?;
        let opening = Opening::start(root, Arc::clone(self.files))
            .map_err(|source| StoreError::Io { what: "starting the indexer".into(), source })?;
        let mut locations = BTreeMap::new();
        let loaded = opening.load(|id, row| {
            locations.insert(id, row.location);
        });
        opening.close();
        match loaded {
            Ok(Contents { summary, segments }) => {
                return Ok(Some(Rows { locations, complete_to: summary.complete_to, segments }));
            }
            Err(Unusable::Empty) => {}
            // Told when it is known whether the log is whole.
            Err(Unusable::Bad(reason) | Unusable::Stuck(reason)) => self.unusable = Some(reason),
        }
        Ok(None)
    }

    fn log(&mut self, survey: &mut Survey) -> Result<(), StoreError> {
        let (segments, strange) = self.layout.list_segments(&**self.files)?;
        let entries = self.files.list(&self.layout.log);
        let entries = entries.map_err(|e| StoreError::io("reading", &self.layout.log, e))?;
        for name in strange {
            let is_file = entries.iter().any(|entry| entry.name == name && entry.is_file);
            self.job.found(foreign(format!("log/{name}"), is_file))?;
        }
        self.segments = segments.clone();
        self.job.stage("log", segments.values().map(|(_, length)| length).sum())?;
        let newest = segments.keys().next_back().copied();
        for (number, (name, length)) in segments {
            let path = self.layout.segment(name);
            let file =
                self.files.open(&path, Access::Read).map_err(|e| StoreError::io("opening", &path, e))?;
            let parts = match Some(number) == newest {
                true => survey.read_newest(name, &*file, length),
                false => survey.read(name, &*file, 0, length, Bodies::Check),
            };
            for part in parts {
                let fix = match part {
                    Part::Damaged { from, to } => self.copy(name, from, to, true),
                    Part::Unfinished { .. } | Part::Unreadable => None,
                };
                self.is_damaged |= !matches!(part, Part::Unfinished { .. });
                self.job.found(part_finding(name, part).fixed_by(fix))?;
            }
            self.checked.segments += 1;
            self.job.advance(length)?;
            self.job.moved(length)?;
        }
        Ok(())
    }

    /// Copies what is no good record, unless that was done before.
    fn copy(&self, segment: u64, from: u64, to: u64, keeps: bool) -> Option<Fix> {
        let is_there = |name: String| self.files.open(&self.layout.damaged.join(name), Access::Read).is_ok();
        let is_copied = is_there(copy_name(segment, from));
        let is_done = is_copied && (!keeps || is_there(Mark::Damaged.file_name(segment)));
        let file = format!("log/seg-{segment:016x}.log");
        (!is_done).then_some(Fix::Copy { file, from, to, keeps })
    }

    /// Looks for segments that should be there, by the log, by the index and by the marks of earlier starts.
    fn missing(&mut self, survey: &Survey, indexed: &[u64]) -> Result<(), StoreError> {
        let has = |name: u64| self.segments.get(&number(name)).is_some_and(|(found, _)| *found == name);
        let newest = self.segments.keys().next_back().copied().unwrap_or(0);
        let is_ours = self.segments.is_empty() || indexed.iter().any(|name| has(*name));
        // Behind the end nothing says what there was, but for the index.
        let behind = indexed.iter().copied().filter(|name| is_ours && number(*name) > newest);
        let mut wrong = survey.expected.compare(&self.segments);
        wrong.extend(behind.map(|name| (name, Wrong::Missing)));
        let marks = marks(&self.layout, &**self.files)?;
        let is_told = |name: u64| wrong.iter().any(|(other, _)| *other == name);
        let marks: Vec<Finding> = marks
            .into_iter()
            .filter(|(segment, mark)| *mark != Mark::Missing || !(has(*segment) || is_told(*segment)))
            .map(|(segment, mark)| marked(segment, mark))
            .collect();
        for finding in wrong.into_iter().map(|(name, wrong)| wrong_segment(name, wrong)).chain(marks) {
            self.is_damaged |= finding.about == Subject::File;
            self.job.found(finding)?;
        }
        Ok(())
    }

    fn contents(&mut self, survey: &Survey) -> Result<(), StoreError> {
        self.checked.messages = survey.messages.len() as u64;
        for (id, logged) in &survey.messages {
            let place = logged.location.place;
            self.checked.octets += u64::from(logged.location.length) * super::record::ALIGNMENT;
            if !logged.is_readable || logged.is_lost {
                let (from, length) = (place.offset(), u64::from(logged.location.length) * ALIGNMENT);
                let segment = self.segments.get(&place.segment).filter(|_| !logged.is_lost);
                let fix = segment.and_then(|(name, _)| self.copy(*name, from, from + length, false));
                let place = format!("log, segment {} at {from}", place.segment);
                let what = if logged.is_lost { LOST } else { "the content is not as it was written" };
                let finding = Finding::new(Subject::Content, place, what, END_IT).fixed_by(fix);
                self.job.found(finding.of_message(*id))?;
            }
        }
        Ok(())
    }

    fn large_files(&mut self, survey: &Survey) -> Result<(), StoreError> {
        let big = self.layout.big.clone();
        let entries = self.files.list(&big).map_err(|e| StoreError::io("reading", &big, e))?;
        let mut there = BTreeSet::new();
        for entry in entries {
            let is_large = |id: &u64| survey.messages.get(id).is_some_and(|logged| logged.location.in_file);
            match large::id(&entry.name) {
                Some(id) if is_large(&id) => drop(there.insert(id)),
                Some(_) => self.orphans.push(entry.name),
                None => self.job.found(foreign(format!("big/{}", entry.name), entry.is_file))?,
            }
        }
        self.job.stage("large files", survey.mentions.len() as u64)?;
        for (id, mention) in &survey.mentions {
            let wrong = match there.contains(id) {
                true => self.large_file(&big.join(large::name(*id)), *mention)?,
                false => Some("the file with the content is missing".to_owned()),
            };
            if let Some(what) = wrong {
                let place = format!("big/{}", large::name(*id));
                self.job.found(Finding::new(Subject::Content, place, what, END_IT).of_message(*id))?;
            }
            self.checked.large_files += 1;
            self.job.advance(1)?;
        }
        Ok(())
    }

    /// What is wrong with the file of a large message.
    fn large_file(&mut self, path: &Path, mention: Mention) -> Result<Option<String>, StoreError> {
        let read = |file: &dyn StoredFile, job: &mut Job<'_>| -> Result<Option<String>, StoreError> {
            let length = file.length().map_err(|e| StoreError::io("reading", path, e))?;
            if length != mention.length {
                return Ok(Some(format!("the file has {length} octets and should have {}", mention.length)));
            }
            let crc = checksum(file, path, length, job)?;
            Ok((crc != mention.crc).then(|| "the content is not as it was written".to_owned()))
        };
        let result = match self.files.open(path, Access::Read) {
            Ok(file) => read(&*file, &mut self.job),
            Err(error) => Err(StoreError::io("opening", path, error)),
        };
        self.checked.octets += mention.length;
        match result {
            // That it cannot be read is what is looked for.
            Err(error @ StoreError::Io { .. }) => Ok(Some(error.to_string())),
            result => result,
        }
    }

    fn compare(&mut self, rows: &BTreeMap<u64, Location>, survey: &Survey) -> Result<(), StoreError> {
        self.checked.rows = Some(rows.len() as u64);
        let ids: BTreeSet<u64> = rows.keys().chain(survey.messages.keys()).copied().collect();
        // The next start replays what the log says of these.
        for id in ids.into_iter().filter(|id| !survey.touched.contains(id)) {
            let fault = match (rows.get(&id), survey.messages.get(&id)) {
                (None, _) => Some(RowFault::Missing),
                // Where the segment is gone, what ended it may be gone too: a start sees it like that.
                (Some(row), None) => {
                    self.segments.contains_key(&row.place.segment).then_some(RowFault::Ended)
                }
                (Some(row), Some(logged)) => {
                    let mut logged = logged.location;
                    logged.indexed = row.indexed;
                    (*row != logged).then_some(RowFault::Misplaced)
                }
            };
            if let Some(fault) = fault {
                let finding = Finding::of_index(fault_text(fault), self.is_damaged);
                self.job.found(finding.of_message(id))?;
            }
        }
        Ok(())
    }
}

/// The CRC32C of a file.
fn checksum(file: &dyn StoredFile, path: &Path, length: u64, job: &mut Job<'_>) -> Result<u32, StoreError> {
    let (mut at, mut crc) = (0, 0);
    while at < length {
        let mut piece = vec![0; (length - at).min(PIECE) as usize];
        read_exact(file, &mut piece, at).map_err(|e| StoreError::io("reading", path, e))?;
        crc = crc32c::crc32c_append(crc, &piece);
        at += piece.len() as u64;
        job.moved(piece.len() as u64)?;
    }
    Ok(crc)
}
