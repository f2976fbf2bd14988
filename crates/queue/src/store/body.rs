//! Reading the content of a stored message.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use super::files::{StoredFile, read_exact};
use crate::message::QueueId;

/// Read and given at once.
const PIECE: u64 = 256 * 1024;

/// Octets of a file with one checksum over them.
#[derive(Debug)]
pub(super) struct Part {
    pub file: Arc<dyn StoredFile>,
    pub offset: u64,
    pub length: u64,
    pub crc: u32,
}

/// The content of a stored message, open for reading.
#[derive(Debug)]
pub struct StoredBody {
    id: QueueId,
    length: u64,
    warm: bool,
    parts: VecDeque<Part>,
    /// CRC32C over what was read of the first part.
    crc: u32,
}

impl StoredBody {
    pub(super) fn new(id: QueueId, warm: bool, parts: impl IntoIterator<Item = Part>) -> Self {
        let parts: VecDeque<Part> = parts.into_iter().collect();
        Self { id, length: parts.iter().map(|part| part.length).sum(), warm, parts, crc: 0 }
    }

    /// Octets.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no octets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether reading it is likely to come from memory: then it may be read on an async thread.
    pub fn is_warm(&self) -> bool {
        self.warm
    }

    /// The next piece, of at most 256 KiB. Blocking. The last piece is given only if the checksum over all fits.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    #[allow(
        clippy::should_implement_trait,
        reason = "it may fail, and has an end: a reader, not an iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some(part) = self.parts.front_mut() {
            let mut piece = vec![0; part.length.min(PIECE) as usize];
            read_exact(&*part.file, &mut piece, part.offset).map_err(|e| failed(self.id, e))?;
            part.offset += piece.len() as u64;
            part.length -= piece.len() as u64;
            self.crc = crc32c::crc32c_append(self.crc, &piece);
            if part.length == 0 {
                if self.crc != part.crc {
                    return Err(StoreError::Damaged(self.id));
                }
                self.crc = 0;
                self.parts.pop_front();
            }
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
        }
        Ok(None)
    }
}

/// A file that is too short is damage, not a failure of the system.
fn failed(id: QueueId, error: std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return StoreError::Damaged(id);
    }
    StoreError::Io { what: format!("reading message {id}"), source: error }
}
