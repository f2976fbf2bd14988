//! Why the server could not start or take a configuration, in one line that leads on.

use std::io;

use nix::unistd::{User, geteuid};

/// Why it does not start. A right that is missing says whose it would be.
pub fn of_start(error: &anyhow::Error) -> String {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match kinds.last() {
        Some(io::ErrorKind::PermissionDenied) => told(error) + &missing_right(),
        _ => told(error),
    }
}

/// The whole chain of causes, each once: some repeat their own cause.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text += ": ";
        }
        text += &cause;
    }
    text
}

fn missing_right() -> String {
    let uid = geteuid();
    let user = match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    };
    format!(
        " (the server runs as user {user}, whose that folder with everything in it must be: `chown -R {user}` of it)"
    )
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use anyhow::Context;

    use super::*;

    #[derive(Debug)]
    struct Repeats(io::Error);

    impl fmt::Display for Repeats {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "locking LOCK: {}", self.0)
        }
    }

    impl std::error::Error for Repeats {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    fn failed(kind: io::ErrorKind) -> String {
        let error = Err::<(), _>(Repeats(kind.into())).context("opening the spool");
        error.as_ref().err().map(of_start).unwrap_or_default()
    }

    #[test]
    fn a_cause_is_said_once() {
        assert_eq!(failed(io::ErrorKind::NotFound), "opening the spool: locking LOCK: entity not found");
    }

    #[test]
    fn a_missing_right_says_whose() {
        let text = failed(io::ErrorKind::PermissionDenied);
        assert!(
            text.starts_with("opening the spool: locking LOCK: permission denied (the server runs as user "),
            "{text}"
        );
        assert!(text.contains("chown -R"), "{text}");
    }
}
