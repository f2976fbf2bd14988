//! Where the spool is: that of the daemon, or a directory that is worked on while no daemon uses it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use postern_queue::store::StoreError;

use crate::failure::Failure;
use crate::{Session, config};

/// Where the spool is, for work without the daemon.
#[derive(Debug, Args)]
pub struct Place {
    /// Work on the directory itself, with the daemon stopped.
    #[arg(long)]
    offline: bool,
    /// The spool directory, if another than the configuration names; needs --offline.
    #[arg(long, value_name = "DIR", requires = "offline")]
    spool: Option<PathBuf>,
}

impl Place {
    /// The spool to work on without the daemon, if that is wanted. As root this becomes the user it belongs to: what is
    /// written must be the daemon's.
    pub(super) fn offline(&self, session: &Session) -> Result<Option<postern_config::Queue>, Failure> {
        if !self.offline {
            return Ok(None);
        }
        let queue = match &self.spool {
            None => config::load(&session.global.config)?.config.queue,
            Some(path) => {
                // The tuning of the server it belongs to, if that is this one.
                let configured =
                    postern_config::load(&session.global.config).map(|loaded| loaded.config.queue);
                postern_config::Queue { path: path.clone(), ..configured.unwrap_or_default() }
            }
        };
        become_owner(&queue.path)?;
        Ok(Some(queue))
    }
}

/// Becomes the owner of a directory, for the rest of this process.
fn become_owner(path: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(path).with_context(|| path.display().to_string())?;
    if !Uid::effective().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    let become_user = || {
        setgroups(&[])?;
        setgid(Gid::from_raw(owner.gid()))?;
        setuid(Uid::from_raw(owner.uid()))
    };
    Ok(become_user().with_context(|| format!("becoming the user of {}", path.display()))?)
}

/// An error of work without the daemon, with what to do about it.
pub(super) fn offline_failure(error: StoreError) -> Failure {
    match error {
        StoreError::InUse(_) => Failure::Finding(format!(
            "{error}\n  Stop the daemon (`systemctl stop postern`), or ask it: the same command without --offline."
        )),
        error => Failure::Other(error.into()),
    }
}
