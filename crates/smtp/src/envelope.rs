//! Parameters of MAIL and RCPT that travel with a message from hop to hop.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::address::Address;

/// The BODY parameter (RFC 6152 §3, RFC 3030 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// 7BIT, or nothing said.
    #[default]
    SevenBit,
    /// 8BITMIME.
    EightBitMime,
    /// BINARYMIME: only over BDAT.
    BinaryMime,
}

impl Body {
    /// The value as it stands behind `BODY=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }
}

/// The RET parameter: how much of the message a failure report returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// The NOTIFY parameter: when the sender wants a report (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// NEVER is the same as all three being false.
    pub success: bool,
    /// On final failure.
    pub failure: bool,
    /// On unusual delay.
    pub delay: bool,
}

impl Notify {
    /// NOTIFY=NEVER.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

impl Default for Notify {
    /// What holds when NOTIFY was not given: failure, and delay by the server's choice (RFC 3461 §4.1).
    fn default() -> Self {
        Self { success: false, failure: true, delay: true }
    }
}

/// The HOLDFOR or HOLDUNTIL parameter: nothing is sent before (RFC 4865 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// So long from now on.
    For(Duration),
    /// Until then.
    Until(SystemTime),
}

/// The BY parameter: when the message is to be delivered, and what follows if it is not (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    /// From now on; not above zero only where the message does not return.
    pub seconds: i64,
    /// `R`: it returns. Otherwise, by `N`, the sender is told.
    pub returns: bool,
    /// `T`: the sender wants to hear of each host that takes it.
    pub trace: bool,
}

/// The ENVID parameter, decoded from xtext: the sender's own name for the message (RFC 3461 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeId(pub String);

/// The ORCPT parameter: the recipient as the sender wrote it (RFC 3461 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8`, or what the sender said.
    pub kind: String,
    /// Decoded from xtext.
    pub address: String,
}

impl OriginalRecipient {
    /// The original recipient that an address of a MAIL transaction without ORCPT has.
    pub fn from_address(address: &Address) -> Self {
        let kind = if address.needs_utf8() { "utf-8" } else { "rfc822" };
        Self { kind: kind.to_owned(), address: address.to_string() }
    }
}

impl fmt::Display for OriginalRecipient {
    /// As in the Original-Recipient field of a report (RFC 3464 §2.3.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.kind, self.address)
    }
}
