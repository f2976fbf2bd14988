//! A tar archive (POSIX ustar) of files that are in memory.

/// Octets of a header, and of what everything is filled up to.
const BLOCK: usize = 512;
/// Octets of a name in a header.
const MAX_NAME: usize = 100;

/// The archive, with every file readable by its owner alone. Names that are too long are cut; sizes are far below what a
/// header can say.
pub(super) fn archive<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>, time: u64) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend_from_slice(&header(name, content.len(), time));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks are the end.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, size: usize, time: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        let room = &mut header[at..];
        room.iter_mut().zip(text.bytes()).for_each(|(octet, new)| *octet = new);
    };
    let end = (0..=name.len().min(MAX_NAME)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    put(0, &name[..end]);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{time:011o}\0"));
    // The sum is made with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|octet| u32::from(*octet)).sum();
    let sum = format!("{sum:06o}\0 ");
    header[148..156].copy_from_slice(sum.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::process::Command;

    use super::*;

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let long = vec![b'x'; 1500];
        let files: [(&str, &[u8]); 3] =
            [("case/a.txt", b"hello\n"), ("case/empty", b""), ("case/long", &long)];
        std::fs::write(&path, archive(files, 1_795_284_325)).unwrap();
        let status = Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
        assert!(status.success());
        for (name, content) in files {
            assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), content, "{name}");
        }
    }

    #[test]
    fn names_that_are_too_long_are_cut_between_characters() {
        let name = "é".repeat(80);
        let archive = archive([(name.as_str(), &b"x"[..])], 0);
        assert_eq!(std::str::from_utf8(&archive[..100]).unwrap(), "é".repeat(50));
        assert_eq!(archive.len(), 4 * BLOCK);
    }
}
