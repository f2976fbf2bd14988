//! TLS towards the systems that know logins: whom we believe that it is them.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A client that verifies by the authorities of the file, or of the system. It is read anew for each connection, so that a renewed
/// authority counts without a reload.
///
/// # Errors
/// What is wrong with the file.
pub(crate) async fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let file = ca_file.map(Path::to_owned);
    let read = move || read(file.as_deref());
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Whom such a client believes, for the log: what is wrong with a certificate mostly is that somebody else has signed it.
pub(crate) fn authorities(ca_file: Option<&Path>) -> String {
    ca_file.map_or_else(|| "those of the system".to_owned(), |path| format!("those of {}", path.display()))
}

fn read(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable = |error| format!("{}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                let certificate = certificate.map_err(unreadable)?;
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            if roots.is_empty() {
                return Err(format!("{}: there is no certificate in it", path.display()));
            }
        }
        // One that cannot be used must not take the others away.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
