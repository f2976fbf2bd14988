//! An identity provider: its set of keys, a token that it has signed, and others that must not be taken.

use std::sync::LazyLock;

use tempfile::TempDir;

/// What it publishes: a key of each kind.
pub const KEYS: &str = include_str!("provider/keys.json");
/// Signed by the first of them for `alice@proseware.test`, and good for a long time.
pub const VALID: &str = include_str!("provider/valid.jwt");
/// As good, for `bob@proseware.test`, whose login is locked here.
pub const LOCKED: &str = include_str!("provider/locked.jwt");

/// `[auth.oauth]` as the token wants it.
pub fn table() -> String {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("keys.json"), KEYS).expect("a file in it");
        folder
    });
    format!(
        "[auth.oauth]\nissuer = \"https://id.proseware.test/realms/mail\"\naudience = \"postern\"\njwks_file = {:?}\n",
        FOLDER.path().join("keys.json")
    )
}
