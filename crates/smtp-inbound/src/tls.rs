//! Certificate and key of this server; certificates of clients in `clients`, what logins can be bound to in `binding`, TLS as a client in
//! `trust`.

mod binding;
mod clients;
pub(crate) mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use postern_config::Tls;
use postern_policy::relay::Certificate;
use postern_policy::scram::ChannelBindings;
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use clients::{AnyCertificate, Judge};

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or is not PEM.
    #[error("{path}: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{0}: no certificate in it")]
    NoCertificate(PathBuf),
    /// An authority of clients that cannot be used.
    #[error("{path}: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// Key and certificate do not belong together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What handshakes need.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Where certificates of clients are asked for.
    clients: Option<Judge>,
    /// Our certificate as a kind of channel binding.
    end_point: Option<Vec<u8>>,
}

impl ServerTls {
    /// For the handshakes.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What counts of the certificate that the client has shown in a handshake with [`ServerTls::config`]. A session that is
    /// resumed has that of its first handshake.
    pub fn client_certificate(&self, connection: &ServerConnection, now: SystemTime) -> Option<Certificate> {
        self.clients.as_ref()?.certificate(connection.peer_certificates()?, now)
    }

    /// What a login can be bound to of a session whose handshake went with [`ServerTls::config`].
    pub fn channel_bindings(&self, connection: &ServerConnection) -> ChannelBindings {
        binding::bindings(connection, self.end_point.as_ref())
    }
}

/// Reads certificate and key, and, where clients are asked for their certificates, the authorities that sign those. Blocking:
/// they are files.
///
/// # Errors
/// See [`TlsError`]. At a reload the old ones stay in force then.
pub fn load(config: &Tls, asks_clients: bool) -> Result<ServerTls, TlsError> {
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|source| bad_pem(&config.key, source))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    // Who is not asked is not kept from a handshake by a certificate that we cannot read.
    let (builder, clients) = match asks_clients {
        false => (builder.with_no_client_auth(), None),
        true => {
            let verifier = Arc::new(AnyCertificate::new(&provider));
            let judge = Judge::load(config.client_ca.as_deref(), provider)?;
            (builder.with_client_cert_verifier(verifier), Some(judge))
        }
    };
    let end_point = chain.first().and_then(binding::server_end_point);
    let mut server = builder.with_single_cert(chain, key)?;
    server.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(ServerTls { config: Arc::new(server), clients, end_point })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::NoCertificate(path.to_owned())),
        Ok(chain) => Ok(chain),
        Err(source) => Err(bad_pem(path, source)),
    }
}

fn bad_pem(path: &Path, source: pem::Error) -> TlsError {
    TlsError::Pem { path: path.to_owned(), source }
}

/// How a session is protected, as Received fields and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

impl Protection {
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        Self { version, cipher: cipher.unwrap_or("unknown") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn files(directory: &Path, certificate: &str, key: &str) -> Tls {
        let tls =
            Tls { certificate: directory.join("cert.pem"), key: directory.join("key.pem"), client_ca: None };
        std::fs::write(&tls.certificate, certificate).unwrap();
        std::fs::write(&tls.key, key).unwrap();
        tls
    }

    #[test]
    fn only_a_key_that_fits_its_certificate_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["mail.proseware.test".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["mail.proseware.test".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        assert!(load(&files(directory.path(), &certificate, &key), false).is_ok());

        let other_key = other.signing_key.serialize_pem();
        let mixed = load(&files(directory.path(), &certificate, &other_key), false);
        assert!(matches!(mixed, Err(TlsError::Unusable(_))), "{mixed:?}");
        let empty = load(&files(directory.path(), "", &key), false);
        assert!(matches!(empty, Err(TlsError::NoCertificate(_))), "{empty:?}");
        let no_key = load(&files(directory.path(), &certificate, "not PEM"), false);
        assert!(matches!(no_key, Err(TlsError::Pem { .. })), "{no_key:?}");
    }
}
