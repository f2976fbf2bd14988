//! What a start does: locks the directory, learns from the index and the log what is in the queue, sets aside what is
//! damaged, and cuts off what a crash has left unfinished.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::catalogue::{Catalogue, Location, Place, Position, Segment, is_name, number, units};
use super::files::{Access, Files, StoredFile, is_damage, write_all};
use super::index::{Contents, Opening, Texts, Unusable};
use super::missing::{Expected, Wrong};
use super::record::{ALIGNMENT, HEADER, Header, Kind};
use super::scan::{Bodies, Entry, Item, Scan, scan, whole_groups};
use super::{Found, InUse, News, Recovered, StoreError, format, large};
use crate::ascending::AscendingMap;
use crate::message::QueueId;

/// Name and length of segments by number.
pub(super) type Segments = BTreeMap<u32, (u64, u64)>;

/// The directories of a spool.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub root: PathBuf,
    pub log: PathBuf,
    pub big: PathBuf,
    pub damaged: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            log: root.join("log"),
            big: root.join("big"),
            damaged: root.join("damaged"),
        }
    }

    /// The file of a segment.
    pub fn segment(&self, name: u64) -> PathBuf {
        self.log.join(segment_file(name))
    }

    /// Makes the spool ours, and makes the directories if it is new.
    pub fn claim(&self, files: &dyn Files) -> Result<File, StoreError> {
        let create =
            |path: &Path| files.create_directory(path).map_err(|e| StoreError::io("creating", path, e));
        create(&self.root)?;
        let path = self.root.join("LOCK");
        let lock = files.lock(&path).map_err(|e| StoreError::io("locking", &path, e))?;
        let mut lock = lock.ok_or_else(|| StoreError::InUse(self.holder(files, &path)))?;
        // For people who look: the lock itself is what counts, so a full disk may leave this undone.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        self.check_format(files)?;
        create(&self.log)?;
        create(&self.big)?;
        files.sync_directory(&self.root).map_err(|e| StoreError::io("syncing", &self.root, e))?;
        Ok(lock)
    }

    /// The files of the log: name and length of the segments by number, and the names of files that are none, or twice.
    pub fn list_segments(&self, files: &dyn Files) -> Result<(Segments, Vec<String>), StoreError> {
        let mut segments = Segments::new();
        let mut strange = Vec::new();
        for entry in files.list(&self.log).map_err(|e| StoreError::io("reading", &self.log, e))? {
            let Some(name) = segment_name(&entry.name).filter(|_| entry.is_file) else {
                strange.push(entry.name);
                continue;
            };
            let former = segments.get(&number(name)).map(|(former, _)| *former);
            // Of two with one number the one that holds what was written for it.
            if former.is_some_and(|former| begins_as_named(self, files, former)) {
                strange.push(entry.name);
                continue;
            }
            segments.insert(number(name), (name, entry.length));
            strange.extend(former.map(segment_file));
        }
        Ok((segments, strange))
    }

    /// Who holds the lock, by its own word.
    pub fn holder(&self, files: &dyn Files, lock: &Path) -> InUse {
        let mut octets = [0; 16];
        let read = files.open(lock, Access::Read).and_then(|file| file.read_at(&mut octets, 0)).unwrap_or(0);
        let process = std::str::from_utf8(&octets[..read]).ok().and_then(|text| text.trim().parse().ok());
        InUse { path: self.root.clone(), process }
    }

    /// The format is written before anything else, and a spool of another format is not touched.
    fn check_format(&self, files: &dyn Files) -> Result<(), StoreError> {
        if format::read(files, &self.root)?.is_some() {
            return Ok(());
        }
        format::write(files, &self.root).map_err(|e| StoreError::io("writing", &self.root.join("FORMAT"), e))
    }
}

/// What recovery hands on.
#[derive(Debug)]
pub(super) struct Recovery {
    pub catalogue: Catalogue,
    pub found: Found,
    pub next_number: u32,
    pub last_id: u64,
    pub indexer: Indexer,
    /// Messages of which nothing was told yet, or not the newest.
    pub untold: Vec<u64>,
    /// What only the index knew: messages without their content, and newer states of those that there are.
    pub remains: Remains,
}

/// What is to be written again, because the log has lost it.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// All that is left of messages.
    pub envelopes: Vec<Recovered>,
    /// States of messages that are there.
    pub states: Vec<(QueueId, Vec<u8>)>,
}

/// Reads index and log, and tells what the index has of the messages.
pub(super) fn recover(
    layout: &Layout,
    files: &Arc<dyn Files>,
    tell: &mut dyn FnMut(News),
) -> Result<Recovery, StoreError> {
    let log = Log::list(layout, &**files)?;
    if log.has_unread() {
        // It was completed without what could not be read. Whatever happens from here on, it is not used again.
        super::index::set_aside(&**files, &layout.root)
            .and_then(|()| files.sync_directory(&layout.root))
            .map_err(|e| StoreError::io("renaming the index of", &layout.root, e))?;
    }
    let indexer = Opening::start(&layout.root, Arc::clone(files))
        .map_err(|source| StoreError::Io { what: "starting the indexer".into(), source })?;
    let (unusable, witness) = match replay_indexed(&log, &indexer, tell)? {
        Ok(replay) => return replay.finish(&log, None, Indexer::Continues(indexer)),
        Err(unusable) => unusable,
    };
    tell(News::Nothing);
    let mut replay = Replay { last_id: witness.last_id, witness, ..Replay::default() };
    replay.run(&log)?;
    replay.miss(&log);
    replay.ask(&indexer);
    let (reason, indexer) = match unusable {
        Unusable::Empty if log.has_unread() => {
            ("a part of the log could not be read at the last start".to_owned(), Indexer::Continues(indexer))
        }
        Unusable::Empty => ("there was no index".to_owned(), Indexer::Continues(indexer)),
        Unusable::Bad(reason) => (reason, Indexer::BeginsAnew(indexer)),
        Unusable::Stuck(reason) => {
            // It must not be found at the next start, nor be written to by a sled that wakes up after all.
            super::index::set_aside(&**files, &layout.root)
                .map_err(|e| StoreError::io("renaming the index of", &layout.root, e))?;
            (reason.clone(), Indexer::Lost(indexer, reason))
        }
    };
    log.unmark_missing();
    // A new spool has no index, and nothing needs to be said about that.
    let rebuilt = (!log.segments.is_empty()).then_some(reason);
    if let Some(reason) = &rebuilt {
        tracing::warn!(%reason, "the spool's index is rebuilt from the log");
    }
    replay.finish(&log, rebuilt, indexer)
}

/// What an index that cannot be used knew: the log may have lost it.
#[derive(Debug, Default)]
struct Witness {
    messages: AscendingMap<u64, Location>,
    texts: HashMap<u64, Texts>,
    segments: Vec<u64>,
    last_id: u64,
}

impl Witness {
    fn new(messages: AscendingMap<u64, Location>, texts: HashMap<u64, Texts>, contents: Contents) -> Self {
        Self { messages, texts, segments: contents.segments, last_id: contents.summary.last_id }
    }
}

/// The rows of the index, and the log behind them.
fn replay_indexed(
    log: &Log<'_>,
    indexer: &Opening,
    tell: &mut dyn FnMut(News),
) -> Result<Result<Replay, (Unusable, Witness)>, StoreError> {
    let mut replay = Replay::default();
    let rows = indexer.load(|id, row| {
        // What is not where the index says is told in the end, when it is known what became of it.
        match row.texts {
            Some((meta, state)) if log.holds(&row.location) => {
                tell(News::Message(Recovered { id: QueueId(id), meta, state }));
            }
            Some(texts) => drop(replay.texts.insert(id, texts)),
            None => drop(replay.untold.insert(id)),
        }
        replay.messages.insert(id, row.location);
    });
    let contents = match rows {
        Ok(contents) => contents,
        Err(unusable) => return Ok(Err((unusable, Witness::default()))),
    };
    let unusable = |reason: String, witness| Ok(Err((Unusable::Bad(reason), witness)));
    let Some(position) = contents.summary.complete_to else {
        return unusable("the index was never completed".into(), Witness::default());
    };
    let in_log = log.segments.get(&number(position.segment));
    if in_log.is_none_or(|(name, length)| *name != position.segment || position.offset > *length) {
        // Of another spool, or the end of the log is gone.
        let witness = match log.shares(&contents.segments) {
            true => Witness::new(replay.messages, replay.texts, contents),
            false => Witness::default(),
        };
        return unusable("the index is not of this log".into(), witness);
    }
    replay.behind = Some(position);
    replay.last_id = contents.summary.last_id;
    replay.expected = Expected::of_index(&contents.segments);
    replay.run(log)?;
    replay.miss(log);
    match replay.compare() {
        Ok(()) => Ok(Ok(replay)),
        Err(reason) => {
            replay.messages.extend(replay.lost);
            unusable(reason, Witness::new(replay.messages, replay.texts, contents))
        }
    }
}

/// What becomes of the indexer.
#[derive(Debug)]
pub(super) enum Indexer {
    /// It goes on with what is there.
    Continues(Opening),
    /// It puts aside what is there.
    BeginsAnew(Opening),
    /// There is none. Its thread may still wait for sled.
    Lost(Opening, String),
}

/// The segments that there are.
struct Log<'a> {
    layout: &'a Layout,
    files: &'a dyn Files,
    segments: Segments,
    /// Files that are none of ours, or twice.
    strange: usize,
    /// What earlier starts found wrong with segments.
    marks: HashSet<(u64, Mark)>,
    /// Segments that earlier starts have missed and that are still not there.
    still_missing: Vec<u64>,
}

/// What a start noted beside the log about a segment. The next start may use the index and not look there, and what could
/// not be read is in no index: without the mark the segment would be removed, and with it what may still be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mark {
    /// A part of it is no record: it is never removed.
    Damaged,
    /// The disk failed to read a part of it. Never removed either, and the next start reads it once more.
    Unreadable,
    /// It was not there. When it is again, the next start reads the whole log.
    Missing,
}

impl Mark {
    pub const ALL: [Self; 3] = [Self::Damaged, Self::Unreadable, Self::Missing];

    pub fn file_name(self, segment: u64) -> String {
        let suffix = match self {
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
        };
        format!("seg-{segment:016x}.{suffix}")
    }

    /// Makes the mark, durably.
    ///
    /// # Errors
    /// The system's.
    pub fn make(self, layout: &Layout, files: &dyn Files, segment: u64) -> std::io::Result<()> {
        let directory = &layout.damaged;
        files.create_directory(directory)?;
        files.open(&directory.join(self.file_name(segment)), Access::Replace)?.sync()?;
        files.sync_directory(directory)?;
        files.sync_directory(&layout.root)
    }

    /// The segment that the mark with this name is about.
    pub fn segment(file: &str) -> Option<(u64, Self)> {
        let name = u64::from_str_radix(file.strip_prefix("seg-")?.get(..16)?, 16).ok();
        let name = name.filter(|name| is_name(*name))?;
        Self::ALL.into_iter().find(|mark| mark.file_name(name) == file).map(|mark| (name, mark))
    }
}

impl<'a> Log<'a> {
    fn list(layout: &'a Layout, files: &'a dyn Files) -> Result<Self, StoreError> {
        let (segments, strange) = layout.list_segments(files)?;
        for name in &strange {
            tracing::error!(name, "a file in the spool's log is not known, or twice: it is left alone");
        }
        let strange = strange.len();
        let mut log =
            Self { layout, files, segments, strange, marks: HashSet::new(), still_missing: Vec::new() };
        log.read_marks()?;
        Ok(log)
    }

    fn read_marks(&mut self) -> Result<(), StoreError> {
        let directory = &self.layout.damaged;
        let entries = match self.files.list(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|e| StoreError::io("reading", directory, e))?,
        };
        let names: HashSet<String> = entries.into_iter().map(|entry| entry.name).collect();
        let marks = names.iter().filter_map(|name| Mark::segment(name));
        let missed = marks.filter(|(_, mark)| *mark == Mark::Missing).map(|(name, _)| name);
        self.still_missing = missed.filter(|name| !self.has(*name)).collect();
        for (segment, _) in self.segments.values() {
            let marks = Mark::ALL.into_iter().filter(|mark| names.contains(&mark.file_name(*segment)));
            self.marks.extend(marks.map(|mark| (*segment, mark)));
        }
        Ok(())
    }

    /// Whether something could not be read at the last start, so that the whole log must be read.
    fn has_unread(&self) -> bool {
        self.marks.iter().any(|(_, mark)| *mark != Mark::Damaged)
    }

    /// Whether there is room in the log for the records of a message where they should be.
    fn holds(&self, location: &Location) -> bool {
        let fits = |place: Place, length: u32| {
            let end = place.offset() + u64::from(length) * ALIGNMENT;
            self.segments.get(&place.segment).is_some_and(|(_, segment)| end <= *segment)
        };
        fits(location.place, location.length) && location.state().is_none_or(|place| fits(place, 0))
    }

    fn has(&self, name: u64) -> bool {
        self.segments.get(&number(name)).is_some_and(|(found, _)| *found == name)
    }

    /// Whether an index with these segments was one of this log.
    fn shares(&self, names: &[u64]) -> bool {
        self.segments.is_empty() || names.iter().any(|name| self.has(*name))
    }

    /// What was missing and is there again has been read.
    fn unmark_missing(&self) {
        for (segment, _) in self.marks.iter().filter(|(_, mark)| *mark == Mark::Missing) {
            self.unmark(*segment, Mark::Missing);
        }
    }

    fn is_marked(&self, segment: u64) -> bool {
        Mark::ALL.iter().any(|mark| self.marks.contains(&(segment, *mark)))
    }

    fn mark(&self, segment: u64, mark: Mark) {
        if let Err(error) = self.try_mark(segment, mark) {
            tracing::error!(mark = mark.file_name(segment), %error, "cannot note that a segment is damaged");
        }
    }

    fn try_mark(&self, segment: u64, mark: Mark) -> std::io::Result<()> {
        if self.marks.contains(&(segment, mark)) {
            return Ok(());
        }
        mark.make(self.layout, self.files, segment)
    }

    /// The whole segment could be read again.
    fn unmark(&self, segment: u64, mark: Mark) {
        if !self.marks.contains(&(segment, mark)) {
            return;
        }
        tracing::info!(segment = number(segment), "a segment of the spool can be read again");
        let path = self.layout.damaged.join(mark.file_name(segment));
        if let Err(error) = self.files.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a note: the next start reads the whole log");
        }
    }

    fn open(&self, name: u64, access: Access) -> Result<Arc<dyn StoredFile>, StoreError> {
        let path = self.layout.segment(name);
        self.files.open(&path, access).map_err(|e| StoreError::io("opening", &path, e))
    }

    /// Copies octets that are no good record into a file of their own, for whoever can make something of them. The
    /// segment is kept too.
    fn set_aside(&self, name: u64, file: &dyn StoredFile, from: u64, to: u64) {
        match self.copy_aside(name, file, from, to) {
            Ok(path) => {
                tracing::error!(segment = number(name), from, to, path = %path.display(), "damage in the spool")
            }
            Err(error) => tracing::error!(segment = number(name), from, to, %error, "damage in the spool"),
        }
    }

    /// What cannot be read is left out of the copy, as zeros.
    fn copy_aside(&self, name: u64, file: &dyn StoredFile, from: u64, to: u64) -> std::io::Result<PathBuf> {
        const BLOCK: usize = 4096;
        let directory = &self.layout.damaged;
        let path = directory.join(super::quarantine::copy_name(name, from));
        self.files.create_directory(directory)?;
        let copy = self.files.open(&path, Access::Replace)?;
        let mut at = from;
        let mut piece = vec![0; BLOCK];
        while at < to {
            let wanted = (to - at).min(BLOCK as u64) as usize;
            match file.read_at(&mut piece[..wanted], at) {
                Ok(0) => break,
                Ok(read) => {
                    write_all(&*copy, &mut [IoSlice::new(&piece[..read])], at - from)?;
                    at += read as u64;
                }
                Err(_) => at += wanted as u64,
            }
        }
        copy.sync()?;
        Ok(path)
    }
}

fn segment_file(name: u64) -> String {
    format!("seg-{name:016x}.log")
}

/// The name in the name of a segment's file.
pub(super) fn segment_name(file: &str) -> Option<u64> {
    let digits = file.strip_prefix("seg-")?.strip_suffix(".log")?;
    u64::from_str_radix(digits, 16).ok().filter(|name| digits.len() == 16 && is_name(*name))
}

/// Whether the first record of a segment's file was written for it.
fn begins_as_named(layout: &Layout, files: &dyn Files, name: u64) -> bool {
    let mut octets = [0; HEADER];
    let read = files.open(&layout.segment(name), Access::Read).and_then(|file| file.read_at(&mut octets, 0));
    read.is_ok() && Header::parse(&octets).is_some_and(|header| header.segment == name)
}

/// The log, read from an end to the other, and what it says in the end.
#[derive(Debug, Default)]
struct Replay {
    /// Where the index ends. `None`: the whole log is read.
    behind: Option<Position>,
    messages: AscendingMap<u64, Location>,
    /// What the index has of messages that are not where it says.
    texts: HashMap<u64, Texts>,
    /// States of messages whose record comes later, copied out of a segment that is gone.
    states: HashMap<u64, (Place, u32)>,
    /// Messages that the log behind the index says something of.
    touched: HashSet<u64>,
    segments: BTreeMap<u32, Segment>,
    position: Option<Position>,
    damaged: usize,
    last_id: u64,
    /// The segments that there should be.
    expected: Expected,
    /// What an index that cannot be used knew, without what the log says the end of.
    witness: Witness,
    /// Messages of which only the index knows.
    lost: BTreeMap<u64, Location>,
    /// The highest number of a segment that is missing. It is not used again: the segment may be put back.
    highest: u32,
    /// States that only the index knows.
    states_left: Vec<(QueueId, Vec<u8>)>,
    /// Messages of which an index that cannot be used has a newer state.
    newer: HashSet<u64>,
    /// Messages that are too long for the index.
    untold: HashSet<u64>,
}

impl Replay {
    fn run(&mut self, log: &Log<'_>) -> Result<(), StoreError> {
        self.damaged += log.strange + log.still_missing.len();
        self.highest = log.still_missing.iter().map(|name| number(*name)).max().unwrap_or(0);
        let newest = log.segments.keys().next_back().copied();
        let (first, offset) = self.behind.map_or((0, 0), |at| (number(at.segment), at.offset));
        for (number, (name, length)) in &log.segments {
            let mut segment = Segment::new(*name, *length, Instant::now());
            segment.damaged = log.is_marked(*name);
            self.segments.insert(*number, segment);
            if *number < first {
                continue;
            }
            let from = if *number == first { offset } else { 0 };
            if Some(*number) == newest {
                self.read_newest(log, *name, *length, from)?;
            } else if let Some(file) = self.open_complete(log, *name)? {
                let found = scan(&*file, *name, from, *length, Bodies::Skip);
                if found.is_unreadable && !found.is_sound() {
                    log.mark(*name, Mark::Unreadable);
                } else {
                    log.unmark(*name, Mark::Unreadable);
                }
                for item in found.items {
                    self.take(log, *name, &*file, item);
                }
            }
        }
        Ok(())
    }

    /// Opens a segment that is not the newest. `None`: it is damaged as a whole. The others need not wait for it: it is kept as
    /// it is, to be read at the next start. What somebody can set right (a wrong owner, too few open files) is an error
    /// instead: nobody wants to do without the messages in it for that.
    fn open_complete(&mut self, log: &Log<'_>, name: u64) -> Result<Option<Arc<dyn StoredFile>>, StoreError> {
        let error = match log.open(name, Access::Read) {
            Err(StoreError::Io { what, source }) if is_damage(&source) => StoreError::Io { what, source },
            opened => return opened.map(Some),
        };
        tracing::error!(segment = number(name), %error, "a segment of the spool cannot be opened: it is kept");
        // Without the mark a later start would believe an index that was completed without it.
        if log.try_mark(name, Mark::Unreadable).is_err() {
            return Err(error);
        }
        self.damaged += 1;
        if let Some(segment) = self.segments.get_mut(&number(name)) {
            segment.damaged = true;
        }
        Ok(None)
    }

    /// Reads the newest segment, which may end with what a crash has left, and cuts that off: what nobody was told of
    /// must not come back at the next crash. Nothing is cut off what cannot be read: the segment stays as it is, to be
    /// read once more at the next start.
    fn read_newest(&mut self, log: &Log<'_>, name: u64, length: u64, from: u64) -> Result<(), StoreError> {
        let file = log.open(name, Access::Write)?;
        let Scan { items, synced, is_unreadable } = scan(&*file, name, from, length, Bodies::Check);
        // What cannot be read may say that all the rest is durable: then the rest counts as if it were.
        let acknowledged = if is_unreadable { length } else { synced.max(from) };
        let last = items.last().map_or(from, Item::to);
        let mut end = from;
        let mut items = items.into_iter().peekable();
        while let Some(item) = items.next_if(|item| item.from() < acknowledged) {
            end = item.to();
            self.take(log, name, &*file, item);
        }
        end = whole_groups(&mut items, end, |entry| self.apply(number(name), entry));
        let left = if is_unreadable { length } else { end };
        if is_unreadable {
            log.mark(name, Mark::Unreadable);
        } else {
            log.unmark(name, Mark::Unreadable);
            self.look_behind_the_end(log, name, &*file, end..last, items);
        }

        let cut = || {
            if length > left {
                file.truncate(left)?;
            }
            // What was found may be in memory only, left by a process that was killed.
            file.sync()
        };
        cut().map_err(|e| StoreError::io("cutting back", &log.layout.segment(name), e))?;
        if let Some(segment) = self.segments.get_mut(&number(name)) {
            segment.length = left;
            segment.damaged |= is_unreadable;
        }
        self.position = Some(Position { segment: name, offset: end });
        Ok(())
    }

    /// Behind the end of the log there may be good records all the same: written by blocks in another order before a
    /// power cut, and then nobody was told of them; or the end is damage. What is cut off is set aside in case it is.
    fn look_behind_the_end(
        &mut self,
        log: &Log<'_>,
        name: u64,
        file: &dyn StoredFile,
        behind: Range<u64>,
        mut items: impl Iterator<Item = Item>,
    ) {
        if behind.is_empty() {
            return;
        }
        if items.any(|item| matches!(item, Item::Record(entry) if entry.body_fits)) {
            log.set_aside(name, file, behind.start, behind.end);
            self.damaged += 1;
        } else if let Err(error) = log.copy_aside(name, file, behind.start, behind.end) {
            tracing::warn!(segment = number(name), %error, "cannot keep a copy of what a crash left unfinished");
        }
    }

    /// Takes what was acknowledged, record by record: one that is damaged costs itself and nothing else.
    fn take(&mut self, log: &Log<'_>, name: u64, file: &dyn StoredFile, item: Item) {
        match item {
            Item::Record(entry) => {
                if !entry.body_fits {
                    // Its envelope is good: it stays in the queue, where somebody sees it.
                    log.set_aside(name, file, entry.offset, entry.end());
                    self.damaged += 1;
                }
                self.apply(number(name), entry);
            }
            Item::Gap { from, to } => {
                log.set_aside(name, file, from, to);
                self.damaged += 1;
                if let Some(segment) = self.segments.get_mut(&number(name)) {
                    segment.damaged = true;
                }
                log.mark(name, Mark::Damaged);
            }
        }
    }

    fn apply(&mut self, segment: u32, entry: Entry) {
        let id = entry.header.id;
        self.last_id = self.last_id.max(id);
        if self.behind.is_some() {
            self.touched.insert(id);
        }
        let place = Place::new(segment, entry.offset);
        let length = units(entry.header.record_length());
        match entry.header.kind {
            Some(Kind::Enqueue | Kind::Move) => self.apply_message(place, length, &entry),
            Some(Kind::State) => match self.messages.get_mut(&id) {
                Some(location) => location.set_state(place, length),
                None => drop(self.states.insert(id, (place, length))),
            },
            Some(Kind::Delete) => {
                self.messages.remove(&id);
                self.states.remove(&id);
                self.witness.messages.remove(&id);
            }
            Some(Kind::Head) => self.expected.begins(entry.header.segment, &entry.meta),
            Some(Kind::Pad) => self.expected.leave(&entry.meta),
            None => {}
        }
    }

    fn apply_message(&mut self, place: Place, length: u32, entry: &Entry) {
        let header = &entry.header;
        if let Some(known) = self.messages.get_mut(&header.id) {
            // What stands for a message that was lost does not replace the message, when that is back.
            let is_worse = header.is_lost && header.origin != known.origin;
            // A copy whose content did not arrive must not replace the good one.
            if entry.body_fits && !is_worse {
                known.place = place;
                known.length = length;
            }
            return;
        }
        let mut location = Location::new(place, length, header.origin, header.in_file);
        if let Some((place, length)) = self.states.remove(&header.id) {
            location.set_state(place, length);
        }
        self.messages.insert(header.id, location);
    }

    /// Looks for segments that should be there, and for messages that only the index knows of.
    fn miss(&mut self, log: &Log<'_>) {
        let newest = log.segments.keys().next_back().copied().unwrap_or(0);
        let Witness { messages: witness, texts, segments, .. } = std::mem::take(&mut self.witness);
        self.texts.extend(texts);
        // Behind the end nothing says what there was, but for the index.
        let behind = segments.into_iter().filter(|name| is_name(*name) && number(*name) > newest);
        let behind = behind.map(|name| (name, Wrong::Missing));
        for (name, wrong) in self.expected.compare(&log.segments).into_iter().chain(behind) {
            tracing::error!(
                segment = number(name),
                ?wrong,
                "a segment of the spool is gone, or a part of it"
            );
            self.damaged += 1;
            self.highest = self.highest.max(number(name));
            let mark = match wrong {
                Wrong::Missing => Mark::Missing,
                Wrong::Short { .. } => Mark::Damaged,
            };
            log.mark(name, mark);
            if let Some(segment) = self.segments.get_mut(&number(name)) {
                segment.damaged = true;
            }
        }
        // A segment is removed when nothing in it counts, but not one that should be there, nor the last.
        let is_gone = |location: &Location| {
            let segment = location.place.segment;
            !log.segments.contains_key(&segment) && (self.expected.contains(segment) || segment > newest)
        };
        self.messages.retain(|id, location| {
            let is_gone = is_gone(location);
            if is_gone {
                self.lost.insert(id, *location);
            }
            !is_gone
        });
        for (id, location) in self.messages.iter_mut() {
            let is_gone = location.state().is_some_and(|at| !log.segments.contains_key(&at.segment));
            let state = self.texts.get(&id).and_then(|texts| texts.1.clone());
            if is_gone && let Some(state) = state {
                location.forget_state();
                self.states_left.push((QueueId(id), state));
            }
        }
        for (id, witness) in witness.iter() {
            let ended = !log.segments.contains_key(&witness.place.segment) && !is_gone(witness);
            match self.messages.get_mut(&id) {
                // Records only move forward.
                Some(known) if witness.state() > known.state() => {
                    self.newer.insert(id);
                }
                Some(_) => {}
                None if ended => {}
                None => drop(self.lost.insert(id, *witness)),
            }
        }
        self.touched.extend(self.lost.keys());
        self.touched.extend(self.states_left.iter().map(|(id, _)| id.0));
    }

    /// Asks an index that cannot be used for what only it knows.
    fn ask(&mut self, indexer: &Opening) {
        let Self { lost, newer, messages, texts: kept, states_left, .. } = self;
        if newer.is_empty() && lost.keys().all(|id| kept.contains_key(id)) {
            return;
        }
        let answer = indexer.load_again(|id, row| {
            let Some(texts) = row.texts else { return };
            if lost.contains_key(&id) {
                kept.insert(id, texts);
            } else if newer.contains(&id)
                && let (Some(location), (_, Some(state))) = (messages.get_mut(&id), texts)
            {
                location.forget_state();
                states_left.push((QueueId(id), state));
            }
        });
        if answer.is_err() {
            tracing::error!("the index did not give once more what only it knows");
        }
    }

    /// With an index: leaves out what is gone, and says what does not fit the log.
    fn compare(&mut self) -> Result<(), String> {
        // A segment is removed when nothing in it counts: a message in one that is gone has ended.
        let Self { messages, touched, segments, .. } = self;
        messages.retain(|id, location| {
            let there = segments.contains_key(&location.place.segment);
            if !there {
                touched.insert(id);
            }
            there
        });
        for (id, location) in messages.iter() {
            let fits = |place: Place, length: u32| {
                let end = place.offset() + u64::from(length) * ALIGNMENT;
                segments.get(&place.segment).is_some_and(|segment| end <= segment.length)
            };
            let state_fits = location.state().is_none_or(|place| fits(place, 0));
            if !fits(location.place, location.length) || !state_fits {
                return Err(format!("message {} is not where the index says", QueueId(id)));
            }
        }
        Ok(())
    }

    fn finish(
        mut self,
        log: &Log<'_>,
        index_rebuilt: Option<String>,
        indexer: Indexer,
    ) -> Result<Recovery, StoreError> {
        let mut lost = self.check_large_files(log)?;
        let newest = log.segments.keys().next_back().copied().unwrap_or(0).max(self.highest);
        let (mut untold, unindexed): (Vec<u64>, HashSet<u64>) = match self.behind {
            Some(_) => (self.untold.union(&self.touched).copied().collect(), self.touched),
            None => (self.messages.keys().collect(), self.messages.keys().collect()),
        };
        untold.extend(lost.iter().map(|id| id.0));
        let mut texts = self.texts;
        let recovered = |id: u64| {
            let (meta, state) = texts.remove(&id).unwrap_or_default();
            Recovered { id: QueueId(id), meta, state }
        };
        let envelopes: Vec<Recovered> = self.lost.into_keys().map(recovered).collect();
        lost.extend(envelopes.iter().map(|message| message.id));
        self.damaged += envelopes.len();
        let position = self.position.unwrap_or(Position { segment: 0, offset: 0 });
        let mut catalogue = Catalogue::new(self.messages, self.segments, position, unindexed);
        catalogue.indexed_to = self.behind.map(|at| number(at.segment));
        Ok(Recovery {
            catalogue,
            found: Found { messages: Vec::new(), damaged: self.damaged, lost, index_rebuilt },
            untold,
            next_number: newest.checked_add(1).ok_or(StoreError::Closed)?,
            last_id: self.last_id,
            indexer,
            remains: Remains { envelopes, states: self.states_left },
        })
    }

    /// Removes files that no message mentions. Gives the messages whose file is gone, and counts them.
    fn check_large_files(&mut self, log: &Log<'_>) -> Result<Vec<QueueId>, StoreError> {
        let big = &log.layout.big;
        let entries = log.files.list(big).map_err(|e| StoreError::io("reading", big, e))?;
        let mut there = BTreeSet::new();
        for entry in entries {
            let Some(id) = large::id(&entry.name) else { continue };
            if self.messages.get(&id).is_some_and(|location| location.in_file) {
                there.insert(id);
                continue;
            }
            let path = big.join(&entry.name);
            let result = if self.damaged > 0 {
                // The record that mentions it may be among those that cannot be read.
                let aside = log.layout.damaged.join(format!("big-{}", entry.name));
                log.files.create_directory(&log.layout.damaged).and_then(|()| log.files.rename(&path, &aside))
            } else {
                log.files.remove(&path)
            };
            if let Err(error) = result {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file that no message mentions");
            }
        }
        let mut lost = Vec::new();
        for (id, location) in self.messages.iter() {
            if location.in_file && !there.contains(&id) {
                // Set aside by a start that could not read the record that mentions it.
                let aside = log.layout.damaged.join(format!("big-{}", large::name(id)));
                let back = log.files.rename(&aside, &big.join(large::name(id)));
                if back.and_then(|()| log.files.sync_directory(big)).is_ok() {
                    continue;
                }
                tracing::error!(id = %QueueId(id), "the file with the content of a message is gone");
                self.damaged += 1;
                lost.push(QueueId(id));
            }
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use postern_runtime::SystemClock;

    use super::*;
    use crate::store::files::SystemFiles;
    use crate::store::record::{Record, Seal, read_meta};
    use crate::store::{Change, NewBody, Space, Spool as _, Store, Tuning};

    const SEALED: u64 = 1 << 32 | 0xAAAA;
    const NEWEST: u64 = 2 << 32 | 0xBBBB;

    struct Spool {
        directory: tempfile::TempDir,
        layout: Layout,
    }

    impl Spool {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let layout = Layout::new(directory.path());
            std::fs::create_dir_all(&layout.log).unwrap();
            std::fs::create_dir_all(&layout.big).unwrap();
            Self { directory, layout }
        }

        fn write(&self, segment: u64, octets: &[u8]) {
            std::fs::write(self.layout.segment(segment), octets).unwrap();
        }

        fn replay(&self) -> Replay {
            let mut replay = Replay::default();
            replay.run(&Log::list(&self.layout, &SystemFiles).unwrap()).unwrap();
            replay
        }

        fn set_aside(&self) -> usize {
            std::fs::read_dir(self.directory.path().join("damaged")).map_or(0, Iterator::count)
        }
    }

    fn enqueue(id: u64) -> Record {
        let body = vec![Bytes::from(vec![id as u8; 40])];
        Record::new(Kind::Enqueue, id, format!("envelope {id}").as_bytes(), body).unwrap()
    }

    fn state(id: u64, state: &str) -> Record {
        Record::new(Kind::State, id, state.as_bytes(), Vec::new()).unwrap()
    }

    fn delete(id: u64) -> [Record; 2] {
        [(); 2].map(|()| Record::new(Kind::Delete, id, &[], Vec::new()).unwrap())
    }

    /// Groups as the committer writes them, each with its own sync. Gives where each record begins, and the end.
    fn segment(name: u64, groups: Vec<Vec<Record>>) -> (Vec<u8>, Vec<u64>) {
        let mut octets = Vec::new();
        let mut starts = Vec::new();
        for mut group in groups {
            let synced = octets.len() as u64;
            let count = group.len();
            for (place, record) in group.iter_mut().enumerate() {
                let (number, place) = (number(name), place as u32);
                record.seal(Seal {
                    segment: name,
                    synced,
                    place,
                    continues: place + 1 < count as u32,
                    origin: number,
                    target: number,
                });
                starts.push(octets.len() as u64);
                octets.extend(record.slices().collect::<Vec<_>>().concat());
            }
        }
        starts.push(octets.len() as u64);
        (octets, starts)
    }

    fn ids(replay: &Replay) -> Vec<u64> {
        replay.messages.keys().collect()
    }

    /// The newest state of a message, where the log was found to have it.
    fn state_of(spool: &Spool, replay: &Replay, id: u64) -> Option<String> {
        let place = replay.messages.get(&id)?.state()?;
        let name = replay.segments[&place.segment].name;
        let file = SystemFiles.open(&spool.layout.segment(name), Access::Read).unwrap();
        let (_, state) = read_meta(&*file, place.offset(), name, id).unwrap().unwrap();
        Some(String::from_utf8(state).unwrap())
    }

    #[test]
    fn a_group_cut_off_anywhere_counts_whole_or_not_at_all() {
        let spool = Spool::new();
        let mut last = vec![enqueue(3), state(1, "tried")];
        last.extend(delete(2));
        let before = vec![vec![enqueue(1)], vec![enqueue(2)]];
        let (kept, _) = segment(NEWEST, vec![vec![enqueue(1)], vec![enqueue(2)]]);
        let (octets, _) = segment(NEWEST, before.into_iter().chain([last]).collect());
        for cut in kept.len()..=octets.len() {
            for fill in [None, Some(0), Some(0xFF)] {
                let mut torn = octets[..cut].to_vec();
                if let Some(fill) = fill {
                    torn.resize(octets.len() + 500, fill);
                }
                spool.write(NEWEST, &torn);
                let replay = spool.replay();
                // The padding at the end may as well be missing zeros.
                let whole = torn.get(..octets.len()) == Some(&octets[..]);
                if whole {
                    assert_eq!(
                        (ids(&replay), state_of(&spool, &replay, 1)),
                        (vec![1, 3], Some("tried".into()))
                    );
                } else {
                    assert_eq!(
                        (ids(&replay), state_of(&spool, &replay, 1)),
                        (vec![1, 2], None),
                        "cut at {cut}"
                    );
                    let left = std::fs::metadata(spool.layout.segment(NEWEST)).unwrap().len();
                    assert_eq!(left, kept.len() as u64, "what nobody was told of is cut off");
                }
                assert_eq!(replay.damaged, 0);
            }
        }
    }

    #[test]
    fn a_flipped_bit_costs_the_record_it_is_in_and_nothing_else() {
        let groups = || {
            let mut groups = vec![vec![enqueue(1)], vec![enqueue(2), enqueue(3)], vec![state(3, "tried")]];
            groups.push(vec![enqueue(4)]);
            groups.push(delete(4).into());
            groups.push(vec![enqueue(5)]);
            // What a clean end of the process leaves: everything before it is known to be durable.
            groups.push(vec![Record::new(Kind::Pad, 0, &[], Vec::new()).unwrap()]);
            groups
        };
        // The message that each record is about, and whether it is the only one that says so.
        let about = [Some(1), Some(2), Some(3), Some(3), None, None, None, Some(5), None];
        for (damaged, sound) in [(SEALED, NEWEST), (NEWEST, SEALED)] {
            let spool = Spool::new();
            let (other, _) = segment(sound, vec![vec![enqueue(100)]]);
            spool.write(sound, &other);
            let (octets, starts) = segment(damaged, groups());
            // The last record is the mark of a clean end: without it the one before it would be the end of the log.
            for at in 0..starts[about.len() - 1] as usize {
                let record = starts.iter().rposition(|start| *start <= at as u64).unwrap();
                let mut flipped = octets.clone();
                flipped[at] ^= 1 << (at % 8);
                spool.write(damaged, &flipped);
                let replay = spool.replay();
                let found = ids(&replay);
                for id in [1, 2, 3, 5, 100] {
                    let lost = about[record] == Some(id) && record != 3;
                    assert!(
                        found.contains(&id) || lost,
                        "message {id} is gone by a flip in record {record} at {at}"
                    );
                }
                // Its deletion is written twice, so it does not come back. A lost message's deletion is no damage.
                assert!(!found.contains(&4), "message 4 is back by a flip in record {record} at {at}");
                if record != 3 && found.contains(&3) {
                    assert_eq!(state_of(&spool, &replay, 3).as_deref(), Some("tried"));
                }
                let noticed = replay.damaged == 1 && spool.set_aside() > 0;
                assert!(
                    noticed || is_unchecked(&octets, &starts, record, at, damaged),
                    "flip at {at} unnoticed"
                );
            }
        }
    }

    /// Padding belongs to no checksum, and bodies of complete segments are checked when they are read.
    fn is_unchecked(octets: &[u8], starts: &[u64], record: usize, at: usize, segment: u64) -> bool {
        let start = starts[record] as usize;
        let header = crate::store::record::Header::parse(&octets[start..]).unwrap();
        let body = start + header.body_offset() as usize;
        let checked = if segment == SEALED { body } else { body + header.body_length as usize };
        at >= checked
    }

    #[test]
    fn a_damaged_body_keeps_its_message_in_sight() {
        let spool = Spool::new();
        let pad = || vec![Record::new(Kind::Pad, 0, &[], Vec::new()).unwrap()];
        let (mut octets, starts) = segment(NEWEST, vec![vec![enqueue(1)], pad()]);
        octets[starts[1] as usize - 30] ^= 1;
        spool.write(NEWEST, &octets);
        let replay = spool.replay();
        assert_eq!((ids(&replay), replay.damaged), (vec![1], 1));
    }

    #[test]
    fn a_copy_whose_content_is_damaged_does_not_replace_the_good_one() {
        let spool = Spool::new();
        spool.write(SEALED, &segment(SEALED, vec![vec![enqueue(1)]]).0);
        let copy = || Record::new(Kind::Move, 1, b"envelope 1", vec![Bytes::from_static(&[1; 40])]).unwrap();
        let pad = || Record::new(Kind::Pad, 0, &[], Vec::new()).unwrap();
        // At the end of the log, where it may be torn, and where it is known to have been durable.
        for groups in [vec![vec![copy()]], vec![vec![copy()], vec![pad()]]] {
            let (mut octets, starts) = segment(NEWEST, groups);
            octets[starts[1] as usize - 20] ^= 1;
            spool.write(NEWEST, &octets);
            assert_eq!(spool.replay().messages.get(&1).unwrap().place.segment, number(SEALED));
        }
    }

    #[test]
    fn good_records_behind_the_end_of_the_log_are_set_aside_and_counted() {
        let spool = Spool::new();
        let (mut octets, _) = segment(NEWEST, vec![vec![enqueue(1)]]);
        let second = octets.len();
        // Neither of these says that anything behind the first one was durable when it was written.
        octets.extend(unproven(2));
        octets.extend(unproven(3));
        octets[second] ^= 1;
        spool.write(NEWEST, &octets);
        let replay = spool.replay();
        assert_eq!((ids(&replay), replay.damaged, spool.set_aside()), (vec![1], 1, 1));
    }

    /// A record that says no more than that nothing was durable when it was written.
    fn unproven(id: u64) -> Vec<u8> {
        let mut record = enqueue(id);
        let number = number(NEWEST);
        let segment = NEWEST;
        record.seal(Seal { segment, synced: 0, place: 0, continues: false, origin: number, target: number });
        record.slices().collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_state_before_the_copy_of_its_message_counts() {
        let spool = Spool::new();
        let moved = Record::new(Kind::Move, 1, b"envelope 1", vec![Bytes::from_static(&[1; 40])]).unwrap();
        spool.write(SEALED, &segment(SEALED, vec![vec![state(1, "tried")], vec![state(9, "of nobody")]]).0);
        spool.write(NEWEST, &segment(NEWEST, vec![vec![moved]]).0);
        let replay = spool.replay();
        assert_eq!((ids(&replay), state_of(&spool, &replay, 1)), (vec![1], Some("tried".into())));
    }

    #[test]
    fn a_record_of_a_newer_version_is_set_aside_and_its_segment_kept() {
        let spool = Spool::new();
        let (mut octets, starts) = segment(SEALED, vec![vec![enqueue(1)], vec![enqueue(2)]]);
        octets[starts[1] as usize + 5] += 1;
        let header = starts[1] as usize..starts[1] as usize + 60;
        let crc = crc32c::crc32c(&octets[header.clone()]);
        octets[header.end..header.end + 4].copy_from_slice(&crc.to_le_bytes());
        spool.write(SEALED, &octets);
        spool.write(NEWEST, &segment(NEWEST, vec![vec![enqueue(3)]]).0);
        let replay = spool.replay();
        assert_eq!((ids(&replay), replay.damaged), (vec![1, 3], 1));
        assert!(replay.segments[&number(SEALED)].damaged);
    }

    /// The file system of the machine, but one place of the log cannot be read.
    #[derive(Debug)]
    struct BadSector {
        /// The end of a segment's name, and an offset in it.
        place: (String, u64),
        is_bad: Arc<AtomicBool>,
    }

    #[derive(Debug)]
    struct BadFile {
        file: Arc<dyn StoredFile>,
        offset: u64,
        is_bad: Arc<AtomicBool>,
    }

    impl Files for BadSector {
        fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StoredFile>> {
            let file = SystemFiles.open(path, access)?;
            if !path.to_string_lossy().ends_with(&self.place.0) {
                return Ok(file);
            }
            Ok(Arc::new(BadFile { file, offset: self.place.1, is_bad: self.is_bad.clone() }))
        }

        fn lock(&self, path: &Path) -> io::Result<Option<File>> {
            SystemFiles.lock(path)
        }

        fn create_directory(&self, path: &Path) -> io::Result<()> {
            SystemFiles.create_directory(path)
        }

        fn sync_directory(&self, path: &Path) -> io::Result<()> {
            SystemFiles.sync_directory(path)
        }

        fn list(&self, path: &Path) -> io::Result<Vec<crate::store::files::Entry>> {
            SystemFiles.list(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            SystemFiles.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            SystemFiles.remove(path)
        }

        fn remove_tree(&self, path: &Path) -> io::Result<()> {
            SystemFiles.remove_tree(path)
        }

        fn space(&self, path: &Path) -> io::Result<Space> {
            SystemFiles.space(path)
        }
    }

    impl StoredFile for BadFile {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let covers = offset <= self.offset && self.offset < offset + buffer.len() as u64;
            if covers && self.is_bad.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.file.read_at(buffer, offset)
        }

        fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            self.file.write_at(slices, offset)
        }

        fn sync(&self) -> io::Result<()> {
            self.file.sync()
        }

        fn truncate(&self, length: u64) -> io::Result<()> {
            self.file.truncate(length)
        }

        fn allocate(&self, length: u64) -> io::Result<()> {
            self.file.allocate(length)
        }

        fn length(&self) -> io::Result<u64> {
            self.file.length()
        }
    }

    /// Opens a spool and collects what may go; answers the ids that were found.
    fn use_once(config: &postern_config::Queue, files: Arc<dyn Files>) -> Vec<u64> {
        let tuning =
            Tuning { compaction_age: std::time::Duration::ZERO, dead_octets: 0, ..Tuning::default() };
        let (store, found) = Store::open_with(config, files, Arc::new(SystemClock), tuning).unwrap();
        for _ in 0..5 {
            store.collect();
        }
        store.close();
        found.messages.iter().map(|message| message.id.0).collect()
    }

    /// Two segments with three messages each; for a while, the message at `place` in the segment cannot be read.
    fn messages_survive_a_bad_sector(segment_index: usize, place: usize) {
        /// Of a message. More than a little is left of the page behind it, so that nothing fills that.
        const RECORD: usize = 10 * 1024;
        let envelope = b"envelope".to_vec();
        let directory = tempfile::tempdir().unwrap();
        let config = postern_config::Queue {
            path: directory.path().to_owned(),
            segment_size: 40_000,
            ..postern_config::Queue::default()
        };
        let (store, _) =
            Store::open_with(&config, Arc::new(SystemFiles), Arc::new(SystemClock), Tuning::default())
                .unwrap();
        let mut ids = Vec::new();
        for _ in 0..6 {
            let id = store.next_id();
            ids.push(id.0);
            let body = vec![b'x'; RECORD - HEADER - envelope.len()];
            let (told, written) = std::sync::mpsc::channel();
            let body = NewBody::Inline(vec![Bytes::from(body)]);
            let change = Change::Enqueue { id, meta: envelope.clone(), body };
            store.commit(vec![change], Box::new(move |result| told.send(result.is_ok()).unwrap()));
            assert!(written.recv().unwrap());
        }
        store.close();
        // As after a crash, and with a last segment that does not say of itself that it is complete.
        std::fs::remove_dir_all(directory.path().join("index")).unwrap();
        let mut segments: Vec<PathBuf> =
            std::fs::read_dir(directory.path().join("log")).unwrap().map(|e| e.unwrap().path()).collect();
        segments.sort();
        assert_eq!(segments.len(), 2);
        let newest = std::fs::OpenOptions::new().write(true).open(&segments[1]).unwrap();
        newest.set_len(newest.metadata().unwrap().len() - 64).unwrap();
        let segment = segments[segment_index].file_name().unwrap().to_string_lossy().into_owned();

        let is_bad = Arc::new(AtomicBool::new(true));
        let bad = || {
            // Within the header of a message: the first stands behind the names of the segments, if there are some.
            let place = (segment.clone(), (HEADER + RECORD * place + HEADER / 2) as u64);
            Arc::new(BadSector { place, is_bad: is_bad.clone() })
        };
        let mut readable = ids.clone();
        readable.remove(3 * segment_index + place);
        for _ in 0..2 {
            assert_eq!(use_once(&config, bad()), readable);
            assert!(segments[segment_index].exists());
        }
        is_bad.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(use_once(&config, bad()), ids);
        }
    }

    #[test]
    fn a_disk_that_cannot_read_for_a_while_destroys_nothing() {
        for segment in 0..2 {
            for place in 0..3 {
                messages_survive_a_bad_sector(segment, place);
            }
        }
    }

    #[test]
    fn what_a_crash_left_unfinished_is_kept_aside() {
        let spool = Spool::new();
        let (octets, starts) = segment(NEWEST, vec![vec![enqueue(1)], vec![enqueue(2), enqueue(3)]]);
        spool.write(NEWEST, &octets[..starts[2] as usize]);
        let replay = spool.replay();
        assert_eq!((ids(&replay), replay.damaged), (vec![1], 0));
        let kept = spool.layout.damaged.join(format!("seg-{NEWEST:016x}-{:x}", starts[1]));
        assert_eq!(std::fs::read(kept).unwrap(), &octets[starts[1] as usize..starts[2] as usize]);
    }
}
