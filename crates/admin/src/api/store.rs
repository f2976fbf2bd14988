//! What is asked of the spool. Long work answers line by line: [`Event`]s in their versioned envelope, the last one with
//! the result; empty lines between them only say that the daemon is still at work.

use serde::{Deserialize, Serialize};

pub use postern_queue::store::backup::BackedUp;
pub use postern_queue::store::check::{Checked, Finding, Subject};
pub use postern_queue::store::fix::{Fix, Fixed, MAX_FIXES};
pub use postern_queue::store::status::{
    DamageStatus, IndexStatus, LargeStatus, LogStatus, Status, WrittenStatus,
};
pub use postern_queue::store::{Compacted, Usage};
pub use postern_queue::upkeep::{KeptMessage, KeptView};

use super::Problem;

/// A line of the answer to long work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<A> {
    /// How far it is.
    Progress(Progress),
    /// Something that is wrong, or worth knowing.
    Finding(Finding),
    /// It is done: the last line.
    Done(A),
    /// It was not done: the last line.
    Failed(Problem),
}

/// How far work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `messages`, `log`, `large files`, `index`, `segments`.
    pub stage: String,
    /// Pieces done.
    pub done: u64,
    /// Pieces in all; 0: nobody knows.
    pub of: u64,
}

/// `POST /v1/store/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckRequest {
    /// Whether the whole log is read, with what counts for nothing any more.
    pub full: bool,
    /// Octets a second that are read at most.
    pub rate: Option<u64>,
}

/// `POST /v1/store/fix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixRequest {
    /// What is to be done: fixes of findings, at most [`MAX_FIXES`]. Each looks again whether it still holds.
    pub fixes: Vec<Fix>,
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// `POST /v1/store/rebuild`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebuildRequest {
    /// Whether the answer comes at once, and not when the index is complete.
    pub no_wait: bool,
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// The answer to [`RebuildRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Rows of the index; none if nobody waited for them.
    pub rows: Option<u64>,
}

/// `POST /v1/store/compact`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactRequest {
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// `POST /v1/store/backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The whole path of the directory, which is empty or not there.
    pub directory: String,
    /// Whether everything is copied, also where it could share its content with the spool.
    #[serde(default)]
    pub copy: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to `GET /v1/store/quarantine`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What was set aside, by name.
    pub pieces: Vec<KeptView>,
}

/// `POST /v1/store/quarantine/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreRequest {
    /// The queue id that the message had.
    pub id: String,
    /// MAIL FROM, where its envelope cannot be read; left out or empty: the null sender. Counts only with recipients.
    pub sender: Option<String>,
    /// RCPT TO; they replace those of the envelope.
    pub recipients: Vec<String>,
    /// Whether one that was put back before is put back once more.
    pub again: bool,
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// The answer to [`RestoreRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The queue id that the message has now. It is held.
    pub id: String,
    /// The one it had.
    pub was: String,
}

/// `POST /v1/store/quarantine/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveRequest {
    /// What to remove.
    pub names: Vec<String>,
    /// Everything.
    pub all: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Why, for the audit log.
    pub reason: Option<String>,
}

/// The answer to [`RemoveRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Whether nothing was removed because `dry_run` was asked.
    pub dry_run: bool,
    /// How many were meant.
    pub matched: usize,
    /// What is gone.
    pub removed: Vec<String>,
    /// What is not, with the reason.
    pub skipped: Vec<(String, String)>,
}
