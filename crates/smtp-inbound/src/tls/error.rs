//! Why certificates and keys cannot be used, and what to do about it.

use std::io;
use std::path::PathBuf;

use postern_config::tls::algorithms::Unknown;
use rustls_pki_types::pem;

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is not PEM, or ends in the middle.
    #[error("{path}: {}", pem_text(source))]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{0}: no certificate in it")]
    NoCertificate(PathBuf),
    /// A certificate that cannot be read.
    #[error("{path}: the certificate cannot be read: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// A key of a kind that is not supported, or broken.
    #[error("{path}: the key cannot be used: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// A key that belongs to another certificate.
    #[error("{key} is not the key of the first certificate in {certificate}")]
    KeyMismatch {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// An authority of clients that cannot be used.
    #[error("{path}: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// A cipher suite or group that nobody knows.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// What the configuration allows cannot be spoken.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    pub(super) fn pem(path: &std::path::Path, source: pem::Error) -> Self {
        let path = path.to_owned();
        match source {
            pem::Error::Io(source) => Self::Unreadable { path, source },
            source => Self::Pem { path, source },
        }
    }

    /// What to do.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Unreadable { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                return Some(format!(
                    "let the user that posternd runs as read it, such as chgrp postern {0} && chmod g+r {0}, and enter its folders",
                    path.display()
                ));
            }
            Self::Unreadable { .. } => "look whether the path is right, and whether the link leads somewhere",
            Self::Pem { .. } | Self::NoCertificate(_) => {
                "it may be half-written: put the whole file there, in PEM"
            }
            Self::Certificate { .. } => "get the certificate anew",
            Self::Key { .. } => "take a key of ECDSA (P-256, P-384), Ed25519, or RSA from 2048 bits",
            Self::KeyMismatch { .. } => {
                "take both files of one renewal (with certbot fullchain.pem and privkey.pem of one folder), and put the server's \
                 own certificate first in the chain"
            }
            Self::Authority { .. } => "take the certificates of authorities, in PEM",
            Self::Unknown(_) | Self::Setup(_) => return None,
        };
        Some(help.to_owned())
    }
}

/// The library prints octets as numbers.
fn pem_text(error: &pem::Error) -> String {
    let lossy = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("the file ends in the middle: -----END {}----- is missing", lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => format!("not PEM: {:?}", lossy(line)),
        pem::Error::NoItemsFound => "nothing that is looked for is in it".to_owned(),
        other => format!("not PEM: {other}"),
    }
}
