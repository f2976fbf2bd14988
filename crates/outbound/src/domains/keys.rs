//! The public halves of DKIM keys, as they are published (RFC 6376 §3.6.1, RFC 8463 §4).

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_config::domain::Domain;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::sign::KeyError;

/// What is published of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Below `_domainkey` of the domain.
    pub selector: String,
    /// `rsa` or `ed25519`: the `k=` of the record.
    pub algorithm: &'static str,
    /// The `p=` of the record, decoded.
    pub octets: Vec<u8>,
}

impl PublicKey {
    /// The text of the TXT record.
    pub fn record(&self) -> String {
        format!("v=DKIM1; k={}; p={}", self.algorithm, STANDARD.encode(&self.octets))
    }

    /// Whether the `p=` of a record is this key. RSA keys are also published as the bare key of PKCS#1, which ends the usual
    /// form (RFC 6376 §3.6.1 asks for the former, everybody publishes the latter).
    pub fn is(&self, published: &[u8]) -> bool {
        /// An RSA key of 1024 bits; what is shorter is no key.
        const SHORTEST_RSA: usize = 128;
        let is_bare = self.algorithm == "rsa" && published.len() > SHORTEST_RSA;
        self.octets == published || (is_bare && self.octets.ends_with(published))
    }
}

/// The public halves of the keys of a domain. Blocking: reads the files.
///
/// # Errors
/// [`KeyError`] for the first key that cannot be read.
pub fn public_keys(domain: &Domain) -> Result<Vec<PublicKey>, KeyError> {
    let keys = domain.dkim.iter().map(|key| {
        let public = public_half(&key.key).map_err(|problem| KeyError { path: key.key.clone(), problem })?;
        let (algorithm, octets) = public;
        Ok(PublicKey { selector: key.selector.clone(), algorithm, octets })
    });
    keys.collect()
}

fn public_half(path: &Path) -> Result<(&'static str, Vec<u8>), String> {
    let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| error.to_string())?;
    let der = der.secret_pkcs8_der();
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(("ed25519", pair.public_key().as_ref().to_vec()));
    }
    let pair = rsa::KeyPair::from_pkcs8(der)
        .map_err(|error| format!("neither an Ed25519 nor a usable RSA key in PKCS#8: {error}"))?;
    let public: PublicKeyX509Der<'_> =
        pair.public_key().as_der().map_err(|_| "its public half cannot be written".to_owned())?;
    Ok(("rsa", public.as_ref().to_vec()))
}
