//! A certificate authority for the tests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Identity {
    /// A certificate of the tests' authority for these names and addresses.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, authority()).unwrap();
        Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// The same with so much time left.
    pub fn ending(names: &[&str], left: Duration) -> Self {
        Self::until(names, SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + left)
    }

    /// The same, a day too late.
    pub fn expired(names: &[&str]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self::until(names, now - Duration::from_secs(86_400))
    }

    fn until(names: &[&str], end: Duration) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + end;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority()).unwrap();
        Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// One that nobody has signed but itself.
    pub fn self_signed(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// The certificate itself.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap().to_vec()
    }

    /// SHA-256 over the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub fn fingerprint(&self) -> String {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap();
        let octets: Vec<String> =
            digest(&SHA256, &certificate).as_ref().iter().map(|octet| format!("{octet:02X}")).collect();
        octets.join(":")
    }

    /// What a server with this certificate needs.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
    }
}

/// The authority's certificate in PEM, for `ca_file` and for other people's clients.
pub fn authority_pem() -> String {
    authority().pem()
}

/// A client that trusts the authority and nobody else.
pub fn client_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority().der().clone()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The same, and it shows this certificate to servers that ask for one.
pub fn client_config_showing(identity: &Identity) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority().der().clone()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap())
}

/// A client without a certificate that knows whether it was asked for one.
#[derive(Debug, Default)]
pub struct Asked(AtomicBool);

impl Asked {
    /// The client.
    pub fn client_config(self: &Arc<Self>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(authority().der().clone()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_cert_resolver(Arc::clone(self) as _))
    }

    /// Whether it was.
    pub fn was_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authority() -> &'static CertifiedIssuer<'static, KeyPair> {
    static AUTHORITY: OnceLock<CertifiedIssuer<'static, KeyPair>> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority of the Postern tests");
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    })
}
