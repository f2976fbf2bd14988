//! How a run ends, and the words for it.

use std::io;
use std::process::ExitCode;

use postern_admin::ClientError;
use postern_admin::api::ProblemKind;

/// The exit codes of the program; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: what was asked was done.
    Done,
    /// 1: something was found: a refusal, nothing that matches, a server that is not well, a wrong configuration.
    Finding,
    /// 2: the command makes no sense.
    Usage,
    /// 3: some messages were changed and others not, or none of those that matched.
    Partial,
    /// 4: the daemon does not answer, or still loads its queue.
    Unreachable,
    /// 5: this user may not.
    Denied,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Finding => 1,
            Exit::Usage => 2,
            Exit::Partial => 3,
            Exit::Unreachable => 4,
            Exit::Denied => 5,
        })
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command makes no sense; the text says which one would.
    Usage(String),
    /// What was found stands in the way.
    Finding(String),
    /// The daemon.
    Client(ClientError),
    /// A file, a terminal, the output.
    Io(io::Error),
    /// A file, with what was being done to it.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Finding(_) => Exit::Finding,
            Self::Client(error) => client_exit(error),
            Self::Io(error) => io_exit(error),
            Self::Other(error) => error.downcast_ref().map_or(Exit::Finding, io_exit),
        }
    }

    /// What to tell the person, with what to do about it. Nothing where the reader of a pipe has gone: it wants no more.
    pub fn text(&self) -> Option<String> {
        Some(match self {
            Self::Usage(text) | Self::Finding(text) => text.clone(),
            Self::Client(error @ ClientError::Unreachable { .. }) => format!(
                "{error}\n  Is it running? Start it with `systemctl start postern` or `posternd --config FILE`.\n  \
                 If it does not stay up, `posternctl config check` and `journalctl -u postern` say why.\n  \
                 Another control socket is named with --socket PATH, another configuration with --config FILE."
            ),
            Self::Client(error @ ClientError::Denied { .. }) => {
                format!(
                    "{error}\n  Run this as root, as the daemon's own user, or as a member of a group that [admin] names."
                )
            }
            Self::Client(ClientError::Refused(problem)) if problem.kind == ProblemKind::Loading => format!(
                "{}\n  The daemon has just started: ask again in a moment. `posternctl status` says how far it is.",
                problem.error
            ),
            Self::Client(ClientError::Output(error)) | Self::Io(error) if is_closed(error) => return None,
            Self::Client(error) => error.to_string(),
            Self::Io(error) => error.to_string(),
            Self::Other(error) => format!("{error:#}"),
        })
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Unreachable { .. } => Exit::Unreachable,
        ClientError::Denied { .. } => Exit::Denied,
        ClientError::Refused(problem) => match problem.kind {
            ProblemKind::BadRequest | ProblemKind::TooMany | ProblemKind::TooLarge => Exit::Usage,
            ProblemKind::Denied => Exit::Denied,
            ProblemKind::Loading => Exit::Unreachable,
            ProblemKind::NotFound
            | ProblemKind::Conflict
            | ProblemKind::ReloadFailed
            | ProblemKind::Store
            | ProblemKind::Busy => Exit::Finding,
        },
        ClientError::Protocol(_) => Exit::Finding,
        ClientError::Output(error) => io_exit(error),
    }
}

fn io_exit(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Exit::Done,
        io::ErrorKind::PermissionDenied => Exit::Denied,
        _ => Exit::Finding,
    }
}

fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_admin::api::Problem;

    fn refused(kind: ProblemKind) -> Failure {
        Failure::Client(ClientError::Refused(Problem { kind, error: "x".to_owned(), matched: None }))
    }

    #[test]
    fn failures_have_the_promised_exit_codes() {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let socket = || "/run/postern/control.sock".into();
        let cases = [
            (Failure::Usage(String::new()), Exit::Usage),
            (refused(ProblemKind::NotFound), Exit::Finding),
            (refused(ProblemKind::TooMany), Exit::Usage),
            (refused(ProblemKind::Loading), Exit::Unreachable),
            (
                Failure::Client(ClientError::Unreachable { socket: socket(), source: gone() }),
                Exit::Unreachable,
            ),
            (Failure::Client(ClientError::Denied { socket: socket(), reason: String::new() }), Exit::Denied),
            (Failure::Io(io::Error::from(io::ErrorKind::PermissionDenied)), Exit::Denied),
            (Failure::Other(anyhow::Error::from(gone()).context("reading x")), Exit::Finding),
        ];
        for (failure, exit) in cases {
            assert_eq!(failure.exit(), exit, "{failure:?}");
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let failure = Failure::Io(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.text()), (Exit::Done, None));
    }

    #[test]
    fn an_unreachable_daemon_names_its_socket_and_how_to_start_it() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let failure = Failure::Client(ClientError::Unreachable { socket: "/run/x.sock".into(), source });
        let text = failure.text().unwrap_or_default();
        assert!(text.contains("/run/x.sock") && text.contains("systemctl start postern"), "{text}");
        assert!(text.contains("posternctl config check") && text.contains("journalctl"), "{text}");
    }
}
