//! Handshakes in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Trusts every server whose key is of a kind that it takes.
#[derive(Debug)]
struct Trusting {
    algorithms: WebPkiSupportedAlgorithms,
    rsa_only: bool,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let is_rsa = |scheme: &SignatureScheme| format!("{scheme:?}").starts_with("RSA");
        let schemes = self.algorithms.supported_schemes().into_iter();
        schemes.filter(|scheme| !self.rsa_only || is_rsa(scheme)).collect()
    }
}

/// A client of one version, which shows this certificate when it is asked.
pub(super) fn client(
    version: &'static SupportedProtocolVersion,
    shown: Option<CertifiedKey>,
) -> Arc<ClientConfig> {
    built(version, shown, false)
}

/// A client that knows RSA only.
pub(super) fn old_client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    built(version, None, true)
}

fn built(
    version: &'static SupportedProtocolVersion,
    shown: Option<CertifiedKey>,
    rsa_only: bool,
) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting { algorithms, rsa_only }));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(64);
    Arc::new(config)
}

/// A handshake of a client that asks for this name; an address asks for none.
pub(super) fn handshake(
    server: Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut theirs = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut ours = ServerConnection::new(server).unwrap();
    // Twice around is enough for every handshake; tickets come behind it.
    for _ in 0..8 {
        pass(&mut |out| theirs.write_tls(out), &mut |mut input| ours.read_tls(&mut input));
        ours.process_new_packets()?;
        pass(&mut |out| ours.write_tls(out), &mut |mut input| theirs.read_tls(&mut input));
        theirs.process_new_packets()?;
    }
    assert!(!ours.is_handshaking() && !theirs.is_handshaking());
    Ok((theirs, ours))
}

/// Brings everything that one side has to say to the other.
pub(super) fn pass(
    write: &mut dyn FnMut(&mut Vec<u8>) -> std::io::Result<usize>,
    read: &mut dyn FnMut(&[u8]) -> std::io::Result<usize>,
) {
    let mut octets = Vec::new();
    while write(&mut octets).unwrap() > 0 {}
    let mut rest = &octets[..];
    while !rest.is_empty() {
        let taken = read(rest).unwrap();
        rest = &rest[taken..];
    }
}
