//! The form of a record in the log. It is part of the spool format: a change needs a new [`VERSION`].
//!
//! A record is a header of 64 octets, the meta part, the body, and zeros up to the next multiple of 16. All numbers
//! are little endian:
//!
//! | at | octets | what |
//! |---|---|---|
//! | 0 | 4 | magic |
//! | 4 | 1 | kind |
//! | 5 | 1 | version |
//! | 6 | 2 | flags: 1 the group goes on with the next record, 2 the content is in a file of its own, 4 the content is lost |
//! | 8 | 8 | name of the segment it was written for |
//! | 16 | 8 | id of the message; in `Head` the highest id given out so far |
//! | 24 | 8 | offset in this segment up to which everything was durable when the record was written |
//! | 32 | 4 | number of the segment that first held the message (`Move`, `Delete`) |
//! | 36 | 4 | number of the segment that held it last (`Delete`) |
//! | 40 | 4 | place in its group, from 0 |
//! | 44 | 4 | length of the meta part: the envelope or the state; in `Head` and `Pad` see `missing.rs` |
//! | 48 | 4 | length of the body |
//! | 52 | 4 | CRC32C of the meta part |
//! | 56 | 4 | CRC32C of the body |
//! | 60 | 4 | CRC32C of the header before it; no other field is believed before this one fits |
//!
//! The lower half of a segment's name is random, and nobody outside learns it: so a message cannot contain something
//! that passes for a record when the log is searched for the next good one behind a damaged place.

use bytes::Bytes;

use super::files::{StoredFile, read_exact};

/// Length of a header.
pub const HEADER: usize = 64;
/// Records begin at multiples of this.
pub const ALIGNMENT: u64 = 16;
/// What this version writes and reads.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"pRc1";
const CONTINUES: u16 = 1;
const IN_FILE: u16 = 2;
const LOST: u16 = 4;
/// Bodies up to this length are copied behind their header: cheaper than a slice of their own.
const COPIED_BODY: usize = 16 * 1024;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The segment begins.
    Head,
    /// A new message.
    Enqueue,
    /// The state of a message, in place of the former one.
    State,
    /// A message has ended.
    Delete,
    /// A message, copied out of a segment that is to be removed.
    Move,
    /// Nothing.
    Pad,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Head => 1,
            Self::Enqueue => 2,
            Self::State => 3,
            Self::Delete => 4,
            Self::Move => 5,
            Self::Pad => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Head, Self::Enqueue, Self::State, Self::Delete, Self::Move, Self::Pad]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// A header whose checksum fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `None`: a kind or version that this one does not know.
    pub kind: Option<Kind>,
    /// Whether its group goes on with the next record.
    pub continues: bool,
    /// Whether the content is in a file of its own.
    pub in_file: bool,
    /// Whether the content is lost: the envelope is kept so that somebody sees it.
    pub is_lost: bool,
    /// The segment it was written for.
    pub segment: u64,
    /// The message.
    pub id: u64,
    /// Up to which offset the segment was durable when this was written.
    pub synced: u64,
    /// The segment that first held the message.
    pub origin: u32,
    /// The segment that held it last.
    pub target: u32,
    /// Place in its group.
    pub place: u32,
    /// Length of the meta part.
    pub meta_length: u32,
    /// Length of the body.
    pub body_length: u32,
    /// CRC32C of the meta part.
    pub meta_crc: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl Header {
    /// Reads a header. `None`: there is none, or it is damaged.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let fits: &[u8; HEADER] = octets.first_chunk()?;
        if fits[..4] != MAGIC || u32_at(fits, 60) != crc32c::crc32c(&fits[..60]) {
            return None;
        }
        Self::parse_unchecked(octets)
    }

    /// Reads what stands where a header should be, damaged or not. Nothing of it is to be believed before the checksums
    /// of the parts that it describes fit.
    pub fn parse_unchecked(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; HEADER] = octets.first_chunk()?;
        let flags = u16::from_le_bytes([octets[6], octets[7]]);
        let known = octets[5] == VERSION && flags & !(CONTINUES | IN_FILE | LOST) == 0;
        Some(Self {
            kind: if known { Kind::from_code(octets[4]) } else { None },
            continues: flags & CONTINUES != 0,
            in_file: flags & IN_FILE != 0,
            is_lost: flags & LOST != 0,
            segment: u64_at(octets, 8),
            id: u64_at(octets, 16),
            synced: u64_at(octets, 24),
            origin: u32_at(octets, 32),
            target: u32_at(octets, 36),
            place: u32_at(octets, 40),
            meta_length: u32_at(octets, 44),
            body_length: u32_at(octets, 48),
            meta_crc: u32_at(octets, 52),
            body_crc: u32_at(octets, 56),
        })
    }

    /// Length of the whole record, with the zeros behind it.
    pub fn record_length(&self) -> u64 {
        padded(HEADER as u64 + u64::from(self.meta_length) + u64::from(self.body_length))
    }

    /// Where the body begins, from the start of the record.
    pub fn body_offset(&self) -> u64 {
        HEADER as u64 + u64::from(self.meta_length)
    }

    /// Whether octets could be the begin of a header: for a quick search.
    pub fn may_begin(octets: &[u8]) -> bool {
        octets.starts_with(&MAGIC)
    }
}

/// Reads the header and the meta part of the record at `offset`. `None`: damaged, or of another segment or message.
///
/// # Errors
/// The system's.
pub fn read_meta(
    file: &dyn StoredFile,
    offset: u64,
    segment: u64,
    id: u64,
) -> std::io::Result<Option<(Header, Vec<u8>)>> {
    // Most envelopes fit, so that one call is enough.
    let mut start = [0; 512];
    let read = file.read_at(&mut start, offset)?;
    let Some(header) = Header::parse(&start[..read]).filter(|h| h.segment == segment && h.id == id) else {
        return Ok(None);
    };
    let end = HEADER + header.meta_length as usize;
    let meta = match start[..read].get(HEADER..end) {
        Some(meta) => meta.to_vec(),
        // The header's checksum fits, but a length is believed only as far as the file goes.
        None if offset + end as u64 > file.length()? => return Ok(None),
        None => {
            let mut meta = vec![0; end - HEADER];
            read_exact(file, &mut meta, offset + HEADER as u64)?;
            meta
        }
    };
    if crc32c::crc32c(&meta) != header.meta_crc {
        return Ok(None);
    }
    Ok(Some((header, meta)))
}

/// A record that is to be written. Checksums over meta and body are computed here, in the thread of whoever commits;
/// what only the committer knows is filled in by [`Record::seal`].
#[derive(Debug)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// The message.
    pub id: u64,
    /// Whether the content is in a file of its own.
    pub in_file: bool,
    /// Whether the content is lost.
    pub is_lost: bool,
    /// Header, meta, and short bodies with the zeros behind them.
    start: Vec<u8>,
    /// Long bodies.
    body: Vec<Bytes>,
    /// Octets of `body`.
    long: u64,
}

/// What the committer adds to a record.
#[derive(Debug, Clone, Copy)]
pub struct Seal {
    /// Name of the segment.
    pub segment: u64,
    /// Up to which offset it is durable.
    pub synced: u64,
    /// Place in the group.
    pub place: u32,
    /// Whether the group goes on.
    pub continues: bool,
    /// The segment that first held the message.
    pub origin: u32,
    /// The segment that held it last.
    pub target: u32,
}

/// A part of a record was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Record {
    /// A record of these parts.
    ///
    /// # Errors
    /// [`TooLong`]: a part does not fit 32 bits.
    pub fn new(kind: Kind, id: u64, meta: &[u8], body: Vec<Bytes>) -> Result<Self, TooLong> {
        let length: usize = body.iter().map(Bytes::len).sum();
        let meta_length = u32::try_from(meta.len()).map_err(|_| TooLong)?;
        let body_length = u32::try_from(length).map_err(|_| TooLong)?;
        let body_crc = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));

        let copied = length <= COPIED_BODY;
        let room = HEADER + meta.len() + if copied { length + ALIGNMENT as usize } else { 0 };
        let mut start = Vec::with_capacity(room);
        start.resize(HEADER, 0);
        start[..4].copy_from_slice(&MAGIC);
        start[4] = kind.code();
        start[5] = VERSION;
        start[16..24].copy_from_slice(&id.to_le_bytes());
        start[44..48].copy_from_slice(&meta_length.to_le_bytes());
        start[48..52].copy_from_slice(&body_length.to_le_bytes());
        start[52..56].copy_from_slice(&crc32c::crc32c(meta).to_le_bytes());
        start[56..60].copy_from_slice(&body_crc.to_le_bytes());
        start.extend_from_slice(meta);

        let mut record = Self { kind, id, in_file: false, is_lost: false, start, body: Vec::new(), long: 0 };
        if copied {
            body.iter().for_each(|part| record.start.extend_from_slice(part));
            record.start.resize(record.length() as usize, 0);
        } else {
            record.long = length as u64;
            record.body = body;
        }
        Ok(record)
    }

    /// Says that the content is in a file of its own.
    pub fn in_file(mut self) -> Self {
        self.in_file = true;
        self
    }

    /// Says that the content is lost: there is nothing to read, and nothing to look for but a file that may come back.
    pub fn lost(mut self) -> Self {
        self.is_lost = true;
        self.in_file()
    }

    /// Length of the whole record, with the zeros behind it.
    pub fn length(&self) -> u64 {
        padded(self.start.len() as u64 + self.long)
    }

    /// Fills in what only the committer knows, and the header's checksum.
    pub fn seal(&mut self, seal: Seal) {
        let mut flags = 0;
        if seal.continues {
            flags |= CONTINUES;
        }
        if self.in_file {
            flags |= IN_FILE;
        }
        if self.is_lost {
            flags |= LOST;
        }
        let start = &mut self.start;
        start[6..8].copy_from_slice(&flags.to_le_bytes());
        start[8..16].copy_from_slice(&seal.segment.to_le_bytes());
        start[24..32].copy_from_slice(&seal.synced.to_le_bytes());
        start[32..36].copy_from_slice(&seal.origin.to_le_bytes());
        start[36..40].copy_from_slice(&seal.target.to_le_bytes());
        start[40..44].copy_from_slice(&seal.place.to_le_bytes());
        let crc = crc32c::crc32c(&start[..60]);
        start[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    /// The octets to write, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        static ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];
        let padding = self.length() - (self.start.len() as u64 + self.long);
        std::iter::once(self.start.as_slice())
            .chain(self.body.iter().map(AsRef::as_ref))
            .chain(std::iter::once(&ZEROS[..padding as usize]))
    }
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

fn u32_at(octets: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

fn u64_at(octets: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(octets, at)) | u64::from(u32_at(octets, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn sealed(body: Vec<Bytes>) -> Vec<u8> {
        let mut record = Record::new(Kind::Enqueue, 7, b"meta", body).unwrap();
        record.seal(Seal {
            segment: 3 << 32 | 9,
            synced: 640,
            place: 2,
            continues: true,
            origin: 3,
            target: 4,
        });
        let octets = record.slices().collect::<Vec<_>>().concat();
        assert_eq!(octets.len() as u64, record.length());
        octets
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let octets = sealed(vec![Bytes::from_static(b"one "), Bytes::from_static(b"two")]);
        let header = Header::parse(&octets).unwrap();
        assert_eq!(header.kind, Some(Kind::Enqueue));
        assert_eq!((header.segment, header.id, header.synced), (3 << 32 | 9, 7, 640));
        assert_eq!((header.place, header.continues, header.in_file), (2, true, false));
        assert_eq!((header.origin, header.target), (3, 4));
        assert_eq!(header.record_length(), octets.len() as u64);
        assert_eq!(header.body_crc, crc32c::crc32c(b"one two"));
        let body = header.body_offset() as usize;
        assert_eq!(&octets[body..body + 7], b"one two");
    }

    #[test]
    fn long_and_short_bodies_have_the_same_form() {
        for length in [0, 1, COPIED_BODY, COPIED_BODY + 1, 3 * COPIED_BODY + 5] {
            let octets = sealed(vec![Bytes::from(vec![b'x'; length])]);
            let header = Header::parse(&octets).unwrap();
            assert_eq!(header.body_length as usize, length);
            assert_eq!(header.record_length(), octets.len() as u64);
            assert_eq!(octets.len() as u64 % ALIGNMENT, 0);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let octets = sealed(Vec::new());
        for bit in 0..HEADER * 8 {
            let mut flipped = octets.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_no_damage_but_unknown() {
        let mut octets = sealed(Vec::new());
        octets[5] = VERSION + 1;
        let crc = crc32c::crc32c(&octets[..60]);
        octets[60..64].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::parse(&octets).unwrap().kind, None);
    }
}
