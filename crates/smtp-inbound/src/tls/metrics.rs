//! What is counted of certificates.

use std::time::UNIX_EPOCH;

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::ServerTls;

/// When certificates end, and what came of reading them anew.
#[derive(Debug, Clone)]
pub struct Metrics {
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they are registered twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let expiry = Opts::new(
            "postern_tls_certificate_expiry_timestamp_seconds",
            "When a certificate ends, in seconds since 1970, by its file and its first name",
        );
        let expiry = IntGaugeVec::new(expiry, &["certificate", "name"])?;
        registry.register(Box::new(expiry.clone()))?;
        let reloads = Opts::new(
            "postern_tls_certificate_reloads_total",
            "Certificates and keys that were read anew because their files had changed, by result",
        );
        let reloads = IntCounterVec::new(reloads, &["result"])?;
        registry.register(Box::new(reloads.clone()))?;
        // Alerts need the series before it grows.
        for result in ["ok", "failed"] {
            reloads.with_label_values(&[result]);
        }
        Ok(Self { expiry, reloads })
    }

    /// These certificates are in use, and no others.
    pub fn show(&self, tls: Option<&ServerTls>) {
        self.expiry.reset();
        for shown in tls.into_iter().flat_map(ServerTls::certificates) {
            let Some(end) = shown.not_after.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) else {
                continue;
            };
            let labels = [&*shown.certificate.to_string_lossy(), shown.name()];
            self.expiry.with_label_values(&labels).set(i64::try_from(end.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Files had changed, and are in use now, or not.
    pub fn reloaded(&self, is_ok: bool) {
        self.reloads.with_label_values(&[if is_ok { "ok" } else { "failed" }]).inc();
    }
}
