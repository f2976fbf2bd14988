#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use postern_config::tls::TlsVersion;
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tempfile::TempDir;

use super::testing::{client, handshake, old_client};
use super::*;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A certificate with its key, in PEM.
struct Issued {
    certificate: String,
    key: String,
    leaf: Vec<u8>,
}

fn issued_as(names: &[&str], kind: &'static SignatureAlgorithm) -> Issued {
    let key = KeyPair::generate_for(kind).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = date_time_ymd(2027, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    Issued { certificate: certificate.pem(), key: key.serialize_pem(), leaf: certificate.der().to_vec() }
}

fn issued(names: &[&str]) -> Issued {
    issued_as(names, &rcgen::PKCS_ECDSA_P256_SHA256)
}

fn put(folder: &Path, stem: &str, issued: &Issued) -> postern_config::tls::Certificate {
    let (certificate, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
    fs::write(&certificate, &issued.certificate).unwrap();
    fs::write(&key, &issued.key).unwrap();
    postern_config::tls::Certificate { certificate, key, names: Vec::new() }
}

fn tls(folder: &Path, default: &Issued) -> Tls {
    let pair = put(folder, "default", default);
    Tls::new(pair.certificate, pair.key)
}

fn tickets() -> Arc<Tickets> {
    Arc::new(Tickets::new().unwrap())
}

fn loaded(config: &Tls) -> ServerTls {
    load(config, Vec::new(), &tickets()).unwrap()
}

/// The certificate that a client gets that asks for this name.
fn shown_to(client: &Arc<ClientConfig>, server: &ServerTls, name: &str) -> Vec<u8> {
    let (theirs, _) = handshake(server.handshake(ListenerKind::Mx).config(), client, name).unwrap();
    theirs.peer_certificates().unwrap()[0].to_vec()
}

fn kind(client: &Arc<ClientConfig>, server: &ServerTls, listener: ListenerKind) -> HandshakeKind {
    let (_, ours) = handshake(server.handshake(listener).config(), client, "mail.proseware.test").unwrap();
    ours.handshake_kind().unwrap()
}

#[test]
fn only_a_key_that_fits_its_certificate_is_taken() {
    let folder = TempDir::new().unwrap();
    let (own, other) = (issued(&["mail.proseware.test"]), issued(&["mail.proseware.test"]));
    let config = tls(folder.path(), &own);
    let error = || load(&config, Vec::new(), &tickets()).unwrap_err();
    loaded(&config);

    fs::write(&config.key, &other.key).unwrap();
    let mixed = error();
    assert!(matches!(mixed, TlsError::KeyMismatch { .. }), "{mixed:?}");
    assert!(mixed.to_string().contains("default.key is not the key of"), "{mixed}");
    assert!(mixed.help().unwrap().contains("of one renewal"));
    fs::write(&config.key, "not PEM").unwrap();
    assert!(matches!(error(), TlsError::Pem { .. }));
    fs::remove_file(&config.key).unwrap();
    let gone = error();
    assert!(
        matches!(gone, TlsError::Unreadable { .. })
            && gone.to_string().contains("default.key: cannot be read")
    );
    fs::write(&config.certificate, "").unwrap();
    assert!(matches!(error(), TlsError::NoCertificate(_)));
    // As it is while it is being written.
    fs::write(&config.certificate, &own.certificate[..own.certificate.len() / 2]).unwrap();
    let half = error().to_string();
    assert!(half.contains("ends in the middle: -----END CERTIFICATE----- is missing"), "{half}");
}

#[test]
fn clients_get_the_certificate_of_the_name_that_they_ask_for() {
    let folder = TempDir::new().unwrap();
    let default = issued(&["mail.proseware.test"]);
    let (adatum, wild) = (issued(&["MX.adatum.test", "adatum.test"]), issued(&["*.thephone-company.test"]));
    let named = issued(&["something.else.test"]);
    let mut config = tls(folder.path(), &default);
    config.certificates.push(put(folder.path(), "adatum", &adatum));
    config.certificates.push(put(folder.path(), "wild", &wild));
    config.certificates.push(put(folder.path(), "named", &named));
    config.certificates[2].names = vec!["Given.test".to_owned()];
    let server = loaded(&config);
    assert!(server.warnings().is_empty(), "{:?}", server.warnings());
    for version in VERSIONS {
        let client = client(version, None);
        for (name, expected) in [
            ("mail.proseware.test", &default),
            ("mx.ADATUM.test", &adatum),
            ("adatum.test", &adatum),
            ("in.thephone-company.test", &wild),
            // A star is one label, and at least one (RFC 9525 §6.3).
            ("a.b.thephone-company.test", &default),
            ("thephone-company.test", &default),
            ("given.test", &named),
            ("something.else.test", &default),
            ("unknown.test", &default),
            ("192.0.2.1", &default),
        ] {
            assert!(shown_to(&client, &server, name) == expected.leaf, "{name}");
        }
    }
}

#[test]
fn rsa_stands_beside_ecdsa_for_clients_that_know_nothing_else() {
    let folder = TempDir::new().unwrap();
    let names = &["mail.proseware.test"];
    let (ecdsa, rsa) = (issued(names), issued_as(names, &rcgen::PKCS_RSA_SHA256));
    // Whichever is the default.
    for (default, other) in [(&ecdsa, &rsa), (&rsa, &ecdsa)] {
        let mut config = tls(folder.path(), default);
        config.certificates.push(put(folder.path(), "other", other));
        let server = loaded(&config);
        for version in VERSIONS {
            for name in ["mail.proseware.test", "unknown.test", "192.0.2.1"] {
                assert!(shown_to(&client(version, None), &server, name) == ecdsa.leaf, "{name}");
                assert!(shown_to(&old_client(version), &server, name) == rsa.leaf, "{name}");
            }
        }
    }
}

#[test]
fn a_certificate_that_no_client_gets_is_warned_of() {
    let folder = TempDir::new().unwrap();
    let mut config = tls(folder.path(), &issued(&["mail.proseware.test", "proseware.test"]));
    config.certificates.push(put(folder.path(), "same", &issued(&["mail.proseware.test"])));
    config.certificates.push(put(folder.path(), "nameless", &issued(&[])));
    let warnings = loaded(&config).warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("same.pem: an earlier certificate") && warnings[1].contains("set `names`"));
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_configuration() {
    let folder = TempDir::new().unwrap();
    let mut config = tls(folder.path(), &issued(&["mail.proseware.test"]));
    config.min_version = TlsVersion::V1_3;
    config.ciphers = vec!["TLS_CHACHA20_POLY1305_SHA256".to_owned(), "TLS_AES_128_GCM_SHA256".to_owned()];
    let server = loaded(&config);
    let config = server.handshake(ListenerKind::Mx).config();
    assert!(handshake(config.clone(), &client(&TLS12, None), "a.test").is_err());
    let (_, ours) = handshake(config, &client(&TLS13, None), "a.test").unwrap();
    let expected = Protection { version: "TLSv1.3", cipher: "TLS_CHACHA20_POLY1305_SHA256" };
    assert_eq!(Protection::of(&ours), expected);
}

#[test]
fn sessions_are_resumed_at_every_listener_and_after_a_renewal() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (issued(&["mail.proseware.test"]), issued(&["mail.proseware.test"]));
    for version in VERSIONS {
        let tickets = tickets();
        let config = tls(folder.path(), &first);
        let server = load(&config, Vec::new(), &tickets).unwrap();
        let client = client(version, None);
        assert_eq!(kind(&client, &server, ListenerKind::Mx), HandshakeKind::Full);
        assert_eq!(kind(&client, &server, ListenerKind::Submissions), HandshakeKind::Resumed);
        tls(folder.path(), &second);
        let server = load(&config, Vec::new(), &tickets).unwrap();
        assert_eq!(kind(&client, &server, ListenerKind::Mx), HandshakeKind::Resumed);
        let without = Tls { session_tickets: false, ..config };
        let server = load(&without, Vec::new(), &tickets).unwrap();
        assert_eq!(kind(&client, &server, ListenerKind::Mx), HandshakeKind::Full);
        assert_eq!(kind(&client, &server, ListenerKind::Mx), HandshakeKind::Full);
    }
}

#[test]
fn logins_are_bound_to_the_certificate_that_was_shown() {
    let folder = TempDir::new().unwrap();
    let (default, other) = (issued(&["mail.proseware.test"]), issued(&["adatum.test"]));
    let mut config = tls(folder.path(), &default);
    config.certificates.push(put(folder.path(), "adatum", &other));
    let tickets = tickets();
    let server = load(&config, Vec::new(), &tickets).unwrap();
    let bound_to = |server: &ServerTls, client: &Arc<ClientConfig>, name: &str| {
        let begun = server.handshake(ListenerKind::Submission);
        let (_, ours) = handshake(begun.config(), client, name).unwrap();
        let bindings = server.channel_bindings(&ours, &begun);
        assert!(bindings.exporter.is_some());
        (bindings.server_end_point, ours.handshake_kind().unwrap())
    };
    let end_point = |issued: &Issued| binding::server_end_point(&issued.leaf.clone().into());
    let client = client(&TLS13, None);
    assert_eq!(bound_to(&server, &client, "adatum.test").0, end_point(&other));
    assert_eq!(bound_to(&server, &client, "unknown.test").0, end_point(&default));
    assert_eq!(bound_to(&server, &client, "adatum.test"), (end_point(&other), HandshakeKind::Resumed));
    // The session is as old as the certificate before.
    let renewed = issued(&["adatum.test"]);
    put(folder.path(), "adatum", &renewed);
    let server = load(&config, Vec::new(), &tickets).unwrap();
    assert_eq!(bound_to(&server, &client, "adatum.test"), (None, HandshakeKind::Resumed));
    let new_client = testing::client(&TLS13, None);
    assert_eq!(bound_to(&server, &new_client, "adatum.test").0, end_point(&renewed));
}

#[test]
fn what_cannot_be_renewed_stays_and_the_rest_is_renewed() {
    let folder = TempDir::new().unwrap();
    let (default, other) = (issued(&["mail.proseware.test"]), issued(&["adatum.test"]));
    let mut config = tls(folder.path(), &default);
    config.certificates.push(put(folder.path(), "adatum", &other));
    let server = loaded(&config);
    assert!(!server.files_changed());

    let (renewed, half) = (issued(&["mail.proseware.test"]), issued(&["adatum.test"]));
    put(folder.path(), "default", &renewed);
    // The certificate is there, its key not yet.
    fs::write(&config.certificates[0].certificate, &half.certificate).unwrap();
    assert!(server.files_changed());
    let Renewal { server: next, failures } = server.renew();
    let next = next.unwrap();
    assert!(matches!(&failures[..], [TlsError::KeyMismatch { .. }]), "{failures:?}");
    assert!(!next.shows_the_same(&server));
    // Another one each time: a session that is resumed has the certificate of its first handshake.
    let client = || client(&TLS13, None);
    assert!(shown_to(&client(), &next, "mail.proseware.test") == renewed.leaf);
    assert!(shown_to(&client(), &next, "adatum.test") == other.leaf);

    // It is looked at again even if the time of a file does not tell.
    assert!(next.files_changed());
    fs::write(&config.certificates[0].key, &half.key).unwrap();
    let Renewal { server: last, failures } = next.renew();
    let last = last.unwrap();
    assert!(failures.is_empty() && !last.files_changed(), "{failures:?}");
    assert!(shown_to(&client(), &last, "adatum.test") == half.leaf);
}

#[test]
fn the_end_of_a_certificate_is_known() {
    let folder = TempDir::new().unwrap();
    let server = loaded(&tls(folder.path(), &issued(&["mail.proseware.test"])));
    let shown = server.certificates().next().unwrap();
    let (day, end) = (Duration::from_secs(86_400), UNIX_EPOCH + Duration::from_secs(1_798_761_600));
    assert_eq!((shown.not_after, shown.name()), (Some(end), "mail.proseware.test"));
    assert_eq!(shown.standing(14 * day, end - 15 * day), Standing::Good);
    assert_eq!(shown.standing(14 * day, end - 14 * day), Standing::EndsSoon(end));
    assert_eq!(shown.standing(14 * day, end), Standing::Expired(end));
    let shown = Shown { certificate: "/etc/postern/tls/fullchain.pem".into(), ..shown.clone() };
    let told = |left: Duration| shown.told(Standing::EndsSoon(end), end - left);
    assert_eq!(
        told(13 * day + day / 2),
        format!(
            "the certificate /etc/postern/tls/fullchain.pem ({}) ends in 13 days, at 2027-01-01T00:00:00Z: renew it",
            shown.name()
        )
    );
    assert!(told(day).contains("ends in a day,") && told(day / 2).contains("ends within a day,"));
    let expired = shown.told(Standing::Expired(end), end + day);
    assert!(expired.contains("expired at 2027-01-01T00:00:00Z"), "{expired}");
}

#[test]
fn a_key_that_is_broken_is_refused_with_its_file() {
    let folder = TempDir::new().unwrap();
    let config = tls(folder.path(), &issued(&["mail.proseware.test"]));
    let broken = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    fs::write(&config.key, broken).unwrap();
    let error = load(&config, Vec::new(), &tickets()).unwrap_err();
    assert!(matches!(error, TlsError::Key { .. }), "{error:?}");
    assert!(error.to_string().contains("default.key: the key cannot be used"));
}
