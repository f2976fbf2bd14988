//! A secret of this server: what is made up with it nobody else can foresee, and it stays the same over a restart.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

const OCTETS: usize = 32;

/// Random octets, until those of the last run are restored.
pub struct Secret(Mutex<[u8; OCTETS]>);

impl Default for Secret {
    fn default() -> Self {
        Self(Mutex::new(rand::random()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// The octets.
    pub(crate) fn octets(&self) -> [u8; OCTETS] {
        *self.0.lock()
    }

    /// As it is kept in a file.
    pub fn snapshot(&self) -> String {
        STANDARD.encode(self.octets())
    }

    /// Takes that of an earlier run; whether it was one. Otherwise the present one stays.
    pub fn restore(&self, kept: &str) -> bool {
        let octets = STANDARD.decode(kept).ok().and_then(|octets| octets.try_into().ok());
        octets.map(|octets| *self.0.lock() = octets).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_restored_and_damage_leaves_a_new_one() {
        let (one, other) = (Secret::default(), Secret::default());
        assert_ne!(one.octets(), other.octets());
        assert!(other.restore(&one.snapshot()));
        assert_eq!(one.octets(), other.octets());
        for damage in ["", "*", "AAAA"] {
            assert!(!other.restore(damage));
        }
        assert_eq!(one.octets(), other.octets());
        assert_eq!(format!("{one:?}"), "Secret(..)");
    }
}
