//! Configuration files: they load, or there is a list of what is wrong with them.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Place {
    _folder: TempDir,
    file: PathBuf,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("postern.toml");
    std::fs::write(folder.path().join("accounts.toml"), "").expect("a file in it");
    Place { _folder: folder, file }
});

fuzz_target!(|text: &[u8]| {
    std::fs::write(&PLACE.file, text).expect("the file is written");
    match postern_config::load(&PLACE.file) {
        Ok(loaded) => assert!(!loaded.config.listeners.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
