//! Enhanced mail system status codes (RFC 3463, RFC 5248).

use std::fmt;
use std::str::FromStr;

/// `class.subject.detail`, such as `5.7.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// Which part of the mail system: 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// What exactly, within the subject.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A code from its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A text that is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct BadStatus;

impl FromStr for EnhancedStatus {
    type Err = BadStatus;

    /// RFC 3463 §2: class 2, 4 or 5; subject and detail of one to three digits.
    fn from_str(text: &str) -> Result<Self, BadStatus> {
        let mut parts = text.split('.');
        let (Some(class), Some(subject), Some(detail), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadStatus);
        };
        let number = |digits: &str| -> Result<u16, BadStatus> {
            if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(BadStatus);
            }
            digits.parse().map_err(|_| BadStatus)
        };
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return Err(BadStatus),
        };
        Ok(Self { class, subject: number(subject)?, detail: number(detail)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_codes_parse() {
        assert_eq!("5.7.1".parse(), Ok(EnhancedStatus::new(5, 7, 1)));
        assert_eq!("4.4.316".parse(), Ok(EnhancedStatus::new(4, 4, 316)));
        for text in ["3.0.0", "5.7", "5.7.1.2", "5.7.", "5.7.1234", "5.+7.1", ""] {
            assert_eq!(text.parse::<EnhancedStatus>(), Err(BadStatus), "{text}");
        }
    }
}
