//! The files of records, and the index over them: 8 octets of memory a record.
//!
//! A file holds one JSON object a line and is only appended to, by one run of the daemon. Files are numbered; the highest
//! number is the newest. Whole files are removed from the old end.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::names::{REFERENCE_BITS, Reference};
use super::{Record, Settings};

/// Bits of an entry that say where in its file a record begins; the rest is the reference.
const OFFSET_BITS: u32 = u64::BITS - REFERENCE_BITS;
/// No file grows beyond what the offset can say.
const LARGEST: u64 = (1 << OFFSET_BITS) / 2;
/// Smaller files would be too many.
const SMALLEST: u64 = 16 * 1024;
/// A cap is kept by removing whole files: one of so many.
const PARTS: u64 = 64;
/// Files are no older than this when the next begins, so that age is bounded, too.
const DAY: u64 = 86_400;
/// Octets of one record, with all that a client can put into it.
pub(super) const LONGEST_LINE: usize = 64 * 1024;
/// Letters of a reference.
const REFERENCE_LENGTH: usize = 9;
const EXTENSION: &str = "jsonl";

/// The files in a folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// The oldest in front.
    segments: VecDeque<Segment>,
    /// The file that is written to: the last one.
    open: Option<File>,
    next: u64,
    unreadable: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    octets: u64,
    /// Seconds since 1970 of its first and its last record.
    oldest: u64,
    newest: u64,
    /// Reference and offset; sorted once nothing is added any more.
    entries: Vec<u64>,
    is_sealed: bool,
}

/// Where a record begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    offset: u64,
}

/// Lines that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    text: Vec<u8>,
    /// Reference, offset in the text, time.
    lines: Vec<(Reference, usize, u64)>,
}

impl Batch {
    /// Adds a record; says whether it could be.
    pub fn push(&mut self, reference: Reference, record: &Record) -> bool {
        let start = self.text.len();
        let is_written = serde_json::to_writer(&mut self.text, record).is_ok();
        if !is_written || self.text.len() - start >= LONGEST_LINE {
            self.text.truncate(start);
            return false;
        }
        self.text.push(b'\n');
        self.lines.push((reference, start, record.time));
        true
    }

    pub fn octets(&self) -> u64 {
        self.text.len() as u64
    }

    pub fn records(&self) -> u64 {
        self.lines.len() as u64
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }
}

/// How large one file grows.
pub(super) fn share(settings: &Settings) -> (u64, u64) {
    let octets = (settings.max_size / PARTS).clamp(SMALLEST, LARGEST);
    (octets, (settings.max_records / PARTS).max(1))
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder, segments: VecDeque::new(), open: None, next: 1, unreadable: 0 }
    }

    /// Makes the folder, if it is not there. It is for nobody else: who wrote to whom is personal.
    ///
    /// # Errors
    /// The system's.
    pub fn make_folder(folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Numbers of the files that are there, the oldest first.
    ///
    /// # Errors
    /// The system's.
    pub fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
        let number = |entry: io::Result<fs::DirEntry>| {
            let path = entry.ok()?.path();
            let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
            path.file_stem()?.to_str()?.parse().ok().filter(|_| is_ours)
        };
        let mut numbers: Vec<u64> = fs::read_dir(folder)?.filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Takes a file of a former run into the index. `None`: it could not be read, and is left where it is.
    pub fn add(&mut self, number: u64, scanned: Option<Scanned>) {
        self.next = self.next.max(number.saturating_add(1));
        self.unreadable += scanned.as_ref().map_or(1, |scanned| scanned.unreadable);
        self.segments.extend(scanned.map(|scanned| scanned.segment));
    }

    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries.len() as u64).sum()
    }

    pub fn octets(&self) -> u64 {
        self.segments.iter().map(|segment| segment.octets).sum()
    }

    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Octets of memory of the index.
    pub fn memory(&self) -> usize {
        let segments = self.segments.capacity() * size_of::<Segment>();
        segments + self.segments.iter().map(|s| s.entries.capacity() * size_of::<u64>()).sum::<usize>()
    }

    pub fn oldest(&self) -> Option<u64> {
        self.segments.iter().find(|segment| !segment.entries.is_empty()).map(|segment| segment.oldest)
    }

    /// Where records of this reference are, the newest first.
    pub fn places(&self, reference: Reference) -> Vec<Place> {
        let place = |segment: &Segment, entry: u64| Place {
            path: path(&self.folder, segment.number),
            offset: entry & ((1 << OFFSET_BITS) - 1),
        };
        let segments = self.segments.iter().rev();
        segments.flat_map(|segment| segment.find(reference).map(|entry| place(segment, entry))).collect()
    }

    /// Removes files until there is room for a batch, and those that are too old.
    pub fn make_room(&mut self, batch: &Batch, settings: &Settings, now: u64) {
        let max_age = settings.max_age.as_secs();
        while let Some(first) = self.segments.front() {
            let is_expired = first.newest.saturating_add(max_age) < now;
            let is_full = self.records() + batch.records() > settings.max_records
                || self.octets() + batch.octets() > settings.max_size;
            if !is_expired && !is_full {
                return;
            }
            let _ = fs::remove_file(path(&self.folder, first.number));
            self.segments.pop_front();
            if self.segments.is_empty() {
                self.open = None;
            }
        }
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// The system's; then none of it can be found, and the next batch goes to a file of its own.
    pub fn append(&mut self, batch: &Batch, settings: &Settings, now: u64) -> io::Result<()> {
        let (octets, records) = share(settings);
        let rotation = DAY.min(settings.max_age.as_secs() / 4).max(1);
        if let Some(last) = self.segments.back().filter(|_| self.open.is_some()) {
            let is_full = last.octets + batch.octets() > octets
                || last.entries.len() as u64 + batch.records() > records
                || last.oldest.saturating_add(rotation) < now;
            if is_full {
                self.seal();
            }
        }
        if self.open.is_none() {
            self.begin()?;
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(io::Error::other("no file is open"));
        };
        if let Err(error) = file.write_all(&batch.text) {
            // What was written of it counts as octets; nothing leads there.
            segment.octets = file.metadata().map_or(segment.octets, |metadata| metadata.len());
            self.seal();
            return Err(error);
        }
        segment.take(batch);
        Ok(())
    }

    /// Nothing is added to the last file any more.
    pub fn seal(&mut self) {
        self.open = None;
        if let Some(segment) = self.segments.back_mut() {
            segment.seal();
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let path = path(&self.folder, self.next);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        self.segments.push_back(Segment::new(self.next));
        self.open = Some(file);
        self.next += 1;
        Ok(())
    }
}

impl Segment {
    fn new(number: u64) -> Self {
        Self { number, octets: 0, oldest: u64::MAX, newest: 0, entries: Vec::new(), is_sealed: false }
    }

    fn take(&mut self, batch: &Batch) {
        for (reference, offset, time) in &batch.lines {
            self.note(*reference, self.octets + *offset as u64, *time);
        }
        self.octets += batch.octets();
    }

    fn note(&mut self, reference: Reference, offset: u64, time: u64) {
        self.entries.push(reference.0 << OFFSET_BITS | offset);
        self.oldest = self.oldest.min(time);
        self.newest = self.newest.max(time);
    }

    fn seal(&mut self) {
        self.entries.sort_unstable();
        self.entries.shrink_to_fit();
        self.is_sealed = true;
    }

    /// The entries of a reference. The file that is written to is not sorted, and small.
    fn find(&self, reference: Reference) -> impl Iterator<Item = u64> {
        let is_it = move |entry: &u64| entry >> OFFSET_BITS == reference.0;
        let start = match self.is_sealed {
            true => self.entries.partition_point(|entry| entry >> OFFSET_BITS < reference.0),
            false => 0,
        };
        let limit = if self.is_sealed {
            self.entries[start..].iter().take_while(|entry| is_it(entry)).count()
        } else {
            self.entries.len()
        };
        self.entries[start..start + limit].iter().copied().filter(move |entry| is_it(entry))
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.{EXTENSION}"))
}

/// A file of a former run.
#[derive(Debug)]
pub(super) struct Scanned {
    segment: Segment,
    unreadable: u64,
}

/// Reads the beginnings of all lines of a file. Lines that are none of ours are counted and passed over.
///
/// # Errors
/// The system's.
pub(super) fn scan(folder: &Path, number: u64) -> io::Result<Scanned> {
    let file = File::open(path(folder, number))?;
    let octets = file.metadata()?.len();
    let mut text = Vec::new();
    file.take(1 << OFFSET_BITS).read_to_end(&mut text)?;
    let mut segment = Segment::new(number);
    let (mut offset, mut unreadable) = (0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match head(line) {
            Some((reference, time)) => segment.note(reference, offset, time),
            None => unreadable += 1,
        }
        offset += line.len() as u64;
    }
    segment.octets = octets;
    segment.seal();
    Ok(Scanned { segment, unreadable })
}

/// Reference and time of a whole line: the first two fields of [`Record`].
fn head(line: &[u8]) -> Option<(Reference, u64)> {
    let rest = line.strip_suffix(b"}\n")?.strip_prefix(b"{\"reference\":\"")?;
    let (reference, rest) = rest.split_at_checked(REFERENCE_LENGTH)?;
    let digits = rest.strip_prefix(b"\",\"time\":")?.split(|byte| *byte == b',').next()?;
    let reference = std::str::from_utf8(reference).ok()?.parse().ok()?;
    Some((reference, std::str::from_utf8(digits).ok()?.parse().ok()?))
}

/// Reads one record. `None`: it is gone, or damaged.
pub(super) fn read(place: &Place) -> Option<Record> {
    let file = File::open(&place.path).ok()?;
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    while line.len() <= LONGEST_LINE {
        let octets = file.read_at(&mut piece, place.offset + line.len() as u64).ok()?;
        if let Some(end) = piece[..octets].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&piece[..end]);
            return serde_json::from_slice(&line).ok();
        }
        line.extend_from_slice(&piece[..octets]);
        if octets == 0 {
            return None;
        }
    }
    None
}
