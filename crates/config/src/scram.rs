//! SCRAM verifiers: what is kept of a password so that a client can prove that it knows it (RFC 5802 §3), as PostgreSQL
//! writes them: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// RFC 5802 §5.1: with fewer a stolen verifier is guessed at too cheaply.
const FEWEST_ITERATIONS: u32 = 4096;
/// The client computes them at every login: with more, mail programs give up.
const MOST_ITERATIONS: u32 = 2_000_000;
/// Octets of a salt. Shorter ones can be computed ahead; for logins that do not exist longer ones cannot be made up.
const SALT: std::ops::RangeInclusive<usize> = 8..=64;

/// The hash that a mechanism goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScramHash {
    /// SCRAM-SHA-1 (RFC 5802): for clients that know no better one.
    Sha1,
    /// SCRAM-SHA-256 (RFC 7677).
    Sha256,
}

impl ScramHash {
    /// The name of the mechanism without channel binding.
    pub fn mechanism(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }

    /// The name of the mechanism with channel binding.
    pub fn mechanism_plus(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1-PLUS",
            Self::Sha256 => "SCRAM-SHA-256-PLUS",
        }
    }

    /// Octets of the hash, and of all keys.
    pub fn octets(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// One verifier. Who has it can guess at the password, and can play the server to its owner; nothing prints it but
/// [`fmt::Display`], for the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// The hash.
    pub hash: ScramHash,
    /// How often it is applied to the password.
    pub iterations: u32,
    /// The salt; the client is told.
    pub salt: Vec<u8>,
    /// What the client's proof is compared with.
    pub stored_key: Vec<u8>,
    /// What the server proves itself with.
    pub server_key: Vec<u8>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = |octets: &[u8]| STANDARD.encode(octets);
        let (salt, stored, server) = (base64(&self.salt), base64(&self.stored_key), base64(&self.server_key));
        write!(f, "{}${}:{salt}${stored}:{server}", self.hash.mechanism(), self.iterations)
    }
}

/// A text that is no verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// It is written differently.
    #[error("no SCRAM verifier: it looks like SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")]
    Form,
    /// Too few iterations, or too many.
    #[error("{0} iterations: write {FEWEST_ITERATIONS} to {MOST_ITERATIONS}")]
    Iterations(u32),
    /// A salt or a key is too short or too long.
    #[error("the {0} has a wrong length")]
    Length(&'static str),
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let parts: Vec<&str> = text.split('$').collect();
        let [mechanism, work, keys] = parts[..] else { return Err(VerifierError::Form) };
        let hash =
            [ScramHash::Sha1, ScramHash::Sha256].into_iter().find(|hash| hash.mechanism() == mechanism);
        let pair =
            |text: &'_ str| text.split_once(':').map(|(one, other)| (one.to_owned(), other.to_owned()));
        let (Some(hash), Some((iterations, salt)), Some((stored, server))) = (hash, pair(work), pair(keys))
        else {
            return Err(VerifierError::Form);
        };
        let octets = |text: &str| STANDARD.decode(text).map_err(|_| VerifierError::Form);
        let verifier = Self {
            hash,
            iterations: iterations.parse().map_err(|_| VerifierError::Form)?,
            salt: octets(&salt)?,
            stored_key: octets(&stored)?,
            server_key: octets(&server)?,
        };
        verifier.check()
    }
}

impl Verifier {
    fn check(self) -> Result<Self, VerifierError> {
        if !(FEWEST_ITERATIONS..=MOST_ITERATIONS).contains(&self.iterations) {
            return Err(VerifierError::Iterations(self.iterations));
        }
        if !SALT.contains(&self.salt.len()) {
            return Err(VerifierError::Length("salt"));
        }
        for (name, key) in [("StoredKey", &self.stored_key), ("ServerKey", &self.server_key)] {
            if key.len() != self.hash.octets() {
                return Err(VerifierError::Length(name));
            }
        }
        Ok(self)
    }
}

/// A SASL mechanism that logins are taken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// PLAIN (RFC 4616).
    #[serde(rename = "plain")]
    Plain,
    /// LOGIN, for old programs.
    #[serde(rename = "login")]
    Login,
    /// SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-1 and SCRAM-SHA-1-PLUS (RFC 5802), for programs that know no better one.
    #[serde(rename = "scram-sha-1")]
    ScramSha1,
    /// EXTERNAL (RFC 4422): by a client certificate that an account lists.
    #[serde(rename = "external")]
    External,
    /// OAUTHBEARER (RFC 7628): by a token of the provider of `[auth.oauth]`.
    #[serde(rename = "oauthbearer")]
    OAuthBearer,
    /// XOAUTH2, the same as Google and Microsoft had it before.
    #[serde(rename = "xoauth2")]
    XOAuth2,
}

/// Reads a verifier where there may be one.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Verifier>, D::Error> {
    let text = String::deserialize(deserializer)?;
    // The text itself must not reach an error message: it is as good as a password hash.
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// As PostgreSQL has it: password, salt and keys of RFC 7677 §3.
    const SHA_256: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_verifier_is_read_as_it_is_written() {
        let verifier: Verifier = SHA_256.parse().unwrap();
        assert_eq!((verifier.hash, verifier.iterations, verifier.salt.len()), (ScramHash::Sha256, 4096, 16));
        assert_eq!(verifier.to_string(), SHA_256);
        assert!(!format!("{verifier:?}").contains("WG5d"));
    }

    #[test]
    fn what_cannot_be_worked_with_is_refused() {
        for (from, to, word) in [
            ("4096", "4095", "iterations"),
            ("4096", "2000001", "iterations"),
            ("4096", "-1", "looks like"),
            ("SCRAM-SHA-256", "SCRAM-SHA-512", "looks like"),
            ("SCRAM-SHA-256", "SCRAM-SHA-1", "StoredKey"),
            ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z", "salt"),
            ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEsUEjb6gQ", "looks like"),
            (":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", "", "looks like"),
            ("$4096", "$x$4096", "looks like"),
        ] {
            let error = SHA_256.replacen(from, to, 1).parse::<Verifier>().unwrap_err().to_string();
            assert!(error.contains(word), "{from} {to}: {error}");
        }
    }
}
