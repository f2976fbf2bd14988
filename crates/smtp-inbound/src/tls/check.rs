//! What a check of a configuration finds in the files of `[tls]`: errors that keep the server from starting, else warnings.

use std::sync::Arc;
use std::time::SystemTime;

use postern_config::diagnostic::Severity;
use postern_config::{Config, Diagnostic, ListenerKind, Tls};
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::{ServerTls, Standing, Tickets, TlsError, load};

/// What keeps the certificates of a configuration from being used, as errors. Where nothing does, what clients will refuse at
/// `now`, or soon, as warnings: the server starts with it. Blocking.
pub fn problems(config: &Config, now: SystemTime) -> Vec<Diagnostic> {
    let Some(tls) = &config.tls else { return Vec::new() };
    let loaded = Tickets::new().and_then(|tickets| load(tls, ListenerKind::ALL.to_vec(), &Arc::new(tickets)));
    match loaded {
        Ok(server) => warnings(config, tls, &server, now),
        Err(error) => vec![unusable(config, &error)],
    }
}

fn unusable(config: &Config, error: &TlsError) -> Diagnostic {
    found(config, Severity::Error, error.to_string(), error.help())
}

fn warnings(config: &Config, tls: &Tls, server: &ServerTls, now: SystemTime) -> Vec<Diagnostic> {
    let hostname = config.hostname.as_str();
    let warning = |text: String, help: Option<String>| found(config, Severity::Warning, text, help);
    let ends = server.certificates().filter_map(|shown| match shown.standing(tls.expiry_warning, now) {
        Standing::Good => None,
        standing => {
            let name = if shown.name().is_empty() { hostname } else { shown.name() };
            Some(warning(shown.told(standing, now), Some(how_to_renew(name))))
        }
    });
    let other_name = server.not_for(hostname).map(|text| warning(text, Some(how_to_renew(hostname))));
    let never_shown = server.warnings().into_iter().map(|text| warning(text, None));
    ends.chain(other_name).chain(never_shown).collect()
}

fn found(config: &Config, severity: Severity, text: String, help: Option<String>) -> Diagnostic {
    Diagnostic { severity, file: config.path.clone(), place: None, message: format!("[tls]: {text}"), help }
}

/// Whether clients that ask for this name accept the certificate (RFC 9525 §6). One that cannot be read is for nobody.
pub fn is_for(leaf: &CertificateDer<'_>, hostname: &str) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(leaf) else { return false };
    ServerName::try_from(hostname)
        .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// That a certificate is for others than `hostname`, in words that follow its name.
pub fn is_for_others(leaf: &CertificateDer<'_>, hostname: &str) -> String {
    let certificate = EndEntityCert::try_from(leaf);
    let names: Vec<&str> = certificate.iter().flat_map(|certificate| certificate.valid_dns_names()).collect();
    let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
    format!("is for {names}, not for {hostname}: mail programs refuse it")
}

/// What to do where a certificate for this name is missing or ends.
pub fn how_to_renew(hostname: &str) -> String {
    format!(
        "get a certificate for {hostname} (such as certbot certonly -d {hostname}), then posternctl reload"
    )
}
