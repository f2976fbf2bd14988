//! What a session refuses by itself: before the rules are asked, or after they have said yes.

use crate::standing::bans::Ban;

/// A refusal that is no decision of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionCheck {
    /// A client that is banned for guessing passwords, when it connects or at AUTH (421 4.7.0).
    Banned,
    /// A client that an operator has banned (421 4.7.0).
    BannedByHand,
    /// The header of a login's message could be read in several ways (550 5.6.0).
    MalformedHeader,
}

impl SessionCheck {
    /// What is said to a client under this ban.
    pub fn of(ban: &Ban) -> Self {
        if ban.by_hand { Self::BannedByHand } else { Self::Banned }
    }

    /// The words of all of them.
    pub const WORDS: [&str; 2] = ["banned", "malformed-header"];

    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Banned | Self::BannedByHand => "banned",
            Self::MalformedHeader => "malformed-header",
        }
    }
}
