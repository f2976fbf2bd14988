//! What must outlive a restart beside the configuration: small files in `policy/` of the spool directory.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::path::Path;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

/// One of them, with this content. Its methods wait for the disk.
#[derive(Debug)]
pub struct StateFile<T> {
    file: postern_runtime::StateFile,
    /// A hash of what was written last: what has not changed is not written again.
    written: Mutex<Option<u64>>,
    content: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned + Default> StateFile<T> {
    /// The file of this name, such as `bans.json`, in the spool directory.
    pub fn new(spool: &Path, name: &str) -> Self {
        let file = postern_runtime::StateFile::new(spool, name);
        Self { file, written: Mutex::default(), content: PhantomData }
    }

    /// What it holds; nothing, where there is none. A file that cannot be understood is set aside with a warning: it must not
    /// keep the server from starting.
    pub fn read(&self) -> T {
        let problem = match fs::read(self.file.path()) {
            Ok(octets) => match serde_json::from_slice::<Versioned<T>>(&octets) {
                Ok(found) if found.version == VERSION => return found.content,
                Ok(found) => format!("it is of version {}, not {VERSION}", found.version),
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => return T::default(),
            Err(error) => error.to_string(),
        };
        self.set_aside(&problem);
        T::default()
    }

    /// Replaces it in one step.
    ///
    /// # Errors
    /// Those of the system; the old file stays then.
    pub fn write(&self, content: T) -> io::Result<()> {
        let text = serde_json::to_vec(&Versioned { version: VERSION, content })?;
        let mut written = self.written.lock();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = Some(hasher.finish());
        if *written == hash {
            return Ok(());
        }
        self.file.replace(&text)?;
        *written = hash;
        Ok(())
    }

    /// The same, where a failure is no reason to stop: what is in memory still counts.
    pub fn write_or_warn(&self, content: T) {
        if let Err(error) = self.write(content) {
            let path = self.file.path().display();
            tracing::error!(event = "state-not-written", %path, %error, "what it should hold is in memory only");
        }
    }

    fn set_aside(&self, problem: &str) {
        let aside = self.file.set_aside();
        tracing::warn!(
            event = "state-damaged",
            path = %self.file.path().display(),
            set_aside = aside.ok().map(|aside| aside.display().to_string()),
            "it cannot be read and counts as empty: {problem}"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Content {
        names: Vec<String>,
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::<Content>::new(folder.path(), "names.json");
        assert_eq!(file.read(), Content::default());
        for name in ["alice", "bob"] {
            file.write(Content { names: vec![name.to_owned()] }).unwrap();
            assert_eq!(file.read().names, [name]);
        }
        fs::remove_file(file.file.path()).unwrap();
        file.write(Content { names: vec!["bob".to_owned()] }).unwrap();
        assert!(!file.file.path().exists(), "what has not changed is not written again");
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::<Content>::new(folder.path(), "names.json");
        for damage in ["{", "", "[]", "{\"version\":99,\"names\":[]}", "{\"version\":1,\"names\":7}"] {
            fs::create_dir_all(folder.path().join("policy")).unwrap();
            fs::write(file.file.path(), damage).unwrap();
            assert_eq!(file.read(), Content::default(), "{damage}");
            assert!(!file.file.path().exists(), "{damage}");
        }
        assert!(fs::read_dir(folder.path().join("policy")).unwrap().count() >= 1);
    }
}
