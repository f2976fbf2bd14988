//! What the configuration names, as the library has it.

use postern_config::Tls;
use postern_config::tls::TlsVersion;
use postern_config::tls::algorithms::CIPHERS;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::TlsError;

/// The cipher suites and groups of the configuration, in its order.
pub(super) fn provider(config: &Tls) -> Result<CryptoProvider, TlsError> {
    let suite =
        |name: &str| ALL_CIPHER_SUITES.iter().find(|suite| self::name(**suite) == Some(name)).copied();
    let cipher_suites = config.cipher_suites()?.iter().filter_map(|cipher| suite(cipher.name)).collect();
    let kx_groups = config.key_exchange_groups()?.iter().filter_map(|wanted| group(wanted.name)).collect();
    Ok(CryptoProvider { cipher_suites, kx_groups, ..default_provider() })
}

/// The versions from this one on.
pub(super) fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static FROM_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
    match oldest {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_3,
    }
}

/// The name that IANA has for a cipher suite: the library calls those of TLS 1.3 otherwise.
pub(super) fn name(suite: SupportedCipherSuite) -> Option<&'static str> {
    let suite = suite.suite();
    let name = suite.as_str()?;
    let rest = name.strip_prefix("TLS13_").or_else(|| name.strip_prefix("TLS_"))?;
    CIPHERS.iter().map(|cipher| cipher.name).find(|known| known.strip_prefix("TLS_") == Some(rest))
}

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    let is_meant = |group: &&&dyn SupportedKxGroup| {
        group.name().as_str().is_some_and(|known| known.eq_ignore_ascii_case(name))
    };
    ALL_KX_GROUPS.iter().find(is_meant).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::tls::algorithms::GROUPS;

    use super::*;

    fn tls(ciphers: &[&str], groups: &[&str]) -> Tls {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tls { ciphers: owned(ciphers), groups: owned(groups), ..Tls::new("a".into(), "b".into()) }
    }

    #[test]
    fn every_name_of_the_configuration_is_known_to_the_library() {
        assert_eq!(CIPHERS.len(), ALL_CIPHER_SUITES.len());
        assert_eq!(GROUPS.len(), ALL_KX_GROUPS.len());
        for suite in ALL_CIPHER_SUITES {
            assert!(name(*suite).is_some(), "{suite:?}");
            let (is_12, is_13) = (suite.version() == &TLS12, suite.version() == &TLS13);
            let named = CIPHERS.iter().find(|cipher| Some(cipher.name) == name(*suite)).unwrap();
            assert_eq!((named.tls12, named.tls13), (is_12, is_13), "{suite:?}");
        }
        for named in &GROUPS {
            let group = group(named.name).unwrap_or_else(|| panic!("{}", named.name));
            assert_eq!(named.tls12, group.usable_for_version(TLS12.version), "{}", named.name);
            assert_eq!(named.tls13, group.usable_for_version(TLS13.version), "{}", named.name);
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let (ours, theirs) = (provider(&tls(&["default"], &["default"])).unwrap(), default_provider());
        assert_eq!(ours.cipher_suites, theirs.cipher_suites);
        let names = |provider: &CryptoProvider| -> Vec<_> {
            provider.kx_groups.iter().map(|group| group.name()).collect()
        };
        assert_eq!(names(&ours), names(&theirs));
    }

    #[test]
    fn a_list_keeps_its_order() {
        let wanted = ["TLS_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"];
        let provider = provider(&tls(&wanted, &["P-384", "x25519"])).unwrap();
        let names: Vec<_> = provider.cipher_suites.iter().map(|suite| name(*suite).unwrap()).collect();
        assert_eq!(names, ["TLS_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(provider.kx_groups[0].name(), rustls::NamedGroup::secp384r1);
        assert!(super::provider(&tls(&["RC4-SHA"], &["default"])).is_err());
    }
}
