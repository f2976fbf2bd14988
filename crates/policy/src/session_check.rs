//! What a session refuses by itself: before the rules are asked, or after they have said yes.

/// A refusal that is no decision of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// A client that is banned, when it connects or at AUTH (421 4.7.0).
    Banned,
    /// The header of a login's message could be read in several ways (550 5.6.0).
    MalformedHeader,
}

impl SessionCheck {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::MalformedHeader => "malformed-header",
        }
    }
}
