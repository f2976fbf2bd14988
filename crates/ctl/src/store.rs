//! `store`: the spool itself. Is it whole, how much room could it give back, a copy of it. A file for each verb:
//!
//! | file | what |
//! |---|---|
//! | `status.rs`, `check.rs`, `rebuild.rs`, `compact.rs`, `backup.rs`, `migrate.rs` | the verbs |
//! | `fix.rs` | what `check --fix` adds |
//! | `quarantine.rs` | the verbs of what was set aside |
//! | `place.rs` | the spool of the daemon, or a directory that is worked on without it |
//! | `work.rs` | long work, asked of the daemon or done here, and what it tells |

mod backup;
mod check;
mod compact;
mod fix;
mod migrate;
mod place;
pub mod quarantine;
mod rebuild;
mod status;
mod work;

use clap::{Args, Subcommand};

use crate::failure::{Exit, Failure};
use crate::{Session, output};

pub use backup::BackupOptions;
pub use check::CheckOptions;
pub use migrate::MigrateOptions;
pub use place::Place;
pub use rebuild::RebuildOptions;

/// What can be done with the spool.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show what the spool holds, what it could give back, and how its index is.
    Status,
    /// Read everything that counts and say what is wrong, where, and what to do; mend what can be mended without losing
    /// anything. Ends with 0 or 1.
    #[command(after_help = check::CHECK_EXAMPLES)]
    Check(CheckOptions),
    /// Write the index anew from the log while mail flows.
    Rebuild(RebuildOptions),
    /// Give room back now, whatever the thresholds say.
    Compact(Reason),
    /// Copy the spool of a running daemon into a new directory, or check such a copy.
    #[command(after_help = backup::BACKUP_EXAMPLES)]
    Backup(BackupOptions),
    /// See and settle what was set aside because it could not be read.
    #[command(subcommand)]
    Quarantine(quarantine::Verb),
    /// Bring the spool to the format of this release.
    Migrate(MigrateOptions),
}

/// Why something is done.
#[derive(Debug, Args)]
pub struct Reason {
    /// Why: it stands in the audit log.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self {
            Self::Status => status::status(session).await,
            Self::Check(options) => check::check(session, &options).await,
            Self::Rebuild(options) => rebuild::rebuild(session, options).await,
            Self::Compact(options) => compact::compact(session, options).await,
            Self::Backup(options) if options.verify => backup::verify(session, &options.directory),
            Self::Backup(options) => backup::backup(session, options).await,
            Self::Quarantine(verb) => verb.run(session).await,
            Self::Migrate(options) => migrate::migrate(session, &options).await,
        }
    }
}

fn counted(number: u64, noun: &str) -> String {
    output::counted(usize::try_from(number).unwrap_or(usize::MAX), noun)
}
