//! The folders and owners of UNIX sockets that mail is handed over by.

use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::unistd::{Group, User};
use postern_config::{ListenAddress, Listener};
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

/// What to do when an address cannot be listened on; empty where the error says it all.
pub fn hint(error: &anyhow::Error, address: &ListenAddress) -> String {
    let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()) else {
        return String::new();
    };
    match (error.kind(), address.tcp()) {
        (io::ErrorKind::AddrInUse, Some(address)) => {
            format!(" (another program has the port: `ss -ltnp 'sport = :{}'` names it)", address.port())
        }
        (io::ErrorKind::PermissionDenied, Some(address)) if address.port() < 1024 => {
            " (ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE)".to_owned()
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            " (no interface of this machine has the address: `ip address` shows those there are)".to_owned()
        }
        _ => String::new(),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_says_what_to_do() {
        let hint = |kind: io::ErrorKind, address: &str| {
            hint(&anyhow::Error::from(io::Error::from(kind)).context("binding"), &address.parse().unwrap())
        };
        assert!(hint(io::ErrorKind::AddrInUse, "0.0.0.0:25").contains("`ss -ltnp 'sport = :25'`"));
        assert!(hint(io::ErrorKind::PermissionDenied, "0.0.0.0:25").contains("CAP_NET_BIND_SERVICE"));
        assert_eq!(hint(io::ErrorKind::PermissionDenied, "0.0.0.0:2525"), "");
        assert!(hint(io::ErrorKind::AddrNotAvailable, "192.0.2.1:25").contains("ip address"));
    }
}
