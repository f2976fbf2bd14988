//! UNIX sockets to listen on: never open wider than they are to be, and never in place of something else.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Why there is no socket. What stands at the path is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("somebody listens there already")]
    InUse,
    /// Something else than a socket is in the way.
    #[error("there is a file that is no socket")]
    NotASocket,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        match error {
            BindError::InUse => ErrorKind::AddrInUse.into(),
            BindError::NotASocket => Self::new(ErrorKind::AlreadyExists, error),
            BindError::Io(error) => error,
        }
    }
}

/// Listens on a UNIX socket with this mode; the listener does not block. The socket is made under another name and moved into
/// place, so that it never stands there with a wider mode, and one that a crash left is replaced in one step.
///
/// # Errors
/// Those of the system; also when something else stands there, or somebody listens on it.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(BindError::InUse),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        Ok(_) | Err(_) => {}
    }
    let mut new = OsString::from(path);
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_socket_that_a_crash_left_is_replaced_and_anything_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lmtp.sock");
        let first = bind(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(bind(&path, 0o660), Err(BindError::InUse)));
        drop(first);
        drop(bind(&path, 0o600).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = folder.path().join("file");
        fs::write(&file, "mine").unwrap();
        let error = io::Error::from(bind(&file, 0o660).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(error.to_string(), "there is a file that is no socket");
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }
}
