//! What a session refuses by itself: before the rules are asked, or after they have said yes.

use postern_config::ListenerKind;

/// A refusal that is no decision of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// A client that is banned, when it connects or at AUTH (421 4.7.0).
    Banned,
    /// AUTH on port 25 (503 5.5.1).
    NoLoginHere,
    /// AUTH in clear text (538 5.7.11).
    LoginNeedsTls,
    /// The header of a login's message could be read in several ways (550 5.6.0).
    MalformedHeader,
}

impl SessionCheck {
    /// Whether AUTH is taken at all: never on port 25, never in clear text (RFC 4954 §4, RFC 8314 §3.3).
    ///
    /// # Errors
    /// Why it is not.
    pub fn login(listener: ListenerKind, tls: bool) -> Result<(), Self> {
        match (listener.is_submission(), tls) {
            (false, _) => Err(Self::NoLoginHere),
            (true, false) => Err(Self::LoginNeedsTls),
            (true, true) => Ok(()),
        }
    }

    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::NoLoginHere => "no-login-here",
            Self::LoginNeedsTls => "login-needs-tls",
            Self::MalformedHeader => "malformed-header",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_taken_on_submission_ports_under_tls_only() {
        for (listener, tls, answer) in [
            (ListenerKind::Mx, false, Err(SessionCheck::NoLoginHere)),
            (ListenerKind::Mx, true, Err(SessionCheck::NoLoginHere)),
            (ListenerKind::Submission, false, Err(SessionCheck::LoginNeedsTls)),
            (ListenerKind::Submission, true, Ok(())),
            (ListenerKind::Submissions, true, Ok(())),
        ] {
            assert_eq!(SessionCheck::login(listener, tls), answer, "{listener:?} {tls}");
        }
    }
}
