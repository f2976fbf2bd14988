//! Domains, address literals, local parts and addresses (RFC 5321 §4.1.2 and §4.1.3, RFC 6531 §3.3).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use icu_normalizer::ComposingNormalizerBorrowed;

/// Why a text is not a domain or an address. The message is fit for an SMTP reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing where something is needed.
    #[error("empty {0}")]
    Empty(&'static str),
    /// RFC 5321 §4.5.3.1: domain 255, label 63 octets. Local parts may have 255 here, not 64: senders with a return
    /// address for each message (VERP, SRS) need more.
    #[error("{what} longer than {limit} octets")]
    TooLong {
        /// The part that is too long.
        what: &'static str,
        /// The limit in octets.
        limit: usize,
    },
    /// A character that the grammar does not have at this place.
    #[error("character {0:?} is not allowed in {1}")]
    BadCharacter(char, &'static str),
    /// A label that begins or ends with a hyphen, or is empty.
    #[error("malformed domain label")]
    BadLabel,
    /// No "@", or nothing behind it.
    #[error("no domain in address")]
    NoDomain,
    /// "[...]" that is neither IPv4 nor "IPv6:" (RFC 5321 §4.1.3).
    #[error("malformed address literal")]
    BadLiteral,
    /// An international name that IDNA refuses (RFC 5890).
    #[error("not a valid internationalised domain name")]
    BadIdn,
    /// A quoted string that does not end, or ends too early.
    #[error("malformed quoted local part")]
    BadQuoting,
}

/// A domain name, kept as lower-case A-labels without a final dot, so that two spellings of one domain are equal.
///
/// An international name is converted when it is parsed (RFC 5891 §4); what we send downstream is always ASCII.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

const MAX_DOMAIN: usize = 255;
const MAX_LABEL: usize = 63;
const MAX_LOCAL: usize = 255;

impl Domain {
    /// Parses a domain name (RFC 5321 §4.1.2 `Domain`, with U-labels as in RFC 6531 §3.3).
    ///
    /// # Errors
    /// Empty or overlong names and labels, characters other than letters, digits and inner hyphens, bad IDNs.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty("domain"));
        }
        if text.is_ascii() {
            check_labels(text)?;
            return Ok(Self(text.to_ascii_lowercase().into_boxed_str()));
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::BadIdn)?;
        check_labels(&ascii)?;
        Ok(Self(ascii.into_boxed_str()))
    }

    /// Parses a domain name that others chose: as [`Domain::parse`], and takes a final dot, which is dropped, and
    /// underscores, which hosts in use have (RFC 2181 §11: the DNS does not care).
    ///
    /// # Errors
    /// As [`Domain::parse`].
    pub fn parse_tolerant(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_ascii() || !text.contains('_') {
            return Self::parse(text);
        }
        check_labels(&text.replace('_', "x"))?;
        Ok(Self(text.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name as lower-case A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `parent` itself or a name below it.
    pub fn is_within(&self, parent: &Domain) -> bool {
        self == parent
            || self.0.strip_suffix(&*parent.0).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
    }
}

fn check_labels(text: &str) -> Result<(), AddressError> {
    if text.len() > MAX_DOMAIN {
        return Err(AddressError::TooLong { what: "domain", limit: MAX_DOMAIN });
    }
    for label in text.split('.') {
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            return Err(AddressError::BadLabel);
        }
        if label.len() > MAX_LABEL {
            return Err(AddressError::TooLong { what: "domain label", limit: MAX_LABEL });
        }
        if let Some(bad) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(AddressError::BadCharacter(bad, "a domain"));
        }
    }
    Ok(())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({})", self.0)
    }
}

impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// What stands right of the "@", or behind EHLO: a domain or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    Literal(IpAddr),
}

impl Host {
    /// Parses a domain (see [`Domain::parse_tolerant`]) or an address literal. A general address literal of another kind
    /// is refused: none is registered.
    ///
    /// # Errors
    /// As [`Domain::parse`], and [`AddressError::BadLiteral`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some(inner) = text.strip_prefix('[') else {
            return Domain::parse_tolerant(text).map(Self::Domain);
        };
        let inner = inner.strip_suffix(']').ok_or(AddressError::BadLiteral)?;
        let v6 = inner.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        let ip = if v6 {
            inner[5..].parse::<Ipv6Addr>().map(IpAddr::V6)
        } else {
            inner.parse::<Ipv4Addr>().map(IpAddr::V4)
        };
        ip.map(Self::Literal).map_err(|_| AddressError::BadLiteral)
    }

    /// The domain name, unless this is an address literal.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl From<Domain> for Host {
    fn from(domain: Domain) -> Self {
        Self::Domain(domain)
    }
}

/// The part left of the "@", without its quoting: `"a b"@x` has the local part `a b`.
///
/// Case is kept (RFC 5321 §2.4); whoever compares local mailboxes folds it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPart {
    content: Box<str>,
    /// Whether it is written in quotes.
    quoted: bool,
}

impl LocalPart {
    /// Parses a dot-string or a quoted-string (RFC 5321 §4.1.2 `Local-part`).
    ///
    /// Dots may stand side by side and at the ends: some carriers gave out such addresses. They are written again as they
    /// were read, with quotes or without, because their hosts know them in one form only.
    ///
    /// # Errors
    /// Empty, over 255 octets, or characters that need quoting and have none.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty("local part"));
        }
        if text.len() > MAX_LOCAL {
            return Err(AddressError::TooLong { what: "local part", limit: MAX_LOCAL });
        }
        if let Some(rest) = text.strip_prefix('"') {
            let content = unquote(rest)?.into_boxed_str();
            let quoted = !is_dot_string(&content);
            return Ok(Self { content, quoted });
        }
        if let Some(bad) = text.chars().find(|c| !is_atom_char(*c) && *c != '.') {
            return Err(AddressError::BadCharacter(bad, "an unquoted local part"));
        }
        Ok(Self { content: text.into(), quoted: false })
    }

    /// The content, unquoted.
    pub fn as_str(&self) -> &str {
        &self.content
    }

    /// The content as local mailboxes are compared: in lower case, and in one of the ways to write a letter with an accent
    /// (Unicode normalisation form C, RFC 6532 §3.1).
    pub fn folded(&self) -> String {
        const COMPOSED: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();
        if self.content.is_ascii() {
            return self.content.to_ascii_lowercase();
        }
        let composed: Cow<'_, str> = COMPOSED.normalize(&self.content);
        // Some letters in lower case are two that compose again.
        COMPOSED.normalize(&composed.to_lowercase()).into_owned()
    }
}

/// RFC 5321 §4.1.2 `Dot-string`: needs no quotes.
fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char))
}

/// RFC 5322 §3.2.3 `atext`, and all of UTF-8 beyond ASCII (RFC 6531 §3.3).
pub(crate) fn is_atom_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn unquote(rest: &str) -> Result<String, AddressError> {
    let mut content = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if chars.as_str().is_empty() => return Ok(content),
            '"' => return Err(AddressError::BadQuoting),
            '\\' => match chars.next() {
                Some(escaped) if !escaped.is_ascii_control() => content.push(escaped),
                _ => return Err(AddressError::BadQuoting),
            },
            // qtextSMTP: no control characters, so also no line end (RFC 5321 §4.1.2).
            c if c.is_ascii_control() => return Err(AddressError::BadCharacter(c, "a quoted local part")),
            c => content.push(c),
        }
    }
    Err(AddressError::BadQuoting)
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.quoted {
            return f.write_str(&self.content);
        }
        f.write_str("\"")?;
        for c in self.content.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Debug for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalPart({})", self.content)
    }
}

/// A mailbox address, `local@host`.
///
/// Equality keeps the case of the local part; [`Address::folded`] is the key for comparing local mailboxes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Left of the "@", unquoted.
    pub local: LocalPart,
    /// Right of the "@".
    pub host: Host,
}

impl Address {
    /// Parses `local@host` without angle brackets and without a source route.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let at = split_at_sign(text).ok_or(AddressError::NoDomain)?;
        let local = LocalPart::parse(&text[..at])?;
        let host = Host::parse(&text[at + 1..])?;
        Ok(Self { local, host })
    }

    /// An address from its parts.
    pub fn new(local: LocalPart, host: impl Into<Host>) -> Self {
        Self { local, host: host.into() }
    }

    /// The domain, unless the address has a literal.
    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Whether the local part needs SMTPUTF8 (the domain never does: it is kept as A-labels).
    pub fn needs_utf8(&self) -> bool {
        !self.local.content.is_ascii()
    }

    /// The address in one spelling: the key under which local mailboxes, logins and duplicates are compared. See
    /// [`LocalPart::folded`].
    pub fn folded(&self) -> String {
        format!("{}@{}", self.local.folded(), self.host)
    }
}

/// Where the "@" stands that ends the local part: the first one outside quotes.
pub(crate) fn split_at_sign(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'@' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn one_domain_in_two_spellings_is_equal() {
        assert_eq!(Domain::parse("BÜCHER.test").unwrap(), Domain::parse("xn--bcher-kva.TEST").unwrap());
    }

    #[test]
    fn malformed_domains_are_refused() {
        for text in ["", ".", "a..b", "-c.d", "c-.d", "c_d", "a.b.", "a b", "x\u{0}y"] {
            assert!(Domain::parse(text).is_err(), "{text:?}");
        }
        assert!(Domain::parse(&"a".repeat(64)).is_err());
        assert!(Domain::parse(&vec!["abcdefg"; 33].join(".")).is_err());
    }

    #[test]
    fn subdomains_are_within_their_parent_only() {
        let parent = Domain::parse("proseware.test").unwrap();
        assert!(Domain::parse("a.proseware.test").unwrap().is_within(&parent));
        assert!(parent.is_within(&parent));
        assert!(!Domain::parse("notproseware.test").unwrap().is_within(&parent));
    }

    #[test]
    fn quoting_is_kept_where_it_is_needed() {
        for (text, shown) in [
            (r#""a b"@c.d"#, r#""a b"@c.d"#),
            (r#""a@b"@c.d"#, r#""a@b"@c.d"#),
            (r#""ab"@c.d"#, "ab@c.d"),
            (r#""a\"b"@c.d"#, r#""a\"b"@c.d"#),
            (r#"""@c.d"#, r#"""@c.d"#),
            (r#""a..b"@c.d"#, r#""a..b"@c.d"#),
            ("a..b.@c.d", "a..b.@c.d"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "a",
            "@b",
            "a@",
            "a@.",
            "a@b..",
            "a b@c",
            "\"a@b",
            "a\"b\"@c",
            "a@[1.2.3]",
            "a@[tag:x]",
            "a@b@c",
            "a@_é",
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_that_others_chose_are_taken_as_they_are_in_use() {
        let verp = format!("bounces+{}=adatum.test@list.adatum.test", "x".repeat(100));
        assert_eq!(Address::parse(&verp).unwrap().to_string(), verp);
        assert!(LocalPart::parse(&"x".repeat(256)).is_err());
        assert_eq!(Address::parse("x@My_Host._corp.test.").unwrap().to_string(), "x@my_host._corp.test");
        assert!(Address::parse("x@-my_host.test").is_err());
    }

    #[test]
    fn one_mailbox_in_many_spellings_is_folded_into_one() {
        let key = |text: &str| Address::parse(text).unwrap().folded();
        for (one, other) in [
            ("Alice@Proseware.TEST", "alice@proseware.test"),
            ("\"alice\"@proseware.test", "alice@proseware.test"),
            ("\"a\\lice\"@proseware.test", "alice@proseware.test"),
            ("alice@proseware.test.", "alice@proseware.test"),
            ("jose\u{301}@bücher.test", "JOS\u{c9}@xn--bcher-kva.test"),
            ("\u{212b}ngstrom@proseware.test", "a\u{30a}ngstrom@proseware.test"),
        ] {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        assert_ne!(key("jose@proseware.test"), key("jos\u{e9}@proseware.test"));
    }

    #[test]
    fn address_literals_are_syntax() {
        assert_eq!(Address::parse("a@[IPv6:2001:db8::1]").unwrap().to_string(), "a@[IPv6:2001:db8::1]");
        assert_eq!(
            Address::parse("a@[192.0.2.1]").unwrap().host,
            Host::Literal("192.0.2.1".parse().unwrap())
        );
    }
}
