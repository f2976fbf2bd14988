//! Small files of state that outlives a restart, each replaced as a whole: after a crash a file is the old one or the new one.
//!
//! They stand under `<queue.path>/policy/`. One that cannot be read is set aside with a warning: what it held is forgotten, and
//! nothing is kept from starting.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this release writes and reads.
const VERSION: u32 = 1;
/// A longer file is not one of ours.
const MAX_OCTETS: u64 = 64 * 1024 * 1024;

/// One file.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

/// What stands in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    version: u32,
    state: T,
}

impl StateFile {
    /// The file of this name, such as `grants.json`, below the spool directory. Nothing is read or made yet.
    pub fn new(spool: &Path, name: &str) -> Self {
        Self { path: spool.join("policy").join(name) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds. `None`: there is no such file, or it could not be read and was set aside. Blocking.
    pub fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let error = match self.read() {
            Ok(state) => return Some(state),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => error,
        };
        match self.set_aside() {
            Ok(aside) => tracing::warn!(
                event = "state-damaged",
                path = %self.path.display(),
                aside = %aside.display(),
                %error,
                "what this file held is forgotten; it was set aside"
            ),
            Err(moving) => tracing::warn!(
                event = "state-damaged",
                path = %self.path.display(),
                %error,
                "what this file held is forgotten; it cannot be set aside ({moving}), and will be written over"
            ),
        }
        None
    }

    fn read<T: DeserializeOwned>(&self) -> io::Result<T> {
        let mut text = Vec::new();
        File::open(&self.path)?.take(MAX_OCTETS).read_to_end(&mut text)?;
        let document: Document<T> = serde_json::from_slice(&text)?;
        if document.version != VERSION {
            let error = format!("version {} is not known here, only {VERSION}", document.version);
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(document.state)
    }

    /// Replaces what it holds; it is durable when this returns. One at a time: whoever saves sees to that. Blocking.
    ///
    /// # Errors
    /// The system's; the file is as it was then.
    pub fn save(&self, state: &impl Serialize) -> io::Result<()> {
        self.replace(&serde_json::to_vec_pretty(&Document { version: VERSION, state })?)
    }

    /// The same for a text that the caller writes and reads by itself.
    ///
    /// # Errors
    /// The system's; the file is as it was then.
    pub fn replace(&self, text: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = self.path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Gives the file another name, with the time in it, and answers it.
    ///
    /// # Errors
    /// The system's; the file is as it was then.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let aside = self.path.with_extension(format!("json.damaged-{now}"));
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let spool = tempfile::tempdir().unwrap();
        let file = StateFile::new(spool.path(), "numbers.json");
        assert_eq!(file.load::<Vec<u32>>(), None);
        file.save(&[1, 2]).unwrap();
        file.save(&[3]).unwrap();
        assert_eq!(file.load(), Some(vec![3]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(&spool.path().join("policy"))), (0o600, 0o700));
        assert_eq!(fs::read_dir(spool.path().join("policy")).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_forgotten() {
        for damage in ["", "{", "[3]", r#"{"version":1,"state":"three"}"#, r#"{"version":2,"state":[3]}"#] {
            let spool = tempfile::tempdir().unwrap();
            let file = StateFile::new(spool.path(), "numbers.json");
            file.save(&[3]).unwrap();
            fs::write(file.path(), damage).unwrap();
            assert_eq!(file.load::<Vec<u32>>(), None, "{damage}");
            assert!(!file.path().exists(), "{damage}");
            let entry = fs::read_dir(spool.path().join("policy")).unwrap().next().unwrap().unwrap();
            assert!(entry.file_name().to_string_lossy().starts_with("numbers.json.damaged-"));
            assert_eq!(fs::read_to_string(entry.path()).unwrap(), damage);
            file.save(&[4]).unwrap();
            assert_eq!(file.load(), Some(vec![4]));
        }
    }

    #[test]
    fn what_cannot_be_saved_leaves_the_file_as_it_was() {
        let spool = tempfile::tempdir().unwrap();
        let file = StateFile::new(spool.path(), "numbers.json");
        file.save(&[3]).unwrap();
        fs::create_dir(file.path().with_extension("json.new")).unwrap();
        assert!(file.save(&[4]).is_err());
        assert_eq!(file.load(), Some(vec![3]));
    }
}
