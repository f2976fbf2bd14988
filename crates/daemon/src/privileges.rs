//! From root to an ordinary user, once the ports are bound.

use anyhow::Context;
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setuid};

/// The user that a server started as root becomes when `user` is not set and this one exists.
const DEFAULT_USER: &str = "postern";

/// Who to become.
///
/// # Errors
/// When the configured user does not exist.
pub fn target(configured: Option<&str>) -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let name = configured.unwrap_or(DEFAULT_USER);
    let user = User::from_name(name).with_context(|| format!("looking up the user {name:?}"))?;
    match (user, configured) {
        (None, Some(name)) => anyhow::bail!("user = {name:?}: there is no such user"),
        (user, _) => Ok(user.filter(|user| !user.uid.is_root())),
    }
}

/// Becomes the user for good: groups first, as only root may change them.
///
/// # Errors
/// When the kernel refuses, or when root could be had back.
pub fn become_user(user: &User) -> anyhow::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str()).context("user name")?;
    initgroups(&name, user.gid).context("initgroups")?;
    setgid(user.gid).context("setgid")?;
    setuid(user.uid).context("setuid")?;
    anyhow::ensure!(setuid(Uid::from_raw(0)).is_err(), "root could be had back after setuid");
    anyhow::ensure!(Gid::effective() == user.gid, "the group did not change");
    tracing::info!(event = "privileges", user = %user.name, "runs as an ordinary user now");
    Ok(())
}

/// Gives a directory that root has just made to the user.
///
/// # Errors
/// When the kernel refuses.
pub fn give(path: &std::path::Path, user: &User) -> anyhow::Result<()> {
    nix::unistd::chown(path, Some(user.uid), Some(user.gid))
        .with_context(|| format!("chown {}", path.display()))
}

/// Allows this process as many open files as the system lets it: each session and each delivery needs one.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::warn!(event = "file-limit", soft, hard, "the limit of open files could not be raised");
    }
}
