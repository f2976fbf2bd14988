//! What an operator should look at before asking somebody else: the checks of `posternctl doctor`.
//!
//! | check | module |
//! |---|---|
//! | may the right logins send, and as whom? | [`mod@senders`] |
//! | what does a list of addresses say with its answer? | [`blocklist`] |
//! | who receives the mail of a domain, and where do they hear complaints? | [`contacts`] |
//! | what do others report of our mail? | [`reports`] |
//!
//! A finding says what is wrong, where, and what mends it. Those about DNS are found by `postern-outbound`, those about what
//! clients see by `posternctl` itself.

pub mod blocklist;
pub mod contacts;
pub mod reports;
pub mod senders;

pub use senders::senders;

use serde::{Deserialize, Serialize};

pub use crate::verification::Weight;

/// The checks that the daemon makes, or the operator's command from the configuration where the daemon does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Does our host name lead to us, and do our addresses lead back?
    Names,
    /// Who may send as whom?
    Senders,
    /// The records of our domains, and the names of our outbound addresses.
    Dns,
    /// Are our outbound addresses on lists?
    Blocklists,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Names, Self::Senders, Self::Dns, Self::Blocklists];

    /// The word for it in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Senders => "senders",
            Self::Dns => "dns",
            Self::Blocklists => "blocklists",
        }
    }

    /// The check of this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|check| check.as_str() == text)
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters; a note is no cause for concern.
    pub weight: Weight,
    /// Where: a listener, a login, a domain, an address, a list.
    pub place: String,
    /// What, in words.
    pub text: String,
    /// The command, the setting or the record that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding that nothing has to mend, or of which it is not known what does.
    pub fn new(weight: Weight, place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { weight, place: place.into(), text: text.into(), remedy: None }
    }

    /// Something that is wrong.
    pub fn error(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Weight::Error, place, text)
    }

    /// Something that somebody should look at.
    pub fn warning(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Weight::Warning, place, text)
    }

    /// A question that nobody answered.
    pub fn trouble(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Weight::Trouble, place, text)
    }

    /// Something that is good to know.
    pub fn note(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Weight::Note, place, text)
    }

    /// The same with what mends it.
    #[must_use]
    pub fn mend(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Whether somebody has to do something.
    pub fn is_concern(&self) -> bool {
        self.weight != Weight::Note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_words_and_notes_are_no_concern() {
        for check in Check::ALL {
            assert_eq!(Check::parse(check.as_str()), Some(check));
        }
        assert_eq!(Check::parse("everything"), None);
        assert!(!Finding::note("x", "y").is_concern());
        for finding in [Finding::error("x", "y"), Finding::warning("x", "y"), Finding::trouble("x", "y")] {
            assert!(finding.is_concern());
        }
    }
}
