//! Reverse-path and forward-path (RFC 5321 §4.1.1.2 and §4.1.1.3).

use std::fmt;

use crate::address::{Address, AddressError, Host};

/// The argument of MAIL FROM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: a report about another message; never gets a report itself (RFC 5321 §4.5.5).
    Null,
    /// Where reports about the message go.
    Address(Address),
}

impl ReversePath {
    /// The address, unless this is the null sender.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Parses what stands between the angle brackets of MAIL FROM; a source route is dropped (RFC 5321 §4.1.1.3, appendix C).
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(inner: &str) -> Result<Self, AddressError> {
        if inner.is_empty() {
            return Ok(Self::Null);
        }
        Address::parse(without_route(inner)?).map(Self::Address)
    }
}

impl fmt::Display for ReversePath {
    /// Without angle brackets; the null sender is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().map_or(Ok(()), |address| address.fmt(f))
    }
}

/// The argument of RCPT TO.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain, in any case: the postmaster of this host (RFC 5321 §4.5.1).
    Postmaster,
    /// A mailbox.
    Address(Address),
}

impl ForwardPath {
    /// Parses what stands between the angle brackets of RCPT TO; a source route is dropped.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(inner: &str) -> Result<Self, AddressError> {
        if inner.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        Address::parse(without_route(inner)?).map(Self::Address)
    }
}

impl fmt::Display for ForwardPath {
    /// Without angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("Postmaster"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `@one,@two:user@host` without its route. The hosts of the route must be well formed all the same.
fn without_route(inner: &str) -> Result<&str, AddressError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    let end = end_of_route(inner).ok_or(AddressError::NoDomain)?;
    for hop in inner[..end].split(',') {
        Host::parse(hop.strip_prefix('@').ok_or(AddressError::BadCharacter(',', "a source route"))?)?;
    }
    Ok(&inner[end + 1..])
}

/// The first ":" outside of address literals: those of IPv6 have some of their own.
fn end_of_route(inner: &str) -> Option<usize> {
    let mut in_literal = false;
    inner.bytes().position(|byte| {
        match byte {
            b'[' => in_literal = true,
            b']' => in_literal = false,
            _ => {}
        }
        byte == b':' && !in_literal
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn null_sender_and_postmaster_are_told_apart_from_addresses() {
        assert_eq!(ReversePath::parse("").unwrap(), ReversePath::Null);
        assert_eq!(ForwardPath::parse("pOSTMASTER").unwrap(), ForwardPath::Postmaster);
        assert!(ForwardPath::parse("").is_err());
        assert!(ReversePath::parse("postmaster").is_err());
    }

    #[test]
    fn source_routes_are_dropped() {
        assert_eq!(ForwardPath::parse("@a.test,@b.test:u@c.test").unwrap().to_string(), "u@c.test");
        let literal = ForwardPath::parse("@[IPv6:2001:db8::1],@b.test:u@[IPv6:2001:db8::2]").unwrap();
        assert_eq!(literal.to_string(), "u@[IPv6:2001:db8::2]");
        for text in ["@a.test,b.test:u@c.test", "@[IPv6:2001:db8::1", "@a.test"] {
            assert!(ForwardPath::parse(text).is_err(), "{text}");
        }
    }
}
