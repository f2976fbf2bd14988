//! Files of their own for large messages, `big/<id>`.
//!
//! A large message is written to its file while it arrives, and the file and its name are durable before the record
//! that mentions it goes to the committer. So a large message never sits in memory whole, never makes others wait for
//! its octets at commit, and is never copied by compaction; the log needs no chains of partial records that pin their
//! segments while a slow client sends. Removed once the `Delete` record is durable; a file that no record mentions is
//! removed at start.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{Access, Files, StoredFile, write_all};
use super::meter::Meter;
use crate::spool::{FinishedBody, LargeBody, StoreError, Unclaimed};

/// Written at once.
const BLOCK: usize = 256 * 1024;
/// Length of what [`Mention::encode`] gives.
pub const MENTION: usize = 16;

/// The name of the file of a message.
pub fn name(id: u64) -> String {
    format!("{id:016x}")
}

/// The id in the name of a file.
pub fn id(name: &str) -> Option<u64> {
    if name.len() != 16 {
        return None;
    }
    u64::from_str_radix(name, 16).ok()
}

/// What the record of a message says of its file: behind our header fields in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention {
    /// Octets.
    pub length: u64,
    /// CRC32C over them.
    pub crc: u32,
}

impl Mention {
    /// Of the file of a message that is to be committed.
    pub fn of(body: &FinishedBody) -> Self {
        Self { length: body.length(), crc: body.crc() }
    }

    /// As it stands in the record.
    pub fn encode(self) -> [u8; MENTION] {
        let mut octets = [0; MENTION];
        octets[..8].copy_from_slice(&self.length.to_le_bytes());
        octets[8..12].copy_from_slice(&self.crc.to_le_bytes());
        octets
    }

    /// Splits the body of a record into our header fields and the mention.
    pub fn split(body: &[u8]) -> Option<(&[u8], Self)> {
        let (header, octets) = body.split_last_chunk::<MENTION>()?;
        let (length, rest) = octets.split_first_chunk::<8>()?;
        let crc = rest.first_chunk::<4>()?;
        Some((header, Self { length: u64::from_le_bytes(*length), crc: u32::from_le_bytes(*crc) }))
    }
}

/// The messages whose file belongs to nobody yet: it is being written, or waits for its record.
pub(super) type Unfinished = Arc<Mutex<BTreeSet<u64>>>;

/// A large message while it is written. Dropped before it is finished, it removes its file.
#[derive(Debug)]
pub(super) struct LargeFile {
    file: Arc<dyn StoredFile>,
    temporary: Temporary,
    buffer: Vec<u8>,
    mention: Mention,
    meter: Meter,
}

impl LargeFile {
    pub(super) fn create(
        files: Arc<dyn Files>,
        directory: &Path,
        id: u64,
        unfinished: &Unfinished,
        meter: Meter,
    ) -> Result<Self, StoreError> {
        let path = directory.join(name(id));
        // Before there is a file: nobody may take it for one that is left over.
        if !unfinished.lock().insert(id) {
            return Err(StoreError::io("creating", &path, ErrorKind::AlreadyExists.into()));
        }
        let (directory, unfinished) = (directory.to_owned(), Arc::clone(unfinished));
        let mut temporary = Temporary { files, directory, path, armed: false, id, unfinished };
        let file = temporary.files.open(&temporary.path, Access::CreateNew);
        let file = file.map_err(|e| StoreError::io("creating", &temporary.path, e))?;
        temporary.armed = true;
        Ok(Self { file, temporary, buffer: Vec::new(), mention: Mention { length: 0, crc: 0 }, meter })
    }

    fn write_out(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let mut slices = [IoSlice::new(&self.buffer), IoSlice::new(piece)];
        write_all(&*self.file, &mut slices, self.mention.length)
            .map_err(|e| StoreError::io("writing", &self.temporary.path, e))?;
        let crc = crc32c::crc32c_append(self.mention.crc, &self.buffer);
        self.mention.crc = crc32c::crc32c_append(crc, piece);
        self.mention.length += (self.buffer.len() + piece.len()) as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl LargeBody for LargeFile {
    fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        if self.buffer.len() + piece.len() < BLOCK {
            self.buffer.extend_from_slice(piece);
            return Ok(());
        }
        self.write_out(piece)
    }

    /// Makes the file and its directory entry durable.
    fn finish(mut self: Box<Self>) -> Result<FinishedBody, StoreError> {
        self.write_out(&[])?;
        let Self { file, temporary, mention, meter, .. } = *self;
        let Temporary { files, directory, path, .. } = &temporary;
        meter.sync(|| file.sync()).map_err(|e| StoreError::io("syncing", path, e))?;
        let directory_synced = meter.sync(|| files.sync_directory(directory));
        directory_synced.map_err(|e| StoreError::io("syncing", directory, e))?;
        Ok(FinishedBody::new(mention.length, mention.crc, Box::new(temporary)))
    }
}

/// A file that is removed unless it is kept.
#[derive(Debug)]
struct Temporary {
    files: Arc<dyn Files>,
    directory: PathBuf,
    path: PathBuf,
    armed: bool,
    id: u64,
    unfinished: Unfinished,
}

impl Unclaimed for Temporary {
    fn keep(mut self: Box<Self>) {
        self.armed = false;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.files.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished message file");
        }
        // Last: as long as the file is there and no message has it, it stands in this list.
        self.unfinished.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::files::SystemFiles;

    fn create(files: Arc<dyn Files>, directory: &Path, id: u64) -> Box<dyn LargeBody> {
        let (unfinished, meter) = (Unfinished::default(), Meter::new().unwrap());
        Box::new(LargeFile::create(files, directory, id, &unfinished, meter).unwrap())
    }

    #[test]
    fn the_mention_is_read_as_it_was_written() {
        let mention = Mention { length: 1 << 40, crc: 0xDEAD_BEEF };
        let body = [b"Received: x\r\n".as_slice(), &mention.encode()].concat();
        assert_eq!(Mention::split(&body), Some((b"Received: x\r\n".as_slice(), mention)));
        assert_eq!(Mention::split(&body[..MENTION - 1]), None);
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(id(&name(0x00AB_CDEF)), Some(0x00AB_CDEF));
        assert_eq!(id("abc"), None);
        assert_eq!(id("zzzzzzzzzzzzzzzz"), None);
    }

    #[test]
    fn the_file_holds_what_was_written_in_pieces_of_any_size() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = create(Arc::new(SystemFiles), directory.path(), 1);
        let mut expected = Vec::new();
        for size in [0, 1, 1000, BLOCK - 1001, BLOCK, 3 * BLOCK + 7, 5] {
            let piece = vec![size as u8; size];
            file.write(&piece).unwrap();
            expected.extend(piece);
        }
        let finished = file.finish().unwrap();
        assert_eq!(finished.length(), expected.len() as u64);
        assert_eq!(finished.crc(), crc32c::crc32c(&expected));
        let path = directory.path().join(name(1));
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        finished.keep();
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_given_up_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(SystemFiles);
        let unfinished = create(Arc::clone(&files), directory.path(), 1);
        let finished = create(files, directory.path(), 2).finish().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        drop((unfinished, finished));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
