//! The real file system with a say in every call: what fails, what is recorded. Nothing is synced: these disks lose
//! power in other ways.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_queue::store::Space;
use postern_queue::store::files::{Access, Entry, Files, StoredFile, SystemFiles};

/// A call that changes something.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    Create,
    CreateDirectory,
    SyncDirectory,
    Rename(&'a Path),
    Remove,
    Write(u64, &'a [u8]),
    Sync,
    Truncate(u64),
    Allocate(u64),
}

/// Who has a say. About the index nobody is asked: sled writes its files itself.
pub trait Say: Debug + Send + Sync + 'static {
    /// Before each call that changes something; an error is what the call returns.
    fn before(&self, path: &Path, call: Call<'_>) -> io::Result<()>;

    /// Before each file of the log or of messages is opened.
    fn before_open(&self, _path: &Path, _access: Access) -> io::Result<()> {
        Ok(())
    }

    /// Before these octets of such a file are read.
    fn before_read(&self, _path: &Path, _octets: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// Told of our own calls for the index.
    fn index_call(&self, _call: &Call<'_>) {}

    /// Whether the index may be used.
    fn admits_index(&self) -> bool {
        true
    }

    /// How much is written at once.
    fn at_once(&self) -> usize {
        usize::MAX
    }

    /// Free room, if it is not that of the machine.
    fn space(&self) -> Option<Space> {
        None
    }
}

/// See the module.
#[derive(Debug)]
pub struct Disk<S>(pub Arc<S>);

#[derive(Debug)]
struct DiskFile<S> {
    say: Arc<S>,
    path: PathBuf,
    file: Arc<dyn StoredFile>,
}

fn of_index(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("index"))
}

impl<S: Say> Disk<S> {
    fn ask(&self, path: &Path, call: Call<'_>) -> io::Result<()> {
        if !of_index(path) {
            return self.0.before(path, call);
        }
        self.0.index_call(&call);
        self.admit(path)
    }

    fn admit(&self, path: &Path) -> io::Result<()> {
        let forbidden = of_index(path) && !self.0.admits_index();
        if forbidden { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }
}

impl<S: Say> Files for Disk<S> {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StoredFile>> {
        if matches!(access, Access::CreateNew | Access::Replace) {
            self.ask(path, Call::Create)?;
        }
        self.admit(path)?;
        if !of_index(path) {
            self.0.before_open(path, access)?;
        }
        let file = SystemFiles.open(path, access)?;
        Ok(Arc::new(DiskFile { say: Arc::clone(&self.0), path: path.to_owned(), file }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        SystemFiles.lock(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.ask(path, Call::CreateDirectory)?;
        SystemFiles.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.ask(path, Call::SyncDirectory)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.admit(path)?;
        SystemFiles.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(from, Call::Rename(to))?;
        SystemFiles.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemFiles.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(path, Call::Remove)?;
        SystemFiles.remove(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.0.index_call(&Call::Remove);
        self.admit(path)?;
        SystemFiles.remove_tree(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space().map_or_else(|| SystemFiles.space(path), Ok)
    }
}

impl<S: Say> DiskFile<S> {
    fn ask(&self, call: Call<'_>) -> io::Result<()> {
        if !of_index(&self.path) {
            return self.say.before(&self.path, call);
        }
        self.say.index_call(&call);
        Ok(())
    }
}

impl<S: Say> StoredFile for DiskFile<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if !of_index(&self.path) {
            self.say.before_read(&self.path, offset..offset + buffer.len() as u64)?;
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let first = slices.first().map_or(&[][..], |slice| &slice[..slice.len().min(self.say.at_once())]);
        if let Err(error) = self.ask(Call::Write(offset, first)) {
            // What fails has written something all the same.
            self.file.write_at(&[IoSlice::new(&first[..first.len() / 2])], offset)?;
            return Err(error);
        }
        self.file.write_at(&[IoSlice::new(first)], offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.ask(Call::Sync)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.ask(Call::Truncate(length))?;
        self.file.truncate(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.ask(Call::Allocate(length))?;
        self.file.allocate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

/// Has nothing to say: a disk without the waiting.
#[derive(Debug)]
pub struct Nothing;

impl Say for Nothing {
    fn before(&self, _path: &Path, _call: Call<'_>) -> io::Result<()> {
        Ok(())
    }
}
