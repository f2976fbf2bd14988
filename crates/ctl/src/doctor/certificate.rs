//! The certificate that a listener shows: for whom it is, and until when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_admin::api::doctor::Finding;
use postern_smtp::date::rfc3339;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// Certificates of 90 days are renewed when a third of their life is left; with so little left, nobody has renewed it.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// After the end of every certificate: 9999-12-31 is how one says "never" (RFC 5280 §4.1.2.5).
const NEVER: Duration = Duration::from_secs(253_402_300_800);

/// What is to be said of a certificate for this name.
pub(super) fn look(
    leaf: &CertificateDer<'_>,
    hostname: &str,
    is_verified: bool,
    now: SystemTime,
) -> Vec<Finding> {
    const PLACE: &str = "tls.certificate";
    let certificate = match EndEntityCert::try_from(leaf) {
        Ok(certificate) => certificate,
        Err(error) => {
            return vec![Finding::error(PLACE, format!("it cannot be read: {error}")).mend(renew(hostname))];
        }
    };
    let mut found = Vec::new();
    if !is_for(&certificate, hostname) {
        let names: Vec<&str> = certificate.valid_dns_names().collect();
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        let text = format!("it is for {names}, not for {hostname}: mail programs refuse it");
        found.push(Finding::error(PLACE, text).mend(renew(hostname)));
    }
    found.push(match end(&certificate) {
        None => Finding::note(PLACE, "it does not expire"),
        Some(end) if end <= now => {
            Finding::error(PLACE, format!("it expired at {}", rfc3339(end))).mend(renew(hostname))
        }
        Some(end) if end <= now + SOON => {
            Finding::warning(PLACE, format!("it expires soon, at {}", rfc3339(end))).mend(renew(hostname))
        }
        Some(end) => Finding::note(PLACE, format!("it is good until {}", rfc3339(end))),
    });
    if !is_verified && !found.iter().any(Finding::is_concern) {
        let text = "no authority that this system knows has signed it (or the chain is not whole): mail programs warn of it";
        found.push(Finding::warning(PLACE, text).mend(
            "put the whole chain (fullchain.pem) into tls.certificate, from an authority that mail programs know; then posternctl reload",
        ));
    }
    found
}

fn renew(hostname: &str) -> String {
    format!(
        "get a certificate for {hostname} (such as certbot certonly -d {hostname}), then posternctl reload"
    )
}

fn is_for(certificate: &EndEntityCert<'_>, hostname: &str) -> bool {
    ServerName::try_from(hostname)
        .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// When it ends. The library tells it of certificates that have: so it is asked about a day after all of them, before it
/// comes to look for an authority.
fn end(certificate: &EndEntityCert<'_>) -> Option<SystemTime> {
    let never = UnixTime::since_unix_epoch(NEVER);
    let result = certificate.verify_for_usage(&[], &[], &[], never, KeyUsage::server_auth(), None, None);
    match result {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::doctor::Weight;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-11-21T18:05:25Z.
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_284_325)
    }

    fn found(names: &[&str], end: (i32, u8, u8), is_verified: bool) -> Vec<Finding> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        look(certificate.der(), "mail.proseware.test", is_verified, now())
    }

    fn only(found: &[Finding]) -> (Weight, &str) {
        let [only] = found else { panic!("{found:?}") };
        (only.weight, only.text.as_str())
    }

    #[test]
    fn a_good_certificate_is_a_note() {
        let good = found(&["mail.proseware.test"], (2027, 2, 1), true);
        assert_eq!(only(&good), (Weight::Note, "it is good until 2027-02-01T00:00:00Z"));
        let wildcard = found(&["*.proseware.test"], (4000, 2, 1), true);
        assert_eq!(only(&wildcard).0, Weight::Note);
    }

    #[test]
    fn the_end_and_the_name_are_looked_at() {
        let old = found(&["mail.proseware.test"], (2026, 11, 1), false);
        assert_eq!(only(&old), (Weight::Error, "it expired at 2026-11-01T00:00:00Z"));
        let soon = found(&["mail.proseware.test"], (2026, 12, 1), false);
        assert_eq!(only(&soon), (Weight::Warning, "it expires soon, at 2026-12-01T00:00:00Z"));
        let other = found(&["www.proseware.test", "proseware.test"], (2027, 2, 1), false);
        assert_eq!(other[0].weight, Weight::Error);
        assert!(
            other[0].text.contains("www.proseware.test, proseware.test, not for mail.proseware.test"),
            "{other:?}"
        );
        let unknown = found(&["mail.proseware.test"], (2027, 2, 1), false);
        assert!(unknown[1].weight == Weight::Warning && unknown[1].text.contains("authority"), "{unknown:?}");
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        let found = look(&CertificateDer::from(vec![1, 2, 3]), "mail.proseware.test", true, now());
        assert!(only(&found).1.contains("cannot be read"));
    }
}
