//! Who may ask, and who may change: root, the daemon's own user, and the groups that `[admin]` names, by the credentials
//! of the peer.

use std::ffi::CString;
use std::path::Path;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use postern_config::Admin;

use crate::api::ProblemKind;
use crate::server::{Failure, failure};

/// What a peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    /// Nothing.
    None,
    /// Read everything, contents included.
    Read,
    /// Change messages, reload.
    Write,
}

/// Who is on the other side of the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) right: Right,
    /// Who may do more, for the refusal.
    admins: String,
}

impl Peer {
    /// Root or ourselves; `None` if a group must be asked for.
    pub(crate) fn owner(uid: u32) -> Option<Self> {
        let is_owner = uid == 0 || uid == own_uid();
        is_owner.then(|| Self { uid, right: Right::Write, admins: String::new() })
    }

    /// Somebody else. Asks the name service: blocking.
    pub(crate) fn other(uid: u32, gid: u32, admin: &Admin) -> Self {
        let groups = groups_of(uid, gid);
        let is_in = |name: &Option<String>| {
            let group = name.as_deref().and_then(|name| Group::from_name(name).ok().flatten());
            group.is_some_and(|group| groups.contains(&group.gid))
        };
        let right = match (is_in(&admin.admins), is_in(&admin.operators)) {
            (true, _) => Right::Write,
            (false, true) => Right::Read,
            (false, false) => Right::None,
        };
        Self { uid, right, admins: words("admins", admin.admins.as_deref()) }
    }

    /// The refusal for whoever may nothing.
    pub(crate) fn denied(&self, admin: &Admin) -> Failure {
        let (uid, own) = (self.uid, own_uid());
        let (operators, admins) = (words("operators", admin.operators.as_deref()), &self.admins);
        let text = format!(
            "uid {uid} is in no group that may use the control socket: {operators} (to read), {admins} (to change). \
             Root and the daemon's own user (uid {own}) may as well"
        );
        failure(ProblemKind::Denied, text)
    }
}

fn words(key: &str, group: Option<&str>) -> String {
    match group {
        Some(group) => format!("{key} = {group:?}"),
        None => format!("no group is named as {key}"),
    }
}

fn own_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The groups of a process of this user, as far as its user and its own group tell.
fn groups_of(uid: u32, gid: u32) -> Vec<Gid> {
    let mut groups = vec![Gid::from_raw(gid)];
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.as_ref().and_then(|user| CString::new(user.name.as_str()).ok());
    if let Some((user, name)) = user.zip(name) {
        groups.extend(getgrouplist(&name, user.gid).unwrap_or_default());
    }
    groups
}

/// The mode of the socket. A file has one group and there may be two, so it is open to all as soon as there is one: the
/// credentials of the peer decide in every case.
pub(crate) fn mode(admin: &Admin) -> u32 {
    let is_shared = admin.operators.is_some() || admin.admins.is_some();
    if is_shared { 0o666 } else { 0o600 }
}

/// Warns of groups that do not exist: nobody is in them.
pub(crate) fn warn_of_unknown_groups(admin: &Admin, socket: &Path) {
    for (key, group) in [("operators", &admin.operators), ("admins", &admin.admins)] {
        if let Some(name) = group
            && matches!(Group::from_name(name), Ok(None))
        {
            tracing::warn!(event = "configuration", socket = %socket.display(), "admin.{key}: there is no group {name:?}");
        }
    }
}

/// A peer that may change something; everybody else is refused.
#[derive(Debug)]
pub(crate) struct Writer(pub(crate) Peer);

impl<S: Send + Sync> FromRequestParts<S> for Writer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let peer = parts.extensions.get::<Peer>();
        match peer {
            Some(peer) if peer.right == Right::Write => Ok(Self(peer.clone())),
            Some(Peer { uid, admins, .. }) => {
                let text = format!(
                    "uid {uid} may read but change nothing: that takes a member of the group of [admin] ({admins}), root \
                     or the daemon's own user"
                );
                Err(failure(ProblemKind::Denied, text))
            }
            None => Err(failure(ProblemKind::Denied, "who asks is not known")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn admin(operators: Option<&str>, admins: Option<&str>) -> Admin {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        Admin { operators: owned(operators), admins: owned(admins), ..Admin::default() }
    }

    #[test]
    fn groups_give_the_rights_they_are_named_for() {
        // The group 0 exists everywhere; the user does not, so that only the group of the process counts.
        let root = Group::from_gid(Gid::from_raw(0)).unwrap().unwrap().name;
        let right = |gid, operators, admins| Peer::other(4_000_000, gid, &admin(operators, admins)).right;
        assert_eq!(right(0, None, None), Right::None);
        assert_eq!(right(0, Some(root.as_str()), None), Right::Read);
        assert_eq!(right(0, None, Some(root.as_str())), Right::Write);
        assert_eq!(right(0, Some(root.as_str()), Some(root.as_str())), Right::Write);
        assert_eq!(right(4_000_000, Some(root.as_str()), Some(root.as_str())), Right::None);
        assert_eq!(right(0, Some("no-such-group"), Some("no-such-group")), Right::None);
        assert_eq!(Peer::owner(own_uid()).unwrap().right, Right::Write);
        assert_eq!(Peer::owner(4_000_000), None);
    }

    #[test]
    fn the_socket_is_open_to_others_only_if_a_group_is_named() {
        assert_eq!(mode(&admin(None, None)), 0o600);
        assert_eq!(mode(&admin(Some("staff"), None)), 0o666);
        assert_eq!(mode(&admin(None, Some("staff"))), 0o666);
    }
}
