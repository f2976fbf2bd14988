//! The files in which reports stand.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use super::MAX_FILE;

/// Files of all places that are looked at, to find the newest.
const MOST_SEEN: usize = 100_000;

/// The files of all places.
#[derive(Debug, Default)]
pub(super) struct Found {
    files: Vec<(SystemTime, PathBuf)>,
    more: u64,
}

impl Found {
    /// Looks into a place: the messages of a Maildir, the files of another folder, or a file itself. What has not changed since
    /// `oldest` is left out; so are links and folders below, as nobody knows where they lead.
    ///
    /// # Errors
    /// Those of the system.
    pub fn look_into(&mut self, place: &Path, oldest: SystemTime) -> io::Result<()> {
        let metadata = fs::metadata(place)?;
        if metadata.is_file() {
            // The place that is configured may be a link.
            self.add(fs::canonicalize(place)?, &metadata, oldest);
            return Ok(());
        }
        let (new, current) = (place.join("new"), place.join("cur"));
        if new.is_dir() && current.is_dir() {
            self.look_through(&new, oldest)?;
            return self.look_through(&current, oldest);
        }
        self.look_through(place, oldest)
    }

    /// The newest files, so many at most, and how many others there are.
    pub fn newest(mut self, most: usize) -> (Vec<PathBuf>, u64) {
        self.files.sort_unstable_by(|a, b| b.cmp(a));
        self.files.dedup_by(|a, b| a.1 == b.1);
        let left_off = self.more + self.files.len().saturating_sub(most) as u64;
        (self.files.into_iter().take(most).map(|(_, path)| path).collect(), left_off)
    }

    fn look_through(&mut self, folder: &Path, oldest: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match file(&entry) {
                Ok(Some(metadata)) => self.add(entry.path(), &metadata, oldest),
                Ok(None) => {}
                // Another program has moved it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, metadata: &Metadata, oldest: SystemTime) {
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if modified < oldest {
            return;
        }
        match self.files.len() < MOST_SEEN {
            true => self.files.push((modified, path)),
            false => self.more += 1,
        }
    }
}

/// An entry that is a file. Reading anything else could wait for ever.
fn file(entry: &DirEntry) -> io::Result<Option<Metadata>> {
    let metadata = entry.metadata()?;
    Ok(metadata.is_file().then_some(metadata))
}

/// Opens a file, and nothing else that may stand in its place by now: a link leads anywhere, a pipe waits for ever.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file any more")),
    }
}

/// What is in a file; `None`: it is no longer there.
///
/// # Errors
/// Those of the system, and for a file that is larger than any report.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut octets = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MAX_FILE {
        let text = format!("it is larger than {} MiB, as no report is", MAX_FILE / 1024 / 1024);
        return Err(io::Error::other(text));
    }
    Ok(Some(octets))
}
