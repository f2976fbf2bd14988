//! The names of what TLS is made of here: cipher suites and groups of the key exchange, and the presets of both.

/// A cipher suite or a group.
#[derive(Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// The name in the registry of IANA.
    pub name: &'static str,
    /// What OpenSSL calls it, where that differs.
    pub aliases: &'static [&'static str],
    /// TLS 1.2 has it.
    pub tls12: bool,
    /// TLS 1.3 has it.
    pub tls13: bool,
    /// The presets that it belongs to.
    presets: &'static [&'static str],
}

/// A name that stands for no algorithm and no preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not known: there are {}", known.join(", "))]
pub struct Unknown {
    /// The name.
    pub name: String,
    /// Those that could stand there: presets, then algorithms.
    pub known: Vec<&'static str>,
}

/// The preset that holds where nothing is said.
pub const DEFAULT: &str = "default";
/// Keys of 256 bits, as some rules of organisations ask for.
const STRONG: &str = "strong";
/// What was known before quantum computers were feared.
const CLASSIC: &str = "classic";
/// Good against a quantum computer of later days, and with a curve inside in case the new part is broken.
const POST_QUANTUM: &str = "post-quantum";

/// Cipher suites. All have forward secrecy and authenticated encryption; there are no others in the library.
pub const CIPHERS: [Algorithm; 9] = [
    suite_13("TLS_AES_256_GCM_SHA384", &[DEFAULT, STRONG]),
    suite_13("TLS_AES_128_GCM_SHA256", &[DEFAULT]),
    suite_13("TLS_CHACHA20_POLY1305_SHA256", &[DEFAULT, STRONG]),
    suite_12(
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        &["ECDHE-ECDSA-AES256-GCM-SHA384"],
        &[DEFAULT, STRONG],
    ),
    suite_12("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", &["ECDHE-ECDSA-AES128-GCM-SHA256"], &[DEFAULT]),
    suite_12(
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        &["ECDHE-ECDSA-CHACHA20-POLY1305"],
        &[DEFAULT, STRONG],
    ),
    suite_12("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", &["ECDHE-RSA-AES256-GCM-SHA384"], &[DEFAULT, STRONG]),
    suite_12("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", &["ECDHE-RSA-AES128-GCM-SHA256"], &[DEFAULT]),
    suite_12(
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        &["ECDHE-RSA-CHACHA20-POLY1305"],
        &[DEFAULT, STRONG],
    ),
];

/// Groups of the key exchange.
pub const GROUPS: [Algorithm; 7] = [
    group_13("X25519MLKEM768", &[DEFAULT, POST_QUANTUM]),
    group_13("SecP256r1MLKEM768", &[POST_QUANTUM]),
    curve("x25519", &[]),
    curve("secp256r1", &["P-256", "prime256v1"]),
    curve("secp384r1", &["P-384"]),
    group_13("MLKEM768", &[]),
    group_13("MLKEM1024", &[]),
];

const fn suite_13(name: &'static str, presets: &'static [&'static str]) -> Algorithm {
    Algorithm { name, aliases: &[], tls12: false, tls13: true, presets }
}

const fn suite_12(
    name: &'static str,
    aliases: &'static [&'static str],
    presets: &'static [&'static str],
) -> Algorithm {
    Algorithm { name, aliases, tls12: true, tls13: false, presets }
}

const fn group_13(name: &'static str, presets: &'static [&'static str]) -> Algorithm {
    Algorithm { name, aliases: &[], tls12: false, tls13: true, presets }
}

const fn curve(name: &'static str, aliases: &'static [&'static str]) -> Algorithm {
    Algorithm { name, aliases, tls12: true, tls13: true, presets: &[DEFAULT, CLASSIC] }
}

impl Algorithm {
    fn is(&self, name: &str) -> bool {
        [self.name].iter().chain(self.aliases).any(|known| known.eq_ignore_ascii_case(name))
    }

    fn is_in(&self, preset: &str) -> bool {
        self.presets.iter().any(|known| known.eq_ignore_ascii_case(preset))
    }
}

/// Whether the name is that of a preset, not of an algorithm.
pub(super) fn is_preset(name: &str, all: &'static [Algorithm]) -> bool {
    all.iter().any(|algorithm| algorithm.is_in(name))
}

/// What a list of names and presets stands for, each once.
pub(super) fn select(
    names: &[String],
    all: &'static [Algorithm],
) -> Result<Vec<&'static Algorithm>, Unknown> {
    let mut selected: Vec<&Algorithm> = Vec::new();
    for name in names {
        let meant: Vec<&Algorithm> =
            all.iter().filter(|algorithm| algorithm.is(name) || algorithm.is_in(name)).collect();
        if meant.is_empty() {
            return Err(Unknown { name: name.clone(), known: known(all) });
        }
        for algorithm in meant {
            if !selected.contains(&algorithm) {
                selected.push(algorithm);
            }
        }
    }
    Ok(selected)
}

fn known(all: &'static [Algorithm]) -> Vec<&'static str> {
    let presets = [DEFAULT, STRONG, CLASSIC, POST_QUANTUM];
    let presets = presets.into_iter().filter(|preset| is_preset(preset, all));
    let names = all
        .iter()
        .flat_map(|algorithm| std::iter::once(algorithm.name).chain(algorithm.aliases.iter().copied()));
    presets.chain(names).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn names(wanted: &[&str], all: &'static [Algorithm]) -> Result<Vec<&'static str>, Unknown> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        Ok(select(&wanted, all)?.into_iter().map(|algorithm| algorithm.name).collect())
    }

    #[test]
    fn names_of_iana_and_openssl_are_one() {
        let wanted = [
            "ecdhe-rsa-aes128-gcm-sha256",
            "TLS_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ];
        let expected = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"];
        assert_eq!(names(&wanted, &CIPHERS).unwrap(), expected);
        assert_eq!(
            names(&["P-384", "prime256v1", "X25519"], &GROUPS).unwrap(),
            ["secp384r1", "secp256r1", "x25519"]
        );
    }

    #[test]
    fn presets_stand_for_their_members() {
        assert_eq!(names(&["default"], &CIPHERS).unwrap().len(), CIPHERS.len());
        let strong = names(&["strong"], &CIPHERS).unwrap();
        assert!(strong.len() == 6 && strong.iter().all(|name| !name.contains("128")), "{strong:?}");
        assert_eq!(names(&["classic"], &GROUPS).unwrap(), ["x25519", "secp256r1", "secp384r1"]);
        assert_eq!(names(&["default"], &GROUPS).unwrap()[0], "X25519MLKEM768");
        assert!(is_preset("Strong", &CIPHERS) && !is_preset("strong", &GROUPS));
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_there_are() {
        let error = names(&["default", "ECDHE-RSA-AES256-SHA"], &CIPHERS).unwrap_err();
        assert_eq!(error.name, "ECDHE-RSA-AES256-SHA");
        assert!(error.known.contains(&"strong") && error.known.contains(&"ECDHE-RSA-AES256-GCM-SHA384"));
        assert!(!error.known.contains(&"classic"));
    }
}
