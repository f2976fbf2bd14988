//! Reading the content of a stored message.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::files::{StoredFile, read_exact};
use crate::message::QueueId;
use crate::spool::{PIECE, ReadBody, StoreError, StoredBody};

/// Octets of a file with one checksum over them.
#[derive(Debug)]
pub(super) struct Part {
    pub file: Arc<dyn StoredFile>,
    pub offset: u64,
    pub length: u64,
    pub crc: u32,
}

/// The content of a message from some files, one part after the other.
pub(super) fn stored(id: QueueId, is_warm: bool, parts: impl IntoIterator<Item = Part>) -> StoredBody {
    let parts: VecDeque<Part> = parts.into_iter().collect();
    let length = parts.iter().map(|part| part.length).sum();
    StoredBody::new(length, is_warm, Box::new(Reader { id, parts, crc: 0 }))
}

/// Reads parts of files.
#[derive(Debug)]
struct Reader {
    id: QueueId,
    parts: VecDeque<Part>,
    /// CRC32C over what was read of the first part.
    crc: u32,
}

impl ReadBody for Reader {
    fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some(part) = self.parts.front_mut() {
            let mut piece = vec![0; part.length.min(PIECE as u64) as usize];
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
