//! The files of the journal: `00000042-2026-11-21.jsonl`, a number that only grows and the day, in UTC, of all its lines.
//!
//! A file ends with its day or when it is a sixteenth of the whole journal, and files are removed whole: the oldest when
//! there is no room for another, and those whose day is too long ago. A restart goes on with the last file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memchr::{memchr_iter, memrchr};
use postern_smtp::date::rfc3339;
use tracing::warn;

/// The whole journal is so many files at most: what is removed at once is a small part of it.
const FILES: u64 = 16;
/// A file is no larger than this, however large the journal may be: a search holds pieces of it, and an editor opens it.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Octets of all files.
    pub(super) max_size: u64,
    /// Since the end of a file's day.
    pub(super) max_age: Duration,
    /// On the filesystem of the spool the journal does not grow below so many free octets: they are for mail.
    pub(super) min_free: u64,
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    number: u64,
    /// `2026-11-21`.
    pub(super) day: String,
    pub(super) path: PathBuf,
    len: u64,
}

/// The journal could not be written.
#[derive(Debug)]
pub(super) struct Failed {
    /// Lines that are not in it.
    pub(super) lost: u64,
    pub(super) source: io::Error,
}

/// All files, and the one that is written.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    spool: PathBuf,
    limits: Limits,
    /// Oldest first, the current one included. `None`: not looked at yet.
    kept: Option<Vec<Kept>>,
    /// The last of them, open for writing.
    current: Option<File>,
}

impl Files {
    pub(super) fn new(folder: PathBuf, spool: PathBuf, limits: Limits) -> Self {
        Self { folder, spool, limits, kept: None, current: None }
    }

    /// Octets of all files.
    pub(super) fn octets(&self) -> u64 {
        self.kept.iter().flatten().map(|kept| kept.len).sum()
    }

    /// Appends whole lines. After an error the next call begins as if nothing had been: a folder that is there again, or a
    /// disk with room, needs no restart.
    pub(super) fn write(&mut self, lines: &[u8], now: SystemTime) -> Result<(), Failed> {
        let mut rest = lines;
        while !rest.is_empty() {
            let written = self.write_some(rest, now).map_err(|source| {
                self.current = None;
                Failed { lost: memchr_iter(b'\n', rest).count() as u64, source }
            })?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// Removes what is too old, also when nothing is written.
    pub(super) fn tidy(&mut self, now: SystemTime) {
        let result = self.look().and_then(|()| {
            let day = day_of(now);
            if self.last().is_some_and(|last| last.day != day) {
                self.current = None;
            }
            self.remove_old(now)
        });
        if let Err(error) = result {
            warn!(event = "history-tidy", folder = %self.folder.display(), %error);
        }
    }

    /// Appends as many lines as the current file takes, one at least.
    fn write_some(&mut self, lines: &[u8], now: SystemTime) -> io::Result<usize> {
        // Somebody removed or replaced it: what is written there would be gone.
        if self.current.as_ref().is_some_and(|file| file.metadata().is_ok_and(|found| found.nlink() == 0)) {
            (self.current, self.kept) = (None, None);
        }
        self.look()?;
        self.check_room()?;
        let day = day_of(now);
        let max_file = (self.limits.max_size / FILES).min(MAX_FILE);
        let is_usable = |last: &Kept| last.day == day && last.len < max_file;
        if !self.last().is_some_and(is_usable) {
            self.begin(day, max_file, now)?;
        }
        let len = self.last().map_or(0, |last| last.len);
        let room = usize::try_from(max_file.saturating_sub(len)).unwrap_or(usize::MAX);
        let piece = &lines[..whole_lines(lines, room)];
        let file = self.open()?;
        let result = file.write_all(piece);
        let end = file.stream_position();
        if let Some(last) = self.kept.as_mut().and_then(|kept| kept.last_mut()) {
            last.len = end.unwrap_or(last.len + piece.len() as u64);
        }
        result.map(|()| piece.len())
    }

    /// Finds the files that are there.
    fn look(&mut self) -> io::Result<()> {
        if self.kept.is_none() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            self.kept = Some(list(&self.folder)?);
            self.make_room(0)?;
        }
        Ok(())
    }

    fn last(&self) -> Option<&Kept> {
        self.kept.as_ref().and_then(|kept| kept.last())
    }

    fn check_room(&self) -> io::Result<()> {
        let here = fs::metadata(&self.folder)?.dev();
        if fs::metadata(&self.spool).is_ok_and(|spool| spool.dev() != here) {
            return Ok(());
        }
        let found = rustix::fs::statvfs(&self.folder)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < self.limits.min_free {
            let text =
                format!("{free} octets are free, fewer than the {} kept for mail", self.limits.min_free);
            return Err(io::Error::new(ErrorKind::StorageFull, text));
        }
        Ok(())
    }

    /// Makes room for another file and begins it.
    fn begin(&mut self, day: String, max_file: u64, now: SystemTime) -> io::Result<()> {
        self.current = None;
        self.remove_old(now)?;
        self.make_room(max_file)?;
        let number = self.last().map_or(1, |last| last.number + 1);
        let path = self.folder.join(format!("{number:08}-{day}.jsonl"));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        self.kept.get_or_insert_default().push(Kept { number, day, path, len: 0 });
        self.current = Some(file);
        Ok(())
    }

    /// The current file; after a start, or an error, the last one, with an end of line behind half a line.
    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.current.take() {
            Some(file) => file,
            None => {
                let path = self.last().map(|last| last.path.clone()).ok_or(ErrorKind::NotFound)?;
                let mut file =
                    OpenOptions::new().read(true).append(true).mode(0o600).create(true).open(path)?;
                if !ends_with_newline(&mut file)? {
                    file.write_all(b"\n")?;
                }
                file
            }
        };
        Ok(self.current.insert(file))
    }

    /// Removes the oldest files until so many octets fit beside the others.
    fn make_room(&mut self, octets: u64) -> io::Result<()> {
        while self.octets() + octets > self.limits.max_size && self.last().is_some() {
            self.remove_first()?;
        }
        Ok(())
    }

    fn remove_old(&mut self, now: SystemTime) -> io::Result<()> {
        // The end of a day is a day after its beginning.
        let reach = self.limits.max_age.saturating_add(Duration::from_secs(86_400));
        let Some(newest) = now.checked_sub(reach).map(day_of) else {
            return Ok(());
        };
        while self.kept.iter().flatten().next().is_some_and(|first| first.day <= newest) {
            self.remove_first()?;
        }
        Ok(())
    }

    fn remove_first(&mut self) -> io::Result<()> {
        let Some(kept) = self.kept.as_mut().filter(|kept| !kept.is_empty()) else {
            return Ok(());
        };
        if kept.len() == 1 {
            self.current = None;
        }
        match fs::remove_file(&kept[0].path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => {
                kept.remove(0);
                Ok(())
            }
        }
    }
}

/// The files in a folder, oldest first; others are left alone. None if the folder is not there.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.split_once('-'));
        let Some((number, day)) = parts.and_then(|(number, day)| Some((number.parse().ok()?, day))) else {
            continue;
        };
        let len = entry.metadata().map_or(0, |found| found.len());
        files.push(Kept { number, day: day.to_owned(), path: entry.path(), len });
    }
    files.sort_by_key(|file| file.number);
    Ok(files)
}

/// The day of a time in UTC: days compare as texts.
pub(super) fn day_of(time: SystemTime) -> String {
    rfc3339(time).chars().take("2026-11-21".len()).collect()
}

/// The length of as many whole lines as fit, one at least.
fn whole_lines(lines: &[u8], room: usize) -> usize {
    let fitting = &lines[..room.min(lines.len())];
    let end = memrchr(b'\n', fitting).or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines.len(), |end| end + 1)
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last[0] == b'\n')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const LIMITS: Limits = Limits { max_size: 16_000, max_age: DAY.saturating_mul(3), min_free: 0 };

    /// 21 November 2026, shortly after six in the evening.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325)
    }

    fn files(folder: &Path, limits: Limits) -> Files {
        Files::new(folder.to_owned(), folder.to_owned(), limits)
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = list(folder).unwrap();
        files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn text(folder: &Path) -> String {
        list(folder).unwrap().iter().map(|file| fs::read_to_string(&file.path).unwrap()).collect()
    }

    #[test]
    fn files_end_with_their_size_and_their_day() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = files(&folder.path().join("history"), LIMITS);
        let lines = format!("{}\n", "x".repeat(99)).repeat(15);
        journal.write(lines.as_bytes(), now()).unwrap();
        journal.write(b"tomorrow\n", now() + DAY).unwrap();
        let expected =
            ["00000001-2026-11-21.jsonl", "00000002-2026-11-21.jsonl", "00000003-2026-11-22.jsonl"];
        assert_eq!(names(&journal.folder), expected);
        assert_eq!(
            list(&journal.folder).unwrap().iter().map(|file| file.len).collect::<Vec<_>>(),
            [1000, 500, 9]
        );
        assert_eq!(journal.octets(), 1509);
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&journal.folder), mode(&journal.last().unwrap().path)), (0o700, 0o600));
    }

    #[test]
    fn the_oldest_files_make_room_and_the_whole_never_exceeds_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = files(folder.path(), LIMITS);
        for number in 0..500 {
            journal.write(format!("{number:03} {}\n", "x".repeat(95)).as_bytes(), now()).unwrap();
            assert!(journal.octets() <= LIMITS.max_size);
        }
        assert!(journal.octets() > LIMITS.max_size - 2 * LIMITS.max_size / FILES);
        let kept = text(folder.path());
        assert!(!kept.contains("000 x") && kept.contains("499 x") && names(folder.path()).len() <= 16);
    }

    #[test]
    fn files_of_a_day_too_long_ago_are_removed_also_when_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = files(folder.path(), LIMITS);
        journal.write(b"one\n", now()).unwrap();
        journal.write(b"two\n", now() + DAY).unwrap();
        // Three days after the end of the first day, and not before.
        journal.tidy(now() + 3 * DAY);
        assert_eq!(names(folder.path()).len(), 2);
        journal.tidy(now() + 4 * DAY);
        assert_eq!(names(folder.path()), ["00000002-2026-11-22.jsonl"]);
        journal.tidy(now() + 6 * DAY);
        assert_eq!(names(folder.path()), [""; 0]);
        journal.write(b"three\n", now() + 6 * DAY).unwrap();
        assert_eq!(text(folder.path()), "three\n");
    }

    #[test]
    fn a_restart_goes_on_with_the_last_file_behind_half_a_line() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        files(folder.path(), LIMITS).write(b"one\n", now()).unwrap();
        files(folder.path(), LIMITS).write(b"two\n", now()).unwrap();
        let file = &list(folder.path()).unwrap()[0].path;
        fs::write(file, "one\ntwo\n{\"id\":\"01N2").unwrap();
        files(folder.path(), LIMITS).write(b"three\n", now()).unwrap();
        assert_eq!(text(folder.path()), "one\ntwo\n{\"id\":\"01N2\nthree\n");
        assert_eq!(names(folder.path()), ["00000001-2026-11-21.jsonl"]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_lines_are() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("history");
        fs::write(&place, "in the way").unwrap();
        let mut journal = files(&place, LIMITS);
        assert_eq!(journal.write(b"one\ntwo\n", now()).unwrap_err().lost, 2);
        fs::remove_file(&place).unwrap();
        journal.write(b"three\n", now()).unwrap();
        assert_eq!(text(&place), "three\n");
        let mut poor = files(&place, Limits { min_free: u64::MAX, ..LIMITS });
        let failed = poor.write(b"four\n", now()).unwrap_err();
        assert_eq!((failed.lost, failed.source.kind()), (1, ErrorKind::StorageFull));
    }

    #[test]
    fn a_file_that_somebody_removed_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = files(folder.path(), LIMITS);
        journal.write(b"one\n", now()).unwrap();
        fs::remove_file(&list(folder.path()).unwrap()[0].path).unwrap();
        journal.write(b"two\n", now()).unwrap();
        assert_eq!(text(folder.path()), "two\n");
    }

    #[test]
    fn a_smaller_limit_counts_from_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = files(folder.path(), LIMITS);
        journal.write(format!("{}\n", "x".repeat(99)).repeat(100).as_bytes(), now()).unwrap();
        let small = Limits { max_size: 4000, ..LIMITS };
        let mut journal = files(folder.path(), small);
        journal.write(b"last\n", now()).unwrap();
        assert!(journal.octets() <= 4000 && text(folder.path()).ends_with("last\n"));
    }
}
