//! Logins by client certificate: SASL EXTERNAL (RFC 4422 appendix A).

use std::collections::HashMap;

use postern_config::Account;
use postern_config::account::ListedCertificate;

use super::{Accounts, Login, Proof, fold};
use crate::relay::Certificate;

/// Which logins list a certificate: by its fingerprint or a name of it.
#[derive(Debug, Default)]
pub(super) struct Listed(HashMap<String, Vec<String>>);

impl Listed {
    pub(super) fn new(accounts: &[Account]) -> Self {
        let mut listed: HashMap<String, Vec<String>> = HashMap::new();
        for account in accounts {
            for text in &account.certificates {
                // What is neither was refused when the file was loaded.
                let Some(certificate) = ListedCertificate::parse(text) else { continue };
                listed.entry(certificate.as_str().to_owned()).or_default().push(fold(&account.name));
            }
        }
        Self(listed)
    }

    /// What the login lists of the certificate: its fingerprint, or a name of it.
    fn by_what<'a>(&self, shown: &'a Certificate, login: &str) -> Option<&'a str> {
        let lists = |key: &str| self.0.get(key).is_some_and(|logins| logins.iter().any(|name| name == login));
        let mut keys = shown.names.iter().chain([&shown.sha256]);
        keys.find(|key| lists(key)).map(String::as_str)
    }

    /// The logins that list a certificate, each once.
    fn logins(&self, shown: &Certificate) -> Vec<&str> {
        let keys = shown.names.iter().chain([&shown.sha256]);
        let mut logins: Vec<&str> =
            keys.filter_map(|key| self.0.get(key)).flatten().map(String::as_str).collect();
        logins.sort_unstable();
        logins.dedup();
        logins
    }
}

impl Accounts {
    /// Whether some login lists this certificate.
    pub fn lists_certificate(&self, shown: &Certificate) -> bool {
        !self.certificates.logins(shown).is_empty()
    }

    /// Who logs in with this certificate: as `name`, or, where that is empty, as the only login that lists it.
    ///
    /// # Errors
    /// Why nobody does, for the log.
    pub fn by_certificate(&self, shown: &Certificate, name: &str) -> Result<Login, String> {
        let (logins, name) = (self.certificates.logins(shown), fold(name));
        let found = match (logins.as_slice(), name.as_str()) {
            ([only], "") => Some(*only),
            (_, "") => None,
            (several, name) => several.iter().find(|login| **login == name).copied(),
        };
        let proved = |name: &str| {
            let proof = self.certificates.by_what(shown, name).map(Proof::of);
            self.login(name).map(|login| Login { proof, ..login })
        };
        found.and_then(proved).ok_or_else(|| {
            let fingerprint = &shown.sha256;
            match name.as_str() {
                "" => format!(
                    "{} logins list the certificate {fingerprint}, and the client names none",
                    logins.len()
                ),
                _ => format!("the login does not list the certificate {fingerprint}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_config::account::AccountsFile;

    use super::*;

    #[test]
    fn a_certificate_is_the_login_that_lists_it() {
        let (one, shared) = ("AB:".repeat(31) + "AB", "cd".repeat(32));
        let text = format!(
            "[[account]]\nname = \"Printer\"\ncertificates = [\"{one}\", \"{shared}\", \"GW.proseware.test\"]\n\
             [[account]]\nname = \"scanner\"\ncertificates = [\"{shared}\"]\n\
             [[account]]\nname = \"alice\"\npassword = \"x\"\n"
        );
        let file: AccountsFile = toml::from_str(&text).unwrap();
        let accounts = Accounts::new(&file.accounts, Default::default());
        let shown = |sha256: &str, names: &[&str]| Certificate {
            sha256: sha256.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let log_in =
            |shown: &Certificate, name: &str| accounts.by_certificate(shown, name).map(|login| login.name);
        let own = shown(&"ab".repeat(32), &[]);
        assert_eq!(log_in(&own, ""), Ok("printer".to_owned()));
        assert_eq!(log_in(&own, "PRINTER"), Ok("printer".to_owned()));
        assert_eq!(log_in(&shown("00", &["gw.proseware.test"]), ""), Ok("printer".to_owned()));
        assert!(log_in(&own, "alice").unwrap_err().contains("does not list"));
        assert!(log_in(&own, "nobody").unwrap_err().contains("does not list"));
        let both = shown(&shared, &["gw.proseware.test"]);
        assert_eq!(log_in(&both, "scanner"), Ok("scanner".to_owned()));
        assert!(log_in(&both, "").unwrap_err().contains("2 logins"));
        let foreign = shown("00", &["other.test"]);
        assert!(accounts.lists_certificate(&both) && !accounts.lists_certificate(&foreign));
        assert!(log_in(&foreign, "printer").is_err() && log_in(&foreign, "").is_err());
    }
}
