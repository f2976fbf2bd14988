//! What records are called: a short reference for people, a long token for the world.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};

/// Crockford's base 32: no letter in it looks like a digit.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const BITS_PER_DIGIT: u32 = 5;

/// The short name of a record, as it stands in the reply: `4QX7-93KD` (40 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference(pub(super) u64);

/// Bits of a reference.
pub(super) const REFERENCE_BITS: u32 = 40;
const REFERENCE_DIGITS: u32 = REFERENCE_BITS / BITS_PER_DIGIT;

/// What opens the page of a record: 128 random bits, of which only a hash is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(u128);

const TOKEN_DIGITS: u32 = u128::BITS.div_ceil(BITS_PER_DIGIT);

/// How a record is called in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// For operators.
    pub reference: Reference,
    /// For whoever got the reply, where there is a page.
    pub token: Option<Token>,
}

impl Name {
    /// A name that nobody can guess. With a token, the reference is the beginning of the token's hash: one index finds
    /// both, and the reference leads nobody to the token.
    pub(super) fn random(with_token: bool) -> Self {
        if with_token {
            let token = Token(rand::random());
            return Self { reference: token.reference(), token: Some(token) };
        }
        let reference = Reference(rand::random::<u64>() >> (u64::BITS - REFERENCE_BITS));
        Self { reference, token: None }
    }
}

impl Token {
    /// The record that it may open.
    pub(super) fn reference(&self) -> Reference {
        let mut first = [0; 8];
        first.copy_from_slice(&self.hash()[..8]);
        Reference(u64::from_be_bytes(first) >> (u64::BITS - REFERENCE_BITS))
    }

    /// What is kept of it, in hexadecimal.
    pub(super) fn fingerprint(&self) -> String {
        self.hash().iter().map(|octet| format!("{octet:02x}")).collect()
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.0.to_be_bytes()).as_ref());
        hash
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..TOKEN_DIGITS).try_for_each(|at| write!(f, "{}", digit(self.0, TOKEN_DIGITS, at)))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..REFERENCE_DIGITS {
            let hyphen = if at == REFERENCE_DIGITS / 2 { "-" } else { "" };
            write!(f, "{hyphen}{}", digit(self.0.into(), REFERENCE_DIGITS, at))?;
        }
        Ok(())
    }
}

impl Reference {
    /// What may have been meant by whoever mistypes one digit, or writes two neighbours in the wrong order.
    pub fn near(self) -> impl Iterator<Item = Self> {
        let shift = |at: u32| BITS_PER_DIGIT * at;
        let digit = move |at: u32| self.0 >> shift(at) & 31;
        let other = (0..REFERENCE_DIGITS).flat_map(move |at| {
            (0..32)
                .filter(move |new| *new != digit(at))
                .map(move |new| self.0 ^ (digit(at) ^ new) << shift(at))
        });
        let swapped = (1..REFERENCE_DIGITS).filter_map(move |at| {
            let both = digit(at) ^ digit(at - 1);
            (both != 0).then(|| self.0 ^ both << shift(at) ^ both << shift(at - 1))
        });
        other.chain(swapped).map(Self)
    }
}

/// A text that is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reference: eight letters and digits such as 4QX7-93KD are expected")]
pub struct BadReference;

impl FromStr for Reference {
    type Err = BadReference;

    /// Any case, with or without the hyphen; I and L are read as 1, O as 0 (Crockford).
    fn from_str(text: &str) -> Result<Self, BadReference> {
        let digits = text.trim().bytes().filter(|byte| *byte != b'-');
        let value = number(digits, REFERENCE_DIGITS).ok_or(BadReference)?;
        u64::try_from(value).map(Self).map_err(|_| BadReference)
    }
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token")]
pub struct BadToken;

impl FromStr for Token {
    type Err = BadToken;

    /// Any case. A short reference is none.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        number(text.bytes(), TOKEN_DIGITS).map(Self).ok_or(BadToken)
    }
}

/// A text for the files: whoever reads them must not open pages with what he finds. What has the form of a token goes.
pub(super) fn without_tokens(text: &str) -> String {
    let is_token = |word: &str| word.parse::<Token>().is_ok();
    let ends_word = |c: char| !c.is_ascii_alphanumeric();
    let parts = text.split_inclusive(ends_word).map(|part| {
        let end = part.trim_end_matches(ends_word);
        if is_token(end) { format!("...{}", &part[end.len()..]) } else { part.to_owned() }
    });
    parts.collect()
}

/// The digit at a place, the first being the highest.
fn digit(value: u128, digits: u32, at: u32) -> char {
    let value = value >> (BITS_PER_DIGIT * (digits - 1 - at));
    char::from(DIGITS[(value & 31) as usize])
}

/// Exactly so many digits as a number; `None` also where it has more bits than 128.
fn number(text: impl Iterator<Item = u8>, digits: u32) -> Option<u128> {
    let mut value: u128 = 0;
    let mut count = 0;
    for byte in text {
        let digit = match byte.to_ascii_uppercase() {
            b'I' | b'L' => 1,
            b'O' => 0,
            byte => DIGITS.iter().position(|digit| *digit == byte)?,
        };
        count += 1;
        let room = value.leading_zeros() >= BITS_PER_DIGIT;
        if count > digits || !room {
            return None;
        }
        value = value << BITS_PER_DIGIT | digit as u128;
    }
    (count == digits).then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_that_look_like_digits_are_read_as_digits() {
        assert_eq!("OIL0-0000".parse::<Reference>(), "0110-0000".parse());
        for text in ["", "4QX7-93K", "4QX7-93KDA", "4QX7-93KU", "ÄÄÄÄ"] {
            assert_eq!(text.parse::<Reference>(), Err(BadReference), "{text}");
        }
    }

    #[test]
    fn a_token_leads_to_its_reference_and_not_back() {
        let name = Name::random(true);
        let token = name.token.unwrap();
        assert_eq!(token.to_string().len(), 26);
        assert_eq!(token.to_string().to_lowercase().parse(), Ok(token));
        assert_eq!(token.reference(), name.reference);
        assert_eq!(token.fingerprint().len(), 64);
        for text in [name.reference.to_string(), "Z".repeat(26), "0".repeat(25), "0".repeat(27)] {
            assert_eq!(text.parse::<Token>(), Err(BadToken), "{text}");
        }
        assert!(!format!("{name:?}").contains(&token.to_string()));
        assert_eq!(Name::random(false).token, None);
    }

    #[test]
    fn slips_of_a_finger_are_near() {
        let meant: Reference = "4QX7-93KD".parse().unwrap();
        for typed in ["4QX7-93KE", "5QX7-93KD", "4XQ7-93KD", "4QX9-73KD"] {
            let typed: Reference = typed.parse().unwrap();
            assert!(typed.near().any(|near| near == meant), "{typed}");
            assert!(typed.near().all(|near| near != typed), "{typed}");
        }
        assert!(!"4QX7-93EE".parse::<Reference>().unwrap().near().any(|near| near == meant));
        assert_eq!(meant.near().count(), 8 * 31 + 7);
    }

    proptest! {
        #[test]
        fn every_reference_reads_back(value in 0u64..1 << REFERENCE_BITS) {
            let text = Reference(value).to_string();
            prop_assert_eq!(text.len(), 9);
            prop_assert_eq!(text.parse(), Ok(Reference(value)));
        }

        #[test]
        fn every_token_reads_back(value in any::<u128>()) {
            prop_assert_eq!(Token(value).to_string().parse(), Ok(Token(value)));
        }
    }
}
