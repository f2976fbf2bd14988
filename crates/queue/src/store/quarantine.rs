//! What was set aside under `damaged/`: copies of what is no good record, files of large messages whose record cannot be
//! read, and marks of segments that are kept because of such places, or are missing. Says what can still be read in it, and gives that back.

use std::io::{ErrorKind, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::body::Part;
use super::catalogue::number;
use super::files::{Access, Files, StoredFile, read_exact, write_all};
use super::large::{self, Mention};
use super::record::{ALIGNMENT, HEADER, Header, Kind};
use super::recovery::{Layout, Mark};
use super::{Inner, Store, StoreError, StoredBody, body, collector};
use crate::message::QueueId;

/// Records of one piece that are listed.
const MAX_RECORDS: usize = 1000;
/// Searched at once for a header.
const WINDOW: usize = 64 * 1024;
/// Longer envelopes are not written by any release.
const MAX_META: u32 = 16 * 1024 * 1024;

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name below `damaged/`: what `remove` takes.
    pub name: String,
    /// What it is.
    pub kind: KeptKind,
    /// Octets.
    pub octets: u64,
    /// When it was set aside, in seconds since 1970.
    pub since: Option<u64>,
    /// The number of the segment that it comes from, or that is kept.
    pub segment: Option<u32>,
    /// Where in that segment it was.
    pub offset: Option<u64>,
    /// What stands in it, as far as can be told.
    pub records: Vec<KeptRecord>,
}

/// The kinds of what is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptKind {
    /// Octets of a segment that are no good record, or that a crash left behind the end of the log.
    Octets,
    /// The file of a large message.
    LargeFile,
    /// A mark: a segment is kept because a part of it is no record.
    DamagedSegment,
    /// A mark: a segment is kept, and read once more at the next start, because the disk cannot read a part of it.
    UnreadableSegment,
    /// A mark: a segment is missing. When it is there again, the next start reads it.
    MissingSegment,
    /// None of ours.
    Foreign,
}

/// What looks like the record of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRecord {
    /// The message; if its header is damaged, probably.
    pub id: QueueId,
    /// The encoded envelope, if it is as it was written.
    pub envelope: Option<Vec<u8>>,
    /// Whether the content is as it was written and all there.
    pub has_content: bool,
    /// Octets of the content.
    pub length: u64,
}

/// What could be read of a message that was set aside.
#[derive(Debug)]
pub struct Salvaged {
    /// The encoded envelope.
    pub envelope: Option<Vec<u8>>,
    /// The content.
    pub body: StoredBody,
    /// Which piece it was in.
    pub name: String,
}

impl Store {
    /// What was set aside, by name, with the segments that are kept. Blocking: reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn quarantine(&self) -> Result<Vec<Kept>, StoreError> {
        let inner = &self.inner;
        let mut kept = Vec::new();
        for entry in entries(inner)? {
            let piece = Piece::new(&entry.name);
            let records = match piece {
                Piece::Octets { segment, .. } => Salvage::records(inner, &entry.name, segment)?,
                // Its own record is lost, and with it the checksum: it is believed as it is.
                Piece::Large(id) => vec![Found::large(id, entry.length, &entry.name, Vec::new())],
                Piece::Mark(..) | Piece::Foreign => Vec::new(),
            };
            kept.push(Kept {
                kind: piece.kind(),
                octets: entry.length,
                since: entry.modified.and_then(seconds),
                segment: piece.segment().map(number),
                offset: piece.offset(),
                records: records.into_iter().take(MAX_RECORDS).map(|found| found.record).collect(),
                name: entry.name,
            });
        }
        kept.extend(self.unmarked(&kept));
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kept)
    }

    /// Segments whose damage was found in this run: the next start that reads them makes the mark.
    fn unmarked(&self, kept: &[Kept]) -> Vec<Kept> {
        let catalogue = self.inner.catalogue.lock();
        let damaged = catalogue.segments.iter().filter(|(_, segment)| segment.damaged);
        let marks = damaged.map(|(number, segment)| Kept {
            name: Mark::Damaged.file_name(segment.name),
            kind: KeptKind::DamagedSegment,
            octets: 0,
            since: None,
            segment: Some(*number),
            offset: None,
            records: Vec::new(),
        });
        let is_new =
            |mark: &Kept| !kept.iter().any(|other| other.kind.is_mark() && other.segment == mark.segment);
        marks.filter(is_new).collect()
    }

    /// Opens the content of a message that was set aside. Blocking.
    ///
    /// # Errors
    /// [`StoreError::NoMessage`]: nothing of it can be read. [`StoreError::Io`].
    pub fn salvage(&self, id: QueueId) -> Result<Salvaged, StoreError> {
        let inner = &self.inner;
        let mut best: Option<Found> = None;
        for entry in entries(inner)? {
            let found = match Piece::new(&entry.name) {
                Piece::Octets { segment, .. } => Salvage::records(inner, &entry.name, segment)?,
                Piece::Large(other) if other == id.0 => vec![large_file(inner, id.0, &entry.name)?],
                Piece::Large(_) | Piece::Mark(..) | Piece::Foreign => Vec::new(),
            };
            for found in found.into_iter().filter(|found| found.record.id == id && found.record.has_content) {
                if best.as_ref().is_none_or(|best| best.worth() < found.worth()) {
                    best = Some(found);
                }
            }
        }
        let found = best.ok_or(StoreError::NoMessage(id))?;
        Ok(Salvaged {
            envelope: found.record.envelope,
            name: found.name,
            body: body::stored(id, false, found.parts),
        })
    }

    /// Removes something that was set aside. A mark goes with its segment: what counts in that is copied to the end of the
    /// log first, and copies of what cannot be read are made. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: there is no such thing, or the segment is still needed, with the reason; [`StoreError::Io`].
    pub fn discard(&self, name: &str) -> Result<(), StoreError> {
        let inner = &self.inner;
        let kept = self.quarantine_names()?;
        if !kept.iter().any(|other| other == name) {
            let text = format!(
                "{name:?}: nothing of this name was set aside (see `posternctl store quarantine list`)"
            );
            return Err(StoreError::Refused(text));
        }
        let path = inner.layout.damaged.join(name);
        let removing = |e| StoreError::io("removing", &path, e);
        match Mark::segment(name) {
            Some((segment, Mark::Damaged | Mark::Unreadable)) => {
                collector::release(&self.inner, number(segment))?;
                for mark in Mark::ALL {
                    remove_if_there(inner, &mark.file_name(segment))?;
                }
            }
            // There is no segment to release.
            Some((_, Mark::Missing)) | None => inner.files.remove(&path).map_err(removing)?,
        }
        match inner.files.sync_directory(&inner.layout.damaged) {
            // A segment whose damage was found in this run has no mark there.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(removing(error)),
            _ => Ok(()),
        }
    }

    fn quarantine_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = entries(&self.inner)?.into_iter().map(|entry| entry.name).collect();
        names.extend(self.unmarked(&[]).into_iter().map(|mark| mark.name));
        Ok(names)
    }
}

impl KeptKind {
    /// Whether it stands for a segment that is kept.
    pub fn is_mark(self) -> bool {
        matches!(self, Self::DamagedSegment | Self::UnreadableSegment)
    }
}

/// The name of the copy of what is no good record, by where it begins.
pub(super) fn copy_name(segment: u64, from: u64) -> String {
    format!("seg-{segment:016x}-{from:x}")
}

/// Copies a part of a segment that cannot be read. One that was copied before is left as it is.
pub(super) fn set_aside(
    layout: &Layout,
    files: &dyn Files,
    segment: u64,
    file: &dyn StoredFile,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    const BLOCK: usize = 4096;
    let directory = &layout.damaged;
    let path = directory.join(copy_name(segment, from));
    if files.open(&path, Access::Read).is_ok() {
        return Ok(());
    }
    let copy = || {
        files.create_directory(directory)?;
        let copy = files.open(&path, Access::Replace)?;
        let mut block = vec![0; BLOCK];
        let mut at = from;
        while at < to {
            let wanted = (to - at).min(BLOCK as u64) as usize;
            // What the disk cannot read is left out, as zeros.
            let read = file.read_at(&mut block[..wanted], at).unwrap_or(0);
            write_all(&*copy, &mut [IoSlice::new(&block[..read])], at - from)?;
            at += wanted as u64;
        }
        copy.sync()?;
        files.sync_directory(directory)
    };
    copy().map_err(|e| StoreError::io("writing", &path, e))
}

fn entries(inner: &Inner) -> Result<Vec<super::files::Entry>, StoreError> {
    let directory = &inner.layout.damaged;
    match inner.files.list(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(|e| StoreError::io("reading", directory, e)),
    }
}

fn remove_if_there(inner: &Inner, name: &str) -> Result<(), StoreError> {
    let path = inner.layout.damaged.join(name);
    match inner.files.remove(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("removing", &path, error)),
        _ => Ok(()),
    }
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// What the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Octets { segment: u64, offset: u64 },
    Large(u64),
    Mark(u64, Mark),
    Foreign,
}

impl Piece {
    fn new(name: &str) -> Self {
        if let Some((segment, mark)) = Mark::segment(name) {
            return Self::Mark(segment, mark);
        }
        if let Some(id) = name.strip_prefix("big-").and_then(large::id) {
            return Self::Large(id);
        }
        let octets = || {
            let (segment, offset) = name.strip_prefix("seg-")?.split_once('-')?;
            let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
            Some(Self::Octets { segment: hexadecimal(segment)?, offset: hexadecimal(offset)? })
        };
        octets().unwrap_or(Self::Foreign)
    }

    fn kind(&self) -> KeptKind {
        match self {
            Self::Octets { .. } => KeptKind::Octets,
            Self::Large(_) => KeptKind::LargeFile,
            Self::Mark(_, Mark::Damaged) => KeptKind::DamagedSegment,
            Self::Mark(_, Mark::Unreadable) => KeptKind::UnreadableSegment,
            Self::Mark(_, Mark::Missing) => KeptKind::MissingSegment,
            Self::Foreign => KeptKind::Foreign,
        }
    }

    fn segment(&self) -> Option<u64> {
        match self {
            Self::Octets { segment, .. } | Self::Mark(segment, _) => Some(*segment),
            Self::Large(_) | Self::Foreign => None,
        }
    }

    fn offset(&self) -> Option<u64> {
        match self {
            Self::Octets { offset, .. } => Some(*offset),
            _ => None,
        }
    }
}

/// A record, and where its content is.
struct Found {
    name: String,
    record: KeptRecord,
    parts: Vec<Part>,
}

impl Found {
    fn large(id: u64, length: u64, name: &str, parts: Vec<Part>) -> Self {
        let record = KeptRecord { id: QueueId(id), envelope: None, has_content: true, length };
        Self { name: name.to_owned(), record, parts }
    }

    /// With its envelope a message is worth more than without, and with our header fields more than the file alone.
    fn worth(&self) -> (bool, bool) {
        (self.record.envelope.is_some(), self.name.starts_with("seg-"))
    }
}

/// The file of a large message alone.
fn large_file(inner: &Inner, id: u64, name: &str) -> Result<Found, StoreError> {
    let path = inner.layout.damaged.join(name);
    let file = inner.files.open(&path, Access::Read).map_err(|e| StoreError::io("opening", &path, e))?;
    let read = || {
        let length = file.length()?;
        Ok((length, checksum(&*file, 0, length)?))
    };
    let (length, crc) = read().map_err(|e| StoreError::io("reading", &path, e))?;
    Ok(Found::large(id, length, name, vec![Part { file, offset: 0, length, crc }]))
}

/// The CRC32C of a part of a file.
fn checksum(file: &dyn StoredFile, from: u64, length: u64) -> std::io::Result<u32> {
    let (mut at, end, mut crc) = (from, from + length, 0);
    while at < end {
        let mut piece = vec![0; (end - at).min(WINDOW as u64) as usize];
        read_exact(file, &mut piece, at)?;
        crc = crc32c::crc32c_append(crc, &piece);
        at += piece.len() as u64;
    }
    Ok(crc)
}

/// Searches octets that were set aside for records, or what is left of them.
struct Salvage<'a> {
    inner: &'a Inner,
    name: &'a str,
    segment: u64,
    file: Arc<dyn StoredFile>,
    length: u64,
}

impl<'a> Salvage<'a> {
    fn records(inner: &'a Inner, name: &'a str, segment: u64) -> Result<Vec<Found>, StoreError> {
        let path = inner.layout.damaged.join(name);
        let file = match inner.files.open(&path, Access::Read) {
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.map_err(|e| StoreError::io("opening", &path, e))?,
        };
        let length = file.length().map_err(|e| StoreError::io("reading", &path, e))?;
        Self { inner, name, segment, file, length }.search()
    }

    fn search(&self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        let mut at = 0;
        // A piece begins where a record should, and so does whatever is behind a good one: there a header may be damaged in
        // any place. Elsewhere only what names the right segment is looked at, which nobody outside can know: the content of
        // a message must not pass for a record.
        let mut is_boundary = true;
        while at + HEADER as u64 <= self.length {
            match self.record_at(at, is_boundary)? {
                Some((record, end)) => {
                    found.extend(record);
                    at = end;
                    is_boundary = true;
                }
                None => {
                    let Some(next) = self.next_header(at + ALIGNMENT)? else { break };
                    at = next;
                    is_boundary = false;
                }
            }
        }
        Ok(found)
    }

    /// What stands at an offset, and where it ends; nothing to keep if it is not the record of a message.
    fn record_at(&self, at: u64, is_boundary: bool) -> Result<Option<(Option<Found>, u64)>, StoreError> {
        let start = self.read(at, HEADER)?;
        let is_whole = Header::parse(&start).is_some_and(|header| header.segment == self.segment);
        let Some(header) = Header::parse_unchecked(&start) else { return Ok(None) };
        let end = at + header.record_length();
        if (!is_whole && !is_boundary && header.segment != self.segment)
            || end > self.length
            || header.meta_length > MAX_META
        {
            return Ok(None);
        }
        let meta = self.read(at + HEADER as u64, header.meta_length as usize)?;
        let envelope = (crc32c::crc32c(&meta) == header.meta_crc).then_some(meta);
        let body_at = at + header.body_offset();
        let crc = checksum(&*self.file, body_at, header.body_length.into());
        let body_fits = crc.map_err(|e| self.unreadable(e))? == header.body_crc;
        // The checksums of both parts prove the lengths, which are all that is used of a damaged header beside the id.
        let is_proven = is_whole || (envelope.is_some() && body_fits && header.meta_length > 0);
        if !is_proven {
            return Ok(None);
        }
        let is_other = matches!(header.kind, Some(Kind::Head | Kind::State | Kind::Delete | Kind::Pad));
        // Without its kind, what has a content is a message.
        if is_other || (!is_whole && header.kind.is_none() && header.body_length == 0) {
            return Ok(Some((None, end)));
        }
        // A whole record of an unknown kind is of a later release: nobody here knows what its parts mean.
        let is_known = header.kind.is_some() || !is_whole;
        let parts = if is_known && body_fits { self.parts(&header, body_at, is_whole)? } else { None };
        let octets = |parts: &Vec<Part>| parts.iter().map(|part| part.length).sum();
        let record = KeptRecord {
            id: QueueId(header.id),
            envelope: envelope.filter(|_| is_known),
            has_content: parts.is_some(),
            length: parts.as_ref().map_or(u64::from(header.body_length), octets),
        };
        let found = Found { name: self.name.to_owned(), record, parts: parts.unwrap_or_default() };
        Ok(Some((Some(found), end)))
    }

    /// Where the content is. `None`: its file is gone. Whether there is one is believed of a damaged header only if it is
    /// there.
    fn parts(&self, header: &Header, body_at: u64, is_whole: bool) -> Result<Option<Vec<Part>>, StoreError> {
        let file = || Arc::clone(&self.file);
        let inline = || Part {
            file: file(),
            offset: body_at,
            length: header.body_length.into(),
            crc: header.body_crc,
        };
        if is_whole && !header.in_file {
            return Ok(Some(vec![inline()]));
        }
        let body = self.read(body_at, header.body_length as usize)?;
        let mention = Mention::split(&body);
        let large = mention.and_then(|(_, mention)| self.large_file(header.id, mention.length));
        let (Some((fields, mention)), Some(large)) = (mention, large) else {
            return Ok((!header.in_file).then(|| vec![inline()]));
        };
        let length = fields.len() as u64;
        let front = Part { file: file(), offset: body_at, length, crc: crc32c::crc32c(fields) };
        Ok(Some(vec![front, Part { file: large, offset: 0, length: mention.length, crc: mention.crc }]))
    }

    /// The file of a large message, set aside or still in its place.
    fn large_file(&self, id: u64, length: u64) -> Option<Arc<dyn StoredFile>> {
        let layout = &self.inner.layout;
        let name = large::name(id);
        let places: [PathBuf; 2] = [layout.damaged.join(format!("big-{name}")), layout.big.join(name)];
        let files = places.iter().filter_map(|path| self.inner.files.open(path, Access::Read).ok());
        files.into_iter().find(|file| file.length().is_ok_and(|found| found == length))
    }

    fn next_header(&self, from: u64) -> Result<Option<u64>, StoreError> {
        let mut at = from;
        while at < self.length {
            let wanted = (self.length - at).min(WINDOW as u64) as usize;
            let piece = self.read(at, wanted)?;
            let found = (0..piece.len())
                .step_by(ALIGNMENT as usize)
                .find(|start| Header::may_begin(&piece[*start..]));
            if let Some(start) = found {
                return Ok(Some(at + start as u64));
            }
            at += wanted as u64;
        }
        Ok(None)
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut octets = vec![0; length];
        read_exact(&*self.file, &mut octets, at).map_err(|e| self.unreadable(e))?;
        Ok(octets)
    }

    fn unreadable(&self, error: std::io::Error) -> StoreError {
        StoreError::io("reading", &self.inner.layout.damaged.join(self.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_piece_is() {
        let segment = 3 << 32 | 0xAB;
        let octets = Piece::new("seg-00000003000000ab-1f0");
        assert_eq!(octets, Piece::Octets { segment, offset: 0x1f0 });
        assert_eq!(Piece::new("seg-00000003000000ab.damaged"), Piece::Mark(segment, Mark::Damaged));
        assert_eq!(Piece::new("seg-00000003000000ab.unreadable"), Piece::Mark(segment, Mark::Unreadable));
        assert_eq!(Piece::new("big-0000000000000007"), Piece::Large(7));
        let missing = Piece::new("seg-00000003000000ab.missing");
        assert_eq!(missing, Piece::Mark(segment, Mark::Missing));
        assert!(!missing.kind().is_mark(), "nothing is kept");
        for name in ["", "seg-", "seg-x-y", "seg-00000003000000ab.log", "big-7", "notes.txt", "seg-ü"] {
            assert_eq!(Piece::new(name), Piece::Foreign, "{name}");
        }
        assert_eq!(octets.kind(), KeptKind::Octets);
        assert!(Piece::new("seg-00000003000000ab.damaged").kind().is_mark());
    }
}
