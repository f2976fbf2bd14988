//! Reads a segment from one end to the other: its records, and the places that are none.

use super::files::StoredFile;
use super::record::{ALIGNMENT, HEADER, Header};

/// Which part of a record is checked beside its header and meta part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// The bodies too: of the newest segment, where a crash may have left records of which only some blocks arrived.
    Check,
    /// Not the bodies: they are checked when they are read.
    Skip,
}

/// What was found in a segment, in order.
#[derive(Debug)]
pub enum Item {
    /// A record with a good header and a good meta part.
    Record(Entry),
    /// Octets that are no good record.
    Gap {
        /// Where it begins.
        from: u64,
        /// Where the next good header is, or the end.
        to: u64,
    },
}

impl Item {
    /// Where it begins.
    pub fn from(&self) -> u64 {
        match self {
            Self::Record(entry) => entry.offset,
            Self::Gap { from, .. } => *from,
        }
    }

    /// Where the next one begins.
    pub fn to(&self) -> u64 {
        match self {
            Self::Record(entry) => entry.end(),
            Self::Gap { to, .. } => *to,
        }
    }
}

/// A record.
#[derive(Debug)]
pub struct Entry {
    /// Its header.
    pub header: Header,
    /// Where it is.
    pub offset: u64,
    /// The envelope or state.
    pub meta: Vec<u8>,
    /// Whether the body fits its checksum; true if bodies were not checked.
    pub body_fits: bool,
}

impl Entry {
    /// Where the next record begins.
    pub fn end(&self) -> u64 {
        self.offset + self.header.record_length()
    }
}

/// A segment, read.
#[derive(Debug)]
pub struct Scan {
    /// Everything in it.
    pub items: Vec<Item>,
    /// The highest offset that a record says is durable.
    pub synced: u64,
    /// Whether the disk failed to read a part of it: what stands there may be read another time.
    pub is_unreadable: bool,
}

impl Scan {
    /// Whether everything in it is a good record.
    pub fn is_sound(&self) -> bool {
        self.items.iter().all(|item| matches!(item, Item::Record(_)))
    }
}

/// Reads the segment `segment` from `from` up to `length`. Zeros up to the end are no gap: room that was reserved.
/// What the disk cannot read is a gap.
pub fn scan(file: &dyn StoredFile, segment: u64, from: u64, length: u64, bodies: Bodies) -> Scan {
    let mut window = Window::new(file, length, bodies);
    let mut scan = Scan { items: Vec::new(), synced: 0, is_unreadable: false };
    let mut offset = from;
    while offset < length {
        let header = window.header(offset, segment).filter(|h| h.record_length() <= length - offset);
        let Some(header) = header else {
            let Some(to) = window.gap_end(offset, segment) else { break };
            scan.items.push(Item::Gap { from: offset, to });
            offset = to;
            continue;
        };
        let end = offset + header.record_length();
        scan.synced = scan.synced.max(header.synced);
        scan.items.push(match window.entry(header, offset) {
            Some(entry) => Item::Record(entry),
            None => Item::Gap { from: offset, to: end },
        });
        offset = end;
    }
    scan.is_unreadable = window.is_unreadable;
    scan
}

/// Gives the records of whole groups, up to the first that is not as it was written. Returns where the last group ends.
pub fn whole_groups(
    items: &mut impl Iterator<Item = Item>,
    mut end: u64,
    mut give: impl FnMut(Entry),
) -> u64 {
    let mut group: Vec<Entry> = Vec::new();
    for item in items {
        let Item::Record(entry) = item else { break };
        if !entry.body_fits || entry.header.place as usize != group.len() {
            break;
        }
        let (continues, entry_end) = (entry.header.continues, entry.end());
        group.push(entry);
        if !continues {
            end = entry_end;
            group.drain(..).for_each(&mut give);
        }
    }
    end
}

/// A piece of the file in memory.
struct Window<'a> {
    file: &'a dyn StoredFile,
    length: u64,
    bodies: Bodies,
    start: u64,
    octets: Vec<u8>,
    is_unreadable: bool,
}

/// Read at once when bodies are wanted, or the next good header is searched.
const WIDE: usize = 256 * 1024;
/// Read at once when bodies are passed over.
const NARROW: usize = 8 * 1024;
/// What a disk fails to read, it fails to read in units of this.
const BLOCK: usize = 4096;

impl<'a> Window<'a> {
    fn new(file: &'a dyn StoredFile, length: u64, bodies: Bodies) -> Self {
        Self { file, length, bodies, start: 0, octets: Vec::new(), is_unreadable: false }
    }

    /// The octets at `offset`, fewer at the end of the file.
    fn octets(&mut self, offset: u64, wanted: usize, ahead: usize) -> &[u8] {
        let left = self.length.saturating_sub(offset);
        let wanted = left.min(wanted as u64) as usize;
        let inside = offset >= self.start && offset + wanted as u64 <= self.start + self.octets.len() as u64;
        if !inside {
            self.load(offset, left.min(wanted.max(ahead) as u64) as usize);
        }
        let at = (offset - self.start) as usize;
        &self.octets[at..(at + wanted).min(self.octets.len())]
    }

    fn load(&mut self, offset: u64, length: usize) {
        self.start = offset;
        self.octets.clear();
        self.octets.resize(length, 0);
        match self.file.read_at(&mut self.octets, offset) {
            Ok(read) => self.octets.truncate(read),
            Err(_) => self.load_blocks(offset),
        }
    }

    /// Reads what can be read. What cannot is filled with octets that are neither a record nor reserved room.
    fn load_blocks(&mut self, offset: u64) {
        let mut at = 0;
        for block in self.octets.chunks_mut(BLOCK) {
            let read = self.file.read_at(block, offset + at);
            self.is_unreadable |= read.is_err();
            block[read.unwrap_or(0)..].fill(0xFF);
            at += block.len() as u64;
        }
    }

    fn ahead(&self) -> usize {
        match self.bodies {
            Bodies::Check => WIDE,
            Bodies::Skip => NARROW,
        }
    }

    fn header(&mut self, offset: u64, segment: u64) -> Option<Header> {
        let ahead = self.ahead();
        Header::parse(self.octets(offset, HEADER, ahead)).filter(|header| header.segment == segment)
    }

    /// The whole entry, unless it is unknown or its meta part is damaged.
    fn entry(&mut self, header: Header, offset: u64) -> Option<Entry> {
        header.kind?;
        let ahead = self.ahead();
        let meta = self.octets(offset + HEADER as u64, header.meta_length as usize, ahead).to_vec();
        if crc32c::crc32c(&meta) != header.meta_crc {
            return None;
        }
        let body_fits = self.bodies == Bodies::Skip || self.body_crc(&header, offset) == header.body_crc;
        Some(Entry { header, offset, meta, body_fits })
    }

    fn body_crc(&mut self, header: &Header, offset: u64) -> u32 {
        let mut at = offset + header.body_offset();
        let end = at + u64::from(header.body_length);
        let mut crc = 0;
        while at < end {
            let piece = self.octets(at, (end - at).min(WIDE as u64) as usize, WIDE);
            if piece.is_empty() {
                break;
            }
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
        }
        crc
    }

    /// The offset of the next good header behind a place that has none; the end if there is none. `None`: there are
    /// only zeros.
    fn gap_end(&mut self, from: u64, segment: u64) -> Option<u64> {
        let mut at = from;
        let mut zeros = true;
        while at < self.length {
            let piece = self.octets(at, WIDE, WIDE);
            let found = (0..piece.len())
                .step_by(ALIGNMENT as usize)
                .filter(|start| at + *start as u64 > from && Header::may_begin(&piece[*start..]))
                .find(|start| Header::parse(&piece[*start..]).is_some_and(|h| h.segment == segment));
            if let Some(start) = found {
                return Some(at + start as u64);
            }
            zeros &= piece.iter().all(|octet| *octet == 0);
            if piece.len() <= HEADER {
                break;
            }
            // Once more from the last header that was cut off by the end of this piece.
            at += (piece.len() - HEADER).next_multiple_of(ALIGNMENT as usize) as u64;
        }
        if zeros { None } else { Some(self.length) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::IoSlice;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::store::files::{Access, Files, SystemFiles, write_all};
    use crate::store::record::{Kind, Record, Seal};

    const SEGMENT: u64 = 5 << 32 | 77;

    fn record(id: u64, body: usize, synced: u64) -> Vec<u8> {
        let mut record =
            Record::new(Kind::Enqueue, id, b"meta", vec![Bytes::from(vec![id as u8; body])]).unwrap();
        record.seal(Seal { segment: SEGMENT, synced, place: 0, continues: false, origin: 5, target: 5 });
        record.slices().collect::<Vec<_>>().concat()
    }

    fn file(octets: &[u8]) -> (tempfile::TempDir, Arc<dyn StoredFile>) {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemFiles.open(&directory.path().join("segment"), Access::CreateNew).unwrap();
        write_all(&*file, &mut [IoSlice::new(octets)], 0).unwrap();
        (directory, file)
    }

    fn summary(scan: &Scan) -> Vec<Result<u64, (u64, u64)>> {
        scan.items
            .iter()
            .map(|item| match item {
                Item::Record(entry) => Ok(entry.header.id),
                Item::Gap { from, to } => Err((*from, *to)),
            })
            .collect()
    }

    #[test]
    fn records_are_found_up_to_the_reserved_room() {
        let mut octets = [record(1, 10, 0), record(2, 600_000, 0), record(3, 0, 640)].concat();
        let used = octets.len() as u64;
        octets.resize(octets.len() + 300_000, 0);
        let (_directory, file) = file(&octets);
        for bodies in [Bodies::Check, Bodies::Skip] {
            let scan = scan(&*file, SEGMENT, 0, octets.len() as u64, bodies);
            assert_eq!(summary(&scan), [Ok(1), Ok(2), Ok(3)]);
            assert_eq!(scan.synced, 640);
            assert!(scan.is_sound());
            assert!(matches!(scan.items.last(), Some(Item::Record(entry)) if entry.end() == used));
        }
    }

    #[test]
    fn a_damaged_header_costs_its_record_only() {
        let records = [record(1, 10, 0), record(2, 500_000, 0), record(3, 0, 0)];
        let second = records[0].len();
        let mut octets = records.concat();
        octets[second + 8] ^= 1;
        let (_directory, file) = file(&octets);
        let third = (octets.len() - records[2].len()) as u64;
        let scan = scan(&*file, SEGMENT, 0, octets.len() as u64, Bodies::Skip);
        assert_eq!(summary(&scan), [Ok(1), Err((second as u64, third)), Ok(3)]);
        assert!(!scan.is_sound());
    }

    #[test]
    fn records_of_another_segment_and_records_cut_short_are_none() {
        let mut octets = [record(1, 10, 0), record(2, 1000, 0)].concat();
        octets.truncate(octets.len() - 16);
        let (_directory, file) = file(&octets);
        let cut = scan(&*file, SEGMENT, 0, octets.len() as u64, Bodies::Check);
        assert_eq!(summary(&cut), [Ok(1), Err((80, octets.len() as u64))]);
        let other = scan(&*file, SEGMENT + 1, 0, octets.len() as u64, Bodies::Check);
        assert_eq!(summary(&other), [Err((0, octets.len() as u64))]);
    }

    #[test]
    fn a_damaged_body_is_seen_when_bodies_are_checked() {
        let mut octets = [record(1, 300_000, 0), record(2, 0, 0)].concat();
        octets[200_000] ^= 4;
        let (_directory, file) = file(&octets);
        let scan = scan(&*file, SEGMENT, 0, octets.len() as u64, Bodies::Check);
        assert!(matches!(&scan.items[0], Item::Record(entry) if !entry.body_fits));
        assert!(matches!(&scan.items[1], Item::Record(entry) if entry.body_fits));
    }
}
