//! The certificate that a listener shows: for whom it is, and until when.

use std::time::{Duration, SystemTime};

use postern_admin::api::doctor::Finding;
use postern_config::Tls;
use postern_smtp::date::rfc3339;
use postern_smtp_inbound::tls::{how_to_renew, is_for, is_for_others, not_after};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

/// What is to be said of a certificate for this name.
pub(super) fn look(
    leaf: &CertificateDer<'_>,
    hostname: &str,
    is_verified: bool,
    expiry: &Expiry,
) -> Vec<Finding> {
    const PLACE: &str = "tls.certificate";
    if let Err(error) = EndEntityCert::try_from(leaf) {
        let unreadable = Finding::error(PLACE, format!("it cannot be read: {error}"));
        return vec![unreadable.mend(how_to_renew(hostname))];
    }
    let mut found = Vec::new();
    if !is_for(leaf, hostname) {
        let text = format!("it {}", is_for_others(leaf, hostname));
        found.push(Finding::error(PLACE, text).mend(how_to_renew(hostname)));
    }
    found.push(expiry.look(PLACE, leaf, hostname));
    if !is_verified && !found.iter().any(Finding::is_concern) {
        let text = "no authority that this system knows has signed it (or the chain is not whole): mail programs warn of it";
        found.push(Finding::warning(PLACE, text).mend(
            "put the whole chain (fullchain.pem) into tls.certificate, from an authority that mail programs know; then posternctl reload",
        ));
    }
    found
}

/// When a certificate is one that expires soon.
pub(super) struct Expiry {
    /// `tls.expiry_warning`.
    pub(super) warning: Duration,
    pub(super) now: SystemTime,
}

impl Expiry {
    /// As the configuration has it, if there is one.
    pub(super) fn new(tls: Option<&Tls>, now: SystemTime) -> Self {
        Self { warning: tls.map_or_else(Tls::default_expiry_warning, |tls| tls.expiry_warning), now }
    }

    /// What is to be said of the end of this certificate for this name.
    pub(super) fn look(&self, place: &str, leaf: &CertificateDer<'_>, name: &str) -> Finding {
        // A file may hold what no listener can show.
        if let Err(error) = EndEntityCert::try_from(leaf) {
            return Finding::error(place, format!("it cannot be read: {error}")).mend(how_to_renew(name));
        }
        match not_after(leaf) {
            None => Finding::note(place, "it does not expire"),
            Some(end) if end <= self.now => {
                Finding::error(place, format!("it expired at {}", rfc3339(end))).mend(how_to_renew(name))
            }
            Some(end) if end <= self.now + self.warning => {
                Finding::warning(place, format!("it expires soon, at {}", rfc3339(end)))
                    .mend(how_to_renew(name))
            }
            Some(end) => Finding::note(place, format!("it is good until {}", rfc3339(end))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::UNIX_EPOCH;

    use postern_admin::api::doctor::Weight;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-11-21T18:05:25Z, and two weeks.
    fn expiry() -> Expiry {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_284_325);
        Expiry { warning: Duration::from_secs(14 * 86_400), now }
    }

    fn found(names: &[&str], end: (i32, u8, u8), is_verified: bool) -> Vec<Finding> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        look(certificate.der(), "mail.proseware.test", is_verified, &expiry())
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
        let found = look(&CertificateDer::from(vec![1, 2, 3]), "mail.proseware.test", true, &expiry());
        assert!(only(&found).1.contains("cannot be read"));
        let in_a_file = expiry().look("tls cert.pem", &CertificateDer::from(vec![1, 2, 3]), "its names");
        assert!(
            in_a_file.weight == Weight::Error && in_a_file.text.contains("cannot be read"),
            "{in_a_file:?}"
        );
    }
}
