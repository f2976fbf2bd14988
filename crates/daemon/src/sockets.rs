//! The folders and owners of UNIX sockets that mail is handed over by.

use std::os::unix::fs::{DirBuilderExt, chown};

use anyhow::{Context, anyhow};
use nix::unistd::{Group, User};
use postern_config::Listener;
use postern_smtp_inbound::BoundListener;

/// Listens: on an address, or on a socket in a folder that is made if it is not there.
///
/// # Errors
/// What the system says, with what it was about.
pub fn bind(listener: &Listener, user: Option<&User>) -> anyhow::Result<BoundListener> {
    let Some(path) = listener.address.path() else { return Ok(postern_smtp_inbound::bind(listener)?) };
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        // Whom the socket is for must get to it; what they may do there says its own mode.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.with_context(|| format!("making {}", folder.display()))?;
        give(folder, user, None)?;
    }
    let group = listener.group.as_deref().map(group_id).transpose()?;
    let bound = postern_smtp_inbound::bind(listener)?;
    give(path, user, group)?;
    Ok(bound)
}

fn group_id(name: &str) -> anyhow::Result<u32> {
    let found = Group::from_name(name).with_context(|| format!("looking up the group {name}"))?;
    Ok(found.ok_or_else(|| anyhow!("there is no group {name}: see `group` of the listener"))?.gid.as_raw())
}

fn give(path: &std::path::Path, user: Option<&User>, group: Option<u32>) -> anyhow::Result<()> {
    let (owner, own_group) = (user.map(|user| user.uid.as_raw()), user.map(|user| user.gid.as_raw()));
    let group = group.or(own_group);
    if owner.is_none() && group.is_none() {
        return Ok(());
    }
    chown(path, owner, group).with_context(|| format!("giving {} to its owner and group", path.display()))
}
