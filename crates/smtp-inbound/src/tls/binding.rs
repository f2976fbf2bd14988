//! What a login can be bound to of a TLS session: channel binding (RFC 9266, RFC 5929).

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use postern_policy::scram::ChannelBindings;
use rustls::{ProtocolVersion, ServerConnection};
use rustls_pki_types::CertificateDer;

/// RFC 9266 §2.
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
const EXPORTED_OCTETS: usize = 32;

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const CONTEXT_0: u8 = 0xa0;

/// `md5`, `sha1`, `sha256`, `sha384` and `sha512WithRSAEncryption` (RFC 8017 appendix C), by the last octet.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const RSA_PSS: u8 = 0x0a;
/// `ecdsa-with-SHA1` (RFC 5758 §3.2).
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
/// `ecdsa-with-SHA256`, `-SHA384` and `-SHA512`, by the last octet.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// The hashes themselves (RFC 4055 §2.1), by the last octet.
const HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// What this session has. Nothing before TLS 1.3: there clients would take `tls-unique`, which is broken without further
/// care (RFC 7627) and not offered here, and a login would fail that does well without.
pub(super) fn bindings(connection: &ServerConnection, end_point: Option<&Vec<u8>>) -> ChannelBindings {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return ChannelBindings::default();
    }
    let exported = connection.export_keying_material(vec![0; EXPORTED_OCTETS], LABEL, Some(b""));
    ChannelBindings { exporter: exported.ok(), server_end_point: end_point.cloned() }
}

/// `tls-server-end-point` (RFC 5929 §4.1): the certificate, hashed as it was for its signature, but never with a hash weaker
/// than SHA-256. `None`: its signature has no hash of its own.
pub(super) fn server_end_point(leaf: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (certificate, _) = element(leaf, SEQUENCE)?;
    let (_, rest) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    Some(digest(signature_hash(algorithm)?, leaf).as_ref().to_vec())
}

fn signature_hash(algorithm: &[u8]) -> Option<&'static Algorithm> {
    let (identifier, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    let (last, family) = identifier.split_last()?;
    match (family, last) {
        (RSA, 4 | 5 | 11) => Some(&SHA256),
        (RSA, 12) => Some(&SHA384),
        (RSA, 13) => Some(&SHA512),
        (RSA, &RSA_PSS) => pss_hash(parameters),
        (ECDSA, 2) => Some(&SHA256),
        (ECDSA, 3) => Some(&SHA384),
        (ECDSA, 4) => Some(&SHA512),
        _ if identifier == ECDSA_SHA1 => Some(&SHA256),
        _ => None,
    }
}

/// RSASSA-PSS says its hash in its parameters (RFC 4055 §3.1); SHA-1 where it says none.
fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    let Some((hash, _)) = element(parameters, CONTEXT_0) else { return Some(&SHA256) };
    let (hash, _) = element(hash, SEQUENCE)?;
    let (identifier, _) = element(hash, OBJECT_IDENTIFIER)?;
    match identifier.split_last()? {
        (1, HASHES) => Some(&SHA256),
        (2, HASHES) => Some(&SHA384),
        (3, HASHES) => Some(&SHA512),
        _ => None,
    }
}

/// The content of the element that DER begins with, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (short, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = match short {
        // The number of octets that the length itself has; a certificate has few.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
        }
        0..=0x7f => (usize::from(*short), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> CertificateDer<'static> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(["mail.proseware.test".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_certificate_is_hashed_as_for_its_signature() {
        for (algorithm, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&SHA384)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let leaf = certificate(algorithm);
            let expected = hash.map(|hash| digest(hash, &leaf).as_ref().to_vec());
            assert_eq!(server_end_point(&leaf), expected);
        }
    }

    #[test]
    fn signatures_of_rsa_say_their_hash_in_several_ways() {
        let algorithm = |last: u8, parameters: &[u8]| {
            let mut octets = vec![OBJECT_IDENTIFIER, 9];
            octets.extend_from_slice(RSA);
            octets.push(last);
            octets.extend_from_slice(parameters);
            signature_hash(&octets)
        };
        let hash = |last: u8| [&[SEQUENCE, 11, OBJECT_IDENTIFIER, 9], HASHES, &[last]].concat();
        let pss = |last: u8| [&[SEQUENCE, 15, CONTEXT_0, 13][..], &hash(last)].concat();
        assert_eq!(algorithm(5, &[5, 0]), Some(&SHA256));
        assert_eq!(algorithm(13, &[5, 0]), Some(&SHA512));
        assert_eq!(algorithm(RSA_PSS, &[SEQUENCE, 0]), Some(&SHA256));
        assert_eq!(algorithm(RSA_PSS, &pss(2)), Some(&SHA384));
        assert_eq!(algorithm(RSA_PSS, &pss(9)), None);
        assert_eq!(algorithm(99, &[]), None);
    }

    #[test]
    fn octets_that_are_no_certificate_have_no_end_point() {
        let leaf = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for length in 0..leaf.len().min(400) {
            assert_eq!(server_end_point(&CertificateDer::from(leaf[..length].to_vec())), None);
        }
        for octets in [&[SEQUENCE, 0x80][..], &[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], &[SEQUENCE, 0xff]] {
            assert_eq!(element(octets, SEQUENCE), None);
        }
    }
}
