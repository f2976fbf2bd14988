//! One password against one hash.

use std::fmt;

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use parking_lot::Mutex;
use postern_config::password_hash::{Format, format};
use sha_crypt::ShaCrypt;
use yescrypt::Yescrypt;

/// Octets of a password that is compared with a hash of another system: their work grows with it, and no person has a
/// longer one. (Bcrypt itself looks at the first 72, as everywhere.)
const LONGEST_PASSWORD: usize = 512;

/// A hash that can be computed here.
#[derive(Debug)]
pub(super) enum StoredHash {
    Argon2(Box<PasswordHash>),
    Bcrypt(String),
    ShaCrypt(String),
    Yescrypt(String),
}

impl StoredHash {
    /// `None`: it cannot be computed, so nobody can log in with it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let owned = || text.to_owned();
        match format(text).ok()? {
            Format::Argon2id => PasswordHash::new(text).ok().map(Box::new).map(Self::Argon2),
            Format::Bcrypt => Some(Self::Bcrypt(owned())),
            Format::ShaCrypt => Some(Self::ShaCrypt(owned())),
            Format::Yescrypt => Some(Self::Yescrypt(owned())),
        }
    }

    /// Whether the password has this hash. Takes long: a hash is made for it.
    pub(super) fn fits(&self, password: &[u8], scratch: &Scratch) -> bool {
        if let Self::Argon2(hash) = self {
            return scratch.fits(password, hash).unwrap_or(false);
        }
        // The other systems take a password to its first NUL, so it can have none.
        if password.len() > LONGEST_PASSWORD || password.contains(&0) {
            return false;
        }
        match self {
            Self::Argon2(_) => false,
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, hash.as_str()).is_ok(),
            Self::Yescrypt(hash) => Yescrypt::default().verify_password(password, hash.as_str()).is_ok(),
        }
    }
}

/// The memory of password checks, kept from one to the next: as many pieces as there were checks at once. Handed back to
/// the allocator after each check it would stay behind with every thread that ever made one.
#[derive(Default)]
pub(super) struct Scratch(pub(super) Mutex<Vec<Vec<Block>>>);

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// Whether the password has this hash. `None`: a hash that this program cannot compute.
    fn fits(&self, password: &[u8], hash: &PasswordHash) -> Option<bool> {
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(hash).ok()?;
        let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
        let blocks = params.block_count();
        let mut memory = self.0.lock().pop().unwrap_or_default();
        memory.try_reserve(blocks.saturating_sub(memory.len())).ok()?;
        memory.resize(blocks.max(memory.len()), Block::new());
        let mut found = vec![0; expected.len()];
        let argon2 = Argon2::new(algorithm, version, params);
        let computed =
            argon2.hash_password_into_with_memory(password, salt, &mut found, &mut memory[..blocks]);
        self.0.lock().push(memory);
        // Outputs are compared in constant time.
        computed.ok().and_then(|()| Output::new(&found).ok()).map(|found| found == *expected)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// Made with crypt(3) of libxcrypt, those of SHA-crypt also with `openssl passwd`.
    const CORRECT_HORSE: [&str; 7] = [
        "$2b$05$c2FsdHNhbHRzYWx0c2FsdO5ZIUSFkJXD56sUHLdpb5o61YZFYQXgq",
        "$2y$05$c2FsdHNhbHRzYWx0c2FsdO5ZIUSFkJXD56sUHLdpb5o61YZFYQXgq",
        "$5$saltstring$vc6YOOogU4kWVvwga8e9zTFgKcy4tb5LaPxIiPJzqEC",
        "$5$rounds=1000$saltstring$95Bg/RfV2QriLpMdLPHK9el0Ighm6E3CBqMKzZKgCa2",
        "$6$saltstring$.r0X7ub5wGR2v4Xz7svCIozfnlorFh19V89t8KC9Umd81uGhFgsyTRNyzQDXDIm17fFcR9z3z7oBNdsyYBbtm/",
        "$y$j75$F5Jx5fExrKuPp53xLKQ..1$aEFV0VcEI5Jx.rzUhLbfRgipTKSbuNF0ldHPkDpnco3",
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79",
    ];
    const CAFE: [&str; 3] = [
        "$2b$05$c2FsdHNhbHRzYWx0c2FsdOryLxeO6jxCFmkO11Y5kut7v0rB/zTxy",
        "$6$saltstring$iTVOyjtaxCkzjzX4/IF3TKSgXVGPdwBocMjGZLhMrup2QtQX/Ntad2qG5WCpmGPws0LZ/SYOvfqld.s1MYdmx.",
        "$y$j75$F5Jx5fExrKuPp53xLKQ..1$3aQZi0LFXGb.lLaBSg6saNNxunvXouLfV0HhH2shxNA",
    ];

    fn fits(hash: &str, password: &[u8]) -> bool {
        StoredHash::parse(hash).unwrap().fits(password, &Scratch::default())
    }

    #[test]
    fn hashes_of_other_systems_are_verified() {
        for hash in CORRECT_HORSE {
            assert!(fits(hash, b"correct horse"), "{hash}");
            for wrong in [&b"Correct horse"[..], b"", b"correct horse\0", &[b'x'; 513]] {
                assert!(!fits(hash, wrong), "{hash}");
            }
        }
        for hash in CAFE {
            assert!(fits(hash, "caf\u{e9}".as_bytes()) && !fits(hash, b"cafe"), "{hash}");
        }
    }

    #[test]
    fn hashes_that_cannot_be_worked_with_are_no_hashes() {
        for text in ["", "x", "$6$rounds=999999999$saltstring$x", "$y$jET$a$b", "$2b$31$short"] {
            assert!(StoredHash::parse(text).is_none(), "{text}");
        }
    }
}
