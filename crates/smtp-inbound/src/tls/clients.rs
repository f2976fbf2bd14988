//! Certificates of clients: asked for, never required.
//!
//! A handshake takes any certificate whose key the client has proved to hold. What it is worth is a question apart: a
//! fingerprint always counts; names count where `tls.client_ca` has signed them, for clients, and not too long ago.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::digest::{SHA256, digest};
use postern_policy::relay::Certificate;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::TlsError;
use super::certificates::certificates;

/// Takes any certificate. Whether the client has its key is verified by the signatures: a handshake without that proof fails,
/// as a session that is resumed later would bring the certificate along unproved.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: some clients would show only certificates of the authorities named here.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Says what certificates are worth.
#[derive(Debug)]
pub(super) struct Judge {
    /// Without authorities no name counts.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
}

impl Judge {
    /// Blocking: the authorities are a file.
    pub(super) fn load(client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let Some(path) = client_ca else { return Ok(Self { authorities: None }) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        // It fails without roots only, and a file without certificates was refused.
        Ok(Self { authorities: Some(verifier.map_err(|_| TlsError::NoCertificate(path.to_owned()))?) })
    }

    /// What counts of a chain that a client has shown, leaf first.
    pub(super) fn certificate(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<Certificate> {
        let (leaf, intermediates) = chain.split_first()?;
        let sha256 = digest(&SHA256, leaf).as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let is_signed = |authorities: &Arc<dyn ClientCertVerifier>| {
            authorities.verify_client_cert(leaf, intermediates, now).is_ok()
        };
        let names = match self.authorities.as_ref().is_some_and(is_signed) {
            true => dns_names(leaf),
            false => Vec::new(),
        };
        Some(Certificate { sha256, names })
    }
}

fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else { return Vec::new() };
    leaf.valid_dns_names().map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::{Read, Write};
    use std::time::Duration;

    use postern_config::{ListenerKind, Tls};
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        date_time_ymd,
    };
    use rustls::sign::CertifiedKey;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
    use rustls_pki_types::PrivateKeyDer;
    use tempfile::TempDir;

    use super::super::testing::{client, handshake, pass};
    use super::super::{ServerTls, Tickets, load};
    use super::*;

    /// Within the life of certificates that have no other.
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_284_325)
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate of a client, with its key.
    struct Shown {
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    }

    fn issued(by: &CertifiedIssuer<'static, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = CertificateParams::new(["GW.proseware.test".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, by).unwrap();
        Shown {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// A server that asks for certificates, and knows this authority.
    fn server(folder: &TempDir, ca: &CertifiedIssuer<'static, KeyPair>) -> ServerTls {
        let own = rcgen::generate_simple_self_signed(["mail.proseware.test".to_owned()]).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let tls = Tls {
            client_ca: Some(file("ca.pem", ca.pem())),
            ..Tls::new(file("cert.pem", own.cert.pem()), file("key.pem", own.signing_key.serialize_pem()))
        };
        load(&tls, vec![ListenerKind::Mx], &Arc::new(Tickets::new().unwrap())).unwrap()
    }

    fn proved(shown: &Shown) -> CertifiedKey {
        let key = aws_lc_rs::sign::any_supported_type(&shown.key).unwrap();
        CertifiedKey::new(shown.chain.clone(), key)
    }

    /// A handshake at the MX port, and what the server knows of the client behind it.
    fn shake(
        server: &ServerTls,
        client: &Arc<ClientConfig>,
        now: SystemTime,
    ) -> Result<(Option<Certificate>, HandshakeKind), rustls::Error> {
        shake_at(ListenerKind::Mx, server, client, now)
    }

    fn shake_at(
        listener: ListenerKind,
        server: &ServerTls,
        client: &Arc<ClientConfig>,
        now: SystemTime,
    ) -> Result<(Option<Certificate>, HandshakeKind), rustls::Error> {
        let (mut theirs, mut ours) = handshake(server.handshake(listener).config(), client, NAME)?;
        // Data shows that both mean the same keys.
        theirs.writer().write_all(b"EHLO").unwrap();
        pass(&mut |out| theirs.write_tls(out), &mut |mut input| ours.read_tls(&mut input));
        ours.process_new_packets()?;
        let mut said = [0; 4];
        ours.reader().read_exact(&mut said).unwrap();
        Ok((server.client_certificate(&ours, now), ours.handshake_kind().unwrap()))
    }

    const NAME: &str = "mail.proseware.test";

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

    #[test]
    fn a_certificate_is_asked_for_and_not_required() {
        let (folder, ca) = (TempDir::new().unwrap(), authority());
        let server = server(&folder, &ca);
        let gateway = issued(&ca, |_| {});
        for version in VERSIONS {
            let (none, _) = shake(&server, &client(version, None), now()).unwrap();
            assert_eq!(none, None);
            let (shown, _) = shake(&server, &client(version, Some(proved(&gateway))), now()).unwrap();
            let shown = shown.unwrap();
            assert_eq!(shown.names, ["gw.proseware.test"]);
            let expected: String = digest(&SHA256, &gateway.chain[0])
                .as_ref()
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect();
            assert_eq!(shown.sha256, expected);
        }
    }

    #[test]
    fn names_count_only_from_the_authority_for_clients_and_in_time() {
        let (folder, ca) = (TempDir::new().unwrap(), authority());
        let server = server(&folder, &ca);
        let expired = |params: &mut CertificateParams| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2026, 1, 1);
        };
        let for_servers = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        };
        let for_clients = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        let names = |shown: &Shown| {
            let client = client(&TLS13, Some(proved(shown)));
            shake(&server, &client, now()).unwrap().0.unwrap().names
        };
        assert_eq!(names(&issued(&ca, for_clients)), ["gw.proseware.test"]);
        assert!(names(&issued(&authority(), |_| {})).is_empty());
        assert!(names(&issued(&ca, expired)).is_empty());
        assert!(names(&issued(&ca, for_servers)).is_empty());
    }

    #[test]
    fn a_resumed_session_keeps_the_certificate_and_looks_at_its_end_again() {
        let (folder, ca) = (TempDir::new().unwrap(), authority());
        let server = server(&folder, &ca);
        let gateway = issued(&ca, |params| {
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2027, 1, 1);
        });
        for version in VERSIONS {
            let client = client(version, Some(proved(&gateway)));
            let (first, kind) = shake(&server, &client, now()).unwrap();
            assert_ne!(kind, HandshakeKind::Resumed);
            let (again, kind) = shake(&server, &client, now()).unwrap();
            assert_eq!((&again, kind), (&first, HandshakeKind::Resumed));
            let later = now() + Duration::from_secs(365 * 86_400);
            let (expired, kind) = shake(&server, &client, later).unwrap();
            assert_eq!(kind, HandshakeKind::Resumed);
            assert_eq!(expired.unwrap().names, Vec::<String>::new());
        }
    }

    #[test]
    fn the_certificate_of_somebody_else_is_no_use_without_its_key() {
        let (folder, ca) = (TempDir::new().unwrap(), authority());
        let server = server(&folder, &ca);
        let (gateway, thief) = (issued(&ca, |_| {}), issued(&ca, |_| {}));
        for version in VERSIONS {
            let key = aws_lc_rs::sign::any_supported_type(&thief.key).unwrap();
            let stolen = client(version, Some(CertifiedKey::new(gateway.chain.clone(), key)));
            assert!(shake(&server, &stolen, now()).is_err());
        }
    }

    #[test]
    fn certificates_are_asked_for_on_listeners_where_they_are_of_use() {
        let (folder, ca) = (TempDir::new().unwrap(), authority());
        let server = server(&folder, &ca);
        let gateway = issued(&ca, |_| {});
        for version in VERSIONS {
            let client = client(version, Some(proved(&gateway)));
            let (shown, _) = shake_at(ListenerKind::Submission, &server, &client, now()).unwrap();
            assert_eq!(shown, None);
            // A session in which nobody asked is not resumed where one asks: the client would not be known.
            let (shown, kind) = shake(&server, &client, now()).unwrap();
            assert!(shown.is_some() && kind != HandshakeKind::Resumed, "{kind:?}");
        }
    }
}
