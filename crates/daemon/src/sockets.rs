//! The folders and owners of UNIX sockets that mail is handed over by.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::unistd::{Group, User};
use postern_config::Listener;
use postern_smtp_inbound::BoundListener;

/// Listens: on an address, or on a socket in a folder that is made if it is not there. `user` is whom the daemon will run as.
///
/// # Errors
/// What the system says, with what it was about.
pub fn bind(listener: &Listener, user: Option<&User>) -> anyhow::Result<BoundListener> {
    let Some(path) = listener.address.path() else { return Ok(postern_smtp_inbound::bind(listener)?) };
    let own = Owner { user: user.map(|user| user.uid.as_raw()), group: user.map(|user| user.gid.as_raw()) };
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        // Whom the socket is for must get to it; what they may do there says its own mode. The folder is the daemon's: it removes
        // the socket in the end.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.with_context(|| format!("making {}", folder.display()))?;
        own.given(folder)?;
    }
    let named = Owner {
        user: listener.user.as_deref().map(user_id).transpose()?.or(own.user),
        group: listener.group.as_deref().map(group_id).transpose()?.or(own.group),
    };
    let bound = postern_smtp_inbound::bind(listener)?;
    named.given(path)?;
    Ok(bound)
}

/// Whose a file becomes; `None` leaves it whose it is.
struct Owner {
    user: Option<u32>,
    group: Option<u32>,
}

impl Owner {
    fn given(&self, path: &Path) -> anyhow::Result<()> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(());
        }
        chown(path, self.user, self.group).with_context(|| {
            format!(
                "giving {} to its owner and group (root can, and others only to a group of their own: a new listener \
                 may need a restart)",
                path.display()
            )
        })
    }
}

fn user_id(name: &str) -> anyhow::Result<u32> {
    let found = User::from_name(name).with_context(|| format!("looking up the user {name}"))?;
    Ok(found.ok_or_else(|| anyhow!("there is no user {name}: see `user` of the listener"))?.uid.as_raw())
}

fn group_id(name: &str) -> anyhow::Result<u32> {
    let found = Group::from_name(name).with_context(|| format!("looking up the group {name}"))?;
    Ok(found.ok_or_else(|| anyhow!("there is no group {name}: see `group` of the listener"))?.gid.as_raw())
}
