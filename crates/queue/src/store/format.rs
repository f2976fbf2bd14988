//! The formats of a spool that there have been, and which one a directory has.
//!
//! A patch release never changes the format. A release that does adds a line to [`FORMATS`] and says there what is
//! different; the number stands in the file FORMAT, which is written before anything else.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use super::StoreError;
use super::files::{Access, Files, write_all};
use super::record;

/// A format that this release reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// Its number, the content of FORMAT.
    pub number: u32,
    /// The release that wrote it first.
    pub since: &'static str,
    /// What is in it.
    pub about: &'static str,
    /// The version of its records.
    pub records: u8,
}

/// All of them, oldest first. The last one is written.
pub const FORMATS: &[Format] = &[Format {
    number: 1,
    since: "0.1.0",
    about: "an append-only log in segments, large messages in files of their own, the index beside them",
    records: record::VERSION,
}];

/// What is longer than this is no number of a format.
const LONGEST: usize = 64;

/// The format that is written.
pub fn current() -> &'static Format {
    // There is always one.
    &FORMATS[FORMATS.len() - 1]
}

/// The formats of a table that a spool of one of them goes through to become the last one.
pub fn steps_from(table: &[Format], number: u32) -> impl Iterator<Item = &Format> {
    table.iter().filter(move |format| format.number > number)
}

/// Their numbers in words, for errors.
pub(crate) fn known() -> String {
    let numbers: Vec<String> = FORMATS.iter().map(|format| format.number.to_string()).collect();
    numbers.join(", ")
}

/// The format of the spool in a directory. `None`: there is no spool.
///
/// # Errors
/// [`StoreError::UnknownFormat`]; [`StoreError::Io`].
pub fn read(files: &dyn Files, root: &Path) -> Result<Option<&'static Format>, StoreError> {
    let path = root.join("FORMAT");
    let failed = |e| StoreError::io("reading", &path, e);
    let file = match files.open(&path, Access::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut octets = [0; LONGEST];
    let read = file.read_at(&mut octets, 0).map_err(failed)?;
    let text = String::from_utf8_lossy(&octets[..read]);
    let found = FORMATS.iter().find(|format| text == content(format));
    found.map(Some).ok_or_else(|| StoreError::UnknownFormat(text.trim().to_owned()))
}

/// Says that the spool in a directory has the current format. Durable when it returns.
///
/// # Errors
/// The system's.
pub(super) fn write(files: &dyn Files, root: &Path) -> std::io::Result<()> {
    // Under another name first: half a format would be an unknown one.
    let unfinished = root.join("FORMAT.new");
    let file = files.open(&unfinished, Access::Replace)?;
    write_all(&*file, &mut [IoSlice::new(content(current()).as_bytes())], 0)?;
    file.sync()?;
    files.rename(&unfinished, &root.join("FORMAT"))?;
    files.sync_directory(root)
}

fn content(format: &Format) -> String {
    format!("{}\n", format.number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::store::files::SystemFiles;

    #[test]
    fn formats_are_in_order_and_the_current_one_is_read_back() {
        assert!(FORMATS.is_sorted_by(|a, b| a.number < b.number));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(&SystemFiles, directory.path()).unwrap(), None);
        write(&SystemFiles, directory.path()).unwrap();
        assert_eq!(read(&SystemFiles, directory.path()).unwrap(), Some(current()));
        assert!(!directory.path().join("FORMAT.new").exists());
    }

    #[test]
    fn an_older_spool_goes_through_all_formats_behind_its_own() {
        let format = |number| Format { number, since: "", about: "", records: 1 };
        let table = [format(1), format(2), format(5)];
        let steps = |from| steps_from(&table, from).map(|format| format.number).collect::<Vec<_>>();
        assert_eq!((steps(1), steps(2), steps(5)), (vec![2, 5], vec![5], vec![]));
        assert_eq!(steps_from(FORMATS, current().number).count(), 0);
    }

    #[test]
    fn a_newer_format_is_refused_with_what_is_known_here() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["7\n", "1", "", "1\n\n", "one\n", "\u{1}\u{2}"] {
            std::fs::write(directory.path().join("FORMAT"), text).unwrap();
            let error = read(&SystemFiles, directory.path()).unwrap_err();
            assert!(matches!(error, StoreError::UnknownFormat(_)), "{text:?}");
            assert!(error.to_string().contains(&known()), "{error}");
        }
    }
}
