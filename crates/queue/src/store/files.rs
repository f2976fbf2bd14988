//! Every file call of the spool (the index apart: sled opens its own files). One place, so that tests can put disks
//! that fail, fill up or lose power under the store.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Space;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To change it; it must exist.
    Write,
    /// To write it; it must not exist.
    CreateNew,
    /// To write it, empty, whether or not it existed.
    Replace,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name. Names that are not UTF-8 are none of ours and are left out.
    pub name: String,
    /// Length in octets.
    pub length: u64,
    /// Whether it is an ordinary file.
    pub is_file: bool,
    /// When its content was last changed, if the system knows.
    pub modified: Option<SystemTime>,
}

/// A file system.
pub trait Files: Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StoredFile>>;

    /// Opens a file and locks it against other processes. `None`: another process holds it.
    ///
    /// # Errors
    /// The system's.
    fn lock(&self, path: &Path) -> io::Result<Option<File>>;

    /// Makes a directory and those above it, readable by the owner only, and their names durable; one that exists is fine.
    ///
    /// # Errors
    /// The system's.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// What is in a directory, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Renames a file or directory.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name (a hard link) on the same file system.
    ///
    /// # Errors
    /// The system's; `Unsupported` where there are none.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it, or a file; one that is not there is fine.
    ///
    /// # Errors
    /// The system's.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;

    /// Free room.
    ///
    /// # Errors
    /// The system's.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file. All positions are explicit, so that readers share it.
pub trait StoredFile: Debug + Send + Sync {
    /// Reads at an offset; fewer octets than asked for only at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset; may write fewer octets than given.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes the content durable, and what is needed to find it (`fdatasync`).
    ///
    /// # Errors
    /// The system's. What was written before is then in doubt, also after a later success.
    fn sync(&self) -> io::Result<()>;

    /// Sets the length.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Reserves room up to a length. A file system that cannot is no error.
    ///
    /// # Errors
    /// The system's.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Length in octets.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;
}

/// Fills the buffer from `offset`; an end of the file before that is an error.
///
/// # Errors
/// The system's, or `UnexpectedEof`.
pub fn read_exact(file: &dyn StoredFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buffer, offset)? {
        read if read == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes everything at `offset`, however many calls it takes.
///
/// # Errors
/// The system's, or `WriteZero`.
pub fn write_all(file: &dyn StoredFile, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    /// The most slices that one call takes (IOV_MAX).
    const SLICES: usize = 1024;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let written = file.write_at(&slices[..slices.len().min(SLICES)], offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// Whether an error says that the medium or the file system on it is damaged, and not that a right or something else is
/// wanting, which somebody can set right.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG))
}

/// Whether an error says no more than that there are too many open files or too little memory at this moment.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && matches!(path.try_exists(), Ok(false))
}

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StoredFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match access {
            Access::Read => &mut options,
            Access::Write => options.write(true),
            Access::CreateNew => options.write(true).create_new(true),
            Access::Replace => options.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| is_missing(path)).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        for parent in missing.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            match self.sync_directory(parent) {
                // One that may be written and not read: then its name becomes durable when the system likes.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let Ok(name) = entry.file_name().into_string() {
                let (length, is_file) = (metadata.len(), metadata.is_file());
                entries.push(Entry { name, length, is_file, modified: metadata.modified().ok() });
            }
        }
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        // Some file systems (btrfs) have no fixed number of inodes and say 0 of 0: there is no limit then.
        let inodes = if found.f_files == 0 { u64::MAX } else { found.f_favail };
        Ok(Space { free: found.f_bavail.saturating_mul(found.f_frsize), inodes })
    }
}

#[derive(Debug)]
struct SystemFile(File);

impl StoredFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pwritev(&self.0, slices, offset) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn directories_are_made_with_those_above_them_and_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        for _ in 0..2 {
            SystemFiles.create_directory(&path).unwrap();
            assert!(path.is_dir());
        }
        assert!(!is_missing(&path) && is_missing(&path.join("d")) && !is_missing(Path::new("")));
    }
}
