//! TLS as a client: the authorities, and handshakes that verify or only record.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// `outbound.ca_file` cannot be read.
    #[error("{path}: {problem}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS library refuses its own defaults.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    Clear,
    /// By TLS.
    Tls {
        /// TLS 1.2 or 1.3.
        version: &'static str,
        /// Whether the certificate is valid for the host name, whether or not that was required.
        verified: bool,
    },
}

impl Protection {
    /// `clear`, `untrusted` or `verified`: for metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Tls { verified: false, .. } => "untrusted",
            Self::Tls { verified: true, .. } => "verified",
        }
    }
}

impl fmt::Display for Protection {
    /// `clear`, `TLSv1.3 untrusted`, `TLSv1.3 verified`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("clear"),
            Self::Tls { version, .. } => write!(f, "{version} {}", self.kind()),
        }
    }
}

/// The client side of TLS for one configuration.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Verifies.
    verified: Arc<ClientConfig>,
    /// Judges certificates for the record; `None` if there is no authority at all.
    judge: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientTls {
    /// Reads the authorities of the system and of `ca_file`. Blocking.
    ///
    /// # Errors
    /// [`TlsSetupError`]. A system without authorities is no error: nothing is verified then.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for problem in &system.errors {
            tracing::warn!(%problem, "an authority of the system cannot be read");
        }
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca_file {
            add_file(&mut roots, path)?;
        }
        Self::with_roots(roots)
    }

    pub(crate) fn with_roots(roots: RootCertStore) -> Result<Self, TlsSetupError> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let judge =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone()).build();
        let mut verified = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session is not verified again, and would be recorded as the first one was.
        verified.resumption = Resumption::disabled();
        Ok(Self { verified: Arc::new(verified), judge: judge.ok(), algorithms })
    }

    /// A handshake. With `verify`, a certificate that is not valid for `name` ends it; without, it is only recorded.
    ///
    /// # Errors
    /// Those of the handshake.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
        verify: bool,
    ) -> io::Result<(TlsStream<TcpStream>, Protection)> {
        if verify {
            let stream = TlsConnector::from(self.verified.clone()).connect(name, stream).await?;
            let protection = Protection::Tls { version: version(&stream), verified: true };
            return Ok((stream, protection));
        }
        let recorder = Arc::new(Recorder {
            judge: self.judge.clone(),
            algorithms: self.algorithms,
            verified: AtomicBool::new(false),
        });
        let mut config = ClientConfig::clone(&self.verified);
        config.dangerous().set_certificate_verifier(recorder.clone());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let verified = recorder.verified.load(Ordering::Relaxed);
        let protection = Protection::Tls { version: version(&stream), verified };
        Ok((stream, protection))
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsSetupError> {
    let failed = |problem: String| TlsSetupError::CaFile { path: path.to_owned(), problem };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn version(stream: &TlsStream<TcpStream>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// Accepts every certificate and remembers whether it was good. Where nobody is authenticated, a bad certificate is still
/// better than no encryption.
#[derive(Debug)]
struct Recorder {
    judge: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    verified: AtomicBool,
}

impl Recorder {
    /// A signature that does not fit means that the other side does not own its certificate.
    fn record_signature(&self, result: &Result<HandshakeSignatureValid, rustls::Error>) {
        if result.is_err() {
            self.verified.store(false, Ordering::Relaxed);
        }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let good = self.judge.as_ref().is_some_and(|judge| {
            judge.verify_server_cert(end_entity, intermediates, name, ocsp, now).is_ok()
        });
        self.verified.store(good, Ordering::Relaxed);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.record_signature(&verify_tls12_signature(message, certificate, signature, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.record_signature(&verify_tls13_signature(message, certificate, signature, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::{Certificate, certificate};

    async fn shake(
        tls: &ClientTls,
        served: &Certificate,
        name: &str,
        verify: bool,
    ) -> io::Result<Protection> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = served.acceptor();
        let address = listener.local_addr().unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.ok()
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let shaking = async {
            let stream = TcpStream::connect(address).await.unwrap();
            tls.handshake(stream, name, verify).await.map(|(_, protection)| protection)
        };
        tokio::join!(serving, shaking).1
    }

    #[tokio::test]
    async fn certificates_are_recorded_and_only_required_where_asked() {
        let ours = certificate("mx.adatum.test");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, &ours.pem).unwrap();
        let knowing = ClientTls::new(Some(&file)).unwrap();
        let ignorant = ClientTls::with_roots(RootCertStore::empty()).unwrap();
        let kind = |result: io::Result<Protection>| result.map(Protection::kind).ok();
        assert_eq!(kind(shake(&knowing, &ours, "mx.adatum.test", true).await), Some("verified"));
        assert_eq!(kind(shake(&knowing, &ours, "mx.adatum.test", false).await), Some("verified"));
        assert_eq!(kind(shake(&knowing, &ours, "other.test", true).await), None);
        assert_eq!(kind(shake(&knowing, &ours, "other.test", false).await), Some("untrusted"));
        assert_eq!(kind(shake(&ignorant, &ours, "mx.adatum.test", true).await), None);
        assert_eq!(kind(shake(&ignorant, &ours, "mx.adatum.test", false).await), Some("untrusted"));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(ClientTls::new(Some(&file)).unwrap_err().to_string().contains("ca.pem"));
        assert!(ClientTls::new(Some(Path::new("/nonexistent.pem"))).is_err());
    }
}
