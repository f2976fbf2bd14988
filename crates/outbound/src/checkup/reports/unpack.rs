//! What reports are packed in: gzip and zip. Nothing is unpacked further than a report can be long.

use std::io::{Cursor, Read};

use flate2::read::MultiGzDecoder;
use memchr::memmem;
use zip::ZipArchive;

use super::MAX_UNPACKED;
use super::read::Unreadable;

/// Files of an archive. A report is one; some add another for people.
const MAX_ENTRIES: u16 = 10;
/// What stands in front of the end of an archive's directory, in which the number of its files is at this offset.
const END_OF_DIRECTORY: &[u8] = b"PK\x05\x06";
const COUNT_AT: usize = 10;
/// The end of a directory that counts in 64 bits. Reports are not so large, and its count would be the one that holds.
const END_OF_LARGE_DIRECTORY: &[u8] = b"PK\x06\x06";

/// Whether octets are packed so that [`unpack`] knows it.
pub(super) fn is_packed(octets: &[u8]) -> bool {
    is_gzip(octets) || is_zip(octets)
}

/// The files that are packed in this, as far as they can be reports. `work` grows by the octets that were unpacked.
///
/// # Errors
/// [`Unreadable`].
pub(super) fn unpack(octets: &[u8], work: &mut u64) -> Result<Vec<Vec<u8>>, Unreadable> {
    if is_gzip(octets) {
        let (mut left, mut unpacked) = (MAX_UNPACKED, Vec::new());
        read(MultiGzDecoder::new(octets), &mut left, &mut unpacked, work)?;
        return Ok(vec![unpacked]);
    }
    unzip(octets, work)
}

fn is_gzip(octets: &[u8]) -> bool {
    octets.starts_with(&[0x1f, 0x8b])
}

fn is_zip(octets: &[u8]) -> bool {
    octets.starts_with(b"PK\x03\x04") || octets.starts_with(END_OF_DIRECTORY)
}

/// The limit is for all files of an archive together.
fn unzip(octets: &[u8], work: &mut u64) -> Result<Vec<Vec<u8>>, Unreadable> {
    // Before the directory is read: it may name more files than there is memory for. Whichever end the reader takes for the
    // true one, it names few.
    let counts = memmem::find_iter(octets, END_OF_DIRECTORY).map(|at| {
        let count = octets.get(at + COUNT_AT..at + COUNT_AT + 2);
        count.map_or(0, |count| u16::from_le_bytes([count[0], count[1]]))
    });
    let counts_beyond = memmem::find(octets, END_OF_LARGE_DIRECTORY).is_some();
    if counts_beyond || counts.max().is_some_and(|most| most > MAX_ENTRIES) {
        return Err(Unreadable::ManyFiles(MAX_ENTRIES));
    }
    let packed = |error: zip::result::ZipError| Unreadable::Packed(error.to_string());
    let mut archive = ZipArchive::new(Cursor::new(octets)).map_err(packed)?;
    let (mut left, mut files) = (MAX_UNPACKED, Vec::new());
    for at in 0..archive.len() {
        let mut unpacked = Vec::new();
        read(archive.by_index(at).map_err(packed)?, &mut left, &mut unpacked, work)?;
        files.push(unpacked);
    }
    Ok(files)
}

/// Reads all of it, where it is no longer than `left`, which it takes its length from.
fn read(from: impl Read, left: &mut usize, into: &mut Vec<u8>, work: &mut u64) -> Result<(), Unreadable> {
    let result = from.take(*left as u64 + 1).read_to_end(into);
    *work += into.len() as u64;
    result.map_err(|error| Unreadable::Packed(error.to_string()))?;
    *left = left.checked_sub(into.len()).ok_or(Unreadable::Large)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// The end of a directory that names `count` files, at an offset that says that another end counts.
    fn end(count: u16) -> Vec<u8> {
        let mut end = END_OF_DIRECTORY.to_vec();
        end.extend([0; 4]);
        end.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        end.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        end
    }

    #[test]
    fn a_directory_of_many_files_is_not_read() {
        let many = unzip(&end(MAX_ENTRIES + 1), &mut 0).unwrap_err();
        assert!(matches!(many, Unreadable::ManyFiles(_)), "{many}");
        let beyond = [END_OF_LARGE_DIRECTORY, &[0; 52], &end(1)].concat();
        let beyond = unzip(&beyond, &mut 0).unwrap_err();
        assert!(matches!(beyond, Unreadable::ManyFiles(_)), "{beyond}");
    }
}
